//! An administrator who ends the proxy's sessions on the servers, or kills what they run, at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::time::Instant;

use crate::cluster::{Cluster, agree, all, value};

/// How many rows the clients count their transactions in.
const COUNTERS: i64 = 5;
/// Interrupted, and to be tried again.
const STRUCK: [u16; 2] = [1317, 1213];

/// One transaction of the kind that its number says. All of them write the row `id`; those that also count return true.
async fn transaction(conn: &mut Conn, id: i64) -> mysql_async::Result<bool> {
    let insert = format!("insert into storm values({id}, 0)");
    let count = format!("update counters set n = n + 1 where id = {}", id % COUNTERS);
    let (statements, counts) = match id % 7 {
        0 => (vec![insert], false),
        1 => (vec!["begin".into(), insert, count, "commit".into()], true),
        2 => {
            let steps = ["begin", &count, "savepoint a", "delete from storm where id < 0"];
            let rest = ["rollback to a", &insert, "commit"];
            (steps.into_iter().chain(rest).map(str::to_owned).collect(), true)
        }
        3 => {
            let sql = format!("insert into storm select {id}, rand() from counters limit 1");
            (vec![sql], false)
        }
        4 => {
            let lock = format!("select n from counters where id = {} for update", id % COUNTERS);
            (vec!["begin".into(), lock, insert, count, "commit".into()], true)
        }
        5 => {
            let sql =
                format!("insert into storm values({id}, 1) on duplicate key update v = v + 1");
            (vec!["set autocommit = 0".into(), sql, "commit".into()], false)
        }
        _ => {
            conn.exec_drop("insert into storm values(?, ?)", (id, 2)).await?;
            return Ok(false);
        }
    };
    for sql in statements {
        conn.query_drop(sql).await?;
    }
    Ok(counts)
}

/// What a client was told of each of its transactions, and how many of the finished ones have counted.
async fn client(
    cluster: Arc<Cluster>,
    n: i64,
    over: Arc<AtomicBool>,
) -> (BTreeMap<i64, bool>, i64) {
    let mut conn = cluster.connect().await;
    let (mut told, mut counted, mut id) = (BTreeMap::new(), 0, n * 1_000_000);
    while !over.load(Ordering::Relaxed) {
        id += 1;
        match transaction(&mut conn, id).await {
            Ok(counts) => counted += i64::from(counts),
            Err(Error::Server(error)) if STRUCK.contains(&error.code) => {
                // What is one statement by itself runs again where its server's session has gone.
                let lone = [0, 3, 6].contains(&(id % 7));
                assert!(error.code == 1317 || !lone, "{id}: {error}");
                told.insert(id, false);
                conn.query_drop("rollback").await.unwrap();
            }
            Err(error) => panic!("{id}: {error}"),
        }
        told.entry(id).or_insert(true);
        conn.query_drop("set autocommit = 1").await.unwrap();
    }
    (told, counted)
}

/// Kills what it finds, for so long. How much that was.
async fn storm(cluster: &Cluster, how: &str, long: Duration) -> usize {
    let mut administrators = Vec::new();
    for server in 0..cluster.servers.len() {
        administrators.push(cluster.administrator(server).await);
    }
    let until = Instant::now() + long;
    let mut struck = 0;
    while Instant::now() < until {
        let server = rand::random_range(0..administrators.len());
        let administrator = &mut administrators[server];
        let busy = if rand::random() { "and (info is not null or state <> '')" } else { "" };
        let one = format!(
            "select id from information_schema.processlist where user = 'app' {busy} order by rand() limit 1"
        );
        let found: Option<u64> = administrator.query_first(one).await.unwrap();
        if let Some(id) = found {
            // It may have gone by itself.
            struck += usize::from(administrator.query_drop(format!("{how} {id}")).await.is_ok());
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(1..30))).await;
    }
    struck
}

async fn weathered(how: &str) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::start(3).await);
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table storm(id bigint primary key, v double)",
            "create table counters(id int primary key, n int not null)",
            &format!("insert into counters select seq, 0 from seq_0_to_{}", COUNTERS - 1),
        ],
    )
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> =
        (0..8).map(|n| tokio::spawn(client(cluster.clone(), n, over.clone()))).collect();
    let struck = storm(&cluster, how, Duration::from_secs(8)).await;
    over.store(true, Ordering::Relaxed);
    let (mut told, mut counted) = (BTreeMap::new(), 0);
    for client in clients {
        let (one, counts) = client.await.unwrap();
        told.extend(one);
        counted += counts;
    }
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
    let there: Vec<i64> = conn.query("select id from storm").await.unwrap();
    let there: BTreeSet<i64> = there.into_iter().collect();
    let failed = told.values().filter(|done| !**done).count();
    println!("{struck} strikes, {} transactions, {failed} failed", told.len());
    for (id, done) in told {
        assert_eq!(there.contains(&id), done, "{id} was told to be done: {done}");
    }
    assert_eq!(value(&mut conn, "select sum(n) from counters").await, counted.to_string());
    assert!(struck > 30, "hardly anything was struck: {struck}");
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_ends_sessions_at_random() {
    weathered("kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_kills_statements_at_random() {
    let cluster = weathered("kill query").await;
    // A COMMIT is not what is struck: nobody leaves for it.
    agree(&cluster).await;
}
