//! MySQL's protocol with real servers and real clients: what goes through the proxy's two ends is
//! what a server says itself.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

#[path = "mysql/alike.rs"]
mod alike;
#[path = "mysql/clients.rs"]
mod clients;
#[path = "mysql/cluster.rs"]
mod cluster;
#[path = "mysql/concurrency.rs"]
mod concurrency;
#[path = "mysql/divergence.rs"]
mod divergence;
#[path = "mysql/failover.rs"]
mod failover;
#[path = "faults/mod.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "not all of them are taken here yet")]
mod faults;
#[path = "mysql/full.rs"]
mod full;
#[path = "mysql/lease.rs"]
mod lease;
#[path = "mysql/link.rs"]
mod link;
#[path = "mysql/load.rs"]
mod load;
#[path = "mysql/load_data.rs"]
mod load_data;
#[path = "mysql/locks.rs"]
mod locks;
#[path = "mysql/logins.rs"]
mod logins;
#[path = "mysql/moving.rs"]
mod moving;
#[path = "mysql/near.rs"]
mod near;
#[path = "mysql/net.rs"]
mod net;
#[path = "mysql/operations.rs"]
mod operations;
#[path = "mysql/prepared.rs"]
mod prepared;
#[path = "mysql/proxies.rs"]
mod proxies;
#[path = "mysql/recovery.rs"]
mod recovery;
#[path = "mysql/replicate.rs"]
mod replicate;
#[path = "mysql/returned.rs"]
mod returned;
#[path = "mysql/routines.rs"]
mod routines;
#[path = "mysql/scenarios.rs"]
mod scenarios;
#[path = "mysql/schema.rs"]
mod schema;
#[path = "mysql/server.rs"]
mod server;
#[path = "mysql/sessions.rs"]
mod sessions;
#[path = "mysql/site.rs"]
mod site;
#[path = "mysql/state.rs"]
mod state;
#[path = "mysql/storms.rs"]
mod storms;
#[path = "mysql/through.rs"]
mod through;
#[path = "mysql/values.rs"]
mod values;
#[path = "mysql/wire.rs"]
mod wire;
