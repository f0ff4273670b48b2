//! Messages that databases send.
//!
//! A backend is trusted no more than an application: the decoders meet a hostile one with an error,
//! never with a panic, and the caller fences the backend. The encoders are what the proxy says when
//! it is itself the database of an application.

mod cut;
mod decode;
mod encode;
mod fields;

pub use cut::{cut_row, encoded_row, first_columns, value_at};
pub use decode::{
    Auth, CopyFormat, Notification, backend_key_of, completed_rows, copy_in_format, data_row_of,
    is_async, notification_of, parameter_status_of, ready_status,
};
pub use encode::{
    auth_cleartext, auth_md5, auth_ok, auth_sasl, auth_sasl_continue, auth_sasl_final,
    backend_key_data, bind_complete, close_complete, command_complete, copy_in_response, data_row,
    empty_query, negotiate_protocol_version, no_data, notification_response, parameter_description,
    parameter_status, parse_complete, portal_suspended, ready_for_query, row_description,
};
pub use fields::{ErrorFields, field, field_of};

/// A step of the log-in; which one is in the body.
pub const AUTHENTICATION: u8 = b'R';
/// The number and the secret with which this connection can be cancelled.
pub const BACKEND_KEY_DATA: u8 = b'K';
/// The answer to Bind.
pub const BIND_COMPLETE: u8 = b'2';
/// The answer to Close.
pub const CLOSE_COMPLETE: u8 = b'3';
/// The end of one statement's answer.
pub const COMMAND_COMPLETE: u8 = b'C';
/// Replication only: data in both directions follows.
pub const COPY_BOTH_RESPONSE: u8 = b'W';
/// A piece of a COPY stream; both directions use this tag.
pub const COPY_DATA: u8 = b'd';
/// The end of a COPY stream; both directions use this tag.
pub const COPY_DONE: u8 = b'c';
/// The server waits for a COPY stream.
pub const COPY_IN_RESPONSE: u8 = b'G';
/// A COPY stream follows.
pub const COPY_OUT_RESPONSE: u8 = b'H';
/// A row of a result.
pub const DATA_ROW: u8 = b'D';
/// The answer to a text without a statement.
pub const EMPTY_QUERY: u8 = b'I';
/// A statement failed, or the connection ends.
pub const ERROR_RESPONSE: u8 = b'E';
/// The result of a function called by its number.
pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
/// The server speaks an older minor protocol, or not all extensions asked for.
pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
/// The answer to Describe when there are no rows.
pub const NO_DATA: u8 = b'n';
/// Something to be told to people; may come at any time.
pub const NOTICE_RESPONSE: u8 = b'N';
/// A NOTIFY that this connection listens to; may come at any time.
pub const NOTIFICATION_RESPONSE: u8 = b'A';
/// The types of a statement's parameters.
pub const PARAMETER_DESCRIPTION: u8 = b't';
/// The value of a setting that applications track; may come at any time.
pub const PARAMETER_STATUS: u8 = b'S';
/// The answer to Parse.
pub const PARSE_COMPLETE: u8 = b'1';
/// Execute reached its row limit.
pub const PORTAL_SUSPENDED: u8 = b's';
/// The server waits for the next request.
pub const READY_FOR_QUERY: u8 = b'Z';
/// The columns of a result.
pub const ROW_DESCRIPTION: u8 = b'T';

/// Ready, outside a transaction.
pub const IDLE: u8 = b'I';
/// Ready, inside a transaction.
pub const IN_TRANSACTION: u8 = b'T';
/// Ready, inside a transaction that has failed and takes nothing but its end.
pub const FAILED: u8 = b'E';
