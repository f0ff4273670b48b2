//! What the proxy says to an application. Each appends one message to the buffer.
//!
//! Texts here are read by people or by drivers, never run, so one that holds a zero byte is cut there.

use crate::pg::wire::{message, put_count, put_display, put_value};
use bytes::{BufMut, BytesMut};

/// Waits for the next request, in the given state.
pub fn ready_for_query(buf: &mut BytesMut, status: u8) {
    message(buf, super::READY_FOR_QUERY, |buf| buf.put_u8(status));
}

/// Ends a statement's answer.
pub fn command_complete(buf: &mut BytesMut, tag: &str) {
    message(buf, super::COMMAND_COMPLETE, |buf| put_display(buf, tag.as_bytes()));
}

/// Tells the value of a setting.
pub fn parameter_status(buf: &mut BytesMut, name: &str, value: &str) {
    message(buf, super::PARAMETER_STATUS, |buf| {
        put_display(buf, name.as_bytes());
        put_display(buf, value.as_bytes());
    });
}

/// Tells how this connection can be cancelled.
pub fn backend_key_data(buf: &mut BytesMut, pid: u32, secret: &[u8]) {
    message(buf, super::BACKEND_KEY_DATA, |buf| {
        buf.put_u32(pid);
        buf.put_slice(secret);
    });
}

/// Lets the application in.
pub fn auth_ok(buf: &mut BytesMut) {
    auth(buf, 0, |_| ());
}

/// Asks for the password in the clear.
pub fn auth_cleartext(buf: &mut BytesMut) {
    auth(buf, 3, |_| ());
}

/// Asks for the password hashed with this salt.
pub fn auth_md5(buf: &mut BytesMut, salt: [u8; 4]) {
    auth(buf, 5, |buf| buf.put_slice(&salt));
}

/// Offers SASL mechanisms, the best first.
pub fn auth_sasl(buf: &mut BytesMut, mechanisms: &[&str]) {
    auth(buf, 10, |buf| {
        for mechanism in mechanisms {
            put_display(buf, mechanism.as_bytes());
        }
        buf.put_u8(0);
    });
}

/// Sends a middle message of the mechanism.
pub fn auth_sasl_continue(buf: &mut BytesMut, data: impl AsRef<[u8]>) {
    auth(buf, 11, |buf| buf.put_slice(data.as_ref()));
}

/// Sends the last message of the mechanism; [`auth_ok`] follows.
pub fn auth_sasl_final(buf: &mut BytesMut, data: impl AsRef<[u8]>) {
    auth(buf, 12, |buf| buf.put_slice(data.as_ref()));
}

fn auth(buf: &mut BytesMut, method: u32, body: impl FnOnce(&mut BytesMut)) {
    message(buf, super::AUTHENTICATION, |buf| {
        buf.put_u32(method);
        body(buf);
    });
}

/// Answers Parse.
pub fn parse_complete(buf: &mut BytesMut) {
    message(buf, super::PARSE_COMPLETE, |_| ());
}

/// Answers Bind.
pub fn bind_complete(buf: &mut BytesMut) {
    message(buf, super::BIND_COMPLETE, |_| ());
}

/// Answers Close.
pub fn close_complete(buf: &mut BytesMut) {
    message(buf, super::CLOSE_COMPLETE, |_| ());
}

/// Answers Describe when there are no rows.
pub fn no_data(buf: &mut BytesMut) {
    message(buf, super::NO_DATA, |_| ());
}

/// Answers a text without a statement.
pub fn empty_query(buf: &mut BytesMut) {
    message(buf, super::EMPTY_QUERY, |_| ());
}

/// Says that Execute reached its row limit.
pub fn portal_suspended(buf: &mut BytesMut) {
    message(buf, super::PORTAL_SUSPENDED, |_| ());
}

/// Tells the types of a statement's parameters.
pub fn parameter_description(buf: &mut BytesMut, types: &[u32]) {
    message(buf, super::PARAMETER_DESCRIPTION, |buf| {
        put_count(buf, types.len());
        for oid in types {
            buf.put_u32(*oid);
        }
    });
}

/// Tells the names and the types of a result's columns, which come from no table and are in text form.
pub fn row_description(buf: &mut BytesMut, columns: &[(&str, u32)]) {
    message(buf, super::ROW_DESCRIPTION, |buf| {
        put_count(buf, columns.len());
        for (name, oid) in columns {
            put_display(buf, name.as_bytes());
            buf.put_u32(0); // The table it comes from: none.
            buf.put_u16(0); // The column of that table.
            buf.put_u32(*oid);
            buf.put_i16(type_size(*oid));
            buf.put_i32(-1); // The type has no modifier.
            buf.put_u16(0); // Text.
        }
    });
}

/// The size that the server's catalog gives a built-in type, -1 where values vary in length. Some
/// drivers choose their own type by it.
fn type_size(oid: u32) -> i16 {
    match oid {
        16 | 18 => 1,                       // bool, "char"
        21 => 2,                            // int2
        23 | 26 | 700 | 1082 => 4,          // int4, oid, float4, date
        20 | 701 | 1083 | 1114 | 1184 => 8, // int8, float8, time, timestamps
        2950 | 1186 => 16,                  // uuid, interval
        19 => 64,                           // name
        _ => -1,
    }
}

/// A row of a result, in text form.
pub fn data_row(buf: &mut BytesMut, values: &[Option<&str>]) {
    message(buf, super::DATA_ROW, |buf| {
        put_count(buf, values.len());
        for value in values {
            put_value(buf, value.map(str::as_bytes));
        }
    });
}

/// Says that protocol 3.`minor` is the newest spoken here, and which extensions asked for are unknown.
/// The documentation speaks of the minor number, but servers send the whole one and libpq reads that.
pub fn negotiate_protocol_version(buf: &mut BytesMut, minor: u16, unrecognized: &[&str]) {
    message(buf, super::NEGOTIATE_PROTOCOL_VERSION, |buf| {
        buf.put_u32(3 << 16 | u32::from(minor));
        buf.put_u32(u32::try_from(unrecognized.len()).expect("the options of one packet"));
        for name in unrecognized {
            put_display(buf, name.as_bytes());
        }
    });
}

/// Waits for a COPY stream with this many columns, all in the same format.
pub fn copy_in_response(buf: &mut BytesMut, binary: bool, columns: u16) {
    message(buf, super::COPY_IN_RESPONSE, |buf| {
        buf.put_u8(u8::from(binary));
        buf.put_u16(columns);
        for _ in 0..columns {
            buf.put_u16(u16::from(binary));
        }
    });
}

/// Tells a connection that listens what a NOTIFY said.
pub fn notification_response(buf: &mut BytesMut, pid: u32, channel: &str, payload: &str) {
    message(buf, super::NOTIFICATION_RESPONSE, |buf| {
        buf.put_u32(pid);
        put_display(buf, channel.as_bytes());
        put_display(buf, payload.as_bytes());
    });
}
