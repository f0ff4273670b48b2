//! Signs of life: the proxy that writes shows at every voter that it lives, and notices there when it is obeyed no more.
//!
//! A writer that reaches no quorum any more for the time after which the others take it for dead takes itself
//! for dead, too, and serves no reads from then on: what it could read may be old. That bound rests on the
//! rates of two clocks; that nothing is written any more rests on none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Arbiter, Ballot, Phase, Roster};
use crate::exchange::Protocol;
use crate::keeper::{Answer, Witness};
use crate::session::Shared;

/// When each voter has last obeyed, and under which ballot: the moment before it was asked.
#[derive(Debug, Default)]
struct Obeyed(BTreeMap<String, (Ballot, Instant)>);

/// What all signs of life have in common.
#[derive(Debug)]
pub struct Pulse {
    obeyed: Mutex<Obeyed>,
    /// The proxy's name and address.
    address: String,
    heartbeat: Duration,
    takeover_after: Duration,
}

impl Pulse {
    /// Nobody has obeyed yet.
    pub fn new(address: String, heartbeat: Duration, takeover_after: Duration) -> Arc<Self> {
        Arc::new(Self { obeyed: Mutex::default(), address, heartbeat, takeover_after })
    }

    fn note(&self, voter: &str, ballot: Ballot, asked: Instant) {
        let mut obeyed = self.obeyed.lock().unwrap_or_else(PoisonError::into_inner);
        obeyed.0.insert(voter.to_owned(), (ballot, asked));
    }

    /// Whether enough voters have obeyed lately. One that has not been asked under this ballot yet, as after a change,
    /// is believed for as long as its first answer may take.
    fn holds(&self, roster: &Roster, ballot: Ballot, since: Instant) -> bool {
        if matches!(roster.arbiter, Arbiter::Lone(_)) {
            // Nobody else can write without this proxy's state file, or without all members.
            return true;
        }
        let obeyed = self.obeyed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let lately = |voter: &String| {
            let last = obeyed.0.get(voter).filter(|(under, _)| *under == ballot);
            let last = last.map_or(since, |(_, asked)| *asked);
            now - last < self.takeover_after
        };
        roster.is_quorum(&roster.voters().filter(lately).collect())
    }
}

/// A voter that can be shown a sign of life.
enum Voter {
    Backend(usize),
    Witness(Arc<dyn Witness>),
}

/// Shows a backend that the proxy lives, as long as it writes, until told to stop.
pub async fn beat<P: Protocol>(
    shared: Arc<Shared<P>>,
    pulse: Arc<Pulse>,
    backend: usize,
    stop: CancellationToken,
) {
    keep_beating(&shared, &pulse, Voter::Backend(backend), &stop).await;
}

/// The same for the witness.
pub async fn beat_witness<P: Protocol>(
    shared: Arc<Shared<P>>,
    pulse: Arc<Pulse>,
    witness: Arc<dyn Witness>,
    stop: CancellationToken,
) {
    keep_beating(&shared, &pulse, Voter::Witness(witness), &stop).await;
}

/// Waits until this proxy serves under another ballot than before.
async fn next_reign<P: Protocol>(shared: &Shared<P>, before: Ballot) {
    loop {
        let changed = shared.keeper.next_change();
        let ballot = shared.keeper.ballot();
        let serves = shared.keeper.view().phase == Phase::Serving;
        if serves && ballot != before && ballot != Ballot::NONE {
            return;
        }
        changed.await;
    }
}

async fn keep_beating<P: Protocol>(
    shared: &Shared<P>,
    pulse: &Pulse,
    voter: Voter,
    stop: &CancellationToken,
) {
    let mut reign = (Ballot::NONE, Instant::now());
    loop {
        // The first one of a reign comes at once: it says who writes, and where that is.
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pulse.heartbeat) => {}
            () = next_reign(shared, reign.0) => {}
        }
        let (view, ballot) = (shared.keeper.view(), shared.keeper.ballot());
        if view.phase != Phase::Serving || ballot == Ballot::NONE {
            continue;
        }
        if reign.0 != ballot {
            reign = (ballot, Instant::now());
        }
        let asked = Instant::now();
        let (name, beaten): (String, Answer<'_, bool>) = match &voter {
            Voter::Backend(backend) => {
                let name = shared.backends[*backend].name.clone();
                if !view.is_member(*backend) {
                    continue;
                }
                (name, shared.controls[*backend].beat(ballot, pulse.address.clone()))
            }
            Voter::Witness(witness) => {
                let name = shared.keeper.roster().arbiter.to_string();
                (name, witness.beat(ballot, pulse.address.clone()))
            }
        };
        match beaten.await {
            Ok(true) => pulse.note(&name, ballot, asked),
            // A witness has no part before a view says so.
            Ok(false) if name.is_empty() => {}
            Ok(false) => {
                let cause = format!("{name} obeys another proxy");
                shared.keeper.deposed(ballot, cause, true).await;
                continue;
            }
            Err(why) => tracing::debug!(voter = %name, %why, "no sign of life could be shown"),
        }
        let roster = shared.keeper.roster();
        if !pulse.holds(&roster, ballot, reign.1) {
            let cause = format!("too few voters of view {} answer", roster.number);
            shared.keeper.deposed(ballot, cause, false).await;
        }
    }
}
