//! What a committed write transaction is remembered as.
//!
//! An [`Entry`] is the content of one row of the in-database journal: the user, the settings that give its statements
//! their meaning, and the effects in the order in which the followers got them. Live effects and replayed ones have
//! this one form, so that there is one way to apply them.
//!
//! On disk an entry is one version byte and then postcard. A reader refuses a version that it does not know rather
//! than guess.

pub use super::capture::Op;
use super::changes::Change;
use super::outside::Task;
use super::witness::Witness;
use serde::{Deserialize, Serialize};

/// The first byte of an encoded entry. Version 1 knew fewer effects; what it knew has the same form.
const VERSION: u8 = 2;
/// The first byte of an entry about a statement outside a transaction, so that the database can find
/// such entries without the others being read.
pub const OUTSIDE_VERSION: u8 = 3;

/// Rows of one relation that travel in one call of `lockstep.apply`. More would make a single statement hold up the
/// connection for long and a single failure cost much.
pub const ROWS_PER_BATCH: usize = 1000;

/// `$1` token, `$2` sequence number, `$3` transaction id, `$4` user (NULL: the one logged in), `$5` encoded entry.
pub const RECORD_SQL: &str = "SELECT lockstep.record($1,$2,$3,$4,$5)";
/// Types of the parameters of [`RECORD_SQL`].
pub const RECORD_TYPES: [u32; 5] = [25, 20, 20, 25, 17];

/// `$1` token, `$2` relation, `$3` [`Op::letter`], `$4` former rows, `$5` new rows.
pub const APPLY_SQL: &str = "SELECT lockstep.apply($1,$2,$3,$4,$5)";
/// Types of the parameters of [`APPLY_SQL`].
pub const APPLY_TYPES: [u32; 5] = [25, 25, 25, 1009, 1009];

/// `$1` token, `$2` quoted names of sequences or NULL for all. Columns: name, value, called.
pub const SEQUENCES_SQL: &str = "SELECT name, value, called FROM lockstep.sequences($1,$2)";
/// Types of the parameters of [`SEQUENCES_SQL`].
pub const SEQUENCES_TYPES: [u32; 2] = [25, 1009];

/// `$1` token, `$2` quoted name of a sequence, `$3` the value it must have reached.
pub const ADVANCE_SQL: &str = "SELECT lockstep.advance($1,$2,$3)";
/// Types of the parameters of [`ADVANCE_SQL`].
pub const ADVANCE_TYPES: [u32; 3] = [25, 25, 20];

/// `$1` token, `$2` quoted name of a sequence, `$3` value, `$4` whether that value has been handed out.
pub const RESET_SEQUENCE_SQL: &str = "SELECT lockstep.reset_sequence($1,$2,$3,$4)";
/// Types of the parameters of [`RESET_SEQUENCE_SQL`].
pub const RESET_SEQUENCE_TYPES: [u32; 4] = [25, 25, 20, 16];

/// `$1` token, `$2` a random word for this connection. Gives the mark that the notices of this session carry; needed
/// once for a connection, and again after whatever resets its settings.
pub const MARK_SQL: &str = "SELECT lockstep.mark($1,$2)";
/// Types of the parameters of [`MARK_SQL`].
pub const MARK_TYPES: [u32; 2] = [25, 25];

/// `$1` token, `$2` whether the session is one of a follower (no triggers, no foreign keys) or of a leader again.
pub const FOLLOW_SQL: &str = "SELECT lockstep.follow($1,$2)";
/// Types of the parameters of [`FOLLOW_SQL`].
pub const FOLLOW_TYPES: [u32; 2] = [25, 16];

/// `$1` token, `$2` names of tables whose rows no trigger has seen. What became of the catalog, in one word.
pub const FINGERPRINT_SQL: &str = "SELECT lockstep.fingerprint($1,$2)";
/// Types of the parameters of [`FINGERPRINT_SQL`].
pub const FINGERPRINT_TYPES: [u32; 2] = [25, 1009];

/// How many rows of the catalogs of roles, memberships and role settings this session has changed: an event trigger
/// does not see these, since they are no database's own.
macro_rules! roles_changed {
    () => {
        "(pg_catalog.pg_stat_get_xact_tuples_inserted(1260) OPERATOR(pg_catalog.+) \
          pg_catalog.pg_stat_get_xact_tuples_updated(1260) OPERATOR(pg_catalog.+) \
          pg_catalog.pg_stat_get_xact_tuples_deleted(1260) OPERATOR(pg_catalog.+) \
          pg_catalog.pg_stat_get_xact_tuples_inserted(1261) OPERATOR(pg_catalog.+) \
          pg_catalog.pg_stat_get_xact_tuples_updated(1261) OPERATOR(pg_catalog.+) \
          pg_catalog.pg_stat_get_xact_tuples_deleted(1261) OPERATOR(pg_catalog.+) \
          pg_catalog.pg_stat_get_xact_tuples_inserted(2964) OPERATOR(pg_catalog.+) \
          pg_catalog.pg_stat_get_xact_tuples_updated(2964) OPERATOR(pg_catalog.+) \
          pg_catalog.pg_stat_get_xact_tuples_deleted(2964))::pg_catalog.text"
    };
}

/// Turns the capture on for the statements that follow in this transaction, and numbers their rows from 1.
pub const CAPTURE_ON_SQL: &str = concat!(
    "SELECT pg_catalog.set_config('lockstep.capture','on',true), \
     pg_catalog.set_config('lockstep.serial','0',true), \
     pg_catalog.set_config('lockstep.roles',",
    roles_changed!(),
    ",true)"
);
/// Ends what [`CAPTURE_ON_SQL`] began: how many rows are still there, and whether roles were changed.
pub const CAPTURE_END_SQL: &str = concat!(
    "SELECT coalesce(nullif(pg_catalog.current_setting('lockstep.serial', true), ''), '0'), \
     CASE WHEN pg_catalog.current_setting('lockstep.roles', true) OPERATOR(pg_catalog.=) ",
    roles_changed!(),
    " THEN 'same' ELSE 'changed' END, pg_catalog.set_config('lockstep.capture', 'off', true)"
);
/// Turns the capture off for what follows in this transaction.
pub const CAPTURE_OFF_SQL: &str = "SELECT pg_catalog.set_config('lockstep.capture','off',true)";
/// How many of the rows captured since [`CAPTURE_ON_SQL`] are still there: what `Changes::settle` needs.
pub const CAPTURED_SQL: &str =
    "SELECT coalesce(nullif(pg_catalog.current_setting('lockstep.serial', true), ''), '0')";

/// One thing that a follower is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// A statement as the application wrote it.
    Text {
        /// Its text.
        sql: String,
        /// How many rows it touched on the leader.
        rows: Option<u64>,
    },
    /// A statement with parameters.
    Bound {
        /// Its text.
        sql: String,
        /// Parameter types as the application declared them.
        types: Vec<u32>,
        /// The body of the Bind message from the parameter format codes on.
        bind: Vec<u8>,
        /// How many rows it touched on the leader.
        rows: Option<u64>,
    },
    /// Rows captured on the leader, for `lockstep.apply`.
    Rows {
        /// `"schema"."table"`.
        relation: String,
        /// What happened to the rows.
        op: Op,
        /// Former rows; for a truncation the names of all tables that were truncated together.
        old: Vec<String>,
        /// New rows.
        new: Vec<String>,
    },
    /// A sequence must have got at least this far.
    Advance {
        /// `"schema"."sequence"`.
        sequence: String,
        /// The value.
        value: i64,
    },
    /// A sequence is set exactly.
    ResetSequence {
        /// `"schema"."sequence"`.
        sequence: String,
        /// The value.
        value: i64,
        /// Whether that value has been handed out.
        called: bool,
    },
    /// COPY FROM STDIN.
    Bulk {
        /// The COPY statement.
        sql: String,
        /// The stream.
        data: Vec<u8>,
        /// How many rows it brought on the leader.
        rows: Option<u64>,
    },
    /// A statement that may not run in a transaction, as version 1 recorded it: once it was done.
    Outside {
        /// Its text.
        sql: String,
    },
    /// A statement that may not run in a transaction is about to run, on one backend after the other.
    Intended(Task),
    /// It was done everywhere.
    Finished {
        /// The number of the record that said so beforehand.
        intent: i64,
        /// What it was.
        task: Task,
        /// The indexes that it made.
        made: Vec<String>,
    },
    /// It was done nowhere, or undone.
    Withdrawn {
        /// The number of the record that said so beforehand.
        intent: i64,
        /// What it was.
        task: Task,
    },
    /// A statement that gives rows back, which must be the leader's.
    Checked {
        /// The statement.
        effect: Box<Self>,
        /// The hash of the rows that the leader gave back.
        digest: u64,
    },
    /// A statement that every backend runs for itself, because it changes the catalog out of sight.
    Deep {
        /// The statement.
        effect: Box<Self>,
        /// What it did on the leader, and must do everywhere.
        witness: Witness,
    },
}

/// How a context begins: what a statement of ours fixes in front of the next effect. No statement of an
/// application's is taken in this form.
pub const CONTEXT: &str = "SET insert_id=";

impl Effect {
    /// Whether it changes its session, and is no context, which every effect that needs one brings along.
    pub fn leaves_settings(&self) -> bool {
        matches!(self, Self::Text { sql, rows: None } if !sql.starts_with(CONTEXT))
    }

    /// Whether it is about a statement outside a transaction.
    pub fn is_outside(&self) -> bool {
        matches!(
            self,
            Self::Outside { .. }
                | Self::Intended(_)
                | Self::Finished { .. }
                | Self::Withdrawn { .. }
        )
    }

    /// How many rows a follower must find changed, where that is told.
    pub fn rows(&self) -> Option<u64> {
        match self {
            Self::Text { rows, .. } | Self::Bound { rows, .. } | Self::Bulk { rows, .. } => *rows,
            Self::Checked { effect, .. } => effect.rows(),
            _ => None,
        }
    }

    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        let texts = |rows: &[String]| rows.iter().map(|row| row.len() + 5).sum::<usize>();
        match self {
            Self::Text { sql, .. } | Self::Outside { sql } => sql.len() + 16,
            Self::Bound { sql, types, bind, .. } => sql.len() + types.len() * 5 + bind.len() + 24,
            Self::Rows { relation, old, new, .. } => relation.len() + texts(old) + texts(new) + 24,
            Self::Advance { sequence, .. } | Self::ResetSequence { sequence, .. } => {
                sequence.len() + 24
            }
            Self::Bulk { sql, data, .. } => sql.len() + data.len() + 24,
            Self::Intended(task) | Self::Finished { task, .. } | Self::Withdrawn { task, .. } => {
                task.weight()
            }
            Self::Checked { effect, .. } => effect.weight() + 16,
            Self::Deep { effect, witness } => effect.weight() + witness.weight(),
        }
    }
}

/// The content of one journal row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose transaction it was; replay happens with this user's rights.
    pub user: String,
    /// Settings in force: a key, and the SET statement that is run before the effects.
    pub settings: Vec<(String, String)>,
    /// What happened, in order.
    pub effects: Vec<Effect>,
}

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// There is not even a version byte.
    #[error("the journal entry is empty")]
    Empty,
    /// Written by a newer lockstep.
    #[error(
        "the journal entry has version {0}, this program reads versions 1 to {OUTSIDE_VERSION}"
    )]
    Version(u8),
    /// The bytes are damaged.
    #[error("the journal entry is damaged: {0}")]
    Damaged(#[from] postcard::Error),
    /// More bytes than the entry needs.
    #[error("the journal entry has {0} bytes too many")]
    Trailing(usize),
}

impl Entry {
    /// The bytes for the `entry` column.
    pub fn encode(&self) -> Vec<u8> {
        let start = Vec::with_capacity(64 + self.weight());
        let mut bytes = start;
        let outside = self.effects.iter().any(Effect::is_outside);
        bytes.push(if outside { OUTSIDE_VERSION } else { VERSION });
        // Growing a vector is the only thing that happens here, and that does not fail.
        #[allow(clippy::expect_used)]
        postcard::to_extend(self, bytes).expect("a vector takes any entry")
    }

    /// The reverse of [`Entry::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let (version, rest) = bytes.split_first().ok_or(EntryError::Empty)?;
        if !(1..=OUTSIDE_VERSION).contains(version) {
            return Err(EntryError::Version(*version));
        }
        let (entry, rest) = postcard::take_from_bytes(rest)?;
        if rest.is_empty() { Ok(entry) } else { Err(EntryError::Trailing(rest.len())) }
    }

    /// Adds an effect. Advances of one sequence are folded into the farthest.
    pub fn push(&mut self, effect: Effect) {
        if let (
            Effect::Advance { sequence, value },
            Some(Effect::Advance { sequence: last, value: reached }),
        ) = (&effect, self.effects.last_mut())
            && sequence == last
        {
            // The later one is farther in the direction of the sequence, whichever that is.
            *reached = *value;
            return;
        }
        self.effects.push(effect);
    }

    /// Adds what one statement changed, as it comes out of `Changes::settle`, and merges neighbours into batches.
    pub fn push_changes(&mut self, changes: Vec<Change>) {
        let from = self.effects.len();
        for change in changes {
            push_row(&mut self.effects, from, change);
        }
    }

    /// About how many bytes the entry takes, so that encoding allocates once and limits can be checked beforehand.
    pub fn weight(&self) -> usize {
        self.settings.iter().map(|(key, set)| key.len() + set.len() + 4).sum::<usize>()
            + self.effects.iter().map(Effect::weight).sum::<usize>()
    }
}

/// Adds one change to the batches that begin at `from`. Only changes of the same statement may share a batch: within
/// one statement `Changes` has seen to it that no row occurs twice.
pub fn push_row(effects: &mut Vec<Effect>, from: usize, change: Change) {
    if effects.len() > from
        && let Some(Effect::Rows { relation, op, old, new }) = effects.last_mut()
        && *op == change.op
        // Tables that were emptied in one statement may refer to each other: they go together.
        && (*relation == change.relation || *op == Op::Truncate)
        && old.len().max(new.len()) < ROWS_PER_BATCH
    {
        old.extend(change.old);
        new.extend(change.new);
        return;
    }
    effects.push(Effect::Rows {
        relation: change.relation,
        op: change.op,
        old: change.old.into_iter().collect(),
        new: change.new.into_iter().collect(),
    });
}

/// One row of the journal as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the order of commits.
    pub seq: i64,
    /// The transaction it belongs to.
    pub id: i64,
    /// Whose it was.
    pub user: String,
    /// An encoded [`Entry`].
    pub entry: Vec<u8>,
}

/// The form of a text parameter that every `client_encoding` leaves alone: `\x` and the UTF-8 bytes in hexadecimal.
/// For sessions whose encoding is not UTF8, in calls of `lockstep.apply` (relation and all rows), `advance`,
/// `sequences`, `reset_sequence` and the user of `record`.
pub fn armoured(text: &str) -> String {
    format!("\\x{}", crate::hex::encode(text.as_bytes()))
}

/// The text in either form; `None` when it is neither.
pub fn unarmoured(text: &str) -> Option<String> {
    match text.strip_prefix("\\x") {
        Some(hex) => String::from_utf8(crate::hex::decode(hex.as_bytes())?).ok(),
        None => Some(text.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test fails by panicking.
mod tests {
    use super::*;

    fn row(op: Op, old: Option<&str>, new: Option<&str>) -> Change {
        Change {
            relation: "\"public\".\"t\"".into(),
            op,
            old: old.map(Into::into),
            new: new.map(Into::into),
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        let mut entry = Entry {
            user: "app".into(),
            settings: vec![("TimeZone".into(), "SET TimeZone = 'UTC'".into())],
            effects: vec![
                Effect::Text { sql: "DELETE FROM t WHERE id = 1".into(), rows: Some(1) },
                Effect::Bound { sql: "x".into(), types: vec![23], bind: vec![0, 255], rows: None },
                Effect::Bulk {
                    sql: "COPY t FROM STDIN".into(),
                    data: vec![1; 3000],
                    rows: Some(2),
                },
                Effect::Outside { sql: "VACUUM".into() },
                Effect::ResetSequence { sequence: "s".into(), value: i64::MIN, called: false },
            ],
        };
        entry.push_changes(vec![row(Op::Update, Some("(1)"), Some("(2)"))]);
        let bytes = entry.encode();
        assert!(bytes.len() <= 64 + entry.weight());
        assert_eq!(Entry::decode(&bytes).unwrap(), entry);
    }

    #[test]
    fn what_an_older_version_has_written_is_read() {
        // Version 1, byte by byte: user, one setting, a keyed statement with its count of rows.
        let text = b"\x01\x03app\x01\x01k\x03SET\x02\x00\x01x\x01\x01\x06\x06VACUUM";
        let entry = Entry::decode(text).unwrap();
        assert_eq!(entry.user, "app");
        assert_eq!(entry.effects[0], Effect::Text { sql: "x".into(), rows: Some(1) });
        assert_eq!(entry.effects[1], Effect::Outside { sql: "VACUUM".into() });
    }

    #[test]
    fn what_is_not_an_entry_is_refused() {
        let bytes = Entry::default().encode();
        assert!(matches!(Entry::decode(&[]), Err(EntryError::Empty)));
        assert!(matches!(Entry::decode(&[9]), Err(EntryError::Version(9))));
        assert!(matches!(Entry::decode(&bytes[..2]), Err(EntryError::Damaged(_))));
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(Entry::decode(&longer), Err(EntryError::Trailing(1))));
    }

    #[test]
    fn neighbours_share_a_batch_up_to_its_limit() {
        let mut entry = Entry::default();
        entry.push_changes(vec![row(Op::Insert, None, Some("(1)")); ROWS_PER_BATCH + 1]);
        entry.push_changes(vec![row(Op::Insert, None, Some("(1)"))]);
        let sizes: Vec<_> = entry
            .effects
            .iter()
            .map(|effect| match effect {
                Effect::Rows { new, .. } => new.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(sizes, [ROWS_PER_BATCH, 1, 1]);
    }

    #[test]
    fn advances_of_one_sequence_are_one() {
        let mut entry = Entry::default();
        entry.push(Effect::Advance { sequence: "s".into(), value: 10 });
        entry.push(Effect::Advance { sequence: "s".into(), value: 20 });
        entry.push(Effect::Advance { sequence: "r".into(), value: 1 });
        assert_eq!(entry.effects.len(), 2);
        assert_eq!(entry.effects[0], Effect::Advance { sequence: "s".into(), value: 20 });
    }

    #[test]
    fn armour_is_hexadecimal() {
        assert_eq!(armoured("(ä)"), "\\x28c3a429");
        assert_eq!(unarmoured("\\x28c3a429").as_deref(), Some("(ä)"));
        assert_eq!(unarmoured("(ä)").as_deref(), Some("(ä)"));
        assert_eq!((unarmoured("\\xc3"), unarmoured("\\x2")), (None, None));
    }
}
