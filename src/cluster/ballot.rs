//! Votes about the member list: what each voter keeps, and how it answers. Pure.
//!
//! Whoever wants to write asks the *voters*: the members of the newest member list, and its arbiter,
//! which decides where the members are halved. A voter keeps one [`Vote`], and every question to it is one
//! step of [`Vote::on`], made durable before the answer goes out. So one piece of code decides, whether
//! a database's control row, a witness or a state file is asked.
//!
//! This is single-decree Paxos for each view number, on top of dynamic-linear voting with a witness
//! (Jajodia and Mutchler, TODS 1990; Pâris 1986): the quorum is one of the *previous* member list. The
//! decisions are consensus, since interrupted attempts of plain dynamic voting may lead to two member
//! lists (Yeger Lotem, Keidar and Dolev, PODC 1997). No clock is looked at anywhere.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who asks, and how new the asking is. Higher ones win; none is ever used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ballot {
    counter: u64,
    /// Random: two proxies that count alike still differ.
    salt: u64,
}

impl Ballot {
    /// Lower than any that is used.
    pub const NONE: Self = Self { counter: 0, salt: 0 };

    /// A new one above all that were seen.
    #[must_use]
    pub fn above(seen: impl IntoIterator<Item = Self>, salt: u64) -> Self {
        let counter = seen.into_iter().map(|ballot| ballot.counter).max().unwrap_or(0) + 1;
        Self { counter, salt }
    }
}

impl fmt::Display for Ballot {
    /// The texts sort as the ballots do; there is none for [`Ballot::NONE`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return Ok(());
        }
        write!(f, "{:016x}.{:016x}", self.counter, self.salt)
    }
}

impl FromStr for Ballot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::NONE);
        }
        let bad = || format!("{text:?} is no ballot");
        let (counter, salt) = text.split_once('.').ok_or_else(bad)?;
        let number = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| bad());
        Ok(Self { counter: number(counter)?, salt: number(salt)? })
    }
}

impl From<Ballot> for String {
    fn from(ballot: Ballot) -> Self {
        ballot.to_string()
    }
}

impl TryFrom<String> for Ballot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What decides where the members alone do not. It is a voter like them, and is changed as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Arbiter {
    /// Nothing: of two halves the one with the first member goes on.
    #[default]
    None,
    /// A witness: the half that it votes for goes on.
    Witness(String),
    /// The state file of the only proxy: with it any member is enough, without it all are needed.
    Lone(String),
}

impl Arbiter {
    /// Under which name it votes. No backend can be called so, since names have no slash.
    #[must_use]
    pub fn voter(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Witness(_) | Self::Lone(_) => Some(self.to_string()),
        }
    }
}

impl fmt::Display for Arbiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Witness(id) => write!(f, "witness/{id}"),
            Self::Lone(id) => write!(f, "file/{id}"),
        }
    }
}

impl FromStr for Arbiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            None if text.is_empty() => Ok(Self::None),
            Some(("witness", id)) => Ok(Self::Witness(id.to_owned())),
            Some(("file", id)) => Ok(Self::Lone(id.to_owned())),
            _ => Err(format!("{text:?} is no arbiter")),
        }
    }
}

impl From<Arbiter> for String {
    fn from(arbiter: Arbiter) -> Self {
        arbiter.to_string()
    }
}

impl TryFrom<String> for Arbiter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A member list that can be decided upon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Its number. There is one member list for each.
    pub number: i64,
    /// The members by name, the leader first.
    pub members: Vec<String>,
    /// Who decides between halves of them.
    pub arbiter: Arbiter,
}

impl Roster {
    /// Everybody who has a vote in it.
    pub fn voters(&self) -> impl Iterator<Item = String> {
        self.members.iter().cloned().chain(self.arbiter.voter())
    }

    /// Whether these voters may decide about what follows it. Any two quorums have a voter in common.
    #[must_use]
    pub fn is_quorum(&self, present: &BTreeSet<String>) -> bool {
        let there = self.members.iter().filter(|name| present.contains(*name)).count();
        let all = self.members.len();
        let votes = self.arbiter.voter().is_some_and(|voter| present.contains(&voter));
        match self.arbiter {
            Arbiter::Lone(_) => there > 0 && (votes || there == all),
            _ if 2 * there != all => 2 * there > all,
            Arbiter::Witness(_) => votes,
            Arbiter::None => self.members.first().is_some_and(|first| present.contains(first)),
        }
    }

    /// What is missing to a quorum, for people.
    #[must_use]
    pub fn shortage(&self, present: &BTreeSet<String>) -> String {
        let there = self.members.iter().filter(|name| present.contains(*name)).count();
        let all = self.members.len();
        let rule = match &self.arbiter {
            Arbiter::Lone(_) => {
                "all of them, or the state file of the proxy that wrote last".into()
            }
            Arbiter::Witness(_) => "more than half, or half and the witness".to_owned(),
            Arbiter::None => {
                format!("more than half, or half with {}", self.members.first().map_or("-", |m| m))
            }
        };
        format!("{there} of the {all} members of view {} answer, needed: {rule}", self.number)
    }
}

/// A member list that a voter has accepted and that may have been decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Under which ballot.
    pub ballot: Ballot,
    /// What.
    pub roster: Roster,
}

/// What a voter keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The highest ballot that it has promised to obey. Never falls.
    pub promised: Ballot,
    /// The newest member list that it knows to be decided.
    pub roster: Roster,
    /// What it has accepted to follow.
    pub accepted: Option<Accepted>,
}

/// What a voter is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Promise to obey no lower ballot.
    Prepare(Ballot),
    /// Learn a member list that is decided.
    Install(Ballot, Roster),
    /// Accept a member list, the next after the one that it knows.
    Accept(Ballot, Roster),
    /// Promise within a member list that has just been decided.
    Claim(Ballot, Roster),
    /// Promise the same as [`Self::Prepare`] to a proxy that has seen no newer member list than the one of this number.
    /// Whoever has got the role meanwhile has another one, and keeps it.
    Stand(Ballot, i64),
}

impl Ask {
    /// Under which ballot.
    #[must_use]
    pub fn ballot(&self) -> Ballot {
        match self {
            Self::Prepare(ballot)
            | Self::Install(ballot, _)
            | Self::Accept(ballot, _)
            | Self::Claim(ballot, _)
            | Self::Stand(ballot, _) => *ballot,
        }
    }
}

/// Why a voter does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It obeys a higher ballot.
    Promised(Ballot),
    /// It knows another member list than the one that is to be followed.
    Elsewhere(i64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Promised(ballot) => write!(f, "it obeys ballot {ballot}"),
            Self::Elsewhere(number) => write!(f, "it is at view {number}"),
        }
    }
}

impl Vote {
    /// Answers. What it keeps afterwards must be durable before the answer is sent.
    ///
    /// # Errors
    /// When it must not do what it is asked; nothing has changed then.
    pub fn on(&mut self, ask: &Ask) -> Result<(), Refusal> {
        if ask.ballot() < self.promised {
            return Err(Refusal::Promised(self.promised));
        }
        match ask {
            Ask::Stand(_, seen) if self.roster.number > *seen => {
                return Err(Refusal::Elsewhere(self.roster.number));
            }
            Ask::Prepare(ballot) | Ask::Stand(ballot, _) => self.promised = *ballot,
            Ask::Install(_, roster) => self.learn(roster),
            Ask::Accept(ballot, roster) => {
                if self.roster.number + 1 != roster.number {
                    return Err(Refusal::Elsewhere(self.roster.number));
                }
                self.promised = *ballot;
                self.accepted = Some(Accepted { ballot: *ballot, roster: roster.clone() });
            }
            Ask::Claim(ballot, roster) => {
                self.promised = *ballot;
                self.learn(roster);
            }
        }
        Ok(())
    }

    fn learn(&mut self, roster: &Roster) {
        if self.roster.number < roster.number {
            self.roster = roster.clone();
            self.accepted = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(members: &[&str], arbiter: Arbiter) -> Roster {
        let members = members.iter().map(|&m| m.to_owned()).collect();
        Roster { number: 3, members, arbiter }
    }

    #[test]
    fn texts_sort_as_ballots_do() {
        let low = Ballot::above([], u64::MAX);
        let high = Ballot::above([low, Ballot::NONE], 0);
        assert!(Ballot::NONE < low && low < high);
        assert!(Ballot::NONE.to_string() < low.to_string());
        assert!(low.to_string() < high.to_string());
        for ballot in [Ballot::NONE, low, high] {
            assert_eq!(ballot.to_string().parse(), Ok(ballot));
        }
        assert!("12".parse::<Ballot>().is_err());
        for arbiter in [Arbiter::None, Arbiter::Witness("w".into()), Arbiter::Lone("f".into())] {
            assert_eq!(arbiter.to_string().parse(), Ok(arbiter));
        }
    }

    #[test]
    fn who_has_not_seen_the_newest_list_does_not_get_the_role() {
        let mut vote = Vote { roster: roster(&["a"], Arbiter::None), ..Vote::default() };
        let late = Ballot::above([], 7);
        assert_eq!(vote.on(&Ask::Stand(late, 2)), Err(Refusal::Elsewhere(3)));
        assert_eq!(vote.promised, Ballot::NONE);
        assert_eq!(vote.on(&Ask::Stand(late, 3)), Ok(()));
        assert_eq!(vote.promised, late);
    }

    /// Whatever the members and the arbiter, two sets of voters without one in common are not both quorums.
    #[test]
    fn two_quorums_always_meet() {
        let names = ["a", "b", "c", "d", "e"];
        for count in 1..=names.len() {
            for arbiter in [Arbiter::None, Arbiter::Witness("w".into()), Arbiter::Lone("f".into())]
            {
                let roster = roster(&names[..count], arbiter);
                let voters: Vec<String> = roster.voters().collect();
                let part = |mask: u32| -> BTreeSet<String> {
                    let chosen = voters.iter().enumerate().filter(|(i, _)| mask & (1 << i) != 0);
                    chosen.map(|(_, v)| v.clone()).collect()
                };
                for one in 0_u32..1 << voters.len() {
                    let rest = !one & ((1 << voters.len()) - 1);
                    let both = roster.is_quorum(&part(one)) && roster.is_quorum(&part(rest));
                    assert!(!both, "{roster:?}: {:?} and {:?}", part(one), part(rest));
                }
            }
        }
    }

    #[test]
    fn a_half_goes_on_by_the_arbiter_alone() {
        let present = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        let two = roster(&["a", "b"], Arbiter::None);
        assert!(two.is_quorum(&present(&["a"])) && !two.is_quorum(&present(&["b"])));
        let seen = roster(&["a", "b"], Arbiter::Witness("w".into()));
        assert!(seen.is_quorum(&present(&["b", "witness/w"])) && !seen.is_quorum(&present(&["a"])));
        assert!(!seen.is_quorum(&present(&["b", "witness/other"])));
        let lone = roster(&["a", "b", "c"], Arbiter::Lone("f".into()));
        assert!(lone.is_quorum(&present(&["c", "file/f"])));
        assert!(!lone.is_quorum(&present(&["a", "b"])) && !lone.is_quorum(&present(&["file/f"])));
        assert!(lone.is_quorum(&present(&["a", "b", "c"])));
        assert!(two.shortage(&present(&["b"])).contains("half with a"));
    }

    #[test]
    fn a_promise_is_kept() {
        let mut vote = Vote::default();
        let (low, high) = (Ballot::above([], 1), Ballot::above([], 2));
        vote.on(&Ask::Prepare(high)).expect("the first");
        assert_eq!(vote.on(&Ask::Prepare(low)), Err(Refusal::Promised(high)));
        let next = Roster { number: 1, members: vec!["a".into()], arbiter: Arbiter::None };
        assert_eq!(vote.on(&Ask::Accept(low, next.clone())), Err(Refusal::Promised(high)));
        vote.on(&Ask::Accept(high, next.clone())).expect("obeyed");
        let far = Roster { number: 3, ..next.clone() };
        assert_eq!(vote.on(&Ask::Accept(high, far)), Err(Refusal::Elsewhere(0)));
        vote.on(&Ask::Install(high, next.clone())).expect("learned");
        assert_eq!((vote.roster.clone(), &vote.accepted), (next, &None));
    }
}
