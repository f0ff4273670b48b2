//! Settling: nobody is served before this proxy is the writer, and the members of the newest view are the same (I7).

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use tokio::time::{Duration, Instant, sleep};

use super::Settings;
use super::intents::conclude_open;
use super::plan::{self, Tail};
use super::replay::replay;
use crate::cluster::{Arbiter, Ballot, Judgement, Phase, Roster, State, Vote, Watch};
use crate::exchange::Protocol;
use crate::keeper::{Examination, Sighting};
use crate::ledger::reservations::{clear_of, is_beyond};
use crate::session::Shared;
use crate::store::control::{Control, Sequence};

/// Pause between two looks at backends that are not there.
const PAUSE: Duration = Duration::from_millis(200);

/// What is known of other proxies from one look to the next.
#[derive(Debug)]
pub(super) struct Lookout {
    began: Instant,
    watch: Watch,
    /// Another proxy was seen writing: when it falls silent, nobody is waited for.
    stood_by: bool,
    /// Failed attempts in a row: two proxies that want the same must not do so in step for ever.
    failed: u32,
}

impl Lookout {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), watch: Watch::default(), stood_by: false, failed: 0 }
    }
}

/// What a look at all voters has shown.
struct Found {
    seen: Vec<Option<Examination>>,
    newest: Roster,
    present: BTreeSet<String>,
    ballots: Vec<Ballot>,
    writer: String,
    cluster: Option<String>,
    /// Why one of the backends that are not there is not.
    silence: Option<String>,
    /// Why nothing can be done before somebody mends it.
    obstacle: Option<String>,
}

impl Found {
    /// The places of the newest members that are there; nothing if one is missing.
    fn all_members(&self, names: &[String]) -> bool {
        let there = |name: &String| {
            names.iter().position(|n| n == name).is_some_and(|b| self.seen[b].is_some())
        };
        self.newest.members.iter().all(there)
    }
}

/// Becomes the writer as soon as it may, makes the members of the newest view the same, and has the keeper serve with
/// them; or stands by while another proxy writes. Returns early when something went wrong; the caller tries again.
pub(super) async fn settle<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    lookout: &mut Lookout,
) {
    let started = Instant::now();
    let mut asked: Option<Instant> = None;
    let found = loop {
        let found = look(shared, settings, lookout).await;
        let now = lookout.began.elapsed();
        let (own, after) = (shared.keeper.asked(), settings.role.takeover_after);
        let judged = lookout.watch.judge(&found.newest, &found.present, own, after, now);
        let obstacle = match (&found.obstacle, judged) {
            (Some(obstacle), _) => obstacle.clone(),
            (None, Judgement::Short(shortage)) => match &found.silence {
                Some(silence) => format!("{shortage}; {silence}"),
                None => shortage,
            },
            (None, Judgement::Lives) => {
                asked = None;
                watch(shared, settings, lookout, &found).await;
                continue;
            }
            // It may ask again and again and get nowhere: it is waited for once.
            (None, Judgement::Asked)
                if asked.get_or_insert_with(Instant::now).elapsed() < after =>
            {
                sleep(settings.role.heartbeat / 4).await;
                continue;
            }
            (None, Judgement::Silent | Judgement::Asked) if shared.keeper.rests() => {
                sleep(settings.role.heartbeat / 2).await;
                continue;
            }
            (None, Judgement::Silent | Judgement::Asked) => {
                let waited =
                    started.elapsed() >= shared.settings().startup_wait || lookout.stood_by;
                if waited || found.all_members(&settings.names) {
                    break found;
                }
                format!("waits for all members of view {}", found.newest.number)
            }
        };
        explain(shared, settings, &found, &obstacle).await;
        let long = started.elapsed() >= settings.role.takeover_after;
        if long && !settings.role.lone && shared.keeper.view().phase == Phase::Settling {
            // Clients may find another proxy that fares better.
            shared.keeper.note_writer("");
            shared.keeper.stand_by(obstacle).await;
        }
        sleep(PAUSE).await;
    };
    if let Err(why) = take_over(shared, settings, found).await {
        tracing::warn!(%why, "did not become the writer; trying again");
        lookout.failed = (lookout.failed + 1).min(4);
        let jitter = (shared.dice)() % (u64::from(lookout.failed) * 200);
        sleep(PAUSE + Duration::from_millis(jitter)).await;
    } else {
        *lookout = Lookout { failed: 0, stood_by: false, ..Lookout::new() };
    }
}

/// Another proxy writes: watched closely, and told to those who ask here.
async fn watch<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    lookout: &mut Lookout,
    found: &Found,
) {
    if !found.writer.is_empty() {
        shared.keeper.note_writer(&found.writer);
    }
    lookout.stood_by = true;
    shared.keeper.note_obstacle("");
    let members = (0..settings.names.len()).filter(|&backend| {
        found.seen[backend].is_some() && found.newest.members.contains(&settings.names[backend])
    });
    let until = Instant::now() + settings.role.takeover_after;
    for backend in shared.keeper.note_near(members.collect(), until) {
        // Whoever reads there by way of here goes elsewhere: what is frozen would not end by itself.
        shared.backends[backend].give_up();
    }
    if shared.keeper.view().phase != Phase::Standby {
        let who = if found.writer.is_empty() { "another proxy" } else { &found.writer };
        shared.keeper.stand_by(format!("{who} writes")).await;
    }
    sleep(settings.role.heartbeat / 4).await;
}

async fn look<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    lookout: &mut Lookout,
) -> Found {
    let (backends, (remembered, arbiters)) = tokio::join!(
        join_all(shared.controls.iter().map(|control| control.glance())),
        shared.keeper.arbiters()
    );
    let now = lookout.began.elapsed();
    let mut found = Found {
        seen: Vec::new(),
        newest: remembered,
        present: BTreeSet::new(),
        ballots: Vec::new(),
        writer: String::new(),
        cluster: settings.cluster.clone(),
        silence: None,
        obstacle: None,
    };
    let mut sightings = arbiters;
    for (backend, look) in backends.into_iter().enumerate() {
        let name = &settings.names[backend];
        let known = look.and_then(|seen| identify(seen, name, &mut found.cluster));
        let seen = match known {
            Ok(seen) => Some(seen),
            Err(why) => {
                tracing::debug!(backend = %name, %why, "does not count");
                // What a former version has installed lacks what this one asks for.
                let remedy =
                    if why.contains("column") { "; run `lockstep init` again" } else { "" };
                found.silence.get_or_insert_with(|| format!("{name}: {why}{remedy}"));
                None
            }
        };
        if let Some(control) = seen.as_ref().and_then(|seen| seen.control.clone()) {
            let Control { vote, writer, beat, .. } = control;
            sightings.push(Sighting { voter: name.clone(), vote, writer, beat });
        }
        found.seen.push(seen);
    }
    let newest = sightings.iter().map(|s| &s.vote.roster).max_by_key(|r| r.number);
    if let Some(newest) = newest.filter(|newest| newest.number >= found.newest.number) {
        found.newest = newest.clone();
    }
    let mut freshest = (Ballot::NONE, 0);
    for Sighting { voter, vote, writer, beat } in sightings {
        found.obstacle = found.obstacle.take().or_else(|| is_old(&voter, &vote, &found.newest));
        lookout.watch.see(&voter, vote.promised, beat, now);
        if !writer.is_empty() && (vote.promised, beat) > freshest {
            (freshest, found.writer) = ((vote.promised, beat), writer);
        }
        found.ballots.push(vote.promised);
        found.present.insert(voter);
    }
    let unknown = found.newest.members.iter().find(|m| !settings.names.contains(m));
    if let Some(unknown) = unknown {
        found.obstacle = Some(format!(
            "{unknown} is a member of view {}, but the configuration lacks it: put it back, have it made inactive \
             (DEACTIVATE on the console of a proxy that knows it), and take it out then",
            found.newest.number
        ));
    }
    found
}

/// What is wrong when a state file with a vote is behind the databases: it is written before any of them.
fn is_old(voter: &str, vote: &Vote, newest: &Roster) -> Option<String> {
    let lone = matches!(newest.arbiter, Arbiter::Lone(_));
    let behind = newest.arbiter.to_string() == voter && vote.roster.number < newest.number;
    (lone && behind).then(|| {
        format!(
            "the state file is older than the databases (view {} and {}): it was restored or copied. Put the newest one \
             back, or remove it: then all members of the newest view are needed",
            vote.roster.number, newest.number
        )
    })
}

/// A backend that belongs to this cluster, and is the server it was when it was initialised.
///
/// # Errors
/// Why it does not count.
fn identify(
    seen: Examination,
    name: &str,
    cluster: &mut Option<String>,
) -> Result<Examination, String> {
    let Some(control) = &seen.control else {
        return Err("it is not initialised; run `lockstep init`".into());
    };
    let ours = cluster.get_or_insert_with(|| control.cluster_id.clone());
    if control.system_identifier != seen.system {
        return Err("another server than before stands at its address".into());
    }
    if control.backend != name {
        return Err(format!("backend {} stands at its address", control.backend));
    }
    if *ours != control.cluster_id {
        return Err(format!(
            "it belongs to cluster {}, and this proxy to {ours}: correct its address, or the state_dir, or remove the \
             state file if it is another cluster's",
            control.cluster_id
        ));
    }
    if !seen.writable {
        return Err("it does not take writes".into());
    }
    Ok(seen)
}

async fn explain<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    found: &Found,
    obstacle: &str,
) {
    shared.keeper.note_obstacle(obstacle);
    for (backend, seen) in found.seen.iter().enumerate() {
        let member = found.newest.members.contains(&settings.names[backend]);
        let why = match seen {
            None => "does not answer, or is not this cluster's",
            Some(_) if member => "waits for the other members",
            Some(_) => "may be behind; waits for members of the newest view",
        };
        if !member {
            shared.keeper.note(backend, State::Inactive, why.to_owned()).await;
        }
    }
}

/// Asks for the role, and makes the members the same.
async fn take_over<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    found: Found,
) -> Result<(), String> {
    let Found { seen, present, ballots, newest, cluster, .. } = found;
    for (backend, seen) in seen.iter().enumerate() {
        // Whoever restarts from here on is not the one whose journal is compared.
        let started = seen.as_ref().map_or("", |seen| &seen.started);
        shared.backends[backend].note_start(started);
    }
    let cluster = cluster.ok_or("no backend is there")?;
    let roster = shared.keeper.take_over(cluster, present, (ballots, newest)).await;
    let roster = roster.map_err(|failure| failure.to_string())?;
    let mut members = Vec::new();
    for name in &roster.members {
        let backend = settings.names.iter().position(|n| n == name);
        let backend = backend.ok_or_else(|| format!("{name} is not in the configuration"))?;
        // Looked at again: what the former writer did until it was fenced counts.
        let again = shared.controls[backend].examine().await?;
        if seen[backend].as_ref().is_none_or(|before| before.started != again.started) {
            return Err(format!("{name} was restarted meanwhile"));
        }
        members.push((backend, again));
    }
    // Also one that is no member may have a record under a number that must not be given again.
    let newest = seen.iter().flatten().map(|seen| seen.newest).max().unwrap_or(0);
    align(shared, settings, members, newest).await
}

/// A member, and the last look at it.
type Member = (usize, Examination);

/// Rolls every member forward to the union of the journals, and serves.
async fn align<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    members: Vec<Member>,
    newest: i64,
) -> Result<(), String> {
    let mut there = members;
    let all_members: Vec<usize> = there.iter().map(|(member, _)| *member).collect();
    let control =
        |(_, seen): &Member| seen.control.as_ref().map_or((0, 0), |c| (c.complete_to, c.pruned_to));
    let base = there.iter().map(|m| control(m).0).min().unwrap_or(0);
    let newest = there.iter().map(|(_, seen)| seen.newest).max().unwrap_or(0).max(newest);
    let mut tails: Vec<Tail> = Vec::new();
    for (member, _) in &there {
        tails.push(shared.controls[*member].tail(base).await?);
    }
    let (all, odd) = plan::union(&tails);
    for &member in odd.iter().rev() {
        let name = &settings.names[there[member].0];
        tracing::error!(backend = %name, "its journal contradicts the others'; it stays out");
        there.remove(member);
        tails.remove(member);
    }
    let mut sources: Vec<usize> = there.iter().map(|(member, _)| *member).collect();
    for (tail, member) in tails.iter().zip(&there) {
        let pruned = control(member).1;
        let lacks = |seq: &&i64| **seq > pruned && !tail.iter().any(|(have, _)| have == *seq);
        let lacking: Vec<i64> = all.keys().filter(lacks).copied().collect();
        roll_forward(shared, settings, &all_members, member.0, lacking).await?;
    }
    shared.ledger.start_after(newest);
    conclude_open(shared, &mut sources, base).await?;
    level_sequences(shared, &sources).await?;
    // Nobody is served before statements can be classified: without a catalog all of them count as
    // the worst they could be, and tie their sessions to one connection.
    let leader = *sources.first().ok_or_else(|| "no member is left".to_owned())?;
    let epoch = shared.catalogs.outdate();
    shared.catalogs.install(epoch, shared.controls[leader].catalog().await?);
    // Nor before it is known whose sessions may write.
    shared.learn_leases(leader).await?;
    shared.keeper.settled(sources).await;
    Ok(())
}

async fn roll_forward<P: Protocol>(
    shared: &Shared<P>,
    settings: &Settings,
    sources: &[usize],
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
        for &other in sources {
            records = shared.controls[other].records(vec![seq]).await?;
            if !records.is_empty() {
                break;
            }
        }
        replay(shared, member, &records).await.map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// Brings every sequence to the furthest value that any member has handed out or reserved, or that
/// somebody was told whose session goes on.
async fn level_sequences<P: Protocol>(shared: &Shared<P>, there: &[usize]) -> Result<(), String> {
    let mut furthest: BTreeMap<String, Sequence> = BTreeMap::new();
    let mut stand = Vec::new();
    for &member in there {
        stand.push(shared.controls[member].sequences().await?);
    }
    for sequence in stand.iter().flatten() {
        let known = furthest.entry(sequence.name.clone()).or_insert_with(|| sequence.clone());
        let beyond = is_beyond(sequence.value, known.value, sequence.increment);
        if beyond || (sequence.value == known.value && sequence.called) {
            known.clone_from(sequence);
        }
    }
    let told = shared.ledger.reservations.past_everybody();
    for (place, (mine, &member)) in stand.iter().zip(there).enumerate() {
        let targets = mine.iter().filter_map(|mine| {
            let known = furthest.get(&mine.name)?.clone();
            // The first leads. The others keep clear of what it hands out to those who then roll back.
            let target = if place == 0 { known } else { clear_of(known) };
            (target != *mine).then_some(target)
        });
        let targets: Vec<_> = targets.collect();
        if !targets.is_empty() {
            shared.controls[member].set_sequences(targets).await?;
        }
        if !told.is_empty() {
            shared.controls[member].advance_sequences(told.clone()).await?;
        }
    }
    Ok(())
}
