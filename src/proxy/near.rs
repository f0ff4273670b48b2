//! Which sessions stay at a proxy that stands by, for as long as they read only what may be a little behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::front::Front;
use super::house::House;
use crate::backend::Purpose;
use crate::cluster::Phase;
use crate::config::{Consistency, OnStandby, StandbySessions};

/// How often it is looked whether the catalog has to be read.
const LOOK: Duration = Duration::from_millis(500);

/// How old the catalog may become. What it does not know yet goes to the proxy that writes.
const CATALOG_AGE: Duration = Duration::from_secs(30);

impl<P: Front> House<P> {
    /// Whether a session may stay here although another proxy writes: it has chosen, or the file has for it, that it
    /// does not have to see every commit at once, and it can go on at that proxy as soon as it does more than read.
    pub(super) fn reads_near(&self, database: &str, consistency: Option<&str>) -> bool {
        let config = self.config.load();
        let level = consistency.map_or(Some(config.reads.consistency), Consistency::of);
        let reads = |policy| policy == StandbySessions::ReadOnly;
        let wanted = level == Some(Consistency::Eventual)
            && config.proxy.on_standby == OnStandby::Forward
            && config.resources.iter().all(|resource| reads(resource.standby_sessions))
            && self.stands_by(database).is_some();
        if wanted {
            self.near_wanted.store(true, Ordering::Relaxed);
        }
        wanted
            && self.shared.keeper.near().is_some()
            && self.shared.catalogs.is_loaded()
            && self.key().is_some()
    }

    /// A backend that may be asked for such a session: another one each time.
    pub(super) fn near_place(&self, turn: usize) -> Option<(usize, Purpose)> {
        let members = self.shared.keeper.near()?;
        members.get(turn % members.len()).map(|&member| (member, Purpose::Near))
    }

    /// The leader, once this proxy serves.
    pub(super) async fn leading_place(&self, hold: Duration) -> Option<(usize, Purpose)> {
        let serves = self.shared.keeper.wait_serving(hold).await;
        let leader = self.shared.keeper.view().leader().filter(|_| serves);
        leader.map(|leader| (leader, Purpose::Write))
    }
}

/// Reads the catalog while another proxy writes, once somebody has come who needs it: without one every
/// statement would be that proxy's.
pub(super) async fn keep_informed<P: Front>(house: Arc<House<P>>, end: CancellationToken) {
    let shared = &house.shared;
    let mut known: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if shared.keeper.view().phase != Phase::Standby {
            known = None;
            continue;
        }
        if !house.near_wanted.load(Ordering::Relaxed) {
            continue;
        }
        let fresh = known.is_some_and(|since| since.elapsed() < CATALOG_AGE);
        let Some(&member) = shared.keeper.near().as_deref().and_then(<[usize]>::first) else {
            continue;
        };
        if fresh {
            continue;
        }
        let epoch = shared.catalogs.outdate();
        match shared.controls[member].catalog().await {
            Ok(judge) => {
                shared.catalogs.install(epoch, judge);
                known = Some(tokio::time::Instant::now());
            }
            Err(why) => {
                tracing::debug!(%why, "the catalog cannot be read while another proxy writes")
            }
        }
    }
}
