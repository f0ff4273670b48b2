//! Row locks of one fake server: shared or exclusive, first come, first served.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::tables::Place;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Taken by who refers to a row.
    Shared,
    /// Taken by who changes it.
    Exclusive,
}

#[derive(Debug, Default)]
struct Lock {
    holders: BTreeMap<u64, Mode>,
    queue: VecDeque<(u64, Mode)>,
}

impl Lock {
    /// Who stands in the way of a session: holders first, then those who came earlier.
    fn blockers(&self, pid: u64, mode: Mode) -> BTreeSet<u64> {
        let conflicts = |other: Mode| mode == Mode::Exclusive || other == Mode::Exclusive;
        let holders = self.holders.iter().filter(|(p, m)| **p != pid && conflicts(**m));
        let mut found: BTreeSet<u64> = holders.map(|(p, _)| *p).collect();
        // Who holds it already, in whatever mode, need not stand in line behind those who wait for it.
        if !self.holders.contains_key(&pid) {
            let earlier = self.queue.iter().take_while(|(p, _)| *p != pid);
            found.extend(earlier.filter(|(_, m)| conflicts(*m)).map(|(p, _)| *p));
        }
        found
    }
}

/// All locks of a server.
#[derive(Debug, Default)]
pub(crate) struct Locks(BTreeMap<Place, Lock>);

impl Locks {
    /// Takes a lock, or stands in line for it. `Some(true)` when it is newly taken, `Some(false)`
    /// when it was held already.
    pub(crate) fn take(&mut self, pid: u64, place: Place, mode: Mode) -> Option<bool> {
        let lock = self.0.entry(place).or_default();
        if lock.holders.get(&pid).is_some_and(|m| *m == mode || *m == Mode::Exclusive) {
            return Some(false);
        }
        if lock.blockers(pid, mode).is_empty() {
            lock.queue.retain(|(p, _)| *p != pid);
            return Some(lock.holders.insert(pid, mode).is_none());
        }
        if !lock.queue.iter().any(|(p, _)| *p == pid) {
            lock.queue.push_back((pid, mode));
        }
        None
    }

    /// Whether somebody else has it, or waits for it.
    pub(crate) fn is_taken(&self, pid: u64, place: Place) -> bool {
        self.0.get(&place).is_some_and(|lock| !lock.blockers(pid, Mode::Exclusive).is_empty())
    }

    /// Stops waiting.
    pub(crate) fn leave(&mut self, pid: u64, place: Place) {
        if let Some(lock) = self.0.get_mut(&place) {
            lock.queue.retain(|(p, _)| *p != pid);
        }
    }

    pub(crate) fn release(&mut self, pid: u64, place: Place) {
        if let Some(lock) = self.0.get_mut(&place) {
            lock.holders.remove(&pid);
            if lock.holders.is_empty() && lock.queue.is_empty() {
                self.0.remove(&place);
            }
        }
    }

    /// Forgets a session altogether.
    pub(crate) fn forget(&mut self, pid: u64) {
        for lock in self.0.values_mut() {
            lock.holders.remove(&pid);
            lock.queue.retain(|(p, _)| *p != pid);
        }
        self.0.retain(|_, lock| !lock.holders.is_empty() || !lock.queue.is_empty());
    }

    /// Whether a waiting session waits, in the end, for itself.
    pub(crate) fn is_deadlocked(&self, pid: u64) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![pid];
        while let Some(waiting) = open.pop() {
            for next in self.waits_for(waiting) {
                if next == pid {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    }

    fn waits_for(&self, pid: u64) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        for lock in self.0.values() {
            if let Some((_, mode)) = lock.queue.iter().find(|(p, _)| *p == pid) {
                found.extend(lock.blockers(pid, *mode));
            }
        }
        found
    }
}
