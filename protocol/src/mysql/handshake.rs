//! The greeting and what follows it: capabilities, who logs in, and how.
//!
//! The server speaks first. An application that wants encryption answers with a short packet that
//! holds nothing but its capabilities, and sends the whole answer again inside: what came behind
//! the short packet in clear must be thrown away by whoever reads it.

use super::fields::{Reader, put_cstr, put_lenenc, put_lenenc_bytes, text};
use crate::DecodeError;
use bytes::{BufMut, BytesMut};

/// What two ends can agree on; a set of bits.
pub mod capability {
    /// Of an UPDATE the rows found are counted, not those changed.
    pub const FOUND_ROWS: u32 = 1 << 1;
    /// More than two bytes of flags for columns.
    pub const LONG_FLAG: u32 = 1 << 2;
    /// Passwords of the newer kind. MariaDB keeps its own extensions where this is not set.
    pub const LONG_PASSWORD: u32 = 1;
    /// A database is named in the login.
    pub const CONNECT_WITH_DB: u32 = 1 << 3;
    /// Packets are compressed.
    pub const COMPRESS: u32 = 1 << 5;
    /// LOAD DATA LOCAL may ask the application for a file.
    pub const LOCAL_FILES: u32 = 1 << 7;
    /// Blanks may stand before the parenthesis of a function.
    pub const IGNORE_SPACE: u32 = 1 << 8;
    /// The protocol as it is since 4.1; nothing older is spoken.
    pub const PROTOCOL_41: u32 = 1 << 9;
    /// Waits as long as an interactive session.
    pub const INTERACTIVE: u32 = 1 << 10;
    /// Encryption.
    pub const SSL: u32 = 1 << 11;
    /// Answers tell about the transaction.
    pub const TRANSACTIONS: u32 = 1 << 13;
    /// Passwords are proved with a challenge.
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    /// Several statements in one text.
    pub const MULTI_STATEMENTS: u32 = 1 << 16;
    /// Several results for one text.
    pub const MULTI_RESULTS: u32 = 1 << 17;
    /// Several results for one prepared statement.
    pub const PS_MULTI_RESULTS: u32 = 1 << 18;
    /// The login names its method.
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    /// The login says what kind of program it is.
    pub const CONNECT_ATTRS: u32 = 1 << 20;
    /// The proof in the login has a length-encoded length.
    pub const PLUGIN_AUTH_LENENC_DATA: u32 = 1 << 21;
    /// OK packets tell what changed in the session.
    pub const SESSION_TRACK: u32 = 1 << 23;
    /// Results end with OK packets. Never agreed to here.
    pub const DEPRECATE_EOF: u32 = 1 << 24;
}

use capability as cap;

/// Bytes of the challenge, without the zero that ends it.
pub const CHALLENGE: usize = 20;

/// The protocol version that all greetings begin with.
const VERSION: u8 = 10;

/// The server's first word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The server's version, as it calls itself.
    pub server: String,
    /// The number of the connection, for KILL.
    pub connection: u32,
    /// The challenge.
    pub challenge: [u8; CHALLENGE],
    /// What the server can do.
    pub capabilities: u32,
    /// The collation that the session begins with.
    pub collation: u8,
    /// The session's state.
    pub status: u16,
    /// The method that the proof should follow.
    pub plugin: String,
}

impl Greeting {
    /// Reads a greeting.
    ///
    /// # Errors
    /// When it is not one, or one of a protocol older than 4.1.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(payload);
        if read.u8("protocol version")? != VERSION {
            return Err(DecodeError::Invalid("the server does not speak protocol 10"));
        }
        let server = String::from_utf8_lossy(read.cstr_bytes("server version")?).into_owned();
        let connection = read.u32("connection number")?;
        let first: [u8; 8] = read.array("challenge")?;
        read.u8("filler")?;
        let low = read.u16("capabilities")?;
        let collation = read.u8("collation")?;
        let status = read.u16("status")?;
        let high = read.u16("capabilities")?;
        let capabilities = u32::from(low) | u32::from(high) << 16;
        read.bytes(11, "filler")?;
        let wanted = cap::PROTOCOL_41 | cap::SECURE_CONNECTION;
        if capabilities & wanted != wanted {
            return Err(DecodeError::Invalid("the server is older than MySQL 4.1"));
        }
        let second: [u8; 12] = read.array("challenge")?;
        let mut challenge = [0; CHALLENGE];
        challenge[..8].copy_from_slice(&first);
        challenge[8..].copy_from_slice(&second);
        if !read.is_empty() {
            read.u8("filler")?;
        }
        let plugin = String::from_utf8_lossy(read.cstr_or_rest()).into_owned();
        Ok(Self { server, connection, challenge, capabilities, collation, status, plugin })
    }

    /// Appends the payload.
    pub fn encode(&self, buf: &mut BytesMut) {
        buf.put_u8(VERSION);
        put_cstr(buf, self.server.as_bytes());
        buf.put_u32_le(self.connection);
        buf.put_slice(&self.challenge[..8]);
        buf.put_u8(0);
        let [a, b, c, d] = self.capabilities.to_le_bytes();
        buf.put_slice(&[a, b, self.collation]);
        buf.put_u16_le(self.status);
        buf.put_slice(&[c, d, 21]);
        buf.put_bytes(0, 10);
        buf.put_slice(&self.challenge[8..]);
        buf.put_u8(0);
        put_cstr(buf, self.plugin.as_bytes());
    }
}

/// The application's answer to the greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Encryption first; the login comes inside.
    Tls {
        /// What the application can do.
        capabilities: u32,
    },
    /// The login.
    Login(Login),
}

/// Who logs in, and the first proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What the application can do.
    pub capabilities: u32,
    /// The longest packet that it takes.
    pub max_packet: u32,
    /// The collation that its session begins with.
    pub collation: u8,
    /// The user.
    pub user: String,
    /// The proof, by the method that is named.
    pub proof: Vec<u8>,
    /// The database to begin in.
    pub database: Option<String>,
    /// The method of the proof.
    pub plugin: Option<String>,
    /// What kind of program it is.
    pub attributes: Vec<(String, String)>,
}

impl Answer {
    /// Reads the answer.
    ///
    /// # Errors
    /// When it is cut short, or of a protocol older than 4.1.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(payload);
        let capabilities = read.u32("capabilities")?;
        if capabilities & cap::PROTOCOL_41 == 0 {
            return Err(DecodeError::Invalid("the client is older than MySQL 4.1"));
        }
        let max_packet = read.u32("packet limit")?;
        let collation = read.u8("collation")?;
        read.bytes(23, "filler")?;
        if read.is_empty() && capabilities & cap::SSL != 0 {
            return Ok(Self::Tls { capabilities });
        }
        let user = text(read.cstr_bytes("user name")?, "user name")?.to_owned();
        let proof = proof(&mut read, capabilities)?.to_vec();
        let mut database = None;
        if capabilities & cap::CONNECT_WITH_DB != 0 {
            let name = text(read.cstr_bytes("database name")?, "database name")?;
            database = (!name.is_empty()).then(|| name.to_owned());
        }
        let mut plugin = None;
        if capabilities & cap::PLUGIN_AUTH != 0 {
            plugin = Some(text(read.cstr_or_rest(), "method name")?.to_owned());
        }
        let attributes = attributes(&mut read, capabilities)?;
        Ok(Self::Login(Login {
            capabilities,
            max_packet,
            collation,
            user,
            proof,
            database,
            plugin,
            attributes,
        }))
    }
}

impl Login {
    /// Appends the payload. What is filled in decides about the matching capabilities.
    pub fn encode(&self, buf: &mut BytesMut) {
        let mut capabilities =
            self.capabilities | cap::PROTOCOL_41 | cap::SECURE_CONNECTION | cap::PLUGIN_AUTH;
        for (flag, there) in [
            (cap::CONNECT_WITH_DB, self.database.is_some()),
            (cap::CONNECT_ATTRS, !self.attributes.is_empty()),
            (cap::PLUGIN_AUTH_LENENC_DATA, true),
        ] {
            capabilities = if there { capabilities | flag } else { capabilities & !flag };
        }
        put_head(buf, capabilities, self.max_packet, self.collation);
        put_cstr(buf, self.user.as_bytes());
        put_lenenc_bytes(buf, &self.proof);
        if let Some(database) = &self.database {
            put_cstr(buf, database.as_bytes());
        }
        put_cstr(buf, self.plugin.as_deref().unwrap_or_default().as_bytes());
        if !self.attributes.is_empty() {
            let mut all = BytesMut::new();
            for (name, value) in &self.attributes {
                put_lenenc_bytes(&mut all, name.as_bytes());
                put_lenenc_bytes(&mut all, value.as_bytes());
            }
            put_lenenc(buf, all.len() as u64);
            buf.put_slice(&all);
        }
    }
}

/// Appends the request for encryption.
pub fn tls_request(buf: &mut BytesMut, capabilities: u32, max_packet: u32, collation: u8) {
    put_head(buf, capabilities | cap::SSL | cap::PROTOCOL_41, max_packet, collation);
}

fn put_head(buf: &mut BytesMut, capabilities: u32, max_packet: u32, collation: u8) {
    buf.put_u32_le(capabilities);
    buf.put_u32_le(max_packet);
    buf.put_u8(collation);
    buf.put_bytes(0, 23);
}

pub(super) fn proof<'a>(read: &mut Reader<'a>, capabilities: u32) -> Result<&'a [u8], DecodeError> {
    if capabilities & cap::PLUGIN_AUTH_LENENC_DATA != 0 {
        read.lenenc_bytes("proof")
    } else if capabilities & cap::SECURE_CONNECTION != 0 {
        let length = read.u8("proof")?;
        read.bytes(usize::from(length), "proof")
    } else {
        read.cstr_bytes("proof")
    }
}

/// Reads what kind of program it is. All of it is for people only, so bytes that are no text lose
/// nothing but themselves.
pub(super) fn attributes(
    read: &mut Reader<'_>,
    capabilities: u32,
) -> Result<Vec<(String, String)>, DecodeError> {
    let mut found = Vec::new();
    if capabilities & cap::CONNECT_ATTRS == 0 || read.is_empty() {
        return Ok(found);
    }
    let mut pairs = Reader::new(read.lenenc_bytes("attributes")?);
    while !pairs.is_empty() {
        let name = String::from_utf8_lossy(pairs.lenenc_bytes("attribute name")?).into_owned();
        let value = String::from_utf8_lossy(pairs.lenenc_bytes("attribute value")?).into_owned();
        found.push((name, value));
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The greeting of MariaDB 10.11, recorded.
    const GREETING: &[u8] = b"\n5.5.5-10.11.19-MariaDB-0+deb12u1\x00\x07\x00\x00\x00y8KO*#q2\
        \x00\xfe\xf7-\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00D>H3bwN`vQsm\x00\
        mysql_native_password\x00";

    /// PyMySQL's answer to it, recorded.
    const LOGIN: &[u8] = b"\r\xa2;\x00\xff\xff\xff\x00-\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00app\x00\x14g\xa9kt\x94z\xb2\xc5\xa7~\
        \x08\xbcr\x1f\x97\xc2Q\x84\x8a\xabapp\x00mysql_native_password\x006\x0c_client_name\x07\
        pymysql\x0f_client_version\x051.2.4\x04_pid\x0521112";

    fn login(payload: &[u8]) -> Login {
        match Answer::decode(payload).unwrap() {
            Answer::Login(login) => login,
            Answer::Tls { .. } => panic!("not a request for encryption"),
        }
    }

    #[test]
    fn a_recorded_greeting_is_read() {
        let greeting = Greeting::decode(GREETING).unwrap();
        assert_eq!(greeting.server, "5.5.5-10.11.19-MariaDB-0+deb12u1");
        assert_eq!(greeting.connection, 7);
        assert_eq!(&greeting.challenge, b"y8KO*#q2D>H3bwN`vQsm");
        assert_eq!(greeting.plugin, "mysql_native_password");
        assert_eq!((greeting.collation, greeting.status), (45, 2));
        assert_eq!(greeting.capabilities, 0x81ff_f7fe);
        let mut again = BytesMut::new();
        greeting.encode(&mut again);
        assert_eq!(Greeting::decode(&again).unwrap(), greeting);
    }

    #[test]
    fn a_recorded_login_is_read_and_written() {
        let login = login(LOGIN);
        assert_eq!((login.user.as_str(), login.database.as_deref()), ("app", Some("app")));
        assert_eq!(login.plugin.as_deref(), Some("mysql_native_password"));
        assert_eq!((login.proof.len(), login.collation), (20, 45));
        assert_eq!(login.attributes[0], ("_client_name".into(), "pymysql".into()));
        let mut again = BytesMut::new();
        login.encode(&mut again);
        assert_eq!(&again[..], LOGIN);
    }

    #[test]
    fn a_request_for_encryption_is_told_from_a_login() {
        let mut buf = BytesMut::new();
        tls_request(&mut buf, cap::PLUGIN_AUTH, 1 << 24, 45);
        let wanted = cap::PLUGIN_AUTH | cap::SSL | cap::PROTOCOL_41;
        assert_eq!(Answer::decode(&buf), Ok(Answer::Tls { capabilities: wanted }));
    }

    #[test]
    fn every_cut_of_a_login_is_an_error_or_another_login() {
        for end in 0..LOGIN.len() {
            if let Ok(Answer::Login(login)) = Answer::decode(&LOGIN[..end]) {
                assert_ne!(login, self::login(LOGIN), "{end}");
            }
        }
        for end in 0..GREETING.len() - 23 {
            assert!(Greeting::decode(&GREETING[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn older_protocols_are_refused() {
        assert!(Answer::decode(&[0; 64]).is_err());
        assert!(Greeting::decode(b"\x09old\0").is_err());
    }
}
