//! MySQL's form of a statement: a text, or a prepared statement with its parameters.
//!
//! Statement numbers are the application's own affair: a prepared statement is known by the identity
//! of its text, and every connection to a database prepares it when it first needs it.
//!
//! Between a server and an application packets have no numbers: where the number belongs stands a
//! [`Mark`], which says whether the packet ends a statement's result. The application's side numbers
//! at the last moment, when it knows what is sent and how the transaction stands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use lockstep_protocol::mysql::cut;

use crate::catalog::{Catalogs, Text};
use crate::config::Live;
use crate::exchange::Work;
use crate::sql::{Numbers, TimeParam};
use crate::store::journal::Effect;

/// What stands in the place of a packet's number on its way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It is handed on as it is.
    Middle,
    /// It ends a statement's result: its status is the application's, not the server's.
    Result,
}

impl Mark {
    /// The byte that stands for it.
    pub fn byte(self) -> u8 {
        match self {
            Self::Middle => 0,
            Self::Result => 1,
        }
    }

    /// The mark of a byte.
    pub fn of(byte: u8) -> Self {
        if byte == Self::Result.byte() { Self::Result } else { Self::Middle }
    }
}

/// The name under which a user's connections to the servers are kept. Whether an UPDATE counts the
/// rows it found or those it changed is fixed when a connection is opened, so that one user can have
/// connections of two kinds.
pub mod identity {
    /// Ends the names of those whose UPDATEs count the rows found.
    const FOUND_ROWS: &str = " (found rows)";

    /// The name for a user's connections.
    pub fn of(user: &str, found_rows: bool) -> String {
        if found_rows { format!("{user}{FOUND_ROWS}") } else { user.to_owned() }
    }

    /// The user, and whether its UPDATEs count the rows found.
    pub fn parts(identity: &str) -> (&str, bool) {
        identity.strip_suffix(FOUND_ROWS).map_or((identity, false), |user| (user, true))
    }
}

/// A prepared statement as all sessions share it.
#[derive(Debug)]
pub struct Prepared {
    /// Unique in this process.
    pub id: u64,
    /// The SQL text, with its classification.
    pub text: Arc<Text>,
    /// The catalog that it was first seen under.
    epoch: u64,
    /// Where the others are.
    home: Weak<Mutex<Inner>>,
}

/// What a MySQL server is asked to run.
#[derive(Clone, Debug)]
pub enum MyWork {
    /// A text.
    Query {
        /// The text.
        text: Bytes,
        /// The application never said that it sends several statements in one text: the server
        /// gets it whole, and says what is wrong with a second one.
        single: bool,
    },
    /// To prepare a statement under the application's number.
    Prepare {
        /// The statement.
        prepared: Arc<Prepared>,
        /// The application's number for it.
        number: u32,
    },
    /// A prepared statement.
    Execute {
        /// The statement.
        prepared: Arc<Prepared>,
        /// Its parameters, with their types.
        parameters: Bytes,
    },
    /// For the columns of a table: the command's payload.
    Columns(Bytes),
    /// The session as it was after the login.
    Reset,
}

impl Work for MyWork {
    fn part(&self, whole: &str, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::Query { single: false, .. } => {
                let text = Bytes::copy_from_slice(&whole.as_bytes()[range]);
                Self::Query { text, single: false }
            }
            other => other.clone(),
        }
    }

    fn rewritten(&self, text: &str) -> Option<Self> {
        match self {
            Self::Query { single, .. } => {
                let text = Bytes::copy_from_slice(text.as_bytes());
                Some(Self::Query { text, single: *single })
            }
            Self::Execute { prepared, parameters } => {
                let home = prepared.home.upgrade()?;
                let prepared = Inner::intern(&home, text, prepared.epoch);
                Some(Self::Execute { prepared, parameters: parameters.clone() })
            }
            _ => None,
        }
    }

    fn effect(&self, text: &str, rows: Option<u64>) -> Option<Effect> {
        match self {
            Self::Query { .. } => Some(Effect::Text { sql: text.to_owned(), rows }),
            Self::Execute { prepared, parameters } => Some(Effect::Bound {
                sql: prepared.text.sql.clone(),
                types: Vec::new(),
                bind: parameters.to_vec(),
                rows,
            }),
            Self::Prepare { .. } | Self::Columns(_) | Self::Reset => None,
        }
    }

    fn is_fixed(&self, doubtful: &[TimeParam]) -> bool {
        // The clock is a part of the context that every follower gets.
        doubtful.is_empty()
    }

    fn may_join(&self) -> bool {
        // LAST_INSERT_ID(), ROW_COUNT() and SHOW WARNINGS belong to the connection that ran it.
        false
    }

    fn may_return(&self, _shown: usize) -> bool {
        matches!(self, Self::Query { .. } | Self::Execute { .. })
    }

    fn answers_in_text(&self) -> bool {
        false // What a statement gives back is not compared here; how many rows it changed is.
    }

    fn texts(&self) -> Vec<&Arc<Text>> {
        match self {
            Self::Prepare { prepared, .. } | Self::Execute { prepared, .. } => {
                vec![&prepared.text]
            }
            Self::Query { .. } | Self::Columns(_) | Self::Reset => Vec::new(),
        }
    }

    fn parameter(&self, _number: u32) -> Option<Option<String>> {
        None // No statement of the proxy's own takes one here.
    }

    fn brings(&self, numbers: &Numbers) -> bool {
        let Self::Execute { parameters, .. } = self else { return false };
        cut::are_numbers(parameters, numbers.of, &numbers.places).unwrap_or(false)
    }

    fn needs_backend(&self) -> bool {
        true
    }

    fn resets(&self) -> bool {
        matches!(self, Self::Reset)
    }

    fn is_partial(&self) -> bool {
        false
    }

    fn described(&self) -> Option<&str> {
        match self {
            Self::Prepare { prepared, .. } => Some(&prepared.text.sql),
            _ => None,
        }
    }
}

/// The statements that sessions share, by text.
#[derive(Debug)]
pub struct Statements {
    /// Since when the proxy has known any.
    pub since: tokio::time::Instant,
    catalogs: Arc<Catalogs>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    live: Arc<Live>,
    next: u64,
    prepared: HashMap<(String, u64), Arc<Prepared>>,
}

impl Statements {
    /// Keeps as many statements as the limits in force say; beyond that, those that no session uses are forgotten.
    pub fn new(live: Arc<Live>, catalogs: Arc<Catalogs>) -> Self {
        let inner = Inner { live, next: 0, prepared: HashMap::new() };
        let since = tokio::time::Instant::now();
        Self { since, catalogs, inner: Arc::new(Mutex::new(inner)) }
    }

    /// The one shared copy of a statement.
    pub fn intern(&self, sql: &str) -> Arc<Prepared> {
        // After DDL the same text is another statement: what was prepared before may not fit.
        Inner::intern(&self.inner, sql, self.catalogs.epoch())
    }
}

impl Inner {
    fn intern(home: &Arc<Mutex<Self>>, sql: &str, epoch: u64) -> Arc<Prepared> {
        let mut inner = home.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (sql.to_owned(), epoch);
        if let Some(found) = inner.prepared.get(&key) {
            return found.clone();
        }
        let limit = inner.live.bounds().statement_cache;
        if inner.prepared.len() >= limit {
            inner.prepared.retain(|_, prepared| Arc::strong_count(prepared) > 1);
        }
        inner.next += 1;
        let text = Arc::new(Text::new(sql.to_owned()));
        let home = Arc::downgrade(home);
        let prepared = Arc::new(Prepared { id: inner.next, text, epoch, home });
        if inner.prepared.len() < limit {
            inner.prepared.insert(key, prepared.clone());
        }
        prepared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &'static str, single: bool) -> MyWork {
        MyWork::Query { text: Bytes::from_static(text.as_bytes()), single }
    }

    fn text(work: &MyWork) -> &[u8] {
        match work {
            MyWork::Query { text, .. } => text,
            other => panic!("{other:?} is no text"),
        }
    }

    #[test]
    fn a_text_is_cut_only_for_who_said_that_it_sends_several() {
        let whole = "select 1; select 2";
        assert_eq!(text(&query(whole, false).part(whole, 10..18)), b"select 2");
        assert_eq!(text(&query(whole, true).part(whole, 10..18)), whole.as_bytes());
    }

    #[test]
    fn parameters_travel_as_they_are() {
        let live = Live::new(crate::config::Bounds::default());
        let statements =
            Statements::new(live, Arc::new(Catalogs::new(lockstep_protocol::Dialect::MySql)));
        let prepared = statements.intern("insert into t values (?)");
        assert!(Arc::ptr_eq(&prepared, &statements.intern("insert into t values (?)")));
        let parameters = Bytes::from_static(b"\x00\x01\x08\x00\x07\0\0\0\0\0\0\0");
        let work = MyWork::Execute { prepared, parameters: parameters.clone() };
        let effect = work.effect("", Some(1));
        let Some(Effect::Bound { sql, bind, rows, .. }) = effect else { panic!("{effect:?}") };
        assert_eq!((sql.as_str(), rows), ("insert into t values (?)", Some(1)));
        assert_eq!(bind, parameters);
    }
}
