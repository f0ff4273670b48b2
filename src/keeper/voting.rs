//! Asking the voters: the proposer says what, here it is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;

use super::{Answer, Keeper};
use crate::cluster::{
    Arbiter, Ask, Ballot, Failure, Phase, Proposer, Refusal, Reply, Roster, Rules, Step, Vote, Wish,
};
use crate::exchange::Link;
use crate::store::vote::{Poll, Secrets};

/// By how much the number of a forced view is higher than the last.
const FORCED: i64 = 1000;

/// What is seen of a voter without asking it for anything.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// Who it is.
    pub voter: String,
    /// What it keeps.
    pub vote: Vote,
    /// Which proxy writes, as far as it knows.
    pub writer: String,
    /// Goes up as long as that proxy lives; not above 0: nobody writes.
    pub beat: i64,
}

/// A third place that has a vote and no data.
pub trait Witness: Send + Sync {
    /// Looks at it. The sighting's `voter` is its identity: a witness that lost its memory is another one.
    fn look(&self) -> Answer<'_, Sighting>;
    /// Asks it, if it is still the one with this identity.
    fn poll(&self, voter: String, cluster: String, ask: Ask) -> Answer<'_, Result<Vote, Refusal>>;
    /// Shows it that the writer lives; whether it still obeys.
    fn beat(&self, ballot: Ballot, writer: String) -> Answer<'_, bool>;
    /// Lays down the role there.
    fn lay_down(&self, ballot: Ballot) -> Answer<'_, ()>;
}

/// What a proxy brings along to become the writer.
pub struct Candidate {
    /// What it is called, and where other proxies reach it.
    pub address: String,
    /// It is the only proxy: its state file decides between halves.
    pub lone: bool,
    /// What decides instead, where there are several.
    pub witness: Option<Arc<dyn Witness>>,
    /// By what the backends shall know it.
    pub secrets: Secrets,
    /// For ballots.
    pub dice: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl<L: Link> Keeper<L> {
    /// Asks for the role of the writer, at those who were reachable a moment ago.
    pub(super) async fn take_over(
        &mut self,
        cluster: String,
        reachable: BTreeSet<String>,
        (seen, newest): (Vec<Ballot>, Roster),
    ) -> Result<Roster, Failure> {
        self.handle.set_cluster(&cluster);
        self.cluster = cluster;
        let own = [self.ballot, self.state.vote.promised];
        self.ballot = Ballot::above(seen.into_iter().chain(own), (self.candidate.dice)());
        self.handle.note_asked(self.ballot);
        // Whoever comes from here on is served by this proxy, or waits until it is known who serves.
        let mut view = (*self.handle.view()).clone();
        if view.phase == Phase::Standby {
            view.phase = Phase::Settling;
            self.publish(view);
        }
        self.handle.note_writer("");
        self.reached.clone_from(&reachable);
        let wish = self.wish(&reachable);
        let (proposer, step) =
            Proposer::takeover(Rules::ALL, self.ballot, (reachable, &newest), wish);
        let decided = self.conduct(proposer, step).await;
        self.roster = decided.as_ref().ok().cloned();
        decided
    }

    fn wish(&self, reachable: &BTreeSet<String>) -> Wish {
        if self.candidate.lone {
            return Wish::Lone(self.state.file.clone());
        }
        if self.candidate.witness.is_none() {
            return Wish::Plain;
        }
        let id = reachable.iter().find_map(|voter| match voter.parse() {
            Ok(Arbiter::Witness(id)) => Some(id),
            _ => None,
        });
        Wish::Witness(id)
    }

    /// Changes the member list. Without a list in the end the role is lost: whatever was begun is finished by whoever
    /// asks under the next ballot.
    pub(super) async fn change(&mut self, members: Vec<String>) -> Result<Roster, Failure> {
        let Some(roster) = self.roster.clone() else {
            return Err(Failure::Moved);
        };
        self.reached = roster.voters().chain(members.iter().cloned()).collect();
        let leaves = |name: &&String| !members.contains(name);
        for name in roster.members.iter().filter(leaves) {
            // Whoever is to leave is not waited for.
            self.reached.remove(name);
        }
        let (proposer, step) = Proposer::change(Rules::ALL, self.ballot, roster, members);
        let decided = self.conduct(proposer, step).await;
        self.roster = decided.as_ref().ok().cloned();
        decided
    }

    async fn conduct(&mut self, proposer: Proposer, step: Step) -> Result<Roster, Failure> {
        let (mut proposer, mut step) = (proposer, step);
        loop {
            step = match step {
                Step::Ask(asks) => {
                    let replies = self.ask(asks).await;
                    for (voter, reply) in &replies {
                        match reply {
                            Reply::Done(_) => {}
                            Reply::Refused(why) => tracing::info!(%voter, %why, "a vote refused"),
                            Reply::Silent => tracing::debug!(%voter, "no vote"),
                        }
                    }
                    // Who is silent once is not waited for in the rounds that follow.
                    self.reached.retain(|v| replies.get(v).is_none_or(|r| *r != Reply::Silent));
                    proposer.on(&replies)
                }
                Step::Done(roster) => {
                    self.remember(&roster).await;
                    return Ok(roster);
                }
                Step::Failed(failure) => return Err(failure),
            };
        }
    }

    async fn ask(&mut self, asks: Vec<(String, Ask)>) -> BTreeMap<String, Reply> {
        let mut replies = BTreeMap::new();
        let own = Arbiter::Lone(self.state.file.clone()).voter();
        // The file comes first: it is never behind what a database has seen.
        if let Some((voter, ask)) = asks.iter().find(|(voter, _)| Some(voter) == own.as_ref()) {
            let reply = match self.state.vote.on(ask) {
                Ok(()) => {
                    self.save().await;
                    Reply::Done(self.state.vote.clone())
                }
                Err(refusal) => Reply::Refused(refusal),
            };
            replies.insert(voter.clone(), reply);
        }
        let others: Vec<(String, Ask)> =
            asks.into_iter().filter(|(voter, _)| !replies.contains_key(voter)).collect();
        let answers = join_all(others.iter().map(|(voter, ask)| self.ask_one(voter, ask))).await;
        replies.extend(others.into_iter().map(|(voter, _)| voter).zip(answers));
        replies
    }

    async fn ask_one(&self, voter: &str, ask: &Ask) -> Reply {
        if !self.reached.contains(voter) {
            return Reply::Silent;
        }
        let asked = async {
            match self.backends.iter().position(|backend| backend.name == voter) {
                Some(backend) => self.ask_backend(backend, ask).await,
                None => match &self.candidate.witness {
                    Some(witness) => {
                        witness.poll(voter.to_owned(), self.cluster.clone(), ask.clone()).await
                    }
                    None => Err("nobody of this name is known here".into()),
                },
            }
        };
        match asked.await {
            Ok(Ok(vote)) => Reply::Done(vote),
            Ok(Err(refusal)) => Reply::Refused(refusal),
            Err(why) => {
                tracing::warn!(%voter, %why, "no vote");
                Reply::Silent
            }
        }
    }

    /// A promise counts only once no session of the former writer is left: whatever it had under way ended before, and
    /// whatever it opens later finds other secrets.
    async fn ask_backend(
        &self,
        backend: usize,
        ask: &Ask,
    ) -> Result<Result<Vote, Refusal>, String> {
        let first = matches!(ask, Ask::Prepare(_) | Ask::Stand(..));
        let poll = Poll {
            cluster: self.cluster.clone(),
            backend: self.backends[backend].name.clone(),
            ask: ask.clone(),
            secrets: first.then(|| self.candidate.secrets.clone()),
        };
        let polled =
            tokio::time::timeout(self.live.bounds().probe, self.controls[backend].poll(poll));
        let answer = polled.await.map_err(|_| "no answer in time".to_owned())??;
        if first && answer.is_ok() {
            self.controls[backend].fence(self.candidate.secrets.users.clone()).await?;
        }
        Ok(answer)
    }

    /// The state file and the witness, as voters.
    pub(super) async fn arbiters(&self) -> (Roster, Vec<Sighting>) {
        let mut seen = Vec::new();
        if let Some(voter) = Arbiter::Lone(self.state.file.clone()).voter() {
            let vote = self.state.vote.clone();
            seen.push(Sighting { voter, vote, writer: String::new(), beat: 0 });
        }
        if let Some(witness) = &self.candidate.witness {
            match tokio::time::timeout(self.live.bounds().probe, witness.look()).await {
                Ok(Ok(sighting)) => seen.push(sighting),
                Ok(Err(why)) => tracing::debug!(%why, "the witness is not there"),
                Err(_) => tracing::debug!("the witness does not answer"),
            }
        }
        (self.state.roster(), seen)
    }

    /// Lays down the role everywhere, so that another proxy takes over at once.
    pub(super) async fn lay_down(&self) {
        if self.roster.is_none() {
            return;
        }
        let everywhere = self.controls.iter().map(|control| control.lay_down(self.ballot));
        let told = tokio::time::timeout(self.live.bounds().probe, join_all(everywhere)).await;
        if told.is_err() {
            tracing::warn!("some backends could not be told that nobody writes now");
        }
        if let Some(witness) = &self.candidate.witness
            && let Err(why) = witness.lay_down(self.ballot).await
        {
            tracing::warn!(%why, "the witness could not be told that nobody writes now");
        }
    }

    /// Tells one backend, and whoever else is there, that it alone is the member of a new view. No quorum is asked: an
    /// operator answers for that. Whoever then takes over finds this view.
    pub(super) async fn force(&mut self, backend: usize) -> Result<Roster, String> {
        if self.handle.view().phase == Phase::Serving {
            return Err("this proxy serves: DEACTIVATE takes a backend out".into());
        }
        let name = self.backends[backend].name.clone();
        let seen = join_all(self.controls.iter().map(|control| control.glance())).await;
        let controls: Vec<_> = seen.into_iter().map(|s| s.ok().and_then(|s| s.control)).collect();
        let chosen = controls[backend].as_ref().ok_or_else(|| format!("{name} is not there"))?;
        self.cluster.clone_from(&chosen.cluster_id);
        let (remembered, arbiters) = self.arbiters().await;
        let votes = || {
            let theirs = controls.iter().flatten().map(|control| &control.vote);
            theirs.chain(arbiters.iter().map(|sighting| &sighting.vote))
        };
        let lost = votes().map(|vote| &vote.roster).chain([&remembered]);
        let lost = lost.max_by_key(|roster| roster.number).cloned().unwrap_or_default();
        self.ballot = Ballot::above(votes().map(|vote| vote.promised), (self.candidate.dice)());
        self.handle.note_asked(self.ballot);
        let voters: BTreeSet<String> =
            arbiters.iter().map(|sighting| sighting.voter.clone()).collect();
        let arbiter = self.wish(&voters).arbiter(&Roster::default());
        // Far above what a part that cannot be reached may decide meanwhile, step by step.
        let roster = Roster { number: lost.number + FORCED, members: vec![name.clone()], arbiter };
        tracing::warn!(members = ?roster.members, view = roster.number, given_up = ?lost, "a view was forced");
        let there = controls.iter().zip(&self.backends).filter(|(control, _)| control.is_some());
        self.reached = there.map(|(_, b)| b.name.clone()).chain(voters).collect();
        for ask in [Ask::Prepare(self.ballot), Ask::Claim(self.ballot, roster.clone())] {
            let asks = self.reached.iter().map(|voter| (voter.clone(), ask.clone())).collect();
            match self.ask(asks).await.get(&name) {
                Some(Reply::Done(_)) => {}
                Some(Reply::Refused(why)) => {
                    return Err(format!("{name} refuses: {why}; try again"));
                }
                Some(Reply::Silent) | None => return Err(format!("{name} gave no answer")),
            }
        }
        self.remember(&roster).await;
        Ok(roster)
    }
}
