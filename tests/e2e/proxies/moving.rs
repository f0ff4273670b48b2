//! The role is handed over, and clients notice nothing: their sessions go on at the proxy that writes next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::rig::{Peer, Proxies};
use crate::rig::server::DATABASE;
use crate::rig::session::{Session, code_of, explain};
use crate::rig::wire::Wire;
use crate::rig::{eventually, run_heavy, runtime, secs, step};

/// Clients of every kind that are never told of anything, each on one connection from the beginning to the end.
struct Crowd {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Vec<i64>>>,
}

impl Crowd {
    /// So many clients of each kind, spread over these proxies.
    async fn start(peers: &[&Peer], each: i64) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut workers = Vec::new();
        for n in 0..each * 3 {
            let peer = peers[usize::try_from(n / 3).unwrap() % peers.len()];
            let session = peer.connect().await;
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            workers.push(runtime().spawn(work(n, session, stop, rounds)));
        }
        Self { stop, rounds, workers }
    }

    async fn go_on(&self, more: usize) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually("the crowd to go on", secs(30), || async {
            let now = self.rounds.load(Ordering::Relaxed) - before;
            if now >= more { Ok(()) } else { Err(format!("{now} more")) }
        })
        .await;
    }

    /// What was promised is on every server, and nothing else.
    async fn finish(self, all: &Proxies) {
        self.stop.store(true, Ordering::Relaxed);
        let mut promised = Vec::new();
        for worker in self.workers {
            promised.extend(worker.await.expect("a client that was told of nothing"));
        }
        let promised: BTreeSet<i64> = promised.into_iter().collect();
        let writer = all.writer(secs(10)).await;
        for server in &all.cluster.servers {
            // One that was too slow in a handover may have been left behind.
            all.cluster.wait_active_at(writer.port, &server.name).await;
            let admin = server.admin().await;
            let there = admin.column("select id from kept").await;
            let there: BTreeSet<i64> =
                there.iter().map(|id| id.parse().expect("a number")).collect();
            let odd: Vec<&i64> = there.symmetric_difference(&promised).collect();
            assert!(odd.is_empty(), "{} has not what was promised: {odd:?}", server.name);
        }
        all.cluster.assert_equal_on(&["a".into(), "b".into(), "c".into()]).await;
    }
}

async fn work(
    n: i64,
    session: Session,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
) -> Vec<i64> {
    let (mut promised, mut next) = (Vec::new(), n * 1_000_000);
    let told = |what: &str, error: &tokio_postgres::Error| {
        panic!("client {n} was told, at {what}: {}", explain(error))
    };
    session.run(&format!("set application_name = 'crowd{n}'")).await;
    let insert = session.prepare("insert into kept values ($1::bigint, $2::int)").await;
    let insert = insert.expect("a prepared statement");
    let by = i32::try_from(n).unwrap();
    while !stop.load(Ordering::Relaxed) {
        next += 2;
        match n % 3 {
            0 => session.run(&format!("insert into kept values ({next}, {n})")).await,
            1 => {
                session.run("begin").await;
                session.run(&format!("insert into kept values ({next}, {n})")).await;
                tokio::time::sleep(Duration::from_millis(3)).await;
                session.run(&format!("insert into kept values ({}, {n})", next + 1)).await;
                promised.push(next + 1);
                session.run("commit").await;
            }
            _ => match session.execute(&insert, &[&next, &by]).await {
                Ok(rows) => assert_eq!(rows, 1),
                Err(error) => told("a prepared statement", &error),
            },
        }
        promised.push(next);
        assert_eq!(session.one("show application_name").await, format!("crowd{n}"));
        rounds.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    promised
}

/// How many sessions have gone on at a proxy.
async fn moved_to(peer: &Peer) -> u64 {
    peer.figures("lockstep_proxy_moved_sessions_total ").await[0] as u64
}

/// The last of a crowd of 18 may be between two transactions for a moment longer than the others need for theirs.
async fn everybody_has_moved_to(writer: &Peer) {
    eventually("all of the crowd has gone on there", secs(10), || async {
        let moved = moved_to(writer).await;
        if moved >= 18 { Ok(()) } else { Err(format!("{moved} of 18")) }
    })
    .await;
}

#[test]
fn the_role_is_handed_over_there_and_back_and_nobody_notices() {
    run_heavy(secs(180), async {
        let all = Proxies::start(3, 3, &[]).await;
        let first = all.peer("p1").connect().await;
        first.run("create table kept(id bigint primary key, by int)").await;
        let crowd = Crowd::start(&all.peers.iter().collect::<Vec<_>>(), 6).await;
        crowd.go_on(200).await;
        let newcomers = newcomers(&all);
        for _ in 0..4 {
            let former = all.writer(secs(10)).await;
            let began = std::time::Instant::now();
            former.console("SWITCHOVER PROXY").await.expect("a handover");
            let writer = all.writer(secs(10)).await;
            let took = began.elapsed();
            step(format!("{} has handed over to {} after {took:?}", former.name, writer.name));
            assert_ne!(former.name, writer.name);
            crowd.go_on(200).await;
            everybody_has_moved_to(writer).await;
            first.run("insert into kept values (-1, 0); delete from kept where id = -1").await;
        }
        newcomers.0.store(true, Ordering::Relaxed);
        let came = newcomers.1.await.expect("clients that are let in whenever they come");
        step(format!("{came} clients came meanwhile"));
        crowd.finish(&all).await;
    });
}

#[test]
fn who_was_sent_to_a_writer_that_is_stopped_goes_on_at_the_next() {
    run_heavy(secs(120), async {
        let all = Proxies::start(3, 3, &[]).await;
        let former = all.writer(secs(10)).await;
        let others: Vec<&Peer> = all.peers.iter().filter(|peer| peer.name != former.name).collect();
        let first = others[0].connect().await;
        first.run("create table kept(id bigint primary key, by int)").await;
        let crowd = Crowd::start(&others, 6).await;
        crowd.go_on(200).await;
        former.stop();
        let writer = all.writer(secs(10)).await;
        assert_ne!(former.name, writer.name);
        crowd.go_on(200).await;
        everybody_has_moved_to(writer).await;
        crowd.finish(&all).await;
    });
}

/// Clients that come, ask something and leave, one after the other, at each proxy in turn: what ends them, and their
/// number in the end.
fn newcomers(all: &Proxies) -> (Arc<AtomicBool>, JoinHandle<usize>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (ends, ports) = (Arc::clone(&stop), all.peers.iter().map(|p| p.port).collect::<Vec<_>>());
    let come = async move {
        let (mut came, mut turned_away) = (0, 0);
        while !ends.load(Ordering::Relaxed) {
            let port = ports[came % ports.len()];
            came += 1;
            let asked = async {
                let session = Session::open(port, "app", "app", DATABASE).await?;
                session.simple_query("select 7").await
            };
            if let Err(error) = asked.await {
                // In the middle of its login it may have to come again.
                let code = code_of(&error).unwrap_or_else(|| "-".into());
                assert!(["-", "57P03"].contains(&code.as_str()), "{}", explain(&error));
                step(format!("one that came was told {}", explain(&error)));
                turned_away += 1;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(turned_away <= 12, "{turned_away} of {came} had to come again");
        came
    };
    (stop, runtime().spawn(come))
}

#[test]
fn what_a_session_is_goes_along_when_the_role_is_handed_over() {
    run_heavy(secs(120), async {
        let all = Proxies::start(3, 2, &[]).await;
        let (p1, p2) = (all.peer("p1"), all.peer("p2"));
        for by in [p1, p2] {
            let session = by.connect().await;
            session.run("create table if not exists told(id int primary key, what text)").await;
            session.run("create schema if not exists other").await;
            session.run("create table if not exists other.thing(id serial, what text)").await;
            session.run("set search_path = other, public; set timezone = 'Asia/Tokyo'").await;
            session.run("set lockstep.consistency = 'eventual'; set datestyle = 'German'").await;
            session.run("prepare adds as insert into thing(what) values ($1)").await;
            session.run("insert into thing(what) values ('drawn')").await;
            let mut drawn = session.one("select currval('thing_id_seq')").await;
            let kept = session.prepare("select $1::int + 1").await.expect("a prepared statement");
            for (from, to) in [(p1, p2), (p2, p1)] {
                // While it is handed over, one that is about to be answered waits, and is answered.
                let (handed, ()) = tokio::join!(from.console("SWITCHOVER PROXY"), async {
                    for _ in 0..20 {
                        assert_eq!(session.one("select 7").await, "7");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                });
                handed.expect("a handover");
                to.wait_writing(secs(10)).await;
                assert_eq!(session.one("show search_path").await, "other, public");
                assert_eq!(session.one("show timezone").await, "Asia/Tokyo");
                assert_eq!(session.one("show datestyle").await, "German, DMY");
                assert_eq!(session.one("show lockstep.consistency").await, "eventual");
                assert_eq!(session.one("show application_name").await, "e2e");
                assert_eq!(session.one("select currval('thing_id_seq')").await, drawn);
                session.run("execute adds('by its name')").await;
                session.run("insert into thing(what) values ('drawn again')").await;
                drawn = session.one("select currval('thing_id_seq')").await;
                let row = session.query_one(&kept, &[&41]).await.expect("what was prepared");
                assert_eq!(row.get::<_, i32>(0), 42);
                // A request to cancel reaches it, by whichever way.
                let cancel = session.cancel_token();
                let (slept, ()) =
                    tokio::join!(session.batch_execute("select pg_sleep(20)"), async {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        cancel
                            .cancel_query(tokio_postgres::NoTls)
                            .await
                            .expect("a request to cancel");
                    });
                assert_eq!(code_of(&slept.expect_err("cancelled")).as_deref(), Some("57014"));
                let clients = to.console("SHOW CLIENTS").await.expect("the console");
                let ours = clients.iter().filter(|row| row[2].as_deref() == Some(DATABASE));
                assert_eq!(ours.count(), 1, "{clients:?}");
            }
        }
        all.cluster.assert_equal_on(&["a".into(), "b".into(), "c".into()]).await;
    });
}

#[test]
fn a_session_that_is_tied_to_its_connection_is_told_to_connect_again() {
    run_heavy(secs(120), async {
        let all = Proxies::start(2, 2, &[]).await;
        let p1 = all.peer("p1");
        let mut tied = Vec::new();
        for by in [p1, all.peer("p2")] {
            for sql in [
                "create temporary table mine(id int)",
                "listen something",
                "select pg_advisory_lock(7)",
                "begin; declare c cursor with hold for select 1; commit",
            ] {
                let session = by.connect().await;
                let sql = sql.replace("(7)", &format!("({})", by.port));
                session.run(&sql).await;
                tied.push((session, sql));
            }
        }
        let free = p1.connect().await;
        p1.console("SWITCHOVER PROXY").await.expect("a handover");
        all.peer("p2").wait_writing(secs(10)).await;
        for (session, sql) in &tied {
            let error = session.batch_execute("select 1").await.expect_err(sql);
            // Some drivers tell of the end of a connection and not why.
            let code = code_of(&error);
            assert!(code.is_none_or(|code| code == "57P01"), "{sql}: {}", explain(&error));
        }
        assert_eq!(free.one("select 1").await, "1");
        // Whoever is in the middle of a transaction for too long is cut off, as ever.
        let mut wire = Wire::open(all.peer("p2").port, "app", "app", DATABASE).await;
        wire.send(b"Q\0\0\0\x24create temporary table x(a int)\0").await;
        wire.until_ready(1).await;
        all.peer("p2").console("SWITCHOVER PROXY").await.expect("a handover");
        let said = crate::rig::wire::lines(&wire.until(b'E').await);
        assert!(said.iter().any(|line| line.contains("57P01")), "{said:?}");
    });
}

#[test]
fn a_request_in_pieces_is_answered_when_the_role_is_handed_over() {
    run_heavy(secs(120), async {
        let all = Proxies::start(2, 2, &[]).await;
        let p1 = all.peer("p1");
        let mut whole = Wire::open(p1.port, "app", "app", DATABASE).await;
        let mut by_way = Wire::open(all.peer("p2").port, "app", "app", DATABASE).await;
        let mut half = Wire::open(p1.port, "app", "app", DATABASE).await;
        let query = b"Q\0\0\0\x0eselect 77\0";
        // A message that has come in part goes along, as bytes.
        whole.send(&query[..7]).await;
        by_way.send(&query[..7]).await;
        // A request of which whole messages have come is taken in, and answered before the session leaves.
        half.send(b"P\0\0\0\x12s\0select 78\0\0\0").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (handed, ()) = tokio::join!(p1.console("SWITCHOVER PROXY"), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            half.send(b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04").await;
        });
        handed.expect("a handover");
        whole.send(&query[7..]).await;
        by_way.send(&query[7..]).await;
        for (wire, value) in [(&mut whole, "77"), (&mut by_way, "77"), (&mut half, "78")] {
            let said = crate::rig::wire::lines(&wire.until_ready(1).await);
            assert!(said.iter().any(|line| line.contains(value)), "{said:?}");
        }
        // Its statement is known at the proxy that writes now.
        half.send(b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04").await;
        let said = crate::rig::wire::lines(&half.until_ready(1).await);
        assert!(said.iter().any(|line| line.contains("78")), "{said:?}");
    });
}

#[test]
fn nobody_brings_a_session_who_is_no_proxy() {
    run_heavy(secs(60), async {
        let all = Proxies::start(2, 2, &[]).await;
        let mut wire = Wire::bare(all.peer("p1").port).await;
        let said = [
            ("user", "app"),
            ("database", DATABASE),
            ("lockstep_forwarded", "127.0.0.1:1"),
            ("lockstep_goes_on", "yes"),
        ];
        let mut start = vec![0, 3, 0, 0];
        for (name, value) in said {
            start.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        start.push(0);
        let length = u32::try_from(start.len() + 4).unwrap().to_be_bytes();
        wire.send(&[&length[..], &start].concat()).await;
        wire.until(b'R').await;
        wire.send(&[&b"p\0\0\0\x44"[..], &[7; 64]].concat()).await;
        let said = crate::rig::wire::lines(&wire.until(b'E').await);
        assert!(said.iter().any(|line| line.contains("28000")), "{said:?}");
    });
}

#[test]
fn the_proxy_that_is_to_write_next_dies_in_the_middle_of_a_handover() {
    run_heavy(secs(180), async {
        let all = Proxies::start(3, 2, &[]).await;
        let p1 = all.peer("p1");
        let first = p1.connect().await;
        first.run("create table kept(id bigint primary key, by int)").await;
        let mut sessions = Vec::new();
        for _ in 0..10 {
            sessions.push(p1.connect().await);
        }
        for round in 0..3_u64 {
            // The only other proxy stands still and dies: nobody takes the role, and p1 goes on with all its sessions.
            let next = all.peer("p2");
            next.freeze();
            let (handed, ()) = tokio::join!(p1.console("SWITCHOVER PROXY"), async {
                tokio::time::sleep(Duration::from_millis(300 + 300 * round)).await;
                next.kill9();
            });
            step(format!("the handover to a dead proxy: {handed:?}"));
            assert!(handed.is_err(), "nobody was there to take the role");
            p1.wait_writing(secs(20)).await;
            for (n, session) in sessions.iter().enumerate() {
                let id = round * 100 + n as u64;
                session.run(&format!("insert into kept values ({id}, 0)")).await;
            }
            next.spawn();
            next.wait_standing_by(secs(20)).await;
        }
        assert_eq!(first.one("select count(*) from kept").await, "30");
        // It takes the role and dies at once: who is on the way waits for the next one, or is told.
        let (handed, ()) = tokio::join!(p1.console("SWITCHOVER PROXY"), async {
            all.peer("p2").wait_writing(secs(20)).await;
            all.peer("p2").kill9();
        });
        step(format!("the handover to a proxy that dies then: {handed:?}"));
        p1.wait_writing(secs(20)).await;
        for (n, session) in sessions.iter().enumerate() {
            match session.batch_execute(&format!("insert into kept values (1{n}000, 0)")).await {
                Ok(()) => {}
                Err(error) => {
                    let code = code_of(&error).unwrap_or_else(|| "-".into());
                    assert!(super::GONE.contains(&code.as_str()), "{}", explain(&error));
                }
            }
        }
        p1.connect().await.run("insert into kept values (-7, 0)").await;
        all.cluster.assert_equal_on(&["a".into(), "b".into(), "c".into()]).await;
    });
}
