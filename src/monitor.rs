//! Health checks: one task a backend, and the housekeeping of the journal.

mod housekeeping;
mod pulse;
mod weights;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use housekeeping::{Keep, housekeeping};
pub use pulse::{Pulse, beat, beat_witness};

use crate::cluster::Phase;
use crate::exchange::Protocol;
use crate::session::Shared;

/// Every so many probes one commits something: a full or read-only disk shows only there.
const WRITE_EVERY: u32 = 5;

/// Probes a backend until told to stop. Only members are probed: whoever is away is looked after by
/// those who bring it back.
pub async fn probe<P: Protocol>(
    shared: Arc<Shared<P>>,
    backend: usize,
    interval: Duration,
    stop: CancellationToken,
) {
    let mut count: u32 = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let view = shared.keeper.view();
        if view.phase != Phase::Serving || !view.is_member(backend) {
            continue;
        }
        count = count.wrapping_add(1);
        let generation = shared.backends[backend].generation();
        let control = &shared.controls[backend];
        let seen = if count.is_multiple_of(WRITE_EVERY) {
            control.probe_write().await
        } else {
            control
                .examine()
                .await
                .and_then(|seen| shared.backends[backend].judge(&seen.started, seen.writable))
        };
        if let Err(why) = seen {
            let cause = format!("health check failed: {why}");
            shared.keeper.lost(backend, generation, cause, false).await;
        }
    }
}
