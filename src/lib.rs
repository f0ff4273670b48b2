//! lockstep.

pub mod backend;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod console;
pub mod control;
pub mod demo;
pub mod encoding;
pub mod error;
pub mod exchange;
pub mod keeper;
pub mod ledger;
pub mod metrics;
pub mod monitor;
pub mod net;
pub mod proxy;
pub mod recovery;
pub mod session;
pub mod sql;
pub mod status;
pub mod store;
pub mod tls;
pub mod trace;
pub mod wire;
