//! Rows for the proxy itself, in text form.

use crate::encoding::Encoding;
use crate::exchange::Broken;

/// Reads the body of a DataRow whose columns are all in text form.
pub(super) fn text_row(body: &[u8], encoding: Encoding) -> Result<Vec<Option<String>>, Broken> {
    read(body, encoding).ok_or_else(|| Broken::Lost("the server sent an unreadable row".into()))
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
