//! The election, simulated: the real machine of each node against one row, under a clock of the
//! simulation's own and with all chance from one seed.
//!
//! Clocks run apart by up to the allowed two per cent; messages are lost, late by seconds, or arrive
//! after their sender gave up; agents freeze, crash and come back; networks are cut, both ways or for
//! writes only; reads come from an old copy; an operator pauses, resumes and moves the resource. The
//! judge stands outside: it knows when each node's services run, and nothing of what the machines
//! believe. Two at once is the one thing that must never be. `LOCKSTEP_LEASE_SEED=7` runs one seed
//! with its story, `LOCKSTEP_LEASE_SEEDS=20000` many.

#![allow(clippy::unwrap_used)]

#[path = "lease/node.rs"]
mod node;
#[path = "lease/world.rs"]
mod world;

use lockstep::agent::election::Rules;
use world::{Outcome, World};

const SEEDS: u64 = 1500;
/// A rule that is not needed in so many runs would not be needed at all.
const MUTANT_SEEDS: u64 = 6000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn there_is_never_more_than_one_master() {
    if let Some(seed) = number("LOCKSTEP_LEASE_SEED") {
        let outcome = World::new(seed, Rules::ALL, true).tell().run();
        assert_eq!(outcome.overlaps, 0, "seed {seed}");
        return;
    }
    let seeds = number("LOCKSTEP_LEASE_SEEDS").unwrap_or(SEEDS);
    let mut total = Outcome::default();
    for seed in 0..seeds {
        let outcome = World::new(seed, Rules::ALL, true).run();
        assert_eq!(outcome.overlaps, 0, "two masters: LOCKSTEP_LEASE_SEED={seed} tells the story");
        assert_eq!(outcome.epochs_that_went_back, 0, "LOCKSTEP_LEASE_SEED={seed}");
        total.add(&outcome);
    }
    println!("{seeds} runs: {total:?}");
    let share = total.served / (seeds as f64 * World::LENGTH.as_secs_f64());
    assert!(share > 0.5, "a master serves only {share:.2} of the time: safety by doing nothing");
    assert!(total.terms > seeds * 4, "only {} terms in {seeds} runs", total.terms);
    assert!(total.adopted > 0 && total.killed_by_guard > 0, "the paths are walked: {total:?}");
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in 0..20 {
        let first = World::new(seed, Rules::ALL, true).run();
        let second = World::new(seed, Rules::ALL, true).run();
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Each rule of the proof, taken away, must give two masters in some run.
#[test]
fn no_rule_can_be_left_out() {
    let all = Rules::ALL;
    let mutants = [
        ("the deadline counts from the reply", Rules { from_before_the_send: false, ..all }, true),
        ("a row is seen when the read is sent", Rules { seen_after_the_reply: false, ..all }, true),
        ("clocks run alike", Rules { drift: false, ..all }, true),
        ("the wait is shorter than the lease", Rules { full_wait: false, ..all }, true),
        ("nothing matched, so go on", Rules { zero_rows_extend_nothing: false, ..all }, true),
        ("whoever wrote, it extends", Rules { stamps: false, ..all }, true),
        (
            "maintenance ends before the guard is armed",
            Rules { armed_before_maintenance_ends: false, ..all },
            true,
        ),
        ("an operator ends maintenance alone", all, false),
    ];
    for (name, rules, holder_confirms) in mutants {
        let caught = |seed: &u64| World::new(*seed, rules, holder_confirms).run().overlaps > 0;
        let found = (0..MUTANT_SEEDS).find(caught);
        println!("{name}: {found:?}");
        assert!(found.is_some(), "\"{name}\" was not noticed in {MUTANT_SEEDS} runs");
    }
}
