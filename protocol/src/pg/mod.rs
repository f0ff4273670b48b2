//! PostgreSQL's protocol, version 3.
//!
//! A connection begins with one untagged packet ([`startup`]); after it everything, both ways, is a
//! tagged frame ([`frame`]). The same tag byte means different things in the two directions, so each
//! direction has its own names: [`client`] for what applications send, [`server`] for what databases
//! send. [`auth`] holds the arithmetic of the log-in, both sides, as small machines.
//!
//! The relay's rule: peek at the header, forward the frame, and build a value only when a decision
//! needs one. Therefore decoders borrow from the frame and are called by whoever needs them.
//!
//! Encoders append to a buffer and cannot fail. They panic only on what no peer can cause: a zero byte
//! in text that becomes part of a statement, or a message beyond the protocol's two gigabytes. Both
//! would let one message be read as another, and stopping is better than that.

pub mod auth;
pub mod client;
pub mod server;
pub mod startup;

pub mod frame;
mod wire;
