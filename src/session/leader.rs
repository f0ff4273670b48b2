//! Running a transaction's statements on the leader.

use super::crossing::Led;
use super::promote::STATE_GONE;
use super::transaction::{Admission, Lock, Place, Transaction};
use super::{Session, Stop, shares};
use crate::backend::{CheckoutError, Lease, Purpose};
use crate::error::{Failure, Kind};
use crate::exchange::{Broken, Link, Mishap, Outcome, Protocol, Sink, TxState, Watch, Work};
use crate::keeper::Verdict;

/// How often a statement is started again before the client is told.
pub(super) const ATTEMPTS: usize = 8;

impl<P: Protocol> Session<P> {
    /// Takes a connection to the leader, for something that is no transaction.
    pub(super) async fn leader_lease(&mut self) -> Result<Lease<P::Link>, Stop> {
        self.begin_led().await.map(|(lease, _)| lease)
    }

    /// Takes a connection to the leader for a transaction that begins there, once those that were open on the former
    /// one have come over.
    async fn begin_led(&mut self) -> Result<(Lease<P::Link>, Led), Stop> {
        for _ in 0..ATTEMPTS {
            self.wait_serving().await?;
            let led = self.shared.enter_era(None).await;
            if let Some(lease) = self.try_leader().await? {
                // Another backend may lead by now; whoever is there comes first there as well.
                return Ok((lease, self.shared.enter_era(Some(led)).await));
            }
        }
        Err(unavailable().into())
    }

    /// A connection to the leader: the one this session stays on, or one of the pool. `None` when whoever leads has to
    /// be looked up again.
    pub(super) async fn try_leader(&mut self) -> Result<Option<Lease<P::Link>>, Stop> {
        let Some(leader) = self.shared.keeper.view().leader() else {
            return Ok(None);
        };
        if let Some(lease) = self.held.take() {
            if lease.backend().index == leader {
                return Ok(Some(lease));
            }
            drop(lease);
            if std::mem::take(&mut self.stays.other) {
                self.forget_server_state();
                return Err(Failure::retry(STATE_GONE).into());
            }
        }
        let backend = self.shared.backends[leader].clone();
        let generation = backend.generation();
        let pool = backend.pool(&self.user, Purpose::Write);
        match pool.checkout_again(self.draws.connection()).await {
            Ok(mut lease) => {
                // Somebody else's draw must not be taken for this session's.
                self.draws.taken(lease.identity());
                for channel in &self.stays.listens {
                    lease.queue(&format!("LISTEN {}", crate::store::capture::quoted(channel)));
                }
                Ok(Some(lease))
            }
            Err(error) => {
                self.checkout_failed(leader, generation, error).await?;
                Ok(None)
            }
        }
    }

    /// Judges a connection that could not be had.
    pub(super) async fn checkout_failed(
        &self,
        backend: usize,
        generation: u64,
        error: CheckoutError,
    ) -> Result<(), Stop> {
        match error {
            CheckoutError::Busy(limit) => Err(CheckoutError::no_room(limit).into()),
            CheckoutError::Connect(error) => {
                let refused = matches!(&error, crate::backend::ConnectError::Refused { .. });
                let (why, force) = (error.to_string(), error.is_damning());
                let verdict = self.shared.keeper.lost(backend, generation, why, force).await;
                if verdict == Verdict::Alive && refused {
                    let name = &self.shared.backends[backend].name;
                    return Err(Failure::new(
                        Kind::Unavailable,
                        format!("backend {name} refuses the login of user \"{}\"", self.user),
                    )
                    .detail(error.to_string())
                    .hint("`lockstep check` names what is missing on which backend")
                    .into());
                }
                Ok(())
            }
        }
    }

    /// Brings the transaction to the leader, moving it there when it has only read so far.
    pub(super) async fn ensure_leading(&mut self) -> Result<(), Stop> {
        let place = match &mut self.tx {
            Some(tx) => std::mem::replace(&mut tx.place, Place::Nowhere),
            None => return Err(internal("no transaction to bring to the leader").into()),
        };
        match place {
            leading @ Place::Leading { .. } => {
                self.set_place(leading);
                return Ok(());
            }
            Place::Reading(lease) => {
                let sets = self.tx.as_ref().is_some_and(|tx| tx.sets);
                self.end_reading(lease, sets).await;
            }
            Place::Nowhere => {}
        }
        if self.tx.as_ref().is_some_and(|tx| tx.admission.is_none()) {
            let admission = self.shared.admission.clone().read_owned();
            let admission = self.unless_ended(admission).await?;
            if let Some(tx) = &mut self.tx {
                tx.admission = Some(Admission::Shared(admission));
            }
        }
        // Whoever has written somewhere must never begin anew elsewhere: half of it would be missing.
        if self.tx.as_ref().is_some_and(|tx| tx.writing > 0) {
            return Err(Failure::retry("what it had written went with its backend").into());
        }
        let (leader, led) = self.begin_led().await?;
        self.open_on(leader, led);
        Ok(())
    }

    /// Opens the transaction on the leader, where it has written nothing.
    pub(super) fn open_on(&mut self, mut leader: Lease<P::Link>, led: Led) {
        leader.adopt(&self.base_settings());
        if let Some(tx) = &self.tx {
            leader.begin(&tx.mode);
            for statement in &tx.context {
                leader.queue(statement);
            }
            // Where it begins anew it has written nothing, but its savepoints are still there.
            for effects in 0..=tx.effects.len() {
                shares::set_savepoints(&mut *leader, tx, effects);
            }
            if P::MANNERS.settings_outlast && tx.sets {
                leader.assume(self.settings.clone());
            }
        }
        self.set_place(Place::Leading { leader, shares: Vec::new(), shared: false, led });
    }

    /// Waits for others, unless this session has to end meanwhile: they may be waiting for that.
    pub(super) async fn unless_ended<T>(&self, wait: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            done = wait => Ok(done),
            () = self.cancel.ended().cancelled() => {
                Err(self.cancel.farewell().unwrap_or_else(super::kill::killed).into())
            }
        }
    }

    /// Whether the leader can hand any text to us, as the session is set now.
    pub(super) async fn leader_sends_any_text(&mut self) -> Result<bool, Stop> {
        self.ensure_leading().await?;
        let place = self.tx.as_ref().map(|tx| &tx.place);
        Ok(matches!(place, Some(Place::Leading { leader, .. }) if leader.sends_any_text()))
    }

    pub(super) fn set_place(&mut self, place: Place<P::Link>) {
        if let Some(tx) = &mut self.tx {
            tx.place = place;
        }
    }

    /// Ends a transaction that has only read.
    pub(super) async fn end_reading(&self, mut lease: Lease<P::Link>, sets: bool) {
        // What was prepared there would outlive the transaction, against its settings' word.
        if sets {
            return;
        }
        lease.queue_rollback();
        // A connection that does not end its transaction properly is closed, which ends it too.
        if let Ok(None) = lease.drain().await {
            lease.release();
        }
    }

    /// Runs a statement of the transaction on the leader; its answer goes to the client's buffer.
    ///
    /// When the leader dies under it, the transaction is carried over to the next one where that
    /// can be done, and the statement runs there.
    pub(super) async fn on_leader(
        &mut self,
        work: &<P::Link as Link>::Work,
        watch: Watch<'_>,
    ) -> Result<Outcome, Stop> {
        for _ in 0..ATTEMPTS {
            self.ensure_leading().await?;
            let mark = (self.client.buffer().len(), self.client.flushes());
            let Self { tx: Some(tx), client, cancel, .. } = self else {
                return Err(internal("no transaction").into());
            };
            let Transaction { place: Place::Leading { leader, shares, .. }, effects, .. } = tx
            else {
                continue;
            };
            let target = cancel.running();
            target.set(leader.canceller());
            let behind = if tx.ahead { &mut shares[..] } else { &mut [] };
            // The statement is on its way before a follower is woken.
            let (ran, ()) =
                tokio::join!(leader.run(work, watch, client), shares::feed(behind, effects));
            target.clear(ran.is_ok()).await;
            match ran {
                Ok(outcome) => {
                    self.completion = (outcome.completion, self.client.flushes());
                    if let Some(tx) = &mut self.tx {
                        tx.ran = true;
                    }
                    return Ok(outcome);
                }
                Err(Broken::Client(_)) => return Err(Stop::Gone),
                Err(broken) => {
                    let sent = self.client.flushes() != mark.1;
                    if !sent {
                        self.client.buffer().truncate(mark.0);
                    }
                    self.leader_lost(&broken).await?;
                    if sent {
                        let why = "its backend died after a part of an answer had been sent";
                        return Err(Failure::retry(why).into());
                    }
                }
            }
        }
        Err(unavailable().into())
    }

    /// Notes a locking read, so that it can be taken again.
    pub(super) fn note_lock(
        &mut self,
        work: &<P::Link as Link>::Work,
        outcome: &Outcome,
        relocks: bool,
    ) {
        if let Some(tx) = &mut self.tx {
            if work.is_partial() || outcome.suspended {
                tx.stateful = true;
            } else {
                let (digest, writing) = (outcome.digest, tx.writing);
                tx.locks.push(Lock { work: work.clone(), digest, relocks, writing });
            }
        }
    }

    /// Undoes the transaction everywhere. The leader's connection is kept where state lives in it.
    pub(super) async fn undo(&mut self) {
        let Some(tx) = self.tx.take() else { return };
        self.settings_before(tx.before);
        match tx.place {
            Place::Nowhere => {}
            Place::Reading(mut lease) => {
                let before = (!tx.context.is_empty()).then(|| lease.reported().clone());
                lease.queue_rollback();
                if let Ok(None) = lease.drain().await {
                    self.report_changes(before, lease.reported());
                    // What was prepared stays in the server's session, against its settings' word.
                    if !tx.sets {
                        lease.release();
                    }
                }
            }
            Place::Leading { mut leader, shares, .. } => {
                let before = (!tx.context.is_empty()).then(|| leader.reported().clone());
                leader.queue_rollback();
                let (ended, ()) =
                    tokio::join!(leader.drain(), shares::abandon(&self.shared, shares));
                if ended.is_ok() {
                    self.report_changes(before, leader.reported());
                }
                match ended {
                    Ok(_) if tx.sets && !self.stays.any() => {}
                    Ok(_) => self.give_back(leader),
                    Err(broken) => {
                        let (backend, generation) = (leader.backend().index, leader.generation());
                        let why = broken.to_string();
                        self.shared.keeper.lost(backend, generation, why, false).await;
                    }
                }
            }
        }
    }

    /// Tells the client which reported settings the end of a transaction has taken back.
    fn report_changes(
        &mut self,
        before: Option<std::collections::BTreeMap<String, String>>,
        now: &std::collections::BTreeMap<String, String>,
    ) {
        let Some(before) = before else { return };
        for (name, value) in now.iter().filter(|(name, value)| before.get(*name) != Some(*value)) {
            self.client.report(name, value);
        }
    }

    /// Gives a leader's connection back, or keeps it for the session that has state in it.
    pub(super) fn give_back(&mut self, lease: Lease<P::Link>) {
        if lease.tx_state() != TxState::Idle {
            return;
        }
        if self.stays.any() {
            self.held = Some(lease);
        } else {
            lease.release();
        }
    }
}

pub(super) fn unavailable() -> Failure {
    Failure::new(Kind::Unavailable, "no database is active")
        .hint("the administrator sees the reasons with SHOW BACKENDS on the console")
}

/// What came before a statement did not go well. A time limit of the application's strikes that, too.
pub(super) fn not_set_up(why: Mishap) -> Failure {
    struck(&why).unwrap_or_else(|| {
        internal(&format!("the session's settings cannot be established: {why}"))
    })
}

/// What the application is told of whatever was cancelled, or took longer than it may.
pub(super) fn struck(mishap: &Mishap) -> Option<Failure> {
    let what = "canceling statement: it took longer than it may, or was cancelled";
    let failure = |code| Failure::new(Kind::Refused, what).code(code).number(1317);
    mishap.struck().map(|code| failure(code).detail(mishap.what.clone()))
}

pub(super) fn internal(what: &str) -> Failure {
    Failure::new(Kind::Internal, what)
}
