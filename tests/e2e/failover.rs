//! A server dies, hangs or is cut off, under load: nobody is disconnected, no transaction at READ
//! COMMITTED fails for it, nothing acknowledged is lost, and what remains agrees.

use std::sync::Arc;
use std::time::Duration;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::{run_heavy, secs, step};

// Killed, stopped, frozen, cut off, in turn and together, under load: `tests/faults`.
crate::faults::faults!(under_load, Arc<Cluster>);

fn under_load(work: impl Future<Output = ()>) {
    run_heavy(secs(180), work);
}

fn test(work: impl Future<Output = ()>) {
    run_heavy(secs(120), work);
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
        let lost = cluster.kill_leader().await;
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
fn who_comes_first_at_the_next_leader_is_not_written_over() {
    test(async {
        let cluster = Options::servers(3).start().await;
        let (old, new) = (cluster.connect().await, cluster.connect().await);
        old.run("create table over_t(id int primary key, n int); insert into over_t values (1, 0)")
            .await;
        // Too short to be sent before its end: its locks are on the leader alone.
        old.run("begin isolation level repeatable read").await;
        assert_eq!(old.one("select n from over_t where id = 1 for update").await, "0");
        old.run("update over_t set n = 1 where id = 1").await;
        cluster.lose_leader().await;
        new.run("update over_t set n = n + 5 where id = 1").await;
        old.fails("commit", "40001").await;
        assert_eq!(new.one("select n from over_t").await, "5");
        // Nothing is left of it, and the session goes on.
        old.run("update over_t set n = n + 1 where id = 1").await;
        assert_eq!(new.one("select n from over_t").await, "6");
    });
}

#[test]
fn rows_that_were_only_locked_are_nobody_elses_until_the_commit() {
    test(async {
        let cluster = Options::servers(3).start().await;
        let (one, two) = (cluster.connect().await, cluster.connect().await);
        one.run("create table only_t(id int primary key, n int); insert into only_t values (1, 0), (2, 0), (3, 0), (4, 0)")
            .await;
        let locks = |id: u32| {
            format!(
                "begin; select n from only_t where id = {id} for update; update only_t set n = 1 where id = {}",
                id + 1
            )
        };
        one.run(&locks(1)).await;
        two.run(&locks(3)).await;
        cluster.lose_leader().await;
        let other = cluster.connect().await;
        let update = async { other.run("update only_t set n = n + 5 where id = 1").await };
        let commits = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            one.run("update only_t set n = 2 where id = 1; commit").await;
            two.run("commit").await;
        };
        tokio::join!(update, commits);
        assert_eq!(one.column("select n from only_t order by id").await, ["7", "1", "0", "1"]);
        cluster.assert_equal().await;
    });
}

#[test]
fn what_the_next_leader_lacked_when_it_began_to_lead_comes_before_everybody_else() {
    test(async {
        let cluster = Options::servers(3).start().await;
        let (old, new) = (cluster.connect().await, cluster.connect().await);
        old.run(
            "create table lacks_t(id int primary key, n int); insert into lacks_t values (1, 0)",
        )
        .await;
        assert_eq!(cluster.leader().await, "a");
        // Somebody on the next leader keeps the share from having the row, and from having it again.
        let holder = cluster.server("b").admin().await;
        holder.run("begin; select from lacks_t for update").await;
        old.run("begin; update lacks_t set n = 1").await;
        let commit = async { old.run("commit").await };
        let strike = async {
            // The share waits for two seconds, and for as long once more.
            tokio::time::sleep(Duration::from_millis(2800)).await;
            cluster.lose_leader().await;
            assert_eq!(cluster.leader().await, "b");
            let comes = async { new.run("update lacks_t set n = n + 5").await };
            tokio::join!(comes, holder.run("rollback"));
        };
        tokio::join!(commit, strike);
        assert_eq!(new.one("select n from lacks_t").await, "6");
        cluster.wait_active("b").await;
        cluster.assert_equal().await;
    });
}

#[test]
fn a_listener_hears_after_its_server_died() {
    test(async {
        let cluster = Options::servers(3).start().await;
        let mut listener = cluster.connect().await;
        listener.run("listen later").await;
        cluster.lose_leader().await;
        let sender = cluster.connect().await;
        crate::rig::eventually("a notification after the failover", secs(15), || async {
            sender.run("notify later, 'x'").await;
            Ok(())
        })
        .await;
        assert_eq!(listener.notification().await, "later:x");
    });
}

#[test]
fn numbers_that_clients_were_told_do_not_come_again() {
    test(async {
        let cluster = Options::servers(3).start().await;
        let app = cluster.connect().await;
        app.run(
            "create sequence up_s; create sequence down_s increment -3; create sequence gone_s",
        )
        .await;
        app.run("select nextval('up_s'), nextval('down_s'), nextval('gone_s')").await;
        let draw =
            "select count(nextval('up_s')), count(nextval('down_s')) from generate_series(1, 200)";
        let next = "select nextval('up_s'), nextval('down_s')";
        let numbers = |rows: Vec<Vec<Option<String>>>| -> (i64, i64) {
            let [Some(up), Some(down)] = &rows[0][..] else { panic!("{rows:?}") };
            (up.parse().unwrap(), down.parse().unwrap())
        };
        for all in [false, true] {
            // Nothing of this is stored, or sent ahead: the followers do not learn of it.
            app.run("begin isolation level repeatable read").await;
            app.run(draw).await;
            let told = numbers(app.rows(next).await);
            app.run("rollback").await;
            // One that somebody is about to drop holds nobody up.
            let other = cluster.connect().await;
            other.run("begin; drop sequence if exists gone_s").await;
            cluster.lose_leader().await;
            if all {
                for name in cluster.active().await {
                    cluster.server(&name).kill9();
                }
                for server in &cluster.servers {
                    server.start();
                }
                cluster.wait_ready(secs(30)).await;
            }
            let now = numbers(app.rows(next).await);
            assert!(now.0 > told.0 && now.1 < told.1, "{told:?} were told, and then {now:?}");
            drop(other);
        }
        for name in ["a", "b", "c"] {
            cluster.wait_active(name).await;
        }
        cluster.assert_all_equal().await;
    });
}
