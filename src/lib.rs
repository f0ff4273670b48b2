//! lockstep.

pub mod cli;
pub mod config;
pub mod demo;
pub mod metrics;
pub mod status;
pub mod tls;
pub mod trace;
