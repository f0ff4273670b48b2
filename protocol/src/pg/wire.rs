//! Fields of messages: a cursor that cannot run over the end, and the matching writers.
//!
//! Counts and lengths are compared with the bytes that are there before anything is allocated for
//! them, so a count of 65535 in a message of ten bytes costs nothing.

use crate::DecodeError;
use bytes::{BufMut, BytesMut};
use std::ffi::CStr;

/// Reads the fields of one message body, front to back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn bytes(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// A value with a length word in front, where -1 stands for "none".
    pub(super) fn value(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
        let length = self.array(field).map(i32::from_be_bytes)?;
        match usize::try_from(length) {
            Ok(n) => self.bytes(n, field).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(DecodeError::NegativeLength { field, length }),
        }
    }

    /// A zero-terminated text as bytes, without its terminator. `CStr` is used for its fast search.
    pub(super) fn cstr_bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let text = CStr::from_bytes_until_nul(self.rest)
            .map_err(|_| DecodeError::MissingNul(field))?
            .to_bytes();
        self.rest = &self.rest[text.len() + 1..];
        Ok(text)
    }

    pub(super) fn cstr(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.cstr_bytes(field)?).map_err(|_| DecodeError::NotUtf8(field))
    }

    /// A count word followed by that many 16-bit numbers.
    pub(super) fn u16_list(&mut self, field: &'static str) -> Result<Vec<u16>, DecodeError> {
        let count = usize::from(self.u16(field)?);
        let words = self.bytes(count * 2, field)?.as_chunks::<2>().0;
        Ok(words.iter().map(|word| u16::from_be_bytes(*word)).collect())
    }

    /// A count word followed by that many 32-bit numbers.
    pub(super) fn u32_list(&mut self, field: &'static str) -> Result<Vec<u32>, DecodeError> {
        let count = usize::from(self.u16(field)?);
        let words = self.bytes(count * 4, field)?.as_chunks::<4>().0;
        Ok(words.iter().map(|word| u32::from_be_bytes(*word)).collect())
    }

    /// A count word followed by that many values. Each takes at least its four length bytes, which
    /// bounds what the count may reserve.
    pub(super) fn values(
        &mut self,
        field: &'static str,
    ) -> Result<Vec<Option<&'a [u8]>>, DecodeError> {
        let count = usize::from(self.u16(field)?);
        if self.rest.len() < count * 4 {
            return Err(DecodeError::Truncated(field));
        }
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.value(field)?);
        }
        Ok(values)
    }

    /// Everything that has not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The message must end here.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing(extra)),
        }
    }
}

/// Writes one tagged message; the length word is filled in when the body is known.
pub(super) fn message(buf: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    buf.put_u8(tag);
    packet(buf, body);
}

/// Writes one untagged packet, as they are used before the log-in.
///
/// A length that does not fit would wrap, and the peer would take the middle of our text for
/// messages of its own. Such a message is a mistake of ours and ends here.
pub(super) fn packet(buf: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = buf.len();
    buf.put_u32(0);
    body(buf);
    let length = i32::try_from(buf.len() - start).expect("a message stays below two gigabytes");
    buf[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Writes a zero-terminated text whose meaning would change if it were cut.
pub(super) fn put_cstr(buf: &mut BytesMut, text: &[u8]) {
    assert!(!text.contains(&0), "text for the wire holds no zero byte");
    buf.put_slice(text);
    buf.put_u8(0);
}

/// Writes a zero-terminated text that is only read by people: what follows a zero byte is dropped.
pub(super) fn put_display(buf: &mut BytesMut, text: &[u8]) {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    buf.put_slice(&text[..end]);
    buf.put_u8(0);
}

/// Writes a count word.
pub(super) fn put_count(buf: &mut BytesMut, count: usize) {
    buf.put_u16(u16::try_from(count).expect("the protocol counts to 65535"));
}

/// Writes a value with its length word, -1 for none.
pub(super) fn put_value(buf: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(bytes) => {
            buf.put_i32(i32::try_from(bytes.len()).expect("a value stays below two gigabytes"));
            buf.put_slice(bytes);
        }
        None => buf.put_i32(-1),
    }
}
