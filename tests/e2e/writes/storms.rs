//! An administrator who ends the proxy's sessions on the servers, or cancels what they run, at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Error;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::session::{Session, code_of, explain};
use crate::rig::wire::{copy_data, copy_done, query};
use crate::rig::{run_heavy, runtime, secs, step};

/// How many rows the clients count their transactions in.
const COUNTERS: i64 = 5;

/// One transaction of the kind that its number says. All of them write the row `id`; those that also count return true.
async fn transaction(session: &Session, id: i64) -> Result<bool, Error> {
    let insert = format!("insert into storm_t values ({id})");
    let count = format!("update storm_c set n = n + 1 where id = {}", id % COUNTERS);
    match id % 9 {
        0 => session.batch_execute(&insert).await.map(|()| false),
        1 => {
            session.batch_execute("begin").await?;
            session.batch_execute(&insert).await?;
            session.batch_execute(&count).await?;
            session.batch_execute("commit").await.map(|()| true)
        }
        2 => {
            session.batch_execute("begin").await?;
            session.batch_execute(&count).await?;
            session.batch_execute("savepoint a").await?;
            let twice = session.batch_execute("insert into storm_t values (-1)").await;
            let twice = twice.expect_err("a key came twice");
            if code_of(&twice).as_deref() != Some("23505") {
                return Err(twice);
            }
            session.batch_execute("rollback to a").await?;
            session.batch_execute(&insert).await?;
            session.batch_execute("commit").await.map(|()| true)
        }
        3 => {
            // By rows, since its values are the leader's own.
            let sql = format!("insert into storm_t select {id} where random() < 2");
            session.execute(&sql, &[]).await.map(|_| false)
        }
        4 => {
            session.batch_execute("begin isolation level repeatable read").await?;
            session.batch_execute("select count(*) from storm_c").await?;
            session.batch_execute(&insert).await?;
            session.batch_execute("commit").await.map(|()| false)
        }
        5 => {
            session.batch_execute("begin").await?;
            let lock = format!("select n from storm_c where id = {} for update", id % COUNTERS);
            session.batch_execute(&lock).await?;
            session.batch_execute(&insert).await?;
            session.batch_execute(&count).await?;
            session.batch_execute("commit").await.map(|()| true)
        }
        6 => {
            let sql = format!("insert into storm_t select {id} from pg_sleep(0.002)");
            session.batch_execute(&sql).await.map(|()| false)
        }
        7 => {
            let sql = format!("insert into storm_t values ($1) returning {id}");
            session.query(&sql, &[&id]).await.map(|_| false)
        }
        _ => {
            session.batch_execute(&format!("begin; {count}; {insert}; commit")).await.map(|()| true)
        }
    }
}

/// What a client was told.
#[derive(Default)]
struct Told {
    done: BTreeMap<i64, bool>,
    counted: i64,
    errors: BTreeMap<String, usize>,
}

async fn client(cluster: Arc<Cluster>, n: i64, over: Arc<AtomicBool>) -> Told {
    let session = cluster.connect().await;
    let mut told = Told::default();
    let mut id = n * 1_000_000;
    while !over.load(Ordering::Relaxed) {
        id += 1;
        match transaction(&session, id).await {
            Ok(counts) => {
                told.counted += i64::from(counts);
                told.done.insert(id, true);
            }
            Err(error) => {
                let Some(code) = code_of(&error) else {
                    panic!("{id}: the client was disconnected: {}", explain(&error))
                };
                // What is one statement by itself runs again where its server's session has gone.
                let again = code == "40001" && ![0, 3, 6, 7].contains(&(id % 9));
                assert!(again || code == "57014", "{id}: {}", explain(&error));
                session.run("rollback").await;
                *told.errors.entry(code).or_default() += 1;
                told.done.insert(id, false);
            }
        }
    }
    told
}

/// Loads its rows in bulk, all of them in one message after the other without waiting for anything.
async fn loader(cluster: Arc<Cluster>, n: i64, over: Arc<AtomicBool>) -> Told {
    let mut wire = cluster.wire().await;
    let mut told = Told::default();
    let mut id = n * 1_000_000;
    while !over.load(Ordering::Relaxed) {
        id += 1;
        let load = [query("copy storm_t from stdin"), copy_data(format!("{id}\n").as_bytes())];
        let said = wire.talk(&[load.concat(), copy_done()].concat(), 1).await;
        let done = said.iter().any(|line| line.contains("COPY 1"));
        let struck = said.iter().any(|line| line.contains("40001") || line.contains("57014"));
        assert!(done != struck, "{id}: {said:?}");
        told.done.insert(id, done);
        if struck {
            *told.errors.entry("a bulk load".into()).or_default() += 1;
        }
    }
    told
}

/// Ends or cancels what it finds, for so long.
async fn storm(cluster: &Cluster, how: &str, whom: &str, long: Duration) -> usize {
    let admins = cluster.admins().await;
    let until = tokio::time::Instant::now() + long;
    let mut struck = 0;
    while tokio::time::Instant::now() < until {
        let admin = &admins[rand::random_range(0..admins.len())];
        let busy = if rand::random() { "and state <> 'idle'" } else { "" };
        let sql = format!(
            "select {how}(pid) from (select pid from pg_stat_activity where {whom} {busy} \
             order by random() limit 1) one"
        );
        struck += admin.rows(&sql).await.len();
        tokio::time::sleep(Duration::from_millis(rand::random_range(1..30))).await;
    }
    struck
}

async fn weathered(how: &str, whom: &str, long: Duration) {
    let cluster = Options::servers(3).start().await;
    let app = cluster.connect().await;
    app.run("create table storm_t(id bigint primary key); insert into storm_t values (-1)").await;
    app.run("create table storm_c(id bigint primary key, n bigint not null)").await;
    app.run(&format!("insert into storm_c select g, 0 from generate_series(0, {COUNTERS} - 1) g"))
        .await;
    let over = Arc::new(AtomicBool::new(false));
    let clients = (0..7).map(|n| runtime().spawn(client(cluster.clone(), n, over.clone())));
    let loaders = (7..9).map(|n| runtime().spawn(loader(cluster.clone(), n, over.clone())));
    let clients: Vec<_> = clients.chain(loaders).collect();
    let struck = storm(&cluster, how, whom, long).await;
    over.store(true, Ordering::Relaxed);
    let (mut done, mut counted, mut errors) = (BTreeMap::new(), 0, BTreeMap::new());
    for client in clients {
        let told = client.await.expect("a client");
        done.extend(told.done);
        counted += told.counted;
        for (error, times) in told.errors {
            *errors.entry(error).or_insert(0) += times;
        }
    }
    step(format!("{struck} strikes, {} transactions, failures: {errors:?}", done.len()));
    for server in &cluster.servers {
        cluster.wait_active(&server.name).await;
    }
    cluster.same("storm_%").await;
    let there = app.column("select id from storm_t where id >= 0").await;
    let there: BTreeSet<i64> = there.iter().map(|id| id.parse().expect("a number")).collect();
    for (id, done) in &done {
        assert_eq!(there.contains(id), *done, "{id} was told to be done: {done}");
    }
    assert_eq!(app.one("select sum(n) from storm_c").await, counted.to_string());
    assert!(struck > 30, "hardly anything was struck: {struck}");
}

#[test]
fn an_administrator_ends_sessions_at_random() {
    run_heavy(secs(120), weathered("pg_terminate_backend", "usename = 'app'", secs(6)));
}

#[test]
fn an_administrator_cancels_at_random() {
    run_heavy(secs(120), weathered("pg_cancel_backend", "usename = 'app'", secs(6)));
}

#[test]
fn the_bookkeeping_is_ended_at_random() {
    let whom = "application_name like 'lockstep%'";
    run_heavy(secs(120), weathered("pg_terminate_backend", whom, secs(6)));
}

#[test]
fn the_bookkeeping_is_cancelled_at_random() {
    let whom = "application_name like 'lockstep%'";
    run_heavy(secs(120), weathered("pg_cancel_backend", whom, secs(6)));
}
