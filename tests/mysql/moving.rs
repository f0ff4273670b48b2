//! The role is handed over, and clients of MariaDB notice nothing: their sessions go on at the proxy that writes next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{sleep, timeout};

use crate::cluster::{run, value};
use crate::proxies::{Peer, Proxies};
use crate::server::DATABASE;

async fn hand_over(all: &Proxies) {
    let (writer, other) = all.roles();
    let mut console = writer.connect_as("admin", "admin", "lockstep").await.expect("a console");
    run(&mut console, "SWITCHOVER PROXY").await;
    other.wait_writing().await;
}

/// One client on one connection: autocommit, transactions, or a prepared statement. What it was promised.
async fn work(
    client: i64,
    mut conn: Conn,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
) -> Vec<i64> {
    let (mut promised, mut id) = (Vec::new(), client * 1_000_000);
    run(&mut conn, &format!("set @mine = {client}")).await;
    let insert = conn.prep("insert into kept values (?, ?)").await.expect("a prepared statement");
    while !stop.load(Ordering::Relaxed) {
        id += 2;
        match client % 3 {
            0 => run(&mut conn, &format!("insert into kept values ({id}, {client})")).await,
            1 => {
                run(&mut conn, "begin").await;
                run(&mut conn, &format!("insert into kept values ({id}, {client})")).await;
                sleep(Duration::from_millis(3)).await;
                run(&mut conn, &format!("insert into kept values ({}, {client})", id + 1)).await;
                promised.push(id + 1);
                run(&mut conn, "commit").await;
            }
            _ => {
                let done = conn.exec_drop(&insert, (id, client)).await;
                done.unwrap_or_else(|error| panic!("client {client}, prepared: {error}"));
            }
        }
        promised.push(id);
        assert_eq!(value(&mut conn, "select @mine").await, client.to_string());
        rounds.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(3)).await;
    }
    promised
}

async fn go_on(rounds: &AtomicUsize, more: usize) {
    let before = rounds.load(Ordering::Relaxed);
    for _ in 0..600 {
        if rounds.load(Ordering::Relaxed) >= before + more {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{} of {more} more rounds in 30 s", rounds.load(Ordering::Relaxed) - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_is_handed_over_there_and_back_and_nobody_notices() {
    let all = Proxies::start().await;
    let mut first = all.peers[0].connect().await;
    run(&mut first, "create table kept(id bigint primary key, client int)").await;
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut workers = Vec::new();
    for client in 0..12_i64 {
        let conn = all.peers[usize::try_from(client).unwrap() / 3 % 2].connect().await;
        workers.push(tokio::spawn(work(client, conn, stop.clone(), rounds.clone())));
    }
    for _ in 0..3 {
        go_on(&rounds, 100).await;
        hand_over(&all).await;
    }
    go_on(&rounds, 100).await;
    stop.store(true, Ordering::Relaxed);
    let mut promised = Vec::new();
    for worker in workers {
        promised.extend(worker.await.expect("a client that was told of nothing"));
    }
    promised.sort_unstable();
    all.assert_all_equal().await;
    for server in &all.servers {
        let there = server.root(&format!("select id from {DATABASE}.kept order by id"));
        let there: Vec<i64> = there.lines().filter_map(|id| id.parse().ok()).collect();
        assert_eq!(there, promised, "a server has not what was promised");
    }
}

async fn asks_for_what_it_was(conn: &mut Conn, number: u32) {
    assert_eq!(value(conn, "select @a").await, "7");
    assert_eq!(value(conn, "select @@session.time_zone").await, "+05:00");
    assert_eq!(value(conn, "select @@session.sql_mode like '%ANSI_QUOTES%'").await, "1");
    assert_eq!(value(conn, "select connection_id()").await, number.to_string());
    assert_eq!(value(conn, "select database()").await, DATABASE);
    assert_eq!(value(conn, "execute adds using @a").await, "8");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_is_goes_along_when_the_role_is_handed_over() {
    let all = Proxies::start().await;
    let mut near = all.peers[0].connect().await;
    run(&mut near, "create table numbered(id int auto_increment primary key, t text)").await;
    for by in 0..2 {
        let mut conn = all.peers[by].connect().await;
        let number = conn.id();
        run(&mut conn, "set @a = 7, session time_zone = '+05:00'").await;
        run(&mut conn, "set session sql_mode = concat(@@sql_mode, ',ANSI_QUOTES')").await;
        run(&mut conn, "prepare adds from 'select ? + 1'").await;
        run(&mut conn, "insert into numbered(t) values ('one')").await;
        let last = value(&mut conn, "select last_insert_id()").await;
        let kept = conn.prep("select ? + 1").await.expect("a prepared statement");
        for _ in 0..2 {
            run(&mut conn, "select cast('x' as int)").await;
            hand_over(&all).await;
            let warned = value(&mut conn, "show warnings").await;
            assert_eq!(warned, "Warning", "what it was warned of goes along");
            assert_eq!(value(&mut conn, "select last_insert_id()").await, last);
            let sum: Option<i64> = conn.exec_first(&kept, (41,)).await.expect("what was prepared");
            assert_eq!(sum, Some(42));
            asks_for_what_it_was(&mut conn, number).await;
            // Another one cancels what it runs, by its number, at either proxy.
            let sleeping = tokio::spawn(async move {
                let ended = conn.query_drop("select sleep(20)").await;
                (conn, ended)
            });
            sleep(Duration::from_millis(500)).await;
            run(&mut all.peers[1 - by].connect().await, &format!("kill query {number}")).await;
            let ended = timeout(Duration::from_secs(5), sleeping).await;
            (conn, _) = ended.expect("the statement ends").expect("its task");
        }
    }
    all.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_tied_to_its_connection_is_told_to_connect_again() {
    let all = Proxies::start().await;
    let mut tied = Vec::new();
    let peers: Vec<&Peer> = all.peers.iter().collect();
    let mut near = peers[0].connect().await;
    for n in 0..peers.len() {
        run(&mut near, &format!("create table plain{n}(id int primary key)")).await;
    }
    for (n, peer) in peers.iter().enumerate() {
        for sql in [
            "create temporary table mine(id int)".to_owned(),
            format!("select get_lock('mine{n}', 1)"),
            format!("lock tables plain{n} write"),
        ] {
            let mut conn = peer.connect().await;
            run(&mut conn, &sql).await;
            tied.push((conn, sql));
        }
    }
    let mut free = peers[0].connect().await;
    hand_over(&all).await;
    for (conn, sql) in &mut tied {
        assert!(conn.query_drop("select 1").await.is_err(), "{sql} ties it");
    }
    assert_eq!(value(&mut free, "select 1").await, "1");
}
