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
    ///
    /// A code is one byte and none comes twice, so a longer list is a backend that wants our memory:
    /// two bytes on the wire would cost twenty times that here.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut count = 0;
        each(body, |_, _| count += 1)?;
        if count > usize::from(u8::MAX) {
            return Err(DecodeError::Invalid("error has more fields than there are codes"));
        }
        let mut fields = Vec::with_capacity(count);
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
        self.fields.iter().find(|(known, _)| *known == code).map(|(_, value)| value.as_slice())
    }

    /// A field to be read by people or compared with names; what is not UTF-8 is replaced.
    pub fn text(&self, code: u8) -> Option<Cow<'_, str>> {
        self.get(code).map(String::from_utf8_lossy)
    }

    /// All fields in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.fields.iter().map(|(code, value)| (*code, value.as_slice()))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pg::server::{ERROR_RESPONSE, NOTICE_RESPONSE};

    const GOLDEN: &[u8] =
        b"E\0\0\0\x76SERROR\0VERROR\0C42P01\0Mrelation \"t\" does not exist\0P15\0\
        zan unknown field\0Fparse_relation.c\0L1392\0RparserOpenTable\0\0";

    #[test]
    fn an_error_is_read_and_written_back_byte_for_byte() {
        let error = ErrorFields::parse(&GOLDEN[5..]).unwrap();
        assert_eq!((error.code(), &*error.severity()), ("42P01", "ERROR"));
        assert_eq!(error.message(), "relation \"t\" does not exist");
        assert_eq!(error.position(), Some(15));
        assert_eq!(error.routine().as_deref(), Some("parserOpenTable"));
        assert_eq!(error.get(b'z'), Some(&b"an unknown field"[..]));
        assert_eq!(error.schema(), None);
        assert!(!error.is_fatal());
        let mut buf = BytesMut::new();
        error.encode(ERROR_RESPONSE, &mut buf);
        assert_eq!(&buf[..], GOLDEN);
        assert_eq!(field_of(&GOLDEN[5..], field::CODE).unwrap(), Some(&b"42P01"[..]));
        assert_eq!(field_of(&GOLDEN[5..], field::HINT).unwrap(), None);
    }

    #[test]
    fn text_in_another_encoding_survives() {
        let body = b"SFEHLER\0MTabelle \xfcber\0\0";
        let error = ErrorFields::parse(body).unwrap();
        assert_eq!(error.message(), "Tabelle \u{fffd}ber");
        let mut buf = BytesMut::new();
        error.encode(NOTICE_RESPONSE, &mut buf);
        assert_eq!(&buf[5..], body);
    }

    #[test]
    fn an_error_without_a_sqlstate_or_without_anything_is_an_internal_one() {
        for body in [&b"\0"[..], b"Mno code\0\0", b"C\0\0", b"C\xff\xff\xff\xff\xff\0\0"] {
            let error = ErrorFields::parse(body).unwrap();
            assert_eq!((error.code(), &*error.severity()), ("XX000", "ERROR"));
        }
    }

    #[test]
    fn an_error_of_our_own_is_built_changed_and_cut_at_a_zero_byte() {
        let mut error = ErrorFields::new("FATAL", "57P01", "going\0away").detail("d").hint("h");
        assert!(error.is_fatal());
        error.set(field::DETAIL, "more");
        error.remove(field::HINT);
        error.set(0, "would end the list");
        let mut buf = BytesMut::new();
        error.encode(ERROR_RESPONSE, &mut buf);
        assert_eq!(&buf[..], b"E\0\0\0\x27SFATAL\0VFATAL\0C57P01\0Mgoing\0Dmore\0\0");
    }

    #[test]
    fn lists_that_do_not_end_or_never_end_are_refused() {
        assert_eq!(ErrorFields::parse(b""), Err(DecodeError::Truncated("field code")));
        assert_eq!(ErrorFields::parse(b"Mx\0"), Err(DecodeError::Truncated("field code")));
        assert_eq!(ErrorFields::parse(b"Mx"), Err(DecodeError::MissingNul("error field")));
        assert_eq!(ErrorFields::parse(b"Mx\0\0y"), Err(DecodeError::Trailing(1)));
        let mut many = b"x\0".repeat(256);
        many.push(0);
        assert!(matches!(ErrorFields::parse(&many), Err(DecodeError::Invalid(_))));
    }
}
