//! Fields of packets: a cursor that cannot run over the end, and the matching writers.
//!
//! All numbers are little-endian. A length-encoded number is compared with the bytes that are there
//! before anything is cut or reserved, so an announced 2^64-1 costs nothing.

use crate::DecodeError;
use bytes::{BufMut, BytesMut};
use std::ffi::CStr;

/// In place of a length: the value is NULL.
pub(super) const NULL: u8 = 0xfb;

/// Reads the fields of one packet, front to back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn bytes(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// A length-encoded number.
    pub(super) fn lenenc(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        match self.u8(field)? {
            0xfc => self.u16(field).map(u64::from),
            0xfd => {
                let [a, b, c] = self.array(field)?;
                Ok(u64::from(u32::from_le_bytes([a, b, c, 0])))
            }
            0xfe => self.array(field).map(u64::from_le_bytes),
            NULL | 0xff => Err(DecodeError::Invalid("a length begins with a byte that is none")),
            small => Ok(u64::from(small)),
        }
    }

    /// Bytes with a length-encoded length in front.
    pub(super) fn lenenc_bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.lenenc(field)?;
        let length = usize::try_from(length).map_err(|_| DecodeError::Truncated(field))?;
        self.bytes(length, field)
    }

    /// A value of a text row: NULL or bytes.
    pub(super) fn value(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
        if self.rest.first() == Some(&NULL) {
            self.rest = &self.rest[1..];
            return Ok(None);
        }
        self.lenenc_bytes(field).map(Some)
    }

    /// A zero-terminated text as bytes, without its terminator.
    pub(super) fn cstr_bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let text = CStr::from_bytes_until_nul(self.rest)
            .map_err(|_| DecodeError::MissingNul(field))?
            .to_bytes();
        self.rest = &self.rest[text.len() + 1..];
        Ok(text)
    }

    /// A zero-terminated text, or all that is left when nobody wrote the zero.
    pub(super) fn cstr_or_rest(&mut self) -> &'a [u8] {
        match self.cstr_bytes("text") {
            Ok(text) => text,
            Err(_) => std::mem::take(&mut self.rest),
        }
    }

    /// Everything that has not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The packet must end here.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing(extra)),
        }
    }
}

/// Text that has to be UTF-8 where it names something.
pub(super) fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8(field))
}

/// Writes a length-encoded number.
pub(super) fn put_lenenc(buf: &mut BytesMut, n: u64) {
    match n {
        0..=0xfa => buf.put_uint_le(n, 1),
        0xfb..=0xffff => {
            buf.put_u8(0xfc);
            buf.put_uint_le(n, 2);
        }
        0x1_0000..=0xff_ffff => {
            buf.put_u8(0xfd);
            buf.put_uint_le(n, 3);
        }
        _ => {
            buf.put_u8(0xfe);
            buf.put_u64_le(n);
        }
    }
}

/// Writes bytes with their length in front.
pub(super) fn put_lenenc_bytes(buf: &mut BytesMut, bytes: &[u8]) {
    put_lenenc(buf, bytes.len() as u64);
    buf.put_slice(bytes);
}

/// Writes a value of a text row.
pub(super) fn put_value(buf: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(bytes) => put_lenenc_bytes(buf, bytes),
        None => buf.put_u8(NULL),
    }
}

/// Writes a zero-terminated text whose meaning would change if it were cut.
pub(super) fn put_cstr(buf: &mut BytesMut, text: &[u8]) {
    assert!(!text.contains(&0), "text for the wire holds no zero byte");
    buf.put_slice(text);
    buf.put_u8(0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need_and_come_back() {
        let cases = [
            (0, 1),
            (0xfa, 1),
            (0xfb, 3),
            (0xffff, 3),
            (0x1_0000, 4),
            (0xff_ffff, 4),
            (0x100_0000, 9),
            (u64::MAX, 9),
        ];
        for (n, size) in cases {
            let mut buf = BytesMut::new();
            put_lenenc(&mut buf, n);
            assert_eq!(buf.len(), size, "{n}");
            assert_eq!(Reader::new(&buf).lenenc("n").unwrap(), n);
        }
    }

    #[test]
    fn a_length_of_everything_is_refused_and_reserves_nothing() {
        let huge = [&[0xfe][..], &[0xff; 8], b"abc"].concat();
        assert_eq!(Reader::new(&huge).lenenc_bytes("name"), Err(DecodeError::Truncated("name")));
        assert!(Reader::new(&[0xff]).lenenc("n").is_err());
        assert!(Reader::new(&[0xfb]).lenenc("n").is_err());
        assert_eq!(Reader::new(&[0xfb]).value("n"), Ok(None));
    }
}
