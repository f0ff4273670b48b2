//! Bytes in hexadecimal digits, and back.

/// Two digits for each byte, in lower case.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What the digits stand for; `None` where they are none, or half of a byte is missing.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16);
    let pair = |p: &[u8]| u8::try_from(digit(p[0])? * 16 + digit(p[1])?).ok();
    if text.len().is_multiple_of(2) { text.chunks(2).map(pair).collect() } else { None }
}
