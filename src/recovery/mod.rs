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

/// How long each step may take, and what the proxy remembers from before.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the backends, in the order of the configuration.
    pub names: Vec<String>,
    /// Application users, whose sessions are fenced.
    pub users: Vec<String>,
    /// The secrets of this proxy.
    pub token: String,
    /// What capture reports are signed with.
    pub capture_token: String,
    /// How long a start waits for all members.
    pub startup_wait: Duration,
    /// How long the commit gate may be waited for and held.
    pub gate: Duration,
    /// Whether a state file was found. Without one, all backends must be seen before anybody serves.
    pub remembers: bool,
    /// The cluster that the state file belongs to.
    pub cluster: Option<String>,
    /// Pause between two attempts at the same backend; doubles with each failure.
    pub retry: Duration,
}

/// Settles and catches up until told to stop.
pub async fn run<P: Protocol>(shared: Arc<Shared<P>>, settings: Settings, stop: CancellationToken) {
    let mut attempts = vec![catch_up::Attempts::default(); settings.names.len()];
    let mut first = true;
    while !stop.is_cancelled() {
        let view = shared.keeper.view();
        if view.phase == Phase::Settling {
            settle::settle(&shared, &settings, first).await;
            first = false;
            continue;
        }
        for (backend, attempts) in attempts.iter_mut().enumerate() {
            let view = shared.keeper.view();
            let member = &view.backends[backend];
            let away = !view.is_member(backend) && !member.held;
            if view.phase == Phase::Serving && away && attempts.is_due(shared.settings().automatic)
            {
                let result = catch_up::catch_up(&shared, &settings, backend).await;
                attempts.note(&result, settings.retry);
                if let Err(why) = result {
                    shared.keeper.note(backend, State::Inactive, why).await;
                }
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
