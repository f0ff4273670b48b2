//! Networks between the proxy and the servers that fail on command, as for PostgreSQL.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

pub(crate) use crate::server::free_port;

#[path = "../e2e/rig/relay.rs"]
pub(crate) mod relay;

/// Relays outlive the test's own runtime.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

pub(crate) fn step(what: impl std::fmt::Display) {
    eprintln!("{what}");
}
