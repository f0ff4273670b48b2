//! What lockstep keeps inside the databases, and what it reads out of them.
//!
//! Every backend carries the schema `lockstep`: a control row, the secrets, the journal, and the functions through which
//! the proxy records and applies. This module installs it, checks it, compares backends with it, and gives the rest of
//! the program the forms in which changes travel. It opens no connection itself.

pub mod control;

pub mod changes;

pub mod capture;

pub mod journal;

/// Tables, functions and rights of the schema `lockstep`, repeatable. `SELECT lockstep.watch()` afterwards turns on the
/// event triggers, and [`control::install`] does both.
pub const SCHEMA_SQL: &str = include_str!("schema.sql");

/// What the comment on the schema says when it is of this version.
pub const SCHEMA_VERSION: &str = "lockstep schema 1";
