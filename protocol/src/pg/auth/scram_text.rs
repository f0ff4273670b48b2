//! The text of SCRAM messages: attributes of one letter, separated by commas.

use super::{AuthError, MAX_MESSAGE};

/// Reads the attributes of one message, front to back.
pub(super) struct Attributes<'a> {
    rest: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    /// The whole message must be short and be text without a zero byte.
    pub(super) fn new(message: &'a [u8]) -> Result<Self, AuthError> {
        if message.len() > MAX_MESSAGE {
            return Err(AuthError::Malformed("it is too long"));
        }
        let text =
            std::str::from_utf8(message).map_err(|_| AuthError::Malformed("it is not UTF-8"))?;
        if text.contains('\0') {
            return Err(AuthError::Malformed("it holds a zero byte"));
        }
        Ok(Self { rest: Some(text) })
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &'a str {
        self.rest.unwrap_or_default()
    }

    /// The next part up to a comma, whatever it is.
    pub(super) fn part(&mut self) -> Option<&'a str> {
        let text = self.rest?;
        match text.split_once(',') {
            Some((part, rest)) => {
                self.rest = Some(rest);
                Some(part)
            }
            None => {
                self.rest = None;
                Some(text)
            }
        }
    }

    /// The value of the next attribute, which must be the one with this letter.
    pub(super) fn value(&mut self, letter: char) -> Result<&'a str, AuthError> {
        self.part()
            .and_then(|part| part.strip_prefix(letter))
            .and_then(|rest| rest.strip_prefix('='))
            .ok_or(AuthError::Malformed("an attribute is missing or out of place"))
    }

    /// Passes over the extensions at the end, which may be ignored but not be malformed.
    pub(super) fn extensions(&mut self) -> Result<(), AuthError> {
        while let Some(part) = self.part() {
            match part.as_bytes() {
                [b'm', b'=', ..] => {
                    return Err(AuthError::Unsupported("a mandatory SCRAM extension is unknown"));
                }
                [letter, b'=', ..] if letter.is_ascii_alphabetic() => {}
                _ => return Err(AuthError::Malformed("an extension is not an attribute")),
            }
        }
        Ok(())
    }
}

/// A nonce is printable, without a comma, and not empty.
pub(super) fn checked_nonce(nonce: &str) -> Result<&str, AuthError> {
    let printable = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    if nonce.is_empty() || !nonce.bytes().all(printable) {
        return Err(AuthError::Malformed("the nonce is empty or not printable"));
    }
    Ok(nonce)
}
