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
        Ok(length) if length <= max => Ok(Some(Header {
            tag,
            total: length + 1,
        })),
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
        Some(Header { tag, total }) if buf.len() >= total => Ok(Some(Frame {
            tag,
            bytes: buf.split_to(total).freeze(),
        })),
        _ => Ok(None),
    }
}
