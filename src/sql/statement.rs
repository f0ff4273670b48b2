//! What the classifier says about a statement: plain data, nothing more.

use super::context::Context;
use std::ops::Range;

pub use super::control::{Isolation, Modes, READ_ONLY, SetOp, Setting, Told, TxOp};
pub(super) use super::indirect::{Around, Indirect, Source};
use super::question::{Drawn, Own};
pub use super::refusal::Refusal;
pub use super::schema::{Ddl, DdlStep, Implicit, Maintenance, Outside, Password, Split};

/// One client string, cut into statements. No statement at all is PostgreSQL's empty query.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// The statements in their order.
    pub statements: Vec<Statement>,
}

/// One statement and what may be relied upon about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Its bytes in the client's string, without the `;`. Leading comments may be inside.
    pub range: Range<usize>,
    /// How it has to be run.
    pub class: Class,
    /// A short kind for statistics: `select`, `insert`, `ddl`, `begin`, …
    pub tag: &'static str,
    /// The tables whose rows it may read, views and descendants followed.
    pub reads: Touched,
    /// The tables whose rows it may change, cascades and descendants followed.
    pub writes: Touched,
    /// The sequences that it may move on the leader.
    pub sequences: Sequences,
    /// It takes locks without writing (FOR UPDATE, LOCK TABLE): they must be taken again when the
    /// leader dies.
    pub locks_rows: bool,
    /// Which rows it locks depends on nothing but these rows: later in the same transaction it locks the same ones
    /// again, whatever that has written, as long as nobody else has.
    pub relocks: bool,
    /// It reads a value that belongs to the transaction (`now()`, `txid_current()`): inside a
    /// transaction only the leader knows the right answer.
    pub clock: bool,
    /// It may set a sequence to a value behind the last one (`setval()`, RESTART): a bound that
    /// only ever moves forward is not enough, the followers need the exact value.
    pub resets_sequences: bool,
    /// It calls `currval()` or `lastval()`: what it reads was left in the server session by an
    /// earlier `nextval()`, so it must run on the connection that ran that one.
    pub uses_currval: bool,
    /// It is nothing but such a call.
    pub drawn: Option<Box<Drawn>>,
    /// Temporary relations it makes, by their bare names.
    pub creates_temp: Vec<String>,
    /// Temporary relations it drops (or renames away), by their bare names.
    pub drops: Vec<String>,
    /// The relations of `creates_temp` go away at the end of the transaction (ON COMMIT DROP).
    pub temp_until_commit: bool,
    /// The client gets a row description.
    pub returns_rows: bool,
    /// A bare `SELECT set_config('key', 'value', local)` of three constants.
    pub set_config: Option<(String, String, bool)>,
    /// The modes of BEGIN, SET TRANSACTION and SET SESSION CHARACTERISTICS.
    pub modes: Option<Modes>,
    /// Of a captured statement that would be keyed if only the values bound to these parameters
    /// are: it may be run as [`Class::Keyed`] when [`TimeParam::is_fixed`] holds for all of them.
    pub keyed_if: Vec<TimeParam>,
    /// Of a captured statement whose whole outcome a RETURNING list can tell.
    pub returned: Option<Box<Returned>>,
    /// Of a keyed statement: what it returns has the same bytes on every backend, in text and in
    /// binary form.
    pub portable: bool,
    /// The cursor of DECLARE, FETCH, MOVE and CLOSE (None in `CLOSE ALL`). A FETCH from a cursor
    /// that the session never saw declared may run a function's query: treat it as captured.
    pub cursor: Option<String>,
    /// What of the leader's session a follower is given before it repeats the same bytes.
    pub context: Context,
    /// It ends the transaction that is open, as a COMMIT before it would.
    pub commits: bool,
    /// Values that the leader chooses before it runs the statement.
    pub pins: Vec<Pin>,
    /// Of a keyed statement: a trigger or a routine may write what the number of its rows does not tell.
    pub beyond_rows: bool,
    /// It runs several statements one after the other: where one fails, the server keeps what those
    /// before it wrote.
    pub in_steps: bool,
}

/// A value that every server would choose for itself, and the leader chooses for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What is replaced in the client's string; empty where something is put in.
    pub range: Range<usize>,
    /// What takes its place, with a user variable in it where a value is chosen.
    pub text: String,
    /// The variable, without the `@`, and the expression that its value is chosen by.
    pub chosen: Option<(String, String)>,
}

/// A write that is captured by what it returns: the leader gives back the columns that the followers
/// are sent, behind those that the client has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// What the leader runs.
    pub leader: String,
    /// What a follower runs for each row that came back, with its columns as parameters.
    pub followers: String,
    /// How many columns in front are the client's own.
    pub shown: usize,
    /// How many columns behind them are the followers'.
    pub columns: usize,
    /// Which of these were drawn from a sequence.
    pub draws: Vec<Draw>,
    /// Other sequences that may have moved.
    pub asks: Sequences,
    /// Where the rows come back as text, in the followers' own words.
    pub spelt: Option<Spelt>,
    /// Where the rows are locked and read by their keys around the statement.
    pub keys: Option<Keys>,
}

/// The user variable in which an upsert on the leader counts the rows that were there already.
pub const MET: &str = "@lockstep_met";

/// Rows that come back as the text that stands for them in the followers' statement, which
/// [`Returned::followers`] begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelt {
    /// What ends the followers' statement, behind the rows.
    pub ending: String,
    /// Rows are numbered by the server.
    pub numbered: bool,
    /// A row that comes back may have taken the place of others, which count as well.
    pub replaces: bool,
    /// The answer says how many rows there were in words, too.
    pub several: bool,
    /// The statement counts in [`MET`] the rows that were there already.
    pub meets: bool,
}

/// How the rows that a statement changes are found before it runs, so that it and the followers change
/// them by their keys. Then [`Returned::leader`] is the statement up to its condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The query that locks the rows: of each the key, and what stands in the columns that are written.
    pub lock: String,
    /// Which of the statement's parameters it takes; the rest are the statement's.
    pub parameters: Range<usize>,
    /// How many parameters there are.
    pub of: usize,
    /// What stands before, between and behind the keys in a condition.
    pub condition: [String; 3],
    /// What ends the leader's statement, behind the condition.
    pub ending: String,
    /// The query, up to its condition, that reads the same once more afterwards. Without one the rows
    /// are gone.
    pub again: Option<String>,
    /// Each row is written by a statement of its own.
    pub singly: bool,
}

/// A column that got its value from a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Its place among the followers' columns.
    pub place: usize,
    /// The sequence, as the server quotes it.
    pub sequence: String,
    /// Its step.
    pub increment: i64,
}

/// A parameter that goes into a column of a date/time type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeParam {
    /// Its number, from 1.
    pub number: u32,
    /// The column's type.
    pub type_name: String,
}

/// A set of tables, as `schema.table` without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Proved to be none.
    None,
    /// At most these.
    Tables(Vec<String>),
    /// Not known: any.
    Unknown,
}

impl Touched {
    /// Whether a table may be in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => false,
            (Self::Unknown, _) | (_, Self::Unknown) => true,
            (Self::Tables(a), Self::Tables(b)) => a.iter().any(|table| b.contains(table)),
        }
    }

    pub(super) fn add(&mut self, table: &str) {
        match self {
            Self::None => *self = Self::Tables(vec![table.to_owned()]),
            Self::Tables(tables) => {
                if !tables.iter().any(|known| known == table) {
                    tables.push(table.to_owned());
                }
            }
            Self::Unknown => {}
        }
    }

    /// Adds those of another set.
    pub fn merge(&mut self, other: &Self) {
        match other {
            Self::None => {}
            Self::Tables(tables) => tables.iter().for_each(|table| self.add(table)),
            Self::Unknown => *self = Self::Unknown,
        }
    }
}

/// A set of sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sequences {
    /// Proved to be none.
    None,
    /// At most these, each as `quote_ident(schema) || '.' || quote_ident(name)`.
    Named(Vec<String>),
    /// Not known: any.
    Any,
}

impl Sequences {
    pub(super) fn add(&mut self, sequence: &str) {
        match self {
            Self::None => *self = Self::Named(vec![sequence.to_owned()]),
            Self::Named(names) => {
                if !names.iter().any(|known| known == sequence) {
                    names.push(sequence.to_owned());
                }
            }
            Self::Any => {}
        }
    }

    pub(super) fn remove(&mut self, sequence: &str) {
        if let Self::Named(names) = self {
            names.retain(|known| known != sequence);
            if names.is_empty() {
                *self = Self::None;
            }
        }
    }

    /// Adds those of another set.
    pub fn merge(&mut self, other: &Self) {
        match other {
            Self::None => {}
            Self::Named(names) => names.iter().for_each(|name| self.add(name)),
            Self::Any => *self = Self::Any,
        }
    }
}

/// How long state that a statement leaves in the server session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Not beyond the statement.
    Statement,
    /// Until the transaction ends.
    Transaction,
    /// Until the server session ends.
    Session,
}

/// What only the session itself knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// How many rows the statement before changed; -1 where it was not about that.
    Changed,
    /// How many rows the last statement that gave any gave back.
    Shown,
    /// The number that the client was told at its login.
    Number,
}

/// A call that the session answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// Where it stands in the client's string.
    pub range: Range<usize>,
    /// What it asks for.
    pub what: Recall,
    /// What follows the value, where a column gets its name from the call.
    pub name: String,
}

/// How a statement has to be run.
#[derive(Debug, Clone, PartialEq)]
pub enum Class {
    /// May be balanced.
    Read,
    /// Changes no row that others see, but belongs on the leader.
    LeaderRead {
        /// How long the session must stay on that connection.
        hold: Hold,
    },
    /// The same bytes go to the followers.
    Keyed,
    /// Runs on the leader with capture on.
    Captured {
        /// How long the session must stay on that connection.
        hold: Hold,
    },
    /// A bulk load that the application sends.
    CopyIn(CopyIn),
    /// The same text everywhere, inside the transaction.
    Ddl(Ddl),
    /// May not run inside a transaction (or need not: ANALYZE).
    Maintenance(Maintenance),
    /// Settings.
    Set(SetOp),
    /// Transaction control.
    Tx(TxOp),
    /// DEALLOCATE name, or ALL when there is none.
    Deallocate(Option<String>),
    /// DISCARD ALL.
    DiscardAll,
    /// The other kinds of DISCARD.
    Discard(Discard),
    /// SQL EXECUTE: the class is that of the prepared body.
    Execute(String),
    /// SQL PREPARE.
    PrepareSql {
        /// The name it is prepared under.
        name: String,
        /// The statement that EXECUTE will run. Its range lies in the client's string.
        body: Box<Statement>,
    },
    /// A statement with calls in it that only the session itself can answer: it is judged again with the
    /// answers in their places.
    Recall(Vec<Recalled>),
    /// A statement about another one, whose text has to be looked up first.
    Indirect(Box<Indirect>),
    /// LISTEN channel.
    Listen(String),
    /// UNLISTEN channel, or `*` when there is none.
    Unlisten(Option<String>),
    /// NOTIFY: on the leader alone, else each listener would hear it from every backend.
    Notify,
    /// Cancels what another session of the same user runs.
    Kill {
        /// The number the session was told at its login.
        number: u32,
        /// The session ends, too.
        whole: bool,
    },
    /// Keeps others' writes away from tables, until [`Class::UnlockTables`].
    LockTables(Vec<TableLock>),
    /// Frees what [`Class::LockTables`] has locked.
    UnlockTables,
    /// The proxy answers it: no backend knows.
    Own(Own),
    /// Cannot be made the same on all backends.
    Refused(Refusal),
}

/// The kinds of DISCARD that leave the session as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// DISCARD PLANS.
    Plans,
    /// DISCARD SEQUENCES.
    Sequences,
    /// DISCARD TEMP.
    Temp,
}

/// A table to be locked for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLock {
    /// As `schema.table`.
    pub table: String,
    /// Nobody else locks it; otherwise, nobody at all writes to it.
    pub whole: bool,
}

/// A bulk load whose stream every backend gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bulk {
    /// The statement that locks the table first, where its rows would not lock themselves.
    pub lock: Option<String>,
}

/// A bulk load that the application sends: COPY … FROM STDIN, LOAD DATA LOCAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyIn {
    /// The table, as `schema.table`, or as written where it is not known.
    pub table: String,
    /// How the same stream may go to all; None: deep capture.
    pub bulk: Option<Bulk>,
    /// The table is temporary: leader only, nothing to capture.
    pub writes_temp: bool,
}

impl Statement {
    /// Whether a connection for reads would take it for its own that transactions may write from now on.
    #[must_use]
    pub fn opens_for_writes(&self) -> bool {
        match (&self.class, &self.set_config) {
            (Class::Set(op), _) => op.is_about_writing(),
            (_, Some((key, ..))) => key == READ_ONLY,
            _ => false,
        }
    }

    /// A statement of this class that touches nothing; the caller adds what it knows.
    pub(super) fn new(tag: &'static str, class: Class) -> Self {
        Self {
            range: 0..0,
            class,
            tag,
            reads: Touched::None,
            writes: Touched::None,
            sequences: Sequences::None,
            locks_rows: false,
            relocks: false,
            clock: false,
            resets_sequences: false,
            uses_currval: false,
            drawn: None,
            creates_temp: Vec::new(),
            drops: Vec::new(),
            temp_until_commit: false,
            returns_rows: false,
            set_config: None,
            modes: None,
            keyed_if: Vec::new(),
            portable: false,
            cursor: None,
            context: Context::default(),
            commits: false,
            pins: Vec::new(),
            beyond_rows: false,
            in_steps: false,
            returned: None,
        }
    }

    /// Of a statement that nobody could look into: whatever it may do, it may do.
    pub(super) fn opaque(tag: &'static str) -> Self {
        Self {
            reads: Touched::Unknown,
            writes: Touched::Unknown,
            sequences: Sequences::Any,
            clock: true,
            returns_rows: true,
            ..Self::new(tag, Class::Captured { hold: Hold::Session })
        }
    }

    /// A change of the schema that runs everywhere.
    pub(super) fn ddl(ddl: Ddl) -> Self {
        Self { writes: Touched::Unknown, ..Self::new("ddl", Class::Ddl(ddl)) }
    }

    /// A change of temporary objects only.
    pub(super) fn temporary(hold: Hold) -> Self {
        Self::new("ddl", Class::LeaderRead { hold })
    }

    pub(super) fn maintenance(tag: &'static str, kind: Maintenance) -> Self {
        Self::new(tag, Class::Maintenance(kind))
    }

    /// The statement with variables in the place of what the leader chooses, and these with the
    /// expressions that choose their values. `whole` is the client's string.
    pub fn with_pins(&self, whole: &str) -> (String, Vec<(String, String)>) {
        let (mut text, mut at) = (String::new(), self.range.start);
        for pin in &self.pins {
            text.push_str(&whole[at..pin.range.start]);
            text.push_str(&pin.text);
            at = pin.range.end;
        }
        text.push_str(&whole[at..self.range.end]);
        (text, self.pins.iter().filter_map(|pin| pin.chosen.clone()).collect())
    }

    pub(super) fn is_captured(&self) -> bool {
        matches!(self.class, Class::Captured { .. })
    }

    pub(super) fn refused(tag: &'static str, refusal: Refusal) -> Self {
        Self::new(tag, Class::Refused(refusal))
    }
}
