//! One node of the simulated world: its clock, its machine, and what befell it.

use std::time::Duration;

use lockstep::agent::election::{Machine, Moment, Policy, Request, Rules};
use rand::Rng;
use rand::rngs::StdRng;

/// True time, in nanoseconds since the beginning.
pub(crate) type Time = u64;

pub(crate) const NODES: usize = 3;
const DRIFT: f64 = 0.02;

pub(crate) struct Node {
    pub(crate) rate: f64,
    pub(crate) offset: f64,
    pub(crate) machine: Machine,
    pub(crate) run: u32,
    pub(crate) alive: bool,
    pub(crate) frozen_until: Time,
    /// Nothing arrives until then; with `writes_only`, only changes do not.
    pub(crate) cut_until: Time,
    pub(crate) writes_only: bool,
    /// The request under way, by number.
    pub(crate) pending: Option<u64>,
    /// When the services began to run.
    pub(crate) acting: Option<Time>,
    /// What the guard was told.
    pub(crate) deadline: Option<Moment>,
    pub(crate) killed: bool,
    /// Of the start or stop under way.
    pub(crate) deed: u64,
}

impl Node {
    pub(crate) fn new(rng: &mut StdRng, number: usize, rules: Rules) -> Self {
        // The ends of what is allowed are where rules break.
        let rate = match rng.random_range(0..3) {
            0 => 1.0 - DRIFT,
            1 => 1.0 + DRIFT,
            _ => rng.random_range(1.0 - DRIFT..1.0 + DRIFT),
        };
        let offset = rng.random_range(1e9..1e15);
        let machine = machine(number, 0, 0, rules);
        Self {
            rate,
            offset,
            machine,
            run: 0,
            alive: true,
            frozen_until: 0,
            cut_until: 0,
            writes_only: false,
            pending: None,
            acting: None,
            deadline: None,
            killed: false,
            deed: 0,
        }
    }

    pub(crate) fn local(&self, now: Time) -> Moment {
        Moment::from_nanos((self.offset + now as f64 * self.rate) as u64)
    }

    /// When this node's clock will have reached a moment.
    pub(crate) fn real(&self, moment: Moment) -> Time {
        ((moment.nanos() as f64 - self.offset) / self.rate).max(0.0) as Time + 1
    }

    pub(crate) fn is_cut(&self, now: Time, request: &Request) -> bool {
        now < self.cut_until && (!self.writes_only || request.change().is_some())
    }
}

pub(crate) fn machine(number: usize, run: u32, floor: i64, rules: Rules) -> Machine {
    let policy = Policy {
        failback: Some(Duration::from_secs(20)),
        min_role_time: Duration::from_secs(5),
        start_retry: Duration::from_secs(10),
        margin: Duration::from_secs(1),
        stop_budget: Duration::from_secs(1),
        rules,
        ..Policy::default()
    };
    let name = format!("n{number}");
    let seed = run * NODES as u32 + number as u32 + 1;
    Machine::new(policy, &name, &format!("{name}/{run}"), floor, seed)
}
