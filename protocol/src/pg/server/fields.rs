//! Errors and notices: a list of fields, each with a one-letter code.
//!
//! The list is kept as it came, in its order and byte for byte, unknown codes included: what an
//! application's driver makes of a field is not ours to judge, and texts are in the session's encoding,
//! which need not be UTF-8.

use crate::DecodeError;
use crate::pg::wire::{Reader, message, put_display};
use bytes::{BufMut, BytesMut};
use std::borrow::Cow;

/// The codes of the fields.
pub mod field {
    /// The severity in the server's language.
    pub const SEVERITY: u8 = b'S';
    /// The severity in English.
    pub const SEVERITY_NONLOCAL: u8 = b'V';
    /// The SQLSTATE.
    pub const CODE: u8 = b'C';
    /// What happened.
    pub const MESSAGE: u8 = b'M';
    /// More about it.
    pub const DETAIL: u8 = b'D';
    /// What to do about it.
    pub const HINT: u8 = b'H';
    /// Where in the statement, in characters from 1.
    pub const POSITION: u8 = b'P';
    /// Where in a statement that the server made itself.
    pub const INTERNAL_POSITION: u8 = b'p';
    /// That statement.
    pub const INTERNAL_QUERY: u8 = b'q';
    /// The stack of functions it happened in.
    pub const CONTEXT: u8 = b'W';
    /// The schema concerned.
    pub const SCHEMA: u8 = b's';
    /// The table concerned.
    pub const TABLE: u8 = b't';
    /// The column concerned.
    pub const COLUMN: u8 = b'c';
    /// The data type concerned.
    pub const DATA_TYPE: u8 = b'd';
    /// The constraint concerned.
    pub const CONSTRAINT: u8 = b'n';
    /// The file of the server's source.
    pub const FILE: u8 = b'F';
    /// The line in it.
    pub const LINE: u8 = b'L';
    /// The function in it.
    pub const ROUTINE: u8 = b'R';
}

/// The fields of an error or a notice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields {
    fields: Vec<(u8, Vec<u8>)>,
}

impl ErrorFields {
    /// Reads the body of an error or a notice.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Vec::new();
        each(body, |code, value| fields.push((code, value.to_vec())))?;
        Ok(Self { fields })
    }

    /// Begins an error or a notice of our own.
    pub fn new(severity: &str, code: &str, message: impl AsRef<[u8]>) -> Self {
        Self::default()
            .with(field::SEVERITY, severity)
            .with(field::SEVERITY_NONLOCAL, severity)
            .with(field::CODE, code)
            .with(field::MESSAGE, message)
    }

    /// Adds what else there is to say. [`ErrorFields::get`] reads it.
    pub fn detail(self, text: impl AsRef<[u8]>) -> Self {
        self.with(field::DETAIL, text)
    }

    /// Adds what to do about it. [`ErrorFields::get`] reads it.
    pub fn hint(self, text: impl AsRef<[u8]>) -> Self {
        self.with(field::HINT, text)
    }

    /// Adds any field, or replaces it if it is there.
    pub fn with(mut self, code: u8, value: impl AsRef<[u8]>) -> Self {
        self.set(code, value);
        self
    }

    /// Adds any field, or replaces it if it is there. Code 0 would end the list and is ignored.
    pub fn set(&mut self, code: u8, value: impl AsRef<[u8]>) {
        let value = value.as_ref().to_vec();
        match self.fields.iter_mut().find(|(known, _)| *known == code) {
            Some((_, old)) => *old = value,
            None if code != 0 => self.fields.push((code, value)),
            None => {}
        }
    }

    /// Takes a field out, for instance a position that means nothing in the application's own text.
    pub fn remove(&mut self, code: u8) {
        self.fields.retain(|(known, _)| *known != code);
    }

    /// A field as it came.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(known, _)| *known == code)
            .map(|(_, value)| value.as_slice())
    }

    /// A field to be read by people or compared with names; what is not UTF-8 is replaced.
    pub fn text(&self, code: u8) -> Option<Cow<'_, str>> {
        self.get(code).map(String::from_utf8_lossy)
    }

    /// All fields in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.fields
            .iter()
            .map(|(code, value)| (*code, value.as_slice()))
    }

    /// The SQLSTATE. A backend that sends none has an error of its own, and `XX000` says that.
    pub fn code(&self) -> &str {
        self.get(field::CODE)
            .and_then(|code| std::str::from_utf8(code).ok())
            .filter(|code| code.len() == 5)
            .unwrap_or("XX000")
    }

    /// The severity in English where the server says it so, else in its own language.
    pub fn severity(&self) -> Cow<'_, str> {
        self.text(field::SEVERITY_NONLOCAL)
            .or_else(|| self.text(field::SEVERITY))
            .unwrap_or(Cow::Borrowed("ERROR"))
    }

    /// Whether the server ends the connection with this.
    pub fn is_fatal(&self) -> bool {
        matches!(&*self.severity(), "FATAL" | "PANIC")
    }

    /// What happened, empty if the server does not say.
    pub fn message(&self) -> Cow<'_, str> {
        self.text(field::MESSAGE).unwrap_or_default()
    }

    /// Where in the statement, in characters from 1.
    pub fn position(&self) -> Option<u32> {
        self.text(field::POSITION)?.parse().ok()
    }

    /// The schema concerned.
    pub fn schema(&self) -> Option<Cow<'_, str>> {
        self.text(field::SCHEMA)
    }

    /// The table concerned.
    pub fn table(&self) -> Option<Cow<'_, str>> {
        self.text(field::TABLE)
    }

    /// The column concerned.
    pub fn column(&self) -> Option<Cow<'_, str>> {
        self.text(field::COLUMN)
    }

    /// The constraint concerned.
    pub fn constraint(&self) -> Option<Cow<'_, str>> {
        self.text(field::CONSTRAINT)
    }

    /// The function in the server's source.
    pub fn routine(&self) -> Option<Cow<'_, str>> {
        self.text(field::ROUTINE)
    }

    /// Writes the fields as an error or a notice, by `tag`. A value ends at its first zero byte.
    pub fn encode(&self, tag: u8, buf: &mut BytesMut) {
        message(buf, tag, |buf| {
            for (code, value) in &self.fields {
                buf.put_u8(*code);
                put_display(buf, value);
            }
            buf.put_u8(0);
        });
    }
}

/// Looks one field up in the body of an error or a notice, without keeping the others. This is for
/// the notices that carry captured rows: there is one for each row of a statement.
pub fn field_of(body: &[u8], code: u8) -> Result<Option<&[u8]>, DecodeError> {
    let mut found = None;
    each(body, |known, value| {
        if known == code && found.is_none() {
            found = Some(value);
        }
    })?;
    Ok(found)
}

fn each<'a>(body: &'a [u8], mut on_field: impl FnMut(u8, &'a [u8])) -> Result<(), DecodeError> {
    let mut reader = Reader::new(body);
    loop {
        match reader.u8("field code")? {
            0 => return reader.finish(),
            code => on_field(code, reader.cstr_bytes("error field")?),
        }
    }
}
