//! Bringing backends back.
//!
//! Two jobs. *Settling*: at the start, and whenever no member answered, the members of the newest
//! view are found, compared by their journals, and rolled forward until they are the same. *Catching
//! up*: a backend that was away gets the records it lacks while writes go on, then the last ones
//! behind the commit gate, and is a member again.

mod catch_up;
mod intents;
mod plan;
mod replay;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cluster::{Phase, State};
use crate::exchange::Protocol;
use crate::session::Shared;
use crate::store::vote::Secrets;

/// How long each step may take, and by what the proxy is known.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the backends, in the order of the configuration.
    pub names: Vec<String>,
    /// By what the backends know this proxy while it writes.
    pub secrets: Secrets,
    /// The cluster that the state file belongs to.
    pub cluster: Option<String>,
    /// Pause between two attempts at the same backend; doubles with each failure.
    pub retry: Duration,
    /// What tells whether this proxy writes, and whether another one does.
    pub role: Role,
}

/// How proxies tell each other that they live.
#[derive(Clone, Debug)]
pub struct Role {
    /// There is no other proxy.
    pub lone: bool,
    /// This proxy's name, and its address for the others.
    pub address: String,
    /// Pause between two signs of life.
    pub heartbeat: Duration,
    /// A writer that has shown none for so long is taken for dead, and takes itself for it.
    pub takeover_after: Duration,
}

/// Settles, stands by and catches up until told to stop.
pub async fn run<P: Protocol>(shared: Arc<Shared<P>>, settings: Settings, stop: CancellationToken) {
    let mut attempts = vec![catch_up::Attempts::default(); settings.names.len()];
    let mut lookout = settle::Lookout::new();
    while !stop.is_cancelled() {
        let view = shared.keeper.view();
        if view.phase != Phase::Serving {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = settle::settle(&shared, &settings, &mut lookout) => {}
            }
            continue;
        }
        for (backend, attempts) in attempts.iter_mut().enumerate() {
            let view = shared.keeper.view();
            let member = &view.backends[backend];
            let away = !view.is_member(backend) && !member.held;
            let due = away && attempts.is_due(shared.settings().automatic);
            if view.phase == Phase::Serving
                && due
                && let Err(why) = bring_back(&shared, &settings, backend, attempts).await
            {
                shared.keeper.note(backend, State::Inactive, why).await;
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            wanted = shared.wanted.next() => wanted.into_iter().for_each(|b| attempts[b].reset()),
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
}

/// Tries to bring one backend back.
///
/// # Errors
/// With the reason for which it stays inactive.
async fn bring_back<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    backend: usize,
    attempts: &mut catch_up::Attempts,
) -> Result<(), String> {
    let seen = match shared.controls[backend].examine().await {
        Ok(seen) => seen,
        Err(why) => {
            attempts.wait(settings.retry);
            return Err(why);
        }
    };
    tokio::select! {
        biased;
        done = catch_up::catch_up(shared, settings, backend, seen) => {
            attempts.note(&done, settings.retry, &settings.names[backend]);
            done
        }
        // Whoever waits for the cluster to serve again must not wait for this first. It may be left anywhere, as by a
        // proxy that dies; and it says nothing of this backend.
        () = shared.keeper.pauses() => Err("nobody serves at the moment".into()),
    }
}
