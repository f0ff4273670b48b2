//! What the proxy says to a backend. Each appends one message to the buffer.
//!
//! Texts that become statements or names panic on a zero byte: cut short, a statement could do more
//! than it should. Nothing that came off the wire can hold one, and configuration is checked on load.

use crate::DecodeError;
use crate::pg::wire::{Reader, message, put_count, put_cstr, put_value};
use bytes::{BufMut, BytesMut};

/// Runs a text of statements.
pub fn query(buf: &mut BytesMut, text: impl AsRef<[u8]>) {
    message(buf, super::QUERY, |buf| put_cstr(buf, text.as_ref()));
}

/// Prepares a statement.
pub fn parse(buf: &mut BytesMut, name: &str, text: impl AsRef<[u8]>, types: &[u32]) {
    message(buf, super::PARSE, |buf| {
        put_cstr(buf, name.as_bytes());
        put_cstr(buf, text.as_ref());
        put_count(buf, types.len());
        for oid in types {
            buf.put_u32(*oid);
        }
    });
}

/// Gives a statement values that are encoded already: `rest` is [`Bind::rest`](super::Bind::rest) of
/// another message, with its own two names in front.
#[inline]
pub fn bind(buf: &mut BytesMut, portal: &str, statement: &str, rest: &[u8]) {
    buf.reserve(7 + portal.len() + statement.len() + rest.len());
    message(buf, super::BIND, |buf| {
        put_cstr(buf, portal.as_bytes());
        put_cstr(buf, statement.as_bytes());
        buf.put_slice(rest);
    });
}

/// The part of a Bind behind its names, for [`bind`]: values in the given formats (0: text, 1: binary),
/// and the formats of the result's columns.
pub fn bind_rest(params: &[(u16, Option<&[u8]>)], result_formats: &[u16]) -> BytesMut {
    let size = params.iter().map(|(_, value)| 6 + value.map_or(0, <[u8]>::len)).sum::<usize>();
    let mut rest = BytesMut::with_capacity(6 + size + 2 * result_formats.len());
    put_count(&mut rest, params.len());
    params.iter().for_each(|(format, _)| rest.put_u16(*format));
    put_count(&mut rest, params.len());
    params.iter().for_each(|(_, value)| put_value(&mut rest, *value));
    put_formats(&mut rest, result_formats);
    rest
}

/// The same for `count` values that are encoded already, all in binary form, each with its length word.
pub fn bind_rest_encoded(count: usize, values: &[u8]) -> BytesMut {
    let mut rest = BytesMut::with_capacity(8 + values.len());
    put_formats(&mut rest, &[1]);
    put_count(&mut rest, count);
    rest.put_slice(values);
    put_count(&mut rest, 0);
    rest
}

/// The part of a Bind behind its names with other formats for the result's columns.
///
/// # Errors
/// When it is not what a Bind carries.
pub fn with_result_formats(
    rest: &[u8],
    formats: impl FnOnce(&[u16]) -> Vec<u16>,
) -> Result<BytesMut, DecodeError> {
    let mut reader = Reader::new(rest);
    reader.u16_list("parameter formats")?;
    reader.values("parameter")?;
    let values = &rest[..rest.len() - reader.rest().len()];
    let old = reader.u16_list("result formats")?;
    let mut changed = BytesMut::from(values);
    put_formats(&mut changed, &formats(&old));
    Ok(changed)
}

fn put_formats(buf: &mut BytesMut, formats: &[u16]) {
    put_count(buf, formats.len());
    formats.iter().for_each(|format| buf.put_u16(*format));
}

/// Gives a statement values in text form and asks for the result in text form.
pub fn bind_text(buf: &mut BytesMut, portal: &str, statement: &str, values: &[Option<&[u8]>]) {
    message(buf, super::BIND, |buf| {
        put_cstr(buf, portal.as_bytes());
        put_cstr(buf, statement.as_bytes());
        put_count(buf, 0);
        put_count(buf, values.len());
        for value in values {
            put_value(buf, *value);
        }
        put_count(buf, 0);
    });
}

/// Asks about a [`STATEMENT`](super::STATEMENT) or a [`PORTAL`](super::PORTAL).
pub fn describe(buf: &mut BytesMut, kind: u8, name: &str) {
    kind_and_name(buf, super::DESCRIBE, kind, name);
}

/// Forgets a [`STATEMENT`](super::STATEMENT) or a [`PORTAL`](super::PORTAL).
pub fn close(buf: &mut BytesMut, kind: u8, name: &str) {
    kind_and_name(buf, super::CLOSE, kind, name);
}

fn kind_and_name(buf: &mut BytesMut, tag: u8, kind: u8, name: &str) {
    message(buf, tag, |buf| {
        buf.put_u8(kind);
        put_cstr(buf, name.as_bytes());
    });
}

/// Runs a portal, up to `max_rows` rows, all of them if that is 0.
pub fn execute(buf: &mut BytesMut, portal: &str, max_rows: u32) {
    message(buf, super::EXECUTE, |buf| {
        put_cstr(buf, portal.as_bytes());
        buf.put_u32(max_rows);
    });
}

/// Ends a series of extended messages.
pub fn sync(buf: &mut BytesMut) {
    message(buf, super::SYNC, |_| ());
}

/// Asks for the answers so far.
pub fn flush(buf: &mut BytesMut) {
    message(buf, super::FLUSH, |_| ());
}

/// Says goodbye.
pub fn terminate(buf: &mut BytesMut) {
    message(buf, super::TERMINATE, |_| ());
}

/// A piece of a COPY stream.
pub fn copy_data(buf: &mut BytesMut, data: &[u8]) {
    buf.reserve(5 + data.len());
    message(buf, super::COPY_DATA, |buf| buf.put_slice(data));
}

/// The end of a COPY stream.
pub fn copy_done(buf: &mut BytesMut) {
    message(buf, super::COPY_DONE, |_| ());
}

/// Gives a COPY stream up; the server's error will quote the reason.
pub fn copy_fail(buf: &mut BytesMut, reason: &str) {
    message(buf, super::COPY_FAIL, |buf| put_cstr(buf, reason.as_bytes()));
}

/// Answers a request for a password, in the clear or by md5.
pub fn password(buf: &mut BytesMut, password: impl AsRef<[u8]>) {
    message(buf, super::PASSWORD, |buf| put_cstr(buf, password.as_ref()));
}

/// Chooses a SASL mechanism and sends its first message.
pub fn sasl_initial(buf: &mut BytesMut, mechanism: &str, data: impl AsRef<[u8]>) {
    message(buf, super::PASSWORD, |buf| {
        put_cstr(buf, mechanism.as_bytes());
        put_value(buf, Some(data.as_ref()));
    });
}

/// Sends a later message of the chosen mechanism.
pub fn sasl_response(buf: &mut BytesMut, data: impl AsRef<[u8]>) {
    message(buf, super::PASSWORD, |buf| buf.put_slice(data.as_ref()));
}
