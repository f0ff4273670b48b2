//! Something that ends at some time, watched by one who waits for other things meanwhile.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A look-out for the end. Waiting on the token itself would enter a list, and leave it again, each time
/// that something else comes first; this enters once.
#[derive(Debug)]
pub struct Ending {
    token: CancellationToken,
    entry: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Whom the entry wakes.
    woken: Option<Waker>,
}

impl Ending {
    /// A look-out for the end that the token tells of.
    #[must_use]
    pub fn of(token: CancellationToken) -> Self {
        Self { entry: Box::pin(token.clone().cancelled_owned()), token, woken: None }
    }

    /// Waits for the end; at once when it has come.
    pub async fn comes(&mut self) {
        poll_fn(|context| {
            if self.token.is_cancelled() {
                return Poll::Ready(());
            }
            // Looking is cheaper than entering; and who is in the list already will be woken.
            if self.woken.as_ref().is_some_and(|woken| woken.will_wake(context.waker())) {
                return Poll::Pending;
            }
            self.woken = Some(context.waker().clone());
            self.entry.as_mut().poll(context)
        })
        .await;
    }
}
