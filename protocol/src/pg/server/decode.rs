//! Views of what a backend sent. Each takes the body of a frame whose tag was looked at already.

use crate::DecodeError;
use crate::pg::startup::MAX_SECRET;
use crate::pg::wire::Reader;
use bytes::Bytes;

/// Whether a message with this tag may come at any time, belonging to no request: a notice, a
/// notification, or the new value of a setting.
#[inline]
pub fn is_async(tag: u8) -> bool {
    matches!(
        tag,
        super::NOTICE_RESPONSE | super::NOTIFICATION_RESPONSE | super::PARAMETER_STATUS
    )
}

/// What a statement did, as the server words it.
pub fn command_tag(body: &[u8]) -> Result<&str, DecodeError> {
    let mut reader = Reader::new(body);
    let tag = reader.cstr("command tag")?;
    reader.finish()?;
    Ok(tag)
}

/// How many rows a command tag speaks of, if it is one that speaks of rows.
pub fn tag_rows(tag: &str) -> Option<u64> {
    let (command, rest) = tag.split_once(' ')?;
    let count = match command {
        // The number in front was the row's object identifier once.
        "INSERT" => rest.split_once(' ')?.1,
        "UPDATE" | "DELETE" | "SELECT" | "COPY" | "MERGE" | "FETCH" | "MOVE" => rest,
        _ => return None,
    };
    // `parse` alone would take a sign.
    count
        .bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| count.parse().ok())?
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
        return Err(DecodeError::Invalid(
            "backend key has a secret of the wrong length",
        ));
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
    Ok(Notification {
        pid,
        channel,
        payload,
    })
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
