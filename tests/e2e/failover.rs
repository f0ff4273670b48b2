//! A server dies, hangs or is cut off, under load: nobody is disconnected, no transaction at READ
//! COMMITTED fails for it, nothing acknowledged is lost, and what remains agrees.

use std::sync::Arc;
use std::time::Duration;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::config::DEAD_AFTER;
use crate::rig::load::{Load, Outcome};
use crate::rig::relay::Net;
use crate::rig::server::Server;
use crate::rig::{run_heavy, secs, step};

/// How long service may pause: until the dead one is given up, and a little for a slow machine.
const PAUSE: Duration = Duration::from_secs(DEAD_AFTER.as_secs() + 9);

/// A cluster, a load on it, a fault in the middle, and the load's books.
async fn under_load(
    options: Options,
    fault: impl AsyncFnOnce(&Arc<Cluster>, &Load),
) -> (Arc<Cluster>, Outcome) {
    let cluster = options.start().await;
    let load = Load::start(&cluster, 20).await;
    load.goes_on(60, secs(20)).await;
    fault(&cluster, &load).await;
    load.goes_on(60, PAUSE).await;
    let outcome = load.stop().await;
    let silence = outcome.longest_silence();
    assert!(silence < PAUSE, "service stood still for {silence:?}");
    (cluster, outcome)
}

/// Whom a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Struck {
    Follower,
    Leader,
}

impl Struck {
    async fn name(self, cluster: &Cluster) -> String {
        match self {
            Self::Follower => cluster.follower().await,
            Self::Leader => cluster.leader().await,
        }
    }

    /// After a follower's fault not one error; after the leader's, locks that a transaction had
    /// taken without a write may have gone to another (40001).
    async fn judge(self, cluster: &Cluster, outcome: &Outcome) {
        match self {
            Self::Follower => outcome.nobody_noticed(),
            Self::Leader => {
                outcome.nobody_was_disconnected();
                outcome.failed_only_with(&["40001"]);
            }
        }
        outcome.judge(cluster).await;
    }
}

fn test(work: impl Future<Output = ()>) {
    run_heavy(secs(120), work);
}

/// One server goes, and stays away.
fn goes(struck: Struck, fault: impl Fn(&Server)) {
    test(async {
        let mut lost = String::new();
        let (cluster, outcome) = under_load(Options::servers(3), async |cluster, _| {
            lost = struck.name(cluster).await;
            fault(cluster.server(&lost));
        })
        .await;
        cluster.wait_inactive(&lost).await;
        assert_ne!(cluster.leader().await, lost);
        struck.judge(&cluster, &outcome).await;
        assert_eq!(cluster.active().await.len(), 2);
    });
}

/// Servers come and go; at the end all of them are back, and equal.
fn all_return(struck: Struck, options: Options, faults: impl AsyncFnOnce(&Arc<Cluster>, &Load)) {
    test(async {
        let (cluster, outcome) = under_load(options, faults).await;
        struck.judge(&cluster, &outcome).await;
        cluster.assert_all_equal().await;
    });
}

/// One server hangs, is given up, and wakes: what it had in its sockets must not come late, it
/// returns by its journal.
fn hangs_and_wakes(struck: Struck) {
    all_return(struck, Options::servers(3), async |cluster, load| {
        let lost = struck.name(cluster).await;
        cluster.server(&lost).freeze();
        cluster.wait_inactive(&lost).await;
        load.goes_on(60, PAUSE).await;
        cluster.server(&lost).thaw();
        cluster.wait_active(&lost).await;
    });
}

/// The network to one server fails in every way, one after the other.
fn is_cut_off(struck: Struck) {
    all_return(struck, Options::servers(3).relays(), async |cluster, load| {
        for net in [Net::Cut, Net::Silent, Net::Mute] {
            let lost = struck.name(cluster).await;
            cluster.relay(&lost).set(net);
            cluster.wait_inactive(&lost).await;
            load.goes_on(40, PAUSE).await;
            cluster.relay(&lost).set(Net::Works);
            cluster.wait_active(&lost).await;
        }
    });
}

#[test]
fn a_follower_is_killed() {
    goes(Struck::Follower, Server::kill9);
}

#[test]
fn the_leader_is_killed() {
    goes(Struck::Leader, Server::kill9);
}

#[test]
fn a_follower_is_stopped_cleanly() {
    goes(Struck::Follower, Server::stop_fast);
}

#[test]
fn the_leader_is_stopped_cleanly() {
    goes(Struck::Leader, Server::stop_fast);
}

#[test]
fn a_follower_hangs_and_wakes() {
    hangs_and_wakes(Struck::Follower);
}

#[test]
fn the_leader_hangs_and_wakes() {
    hangs_and_wakes(Struck::Leader);
}

#[test]
fn the_network_to_a_follower_fails_in_every_way() {
    is_cut_off(Struck::Follower);
}

#[test]
fn the_network_to_the_leader_fails_in_every_way() {
    is_cut_off(Struck::Leader);
}

#[test]
fn a_slow_network_slows_and_breaks_nothing() {
    test(async {
        let (cluster, outcome) = under_load(Options::servers(3).relays(), async |cluster, load| {
            let slow = cluster.follower().await;
            cluster.relay(&slow).set(Net::Slow(Duration::from_millis(30)));
            load.goes_on(60, secs(30)).await;
            cluster.relay(&slow).set(Net::Works);
        })
        .await;
        outcome.nobody_noticed();
        outcome.judge(&cluster).await;
    });
}

#[test]
fn a_server_crashes_and_is_back_before_anyone_looks() {
    all_return(Struck::Leader, Options::servers(3), async |cluster, load| {
        for name in [cluster.follower().await, cluster.leader().await] {
            cluster.server(&name).crash_and_recover();
            load.goes_on(60, PAUSE).await;
            cluster.wait_active(&name).await;
        }
    });
}

#[test]
fn the_last_server_carries_on_alone() {
    test(async {
        let (cluster, outcome) = under_load(Options::servers(3), async |cluster, load| {
            for _ in 0..2 {
                let lost = cluster.leader().await;
                cluster.server(&lost).kill9();
                cluster.wait_inactive(&lost).await;
                load.goes_on(60, PAUSE).await;
            }
        })
        .await;
        Struck::Leader.judge(&cluster, &outcome).await;
        assert_eq!(cluster.active().await.len(), 1);
    });
}

#[test]
fn each_server_is_restarted_in_turn() {
    all_return(Struck::Leader, Options::servers(3), async |cluster, load| {
        for name in ["a", "b", "c"] {
            cluster.server(name).stop_fast();
            load.goes_on(40, PAUSE).await;
            cluster.server(name).start();
            cluster.wait_active(name).await;
        }
    });
}

#[test]
fn all_servers_at_once_are_waited_for() {
    test(async {
        let cluster = Options::servers(3).set("timeouts.hold", "\"6s\"").start().await;
        let app = cluster.connect().await;
        app.run("create table all_t(id int primary key); insert into all_t values (1)").await;
        for server in &cluster.servers {
            server.kill9();
        }
        let began = std::time::Instant::now();
        let answer = crate::rig::within(
            "an error",
            secs(25),
            app.simple_query("insert into all_t values (2)"),
        )
        .await;
        let error = answer.expect_err("nobody can have stored this");
        step(format!("after {:?}: {}", began.elapsed(), crate::rig::session::explain(&error)));
        assert!(error.as_db_error().is_some(), "the connection was dropped: {error:?}");
        let (status, _) = cluster.http("/readyz").await.expect("HTTP answers");
        assert_eq!(status, 503);
        for server in &cluster.servers {
            server.start();
        }
        cluster.wait_ready(secs(30)).await;
        for name in ["a", "b", "c"] {
            cluster.wait_active(name).await;
        }
        // The same connection goes on.
        app.run("insert into all_t values (3)").await;
        assert_eq!(app.one("select count(*) from all_t where id in (1, 3)").await, "2");
        cluster.assert_all_equal().await;
    });
}

#[test]
fn sessions_keep_what_is_theirs_when_the_leader_dies() {
    test(async {
        let cluster = Options::servers(3).start().await;
        let app = cluster.connect().await;
        app.run("create table keep_t(id serial primary key, v text, zone text default current_setting('timezone'))").await;
        app.run("set timezone to 'Asia/Tokyo'; set app.me to 'me'; prepare p(text) as insert into keep_t(v) values ($1) returning id").await;
        let prepared =
            app.prepare("insert into keep_t(v) values ($1) returning zone").await.unwrap();
        let writer = cluster.connect().await;
        writer.run("begin; insert into keep_t(v) values ('before'); savepoint s; insert into keep_t(v) values ('inner')").await;
        let reader = cluster.connect().await;
        reader.run("begin; select count(*) from keep_t").await;
        let snapshot = cluster.connect().await;
        snapshot.run("begin isolation level repeatable read; select count(*) from keep_t").await;
        let lost = cluster.leader().await;
        cluster.server(&lost).kill9();
        // The open transaction goes on where it was.
        writer.run("insert into keep_t(v) values ('after'); rollback to s; commit").await;
        assert_eq!(writer.column("select v from keep_t order by id").await, ["before"]);
        assert_eq!(
            reader.one("select count(*) from keep_t").await,
            "1",
            "READ COMMITTED sees the commit"
        );
        reader.run("commit").await;
        // A snapshot died with its server: 'retry' is the honest answer, and the connection stays.
        snapshot.fails("select count(*) from keep_t", "40001").await;
        snapshot.run("rollback; select 1").await;
        assert_eq!(app.one("show timezone").await, "Asia/Tokyo");
        assert_eq!(app.one("select current_setting('app.me')").await, "me");
        app.run("execute p('by name')").await;
        let row = app.query_one(&prepared, &[&"by protocol"]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "Asia/Tokyo");
        cluster.wait_inactive(&lost).await;
        cluster.assert_equal().await;
    });
}

#[test]
fn a_listener_hears_after_its_server_died() {
    test(async {
        let cluster = Options::servers(3).start().await;
        let mut listener = cluster.connect().await;
        listener.run("listen later").await;
        let lost = cluster.leader().await;
        cluster.server(&lost).kill9();
        cluster.wait_inactive(&lost).await;
        let sender = cluster.connect().await;
        crate::rig::eventually("a notification after the failover", secs(15), || async {
            sender.run("notify later, 'x'").await;
            Ok(())
        })
        .await;
        assert_eq!(listener.notification().await, "later:x");
    });
}
