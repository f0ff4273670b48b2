//! A fake server: a disk, sessions, and everything that can befall both.
//!
//! A session works through what was sent to it in order, also after its client has gone, as a real
//! one does with what is in its socket. A crash takes the sessions and their locks and leaves the
//! disk; a hang leaves everything and answers nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lockstep::backend::Purpose;
use lockstep::exchange::TxState;
use lockstep::store::capture::{Captured, Op};
use lockstep::store::journal::Record;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::faults::{Kind, Scenario};
use crate::locks::Locks;
use crate::tables::{Disk, Place, Row};
use crate::world::World;

/// What may be under way on one connection.
pub(crate) const PIPE: usize = 4096;
/// Changes that a server without flushes may lose.
const UNFLUSHED: usize = 6;

/// What a session is asked.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Begin,
    Commit,
    Rollback,
    Run { sql: String, capture: bool, sequences: bool },
    Rows { token: String, relation: String, op: Op, old: Vec<String>, new: Vec<String> },
    Advance { token: String, sequence: String, value: i64, exactly: bool },
    Record { token: String, record: Record },
    Follow(bool),
    LockTimeout(Option<Duration>),
}

/// What it answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) error: Option<Refusal>,
    pub(crate) tag: &'static str,
    pub(crate) rows: Option<u64>,
    pub(crate) lines: Vec<Vec<i64>>,
    pub(crate) captured: Vec<Captured>,
    pub(crate) sequences: Vec<(String, i64, i64)>,
    pub(crate) tx: TxState,
}

impl Answer {
    pub(crate) fn new(tag: &'static str) -> Self {
        Self {
            error: None,
            tag,
            rows: None,
            lines: Vec::new(),
            captured: Vec::new(),
            sequences: Vec::new(),
            tx: TxState::Idle,
        }
    }
}

/// An error of the database.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// A transaction on one server.
#[derive(Debug, Default)]
pub(crate) struct Tx {
    pub(crate) rows: BTreeMap<Place, Option<Row>>,
    pub(crate) records: Vec<Record>,
    pub(crate) locks: Vec<Place>,
    pub(crate) savepoints: Vec<Mark>,
    pub(crate) failed: bool,
}

/// What a savepoint goes back to.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) rows: BTreeMap<Place, Option<Row>>,
    pub(crate) records: usize,
    pub(crate) locks: usize,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) user: String,
    pub(crate) reader: bool,
    pub(crate) follower: bool,
    pub(crate) lock_timeout: Option<Duration>,
    pub(crate) tx: Option<Tx>,
    /// Somebody asked for the end of what runs.
    pub(crate) cancelled: bool,
    pub(crate) running: bool,
    dead: CancellationToken,
}

/// What a server is at this moment.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) disk: Disk,
    pub(crate) boot: u64,
    pub(crate) up: bool,
    pub(crate) hung: bool,
    pub(crate) refusing: bool,
    pub(crate) slow: Duration,
    pub(crate) seats: BTreeMap<u64, Seat>,
    pub(crate) locks: Locks,
    pub(crate) dice: StdRng,
    /// Former states of a disk that is not flushed, the newest last.
    history: Vec<Disk>,
    /// Marks of transactions that were committed here once and lost with the flushes.
    pub(crate) lost: Vec<i64>,
}

/// A fake server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) index: usize,
    pub(crate) name: String,
    /// A restart may lose the newest commits.
    lazy: bool,
    /// By how much longer anything may take, and a COMMIT.
    jitter: Duration,
    flush: Duration,
    world: Weak<World>,
    state: Mutex<State>,
    pub(crate) wake: Notify,
}

/// A connection, as its client has it.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) pid: u64,
    pub(crate) boot: u64,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) answers: mpsc::Receiver<Answer>,
}

impl State {
    /// Whether a session is a follower's.
    pub(crate) fn follows(&self, pid: u64) -> bool {
        self.seats.get(&pid).is_some_and(|seat| seat.follower)
    }
}

impl Server {
    pub(crate) fn new(world: &Weak<World>, index: usize, disk: Disk, scenario: &Scenario) -> Self {
        let (lazy, seed) = (scenario.is_lazy(), scenario.seed);
        let late = |more| if index == 0 { Duration::ZERO } else { more };
        let (lag, flush) = (late(scenario.lag), late(scenario.flush));
        let jitter = late(scenario.jitter);
        let state = State {
            disk,
            boot: 1,
            up: true,
            hung: false,
            refusing: false,
            slow: lag,
            seats: BTreeMap::new(),
            locks: Locks::default(),
            dice: StdRng::seed_from_u64(seed ^ (index as u64 + 1)),
            history: Vec::new(),
            lost: Vec::new(),
        };
        let name = crate::world::name(index);
        let (world, wake) = (world.clone(), Notify::new());
        Self { index, name, lazy, jitter, flush, world, state: Mutex::new(state), wake }
    }

    pub(crate) fn world(&self) -> Arc<World> {
        self.world.upgrade().expect("the world outlives its servers")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the disk was, where that may come back.
    pub(crate) fn before_change(&self, state: &mut State) {
        if self.lazy {
            state.history.push(state.disk.clone());
            if state.history.len() > UNFLUSHED {
                state.history.remove(0);
            }
        }
    }

    /// Waits while the server is silent.
    pub(crate) async fn awake(&self) {
        loop {
            let changed = self.wake.notified();
            if !self.lock().hung {
                return;
            }
            changed.await;
        }
    }

    /// Stops at once: sessions and locks are gone, and so are the last changes if they were lazy.
    pub(crate) fn crash(&self, lose: usize) {
        let mut state = self.lock();
        state.up = false;
        state.hung = false;
        for seat in std::mem::take(&mut state.seats).into_values() {
            seat.dead.cancel();
        }
        state.locks = Locks::default();
        if lose > 0 && !state.history.is_empty() {
            let at = state.history.len().saturating_sub(lose);
            let old = state.history.swap_remove(at);
            let kept = old.marks();
            let lost: Vec<i64> = state.disk.marks().difference(&kept).copied().collect();
            state.lost.extend(lost);
            state.disk = old;
        }
        state.history.clear();
        drop(state);
        self.wake.notify_waiters();
    }

    /// Comes up again, or to its senses.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        if !state.up {
            state.up = true;
            state.boot += 1;
        }
        state.hung = false;
        state.refusing = false;
        state.slow = Duration::ZERO;
        drop(state);
        self.wake.notify_waiters();
    }

    /// Ends one session, as an operator would. False when there is none.
    pub(crate) fn kill(&self, pid: u64) -> bool {
        let dead = self.lock().seats.get(&pid).map(|seat| seat.dead.clone());
        dead.is_some_and(|dead| {
            dead.cancel();
            true
        })
    }

    /// Ends what a session runs, if it runs anything.
    pub(crate) fn cancel(&self, pid: u64) {
        if let Some(seat) = self.lock().seats.get_mut(&pid).filter(|seat| seat.running) {
            seat.cancelled = true;
        }
        self.wake.notify_waiters();
    }

    /// Lets somebody in.
    pub(crate) fn connect(self: &Arc<Self>, user: &str, purpose: Purpose) -> Wire {
        let world = self.world();
        let pid = world.next_pid();
        let (requests, incoming) = mpsc::channel(PIPE);
        let (outgoing, answers) = mpsc::channel(PIPE);
        let dead = CancellationToken::new();
        let seat = Seat {
            user: user.to_owned(),
            reader: purpose == Purpose::Read,
            follower: false,
            lock_timeout: None,
            tx: None,
            cancelled: false,
            running: false,
            dead: dead.clone(),
        };
        let mut state = self.lock();
        state.seats.insert(pid, seat);
        let boot = state.boot;
        drop(state);
        let session = Session { server: self.clone(), pid, dead, dice: world.fork() };
        tokio::spawn(session.serve(incoming, outgoing));
        Wire { pid, boot, requests, answers }
    }

    /// Ends a session: what it had open is undone.
    fn end(&self, pid: u64) {
        let mut state = self.lock();
        if state.seats.remove(&pid).is_some() {
            state.locks.forget(pid);
        }
        drop(state);
        self.wake.notify_waiters();
    }
}

/// A session at work.
struct Session {
    server: Arc<Server>,
    pid: u64,
    dead: CancellationToken,
    dice: StdRng,
}

impl Session {
    async fn serve(mut self, mut incoming: mpsc::Receiver<Request>, out: mpsc::Sender<Answer>) {
        let (server, dead) = (self.server.clone(), self.dead.clone());
        tokio::select! {
            biased;
            () = dead.cancelled() => {}
            () = self.work(&mut incoming, &out) => {}
        }
        server.end(self.pid);
    }

    async fn work(&mut self, incoming: &mut mpsc::Receiver<Request>, out: &mpsc::Sender<Answer>) {
        loop {
            let (request, fresh) = match incoming.try_recv() {
                Ok(request) => (request, false),
                Err(_) => match incoming.recv().await {
                    Some(request) => (request, true),
                    None => return,
                },
            };
            self.delay(fresh, &request).await;
            if !self.point(&request, false).await {
                return;
            }
            let answer = self.server.execute(self.pid, &request).await;
            let world = self.server.world();
            world.note(self.server.index, self.pid, &request, &answer);
            if !self.point(&request, true).await {
                return;
            }
            // Who has gone does not hear it; what else it sent is done all the same.
            let _ = out.send(answer).await;
        }
    }

    /// The way there, and the work itself.
    async fn delay(&mut self, fresh: bool, request: &Request) {
        let mut slow = self.server.lock().slow;
        if matches!(request, Request::Commit) && !self.server.flush.is_zero() {
            slow += self.dice.random_range(Duration::ZERO..=self.server.flush);
        }
        if !self.server.jitter.is_zero() {
            slow += self.dice.random_range(Duration::ZERO..=self.server.jitter);
        }
        let way = if fresh { self.dice.random_range(1..=3) } else { self.dice.random_range(0..=1) };
        if way > 0 || !slow.is_zero() {
            tokio::time::sleep(Duration::from_millis(way) + slow).await;
        }
    }

    /// Where something may befall the server. False when this session did not survive it.
    async fn point(&self, request: &Request, done: bool) -> bool {
        let kind = match request {
            Request::Commit => Kind::Commit,
            Request::Record { .. } => Kind::Record,
            _ => Kind::Other,
        };
        self.server.world().point(kind, done, self.server.index, self.pid);
        if self.dead.is_cancelled() {
            return false;
        }
        self.server.awake().await;
        !self.dead.is_cancelled()
    }
}
