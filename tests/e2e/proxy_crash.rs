//! kill -9 of the proxy at any moment: after the restart nothing acknowledged is missing anywhere,
//! nothing is there twice, and all servers agree before the first client is served.

use rand::Rng;

use crate::divergence::{commits_held_on, commits_wait, let_commits_go};
use crate::rig::cluster::{Cluster, Options};
use crate::rig::judge::together;
use crate::rig::load::Load;
use crate::rig::wire::query;
use crate::rig::{eventually, run_heavy, run_within, runtime, secs, step};

/// What a client may see when the proxy itself goes: a broken connection, or the server's words for
/// that.
const GONE: [&str; 7] = ["-", "57P01", "57P02", "57P03", "08006", "08003", "08001"];

#[test]
fn the_proxy_is_killed_at_random_moments() {
    run_heavy(secs(180), async {
        let cluster = Cluster::start(3).await;
        let load = Load::start(&cluster, 16).await;
        load.goes_on(40, secs(20)).await;
        for round in 0..6 {
            let wait = rand::rng().random_range(200..1400);
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
            step(format!("round {round}, after {wait} ms"));
            cluster.proxy_kill9();
            cluster.proxy_start().await;
            load.goes_on(30, secs(25)).await;
        }
        let outcome = load.stop().await;
        outcome.failed_only_with(&GONE);
        outcome.judge(&cluster).await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn the_servers_agree_before_anyone_is_served() {
    run_heavy(secs(120), async {
        let cluster = Cluster::start(3).await;
        let mut outcomes = Vec::new();
        for round in 0..3 {
            let load = if round == 0 {
                Load::start(&cluster, 12).await
            } else {
                Load::again(&cluster, 12)
            };
            load.goes_on(40, secs(20)).await;
            cluster.proxy_kill9();
            outcomes.push(load.stop().await);
            cluster.proxy_start().await;
            let names: Vec<String> = cluster.servers.iter().map(|s| s.name.clone()).collect();
            cluster.assert_equal_on(&names).await;
        }
        let outcome = together(outcomes);
        outcome.failed_only_with(&GONE);
        outcome.judge(&cluster).await;
    });
}

#[test]
fn the_proxy_and_a_server_die_together() {
    run_heavy(secs(180), async {
        let cluster = Cluster::start(3).await;
        let load = Load::start(&cluster, 12).await;
        for server_first in [true, false] {
            load.goes_on(40, secs(25)).await;
            let lost = if server_first { cluster.leader().await } else { cluster.follower().await };
            cluster.server(&lost).kill9();
            cluster.proxy_kill9();
            if server_first {
                cluster.server(&lost).start();
                cluster.proxy_start().await;
            } else {
                cluster.proxy_start().await;
                load.goes_on(30, secs(25)).await;
                cluster.server(&lost).start();
            }
            load.goes_on(40, secs(25)).await;
            cluster.wait_active(&lost).await;
        }
        let outcome = load.stop().await;
        outcome.failed_only_with(&[&GONE[..], &["40001"]].concat());
        outcome.judge(&cluster).await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn everything_dies_within_a_second() {
    run_heavy(secs(120), async {
        let cluster = Options::servers(3).fsync().start().await;
        let load = Load::start(&cluster, 10).await;
        load.goes_on(60, secs(25)).await;
        for server in &cluster.servers {
            server.kill9();
        }
        cluster.proxy_kill9();
        for server in cluster.servers.iter().rev() {
            server.start();
        }
        cluster.proxy_start().await;
        for server in &cluster.servers {
            cluster.wait_active(&server.name).await;
        }
        load.goes_on(40, secs(25)).await;
        let outcome = load.stop().await;
        outcome.failed_only_with(&[&GONE[..], &["40001"]].concat());
        outcome.judge(&cluster).await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn nothing_of_a_killed_proxy_holds_locks_for_long() {
    run_within(secs(60), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table held_t(id int primary key, v int default 0); insert into held_t values (1), (2)").await;
        let open = cluster.connect().await;
        open.run("begin; update held_t set v = 1 where id = 1; insert into held_t values (3)")
            .await;
        let mut waiting = cluster.wire().await;
        waiting.send(&query("update held_t set v = v + 1 where id = 1")).await;
        cluster.proxy_kill9();
        cluster.proxy_start().await;
        let after = cluster.connect().await;
        eventually("the row to be free", secs(15), || async {
            let write = "set lock_timeout to '500ms'; update held_t set v = 5 where id = 1; insert into held_t values (3)";
            after.simple_query(write).await.map(|_| ()).map_err(|e| crate::rig::session::explain(&e))
        })
        .await;
        assert_eq!(after.one("select v from held_t where id = 1").await, "5");
        cluster.assert_all_equal().await;
    });
}

/// What a proxy had sent before it was killed may still be under way on the servers when the next
/// one has looked at their journals: it must never come to its end (I6).
#[test]
fn a_commit_of_the_former_proxy_does_not_come_late() {
    run_within(secs(60), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table former_t(id int primary key)").await;
        app.run("begin; insert into former_t values (1)").await;
        let identity = app.one("show lockstep.transaction_id").await;
        let mut held = Vec::new();
        for server in &cluster.servers {
            held.push(commits_held_on(&cluster, &server.name).await);
        }
        let commit = runtime().spawn(async move { app.batch_execute("commit").await });
        for admin in &held {
            commits_wait(admin, 1).await;
        }
        cluster.proxy_kill9();
        assert!(commit.await.unwrap().is_err());
        cluster.proxy_start().await;
        let status = format!("select lockstep.transaction_status('{identity}')");
        assert_eq!(cluster.connect().await.one(&status).await, "aborted");
        // Should one of them come late, it comes late on some servers, and not on this one.
        let others = "select pg_terminate_backend(pid) from pg_stat_activity where query = 'COMMIT' and wait_event = 'advisory'";
        assert_eq!(held[2].column(others).await, [""; 0], "sessions of the former proxy live on");
        for admin in &held {
            let_commits_go(admin).await;
        }
        cluster.assert_all_equal().await;
        let after = cluster.connect().await;
        assert_eq!(after.one("select count(*) from former_t").await, "0", "it came late");
        assert_eq!(after.one(&status).await, "aborted");
        after.run("insert into former_t values (1)").await;
        cluster.assert_all_equal().await;
    });
}
