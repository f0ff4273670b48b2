//! The world of one run: the row, the network, the clocks, the nodes, and the judge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::node::{self, NODES, Node, Time};
use lockstep::agent::election::{
    Act, Answer, Done, Event, Lease, Moment, Pause, PhaseName, Poll, Request, Rules, Standing,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SECOND: Time = 1_000_000_000;
/// When a client stops waiting for an answer, by its own clock.
const GIVE_UP: Duration = Duration::from_millis(1500);

/// What came of a run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// How often a node's services started while another's ran.
    pub(crate) overlaps: u64,
    pub(crate) epochs_that_went_back: u64,
    /// How often services were started.
    pub(crate) terms: u64,
    /// Seconds in which a master served.
    pub(crate) served: f64,
    pub(crate) adopted: u64,
    pub(crate) killed_by_guard: u64,
    pub(crate) steps: u64,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: &Self) {
        self.overlaps += other.overlaps;
        self.terms += other.terms;
        self.served += other.served;
        self.adopted += other.adopted;
        self.killed_by_guard += other.killed_by_guard;
        self.steps += other.steps;
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Wake(usize),
    Apply(usize, u64),
    Reply(usize, u64),
    GiveUp(usize, u64),
    Started(usize, u64),
    Stopped(usize, u64),
    /// The guard's alarm for a deadline.
    Guard(usize, Moment),
    Freeze(usize),
    Crash(usize),
    Restart(usize),
    Cut(usize),
    Operator,
}

type Misfortune = fn(usize) -> What;

pub(crate) struct World {
    rng: StdRng,
    rules: Rules,
    holder_confirms: bool,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64, What)>>,
    numbers: u64,
    row: Lease,
    history: Vec<(Time, Lease)>,
    requests: Vec<(u64, Request)>,
    replies: Vec<(u64, Answer)>,
    nodes: Vec<Node>,
    outcome: Outcome,
    tells: bool,
}

impl World {
    pub(crate) const LENGTH: Duration = Duration::from_secs(300);

    pub(crate) fn new(seed: u64, rules: Rules, holder_confirms: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = (0..NODES).map(|n| Node::new(&mut rng, n, rules)).collect();
        let mut world = Self {
            rng,
            rules,
            holder_confirms,
            now: 0,
            queue: BinaryHeap::new(),
            numbers: 0,
            row: Lease::unborn(),
            history: Vec::new(),
            requests: Vec::new(),
            replies: Vec::new(),
            nodes,
            outcome: Outcome::default(),
            tells: false,
        };
        for node in 0..NODES {
            let first = world.rng.random_range(0..SECOND);
            world.push(first, What::Wake(node));
        }
        let end = Self::LENGTH.as_nanos() as Time;
        let moments: [(u32, Misfortune); 3] =
            [(12, What::Freeze), (3, What::Crash), (8, What::Cut)];
        for (count, what) in moments {
            for _ in 0..count {
                let at = world.rng.random_range(0..end);
                let node = world.rng.random_range(0..NODES);
                world.push(at, what(node));
            }
        }
        for _ in 0..8 {
            let at = world.rng.random_range(0..end);
            world.push(at, What::Operator);
        }
        world
    }

    /// Prints the story.
    pub(crate) fn tell(mut self) -> Self {
        self.tells = true;
        self
    }

    fn push(&mut self, at: Time, what: What) {
        self.numbers += 1;
        self.queue.push(Reverse((at, self.numbers, what)));
    }

    pub(crate) fn run(mut self) -> Outcome {
        let end = Self::LENGTH.as_nanos() as Time;
        while let Some(Reverse((at, _, what))) = self.queue.pop() {
            if at >= end {
                break;
            }
            self.now = at;
            self.happen(what);
        }
        for node in 0..NODES {
            self.stop_acting(node);
        }
        self.outcome
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.tells {
            println!("{:9.3} {}", self.now as f64 / SECOND as f64, text());
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Freeze(node) => {
                let long = self.rng.random_range(1..30) * SECOND;
                self.nodes[node].frozen_until = self.now + long;
                self.say(|| format!("n{node} freezes for {} s", long / SECOND));
            }
            What::Cut(node) => {
                let long = self.rng.random_range(2..40) * SECOND;
                self.nodes[node].cut_until = self.now + long;
                self.nodes[node].writes_only = self.rng.random_bool(0.5);
                self.say(|| format!("n{node} is cut off for {} s", long / SECOND));
            }
            What::Crash(node) => self.crash(node),
            What::Restart(node) => self.restart(node),
            What::Operator => self.operate(),
            What::Guard(node, deadline) => self.guard(node, deadline),
            What::Apply(node, number) => self.apply(node, number),
            What::Wake(node)
            | What::Reply(node, _)
            | What::GiveUp(node, _)
            | What::Started(node, _)
            | What::Stopped(node, _) => self.on_node(node, what),
        }
    }

    /// What a process does itself waits until it is no longer frozen.
    fn on_node(&mut self, node: usize, what: What) {
        let now = self.now;
        let it = &mut self.nodes[node];
        if !it.alive {
            return;
        }
        if it.frozen_until > now {
            let until = it.frozen_until + 1;
            return self.push(until, what);
        }
        let local = it.local(now);
        if it.killed && matches!(it.machine.phase(), PhaseName::Starting | PhaseName::Master) {
            it.machine.give_up(local, Event::TimeUp);
        }
        match what {
            What::Reply(_, number) => {
                let answer = self.replies.iter().position(|(n, _)| *n == number);
                let answer = self.replies.swap_remove(answer.unwrap()).1;
                let it = &mut self.nodes[node];
                if it.pending == Some(number) {
                    it.pending = None;
                    it.machine.on_answer(local, answer);
                }
            }
            What::GiveUp(_, number) if it.pending == Some(number) => {
                it.pending = None;
                it.machine.on_answer(local, Answer::Lost);
            }
            What::Started(_, deed) if it.deed == deed => {
                let done = if it.killed { Done::StartFailed } else { Done::Started };
                it.machine.on_done(local, done);
            }
            What::Stopped(_, deed) if it.deed == deed => {
                self.stop_acting(node);
                self.nodes[node].machine.on_done(local, Done::Stopped);
            }
            _ => {}
        }
        self.drive(node);
    }

    fn drive(&mut self, node: usize) {
        let local = self.nodes[node].local(self.now);
        let standing = self.standing(node);
        let machine = &mut self.nodes[node].machine;
        machine.set_standing(local, standing);
        machine.tick(local);
        self.obey(node);
        if self.nodes[node].pending.is_some() {
            if let Some(alarm) = self.nodes[node].machine.alarm() {
                let at = self.nodes[node].real(alarm).max(self.now + 1);
                self.push(at, What::Wake(node));
            }
            return;
        }
        match self.nodes[node].machine.poll(local) {
            Poll::Wait(until) => {
                let at = self.nodes[node].real(until).max(self.now + 1_000_000);
                self.push(at, What::Wake(node));
            }
            Poll::Send(request) => self.send(node, request),
        }
        self.obey(node);
    }

    fn send(&mut self, node: usize, request: Request) {
        self.numbers += 1;
        let number = self.numbers;
        self.nodes[node].pending = Some(number);
        let local = self.nodes[node].local(self.now);
        let give_up = self.nodes[node].real(local.after(GIVE_UP));
        self.push(give_up, What::GiveUp(node, number));
        if self.nodes[node].is_cut(self.now, &request) || self.rng.random_bool(0.02) {
            return;
        }
        self.requests.push((number, request));
        let at = self.now + self.delay();
        self.push(at, What::Apply(node, number));
    }

    /// Mostly quick, sometimes very late.
    fn delay(&mut self) -> Time {
        if self.rng.random_bool(0.92) {
            self.rng.random_range(1_000_000..12_000_000)
        } else {
            self.rng.random_range(0..6 * SECOND)
        }
    }

    fn apply(&mut self, node: usize, number: u64) {
        let found = self.requests.iter().position(|(n, _)| *n == number).unwrap();
        let request = self.requests.swap_remove(found).1;
        let answer = match request.change() {
            None => Answer::Row(Some(self.read(node))),
            Some(change) => {
                let matched = change.expected == self.row.key();
                if matched {
                    self.write(change.row.clone());
                }
                Answer::Matched(matched)
            }
        };
        let lost = self.nodes[node].cut_until > self.now && !self.nodes[node].writes_only;
        if lost || self.rng.random_bool(0.05) {
            return;
        }
        self.replies.push((number, answer));
        let at = self.now + self.delay();
        self.push(at, What::Reply(node, number));
    }

    /// Nodes that do not hold the row sometimes read an old copy.
    fn read(&mut self, node: usize) -> Lease {
        let standby = self.nodes[node].machine.phase() == PhaseName::Standby;
        if standby && self.rng.random_bool(0.1) {
            let old = self.now.saturating_sub(self.rng.random_range(0..3 * SECOND));
            let then = self.history.iter().rev().find(|(at, _)| *at <= old);
            return then.map_or_else(Lease::unborn, |(_, row)| row.clone());
        }
        self.row.clone()
    }

    fn write(&mut self, row: Lease) {
        self.outcome.epochs_that_went_back += u64::from(row.epoch < self.row.epoch);
        self.say(|| {
            let Lease { epoch, seq, holder, target, paused, reason, .. } = &row;
            format!("row {epoch}.{seq} holder {holder:?} target {target:?} {paused:?} ({reason})")
        });
        self.row = row.clone();
        self.history.push((self.now, row));
    }

    fn obey(&mut self, node: usize) {
        for act in self.nodes[node].machine.take_acts() {
            match act {
                Act::Promote { epoch, .. } => {
                    self.say(|| format!("n{node} starts to act in epoch {epoch}"));
                    self.start_acting(node);
                    let at = self.now + self.rng.random_range(0..SECOND);
                    let deed = self.next_deed(node);
                    self.push(at, What::Started(node, deed));
                }
                Act::Demote(cause) => {
                    self.say(|| format!("n{node} stops: {}", cause.word()));
                    let at = self.now + self.rng.random_range(0..3 * SECOND / 2);
                    let deed = self.next_deed(node);
                    self.push(at, What::Stopped(node, deed));
                }
                Act::Deadline(deadline) => {
                    self.nodes[node].deadline = deadline;
                    if let Some(deadline) = deadline {
                        let at = self.nodes[node].real(deadline);
                        self.push(at, What::Guard(node, deadline));
                    }
                }
                Act::Step { transition, .. } => {
                    self.outcome.steps += 1;
                    self.outcome.adopted += u64::from(transition.event == Event::Adopted);
                }
                Act::Create | Act::Notice(_) => {}
            }
        }
    }

    fn next_deed(&mut self, node: usize) -> u64 {
        self.numbers += 1;
        self.nodes[node].deed = self.numbers;
        self.numbers
    }

    /// The guard is another process: a frozen agent does not hinder it.
    fn guard(&mut self, node: usize, deadline: Moment) {
        if self.nodes[node].deadline.is_some_and(|told| told <= deadline)
            && self.nodes[node].acting.is_some()
        {
            self.say(|| format!("the guard of n{node} kills what runs"));
            self.outcome.killed_by_guard += 1;
            self.nodes[node].killed = true;
            self.stop_acting(node);
        }
    }

    fn start_acting(&mut self, node: usize) {
        self.outcome.terms += 1;
        let other = (0..NODES).find(|n| *n != node && self.nodes[*n].acting.is_some());
        if let Some(other) = other {
            self.say(|| format!("n{node} AND n{other} ACT"));
            self.outcome.overlaps += 1;
        }
        self.nodes[node].killed = false;
        self.nodes[node].acting = Some(self.now);
    }

    fn stop_acting(&mut self, node: usize) {
        if let Some(since) = self.nodes[node].acting.take() {
            self.outcome.served += (self.now - since) as f64 / SECOND as f64;
        }
    }

    /// The agent dies; its guard kills the services with it.
    fn crash(&mut self, node: usize) {
        if !self.nodes[node].alive {
            return;
        }
        self.say(|| format!("n{node} crashes"));
        self.stop_acting(node);
        self.nodes[node].alive = false;
        self.nodes[node].deadline = None;
        let at = self.now + self.rng.random_range(1..30) * SECOND;
        self.push(at, What::Restart(node));
    }

    fn restart(&mut self, node: usize) {
        self.say(|| format!("n{node} is back"));
        let rules = self.rules;
        let it = &mut self.nodes[node];
        it.run += 1;
        it.machine = node::machine(node, it.run, it.machine.floor(), rules);
        it.alive = true;
        it.pending = None;
        it.deed = 0;
        self.push(self.now, What::Wake(node));
    }

    fn operate(&mut self) {
        self.numbers += 1;
        let stamp = -i64::try_from(self.numbers).unwrap();
        let acting = (0..NODES).any(|n| self.nodes[n].acting.is_some());
        let row = match (self.row.paused, self.rng.random_range(0..3)) {
            (Pause::Yes, _) => self.row.resumed(stamp, !acting || !self.holder_confirms),
            (Pause::Ending, _) if !acting => self.row.resumed(stamp, true),
            (Pause::No, 0) => {
                // Maintenance ends some seconds later.
                for long in [9, 25] {
                    let at = self.now + self.rng.random_range(1..long) * SECOND;
                    self.push(at, What::Operator);
                }
                self.row.paused(stamp)
            }
            (Pause::No, 1) => {
                let to = self.rng.random_range(0..NODES);
                self.row.targeted(stamp, &format!("n{to}"))
            }
            _ => return,
        };
        self.say(|| "an operator writes".to_owned());
        self.write(row);
    }

    fn standing(&self, node: usize) -> Standing {
        let well = |n: &usize| {
            let it = &self.nodes[*n];
            it.alive && it.frozen_until <= self.now && it.cut_until <= self.now
        };
        let others: Vec<usize> = (0..NODES).filter(|n| *n != node).filter(well).collect();
        let holder = (0..NODES).find(|n| format!("n{n}") == self.row.holder);
        Standing {
            rank: u32::try_from(others.iter().filter(|n| **n < node).count()).unwrap(),
            candidate: true,
            live_others: others.iter().map(|n| format!("n{n}")).collect(),
            outranks_holder: holder.is_some_and(|holder| node < holder),
            predecessor_is_gone: self.nodes[node].run > 0,
            ..Standing::default()
        }
    }
}
