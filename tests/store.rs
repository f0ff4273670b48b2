//! What the databases do for lockstep, on real servers: captured rows arrive on a follower as they are on the leader,
//! whatever their type and however they changed, and nobody but the proxy can make it so.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

#[path = "store/changes.rs"]
mod changes;
#[path = "store/init.rs"]
mod init;
#[path = "store/rights.rs"]
mod rights;
#[path = "store/schema.rs"]
mod schema;
#[path = "store/sequences.rs"]
mod sequences;
#[path = "store/server.rs"]
mod server;
