//! The arithmetic of the log-in, both sides.
//!
//! Everything that should be unpredictable (nonces, salts) is handed in, so that the handshakes can be
//! tested against published ones. Secrets are compared in constant time and appear in no `Debug` text.
//!
//! The peer is hostile on either side. What it chooses is bounded before it costs anything: messages by
//! [`MAX_MESSAGE`], the rounds of hashing by [`MAX_ITERATIONS`]. A machine that has said no stays
//! finished: one nonce serves one attempt.
//!
//! What is not here: channel binding. The mechanism with it is never offered, and an application that
//! insists on it is refused, so nobody is led to believe that it protects the connection.

mod scram_client;
mod scram_server;
mod scram_text;
mod verifier;

pub use scram_client::ScramClient;
pub use scram_server::ScramServer;
pub use verifier::ScramVerifier;

use md5::{Digest, Md5};
use std::borrow::Cow;
use std::fmt::{self, Write};
use subtle::ConstantTimeEq;

/// The one SASL mechanism spoken here.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// The longest SCRAM message that is read: PostgreSQL's own bound.
pub const MAX_MESSAGE: usize = 1024;

/// The most rounds of hashing that a peer may ask for, about half a second of work.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// Why a log-in came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthError {
    /// A message is not laid out as SCRAM says; the text is a full clause.
    Malformed(&'static str),
    /// The peer asks for something that is not spoken here; the text is a full clause.
    Unsupported(&'static str),
    /// The number of rounds is 0 or above [`MAX_ITERATIONS`].
    Iterations,
    /// The message does not belong to this step, or the machine has finished.
    OutOfOrder,
    /// The password is wrong, or there is no such user: which of the two is not told.
    WrongPassword,
    /// The server does not know the password's verifier: it is not the server it claims to be.
    WrongServer,
    /// The server refused us; the text is its reason.
    Refused(String),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(clause) => write!(f, "malformed SCRAM message: {clause}"),
            Self::Unsupported(clause) => f.write_str(clause),
            Self::Iterations => {
                write!(f, "SCRAM iteration count is not between 1 and {MAX_ITERATIONS}")
            }
            Self::OutOfOrder => f.write_str("SCRAM message out of order"),
            Self::WrongPassword => f.write_str("password authentication failed"),
            Self::WrongServer => f.write_str("server does not prove that it knows the password"),
            Self::Refused(reason) => write!(f, "server refused the log-in: {reason:?}"),
        }
    }
}

impl std::error::Error for AuthError {}

/// The answer to a request for the password hashed by md5 with a salt.
pub fn md5_password(user: &str, password: impl AsRef<[u8]>, salt: [u8; 4]) -> String {
    let inner = hex(&Md5::new().chain_update(password).chain_update(user).finalize());
    let outer = hex(&Md5::new().chain_update(inner).chain_update(salt).finalize());
    format!("md5{outer}")
}

/// Compares secrets in a time that says nothing of where they differ. Their lengths do show.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// A password as the server hashes it: normalised by SASLprep where that is possible, and as it is
/// where it is not: not UTF-8, a forbidden character, or nothing left of it.
pub fn saslprep(password: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(password) else {
        return Cow::Borrowed(password);
    };
    match stringprep::saslprep(text) {
        Ok(Cow::Owned(prepared)) if !prepared.is_empty() => Cow::Owned(prepared.into_bytes()),
        _ => Cow::Borrowed(password),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_the_servers() {
        let answer = md5_password("user", "pencil", [1, 2, 3, 4]);
        assert_eq!(answer, "md54376eb6913b38f9aaff38dc7cf19ca76");
    }

    #[test]
    fn saslprep_keeps_what_it_may_not_change() {
        assert_eq!(&*saslprep(b"pencil"), b"pencil");
        assert_eq!(&*saslprep("x\u{A0}y".as_bytes()), b"x y");
        assert_eq!(&*saslprep(b"\xff\xfe"), b"\xff\xfe");
        assert_eq!(&*saslprep("\u{AD}".as_bytes()), "\u{AD}".as_bytes());
        assert_eq!(&*saslprep(b"bell\x07"), b"bell\x07");
        assert_eq!(&*saslprep(b""), b"");
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(constant_time_eq(b"same", b"same"));
        assert!(!constant_time_eq(b"same", b"sama"));
        assert!(!constant_time_eq(b"same", b"same1"));
        assert!(!constant_time_eq(b"", b"x"));
    }
}
