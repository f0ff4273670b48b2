//! Health checks: one task a backend, and the housekeeping of the journal.

mod housekeeping;
mod pulse;
mod weights;

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use housekeeping::housekeeping;
pub use pulse::{Pulse, beat, beat_witness};

use crate::cluster::Phase;
use crate::exchange::Protocol;
use crate::session::Shared;

/// Every so many probes one commits something: a full or read-only disk shows only there.
const WRITE_EVERY: u32 = 5;

/// Probes a backend until told to stop. Only members are probed: whoever is away is looked after by
/// those who bring it back.
pub async fn probe<P: Protocol>(shared: Arc<Shared<P>>, backend: usize, stop: CancellationToken) {
    let mut count: u32 = 0;
    // Since when it has taken no commit, though it answers.
    let mut full: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(shared.settings().probe_interval) => {}
        }
        let view = shared.keeper.view();
        if view.phase != Phase::Serving || !view.is_member(backend) {
            full = None;
            continue;
        }
        count = count.wrapping_add(1);
        let generation = shared.backends[backend].generation();
        let control = &shared.controls[backend];
        let seen = if full.is_some() || count.is_multiple_of(WRITE_EVERY) {
            let written = control.probe_write().await;
            full = written.is_err().then(|| full.unwrap_or_else(Instant::now));
            written
        } else {
            control
                .examine()
                .await
                .and_then(|seen| shared.backends[backend].judge(&seen.started, seen.writable))
        };
        if let Err(why) = seen {
            let cause = format!("health check failed: {why}");
            // Whoever answers and takes no commits is as good as dead, where another one takes them.
            let limit = shared.settings().dead_after;
            let dead = full.is_some_and(|since| since.elapsed() >= limit);
            let force = dead && another_writes(&shared, backend).await;
            shared.keeper.lost(backend, generation, cause, force).await;
        }
    }
}

async fn another_writes<P: Protocol>(shared: &Shared<P>, backend: usize) -> bool {
    for &other in shared.keeper.view().order.iter().filter(|other| **other != backend) {
        if shared.controls[other].probe_write().await.is_ok() {
            return true;
        }
    }
    false
}
