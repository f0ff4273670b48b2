//! Health checks: one task a backend, and the housekeeping of the journal.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

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

/// How much of the journal is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Records that are kept even when every backend has them.
    pub spare: i64,
    /// Records that are kept at the most, even when a backend that is away lacks them.
    pub most: i64,
}

/// Notes up to where every member has everything, and removes records that nobody needs any more.
pub async fn housekeeping<P: Protocol>(
    shared: Arc<Shared<P>>,
    keep: Keep,
    interval: Duration,
    stop: CancellationToken,
) {
    let mut known = vec![0; shared.backends.len()];
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        for pool in shared.backends.iter().flat_map(|backend| backend.pools()) {
            pool.close_unused();
        }
        note_figures(&shared);
        // The order matters: a member that lacks a commit has left the view before that commit ended.
        let complete = shared.ledger.complete_to();
        let view = shared.keeper.view();
        if view.phase != Phase::Serving {
            continue;
        }
        for &member in &view.order {
            match shared.controls[member].set_complete(complete).await {
                Ok(()) => known[member] = complete,
                Err(why) => tracing::debug!(backend = member, %why, "complete_to was not noted"),
            }
        }
        for (backend, known) in known.iter_mut().enumerate() {
            if *known == 0
                && let Ok(seen) = shared.controls[backend].examine().await
            {
                *known = seen.control.map_or(0, |c| c.complete_to);
            }
        }
        let everywhere = known.iter().copied().min().unwrap_or(0);
        let upto = (everywhere - keep.spare).max(complete - keep.most);
        if upto > 0 {
            for &member in &view.order {
                if let Err(why) = shared.controls[member].prune(upto).await {
                    tracing::debug!(backend = member, %why, "the journal was not pruned");
                }
            }
        }
    }
}

fn note_figures<P: Protocol>(shared: &Shared<P>) {
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    shared.metrics.journal_seq.set(shared.ledger.newest());
    shared.metrics.clients_connected.set(number(shared.registry.count(None)));
    for backend in &shared.backends {
        let (mut used, mut idle, mut waiting) = (0, 0, 0);
        for pool in backend.pools() {
            let counts = pool.counts();
            used += counts.0;
            idle += counts.1;
            waiting += counts.2;
        }
        backend.metrics.pool_used.set(number(used));
        backend.metrics.pool_idle.set(number(idle));
        backend.metrics.pool_waiting.set(number(waiting));
        backend.metrics.in_flight.set(i64::from(backend.in_flight()));
    }
}
