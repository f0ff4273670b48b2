//! Tag and length: where one message ends and the next begins.
//!
//! This is the hottest code of the crate: a relay looks at five bytes of each message and at nothing
//! else. The length is judged as soon as it can be seen, long before its bytes arrive, and nothing is
//! reserved for it.

use crate::DecodeError;
use bytes::{Bytes, BytesMut};

/// No message is longer than this, whatever a caller allows: PostgreSQL's own limit.
pub const MAX_LENGTH: usize = 0x3fff_ffff;

/// The bytes before a body: the tag and the length word.
pub const HEADER: usize = 5;

/// What the first five bytes of a message say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which message it is.
    pub tag: u8,
    /// The size of the whole message in bytes, tag and length word included.
    pub total: usize,
}

/// Reads the header of the message at the front of `buf`, or says that more bytes are needed.
///
/// `max` bounds the length word, which counts itself and the body but not the tag.
#[inline]
pub fn peek(buf: &[u8], max: usize) -> Result<Option<Header>, DecodeError> {
    let Some(&[tag, a, b, c, d]) = buf.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let announced = u32::from_be_bytes([a, b, c, d]);
    if announced < 4 {
        return Err(DecodeError::TooShort { announced, min: 4 });
    }
    let max = max.min(MAX_LENGTH);
    match usize::try_from(announced) {
        Ok(length) if length <= max => Ok(Some(Header { tag, total: length + 1 })),
        _ => Err(DecodeError::TooLong { announced, max }),
    }
}

/// One whole message, sharing the buffer that it was read into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which message it is.
    pub tag: u8,
    /// The whole message, header included, ready to be sent on.
    pub bytes: Bytes,
}

impl Frame {
    /// What follows the header.
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }
}

/// Cuts the first message off `buf`, or says that more bytes are needed.
#[inline]
pub fn take(buf: &mut BytesMut, max: usize) -> Result<Option<Frame>, DecodeError> {
    match peek(buf, max)? {
        Some(Header { tag, total }) if buf.len() >= total => {
            Ok(Some(Frame { tag, bytes: buf.split_to(total).freeze() }))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_off_one_by_one_with_their_headers() {
        let mut buf = BytesMut::from(&b"Q\0\0\0\x06a\0S\0\0\0\x04X\0\0"[..]);
        let query = take(&mut buf, 100).unwrap().unwrap();
        assert_eq!((query.tag, query.body()), (b'Q', &b"a\0"[..]));
        assert_eq!(&query.bytes[..], b"Q\0\0\0\x06a\0");
        let sync = take(&mut buf, 100).unwrap().unwrap();
        assert_eq!((sync.tag, sync.body()), (b'S', &b""[..]));
        assert_eq!(take(&mut buf, 100).unwrap(), None);
        assert_eq!(&buf[..], b"X\0\0");
    }

    #[test]
    fn incomplete_input_asks_for_more_at_every_length() {
        let whole = b"D\0\0\0\x09S1234";
        for end in 0..whole.len() {
            let mut buf = BytesMut::from(&whole[..end]);
            assert_eq!(take(&mut buf, 100).unwrap(), None);
            assert_eq!(buf.len(), end);
            assert_eq!(peek(&buf, 100).unwrap().is_some(), end >= HEADER);
        }
    }

    #[test]
    fn impossible_lengths_are_refused_from_the_header_alone() {
        for announced in [0, 1, 3] {
            let head = [&b"Q"[..], &u32::to_be_bytes(announced)].concat();
            assert_eq!(peek(&head, 100), Err(DecodeError::TooShort { announced, min: 4 }));
        }
        for announced in [101, 1 << 30, 1 << 31, u32::MAX] {
            let head = [&b"Q"[..], &u32::to_be_bytes(announced)].concat();
            assert_eq!(peek(&head, 100), Err(DecodeError::TooLong { announced, max: 100 }));
        }
        // The limit itself is allowed, and no caller can lift the protocol's.
        assert_eq!(peek(b"Q\0\0\0\x64", 100), Ok(Some(Header { tag: b'Q', total: 101 })));
        assert!(peek(b"Q\x40\0\0\0", usize::MAX).is_err());
        assert!(peek(b"Q\xff\xff\xff\xff", usize::MAX).is_err());
    }

    #[test]
    fn a_gigabyte_announced_reserves_nothing() {
        let mut buf = BytesMut::from(&b"d\x3f\xff\xff\xffabc"[..]);
        let before = buf.capacity();
        assert_eq!(take(&mut buf, usize::MAX), Ok(None));
        assert_eq!(buf.capacity(), before);
    }

    #[test]
    fn a_frame_made_by_hand_without_a_header_has_no_body() {
        assert_eq!(Frame { tag: b'Q', bytes: Bytes::new() }.body(), b"");
    }
}
