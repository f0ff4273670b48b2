//! Who shares a transaction with whom.
//!
//! Sessions with the same user and settings are one company. A few transactions of theirs are under
//! way; who arrives meanwhile waits, and when one of them has ended, the first of those who wait takes
//! the others along. So nobody waits for company: alone, a statement runs at once, and under load the
//! groups grow by themselves, as group commit does it for flushes (DeWitt et al., "Implementation
//! Techniques for Main Memory Database Systems", SIGMOD 1984).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::oneshot;

use super::Stop;
use crate::catalog::{Plan, Text};
use crate::exchange::Settings;

/// Companies by user and settings, for as long as a session belongs to them.
type Companies<W> = HashMap<(String, Settings), Weak<Company<W>>>;

/// All companies.
#[derive(Debug)]
pub struct Groups<W> {
    companies: Mutex<Companies<W>>,
    /// Somebody has asked for currval(): what was drawn must be found on the session's connection.
    draws_apart: AtomicBool,
}

/// Sessions whose statements mean the same and may do the same.
#[derive(Debug)]
pub(super) struct Company<W> {
    /// Their settings.
    pub settings: Settings,
    queue: Mutex<Queue<W>>,
}

#[derive(Debug)]
struct Queue<W> {
    under_way: usize,
    waiting: Vec<Rider<W>>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { under_way: 0, waiting: Vec::new() }
    }
}

/// How many transactions are under way before others wait: one writes on the leader while another
/// waits for its flush.
const AT_ONCE: usize = 2;

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

/// A group under way. Its end lets the next ones go.
#[derive(Debug)]
pub(super) struct Seat<W> {
    company: Arc<Company<W>>,
    most: usize,
}

impl<W> Seat<W> {
    /// Waits for something that one statement does by itself. One that takes longer than this does
    /// not hold up those who wait: the seat goes to them.
    pub(super) async fn hold<T>(
        self,
        at_most: Duration,
        run: impl Future<Output = T>,
    ) -> (T, Option<Self>) {
        let mut run = std::pin::pin!(run);
        tokio::select! {
            biased;
            ended = &mut run => return (ended, Some(self)),
            () = tokio::time::sleep(at_most) => drop(self),
        }
        (run.await, None)
    }
}

impl<W> Drop for Seat<W> {
    fn drop(&mut self) {
        let company = self.company.clone();
        let mut queue = company.queue();
        let many = queue.waiting.len().min(self.most);
        let mut next = queue.waiting.drain(..many);
        let Some(driver) = next.next() else {
            drop(next);
            queue.under_way -= 1;
            return;
        };
        let others = next.collect();
        drop(queue);
        let seat = Self { company: self.company.clone(), most: self.most };
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

impl<W: Clone> Company<W> {
    /// Takes a place in the queue, of which a group has at `most` so many statements.
    pub(super) fn enter(
        self: &Arc<Self>,
        most: usize,
        (text, plan, work): (&Arc<Text>, &Arc<Plan>, &W),
    ) -> Entrance<W> {
        let mut queue = self.queue();
        if queue.under_way < AT_ONCE {
            queue.under_way += 1;
            return Entrance::First(Seat { company: self.clone(), most });
        }
        let (answer, turn) = oneshot::channel();
        let (text, plan, work) = (text.clone(), plan.clone(), work.clone());
        queue.waiting.push(Rider { text, plan, work, answer });
        Entrance::Wait(turn)
    }
}

impl<W> Company<W> {
    fn queue(&self) -> MutexGuard<'_, Queue<W>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Default for Groups<W> {
    fn default() -> Self {
        Self { companies: Mutex::default(), draws_apart: AtomicBool::new(false) }
    }
}

impl<W> Groups<W> {
    /// The company of sessions with this user and these settings.
    pub(super) fn company(&self, user: &str, settings: &Settings) -> Arc<Company<W>> {
        let mut companies = self.companies.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (user.to_owned(), settings.clone());
        if let Some(company) = companies.get(&key).and_then(Weak::upgrade) {
            return company;
        }
        if companies.len() == companies.capacity() {
            companies.retain(|_, company| company.strong_count() > 0);
        }
        let company = Arc::new(Company { settings: settings.clone(), queue: Mutex::default() });
        companies.insert(key, Arc::downgrade(&company));
        company
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
