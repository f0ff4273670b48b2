//! PostgreSQL's form of a statement: a simple query, or the steps of an extended one.
//!
//! Statement names are the application's own affair: a prepared statement is known by the identity of
//! its text and parameter types, and every connection to a database learns it when it first needs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use lockstep_protocol::pg::client;

use crate::catalog::{Catalogs, Text};
use crate::config::Live;
use crate::encoding::Encoding;
use crate::exchange::Work;
use crate::sql::{Numbers, TimeParam, value_reads_clock};
use crate::store::journal::Effect;

/// A prepared statement as all sessions share it.
#[derive(Debug)]
pub struct Prepared {
    /// Unique in this process.
    pub id: u64,
    /// Its name on the servers.
    pub name: String,
    /// The SQL text, with its classification.
    pub text: Arc<Text>,
    /// Parameter types given with Parse.
    pub types: Vec<u32>,
}

impl Prepared {
    /// A statement with a number that no other one has.
    #[must_use]
    pub fn new(id: u64, text: String, types: Vec<u32>) -> Self {
        Self { id, name: format!("ls_{id}"), text: Arc::new(Text::new(text)), types }
    }
}

/// The identity of statements that are run once, and under no name.
pub const UNSHARED: u64 = 1 << 61;
/// Marks the identity of a statement that was rewritten from another one.
const REWRITTEN: u64 = 1 << 62;

/// How the application refers to a prepared statement.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The statement.
    pub prepared: Arc<Prepared>,
    /// Whether the application gave it a name. Unnamed ones are not kept on the servers.
    pub named: bool,
}

/// One message of the extended protocol.
#[derive(Clone, Debug)]
pub enum Step {
    /// Parse.
    Parse(Reference),
    /// Bind.
    Bind {
        /// The portal that it makes.
        portal: String,
        /// The statement.
        statement: Reference,
        /// The message from the format codes on.
        rest: Bytes,
    },
    /// Describe of a statement.
    DescribeStatement(Reference),
    /// Describe of a portal.
    DescribePortal(String),
    /// Execute.
    Execute {
        /// The portal.
        portal: String,
        /// After how many rows it is suspended; 0: never.
        max_rows: u32,
    },
    /// Close of a statement: the application's name goes, the server's copy stays.
    CloseStatement,
    /// Close of a portal.
    ClosePortal(String),
}

/// What a PostgreSQL backend is asked to run.
#[derive(Clone, Debug)]
pub enum PgWork {
    /// A simple query.
    Query(Arc<str>),
    /// Messages of the extended protocol, up to an Execute.
    Steps(Vec<Step>),
}

impl Work for PgWork {
    fn part(&self, whole: &str, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::Query(_) => {
                // Positions count characters: a blank stands for each one before the statement.
                let mut text = " ".repeat(whole[..range.start].chars().count());
                text.push_str(&whole[range]);
                Self::Query(text.into())
            }
            Self::Steps(_) => self.clone(),
        }
    }

    fn rewritten(&self, text: &str) -> Option<Self> {
        match self {
            Self::Query(_) => Some(Self::Query(text.into())),
            Self::Steps(steps) => {
                let old = steps.iter().find_map(|step| match step {
                    Step::Bind { statement, .. } => Some(statement),
                    _ => None,
                })?;
                // Never shared and never kept: a rewritten text is run once.
                let id = old.prepared.id | REWRITTEN;
                let types = old.prepared.types.clone();
                let prepared = Arc::new(Prepared::new(id, text.to_owned(), types));
                let reference = Reference { prepared, named: false };
                let swap = |step: &Step| match step {
                    Step::Parse(_) => Step::Parse(reference.clone()),
                    Step::Bind { portal, rest, .. } => Step::Bind {
                        portal: portal.clone(),
                        statement: reference.clone(),
                        rest: rest.clone(),
                    },
                    Step::DescribeStatement(_) => Step::DescribeStatement(reference.clone()),
                    other => other.clone(),
                };
                Some(Self::Steps(steps.iter().map(swap).collect()))
            }
        }
    }

    fn effect(&self, text: &str, rows: Option<u64>) -> Option<Effect> {
        match self {
            Self::Query(_) => Some(Effect::Text { sql: text.to_owned(), rows }),
            Self::Steps(steps) => {
                let mut binds = steps.iter().filter_map(|step| match step {
                    Step::Bind { statement, rest, .. } => Some((statement, rest)),
                    _ => None,
                });
                let (statement, rest) = binds.next_back()?;
                Some(Effect::Bound {
                    sql: statement.prepared.text.sql.clone(),
                    types: statement.prepared.types.clone(),
                    bind: rest.to_vec(),
                    rows,
                })
            }
        }
    }

    fn is_fixed(&self, doubtful: &[TimeParam]) -> bool {
        let Self::Steps(steps) = self else {
            return doubtful.is_empty();
        };
        let bind = steps.iter().rev().find_map(|step| match step {
            Step::Bind { portal, statement, rest } => Some((portal, statement, rest)),
            _ => None,
        });
        let Some((portal, statement, rest)) = bind else {
            return false;
        };
        let types = &statement.prepared.types;
        if doubtful.is_empty() && types.is_empty() {
            return true;
        }
        let bind = client::Bind { portal, statement: "", rest };
        let Ok(params) = bind.params() else {
            return false;
        };
        let declared = types.iter().zip(&params.values).enumerate().all(|(n, (oid, value))| {
            let text = value.filter(|_| params.format(n) == 0);
            text.is_none_or(|text| !value_reads_clock(*oid, text))
        });
        declared
            && doubtful.iter().all(|param| {
                let Some(n) = usize::try_from(param.number).ok().and_then(|n| n.checked_sub(1))
                else {
                    return false;
                };
                let oid = types.get(n).copied().unwrap_or(0);
                let value = params.values.get(n).copied().flatten();
                param.is_fixed(oid, params.format(n) == 1, value)
            })
    }

    fn may_return(&self, shown: usize) -> bool {
        // Formats that do not fit the columns are for the server to complain of.
        let fits = |step: &Step| match step {
            Step::Bind { portal, rest, .. } => {
                let params = client::Bind { portal, statement: "", rest }.params();
                params.is_ok_and(|p| p.result_formats.len() < 2 || p.result_formats.len() == shown)
            }
            _ => true,
        };
        self.may_join() && !matches!(self, Self::Steps(steps) if !steps.iter().all(fits))
    }

    fn may_join(&self) -> bool {
        let steps = match self {
            // A parameter in a text that has none is a mistake, which the extended protocol words
            // differently.
            Self::Query(text) => return !text.contains('$'),
            Self::Steps(steps) => steps,
        };
        let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count();
        let closes = |step: &Step| matches!(step, Step::CloseStatement | Step::ClosePortal(_));
        count(|step| matches!(step, Step::Bind { .. })) == 1
            && count(|step| matches!(step, Step::Execute { .. })) == 1
            && count(|step| matches!(step, Step::Parse(_))) <= 1
            && !steps.iter().any(closes)
            && !self.is_partial()
    }

    fn described(&self) -> Option<&str> {
        let Self::Steps(steps) = self else {
            return None;
        };
        steps.iter().rev().find_map(|step| match step {
            Step::DescribeStatement(statement) | Step::Bind { statement, .. } => {
                Some(statement.prepared.text.sql.as_str())
            }
            _ => None,
        })
    }

    fn texts(&self) -> Vec<&Arc<Text>> {
        let Self::Steps(steps) = self else {
            return Vec::new();
        };
        let named = steps.iter().filter_map(|step| match step {
            Step::Parse(statement)
            | Step::Bind { statement, .. }
            | Step::DescribeStatement(statement) => Some(&statement.prepared.text),
            _ => None,
        });
        named.collect()
    }

    fn brings(&self, _numbers: &Numbers) -> bool {
        false // Numbers come from sequences here, and sequences have ways of their own.
    }

    fn parameter(&self, number: u32) -> Option<Option<String>> {
        let Self::Steps(steps) = self else {
            return None;
        };
        let (portal, rest) = steps.iter().rev().find_map(|step| match step {
            Step::Bind { portal, rest, .. } => Some((portal, rest)),
            _ => None,
        })?;
        let bind = client::Bind { portal, statement: "", rest };
        let place = usize::try_from(number).ok()?.checked_sub(1)?;
        // Texts travel as they are in either format.
        let value = *bind.params().ok()?.values.get(place)?;
        Some(value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }

    fn answers_in_text(&self) -> bool {
        matches!(self, Self::Query(_))
    }

    fn needs_backend(&self) -> bool {
        let closes = |step: &Step| matches!(step, Step::CloseStatement);
        !matches!(self, Self::Steps(steps) if steps.iter().all(closes))
    }

    fn resets(&self) -> bool {
        false // SQL has DISCARD ALL for that.
    }

    fn is_partial(&self) -> bool {
        match self {
            Self::Query(_) => false,
            Self::Steps(steps) => {
                let binds = steps.iter().any(|s| matches!(s, Step::Bind { .. }));
                let executes = steps.iter().any(|s| matches!(s, Step::Execute { .. }));
                let limited = steps
                    .iter()
                    .any(|s| matches!(s, Step::Execute { max_rows, .. } if *max_rows > 0));
                let named = steps
                    .iter()
                    .any(|s| matches!(s, Step::Bind { portal, .. } if !portal.is_empty()));
                let elsewhere = !binds
                    && steps
                        .iter()
                        .any(|s| matches!(s, Step::DescribePortal(_) | Step::ClosePortal(_)));
                limited || named || elsewhere || (binds != executes)
            }
        }
    }
}

impl PgWork {
    /// The text of a simple query, or of the statement that is bound.
    pub fn text(&self) -> &str {
        match self {
            Self::Query(text) => text,
            Self::Steps(_) => self.described().unwrap_or_default(),
        }
    }

    /// The same as steps of the extended protocol, for a statement with another text whose result
    /// has `shown` columns of the application's, and `more` behind them, in binary form, of ours.
    pub fn extended(
        &self,
        swap: &dyn Fn(&[u32]) -> Arc<Prepared>,
        shown: usize,
        more: usize,
    ) -> Vec<Step> {
        let columns = |formats: &[u16]| {
            let each = (0..shown).map(|n| match formats {
                [] => 0,
                [all] => *all,
                each => each.get(n).copied().unwrap_or(0),
            });
            each.chain(std::iter::repeat_n(1, more)).collect::<Vec<u16>>()
        };
        match self {
            Self::Query(_) => {
                let reference = Reference { prepared: swap(&[]), named: false };
                let rest = client::bind_rest(&[], &columns(&[])).freeze();
                vec![
                    Step::Parse(reference.clone()),
                    Step::Bind { portal: String::new(), statement: reference, rest },
                    Step::DescribePortal(String::new()),
                    Step::Execute { portal: String::new(), max_rows: 0 },
                ]
            }
            Self::Steps(steps) => {
                let mut other: Option<Arc<Prepared>> = None;
                let mut refer = |reference: &Reference| Reference {
                    prepared: other.get_or_insert_with(|| swap(&reference.prepared.types)).clone(),
                    named: reference.named,
                };
                steps
                    .iter()
                    .map(|step| match step {
                        Step::Parse(reference) => Step::Parse(refer(reference)),
                        Step::DescribeStatement(reference) => {
                            Step::DescribeStatement(refer(reference))
                        }
                        Step::Bind { portal, statement, rest } => Step::Bind {
                            portal: portal.clone(),
                            statement: refer(statement),
                            // `may_return` has seen that it can be read.
                            rest: client::with_result_formats(rest, columns)
                                .map_or_else(|_| rest.clone(), bytes::BytesMut::freeze),
                        },
                        same => same.clone(),
                    })
                    .collect()
            }
        }
    }
}

/// The statements that sessions share, by text and parameter types.
#[derive(Debug)]
pub struct Statements {
    live: Arc<Live>,
    catalogs: Arc<Catalogs>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    prepared: HashMap<(String, Vec<u32>, u64, Encoding), Arc<Prepared>>,
}

impl Statements {
    /// Keeps as many statements as the limits in force say; beyond that, those that no session uses are forgotten.
    pub fn new(live: Arc<Live>, catalogs: Arc<Catalogs>) -> Self {
        Self { live, catalogs, inner: Mutex::default() }
    }

    /// The one shared copy of a statement. A server may take the same text, written in two encodings,
    /// for two.
    pub fn intern(&self, sql: &str, types: &[u32], encoding: Encoding) -> Arc<Prepared> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // After DDL the same text is another statement: what was prepared before has another answer.
        let key = (sql.to_owned(), types.to_vec(), self.catalogs.epoch(), encoding);
        if let Some(found) = inner.prepared.get(&key) {
            return found.clone();
        }
        let limit = self.live.bounds().statement_cache;
        if inner.prepared.len() >= limit {
            inner.prepared.retain(|_, prepared| Arc::strong_count(prepared) > 1);
        }
        inner.next += 1;
        let prepared = Arc::new(Prepared::new(inner.next, sql.to_owned(), types.to_vec()));
        if inner.prepared.len() < limit {
            inner.prepared.insert(key, prepared.clone());
        }
        prepared
    }
}
