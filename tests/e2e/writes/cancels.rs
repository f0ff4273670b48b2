//! Requests to cancel that come at any moment, time limits, and clients that just go: what they strike is done nowhere, and
//! nothing else is struck.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::ready;
use crate::rig::cluster::{Cluster, Options};
use crate::rig::relay::Net;
use crate::rig::session::{Session, code_of, explain};
use crate::rig::wire::{lines, query, sync, unnamed};
use crate::rig::{eventually, run_heavy, runtime, secs};

/// One transaction of a client that is cancelled in the middle: whether it was told that it is done.
async fn attempt(session: &Session, table: &str, id: i64) -> Result<(), tokio_postgres::Error> {
    match id % 4 {
        0 => session.batch_execute(&format!("insert into {table} values ({id})")).await,
        1 => {
            session.batch_execute("begin").await?;
            session.batch_execute(&format!("insert into {table} values ({id})")).await?;
            session.batch_execute("commit").await
        }
        2 => {
            let sql = format!("insert into {table} values ($1)");
            session.execute(&sql, &[&id]).await.map(|_| ())
        }
        // Captured as rows, and long enough to be struck.
        _ => {
            let sql = format!("insert into {table} select {id} from pg_sleep(0.004)");
            session.batch_execute(&sql).await
        }
    }
}

/// What a client was told of each of its transactions.
async fn client(cluster: Arc<Cluster>, n: i64, rounds: i64) -> BTreeMap<i64, bool> {
    let session = cluster.connect().await;
    let mut told = BTreeMap::new();
    for round in 0..rounds {
        let id = n * 1_000_000 + round;
        let cancel = session.cancel_token();
        // From before the statement has come to after it is done.
        let pause = Duration::from_micros(rand::random_range(0..2500));
        let cancelled = async {
            tokio::time::sleep(pause).await;
            cancel.cancel_query(tokio_postgres::NoTls).await.expect("a request to cancel");
        };
        let (done, ()) = tokio::join!(attempt(&session, "stops_t", id), cancelled);
        if let Err(error) = &done {
            let code = code_of(error).unwrap_or_default();
            assert!(["57014", "25P02"].contains(&code.as_str()), "{id}: {}", explain(error));
            // The request may be on its way still.
            while session.batch_execute("rollback").await.is_err() {}
        }
        told.insert(id, done.is_ok());
    }
    told
}

/// Runs so many of these clients, and looks whether what they were told is true.
async fn judged<F>(cluster: &Cluster, table: &str, client: impl Fn(i64) -> F)
where
    F: Future<Output = BTreeMap<i64, bool>> + Send + 'static,
{
    let clients: Vec<_> = (0..8).map(|n| runtime().spawn(client(n))).collect();
    let mut told = BTreeMap::new();
    for client in clients {
        told.extend(client.await.expect("a client"));
    }
    cluster.same(table).await;
    let reader = cluster.connect().await;
    let there = reader.column(&format!("select id from {table}")).await;
    let there: BTreeSet<i64> = there.iter().map(|id| id.parse().expect("a number")).collect();
    for (id, done) in &told {
        assert_eq!(there.contains(id), *done, "{id} was told to be done: {done}");
    }
    let struck = told.values().filter(|done| !**done).count();
    crate::rig::step(format!("{struck} of {} were struck", told.len()));
    assert!(struck > 20, "hardly anything was struck");
}

#[test]
fn what_a_cancel_strikes_is_done_nowhere() {
    run_heavy(secs(120), async {
        let (cluster, _) = ready("create table stops_t(id bigint primary key)").await;
        judged(&cluster, "stops_t", |n| client(cluster.clone(), n, 300)).await;
    });
}

/// The same with a time limit of the session's that is hardly longer than a statement takes.
async fn hurried(cluster: Arc<Cluster>, n: i64, rounds: i64) -> BTreeMap<i64, bool> {
    let session = cluster.connect().await;
    let mut told = BTreeMap::new();
    for round in 0..rounds {
        let id = n * 1_000_000 + round;
        let limit = rand::random_range(1..4);
        // That itself may take too long.
        while session.batch_execute(&format!("set statement_timeout = '{limit}ms'")).await.is_err()
        {
            session.run("set statement_timeout = 0").await;
        }
        let done = attempt(&session, "limits_t", id).await;
        if let Err(error) = &done {
            let code = code_of(error).unwrap_or_default();
            assert!(["57014", "25P02"].contains(&code.as_str()), "{id}: {}", explain(error));
            session.run("rollback").await;
        }
        told.insert(id, done.is_ok());
    }
    told
}

#[test]
fn what_a_time_limit_strikes_is_done_nowhere() {
    run_heavy(secs(120), async {
        let (cluster, _) = ready("create table limits_t(id bigint primary key)").await;
        judged(&cluster, "limits_t", |n| hurried(cluster.clone(), n, 300)).await;
    });
}

/// Clients that go without a word, whatever they have under way: all of a transaction is there, or nothing.
async fn fickle(cluster: Arc<Cluster>, n: i64, rounds: i64) {
    for round in 0..rounds {
        let id = n * 1_000_000 + round * 10;
        let mut wire = cluster.wire().await;
        let two =
            format!("insert into leaves_t values ({id}); insert into leaves_t values ({})", id + 1);
        match round % 4 {
            0 => wire.send(&query(&two)).await,
            1 => wire.send(&query(&format!("begin; {two}; commit"))).await,
            2 => {
                let values = format!("insert into leaves_t values ({id}), ({})", id + 1);
                wire.send(&[unnamed(&values, &[]), sync()].concat()).await;
            }
            _ => {
                wire.query("begin").await;
                wire.query(&two).await;
                wire.send(&query("commit")).await;
            }
        }
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..3000))).await;
    }
}

#[test]
fn what_a_client_leaves_behind_is_whole_or_nothing() {
    run_heavy(secs(120), async {
        let (cluster, reader) = ready("create table leaves_t(id bigint primary key)").await;
        let clients: Vec<_> =
            (0..6).map(|n| runtime().spawn(fickle(cluster.clone(), n, 60))).collect();
        for client in clients {
            client.await.expect("a client");
        }
        // The last ones may still be at it.
        eventually("nothing under way", secs(10), || async {
            let mine = "select count(*) from pg_locks where relation = 'leaves_t'::regclass";
            let locks = reader.one(mine).await;
            if locks == "0" { Ok(()) } else { Err(locks) }
        })
        .await;
        cluster.same("leaves_t").await;
        let odd = "select count(*) from (select 1 from leaves_t group by id / 10 \
                   having count(*) <> 2) odd";
        assert_eq!(reader.one(odd).await, "0", "half of a transaction is there");
    });
}

/// Time in which a request to cancel would have gone out, and in which nobody gives a silent server up.
const A_WHILE: Duration = Duration::from_millis(300);

/// What a cancel strikes in the middle of a BEGIN leaves whatever was sent behind it to commit by itself.
#[test]
fn nothing_is_cancelled_before_its_transaction_is_open() {
    run_heavy(secs(60), async {
        let cluster = Options::servers(2).relays().start().await;
        let mut wire = cluster.wire().await;
        wire.query("create table opens_t(id int primary key)").await;
        wire.query("insert into opens_t values (0)").await;
        // The leader does not say that the transaction is open: a client's cancel waits.
        let leader = cluster.relay("a");
        leader.set(Net::Mute);
        wire.send(&query("insert into opens_t values (1)")).await;
        tokio::time::sleep(A_WHILE).await;
        let before = leader.accepted();
        wire.cancel().await;
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(leader.accepted(), before, "it was cancelled in its BEGIN");
        leader.set(Net::Works);
        let told = lines(&wire.until_ready(1).await);
        crate::rig::step(format!("{told:?}"));
        // A follower does not say so: what is undone on the leader is not cancelled there yet.
        wire.query("begin").await;
        let follower = cluster.relay("b");
        follower.set(Net::Mute);
        wire.query("insert into opens_t values (2)").await;
        let before = follower.accepted();
        wire.send(&query("rollback")).await;
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(follower.accepted(), before, "its part was cancelled in its BEGIN");
        follower.set(Net::Works);
        wire.until_ready(1).await;
        assert_eq!(wire.query("select id from opens_t where id = 2").await.len(), 3, "no row");
        cluster.same("opens_%").await;
    });
}
