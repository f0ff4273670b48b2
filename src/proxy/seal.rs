//! What goes from proxy to proxy with a session, sealed: only who has the administrator's password can have written it.
//!
//! The seal is also over a challenge of the one that takes it, so that what was heard on the way is of no use later.

use bytes::{BufMut, BytesMut};
use hmac::{Hmac, Mac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

use crate::config::Config;

/// Length of a seal.
const SEAL: usize = 32;
/// So that a seal for this is none for anything else.
const PURPOSE: &[u8] = b"lockstep session 1";

/// The key that proxies of one cluster have in common.
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    /// The key of these proxies; nothing where their files have no secret in common.
    pub(super) fn of(config: &Config) -> Option<Self> {
        Self::from(config.admin.password.reveal())
    }

    fn from(secret: &str) -> Option<Self> {
        if secret.is_empty() {
            return None;
        }
        // Every length is right for this kind of key.
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
        mac.update(PURPOSE);
        Some(Self(mac))
    }

    fn over(&self, challenge: &[u8], body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&(challenge.len() as u64).to_be_bytes());
        mac.update(challenge);
        mac.update(body);
        mac
    }

    /// Seals what is known of a session, and what its client has said that nobody has looked at yet.
    pub(super) fn seal(&self, challenge: &[u8], what: &impl Serialize, unread: &[u8]) -> Vec<u8> {
        // Maps with keys of text and numbers: nothing that JSON lacks.
        let text = serde_json::to_vec(what).unwrap_or_default();
        let mut body = Vec::with_capacity(8 + text.len() + unread.len());
        body.put_u64(text.len() as u64);
        body.put_slice(&text);
        body.put_slice(unread);
        let mut sealed = self.over(challenge, &body).finalize().into_bytes().to_vec();
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Opens what was sealed.
    ///
    /// # Errors
    /// When the seal is another one, or what is inside is not understood.
    pub(super) fn open<T: DeserializeOwned>(
        &self,
        challenge: &[u8],
        sealed: &[u8],
    ) -> Result<(T, BytesMut), String> {
        let (seal, body) = sealed.split_at_checked(SEAL).ok_or("it is too short")?;
        let right = self.over(challenge, body).verify_slice(seal);
        right.map_err(
            |_| "its seal is not the proxies': their files have different [admin] passwords",
        )?;
        let (length, rest) = body.split_first_chunk::<8>().ok_or("it has no length")?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|e| e.to_string())?;
        let (text, unread) = rest.split_at_checked(length).ok_or("it is too short")?;
        let what = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        Ok((what, BytesMut::from(unread)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> Key {
        Key::from(secret).expect("a key")
    }

    #[test]
    fn only_what_was_sealed_with_the_same_secret_for_this_challenge_is_opened() {
        let sealed = key("secret").seal(b"now", &vec!["a", "b"], b"unread");
        let opened: Result<(Vec<String>, BytesMut), String> = key("secret").open(b"now", &sealed);
        let (what, unread) = opened.expect("what was sealed");
        assert_eq!((what.join(""), &unread[..]), ("ab".to_owned(), &b"unread"[..]));
        let opens = |key: &Key, challenge: &[u8], sealed: &[u8]| {
            key.open::<Vec<String>>(challenge, sealed).is_ok()
        };
        assert!(!opens(&key("other"), b"now", &sealed));
        assert!(!opens(&key("secret"), b"later", &sealed));
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 1;
            assert!(!opens(&key("secret"), b"now", &other), "changed at {at}");
            assert!(!opens(&key("secret"), b"now", &sealed[..at]), "cut at {at}");
        }
    }
}
