//! The rows that one statement changed, put into the order in which a follower can take them.
//!
//! Triggers report rows after the fact, and neither in the order in which they changed nor for good: the changes that a
//! user's trigger makes come before the report of the later rows of the outer statement, and what a function does in a
//! block with an exception handler may be rolled back after it was reported. Both are put right here:
//!
//! * The number in each report is transactional. A number that does not grow says that the rows from there on were
//!   rolled back, and the number after the statement says how many of the last ones were.
//! * A table is a set of rows in which equal ones are counted, and a change takes one row out and puts one in. So the
//!   order does not matter to the outcome: a row that one change puts in and another takes out is left out, and what
//!   remains touches every row once. Then deletions go first, updates second, insertions last, so that no value meets
//!   the one that it replaces in a unique index.

use super::capture::{CapturedRow, Op};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// One net change of one row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// `"schema"."table"`.
    pub relation: String,
    /// What happens.
    pub op: Op,
    /// The row before, where there is one; for a truncation the name of the table.
    pub old: Option<String>,
    /// The row after, where there is one.
    pub new: Option<String>,
}

/// Why the rows that came in cannot be all that happened: the transaction must not commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expected} changed rows were captured on the leader, {received} of them arrived")]
pub struct Incomplete {
    /// How many the server counted.
    pub expected: u64,
    /// How many of them arrived.
    pub received: u64,
}

/// Collects the rows of one statement.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    base: u64,
    rows: Vec<CapturedRow>,
}

impl Changes {
    /// For a statement before which `base` rows were counted: 0 right after `CAPTURE_ON_SQL`.
    pub fn new(base: u64) -> Self {
        Self { base, rows: Vec::new() }
    }

    /// Takes the next row, in the order in which they arrive.
    pub fn push(&mut self, row: CapturedRow) {
        self.forget(row.serial);
        self.rows.push(row);
    }

    /// Whether no row is there.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows are there.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Ends the statement. `counted` is the answer of `CAPTURED_SQL` after it.
    pub fn settle(mut self, counted: u64) -> Result<Vec<Change>, Incomplete> {
        self.forget(counted.saturating_add(1));
        let expected = counted.saturating_sub(self.base);
        let received = self.rows.len() as u64;
        let gap = self.rows.iter().zip(self.base + 1..).any(|(row, serial)| row.serial != serial);
        if gap || received != expected {
            return Err(Incomplete { expected, received });
        }
        Ok(ordered(self.rows))
    }

    /// Drops the rows from a number on: their subtransaction was rolled back.
    fn forget(&mut self, serial: u64) {
        while self.rows.last().is_some_and(|row| row.serial >= serial) {
            self.rows.pop();
        }
    }
}

fn ordered(mut rows: Vec<CapturedRow>) -> Vec<Change> {
    if rows.len() == 1 {
        return rows
            .drain(..)
            .filter_map(|row| change(row.relation, row.old, row.new, row.op))
            .collect();
    }
    let mut emptied: Vec<String> = Vec::new();
    let mut tables: Vec<(String, Vec<CapturedRow>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let place = *places.entry(row.relation.clone()).or_insert_with(|| {
            tables.push((row.relation.clone(), Vec::new()));
            tables.len() - 1
        });
        if row.op == Op::Truncate {
            // Whatever happened to the table before is gone with it.
            tables[place].1.clear();
            emptied.push(row.relation);
        } else {
            tables[place].1.push(row);
        }
    }
    emptied.sort();
    emptied.dedup();
    let mut changes: Vec<Change> = emptied
        .into_iter()
        .map(|relation| Change {
            relation: relation.clone(),
            op: Op::Truncate,
            old: Some(relation),
            new: None,
        })
        .collect();
    for (relation, rows) in tables {
        changes.extend(net(&relation, rows));
    }
    changes
}

/// What is left of the changes to one table when rows that came and went are taken out.
fn net(relation: &str, mut rows: Vec<CapturedRow>) -> Vec<Change> {
    let mut next: Vec<Option<usize>> = vec![None; rows.len()];
    let mut follows = vec![false; rows.len()];
    let mut made: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, row) in rows.iter().enumerate().filter(|(_, row)| row.op != Op::Delete) {
        made.entry(&row.new).or_default().push(i);
    }
    for (i, row) in rows.iter().enumerate().filter(|(_, row)| row.op != Op::Insert) {
        if let Some(maker) = made.get_mut(row.old.as_str()).and_then(Vec::pop) {
            next[maker] = Some(i);
            follows[i] = true;
        }
    }
    let mut changes = Vec::with_capacity(rows.len());
    // Chains begin where nothing leads; a ring of changes leads back to where it began and is nothing.
    for head in (0..rows.len()).filter(|i| !follows[*i]) {
        let mut tail = head;
        while let Some(i) = next[tail] {
            tail = i;
        }
        let starts = rows[head].op != Op::Insert;
        let ends = rows[tail].op != Op::Delete;
        let old = std::mem::take(&mut rows[head].old);
        let new = std::mem::take(&mut rows[tail].new);
        let op = match (starts, ends) {
            (true, true) => Op::Update,
            (true, false) => Op::Delete,
            (false, true) => Op::Insert,
            (false, false) => continue,
        };
        changes.extend(change(relation.to_owned(), old, new, op));
    }
    changes.sort_by_key(|change| match change.op {
        Op::Truncate => 0,
        Op::Delete => 1,
        Op::Update => 2,
        Op::Insert => 3,
    });
    changes
}

/// A change, unless it leaves the row as it was.
fn change(relation: String, old: String, new: String, op: Op) -> Option<Change> {
    let (old, new) = match op {
        Op::Insert => (None, Some(new)),
        Op::Delete => (Some(old), None),
        Op::Update if old == new => return None,
        Op::Update => (Some(old), Some(new)),
        Op::Truncate => (Some(relation.clone()), None),
    };
    Some(Change { relation, op, old, new })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test fails by panicking.
mod tests {
    use super::*;

    fn rows(
        changes: &[(u64, &str, Op, &str, &str)],
        counted: u64,
    ) -> Result<Vec<String>, Incomplete> {
        let mut all = Changes::new(0);
        for (serial, relation, op, old, new) in changes {
            all.push(CapturedRow {
                serial: *serial,
                relation: (*relation).into(),
                op: *op,
                old: (*old).into(),
                new: (*new).into(),
            });
        }
        let text = |c: Change| {
            let side = |s: Option<String>| s.unwrap_or_default();
            format!("{}{}:{}>{}", c.op.letter(), c.relation, side(c.old), side(c.new))
        };
        all.settle(counted).map(|changes| changes.into_iter().map(text).collect())
    }

    use Op::{Delete, Insert, Truncate, Update};

    #[test]
    fn a_trigger_that_changes_a_later_row_of_the_statement_is_reported_too_early() {
        let got = rows(
            &[
                (1, "t", Update, "1a", "1b"),
                (2, "t", Update, "2b", "2c"),
                (3, "t", Update, "2a", "2b"),
            ],
            3,
        );
        assert_eq!(got.unwrap(), ["Ut:1a>1b", "Ut:2a>2c"]);
    }

    #[test]
    fn rows_that_came_and_went_are_left_out() {
        let got = rows(
            &[
                (1, "t", Insert, "", "1"),
                (2, "t", Delete, "1", ""),
                (3, "t", Update, "2", "3"),
                (4, "t", Update, "3", "2"),
                (5, "t", Update, "4", "4"),
            ],
            5,
        );
        assert!(got.unwrap().is_empty());
        assert!(rows(&[(1, "t", Update, "4", "4")], 1).unwrap().is_empty());
    }

    #[test]
    fn equal_rows_are_counted() {
        let got = rows(
            &[(1, "t", Insert, "", "x"), (2, "t", Insert, "", "x"), (3, "t", Delete, "x", "")],
            3,
        );
        assert_eq!(got.unwrap(), ["It:>x"]);
    }

    #[test]
    fn deletions_go_first_and_insertions_last() {
        let got = rows(
            &[
                (1, "t", Insert, "", "1"),
                (2, "t", Update, "2", "3"),
                (3, "s", Insert, "", "1"),
                (4, "t", Delete, "4", ""),
            ],
            4,
        );
        assert_eq!(got.unwrap(), ["Dt:4>", "Ut:2>3", "It:>1", "Is:>1"]);
    }

    #[test]
    fn a_truncation_forgets_what_was_before() {
        let got = rows(
            &[
                (1, "t", Insert, "", "1"),
                (2, "t", Truncate, "", ""),
                (3, "s", Truncate, "", ""),
                (4, "t", Insert, "", "2"),
            ],
            4,
        );
        assert_eq!(got.unwrap(), ["Ts:s>", "Tt:t>", "It:>2"]);
    }

    #[test]
    fn what_was_rolled_back_inside_is_forgotten() {
        let first = (1, "t", Insert, "", "1");
        let lost = [(2, "t", Insert, "", "2"), (3, "t", Insert, "", "3")];
        let got = rows(&[first, lost[0], lost[1], (2, "t", Insert, "", "4")], 2);
        assert_eq!(got.unwrap(), ["It:>1", "It:>4"]);
        assert_eq!(rows(&[first, lost[0], lost[1]], 1).unwrap(), ["It:>1"]);
        assert!(rows(&lost, 0).unwrap().is_empty());
    }

    #[test]
    fn a_gap_is_noticed() {
        let row = |serial| (serial, "t", Insert, "", "1");
        assert!(rows(&[row(1), row(3)], 3).is_err());
        assert!(rows(&[row(2)], 2).is_err());
        assert!(rows(&[row(1)], 2).is_err());
        assert!(rows(&[], 1).is_err());
    }
}
