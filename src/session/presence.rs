//! Shares whose transactions do not commit yet, and how they make way.
//!
//! A follower may lock more than the leader did for the same statement, because its plan is another.
//! Then a transaction that commits can wait there for one that waits for it on the leader, a circle
//! that no server sees. Whoever commits goes first: the others' shares on that follower are ended, and
//! applied again when their own transactions commit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All such shares, by a number that each is given.
#[derive(Debug)]
pub struct Present<C> {
    shares: Mutex<(u64, BTreeMap<u64, Entry<C>>)>,
}

#[derive(Debug)]
struct Entry<C> {
    backend: usize,
    canceller: C,
    ended: Arc<AtomicBool>,
}

impl<C> Default for Present<C> {
    fn default() -> Self {
        Self { shares: Mutex::default() }
    }
}

impl<C> Present<C> {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Entry<C>>)> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share is open on a backend.
    pub(super) fn enter(self: &Arc<Self>, backend: usize, canceller: C) -> Presence<C> {
        let ended = Arc::new(AtomicBool::new(false));
        let mut shares = self.lock();
        shares.0 += 1;
        let number = shares.0;
        shares.1.insert(number, Entry { backend, canceller, ended: ended.clone() });
        drop(shares);
        Presence { all: self.clone(), number, ended }
    }

    /// Has all shares on a backend make way: how each is ended. They know it at once.
    pub(super) fn make_way(&self, backend: usize) -> Vec<C> {
        let mut shares = self.lock();
        let here = shares.1.iter().filter(|(_, entry)| entry.backend == backend);
        let here: Vec<u64> = here.map(|(number, _)| *number).collect();
        let leave = here.iter().filter_map(|number| shares.1.remove(number));
        let ended = leave.map(|entry| {
            entry.ended.store(true, Ordering::SeqCst);
            entry.canceller
        });
        ended.collect()
    }
}

/// A share that is open and may be ended; with this value it is no longer.
#[derive(Debug)]
pub(super) struct Presence<C> {
    all: Arc<Present<C>>,
    number: u64,
    ended: Arc<AtomicBool>,
}

impl<C> Presence<C> {
    /// Whether it has had to make way.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Its transaction commits now, and it need not make way any more. False when it has had to.
    pub(super) fn stays(&self) -> bool {
        self.all.lock().1.remove(&self.number).is_some()
    }
}

impl<C> Drop for Presence<C> {
    fn drop(&mut self) {
        self.all.lock().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_on_another_backend_or_gone_need_not_make_way() {
        let all = Arc::new(Present::default());
        let (first, second) = (all.enter(0, 'a'), all.enter(1, 'b'));
        drop(all.enter(1, 'c'));
        assert_eq!(all.make_way(1), ['b']);
        assert!(second.is_ended() && !first.is_ended());
        assert!(all.make_way(1).is_empty());
        assert!(first.stays() && !second.stays());
        assert!(all.make_way(0).is_empty());
    }
}
