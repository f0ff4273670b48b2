//! Requests to cancel that come at any moment: what they strike is done nowhere, and nothing else is struck.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::ready;
use crate::rig::cluster::{Cluster, Options};
use crate::rig::relay::Net;
use crate::rig::session::{Session, code_of, explain};
use crate::rig::wire::{lines, query};
use crate::rig::{run_heavy, runtime, secs};

/// One transaction of a client that is cancelled in the middle: whether it was told that it is done.
async fn attempt(session: &Session, id: i64) -> Result<(), tokio_postgres::Error> {
    match id % 4 {
        0 => session.batch_execute(&format!("insert into stops_t values ({id})")).await,
        1 => {
            session.batch_execute("begin").await?;
            session.batch_execute(&format!("insert into stops_t values ({id})")).await?;
            session.batch_execute("commit").await
        }
        2 => session.execute("insert into stops_t values ($1)", &[&id]).await.map(|_| ()),
        // Captured as rows, and long enough to be struck.
        _ => {
            let sql = format!("insert into stops_t select {id} from pg_sleep(0.004)");
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
        let (done, ()) = tokio::join!(attempt(&session, id), cancelled);
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

#[test]
fn what_a_cancel_strikes_is_done_nowhere() {
    run_heavy(secs(120), async {
        let (cluster, _) = ready("create table stops_t(id bigint primary key)").await;
        let clients: Vec<_> =
            (0..8).map(|n| runtime().spawn(client(cluster.clone(), n, 300))).collect();
        let mut told = BTreeMap::new();
        for client in clients {
            told.extend(client.await.expect("a client"));
        }
        cluster.same("stops_%").await;
        let reader = cluster.connect().await;
        let there = reader.column("select id from stops_t").await;
        let there: Vec<i64> = there.iter().map(|id| id.parse().expect("a number")).collect();
        for (id, done) in &told {
            assert_eq!(there.contains(id), *done, "{id} was told to be done: {done}");
        }
        let struck = told.values().filter(|done| !**done).count();
        crate::rig::step(format!("{struck} of {} were cancelled", told.len()));
        assert!(struck > 20, "hardly anything was cancelled");
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
