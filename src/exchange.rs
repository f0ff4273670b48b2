//! The narrow waist between the replication core and the wire protocols.
//!
//! The core sees statements, outcomes and effects; what travels on the wire is an opaque `Work` that
//! only the two ends of one protocol understand. A method that would have meaning in one dialect
//! only does not belong here.

// The traits are used with concrete types wherever a future must be `Send`, so that native
// `async fn` is enough and no helper crate is needed.
#![allow(async_fn_in_trait)]

mod aim;
mod broken;
mod found;
mod sink;

use std::future::Future;
use std::sync::Arc;

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::catalog::Text;
use crate::error::Failure;
use crate::sql::Numbers;
use crate::store::control::Sequence;
use crate::store::journal::Effect;

pub use aim::{Aim, Shot, Target};
pub use broken::{Broken, DISK_FULL, Mishap, ServerError, struck};
pub use found::{Findings, Found};
pub use sink::{Discard, Gathered, Gone, Sink};

/// A wire protocol: the two conversations that the core puts together.
pub trait Protocol: Sized + Send + Sync + 'static {
    /// What a backend is asked to run; opaque to the core.
    type Work: Work;
    /// The conversation with an application.
    type Client: Client<Work = Self::Work>;
    /// The conversation with a database.
    type Link: Link<Work = Self::Work>;
    /// How its statements and transactions go together.
    const MANNERS: Manners;
}

/// How statements and transactions go together in a dialect.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// An error fails the whole transaction; else it undoes its own statement and no more.
    pub error_fails_transaction: bool,
    /// The statements of one batch are one transaction; else each is one of its own.
    pub batch_is_transaction: bool,
    /// What a SET chose, and the temporary tables that were made, stay when their transaction is undone.
    pub settings_outlast: bool,
    /// A savepoint outside of a transaction is no mistake: it is gone with its statement.
    pub lone_savepoints: bool,
    /// Sessions lock tables by statements of their own, which no server sees: writes look for such locks.
    pub locks_tables: bool,
    /// Followers may be sent a short transaction in parts before it ends; else it is cheapest in one piece.
    pub shares_in_parts: bool,
    /// The settings that the session keeps when it begins anew as it was after the login.
    pub kept_by_reset: &'static [&'static str],
    /// The settings that choose the isolation level of transactions that do not choose one.
    pub isolation_keys: &'static [&'static str],
    /// The level where they choose none.
    pub isolation: crate::sql::Isolation,
}

/// One statement as it travels on the wire.
pub trait Work: Clone + Send + Sync + 'static {
    /// One statement of a string of several; positions in errors still count from the string's start.
    fn part(&self, whole: &str, range: std::ops::Range<usize>) -> Self;
    /// The same with another text, for a statement that has to be rewritten. `None` when its form
    /// does not allow it (an extended query with parameters).
    fn rewritten(&self, text: &str) -> Option<Self>;
    /// The effect that repeats this statement with the same bytes on a follower.
    fn effect(&self, text: &str, rows: Option<u64>) -> Option<Effect>;
    /// Whether the same bytes mean the same on every server: no bound value reads the clock, and
    /// the values that the classifier was not sure of are fixed.
    fn is_fixed(&self, doubtful: &[crate::sql::TimeParam]) -> bool;
    /// Whether it may be run with a RETURNING list of ours behind the `shown` columns of its own: one
    /// statement, run to its end.
    fn may_return(&self, shown: usize) -> bool;
    /// Whether it may run in one transaction with statements of other sessions: one statement, run to
    /// its end, that neither reads nor leaves anything of its server's session.
    fn may_join(&self) -> bool;
    /// Whether a database has any part in it: closing a statement is the application's affair alone.
    fn needs_backend(&self) -> bool;
    /// Whether what it gives back comes in text form.
    fn answers_in_text(&self) -> bool;
    /// Whether it may leave an open portal behind that later requests read on from.
    fn is_partial(&self) -> bool;
    /// The statement that is described or bound here, whether or not it is run.
    fn described(&self) -> Option<&str>;
    /// Whether it asks for nothing but the session as it was after the login.
    fn resets(&self) -> bool;
    /// The texts that are prepared, bound or described here, whether or not they are run.
    fn texts(&self) -> Vec<&Arc<Text>>;
    /// The value bound to a parameter, counted from 1, as text: the outer `None` when there is no
    /// such parameter, the inner one for NULL.
    fn parameter(&self, number: u32) -> Option<Option<String>>;
    /// Whether the parameters in these places are numbers that a server leaves as they are where it would number a row.
    fn brings(&self, numbers: &Numbers) -> bool;
}

/// What an application sent, up to the point where it waits for answers.
#[derive(Debug)]
pub struct Batch<W> {
    /// The statements, in order: one, most of the time.
    pub items: SmallVec<[Item<W>; 1]>,
    /// How the batch ends.
    pub end: End,
    /// What was wrong with the message after the last item, if anything.
    pub failure: Option<Failure>,
}

/// One piece of a batch: a text and the wire messages that belong to it.
#[derive(Debug)]
pub struct Item<W> {
    /// The SQL text to classify; `None` when nothing is executed (a Describe, a Close).
    pub text: Option<Arc<Text>>,
    /// What to send to the backend.
    pub work: W,
}

/// How a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The application waits for the ready sign.
    Ready,
    /// The application wants what there is so far; the batch goes on.
    Flush,
}

/// The state of an application's transaction, as it is told about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxState {
    /// No transaction block.
    Idle,
    /// In a transaction block.
    Open,
    /// In a transaction block that failed.
    Failed,
}

/// The conversation with an application.
pub trait Client: Sink {
    /// What a backend is asked to run.
    type Work: Work;
    /// Waits for the next batch.
    fn next(&mut self) -> impl Future<Output = Result<Batch<Self::Work>, Gone>> + Send;
    /// Answers a statement that no backend sees.
    fn answer(&mut self, work: &Self::Work, tag: &str);
    /// Answers a statement with rows of text columns.
    fn rows(&mut self, work: &Self::Work, table: &Table<'_>);
    /// Answers a statement with an error.
    fn fail(&mut self, failure: &Failure);
    /// Hands on an error as the database answered it.
    fn relay_error(&mut self, error: &ServerError);
    /// Tells that the next batch may come.
    fn ready(&mut self, state: TxState);
    /// Sends a warning.
    fn warn(&mut self, code: &str, message: &str);
    /// Why the application could not send a bulk load, where it has said so.
    fn refuses_bulk(&self) -> Option<Failure> {
        None
    }
    /// Waits for the next piece of a bulk load that the application sends.
    fn next_bulk(&mut self) -> impl Future<Output = Result<BulkPiece, Gone>> + Send;
    /// Whether the application sends the rest of a bulk load before it reads an answer, whatever has become of it.
    fn owes_bulk(&self) -> bool {
        false
    }
    /// Takes in the rest of a bulk load that has failed.
    fn skip_bulk(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Forgets prepared statements: all, or one by name. False when there is none of that name.
    fn forget_prepared(&mut self, name: Option<&str>) -> bool;
    /// From when on nothing is said to the application any more, nor heard from it, not even the rest of what is being
    /// said: it may take nothing.
    fn hang_up_on(&mut self, hangup: tokio_util::sync::CancellationToken);
    /// What only this end knows of the statements before. `None`: the server that ran them does.
    fn recall(&self, what: crate::sql::Recall) -> Option<i64> {
        let _ = what;
        None
    }
    /// Whether nothing is under way, so that the conversation could go on elsewhere: no request has come in part only.
    fn is_at_rest(&self) -> bool {
        false
    }
    /// From now on each batch can be taken back, until the next one begins.
    fn keep_requests(&mut self) {}
    /// Takes the last batch back, of which nothing was answered: it is unread again.
    fn take_back(&mut self) {}
    /// Says goodbye with an error and closes.
    fn close(&mut self, failure: &Failure) -> impl Future<Output = ()> + Send;
}

/// Rows of the proxy's own, and the statement that they answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table<'a> {
    /// What the columns are called; all of them are text.
    pub columns: &'a [&'a str],
    /// The rows.
    pub rows: &'a [Vec<Option<String>>],
    /// The command tag.
    pub tag: &'a str,
    /// How many parameters the statement takes; all of them are text.
    pub parameters: usize,
}

/// A piece of a bulk load.
#[derive(Debug)]
pub enum BulkPiece {
    /// Data, as it travels.
    Data(bytes::Bytes),
    /// The application has sent everything.
    Done,
    /// The application gave up, and says why.
    Fail(String),
}

/// How a statement ended on a backend. It is handed on through many hands, so it is small.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The error the backend answered, if any.
    pub error: Option<Box<ServerError>>,
    /// Rows affected or returned, where the answer says so.
    pub rows: Option<u64>,
    /// A hash of the rows returned.
    pub digest: u64,
    /// The length of the last message handed on: the one that says the statement is complete.
    pub completion: usize,
    /// The backend waits for a bulk load.
    pub bulk: bool,
    /// A cursor is still open on the connection.
    pub suspended: bool,
    /// What else was found out.
    pub found: Found,
}

/// What is looked at around a statement on the leader.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch<'a> {
    /// Every changed row is reported.
    pub rows: bool,
    /// The write is captured by what it returns.
    pub returned: Option<&'a crate::sql::Returned>,
    /// Sequences whose values are read afterwards.
    pub sequences: Option<&'a crate::sql::Sequences>,
    /// The rows of the answer are hashed.
    pub digest: bool,
    /// The statement opens a bulk load: nothing can be asked before that has ended.
    pub bulk: bool,
    /// The same text will run elsewhere: what its meaning depends on besides is fixed and reported.
    pub context: Option<&'a crate::sql::Context>,
    /// A savepoint is set before it, so that it alone can be taken back.
    pub undoable: bool,
}

/// The name of the savepoint before a statement that may have to be taken back.
pub const UNDO: &str = "lockstep_undo";

/// How a transaction is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxMode {
    /// Isolation level, where the application chose one.
    pub isolation: Option<crate::sql::Isolation>,
    /// READ ONLY or READ WRITE, where the application chose.
    pub read_only: Option<bool>,
    /// DEFERRABLE, where the application chose.
    pub deferrable: Option<bool>,
    /// The snapshot is taken at once.
    pub snapshot: bool,
}

/// The start of the key of a prepared statement among the settings; its quoted name follows.
pub const PREPARED: &str = "prepared ";

/// The name under which a client is told whether each statement is a transaction of its own.
pub const AUTOCOMMIT: &str = "autocommit";

/// Session settings: for each key the statement that establishes it.
pub type Settings = Arc<std::collections::BTreeMap<String, String>>;

/// Rows as text, for the proxy itself.
pub type TextRows = Vec<Vec<Option<String>>>;

/// The conversation with a database over one connection.
pub trait Link: Send + 'static {
    /// What it is asked to run.
    type Work: Work;
    /// How its running statement is cancelled, from anywhere.
    type Canceller: Clone + std::fmt::Debug + Send + Sync + 'static;

    /// Brings the session's settings to `wanted`, without waiting for the answer.
    fn adopt(&mut self, wanted: &Settings);
    /// What the server reports of its session.
    fn reported(&self) -> &std::collections::BTreeMap<String, String>;
    /// The settings the server's session has.
    fn settings(&self) -> &Settings;
    /// Notes that the application's own statement has brought the session to these settings.
    fn assume(&mut self, settings: Settings);
    /// Whether every text that the database may hold reaches us whole, as the session is set. Else a
    /// row that was only to be looked at could fail the statement.
    fn sends_any_text(&self) -> bool;
    /// Opens a transaction, without waiting for the answer.
    fn begin(&mut self, mode: &TxMode);
    /// Brings the session's settings to `settings`, apart from what limits statements, and opens a
    /// follower's part of a transaction, without waiting for the answer.
    fn begin_share(&mut self, settings: &Settings);
    /// The same, where nothing follows but these effects and the record, before anything is sent: a protocol that takes
    /// them in one request has no need of another one for the BEGIN.
    fn begin_whole_share(&mut self, settings: &Settings, _effects: &[Effect]) {
        self.begin_share(settings);
    }
    /// These settings, apart from what limits how long a statement may take.
    fn unlimited(settings: &Settings) -> Settings;
    /// These settings, with a bound on how long a change of the schema waits for reads that are under way
    /// on the same tables, where those are not kept away otherwise.
    fn bounded(settings: &Settings, _wait: std::time::Duration) -> Settings {
        settings.clone()
    }
    /// Whether an error says that what was asked for is there already, or gone already.
    fn is_done_already(error: &ServerError) -> bool;
    /// Turns a follower's part of a transaction into the leader's.
    fn lead(&mut self, settings: &Settings);
    /// Has deferred constraints and triggers run now, and watches what they change.
    fn check_deferred(&mut self) -> impl Future<Output = Result<Outcome, Broken>> + Send;
    /// Queues the end of the transaction.
    fn queue_commit(&mut self);
    /// Queues the undoing of the transaction.
    fn queue_rollback(&mut self);
    /// Queues a statement that no application sees the answer of.
    fn queue(&mut self, sql: &str);
    /// Queues an effect.
    fn queue_effect(&mut self, effect: &Effect);
    /// Queues the journal's record of the transaction.
    fn queue_record(&mut self, seq: i64, id: i64, user: &str, entry: &[u8]);
    /// Queues a statement of the application and hands its answer to `sink`; waits for the end of
    /// it and of all that was queued before.
    fn run<S: Sink>(
        &mut self,
        work: &Self::Work,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> impl Future<Output = Result<Outcome, Broken>> + Send;
    /// Runs statements of several applications, one behind the other, and gathers the answer of each,
    /// with how it ended. An error ends the list: what comes behind is passed over.
    fn run_several(
        &mut self,
        statements: &[(&Self::Work, Watch<'_>)],
    ) -> impl Future<Output = Result<Vec<(BytesMut, Outcome)>, Broken>> + Send {
        async move {
            let mut ended = Vec::with_capacity(statements.len());
            for (work, watch) in statements {
                let mut answer = Gathered::default();
                let outcome = self.run(work, *watch, &mut answer).await?;
                let failed = outcome.error.is_some();
                ended.push((answer.0, outcome));
                if failed {
                    break;
                }
            }
            Ok(ended)
        }
    }
    /// Runs an effect in a follower's part of a transaction as the leader ran the statement: triggers
    /// fire, and every changed row is reported. The session is nobody else's afterwards.
    fn repeat(&mut self, effect: &Effect) -> impl Future<Output = Result<Outcome, Broken>> + Send;
    /// What the transaction has made of the catalog, and of tables that were filled out of sight.
    fn fingerprint(
        &mut self,
        filled: &[String],
    ) -> impl Future<Output = Result<Result<String, ServerError>, Broken>> + Send;
    /// Where all sequences stand, as the transaction sees them.
    fn standing(
        &mut self,
    ) -> impl Future<Output = Result<Result<Vec<Sequence>, ServerError>, Broken>> + Send;
    /// After a bulk load was opened: hands it on until its end.
    fn send_bulk(&mut self, piece: &BulkPiece) -> impl Future<Output = Result<(), Broken>> + Send;
    /// After the last piece: the answer of the bulk load.
    fn finish_bulk<S: Sink>(
        &mut self,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> impl Future<Output = Result<Outcome, Broken>> + Send;
    /// Sends what is queued. Reads answers while the backend does not take more.
    fn flush(&mut self) -> impl Future<Output = Result<(), Broken>> + Send;
    /// Waits until everything queued is answered. The first error among the answers.
    fn drain(&mut self) -> impl Future<Output = Result<Option<Mishap>, Broken>> + Send;
    /// How many queued requests have no answer yet.
    fn outstanding(&self) -> usize;
    /// Takes back what a share that is to be undone need not be sent any more. Whether the server has been asked for
    /// anything that it has not answered, and may be at work on it.
    fn withdraw(&mut self) -> bool {
        self.outstanding() > 0
    }
    /// Waits until the share that was begun is a transaction on the server, and may be cancelled. Needs no lock.
    fn begun(&mut self) -> impl Future<Output = Result<(), Broken>> + Send {
        async { Ok(()) }
    }
    /// Runs a statement for the proxy itself and gives its rows.
    fn ask(
        &mut self,
        sql: &str,
        params: &[Option<&str>],
    ) -> impl Future<Output = Result<Result<TextRows, ServerError>, Broken>> + Send;
    /// Waits for something the database says unasked; hands it to the sink.
    fn idle<S: Sink>(&mut self, sink: &mut S) -> impl Future<Output = Result<(), Broken>> + Send;
    /// How to cancel what runs here.
    fn canceller(&self) -> Self::Canceller;
    /// Cancels what runs at the other end once its transaction is open, and waits until the request has been taken.
    fn cancel(canceller: &Self::Canceller) -> impl Future<Output = ()> + Send;
    /// Ends the session at the other end, and with it its locks. False where there is no way to.
    fn end(canceller: &Self::Canceller) -> impl Future<Output = bool> + Send;
    /// In which state the server's session is.
    fn tx_state(&self) -> TxState;
    /// Whether the server's session is in a state that nobody else should meet.
    fn is_spent(&self) -> bool;
    /// Whether the connection, which nobody uses, is open and the server has said nothing that nobody
    /// asked for: the next one to use it would take that for an answer.
    fn is_quiet(&mut self) -> bool;
}
