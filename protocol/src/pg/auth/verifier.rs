//! What a server keeps instead of a password.

use super::{AuthError, MAX_ITERATIONS, SCRAM_SHA_256, saslprep};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// The size of every key here.
pub(super) const KEY: usize = 32;

/// What a server keeps instead of a password: enough to check one, not enough to log in elsewhere.
///
/// Written and read in the server's own form, `SCRAM-SHA-256$4096:salt$stored:server`.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// How often the password is hashed.
    pub iterations: u32,
    /// What is hashed with it.
    pub salt: Vec<u8>,
    /// The hash of the key that proves the application's knowledge.
    pub stored_key: [u8; KEY],
    /// The key that proves the server's knowledge.
    pub server_key: [u8; KEY],
}

impl ScramVerifier {
    /// Makes the verifier of a password. This takes `iterations` rounds of hashing, milliseconds, on
    /// the calling thread.
    ///
    /// # Panics
    /// When `iterations` is 0 or above [`MAX_ITERATIONS`]; it comes from configuration, which is
    /// checked when it is read.
    pub fn from_password(password: impl AsRef<[u8]>, salt: &[u8], iterations: u32) -> Self {
        assert!((1..=MAX_ITERATIONS).contains(&iterations), "iterations are within their limits");
        let salted = salted_password(password.as_ref(), salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(hmac(&salted, &[b"Client Key"])).into(),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// A verifier that no password fits, for a user who does not exist.
    ///
    /// It costs the same as a real one, and the same `user` gets the same salt at every attempt as
    /// long as the `secret`, made once, is the same: a salt that changed would tell the stranger that
    /// there is no such user. `iterations` and `salt_len` (at most 32) must be those of the real users,
    /// for the same reason.
    pub fn mock(user: &str, secret: &[u8], salt_len: usize, iterations: u32) -> Self {
        let part = |label: &[u8]| hmac(secret, &[label, b":", user.as_bytes()]);
        Self {
            iterations,
            salt: part(b"salt").into_iter().take(salt_len).collect(),
            // Nobody knows a key whose hash this is.
            stored_key: part(b"stored"),
            server_key: part(b"server"),
        }
    }

    /// Whether this is the verifier of `password`. As costly as [`ScramVerifier::from_password`].
    pub fn matches(&self, password: impl AsRef<[u8]>) -> bool {
        let salted = salted_password(password.as_ref(), &self.salt, self.iterations);
        let stored: [u8; KEY] = Sha256::digest(hmac(&salted, &[b"Client Key"])).into();
        super::constant_time_eq(&stored, &self.stored_key)
    }
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored) = (BASE64.encode(&self.salt), BASE64.encode(self.stored_key));
        let server = BASE64.encode(self.server_key);
        write!(f, "{SCRAM_SHA_256}${}:{salt}${stored}:{server}", self.iterations)
    }
}

/// The keys are left out: whoever has the server key can pose as the server.
impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramVerifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

impl FromStr for ScramVerifier {
    type Err = AuthError;

    fn from_str(text: &str) -> Result<Self, AuthError> {
        const WRONG: AuthError = AuthError::Malformed("verifier is not in the server's form");
        let (scheme, rest) = text.split_once('$').ok_or(WRONG)?;
        let (head, keys) = rest.split_once('$').ok_or(WRONG)?;
        let (iterations, salt) = head.split_once(':').ok_or(WRONG)?;
        let (stored, server) = keys.split_once(':').ok_or(WRONG)?;
        if scheme != SCRAM_SHA_256 {
            return Err(AuthError::Unsupported("verifier is not a SCRAM-SHA-256 one"));
        }
        let key = |text: &str| -> Result<[u8; KEY], AuthError> {
            BASE64.decode(text).ok().and_then(|key| key.try_into().ok()).ok_or(WRONG)
        };
        let salt = BASE64.decode(salt).map_err(|_| WRONG)?;
        if salt.is_empty() {
            return Err(WRONG);
        }
        Ok(Self {
            iterations: iteration_count(iterations)?,
            salt,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }
}

/// Reads an iteration count and holds it to its limits, before it is used for anything.
pub(super) fn iteration_count(text: &str) -> Result<u32, AuthError> {
    if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(AuthError::Malformed("iteration count is not a number"));
    }
    match text.parse() {
        Ok(iterations) if (1..=MAX_ITERATIONS).contains(&iterations) => Ok(iterations),
        _ => Err(AuthError::Iterations),
    }
}

/// The hash of a password that both sides' keys are made of.
pub(super) fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; KEY] {
    let mut salted = [0; KEY];
    pbkdf2::pbkdf2_hmac::<Sha256>(&saslprep(password), salt, iterations, &mut salted);
    salted
}

/// HMAC-SHA-256 of the parts one after the other.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Each byte of one combined with that of the other: how SCRAM hides a key in a proof.
pub(super) fn xor(a: &[u8; KEY], b: &[u8; KEY]) -> [u8; KEY] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Made by a PostgreSQL 15 server from the passwords beside them. The last three hold characters
    /// that SASLprep maps, maps to a space, and refuses.
    const OF_A_SERVER: [(&str, &str); 4] = [
        (
            "pencil",
            "SCRAM-SHA-256$4096:fyHVsPsCrPavZZYZ7TP8cg==$v5m0spft9yLRV8+ULLhXW1ulySx/RUfhmWauoP7IVR0=:Pw4VeaXnoy1kw03j0fvBerMGoRnxZXrV8hIQOrmEHl8=",
        ),
        (
            "\u{2168}\u{AD}\u{212B}",
            "SCRAM-SHA-256$4096:cZjHOtTECWhVKjL4BzDheQ==$YDN9CO+++sUiK21hGPj9MLF5vBiBCvy9i87D2xZPAIU=:QNjIH5HodCIckCIK+5t5+7urrsGIxD4hkcDsRmrwELg=",
        ),
        (
            "x\u{A0}y",
            "SCRAM-SHA-256$4096:se00tLJ5IkGVIMihsw2PoA==$kltXBABG9o19aA8k6gUQPtAoj0LXbxNfp+0kpifBPdg=:J21x8NbQ34q6ae+uwldHsWjBHg7ObxrIcQxKjvoF49U=",
        ),
        (
            "\u{FEFF}\u{7}",
            "SCRAM-SHA-256$4096:czH8TBCAm7/sr8dNB+zzGQ==$GxfLuFS19fdNZtwdRkL3s4BEO0nME5pQrXzm75OJ6YU=:jVUrgSSnFGR/NAdmR/GWzIFgc2mllyb9HjfyIhSMT5A=",
        ),
    ];

    #[test]
    fn the_servers_own_verifiers_are_made_again_and_written_as_they_were() {
        for (password, text) in OF_A_SERVER {
            let verifier: ScramVerifier = text.parse().unwrap();
            let ours = ScramVerifier::from_password(password, &verifier.salt, verifier.iterations);
            assert_eq!(ours, verifier, "{password:?}");
            assert_eq!(verifier.to_string(), text);
            assert!(verifier.matches(password));
            assert!(!verifier.matches("wrong"));
        }
    }

    #[test]
    fn what_is_not_a_verifier_is_refused() {
        let good = OF_A_SERVER[0].1;
        assert_eq!(good.parse::<ScramVerifier>().unwrap().iterations, 4096);
        for bad in [
            "",
            "pencil",
            "md54108eb9b0ad799aaab56efd279ede184",
            &good.replace("256$", "512$"),
            &good.replace("4096", "0"),
            &good.replace("4096", "-1"),
            &good.replace("4096", "+1"),
            &good.replace("4096", "1000001"),
            &good.replace("4096", "99999999999999999999"),
            &good.replace("fyHVsPsCrPavZZYZ7TP8cg==", ""),
            &good.replace("fyHV", "fy V"),
            &good.replace("v5m0", ""),
            &good.replace(":Pw4", "$Pw4"),
            &good[..good.len() - 1],
        ] {
            assert!(bad.parse::<ScramVerifier>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_who_does_not_exist_has_the_same_salt_at_every_attempt() {
        let mock = |user, secret| ScramVerifier::mock(user, secret, 16, 4096);
        assert_eq!(mock("ann", b"secret"), mock("ann", b"secret"));
        assert_eq!(mock("ann", b"secret").salt.len(), 16);
        assert_ne!(mock("ann", b"secret").salt, mock("bob", b"secret").salt);
        assert_ne!(mock("ann", b"secret").salt, mock("ann", b"other").salt);
        let keys = mock("ann", b"secret");
        assert_ne!(keys.stored_key, keys.server_key);
    }

    #[test]
    fn keys_stay_out_of_debug_text() {
        let text = format!("{:?}", ScramVerifier::mock("ann", b"secret", 16, 4096));
        assert_eq!(text, "ScramVerifier { iterations: 4096, .. }");
    }

    #[test]
    #[should_panic(expected = "limits")]
    fn a_verifier_is_never_made_with_no_iterations() {
        let _ = ScramVerifier::from_password("pencil", b"salt", 0);
    }
}
