//! What the classifier says about a change of the schema.

use std::ops::Range;

/// A statement that changes the schema.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ddl {
    /// What the followers run instead of the client's text.
    pub followers: Option<String>,
    /// A table that is created and filled by one statement.
    pub split: Option<Split>,
    /// A password in clear, to be replaced by one verifier for all backends.
    pub password: Option<Password>,
    /// CREATE TRIGGER of one of our own triggers, as in a dump: answer it without running it.
    pub duplicate_trigger: bool,
    /// Run on every backend right after the statement, in the same transaction: it mends what
    /// DISABLE/ENABLE TRIGGER ALL did to the capture triggers.
    pub after: Option<String>,
    /// The outcome depends on rows that are read (CREATE/REFRESH MATERIALIZED VIEW): no commit may
    /// be under way on any backend while it runs.
    pub reads_rows: bool,
    /// What to run instead of the client's text, in this order. Empty: the text as it is.
    pub steps: Vec<DdlStep>,
}

/// A step of a statement that had to be taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DdlStep {
    /// What the leader runs.
    pub sql: String,
    /// An UPDATE that travels as rows. Otherwise the followers run the same text.
    pub captured: bool,
}

/// CREATE TABLE AS and SELECT INTO, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The empty table, for every backend.
    pub create: String,
    /// INSERT … SELECT, to be captured on the leader.
    pub fill: String,
    /// The client's command tag in front of the number of rows.
    pub verb: &'static str,
}

/// A password in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password {
    /// The literal with its quotes, in the client's string.
    pub range: Range<usize>,
    /// What it says.
    pub plain: String,
}

/// What may not run in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Maintenance {
    /// No logical content: best effort on the followers.
    Everywhere,
    /// Changes the schema: between an intent and its outcome, one backend at a time.
    Journaled(Outside),
}

/// What is changed step by step, each step committed by itself, so that an interruption leaves a
/// half behind. Names are as the application wrote them, in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// CREATE INDEX CONCURRENTLY on this table.
    CreateIndex(String),
    /// DROP INDEX CONCURRENTLY of this index.
    DropIndex(String),
    /// REINDEX CONCURRENTLY of whatever.
    Reindex,
    /// DETACH PARTITION CONCURRENTLY of this table.
    Detach(String),
    /// Whatever commits by itself, and therefore runs while no transaction is open.
    Implicit(Implicit),
}

/// What is known of a statement that commits by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implicit {
    /// It happens as a whole or not at all, and whether it has shows in the schema.
    Once,
    /// It may have been done by half, or not show; done twice it does what it does once.
    Again,
    /// It is about accounts and rights, of which each server may have its own.
    Account,
}
