//! Results cut in two: the columns that an application has asked for, and those behind them.

use bytes::{BufMut, BytesMut};

use crate::DecodeError;
use crate::pg::wire::{Reader, message, put_count};

/// Hands on the description of the first `shown` columns of a result, given as its body.
///
/// # Errors
/// When the body is no description of at least so many columns.
pub fn first_columns(buf: &mut BytesMut, body: &[u8], shown: usize) -> Result<(), DecodeError> {
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u16("column count")?);
    let all = reader.rest();
    if count < shown {
        return Err(DecodeError::Invalid("a result has fewer columns than were asked for"));
    }
    for _ in 0..shown {
        reader.cstr_bytes("column name")?;
        reader.bytes(18, "column")?;
    }
    let head = &all[..all.len() - reader.rest().len()];
    message(buf, super::ROW_DESCRIPTION, |buf| {
        put_count(buf, shown);
        buf.put_slice(head);
    });
    Ok(())
}

/// Cuts the body of a row behind its first `shown` columns: the values before and after, each with
/// its length word, as they are also found in a Bind.
///
/// # Errors
/// When it is no row of exactly `shown` and `more` columns.
pub fn cut_row(body: &[u8], shown: usize, more: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    let mut reader = Reader::new(body);
    if usize::from(reader.u16("column count")?) != shown + more {
        return Err(DecodeError::Invalid("a row has not the columns that were asked for"));
    }
    let all = reader.rest();
    for _ in 0..shown {
        reader.value("column")?;
    }
    let (head, tail) = all.split_at(all.len() - reader.rest().len());
    for _ in 0..more {
        reader.value("column")?;
    }
    reader.finish()?;
    Ok((head, tail))
}

/// Sends a row of `count` values that are encoded already, each with its length word.
pub fn encoded_row(buf: &mut BytesMut, count: usize, values: &[u8]) {
    message(buf, super::DATA_ROW, |buf| {
        put_count(buf, count);
        buf.put_slice(values);
    });
}

/// The first value among those that [`cut_row`] gives at place `at`, `None` for NULL.
///
/// # Errors
/// When there are not so many.
pub fn value_at(values: &[u8], at: usize) -> Result<Option<&[u8]>, DecodeError> {
    let mut reader = Reader::new(values);
    for _ in 0..at {
        reader.value("column")?;
    }
    reader.value("column")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::server;

    #[test]
    fn a_row_is_cut_where_it_should_be() {
        let mut row = BytesMut::new();
        server::data_row(&mut row, &[Some("ab"), None, Some("c")]);
        let (head, tail) = cut_row(&row[5..], 1, 2).expect("a row");
        assert_eq!((head, tail), (&b"\0\0\0\x02ab"[..], &b"\xff\xff\xff\xff\0\0\0\x01c"[..]));
        assert_eq!(value_at(tail, 0), Ok(None));
        assert_eq!(value_at(tail, 1), Ok(Some(&b"c"[..])));
        assert!(value_at(tail, 2).is_err());
        let mut shown = BytesMut::new();
        encoded_row(&mut shown, 1, head);
        assert_eq!(&shown[..], b"D\0\0\0\x0c\0\x01\0\0\0\x02ab");
        assert!(cut_row(&row[5..], 1, 1).is_err());
        assert!(cut_row(&row[5..row.len() - 1], 1, 2).is_err());
    }

    #[test]
    fn a_description_loses_its_last_columns() {
        let (mut three, mut one) = (BytesMut::new(), BytesMut::new());
        server::row_description(&mut three, &[("a", 25), ("b", 20), ("c", 23)]);
        server::row_description(&mut one, &[("a", 25)]);
        let mut cut = BytesMut::new();
        first_columns(&mut cut, &three[5..], 1).expect("a description");
        assert_eq!(cut, one);
        assert!(first_columns(&mut cut, &one[5..], 2).is_err());
    }
}
