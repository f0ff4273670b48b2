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
        Self { verifier, state: State::First { nonce } }
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
                return Err(AuthError::Unsupported("an authorization identity is not supported"));
            }
            _ => return Err(AuthError::Malformed("the header is cut short")),
        }
        let bare = attributes.rest();
        if bare.starts_with("m=") {
            return Err(AuthError::Unsupported("a mandatory SCRAM extension is unknown"));
        }
        // The name here is ignored, as the server does: who logs in was said in the start-up packet,
        // and a second name must not be able to contradict it.
        attributes.value('n')?;
        let nonce = format!("{}{nonce}", checked_nonce(attributes.value('r')?)?);
        attributes.extensions()?;

        let (salt, rounds) = (BASE64.encode(&self.verifier.salt), self.verifier.iterations);
        let challenge = format!("r={nonce},s={salt},i={rounds}");
        let signed = format!("{bare},{challenge},");
        self.state = State::Challenged { binding, nonce, signed };
        Ok(challenge)
    }

    /// Takes the application's proof and gives the signature to send back: the password was right.
    pub fn verify(&mut self, message: &[u8]) -> Result<String, AuthError> {
        let state = std::mem::replace(&mut self.state, State::Finished);
        let State::Challenged { binding, nonce, signed } = state else {
            return Err(AuthError::OutOfOrder);
        };
        let mut attributes = Attributes::new(message)?;
        let whole = attributes.rest();
        // The proof comes last and is the one thing that is not signed.
        let (unproved, proof) =
            whole.rsplit_once(",p=").ok_or(AuthError::Malformed("the proof is missing"))?;
        if attributes.value('c')? != binding {
            return Err(AuthError::Malformed("the channel binding differs from the first message"));
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
        Ok(format!("v={}", BASE64.encode(hmac(&self.verifier.server_key, &signed))))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pg::auth::ScramClient;
    use crate::pg::auth::verifier::salted_password;

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const PROOF: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// RFC 7677, section 3.
    fn server() -> ScramServer {
        let verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
            $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=\
            :wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        ScramServer::new(verifier.parse().unwrap(), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    }

    fn challenge(first: impl AsRef<[u8]>) -> Result<String, AuthError> {
        server().challenge(first.as_ref())
    }

    fn verify(proof: impl AsRef<[u8]>) -> Result<String, AuthError> {
        let mut server = server();
        server.challenge(FIRST.as_bytes()).unwrap();
        let verdict = server.verify(proof.as_ref());
        // Whatever the verdict was, one challenge is good for one proof.
        assert_eq!(server.verify(PROOF.as_bytes()), Err(AuthError::OutOfOrder));
        verdict
    }

    fn log_in(verifier: ScramVerifier, password: &str) -> Result<(), AuthError> {
        let mut client = ScramClient::new(password, "client");
        let mut server = ScramServer::new(verifier, "server");
        let challenge = server.challenge(client.first()?.as_bytes())?;
        let signature = server.verify(client.respond(challenge.as_bytes())?.as_bytes())?;
        client.finish(signature.as_bytes())
    }

    #[test]
    fn the_conversation_of_the_rfc() {
        let golden = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(challenge(FIRST).unwrap(), golden);
        assert_eq!(verify(PROOF).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn both_machines_agree_on_the_password_alone() {
        let verifier = || ScramVerifier::from_password("p\u{e4}ss", b"0123456789abcdef", 2);
        assert_eq!(log_in(verifier(), "p\u{e4}ss"), Ok(()));
        assert_eq!(log_in(verifier(), "pass"), Err(AuthError::WrongPassword));
        assert_eq!(log_in(verifier(), ""), Err(AuthError::WrongPassword));
        let nobody = ScramVerifier::mock("ann", b"secret", 16, 2);
        assert_eq!(log_in(nobody, "p\u{e4}ss"), Err(AuthError::WrongPassword));
    }

    #[test]
    fn an_application_that_would_have_bound_the_channel_is_heard() {
        let mut server = server();
        let challenge = server.challenge(FIRST.replacen('n', "y", 1).as_bytes()).unwrap();
        let salted = salted_password(b"pencil", &server.verifier.salt, 4096);
        let unproved = PROOF.split_once(",p=").unwrap().0.replace("biws", "eSws");
        let signed = format!("{},{challenge},{unproved}", &FIRST[3..]);
        let mask = hmac(&server.verifier.stored_key, &[signed.as_bytes()]);
        let proof = BASE64.encode(xor(&hmac(&salted, &[b"Client Key"]), &mask));
        assert!(server.verify(format!("{unproved},p={proof}").as_bytes()).is_ok());
        // One that says `n` first and `y` later has been tampered with on its way.
        assert!(matches!(verify(PROOF.replace("biws", "eSws")), Err(AuthError::Malformed(_))));
    }

    #[test]
    fn what_is_not_supported_is_said_to_be_so() {
        for first in [
            "p=tls-server-end-point,,n=,r=abc",
            "n,a=admin,n=,r=abc",
            "n,,m=x,n=,r=abc",
            "n,,n=,r=abc,m=x",
        ] {
            assert!(matches!(challenge(first), Err(AuthError::Unsupported(_))), "{first}");
        }
    }

    #[test]
    fn broken_first_messages_are_refused() {
        for first in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=",
            "n,,n=,r=",
            "n,,r=abc",
            "z,,n=,r=abc",
            "n,x,n=,r=abc",
            "n,,n=,r=a c",
            "n,,n=,r=abc,",
            "n,,n=,r=abc,x",
            "n,,n=,r=\u{e9}",
            "n,,n=,r=a\0b",
        ] {
            assert!(matches!(challenge(first), Err(AuthError::Malformed(_))), "{first:?}");
        }
        assert!(matches!(challenge(b"n,,n=\xff,r=abc"), Err(AuthError::Malformed(_))));
        let long = format!("n,,n=,r={}", "x".repeat(2000));
        assert_eq!(challenge(long), Err(AuthError::Malformed("it is too long")));
        assert!(challenge("n,,n=,r=abc,x=ignored").is_ok());
    }

    #[test]
    fn broken_proofs_are_refused() {
        for proof in [
            "",
            "p=",
            "c=biws",
            "c=biws,r=x,p=AAAA",
            &PROOF.replace("biws", ""),
            &PROOF.replace("%hv", "%hw"),
            &PROOF.replace("c=", "d="),
            &PROOF.replace(",p=", ",q="),
            &PROOF.replace("dHzb", ""),
            &PROOF.replace("dHzb", "dH b"),
            &format!("{PROOF},"),
            &format!("{PROOF},x=y"),
        ] {
            assert!(matches!(verify(proof), Err(AuthError::Malformed(_))), "{proof}");
        }
        assert!(matches!(verify(b"c=biws,r=\xff"), Err(AuthError::Malformed(_))));
        let wrong = PROOF.replace("dHzb", "AAAA");
        assert_eq!(verify(wrong), Err(AuthError::WrongPassword));
        let zeros = format!("{},p={}=", &PROOF[..PROOF.len() - 47], "A".repeat(43));
        assert_eq!(verify(zeros), Err(AuthError::WrongPassword));
    }

    #[test]
    fn steps_out_of_order_end_the_log_in() {
        let mut early = server();
        assert_eq!(early.verify(PROOF.as_bytes()), Err(AuthError::OutOfOrder));
        assert_eq!(early.challenge(FIRST.as_bytes()), Err(AuthError::OutOfOrder));
        let mut twice = server();
        twice.challenge(FIRST.as_bytes()).unwrap();
        assert_eq!(twice.challenge(FIRST.as_bytes()), Err(AuthError::OutOfOrder));
        assert_eq!(twice.verify(PROOF.as_bytes()), Err(AuthError::OutOfOrder));
        let mut failed = server();
        assert!(failed.challenge(b"nonsense").is_err());
        assert_eq!(failed.challenge(FIRST.as_bytes()), Err(AuthError::OutOfOrder));
    }
}
