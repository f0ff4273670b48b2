//! Who shares a transaction with whom.
//!
//! Statements of sessions with the same user and settings form a queue. A few transactions are under
//! way for each queue; who arrives meanwhile waits, and when one of them has ended, the first of
//! those who wait takes all others along. So nobody waits for company: alone, a statement runs at
//! once, and under load the groups grow by themselves, as group commit does it for flushes (DeWitt
//! et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::oneshot;

use super::Stop;
use crate::catalog::{Plan, Text};
use crate::exchange::Settings;

/// How many transactions are under way for one queue before others wait: one writes on the leader
/// while another waits for its flush.
const UNDER_WAY: usize = 2;

/// The queues of all sessions.
#[derive(Debug)]
pub struct Groups<W> {
    queues: Mutex<HashMap<Key, Queue<W>>>,
    /// Somebody has asked for currval(): what was drawn must be found on the session's connection.
    draws_apart: AtomicBool,
}

/// What sessions must have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Under which the connections to the servers are kept.
    pub user: String,
    /// The session's settings.
    pub settings: Settings,
}

#[derive(Debug)]
struct Queue<W> {
    under_way: usize,
    waiting: Vec<Rider<W>>,
}

/// A statement that waits to be taken along.
#[derive(Debug)]
pub(super) struct Rider<W> {
    /// The text and the plan it was classified with: one statement.
    pub text: Arc<Text>,
    /// The plan.
    pub plan: Arc<Plan>,
    /// What to send.
    pub work: W,
    answer: oneshot::Sender<Turn<W>>,
}

impl<W> Rider<W> {
    /// Tells its session how it went.
    pub(super) fn tell(self, turn: Turn<W>) {
        // A session that is gone wants no answer.
        drop(self.answer.send(turn));
    }
}

/// What becomes of a statement that waited.
#[derive(Debug)]
pub(super) enum Turn<W> {
    /// Its session runs the next transaction, with these others.
    Drive(Seat<W>, Vec<Rider<W>>),
    /// It runs by itself: in company it failed, and nothing of it was kept.
    Alone,
    /// It has ended: with its answer, or with an error that all of them get.
    Done(Result<Answered, Stop>),
}

/// What a statement's application is to read.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// The messages.
    pub answer: BytesMut,
    /// What it drew from sequences: name, value, step.
    pub drawn: Vec<(String, i64, i64)>,
}

/// A transaction under way. Its end lets the next ones go.
#[derive(Debug)]
pub(super) struct Seat<W> {
    groups: Arc<Groups<W>>,
    key: Key,
    most: usize,
}

impl<W> Drop for Seat<W> {
    fn drop(&mut self) {
        let groups = self.groups.clone();
        let mut queues = groups.lock();
        let Some(queue) = queues.get_mut(&self.key) else {
            return;
        };
        let many = queue.waiting.len().min(self.most);
        let mut next = queue.waiting.drain(..many);
        let Some(driver) = next.next() else {
            drop(next);
            queue.under_way -= 1;
            if queue.under_way == 0 {
                queues.remove(&self.key);
            }
            return;
        };
        let seat = Self { groups: self.groups.clone(), key: self.key.clone(), most: self.most };
        let others = next.collect();
        drop(queues);
        driver.tell(Turn::Drive(seat, others));
    }
}

/// How a statement comes in.
#[derive(Debug)]
pub(super) enum Entrance<W> {
    /// It runs at once.
    First(Seat<W>),
    /// It waits for its turn.
    Wait(oneshot::Receiver<Turn<W>>),
}

impl<W> Default for Groups<W> {
    fn default() -> Self {
        Self { queues: Mutex::default(), draws_apart: AtomicBool::new(false) }
    }
}

impl<W: Clone> Groups<W> {
    /// Takes a place in the queue, in which groups have at `most` so many statements.
    pub(super) fn enter(
        self: &Arc<Self>,
        key: Key,
        most: usize,
        (text, plan, work): (&Arc<Text>, &Arc<Plan>, &W),
    ) -> Entrance<W> {
        let mut queues = self.lock();
        let queue = queues
            .entry(key.clone())
            .or_insert_with(|| Queue { under_way: 0, waiting: Vec::new() });
        if queue.under_way < UNDER_WAY {
            queue.under_way += 1;
            return Entrance::First(Seat { groups: self.clone(), key, most });
        }
        let (answer, turn) = oneshot::channel();
        let (text, plan, work) = (text.clone(), plan.clone(), work.clone());
        queue.waiting.push(Rider { text, plan, work, answer });
        Entrance::Wait(turn)
    }
}

impl<W> Groups<W> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Queue<W>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody looks for what was drawn from a sequence on the connection that drew it: statements
    /// that draw share no transaction from now on.
    pub(super) fn keep_draws_apart(&self) {
        self.draws_apart.store(true, Ordering::Relaxed);
    }

    /// Whether statements that draw from a sequence may share a transaction.
    pub(super) fn may_draw(&self) -> bool {
        !self.draws_apart.load(Ordering::Relaxed)
    }
}
