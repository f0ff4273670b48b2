//! SCRAM as the server plays it: first message, challenge, proof, signature.

use super::scram_text::{Attributes, checked_nonce};
use super::verifier::{KEY, ScramVerifier, hmac, xor};
use super::{AuthError, constant_time_eq};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use std::fmt;

/// One log-in of one application. It checks a proof once, and after any failure nothing.
pub struct ScramServer {
    verifier: ScramVerifier,
    state: State,
}

enum State {
    /// Waits for the application's first message; ours is the server's half of the nonce.
    First { nonce: String },
    /// Waits for the proof.
    Challenged {
        /// `c=` as the application must repeat it.
        binding: &'static str,
        /// Both halves.
        nonce: String,
        /// The messages so far as they will be signed, with a comma behind.
        signed: String,
    },
    /// Nothing is taken any more.
    Finished,
}

impl ScramServer {
    /// Begins a log-in against a verifier, a mock one where there is no such user.
    ///
    /// # Panics
    /// When the nonce is empty or holds anything but printable ASCII without a comma.
    pub fn new(verifier: ScramVerifier, nonce: impl Into<String>) -> Self {
        let nonce = nonce.into();
        assert!(checked_nonce(&nonce).is_ok(), "our own nonce is printable");
        Self {
            verifier,
            state: State::First { nonce },
        }
    }

    /// Takes the application's first message and gives the challenge to send back.
    pub fn challenge(&mut self, message: &[u8]) -> Result<String, AuthError> {
        let State::First { nonce } = std::mem::replace(&mut self.state, State::Finished) else {
            return Err(AuthError::OutOfOrder);
        };
        let mut attributes = Attributes::new(message)?;
        let binding = match attributes.part() {
            // The application does not know channel binding, or thinks that we do not: both true.
            Some("n") => "biws",
            Some("y") => "eSws",
            Some(part) if part.starts_with("p=") => {
                return Err(AuthError::Unsupported("channel binding is not supported"));
            }
            _ => return Err(AuthError::Malformed("the channel binding flag is unknown")),
        };
        match attributes.part() {
            Some("") => {}
            Some(part) if part.starts_with("a=") => {
                return Err(AuthError::Unsupported(
                    "an authorization identity is not supported",
                ));
            }
            _ => return Err(AuthError::Malformed("the header is cut short")),
        }
        let bare = attributes.rest();
        if bare.starts_with("m=") {
            return Err(AuthError::Unsupported(
                "a mandatory SCRAM extension is unknown",
            ));
        }
        // The name here is ignored, as the server does: who logs in was said in the start-up packet,
        // and a second name must not be able to contradict it.
        attributes.value('n')?;
        let nonce = format!("{}{nonce}", checked_nonce(attributes.value('r')?)?);
        attributes.extensions()?;

        let (salt, rounds) = (BASE64.encode(&self.verifier.salt), self.verifier.iterations);
        let challenge = format!("r={nonce},s={salt},i={rounds}");
        let signed = format!("{bare},{challenge},");
        self.state = State::Challenged {
            binding,
            nonce,
            signed,
        };
        Ok(challenge)
    }

    /// Takes the application's proof and gives the signature to send back: the password was right.
    pub fn verify(&mut self, message: &[u8]) -> Result<String, AuthError> {
        let state = std::mem::replace(&mut self.state, State::Finished);
        let State::Challenged {
            binding,
            nonce,
            signed,
        } = state
        else {
            return Err(AuthError::OutOfOrder);
        };
        let mut attributes = Attributes::new(message)?;
        let whole = attributes.rest();
        // The proof comes last and is the one thing that is not signed.
        let (unproved, proof) = whole
            .rsplit_once(",p=")
            .ok_or(AuthError::Malformed("the proof is missing"))?;
        if attributes.value('c')? != binding {
            return Err(AuthError::Malformed(
                "the channel binding differs from the first message",
            ));
        }
        if !constant_time_eq(attributes.value('r')?.as_bytes(), nonce.as_bytes()) {
            return Err(AuthError::Malformed("the nonce differs from the challenge"));
        }
        attributes.extensions()?;
        let proof: [u8; KEY] = BASE64
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or(AuthError::Malformed("the proof is not a proof"))?;

        let signed = [signed.as_bytes(), unproved.as_bytes()];
        let client_key = xor(&proof, &hmac(&self.verifier.stored_key, &signed));
        let stored_key: [u8; KEY] = Sha256::digest(client_key).into();
        if !constant_time_eq(&stored_key, &self.verifier.stored_key) {
            return Err(AuthError::WrongPassword);
        }
        Ok(format!(
            "v={}",
            BASE64.encode(hmac(&self.verifier.server_key, &signed))
        ))
    }
}

impl fmt::Debug for ScramServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::First { .. } => "ScramServer(waits for the first message)",
            State::Challenged { .. } => "ScramServer(waits for the proof)",
            State::Finished => "ScramServer(finished)",
        })
    }
}
