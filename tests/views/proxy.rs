//! A proxy: tries to take over, levels the members, writes, gives up, and tries again.

use std::collections::{BTreeMap, BTreeSet};

use lockstep::cluster::{Ask, Ballot, Proposer, Reply, Roster, Step, Vote, Wish};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::world::{Marks, World};

/// Questions under way, and the answers so far.
struct Round {
    proposer: Proposer,
    open: Vec<(String, Ask)>,
    replies: BTreeMap<String, Reply>,
}

/// What is to be done once the member list is decided.
enum Then {
    /// Level the members: a takeover.
    Level,
    /// Tell the client that its transaction is committed.
    Acknowledge(u32),
    /// Go on.
    Serve,
}

enum Stage {
    /// Looking at everybody, one after the other.
    Probing(Vec<String>, BTreeMap<String, Vote>),
    Asking(Box<Round>, Then),
    /// Members that still have to become like the chosen one.
    Levelling(Marks, Vec<String>),
    Serving,
    /// A transaction, those who still have to be told, and those that gave no answer.
    Committing(u32, Vec<String>, Vec<String>),
    /// A database that comes back.
    Joining(String, Marks),
}

pub(crate) struct Proxy {
    number: usize,
    pub(crate) wish: Wish,
    ballot: Ballot,
    roster: Roster,
    stage: Stage,
}

impl Proxy {
    pub(crate) fn new(number: usize, wish: Wish) -> Self {
        let stage = Stage::Probing(Vec::new(), BTreeMap::new());
        Self { number, wish, ballot: Ballot::NONE, roster: Roster::default(), stage }
    }

    fn give_up(&mut self) {
        *self = Self::new(self.number, self.wish.clone());
    }

    /// Does one thing at one node.
    pub(crate) fn step(&mut self, world: &mut World) {
        let stage = std::mem::replace(&mut self.stage, Stage::Serving);
        match stage {
            Stage::Probing(left, seen) => self.probe(world, left, seen),
            Stage::Asking(round, then) => self.ask(world, round, then),
            Stage::Levelling(state, left) => self.level(world, state, left),
            Stage::Serving => self.serve(world),
            Stage::Committing(tx, left, failed) => self.commit(world, tx, left, failed),
            Stage::Joining(name, has) => self.join(world, &name, has),
        }
    }

    fn probe(&mut self, world: &mut World, left: Vec<String>, seen: BTreeMap<String, Vote>) {
        let mut left = left;
        let mut seen = seen;
        if left.is_empty() && seen.is_empty() {
            left = world.nodes.keys().cloned().collect();
        }
        if let Some(name) = left.pop() {
            if let Some(vote) = world.call(self.number, &name, |node| node.vote.clone()) {
                seen.insert(name, vote);
            }
            if !left.is_empty() {
                self.stage = Stage::Probing(left, seen);
                return;
            }
        }
        let reachable: BTreeSet<String> = seen.keys().cloned().collect();
        let newest = seen.values().map(|vote| &vote.roster).max_by_key(|roster| roster.number);
        let may = newest.is_some_and(|roster| roster.is_quorum(&reachable));
        if !may || world.dice.random_bool(0.6) {
            return self.give_up();
        }
        let promised = seen.values().map(|vote| vote.promised).chain([self.ballot]);
        self.ballot = Ballot::above(promised, world.dice.random());
        let rules = world.variant.rules;
        let newest = newest.cloned().unwrap_or_default();
        let seen = (reachable, &newest);
        let begun = Proposer::takeover(rules, self.ballot, seen, self.wish.clone());
        self.begin(world, begun, Then::Level);
    }

    fn begin(&mut self, world: &mut World, begun: (Proposer, Step), then: Then) {
        let (proposer, step) = begun;
        self.on_step(world, proposer, step, then);
    }

    fn on_step(&mut self, world: &mut World, proposer: Proposer, step: Step, then: Then) {
        match step {
            Step::Ask(mut open) => {
                open.shuffle(&mut world.dice);
                let round = Box::new(Round { proposer, open, replies: BTreeMap::new() });
                self.stage = Stage::Asking(round, then);
            }
            Step::Failed(_) => self.give_up(),
            Step::Done(roster) => {
                self.roster = roster;
                match then {
                    Then::Level => {
                        let chosen = self.roster.members.choose(&mut world.dice).unwrap().clone();
                        let state = world.call(self.number, &chosen, |node| node.has.clone());
                        match state {
                            Some(state) => {
                                self.stage = Stage::Levelling(state, self.roster.members.clone());
                            }
                            None => self.give_up(),
                        }
                    }
                    Then::Acknowledge(tx) => {
                        world.acknowledge(tx);
                        self.stage = Stage::Serving;
                    }
                    Then::Serve => self.stage = Stage::Serving,
                }
            }
        }
    }

    fn ask(&mut self, world: &mut World, round: Box<Round>, then: Then) {
        let Round { mut proposer, mut open, mut replies } = *round;
        if let Some((name, ask)) = open.pop() {
            let reply = world.ask(self.number, &name, &ask);
            replies.insert(name, reply);
        }
        if !open.is_empty() {
            let round = Box::new(Round { proposer, open, replies });
            self.stage = Stage::Asking(round, then);
            return;
        }
        let adopting = replies.values().any(|reply| {
            let begun = |vote: &Vote| vote.accepted.as_ref().map(|a| a.ballot);
            matches!(reply, Reply::Done(vote) if begun(vote).is_some_and(|b| b != self.ballot))
        });
        world.figures.adopted += u64::from(adopting);
        let step = proposer.on(&replies);
        self.on_step(world, proposer, step, then);
    }

    fn level(&mut self, world: &mut World, state: Marks, left: Vec<String>) {
        let mut left = left;
        let Some(name) = left.pop() else {
            world.figures.takeovers += 1;
            self.stage = Stage::Serving;
            return;
        };
        let ballot = self.ballot;
        let done = world.call(self.number, &name, |node| {
            let mine = node.vote.promised == ballot;
            if mine {
                node.has.clone_from(&state);
            }
            mine
        });
        match done {
            Some(true) => self.stage = Stage::Levelling(state, left),
            _ => self.give_up(),
        }
    }

    fn serve(&mut self, world: &mut World) {
        if world.dice.random_bool(0.02) {
            return self.give_up();
        }
        let away: Vec<&String> =
            world.names.iter().filter(|name| !self.roster.members.contains(name)).collect();
        if !away.is_empty() && world.dice.random_bool(0.1) {
            let name = (*away.choose(&mut world.dice).unwrap()).clone();
            return self.fetch(world, name);
        }
        world.transactions += 1;
        let mut members = self.roster.members.clone();
        members.shuffle(&mut world.dice);
        self.stage = Stage::Committing(world.transactions, members, Vec::new());
    }

    fn commit(&mut self, world: &mut World, tx: u32, left: Vec<String>, failed: Vec<String>) {
        let (mut left, mut failed) = (left, failed);
        if let Some(name) = left.pop() {
            let ballot = self.ballot;
            let done = world.call(self.number, &name, |node| {
                let mine = node.vote.promised == ballot;
                if mine {
                    node.has.insert(tx);
                }
                mine
            });
            match done {
                Some(true) => {}
                Some(false) => return self.give_up(),
                None => failed.push(name),
            }
            self.stage = Stage::Committing(tx, left, failed);
            return;
        }
        if failed.is_empty() {
            world.acknowledge(tx);
            return;
        }
        if !world.variant.view_before_ack {
            world.acknowledge(tx);
        }
        let rest = |name: &&String| !failed.contains(*name);
        let rest: Vec<String> = self.roster.members.iter().filter(rest).cloned().collect();
        let begun = Proposer::change(world.variant.rules, self.ballot, self.roster.clone(), rest);
        self.begin(world, begun, Then::Acknowledge(tx));
    }

    /// A database that was away promises to obey, and gets what a member has.
    fn fetch(&mut self, world: &mut World, name: String) {
        let ask = Ask::Prepare(self.ballot);
        let obeys = matches!(world.ask(self.number, &name, &ask), Reply::Done(_));
        let source = self.roster.members.choose(&mut world.dice).unwrap().clone();
        let ballot = self.ballot;
        let has = world.call(self.number, &source, |node| {
            (node.vote.promised == ballot).then(|| node.has.clone())
        });
        if let (true, Some(Some(has))) = (obeys, has) {
            self.stage = Stage::Joining(name, has);
        }
    }

    fn join(&mut self, world: &mut World, name: &str, has: Marks) {
        let ballot = self.ballot;
        let copied = world.call(self.number, name, |node| {
            let mine = node.vote.promised == ballot;
            if mine {
                node.has = has;
            }
            mine
        });
        if copied != Some(true) {
            return;
        }
        world.figures.joined += 1;
        let mut members = self.roster.members.clone();
        let place = if world.dice.random_bool(0.5) { 0 } else { members.len() };
        members.insert(place, name.to_owned());
        let begun =
            Proposer::change(world.variant.rules, self.ballot, self.roster.clone(), members);
        self.begin(world, begun, Then::Serve);
    }
}
