//! What can be wrong with bytes from the wire.
//!
//! The texts name the field and the numbers but never quote what was sent, because they end in logs and
//! in other people's error messages, and what was sent may be a password.

use std::fmt;

/// Why some bytes are not the message that they claim to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The announced length is above what is allowed here.
    TooLong {
        /// The length word as it was sent, read as unsigned: a negative one is a huge one.
        announced: u32,
        /// The most that is allowed.
        max: usize,
    },
    /// The announced length cannot hold even the fixed part of the message.
    TooShort {
        /// The length word as it was sent.
        announced: u32,
        /// The least that makes sense.
        min: usize,
    },
    /// The message ends before the named field does.
    Truncated(&'static str),
    /// The named text field has no terminating zero byte.
    MissingNul(&'static str),
    /// The named text field is not UTF-8.
    NotUtf8(&'static str),
    /// Bytes are left over behind the last field.
    Trailing(usize),
    /// A length inside the message is negative, and is not the -1 that means NULL.
    NegativeLength {
        /// The field whose length it is.
        field: &'static str,
        /// The length that was sent.
        length: i32,
    },
    /// The start-up packet asks for a protocol that is not spoken here.
    UnsupportedProtocol {
        /// The major number asked for.
        major: u16,
        /// The minor number asked for.
        minor: u16,
    },
    /// A field holds a value that it may not hold; the text is a full clause.
    Invalid(&'static str),
    /// The `options` text of a start-up packet is not understood. This one alone quotes its input,
    /// as the server does, since without the word nobody finds the mistake.
    Options(String),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { announced, max } => {
                write!(f, "message announces {announced} bytes, at most {max} are allowed")
            }
            Self::TooShort { announced, min } => {
                write!(f, "message announces {announced} bytes, at least {min} are needed")
            }
            Self::Truncated(field) => write!(f, "message ends inside its {field}"),
            Self::MissingNul(field) => write!(f, "{field} has no terminating zero byte"),
            Self::NotUtf8(field) => write!(f, "{field} is not valid UTF-8"),
            Self::Trailing(extra) => write!(f, "{extra} bytes left over at the end of the message"),
            Self::NegativeLength { field, length } => {
                write!(f, "{field} has the invalid length {length}")
            }
            Self::UnsupportedProtocol { major, minor } => {
                write!(f, "unsupported frontend protocol {major}.{minor}: server supports 3.0")
            }
            Self::Invalid(clause) => f.write_str(clause),
            Self::Options(text) => write!(f, "invalid start-up options: {text}"),
        }
    }
}

impl std::error::Error for DecodeError {}
