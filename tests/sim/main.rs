//! The write path, simulated: the product's own sessions, keeper, ledger, pools and recovery, on
//! fake servers that crash, hang and lose connections as a seed says.
//!
//! Time stands still unless everybody waits, and all chance comes from the seed: a run can be
//! repeated exactly, and each seed is run twice to see that it is so. What is judged are the
//! servers' disks and what applications were told (`judge.rs`).
//!
//! ```text
//! cargo test --test sim                               seeds.txt and the first few hundred seeds
//! LOCKSTEP_SIM_SEED=7 cargo test --test sim           one seed; its trace goes to target/sim-7.txt
//! LOCKSTEP_SIM_THEME=Lazy make sim SEEDS=5000         many, or only those about one thing
//! ```

// A test that cannot go on must stop with the line that failed.
#![allow(clippy::unwrap_used)]

mod app;
mod catalog;
mod client;
mod control;
mod deeds;
mod engine;
mod faults;
mod judge;
mod link;
mod locks;
mod proxy;
mod server;
mod sql;
mod statements;
mod tables;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use app::{App, Outcome};
use faults::Scenario;
use world::{World, locked};

/// How many seeds a plain `cargo test` runs, besides those that once failed.
const SEEDS: u64 = 160;
/// After so many seeds that failed there is nothing more to learn.
const ENOUGH: usize = 12;

/// What came of a seed.
struct Report {
    hash: u64,
    complaints: Vec<String>,
    trace: Option<String>,
    /// Transactions by outcome, for a look at whether anything happens at all.
    counts: BTreeMap<String, usize>,
}

fn run(scenario: &Scenario, keep_trace: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = World::new(scenario.clone(), keep_trace);
        world.trace(&format!("{:?}", world.scenario));
        world.start_proxy();
        let clients = i64::try_from(world.scenario.clients).unwrap_or(0);
        let apps: Vec<_> = (1..=clients).map(|n| App::new(world.clone(), n)).collect();
        let apps: Vec<_> = apps.into_iter().map(|app| tokio::spawn(app.work())).collect();
        let mut notes = Vec::new();
        for app in apps {
            notes.push(app.await.expect("an application"));
        }
        judge::judge(&world, &notes).await;
        let mut counts = BTreeMap::new();
        for deed in notes.iter().flat_map(|n| &n.deeds) {
            let word = match deed.outcome {
                Outcome::Acknowledged => "acknowledged",
                Outcome::Failed => "failed",
                Outcome::InDoubt => "in doubt",
            };
            *counts.entry(word.to_owned()).or_default() += 1;
        }
        let grouped =
            locked(&world.figures).iter().map(|figures| figures.grouped.get()).sum::<u64>();
        counts.insert("in groups".to_owned(), usize::try_from(grouped).unwrap_or(usize::MAX));
        let complaints = world.complaints();
        let (hash, trace) = world.traced();
        Report { hash, complaints, trace, counts }
    })
}

/// Runs a seed twice. What is wrong with it, if anything.
fn check(
    scenario: &Scenario,
    keep_trace: bool,
    counts: &Mutex<BTreeMap<String, usize>>,
) -> Vec<String> {
    let (seed, once) =
        (scenario.seed, catch_unwind(AssertUnwindSafe(|| run(scenario, keep_trace))));
    let Ok(once) = once else {
        return vec!["panicked".into()];
    };
    if let Some(trace) = &once.trace {
        let path = format!("{}/target/sim-{seed}.txt", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(&path, trace).expect("the trace can be written");
        println!("trace: {path}");
    }
    for (word, count) in once.counts {
        *locked(counts).entry(word).or_default() += count;
    }
    let mut wrong = once.complaints;
    if wrong.is_empty() {
        let again = run(scenario, false);
        if again.hash != once.hash {
            wrong.push(format!("two runs differ: {:016x} and {:016x}", once.hash, again.hash));
        }
    }
    wrong
}

fn seeds() -> Vec<u64> {
    if let Ok(seed) = std::env::var("LOCKSTEP_SIM_SEED") {
        return vec![seed.parse().expect("LOCKSTEP_SIM_SEED is a number")];
    }
    let count = std::env::var("LOCKSTEP_SIM_SEEDS").ok();
    let count = count.map_or(SEEDS, |count| count.parse().expect("LOCKSTEP_SIM_SEEDS is a number"));
    let failed = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let failed = failed.filter_map(|line| line.split_whitespace().next());
    let all = failed.map(|seed| seed.parse().expect("a seed")).chain(1..=count);
    match std::env::var("LOCKSTEP_SIM_THEME") {
        Ok(theme) => all.filter(|s| format!("{:?}", Scenario::of(*s).theme) == theme).collect(),
        Err(_) => all.collect(),
    }
}

/// Runs all of these, and says what is wrong with which.
fn hold(seeds: &[u64], scenario: impl Fn(u64) -> Scenario + Sync) {
    let keep_trace = seeds.len() == 1;
    let next = AtomicUsize::new(0);
    let (counts, wrong) = (Mutex::default(), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let complaints = check(&scenario(seed), keep_trace, &counts);
                    let mut wrong = locked(&wrong);
                    if !complaints.is_empty() {
                        wrong.insert(seed, complaints);
                    }
                    if wrong.len() >= ENOUGH {
                        return;
                    }
                }
            });
        }
    });
    println!("{} seeds: {:?}", seeds.len(), locked(&counts));
    let mut text = String::new();
    for (seed, complaints) in locked(&wrong).iter() {
        let theme = scenario(*seed).theme;
        text.push_str(&format!(
            "\nseed {seed} ({theme:?}): LOCKSTEP_SIM_SEED={seed} cargo test --test sim\n"
        ));
        for complaint in complaints.iter().take(6) {
            text.push_str(&format!("    {complaint}\n"));
        }
    }
    assert!(text.is_empty(), "{} seeds failed:{text}", locked(&wrong).len());
}

#[test]
fn every_seed_holds() {
    hold(&seeds(), Scenario::of);
}

/// What a transaction has done on a leader that dies is done on the next one before anybody else changes the same there.
#[test]
fn nobody_overtakes_what_a_dead_leader_has_done() {
    hold(&seeds(), Scenario::of_late_effects);
}

/// A backend that rejoins has every commit from before its first moment as a member, however long it takes to decide.
#[test]
fn nothing_is_committed_while_it_is_decided_who_joins() {
    let seeds: Vec<u64> = seeds().into_iter().filter(|seed| seed % 4 == 2).collect();
    hold(&seeds, Scenario::of_slow_votes);
}
