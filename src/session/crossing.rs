//! Transactions that come over from a leader that died to the next one, before anybody else does anything there.
//!
//! The locks of a transaction are on its leader; the next one has them once it has its effects. Whoever went on there
//! sooner could change what another transaction has changed, or locked, and has told its client of: either would be
//! lost. So every transaction on a leader is counted under its *era*, the view since which that leader leads. When
//! another one leads, those of earlier eras come over at once, whatever their clients do, and whoever begins
//! something there waits for them. What has not come over within `timeouts.carry_over` is overtaken, and will be told
//! so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// The transactions on the leaders of all eras.
#[derive(Debug, Default)]
pub struct Crossings {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many there are, by era. Nobody is counted whom somebody has overtaken.
    open: BTreeMap<i64, usize>,
    /// Whoever is still of an earlier era than this has been overtaken.
    overtaken: i64,
}

impl State {
    /// One is not of this era any more; whether it was the last.
    fn leave(&mut self, era: i64) -> bool {
        let Some(count) = self.open.get_mut(&era) else {
            return false;
        };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.open.remove(&era);
        }
        last
    }

    fn has_before(&self, era: i64) -> bool {
        self.open.first_key_value().is_some_and(|(first, _)| *first < era)
    }
}

impl Crossings {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction is about to run on the leader of this era. Whoever looks afterwards whether that leads still, and
    /// finds that it does, is not missed by those who come with the next one.
    pub(super) fn enter(self: &Arc<Self>, era: i64) -> Led {
        let mut state = self.lock();
        if era >= state.overtaken {
            *state.open.entry(era).or_default() += 1;
        }
        drop(state);
        Led { all: self.clone(), era: AtomicI64::new(era) }
    }

    /// How many transactions are on leaders now.
    pub(super) fn under_way(&self) -> usize {
        self.lock().open.values().sum()
    }

    /// Waits for the transactions of earlier eras; those that take longer than `limit` are overtaken. How many.
    pub(super) async fn wait_for_earlier(&self, era: i64, limit: Duration) -> usize {
        if !self.lock().has_before(era) {
            return 0;
        }
        let came = async {
            loop {
                let moved = self.moved.notified();
                if !self.lock().has_before(era) {
                    return;
                }
                moved.await;
            }
        };
        if tokio::time::timeout(limit, came).await.is_ok() {
            return 0;
        }
        let mut state = self.lock();
        state.overtaken = state.overtaken.max(era);
        let later = state.open.split_off(&era);
        let late = std::mem::replace(&mut state.open, later);
        drop(state);
        self.moved.notify_waiters();
        late.into_values().sum()
    }
}

/// That a transaction is on the leader of an era, or on its way from there to the next one.
#[derive(Debug)]
pub(super) struct Led {
    all: Arc<Crossings>,
    /// Changed by its transaction alone.
    era: AtomicI64,
}

impl Led {
    /// The era.
    pub(super) fn era(&self) -> i64 {
        self.era.load(Ordering::Relaxed)
    }

    /// Whether others have been let past it.
    pub(super) fn is_overtaken(&self) -> bool {
        self.era() < self.all.lock().overtaken
    }

    /// All that it has done is there, with its locks, where the leader of this era is. False when others have been let
    /// past it.
    pub(super) fn arrives(&self, era: i64) -> bool {
        let own = self.era();
        let mut state = self.all.lock();
        if own < state.overtaken {
            return false;
        }
        if own != era {
            let last = state.leave(own);
            *state.open.entry(era).or_default() += 1;
            self.era.store(era, Ordering::Relaxed);
            drop(state);
            if last {
                self.all.moved.notify_waiters();
            }
        }
        true
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        let era = self.era();
        let mut state = self.all.lock();
        if era < state.overtaken {
            return;
        }
        let last = state.leave(era);
        drop(state);
        if last {
            self.all.moved.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(10);
    const LATE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn who_comes_later_waits_for_those_of_earlier_eras() {
        let all = Arc::new(Crossings::default());
        let (first, second, own) = (all.enter(3), all.enter(3), all.enter(5));
        all.wait_for_earlier(3, LATE).await;
        let waits = tokio::spawn({
            let all = all.clone();
            async move { all.wait_for_earlier(5, LATE).await }
        });
        assert!(timeout(SOON, all.wait_for_earlier(5, LATE)).await.is_err());
        drop(first);
        assert!(timeout(SOON, all.wait_for_earlier(5, LATE)).await.is_err());
        assert!(second.arrives(5));
        assert_eq!(timeout(SOON, waits).await.expect("nobody is left").expect("a task"), 0);
        assert_eq!((own.era(), second.era()), (5, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_overtaken_does_not_arrive() {
        let all = Arc::new(Crossings::default());
        let (first, second) = (all.enter(3), all.enter(4));
        let own = all.enter(5);
        assert_eq!(all.wait_for_earlier(5, LATE).await, 2);
        assert!(first.is_overtaken() && !own.is_overtaken());
        assert!(!first.arrives(5) && !second.arrives(4) && own.arrives(5));
        drop((first, second, all.enter(4)));
        assert_eq!(timeout(SOON, all.wait_for_earlier(5, LATE)).await, Ok(0));
        assert!(own.arrives(6), "it is there before anybody begins there");
        drop(own);
        assert!(all.lock().open.is_empty());
    }
}
