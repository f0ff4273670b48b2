//! Rows and parameters of which only a part is wanted.

use super::fields::Reader;
use super::stmt::Kind;
use super::value::{self, kind};
use crate::DecodeError;
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;

/// How many bits stand before those of the columns in a row's NULL bits.
const ROW_OFFSET: usize = 2;

/// The flag of a type that has no numbers below zero.
const UNSIGNED: u8 = 0x80;

/// The first columns of a row of text, as they travel, and the value of the one behind them.
///
/// # Errors
/// When the row has fewer columns, or more.
pub fn text_row(payload: &[u8], first: usize) -> Result<(BytesMut, Option<&[u8]>), DecodeError> {
    let mut read = Reader::new(payload);
    for _ in 0..first {
        read.value("value")?;
    }
    let head = BytesMut::from(&payload[..payload.len() - read.rest().len()]);
    let last = read.value("value")?;
    read.finish()?;
    Ok((head, last))
}

/// The first columns of a row in binary form, as a row of their own, and the value of the one behind
/// them, which is text. `kinds` are the types of the first ones.
///
/// # Errors
/// When the row has fewer columns, or more.
pub fn binary_row<'a>(
    payload: &'a [u8],
    kinds: &[u8],
) -> Result<(BytesMut, Option<&'a [u8]>), DecodeError> {
    let mut read = Reader::new(payload);
    read.u8("row")?;
    let count = kinds.len();
    let nulls = read.bytes((count + 1 + ROW_OFFSET).div_ceil(8), "NULL bits")?;
    let values = read.rest();
    for (at, kind) in kinds.iter().enumerate() {
        if !is_null(nulls, at + ROW_OFFSET) {
            value::take(&mut read, *kind)?;
        }
    }
    let values = &values[..values.len() - read.rest().len()];
    let last = match is_null(nulls, count + ROW_OFFSET) {
        true => None,
        false => Some(read.lenenc_bytes("value")?),
    };
    read.finish()?;
    let mut head = BytesMut::with_capacity(1 + nulls.len() + values.len());
    head.put_u8(0);
    let mut bits = nulls[..(count + ROW_OFFSET).div_ceil(8)].to_vec();
    let behind = (count + ROW_OFFSET) % 8;
    if let Some(byte) = bits.last_mut().filter(|_| behind != 0) {
        *byte &= (1 << behind) - 1;
    }
    head.put_slice(&bits);
    head.put_slice(values);
    Ok((head, last))
}

/// A row in binary form whose columns are all text.
///
/// # Errors
/// When it has fewer columns, or more.
pub fn binary_texts(payload: &[u8], count: usize) -> Result<Vec<Option<&[u8]>>, DecodeError> {
    let mut read = Reader::new(payload);
    read.u8("row")?;
    let nulls = read.bytes((count + ROW_OFFSET).div_ceil(8), "NULL bits")?;
    let text = |at| match is_null(nulls, at + ROW_OFFSET) {
        true => Ok(None),
        false => read.lenenc_bytes("value").map(Some),
    };
    let texts = (0..count).map(text).collect::<Result<Vec<_>, _>>()?;
    read.finish()?;
    Ok(texts)
}

/// Those of the parameters of an EXECUTE whose places are in a range, or those whose places are not.
/// The parameters are complete: their types are among them.
///
/// # Errors
/// When they do not fit their types.
pub fn parameters(
    all: &[u8],
    count: usize,
    range: &Range<usize>,
    inside: bool,
) -> Result<Bytes, DecodeError> {
    if count == 0 {
        return Ok(Bytes::new());
    }
    let mut read = Reader::new(all);
    let nulls = read.bytes(count.div_ceil(8), "NULL bits")?;
    read.u8("types flag")?;
    let kinds: &[Kind] = read.bytes(count * 2, "types")?.as_chunks::<2>().0;
    let (mut kept, mut values) = (Vec::new(), BytesMut::new());
    for (at, kind) in kinds.iter().enumerate() {
        let null = is_null(nulls, at) || kind[0] == kind::NULL;
        let value = if null { &[][..] } else { value::take(&mut read, kind[0])? };
        if range.contains(&at) == inside {
            kept.push((*kind, is_null(nulls, at)));
            values.put_slice(value);
        }
    }
    read.finish()?;
    let mut out = BytesMut::with_capacity(all.len());
    if kept.is_empty() {
        return Ok(Bytes::new());
    }
    let mut bits = vec![0_u8; kept.len().div_ceil(8)];
    for (at, _) in kept.iter().enumerate().filter(|(_, (_, null))| *null) {
        bits[at / 8] |= 1 << (at % 8);
    }
    out.put_slice(&bits);
    out.put_u8(1);
    kept.iter().for_each(|(kind, _)| out.put_slice(kind));
    out.put_slice(&values);
    Ok(out.freeze())
}

/// Whether the parameters of an EXECUTE in these places are all whole numbers above zero. (One below zero may
/// become zero in a column that knows none.) The places are in their order, and the parameters complete: their types
/// are among them.
///
/// # Errors
/// When they do not fit their types.
pub fn are_numbers(all: &[u8], count: usize, places: &[usize]) -> Result<bool, DecodeError> {
    let mut read = Reader::new(all);
    let nulls = read.bytes(count.div_ceil(8), "NULL bits")?;
    read.u8("types flag")?;
    let kinds: &[Kind] = read.bytes(count * 2, "types")?.as_chunks::<2>().0;
    let whole = [kind::TINY, kind::SHORT, kind::INT24, kind::LONG, kind::LONGLONG];
    let (mut wanted, mut all_are) = (places.iter().peekable(), true);
    for (at, [kind, flags]) in kinds.iter().enumerate() {
        let asked = wanted.next_if_eq(&&at).is_some();
        if is_null(nulls, at) || *kind == kind::NULL {
            all_are &= !asked;
            continue;
        }
        let value = value::take(&mut read, *kind)?;
        let below = flags & UNSIGNED == 0 && value.last().is_some_and(|byte| byte & 0x80 != 0);
        let number = whole.contains(kind) && value.iter().any(|byte| *byte != 0) && !below;
        all_are &= number || !asked;
    }
    read.finish()?;
    Ok(all_are && wanted.next().is_none())
}

fn is_null(bits: &[u8], at: usize) -> bool {
    bits.get(at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_row_of_text_is_cut_off() {
        let (head, last) = text_row(b"\x011\xfb\x02ab", 2).unwrap();
        assert_eq!((&head[..], last), (&b"\x011\xfb"[..], Some(&b"ab"[..])));
        let (head, last) = text_row(b"\xfb", 0).unwrap();
        assert_eq!((&head[..], last), (&b""[..], None));
        assert!(text_row(b"\x011\x012\x013", 1).is_err());
        assert!(text_row(b"\x011", 1).is_err());
    }

    #[test]
    fn the_last_value_of_a_row_in_binary_form_is_cut_off() {
        // Two numbers of one byte, the second NULL, and a text.
        let (head, last) = binary_row(b"\x00\x08\x07\x01x", &[kind::TINY, kind::TINY]).unwrap();
        assert_eq!((&head[..], last), (&b"\x00\x08\x07"[..], Some(&b"x"[..])));
        // With the seventh column a second byte of NULL bits begins, which the six do not need.
        let row = b"\x00\x00\x01\x01\x02\x03\x04\x05\x06";
        let (head, last) = binary_row(row, &[kind::TINY; 6]).unwrap();
        assert_eq!((&head[..], last), (&b"\x00\x00\x01\x02\x03\x04\x05\x06"[..], None));
        assert!(binary_row(b"\x00\x00\x07", &[kind::TINY]).is_err());
    }

    #[test]
    fn rows_of_texts_are_read() {
        assert_eq!(binary_texts(b"\x00\x04\x01a", 2), Ok(vec![None, Some(&b"a"[..])]));
        assert!(binary_texts(b"\x00\x00\x01a", 2).is_err());
    }

    #[test]
    fn parameters_are_parted() {
        // A number, NULL, and a text.
        let all = b"\x02\x01\x01\x00\xfd\x00\xfd\x00\x07\x02ab";
        let first = parameters(all, 3, &(0..1), true).unwrap();
        assert_eq!(&first[..], b"\x00\x01\x01\x00\x07");
        let rest = parameters(all, 3, &(0..1), false).unwrap();
        assert_eq!(&rest[..], b"\x01\x01\xfd\x00\xfd\x00\x02ab");
        assert!(parameters(all, 3, &(3..9), true).unwrap().is_empty());
        assert!(parameters(b"", 0, &(0..1), true).unwrap().is_empty());
        assert!(parameters(&all[..9], 3, &(0..1), true).is_err());
    }
    #[test]
    fn numbers_are_told_from_what_asks_for_one() {
        // A number, NULL, a text, a number of eight bytes.
        let all = |first: u8, flags: u8, last: i64| {
            let mut all = vec![0b0010, 1, 1, flags, 8, 0, 0xfd, 0, 8, 0, first, 1, b'7'];
            all.extend(last.to_le_bytes());
            all
        };
        let asked = |parameters: &[u8], places: &[usize]| are_numbers(parameters, 4, places);
        assert_eq!(asked(&all(7, 0, 1 << 40), &[0, 3]), Ok(true));
        assert_eq!(asked(&all(0, 0, 1), &[3]), Ok(true));
        assert_eq!(asked(&all(0, 0, 1), &[0, 3]), Ok(false));
        assert_eq!(asked(&all(7, 0, 0), &[0, 3]), Ok(false));
        assert_eq!(asked(&all(7, 0, -1), &[3]), Ok(false));
        assert_eq!(asked(&all(0xff, 0, 1), &[0]), Ok(false));
        assert_eq!(asked(&all(0xff, UNSIGNED, 1), &[0]), Ok(true));
        for place in [1, 2, 4] {
            assert_eq!(asked(&all(7, 0, 1), &[place]), Ok(false), "{place}");
        }
        assert!(are_numbers(&all(7, 0, 1)[..12], 4, &[0]).is_err());
    }
}
