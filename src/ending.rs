//! Something that ends at some time, watched by one who waits for other things meanwhile.

use std::future::poll_fn;
use std::pin::Pin;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A look-out for the end. Waiting on the token itself would enter a list, and leave it again, each time
/// that something else comes first; this enters once.
#[derive(Debug)]
pub struct Ending(Pin<Box<WaitForCancellationFutureOwned>>);

impl Ending {
    /// A look-out for the end that the token tells of.
    #[must_use]
    pub fn of(token: CancellationToken) -> Self {
        Self(Box::pin(token.cancelled_owned()))
    }

    /// Waits for the end; at once when it has come.
    pub async fn comes(&mut self) {
        poll_fn(|context| self.0.as_mut().poll(context)).await;
    }
}
