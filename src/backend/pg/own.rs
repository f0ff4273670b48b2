//! The proxy's own statements, and their parameters in the form of the wire.

use bytes::{BufMut, BytesMut};
use lockstep_protocol::pg::client;

use super::link::PgLink;
use crate::exchange::{Broken, Outcome, Watch};
use crate::sql::Sequences;
use crate::store::capture::Captured;
use crate::store::control::Sequence;
use crate::store::journal;

/// One of the proxy's own statements, prepared at its first use on a connection.
#[derive(Debug)]
pub(super) struct Own {
    /// Taken from the far end of the numbers of prepared statements.
    pub(super) id: u64,
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    pub(super) types: &'static [u32],
}

pub(super) const RECORD: Own = Own {
    id: u64::MAX,
    name: "lockstep_record",
    sql: journal::RECORD_SQL,
    types: &[25, 20, 20, 25, 17],
};
pub(super) const APPLY: Own = Own {
    id: u64::MAX - 1,
    name: "lockstep_apply",
    sql: journal::APPLY_SQL,
    types: &[25, 25, 25, 1009, 1009],
};
pub(super) const BEGIN: Own =
    Own { id: u64::MAX - 8, name: "lockstep_begin", sql: "BEGIN", types: &[] };
pub(super) const BEGIN_SHARE: Own = Own {
    id: u64::MAX - 9,
    name: "lockstep_begin_share",
    sql: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    types: &[],
};
/// To its end the transaction may take as long as it likes.
pub(super) const UNHURRIED: Own = Own {
    id: u64::MAX - 11,
    name: "lockstep_unhurried",
    sql: "SELECT pg_catalog.set_config('statement_timeout', '0', true)",
    types: &[],
};
pub(super) const ADVANCE: Own = Own {
    id: u64::MAX - 2,
    name: "lockstep_advance",
    sql: journal::ADVANCE_SQL,
    types: &[25, 25, 20],
};
pub(super) const RESET_SEQUENCE: Own = Own {
    id: u64::MAX - 3,
    name: "lockstep_reset_sequence",
    sql: journal::RESET_SEQUENCE_SQL,
    types: &[25, 25, 20, 16],
};

pub(super) const SEQUENCES: Own = Own {
    id: u64::MAX - 4,
    name: "lockstep_sequences",
    // Not every name of the database can be written in every encoding that a session may have.
    sql: "SELECT CASE pg_catalog.current_setting('client_encoding') WHEN 'UTF8' THEN name \
          ELSE '\\x' || pg_catalog.encode(pg_catalog.convert_to(name, 'UTF8'), 'hex') END, \
          value, increment FROM lockstep.sequences($1,$2)",
    types: &[25, 1009],
};
pub(super) const CAPTURE: Own =
    Own { id: u64::MAX - 5, name: "lockstep_capture", sql: journal::CAPTURE_ON_SQL, types: &[] };
/// Counts the captured rows and turns the capture off again.
pub(super) const CAPTURED: Own =
    Own { id: u64::MAX - 6, name: "lockstep_captured", sql: journal::CAPTURE_END_SQL, types: &[] };

impl PgLink {
    /// Makes the server's session a follower's, on which nothing fires that has fired on the leader
    /// already, or a leader's again.
    pub(super) fn follow(&mut self, follower: bool) {
        if self.follows == follower {
            return;
        }
        self.follows = follower;
        let token = self.shared.token.clone();
        let word: &[u8] = if follower { b"t" } else { b"f" };
        self.queue_own(&FOLLOW, &bind_rest(&[(0, Some(token.as_bytes())), (0, Some(word))]));
        // A BEGIN in the same request would take it into its transaction, and a ROLLBACK back.
        self.close_request();
    }

    pub(super) fn queue_rows(
        &mut self,
        relation: &str,
        op: journal::Op,
        old: &[String],
        new: &[String],
    ) {
        let token = self.shared.token.clone();
        // Rows are UTF-8 whatever the client's encoding is: elsewhere they travel in hexadecimal.
        let (old, new) = (self.armour_all(old), self.armour_all(new));
        let (old, new) = (text_array(&old), text_array(&new));
        let relation = self.armour(relation);
        let rest = bind_rest(&[
            (0, Some(token.as_bytes())),
            (0, Some(relation.as_bytes())),
            (0, Some(op.letter().as_bytes())),
            (1, Some(&old)),
            (1, Some(&new)),
        ]);
        self.queue_own(&APPLY, &rest);
    }

    /// Queues the questions that follow a watched statement; how many.
    pub(super) fn queue_watched(&mut self, watch: Watch<'_>) -> usize {
        let mut queued = 0;
        if watch.rows {
            self.queue_own(&CAPTURED, &bind_rest(&[]));
            self.close_request();
            queued += 1;
        }
        let names = match watch.sequences {
            None | Some(Sequences::None) => return queued,
            Some(Sequences::Any) => None,
            Some(Sequences::Named(names)) => Some(text_array(&self.armour_all(names))),
        };
        let token = self.shared.token.clone();
        let rest = bind_rest(&[(0, Some(token.as_bytes())), (1, names.as_deref())]);
        self.queue_own(&SEQUENCES, &rest);
        self.close_request();
        queued + 1
    }

    /// Reads the answers to what `queue_watched` asked. After an error there are none.
    pub(super) async fn collect_watched(
        &mut self,
        watch: Watch<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), Broken> {
        if watch.rows {
            match self.collect().await? {
                Ok(rows) => {
                    let mut columns = rows.into_iter().flatten().flatten();
                    outcome.found.counted = columns.next().and_then(|text| text.parse().ok());
                    if columns.next().as_deref() != Some("same") {
                        let tag = "a change of roles".to_owned();
                        outcome.found.captured.push(Captured::Ddl { tag, temporary: false });
                    }
                }
                // After an error of the statement itself this one only repeats it.
                Err(error) => outcome.error = outcome.error.take().or(Some(error.into())),
            }
        }
        if matches!(watch.sequences, Some(Sequences::Any | Sequences::Named(_))) {
            let rows = match self.collect().await? {
                Ok(rows) => rows,
                Err(error) => {
                    outcome.error = outcome.error.take().or(Some(error.into()));
                    Vec::new()
                }
            };
            for row in rows {
                let mut columns = row.into_iter().flatten();
                let name = columns.next().and_then(|name| journal::unarmoured(&name));
                let mut number = || columns.next().and_then(|t| t.parse::<i64>().ok());
                if let (Some(name), Some(value), Some(step)) = (name, number(), number()) {
                    outcome.found.sequences.push((name, value, step));
                }
            }
        }
        Ok(())
    }
}

pub(super) const FOLLOW: Own = Own {
    id: u64::MAX - 7,
    name: "lockstep_follow",
    sql: journal::FOLLOW_SQL,
    types: &journal::FOLLOW_TYPES,
};

pub(super) const FINGERPRINT: Own = Own {
    id: u64::MAX - 10,
    name: "lockstep_fingerprint",
    sql: journal::FINGERPRINT_SQL,
    types: &journal::FINGERPRINT_TYPES,
};

/// A row of `lockstep.sequences`: name, value, whether it was called, increment.
pub(super) fn standing(row: Vec<Option<String>>) -> Option<Sequence> {
    let mut columns = row.into_iter().flatten();
    Some(Sequence {
        name: columns.next()?,
        value: columns.next()?.parse().ok()?,
        called: columns.next()? == "t",
        increment: columns.next()?.parse().ok()?,
    })
}

/// The body of a Bind from the format codes on: parameters in the given formats, results as text.
pub(super) fn bind_rest(params: &[(u16, Option<&[u8]>)]) -> BytesMut {
    client::bind_rest(params, &[])
}

/// An array of text in the binary form of the wire.
pub(super) fn text_array(values: &[String]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_i32(i32::from(!values.is_empty()));
    out.put_i32(0);
    out.put_u32(25);
    if values.is_empty() {
        return out;
    }
    out.put_i32(i32::try_from(values.len()).unwrap_or(i32::MAX));
    out.put_i32(1);
    for value in values {
        out.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
        out.put_slice(value.as_bytes());
    }
    out
}
