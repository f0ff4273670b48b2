//! SCRAM as the application plays it, towards a backend that may be hostile.

use super::scram_text::{Attributes, checked_nonce};
use super::verifier::{KEY, hmac, iteration_count, salted_password, xor};
use super::{AuthError, constant_time_eq};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use std::fmt;

/// One log-in to one backend. The backend must prove in the end that it knows the password too.
pub struct ScramClient {
    password: Vec<u8>,
    nonce: String,
    state: State,
}

enum State {
    /// Has said nothing yet. Holds the first message as it will be signed.
    Start { bare: String },
    /// Waits for the challenge.
    Greeted { bare: String },
    /// Waits for this signature.
    Proved { signature: [u8; KEY] },
    /// Nothing is taken any more.
    Finished,
}

impl ScramClient {
    /// Begins a log-in. No user is named in it, since the server takes the one of the start-up packet.
    ///
    /// # Panics
    /// When the nonce is empty or holds anything but printable ASCII without a comma.
    pub fn new(password: impl Into<Vec<u8>>, nonce: impl Into<String>) -> Self {
        let nonce = nonce.into();
        assert!(checked_nonce(&nonce).is_ok(), "our own nonce is printable");
        let state = State::Start { bare: format!("n=,r={nonce}") };
        Self { password: password.into(), nonce, state }
    }

    /// Gives the first message to send.
    pub fn first(&mut self) -> Result<String, AuthError> {
        let State::Start { bare } = std::mem::replace(&mut self.state, State::Finished) else {
            return Err(AuthError::OutOfOrder);
        };
        let message = format!("n,,{bare}");
        self.state = State::Greeted { bare };
        Ok(message)
    }

    /// Takes the server's challenge and gives the proof to send back.
    ///
    /// This hashes as often as the server asks, up to [`MAX_ITERATIONS`](super::MAX_ITERATIONS) times,
    /// on the calling thread.
    pub fn respond(&mut self, challenge: &[u8]) -> Result<String, AuthError> {
        let State::Greeted { bare } = std::mem::replace(&mut self.state, State::Finished) else {
            return Err(AuthError::OutOfOrder);
        };
        let mut attributes = Attributes::new(challenge)?;
        let challenge = attributes.rest();
        refusal(challenge)?;
        let nonce = checked_nonce(attributes.value('r')?)?;
        // A server that adds nothing of its own could play an old conversation again.
        if nonce.strip_prefix(self.nonce.as_str()).is_none_or(str::is_empty) {
            return Err(AuthError::Malformed("the nonce does not continue ours"));
        }
        let salt = BASE64
            .decode(attributes.value('s')?)
            .ok()
            .filter(|salt| !salt.is_empty())
            .ok_or(AuthError::Malformed("the salt is not a salt"))?;
        let iterations = iteration_count(attributes.value('i')?)?;
        attributes.extensions()?;

        let salted = salted_password(&self.password, &salt, iterations);
        let client_key = hmac(&salted, &[b"Client Key"]);
        let stored_key: [u8; KEY] = Sha256::digest(client_key).into();
        let server_key = hmac(&salted, &[b"Server Key"]);
        let unproved = format!("c=biws,r={nonce}");
        let signed = format!("{bare},{challenge},{unproved}");
        let signed = [signed.as_bytes()];
        let proof = BASE64.encode(xor(&client_key, &hmac(&stored_key, &signed)));
        self.state = State::Proved { signature: hmac(&server_key, &signed) };
        Ok(format!("{unproved},p={proof}"))
    }

    /// Takes the server's signature. Without it the log-in must not be believed, even where the
    /// server says that all is well.
    pub fn finish(&mut self, message: &[u8]) -> Result<(), AuthError> {
        let state = std::mem::replace(&mut self.state, State::Finished);
        let State::Proved { signature } = state else {
            return Err(AuthError::OutOfOrder);
        };
        let mut attributes = Attributes::new(message)?;
        refusal(attributes.rest())?;
        let theirs = BASE64
            .decode(attributes.value('v')?)
            .map_err(|_| AuthError::Malformed("the signature is not a signature"))?;
        attributes.extensions()?;
        if !constant_time_eq(&theirs, &signature) {
            return Err(AuthError::WrongServer);
        }
        Ok(())
    }
}

/// A server may say `e=` and its reason in place of either of its messages.
fn refusal(message: &str) -> Result<(), AuthError> {
    match message.strip_prefix("e=") {
        Some(reason) => {
            Err(AuthError::Refused(reason.split(',').next().unwrap_or_default().to_owned()))
        }
        None => Ok(()),
    }
}

impl fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Start { .. } => "ScramClient(has said nothing)",
            State::Greeted { .. } => "ScramClient(waits for the challenge)",
            State::Proved { .. } => "ScramClient(waits for the signature)",
            State::Finished => "ScramClient(finished)",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pg::auth::MAX_ITERATIONS;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    /// RFC 7677, section 3, where the message names a user.
    fn of_the_rfc() -> ScramClient {
        let state = State::Start { bare: format!("n=user,r={NONCE}") };
        ScramClient { password: b"pencil".to_vec(), nonce: NONCE.to_owned(), state }
    }

    fn greeted() -> ScramClient {
        let mut client = ScramClient::new("pencil", NONCE);
        client.first().unwrap();
        client
    }

    fn respond(challenge: impl AsRef<[u8]>) -> Result<String, AuthError> {
        greeted().respond(challenge.as_ref())
    }

    #[test]
    fn the_conversation_of_the_rfc() {
        let mut client = of_the_rfc();
        assert_eq!(client.first().unwrap(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let proof = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(client.respond(CHALLENGE.as_bytes()).unwrap(), proof);
        client.finish(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        assert_eq!(client.first(), Err(AuthError::OutOfOrder));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_believed() {
        let wrong = b"v=AAAATRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        for signature in [&wrong[..], b"v=", b"v=AAAA"] {
            let mut client = greeted();
            client.respond(CHALLENGE.as_bytes()).unwrap();
            assert_eq!(client.finish(signature), Err(AuthError::WrongServer));
            // A second try with the same nonce is not heard.
            assert_eq!(client.finish(signature), Err(AuthError::OutOfOrder));
        }
        for signature in [&b""[..], b"v", b"v=*", b"x=AAAA", b"v=\0", b"\xff"] {
            let mut client = greeted();
            client.respond(CHALLENGE.as_bytes()).unwrap();
            assert!(matches!(client.finish(signature), Err(AuthError::Malformed(_))));
        }
    }

    #[test]
    fn the_work_a_server_may_ask_for_is_bounded() {
        for rounds in ["0", "1000001", "2147483648", "4294967296", "99999999999999999999999"] {
            let challenge = CHALLENGE.replace("4096", rounds);
            assert_eq!(respond(challenge), Err(AuthError::Iterations), "{rounds}");
        }
        for rounds in ["", "-1", "+4096", " 4096", "4096x", "0x10"] {
            let challenge = CHALLENGE.replace("4096", rounds);
            assert!(matches!(respond(challenge), Err(AuthError::Malformed(_))), "{rounds}");
        }
        assert!(respond(CHALLENGE.replace("4096", "1")).is_ok());
        assert_eq!(iteration_count("1000000"), Ok(MAX_ITERATIONS));
    }

    #[test]
    fn the_nonce_must_continue_ours_and_be_short() {
        for nonce in [NONCE, "", "other", "rOprNGfwEbeRWgbNEkq", "rOprNGfwEbeRWgbNEkqO\u{e9}"] {
            let challenge = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1");
            assert!(matches!(respond(challenge), Err(AuthError::Malformed(_))), "{nonce}");
        }
        let long = format!("r={NONCE}{},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1", "x".repeat(1024));
        assert_eq!(respond(long), Err(AuthError::Malformed("it is too long")));
    }

    #[test]
    fn other_broken_challenges_are_refused() {
        for challenge in [
            "",
            ",",
            "r=",
            &CHALLENGE[..60],
            &CHALLENGE.replace("s=", "x="),
            &CHALLENGE.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
            &CHALLENGE.replace("W22Z", "W2 Z"),
            &format!("{CHALLENGE},"),
            &format!("{CHALLENGE},1=x"),
        ] {
            assert!(matches!(respond(challenge), Err(AuthError::Malformed(_))), "{challenge}");
        }
        assert!(matches!(respond(b"r=\xff"), Err(AuthError::Malformed(_))));
        let mandatory = respond(format!("m=x,{CHALLENGE}"));
        assert!(mandatory.is_err());
        assert!(respond(format!("{CHALLENGE},x=ignored")).is_ok());
    }

    #[test]
    fn a_refusal_is_told_and_steps_out_of_order_are_not_taken() {
        let refused = Err(AuthError::Refused("other-error".to_owned()));
        assert_eq!(respond("e=other-error,x=y"), refused);
        let mut client = ScramClient::new("pencil", NONCE);
        assert_eq!(client.respond(CHALLENGE.as_bytes()), Err(AuthError::OutOfOrder));
        assert_eq!(greeted().finish(b"v=AAAA"), Err(AuthError::OutOfOrder));
        assert_eq!(greeted().first(), Err(AuthError::OutOfOrder));
        assert!(!format!("{:?}", greeted()).contains("pencil"));
    }
}
