//! A transaction's shares on the followers.
//!
//! Effects stream to the followers behind the client's back. A share that fails is not the end of
//! anything: at commit it is applied again, alone (I3). When the transaction ends on the leader
//! otherwise than by commit, all shares are dropped at the same moment, none waiting for another (I9).

use futures_util::future::join_all;

use super::transaction::{MADE_WAY, Place, Share, Transaction};
use super::{Shared, deep};
use crate::backend::{CheckoutError, Lease, Pool, Purpose};
use crate::exchange::{Broken, Link, Protocol};
use crate::keeper::Verdict;
use crate::store::journal::Effect;
use std::sync::Arc;
use std::time::Duration;

/// After how long what runs is cancelled once more: a request that finds nothing running is forgotten.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// How many effects are worth waking a follower for, before the end.
pub(super) const AHEAD: usize = 2;

/// Opens a share on one follower and sends it everything the transaction has done. That is `all` of it where nothing
/// but the record comes behind it.
pub(super) async fn open<P: Protocol>(
    pool: &Arc<Pool<P::Link>>,
    tx: &Transaction<P::Link>,
    all: bool,
) -> Result<Share<P::Link>, CheckoutError> {
    let mut lease = pool.checkout().await?;
    let settings = &tx.before.0;
    if all && tx.savepoints.is_empty() {
        lease.begin_whole_share(settings, &tx.effects);
    } else {
        lease.begin_share(settings);
    }
    let mut failed = None;
    for (n, effect) in tx.effects.iter().enumerate() {
        set_savepoints(&mut *lease, tx, n);
        failed = match deep::apply(&mut *lease, effect).await {
            Ok(mishap) => mishap.map(|m| m.what),
            Err(broken) => Some(broken.to_string()),
        };
        if failed.is_some() {
            break;
        }
    }
    set_savepoints(&mut *lease, tx, tx.effects.len());
    Ok(Share { lease, failed, sent: tx.effects.len(), flushed: 0, presence: None })
}

/// Sets the savepoints that the transaction has after so many effects.
pub(super) fn set_savepoints<L: Link>(link: &mut L, tx: &Transaction<L>, effects: usize) {
    for statement in tx.savepoints_at(effects) {
        link.queue(statement);
    }
}

/// Opens the shares on all followers, when that has not been done.
pub(super) async fn open_all<P: Protocol>(
    shared: &Shared<P>,
    user: &str,
    tx: &mut Transaction<P::Link>,
    all: bool,
) {
    let Place::Leading { shared: opened, leader, .. } = &mut tx.place else {
        return;
    };
    if std::mem::replace(opened, true) {
        return;
    }
    let leading = leader.backend().index;
    let mut fresh = Vec::new();
    let view = shared.keeper.view();
    for &follower in view.order.iter().filter(|b| **b != leading) {
        let backend = &shared.backends[follower];
        let generation = backend.generation();
        let pool = backend.pool(user, Purpose::Write);
        match open::<P>(&pool, tx, all).await {
            Ok(mut share) => {
                share.presence = Some(shared.present.enter(follower, share.lease.canceller()));
                fresh.push(share);
            }
            // A follower without room gets its share at commit.
            Err(CheckoutError::Busy(_)) => {}
            Err(CheckoutError::Connect(error)) => {
                let force = error.is_damning();
                shared.keeper.lost(follower, generation, error.to_string(), force).await;
            }
        }
    }
    if let Place::Leading { shares, .. } = &mut tx.place {
        *shares = fresh;
    }
}

/// Has the follower that is furthest behind work on what it lacks, where that is worth waking it. One at a time, since
/// several would be in the way of the leader's answer.
pub(super) async fn feed<L: Link>(shares: &mut [Share<L>], effects: &[Effect]) {
    let well = shares.iter_mut().filter(|share| share.failed.is_none());
    if let Some(last) = well.min_by_key(|share| share.flushed)
        && last.flushed + AHEAD <= effects.len()
    {
        last.queue_rest(effects);
        flush(std::slice::from_mut(last)).await;
    }
}

/// Sends what is queued for the shares. Failures are judged at commit.
pub(super) async fn flush<L: Link>(shares: &mut [Share<L>]) {
    for share in shares.iter_mut().filter(|share| share.failed.is_none()) {
        match share.lease.flush().await {
            Ok(()) => share.flushed = share.sent,
            Err(broken) => share.failed = Some(broken.to_string()),
        }
    }
}

/// Waits until every share has answered everything (I8).
pub(super) async fn drain<P: Protocol>(shared: &Shared<P>, shares: &mut Vec<Share<P::Link>>) {
    let answers = join_all(shares.iter_mut().map(|share| share.lease.drain())).await;
    let mut broken = Vec::new();
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(None) => {}
            Ok(Some(error)) => {
                shares[n].failed.get_or_insert(error.to_string());
            }
            Err(_) if shares[n].is_ended() => {
                shares[n].failed.get_or_insert_with(|| MADE_WAY.to_owned());
            }
            Err(why) => broken.push((n, why)),
        }
    }
    for (n, why) in broken.into_iter().rev() {
        let share = shares.remove(n);
        report_share(shared, &share.lease, &why).await;
    }
}

/// Reports a broken connection of a follower.
pub(super) async fn report_share<P: Protocol>(
    shared: &Shared<P>,
    lease: &Lease<P::Link>,
    why: &Broken,
) -> Verdict {
    // Silence is not a session's death: the server took what was sent and does not answer.
    let force = why.is_damning();
    let (backend, generation) = (lease.backend().index, lease.generation());
    shared.keeper.lost(backend, generation, why.to_string(), force).await
}

/// Waits for what runs on a connection. Past the limit it is cancelled, and again until it ends; never is a request to
/// cancel left behind.
pub(super) async fn cancelled_after<T, C: Future<Output = ()>>(
    limit: Duration,
    cancel: impl Fn() -> C,
    run: impl Future<Output = T>,
) -> T {
    let mut run = std::pin::pin!(run);
    let mut wait = limit;
    loop {
        tokio::select! {
            biased;
            ended = &mut run => return ended,
            () = tokio::time::sleep(wait) => {}
        }
        // What is to be cancelled may have to be read first.
        let mut cancel = std::pin::pin!(cancel());
        tokio::select! {
            biased;
            () = &mut cancel => {}
            ended = &mut run => {
                cancel.await;
                return ended;
            }
        }
        wait = CANCEL_AGAIN;
    }
}

/// Drops shares at once: what is queued is thrown away, what runs is cancelled, all is undone.
pub(super) async fn abandon<P: Protocol>(shared: &Shared<P>, shares: Vec<Share<P::Link>>) {
    // The session of one that made way is gone, and all that it did.
    let there = shares.into_iter().filter(|share| !share.is_ended());
    let ends = there.map(|mut share| async move {
        let asked = share.lease.withdraw();
        let backend = share.lease.backend();
        // A backend that has been given up needs no asking, and might not answer.
        let (gone, canceller) = (backend.gone(), share.lease.canceller());
        let runs = asked && shared.keeper.view().is_member(backend.index);
        let cancel = || async {
            tokio::select! {
                biased;
                () = gone.cancelled() => {}
                () = P::Link::cancel(&canceller) => {}
            }
        };
        if runs {
            if let Err(broken) = share.lease.begun().await {
                return (Err(broken), share.lease);
            }
            cancel().await;
        }
        share.lease.queue_rollback();
        // What is still on its way there could wait for whoever has the leader's locks now: it is
        // asked for again until all is undone.
        let ended = if runs {
            cancelled_after(CANCEL_AGAIN, cancel, share.lease.drain()).await
        } else {
            share.lease.drain().await
        };
        (ended, share.lease)
    });
    for (end, lease) in join_all(ends).await {
        match end {
            Ok(_) => lease.release(),
            Err(why) => {
                report_share(shared, &lease, &why).await;
            }
        }
    }
}
