//! lockstep against real PostgreSQL servers.
//!
//! Every test speaks to `lockstep proxy` as an application does, and judges by what the servers
//! behind it hold afterwards, never by what the proxy believes. One module is one theme; `rig`
//! holds the servers, the proxy, the relay that cuts networks, the load and the judge.
//!
//! ```text
//! cargo test --test e2e                        everything
//! cargo test --test e2e failover::             one theme
//! cargo test --test e2e -- --nocapture NAME    one test, with its progress
//! ```
//!
//! Environment:
//! - `LOCKSTEP_PG_BIN`      folder of initdb and postgres, when they are not where packages put them
//! - `LOCKSTEP_E2E_KEEP=1`  keeps the data folders and logs
//! - `LOCKSTEP_E2E_DIRECT=1` puts a bare server in the proxy's place, to check the tests themselves:
//!   what a single PostgreSQL server does is what the proxy is held to (fidelity, writes, drivers, rig)
//! - `LOCKSTEP_PYTHON`      the interpreter for the driver tests (default: a venv made in target/venv)

// A test that cannot go on must stop with the line that failed; unwrap is that.
#![allow(clippy::unwrap_used)]
// Real servers take real time.
#![allow(clippy::disallowed_methods)]

mod books;
mod console;
mod crossing;
mod divergence;
mod drivers;
mod failover;
#[path = "../faults/mod.rs"]
mod faults;
mod fidelity;
mod hostile;
mod journal;
mod lease;
mod limits;
mod operations;
mod outcome;
mod proxies;
mod proxy_crash;
mod reads;
mod recovery;
mod rig;
mod security;
mod shared;
mod tls;
mod window;
mod writes;
