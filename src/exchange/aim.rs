//! Where requests to cancel strike: the statement that is meant, and nothing around it.
//!
//! A server cancels whatever a connection runs at the moment at which the request arrives there. What had been sent behind
//! a BEGIN that is struck would commit by itself, and a COMMIT that is struck would look as if the server was ill. So
//! nothing is cancelled before the BEGIN has been answered ([`Aim`]), and nothing else is sent while a request to cancel
//! is under way ([`Target`]).

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Whether what a connection runs may be cancelled. Belongs to the connection and to whoever cancels.
#[derive(Debug, Default)]
pub struct Aim {
    opening: AtomicBool,
    opened: Notify,
    /// Requests to cancel of which nobody knows whether they have arrived.
    astray: AtomicUsize,
}

impl Aim {
    /// A BEGIN is sent, and what comes behind it is sent without waiting for the answer.
    pub fn opens(&self) {
        self.opening.store(true, Ordering::SeqCst);
    }

    /// It has been answered, or a cancel would take along what is behind it.
    pub fn opened(&self) {
        if self.opening.swap(false, Ordering::SeqCst) {
            self.opened.notify_waiters();
        }
    }

    /// Has what runs cancelled by `attempt`, which gives something once the server has taken the request: not before
    /// nothing is being opened any more, and for no longer than `limit`. What does not get through is followed by
    /// the time limit of whoever waits for what was to be cancelled.
    pub async fn strike(&self, limit: Duration, attempt: impl Future<Output = Option<()>>) {
        let struck = async {
            self.is_clear().await;
            // It may strike whatever runs later until the server has taken it, also where nobody waits for that any more.
            self.astray.fetch_add(1, Ordering::SeqCst);
            if attempt.await.is_some() {
                self.astray.fetch_sub(1, Ordering::SeqCst);
            }
        };
        // What does not get through in time is astray.
        let _ = tokio::time::timeout(limit, struck).await;
    }

    /// Waits until nothing is being opened.
    async fn is_clear(&self) {
        loop {
            let opened = self.opened.notified();
            if !self.opening.load(Ordering::SeqCst) {
                return;
            }
            opened.await;
        }
    }

    /// Whether the connection may still be struck by something that was meant for what it has run.
    pub fn may_be_struck(&self) -> bool {
        self.astray.load(Ordering::SeqCst) > 0
    }
}

#[derive(Debug)]
struct Range<C> {
    /// How to cancel what runs, and how many are at it.
    runs: Mutex<(Option<C>, usize)>,
    quiet: Notify,
}

impl<C> Range<C> {
    fn lock(&self) -> MutexGuard<'_, (Option<C>, usize)> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a session runs, as far as it can be cancelled.
#[derive(Debug)]
pub struct Target<C>(Arc<Range<C>>);

impl<C> Default for Target<C> {
    fn default() -> Self {
        Self(Arc::new(Range { runs: Mutex::new((None, 0)), quiet: Notify::new() }))
    }
}

impl<C: Clone> Target<C> {
    /// A statement begins.
    pub fn set(&self, canceller: C) {
        self.0.lock().0 = Some(canceller);
    }

    /// The statement has ended. Where its connection `lives`, this waits for those who are about to cancel it, so that they
    /// strike nothing else.
    pub async fn clear(&self, lives: bool) {
        // Hardly ever is anybody at it.
        if self.lower() || !lives {
            return;
        }
        loop {
            let quiet = self.0.quiet.notified();
            if self.lower() {
                return;
            }
            quiet.await;
        }
    }

    /// Nothing can be aimed at any more. Whether nobody is at it still.
    fn lower(&self) -> bool {
        let mut runs = self.0.lock();
        runs.0 = None;
        runs.1 == 0
    }

    /// How to cancel what runs, if anything does. It waits for whoever has this value.
    pub fn take_aim(&self) -> Option<Shot<C>> {
        let mut runs = self.0.lock();
        let canceller = runs.0.clone()?;
        runs.1 += 1;
        Some(Shot { canceller, range: self.0.clone() })
    }

    /// Whether anything runs.
    pub fn is_set(&self) -> bool {
        self.0.lock().0.is_some()
    }
}

/// The right to cancel what a session runs.
#[derive(Debug)]
pub struct Shot<C> {
    canceller: C,
    range: Arc<Range<C>>,
}

impl<C> Deref for Shot<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.canceller
    }
}

impl<C> Drop for Shot<C> {
    fn drop(&mut self) {
        self.range.lock().1 -= 1;
        self.range.quiet.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_being_opened_is_not_struck() {
        let aim = Arc::new(Aim::default());
        aim.is_clear().await;
        aim.opens();
        let soon = Duration::from_millis(10);
        assert!(timeout(soon, aim.is_clear()).await.is_err());
        let waits = tokio::spawn({
            let aim = aim.clone();
            async move { aim.is_clear().await }
        });
        tokio::task::yield_now().await;
        aim.opened();
        timeout(soon, waits).await.expect("told").expect("a task");
        aim.strike(soon, async { Some(()) }).await;
        assert!(!aim.may_be_struck());
        aim.strike(soon, std::future::pending()).await;
        assert!(aim.may_be_struck());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_on_while_somebody_cancels() {
        let target = Target::default();
        assert!(target.take_aim().is_none());
        target.set('a');
        let shot = target.take_aim().expect("something runs");
        assert_eq!(*shot, 'a');
        let soon = Duration::from_millis(10);
        assert!(timeout(soon, target.clear(true)).await.is_err());
        assert!(target.take_aim().is_none(), "it has ended");
        timeout(soon, target.clear(false)).await.expect("its connection is gone");
        drop(shot);
        timeout(soon, target.clear(true)).await.expect("nobody is at it");
    }
}
