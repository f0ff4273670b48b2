//! The log-in's arithmetic, both sides, as small machines.
//!
//! Two methods are known. `mysql_native_password` (SHA-1) is what MariaDB and older MySQL ask for,
//! `caching_sha2_password` (SHA-256) is the default of MySQL 8. In both the password never travels,
//! with one exception: a MySQL server that has not seen a user since its start has no hash to check
//! a proof against, and asks for the password itself. Inside TLS it gets it as it is; over a line in
//! clear it is asked for its RSA key, and gets the password encrypted with that. Nobody vouches for that
//! key: whoever stands in the way could give his own, as he could read and change all that follows.
//!
//! The server's side here always has the hash, so it never needs to ask for more than a proof.

use super::fields::{Reader, put_cstr};
use super::handshake::CHALLENGE;
use crate::DecodeError;
use bytes::{BufMut, BytesMut};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// First byte of a packet that asks for another method.
pub const SWITCH: u8 = 0xfe;
/// First byte of a packet in the middle of a method.
pub const MORE: u8 = 0x01;
/// Of `caching_sha2_password`: the proof was right.
const FAST: u8 = 3;
/// Of `caching_sha2_password`: the server needs the password itself.
const FULL: u8 = 4;
/// Of `caching_sha2_password`: the client asks for the server's RSA key.
const KEY: u8 = 2;
/// The longest key that is read: one of 16384 bits has about 2800 bytes.
const LONGEST_KEY: usize = 4096;

/// How a password is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `mysql_native_password`.
    Native,
    /// `caching_sha2_password`.
    CachingSha2,
}

impl Method {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
        }
    }

    /// The method of a name, where it is one of ours.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Native, Self::CachingSha2].into_iter().find(|method| method.name() == name)
    }

    /// The proof of a password. An empty password is proved by an empty proof.
    pub fn prove(self, password: &str, challenge: &[u8; CHALLENGE]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        match self {
            Self::Native => {
                let key = sha1(&[password.as_bytes()]);
                xor(&key, &sha1(&[challenge, &sha1(&[&key])]))
            }
            Self::CachingSha2 => {
                let key = sha256(&[password.as_bytes()]);
                xor(&key, &sha256(&[&sha256(&[&key]), challenge]))
            }
        }
    }
}

/// What a server keeps of a password: enough to check a proof, not enough to make one.
#[derive(Clone)]
pub struct Verifier {
    native: [u8; 20],
    sha2: [u8; 32],
    empty: bool,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(***)")
    }
}

impl Verifier {
    /// Of a password.
    pub fn new(password: &str) -> Self {
        let bytes = password.as_bytes();
        Self {
            native: sha1(&[&sha1(&[bytes])]),
            sha2: sha256(&[&sha256(&[bytes])]),
            empty: password.is_empty(),
        }
    }

    /// Of nobody: no proof fits it, and it takes as long to find out. `secret` is to be random.
    pub fn mock(secret: &[u8]) -> Self {
        Self { native: sha1(&[secret]), sha2: sha256(&[secret]), empty: false }
    }

    /// Whether the proof is right, in a time that does not depend on how wrong it is.
    pub fn accepts(&self, method: Method, challenge: &[u8; CHALLENGE], proof: &[u8]) -> bool {
        // Some clients say an empty password as a single zero.
        if matches!(proof, [] | [0]) {
            return self.empty;
        }
        let right = match (method, proof.len()) {
            (Method::Native, 20) => {
                let key = xor(proof, &sha1(&[challenge, &self.native]));
                sha1(&[&key]).ct_eq(&self.native).into()
            }
            (Method::CachingSha2, 32) => {
                let key = xor(proof, &sha256(&[&self.sha2, challenge]));
                sha256(&[&key]).ct_eq(&self.sha2).into()
            }
            _ => false,
        };
        right && !self.empty
    }
}

/// What a server does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ask for a proof by this method.
    Switch(Method),
    /// Let in; where this is set, after [`fast_success`].
    Welcome {
        /// The method wants to hear that its proof was right before the OK.
        told: bool,
    },
    /// Refuse.
    Deny,
}

/// The server's side.
#[derive(Debug)]
pub struct Server {
    verifier: Verifier,
    challenge: [u8; CHALLENGE],
    /// The only method allowed, where there is one.
    wanted: Option<Method>,
    /// The method that was asked for.
    asked: Option<Method>,
}

impl Server {
    /// Checks against `verifier`, by the wanted method or by the client's own.
    pub fn new(verifier: Verifier, challenge: [u8; CHALLENGE], wanted: Option<Method>) -> Self {
        Self { verifier, challenge, wanted, asked: None }
    }

    /// The proof that came with the login.
    pub fn first(&mut self, plugin: Option<&str>, proof: &[u8]) -> Verdict {
        // Whoever names no method speaks the oldest one.
        let named = plugin.map_or(Some(Method::Native), Method::of);
        match (named, self.wanted) {
            (Some(named), None) => self.judge(named, proof),
            (Some(named), Some(wanted)) if named == wanted => self.judge(named, proof),
            (_, wanted) => {
                let method = wanted.unwrap_or(Method::Native);
                self.asked = Some(method);
                Verdict::Switch(method)
            }
        }
    }

    /// Asks whoever is in already for a proof, by the wanted method or by the client's own. What came
    /// with the command is not looked at: drivers differ in what they make it of.
    pub fn ask(&mut self, plugin: Option<&str>) -> Method {
        let named = plugin.and_then(Method::of);
        let method = self.wanted.or(named).unwrap_or(Method::Native);
        self.asked = Some(method);
        method
    }

    /// The proof that was asked for. One that was not asked for is denied.
    pub fn second(&mut self, proof: &[u8]) -> Verdict {
        match self.asked.take() {
            Some(method) => self.judge(method, proof),
            None => Verdict::Deny,
        }
    }

    fn judge(&self, method: Method, proof: &[u8]) -> Verdict {
        if self.verifier.accepts(method, &self.challenge, proof) {
            Verdict::Welcome { told: method == Method::CachingSha2 && proof.len() > 1 }
        } else {
            Verdict::Deny
        }
    }
}

/// Appends the request for another method. Some clients read the challenge as text: it is wise to
/// have no zero in it.
pub fn switch(buf: &mut BytesMut, method: Method, challenge: &[u8; CHALLENGE]) {
    buf.put_u8(SWITCH);
    put_cstr(buf, method.name().as_bytes());
    buf.put_slice(challenge);
    buf.put_u8(0);
}

/// Appends "the proof was right", which `caching_sha2_password` says before the OK.
pub fn fast_success(buf: &mut BytesMut) {
    buf.put_slice(&[MORE, FAST]);
}

/// What a client does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send this.
    Send(Vec<u8>),
    /// Wait for the next packet.
    Wait,
    /// Encrypt the secret with this RSA key (PEM, padded by OAEP with SHA-1), and send that.
    Encrypt {
        /// The server's key.
        key: Vec<u8>,
        /// The password, mixed with the challenge.
        secret: Vec<u8>,
    },
    /// Give up: the method is not known here.
    Unknown(String),
}

/// The client's side.
pub struct Client<'a> {
    password: &'a str,
    /// The line is encrypted.
    tls: bool,
    method: Method,
    challenge: [u8; CHALLENGE],
    /// The server's key comes next.
    wants_key: bool,
}

impl std::fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("method", &self.method).finish_non_exhaustive()
    }
}

impl<'a> Client<'a> {
    /// Begins with the method that the greeting names, or with the older one, from which the
    /// server will switch.
    pub fn new(password: &'a str, tls: bool, plugin: &str) -> Self {
        let method = Method::of(plugin).unwrap_or(Method::Native);
        Self { password, tls, method, challenge: [0; CHALLENGE], wants_key: false }
    }

    /// The method it follows now.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The proof that goes with the login.
    pub fn first(&mut self, challenge: &[u8; CHALLENGE]) -> Vec<u8> {
        self.challenge = *challenge;
        self.method.prove(self.password, challenge)
    }

    /// Takes a packet of the server that is neither OK nor ERR.
    ///
    /// # Errors
    /// When it is no packet of a log-in.
    pub fn on(&mut self, payload: &[u8]) -> Result<Next, DecodeError> {
        let mut read = Reader::new(payload);
        match read.u8("packet type")? {
            SWITCH if read.is_empty() => Ok(Next::Unknown("mysql_old_password".into())),
            SWITCH => {
                let name = String::from_utf8_lossy(read.cstr_or_rest()).into_owned();
                let Some(method) = Method::of(&name) else {
                    return Ok(Next::Unknown(name));
                };
                self.method = method;
                self.challenge = read.array("challenge")?;
                Ok(Next::Send(method.prove(self.password, &self.challenge)))
            }
            MORE if std::mem::take(&mut self.wants_key) => {
                let key = read.rest();
                if key.len() > LONGEST_KEY {
                    return Err(DecodeError::TooLong {
                        announced: u32::try_from(key.len()).unwrap_or(u32::MAX),
                        max: LONGEST_KEY,
                    });
                }
                Ok(Next::Encrypt { key: key.to_vec(), secret: self.secret() })
            }
            MORE => match (self.method, read.u8("step")?) {
                (Method::CachingSha2, FAST) => Ok(Next::Wait),
                (Method::CachingSha2, FULL) if self.tls => {
                    Ok(Next::Send([self.password.as_bytes(), &[0]].concat()))
                }
                (Method::CachingSha2, FULL) => {
                    self.wants_key = true;
                    Ok(Next::Send(vec![KEY]))
                }
                _ => Err(DecodeError::Invalid("a step that the method does not have")),
            },
            _ => Err(DecodeError::Invalid("a packet that has no place in a log-in")),
        }
    }
}

impl Client<'_> {
    /// The password and its end, mixed with the challenge over and over.
    fn secret(&self) -> Vec<u8> {
        let bytes = self.password.bytes().chain([0]);
        bytes.zip(self.challenge.iter().cycle()).map(|(a, b)| a ^ b).collect()
    }
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A challenge of MariaDB 10.11, and PyMySQL's proof of the password `secret`: recorded.
    const RECORDED: &[u8; 20] = b"y8KO*#q2D>H3bwN`vQsm";
    const PROOF: &[u8] = b"g\xa9kt\x94z\xb2\xc5\xa7~\x08\xbcr\x1f\x97\xc2Q\x84\x8a\xab";

    #[test]
    fn a_recorded_proof_is_made_and_accepted() {
        assert_eq!(Method::Native.prove("secret", RECORDED), PROOF);
        assert!(Verifier::new("secret").accepts(Method::Native, RECORDED, PROOF));
        assert!(!Verifier::new("Secret").accepts(Method::Native, RECORDED, PROOF));
    }

    #[test]
    fn both_methods_agree_with_themselves_and_with_nothing_else() {
        for method in [Method::Native, Method::CachingSha2] {
            let verifier = Verifier::new("pencil");
            let proof = method.prove("pencil", RECORDED);
            assert!(verifier.accepts(method, RECORDED, &proof));
            assert!(!verifier.accepts(method, &[1; 20], &proof));
            assert!(!verifier.accepts(method, RECORDED, &proof[1..]));
            assert!(!verifier.accepts(method, RECORDED, &[]));
            assert!(!Verifier::mock(b"dice").accepts(method, RECORDED, &proof));
            let empty = method.prove("", RECORDED);
            assert!(empty.is_empty());
            assert!(Verifier::new("").accepts(method, RECORDED, &empty));
            assert!(Verifier::new("").accepts(method, RECORDED, &[0]));
            assert!(!verifier.accepts(method, RECORDED, &[0]));
        }
    }

    #[test]
    fn a_client_of_another_method_is_asked_for_the_right_one() {
        let wanted = Some(Method::CachingSha2);
        let mut server = Server::new(Verifier::new("pencil"), *RECORDED, wanted);
        let mut client = Client::new("pencil", false, "mysql_native_password");
        let first = client.first(RECORDED);
        let verdict = server.first(Some(client.method().name()), &first);
        assert_eq!(verdict, Verdict::Switch(Method::CachingSha2));
        let mut asked = BytesMut::new();
        switch(&mut asked, Method::CachingSha2, RECORDED);
        let Ok(Next::Send(second)) = client.on(&asked) else { panic!("a proof is sent") };
        assert_eq!(server.second(&second), Verdict::Welcome { told: true });
        let mut told = BytesMut::new();
        fast_success(&mut told);
        assert_eq!(client.on(&told), Ok(Next::Wait));
        // Nobody is let in twice, or without having been asked.
        assert_eq!(server.second(&second), Verdict::Deny);
    }

    #[test]
    fn the_method_is_the_clients_own_where_none_is_wanted() {
        for method in [Method::Native, Method::CachingSha2] {
            let mut server = Server::new(Verifier::new("pencil"), *RECORDED, None);
            let told = method == Method::CachingSha2;
            let proof = method.prove("pencil", RECORDED);
            let verdict = server.first(Some(method.name()), &proof);
            assert_eq!(verdict, Verdict::Welcome { told });
        }
        let mut server = Server::new(Verifier::new("pencil"), *RECORDED, None);
        assert_eq!(server.first(Some("dialog"), b"x"), Verdict::Switch(Method::Native));
        assert_eq!(server.second(b"x"), Verdict::Deny);
    }

    #[test]
    fn whoever_is_in_proves_itself_by_its_own_method_or_the_wanted_one() {
        for (wanted, named, method) in [
            (None, Some("caching_sha2_password"), Method::CachingSha2),
            (None, Some("dialog"), Method::Native),
            (None, None, Method::Native),
            (Some(Method::Native), Some("caching_sha2_password"), Method::Native),
        ] {
            let mut server = Server::new(Verifier::new("pencil"), *RECORDED, wanted);
            assert_eq!(server.ask(named), method);
            let told = method == Method::CachingSha2;
            let proof = method.prove("pencil", RECORDED);
            assert_eq!(server.second(&proof), Verdict::Welcome { told });
        }
    }

    #[test]
    fn the_password_itself_never_goes_over_a_line_in_clear() {
        let full = [MORE, FULL];
        let password = "a pencil that is longer than the challenge";
        let mut open = Client::new(password, false, "caching_sha2_password");
        open.first(RECORDED);
        assert_eq!(open.on(&full), Ok(Next::Send(vec![KEY])));
        let asked = open.on(b"\x01-----BEGIN PUBLIC KEY-----");
        let Ok(Next::Encrypt { key, secret }) = asked else { panic!("{asked:?}") };
        assert_eq!(key, b"-----BEGIN PUBLIC KEY-----");
        let plain: Vec<u8> =
            secret.iter().zip(RECORDED.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(plain, [password.as_bytes(), &[0]].concat());
        // A key comes once, when it was asked for, and is none without end.
        assert!(open.on(b"\x01-----BEGIN PUBLIC KEY-----").is_err());
        open.on(&full).unwrap();
        assert!(open.on(&[&[MORE][..], &[b'x'; LONGEST_KEY + 1]].concat()).is_err());
        let mut hidden = Client::new("pencil", true, "caching_sha2_password");
        assert_eq!(hidden.on(&full), Ok(Next::Send(b"pencil\0".to_vec())));
        let mut native = Client::new("pencil", true, "mysql_native_password");
        assert!(native.on(&full).is_err());
        assert_eq!(native.on(&[SWITCH]), Ok(Next::Unknown("mysql_old_password".into())));
        let asked = b"\xfemysql_clear_password\0";
        assert_eq!(native.on(asked), Ok(Next::Unknown("mysql_clear_password".into())));
    }
}
