//! Transactions: states, savepoints, isolation, failures.

use super::Pair;
use crate::rig::cluster::Cluster;
use crate::rig::{eventually, run, secs};

#[test]
fn states_and_warnings_are_those_of_one_server() {
    run(async {
        let mut pair = Pair::with("create table tx_t(id int primary key)").await;
        pair.queries(&[
            "commit",
            "rollback",
            "savepoint outside",
            "begin",
            "begin",
            "insert into tx_t values (1)",
            "select 1/0",
            "select 1",
            "insert into tx_t values (2)",
            "savepoint s",
            "commit",
            "select count(*) from tx_t",
            "start transaction isolation level serializable, read only, deferrable",
            "show transaction_isolation",
            "insert into tx_t values (3)",
            "abort",
            "begin read only",
            "insert into tx_t values (3)",
            "end",
            "begin; insert into tx_t values (4)",
            "commit and chain",
            "insert into tx_t values (5)",
            "rollback and chain",
            "select * from tx_t",
            "commit",
            "begin isolation level repeatable read",
            "set transaction isolation level serializable",
            "select count(*) from tx_t",
            "set transaction isolation level read committed",
            "rollback",
            "lock table tx_t",
            "begin",
            "lock table tx_t in access exclusive mode",
            "commit",
        ])
        .await;
        pair.cluster.same("tx_t").await;
    });
}

#[test]
fn savepoints_nest_and_survive_errors() {
    run(async {
        let mut pair =
            Pair::with("create table save_t(id int primary key, v text default 'v')").await;
        pair.queries(&[
            "begin",
            "insert into save_t values (1)",
            "savepoint a",
            "insert into save_t values (2)",
            "savepoint b",
            "insert into save_t values (1)",
            "insert into save_t values (3)",
            "rollback to b",
            "insert into save_t values (3)",
            "savepoint a",
            "update save_t set v = 'inner' where id = 3",
            "rollback to a",
            "release a",
            "select * from save_t order by id",
            "rollback to savepoint a",
            "insert into save_t values (4, clock_timestamp()::text is not null)",
            "release savepoint b",
            "rollback to a",
            "release savepoint missing",
            "rollback to a",
            "insert into save_t values (5)",
            "commit",
            "select * from save_t order by id",
        ])
        .await;
        pair.cluster.same("save_t").await;
    });
}

#[test]
fn deferred_constraints_are_checked_at_commit() {
    run(async {
        let mut pair = Pair::with(
            "create table defer_p(id int primary key);
             create table defer_c(id int primary key, p int references defer_p deferrable initially deferred,
                                  u int unique deferrable initially deferred)",
        )
        .await;
        pair.queries(&[
            "begin",
            "insert into defer_c values (1, 10, 1)",
            "insert into defer_p values (10)",
            "commit",
            "begin; insert into defer_c values (2, 11, 2)",
            "commit",
            "insert into defer_c values (3, 12, 3)",
            "begin; insert into defer_c values (4, 10, 4); update defer_c set u = 1 where id = 4",
            "set constraints all immediate",
            "rollback",
            "begin; set constraints all immediate",
            "insert into defer_c values (5, 13, 5)",
            "rollback",
            "begin; insert into defer_c values (6, 10, 6); update defer_c set u = 7 - u",
            "commit",
            "select * from defer_c order by id",
        ])
        .await;
        pair.cluster.same("defer%").await;
    });
}

#[test]
fn isolation_levels_see_what_they_should() {
    run(async {
        let cluster = Cluster::shared().await;
        let (one, two) = (cluster.connect().await, cluster.connect().await);
        one.run("create table iso_t(id int primary key, v int); insert into iso_t values (1, 0), (2, 0)").await;
        one.run("begin isolation level repeatable read").await;
        assert_eq!(one.one("select v from iso_t where id = 1").await, "0");
        two.run("update iso_t set v = 1 where id = 1").await;
        assert_eq!(
            one.one("select v from iso_t where id = 1").await,
            "0",
            "a snapshot does not move"
        );
        one.fails("update iso_t set v = v + 1 where id = 1", "40001").await;
        one.run("rollback").await;
        assert_eq!(one.one("select v from iso_t where id = 1").await, "1");
        // Write skew: one of two serializable transactions has to fail.
        for session in [&one, &two] {
            session.run("begin isolation level serializable").await;
            assert_eq!(session.one("select count(*) from iso_t where v < 5").await, "2");
        }
        one.run("update iso_t set v = 9 where id = 1").await;
        two.run("update iso_t set v = 9 where id = 2").await;
        one.run("commit").await;
        let refused = two.simple_query("commit").await;
        assert!(refused.is_err(), "both halves of a write skew were committed");
        two.run("rollback").await;
        assert_eq!(one.one("select count(*) from iso_t where v < 5").await, "1");
        cluster.same("iso_t").await;
    });
}

#[test]
fn locks_are_waited_for_and_deadlocks_found() {
    run(async {
        let cluster = Cluster::shared().await;
        let (one, two) = (cluster.connect().await, cluster.connect().await);
        one.run("create table lock_t(id int primary key, v int); insert into lock_t values (1, 0), (2, 0)").await;
        one.run("begin; update lock_t set v = 1 where id = 1").await;
        two.run("begin; update lock_t set v = 2 where id = 2").await;
        two.fails("select * from lock_t where id = 1 for update nowait", "55P03").await;
        two.run("rollback; begin; update lock_t set v = 2 where id = 2").await;
        assert_eq!(
            two.column("select id from lock_t order by id for update skip locked").await,
            ["2"]
        );
        let first = one.simple_query("update lock_t set v = v + 10 where id = 2");
        let second = two.simple_query("update lock_t set v = v + 10 where id = 1");
        let (first, second) = tokio::join!(first, second);
        let failed = [first.as_ref().err(), second.as_ref().err()];
        let codes: Vec<_> =
            failed.iter().flatten().filter_map(|e| e.code()).map(|c| c.code()).collect();
        assert_eq!(codes, ["40P01"], "one of the two is the victim, and the other goes on");
        let _ = tokio::join!(one.simple_query("commit"), two.simple_query("commit"));
        one.run("set lock_timeout to '200ms'; begin").await;
        two.run("begin; select * from lock_t for update").await;
        one.fails("update lock_t set v = 5 where id = 1", "55P03").await;
        two.run("rollback").await;
        one.run("rollback; reset lock_timeout; set statement_timeout to '200ms'").await;
        one.fails("select pg_sleep(5)", "57014").await;
        one.run("reset statement_timeout").await;
        cluster.same("lock_t").await;
    });
}

#[test]
fn a_vanished_client_leaves_nothing_behind() {
    run(async {
        let cluster = Cluster::shared().await;
        let judge = cluster.connect().await;
        judge.run("create table gone_t(id int primary key)").await;
        let lost = cluster.connect().await;
        lost.run("begin; insert into gone_t values (1)").await;
        drop(lost);
        let mut lost = cluster.wire().await;
        lost.send(&crate::rig::wire::query("copy gone_t from stdin")).await;
        lost.until(b'G').await;
        lost.send(&crate::rig::wire::copy_data(b"2\n3\n")).await;
        drop(lost);
        // Both rows are free again, on every server, soon.
        eventually("the keys to be free", secs(10), || async {
            let insert = "set lock_timeout to '1s'; insert into gone_t values (1), (2), (3)";
            judge.simple_query(insert).await.map(|_| ()).map_err(|e| e.to_string())
        })
        .await;
        cluster.same("gone_t").await;
    });
}
