//! Running a transaction's statements on the leader, and carrying the transaction over when the
//! leader dies.

use super::transaction::{Admission, Lock, Place, Transaction};
use super::{Session, Stop, shares};
use crate::backend::{CheckoutError, Lease, Purpose};
use crate::error::{Failure, Kind};
use crate::exchange::{
    Broken, Discard, Link, Mishap, Outcome, Protocol, Sink, TxState, Watch, Work,
};
use crate::keeper::Verdict;

/// How often a statement is started again before the client is told.
pub(super) const ATTEMPTS: usize = 8;

impl<P: Protocol> Session<P> {
    /// Takes a connection to the leader: the one this session stays on, or one of the pool.
    pub(super) async fn leader_lease(&mut self) -> Result<Lease<P::Link>, Stop> {
        if let Some(lease) = self.held.take() {
            return Ok(lease);
        }
        for _ in 0..ATTEMPTS {
            self.wait_serving().await?;
            let view = self.shared.keeper.view();
            let Some(leader) = view.leader() else {
                continue;
            };
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
                    return Ok(lease);
                }
                Err(error) => self.checkout_failed(leader, generation, error).await?,
            }
        }
        Err(unavailable().into())
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
            Place::Leading { leader, shares, shared } => {
                self.set_place(Place::Leading { leader, shares, shared });
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
        let mut leader = self.leader_lease().await?;
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
        self.set_place(Place::Leading { leader, shares: Vec::new(), shared: false });
        Ok(())
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

    fn set_place(&mut self, place: Place<P::Link>) {
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
            let Place::Leading { leader, .. } = &mut tx.place else {
                continue;
            };
            let target = cancel.running();
            target.set(leader.canceller());
            let ran = leader.run(work, watch, client).await;
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

    /// The leader's connection broke: finds out what that means and carries the transaction over.
    pub(super) async fn leader_lost(&mut self, broken: &Broken) -> Result<(), Stop> {
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        let place = std::mem::replace(&mut tx.place, Place::Nowhere);
        let Place::Leading { leader, shares, .. } = place else {
            return Ok(());
        };
        if let Broken::Setup(why) = broken {
            // Where an error leaves the transaction standing, one that takes it along has to say so.
            let takes_along = tx.explicit && (tx.ran || tx.writing > 0);
            shares::abandon(&self.shared, shares).await;
            if takes_along && !P::MANNERS.error_fails_transaction {
                let what = "the transaction is undone: what came before a statement went wrong";
                let failure = Failure::new(Kind::Retry, what).detail(why.to_string());
                return Err(failure.hint("run the transaction again").into());
            }
            return Err(not_set_up(why.clone()).into());
        }
        let (backend, generation) = (leader.backend().index, leader.generation());
        let force = broken.is_damning();
        drop(leader);
        let was_held = std::mem::take(&mut self.stays);
        // What was listened to can be listened to again elsewhere.
        self.stays.listens.clone_from(&was_held.listens);
        let verdict = self.shared.keeper.lost(backend, generation, broken.to_string(), force).await;
        if was_held.lost_with_server() {
            self.forget_server_state();
            shares::abandon(&self.shared, shares).await;
            return Err(Failure::retry("the state of its server session is gone").into());
        }
        let Some(tx) = &self.tx else { return Ok(()) };
        if tx.is_fresh(self.default_isolation()) {
            shares::abandon(&self.shared, shares).await;
            return Ok(());
        }
        if self.shared.ledger.stands_on_lost(backend, generation, &tx.writes) {
            shares::abandon(&self.shared, shares).await;
            return Err(Failure::retry(super::commit::STALE).into());
        }
        if verdict != Verdict::Evicted || !tx.is_portable(self.default_isolation()) {
            let why = match verdict {
                Verdict::Alive => "its session on the database was ended",
                Verdict::Evicted => super::commit::BOUND,
                Verdict::Settling => "no backend was active",
            };
            shares::abandon(&self.shared, shares).await;
            return Err(Failure::retry(why).into());
        }
        self.promote(shares).await
    }

    /// Goes on at the new leader, where the transaction's effects are already.
    async fn promote(
        &mut self,
        mut shares: Vec<super::transaction::Share<P::Link>>,
    ) -> Result<(), Stop> {
        shares::drain(&self.shared, &mut shares).await;
        let leader = self.shared.keeper.view().leader();
        let writes = self.tx.as_ref().is_some_and(|tx| tx.writing > 0);
        let at = shares.iter().position(|s| Some(s.lease.backend().index) == leader);
        if !writes && at.is_none() {
            // Only locks were taken: they are taken again where the transaction begins anew.
            shares::abandon(&self.shared, shares).await;
            self.ensure_leading().await?;
            return self.lock_again().await;
        }
        let share = match at {
            Some(at) if shares[at].failed.is_none() => shares.remove(at),
            _ => {
                shares::abandon(&self.shared, shares).await;
                return Err(Failure::retry(super::complete::INCOMPLETE).into());
            }
        };
        let mut leader = share.lease;
        let settings = self.settings.clone();
        leader.lead(&settings);
        self.set_place(Place::Leading { leader, shares, shared: true });
        self.lock_again().await
    }

    /// Takes row locks again by running the locking reads again. Another answer ends the transaction.
    async fn lock_again(&mut self) -> Result<(), Stop> {
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        let Transaction { locks, place, .. } = tx;
        let Place::Leading { leader, .. } = place else {
            return Ok(());
        };
        match are_locked_again(&mut **leader, locks).await {
            true => Ok(()),
            false => Err(Failure::retry(CHANGED).into()),
        }
    }

    /// Notes a locking read, so that it can be taken again.
    pub(super) fn note_lock(&mut self, work: &<P::Link as Link>::Work, outcome: &Outcome) {
        if let Some(tx) = &mut self.tx {
            if work.is_partial() || outcome.suspended {
                tx.stateful = true;
            } else {
                tx.locks.push(Lock { work: work.clone(), digest: outcome.digest });
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

/// Why a transaction begins again whose row locks went with its leader.
pub(super) const CHANGED: &str = "rows it had locked have changed meanwhile";

/// Runs locking reads again where nobody holds their locks any more. False where one has another answer than before.
pub(super) async fn are_locked_again<L: Link>(link: &mut L, locks: &[Lock<L::Work>]) -> bool {
    for lock in locks {
        let watch = Watch { digest: true, ..Watch::default() };
        let again = link.run(&lock.work, watch, &mut Discard::default()).await;
        if !matches!(&again, Ok(o) if o.error.is_none() && o.digest == lock.digest) {
            return false;
        }
    }
    true
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
