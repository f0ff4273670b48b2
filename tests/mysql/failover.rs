//! Everything dies, in turn and at random moments, while clients write; then all servers are compared
//! with each other and with what was acknowledged.
//!
//! What all dialects share is in `tests/faults`; here is what only these servers can do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use mysql_async::prelude::Queryable;
use rand::Rng;

use crate::cluster::{Cluster, refused, run, value};
use crate::load::Load;
use crate::site::SHORT;

crate::faults::faults!(under_load, Arc<Cluster>);

/// Loads and seconds: one at a time, so that no server is taken for dead because two loads share two
/// processors.
fn under_load(work: impl Future<Output = ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let done =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(240), work).await });
    done.expect("the test ends in time");
}

/// Changes the schema again and again; what is interrupted is looked at by the comparison.
async fn change(cluster: Arc<Cluster>, stop: Arc<AtomicBool>) -> usize {
    let mut done = 0;
    let changes = [
        "create table if not exists scratch(id int auto_increment primary key, v int)",
        "insert into scratch(v) values(1), (2), (3)",
        "alter table item add column if not exists more int default 7",
        "truncate table scratch",
        "alter table item drop column if exists more, add index if not exists (x)",
        "drop table if exists scratch, nowhere",
        "alter table item drop index if exists x",
    ];
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut conn) = cluster.try_connect().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        for change in changes {
            match conn.query_drop(change).await {
                Ok(()) => done += 1,
                // What it needs went with a change that a crash has undone.
                Err(mysql_async::Error::Server(error)) if error.code == 1146 => {}
                Err(mysql_async::Error::Server(error)) if [1205, 1213].contains(&error.code) => {}
                Err(mysql_async::Error::Server(error)) => panic!("{change}: {error}"),
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_killed_while_the_schema_changes() {
    let cluster = Arc::new(Cluster::start(3).await);
    let load = Load::start(&cluster, 6).await;
    let stop = Arc::new(AtomicBool::new(false));
    let changes = tokio::spawn(change(cluster.clone(), stop.clone()));
    for _ in 0..8 {
        load.goes_on(15, Duration::from_secs(60)).await;
        let pause = rand::rng().random_range(0..300);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        cluster.kill_proxy();
        cluster.start_proxy();
        cluster.wait_active(3).await;
    }
    load.goes_on(15, Duration::from_secs(60)).await;
    stop.store(true, Ordering::Relaxed);
    assert!(changes.await.unwrap() > 20);
    load.stop().await.judge(&cluster).await;
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_first_at_the_next_leader_is_not_written_over() {
    let cluster = Cluster::start_with(3, SHORT).await;
    let (mut old, mut new) = (cluster.connect().await, cluster.connect().await);
    run(&mut old, "create table over_t(id int primary key, n int)").await;
    run(&mut old, "insert into over_t values (1, 0)").await;
    // Too short to be sent before its end: its locks are on the leader alone, and its snapshot stays there.
    run(&mut old, "start transaction").await;
    assert_eq!(value(&mut old, "select n from over_t where id = 1 for update").await, "0");
    run(&mut old, "update over_t set n = 1 where id = 1").await;
    let lost = cluster.leader();
    cluster.servers[lost].kill();
    cluster.wait_inactive(lost).await;
    run(&mut new, "update over_t set n = n + 5 where id = 1").await;
    assert_eq!(refused(&mut old, "commit").await, 1213);
    assert_eq!(value(&mut new, "select n from over_t").await, "5");
    // Nothing is left of it, and the session goes on.
    run(&mut old, "update over_t set n = n + 1 where id = 1").await;
    assert_eq!(value(&mut new, "select n from over_t").await, "6");
    cluster.assert_active_equal().await;
}

/// At READ COMMITTED it goes on, and nobody is there before it.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_were_worked_out_before_write_over_nothing() {
    let cluster = Arc::new(Cluster::start_with(3, SHORT).await);
    let mut app = cluster.connect().await;
    run(&mut app, "create table cross_t(id int primary key, owner text, n int)").await;
    run(&mut app, "insert into cross_t values (1, 'x', 100), (2, 'y', 100)").await;
    run(&mut app, "set session transaction isolation level read committed").await;
    run(&mut app, "start transaction").await;
    let more = "update cross_t set n = n + 10 where owner = 'x'";
    run(&mut app, more).await;
    let sent = || {
        let cluster = cluster.clone();
        tokio::spawn(async move { run(&mut cluster.connect().await, more).await })
    };
    let waits = sent();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let lost = cluster.leader();
    cluster.servers[lost].kill();
    cluster.wait_inactive(lost).await;
    let comes = sent();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!waits.is_finished() && !comes.is_finished(), "the row is somebody's");
    assert_eq!(value(&mut app, "select n from cross_t where id = 1").await, "110");
    run(&mut app, "commit").await;
    waits.await.expect("it is done");
    comes.await.expect("it is done");
    assert_eq!(value(&mut app, "select n from cross_t where id = 1").await, "130");
    cluster.assert_active_equal().await;
}

/// What is lost with its leader holds up nobody, whatever its client does not say.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_lost_is_told_with_whatever_comes_next() {
    let timeouts = SHORT.replace("[timeouts]\n", "[timeouts]\ncarry_over = \"30s\"\n");
    let cluster = Cluster::start_with(3, &timeouts).await;
    let mut apps = [cluster.connect().await, cluster.connect().await, cluster.connect().await];
    run(&mut apps[0], "create table lost_t(id int primary key, n int)").await;
    run(&mut apps[0], "insert into lost_t values (0, 100), (1, 100), (2, 100)").await;
    for (id, app) in apps.iter_mut().enumerate() {
        run(app, "start transaction").await;
        run(app, &format!("update lost_t set n = 1 where id = {id}")).await;
    }
    let lost = cluster.leader();
    cluster.servers[lost].kill();
    let began = tokio::time::Instant::now();
    run(&mut cluster.connect().await, "update lost_t set n = n + 5").await;
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    let [mut next, mut commits, mut undoes] = apps;
    assert_eq!(refused(&mut next, "insert into lost_t values (7, 7)").await, 1213);
    assert_eq!(refused(&mut commits, "commit").await, 1213);
    run(&mut undoes, "rollback").await;
    for app in [&mut next, &mut commits, &mut undoes] {
        assert_eq!(value(app, "select sum(n) from lost_t").await, "315");
    }
    cluster.assert_active_equal().await;
}

/// Whoever is told to begin again, and does, commits nothing of what came before.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_to_be_undone_with_its_leader_is_undone() {
    let cluster = Cluster::start_with(3, SHORT).await;
    let mut app = cluster.connect().await;
    run(&mut app, "create table load_t(id int primary key)").await;
    run(&mut app, "set session transaction isolation level read committed").await;
    run(&mut app, "start transaction").await;
    run(&mut app, "insert into load_t values (1)").await;
    let (asks, asked) = tokio::sync::oneshot::channel::<()>();
    let (go_on, told) = tokio::sync::oneshot::channel::<()>();
    let first = stream::once(async { Ok(Bytes::from_static(b"2\n")) });
    let last = stream::once(async {
        told.await.expect("the end of the file");
        Ok(Bytes::from_static(b"3\n"))
    });
    app.set_infile_handler(async move {
        asks.send(()).expect("somebody strikes");
        Ok(first.chain(last).boxed())
    });
    let strike = async {
        asked.await.expect("the leader asks for the file");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let lost = cluster.leader();
        cluster.servers[lost].kill();
        cluster.wait_inactive(lost).await;
        go_on.send(()).expect("somebody loads");
    };
    let load = "load data local infile 'x' into table load_t";
    let (code, ()) = tokio::join!(refused(&mut app, load), strike);
    assert_eq!(code, 1213);
    run(&mut app, "start transaction").await;
    run(&mut app, "rollback").await;
    assert_eq!(value(&mut app, "select count(*) from load_t").await, "0");
    cluster.assert_active_equal().await;
}
