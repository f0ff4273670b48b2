//! How the statements before have ended: what ROW_COUNT() and FOUND_ROWS() ask for.
//!
//! It is read from the packets that the client is sent, since nobody else sees all of them: those of
//! every server, and the answers of our own.

use std::sync::Arc;

use lockstep_protocol::mysql::response;
use serde::{Deserialize, Serialize};

use crate::catalog::Text;

/// The word that has a server count the rows that LIMIT leaves out.
const COUNTS_ALL: &str = "sql_calc_found_rows";

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Past {
    changed: i64,
    shown: u64,
    /// The statement under way.
    #[serde(skip)]
    runs: Option<Arc<Text>>,
    /// The statement that gave the rows.
    #[serde(with = "as_text")]
    shown_by: Option<Arc<Text>>,
    /// Packets of the result under way.
    packets: u64,
    /// Columns of the result under way.
    columns: u64,
    /// The result under way does not count: what the messages are is no query.
    kept: bool,
}

impl Past {
    /// A command begins.
    pub(super) fn begin(&mut self) {
        self.packets = 0;
    }

    /// A statement begins.
    pub(super) fn runs(&mut self, text: &Arc<Text>) {
        self.runs = Some(text.clone());
    }

    /// The rows of the result that comes are not counted.
    pub(super) fn keeps(&mut self) {
        self.kept = true;
    }

    /// A packet that ends no result.
    #[inline]
    pub(super) fn passes(&mut self, payload: &[u8]) {
        if self.packets == 0 {
            self.columns = response::count(payload);
        }
        self.packets += 1;
    }

    /// A packet that ends a result.
    pub(super) fn ends(&mut self, payload: &[u8]) {
        let packets = std::mem::take(&mut self.packets);
        if !response::is_eof(payload) {
            let ok = response::Ok::decode(payload);
            self.changed = ok.map_or(0, |ok| ok.affected.cast_signed());
            return;
        }
        self.changed = -1;
        if std::mem::take(&mut self.kept) {
            return;
        }
        // The number of columns, these, and what ends them, come before the rows. What only ends with such
        // a packet, as the answer to SET_OPTION does, has none of that.
        if let Some(rows) = packets.checked_sub(self.columns + 2) {
            self.shown = rows;
            self.shown_by = self.runs.take();
        }
    }

    /// The statement under way has failed.
    pub(super) fn failed(&mut self) {
        self.changed = -1;
    }

    /// Rows changed by the statement before.
    pub(super) fn changed(&self) -> i64 {
        self.changed
    }

    /// Rows given back by the last statement that gave any, unless only its server knows.
    pub(super) fn shown(&self) -> Option<i64> {
        let text = self.shown_by.as_ref().map(|text| text.sql.as_str()).unwrap_or_default();
        let counts_all = text
            .as_bytes()
            .windows(COUNTS_ALL.len())
            .any(|word| word.eq_ignore_ascii_case(COUNTS_ALL.as_bytes()));
        (!counts_all).then_some(self.shown.cast_signed())
    }
}

/// A statement goes to another proxy as its text.
mod as_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::catalog::Text;

    #[allow(clippy::ref_option)] // The signature that serde asks for.
    pub(super) fn serialize<S: Serializer>(
        text: &Option<Arc<Text>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        text.as_ref().map(|text| &text.sql).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Arc<Text>>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(text.map(|text| Arc::new(Text::new(text))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOF: &[u8] = b"\xfe\0\0\x02\0";

    #[test]
    fn packets_tell_how_many_rows_there_were() {
        let mut past = Past::default();
        let text = |sql: &str| Arc::new(Text::new(sql.to_owned()));
        past.runs(&text("select a, b from t"));
        for packet in [&b"\x02"[..], b"\x03def", b"\x03def", EOF, b"\x011\x012", b"\x013\x014"] {
            past.passes(packet);
        }
        past.ends(EOF);
        assert_eq!((past.changed(), past.shown()), (-1, Some(2)));
        past.begin();
        past.ends(b"\x00\x03\x00\x02\x00\x00\x00");
        assert_eq!((past.changed(), past.shown()), (3, Some(2)));
        past.failed();
        assert_eq!((past.changed(), past.shown()), (-1, Some(2)));
        past.runs(&text("select SQL_CALC_found_rows a from t limit 1"));
        for packet in [&b"\x01"[..], b"\x03def", EOF, b"\x011"] {
            past.passes(packet);
        }
        past.ends(EOF);
        assert_eq!(past.shown(), None);
    }
}
