//! Sessions at a proxy that stands by: what may be a little behind is read there, and everything else goes on at the
//! proxy that writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio_postgres::Config;

use super::rig::{Peer, Proxies};
use crate::rig::relay::Net;
use crate::rig::server::DATABASE;
use crate::rig::session::{Session, explain};
use crate::rig::wire::{Wire, bind, execute, parse, query, sync};
use crate::rig::{eventually, run_heavy, runtime, secs, step};

const LAX: &str = "-c lockstep.consistency=eventual";

/// How many of a proxy's clients it connects through at this moment.
async fn forwarded(peer: &Peer) -> f64 {
    peer.figures("lockstep_proxy_forwarded_sessions ").await[0]
}

async fn is_through(peer: &Peer, expected: f64) {
    eventually("sessions to be where they belong", secs(5), || async {
        let now = forwarded(peer).await;
        if now == expected { Ok(()) } else { Err(format!("{now} of {expected} go through")) }
    })
    .await;
}

/// A session that does not have to see everything at once, and stays where it comes to.
async fn lax(peer: &Peer) -> Session {
    // It has to know the tables before it can tell what is a read.
    eventually("the standby to take a session in", secs(10), || async {
        let before = forwarded(peer).await;
        let mut config = Config::new();
        config.host("127.0.0.1").port(peer.port).user("app").password("app");
        config.dbname(DATABASE).options(LAX).application_name("near");
        let session = Session::open_with(&config).await.map_err(|e| explain(&e))?;
        session.one("select count(*) from near_t").await;
        if forwarded(peer).await == before { Ok(session) } else { Err("goes through".to_owned()) }
    })
    .await
}

async fn two_proxies(changes: &[(&str, &str)]) -> Proxies {
    let all = Proxies::start(3, 2, changes).await;
    let first = all.peer("p1").connect().await;
    first
        .run(
            "create table near_t(id int primary key, v text); insert into near_t values (1, 'one')",
        )
        .await;
    all
}

#[test]
fn reads_that_may_lag_are_answered_where_they_come_to() {
    run_heavy(secs(120), async {
        let all = two_proxies(&[]).await;
        let (p1, p2) = (all.peer("p1"), all.peer("p2"));
        let session = lax(p2).await;
        session.run("set application_name = 'chosen'").await;
        let read = session.prepare("select v from near_t where id = $1").await.expect("a read");
        for _ in 0..60 {
            let row = session.query_one(&read, &[&1]).await.expect("a row");
            assert_eq!(row.get::<_, String>(0), "one");
            assert_eq!(session.one("select v from near_t").await, "one");
            assert_eq!(session.one("show application_name").await, "chosen");
            assert_eq!(session.one("show lockstep.consistency").await, "eventual");
        }
        session.fails("select 1/0", "22012").await;
        session.run("reset all").await;
        session.run("set application_name = 'chosen'").await;
        let clients = p2.console("show clients").await.expect("the clients");
        assert!(clients.iter().flatten().flatten().any(|word| word == "near"), "{clients:?}");
        let reads = p2.figures("lockstep_reads_total").await;
        assert!(reads.iter().filter(|n| **n > 0.0).count() > 1, "by backend: {reads:?}");
        is_through(p2, 0.0).await;
        step("those who have to see everything are connected through");
        let strict = p2.connect().await;
        assert_eq!(strict.one("select v from near_t").await, "one");
        is_through(p2, 1.0).await;
        drop(strict);
        is_through(p2, 0.0).await;
        step("the first write takes the session along");
        let write = session.prepare("insert into near_t values ($1, $2)").await.expect("a write");
        session.execute(&write, &[&2, &"two"]).await.expect("a write");
        is_through(p2, 1.0).await;
        assert_eq!(session.one("select count(*) from near_t").await, "2");
        let row = session.query_one(&read, &[&2]).await.expect("its own write");
        assert_eq!(row.get::<_, String>(0), "two");
        assert_eq!(session.one("show application_name").await, "chosen");
        assert_eq!(session.one("show lockstep.consistency").await, "eventual");
        drop(session);
        is_through(p2, 0.0).await;
        for more in [
            "begin; insert into near_t values (3, 'three'); commit",
            "insert into near_t values (4, 'four')",
            "set lockstep.consistency = strong; select 1",
            "create temporary table mine(id int)",
            "select nextval('near_s')",
            "listen something",
            "set default_transaction_read_only = off",
            "do 'begin perform count(*) from nowhere; exception when others then null; end'",
            "select pg_advisory_lock(1)",
        ] {
            p1.connect().await.run("create sequence if not exists near_s").await;
            let session = lax(p2).await;
            session.run(more).await;
            assert_eq!(session.one("select 1").await, "1", "after {more}");
            is_through(p2, 1.0).await;
            drop(session);
            is_through(p2, 0.0).await;
        }
        assert_eq!(p1.connect().await.one("select count(*) from near_t").await, "4");
        all.cluster.assert_equal_on(&["a".into(), "b".into(), "c".into()]).await;
    });
}

#[test]
fn what_was_sent_ahead_goes_along_in_its_order() {
    run_heavy(secs(120), async {
        let all = two_proxies(&[]).await;
        let p2 = all.peer("p2");
        drop(lax(p2).await);
        let mut wire = Wire::open_with(p2.port, "app", "app", DATABASE, LAX).await;
        // A read, then a statement that is given up and made anew in the batch that leaves, and one behind it.
        let mut all_at_once = parse("s", "select 'first' from near_t limit 1");
        all_at_once.extend([bind("", "s", &[]), execute("", 0), sync()].concat());
        all_at_once.extend(crate::rig::wire::close(b'S', "s"));
        all_at_once.extend(parse("s", "insert into near_t values (7, 'seven') returning v"));
        all_at_once.extend([bind("", "s", &[]), execute("", 0), sync()].concat());
        all_at_once.extend(query("select 'last' from near_t where id = 7"));
        wire.send(&all_at_once).await;
        let said = crate::rig::wire::lines(&wire.until_ready(3).await);
        let rows: Vec<&String> = said.iter().filter(|line| line.starts_with("D ")).collect();
        assert_eq!(rows.len(), 3, "{said:?}");
        assert!(rows[0].contains("first") && rows[1].contains("seven") && rows[2].contains("last"));
        assert!(!said.iter().any(|line| line.starts_with("E ")), "{said:?}");
        is_through(p2, 1.0).await;
        // The statement is known where the session is now, and nothing of it twice.
        let again = [bind("", "s", &[]), execute("", 0), sync()].concat();
        let said = wire.talk(&again, 1).await;
        assert!(said.iter().any(|line| line.contains("23505")), "{said:?}");
    });
}

/// Reads on one connection for as long as nobody stops it; how often.
async fn reads_on(session: Session, stop: Arc<AtomicBool>, rounds: Arc<AtomicUsize>) -> Session {
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(session.one("select v from near_t where id = 1").await, "one");
        rounds.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    session
}

#[test]
fn nobody_who_reads_there_notices_that_a_server_or_the_writer_dies() {
    run_heavy(secs(120), async {
        let all = two_proxies(&[("timeouts.hold", "\"20s\"")]).await;
        let (p1, p2) = (all.peer("p1"), all.peer("p2"));
        let stop = Arc::new(AtomicBool::new(false));
        let (mut readers, mut counts) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let (session, count) = (lax(p2).await, Arc::new(AtomicUsize::new(0)));
            readers.push(runtime().spawn(reads_on(session, stop.clone(), count.clone())));
            counts.push(count);
        }
        // Each of them, by so much.
        let go_on = async |more: usize| {
            let read = || counts.iter().map(|count| count.load(Ordering::Relaxed));
            let before: Vec<usize> = read().collect();
            eventually("everybody to read on", secs(15), || async {
                let all = read().zip(&before).all(|(now, before)| now >= before + more);
                if all {
                    Ok(())
                } else {
                    Err(format!("{before:?}, {:?}", read().collect::<Vec<_>>()))
                }
            })
            .await;
        };
        go_on(20).await;
        for server in &all.cluster.servers[1..] {
            server.kill9();
            go_on(20).await;
            server.start();
            go_on(20).await;
        }
        all.cluster.servers[1].freeze();
        go_on(20).await;
        all.cluster.servers[1].thaw();
        is_through(p2, 0.0).await;
        p1.kill9();
        p2.wait_writing(secs(20)).await;
        go_on(20).await;
        // Whoever goes on where it is has got its place anew, and its right to write with it.
        let seated = p2.figures("lockstep_proxy_moved_sessions_total ").await;
        assert_eq!(seated, [6.0]);
        stop.store(true, Ordering::Relaxed);
        for (n, reader) in readers.into_iter().enumerate() {
            let session = reader.await.expect("a reader that was told of nothing");
            let n = i32::try_from(n).unwrap();
            session.run(&format!("insert into near_t values ({}, 'more')", 100 + n)).await;
        }
    });
}

#[test]
fn who_does_not_see_the_writer_any_more_reads_nothing_old() {
    run_heavy(secs(120), async {
        let all = two_proxies(&[("timeouts.hold", "\"20s\"")]).await;
        let (p1, p2) = (all.peer("p1"), all.peer("p2"));
        let session = lax(p2).await;
        // Of three servers it sees one, which is put out of the view.
        p2.net(0, Net::Silent);
        p2.net(1, Net::Silent);
        tokio::time::sleep(secs(4)).await;
        p1.console("deactivate c").await.expect("one less");
        p1.connect().await.run("update near_t set v = 'new'").await;
        let reading =
            runtime().spawn(async move { session.one("select v from near_t where id = 1").await });
        tokio::time::sleep(secs(2)).await;
        p2.net(0, Net::Works);
        p2.net(1, Net::Works);
        assert_eq!(reading.await.expect("an answer"), "new");
    });
}
