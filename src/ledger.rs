//! Sequence numbers of the journal and the commits under way.
//!
//! A commit is under way from the moment it has a number until every active backend has it. A read
//! that must see everything any application may have seen waits for those that touch its tables.
//!
//! A COMMIT that is on its way has let others past its locks on the leader already, but a follower
//! may still lose it, with one session, and with that session its locks there. Whoever comes after
//! it on the same tables waits with its own COMMIT until it has ended: then every member has it. And
//! when it is the leader that lost one, those who went past its locks there stand on what it was to
//! replace: they are told to begin again.

pub mod reservations;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::sql::Touched;

/// Sequence numbers and commits under way.
#[derive(Debug, Default)]
pub struct Ledger {
    next: AtomicI64,
    count: AtomicUsize,
    last_acknowledged: AtomicI64,
    under_way: Mutex<BTreeMap<i64, UnderWay>>,
    /// Records that must stay within reach: their work is not done yet.
    open: Mutex<BTreeSet<i64>>,
    /// How far the sequences of applications have moved.
    pub reservations: reservations::Reservations,
    /// For each backend that lost a commit while it led: up to which generation, on which tables.
    lost: Mutex<HashMap<usize, (u64, Touched)>>,
}

#[derive(Debug)]
struct UnderWay {
    writes: Arc<Touched>,
    /// COMMIT has been sent: on the leader others may have got past its locks.
    committing: bool,
    done: CancellationToken,
}

/// A commit under way; the end of it is the end of this value.
#[derive(Debug)]
pub struct Ticket {
    ledger: Arc<Ledger>,
    /// The number of its record.
    pub seq: i64,
    /// Ends when the commit does.
    done: CancellationToken,
}

impl Ticket {
    /// COMMIT is about to be sent.
    pub fn commits(&self) {
        if let Some(commit) = self.ledger.lock().get_mut(&self.seq) {
            commit.committing = true;
        }
    }

    /// The commit has been acknowledged.
    pub fn acknowledged(&self) {
        self.ledger.last_acknowledged.fetch_max(self.seq, Ordering::SeqCst);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ledger.lock().remove(&self.seq);
        self.ledger.count.fetch_sub(1, Ordering::SeqCst);
        self.done.cancel();
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts numbering after the newest record that any backend has.
    pub fn start_after(&self, seq: i64) {
        self.next.fetch_max(seq, Ordering::SeqCst);
        self.last_acknowledged.fetch_max(seq, Ordering::SeqCst);
    }

    /// Gives the next number to a commit that writes the given tables.
    pub fn begin(self: &Arc<Self>, writes: Touched) -> Ticket {
        let done = CancellationToken::new();
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut under_way = self.lock();
        let seq = self.next.fetch_add(1, Ordering::SeqCst) + 1;
        under_way.insert(
            seq,
            UnderWay { writes: Arc::new(writes), committing: false, done: done.clone() },
        );
        Ticket { ledger: self.clone(), seq, done }
    }

    /// The number of the newest record that was given out.
    pub fn newest(&self) -> i64 {
        self.next.load(Ordering::SeqCst)
    }

    /// The newest commit that an application was told about.
    pub fn last_acknowledged(&self) -> i64 {
        self.last_acknowledged.load(Ordering::SeqCst)
    }

    /// Every commit up to this number has ended, and nothing of it has to be looked at again.
    pub fn complete_to(&self) -> i64 {
        let under_way = self.lock();
        let ended = under_way
            .first_key_value()
            .map_or_else(|| self.next.load(Ordering::SeqCst), |(first, _)| first - 1);
        self.open().first().map_or(ended, |open| ended.min(open - 1))
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An intent is recorded under this number: it stays within reach until its outcome is.
    pub fn keep_open(&self, intent: i64) {
        self.open().insert(intent);
    }

    /// Whether the outcome of an intent has not been decided yet.
    pub fn is_open(&self, intent: i64) -> bool {
        self.open().contains(&intent)
    }

    /// The outcome of an intent is recorded.
    pub fn close(&self, intent: i64) {
        self.open().remove(&intent);
    }

    /// The outcomes of all intents are recorded.
    pub fn close_all(&self) {
        self.open().clear();
    }

    /// Waits until the commits under way that touch the given tables have ended.
    pub async fn wait_for_writes(&self, reads: &Touched) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let waits: Vec<CancellationToken> = self
            .lock()
            .values()
            .filter(|commit| overlap(reads, &commit.writes))
            .map(|commit| commit.done.clone())
            .collect();
        for done in waits {
            done.cancelled().await;
        }
    }

    /// The ends of the commits on their way whose locks on the leader somebody who has written the
    /// given tables may have got past.
    pub fn committing(&self, writes: &Touched) -> Vec<CancellationToken> {
        let under_way = self.lock();
        let before = under_way.values().filter(|c| c.committing && overlap(writes, &c.writes));
        before.map(|commit| commit.done.clone()).collect()
    }

    /// A leader has lost a commit, with its locks, and went on.
    pub fn note_lost(&self, leader: usize, generation: u64, writes: &Touched) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lost.entry(leader).or_insert((generation, Touched::None));
        if known.0 < generation {
            *known = (generation, Touched::None);
        }
        known.1.merge(writes);
    }

    /// Whether somebody may have got past the locks of a commit that its leader had lost.
    pub fn stands_on_lost(&self, leader: usize, generation: u64, writes: &Touched) -> bool {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get(&leader)
            .is_some_and(|(upto, tables)| generation <= *upto && overlap(writes, tables))
    }

    /// Waits until every commit with a smaller number has ended.
    pub async fn wait_for_earlier(&self, seq: i64) {
        let waits: Vec<CancellationToken> =
            self.lock().range(..seq).map(|(_, commit)| commit.done.clone()).collect();
        for done in waits {
            done.cancelled().await;
        }
    }
}

fn overlap(reads: &Touched, writes: &Touched) -> bool {
    match (reads, writes) {
        (Touched::None, _) | (_, Touched::None) => false,
        (Touched::Unknown, _) | (_, Touched::Unknown) => true,
        (Touched::Tables(reads), Touched::Tables(writes)) => {
            reads.iter().any(|table| writes.contains(table))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(names: &[&str]) -> Touched {
        Touched::Tables(names.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn who_comes_after_a_commit_on_its_way_knows_it() {
        let ledger = Arc::new(Ledger::default());
        let first = ledger.begin(tables(&["public.a"]));
        assert!(ledger.committing(&tables(&["public.a"])).is_empty(), "nobody got past its locks");
        first.commits();
        assert!(ledger.committing(&tables(&["public.b"])).is_empty());
        let before = ledger.committing(&tables(&["public.a"]));
        drop(first);
        assert!(before[0].is_cancelled() && ledger.committing(&Touched::Unknown).is_empty());
    }

    #[test]
    fn what_a_leader_lost_concerns_who_was_there_then() {
        let ledger = Ledger::default();
        ledger.note_lost(2, 5, &tables(&["public.a"]));
        assert!(ledger.stands_on_lost(2, 4, &tables(&["public.a"])));
        assert!(!ledger.stands_on_lost(2, 6, &tables(&["public.a"])), "it has come back since");
        assert!(!ledger.stands_on_lost(1, 4, &tables(&["public.a"])));
        assert!(!ledger.stands_on_lost(2, 4, &tables(&["public.b"])));
    }

    #[tokio::test]
    async fn a_read_waits_only_for_commits_on_its_tables() {
        let ledger = Arc::new(Ledger::default());
        ledger.start_after(41);
        let ticket = ledger.begin(tables(&["public.a"]));
        assert_eq!((ticket.seq, ledger.complete_to()), (42, 41));
        ledger.wait_for_writes(&tables(&["public.b"])).await;
        let waiting = ledger.clone();
        let read =
            tokio::spawn(async move { waiting.wait_for_writes(&tables(&["public.a"])).await });
        tokio::task::yield_now().await;
        assert!(!read.is_finished());
        ledger.keep_open(42);
        drop(ticket);
        read.await.expect("the read goes on");
        assert_eq!(ledger.complete_to(), 41, "an intent without an outcome stays within reach");
        ledger.close(42);
        assert_eq!(ledger.complete_to(), 42);
    }
}
