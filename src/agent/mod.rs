//! `lockstep agent`: elects the master application node through a table in the database.
//!
//! ```text
//!   news ──┐                         ┌── stage: hooks, services, addresses
//!   checks ┼─► director ─► machine ──┤
//!   lane ──┘   (one for each         ├── guard: another process, which kills at the deadline
//!              resource)             └── events, alerts, metrics, the page for load balancers
//! ```
//!
//! `election` is pure and decides; the director asks the database what the machine wants to know and
//! does what it asks for. Everything else is a tool of the director's.

pub mod alerts;
pub mod bundle;
pub mod cgroup;
pub mod checks;
pub mod clock;
pub mod director;
pub mod election;
pub mod guard;
pub mod here;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod news;
pub mod program;
pub mod run;
pub mod stage;
pub mod state;
pub mod tool;
pub mod tree;
pub mod vip;

use std::time::Duration;

use crate::config::agent::Settings;

/// Time before the deadline at which what still runs is killed without being asked.
#[must_use]
pub fn kill_budget(settings: &Settings) -> Duration {
    (settings.ttl / 10).clamp(Duration::from_millis(200), Duration::from_secs(1))
}
