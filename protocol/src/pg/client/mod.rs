//! Messages that applications send.
//!
//! The decoders are views: they borrow from the frame's body and read no further than asked. [`Bind`]
//! in particular stops behind the statement's name, since all that a relay does with most of them is
//! to put another name there and send the rest on as it came.
//!
//! The encoders are what the proxy says when it is itself the application of a backend.

mod decode;
mod encode;

pub use decode::{
    Bind, Close, Describe, Execute, Params, Parse, Password, Query, SaslInitial, expect_empty,
};
pub use encode::{
    bind, bind_rest, bind_rest_encoded, bind_text, close, copy_data, copy_done, copy_fail,
    describe, execute, flush, parse, password, query, sasl_initial, sasl_response, sync, terminate,
    with_result_formats,
};

/// Gives a prepared statement values and makes a portal of it.
pub const BIND: u8 = b'B';
/// Forgets a statement or a portal.
pub const CLOSE: u8 = b'C';
/// A piece of a COPY stream; both directions use this tag.
pub const COPY_DATA: u8 = b'd';
/// The end of a COPY stream; both directions use this tag.
pub const COPY_DONE: u8 = b'c';
/// A COPY stream given up.
pub const COPY_FAIL: u8 = b'f';
/// Asks what a statement or a portal takes and gives.
pub const DESCRIBE: u8 = b'D';
/// Runs a portal.
pub const EXECUTE: u8 = b'E';
/// Asks for the answers so far.
pub const FLUSH: u8 = b'H';
/// Calls a function by its number, past all SQL.
pub const FUNCTION_CALL: u8 = b'F';
/// Prepares a statement.
pub const PARSE: u8 = b'P';
/// An answer of the log-in: a password, or a step of SASL.
pub const PASSWORD: u8 = b'p';
/// Runs a text of statements.
pub const QUERY: u8 = b'Q';
/// Ends a series of extended messages.
pub const SYNC: u8 = b'S';
/// Says goodbye.
pub const TERMINATE: u8 = b'X';

/// The `kind` in [`Describe`] and [`Close`] that means a prepared statement.
pub const STATEMENT: u8 = b'S';
/// The `kind` in [`Describe`] and [`Close`] that means a portal.
pub const PORTAL: u8 = b'P';
