//! `lockstep agent` on real networks of one machine: each node is a network namespace with an agent
//! of its own, the database another, all on one bridge. Cables are cut, processes killed and frozen.
//!
//! The judge stands outside. What a node's service does while it runs is written down with the
//! kernel's own clock, which all namespaces share: terms of two nodes never overlap, and epochs never
//! go back. The virtual address is looked for everywhere, all the time: it is in one place at most.
//!
//! Namespaces need root. Where there is none, `LOCKSTEP_NO_NETNS=1` says that this is known; without
//! it the tests fail.

// A test that cannot go on must stop with the line that failed; unwrap is that.
#![allow(clippy::unwrap_used)]
// Real servers take real time.
#![allow(clippy::disallowed_methods)]

mod addresses;
mod failover;
mod farm;
mod operations;
mod rig;
mod stores;
mod together;
mod together_on_mariadb;
mod upkeep;
