//! What may befall the servers and the proxy, and when: everything follows from the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a server is about to do, or has just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Other,
    Record,
    Commit,
    Control,
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Leader,
    Follower,
    /// The server, or the session, at which it happens.
    Here,
    All,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// The server stops, and forgets so many of its newest commits.
    Crash(usize),
    /// The server is silent.
    Hang,
    Slow,
    /// Nobody is let in.
    Refuse,
    /// One session ends.
    Kill,
    /// The proxy stops at once.
    Proxy,
}

/// One fault, and when it happens: the `count`-th time that some server is at such a point.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Option<Kind>,
    pub(crate) done: bool,
    pub(crate) count: usize,
    pub(crate) who: Who,
    pub(crate) harm: Harm,
    pub(crate) lasts: Duration,
}

/// What a scenario is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    Calm,
    FollowerCrash,
    LeaderCrash,
    Sessions,
    Hang,
    Slow,
    Refuse,
    Proxy,
    /// One is away, the other takes writes and dies with the proxy, and the first comes back first.
    LastMan,
    Rolling,
    AllAtOnce,
    /// A server restarts quickly and has lost what it had not flushed.
    Lazy,
    Mix,
}

const THEMES: [Theme; 16] = [
    Theme::Calm,
    Theme::Calm,
    Theme::FollowerCrash,
    Theme::LeaderCrash,
    Theme::LeaderCrash,
    Theme::Sessions,
    Theme::Hang,
    Theme::Slow,
    Theme::Refuse,
    Theme::Proxy,
    Theme::LastMan,
    Theme::Rolling,
    Theme::AllAtOnce,
    Theme::Lazy,
    Theme::Mix,
    Theme::Mix,
];

/// What one seed stands for.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) theme: Theme,
    pub(crate) backends: usize,
    pub(crate) clients: usize,
    pub(crate) deeds: usize,
    /// The longest pause of an application between two transactions.
    pub(crate) pause_ms: u64,
    /// Applications do nothing but insert rows, each by itself.
    pub(crate) inserts: bool,
    /// By how much all but the first server are slower from the start.
    pub(crate) lag: Duration,
    /// By how much longer anything may take there, each time anew.
    pub(crate) jitter: Duration,
    /// By how much longer a COMMIT may take there, as on a disk that is slow to flush.
    pub(crate) flush: Duration,
    /// How long a vote about the member list takes.
    pub(crate) vote: Duration,
    /// How long commits are held for a backend that rejoins, before it has to be tried again.
    pub(crate) gate: Duration,
    pub(crate) faults: Vec<Fault>,
}

impl Scenario {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let theme = THEMES[usize::try_from(seed).unwrap_or(0) % THEMES.len()];
        let few = dice.random_ratio(1, 5) || theme == Theme::LastMan;
        let backends = if few { 2 } else { 3 };
        let clients = dice.random_range(3..=6);
        let deeds = dice.random_range(6..=14);
        let faults = faults(theme, &mut dice);
        // Some seeds of each theme are crowded: transactions meet each other all the time.
        let round = seed / THEMES.len() as u64;
        let crowded = matches!(round % 7, 3 | 4 | 6);
        let inserts = round % 7 == 5;
        let pause_ms = if crowded || inserts { 15 } else { 400 };
        let lags = theme == Theme::Calm && seed % 2 == 1;
        let lag = Duration::from_millis(if lags { 12 } else { 0 });
        let flush = Duration::from_millis(if lags && round % 2 == 1 { 80 } else { 0 });
        let (vote, gate) = (Duration::ZERO, Duration::from_secs(5));
        let jitter = Duration::ZERO;
        Self {
            seed,
            theme,
            backends,
            clients,
            deeds,
            pause_ms,
            inserts,
            lag,
            jitter,
            flush,
            vote,
            gate,
            faults,
        }
    }

    /// The same where votes take longer than the gate of commits is held for what comes before them.
    pub(crate) fn of_slow_votes(seed: u64) -> Self {
        let (vote, gate) = (Duration::from_millis(700), Duration::from_millis(500));
        Self { vote, gate, pause_ms: 15, ..Self::of(seed) }
    }

    /// The same where what followers are sent arrives late, and in another order than on the leader.
    pub(crate) fn of_late_effects(seed: u64) -> Self {
        let theme = Theme::LeaderCrash;
        let faults = faults(theme, &mut StdRng::seed_from_u64(seed));
        let jitter = Duration::from_millis(120);
        Self { theme, faults, jitter, clients: 6, pause_ms: 15, inserts: false, ..Self::of(seed) }
    }

    /// Whether a restart may lose commits.
    pub(crate) fn is_lazy(&self) -> bool {
        self.theme == Theme::Lazy
    }

    /// Whether the loss of one backend, at the most, is all that happens: clients see none of it.
    pub(crate) fn is_strict(&self) -> bool {
        matches!(self.theme, Theme::Calm | Theme::FollowerCrash | Theme::LeaderCrash)
    }
}

fn faults(theme: Theme, dice: &mut StdRng) -> Vec<Fault> {
    let crash = Harm::Crash(0);
    let mut many = |count: std::ops::RangeInclusive<usize>, of: &[(Who, Harm)]| {
        let count = dice.random_range(count);
        (0..count).map(|_| one(of[dice.random_range(0..of.len())], dice)).collect::<Vec<_>>()
    };
    let either = [(Who::Leader, crash), (Who::Follower, crash), (Who::Here, crash)];
    match theme {
        Theme::Calm => Vec::new(),
        Theme::FollowerCrash => many(1..=1, &[(Who::Follower, crash)]),
        Theme::LeaderCrash => many(1..=1, &[(Who::Leader, crash)]),
        Theme::Sessions => {
            let mut kills = many(2..=9, &[(Who::Here, Harm::Kill)]);
            // Between the single COMMITs is where it hurts most.
            kills.iter_mut().step_by(2).for_each(|kill| {
                (kill.kind, kill.done) = (Some(Kind::Commit), false);
                kill.count = kill.count % 90 + 1;
            });
            kills
        }
        Theme::Hang => many(1..=2, &[(Who::Leader, Harm::Hang), (Who::Here, Harm::Hang)]),
        Theme::Slow => many(1..=3, &[(Who::Leader, Harm::Slow), (Who::Follower, Harm::Slow)]),
        Theme::Refuse => many(1..=2, &[(Who::Leader, Harm::Refuse), (Who::Follower, Harm::Refuse)]),
        Theme::Proxy => {
            let mut falls = many(1..=2, &[(Who::Here, Harm::Proxy)]);
            // What a slow server has been sent is still under way when the next proxy comes.
            let slow = falls.iter().map(|fall| Fault { harm: Harm::Slow, ..fall.clone() });
            let slow: Vec<Fault> = slow.collect();
            falls.splice(0..0, slow);
            falls
        }
        Theme::LastMan => last_man(dice),
        Theme::Rolling => many(2..=4, &either),
        Theme::AllAtOnce => many(1..=2, &[(Who::All, crash), (Who::All, Harm::Hang)]),
        Theme::Lazy => {
            let lose = dice.random_range(1..=4);
            let who = if dice.random_ratio(1, 2) { Who::Leader } else { Who::Follower };
            let lasts = dice.random_range(0..=400);
            // Half of them are back before anybody has looked.
            let lasts = Duration::from_millis(if lasts % 2 == 0 { lasts / 100 } else { lasts });
            vec![Fault { lasts, ..one((who, Harm::Crash(lose)), dice) }]
        }
        Theme::Mix => {
            let mut of = either.to_vec();
            of.extend([(Who::Here, Harm::Hang), (Who::Here, Harm::Kill), (Who::Here, Harm::Proxy)]);
            of.extend([(Who::Leader, Harm::Slow), (Who::All, crash), (Who::Here, Harm::Kill)]);
            many(2..=5, &of)
        }
    }
}

fn last_man(dice: &mut StdRng) -> Vec<Fault> {
    let first = dice.random_range(5..30);
    let then = first + 2 * dice.random_range(2..15);
    let ms = |dice: &mut StdRng, range| Duration::from_millis(dice.random_range(range));
    let fault = |count, who, harm, lasts| Fault {
        kind: Some(Kind::Commit),
        done: true,
        count,
        who,
        harm,
        lasts,
    };
    vec![
        fault(first, Who::Follower, Harm::Crash(0), ms(dice, 300..=1500)),
        fault(then, Who::Leader, Harm::Crash(0), ms(dice, 2500..=9000)),
        fault(then, Who::Here, Harm::Proxy, ms(dice, 20..=100)),
    ]
}

fn one((who, harm): (Who, Harm), dice: &mut StdRng) -> Fault {
    let (kind, most) = match dice.random_range(0..4) {
        0 => (None, 2500),
        1 => (Some(Kind::Record), 90),
        2 => (Some(Kind::Control), 60),
        _ => (Some(Kind::Commit), 90),
    };
    let longest = match harm {
        Harm::Hang => 16_000,
        Harm::Proxy => 500,
        _ => 6_000,
    };
    Fault {
        kind,
        done: dice.random_ratio(1, 2),
        count: dice.random_range(1..=most),
        who,
        harm,
        lasts: Duration::from_millis(dice.random_range(20..=longest)),
    }
}
