//! Shares that failed, or were never opened: applied again before the commit point (I3).

use std::time::Duration;

use futures_util::future::join_all;

use super::crossing::Led;
use super::promote::{INCOMPLETE, NOBODY};
use super::transaction::{Record, Share, Transaction};
use super::{Session, shares};
use crate::backend::{CheckoutError, Lease, Purpose};
use crate::error::Failure;
use crate::exchange::{Link, Protocol};
use crate::keeper::Verdict;
use crate::ledger::Ticket;

/// Why a share could not be applied again.
enum Unapplied {
    /// All connections to the follower are in use, and none came free in this time.
    Busy(Duration),
    /// The follower cannot be reached, or not any more.
    Lost(String),
    /// The follower answers otherwise than the leader.
    Differs(String),
}

impl<P: Protocol> Session<P> {
    /// Sees to it that every follower of the newest view has all effects and the record: shares
    /// that failed, or were never opened, are applied alone after every earlier record (I3).
    ///
    /// One that leads by now takes them as well, while those who would begin something there wait for this transaction.
    pub(super) async fn complete_shares(
        &self,
        tx: &Transaction<P::Link>,
        (ticket, record, led): (&Ticket, &Record, &Led),
        leader: Option<&Lease<P::Link>>,
        shares: &mut Vec<Share<P::Link>>,
    ) -> Result<(), Failure> {
        let leading = leader.map(|l| l.backend().index);
        let view = self.shared.keeper.view();
        for &follower in view.order.iter().filter(|b| Some(**b) != leading) {
            let at = shares.iter().position(|s| s.lease.backend().index == follower);
            let first = match at {
                Some(at) if shares[at].failed.is_none() => continue,
                Some(at) => {
                    let share = shares.remove(at);
                    let why = share.failed.clone();
                    shares::abandon(&self.shared, vec![share]).await;
                    why
                }
                None => None,
            };
            self.shared.ledger.wait_for_earlier(ticket.seq).await;
            // Whoever has left meanwhile needs nothing, and would only be waited for.
            if !self.shared.keeper.view().is_member(follower) {
                continue;
            }
            if let Some(why) = self.is_left_behind(led) {
                return Err(Failure::retry(why));
            }
            self.shared.backends[follower].metrics.follower_retries.inc();
            let first = first.unwrap_or_else(|| "its share was not open".into());
            let mut applied = self.apply_again(tx, ticket, record, follower).await;
            if matches!(applied, Err(Unapplied::Differs(_))) && self.clear_the_way(follower).await {
                applied = self.apply_again(tx, ticket, record, follower).await;
            }
            let cause = match applied {
                Ok(share) => {
                    shares.push(share);
                    continue;
                }
                // That is no fault of the follower's: whoever wants more than there is waits in vain.
                Err(Unapplied::Busy(limit)) => {
                    let name = &self.shared.backends[follower].name;
                    let why = format!("all of them to backend {name} are in use: {first}");
                    return Err(CheckoutError::no_room(limit).detail(why));
                }
                Err(Unapplied::Lost(why)) => format!("{why} (at first: {first})"),
                // Others may have been let past it: that is no fault of the one that leads.
                Err(Unapplied::Differs(_)) if self.leads(follower) => {
                    return Err(Failure::retry(INCOMPLETE));
                }
                Err(Unapplied::Differs(why)) => {
                    format!("differs from the leader: {why} (at first: {first})")
                }
            };
            let generation = self.shared.backends[follower].generation();
            let verdict = self.shared.keeper.lost(follower, generation, cause, true).await;
            if verdict != Verdict::Evicted {
                return Err(Failure::retry(NOBODY));
            }
        }
        Ok(())
    }

    /// Whether a backend leads now.
    fn leads(&self, backend: usize) -> bool {
        self.shared.keeper.view().leader() == Some(backend)
    }

    /// Ends the shares on a follower whose transactions do not commit yet: one of them may wait on the
    /// leader for the transaction that waits for it here. False when there are none.
    async fn clear_the_way(&self, follower: usize) -> bool {
        let others = self.shared.present.make_way(follower);
        let ended = join_all(others.iter().map(P::Link::end)).await;
        let made_way = ended.contains(&true);
        if made_way {
            let backend = &self.shared.backends[follower].name;
            tracing::info!(%backend, shares = ended.len(), "made way");
        }
        made_way
    }

    async fn apply_again(
        &self,
        tx: &Transaction<P::Link>,
        ticket: &Ticket,
        record: &Record,
        follower: usize,
    ) -> Result<Share<P::Link>, Unapplied> {
        let pool = self.shared.backends[follower].pool(&self.user, Purpose::Write);
        let mut share = match shares::open::<P>(&pool, tx, true).await {
            Ok(share) => share,
            Err(CheckoutError::Busy(limit)) => return Err(Unapplied::Busy(limit)),
            Err(error) => return Err(Unapplied::Lost(error.to_string())),
        };
        if let Some(why) = share.failed.take() {
            shares::abandon(&self.shared, vec![share]).await;
            return Err(Unapplied::Differs(why));
        }
        share.lease.queue_record(ticket.seq, record.id, &self.user, &record.entry);
        match share.lease.drain().await {
            Ok(None) => Ok(share),
            Ok(Some(error)) => {
                shares::abandon(&self.shared, vec![share]).await;
                Err(Unapplied::Differs(error.what))
            }
            Err(broken) => Err(Unapplied::Lost(broken.to_string())),
        }
    }
}
