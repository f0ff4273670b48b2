//! A server comes back: suspected, identified, caught up from the journal, and only then read. How it does
//! so while writes go on, and everything may die again, is in `tests/faults`.

use std::sync::Arc;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::server::DATABASE;
use crate::rig::{eventually, run_heavy, run_within, secs, step, within};

/// One dies, the others take writes, then all is off, and the one that died first is the first to
/// be back.
async fn stale_one_first(cluster: &Arc<Cluster>) -> (String, String) {
    let app = cluster.connect().await;
    app.run("create table stale_t(id int primary key, r float8 default random()); insert into stale_t values (1)").await;
    let stale = cluster.follower().await;
    cluster.server(&stale).stop_fast();
    app.run("insert into stale_t(id) values (2), (3)").await;
    cluster.wait_inactive(&stale).await;
    app.run("insert into stale_t(id) values (4)").await;
    let newest = cluster.leader().await;
    cluster.proxy_stop();
    for server in &cluster.servers {
        if server.is_running() {
            server.stop_fast();
        }
    }
    cluster.server(&stale).start();
    (stale, newest)
}

#[test]
fn the_stale_one_comes_first_and_is_not_served_from() {
    run_heavy(secs(90), async {
        let cluster = Options::servers(3).set("timeouts.startup_wait", "\"2s\"").start().await;
        let (stale, newest) = stale_one_first(&cluster).await;
        cluster.proxy_spawn();
        for _ in 0..40 {
            if let Ok((status, _)) = cluster.http("/readyz").await {
                assert_ne!(status, 200, "ready, with a server that lacks acknowledged commits");
            }
            let ask = async {
                let app = cluster.try_connect("app", "app", DATABASE).await.ok()?;
                app.simple_query("select count(*) from stale_t").await.ok()
            };
            let answer = tokio::time::timeout(std::time::Duration::from_millis(100), ask).await;
            assert!(!matches!(answer, Ok(Some(_))), "a stale server was read");
        }
        assert!(cluster.proxy_exited().is_none(), "the proxy gave up instead of waiting");
        cluster.server(&newest).start();
        cluster.wait_ready(secs(20)).await;
        assert_eq!(cluster.connect().await.one("select count(*) from stale_t").await, "4");
        cluster.wait_active(&stale).await;
        for server in cluster.servers.iter().filter(|s| !s.is_running()) {
            server.start();
            cluster.wait_active(&server.name).await;
        }
        cluster.assert_all_equal().await;
    });
}

#[test]
fn the_stale_one_is_known_without_the_state_file() {
    run_heavy(secs(90), async {
        let cluster = Options::servers(3).set("timeouts.startup_wait", "\"2s\"").start().await;
        let (stale, newest) = stale_one_first(&cluster).await;
        step("the state file is lost");
        std::fs::remove_dir_all(cluster.folder.join("state")).expect("a state folder");
        for server in cluster.servers.iter().filter(|s| !s.is_running()) {
            server.start();
        }
        cluster.proxy_spawn();
        // It may serve from what the databases say, or refuse and say how to go on; never from the
        // stale one.
        let served = eventually("an answer or the end of the proxy", secs(30), || async {
            if let Some(status) = cluster.proxy_exited() {
                assert!(!status.success());
                return Ok(false);
            }
            match cluster.http("/readyz").await {
                Ok((200, _)) => Ok(true),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        step(format!("served: {served}, stale {stale}, newest {newest}"));
        if served {
            assert_eq!(cluster.connect().await.one("select count(*) from stale_t").await, "4");
            cluster.wait_active(&stale).await;
            cluster.assert_all_equal().await;
        }
    });
}

#[test]
fn schema_changes_and_sequences_are_caught_up() {
    run_heavy(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table back_t(id serial primary key, v text, r float8 default random()); insert into back_t(v) values ('x')").await;
        let lost = cluster.follower().await;
        cluster.server(&lost).kill9();
        for sql in [
            "alter table back_t add column at timestamptz default now()",
            "create table back_u(id bigint generated always as identity primary key, v text unique, noise float8 default random())",
            "insert into back_u(v) select 'u' || g from generate_series(1, 50) g",
            "begin; insert into back_t(v) values ('gone'); rollback",
            "truncate back_t restart identity",
            "insert into back_t(v) select v from back_u where noise < 0.7",
            "create index on back_u(v); create function back_f() returns int language sql as 'select 1'",
            "delete from back_u where id in (select id from back_u order by random() limit 10)",
            "select setval('back_t_id_seq', 5000)",
            "create schema back_s; set search_path to back_s; create table here(id int); insert into here values (1); reset search_path",
            "set timezone to 'Asia/Tokyo'; set datestyle to german; insert into back_t(v, at) values ('set', '01.02.2024 03:04'); reset all",
            "grant select on back_u to app2; comment on table back_u is 'while away'",
            "drop function back_f()",
            "vacuum back_t",
        ] {
            app.run(sql).await;
        }
        let mut copy = crate::rig::wire::query("copy back_u(v) from stdin");
        copy.extend(crate::rig::wire::copy_data(b"copied 1\ncopied 2\n"));
        copy.extend(crate::rig::wire::copy_done());
        cluster.wire().await.talk(&copy, 1).await;
        cluster.wait_inactive(&lost).await;
        cluster.server(&lost).start();
        cluster.wait_active(&lost).await;
        cluster.assert_all_equal().await;
        // And it can lead: the numbers go on.
        while cluster.leader().await != lost {
            let leader = cluster.leader().await;
            cluster.server(&leader).kill9();
            cluster.wait_inactive(&leader).await;
        }
        let n: i64 =
            app.one("insert into back_t(v) values ('after') returning id").await.parse().unwrap();
        assert!(n > 5000, "{n} may have been given before");
        assert_eq!(app.one("select count(*) - count(distinct id) from back_u").await, "0");
    });
}

#[test]
fn a_transaction_that_is_open_during_the_return_arrives_whole() {
    run_heavy(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table open_t(id serial primary key, v text, r float8 default random())")
            .await;
        let lost = cluster.follower().await;
        cluster.server(&lost).kill9();
        app.run("insert into open_t(v) values ('while away')").await;
        cluster.wait_inactive(&lost).await;
        app.run("begin; insert into open_t(v) values ('first half'); savepoint s; insert into open_t(v) values ('taken back'); rollback to s").await;
        let idle = cluster.connect().await;
        idle.run("begin; insert into open_t(v) values ('idle')").await;
        cluster.server(&lost).start();
        // An idle transaction holds nobody up.
        cluster.wait_active(&lost).await;
        let other = cluster.connect().await;
        within(
            "a write beside idle transactions",
            secs(5),
            other.run("insert into open_t(v) values ('beside')"),
        )
        .await;
        app.run("insert into open_t(v) values ('second half'); commit").await;
        idle.run("rollback").await;
        let rows = other.column("select v from open_t order by v").await;
        assert_eq!(rows, ["beside", "first half", "second half", "while away"]);
        cluster.assert_all_equal().await;
    });
}

/// Until the backend has been looked at and turned away, or has been mended; never both wrong and
/// active.
async fn turned_away_or_equal(cluster: &Cluster, name: &str) -> bool {
    tokio::time::sleep(secs(4)).await;
    let backend = cluster.backends().await[name].clone();
    step(format!("{name} is {backend:?}"));
    if backend["state"] == "active" {
        cluster.assert_all_equal().await;
        return false;
    }
    assert!(!backend["reason"].is_empty(), "turned away without a reason: {backend:?}");
    cluster.assert_equal().await;
    true
}

#[test]
fn an_older_copy_of_itself_is_not_taken_for_itself() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table older_t(id serial primary key, v text)").await;
        let lost = cluster.follower().await;
        cluster.server(&lost).stop_fast();
        let saved = cluster.server(&lost).save_data();
        cluster.server(&lost).start();
        cluster.wait_active(&lost).await;
        app.run("insert into older_t(v) select 'acknowledged by all' from generate_series(1, 20)")
            .await;
        // The server restarts so fast that nobody misses it, and has forgotten what it had said yes
        // to.
        cluster.server(&lost).stop_immediate();
        cluster.server(&lost).take_data_of(&saved);
        cluster.server(&lost).start();
        for _ in 0..30 {
            assert_eq!(
                app.one("select count(*) from older_t").await,
                "20",
                "an older copy was read"
            );
        }
        app.run("insert into older_t(v) values ('after')").await;
        turned_away_or_equal(&cluster, &lost).await;
    });
}

#[test]
fn another_server_at_the_same_address_is_not_let_in() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table other_t(id int primary key); insert into other_t values (1)").await;
        let lost = cluster.follower().await;
        cluster.server(&lost).stop_fast();
        app.run("insert into other_t values (2)").await;
        cluster.wait_inactive(&lost).await;
        // An empty one, and then one that is another member's twin.
        let stranger = crate::rig::server::Server::prepare("stranger", 4, false);
        cluster.server(&lost).take_data_of(&stranger.data);
        cluster.server(&lost).start();
        assert!(turned_away_or_equal(&cluster, &lost).await, "a stranger was let in");
        cluster.server(&lost).stop_fast();
        let twin = cluster.follower().await;
        cluster.server(&twin).stop_fast();
        let data = cluster.server(&twin).save_data();
        cluster.server(&twin).start();
        cluster.wait_active(&twin).await;
        cluster.server(&lost).take_data_of(&data);
        cluster.server(&lost).start();
        assert!(
            turned_away_or_equal(&cluster, &lost).await,
            "one server's twin was let in under another's name"
        );
        app.run("insert into other_t values (3)").await;
        assert_eq!(app.one("select count(*) from other_t").await, "3");
    });
}

#[test]
fn writes_behind_the_proxys_back_while_away_are_not_overlooked() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table behind_t(id int primary key, v int); insert into behind_t select g, 0 from generate_series(1, 5) g").await;
        let lost = cluster.follower().await;
        cluster.server(&lost).stop_fast();
        app.run("update behind_t set v = 1 where id = 3").await;
        cluster.wait_inactive(&lost).await;
        cluster.server(&lost).start();
        // What the replay needs is gone there: the replay must notice.
        cluster.server(&lost).admin().await.run("delete from behind_t where id = 3").await;
        turned_away_or_equal(&cluster, &lost).await;
    });
}

#[test]
fn a_journal_that_no_longer_reaches_back_keeps_the_server_out() {
    run_within(secs(90), async {
        let short =
            Options::servers(3).set("journal.max_records", "20").set("journal.keep_records", "5");
        let cluster = short.set("journal.keep_while_away", "\"1s\"").start().await;
        let app = cluster.connect().await;
        app.run("create table prune_t(id serial primary key, v float8 default random())").await;
        let lost = cluster.follower().await;
        cluster.server(&lost).kill9();
        app.run("insert into prune_t default values").await;
        cluster.wait_inactive(&lost).await;
        eventually("the journal to be pruned", secs(30), || async {
            for _ in 0..40 {
                app.run("insert into prune_t default values").await;
            }
            let kept: i64 = cluster
                .server(&cluster.leader().await)
                .admin()
                .await
                .one("select count(*) from lockstep.journal")
                .await
                .parse()
                .unwrap();
            if kept < 100 && app.one("select count(*) > 120 from prune_t").await == "t" {
                Ok(())
            } else {
                Err(format!("{kept} records"))
            }
        })
        .await;
        cluster.server(&lost).start();
        eventually("the server to be turned away with a reason", secs(20), || async {
            let backend = cluster.backends().await[&lost].clone();
            assert_ne!(backend["state"], "active", "{backend:?}");
            if backend["state"] == "inactive" && backend["reason"].contains("journal") {
                Ok(())
            } else {
                Err(format!("{backend:?}"))
            }
        })
        .await;
        app.run("insert into prune_t default values").await;
        cluster.assert_equal().await;
    });
}
