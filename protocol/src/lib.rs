//! Bytes to messages and back, for the wire protocols that lockstep speaks.
//!
//! The one rule of this crate: **it does no I/O**. It knows no socket, no runtime, no clock and no dice;
//! nonces and salts come in as arguments. So every byte that a stranger can send is met by code that a
//! test can call directly.
//!
//! What holds for every decoder:
//!
//! * Input that is merely incomplete is `Ok(None)`, never an error; input that can never become right
//!   is a [`DecodeError`], as early as that can be known.
//! * Nothing is allocated on the strength of an announced length: memory grows with the bytes that
//!   have arrived and not before.
//! * Nothing panics, whatever the bytes.
//!
//! The map, lowest first:
//!
//! * [`error`]: what can be wrong with bytes.
//! * [`pg`]: PostgreSQL's protocol 3: framing, start-up, both directions of messages, authentication.
//! * [`mysql`]: the protocol of MySQL and MariaDB: packets, handshake, commands, answers.

pub mod error;
pub mod mysql;
pub mod pg;

pub use error::DecodeError;

/// The protocols, each with the SQL that is spoken over it. A cluster is of one dialect, fixed at
/// its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MariaDB and MySQL.
    MySql,
}
