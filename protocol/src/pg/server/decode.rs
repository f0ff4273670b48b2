//! Views of what a backend sent. Each takes the body of a frame whose tag was looked at already.

use crate::DecodeError;
use crate::pg::startup::MAX_SECRET;
use crate::pg::wire::Reader;
use bytes::Bytes;

/// Whether a message with this tag may come at any time, belonging to no request: a notice, a
/// notification, or the new value of a setting.
#[inline]
pub fn is_async(tag: u8) -> bool {
    matches!(tag, super::NOTICE_RESPONSE | super::NOTIFICATION_RESPONSE | super::PARAMETER_STATUS)
}

/// How many rows a CommandComplete speaks of, if it is one that speaks of rows: the number at the end of its tag.
pub fn completed_rows(body: &[u8]) -> Option<u64> {
    let tag = body.strip_suffix(&[0])?;
    let blank = tag.iter().rposition(|byte| !byte.is_ascii_digit())?;
    let (command, digits) = (&tag[..blank], &tag[blank + 1..]);
    let counts = match command {
        b"UPDATE" | b"DELETE" | b"SELECT" | b"COPY" | b"MERGE" | b"FETCH" | b"MOVE" => true,
        // The number in front was the row's object identifier once.
        _ => command.strip_prefix(b"INSERT ").is_some_and(|oid| oid.iter().all(u8::is_ascii_digit)),
    };
    if !counts || tag[blank] != b' ' || digits.is_empty() {
        return None;
    }
    let shift = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    digits.iter().try_fold(0, shift)
}

/// The name and the value of a setting.
pub fn parameter_status_of(body: &[u8]) -> Result<(&str, &str), DecodeError> {
    let mut reader = Reader::new(body);
    let name = reader.cstr("setting's name")?;
    let value = reader.cstr("setting's value")?;
    reader.finish()?;
    Ok((name, value))
}

/// The number and the secret with which the connection can be cancelled.
pub fn backend_key_of(body: &[u8]) -> Result<(u32, Bytes), DecodeError> {
    let mut reader = Reader::new(body);
    let pid = reader.u32("backend key")?;
    let secret = reader.rest();
    if !(4..=MAX_SECRET).contains(&secret.len()) {
        return Err(DecodeError::Invalid("backend key has a secret of the wrong length"));
    }
    Ok((pid, Bytes::copy_from_slice(secret)))
}

/// [`IDLE`](super::IDLE), [`IN_TRANSACTION`](super::IN_TRANSACTION) or [`FAILED`](super::FAILED).
pub fn ready_status(body: &[u8]) -> Result<u8, DecodeError> {
    match body {
        [status @ (super::IDLE | super::IN_TRANSACTION | super::FAILED)] => Ok(*status),
        _ => Err(DecodeError::Invalid("server is ready in an unknown state")),
    }
}

/// The values of a row, `None` for NULL.
pub fn data_row_of(body: &[u8]) -> Result<Vec<Option<&[u8]>>, DecodeError> {
    let mut reader = Reader::new(body);
    let values = reader.values("column")?;
    reader.finish()?;
    Ok(values)
}

/// How a COPY stream is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFormat {
    /// Whether the stream as a whole is binary.
    pub binary: bool,
    /// The format of each column, 0 for text and 1 for binary.
    pub columns: Vec<u16>,
}

/// Reads the body of a CopyInResponse; CopyOutResponse and CopyBothResponse look the same.
pub fn copy_in_format(body: &[u8]) -> Result<CopyFormat, DecodeError> {
    let mut reader = Reader::new(body);
    let binary = match reader.u8("copy format")? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError::Invalid("copy has an unknown format")),
    };
    let columns = reader.u16_list("copy column formats")?;
    reader.finish()?;
    Ok(CopyFormat { binary, columns })
}

/// What a NOTIFY told a connection that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The connection that notified.
    pub pid: u32,
    /// The channel.
    pub channel: &'a str,
    /// The text, empty if there was none.
    pub payload: &'a str,
}

/// Reads the body of a NotificationResponse.
pub fn notification_of(body: &[u8]) -> Result<Notification<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let pid = reader.u32("notification")?;
    let channel = reader.cstr("notification channel")?;
    let payload = reader.cstr("notification payload")?;
    reader.finish()?;
    Ok(Notification { pid, channel, payload })
}

/// What the server wants of us at this step of the log-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing more: we are in.
    Ok,
    /// The password in the clear.
    Cleartext,
    /// The password hashed with this salt.
    Md5([u8; 4]),
    /// One of these SASL mechanisms.
    Sasl(Vec<String>),
    /// The next step of the mechanism, given its message.
    SaslContinue(Bytes),
    /// Nothing more of the mechanism, whose last message this is.
    SaslFinal(Bytes),
    /// A method that is not spoken here, such as GSSAPI or Kerberos.
    Other(u32),
}

impl Auth {
    /// Reads the body of an [`AUTHENTICATION`](super::AUTHENTICATION).
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let auth = match reader.u32("authentication method")? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => {
                let salt = reader.u32("md5 salt")?;
                Self::Md5(salt.to_be_bytes())
            }
            10 => Self::Sasl(mechanisms(&mut reader)?),
            11 => return Ok(Self::SaslContinue(Bytes::copy_from_slice(reader.rest()))),
            12 => return Ok(Self::SaslFinal(Bytes::copy_from_slice(reader.rest()))),
            other => return Ok(Self::Other(other)),
        };
        reader.finish()?;
        Ok(auth)
    }
}

fn mechanisms(reader: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    let mut names = Vec::new();
    loop {
        match reader.cstr("SASL mechanism")? {
            "" => return Ok(names),
            // A short name costs thirty bytes here for two on the wire; no server has that many.
            _ if names.len() == 16 => return Err(DecodeError::Invalid("too many SASL mechanisms")),
            name => names.push(name.to_owned()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::*;
    use super::*;
    use bytes::BytesMut;

    fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut buf = BytesMut::new();
        write(&mut buf);
        buf.to_vec()
    }

    #[test]
    fn golden_bytes_of_the_log_in() {
        for (bytes, golden, meaning) in [
            (written(auth_ok), &b"R\0\0\0\x08\0\0\0\0"[..], Auth::Ok),
            (written(auth_cleartext), b"R\0\0\0\x08\0\0\0\x03", Auth::Cleartext),
            (
                written(|buf| auth_md5(buf, [1, 2, 3, 4])),
                b"R\0\0\0\x0c\0\0\0\x05\x01\x02\x03\x04",
                Auth::Md5([1, 2, 3, 4]),
            ),
            (
                written(|buf| auth_sasl(buf, &["SCRAM-SHA-256"])),
                b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0",
                Auth::Sasl(vec!["SCRAM-SHA-256".to_owned()]),
            ),
            (
                written(|buf| auth_sasl_continue(buf, "r=x")),
                b"R\0\0\0\x0b\0\0\0\x0br=x",
                Auth::SaslContinue(Bytes::from_static(b"r=x")),
            ),
            (
                written(|buf| auth_sasl_final(buf, "v=x")),
                b"R\0\0\0\x0b\0\0\0\x0cv=x",
                Auth::SaslFinal(Bytes::from_static(b"v=x")),
            ),
        ] {
            assert_eq!(bytes, golden);
            assert_eq!(Auth::decode(&bytes[5..]).unwrap(), meaning);
        }
        assert_eq!(Auth::decode(b"\0\0\0\x07").unwrap(), Auth::Other(7));
        let negotiate = written(|buf| negotiate_protocol_version(buf, 0, &["_pq_.x"]));
        assert_eq!(negotiate, b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
    }

    #[test]
    fn golden_bytes_around_a_statement() {
        assert_eq!(written(|buf| ready_for_query(buf, IDLE)), b"Z\0\0\0\x05I");
        let bytes = written(|buf| command_complete(buf, "INSERT 0 3"));
        assert_eq!(bytes, b"C\0\0\0\x0fINSERT 0 3\0");
        assert_eq!(completed_rows(&bytes[5..]), Some(3));
        let bytes = written(|buf| parameter_status(buf, "TimeZone", "UTC"));
        assert_eq!(bytes, b"S\0\0\0\x11TimeZone\0UTC\0");
        assert_eq!(parameter_status_of(&bytes[5..]).unwrap(), ("TimeZone", "UTC"));
        let bytes = written(|buf| backend_key_data(buf, 9, b"abcd"));
        assert_eq!(bytes, b"K\0\0\0\x0c\0\0\0\x09abcd");
        assert_eq!(backend_key_of(&bytes[5..]).unwrap(), (9, Bytes::from_static(b"abcd")));
        for (bytes, tag) in [
            (written(parse_complete), PARSE_COMPLETE),
            (written(bind_complete), BIND_COMPLETE),
            (written(close_complete), CLOSE_COMPLETE),
            (written(no_data), NO_DATA),
            (written(empty_query), EMPTY_QUERY),
            (written(portal_suspended), PORTAL_SUSPENDED),
        ] {
            assert_eq!(bytes, [tag, 0, 0, 0, 4]);
        }
    }

    #[test]
    fn golden_bytes_of_rows() {
        let bytes = written(|buf| row_description(buf, &[("id", 23), ("name", 25)]));
        let golden = b"T\0\0\0\x32\0\x02\
            id\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0\
            name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
        assert_eq!(bytes, golden);
        let bytes = written(|buf| data_row(buf, &[Some("7"), None, Some("")]));
        assert_eq!(bytes, b"D\0\0\0\x13\0\x03\0\0\0\x017\xff\xff\xff\xff\0\0\0\0");
        assert_eq!(data_row_of(&bytes[5..]).unwrap(), [Some(&b"7"[..]), None, Some(b"")]);
        let bytes = written(|buf| parameter_description(buf, &[23]));
        assert_eq!(bytes, b"t\0\0\0\x0a\0\x01\0\0\0\x17");
        let bytes = written(|buf| copy_in_response(buf, true, 2));
        assert_eq!(bytes, b"G\0\0\0\x0b\x01\0\x02\0\x01\0\x01");
        let format = CopyFormat { binary: true, columns: vec![1, 1] };
        assert_eq!(copy_in_format(&bytes[5..]).unwrap(), format);
        let bytes = written(|buf| notification_response(buf, 7, "news", "hi"));
        assert_eq!(bytes, b"A\0\0\0\x10\0\0\0\x07news\0hi\0");
        let news = Notification { pid: 7, channel: "news", payload: "hi" };
        assert_eq!(notification_of(&bytes[5..]).unwrap(), news);
    }

    #[test]
    fn row_counts_are_read_from_the_tags_that_have_them() {
        for (tag, rows) in [
            ("INSERT 0 3", Some(3)),
            ("UPDATE 0", Some(0)),
            ("DELETE 18446744073709551615", Some(u64::MAX)),
            ("SELECT 2", Some(2)),
            ("COPY 5", Some(5)),
            ("MERGE 1", Some(1)),
            ("FETCH 4", Some(4)),
            ("MOVE 6", Some(6)),
            ("COPY", None),
            ("INSERT 3", None),
            ("UPDATE -1", None),
            ("UPDATE +1", None),
            ("UPDATE ", None),
            ("UPDATE 18446744073709551616", None),
            ("CREATE TABLE", None),
            ("BEGIN", None),
            ("", None),
        ] {
            assert_eq!(completed_rows(format!("{tag}\0").as_bytes()), rows, "{tag}");
        }
    }

    #[test]
    fn asynchronous_messages_are_known_by_their_tags() {
        let tags: Vec<u8> = (0..=u8::MAX).filter(|tag| is_async(*tag)).collect();
        assert_eq!(tags, b"ANS");
    }

    #[test]
    fn a_hostile_backend_meets_an_error() {
        let negative = DecodeError::NegativeLength { field: "column", length: -3 };
        assert_eq!(data_row_of(b"\0\x01\xff\xff\xff\xfd"), Err(negative));
        assert_eq!(data_row_of(b"\xff\xff"), Err(DecodeError::Truncated("column")));
        assert_eq!(data_row_of(b"\0\0x"), Err(DecodeError::Trailing(1)));
        for body in [&b""[..], b"X", b"II"] {
            assert!(ready_status(body).is_err());
        }
        assert!(backend_key_of(b"\0\0\0\x01abc").is_err());
        assert!(backend_key_of(&[0; 261]).is_err());
        assert!(copy_in_format(b"\x02\0\0").is_err());
        assert!(copy_in_format(b"\0\xff\xff\0\0").is_err());
        assert_eq!(completed_rows(b"SELECT 1"), None);
        assert!(parameter_status_of(b"a\0b").is_err());
        assert!(notification_of(b"\0\0\0\x01a\0").is_err());
        assert_eq!(Auth::decode(b"\0\0\0\x05abc"), Err(DecodeError::Truncated("md5 salt")));
        assert_eq!(Auth::decode(b"\0\0\0\0x"), Err(DecodeError::Trailing(1)));
        assert_eq!(Auth::decode(b"\0\0"), Err(DecodeError::Truncated("authentication method")));
        let endless = [&b"\0\0\0\x0a"[..], &b"X\0".repeat(17), b"\0"].concat();
        assert!(Auth::decode(&endless).is_err());
    }
}
