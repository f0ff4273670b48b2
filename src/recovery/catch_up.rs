//! Catching up: from inactive to active while writes go on.

use tokio::time::{Duration, Instant};

use super::plan::{Obstacle, lacking};
use super::replay::replay;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::Settings;
use crate::cluster::{Ask, Ballot, State};
use crate::exchange::Protocol;
use crate::keeper::Examination;
use crate::ledger::reservations::clear_of;
use crate::session::Shared;
use crate::store::vote::Poll;

/// With no more records than this to go, the rest is done behind the gate.
const NEARLY: usize = 20;
/// The least and the most by which a commit is slowed down.
const LIGHT_US: u32 = 5_000;
const HARD_US: u32 = 100_000;
/// For so long each pull of the brake is given to show what it does.
const PULL: Duration = Duration::from_secs(2);
/// Records fetched at once.
const FETCH: usize = 500;
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// When the next attempt at a backend is due.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempts {
    failures: u32,
    /// Why the last one failed.
    why: String,
    next: Option<Instant>,
    /// An operator asked for it.
    asked: bool,
}

impl Attempts {
    pub(super) fn is_due(&self, automatic: bool) -> bool {
        (automatic || self.asked) && self.next.is_none_or(|next| Instant::now() >= next)
    }

    /// Notes how an attempt went. Tells when it failed for another reason than the one before.
    pub(super) fn note(&mut self, result: &Result<(), String>, pause: Duration, name: &str) {
        match result {
            // A backend that has just come back and goes again waits longer each time.
            Ok(()) => *self = Self { next: Some(Instant::now() + pause), ..Self::default() },
            Err(why) => {
                if *why != self.why {
                    tracing::info!(backend = %name, %why, "cannot be caught up yet");
                    self.why.clone_from(why);
                }
                let pause = pause.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
                self.failures += 1;
                self.next = Some(Instant::now() + pause);
            }
        }
    }

    /// It cannot even be reached: as soon as it can, it is worth an attempt.
    pub(super) fn wait(&mut self, pause: Duration) {
        self.next = Some(Instant::now() + pause);
    }

    pub(super) fn reset(&mut self) {
        *self = Self { asked: true, ..Self::default() };
    }
}

/// Brings a backend up to date and makes it a member.
///
/// # Errors
/// With the reason for which it stays inactive.
pub(super) async fn catch_up<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    backend: usize,
    seen: Examination,
) -> Result<(), String> {
    let name = &settings.names[backend];
    identify(&seen, name, shared).await?;
    // Whoever restarts from here on is not the one whose journal is compared.
    shared.backends[backend].note_start(&seen.started);
    admit(shared, settings, backend).await?;
    // What was left over from before must not hide in a connection of ours.
    shared.backends[backend].refresh();
    let mut brake = Brake { shared, pulled: Instant::now() };
    let started = Instant::now();
    let mut applied = 0;
    let mut before = usize::MAX;
    loop {
        let missing = missing(shared, backend).await?;
        if missing.len() <= NEARLY && !takes_long(shared, &missing).await? {
            break;
        }
        brake.adjust(before, missing.len());
        before = missing.len();
        round(shared, backend, &missing, &mut brake).await?;
        applied += missing.len();
    }
    shared.keeper.note(backend, State::CatchingUp { remaining: 0 }, String::new()).await;
    let limit = shared.settings().gate;
    let closing = shared.keeper.gate.clone().write_owned();
    let waiting = tokio::time::timeout(limit, closing).await;
    let Ok(gate) = waiting else {
        return Err(format!("the commits under way did not end within {limit:?}"));
    };
    let closed = Instant::now();
    let last = async {
        let missing = missing(shared, backend).await?;
        if takes_long(shared, &missing).await? {
            return Err("an index was built on the others in the last moment; trying again".into());
        }
        apply(shared, backend, &missing).await?;
        applied += missing.len();
        copy_sequences(shared, backend).await
    };
    let ended = tokio::time::timeout(limit, last).await;
    let ended =
        ended.unwrap_or_else(|_| Err(format!("the last records took longer than {limit:?}")));
    let joined = match ended {
        // How long it is decided on cannot be cut short: what is committed before the end of that is lacking there.
        Ok(()) => shared.keeper.join(backend, gate).await,
        Err(why) => {
            drop(gate);
            Err(why)
        }
    };
    let held = closed.elapsed();
    shared.metrics.gate_seconds.observe(held.as_secs_f64());
    joined?;
    let took = started.elapsed();
    tracing::info!(backend = %name, records = applied, ?took, gate = ?held, "caught up");
    Ok(())
}

/// The backend obeys from here on, and nothing of a former writer is left on it.
async fn admit<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    backend: usize,
) -> Result<(), String> {
    let ballot = shared.keeper.ballot();
    if ballot == Ballot::NONE {
        return Err("this proxy does not write any more".into());
    }
    let poll = Poll {
        cluster: (*shared.keeper.cluster()).clone(),
        backend: settings.names[backend].clone(),
        ask: Ask::Prepare(ballot),
        secrets: Some(settings.secrets.clone()),
    };
    let control = &shared.controls[backend];
    if let Err(refusal) = control.poll(poll).await? {
        return Err(format!("it does not obey this proxy: {refusal}"));
    }
    control.fence(settings.secrets.users.clone()).await
}

/// Slows commits down while a backend that catches up would not get nearer otherwise.
struct Brake<'a, P: Protocol> {
    shared: &'a Shared<P>,
    pulled: Instant,
}

impl<P: Protocol> Brake<'_, P> {
    /// A round that did not at least halve what is missing pulls the brake harder.
    fn adjust(&mut self, before: usize, now: usize) {
        if before != usize::MAX && now > before / 2 {
            self.pull(now);
        }
    }

    /// The same in the middle of a long round: more than half as many records have come as were applied.
    fn pace(&mut self, applied: usize, came: usize, missing: usize) {
        if came > applied / 2 && self.pulled.elapsed() >= PULL {
            self.pull(missing);
        }
    }

    fn pull(&mut self, missing: usize) {
        self.pulled = Instant::now();
        let brake = self.shared.brake_us.load(Ordering::Relaxed);
        let harder = (brake * 4).clamp(LIGHT_US, HARD_US);
        if harder != brake {
            tracing::info!(
                brake_us = harder,
                missing,
                "commits are slowed down for a backend to catch up"
            );
            self.shared.brake_us.store(harder, Ordering::Relaxed);
        }
    }
}

impl<P: Protocol> Drop for Brake<'_, P> {
    fn drop(&mut self) {
        self.shared.brake_us.store(0, Ordering::Relaxed);
    }
}

/// Whether it is the backend it should be: answering is not enough.
async fn identify<P: Protocol>(
    seen: &Examination,
    name: &str,
    shared: &Shared<P>,
) -> Result<(), String> {
    let control = seen
        .control
        .as_ref()
        .ok_or_else(|| "it is not initialised: it needs a full copy".to_owned())?;
    if control.system_identifier != seen.system {
        return Err("another server stands at its address: it needs a full copy".into());
    }
    if control.backend != name {
        return Err(format!("backend {} stands at its address", control.backend));
    }
    if !seen.writable {
        return Err("it does not take writes".into());
    }
    let view = shared.keeper.view();
    let leader = view.leader().ok_or_else(|| "there is no leader".to_owned())?;
    let ours = shared.controls[leader].examine().await?;
    let same = ours.control.is_some_and(|c| c.cluster_id == control.cluster_id);
    if same { Ok(()) } else { Err("it belongs to another cluster".into()) }
}

/// The records that it lacks of the leader's journal.
async fn missing<P: Protocol>(shared: &Shared<P>, backend: usize) -> Result<Vec<i64>, String> {
    let leader = shared.keeper.view().leader().ok_or_else(|| "there is no leader".to_owned())?;
    let mine = shared.controls[backend].examine().await?;
    let complete = mine.control.map_or(0, |c| c.complete_to);
    let ours = shared.controls[leader].examine().await?;
    let pruned = ours.control.map_or(0, |c| c.pruned_to);
    let from = complete.min(pruned);
    let tail = shared.controls[backend].tail(from).await?;
    // The leader's journal is read after the other one: what is in flight is only ever in it.
    let cluster = shared.controls[leader].tail(from).await?;
    let lacks = match lacking(&tail, complete, &cluster, pruned) {
        // The journal may have been pruned between the two questions.
        Err(Obstacle::Ahead(_)) => {
            let ours = shared.controls[leader].examine().await?;
            lacking(&tail, complete, &cluster, ours.control.map_or(0, |c| c.pruned_to))
        }
        told => told,
    };
    lacks.map_err(|obstacle| obstacle.to_string())
}

/// Whether a record is among them that commits must not wait for: an index takes its time.
async fn takes_long<P: Protocol>(shared: &Shared<P>, missing: &[i64]) -> Result<bool, String> {
    let Some(first) = missing.first() else {
        return Ok(false);
    };
    let leader = shared.keeper.view().leader().ok_or_else(|| "there is no leader".to_owned())?;
    let outside = shared.controls[leader].outside(first - 1).await?;
    Ok(outside.iter().any(|record| missing.contains(&record.seq)))
}

/// Applies what is missing, chunk by chunk, and tells how far it is.
async fn round<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    missing: &[i64],
    brake: &mut Brake<'_, P>,
) -> Result<(), String> {
    let (newest, mut applied) = (shared.ledger.newest(), 0);
    for seqs in missing.chunks(FETCH) {
        let came = usize::try_from(shared.ledger.newest() - newest).unwrap_or_default();
        let rest = missing.len() - applied + came;
        let remaining = u64::try_from(rest).unwrap_or(u64::MAX);
        shared.keeper.note(backend, State::CatchingUp { remaining }, String::new()).await;
        brake.pace(applied, came, rest);
        apply(shared, backend, seqs).await?;
        applied += seqs.len();
    }
    Ok(())
}

async fn apply<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    missing: &[i64],
) -> Result<(), String> {
    for seqs in missing.chunks(FETCH) {
        let leader =
            shared.keeper.view().leader().ok_or_else(|| "there is no leader".to_owned())?;
        let records = shared.controls[leader].records(seqs.to_vec()).await?;
        if records.len() != seqs.len() {
            return Err("records went away while they were read".into());
        }
        replay(shared, backend, &records).await?;
    }
    Ok(())
}

/// Sequences move outside transactions: they are taken over behind the gate, with a reserve, since
/// transactions that drew from them before may still commit afterwards.
async fn copy_sequences<P: Protocol>(shared: &Shared<P>, backend: usize) -> Result<(), String> {
    let leader = shared.keeper.view().leader().ok_or_else(|| "there is no leader".to_owned())?;
    let theirs = shared.controls[leader].sequences().await?;
    let mine = shared.controls[backend].sequences().await?;
    let mine: HashSet<String> = mine.into_iter().map(|sequence| sequence.name).collect();
    let known = theirs.into_iter().filter(|sequence| mine.contains(&sequence.name));
    shared.controls[backend].set_sequences(known.map(clear_of).collect()).await
}
