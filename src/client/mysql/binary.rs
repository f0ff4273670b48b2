//! Bytes that are no text in the middle of a statement: `_binary '…'`, as drivers write a binary value that
//! they put into the text themselves.
//!
//! Statements are texts here, and texts are UTF-8. Such a literal means the same in hexadecimal, so that is
//! how it goes on. Any other byte that is no text has the server's own answer: a wrong character string.

use std::fmt::Write;

use lockstep_protocol::mysql::response::status;

/// The word in front of a literal whose bytes are no text.
const BINARY: &[u8] = b"_binary";

/// The statement with its binary literals in hexadecimal. `reading` is how the server's session reads
/// quotes and backslashes, where a server has told. `None` where it is still no text, or where it cannot be
/// read without knowing that.
pub(super) fn in_hexadecimal(text: &[u8], reading: Option<u16>) -> Option<String> {
    let has = |flag| reading.unwrap_or_default() & flag != 0;
    let plain_backslash = has(status::NO_BACKSLASH_ESCAPES);
    let ansi = has(status::ANSI_QUOTES);
    if reading.is_none() && text.contains(&b'\\') {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let is_text = byte == b'\'' || (byte == b'"' && !ansi);
        let end = match byte {
            b'\'' | b'"' | b'`' => quoted(text, at, is_text && !plain_backslash)?,
            _ => comment(text, at).unwrap_or(at + 1),
        };
        let piece = &text[at..end];
        if is_text && std::str::from_utf8(piece).is_err() && follows_binary(&out) {
            let mut hex = String::from(" x'");
            for byte in unquoted(&piece[1..piece.len() - 1], byte, !plain_backslash) {
                // Writing into a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            hex.push('\'');
            out.extend_from_slice(hex.as_bytes());
        } else {
            out.extend_from_slice(piece);
        }
        at = end;
    }
    String::from_utf8(out).ok()
}

/// Where what is quoted here ends.
fn quoted(text: &[u8], start: usize, escapes: bool) -> Option<usize> {
    let quote = text[start];
    let mut at = start + 1;
    loop {
        match *text.get(at)? {
            b'\\' if escapes => at += 2,
            byte if byte == quote && text.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Where a comment that begins here ends, if one does.
fn comment(text: &[u8], at: usize) -> Option<usize> {
    let rest = &text[at..];
    let dashes = rest.starts_with(b"--") && rest.get(2).is_none_or(|b| *b <= b' ');
    if rest.starts_with(b"#") || dashes {
        return Some(at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()));
    }
    // What a server runs of a comment is read like everything else.
    if rest.starts_with(b"/*") && !rest.starts_with(b"/*!") && !rest.starts_with(b"/*M!") {
        let end = rest.windows(2).skip(2).position(|pair| pair == b"*/");
        return Some(at + end.map_or(rest.len(), |end| end + 4));
    }
    None
}

/// Whether the last word so far is the one that says that bytes are no text.
fn follows_binary(before: &[u8]) -> bool {
    let before = before.trim_ascii_end();
    let Some(head) = before.len().checked_sub(BINARY.len()) else { return false };
    let part_of_word = |b: &u8| b.is_ascii_alphanumeric() || b"_$@.`".contains(b) || *b >= 0x80;
    before[head..].eq_ignore_ascii_case(BINARY) && !before[..head].last().is_some_and(part_of_word)
}

/// What a literal says.
fn unquoted(content: &[u8], quote: u8, escapes: bool) -> Vec<u8> {
    let mut said = Vec::with_capacity(content.len());
    let mut bytes = content.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if escapes => match bytes.next() {
                Some(b'0') => said.push(0),
                Some(b'n') => said.push(b'\n'),
                Some(b't') => said.push(b'\t'),
                Some(b'r') => said.push(b'\r'),
                Some(b'b') => said.push(8),
                Some(b'Z') => said.push(26),
                Some(kept @ (b'%' | b'_')) => said.extend([b'\\', kept]),
                Some(other) => said.push(other),
                None => {}
            },
            byte if byte == quote => {
                bytes.next();
                said.push(quote);
            }
            other => said.push(other),
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &[u8]) -> Option<String> {
        in_hexadecimal(text, Some(0))
    }

    #[test]
    fn binary_literals_go_on_in_hexadecimal() {
        let text = b"insert into t values (_binary'\xff\\0\\'''\\\\\\%', 'it''s \\' \xc3\xbc', _BINARY \"\xfe\")";
        let wanted =
            "insert into t values (_binary x'ff0027275c5c25', 'it''s \\' \u{fc}', _BINARY  x'fe')";
        assert_eq!(hex(text).as_deref(), Some(wanted));
        // What is text stays as it is.
        assert_eq!(hex(b"select _binary'abc', 1").as_deref(), Some("select _binary'abc', 1"));
    }

    #[test]
    fn only_what_is_said_to_be_binary_may_be_no_text() {
        for text in [
            &b"select '\xff'"[..],
            b"select x_binary'\xff'",
            b"select '_binary' '\xff'",
            b"select \xff",
            b"select _binary'\xff",
            b"select 1 /* _binary '\xff' */",
            b"select 1 -- _binary '\xff'",
            b"select `_binary '\xff'`",
        ] {
            assert_eq!(hex(text), None, "{text:?}");
        }
        assert_eq!(
            hex(b"# it's\nselect _binary'\xff'").as_deref(),
            Some("# it's\nselect _binary x'ff'")
        );
    }

    #[test]
    fn quotes_are_read_as_the_session_reads_them() {
        let plain = in_hexadecimal(b"select _binary'\xff\\'", Some(status::NO_BACKSLASH_ESCAPES));
        assert_eq!(plain.as_deref(), Some("select _binary x'ff5c'"));
        assert_eq!(in_hexadecimal(b"select _binary\"\xff\"", Some(status::ANSI_QUOTES)), None);
        assert_eq!(in_hexadecimal(b"select _binary'\xff\\0'", None), None);
        assert!(in_hexadecimal(b"select _binary'\xff'", None).is_some());
    }
}
