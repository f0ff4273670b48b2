//! Packets that servers answer with: OK, ERR, EOF, columns and rows of text.
//!
//! [`status_at`] and its neighbours find the few bytes that a proxy has to change without taking the
//! packet apart.

use super::fields::{Reader, put_lenenc, put_lenenc_bytes, put_value};
use crate::DecodeError;
use bytes::{BufMut, BytesMut};

/// First byte of OK.
pub const OK: u8 = 0x00;
/// First byte of EOF, in a packet shorter than [`EOF_LIMIT`].
pub const EOF: u8 = 0xfe;
/// A packet that begins like EOF and is at least this long is a row.
pub const EOF_LIMIT: usize = 9;
/// First byte of ERR.
pub const ERR: u8 = 0xff;
/// First byte of the request for a file of the application's.
pub const INFILE: u8 = 0xfb;

/// Bits of the session's state, at the end of each answer.
pub mod status {
    /// In a transaction.
    pub const IN_TRANSACTION: u16 = 1;
    /// Each statement is a transaction of its own.
    pub const AUTOCOMMIT: u16 = 1 << 1;
    /// Another result follows.
    pub const MORE_RESULTS: u16 = 1 << 3;
    /// No index was good for the statement.
    pub const NO_GOOD_INDEX: u16 = 1 << 4;
    /// No index was used at all.
    pub const NO_INDEX: u16 = 1 << 5;
    /// A cursor is open; its rows have to be fetched.
    pub const CURSOR: u16 = 1 << 6;
    /// The cursor has no more rows.
    pub const LAST_ROW: u16 = 1 << 7;
    /// Backslashes in literals are ordinary characters.
    pub const NO_BACKSLASH_ESCAPES: u16 = 1 << 9;
    /// `"` quotes names, not strings: MariaDB says so.
    pub const ANSI_QUOTES: u16 = 1 << 15;
    /// The packet tells what changed in the session.
    pub const SESSION_CHANGED: u16 = 1 << 14;
    /// In a transaction that only reads.
    pub const IN_READ_ONLY: u16 = 1 << 13;
}

/// What changed in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A system variable has another value.
    Variable(String, String),
    /// The default database.
    Database(String),
    /// Something else: the kind's number.
    Other(u8),
}

impl Change {
    /// Appends the change as it travels. What cannot be read is not written.
    pub fn encode(&self, buf: &mut BytesMut) {
        let (kind, texts) = match self {
            Self::Variable(name, value) => (0, vec![name, value]),
            Self::Database(name) => (1, vec![name]),
            Self::Other(_) => return,
        };
        let mut data = BytesMut::new();
        texts.iter().for_each(|text| put_lenenc_bytes(&mut data, text.as_bytes()));
        buf.put_u8(kind);
        put_lenenc_bytes(buf, &data);
    }
}

/// An OK packet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ok<'a> {
    /// Rows changed, or found, by what the connection counts.
    pub affected: u64,
    /// The first number that AUTO_INCREMENT gave.
    pub insert_id: u64,
    /// The session's state.
    pub status: u16,
    /// How many warnings there are.
    pub warnings: u16,
    /// A remark for people.
    pub info: &'a [u8],
    /// What changed in the session, as it travels.
    pub changes: &'a [u8],
}

impl<'a> Ok<'a> {
    /// Reads an OK packet.
    ///
    /// # Errors
    /// When it is cut short.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(payload);
        read.u8("packet type")?;
        let affected = read.lenenc("affected rows")?;
        let insert_id = read.lenenc("insert id")?;
        let status = read.u16("status")?;
        let warnings = read.u16("warnings")?;
        let mut found = Self { affected, insert_id, status, warnings, info: &[], changes: &[] };
        if read.is_empty() {
            return Ok(found);
        }
        found.info = read.lenenc_bytes("remark")?;
        if status & self::status::SESSION_CHANGED != 0 {
            found.changes = read.lenenc_bytes("session changes")?;
        }
        read.finish()?;
        Ok(found)
    }

    /// Appends the payload. Changes are written where the status says so.
    pub fn encode(&self, buf: &mut BytesMut) {
        buf.put_u8(OK);
        put_lenenc(buf, self.affected);
        put_lenenc(buf, self.insert_id);
        buf.put_u16_le(self.status);
        buf.put_u16_le(self.warnings);
        let changed = self.status & status::SESSION_CHANGED != 0;
        if changed || !self.info.is_empty() {
            put_lenenc_bytes(buf, self.info);
        }
        if changed {
            put_lenenc_bytes(buf, self.changes);
        }
    }

    /// What changed in the session. Stops at what cannot be read.
    pub fn changes(&self) -> Vec<Change> {
        let mut read = Reader::new(self.changes);
        let mut found = Vec::new();
        while let (Ok(kind), Ok(data)) = (read.u8("kind"), read.lenenc_bytes("change")) {
            found.push(change(kind, data).unwrap_or(Change::Other(kind)));
        }
        found
    }
}

fn change(kind: u8, data: &[u8]) -> Result<Change, DecodeError> {
    let mut read = Reader::new(data);
    let mut text =
        |field| read.lenenc_bytes(field).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    match kind {
        0 => Ok(Change::Variable(text("name")?, text("value")?)),
        1 => text("database").map(Change::Database),
        other => Ok(Change::Other(other)),
    }
}

/// An ERR packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Err<'a> {
    /// The error's number.
    pub number: u16,
    /// SQLSTATE; empty before the login.
    pub state: &'a [u8],
    /// The text.
    pub message: &'a [u8],
}

impl<'a> Err<'a> {
    /// Reads an ERR packet.
    ///
    /// # Errors
    /// When it is cut short.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(payload);
        read.u8("packet type")?;
        let number = read.u16("error number")?;
        let rest = read.rest();
        match rest.split_first() {
            Some((b'#', tail)) => {
                let (state, message) =
                    tail.split_at_checked(5).ok_or(DecodeError::Truncated("SQLSTATE"))?;
                Ok(Self { number, state, message })
            }
            _ => Ok(Self { number, state: &[], message: rest }),
        }
    }

    /// Appends the payload. A SQLSTATE that has not five letters is left out.
    pub fn encode(&self, buf: &mut BytesMut) {
        buf.put_u8(ERR);
        buf.put_u16_le(self.number);
        if self.state.len() == 5 {
            buf.put_u8(b'#');
            buf.put_slice(self.state);
        }
        buf.put_slice(self.message);
    }
}

/// Whether a packet that begins with [`EOF`] is one.
#[inline]
pub fn is_eof(payload: &[u8]) -> bool {
    payload.first() == Some(&EOF) && payload.len() < EOF_LIMIT
}

/// Appends the payload of an EOF packet.
pub fn eof(buf: &mut BytesMut, warnings: u16, status: u16) {
    buf.put_u8(EOF);
    buf.put_u16_le(warnings);
    buf.put_u16_le(status);
}

/// Rows changed or found, and the first number that AUTO_INCREMENT gave, of an OK packet: whatever else it
/// says.
pub fn counts(payload: &[u8]) -> Option<(u64, u64)> {
    let mut read = Reader::new(payload.get(1..)?);
    Some((read.lenenc("affected rows").ok()?, read.lenenc("insert id").ok()?))
}

/// Where the status stands in an OK or EOF packet.
pub fn status_at(payload: &[u8]) -> Option<usize> {
    let at = if is_eof(payload) {
        3
    } else {
        let mut read = Reader::new(payload.get(1..)?);
        read.lenenc("affected rows").ok()?;
        read.lenenc("insert id").ok()?;
        payload.len() - read.rest().len()
    };
    (at + 2 <= payload.len()).then_some(at)
}

/// How many warnings an OK or EOF packet tells of.
pub fn warnings_of(payload: &[u8]) -> u16 {
    // They stand behind the status in the one, and before it in the other.
    let at = if is_eof(payload) { Some(1) } else { status_at(payload).map(|at| at + 2) };
    let found = at.and_then(|at| payload.get(at..at + 2));
    found.map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// The number of columns in the packet that begins a result; 0 for any other packet.
pub fn count(payload: &[u8]) -> u64 {
    Reader::new(payload).lenenc("column count").unwrap_or_default()
}

/// A column of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its type.
    pub kind: u8,
    /// Its character set.
    pub charset: u16,
    /// Its flags.
    pub flags: u16,
}

impl<'a> Column<'a> {
    /// Reads a column definition.
    ///
    /// # Errors
    /// When it is cut short.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(payload);
        for field in ["catalog", "database", "table alias", "table"] {
            read.lenenc_bytes(field)?;
        }
        let name = read.lenenc_bytes("column name")?;
        read.lenenc_bytes("original name")?;
        let mut fixed = Reader::new(read.lenenc_bytes("column description")?);
        let charset = fixed.u16("character set")?;
        fixed.u32("column length")?;
        let kind = fixed.u8("column type")?;
        let flags = fixed.u16("column flags")?;
        Ok(Self { name, kind, charset, flags })
    }

    /// Appends the definition of a column of no table, as wide as it may be.
    pub fn encode(&self, buf: &mut BytesMut) {
        put_lenenc_bytes(buf, b"def");
        for _ in 0..3 {
            buf.put_u8(0);
        }
        put_lenenc_bytes(buf, self.name);
        buf.put_u8(0);
        buf.put_u8(12);
        buf.put_u16_le(self.charset);
        buf.put_u32_le(1024);
        buf.put_u8(self.kind);
        buf.put_u16_le(self.flags);
        buf.put_slice(&[0, 0, 0]);
    }
}

/// Reads a row of text. The row may have fewer values than expected, never more than it has bytes.
///
/// # Errors
/// When it is cut short.
pub fn text_row(payload: &[u8]) -> Result<Vec<Option<&[u8]>>, DecodeError> {
    let mut read = Reader::new(payload);
    let mut values = Vec::new();
    while !read.is_empty() {
        values.push(read.value("value")?);
    }
    Ok(values)
}

/// Appends a row of text.
pub fn put_text_row(buf: &mut BytesMut, values: &[Option<&[u8]>]) {
    for value in values {
        put_value(buf, *value);
    }
}

/// Reads the packet that begins a result: how many columns it has.
///
/// # Errors
/// When it is cut short.
pub fn count_of(payload: &[u8]) -> Result<usize, DecodeError> {
    let count = Reader::new(payload).lenenc("column count")?;
    usize::try_from(count).map_err(|_| DecodeError::Invalid("more columns than there can be"))
}

/// Appends the packet that begins a result: how many columns it has.
pub fn column_count(buf: &mut BytesMut, count: usize) {
    put_lenenc(buf, count as u64);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn again(ok: &Ok<'_>) -> BytesMut {
        let mut buf = BytesMut::new();
        ok.encode(&mut buf);
        buf
    }

    #[test]
    fn recorded_ok_packets_are_read_and_written() {
        let plain = b"\x00\x00\x00\x02\x00\x00\x00";
        let ok = Ok::decode(plain).unwrap();
        assert_eq!(ok, Ok { status: status::AUTOCOMMIT, ..Ok::default() });
        assert_eq!(&again(&ok)[..], plain);
        let insert = b"\x00\x02\x01\x01\x00\x00\x00&Records: 2  Duplicates: 0  Warnings: 0";
        let ok = Ok::decode(insert).unwrap();
        assert_eq!((ok.affected, ok.insert_id, ok.status), (2, 1, status::IN_TRANSACTION));
        assert_eq!(ok.info, b"Records: 2  Duplicates: 0  Warnings: 0");
        assert_eq!(&again(&ok)[..], insert);
    }

    #[test]
    fn recorded_changes_of_a_session_are_read() {
        let names = b"\x00\x00\x00\x02@\x00\x00\x00b\x00\x1d\x14character_set_client\x07utf8mb4\
            \x00!\x18character_set_connection\x07utf8mb4\x00\x1e\x15character_set_results\x07\
            utf8mb4";
        let ok = Ok::decode(names).unwrap();
        let client = Change::Variable("character_set_client".into(), "utf8mb4".into());
        assert_eq!((ok.changes().len(), &ok.changes()[0]), (3, &client));
        assert_eq!(&again(&ok)[..], names);
        let used = Ok::decode(b"\x00\x00\x00\x02@\x00\x00\x00\x06\x01\x04\x03app").unwrap();
        assert_eq!(used.changes(), [Change::Database("app".into())]);
        let off = b"\x00\x00\x00\x00@\x00\x00\x00\x11\x00\x0f\nautocommit\x03OFF";
        for packet in [&b"\x00\x00\x00\x02@\x00\x00\x00\x06\x01\x04\x03app"[..], off] {
            let ok = Ok::decode(packet).unwrap();
            let mut again = BytesMut::new();
            ok.changes().iter().for_each(|change| change.encode(&mut again));
            assert_eq!(&again[..], ok.changes);
        }
    }

    #[test]
    fn a_recorded_error_is_read_and_written() {
        let packet = b"\xffz\x04#42S02Table 'app.nix' doesn't exist";
        let err = Err::decode(packet).unwrap();
        assert_eq!((err.number, err.state), (1146, &b"42S02"[..]));
        assert_eq!(err.message, b"Table 'app.nix' doesn't exist");
        let mut buf = BytesMut::new();
        err.encode(&mut buf);
        assert_eq!(&buf[..], packet);
        let early = Err::decode(b"\xff\x10\x04Too many connections").unwrap();
        assert_eq!((early.number, early.state.len()), (1040, 0));
        assert!(Err::decode(b"\xff\x10\x04#123").is_err());
    }

    #[test]
    fn the_status_is_found_where_it_stands() {
        assert_eq!(status_at(b"\xfe\x00\x00\x0a\x00"), Some(3));
        assert_eq!(status_at(b"\x00\x02\x01\x01\x00\x00\x00"), Some(3));
        assert_eq!(status_at(b"\x00\xfc\x00\x01\x01\x01\x00\x00\x00"), Some(5));
        assert_eq!(warnings_of(b"\xfe\x07\x00\x0a\x00"), 7);
        assert_eq!(warnings_of(b"\x00\x02\x01\x01\x00\x05\x00"), 5);
        assert_eq!(warnings_of(b"\x00\x02"), 0);
        assert_eq!(counts(b"\x00\xfc\x00\x01\x07\x01\x00\x00\x00\xff"), Some((256, 7)));
        assert_eq!(counts(b"\x00\x02"), None);
        assert_eq!(status_at(b"\x00\x02"), None);
        assert_eq!(status_at(b""), None);
    }

    #[test]
    fn a_recorded_result_is_read() {
        let column = b"\x03def\x00\x00\x00\x01c\x00\x0c-\x00\x04\x00\x00\x00\xfd\x01\x00'\x00\x00";
        let read = Column::decode(column).unwrap();
        assert_eq!((read.name, read.kind, read.charset, read.flags), (&b"c"[..], 0xfd, 45, 1));
        let mut buf = BytesMut::new();
        read.encode(&mut buf);
        assert_eq!(Column::decode(&buf), Ok(read));
        let row = text_row(b"\x011\xfb\x01x").unwrap();
        assert_eq!(row, [Some(&b"1"[..]), None, Some(&b"x"[..])]);
        let mut buf = BytesMut::new();
        put_text_row(&mut buf, &row);
        assert_eq!(&buf[..], b"\x011\xfb\x01x");
        assert!(text_row(b"\x05x").is_err());
    }

    #[test]
    fn a_long_row_that_begins_like_eof_is_a_row() {
        assert!(is_eof(b"\xfe\0\0\x02\0"));
        assert!(!is_eof(b"\xfe\0\0\0\x01\0\0\0\0"));
    }
}
