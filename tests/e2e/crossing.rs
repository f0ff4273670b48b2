//! The leader dies under transactions that are open: they are at the next one, with their locks, before anybody else does
//! anything there, whatever their clients do meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::wire::{lines, query};
use crate::rig::{run_heavy, runtime, secs};

/// Long enough to tell whoever waits from whoever does not.
const WHILE: Duration = Duration::from_millis(700);

fn test(work: impl Future<Output = ()>) {
    run_heavy(secs(120), work);
}

/// Three servers that give open transactions so long to come over, and a table that everybody changes.
async fn ready(carry_over: &str) -> Arc<Cluster> {
    let cluster = Options::servers(3).set("timeouts.carry_over", carry_over).start().await;
    let rows = "(1, 'x', 100), (2, 'y', 100), (3, 'z', 100)";
    let table = "create table cross_t(id int primary key, owner text, n int)";
    cluster.connect().await.run(&format!("{table}; insert into cross_t values {rows}")).await;
    cluster
}

/// Somebody else's statement, on its way.
async fn sent(cluster: &Cluster, sql: &str) -> JoinHandle<String> {
    let (session, sql) = (cluster.connect().await, sql.to_owned());
    let answer = runtime().spawn(async move { session.one(&sql).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    answer
}

/// Its answer, while which nobody else has to do anything.
async fn answered(other: JoinHandle<String>) -> String {
    crate::rig::within("somebody else's answer", secs(15), other).await.expect("an answer")
}

/// What the leader works out, and the followers get as a value.
const MORE: &str = "update cross_t set n = n + 10 where owner = 'x' returning n";

#[test]
fn values_that_were_worked_out_before_write_over_nothing() {
    test(async {
        let cluster = ready("\"30s\"").await;
        let app = cluster.connect().await;
        app.run("begin").await;
        assert_eq!(app.one(MORE).await, "110");
        let waits = sent(&cluster, MORE).await;
        cluster.lose_leader().await;
        let comes = sent(&cluster, MORE).await;
        tokio::time::sleep(WHILE).await;
        assert!(!waits.is_finished() && !comes.is_finished(), "the row is somebody's");
        app.run("commit").await;
        let mut others = [answered(waits).await, answered(comes).await];
        others.sort();
        assert_eq!(others, ["120", "130"]);
        cluster.assert_equal().await;
    });
}

#[test]
fn rows_that_were_locked_and_changed_are_locked_again() {
    test(async {
        let cluster = ready("\"30s\"").await;
        let app = cluster.connect().await;
        assert_eq!(app.one("begin; select n from cross_t where id = 1 for update").await, "100");
        assert_eq!(app.one("select n from cross_t where owner = 'y' for update").await, "100");
        app.run("update cross_t set n = 7 where id = 1").await;
        cluster.lose_leader().await;
        let waits = sent(&cluster, "update cross_t set n = n + 1 where id = 2 returning n").await;
        tokio::time::sleep(WHILE).await;
        assert!(!waits.is_finished(), "the row was locked, and not changed");
        app.run("update cross_t set n = n + 7 where id = 1; commit").await;
        assert_eq!(answered(waits).await, "101");
        assert_eq!(app.column("select n from cross_t order by id").await, ["14", "101", "100"]);
        cluster.assert_equal().await;
    });
}

#[test]
fn who_has_an_error_can_go_back_to_a_savepoint_on_the_next_leader() {
    test(async {
        let cluster = ready("\"30s\"").await;
        let app = cluster.connect().await;
        app.run("begin; update cross_t set n = 1 where id = 1; savepoint s").await;
        app.run("update cross_t set n = 2 where id = 2").await;
        app.fails("insert into cross_t values (1, 'twice', 0)", "23505").await;
        // What came after the savepoint is nobody's any more, here and there.
        let comes = sent(&cluster, "update cross_t set n = 3 where id = 2 returning n").await;
        assert_eq!(answered(comes).await, "3");
        cluster.lose_leader().await;
        app.fails("select 1", "25P02").await;
        app.run("rollback to s; update cross_t set n = n + 30 where id = 3; commit").await;
        assert_eq!(app.column("select n from cross_t order by id").await, ["1", "3", "130"]);
        cluster.assert_equal().await;
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_for_long() {
    test(async {
        let cluster = ready("\"1500ms\"").await;
        let mut app = cluster.wire().await;
        app.query("begin").await;
        app.query("update cross_t set n = 1 where id = 1").await;
        app.send(&query("select repeat('x', 1000) from cross_t, generate_series(1, 100000)")).await;
        tokio::time::sleep(WHILE).await;
        cluster.kill_leader().await;
        let began = Instant::now();
        let other = cluster.connect().await;
        assert_eq!(other.one("update cross_t set n = 2 where id = 1 returning n").await, "2");
        let took = began.elapsed();
        assert!(took > Duration::from_millis(1400), "nobody waited for it: {took:?}");
        assert!(took < secs(8), "it was waited for too long: {took:?}");
        let end = lines(&app.until_ready(1).await);
        assert!(end.iter().any(|line| line.contains("40001")), "{:?}", end.last());
        app.query("rollback").await;
        assert_eq!(other.one("select n from cross_t where id = 1").await, "2");
        cluster.assert_equal().await;
    });
}

#[test]
fn who_says_nothing_in_the_middle_of_a_copy_holds_up_nobody() {
    test(async {
        let cluster = ready("\"30s\"").await;
        let mut app = cluster.wire().await;
        app.query("begin").await;
        app.query("update cross_t set n = 1 where id = 1").await;
        app.send(&query("copy cross_t from stdin")).await;
        app.until(b'G').await;
        app.send(&crate::rig::wire::copy_data(b"8\tcopied\t0\n")).await;
        cluster.kill_leader().await;
        let began = Instant::now();
        let other = cluster.connect().await;
        assert_eq!(other.one("update cross_t set n = n + 5 where id = 1 returning n").await, "105");
        assert!(began.elapsed() < secs(12), "{:?}", began.elapsed());
        app.send(&crate::rig::wire::copy_done()).await;
        let end = lines(&app.until_ready(1).await);
        assert!(end.iter().any(|line| line.contains("40001")), "{end:?}");
        app.query("rollback").await;
        assert_eq!(other.one("select count(*) from cross_t").await, "3");
        cluster.assert_equal().await;
    });
}

#[test]
fn a_snapshot_that_is_lost_holds_up_nobody_and_is_told_with_whatever_comes_next() {
    test(async {
        let cluster = ready("\"30s\"").await;
        let begin = "begin isolation level repeatable read; update cross_t set n = 1 where id =";
        let (next, commits, undoes) =
            (cluster.connect().await, cluster.connect().await, cluster.connect().await);
        for (id, app) in [&next, &commits, &undoes].into_iter().enumerate() {
            app.run(&format!("{begin} {}", id + 1)).await;
        }
        cluster.kill_leader().await;
        let began = Instant::now();
        cluster.connect().await.run("update cross_t set n = n + 5").await;
        assert!(began.elapsed() < secs(12), "{:?}", began.elapsed());
        next.fails("select 1", "40001").await;
        next.fails("select 1", "25P02").await;
        next.run("rollback").await;
        commits.fails("commit", "40001").await;
        // As on one server: whose COMMIT has failed is in no transaction.
        commits.run("select 1").await;
        undoes.run("rollback").await;
        for app in [next, commits, undoes] {
            assert_eq!(app.one("select sum(n) from cross_t").await, "315");
        }
        cluster.assert_equal().await;
    });
}
