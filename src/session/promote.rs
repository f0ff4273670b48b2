//! What becomes of a transaction whose leader dies.

use super::crossing::Led;
use super::leader::not_set_up;
use super::transaction::{Place, Share, Transaction};
use super::{Session, Stop, shares};
use crate::backend::Purpose;
use crate::cluster::Phase;
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
        let Place::Leading { leader, shares, shared, led } = place else {
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
            return Err(Failure::retry(STATE_GONE).into());
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
        let why = match self.leader_fell(verdict, &led) {
            Verdict::Alive => "its session on the database was ended",
            Verdict::Settling => NOBODY,
            Verdict::Evicted if !tx.is_portable(self.default_isolation()) => super::commit::BOUND,
            Verdict::Evicted => return self.carry_over(shares, shared, led).await,
        };
        shares::abandon(&self.shared, shares).await;
        Err(Failure::retry(why).into())
    }

    /// What has become of the leader of a transaction. One that was evicted may be a member again by now, and what was
    /// under way when nobody was active is lost, whoever leads since then.
    pub(super) fn leader_fell(&self, verdict: Verdict, led: &Led) -> Verdict {
        let view = self.shared.keeper.view();
        let era = led.era();
        match verdict {
            _ if view.phase != Phase::Serving || era < view.settled => Verdict::Settling,
            _ if era != view.era => Verdict::Evicted,
            verdict => verdict,
        }
    }

    /// Why a transaction can go on nowhere, whatever it finds where another backend leads.
    pub(super) fn is_left_behind(&self, led: &Led) -> Option<&'static str> {
        if led.is_overtaken() {
            Some(OVERTAKEN)
        } else if led.era() < self.shared.keeper.glance().settled {
            Some(NOBODY)
        } else {
            None
        }
    }

    async fn carry_over(
        &mut self,
        shares: Vec<Share<P::Link>>,
        shared: bool,
        led: Led,
    ) -> Result<(), Stop> {
        let gone_on = self.promote(shares, shared, led).await;
        if gone_on.is_err()
            && let Some(tx) = &mut self.tx
            && let Place::Leading { shares, .. } = std::mem::replace(&mut tx.place, Place::Nowhere)
        {
            // The server's transaction ends with its connection.
            shares::abandon(&self.shared, shares).await;
        }
        gone_on
    }

    /// Goes on at the new leader, with all that the transaction has done and locked, before anybody else does anything
    /// there (`crossing.rs`).
    async fn promote(
        &mut self,
        mut shares: Vec<Share<P::Link>>,
        shared: bool,
        led: Led,
    ) -> Result<(), Stop> {
        let Some(tx) = &self.tx else { return Ok(()) };
        let writes = tx.writing > 0;
        for share in &mut shares {
            share.queue_rest(&tx.effects);
        }
        shares::drain(&self.shared, &mut shares).await;
        let Some(next) = self.shared.keeper.view().leader() else {
            shares::abandon(&self.shared, shares).await;
            return Err(super::leader::unavailable().into());
        };
        let at = shares.iter().position(|share| share.lease.backend().index == next);
        let share = at.map(|at| shares.remove(at));
        if !writes && share.is_none() {
            // Only locks were taken: they are taken again where the transaction begins anew.
            shares::abandon(&self.shared, shares).await;
            match self.try_leader().await? {
                Some(leader) => self.open_on(leader, led),
                None => return Err(Failure::retry(INCOMPLETE).into()),
            }
        } else {
            let Some(share) = self.whole(share, next).await else {
                shares::abandon(&self.shared, shares).await;
                return Err(Failure::retry(INCOMPLETE).into());
            };
            let (mut leader, settings) = (share.lease, self.settings.clone());
            leader.lead(&settings);
            self.set_place(Place::Leading { leader, shares, shared, led });
        }
        self.lock_again().await?;
        self.arrive().await
    }

    /// The share on the next leader with all that the transaction has done: the one that is there, or else another one,
    /// after the commits that were on their way.
    async fn whole(&self, share: Option<Share<P::Link>>, next: usize) -> Option<Share<P::Link>> {
        match share {
            Some(share) if share.failed.is_none() => return Some(share),
            failed => shares::abandon(&self.shared, failed.into_iter().collect()).await,
        }
        let tx = self.tx.as_ref()?;
        self.shared.ledger.wait_for_earlier(i64::MAX).await;
        let pool = self.shared.backends[next].pool(&self.user, Purpose::Write);
        let mut share = shares::open::<P>(&pool, tx, true).await.ok()?;
        let ended = share.lease.drain().await;
        if share.failed.is_none() && matches!(ended, Ok(None)) {
            return Some(share);
        }
        if ended.is_ok() {
            shares::abandon(&self.shared, vec![share]).await;
        }
        None
    }

    /// All that it has done is at the new leader: others need not wait for it, and it goes on when all are there.
    async fn arrive(&mut self) -> Result<(), Stop> {
        let Some(Place::Leading { leader, led, .. }) = self.tx.as_ref().map(|tx| &tx.place) else {
            return Ok(());
        };
        let view = self.shared.keeper.view();
        if view.leader() != Some(leader.backend().index) {
            return Ok(()); // That one is gone as well, as the next statement will find.
        }
        if !led.arrives(view.era) {
            return Err(Failure::retry(OVERTAKEN).into());
        }
        self.shared.wait_for_crossings(view.era).await;
        Ok(())
    }

    /// Another backend leads than the one where the transaction is, which nobody uses: it comes over at once, since
    /// others wait for it there. What cannot come over is undone, and the client is told when it says something.
    pub(super) async fn come_over(&mut self) {
        let why = Broken::Lost(LED_NO_MORE.to_owned());
        let carried = self.leader_lost(&why).await;
        if let Some(tx) = &mut self.tx {
            tx.undone = carried.err();
        }
    }

    /// Takes row locks again by running the locking reads again, while nobody else can change these rows. Another
    /// answer ends the transaction, unless what it has changed itself since then explains it.
    async fn lock_again(&mut self) -> Result<(), Stop> {
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        let Transaction { locks, place, writing, .. } = tx;
        let Place::Leading { leader, .. } = place else {
            return Ok(());
        };
        for lock in locks.iter() {
            let watch = Watch { digest: true, ..Watch::default() };
            let again = leader.run(&lock.work, watch, &mut Discard::default()).await;
            let own = lock.relocks && *writing > lock.writing;
            if !matches!(&again, Ok(o) if o.error.is_none() && (own || o.digest == lock.digest)) {
                return Err(Failure::retry(CHANGED).into());
            }
        }
        Ok(())
    }
}

/// Why a connection to a leader is of no use any more.
pub(super) const LED_NO_MORE: &str = "another backend leads now";

/// Why a transaction begins again whose session on the leader had something that no other has.
pub(super) const STATE_GONE: &str = "the state of its server session is gone";

/// Why a transaction begins again that is not whole on the backend that would have to go on with it.
pub(super) const INCOMPLETE: &str = "its effects were not complete on the backend that leads now";

/// Why a transaction begins again for which there was a moment without any backend.
pub(super) const NOBODY: &str = "no backend was active";

/// Why a transaction begins again that came over too late.
const OVERTAKEN: &str =
    "others went on at the new leader before all that it had done on the former one was there";

/// Why a transaction begins again whose row locks went with its leader.
const CHANGED: &str = "rows it had locked have changed meanwhile";
