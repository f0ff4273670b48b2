//! The commit point.
//!
//! COMMIT goes to no backend before every active backend has acknowledged every effect and the
//! record (I2). Then it goes to all of them at once, and the application is told when all have it,
//! or when the absence of the others is on disk (I5).

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::crossing::Led;
use super::leader::struck;
use super::promote::NOBODY;
use super::transaction::{Place, Record, Share, Transaction};
use super::{Session, Stop, shares};
use crate::backend::Lease;
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Mishap, Protocol, Sink};
use crate::keeper::Verdict;
use crate::ledger::Ticket;
use crate::sql::{Isolation, Touched};

/// Why a transaction begins again that went past the locks of a commit that was lost.
pub(super) const STALE: &str = "its leader lost a commit whose rows it may have changed";

/// Why a transaction begins again whose locks went with its leader.
pub(super) const BOUND: &str =
    "its isolation level or its session's state binds it to the backend that died";

impl<P: Protocol> Session<P> {
    /// Commits the transaction.
    pub(super) async fn commit(&mut self) -> Result<(), Stop> {
        if let Some(stop) = self.tx.as_mut().and_then(|tx| tx.undone.take()) {
            self.undo().await;
            return Err(stop);
        }
        if let Err(stop) = self.run_deferred().await {
            self.undo().await;
            return Err(stop);
        }
        self.commit_now().await
    }

    /// Commits the transaction, whose constraints have been checked.
    pub(super) async fn commit_now(&mut self) -> Result<(), Stop> {
        // Its record needs a place even where it has changed nothing, and its backend has died.
        if self.tx.as_ref().is_some_and(|tx| tx.identity.is_some() && tx.writing == 0)
            && let Err(stop) = self.ensure_leading().await
        {
            self.undo().await;
            return Err(stop);
        }
        let grant = match self.before_commit().await {
            Ok(grant) => grant,
            Err(stop) => {
                self.undo().await;
                return Err(stop);
            }
        };
        let committed = self.commit_what_it_did().await;
        self.after_commit(grant, committed.is_ok()).await;
        committed
    }

    async fn commit_what_it_did(&mut self) -> Result<(), Stop> {
        let Some(mut tx) = self.tx.take() else {
            return Ok(());
        };
        if tx.is_recorded() {
            shares::open_all(&self.shared, &self.user, &mut tx, true).await;
        }
        let committed = match std::mem::replace(&mut tx.place, Place::Nowhere) {
            Place::Nowhere => Ok(()),
            Place::Reading(mut lease) if !tx.context.is_empty() && !tx.sets => {
                lease.queue_rollback();
                if let Ok(None) = lease.drain().await {
                    self.report_all(&lease);
                    lease.release();
                }
                Ok(())
            }
            Place::Reading(lease) => {
                self.end_reading(lease, tx.sets).await;
                Ok(())
            }
            Place::Leading { leader, shares, .. } if !tx.is_recorded() => {
                self.commit_alone(&tx, leader, shares).await
            }
            Place::Leading { leader, shares, led, .. } => {
                self.commit_everywhere(&tx, (leader, led), shares).await
            }
        };
        if committed.is_err() {
            self.settings_before(tx.before);
        }
        committed
    }

    /// Constraints and triggers that wait for the commit run before the commit point, on the leader:
    /// what they refuse must be refused before anybody has committed, and what they change is captured.
    pub(super) async fn run_deferred(&mut self) -> Result<(), Stop> {
        let late = self.shared.catalogs.has_deferrable();
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        let Place::Leading { leader, .. } = &mut tx.place else {
            return Ok(());
        };
        if tx.writing == 0 || !(late || tx.ddl) {
            return Ok(());
        }
        let from = tx.effects.len();
        match leader.check_deferred().await {
            Ok(outcome) => {
                if let Some(error) = outcome.error {
                    return Err(Stop::Server(error));
                }
                self.add_captured(Touched::Unknown, outcome, false)?;
                self.stream(from).await
            }
            Err(broken) => {
                self.leader_lost(&broken).await?;
                Err(Failure::retry("its backend died while constraints were checked").into())
            }
        }
    }

    /// A transaction without effects ends on the leader alone.
    async fn commit_alone(
        &mut self,
        tx: &Transaction<P::Link>,
        mut leader: Lease<P::Link>,
        shares: Vec<Share<P::Link>>,
    ) -> Result<(), Stop> {
        shares::abandon(&self.shared, shares).await;
        leader.queue_commit();
        match leader.drain().await {
            Ok(None) => {
                self.give_back_after(tx, leader);
                Ok(())
            }
            Ok(Some(error)) => {
                self.give_back(leader);
                Err(refused_commit(&error).into())
            }
            Err(broken) => {
                let (backend, generation) = (leader.backend().index, leader.generation());
                self.shared.keeper.lost(backend, generation, broken.to_string(), false).await;
                if self.stays.lost_with_server() {
                    return Err(Failure::retry("its session on the database has ended").into());
                }
                Ok(()) // Nothing was written: there is nothing to lose.
            }
        }
    }

    async fn commit_everywhere(
        &mut self,
        tx: &Transaction<P::Link>,
        leading: (Lease<P::Link>, Led),
        shares: Vec<Share<P::Link>>,
    ) -> Result<(), Stop> {
        if !tx.ddl {
            return self.commit_members(tx, leading, shares).await;
        }
        // Raised before the commit, so that whoever gets past our locks knows that plans are old.
        self.shared.catalogs.outdate();
        let ended = self.commit_members(tx, leading, shares).await;
        self.shared.ledger.reservations.forget();
        self.shared.reload_catalog().await;
        ended
    }

    async fn commit_members(
        &mut self,
        tx: &Transaction<P::Link>,
        (leader, led): (Lease<P::Link>, Led),
        mut shares: Vec<Share<P::Link>>,
    ) -> Result<(), Stop> {
        let shared = self.shared.clone();
        let brake = shared.brake_us.load(std::sync::atomic::Ordering::Relaxed);
        if brake > 0 {
            tokio::time::sleep(std::time::Duration::from_micros(u64::from(brake))).await;
        }
        let gate = shared.keeper.gate.read().await;
        let before = shared.ledger.committing(&tx.writes);
        let led_by = (leader.backend().index, leader.generation());
        let ticket = shared.ledger.begin(tx.writes.clone());
        let record = Record::of(tx, &self.user, shared.new_record_id());
        // From here on a step is never given up half-way: what follows runs to its end.
        for share in &mut shares {
            share.stays();
            share.queue_rest(&tx.effects);
        }
        let leader = self.record_everywhere((&ticket, &record, &led), leader, &mut shares).await?;
        let completed =
            self.complete_shares(tx, (&ticket, &record, &led), leader.as_ref(), &mut shares).await;
        if let Err(failure) = completed {
            if let Some(leader) = leader {
                self.drop_all(leader, shares).await;
            } else {
                shares::abandon(&shared, shares).await;
            }
            return Err(failure.into());
        }
        let (leader, shares) = self.come_after(tx, before, led_by, &led, leader, shares).await?;
        ticket.commits();
        let ended = self.finish(tx, &ticket, record.id, leader, shares).await;
        if ended.is_ok() {
            ticket.acknowledged();
            for (sequence, bound) in &tx.bounds {
                shared.ledger.reservations.reserve(sequence, *bound);
            }
        }
        drop(ticket);
        drop(gate);
        ended
    }

    /// Waits for the commits that this one may have followed on the leader. What it changed on a
    /// follower counts only where that follower has what came before, and nothing of it counts where
    /// the leader has lost what came before. Those who have left meanwhile get no COMMIT.
    async fn come_after(
        &mut self,
        tx: &Transaction<P::Link>,
        before: Vec<CancellationToken>,
        (led_by, generation): (usize, u64),
        led: &Led,
        leader: Option<Lease<P::Link>>,
        shares: Vec<Share<P::Link>>,
    ) -> Result<(Option<Lease<P::Link>>, Vec<Share<P::Link>>), Stop> {
        let shared = self.shared.clone();
        for earlier in before {
            earlier.cancelled().await;
        }
        let view = shared.keeper.view();
        let leader = leader.filter(|lease| view.is_member(lease.backend().index));
        let stays = |share: &Share<P::Link>| view.is_member(share.lease.backend().index);
        let shares: Vec<_> = shares.into_iter().filter(stays).collect();
        let why = if shared.ledger.stands_on_lost(led_by, generation, &tx.writes) {
            STALE
        } else if let Some(why) = self.is_left_behind(led) {
            why
        } else if leader.is_none() && tx.level(self.default_isolation()) == Isolation::Serializable
        {
            // Its conflicts were known to the leader alone.
            BOUND
        } else if leader.is_none() && shares.is_empty() {
            NOBODY
        } else {
            return Ok((leader, shares));
        };
        match leader {
            Some(leader) => self.drop_all(leader, shares).await,
            None => shares::abandon(&shared, shares).await,
        }
        Err(Failure::retry(why).into())
    }

    async fn drop_all(&mut self, mut leader: Lease<P::Link>, shares: Vec<Share<P::Link>>) {
        leader.queue_rollback();
        let (ended, ()) = tokio::join!(leader.drain(), shares::abandon(&self.shared, shares));
        if ended.is_ok() {
            self.give_back(leader);
        }
    }

    /// Writes the record into the transaction on the leader and, behind the effects, on every share.
    /// Without a leader in the answer, the leader died, and the transaction goes on with its shares.
    async fn record_everywhere(
        &mut self,
        (ticket, record, led): (&Ticket, &Record, &Led),
        mut leader: Lease<P::Link>,
        shares: &mut Vec<Share<P::Link>>,
    ) -> Result<Option<Lease<P::Link>>, Stop> {
        leader.queue_record(ticket.seq, record.id, &self.user, &record.entry);
        for share in shares.iter_mut().filter(|s| s.failed.is_none()) {
            share.lease.queue_record(ticket.seq, record.id, &self.user, &record.entry);
        }
        shares::flush(shares).await;
        let (backend, generation) = (leader.backend().index, leader.generation());
        // What the followers say meanwhile can wait: nothing goes on before all have answered.
        let recorded = leader.drain().await;
        shares::drain(&self.shared, shares).await;
        let (why, force, refused) = match recorded {
            Ok(None) => return Ok(Some(leader)),
            // A disk without room tells of the server: nobody's statement decides over the record.
            Ok(Some(error)) if error.is_of_the_server() => {
                (error.to_string(), true, Some(refused_record(error)))
            }
            Ok(Some(error)) => {
                self.drop_all(leader, std::mem::take(shares)).await;
                if error.code.starts_with("40") {
                    return Err(refused_commit(&error).into());
                }
                if let Some(failure) = struck(&error) {
                    return Err(failure.into());
                }
                tracing::error!(%error, seq = ticket.seq, "the leader refused the record");
                return Err(refused_record(error).into());
            }
            Err(broken) => (broken.to_string(), broken.is_damning(), None),
        };
        drop(leader);
        let verdict = self.shared.keeper.lost(backend, generation, why, force).await;
        // Whoever leads now has, or will have, all of it before anybody else goes on there.
        let verdict = self.leader_fell(verdict, led);
        if verdict == Verdict::Evicted && !self.stays.lost_with_server() {
            return Ok(None);
        }
        shares::abandon(&self.shared, std::mem::take(shares)).await;
        let ended = || Failure::retry("its session on the leader ended before the commit");
        Err(refused.filter(|_| verdict != Verdict::Evicted).unwrap_or_else(ended).into())
    }

    /// Sends COMMIT to all, waits for all, and has those put out that did not confirm it.
    async fn finish(
        &mut self,
        tx: &Transaction<P::Link>,
        ticket: &Ticket,
        id: i64,
        leader: Option<Lease<P::Link>>,
        shares: Vec<Share<P::Link>>,
    ) -> Result<(), Stop> {
        let mut leader = leader;
        // Whether the absence of everyone who did not confirm is on disk.
        let mut absent = true;
        let level = tx.level(self.default_isolation());
        if level == Isolation::Serializable
            && let Some(mut first) = leader.take()
        {
            // Only the leader knows the conflicts: it alone may refuse, so it is asked first.
            first.queue_commit();
            match first.drain().await {
                Ok(None) => self.give_back_after(tx, first),
                Ok(Some(error)) => {
                    shares::abandon(&self.shared, shares).await;
                    self.give_back(first);
                    return Err(refused_commit(&error).into());
                }
                Err(broken) => {
                    absent &= self.put_out_leader(tx, &first, &broken.to_string()).await;
                }
            }
        }
        let leads = leader.is_some();
        let all = leader.into_iter().chain(shares.into_iter().map(|share| share.lease));
        let ends = all.map(|mut lease| async move {
            lease.queue_commit();
            (lease.drain().await, lease)
        });
        let mut confirmed = 0;
        for (n, (end, lease)) in join_all(ends).await.into_iter().enumerate() {
            match end {
                Ok(None) if n == 0 && leads => {
                    confirmed += 1;
                    self.give_back_after(tx, lease);
                }
                Ok(None) => {
                    confirmed += 1;
                    // A share whose session was changed by a SET is not worth bringing in order.
                    if !tx.sets {
                        lease.release();
                    }
                }
                failed => {
                    let why = match failed {
                        Ok(error) => error.map_or_else(String::new, |error| error.what),
                        Err(broken) => broken.to_string(),
                    };
                    absent &= if n == 0 && leads {
                        self.put_out_leader(tx, &lease, &why).await
                    } else {
                        self.put_out(&lease, &why).await
                    };
                }
            }
        }
        if absent && (confirmed > 0 || (level == Isolation::Serializable && !leads)) {
            return Ok(());
        }
        self.resolve(ticket, id).await
    }

    /// Has the client told what the server says of its session, as far as that is news to it.
    fn report_all(&mut self, lease: &Lease<P::Link>) {
        for (name, value) in lease.reported() {
            self.client.report(name, value);
        }
    }

    /// Gives the leader's connection back after a commit, with the settings it now has.
    fn give_back_after(&mut self, tx: &Transaction<P::Link>, mut lease: Lease<P::Link>) {
        // What was set for the transaction only has gone back with its end.
        if !tx.context.is_empty() {
            self.report_all(&lease);
        }
        if tx.sets {
            lease.assume(self.settings.clone());
        }
        self.give_back(lease);
    }
}

fn refused_record(error: Mishap) -> Failure {
    Failure::new(Kind::Internal, "the journal refused the transaction's record").detail(error.what)
}

/// The leader refused the transaction at its end: another one came first.
fn refused_commit(error: &Mishap) -> Failure {
    let code = if error.code == "40P01" { "40P01" } else { "40001" };
    Failure::new(Kind::Retry, "could not serialize access: the transaction could not be committed")
        .code(code)
        .detail(error.what.clone())
        .hint("The transaction might succeed if retried.")
}
