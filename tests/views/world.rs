//! Databases, witnesses and links, what befalls them, and the judge.

use std::collections::BTreeMap;

use lockstep::cluster::{Arbiter, Ask, Refusal, Reply, Roster, Vote, Wish};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::Variant;
use crate::proxy::Proxy;

/// How often a question is heard, and its answer lost.
const LOST: f64 = 0.03;
/// How often a question comes late, after whoever asked has given up.
const LATE: f64 = 0.01;

/// A set of transactions, by their numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(Vec<u64>);

impl Marks {
    pub(crate) fn insert(&mut self, number: u32) {
        let (place, bit) = (number as usize / 64, number % 64);
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] |= 1 << bit;
    }

    /// Whether it lacks something of another one.
    fn lacks(&self, other: &Self) -> bool {
        let mine = |place: usize| self.0.get(place).copied().unwrap_or(0);
        other.0.iter().enumerate().any(|(place, bits)| bits & !mine(place) != 0)
    }
}

/// A database, a witness, or a state file.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) vote: Vote,
    /// The transactions that it has.
    pub(crate) has: Marks,
    up: bool,
}

/// What happened in a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) acknowledged: u64,
    pub(crate) takeovers: u64,
    pub(crate) views: u64,
    pub(crate) adopted: u64,
    pub(crate) joined: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.takeovers += other.takeovers;
        self.views += other.views;
        self.adopted += other.adopted;
        self.joined += other.joined;
    }
}

pub(crate) struct World {
    pub(crate) dice: StdRng,
    pub(crate) variant: Variant,
    /// The databases, by name.
    pub(crate) names: Vec<String>,
    pub(crate) nodes: BTreeMap<String, Node>,
    links: BTreeMap<(usize, String), bool>,
    late: Vec<(String, Ask)>,
    proxies: Vec<Proxy>,
    /// The one member list of each number, as databases have it.
    lists: BTreeMap<i64, (Vec<String>, Arbiter)>,
    pub(crate) acknowledged: Marks,
    pub(crate) transactions: u32,
    pub(crate) figures: Figures,
    pub(crate) wrong: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, variant: Variant) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let count = *[2, 2, 3, 3, 4].choose(&mut dice).unwrap();
        let names: Vec<String> =
            ["a", "b", "c", "d"][..count].iter().map(|n| (*n).into()).collect();
        let witness = Arbiter::Witness("w".into());
        let file = Arbiter::Lone("0".into());
        let first =
            [Arbiter::None, witness.clone(), file.clone()].choose(&mut dice).unwrap().clone();
        let roster = Roster { number: 1, members: names.clone(), arbiter: first.clone() };
        let node = |roster: &Roster| Node {
            vote: Vote { roster: roster.clone(), ..Vote::default() },
            has: Marks::default(),
            up: true,
        };
        let mut nodes: BTreeMap<String, Node> =
            names.iter().map(|name| (name.clone(), node(&roster))).collect();
        // An arbiter that has no part in the list yet is empty.
        for arbiter in [&witness, &file] {
            let known = if *arbiter == first { roster.clone() } else { Roster::default() };
            nodes.insert(arbiter.to_string(), node(&known));
        }
        let proxies = dice.random_range(2..=3);
        let mut links = BTreeMap::new();
        for proxy in 0..proxies {
            for name in nodes.keys() {
                // A state file is the first proxy's own.
                let there = *name != file.to_string() || proxy == 0;
                links.insert((proxy, name.clone()), there);
            }
        }
        // Mostly all are configured alike; now and then somebody is about to change that.
        let drift = dice.random_bool(0.2);
        let wish = |proxy: usize, dice: &mut StdRng| {
            let like = if drift { dice.random_range(0..3) } else { usize::MAX };
            match (&first, like) {
                (_, 0) | (Arbiter::None, usize::MAX) => Wish::Plain,
                (Arbiter::Lone(_), usize::MAX) | (_, 2) if proxy == 0 => Wish::Lone("0".into()),
                _ => Wish::Witness(Some("w".into())),
            }
        };
        let proxies = (0..proxies).map(|n| Proxy::new(n, wish(n, &mut dice))).collect();
        Self {
            dice,
            variant,
            names,
            nodes,
            links,
            late: Vec::new(),
            proxies,
            lists: BTreeMap::new(),
            acknowledged: Marks::default(),
            transactions: 0,
            figures: Figures::default(),
            wrong: None,
        }
    }

    /// Something happens, or some proxy takes its next step.
    pub(crate) fn step(&mut self) {
        self.befall();
        let at = self.dice.random_range(0..self.proxies.len());
        let mut proxy = std::mem::replace(&mut self.proxies[at], Proxy::new(at, Wish::Plain));
        proxy.step(self);
        self.proxies[at] = proxy;
    }

    fn befall(&mut self) {
        let fate: f64 = self.dice.random();
        let own = Arbiter::Lone("0".into()).to_string();
        if fate < 0.015 {
            let cut = self.dice.random_range(0..self.links.len());
            let ((_, name), up) = self.links.iter_mut().nth(cut).unwrap();
            if *name != own {
                *up = !*up;
            }
        } else if fate < 0.02 {
            for ((_, name), up) in &mut self.links {
                if *name != own {
                    *up = true;
                }
            }
        } else if fate < 0.03 {
            let at = self.dice.random_range(0..self.nodes.len());
            let (name, node) = self.nodes.iter_mut().nth(at).unwrap();
            node.up = !node.up || *name == own;
        } else if fate < 0.034 {
            self.nodes.values_mut().for_each(|node| node.up = true);
        } else if fate < 0.037 {
            let at = self.dice.random_range(0..self.proxies.len());
            let wish = self.proxies[at].wish.clone();
            self.proxies[at] = Proxy::new(at, wish);
        } else if fate < 0.06 && !self.late.is_empty() {
            let at = self.dice.random_range(0..self.late.len());
            let (name, ask) = self.late.swap_remove(at);
            // Nobody waits for the answer.
            let _ = self.apply(&name, &ask);
        }
    }

    fn apply(&mut self, name: &str, ask: &Ask) -> Result<Vote, Refusal> {
        let node = self.nodes.get_mut(name).unwrap();
        node.vote.on(ask)?;
        let vote = node.vote.clone();
        let list = (vote.roster.members.clone(), vote.roster.arbiter.clone());
        let number = vote.roster.number;
        if number > 0 {
            let known = self.lists.entry(number).or_insert_with(|| {
                self.figures.views += 1;
                list.clone()
            });
            if *known != list {
                self.wrong = Some(format!("view {number} is {known:?} and {list:?}"));
            }
        }
        Ok(vote)
    }

    /// One proxy does something at one node; nothing when no answer comes.
    pub(crate) fn call<T>(
        &mut self,
        proxy: usize,
        name: &str,
        act: impl FnOnce(&mut Node) -> T,
    ) -> Option<T> {
        let there = self.links.get(&(proxy, name.to_owned())).is_some_and(|up| *up);
        let node = self.nodes.get_mut(name)?;
        if !there || !node.up {
            return None;
        }
        let answer = act(node);
        (!self.dice.random_bool(LOST)).then_some(answer)
    }

    /// One proxy asks one voter.
    pub(crate) fn ask(&mut self, proxy: usize, name: &str, ask: &Ask) -> Reply {
        let there = self.links.get(&(proxy, name.to_owned())).is_some_and(|up| *up);
        if !there || !self.nodes.get(name).is_some_and(|node| node.up) {
            return Reply::Silent;
        }
        if self.dice.random_bool(LATE) {
            self.late.push((name.to_owned(), ask.clone()));
            return Reply::Silent;
        }
        let answer = self.apply(name, ask);
        if self.dice.random_bool(LOST) {
            return Reply::Silent;
        }
        match answer {
            Ok(vote) => Reply::Done(vote),
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    /// A client is told that a transaction is committed. The judge looks at the databases' disks.
    pub(crate) fn acknowledge(&mut self, transaction: u32) {
        self.acknowledged.insert(transaction);
        self.figures.acknowledged += 1;
        let Some((number, (members, _))) = self.lists.iter().next_back() else {
            return;
        };
        for member in members {
            if self.nodes[member].has.lacks(&self.acknowledged) {
                let what =
                    format!("{member}, a member of view {number}, lacks an acknowledged one");
                self.wrong = Some(what);
            }
        }
    }
}
