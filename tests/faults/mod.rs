//! What can happen to servers, networks and the proxy under load: told once, for every dialect.
//!
//! A suite says how its own servers, proxy and load are handled ([`Site`]) and takes all of the tests
//! with `faults!`. Each ends with the books: nothing acknowledged is missing on any server, nothing is
//! there twice, no client was disconnected because a server died, and all servers hold the same.

use std::time::Duration;

use rand::Rng;

/// How long service may pause: until the dead one is given up, and a little for a slow machine.
const PAUSE: Duration = Duration::from_secs(DEAD_AFTER.as_secs() + 9);

/// After how long without an answer a server is given up: the suites configure their proxies so.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(3);

/// What the network to one server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Works,
    /// Nothing passes and nobody is told.
    Silent,
    /// Only what the server says is held back.
    Mute,
    /// Every connection is reset and none is taken.
    Cut,
    /// Each piece takes a little longer.
    Slow,
}

/// What clients may have seen of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing that one server by itself would not have done to them.
    Nothing,
    /// Besides that some had to try again; nobody was disconnected.
    Retries,
    /// Their proxy went: connections broke, and commits got no answer.
    Breaks,
    /// Both.
    BreaksAndRetries,
}

/// What a site has to have besides three servers and a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Networks that fail on command.
    pub(crate) lines: bool,
    /// Servers that flush to disk before they say yes.
    pub(crate) flushes: bool,
}

/// Servers of one dialect, which are known by their places, with a proxy in front of them.
pub(crate) trait Site: Sized {
    /// Clients at work.
    type Load;
    /// What clients were promised.
    type Books;

    async fn set_up(needs: Needs) -> Self;
    async fn leads(&self) -> usize;
    async fn follows(&self) -> usize;
    async fn takes_part(&self, server: usize);
    async fn is_out(&self, server: usize);
    async fn active(&self) -> usize;

    /// kill -9.
    fn kill(&self, server: usize);
    /// The clean stop that ends all sessions.
    fn stop(&self, server: usize);
    fn start(&self, server: usize);
    fn freeze(&self, server: usize);
    fn thaw(&self, server: usize);
    /// It dies and is back within a moment.
    fn crash(&self, server: usize);
    fn line(&self, server: usize, line: Line);
    fn kill_proxy(&self);
    fn stop_proxy(&self);
    async fn start_proxy(&self);

    async fn load(&self, sessions: usize) -> Self::Load;
    /// Another load on the same tables.
    async fn load_again(&self, sessions: usize) -> Self::Load;
    async fn goes_on(load: &Self::Load, more: u64, limit: Duration);
    async fn end(load: Self::Load) -> Self::Books;

    fn together(books: Vec<Self::Books>) -> Self::Books;
    fn longest_silence(books: &Self::Books) -> Duration;
    fn check(books: &Self::Books, seen: Seen);
    /// Every promise is kept, and those that take part hold the same.
    async fn judge(&self, books: &Self::Books);
    /// All take part and hold the same.
    async fn all_equal(&self);
    /// The same on all servers, whatever the proxy believes.
    async fn all_hold_the_same(&self);
}

/// All tests of the suite's own dialect: how it runs them, and its site.
macro_rules! faults {
    ($run:path, $site:ty) => {
        $crate::faults::faults! { @ $run, $site:
            a_follower_is_killed,
            the_leader_is_killed,
            a_follower_is_stopped_cleanly,
            the_leader_is_stopped_cleanly,
            a_follower_hangs_and_wakes,
            the_leader_hangs_and_wakes,
            the_network_to_a_follower_fails_in_every_way,
            the_network_to_the_leader_fails_in_every_way,
            a_slow_network_slows_and_breaks_nothing,
            a_server_crashes_and_is_back_before_anyone_looks,
            the_last_server_carries_on_alone,
            each_server_is_restarted_in_turn,
            a_server_returns_while_writes_go_on,
            a_server_returns_to_a_proxy_that_was_restarted,
            several_that_died_one_after_another_return_in_any_order,
            everything_that_can_die_during_the_return_does,
            the_proxy_is_killed_at_random_moments,
            the_servers_agree_before_anyone_is_served,
            the_proxy_and_a_server_die_together,
            everything_dies_within_a_second,
        }
    };
    (@ $run:path, $site:ty: $($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            $run($crate::faults::$name::<$site>());
        })*
    };
}
pub(crate) use faults;

/// Whom a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Struck {
    Follower,
    Leader,
}

impl Struck {
    async fn of<S: Site>(self, site: &S) -> usize {
        match self {
            Self::Follower => site.follows().await,
            Self::Leader => site.leads().await,
        }
    }

    /// After a follower's fault not one error; after the leader's, locks that a transaction had taken
    /// without a write may have gone to another.
    const fn seen(self) -> Seen {
        match self {
            Self::Follower => Seen::Nothing,
            Self::Leader => Seen::Retries,
        }
    }
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A site, a load on it, a fault in the middle, and the load's books, judged.
async fn under_load<S: Site>(needs: Needs, seen: Seen, fault: impl AsyncFnOnce(&S, &S::Load)) -> S {
    let site = S::set_up(needs).await;
    let load = site.load(20).await;
    S::goes_on(&load, 60, secs(20)).await;
    fault(&site, &load).await;
    S::goes_on(&load, 60, PAUSE).await;
    let books = S::end(load).await;
    let silence = S::longest_silence(&books);
    assert!(silence < PAUSE, "service stood still for {silence:?}");
    S::check(&books, seen);
    site.judge(&books).await;
    site
}

/// One server goes, and stays away.
async fn goes<S: Site>(struck: Struck, fault: impl Fn(&S, usize)) {
    let mut lost = 0;
    let site: S = under_load(Needs::default(), struck.seen(), async |site: &S, _| {
        lost = struck.of(site).await;
        fault(site, lost);
        site.is_out(lost).await;
    })
    .await;
    assert_ne!(site.leads().await, lost);
    assert_eq!(site.active().await, 2);
}

/// Servers come and go; at the end all of them are back, and equal.
async fn all_return<S: Site>(struck: Struck, needs: Needs, faults: impl AsyncFnOnce(&S, &S::Load)) {
    under_load(needs, struck.seen(), faults).await.all_equal().await;
}

/// One server hangs, is given up, and wakes: what it had in its sockets must not come late, it returns
/// by its journal.
async fn hangs_and_wakes<S: Site>(struck: Struck) {
    all_return(struck, Needs::default(), async |site: &S, load| {
        let lost = struck.of(site).await;
        site.freeze(lost);
        site.is_out(lost).await;
        S::goes_on(load, 60, PAUSE).await;
        site.thaw(lost);
        site.takes_part(lost).await;
    })
    .await;
}

/// The network to one server fails in every way, one after the other.
async fn is_cut_off<S: Site>(struck: Struck) {
    let needs = Needs { lines: true, ..Needs::default() };
    all_return(struck, needs, async |site: &S, load| {
        for line in [Line::Cut, Line::Silent, Line::Mute] {
            let lost = struck.of(site).await;
            site.line(lost, line);
            site.is_out(lost).await;
            S::goes_on(load, 40, PAUSE).await;
            site.line(lost, Line::Works);
            site.takes_part(lost).await;
        }
    })
    .await;
}

pub(crate) async fn a_follower_is_killed<S: Site>() {
    goes::<S>(Struck::Follower, S::kill).await;
}

pub(crate) async fn the_leader_is_killed<S: Site>() {
    goes::<S>(Struck::Leader, S::kill).await;
}

pub(crate) async fn a_follower_is_stopped_cleanly<S: Site>() {
    goes::<S>(Struck::Follower, S::stop).await;
}

pub(crate) async fn the_leader_is_stopped_cleanly<S: Site>() {
    goes::<S>(Struck::Leader, S::stop).await;
}

pub(crate) async fn a_follower_hangs_and_wakes<S: Site>() {
    hangs_and_wakes::<S>(Struck::Follower).await;
}

pub(crate) async fn the_leader_hangs_and_wakes<S: Site>() {
    hangs_and_wakes::<S>(Struck::Leader).await;
}

pub(crate) async fn the_network_to_a_follower_fails_in_every_way<S: Site>() {
    is_cut_off::<S>(Struck::Follower).await;
}

pub(crate) async fn the_network_to_the_leader_fails_in_every_way<S: Site>() {
    is_cut_off::<S>(Struck::Leader).await;
}

pub(crate) async fn a_slow_network_slows_and_breaks_nothing<S: Site>() {
    let needs = Needs { lines: true, ..Needs::default() };
    let site: S = under_load(needs, Seen::Nothing, async |site: &S, load| {
        let slow = site.follows().await;
        site.line(slow, Line::Slow);
        S::goes_on(load, 60, secs(30)).await;
        site.line(slow, Line::Works);
    })
    .await;
    site.all_equal().await;
}

pub(crate) async fn a_server_crashes_and_is_back_before_anyone_looks<S: Site>() {
    all_return(Struck::Leader, Needs::default(), async |site: &S, load| {
        for lost in [site.follows().await, site.leads().await] {
            site.crash(lost);
            S::goes_on(load, 60, PAUSE).await;
            site.takes_part(lost).await;
        }
    })
    .await;
}

pub(crate) async fn the_last_server_carries_on_alone<S: Site>() {
    let site: S = under_load(Needs::default(), Seen::Retries, async |site: &S, load| {
        for _ in 0..2 {
            let lost = site.leads().await;
            site.kill(lost);
            site.is_out(lost).await;
            S::goes_on(load, 60, PAUSE).await;
        }
    })
    .await;
    assert_eq!(site.active().await, 1);
}

pub(crate) async fn each_server_is_restarted_in_turn<S: Site>() {
    all_return(Struck::Leader, Needs::default(), async |site: &S, load| {
        for server in 0..3 {
            site.stop(server);
            S::goes_on(load, 40, PAUSE).await;
            site.start(server);
            site.takes_part(server).await;
        }
    })
    .await;
}

pub(crate) async fn a_server_returns_while_writes_go_on<S: Site>() {
    all_return(Struck::Leader, Needs::default(), async |site: &S, load| {
        for lost in [site.follows().await, site.leads().await] {
            site.kill(lost);
            site.is_out(lost).await;
            S::goes_on(load, 300, secs(40)).await;
            site.start(lost);
            site.takes_part(lost).await;
            S::goes_on(load, 100, secs(20)).await;
        }
    })
    .await;
}

pub(crate) async fn a_server_returns_to_a_proxy_that_was_restarted<S: Site>() {
    let site = S::set_up(Needs::default()).await;
    let load = site.load(12).await;
    S::goes_on(&load, 40, secs(20)).await;
    let lost = site.follows().await;
    site.kill(lost);
    site.is_out(lost).await;
    S::goes_on(&load, 100, secs(20)).await;
    let books = S::end(load).await;
    site.stop_proxy();
    site.start_proxy().await;
    assert_eq!(site.active().await, 2, "the absence is remembered");
    let again = site.load_again(12).await;
    S::goes_on(&again, 60, secs(20)).await;
    site.start(lost);
    site.takes_part(lost).await;
    S::goes_on(&again, 60, secs(20)).await;
    let books = S::together(vec![books, S::end(again).await]);
    S::check(&books, Seen::Nothing);
    site.judge(&books).await;
    site.all_equal().await;
}

pub(crate) async fn several_that_died_one_after_another_return_in_any_order<S: Site>() {
    all_return(Struck::Leader, Needs::default(), async |site: &S, load| {
        for order in [[0, 1], [1, 0]] {
            let mut lost = Vec::new();
            for _ in 0..2 {
                S::goes_on(load, 60, secs(20)).await;
                let server = site.leads().await;
                site.kill(server);
                site.is_out(server).await;
                lost.push(server);
            }
            S::goes_on(load, 60, secs(20)).await;
            for place in order {
                site.start(lost[place]);
                site.takes_part(lost[place]).await;
            }
        }
    })
    .await;
}

pub(crate) async fn everything_that_can_die_during_the_return_does<S: Site>() {
    let site = S::set_up(Needs::default()).await;
    let load = site.load(10).await;
    S::goes_on(&load, 40, secs(20)).await;
    let lost = site.follows().await;
    site.kill(lost);
    site.is_out(lost).await;
    S::goes_on(&load, 300, secs(40)).await;
    for pause in [50, 250, 600] {
        site.start(lost);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        site.kill(lost);
        S::goes_on(&load, 30, secs(20)).await;
    }
    site.start(lost);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let leader = site.leads().await;
    site.kill(leader);
    S::goes_on(&load, 30, secs(20)).await;
    site.takes_part(lost).await;
    site.start(leader);
    tokio::time::sleep(Duration::from_millis(200)).await;
    site.kill_proxy();
    site.start_proxy().await;
    site.takes_part(leader).await;
    let books = S::end(load).await;
    S::check(&books, Seen::BreaksAndRetries);
    site.judge(&books).await;
    site.all_equal().await;
}

/// kill -9 of the proxy at any moment: after the restart nothing acknowledged is missing anywhere.
pub(crate) async fn the_proxy_is_killed_at_random_moments<S: Site>() {
    let site = S::set_up(Needs::default()).await;
    let load = site.load(16).await;
    S::goes_on(&load, 40, secs(20)).await;
    for round in 0..6 {
        let wait = rand::rng().random_range(200..1400);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        eprintln!("round {round}, after {wait} ms");
        site.kill_proxy();
        site.start_proxy().await;
        S::goes_on(&load, 30, secs(25)).await;
    }
    let books = S::end(load).await;
    S::check(&books, Seen::Breaks);
    site.judge(&books).await;
    site.all_equal().await;
}

pub(crate) async fn the_servers_agree_before_anyone_is_served<S: Site>() {
    let site = S::set_up(Needs::default()).await;
    let mut all = Vec::new();
    for round in 0..3 {
        let load = if round == 0 { site.load(12).await } else { site.load_again(12).await };
        S::goes_on(&load, 40, secs(20)).await;
        site.kill_proxy();
        all.push(S::end(load).await);
        site.start_proxy().await;
        site.all_hold_the_same().await;
    }
    let books = S::together(all);
    S::check(&books, Seen::Breaks);
    site.judge(&books).await;
}

pub(crate) async fn the_proxy_and_a_server_die_together<S: Site>() {
    let site = S::set_up(Needs::default()).await;
    let load = site.load(12).await;
    for server_first in [true, false] {
        S::goes_on(&load, 40, secs(25)).await;
        let lost = if server_first { site.leads().await } else { site.follows().await };
        site.kill(lost);
        site.kill_proxy();
        if server_first {
            site.start(lost);
            site.start_proxy().await;
        } else {
            site.start_proxy().await;
            S::goes_on(&load, 30, secs(25)).await;
            site.start(lost);
        }
        S::goes_on(&load, 40, secs(25)).await;
        site.takes_part(lost).await;
    }
    let books = S::end(load).await;
    S::check(&books, Seen::BreaksAndRetries);
    site.judge(&books).await;
    site.all_equal().await;
}

pub(crate) async fn everything_dies_within_a_second<S: Site>() {
    let site = S::set_up(Needs { flushes: true, ..Needs::default() }).await;
    let load = site.load(10).await;
    S::goes_on(&load, 60, secs(25)).await;
    (0..3).for_each(|server| site.kill(server));
    site.kill_proxy();
    (0..3).rev().for_each(|server| site.start(server));
    site.start_proxy().await;
    for server in 0..3 {
        site.takes_part(server).await;
    }
    S::goes_on(&load, 40, secs(25)).await;
    let books = S::end(load).await;
    S::check(&books, Seen::BreaksAndRetries);
    site.judge(&books).await;
    site.all_equal().await;
}
