//! Towards the applications: logging in, and their side of the conversation.

pub mod mysql;
pub mod pg;

use bytes::Bytes;

/// Length of what a proxy's proof is about, where a session goes from one proxy to another.
pub const CHALLENGE: usize = 16;

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What is written in hexadecimal digits.
pub fn from_hex(text: &str) -> Option<Bytes> {
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    Some(bytes?.into())
}
