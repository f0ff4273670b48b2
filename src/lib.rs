//! lockstep.

pub mod config;
