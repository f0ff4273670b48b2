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
        Ok(Self {
            portal,
            statement,
            rest: reader.rest(),
        })
    }

    /// Reads the formats and the values.
    pub fn params(&self) -> Result<Params<'a>, DecodeError> {
        let mut reader = Reader::new(self.rest);
        let formats = reader.u16_list("parameter formats")?;
        let values = reader.values("parameter")?;
        let result_formats = reader.u16_list("result formats")?;
        reader.finish()?;
        if formats.len() > 1 && formats.len() != values.len() {
            return Err(DecodeError::Invalid(
                "bind has not as many formats as parameters",
            ));
        }
        if formats
            .iter()
            .chain(&result_formats)
            .any(|format| *format > 1)
        {
            return Err(DecodeError::Invalid("bind asks for an unknown format"));
        }
        Ok(Params {
            formats,
            values,
            result_formats,
        })
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
        return Err(DecodeError::Invalid(
            "kind is neither a statement nor a portal",
        ));
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
