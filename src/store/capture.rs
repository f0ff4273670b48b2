//! Reads the notices in which the triggers of the leader hand over changed rows.
//!
//! A notice is ours only when it carries the mark of this session, which the database works out from a secret that
//! ordinary users cannot read. Anybody can raise a notice that looks like ours; it then lacks the mark and is nothing
//! but the application's own notice.

use crate::hex;
use serde::{Deserialize, Serialize};

/// SQLSTATE of a notice that carries a row.
pub const ROW_CODE: &[u8] = b"LS002";
/// SQLSTATE of a notice that tells of DDL.
pub const DDL_CODE: &[u8] = b"LS003";

/// What one change does to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Op {
    /// Rows were added.
    Insert,
    /// Rows were changed.
    Update,
    /// Rows were removed.
    Delete,
    /// A table was emptied.
    Truncate,
}

impl Op {
    /// The letter that the functions in the database use.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Insert => "I",
            Self::Update => "U",
            Self::Delete => "D",
            Self::Truncate => "T",
        }
    }

    /// The reverse of [`Op::letter`].
    pub fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'I' => Some(Self::Insert),
            b'U' => Some(Self::Update),
            b'D' => Some(Self::Delete),
            b'T' => Some(Self::Truncate),
            _ => None,
        }
    }
}

/// What a notice of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Captured {
    /// A row changed.
    Row(CapturedRow),
    /// DDL ran.
    Ddl {
        /// Its command tag.
        tag: String,
        /// Whether it touched temporary objects only.
        temporary: bool,
    },
    /// A table got rows that no trigger has seen; its name is in hexadecimal.
    Filled(String),
    /// It bears our mark and makes no sense: rows in an encoding that is not UTF-8, or another version of the triggers.
    /// The transaction must not commit.
    Unreadable,
}

/// One changed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedRow {
    /// Counts the captured rows of the statement, and goes back when a subtransaction is rolled back.
    pub serial: u64,
    /// `"schema"."table"`.
    pub relation: String,
    /// What happened to it.
    pub op: Op,
    /// The row before, as text; empty for an insertion and a truncation.
    pub old: String,
    /// The row after, as text; empty for a deletion and a truncation.
    pub new: String,
}

/// Whether a SQLSTATE is one of ours at all: a cheap first look.
pub fn is_ours(code: &[u8]) -> bool {
    code == ROW_CODE || code == DDL_CODE
}

/// Decodes a notice given as its fields. `mark` is the answer of `MARK_SQL` on the same connection.
pub fn captured(fields: &[(u8, &[u8])], mark: &str) -> Option<Captured> {
    let field =
        |letter| fields.iter().find(|(l, _)| *l == letter).map_or(&[][..], |(_, value)| *value);
    let code = field(b'C');
    if !is_ours(code) || mark.is_empty() || !same(field(b'M'), mark.as_bytes()) {
        return None;
    }
    if code == DDL_CODE {
        let tag = String::from_utf8_lossy(field(b'D')).into_owned();
        return Some(match field(b'H') {
            b"filled" => Captured::Filled(tag),
            hint => Captured::Ddl { tag, temporary: hint == b"temp" },
        });
    }
    let values = [field(b's'), field(b't'), field(b'c'), field(b'D'), field(b'H')];
    Some(row(values).map_or(Captured::Unreadable, Captured::Row))
}

fn row([schema, table, op, old, new]: [&[u8]; 5]) -> Option<CapturedRow> {
    let (armoured, op) = match op.strip_prefix(b"x") {
        Some(rest) => (true, rest),
        None => (false, op),
    };
    let text = |bytes: &[u8]| {
        let bytes = if armoured { hex::decode(bytes)? } else { bytes.to_vec() };
        String::from_utf8(bytes).ok()
    };
    let (letter, serial) = op.split_first()?;
    Some(CapturedRow {
        serial: std::str::from_utf8(serial).ok()?.parse().ok()?,
        relation: format!("{}.{}", quoted(&text(schema)?), quoted(&text(table)?)),
        op: Op::from_letter(*letter)?,
        old: text(old)?,
        new: text(new)?,
    })
}

/// An identifier in quotes, always: which words need them differs between versions of the server.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Compares without telling by the time it takes how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "78c0";

    fn notice<'a>(op: &'a str, schema: &'a str, row: &'a str) -> Vec<(u8, &'a [u8])> {
        let text = str::as_bytes;
        vec![
            (b'S', text("INFO")),
            (b'C', text("LS002")),
            (b'M', text(MARK)),
            (b'D', text("")),
            (b'H', text(row)),
            (b's', text(schema)),
            (b't', text(schema)),
            (b'c', text(op)),
        ]
    }

    #[test]
    fn a_row_is_read() {
        let Some(Captured::Row(row)) = captured(&notice("I17", "a\"B", "(1,ä)"), MARK) else {
            panic!("no row");
        };
        assert_eq!(row.relation, "\"a\"\"B\".\"a\"\"B\"");
        assert_eq!(
            (row.op, row.serial, row.old.as_str(), row.new.as_str()),
            (Op::Insert, 17, "", "(1,ä)")
        );
    }

    #[test]
    fn an_armoured_row_is_read() {
        let Some(Captured::Row(row)) = captured(&notice("xI1", "74", "28c3a429"), MARK) else {
            panic!("no row");
        };
        assert_eq!((row.relation.as_str(), row.new.as_str()), ("\"t\".\"t\"", "(ä)"));
    }

    #[test]
    fn a_forged_notice_is_not_ours() {
        assert_eq!(captured(&notice("I1", "t", "(1)"), "78c1"), None);
        assert_eq!(captured(&notice("I1", "t", "(1)"), ""), None);
        assert_eq!(captured(&[(b'C', b"00000"), (b'M', MARK.as_bytes())], MARK), None);
    }

    #[test]
    fn nonsense_with_our_mark_is_said_to_be_so() {
        for (op, row) in
            [("Z1", "()"), ("I", "()"), ("", "()"), ("xI1", "2"), ("xI1", "zz"), ("xI1", "ff")]
        {
            assert_eq!(
                captured(&notice(op, "74", row), MARK),
                Some(Captured::Unreadable),
                "{op} {row}"
            );
        }
    }

    #[test]
    fn ddl_is_read() {
        let fields: [(u8, &[u8]); 4] =
            [(b'C', DDL_CODE), (b'M', MARK.as_bytes()), (b'D', b"CREATE TABLE"), (b'H', b"temp")];
        let ddl = Captured::Ddl { tag: "CREATE TABLE".into(), temporary: true };
        assert_eq!(captured(&fields, MARK), Some(ddl));
    }
}
