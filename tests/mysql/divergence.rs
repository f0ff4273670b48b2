//! One server answers otherwise than the others: it goes, with the reason kept, and the right ones stay.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::timeout;

use crate::cluster::{Cluster, agree, all, refused, run, value};

/// A server that was put out stays so, for the test to look at.
const MANUAL: &str = "reactivate = \"manual\"\n";

const TABLE: &[&str] = &[
    "create table odd_t(id int primary key, v int, r double default rand(), at timestamp(6) default now(6))",
    "insert into odd_t(id, v) select seq, seq from seq_1_to_10",
];

/// A cluster with a table, and a follower whose content is spoilt.
async fn spoilt(more: &str, spoil: &str) -> (Cluster, Conn, usize) {
    let cluster = Cluster::start_with(3, more).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, TABLE).await;
    let follower = cluster.follower();
    cluster.servers[follower].root(&format!("use app; {spoil}"));
    (cluster, conn, follower)
}

async fn is_given_up(cluster: &Cluster, odd: usize) {
    let reason = cluster.wait_inactive(odd).await;
    assert!(!reason.is_empty(), "no reason is kept:\n{}", cluster.log());
    cluster.wait_active(2).await;
    cluster.assert_active_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_missing_others_or_too_many() {
    for (spoil, write) in [
        ("delete from odd_t where id = 5", "update odd_t set v = 50 where id = 5"),
        (
            "delete from odd_t where id = 5",
            "update odd_t set v = v + 1, r = rand() where v between 4 and 6",
        ),
        ("delete from odd_t where id = 5", "delete from odd_t where id = 5"),
        ("delete from odd_t where id = 5", "delete from odd_t where id = 5 limit 1"),
        ("insert into odd_t values(77, 1, 1, now())", "insert into odd_t(id, v) values(77, 7)"),
        (
            "insert into odd_t values(77, 1, 1, now())",
            "insert into odd_t(id, v) select 77, count(*) from odd_t where rand() < 2",
        ),
    ] {
        let (cluster, mut conn, odd) = spoilt(MANUAL, spoil).await;
        run(&mut conn, "update odd_t set r = 0.25 where id = 4").await;
        assert_eq!(cluster.backends().iter().filter(|b| b["state"] == "active").count(), 3);
        println!("{spoil}; {write}");
        conn.query_drop(write).await.unwrap_or_else(|error| panic!("{write}: {error}"));
        is_given_up(&cluster, odd).await;
    }
}

/// On one server everything works but writing, or one statement.
#[tokio::test(flavor = "multi_thread")]
async fn one_alone_refuses_to_write() {
    let full = "create trigger spoil before insert on odd_t for each row \
                signal sqlstate 'HY000' set mysql_errno = 1114, message_text = 'The table is full'";
    for spoil in [full, "create table odd_new(other text)", "set global read_only = 1"] {
        let (cluster, mut conn, odd) = spoilt(MANUAL, spoil).await;
        run(&mut conn, "create table odd_new(id int primary key)").await;
        run(&mut conn, "insert into odd_t(id, v) values(50, 50)").await;
        is_given_up(&cluster, odd).await;
        run(&mut conn, "insert into odd_new values(1)").await;
        cluster.assert_active_equal().await;
    }
    // On the leader alone: it is the leader that goes, or the client that is told; nobody loses anything.
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, TABLE).await;
    let leader = cluster.leader();
    cluster.servers[leader].root("set global read_only = 1");
    let said =
        timeout(Duration::from_secs(25), conn.query_drop("insert into odd_t(id, v) values(60, 6)"))
            .await;
    println!("a leader that is read-only: {said:?}");
    assert!(
        !matches!(said.expect("an answer"), Err(mysql_async::Error::Io(_))),
        "the client was dropped"
    );
    cluster.servers[leader].root("set global read_only = 0");
    cluster.wait_active(3).await;
    run(&mut conn, "insert into odd_t(id, v) values(61, 6)").await;
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_one_alone_does_not_stop_the_others() {
    let (cluster, mut conn, odd) = spoilt("[timeouts]\nfollower_lock = \"1s\"\n", "do 1").await;
    let mut holder = cluster.administrator(odd).await;
    run(&mut holder, "start transaction").await;
    run(&mut holder, "select * from app.odd_t for update").await;
    let write = conn.query_drop("update odd_t set v = 9 where id = 1");
    timeout(Duration::from_secs(25), write).await.expect("a write goes on").unwrap();
    is_given_up(&cluster, odd).await;
    run(&mut holder, "rollback").await;
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
}

/// Text, language and warnings are no difference; errors that all give are the client's.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_sounds_different_puts_nobody_out() {
    let cluster = Cluster::start(3).await;
    let odd = cluster.follower();
    let german = "set global lc_messages = 'de_DE'; set global note_verbosity = 'basic'; set global sql_notes = 0";
    let spoken = cluster.servers[odd].try_root(german);
    println!("another language: {spoken:?}");
    let mut conn = cluster.connect().await;
    all(&mut conn, TABLE).await;
    all(
        &mut conn,
        &[
            "create table alike_t(id int primary key check (id < 100), s varchar(3), p int, foreign key(p) references odd_t(id))",
            "insert into alike_t(id) values(1)",
            "create procedure shout(n int) begin if n = 0 then signal sqlstate '45000'; end if; insert into alike_t(id) values(n); end",
            "set sql_mode = ''",
            "insert into alike_t values(2, 'too long', null)",
            "insert ignore into alike_t(id, p) values(1, 1), (3, 999)",
            "set sql_mode = default",
            "drop table if exists nowhere",
            "create table if not exists alike_t(id int)",
        ],
    )
    .await;
    for (sql, number) in [
        ("insert into alike_t(id) values(1)", 1062),
        ("insert into alike_t(id) values(100)", 4025),
        ("insert into alike_t(id) select seq from seq_50_to_150", 4025),
        ("insert into alike_t(id, p) values(7, 999)", 1452),
        ("insert into alike_t(id, s) values(7, 'long')", 1406),
        ("update alike_t set id = 1 / 0", 1365),
        ("delete from odd_t where nowhere = 1", 1054),
        ("call shout(0)", 1644),
        ("select (select id from odd_t)", 1242),
    ] {
        for open in ["do 1", "start transaction"] {
            run(&mut conn, open).await;
            assert_eq!(refused(&mut conn, sql).await, number, "{sql}");
            run(&mut conn, "insert into odd_t(id, v) values(90, 1)").await;
            run(&mut conn, "rollback").await;
            run(&mut conn, "delete from odd_t where id = 90").await;
        }
    }
    agree(&cluster).await;
}

/// Sessions that end on a server, and servers that have no room, are no servers that died.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_ended_and_a_server_without_room() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, TABLE).await;
    for server in 0..3 {
        for open in [false, true] {
            if open {
                run(&mut conn, "start transaction").await;
                run(&mut conn, "update odd_t set v = v + 1 where id = 3").await;
            }
            let ours = "select group_concat('kill ', id separator '; ') from information_schema.processlist \
                        where user = 'app'";
            let kill = cluster.servers[server].root(ours);
            if kill.trim() != "NULL" {
                let _ = cluster.servers[server].try_root(kill.trim());
            }
            let mut wrote = conn.query_drop("update odd_t set v = v + 1 where id = 3").await;
            if let Err(error) = wrote {
                let mysql_async::Error::Server(error) = error else { panic!("{error}") };
                assert_eq!((error.code, open), (1213, true), "{error}");
                wrote = conn.query_drop("update odd_t set v = v + 1 where id = 3").await;
            }
            wrote.unwrap();
            run(&mut conn, "commit").await;
            assert_eq!(value(&mut conn, "select count(*) from odd_t where id = 3").await, "1");
        }
    }
    agree(&cluster).await;
    // No room for another connection, on a follower and then on the leader.
    for server in [cluster.follower(), cluster.leader()] {
        let mut admin = cluster.administrator(server).await;
        run(&mut admin, "set global max_connections = 10").await;
        let clients = (0..14).map(|n| {
            let cluster = &cluster;
            async move {
                let mut conn = cluster.connect().await;
                let insert = format!("insert into odd_t(id, v) values({}, {n})", 100 + n);
                let done = timeout(Duration::from_secs(40), conn.query_drop(insert)).await;
                assert!(
                    !matches!(done.expect("an answer"), Err(mysql_async::Error::Io(_))),
                    "dropped"
                );
            }
        });
        futures_util::future::join_all(clients).await;
        run(&mut admin, "set global max_connections = 151").await;
        cluster.wait_active(3).await;
        cluster.assert_all_equal().await;
        run(&mut conn, "delete from odd_t where id >= 100").await;
    }
    cluster.assert_all_equal().await;
}
