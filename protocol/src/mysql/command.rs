//! Commands that applications send: one byte that says which, and what belongs to it.

use super::fields::{Reader, text};
use super::handshake::{attributes, capability as cap, proof};
use crate::DecodeError;
use bytes::{BufMut, BytesMut};

/// The application leaves.
pub const QUIT: u8 = 0x01;
/// Another default database.
pub const INIT_DB: u8 = 0x02;
/// A text of statements.
pub const QUERY: u8 = 0x03;
/// The columns of a table.
pub const FIELD_LIST: u8 = 0x04;
/// A line about the server.
pub const STATISTICS: u8 = 0x09;
/// End a connection.
pub const PROCESS_KILL: u8 = 0x0c;
/// Are you there?
pub const PING: u8 = 0x0e;
/// Another user.
pub const CHANGE_USER: u8 = 0x11;
/// Replication: what a primary wrote.
pub const BINLOG_DUMP: u8 = 0x12;
/// Replication: the contents of a table.
pub const TABLE_DUMP: u8 = 0x13;
/// Replication: a replica introduces itself.
pub const REGISTER_REPLICA: u8 = 0x15;
/// Prepare a statement.
pub const STMT_PREPARE: u8 = 0x16;
/// Run a prepared statement.
pub const STMT_EXECUTE: u8 = 0x17;
/// A piece of a long parameter.
pub const STMT_SEND_LONG_DATA: u8 = 0x18;
/// Forget a prepared statement.
pub const STMT_CLOSE: u8 = 0x19;
/// Forget a statement's long parameters and its cursor.
pub const STMT_RESET: u8 = 0x1a;
/// Switch several statements in one text on or off.
pub const SET_OPTION: u8 = 0x1b;
/// More rows of a cursor.
pub const STMT_FETCH: u8 = 0x1c;
/// Replication: what a primary wrote, by transaction.
pub const BINLOG_DUMP_GTID: u8 = 0x1e;
/// The session as it was after the login.
pub const RESET_CONNECTION: u8 = 0x1f;

/// Which command a packet is; an empty packet is none.
pub fn kind(payload: &[u8]) -> Option<u8> {
    payload.first().copied()
}

/// What follows the command's byte.
pub fn rest(payload: &[u8]) -> &[u8] {
    payload.get(1..).unwrap_or_default()
}

/// A text that follows the command's byte.
///
/// # Errors
/// When it is not UTF-8.
pub fn text_of<'a>(payload: &'a [u8], field: &'static str) -> Result<&'a str, DecodeError> {
    text(rest(payload), field)
}

/// The number that follows the command's byte.
///
/// # Errors
/// When the packet is too short.
pub fn number_of(payload: &[u8], field: &'static str) -> Result<u32, DecodeError> {
    Reader::new(rest(payload)).u32(field)
}

/// The option that SET_OPTION names: 0 allows several statements in one text, 1 forbids it.
///
/// # Errors
/// When the packet is too short.
pub fn option_of(payload: &[u8]) -> Result<u16, DecodeError> {
    Reader::new(rest(payload)).u16("option")
}

/// More rows of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// The statement.
    pub statement: u32,
    /// How many rows.
    pub rows: u32,
}

impl Fetch {
    /// Reads the command.
    ///
    /// # Errors
    /// When the packet is too short.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(rest(payload));
        Ok(Self { statement: read.u32("statement")?, rows: read.u32("rows")? })
    }

    /// Appends the payload.
    pub fn encode(self, buf: &mut BytesMut) {
        buf.put_u8(STMT_FETCH);
        buf.put_u32_le(self.statement);
        buf.put_u32_le(self.rows);
    }
}

/// A piece of a long parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongData<'a> {
    /// The statement.
    pub statement: u32,
    /// The parameter's place.
    pub parameter: u16,
    /// The piece.
    pub data: &'a [u8],
}

impl<'a> LongData<'a> {
    /// Reads the command.
    ///
    /// # Errors
    /// When the packet is too short.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(rest(payload));
        let (statement, parameter) = (read.u32("statement")?, read.u16("parameter")?);
        Ok(Self { statement, parameter, data: read.rest() })
    }
}

/// Another user on the same connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeUser {
    /// The user.
    pub user: String,
    /// The proof.
    pub proof: Vec<u8>,
    /// The database to begin in.
    pub database: Option<String>,
    /// The collation that the session begins with.
    pub collation: Option<u16>,
    /// The method of the proof.
    pub plugin: Option<String>,
    /// What kind of program it is.
    pub attributes: Vec<(String, String)>,
}

impl ChangeUser {
    /// Reads the command; `capabilities` are those of the login.
    ///
    /// # Errors
    /// When it is cut short.
    pub fn decode(payload: &[u8], capabilities: u32) -> Result<Self, DecodeError> {
        let mut read = Reader::new(rest(payload));
        let user = text(read.cstr_bytes("user name")?, "user name")?.to_owned();
        // Here the length of the proof has one byte, whatever the login's has.
        let short = capabilities & !cap::PLUGIN_AUTH_LENENC_DATA;
        let proof = proof(&mut read, short)?.to_vec();
        let name = text(read.cstr_bytes("database name")?, "database name")?;
        let database = (!name.is_empty()).then(|| name.to_owned());
        let mut found =
            Self { user, proof, database, collation: None, plugin: None, attributes: Vec::new() };
        if read.is_empty() {
            return Ok(found);
        }
        found.collation = Some(read.u16("collation")?);
        if capabilities & cap::PLUGIN_AUTH != 0 && !read.is_empty() {
            found.plugin = Some(text(read.cstr_or_rest(), "method name")?.to_owned());
        }
        found.attributes = attributes(&mut read, capabilities)?;
        Ok(found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        assert_eq!(kind(b"\x03select 1"), Some(QUERY));
        assert_eq!(text_of(b"\x03select 1", "statement"), Ok("select 1"));
        assert_eq!(text_of(b"\x03\xff", "statement"), Err(DecodeError::NotUtf8("statement")));
        assert_eq!((kind(b""), rest(b"")), (None, &b""[..]));
        assert_eq!(number_of(b"\x0c\x07\0\0\0", "connection"), Ok(7));
        assert_eq!(option_of(b"\x1b\x01\0"), Ok(1));
        let mut buf = BytesMut::new();
        let fetch = Fetch { statement: 3, rows: 100 };
        fetch.encode(&mut buf);
        assert_eq!(Fetch::decode(&buf), Ok(fetch));
        let long = LongData::decode(b"\x18\x01\0\0\0\x02\0abc").unwrap();
        assert_eq!((long.statement, long.parameter, long.data), (1, 2, &b"abc"[..]));
        assert!(LongData::decode(b"\x18\x01\0\0\0\x02").is_err());
    }

    #[test]
    fn another_user_may_say_less_and_less() {
        let caps = cap::SECURE_CONNECTION | cap::PLUGIN_AUTH | cap::CONNECT_ATTRS;
        let whole = b"\x11ann\0\x03abcapp\0\x2d\0mysql_native_password\0\x04\x01a\x01b";
        let change = ChangeUser::decode(whole, caps).unwrap();
        assert_eq!((change.user.as_str(), &change.proof[..]), ("ann", &b"abc"[..]));
        assert_eq!((change.database.as_deref(), change.collation), (Some("app"), Some(45)));
        assert_eq!(change.plugin.as_deref(), Some("mysql_native_password"));
        assert_eq!(change.attributes, [("a".to_owned(), "b".to_owned())]);
        let short = ChangeUser::decode(b"\x11ann\0\0\0", caps).unwrap();
        assert_eq!((short.database, short.collation, short.plugin), (None, None, None));
        for end in 1..9 {
            assert!(ChangeUser::decode(&whole[..end], caps).is_err(), "{end}");
        }
    }
}
