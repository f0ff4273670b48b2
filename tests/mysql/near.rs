//! Sessions of MariaDB's clients at a proxy that stands by: what may be a little behind is read there, and everything
//! else goes on at the proxy that writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lockstep_protocol::mysql::command;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{sleep, timeout};

use crate::cluster::{run, value};
use crate::proxies::{Peer, Proxies};
use crate::wire::Wire;

const LAX: &str = "on_standby = \"forward\"\n[reads]\nconsistency = \"eventual\"";

fn through(peer: &Peer) -> f64 {
    peer.figures("lockstep_proxy_forwarded_sessions ")[0]
}

async fn is_through(peer: &Peer, expected: f64) {
    for _ in 0..100 {
        if through(peer) == expected {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{} of {expected} sessions go through", through(peer));
}

/// A session that stays where it comes to. The standby has to know the tables before it can tell what is a read.
async fn lax(peer: &Peer) -> Conn {
    let before = through(peer);
    for _ in 0..100 {
        let mut conn = peer.connect().await;
        value(&mut conn, "select count(*) from near_t").await;
        if through(peer) == before {
            return conn;
        }
        drop(conn);
        is_through(peer, before).await;
        sleep(Duration::from_millis(100)).await;
    }
    panic!("no session stays at the standby");
}

async fn two_proxies() -> Proxies {
    let all = Proxies::start_with(LAX).await;
    let mut first = all.peers[0].connect().await;
    run(&mut first, "create table near_t(id int primary key, v text)").await;
    run(&mut first, "create table numbered(id int auto_increment primary key, v longtext)").await;
    run(&mut first, "insert into near_t values (1, 'one')").await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_may_lag_are_answered_where_they_come_to() {
    let all = two_proxies().await;
    let standby = &all.peers[1];
    let mut conn = lax(standby).await;
    let number = conn.id();
    run(&mut conn, "set time_zone = '+05:00', @a = 7").await;
    let read = conn.prep("select v from near_t where id = ?").await.expect("a read");
    for _ in 0..60 {
        let v: Option<String> = conn.exec_first(&read, (1,)).await.expect("a row");
        assert_eq!(v.as_deref(), Some("one"));
        assert_eq!(value(&mut conn, "select @@session.time_zone").await, "+05:00");
        assert_eq!(value(&mut conn, "select connection_id()").await, number.to_string());
    }
    assert!(conn.query_drop("select (select 1 union select 2)").await.is_err());
    let reads = standby.figures("lockstep_reads_total");
    assert!(reads.iter().filter(|n| **n > 0.0).count() > 1, "by backend: {reads:?}");
    let mut other = lax(standby).await;
    let sleeping = tokio::spawn(async move {
        let ended = conn.query_drop("select sleep(20) from near_t").await;
        (conn, ended)
    });
    sleep(Duration::from_millis(500)).await;
    run(&mut other, &format!("kill query {number}")).await;
    let ended = timeout(Duration::from_secs(5), sleeping).await;
    let (mut conn, _) = ended.expect("the statement ends").expect("its task");
    drop(other);
    is_through(standby, 0.0).await;
    // The first write takes the session along.
    let write = conn.prep("insert into numbered(v) values (?)").await.expect("a write");
    let long = "x".repeat(1 << 20);
    conn.exec_drop(&write, (&long,)).await.expect("a write");
    is_through(standby, 1.0).await;
    assert_eq!(value(&mut conn, "select last_insert_id()").await, "1");
    assert_eq!(value(&mut conn, "select length(v) from numbered").await, long.len().to_string());
    let v: Option<String> = conn.exec_first(&read, (1,)).await.expect("a row");
    assert_eq!(v.as_deref(), Some("one"));
    assert_eq!(value(&mut conn, "select @a").await, "7");
    assert_eq!(value(&mut conn, "select @@session.time_zone").await, "+05:00");
    assert_eq!(value(&mut conn, "select connection_id()").await, number.to_string());
    drop(conn);
    for more in [
        "begin",
        "insert into near_t values (4, 'four')",
        "set autocommit = 0",
        "create temporary table mine(id int)",
        "select get_lock('near', 1)",
        "lock tables near_t read",
        "select v from near_t for update",
        "select last_insert_id(7)",
    ] {
        is_through(standby, 0.0).await;
        let mut conn = lax(standby).await;
        run(&mut conn, more).await;
        if more == "set autocommit = 0" {
            run(&mut conn, "insert into near_t values (5, 'five')").await;
            run(&mut conn, "rollback").await;
        }
        assert_eq!(value(&mut conn, "select 1").await, "1", "after {more}");
        is_through(standby, 1.0).await;
    }
    let mut first = all.peers[0].connect().await;
    assert_eq!(value(&mut first, "select count(*) from near_t").await, "2");
    all.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_reads_there_notices_that_the_writer_dies() {
    let all = two_proxies().await;
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut conn = lax(&all.peers[1]).await;
        let (stop, rounds) = (stop.clone(), rounds.clone());
        readers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(value(&mut conn, "select v from near_t where id = 1").await, "one");
                rounds.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(2)).await;
            }
            conn
        }));
    }
    sleep(Duration::from_secs(1)).await;
    all.peers[0].kill();
    all.peers[1].wait_writing().await;
    let before = rounds.load(Ordering::Relaxed);
    sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    assert!(rounds.load(Ordering::Relaxed) > before, "reads go on");
    for (n, reader) in readers.into_iter().enumerate() {
        let mut conn = reader.await.expect("a reader that was told of nothing");
        run(&mut conn, &format!("insert into near_t values ({}, 'more')", 100 + n)).await;
    }
    all.assert_all_equal().await;
}

/// Prepares a text over the wire, with so many packets that describe it; the number of the statement.
fn prepare(wire: &mut Wire, sql: &str, described: usize) -> [u8; 4] {
    let ok = wire.command(&[&[command::STMT_PREPARE], sql.as_bytes()].concat());
    assert_eq!(ok[0], 0, "{sql}: {ok:?}");
    wire.skip(described);
    ok[1..5].try_into().unwrap()
}

/// An EXECUTE with one parameter of a type, and its value where that was not sent ahead.
fn execute(statement: [u8; 4], kind: u8, value: &[u8]) -> Vec<u8> {
    let head: &[u8] = &[0, 1, 0, 0, 0, 0, 1, kind, 0];
    [&[command::STMT_EXECUTE], &statement[..], head, value].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_ahead_goes_along() {
    let all = two_proxies().await;
    let standby = &all.peers[1];
    drop(lax(standby).await);
    let mut wire = Wire::connect(standby.port);
    let long = prepare(&mut wire, "select concat(?, v) from near_t", 4);
    let other = prepare(&mut wire, "select v from near_t where v = ?", 4);
    for piece in ["first, ", "second, "] {
        let place: &[u8] = &[0, 0];
        wire.tell(&[&[command::STMT_SEND_LONG_DATA], &long[..], place, piece.as_bytes()].concat());
    }
    // Another statement is answered in between.
    let rows = wire.result(&execute(other, 0xfd, b"\x03one"));
    assert_eq!(rows.len(), 2, "{rows:?}");
    is_through(standby, 0.0).await;
    assert_eq!(wire.told("begin"), "ok");
    is_through(standby, 1.0).await;
    let shows = |rows: &[Vec<u8>], text: &str| {
        assert!(rows[0].ends_with(text.as_bytes()), "{rows:?}, and not {text}");
    };
    shows(&wire.result(&execute(long, 0xfc, b"")), "first, second, one");
    // What was used is not sent again.
    shows(&wire.result(&execute(long, 0xfd, b"\x06third ")), "\x09third one");
}
