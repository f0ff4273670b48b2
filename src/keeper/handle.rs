//! What the rest of the program has of the keeper: snapshots, questions, and the commit gate.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedRwLockWriteGuard, RwLock, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Sighting, Verdict};
use crate::cluster::{Ballot, Failure, Phase, Roster, State, View};

/// The commit gate, held whole: as long as this is there, no commit is under way.
pub(crate) type Closed = OwnedRwLockWriteGuard<()>;

/// What the keeper is told.
#[derive(Debug)]
pub(super) enum Message {
    /// A connection broke, or a backend gave no answer.
    Lost {
        backend: usize,
        generation: u64,
        cause: String,
        force: bool,
        reply: oneshot::Sender<Verdict>,
    },
    /// What an inactive backend is doing.
    Note { backend: usize, state: State, reason: String },
    /// The journal no longer reaches back to an inactive backend.
    LeftBehind { backend: usize, has: i64, pruned: i64 },
    /// Whoever decides between halves is looked at.
    Arbiters { reply: oneshot::Sender<(Roster, Vec<Sighting>)> },
    /// This proxy shall write.
    TakeOver {
        cluster: String,
        reachable: BTreeSet<String>,
        seen: (Vec<Ballot>, Roster),
        reply: oneshot::Sender<Result<Roster, Failure>>,
    },
    /// The members are the same.
    Settled { order: Vec<usize>, reply: oneshot::Sender<()> },
    /// A voter obeys another proxy, or too few answer.
    Deposed { ballot: Ballot, cause: String, outvoted: bool, reply: oneshot::Sender<()> },
    /// Another proxy writes.
    StandBy { cause: String, reply: oneshot::Sender<()> },
    /// Another proxy shall write; until then this one does not ask for the role again.
    LayDown { until: Instant, reply: oneshot::Sender<()> },
    /// An operator says which backend is right.
    Force { backend: usize, reply: oneshot::Sender<Result<Roster, String>> },
    /// A backend has everything; commits are held back meanwhile.
    Join { backend: usize, gate: Closed, reply: oneshot::Sender<Result<(), String>> },
    /// An operator wants a backend out.
    Deactivate { backend: usize, reply: oneshot::Sender<Result<(), String>> },
    /// An operator wants a backend back.
    Release { backend: usize, reply: oneshot::Sender<()> },
}

/// Snapshots of the view, questions to the keeper, and the commit gate.
#[derive(Debug)]
pub struct Handle {
    view: ArcSwap<View>,
    cluster: ArcSwap<String>,
    /// The ballot under which this proxy writes, and what ends when it writes no more.
    reign: ArcSwap<(Ballot, CancellationToken)>,
    /// The newest member list, while this proxy writes.
    roster: ArcSwap<Roster>,
    /// The last ballot that this proxy has asked under.
    asked: ArcSwap<Ballot>,
    /// Which proxy writes, as far as the one that stands by knows.
    writer: ArcSwap<String>,
    /// Ends whatever depends on that proxy being the one that writes.
    following: ArcSwap<CancellationToken>,
    /// The members of the newest view, while another proxy writes, and until when that is taken for true.
    near: ArcSwap<(Vec<usize>, Option<Instant>)>,
    /// Until when this proxy does not take the role that it has laid down.
    resting: ArcSwap<Option<Instant>>,
    /// What keeps the proxy from serving, for people.
    obstacle: ArcSwap<String>,
    /// Wakes whoever waits for another view. Unlike a `watch` it wakes them in an order that can be
    /// repeated.
    changed: Notify,
    inbox: mpsc::Sender<Message>,
    /// Every commit holds it shared from its number to its end; whoever needs a moment without
    /// commits takes it whole.
    pub gate: Arc<RwLock<()>>,
}

impl Handle {
    pub(super) fn new(view: View, cluster: String, inbox: mpsc::Sender<Message>) -> Self {
        Self {
            view: ArcSwap::from_pointee(view),
            cluster: ArcSwap::from_pointee(cluster),
            reign: ArcSwap::default(),
            roster: ArcSwap::default(),
            asked: ArcSwap::default(),
            writer: ArcSwap::default(),
            following: ArcSwap::default(),
            near: ArcSwap::default(),
            resting: ArcSwap::default(),
            obstacle: ArcSwap::default(),
            changed: Notify::new(),
            inbox,
            gate: Arc::new(RwLock::new(())),
        }
    }

    pub(super) fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
        self.changed.notify_waiters();
    }

    pub(super) fn set_cluster(&self, cluster: &str) {
        self.cluster.store(Arc::new(cluster.to_owned()));
    }

    /// The identity of the cluster; known before anybody is served.
    pub fn cluster(&self) -> Arc<String> {
        self.cluster.load_full()
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The snapshot, for a look that ends before anything is waited for.
    pub fn glance(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Ends with the next snapshot. Taken before a look at the view, it misses none.
    pub fn next_change(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The ballot under which this proxy writes; [`Ballot::NONE`] while it does not.
    pub fn ballot(&self) -> Ballot {
        self.reign.load().0
    }

    /// Is cancelled when this proxy is to write no more: whoever is served then must connect again, and may
    /// finish a transaction first.
    pub fn reign(&self) -> CancellationToken {
        self.reign.load().1.clone()
    }

    pub(super) fn begin_reign(&self, ballot: Ballot) {
        // Whoever waits already is served by this one.
        let token = self.reign();
        self.reign.store(Arc::new((ballot, token)));
    }

    pub(super) fn end_reign(&self) {
        let ended = self.reign.swap(Arc::default());
        ended.1.cancel();
        self.changed.notify_waiters();
    }

    /// Lets everybody who is served leave once no transaction is open.
    pub fn retire(&self) {
        self.reign.load().1.cancel();
    }

    /// Whether everybody is leaving who is served.
    pub fn is_retiring(&self) -> bool {
        self.reign.load().1.is_cancelled()
    }

    /// Leaves the role to others until then.
    pub(super) fn rest_until(&self, until: Option<Instant>) {
        self.resting.store(Arc::new(until));
    }

    /// Asks for the role again as soon as it may.
    pub fn rest_no_longer(&self) {
        self.rest_until(None);
    }

    /// Whether the role is left to others.
    pub fn rests(&self) -> bool {
        self.resting.load().is_some_and(|until| Instant::now() < until)
    }

    /// The newest member list that this proxy knows to be decided, with its arbiter.
    pub fn roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }

    pub(super) fn note_roster(&self, roster: &Roster) {
        self.roster.store(Arc::new(roster.clone()));
    }

    /// The last ballot that this proxy has asked under, whether it was given the role or not.
    pub fn asked(&self) -> Ballot {
        **self.asked.load()
    }

    pub(super) fn note_asked(&self, ballot: Ballot) {
        self.asked.store(Arc::new(ballot));
    }

    /// What keeps the proxy from serving, in words for people; empty when nothing does.
    pub fn obstacle(&self) -> Arc<String> {
        self.obstacle.load_full()
    }

    /// Notes what keeps the proxy from serving. Said in the log once.
    pub fn note_obstacle(&self, why: &str) {
        if **self.obstacle.load() != why {
            if !why.is_empty() {
                tracing::warn!(%why, "does not serve yet");
            }
            self.obstacle.store(Arc::new(why.to_owned()));
        }
    }

    /// Which proxy writes and where it is, while this one stands by; empty when that is not known.
    pub fn writer(&self) -> Arc<String> {
        self.writer.load_full()
    }

    /// Notes which proxy writes.
    pub fn note_writer(&self, writer: &str) {
        if **self.writer.load() != writer {
            self.writer.store(Arc::new(writer.to_owned()));
            self.following.swap(Arc::default()).cancel();
            self.changed.notify_waiters();
        }
    }

    /// Is cancelled when another proxy writes than at this moment.
    pub fn following(&self) -> CancellationToken {
        (**self.following.load()).clone()
    }

    /// Notes which backends the newest view has while another proxy writes, and until when that counts. Which of
    /// those before are not among them any more.
    pub fn note_near(&self, members: Vec<usize>, until: Instant) -> Vec<usize> {
        let before = self.near.load_full();
        let left = before.0.iter().copied().filter(|backend| !members.contains(backend)).collect();
        self.near.store(Arc::new((members, Some(until))));
        left
    }

    /// Where a proxy that stands by may read what may be a little behind: the members of the newest view, as of a
    /// moment ago. `None` when it does not stand by, or has not seen for a while that another one writes.
    pub fn near(&self) -> Option<Vec<usize>> {
        let near = self.near.load();
        let counts = near.1.is_some_and(|until| Instant::now() < until);
        let stands_by = self.view.load().phase == Phase::Standby;
        (counts && stands_by && !near.0.is_empty()).then(|| near.0.clone())
    }

    /// Waits until the cluster serves, for at most `limit`. False when it does not by then, and when
    /// another proxy does.
    pub async fn wait_serving(&self, limit: Duration) -> bool {
        let serving = async {
            loop {
                let changed = self.next_change();
                match self.view.load().phase {
                    Phase::Serving => return true,
                    Phase::Standby => return false,
                    Phase::Settling => changed.await,
                }
            }
        };
        tokio::time::timeout(limit, serving).await.unwrap_or(false)
    }

    /// Waits until another backend leads than in this era, and is served from.
    pub async fn another_leads(&self, era: i64) {
        loop {
            let changed = self.next_change();
            let view = self.glance();
            if view.phase == Phase::Serving && view.era != era {
                return;
            }
            drop(view);
            changed.await;
        }
    }

    /// Waits until nobody is served here any more, or for the moment.
    pub async fn pauses(&self) {
        loop {
            let changed = self.next_change();
            if self.view.load().phase != Phase::Serving {
                return;
            }
            changed.await;
        }
    }

    async fn ask<T>(&self, message: Message, answer: oneshot::Receiver<T>, otherwise: T) -> T {
        if self.inbox.send(message).await.is_err() {
            return otherwise;
        }
        answer.await.unwrap_or(otherwise)
    }

    /// Reports a broken connection and waits for what follows from it.
    pub async fn lost(
        &self,
        backend: usize,
        generation: u64,
        cause: String,
        force: bool,
    ) -> Verdict {
        let (reply, answer) = oneshot::channel();
        let message = Message::Lost { backend, generation, cause, force, reply };
        self.ask(message, answer, Verdict::Settling).await
    }

    /// Notes what an inactive backend is doing.
    pub async fn note(&self, backend: usize, state: State, reason: String) {
        // Without a keeper the process is ending, and nobody looks at the note.
        let _ = self.inbox.send(Message::Note { backend, state, reason }).await;
    }

    /// Notes that a backend has everything up to one record only, and that the journal begins after
    /// another one.
    pub async fn left_behind(&self, backend: usize, has: i64, pruned: i64) {
        // Without a keeper the process is ending, and nobody looks at the note.
        let _ = self.inbox.send(Message::LeftBehind { backend, has, pruned }).await;
    }

    /// The member list that this proxy remembers, and the state file and the witness as voters.
    pub async fn arbiters(&self) -> (Roster, Vec<Sighting>) {
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Arbiters { reply }, answer, Default::default()).await
    }

    /// Stands by, since another proxy writes.
    pub async fn stand_by(&self, cause: String) {
        let (reply, answer) = oneshot::channel();
        self.ask(Message::StandBy { cause, reply }, answer, ()).await;
    }

    /// Asks for the role of the writer, at those who were reachable a moment ago, above all ballots seen and with
    /// the newest member list seen.
    ///
    /// # Errors
    /// Why the voters did not give it.
    pub async fn take_over(
        &self,
        cluster: String,
        reachable: BTreeSet<String>,
        seen: (Vec<Ballot>, Roster),
    ) -> Result<Roster, Failure> {
        let (reply, answer) = oneshot::channel();
        let message = Message::TakeOver { cluster, reachable, seen, reply };
        self.ask(message, answer, Err(Failure::NobodyLeft)).await
    }

    /// The members of the view that was taken over are the same.
    pub async fn settled(&self, order: Vec<usize>) {
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Settled { order, reply }, answer, ()).await;
    }

    /// Reports that the role of the writer, held under this ballot, is lost: to another proxy, or because too
    /// few voters answer.
    pub async fn deposed(&self, ballot: Ballot, cause: String, outvoted: bool) {
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Deposed { ballot, cause, outvoted, reply }, answer, ()).await;
    }

    /// Lays down the role of the writer: another proxy takes over at once. This one does not ask for it again before
    /// `rest` is over.
    pub async fn lay_down(&self, rest: Duration) {
        let (reply, answer) = oneshot::channel();
        let until = Instant::now() + rest;
        self.ask(Message::LayDown { until, reply }, answer, ()).await;
    }

    /// Makes one backend the only member of a new view, whatever others hold. Acknowledged transactions that only
    /// others have are lost by it.
    ///
    /// # Errors
    /// When this proxy serves, or the backend does not take it.
    pub async fn force(&self, backend: usize) -> Result<Roster, String> {
        let (reply, answer) = oneshot::channel();
        let stopping = Err("the proxy is stopping".to_owned());
        self.ask(Message::Force { backend, reply }, answer, stopping).await
    }

    /// Makes a backend a member that has every commit from before the gate was closed. The gate opens with the keeper's
    /// decision, also when whoever asked does not wait for that.
    ///
    /// # Errors
    /// When the backend does not take the view.
    pub async fn join(&self, backend: usize, gate: Closed) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let stopping = Err("the proxy is stopping".to_owned());
        self.ask(Message::Join { backend, gate, reply }, answer, stopping).await
    }

    /// Makes a backend inactive until an operator wants it back.
    ///
    /// # Errors
    /// When it is the last active one.
    pub async fn deactivate(&self, backend: usize) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let stopping = Err("the proxy is stopping".to_owned());
        self.ask(Message::Deactivate { backend, reply }, answer, stopping).await
    }

    /// Lets a backend come back by itself again.
    pub async fn release(&self, backend: usize) {
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Release { backend, reply }, answer, ()).await;
    }
}
