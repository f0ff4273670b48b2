//! An application's transaction: where it runs, and what it has done.

use std::sync::Arc;

use super::Stop;
use super::crossing::Led;
use super::identity::Identity;
use super::presence::Presence;
use crate::backend::Lease;
use crate::exchange::{Link, Settings, TxMode};
use crate::sql::{Isolation, Scope, Touched};
use crate::store::journal::{Effect, Entry};

/// One transaction's part on one follower.
#[derive(Debug)]
pub(super) struct Share<L: Link> {
    /// The connection.
    pub lease: Lease<L>,
    /// Why it has to be applied again at commit, if so.
    pub failed: Option<String>,
    /// How many of the transaction's effects it has been sent.
    pub sent: usize,
    /// How many of them have left for the server.
    pub flushed: usize,
    /// Until its transaction commits it may be ended for the sake of another.
    pub presence: Option<Presence<L::Canceller>>,
}

impl<L: Link> Share<L> {
    /// Whether it was ended for the sake of another transaction.
    pub(super) fn is_ended(&self) -> bool {
        self.presence.as_ref().is_some_and(Presence::is_ended)
    }

    /// Its transaction commits: from here on it makes way for nobody.
    pub(super) fn stays(&mut self) {
        if self.presence.as_ref().is_some_and(|presence| !presence.stays()) {
            self.failed.get_or_insert_with(|| MADE_WAY.to_owned());
        }
    }

    /// Queues the effects that it has not been sent yet. What is sent when is a matter of speed;
    /// that nothing is left out is a matter of this number.
    pub(super) fn queue_rest(&mut self, effects: &[Effect]) {
        for effect in effects.get(self.sent..).unwrap_or_default() {
            if matches!(effect, Effect::Deep { .. }) {
                // Its outcome has to be looked at: that is done where nothing is queued behind.
                self.failed.get_or_insert_with(|| "a statement has to run by itself".into());
            }
            if self.failed.is_none() {
                self.lease.queue_effect(effect);
            }
        }
        self.sent = effects.len();
    }
}

/// How many effects of a transaction wait for its end, and how many bytes of them.
const HELD_EFFECTS: usize = 16;
const HELD_BYTES: usize = 64 * 1024;

/// Why a share is applied again that has done nothing wrong.
pub(super) const MADE_WAY: &str = "it made way for a transaction that committed";

/// A transaction's right to be on the leader.
#[derive(Debug)]
pub(super) enum Admission {
    /// Beside others.
    #[expect(dead_code, reason = "it is there to be held")]
    Shared(tokio::sync::OwnedRwLockReadGuard<()>),
    /// While nobody else is there.
    Alone(tokio::sync::OwnedRwLockWriteGuard<()>),
}

impl Admission {
    /// Lets others in again.
    pub(super) fn share(self) -> Self {
        match self {
            Self::Alone(guard) => Self::Shared(guard.downgrade()),
            shared @ Self::Shared(_) => shared,
        }
    }
}

/// Where a transaction runs.
#[derive(Debug)]
pub(super) enum Place<L: Link> {
    /// It has done nothing yet that a backend had to know.
    Nowhere,
    /// On one balanced backend: it has only read.
    Reading(Lease<L>),
    /// On the leader, with shares on the followers once it has written.
    Leading {
        /// The leader's connection.
        leader: Lease<L>,
        /// The followers' parts.
        shares: Vec<Share<L>>,
        /// Whether the shares have been opened.
        shared: bool,
        /// Others wait for it where the next leader leads.
        led: Led,
    },
}

/// A savepoint, and what to go back to.
#[derive(Debug)]
pub(super) struct Savepoint {
    name: String,
    /// The statement that sets it.
    statement: String,
    effects: usize,
    context: usize,
    locks: usize,
    bounds: usize,
    settings: Settings,
    scope: Arc<Scope>,
}

/// A locking read, to be run again when the leader dies.
#[derive(Debug)]
pub(super) struct Lock<W> {
    /// The statement.
    pub work: W,
    /// The hash of its answer.
    pub digest: u64,
    /// It locks the same rows again also where the transaction itself has changed some of them since then.
    pub relocks: bool,
    /// How many effects of the transaction wrote before it.
    pub writing: usize,
}

/// The record of a transaction.
pub(super) struct Record {
    /// By which two records of the same number are told apart.
    pub id: i64,
    /// User, settings and effects, encoded.
    pub entry: Vec<u8>,
}

impl Record {
    /// The record of a transaction, under `id` unless it has been given an identity before.
    pub(super) fn of<L: Link>(tx: &Transaction<L>, user: &str, id: i64) -> Self {
        let id = tx.identity.as_ref().map_or(id, |drawn| drawn.identity.id);
        let entry = Entry {
            user: user.to_owned(),
            settings: tx.before.0.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            effects: tx.effects.clone(),
        };
        Self { id, entry: entry.encode() }
    }
}

/// An application's transaction.
#[derive(Debug)]
pub(super) struct Transaction<L: Link> {
    /// Opened by the application, not by us around a single statement or a pipeline.
    pub explicit: bool,
    /// More statements follow: what each has done is sent at once (see [`Self::is_worth_streaming`]). A
    /// single statement sends it with its commit.
    pub streams: bool,
    /// Its shares were opened while its client thought: what it has done goes there beside its statements, and with its
    /// end.
    pub ahead: bool,
    /// How it was opened.
    pub mode: TxMode,
    /// A statement has failed: only its end, or a return to a savepoint, can follow.
    pub failed: bool,
    /// Where it runs.
    pub place: Place<L>,
    /// Its right to be on the leader: an operator's pause waits for all of them.
    pub admission: Option<Admission>,
    /// That it writes, for those who lock tables.
    pub locked_out: Option<super::tables::Writing>,
    /// Its right to change the schema: a statement outside transactions waits for all of them.
    pub schema: Option<tokio::sync::OwnedRwLockReadGuard<()>>,
    /// What the followers get, in order.
    pub effects: Vec<Effect>,
    /// How many of the effects write.
    pub writing: usize,
    /// Statements that make the server's transaction what it is (SET LOCAL and the like).
    pub context: Vec<String>,
    /// Its savepoints.
    pub savepoints: Vec<Savepoint>,
    /// It has changed the catalog: nothing the catalog says is true inside of it.
    pub ddl: bool,
    /// It has changed settings of the session, not only of itself.
    pub sets: bool,
    /// Up to where it has reserved sequences on the followers.
    pub bounds: Vec<(String, i64)>,
    /// Bytes of its effects, roughly.
    pub size: usize,
    /// A statement of it has run on the leader.
    pub ran: bool,
    /// Tables it has written.
    pub writes: Touched,
    /// Locking reads.
    pub locks: Vec<Lock<L::Work>>,
    /// State in the server's session that cannot be carried over to another backend.
    pub stateful: bool,
    /// It was undone while its client said nothing: what the client is told when it does.
    pub undone: Option<Stop>,
    /// Under what its record will be found, once it has been asked for.
    pub identity: Option<Identity>,
    /// What to go back to when it is undone.
    pub before: (Settings, Arc<Scope>),
}

impl<L: Link> Transaction<L> {
    /// A transaction that has done nothing.
    pub(super) fn new(explicit: bool, mode: TxMode, before: (Settings, Arc<Scope>)) -> Self {
        Self {
            explicit,
            streams: explicit,
            ahead: false,
            mode,
            failed: false,
            place: Place::Nowhere,
            admission: None,
            locked_out: None,
            schema: None,
            effects: Vec::new(),
            writing: 0,
            context: Vec::new(),
            savepoints: Vec::new(),
            ddl: false,
            sets: false,
            bounds: Vec::new(),
            size: 0,
            ran: false,
            writes: Touched::None,
            locks: Vec::new(),
            stateful: false,
            undone: None,
            identity: None,
            before,
        }
    }

    /// Whether it leaves a record: it writes, or somebody may ask what became of it.
    pub(super) fn is_recorded(&self) -> bool {
        self.writing > 0 || self.identity.is_some()
    }

    /// Its isolation level, where sessions have this one by default.
    pub(super) fn level(&self, default: Isolation) -> Isolation {
        self.mode.isolation.unwrap_or(default)
    }

    /// Whether it can go on elsewhere when its backend dies, as far as its level says.
    ///
    /// A snapshot cannot be carried over: only READ COMMITTED takes a new one for each statement.
    pub(super) fn is_portable(&self, default: Isolation) -> bool {
        self.level(default) <= Isolation::ReadCommitted && !self.stateful
    }

    /// Whether its effects go to the followers as they arise, so that these need not begin with a long transaction when
    /// it ends. A few effects are cheaper in one piece: a server that is woken for each of them spends more time
    /// on waking than on working. Should the leader die, the next one gets them before anybody else is let in there.
    pub(super) fn is_worth_streaming(&self) -> bool {
        self.effects.len() > HELD_EFFECTS || self.size > HELD_BYTES
    }

    /// Whether nothing of it would be missed if it began anew: savepoints can be set again.
    /// A snapshot that has been read cannot be had again.
    pub(super) fn is_fresh(&self, default: Isolation) -> bool {
        let unread = self.level(default) <= Isolation::ReadCommitted || !self.ran;
        self.writing == 0 && self.locks.is_empty() && !self.stateful && unread
    }

    /// Notes tables that it has written.
    pub(super) fn touch(&mut self, more: &Touched) {
        match (&mut self.writes, more) {
            (Touched::Unknown, _) | (_, Touched::None) => {}
            (writes, Touched::Unknown) => *writes = Touched::Unknown,
            (writes @ Touched::None, tables) => writes.clone_from(tables),
            (Touched::Tables(mine), Touched::Tables(more)) => {
                for table in more {
                    if !mine.contains(table) {
                        mine.push(table.clone());
                    }
                }
            }
        }
    }

    /// Adds an effect.
    pub(super) fn add(&mut self, effect: Effect, writes: bool) {
        self.writing += usize::from(writes);
        self.size += size(&effect);
        self.effects.push(effect);
    }

    /// Adds a statement that every server's transaction must have seen.
    pub(super) fn add_context(&mut self, sql: &str) {
        self.context.push(sql.to_owned());
        self.effects.push(Effect::Text { sql: sql.to_owned(), rows: None });
    }

    /// Marks a savepoint.
    pub(super) fn mark(
        &mut self,
        name: &str,
        statement: &str,
        settings: Settings,
        scope: Arc<Scope>,
    ) {
        self.savepoints.push(Savepoint {
            name: name.to_owned(),
            statement: statement.to_owned(),
            effects: self.effects.len(),
            context: self.context.len(),
            locks: self.locks.len(),
            bounds: self.bounds.len(),
            settings,
            scope,
        });
    }

    /// What sets the savepoints that were set when the transaction had so many effects.
    pub(super) fn savepoints_at(&self, effects: usize) -> impl Iterator<Item = &str> {
        self.savepoints.iter().filter(move |s| s.effects == effects).map(|s| &*s.statement)
    }

    /// A statement has failed, and with it what came after the last savepoint: the locks of that are free.
    pub(super) fn fail(&mut self) {
        self.failed = true;
        if let Some(last) = self.savepoints.last() {
            self.effects.truncate(last.effects);
            self.locks.truncate(last.locks);
            self.bounds.truncate(last.bounds);
        }
    }

    /// Forgets a savepoint and those after it.
    pub(super) fn release(&mut self, name: &str) {
        if let Some(at) = self.savepoints.iter().rposition(|s| s.name == name) {
            self.savepoints.truncate(at);
        }
    }

    /// Goes back to a savepoint: what came after it has not happened, but for what was set where
    /// settings outlast it. The settings and names as they were.
    pub(super) fn return_to(
        &mut self,
        name: &str,
        settings_outlast: bool,
    ) -> Option<(Settings, Arc<Scope>)> {
        let at = self.savepoints.iter().rposition(|s| s.name == name)?;
        self.savepoints.truncate(at + 1);
        let savepoint = self.savepoints.last()?;
        self.effects.truncate(savepoint.effects);
        // Followers that were told of them already are ahead; nobody counts on it.
        self.bounds.truncate(savepoint.bounds);
        if !settings_outlast {
            // Others may have them since; where settings outlast the return, locks do as well.
            self.locks.truncate(savepoint.locks);
        }
        if let Place::Leading { shares, .. } = &mut self.place {
            for share in shares {
                share.sent = share.sent.min(savepoint.effects);
                share.flushed = share.flushed.min(savepoint.effects);
            }
        }
        let before = (savepoint.settings.clone(), savepoint.scope.clone());
        let after = self.context.split_off(savepoint.context);
        for statement in after.iter().filter(|_| settings_outlast) {
            self.add_context(statement);
        }
        self.failed = false;
        Some(before)
    }
}

/// Bytes of an effect, roughly.
fn size(effect: &Effect) -> usize {
    let rows = |rows: &[String]| rows.iter().map(|row| row.len() + 24).sum::<usize>();
    64 + match effect {
        Effect::Text { sql, .. } | Effect::Outside { sql } => sql.len(),
        Effect::Bound { sql, bind, .. } => sql.len() + bind.len(),
        Effect::Rows { old, new, .. } => rows(old) + rows(new),
        Effect::Bulk { sql, data, .. } => sql.len() + data.len(),
        Effect::Intended(task) | Effect::Finished { task, .. } | Effect::Withdrawn { task, .. } => {
            task.weight()
        }
        Effect::Deep { effect, witness } => size(effect) + witness.weight(),
        Effect::Checked { effect, .. } => size(effect),
        Effect::Advance { .. } | Effect::ResetSequence { .. } => 0,
    }
}
