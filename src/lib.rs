//! lockstep.

pub mod sql;
