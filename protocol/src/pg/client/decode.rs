//! Views of what an application sent. Each takes the body of a frame whose tag was looked at already.

use crate::DecodeError;
use crate::pg::wire::Reader;
use std::fmt;

/// A text of statements to run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The statements.
    pub text: &'a str,
}

impl<'a> Query<'a> {
    /// Reads the body of a [`QUERY`](super::QUERY).
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let text = Self::text_bytes(body)?;
        let text = std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8("query"))?;
        Ok(Self { text })
    }

    /// The statements as they were sent, for a session whose encoding is not UTF-8.
    pub fn text_bytes(body: &'a [u8]) -> Result<&'a [u8], DecodeError> {
        let mut reader = Reader::new(body);
        let text = reader.cstr_bytes("query")?;
        reader.finish()?;
        Ok(text)
    }
}

/// A statement to prepare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name, empty for the unnamed one.
    pub name: &'a str,
    /// The statement.
    pub text: &'a str,
    /// The types of the first parameters, 0 where the server shall find out.
    pub types: Vec<u32>,
}

impl<'a> Parse<'a> {
    /// Reads the body of a [`PARSE`](super::PARSE).
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let (name, text, types) = Self::raw(body)?;
        let text = std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8("statement"))?;
        Ok(Self { name, text, types })
    }

    /// Name, statement and types, the statement as it was sent, for a session whose encoding is not
    /// UTF-8.
    pub fn raw(body: &'a [u8]) -> Result<(&'a str, &'a [u8], Vec<u32>), DecodeError> {
        let mut reader = Reader::new(body);
        let name = reader.cstr("statement name")?;
        let text = reader.cstr_bytes("statement")?;
        let types = reader.u32_list("parameter types")?;
        reader.finish()?;
        Ok((name, text, types))
    }
}

/// Values for a prepared statement. Only the names have been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal to make, empty for the unnamed one.
    pub portal: &'a str,
    /// The statement to make it of.
    pub statement: &'a str,
    /// Everything from the format counts on. It has not been checked: whoever passes it on leaves
    /// that to the server, and [`Bind::params`] does it for whoever wants the values.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the names at the front of the body of a [`BIND`](super::BIND).
    #[inline]
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let portal = reader.cstr("portal name")?;
        let statement = reader.cstr("statement name")?;
        Ok(Self { portal, statement, rest: reader.rest() })
    }

    /// Reads the formats and the values.
    pub fn params(&self) -> Result<Params<'a>, DecodeError> {
        let mut reader = Reader::new(self.rest);
        let formats = reader.u16_list("parameter formats")?;
        let values = reader.values("parameter")?;
        let result_formats = reader.u16_list("result formats")?;
        reader.finish()?;
        if formats.len() > 1 && formats.len() != values.len() {
            return Err(DecodeError::Invalid("bind has not as many formats as parameters"));
        }
        if formats.iter().chain(&result_formats).any(|format| *format > 1) {
            return Err(DecodeError::Invalid("bind asks for an unknown format"));
        }
        Ok(Params { formats, values, result_formats })
    }
}

/// What a [`Bind`] carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params<'a> {
    /// None (all are text), one for all, or one for each value: 0 is text, 1 is binary.
    pub formats: Vec<u16>,
    /// The values, `None` for NULL.
    pub values: Vec<Option<&'a [u8]>>,
    /// The same for the columns of the result.
    pub result_formats: Vec<u16>,
}

impl Params<'_> {
    /// The format of the value at `index`, counted from 0.
    pub fn format(&self, index: usize) -> u16 {
        match self.formats.as_slice() {
            [] => 0,
            [all] => *all,
            each => each.get(index).copied().unwrap_or(0),
        }
    }
}

/// A question about a statement or a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Describe<'a> {
    /// [`STATEMENT`](super::STATEMENT) or [`PORTAL`](super::PORTAL).
    pub kind: u8,
    /// Its name.
    pub name: &'a str,
}

impl<'a> Describe<'a> {
    /// Reads the body of a [`DESCRIBE`](super::DESCRIBE).
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let (kind, name) = kind_and_name(body)?;
        Ok(Self { kind, name })
    }
}

/// A statement or a portal to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close<'a> {
    /// [`STATEMENT`](super::STATEMENT) or [`PORTAL`](super::PORTAL).
    pub kind: u8,
    /// Its name.
    pub name: &'a str,
}

impl<'a> Close<'a> {
    /// Reads the body of a [`CLOSE`](super::CLOSE).
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let (kind, name) = kind_and_name(body)?;
        Ok(Self { kind, name })
    }
}

fn kind_and_name(body: &[u8]) -> Result<(u8, &str), DecodeError> {
    let mut reader = Reader::new(body);
    let kind = reader.u8("kind")?;
    if kind != super::STATEMENT && kind != super::PORTAL {
        return Err(DecodeError::Invalid("kind is neither a statement nor a portal"));
    }
    let name = reader.cstr("name")?;
    reader.finish()?;
    Ok((kind, name))
}

/// A portal to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal.
    pub portal: &'a str,
    /// After how many rows to pause; 0 is never. The server takes what is negative as a signed
    /// number, that is above `i32::MAX` here, for never as well.
    pub max_rows: u32,
}

impl<'a> Execute<'a> {
    /// Reads the body of an [`EXECUTE`](super::EXECUTE).
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let portal = reader.cstr("portal name")?;
        let max_rows = reader.u32("row limit")?;
        reader.finish()?;
        Ok(Self { portal, max_rows })
    }
}

/// A password, in the clear or hashed by md5. It has no `Debug` text, so that no log gets it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password<'a>(pub &'a [u8]);

impl<'a> Password<'a> {
    /// Reads the body of a [`PASSWORD`](super::PASSWORD) when a password was asked for.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let password = reader.cstr_bytes("password")?;
        reader.finish()?;
        Ok(Self(password))
    }
}

impl fmt::Debug for Password<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// The first answer of a SASL log-in. The later ones are nothing but their data: the body itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    /// The mechanism that the application chose.
    pub mechanism: &'a str,
    /// The first message of that mechanism, if it begins with one.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitial<'a> {
    /// Reads the body of a [`PASSWORD`](super::PASSWORD) when mechanisms were offered.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mechanism = reader.cstr("SASL mechanism")?;
        let data = reader.value("SASL response")?;
        reader.finish()?;
        Ok(Self { mechanism, data })
    }
}

/// Checks the body of a message that has none: Sync, Flush, Terminate, CopyDone.
pub fn expect_empty(body: &[u8]) -> Result<(), DecodeError> {
    Reader::new(body).finish()
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
    fn golden_bytes_of_the_simple_protocol() {
        let bytes = written(|buf| query(buf, "SELECT 1"));
        assert_eq!(bytes, b"Q\0\0\0\x0dSELECT 1\0");
        assert_eq!(Query::decode(&bytes[5..]).unwrap().text, "SELECT 1");
        assert_eq!(written(sync), b"S\0\0\0\x04");
        assert_eq!(written(flush), b"H\0\0\0\x04");
        assert_eq!(written(terminate), b"X\0\0\0\x04");
        assert_eq!(written(|buf| copy_data(buf, b"1\t2\n")), b"d\0\0\0\x081\t2\n");
        assert_eq!(written(copy_done), b"c\0\0\0\x04");
        assert_eq!(written(|buf| copy_fail(buf, "no")), b"f\0\0\0\x07no\0");
        assert_eq!(expect_empty(b""), Ok(()));
        assert_eq!(expect_empty(b"x"), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn golden_bytes_of_the_extended_protocol() {
        let bytes = written(|buf| parse(buf, "s", "SELECT $1", &[23, 0]));
        assert_eq!(bytes, b"P\0\0\0\x1as\0SELECT $1\0\0\x02\0\0\0\x17\0\0\0\0");
        let view = Parse::decode(&bytes[5..]).unwrap();
        assert_eq!(view, Parse { name: "s", text: "SELECT $1", types: vec![23, 0] });

        let bytes = written(|buf| bind_text(buf, "p", "s", &[Some(b"7"), None, Some(b"")]));
        let golden = b"B\0\0\0\x1bp\0s\0\0\0\0\x03\0\0\0\x017\xff\xff\xff\xff\0\0\0\0\0\0";
        assert_eq!(bytes, golden);
        let view = Bind::decode(&bytes[5..]).unwrap();
        assert_eq!((view.portal, view.statement), ("p", "s"));
        let params = view.params().unwrap();
        assert_eq!(params.values, [Some(&b"7"[..]), None, Some(b"")]);
        assert_eq!(written(|buf| bind(buf, "p", "s", view.rest)), golden);

        let bytes = written(|buf| describe(buf, STATEMENT, "s"));
        assert_eq!(bytes, b"D\0\0\0\x07Ss\0");
        assert_eq!(Describe::decode(&bytes[5..]).unwrap(), Describe { kind: b'S', name: "s" });
        let bytes = written(|buf| close(buf, PORTAL, "p"));
        assert_eq!(bytes, b"C\0\0\0\x07Pp\0");
        assert_eq!(Close::decode(&bytes[5..]).unwrap(), Close { kind: b'P', name: "p" });
        let bytes = written(|buf| execute(buf, "p", 9));
        assert_eq!(bytes, b"E\0\0\0\x0ap\0\0\0\0\x09");
        assert_eq!(Execute::decode(&bytes[5..]).unwrap(), Execute { portal: "p", max_rows: 9 });
    }

    #[test]
    fn golden_bytes_of_the_log_in() {
        let bytes = written(|buf| password(buf, "pw"));
        assert_eq!(bytes, b"p\0\0\0\x07pw\0");
        let view = Password::decode(&bytes[5..]).unwrap();
        assert_eq!((view.0, format!("{view:?}").as_str()), (&b"pw"[..], "Password(..)"));
        let bytes = written(|buf| sasl_initial(buf, "SCRAM-SHA-256", "n,,"));
        assert_eq!(bytes, b"p\0\0\0\x19SCRAM-SHA-256\0\0\0\0\x03n,,");
        let view = SaslInitial::decode(&bytes[5..]).unwrap();
        assert_eq!((view.mechanism, view.data), ("SCRAM-SHA-256", Some(&b"n,,"[..])));
        assert_eq!(SaslInitial::decode(b"X\0\xff\xff\xff\xff").unwrap().data, None);
        assert_eq!(written(|buf| sasl_response(buf, "c=biws")), b"p\0\0\0\x0ac=biws");
    }

    #[test]
    fn a_statement_gets_another_name_and_the_rest_stays_as_it_is() {
        let body = b"\0theirs\0\0\x01\0\x01\0\x01\0\0\0\x02\x12\x34\0\x01\0\x01";
        let view = Bind::decode(body).unwrap();
        let bytes = written(|buf| bind(buf, view.portal, "ours", view.rest));
        let golden = b"B\0\0\0\x1a\0ours\0\0\x01\0\x01\0\x01\0\0\0\x02\x12\x34\0\x01\0\x01";
        assert_eq!(bytes, golden);
        let params = view.params().unwrap();
        assert_eq!((params.format(0), params.result_formats), (1, vec![1]));
    }

    #[test]
    fn formats_are_none_one_or_as_many_as_values() {
        let each = Params { formats: vec![0, 1], values: vec![None, None], result_formats: vec![] };
        assert_eq!((each.format(0), each.format(1), each.format(2)), (0, 1, 0));
        let three_for_two = b"\0\0\0\x03\0\0\0\0\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0";
        assert!(Bind::decode(three_for_two).unwrap().params().is_err());
        assert!(Bind::decode(b"\0\0\0\x01\0\x02\0\0\0\0").unwrap().params().is_err());
    }

    #[test]
    fn counts_and_lengths_that_lie_are_refused_without_being_believed() {
        let params = |rest: &'static [u8]| Bind { portal: "", statement: "", rest }.params();
        assert_eq!(params(b"\xff\xff"), Err(DecodeError::Truncated("parameter formats")));
        assert_eq!(params(b"\0\0\xff\xff\0"), Err(DecodeError::Truncated("parameter")));
        let minus_two = b"\0\0\0\x01\xff\xff\xff\xfe\0\0";
        let error = DecodeError::NegativeLength { field: "parameter", length: -2 };
        assert_eq!(params(minus_two), Err(error));
        let lowest = b"\0\0\0\x01\x80\0\0\0\0\0";
        let error = DecodeError::NegativeLength { field: "parameter", length: i32::MIN };
        assert_eq!(params(lowest), Err(error));
        let huge = b"\0\0\0\x01\x7f\xff\xff\xff\0\0";
        assert_eq!(params(huge), Err(DecodeError::Truncated("parameter")));
        assert_eq!(params(b"\0\0\0\0\0\0x"), Err(DecodeError::Trailing(1)));
        // The count is judged, and nothing reserved for it, before the first value is looked at.
        let both = b"\0\0\xff\xff\xff\xff\xff\xfe\0\0";
        assert_eq!(params(both), Err(DecodeError::Truncated("parameter")));
        let types = Parse::decode(b"\0\0\xff\xff\0\0\0\x17");
        assert_eq!(types, Err(DecodeError::Truncated("parameter types")));
    }

    #[test]
    fn missing_zero_bytes_leftovers_and_foreign_text_are_refused() {
        assert_eq!(Query::decode(b"SELECT 1"), Err(DecodeError::MissingNul("query")));
        assert_eq!(Query::decode(b"a\0b\0"), Err(DecodeError::Trailing(2)));
        assert_eq!(Query::decode(b"\xfc\0"), Err(DecodeError::NotUtf8("query")));
        assert_eq!(Query::text_bytes(b"\xfc\0"), Ok(&b"\xfc"[..]));
        assert_eq!(Parse::decode(b"\0\xfc\0\0\0"), Err(DecodeError::NotUtf8("statement")));
        assert_eq!(Parse::raw(b"\0\xfc\0\0\0"), Ok(("", &b"\xfc"[..], vec![])));
        assert_eq!(Parse::decode(b"\xfc\0\0\0\0"), Err(DecodeError::NotUtf8("statement name")));
        assert_eq!(Bind::decode(b"\0s"), Err(DecodeError::MissingNul("statement name")));
        assert!(Describe::decode(b"Xs\0").is_err());
        assert!(Close::decode(b"").is_err());
        assert_eq!(Execute::decode(b"p\0\0\0\0"), Err(DecodeError::Truncated("row limit")));
        assert_eq!(Password::decode(b"a\0b\0"), Err(DecodeError::Trailing(2)));
    }

    #[test]
    #[should_panic(expected = "zero byte")]
    fn a_zero_byte_in_a_statement_is_our_own_mistake() {
        query(&mut BytesMut::new(), "DELETE FROM t\0 WHERE id = 1");
    }
}
