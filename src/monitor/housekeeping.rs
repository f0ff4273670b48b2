//! The housekeeping of the journal: how far everybody has come, what is kept, and who is left behind.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::weights::{Heap, Weights};
use crate::cluster::Phase;
use crate::config::Journal;
use crate::exchange::Protocol;
use crate::session::Shared;

/// Heaps weighed, and batches pruned, in one round: the rest comes in the next ones.
const ROUNDS: usize = 50;

/// How much of the journal is kept.
#[derive(Clone, Copy, Debug)]
struct Keep {
    /// Records that are kept even when every backend has them.
    spare: i64,
    /// Records that are kept at the most, even when a backend that is away lacks them.
    most: i64,
    /// Bytes of records that are kept at the most, likewise.
    bytes: u64,
    /// Records older than this are not kept for backends that are away.
    age: Duration,
}

impl From<Journal> for Keep {
    fn from(journal: Journal) -> Self {
        Self {
            spare: i64::try_from(journal.keep_records).unwrap_or(i64::MAX),
            most: i64::try_from(journal.max_records).unwrap_or(i64::MAX),
            bytes: u64::try_from(journal.max_bytes).unwrap_or(u64::MAX),
            age: journal.keep_while_away,
        }
    }
}

impl Keep {
    /// The most bytes that are weighed as one: the finer, the less is pruned too much.
    fn grain(&self) -> u64 {
        (self.bytes / 64).clamp(1, 16 << 20)
    }
}

/// What is known of the journal and of who has what of it.
struct Books {
    /// Up to where each backend has everything, once it has been asked.
    known: Vec<Option<i64>>,
    weights: Weights,
    /// Where the journal begins.
    pruned: i64,
}

/// Notes up to where every member has everything, and removes records that nobody needs any more.
pub async fn housekeeping<P: Protocol>(
    shared: Arc<Shared<P>>,
    interval: Duration,
    stop: CancellationToken,
) {
    let known = vec![None; shared.backends.len()];
    let mut books = Books { known, weights: Weights::default(), pruned: 0 };
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
        if shared.keeper.view().phase == Phase::Serving
            && let Err(why) = books.round(&shared, shared.settings().journal.into(), complete).await
        {
            tracing::debug!(%why, "the journal is looked after later");
        }
    }
}

impl Books {
    async fn round<P: Protocol>(
        &mut self,
        shared: &Shared<P>,
        keep: Keep,
        complete: i64,
    ) -> Result<(), String> {
        self.ask_all(shared, complete).await;
        self.weigh(shared, keep, complete).await?;
        let view = shared.keeper.view();
        let members = view.order.iter().map(|b| self.known[*b].unwrap_or(0)).min().unwrap_or(0);
        let bounds = (complete - keep.most).max(self.weights.beyond(keep.bytes));
        let spare = complete - keep.spare;
        let lacking = self.lacking();
        let mut upto = lacking.min(spare).max(bounds);
        if lacking < spare {
            upto = upto.max(self.too_old(shared, keep, complete).await?.min(spare));
        }
        // Whatever the bounds say: what a member lacks it gets from here after a crash.
        self.prune(shared, upto.min(members)).await?;
        self.note_left_behind(shared).await;
        let (records, bytes) = self.weights.totals();
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        shared.metrics.journal_records.set(number(records));
        shared.metrics.journal_bytes.set(number(bytes));
        shared.metrics.journal_pruned.set(self.pruned);
        Ok(())
    }

    /// Tells the members how far they are, and asks the others, as long as they have not answered.
    async fn ask_all<P: Protocol>(&mut self, shared: &Shared<P>, complete: i64) {
        let view = shared.keeper.view();
        for (backend, known) in self.known.iter_mut().enumerate() {
            let control = &shared.controls[backend];
            if view.is_member(backend) {
                match control.set_complete(complete, shared.backends[backend].known_start()).await {
                    Ok(()) => *known = Some(complete),
                    Err(why) => tracing::debug!(backend, %why, "complete_to was not noted"),
                }
            } else if known.is_none()
                && let Ok(seen) = control.examine().await
            {
                *known = seen.control.map(|control| control.complete_to);
            }
        }
    }

    /// Weighs what has come since, on the leader.
    async fn weigh<P: Protocol>(
        &mut self,
        shared: &Shared<P>,
        keep: Keep,
        complete: i64,
    ) -> Result<(), String> {
        let view = shared.keeper.view();
        let leader = view.leader().ok_or("there is no leader")?;
        let control = &shared.controls[leader];
        self.pruned = control.examine().await?.control.map_or(0, |control| control.pruned_to);
        self.weights.upto = self.weights.upto.max(self.pruned);
        for _ in 0..ROUNDS {
            let heap = control.weigh(self.weights.upto, complete, keep.grain()).await?;
            let Some((last, records, bytes)) = heap else {
                break;
            };
            let after = self.weights.upto;
            self.weights.add(Heap { after, last, records, bytes });
        }
        self.weights.forget(self.pruned);
        Ok(())
    }

    /// Up to where every backend has everything that the journal can still bring back. Whoever is
    /// left behind needs a copy, and holds nothing back; whoever was never asked may need all of it.
    fn lacking(&self) -> i64 {
        let within_reach = self.known.iter().map(|known| known.unwrap_or(self.pruned));
        within_reach.filter(|known| *known >= self.pruned).min().unwrap_or(self.pruned)
    }

    /// Up to where the records are too old to be kept for somebody who is away.
    async fn too_old<P: Protocol>(
        &self,
        shared: &Shared<P>,
        keep: Keep,
        complete: i64,
    ) -> Result<i64, String> {
        let leader = shared.keeper.view().leader().ok_or("there is no leader")?;
        let young = shared.controls[leader].first_younger(keep.age).await?;
        Ok(young.map_or(complete, |first| first - 1))
    }

    async fn prune<P: Protocol>(&mut self, shared: &Shared<P>, upto: i64) -> Result<(), String> {
        if upto <= self.pruned {
            return Ok(());
        }
        for &member in &shared.keeper.view().order {
            for _ in 0..ROUNDS {
                match shared.controls[member].prune(upto).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(why) => {
                        tracing::debug!(backend = member, %why, "the journal was not pruned");
                        break;
                    }
                }
            }
        }
        let leader = shared.keeper.view().leader().ok_or("there is no leader")?;
        let seen = shared.controls[leader].examine().await?;
        self.pruned = seen.control.map_or(0, |control| control.pruned_to);
        self.weights.forget(self.pruned);
        Ok(())
    }

    /// Whoever lacks what is no longer in the journal is told so, also while it is away.
    async fn note_left_behind<P: Protocol>(&self, shared: &Shared<P>) {
        let view = shared.keeper.view();
        for (backend, known) in self.known.iter().enumerate() {
            if let Some(has) = known.filter(|has| *has < self.pruned)
                && !view.is_member(backend)
                && view.backends[backend].left_behind.is_none()
            {
                shared.keeper.left_behind(backend, has, self.pruned).await;
            }
        }
    }
}

fn note_figures<P: Protocol>(shared: &Shared<P>) {
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    shared.metrics.journal_seq.set(shared.ledger.newest());
    shared.metrics.clients_connected.set(number(shared.registry.count(None)));
    let mut all_waiting = 0;
    for backend in &shared.backends {
        let (mut used, mut idle, mut waiting) = (0, 0, 0);
        for pool in backend.pools() {
            let counts = pool.counts();
            used += counts.0;
            idle += counts.1;
            waiting += counts.2;
        }
        all_waiting += waiting;
        backend.metrics.pool_used.set(number(used));
        backend.metrics.pool_idle.set(number(idle));
        backend.metrics.pool_waiting.set(number(waiting));
        backend.metrics.in_flight.set(i64::from(backend.in_flight()));
    }
    shared.metrics.clients_waiting.set(number(all_waiting));
}
