//! What becomes of a transaction whose leader dies.

use super::leader::not_set_up;
use super::transaction::{Lock, Place, Transaction};
use super::{Session, Stop, shares};
use crate::error::{Failure, Kind};
use crate::exchange::{Broken, Discard, Link, Protocol, Watch};
use crate::keeper::Verdict;

impl<P: Protocol> Session<P> {
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
