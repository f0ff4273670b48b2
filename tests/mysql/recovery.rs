//! A server comes back: suspected, identified, caught up from the journal, and only then read.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::timeout;

use crate::cluster::{Cluster, all, run, value};
use crate::server::Server;
use crate::site::SHORT;

async fn away(cluster: &Cluster) -> usize {
    let lost = cluster.follower();
    cluster.servers[lost].kill();
    lost
}

/// What was chosen when a statement ran is what a server that was away gets, in the words and under the
/// settings of that moment.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_away_is_written_as_it_was() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table t(id int auto_increment primary key, v varchar(90), r double, n decimal(30, 10), \
             at timestamp(6) default now(6), d datetime, b varbinary(90))",
            "create table k(id int primary key, v int)",
            "create procedure p(x int) begin insert into k values(x, 1); update k set v = 5 where id < 0; end",
            "insert into t(v) values('before')",
        ],
    )
    .await;
    let lost = away(&cluster).await;
    all(
        &mut conn,
        &[
            "insert into t(v, r, b) values(uuid(), rand(), random_bytes(9)), (user(), rand(), 'x')",
            "set time_zone = '+09:00', sql_mode = '', div_precision_increment = 8",
            "insert into t(v, d, n) values(repeat('cut', 60), from_unixtime(0), 1 / 3)",
            "set names latin1, time_zone = default",
            "insert into t(v) values('caf\u{e9}'), (\"it's; a ; b -- c\"), ('/* x */ # y')",
            "set names utf8mb4, sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
            "insert into \"t\"(\"v\") values('a\\'), ('b'';c')",
            "set sql_mode = default",
            "select sqrt(2e0) into @d",
            "insert into t(r, n) values(@d / 3, @d / 3)",
            "insert into t(v) values(last_insert_id())",
            "update t set r = rand() where id % 2 = 0 limit 3",
            "delete from t order by rand() limit 1",
            "call p(1)",
            "start transaction",
            "insert into t(v) values('gone')",
            "rollback",
            "alter table t add column late int default 4",
            "insert into t(v, late) values('with it', 9)",
            "create table u(id int auto_increment primary key, uid char(36) default uuid())",
            "insert into u() values(), ()",
            "truncate table k",
            "insert into k select id, count(*) from t group by id",
            "create view w as select v from t",
            "set foreign_key_checks = 0",
            "create table c(id int primary key, kid int, foreign key(kid) references k(id))",
            "insert into c values(1, 999)",
            "set foreign_key_checks = 1",
        ],
    )
    .await;
    conn.exec_drop(
        "insert into t(v, r, b) values(?, ?, ?)",
        ("prepared", 0.1, b"\x00\xff".to_vec()),
    )
    .await
    .unwrap();
    cluster.wait_active(2).await;
    cluster.servers[lost].start();
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
    it_can_lead(&cluster, lost).await;
}

/// Numbers go on behind those that were given.
async fn it_can_lead(cluster: &Cluster, lost: usize) {
    let mut conn = cluster.connect().await;
    let highest: u64 = value(&mut conn, "select max(id) from t").await.parse().unwrap();
    while cluster.leader() != lost {
        let leader = cluster.leader();
        cluster.servers[leader].kill();
        cluster.wait_leader_other_than(leader).await;
    }
    run(&mut conn, "insert into t(v) values('after')").await;
    let next: u64 = value(&mut conn, "select max(id) from t").await.parse().unwrap();
    assert!(next > highest, "{next} after {highest}");
}

/// Transactions that are open while a server returns arrive whole, and hold nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_open_during_the_return_arrives_whole() {
    let cluster = Cluster::start(3).await;
    let (mut conn, mut idle, mut other) =
        (cluster.connect().await, cluster.connect().await, cluster.connect().await);
    run(&mut conn, "create table open_t(id int auto_increment primary key, v varchar(20), r double default rand())").await;
    let lost = away(&cluster).await;
    run(&mut conn, "insert into open_t(v) values('while away')").await;
    cluster.wait_active(2).await;
    all(
        &mut conn,
        &[
            "begin",
            "insert into open_t(v) values('first half')",
            "savepoint s",
            "insert into open_t(v) values('taken back')",
            "rollback to s",
        ],
    )
    .await;
    all(&mut idle, &["begin", "insert into open_t(v) values('idle')"]).await;
    cluster.servers[lost].start();
    cluster.wait_active(3).await;
    let beside = run(&mut other, "insert into open_t(v) values('beside')");
    timeout(Duration::from_secs(5), beside).await.expect("a write beside idle transactions");
    all(&mut conn, &["insert into open_t(v) values('second half')", "commit"]).await;
    run(&mut idle, "rollback").await;
    let rows = value(&mut other, "select group_concat(v order by v) from open_t").await;
    assert_eq!(rows, "beside,first half,second half,while away");
    cluster.assert_all_equal().await;
}

/// Servers that flush once a second lose commits in a crash that everybody was told of. They are back
/// before anyone has looked, and must not be taken for what they were.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_a_lazy_server_lost_are_not_missed() {
    let lazy = &["--innodb-flush-log-at-trx-commit=0"];
    let cluster = Cluster::start_on(3, lazy, "").await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key)").await;
    let mut id = 0;
    let write = async |conn: &mut Conn, id: &mut u32| {
        for _ in 0..40 {
            *id += 1;
            while let Err(error) = conn.query_drop(format!("insert into t values({id})")).await {
                let mysql_async::Error::Server(error) = error else { panic!("{error}") };
                assert_eq!(error.code, 1213, "{error}");
            }
        }
    };
    for leads in [false, true, false, true] {
        // A server's start is known to the second, give or take one.
        tokio::time::sleep(Duration::from_secs(3)).await;
        write(&mut conn, &mut id).await;
        let lost = if leads { cluster.leader() } else { cluster.follower() };
        cluster.servers[lost].kill();
        cluster.servers[lost].start();
        write(&mut conn, &mut id).await;
        cluster.wait_active(3).await;
        for _ in 0..6 {
            assert_eq!(
                value(&mut cluster.connect().await, "select count(*) from t").await,
                id.to_string()
            );
        }
        cluster.assert_all_equal().await;
    }
}

/// Until a server has been looked at and turned away, or mended; never both wrong and active.
async fn turned_away_or_equal(cluster: &Cluster, server: usize) -> bool {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let backend = cluster.backends()[server].clone();
    println!("{backend}");
    cluster.assert_active_equal().await;
    let away = backend["state"] != "active";
    assert!(!away || backend["reason"].as_str().is_some_and(|why| !why.is_empty()), "{backend}");
    away
}

/// An older copy of itself, a stranger, another member's twin, and one that was written to behind the
/// proxy's back.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_what_they_were_are_not_taken_for_it() {
    let cluster = Cluster::start_with(3, SHORT).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table t(id int primary key, v int)",
            "insert into t values(1, 1), (2, 2), (3, 3)",
        ],
    )
    .await;
    let lost = cluster.follower();
    cluster.servers[lost].stop();
    cluster.wait_active(2).await;
    let old = cluster.servers[lost].save();
    run(&mut conn, "update t set v = v + 10").await;
    cluster.servers[lost].start();
    cluster.wait_active(3).await;
    run(&mut conn, "update t set v = v + 100 where id < 3").await;
    // Older than what it has confirmed.
    cluster.servers[lost].stop();
    cluster.servers[lost].take(Some(&old));
    cluster.servers[lost].start();
    turned_away_or_equal(&cluster, lost).await;
    for _ in 0..6 {
        assert_eq!(
            value(&mut cluster.connect().await, "select sum(v) from t").await,
            "236",
            "an older copy was read"
        );
    }
    run(&mut conn, "insert into t values(4, 4)").await;
    // A stranger, and a twin.
    cluster.servers[lost].stop();
    cluster.servers[lost].take(None);
    cluster.servers[lost].start();
    assert!(turned_away_or_equal(&cluster, lost).await, "a stranger was let in");
    cluster.servers[lost].stop();
    let twin = cluster.follower();
    cluster.servers[twin].stop();
    let data = cluster.servers[twin].save();
    cluster.servers[twin].start();
    cluster.wait_active(2).await;
    cluster.servers[lost].take(Some(&data));
    cluster.servers[lost].start();
    assert!(
        turned_away_or_equal(&cluster, lost).await,
        "one server's twin was let in under another's name"
    );
    run(&mut conn, "insert into t values(5, 5)").await;
    assert_eq!(value(&mut conn, "select count(*) from t").await, "5");
    cluster.assert_active_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_to_a_server_that_was_away_is_noticed() {
    let cluster = Cluster::start_with(3, SHORT).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table t(id int primary key, v int)",
            "insert into t values(1, 1), (2, 2), (3, 3)",
        ],
    )
    .await;
    let lost = cluster.follower();
    cluster.servers[lost].stop();
    all(&mut conn, &["update t set v = 9 where id = 3", "create table late(id int primary key)"])
        .await;
    cluster.wait_active(2).await;
    // What the replay needs is gone there, before it can begin.
    let spare = Server::launch();
    spare.stop();
    spare.take(Some(&cluster.servers[lost].save()));
    spare.start();
    spare.root("delete from app.t where id = 3");
    spare.stop();
    cluster.servers[lost].take(Some(&spare.save()));
    cluster.servers[lost].start();
    turned_away_or_equal(&cluster, lost).await;
    run(&mut conn, "insert into t values(7, 7)").await;
    cluster.assert_active_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_no_longer_reaches_back_keeps_the_server_out() {
    let short =
        format!("{SHORT}[journal]\nmax_records = 20\nkeep_records = 5\nkeep_while_away = \"1s\"\n");
    let cluster = Cluster::start_with(3, &short).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int auto_increment primary key, r double default rand())")
        .await;
    let lost = away(&cluster).await;
    run(&mut conn, "insert into t() values()").await;
    cluster.wait_active(2).await;
    for _ in 0..60 {
        for _ in 0..40 {
            run(&mut conn, "insert into t() values()").await;
        }
        let kept = cluster.servers[cluster.leader()].root("select count(*) from lockstep.journal");
        let kept: u64 = kept.trim().parse().unwrap();
        let rows: u64 = value(&mut conn, "select count(*) from t").await.parse().unwrap();
        if kept < 100 && rows > 120 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    cluster.servers[lost].start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let backend = cluster.backends()[lost].clone();
    assert!(
        backend["state"] == "inactive"
            && backend["reason"].as_str().is_some_and(|why| why.contains("journal")),
        "{backend}"
    );
    run(&mut conn, "insert into t() values()").await;
    cluster.assert_active_equal().await;
}

/// Nobody is put out when nobody can be reached; clients wait, are told, and go on.
#[tokio::test(flavor = "multi_thread")]
async fn all_servers_at_once_are_waited_for() {
    let cluster = Cluster::start_with(3, &SHORT.replace("[pool]", "hold = \"6s\"\n[pool]")).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, &["create table t(id int primary key)", "insert into t values(1)"]).await;
    cluster.servers.iter().for_each(Server::kill);
    let told = timeout(Duration::from_secs(25), conn.query_drop("insert into t values(2)"))
        .await
        .expect("an answer");
    assert!(matches!(told, Err(mysql_async::Error::Server(_))), "{told:?}");
    cluster.servers.iter().for_each(Server::start);
    cluster.wait_active(3).await;
    // The same connection goes on.
    run(&mut conn, "insert into t values(3)").await;
    assert_eq!(value(&mut conn, "select count(*) from t where id in (1, 3)").await, "2");
    cluster.assert_all_equal().await;
}

/// What belongs to a session survives the leader, as far as it can; else the client is told to try again.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_keep_what_is_theirs_when_the_leader_dies() {
    let cluster = Cluster::start(3).await;
    let mut app = cluster.connect().await;
    all(
        &mut app,
        &[
            "create table keep_t(id int auto_increment primary key, v varchar(20), zone varchar(20))",
            "set time_zone = '+09:00', @me = 'me', sql_mode = 'ANSI'",
            "prepare p from 'insert into keep_t(v, zone) values(?, @@time_zone)'",
        ],
    )
    .await;
    let prepared = app.prep("insert into keep_t(v, zone) values(?, concat(@me, ?))").await.unwrap();
    let (mut writer, mut reader, mut snapshot) =
        (cluster.connect().await, cluster.connect().await, cluster.connect().await);
    for conn in [&mut writer, &mut reader] {
        run(conn, "set session transaction isolation level read committed").await;
    }
    all(
        &mut writer,
        &[
            "begin",
            "insert into keep_t(v) values('before')",
            "savepoint s",
            "insert into keep_t(v) values('inner')",
        ],
    )
    .await;
    all(&mut reader, &["begin", "select count(*) from keep_t"]).await;
    all(&mut snapshot, &["begin", "select count(*) from keep_t"]).await;
    let lost = cluster.leader();
    cluster.servers[lost].kill();
    all(&mut writer, &["insert into keep_t(v) values('after')", "rollback to s", "commit"]).await;
    assert_eq!(value(&mut writer, "select group_concat(v) from keep_t").await, "before");
    assert_eq!(
        value(&mut reader, "select count(*) from keep_t").await,
        "1",
        "READ COMMITTED sees the commit"
    );
    run(&mut reader, "commit").await;
    // A snapshot may have died with its server: then 'try again' is the honest answer.
    if let Err(error) = snapshot.query_drop("select count(*) from keep_t").await {
        assert!(
            matches!(&error, mysql_async::Error::Server(error) if error.code == 1213),
            "{error}"
        );
    }
    run(&mut snapshot, "rollback").await;
    assert_eq!(
        value(&mut app, "select concat(@@time_zone, @me, @@sql_mode like '%ANSI%')").await,
        "+09:00me1"
    );
    let _ = app.query_drop("execute p using 'by name'").await;
    app.exec_drop(&prepared, ("by protocol", "x")).await.unwrap();
    assert_eq!(value(&mut app, "select zone from keep_t where v = 'by protocol'").await, "mex");
    cluster.servers[lost].start();
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
}

/// What a proxy had open when it was killed is ended by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_killed_leaves_no_locks_behind() {
    let cluster = Cluster::start_with(3, SHORT).await;
    let (mut conn, mut open) = (cluster.connect().await, cluster.connect().await);
    all(
        &mut conn,
        &[
            "create table held_t(id int primary key, v int default 0)",
            "insert into held_t(id) values(1), (2)",
        ],
    )
    .await;
    all(
        &mut open,
        &["begin", "update held_t set v = 1 where id = 1", "insert into held_t values(3, 0)"],
    )
    .await;
    let waiting =
        tokio::spawn(
            async move { conn.query_drop("update held_t set v = v + 1 where id = 1").await },
        );
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.kill_proxy();
    cluster.start_proxy();
    assert!(waiting.await.unwrap().is_err());
    cluster.wait_active(3).await;
    let mut after = cluster.connect().await;
    run(&mut after, "set innodb_lock_wait_timeout = 10").await;
    all(&mut after, &["update held_t set v = 5 where id = 1", "insert into held_t values(3, 0)"])
        .await;
    cluster.assert_all_equal().await;
}
