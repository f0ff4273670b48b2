//! How a proxy becomes the writer, and how a writer changes the member list. Pure.
//!
//! A [`Proposer`] says whom to ask what, is given the answers, and says what to ask next, until the
//! change is decided or cannot be. The rounds of a change of view *n* to *n+1*: **Accept** at the voters
//! of *n* (decided once a quorum of *n* has accepted), **Install** on those of *n+1* and everybody who
//! accepted, **Claim** in *n+1*: a quorum of the new voters obeys the ballot, and none of them knows of a
//! proposal beyond. Nothing is proposed in a view that is not claimed yet; without that rule two lists
//! can be decided under one number, as in Raft's single-server change (Ongaro, raft-dev 2015). A takeover
//! first asks the voters of the newest view that it has seen to promise (**Stand**), then everybody else (**Prepare**), and
//! goes on with what a voter has accepted already.
//!
//! A voter that gives no answer may have done what it was asked: it counts as not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::ballot::{Accepted, Arbiter, Ask, Ballot, Refusal, Roster, Vote};

/// Which arbiter a proxy is configured for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Its own state file, since it is the only proxy.
    Lone(String),
    /// A witness; its identity, where it can be reached.
    Witness(Option<String>),
    /// None: several proxies without a witness.
    Plain,
}

impl Wish {
    /// What a takeover of this member list aims at. A witness that is away for the moment keeps its vote;
    /// another proxy's state file loses it.
    #[must_use]
    pub fn arbiter(&self, newest: &Roster) -> Arbiter {
        match (self, &newest.arbiter) {
            (Self::Lone(id), _) => Arbiter::Lone(id.clone()),
            (Self::Witness(Some(id)), _) => Arbiter::Witness(id.clone()),
            (Self::Witness(None), Arbiter::Witness(id)) => Arbiter::Witness(id.clone()),
            (Self::Witness(None) | Self::Plain, _) => Arbiter::None,
        }
    }
}

/// What a voter said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It did what it was asked, and keeps this now.
    Done(Vote),
    /// It did not.
    Refused(Refusal),
    /// Nothing was heard.
    Silent,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask these voters, and hand over all answers.
    Ask(Vec<(String, Ask)>),
    /// This member list is decided and claimed; all of its members obey.
    Done(Roster),
    /// The change did not come about. What was accepted meanwhile may still be decided by whoever asks next.
    Failed(Failure),
}

/// Why a change did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Another proxy has asked under a higher ballot: this one writes no more.
    Outvoted(Ballot),
    /// Too few answered; what would be needed.
    NoQuorum(String),
    /// The voters are not where they were expected: somebody else has changed the member list, or began to.
    Moved,
    /// Nobody is left.
    NobodyLeft,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outvoted(ballot) => write!(f, "another proxy has asked to write ({ballot})"),
            Self::NoQuorum(shortage) => f.write_str(shortage),
            Self::Moved => f.write_str("the member list has changed meanwhile"),
            Self::NobodyLeft => f.write_str("no member is left"),
        }
    }
}

/// The rules of which each is needed. All hold in the product; the simulation takes single ones away to see that
/// it notices.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A takeover goes on with what a voter has accepted.
    pub adopt: bool,
    /// Of two halves only one goes on.
    pub tie_break: bool,
    /// Nothing is proposed in a view before it is claimed.
    pub claim: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Self = Self { adopt: true, tie_break: true, claim: true };
}

/// Where a change has got to.
#[derive(Clone, Debug)]
enum Stage {
    /// The voters of the newest list that was seen, and who else is there.
    Stand(BTreeSet<String>),
    /// The others, and those that have learned of another list meanwhile; what the first ones have promised.
    Prepare(BTreeMap<String, Vote>),
    /// Those who lag behind are told of the newest list; what the others had accepted.
    Lift(BTreeMap<String, Vote>),
    Accept,
    /// Who did accept.
    Install,
    Claim,
}

/// One attempt.
#[derive(Clone, Debug)]
pub struct Proposer {
    rules: Rules,
    ballot: Ballot,
    /// What a takeover aims at, as far as that is not known yet.
    wish: Option<Wish>,
    /// The arbiter that is wanted in the end.
    arbiter: Arbiter,
    /// The newest list that is decided.
    current: Roster,
    /// What is proposed to follow it.
    target: Roster,
    /// Who has promised to obey.
    obeys: BTreeSet<String>,
    /// Members that gave no answer to the last installation.
    missing: BTreeSet<String>,
    stage: Stage,
}

impl Proposer {
    /// Begins a takeover: asks those who were reachable a moment ago, none of whom knew of a newer member list than
    /// `seen`.
    #[must_use]
    pub fn takeover(
        rules: Rules,
        ballot: Ballot,
        (reachable, seen): (BTreeSet<String>, &Roster),
        wish: Wish,
    ) -> (Self, Step) {
        let ask = Ask::Stand(ballot, seen.number);
        let first: BTreeSet<String> = seen.voters().filter(|v| reachable.contains(v)).collect();
        let others = reachable.difference(&first).cloned().collect();
        let asks = first.iter().map(|voter| (voter.clone(), ask.clone())).collect();
        let proposer = Self {
            rules,
            ballot,
            wish: Some(wish),
            arbiter: Arbiter::None,
            current: Roster::default(),
            target: Roster::default(),
            obeys: reachable,
            missing: BTreeSet::new(),
            stage: Stage::Stand(others),
        };
        (proposer, Step::Ask(asks))
    }

    /// Begins a change by the writer itself, whose list is `current` and whom its voters obey.
    #[must_use]
    pub fn change(
        rules: Rules,
        ballot: Ballot,
        current: Roster,
        members: Vec<String>,
    ) -> (Self, Step) {
        let obeys = current.voters().chain(members.iter().cloned()).collect();
        let arbiter = current.arbiter.clone();
        let mut proposer = Self {
            rules,
            ballot,
            wish: None,
            arbiter,
            target: current.clone(),
            current,
            obeys,
            missing: BTreeSet::new(),
            stage: Stage::Accept,
        };
        let step = proposer.propose(members);
        (proposer, step)
    }

    /// The newest list that this attempt knows to be decided.
    #[must_use]
    pub fn decided(&self) -> &Roster {
        &self.current
    }

    /// Takes the answers to everything that was asked.
    pub fn on(&mut self, replies: &BTreeMap<String, Reply>) -> Step {
        for reply in replies.values() {
            if let Reply::Refused(Refusal::Promised(ballot)) = reply {
                return Step::Failed(Failure::Outvoted(*ballot));
            }
        }
        let done: BTreeMap<String, Vote> = replies
            .iter()
            .filter_map(|(voter, reply)| match reply {
                Reply::Done(vote) => Some((voter.clone(), vote.clone())),
                Reply::Refused(_) | Reply::Silent => None,
            })
            .collect();
        match std::mem::replace(&mut self.stage, Stage::Accept) {
            Stage::Stand(others) => self.on_stood(others, replies, done),
            Stage::Prepare(before) => self.on_prepared(before.into_iter().chain(done).collect()),
            Stage::Lift(before) => self.on_lifted(before, &done),
            Stage::Accept => self.on_accepted(done.into_keys().collect()),
            Stage::Install => self.on_installed(&done),
            Stage::Claim => self.on_claimed(&done),
        }
    }

    fn is_quorum(&self, roster: &Roster, present: &BTreeSet<String>) -> bool {
        let half = roster.members.iter().filter(|m| present.contains(*m)).count() * 2;
        roster.is_quorum(present) || (!self.rules.tie_break && half == roster.members.len())
    }

    fn no_quorum(roster: &Roster, present: &BTreeSet<String>) -> Step {
        Step::Failed(Failure::NoQuorum(roster.shortage(present)))
    }

    /// Where a quorum has promised, whoever else is on the way to the role has been overtaken: everybody else may be
    /// asked as well, also who has learned of its list. Where none has, somebody has got there first, and nobody else is
    /// disturbed.
    fn on_stood(
        &mut self,
        others: BTreeSet<String>,
        replies: &BTreeMap<String, Reply>,
        done: BTreeMap<String, Vote>,
    ) -> Step {
        let moved = |(voter, reply): (&String, &Reply)| {
            matches!(reply, Reply::Refused(Refusal::Elsewhere(_))).then(|| voter.clone())
        };
        let late: Vec<String> = replies.iter().filter_map(moved).collect();
        let newest = done.values().map(|vote| &vote.roster).max_by_key(|r| r.number);
        let present = done.keys().cloned().collect();
        let quorum = newest.is_some_and(|newest| self.is_quorum(newest, &present));
        if !late.is_empty() && !quorum {
            return Step::Failed(Failure::Moved);
        }
        if !quorum || (late.is_empty() && others.is_empty()) {
            return self.on_prepared(done);
        }
        self.stage = Stage::Prepare(done);
        let ask = |voter| (voter, Ask::Prepare(self.ballot));
        Step::Ask(others.into_iter().chain(late).map(ask).collect())
    }

    fn on_prepared(&mut self, done: BTreeMap<String, Vote>) -> Step {
        self.obeys = done.keys().cloned().collect();
        let Some(newest) = done.values().map(|vote| &vote.roster).max_by_key(|r| r.number) else {
            return Step::Failed(Failure::NobodyLeft);
        };
        self.current = newest.clone();
        if let Some(wish) = self.wish.take() {
            self.arbiter = wish.arbiter(newest);
        }
        if !self.is_quorum(&self.current, &self.obeys) {
            return Self::no_quorum(&self.current, &self.obeys);
        }
        let behind = |(voter, vote): (&String, &Vote)| {
            let votes = self.current.voters().any(|v| v == *voter);
            (votes && vote.roster.number < self.current.number)
                .then(|| (voter.clone(), Ask::Install(self.ballot, self.current.clone())))
        };
        let asks: Vec<_> = done.iter().filter_map(behind).collect();
        if asks.is_empty() {
            return self.choose(&done);
        }
        self.stage = Stage::Lift(done);
        Step::Ask(asks)
    }

    fn on_lifted(&mut self, before: BTreeMap<String, Vote>, done: &BTreeMap<String, Vote>) -> Step {
        let mut votes = before;
        for (voter, vote) in &mut votes {
            if let Some(lifted) = done.get(voter) {
                vote.clone_from(lifted);
            }
        }
        // Who could not be told is where he was, and counts for nothing.
        votes.retain(|voter, vote| {
            vote.roster.number == self.current.number || !self.current.voters().any(|v| v == *voter)
        });
        self.obeys = votes.keys().cloned().collect();
        if !self.is_quorum(&self.current, &self.obeys) {
            return Self::no_quorum(&self.current, &self.obeys);
        }
        self.choose(&votes)
    }

    /// What follows the newest list: what somebody began, or all members that obey.
    fn choose(&mut self, votes: &BTreeMap<String, Vote>) -> Step {
        let next = self.current.number + 1;
        let begun = votes.values().filter_map(|vote| vote.accepted.as_ref());
        let begun = begun.filter(|accepted| accepted.roster.number == next);
        let begun: Option<&Accepted> = begun.max_by_key(|accepted| accepted.ballot);
        if let Some(begun) = begun.filter(|_| self.rules.adopt) {
            self.target = begun.roster.clone();
            return self.accept();
        }
        let obeying = self.current.members.iter().filter(|m| self.obeys.contains(*m));
        self.propose(obeying.cloned().collect())
    }

    fn propose(&mut self, members: Vec<String>) -> Step {
        if members.is_empty() {
            return Step::Failed(Failure::NobodyLeft);
        }
        let (number, arbiter) = (self.current.number + 1, self.arbiter.clone());
        self.target = Roster { number, members, arbiter };
        self.accept()
    }

    fn accept(&mut self) -> Step {
        self.stage = Stage::Accept;
        let ask = |voter| (voter, Ask::Accept(self.ballot, self.target.clone()));
        Step::Ask(self.current.voters().map(ask).collect())
    }

    fn on_accepted(&mut self, accepted: BTreeSet<String>) -> Step {
        if !self.is_quorum(&self.current, &accepted) {
            return Self::no_quorum(&self.current, &accepted);
        }
        // Decided. From here on it is the newest list, whatever becomes of this attempt.
        self.current = self.target.clone();
        self.stage = Stage::Install;
        let told: BTreeSet<String> = self.target.voters().chain(accepted).collect();
        let ask = |voter| (voter, Ask::Install(self.ballot, self.target.clone()));
        Step::Ask(told.into_iter().map(ask).collect())
    }

    fn on_installed(&mut self, done: &BTreeMap<String, Vote>) -> Step {
        let members = self.current.members.iter();
        self.missing = members.filter(|m| !done.contains_key(*m)).cloned().collect();
        if !self.rules.claim {
            return self.next();
        }
        self.stage = Stage::Claim;
        let ask = |voter| (voter, Ask::Claim(self.ballot, self.current.clone()));
        Step::Ask(self.current.voters().map(ask).collect())
    }

    fn on_claimed(&mut self, done: &BTreeMap<String, Vote>) -> Step {
        let foreign = |vote: &Vote| {
            vote.roster.number > self.current.number
                || vote.accepted.as_ref().is_some_and(|a| a.roster.number > self.current.number)
        };
        if done.values().any(foreign) {
            return Step::Failed(Failure::Moved);
        }
        let held: BTreeSet<String> = done.keys().cloned().collect();
        if !self.is_quorum(&self.current, &held) {
            return Self::no_quorum(&self.current, &held);
        }
        let members = self.current.members.iter();
        self.missing = members.filter(|m| !held.contains(*m)).cloned().collect();
        self.next()
    }

    /// Members that do not answer, or have not promised, must go; an arbiter that is not wanted, too.
    fn next(&mut self) -> Step {
        let fit = |m: &&String| !self.missing.contains(*m) && self.obeys.contains(*m);
        let members: Vec<String> = self.current.members.iter().filter(fit).cloned().collect();
        if members.len() == self.current.members.len() && self.current.arbiter == self.arbiter {
            return Step::Done(self.current.clone());
        }
        self.propose(members)
    }
}
