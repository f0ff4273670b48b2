//! lockstep.

pub mod config;
pub mod sql;
