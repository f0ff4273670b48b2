//! Answers for the proxy itself: rows in text form, and errors.

use lockstep_protocol::pg::server;

use crate::encoding::Encoding;
use crate::exchange::{Broken, ServerError};

/// Reads the body of a DataRow whose columns are all in text form.
pub(super) fn text_row(body: &[u8], encoding: Encoding) -> Result<Vec<Option<String>>, Broken> {
    read(body, encoding).ok_or_else(|| super::rules::broken("an unreadable row"))
}

fn read(mut body: &[u8], encoding: Encoding) -> Option<Vec<Option<String>>> {
    let columns = u16::from_be_bytes(*body.split_off(..2)?.first_chunk()?);
    let mut row = Vec::with_capacity(usize::from(columns));
    for _ in 0..columns {
        let length = i32::from_be_bytes(*body.split_off(..4)?.first_chunk()?);
        row.push(match usize::try_from(length) {
            Ok(length) => {
                let bytes = body.split_off(..length)?;
                let text = encoding.decode(bytes);
                Some(text.unwrap_or_else(|_| String::from_utf8_lossy(bytes)).into_owned())
            }
            Err(_) => None,
        });
    }
    Some(row)
}

/// Reads an error as far as it can be read: a server that breaks the rules gets no panic for it.
pub(super) fn read_error(message: &[u8]) -> ServerError {
    let wire = bytes::Bytes::copy_from_slice(message);
    let parsed = server::ErrorFields::parse(&message[5..]);
    let (code, text, severity) = parsed.map_or_else(
        |_| ("XX000".to_owned(), "unreadable error".to_owned(), "ERROR".to_owned()),
        |fields| {
            (
                fields.code().to_owned(),
                fields.message().into_owned(),
                fields.severity().into_owned(),
            )
        },
    );
    let fatal = matches!(severity.as_str(), "FATAL" | "PANIC");
    ServerError { code, message: text, fatal, wire }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_and_nulls_and_refuses_short_rows() {
        let body = [0, 2, 0, 0, 0, 2, b'h', b'i', 255, 255, 255, 255];
        assert_eq!(
            text_row(&body, Encoding::Utf8).expect("row"),
            vec![Some("hi".to_owned()), None]
        );
        assert!(text_row(&body[..7], Encoding::Utf8).is_err());
    }
}
