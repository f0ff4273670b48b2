//! Settling: nobody is served before the newest view is known and its members are the same (I7).

use futures_util::future::join_all;
use tokio::time::{Duration, Instant, sleep};

use super::Settings;
use super::catch_up::RESERVE;
use super::intents::conclude_open;
use super::plan::{self, Tail};
use super::replay::replay;
use crate::exchange::Protocol;
use crate::keeper::Examination;
use crate::session::Shared;

/// Pause between two looks at backends that are not there.
const PAUSE: Duration = Duration::from_millis(200);

/// What a look at all backends has shown.
struct Found {
    seen: Vec<Option<Examination>>,
    number: i64,
    members: Vec<usize>,
    cluster: Option<String>,
}

/// Finds the members of the newest view, makes them the same, and has the keeper serve with them.
/// Returns early when something went wrong; the caller tries again.
pub(super) async fn settle<P: Protocol>(shared: &Shared<P>, settings: &Settings, first: bool) {
    let started = Instant::now();
    let found = loop {
        let found = look(shared, settings).await;
        let there = found.members.iter().filter(|m| found.seen[**m].is_some()).count();
        let all_seen = found.seen.iter().all(Option::is_some);
        let knows = settings.remembers || !first || all_seen;
        let waited = started.elapsed() >= settings.startup_wait;
        if knows && there > 0 && (there == found.members.len() || waited) {
            break found;
        }
        explain(shared, settings, &found, knows).await;
        sleep(PAUSE).await;
    };
    if let Err(why) = align(shared, settings, found).await {
        tracing::warn!(%why, "the members could not be made the same; trying again");
        sleep(PAUSE).await;
    }
}

async fn look<P: Protocol>(shared: &Shared<P>, settings: &Settings) -> Found {
    let view = shared.keeper.view();
    let looks = join_all(shared.controls.iter().map(|c| c.examine())).await;
    let mut found = Found {
        seen: Vec::new(),
        number: view.number,
        members: view.order.clone(),
        cluster: settings.cluster.clone(),
    };
    for (backend, look) in looks.into_iter().enumerate() {
        let name = &settings.names[backend];
        let seen = match look {
            Ok(seen) => Some(seen),
            Err(why) => {
                tracing::debug!(backend = %name, %why, "not there");
                None
            }
        };
        found.seen.push(seen.filter(|s| is_ours(s, name, &mut found.cluster)));
    }
    for seen in found.seen.iter().flatten() {
        if let Some(control) = seen.control.as_ref().filter(|c| c.view > found.number) {
            let place = |name: &String| settings.names.iter().position(|n| n == name);
            found.number = control.view;
            found.members = control.members.iter().filter_map(place).collect();
        }
    }
    found
}

/// Whether a backend belongs to this cluster, and is the server it was when it was initialised.
fn is_ours(seen: &Examination, name: &str, cluster: &mut Option<String>) -> bool {
    let Some(control) = &seen.control else {
        tracing::warn!(backend = %name, "not initialised; run `lockstep init`");
        return false;
    };
    if control.system_identifier != seen.system {
        tracing::warn!(backend = %name, "another server stands at its address");
        return false;
    }
    if control.backend != name {
        tracing::warn!(backend = %name, is = %control.backend, "another backend stands at its address");
        return false;
    }
    let ours = cluster.get_or_insert_with(|| control.cluster_id.clone());
    if *ours != control.cluster_id {
        tracing::warn!(backend = %name, "belongs to another cluster");
        return false;
    }
    seen.writable
}

async fn explain<P: Protocol>(shared: &Shared<P>, settings: &Settings, found: &Found, knows: bool) {
    for (backend, seen) in found.seen.iter().enumerate() {
        let member = found.members.contains(&backend);
        let why = match (seen, knows) {
            (None, _) => "does not answer, or is not this cluster's",
            (Some(_), false) => {
                "waits for all backends: without a state file the newest view is not known"
            }
            (Some(_), true) if member => "waits for the other members",
            (Some(_), true) => "may be behind; waits for a member of the newest view",
        };
        if !member {
            let state = crate::cluster::State::Inactive;
            shared.keeper.note(backend, state, why.to_owned()).await;
        }
        tracing::debug!(backend = %settings.names[backend], why, "settling");
    }
}

/// Fences former sessions, rolls every member forward to the union of the journals, and serves.
async fn align<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    found: Found,
) -> Result<(), String> {
    let mut there: Vec<usize> =
        found.members.iter().copied().filter(|m| found.seen[*m].is_some()).collect();
    for &member in &there {
        // Whoever restarts from here on is not the one whose journal is compared.
        let started = found.seen[member].as_ref().map_or("", |seen| &seen.started);
        shared.backends[member].note_start(started);
        let control = &shared.controls[member];
        control.install_tokens(settings.token.clone(), settings.capture_token.clone()).await?;
        control.fence(settings.users.clone()).await?;
    }
    let complete = |m: &usize| {
        found.seen[*m].as_ref().and_then(|s| s.control.as_ref()).map_or(0, |c| c.complete_to)
    };
    let base = there.iter().map(complete).min().unwrap_or(0);
    let mut tails: Vec<Tail> = Vec::new();
    for &member in &there {
        tails.push(shared.controls[member].tail(base).await?);
    }
    let (all, odd) = plan::union(&tails);
    for &member in odd.iter().rev() {
        let name = &settings.names[there[member]];
        tracing::error!(backend = %name, "its journal contradicts the others'; it stays out");
        there.remove(member);
        tails.remove(member);
    }
    for (tail, &member) in tails.iter().zip(&there) {
        let pruned = found.seen[member].as_ref().and_then(|s| s.control.as_ref());
        let pruned = pruned.map_or(0, |c| c.pruned_to);
        let lacks = |seq: &&i64| **seq > pruned && !tail.iter().any(|(have, _)| have == *seq);
        let lacking: Vec<i64> = all.keys().filter(lacks).copied().collect();
        roll_forward(shared, settings, &found, &all, member, lacking).await?;
    }
    let newest = found.seen.iter().flatten().map(|s| s.newest).max().unwrap_or(0);
    shared.ledger.start_after(newest);
    conclude_open(shared, &mut there, base).await?;
    level_sequences(shared, &there).await?;
    // Nobody is served before statements can be classified: without a catalog all of them count as
    // the worst they could be, and tie their sessions to one connection.
    let leader = *there.first().ok_or_else(|| "no member is left".to_owned())?;
    let epoch = shared.catalogs.outdate();
    shared.catalogs.install(epoch, shared.controls[leader].catalog().await?);
    shared.keeper.settled(found.number, there, found.cluster).await;
    Ok(())
}

async fn roll_forward<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    found: &Found,
    all: &std::collections::BTreeMap<i64, (i64, usize)>,
    member: usize,
    lacking: Vec<i64>,
) -> Result<(), String> {
    if lacking.is_empty() {
        return Ok(());
    }
    let name = &settings.names[member];
    tracing::info!(backend = %name, records = lacking.len(), "rolled forward");
    for seq in lacking {
        let mut records = Vec::new();
        for &other in found.members.iter().filter(|m| found.seen[**m].is_some()) {
            records = shared.controls[other].records(vec![seq]).await?;
            if !records.is_empty() {
                break;
            }
        }
        debug_assert!(all.contains_key(&seq));
        replay(shared, member, &records).await.map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// Brings every sequence to the furthest value that any member has handed out or reserved.
async fn level_sequences<P: Protocol>(shared: &Shared<P>, there: &[usize]) -> Result<(), String> {
    let mut furthest: std::collections::BTreeMap<String, (i64, bool)> =
        std::collections::BTreeMap::new();
    for &member in there {
        for (name, value, called) in shared.controls[member].sequences().await? {
            let known = furthest.entry(name).or_insert((value, called));
            if value > known.0 || (value == known.0 && called) {
                *known = (value, called);
            }
        }
    }
    for (place, &member) in there.iter().enumerate() {
        // The first leads. The others keep clear of what it hands out to those who then roll back.
        let ahead = if place == 0 { 0 } else { RESERVE };
        let mine = shared.controls[member].sequences().await?;
        let targets = mine.into_iter().filter_map(|(name, value, called)| {
            let known = *furthest.get(&name)?;
            (ahead > 0 || known != (value, called)).then_some((name, known.0, known.1))
        });
        let targets: Vec<_> = targets.collect();
        if !targets.is_empty() {
            shared.controls[member].set_sequences(targets, ahead).await?;
        }
    }
    Ok(())
}
