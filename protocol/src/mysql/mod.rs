//! The protocol of MySQL and MariaDB.
//!
//! Everything, both ways, is a packet with a length and a number ([`packet`]). A connection begins
//! with the server's greeting ([`handshake`], [`auth`]); after it the application sends commands
//! ([`command`], [`stmt`]) and the server answers each with one or more packets ([`response`]),
//! whose meaning depends on what was asked and on what came before: [`answer`] is the machine that
//! knows, so that a relay can hand packets on without reading them.
//!
//! One shape of results is spoken: columns and rows each end with an EOF packet. The capabilities
//! that change this shape are neither offered to applications nor asked of servers.
//!
//! The relay's rule: peek at the header and at the first byte, forward the packet, and build a value
//! only when a decision needs one.

pub mod answer;
pub mod auth;
pub mod command;
pub mod cut;
pub mod handshake;
pub mod packet;
pub mod response;
pub mod stmt;
pub mod value;

mod fields;
