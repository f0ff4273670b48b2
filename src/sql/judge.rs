//! What every dialect offers: questions to a database, and a judge of statements who knows the answers.

use std::collections::BTreeMap;
use std::fmt;

use lockstep_protocol::Dialect;

use super::scope::{ParseError, Scope};
use super::statement::Script;
use super::{mysql, pg};

/// The rows of each question, by its name; every column as text.
pub type Answers<'r> = BTreeMap<&'r str, Vec<Vec<Option<String>>>>;

/// Knows one database's catalog as it once was, and judges statements with it.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Cuts a client's string into statements and classifies each.
    ///
    /// # Errors
    /// When the text cannot be read.
    fn judge(&self, sql: &str, scope: &Scope) -> Result<Script, ParseError>;
    /// Whether any constraint may be checked as late as at the commit.
    fn checks_late(&self) -> bool;
    /// Whether the servers would let this role log in, as far as the catalog tells. A connection that
    /// is open already says nothing about that.
    fn entry(&self, role: &str) -> Entry;
}

/// Whether a role may log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The catalog has nothing against it.
    Open,
    /// Its password is good until then, in seconds of the Unix epoch.
    Until(i64),
    /// It may not log in.
    Closed,
    /// There is no such role.
    Unknown,
}

/// What to ask a backend about itself: names and texts.
pub fn questions(dialect: Dialect) -> &'static [(&'static str, &'static str)] {
    match dialect {
        Dialect::Postgres => pg::Catalog::queries(),
        Dialect::MySql => mysql::Catalog::queries(),
    }
}

/// What texts have in common that differ in nothing but values, where a query that is a
/// [`Read`](super::Class::Read) in one of them is the same in all. `None`: this text has nothing of the
/// kind.
pub fn shape(dialect: Dialect, sql: &str) -> Option<String> {
    match dialect {
        Dialect::Postgres => pg::shape(sql),
        Dialect::MySql => None,
    }
}

/// The judge who knows these answers.
///
/// # Errors
/// When a question was not asked, or an answer has another shape than expected.
pub fn informed(dialect: Dialect, answers: &Answers<'_>) -> Result<Box<dyn Judge>, String> {
    match dialect {
        Dialect::Postgres => Ok(Box::new(pg::Catalog::from_rows(answers)?)),
        Dialect::MySql => Ok(Box::new(mysql::Catalog::from_answers(answers)?)),
    }
}

/// The judge who knows of nothing: whatever names anything at all is a write of everything.
pub fn ignorant(dialect: Dialect) -> Box<dyn Judge> {
    match dialect {
        Dialect::Postgres => Box::new(pg::Catalog::default()),
        Dialect::MySql => Box::new(mysql::Catalog::default()),
    }
}
