//! lockstep.

pub mod store;
