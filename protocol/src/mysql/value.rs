//! Values in binary form, as prepared statements send and get them.
//!
//! A value is only measured here: where it ends follows from its type, and what it says is the
//! server's affair.

use super::fields::Reader;
use crate::DecodeError;

/// The types that parameters and columns have on the wire.
pub mod kind {
    /// DECIMAL, in its old form.
    pub const DECIMAL: u8 = 0;
    /// One byte.
    pub const TINY: u8 = 1;
    /// Two bytes.
    pub const SHORT: u8 = 2;
    /// Four bytes.
    pub const LONG: u8 = 3;
    /// Four bytes.
    pub const FLOAT: u8 = 4;
    /// Eight bytes.
    pub const DOUBLE: u8 = 5;
    /// Nothing.
    pub const NULL: u8 = 6;
    /// A point in time, in the session's time zone.
    pub const TIMESTAMP: u8 = 7;
    /// Eight bytes.
    pub const LONGLONG: u8 = 8;
    /// Four bytes.
    pub const INT24: u8 = 9;
    /// A day.
    pub const DATE: u8 = 10;
    /// A span of time.
    pub const TIME: u8 = 11;
    /// A day and a time.
    pub const DATETIME: u8 = 12;
    /// Two bytes.
    pub const YEAR: u8 = 13;
    /// Text.
    pub const VARCHAR: u8 = 15;
    /// Bits.
    pub const BIT: u8 = 16;
    /// JSON text.
    pub const JSON: u8 = 245;
    /// Text.
    pub const VAR_STRING: u8 = 253;
    /// Text.
    pub const STRING: u8 = 254;
    /// Geometry.
    pub const GEOMETRY: u8 = 255;
}

/// Cuts one value of a type off the front and returns its bytes, its length included.
pub(super) fn take<'a>(read: &mut Reader<'a>, kind: u8) -> Result<&'a [u8], DecodeError> {
    let all = read.rest();
    match kind {
        kind::NULL => {}
        kind::TINY => {
            read.bytes(1, "value")?;
        }
        kind::SHORT | kind::YEAR => {
            read.bytes(2, "value")?;
        }
        kind::LONG | kind::INT24 | kind::FLOAT => {
            read.bytes(4, "value")?;
        }
        kind::LONGLONG | kind::DOUBLE => {
            read.bytes(8, "value")?;
        }
        kind::DATE | kind::TIME | kind::DATETIME | kind::TIMESTAMP => {
            let length = read.u8("value")?;
            read.bytes(usize::from(length), "value")?;
        }
        kind::DECIMAL | kind::VARCHAR | kind::BIT | kind::JSON..=kind::GEOMETRY => {
            read.lenenc_bytes("value")?;
        }
        _ => return Err(DecodeError::Invalid("a parameter's type is not known")),
    }
    Ok(&all[..all.len() - read.rest().len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_says_how_long_its_value_is() {
        let cases: [(u8, &[u8]); 7] = [
            (kind::NULL, b""),
            (kind::TINY, b"\x01"),
            (kind::YEAR, b"\xe7\x07"),
            (kind::LONGLONG, b"\x07\0\0\0\0\0\0\0"),
            (kind::DATETIME, b"\x07\xe7\x07\x01\x02\x03\x04\x05"),
            (kind::DATE, b"\x00"),
            (kind::STRING, b"\x03abc"),
        ];
        for (kind, value) in cases {
            let bytes = [value, b"rest"].concat();
            let mut read = Reader::new(&bytes);
            assert_eq!(take(&mut read, kind), Ok(value), "{kind}");
            assert_eq!(read.rest(), b"rest");
            if !value.is_empty() {
                assert!(take(&mut Reader::new(&value[..value.len() - 1]), kind).is_err());
            }
        }
        assert!(take(&mut Reader::new(b"abc"), 17).is_err());
    }
}
