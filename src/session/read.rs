//! Reads: on the least loaded backend, seeing every commit that any client can have seen.

use std::sync::Arc;

use tokio::time::Instant;

use super::leader::ATTEMPTS;
use super::run::Step;
use super::transaction::Place;
use super::{Session, Stop};
use crate::backend::{Lease, Pool, Purpose};
use crate::cluster::balance::{self, Candidate};
use crate::config::Consistency;
use crate::error::Failure;
use crate::exchange::{Link, Outcome, Protocol, Sink, Watch, Work};
use crate::sql::{Hold, Isolation, Statement, Touched};

/// A server's word for a write on a connection that only reads.
const READ_ONLY: &str = "25006";

impl<P: Protocol> Session<P> {
    /// A read inside a transaction.
    pub(super) async fn read(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        if self.tx.is_none() {
            return self.read_alone(std::slice::from_ref(step.statement), step.work).await;
        }
        let default = self.default_isolation();
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        let level = tx.level(default);
        // A clock must not jump within a transaction, and a portal stays where it was opened.
        let bound = step.statement.clock || step.work.is_partial();
        let snapshot = level > Isolation::ReadCommitted && tx.mode.read_only != Some(true);
        let outcome = match &tx.place {
            Place::Leading { .. } => self.on_leader(step.work, Watch::default()).await?,
            _ if bound || snapshot || self.held.is_some() => {
                tx.stateful |= step.work.is_partial();
                self.on_leader(step.work, Watch::default()).await?
            }
            _ => {
                let outcome = self.in_reading(step.work, &step.statement.reads).await?;
                if outcome.error.as_ref().is_some_and(|e| e.code == READ_ONLY) {
                    // It writes after all: the server knew better than the classifier.
                    return self.write(step, false, Hold::Transaction).await;
                }
                outcome
            }
        };
        outcome.error.map_or(Ok(()), |error| Err(Stop::Server(error)))
    }

    /// Runs a statement of a transaction that has only read, on its balanced backend.
    pub(super) async fn in_reading(
        &mut self,
        work: &P::Work,
        reads: &Touched,
    ) -> Result<Outcome, Stop> {
        for _ in 0..ATTEMPTS {
            self.wait_for_commits(reads).await;
            if matches!(self.tx.as_ref().map(|tx| &tx.place), Some(Place::Nowhere)) {
                let mut lease = self.read_lease().await?;
                lease.adopt(&self.base_settings());
                if let Some(tx) = &mut self.tx {
                    lease.begin(&tx.mode);
                    for statement in &tx.context {
                        lease.queue(statement);
                    }
                    tx.place = Place::Reading(lease);
                }
            }
            let Some(tx) = &mut self.tx else {
                break;
            };
            let level = tx.level(Isolation::ReadCommitted);
            let lease = match std::mem::replace(&mut tx.place, Place::Nowhere) {
                Place::Reading(lease) => lease,
                place => {
                    tx.place = place;
                    break;
                }
            };
            if let Some((lease, outcome)) = self.attempt(lease, work, Watch::default()).await? {
                if let Some(tx) = &mut self.tx {
                    tx.place = Place::Reading(lease);
                }
                return Ok(outcome);
            }
            if level > Isolation::ReadCommitted {
                return Err(Failure::retry("its snapshot was on the backend that died").into());
            }
        }
        Err(super::leader::unavailable().into())
    }

    /// Reads outside a transaction.
    pub(super) async fn read_alone(
        &mut self,
        statements: &[Statement],
        work: &P::Work,
    ) -> Result<(), Stop> {
        if self.held.is_some() {
            let outcome = self.leader_alone(work, Watch::default()).await;
            self.settle_last();
            let outcome = outcome?;
            return outcome.error.map_or(Ok(()), |error| Err(Stop::Server(error)));
        }
        for _ in 0..ATTEMPTS {
            for statement in statements {
                self.wait_for_commits(&statement.reads).await;
            }
            let mut lease = self.read_lease().await?;
            lease.adopt(&self.settings);
            let mark = (self.client.buffer().len(), self.client.flushes());
            let started = Instant::now();
            let backend = lease.backend().clone();
            backend.request_begins();
            let ran = self.attempt(lease, work, Watch::default()).await;
            let ended = Instant::now();
            backend.request_ends(ended - started, ended);
            let Some((lease, outcome)) = ran? else {
                continue;
            };
            backend.metrics.reads.inc();
            lease.release_at(ended);
            let tag = statements.first().map_or("none", |statement| statement.tag);
            let figures = self.figures(tag);
            let Some(error) = outcome.error else {
                figures.ok.inc();
                return Ok(());
            };
            figures.failed.inc();
            if error.code == READ_ONLY && self.client.flushes() == mark.1 {
                if self.near {
                    return Err(Stop::Elsewhere);
                }
                self.client.buffer().truncate(mark.0);
                if statements.is_empty() {
                    return self.unexecuted_on_leader(work).await;
                }
                return self.write_misjudged(work).await;
            }
            return Err(Stop::Server(error));
        }
        Err(super::leader::unavailable().into())
    }

    /// Waits until this read is sure to see every commit that any client can have seen.
    async fn wait_for_commits(&self, reads: &Touched) {
        if self.consistency != Consistency::Eventual {
            self.shared.ledger.wait_for_writes(reads).await;
        }
    }

    /// A connection for a read, to a backend that the balancer chooses.
    pub(super) async fn read_lease(&mut self) -> Result<Lease<P::Link>, Stop> {
        if self.near {
            return self.near_lease().await;
        }
        let mut refused: smallvec::SmallVec<[usize; 8]> = smallvec::SmallVec::new();
        for _ in 0..ATTEMPTS {
            self.wait_serving().await?;
            // Whoever is well and gave no connection a moment ago is asked again where nobody else can be read.
            let backend = match self.choose_but(&refused) {
                Some(other) => other,
                None => match self.wait_readable().await {
                    Some(backend) => backend,
                    None => break,
                },
            };
            let generation = self.shared.backends[backend].generation();
            match self.read_pool(backend).checkout().await {
                Ok(lease) => return Ok(lease),
                Err(error) => self.checkout_failed(backend, generation, error).await?,
            }
            refused.push(backend);
        }
        Err(super::leader::unavailable().into())
    }

    /// The connections for reads on a backend, looked up once.
    fn read_pool(&mut self, backend: usize) -> Arc<Pool<P::Link>> {
        let Self { shared, user, read_pools, .. } = self;
        let made = || shared.backends[backend].pool(user, Purpose::Read);
        read_pools.entry(backend).or_insert_with(made).clone()
    }

    /// Waits until a backend may be read: the only one may be under suspicion for a moment.
    async fn wait_readable(&self) -> Option<usize> {
        if let Some(backend) = self.choose_but(&[]) {
            return Some(backend);
        }
        let readable = async {
            loop {
                let changed = self.shared.keeper.next_change();
                if let Some(backend) = self.choose_but(&[]) {
                    return backend;
                }
                changed.await;
            }
        };
        tokio::time::timeout(self.shared.settings().hold, readable).await.ok()
    }

    /// One of the readable backends but these.
    fn choose_but(&self, these: &[usize]) -> Option<usize> {
        let view = self.shared.keeper.glance();
        let readable = |b: &usize| view.is_readable(*b) && !these.contains(b);
        self.choose_of(view.order.iter().copied().filter(readable))
    }

    /// One of these, as the balancer has it.
    pub(super) fn choose_of(&self, readable: impl Iterator<Item = usize>) -> Option<usize> {
        let candidates: smallvec::SmallVec<[Candidate; 8]> = readable
            .map(|b| {
                let backend = &self.shared.backends[b];
                Candidate { backend: b, weight: backend.weight(), in_flight: backend.in_flight() }
            })
            .collect();
        let turn = self.shared.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (balancer, dice) = (self.shared.current.load().balancer, (self.shared.dice)());
        // The clock is looked at where it matters, and once.
        let mut now = None;
        balance::choose(balancer, &candidates, dice, turn, |b| {
            self.shared.backends[b].latency_us(*now.get_or_insert_with(Instant::now))
        })
    }

    /// A reader may refuse even to prepare a write: the leader does not.
    async fn unexecuted_on_leader(&mut self, work: &P::Work) -> Result<(), Stop> {
        let outcome = self.leader_alone(work, Watch::default()).await;
        self.settle_last();
        outcome?.error.map_or(Ok(()), |error| Err(Stop::Server(error)))
    }

    /// Runs messages that execute nothing (Parse, Describe, Close, an empty query).
    pub(super) async fn unexecuted(&mut self, work: &P::Work) -> Result<(), Stop> {
        let outcome = match &self.tx {
            Some(tx) if tx.failed => {
                return Err(Failure::new(
                    crate::error::Kind::InFailedTransaction,
                    "current transaction is aborted, commands ignored until end of transaction block",
                )
                .into());
            }
            Some(tx) if work.is_partial() || matches!(tx.place, Place::Leading { .. }) => {
                if let Some(tx) = &mut self.tx {
                    tx.stateful |= work.is_partial();
                }
                self.on_leader(work, Watch::default()).await?
            }
            Some(_) => {
                let outcome = self.in_reading(work, &Touched::None).await?;
                if outcome.error.as_ref().is_some_and(|e| e.code == READ_ONLY) {
                    self.on_leader(work, Watch::default()).await?
                } else {
                    outcome
                }
            }
            None => return self.read_alone(&[], work).await,
        };
        outcome.error.map_or(Ok(()), |error| Err(Stop::Server(error)))
    }
}
