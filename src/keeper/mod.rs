//! The keeper: the one task that makes a new view.
//!
//! Everybody else reports what was seen and reads snapshots. A view without a backend is decided
//! by being written to the state file, then to the control row of every member, and only then do
//! those who wait for it go on (I5). The last member is never given up: when nobody else answers,
//! the cluster goes back to settling, and clients wait.

mod change;
mod handle;
pub mod state;
mod voting;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

pub use handle::Handle;
use handle::Message;
use state::{Remembered, StateFile};
pub use voting::{Candidate, Sighting, Witness};

use crate::backend::Backend;
use crate::cluster::{Ballot, Phase, Refusal, Roster, State, View, Vote};
use crate::config::Live;
use crate::exchange::Link;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::store::control::{Control as ControlRow, Sequence};
use crate::store::journal::Record;
use crate::store::outside::{Fate, Remain, Task};
use crate::store::vote::Poll;

/// The answer of a backend's bookkeeping.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// A look at a backend.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Which server it is.
    pub system: String,
    /// When the server was started, in its own words.
    pub started: String,
    /// The control row, where there is one.
    pub control: Option<ControlRow>,
    /// The newest record of its journal.
    pub newest: i64,
    /// Whether it takes writes.
    pub writable: bool,
}

/// One backend's bookkeeping: off the hot path, over connections of its own.
pub trait Control: Send + Sync {
    /// Looks at the backend.
    fn examine(&self) -> Answer<'_, Examination>;
    /// The same, for whoever watches over the writer: waits for nothing else, and not for long.
    fn glance(&self) -> Answer<'_, Examination>;
    /// Whether the journal has a record.
    fn has_record(&self, seq: i64) -> Answer<'_, bool>;
    /// Asks the backend as a voter. What it answers is on its disk.
    fn poll(&self, poll: Poll) -> Answer<'_, Result<Vote, Refusal>>;
    /// Shows that the writer lives; whether the backend still obeys it. Never waits for other questions.
    fn beat(&self, ballot: Ballot, writer: String) -> Answer<'_, bool>;
    /// Lays down the role, where the backend still obeys.
    fn lay_down(&self, ballot: Ballot) -> Answer<'_, ()>;
    /// Commits something small, to see that the disk takes it.
    fn probe_write(&self) -> Answer<'_, ()>;
    /// Numbers and identities of the records after `after`.
    fn tail(&self, after: i64) -> Answer<'_, Vec<(i64, i64)>>;
    /// Whose the record with this identity is, looked for after one number and up to another.
    fn owner_of(&self, id: i64, after: i64, upto: i64) -> Answer<'_, Option<String>>;
    /// The given records, in order.
    fn records(&self, seqs: Vec<i64>) -> Answer<'_, Vec<Record>>;
    /// Notes that every record up to `seq` is here, on the server that was started at that time: one
    /// that was restarted since may have lost some of them.
    fn set_complete(&self, seq: i64, started: String) -> Answer<'_, ()>;
    /// The records after one number and up to another that together have at most so many bytes, and
    /// at least one: number of the last, how many, bytes.
    fn weigh(&self, after: i64, upto: i64, bytes: u64) -> Answer<'_, Option<(i64, u64, u64)>>;
    /// The number of the first record that is younger than this.
    fn first_younger(&self, age: Duration) -> Answer<'_, Option<i64>>;
    /// Deletes records up to `seq` that every backend has; how many.
    fn prune(&self, seq: i64) -> Answer<'_, u64>;
    /// Where all sequences stand.
    fn sequences(&self) -> Answer<'_, Vec<Sequence>>;
    /// Sets sequences that are there.
    fn set_sequences(&self, sequences: Vec<Sequence>) -> Answer<'_, ()>;
    /// Moves sequences on to the given numbers, never back; what is not there is left out.
    fn advance_sequences(&self, values: Vec<(String, i64)>) -> Answer<'_, ()>;
    /// Ends the sessions of the given users that are not ours, and waits until they are gone.
    fn fence(&self, users: Vec<String>) -> Answer<'_, ()>;
    /// What is there of a statement outside a transaction.
    fn remains(&self, task: Task) -> Answer<'_, Vec<Remain>>;
    /// Removes what such a statement left behind and what stands in the way of its outcome.
    fn clear(&self, task: Task, fate: Fate) -> Answer<'_, ()>;
    /// The records after `after` that are about statements outside a transaction.
    fn outside(&self, after: i64) -> Answer<'_, Vec<Record>>;
    /// Rows of an ordinary table, for people and for what depends on them.
    fn rows(&self, sql: String) -> Answer<'_, Vec<Vec<Option<String>>>>;
    /// The catalog as it is now.
    fn catalog(&self) -> Answer<'_, Box<dyn crate::sql::Judge>>;
}

/// What the keeper says to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The backend is well; one session of it has ended.
    Alive,
    /// The backend is no member any more, and that is on disk.
    Evicted,
    /// No member answers: wait.
    Settling,
}

/// The task.
pub struct Keeper<L: Link> {
    handle: Arc<Handle>,
    inbox: mpsc::Receiver<Message>,
    backends: Vec<Arc<Backend<L>>>,
    controls: Vec<Arc<dyn Control>>,
    file: StateFile,
    /// What is in the file.
    state: Remembered,
    candidate: Candidate,
    /// The last ballot asked under.
    ballot: Ballot,
    /// The newest member list, while this proxy holds the role of the writer.
    roster: Option<Roster>,
    /// The voters that are asked in the change under way.
    reached: BTreeSet<String>,
    cluster: String,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    live: Arc<Live>,
}

/// The time now, in milliseconds of the Unix epoch, for people only.
#[expect(clippy::disallowed_methods, reason = "shown to people, never compared")]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl<L: Link> Keeper<L> {
    /// A keeper that settles first.
    #[allow(clippy::too_many_arguments)] // Built in one place, from parts that have nothing in common.
    pub fn new(
        view: View,
        backends: Vec<Arc<Backend<L>>>,
        controls: Vec<Arc<dyn Control>>,
        (file, state): (StateFile, Remembered),
        candidate: Candidate,
        ledger: Arc<Ledger>,
        metrics: Arc<Metrics>,
        live: Arc<Live>,
    ) -> (Self, Arc<Handle>) {
        let (sender, inbox) = mpsc::channel(1024);
        let cluster = state.cluster.clone();
        let handle = Arc::new(Handle::new(view, cluster.clone(), sender));
        let keeper = Self {
            handle: handle.clone(),
            inbox,
            backends,
            controls,
            file,
            state,
            candidate,
            ballot: Ballot::NONE,
            roster: None,
            reached: BTreeSet::new(),
            cluster,
            ledger,
            metrics,
            live,
        };
        (keeper, handle)
    }

    /// Works until every handle is gone.
    pub async fn run(mut self) {
        while let Some(message) = self.inbox.recv().await {
            self.on(message).await;
        }
    }

    async fn on(&mut self, message: Message) {
        match message {
            Message::Lost { backend, generation, cause, force, reply } => {
                let verdict = self.on_lost(backend, generation, &cause, force).await;
                let _ = reply.send(verdict);
            }
            Message::Note { backend, state, reason } => {
                let mut view = (*self.handle.view()).clone();
                if !view.is_member(backend) {
                    view.set(backend, state, &reason, now_ms());
                    self.publish(view);
                }
            }
            Message::LeftBehind { backend, has, pruned } => {
                let mut view = (*self.handle.view()).clone();
                if !view.is_member(backend) {
                    view.leave_behind(backend, has, pruned);
                    let why = view.backends[backend].why();
                    let name = &self.backends[backend].name;
                    tracing::warn!(backend = %name, %why, "out of the journal's reach");
                    self.publish(view);
                }
            }
            Message::Arbiters { reply } => {
                let _ = reply.send(self.arbiters().await);
            }
            Message::TakeOver { cluster, reachable, seen, reply } => {
                let _ = reply.send(self.take_over(cluster, reachable, seen).await);
            }
            Message::Settled { order, reply } => {
                self.on_settled(order).await;
                let _ = reply.send(());
            }
            Message::StandBy { cause, reply } => {
                self.stand_by(&cause);
                let _ = reply.send(());
            }
            Message::Deposed { ballot, cause, outvoted, reply } => {
                if ballot == self.ballot && outvoted {
                    self.stand_by(&cause);
                } else if ballot == self.ballot && self.handle.view().phase == Phase::Serving {
                    self.settle_again(&cause);
                }
                let _ = reply.send(());
            }
            Message::Force { backend, reply } => {
                let _ = reply.send(self.force(backend).await);
            }
            Message::LayDown { until, reply } => {
                self.handle.rest_until(Some(until));
                self.lay_down().await;
                self.stand_by("the role was laid down");
                let _ = reply.send(());
            }
            Message::Join { backend, gate, reply } => {
                let joined = self.on_join(backend).await;
                // Whoever commits from here on knows who takes part.
                drop(gate);
                let _ = reply.send(joined);
            }
            Message::Deactivate { backend, reply } => {
                let _ = reply.send(self.on_deactivate(backend).await);
            }
            Message::Release { backend, reply } => {
                self.on_release(backend).await;
                let _ = reply.send(());
            }
        }
    }

    async fn on_lost(
        &mut self,
        backend: usize,
        generation: u64,
        cause: &str,
        force: bool,
    ) -> Verdict {
        let view = self.handle.view();
        if view.phase != Phase::Serving {
            return Verdict::Settling;
        }
        if !view.is_member(backend) {
            return Verdict::Evicted;
        }
        let current = &self.backends[backend];
        if !force {
            if current.generation() != generation {
                return Verdict::Alive;
            }
            // Not read while it is being looked at: a quick restart may have lost commits unseen.
            self.mark(backend, State::Suspect, cause);
            if self.is_well(backend).await {
                let current = &self.backends[backend];
                tracing::info!(backend = %current.name, cause, "a session ended; the backend is well");
                current.refresh();
                self.mark(backend, State::Active, "");
                return Verdict::Alive;
            }
        }
        self.evict(vec![backend], cause).await
    }

    fn mark(&self, backend: usize, state: State, reason: &str) {
        let mut view = (*self.handle.view()).clone();
        view.set(backend, state, reason, now_ms());
        self.publish(view);
    }

    /// Whether a backend answers, runs as it did, and has the newest commit that was acknowledged.
    async fn is_well(&self, backend: usize) -> bool {
        let Ok(seen) = self.look_closely(backend).await else {
            return false;
        };
        let newest = self.ledger.last_acknowledged();
        let complete = newest <= seen.control.as_ref().map_or(0, |c| c.complete_to);
        complete || matches!(self.controls[backend].has_record(newest).await, Ok(true))
    }

    /// Looks at a member, and takes none that was restarted: with lazy flushes it may lack any commit
    /// of the last moments, an earlier one than the newest, or the proxy's secrets. Whoever brings it
    /// back compares its whole journal.
    async fn look_closely(&self, backend: usize) -> Result<Examination, String> {
        let seen = self.look(backend).await?;
        self.backends[backend].judge(&seen.started, seen.writable)?;
        Ok(seen)
    }

    async fn look(&self, backend: usize) -> Result<Examination, String> {
        let (look, limit) = (self.controls[backend].examine(), self.live.bounds().probe);
        match tokio::time::timeout(limit, look).await {
            Ok(seen) => seen,
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    /// Notes a member list that is decided.
    async fn remember(&mut self, roster: &Roster) {
        self.state.note(roster);
        self.handle.note_roster(roster);
        self.state.cluster.clone_from(&self.cluster);
        self.save().await;
    }

    /// Writes the state file, as often as it takes: without it nothing may be acknowledged.
    async fn save(&self) {
        while let Err(error) = self.file.save(&self.state) {
            tracing::error!(%error, "the state file cannot be written; commits wait for it");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn publish(&self, view: View) {
        for (backend, member) in view.backends.iter().enumerate() {
            let metrics = &self.backends[backend].metrics;
            metrics.set_state(member.state.word());
            metrics.needs_copy.set(i64::from(member.left_behind.is_some()));
            let remaining = match member.state {
                State::CatchingUp { remaining } => remaining,
                _ => 0,
            };
            metrics.catching_up_records.set(i64::try_from(remaining).unwrap_or(i64::MAX));
        }
        self.metrics.view_number.set(view.number);
        self.metrics.proxy_writer.set(i64::from(view.phase == Phase::Serving));
        let active = if view.phase == Phase::Serving { view.order.len() } else { 0 };
        self.metrics.backends_active.set(i64::try_from(active).unwrap_or(i64::MAX));
        self.handle.publish(view);
    }
}
