//! What became of a COMMIT that got no answer: an application can ask, and the answer is right.

use std::time::Duration;

use rand::Rng;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::session::Session;
use crate::rig::wire::{query, sync, unnamed};
use crate::rig::{eventually, run, run_heavy, secs, step};

async fn status(session: &Session, id: &str) -> String {
    session.one(&format!("select lockstep.transaction_status('{id}')")).await
}

async fn begun(session: &Session, write: &str) -> String {
    session.run("begin").await;
    session.run(write).await;
    session.one("show lockstep.transaction_id").await
}

/// The value of the first row among the answers.
fn shown(answer: &[String]) -> String {
    answer.iter().find_map(|line| line.strip_prefix("D ")).expect("a row").to_owned()
}

#[test]
fn a_transaction_is_in_progress_then_committed_or_aborted() {
    run(async {
        let cluster = Cluster::shared().await;
        let (app, other) = (cluster.connect().await, cluster.connect().await);
        app.run("create table outcome_t(id int primary key)").await;
        for (end, expected) in [("commit", "committed"), ("rollback", "aborted")] {
            for write in ["insert into outcome_t values (1) on conflict do nothing", "select 1"] {
                let id = begun(&app, write).await;
                assert_eq!(app.one("select lockstep.transaction_id()").await, id, "it stays");
                assert_eq!(status(&other, &id).await, "in progress");
                app.run(end).await;
                assert_eq!(status(&other, &id).await, expected, "{write}; {end}");
            }
        }
        // A failed one, one that was undone by a deferred constraint, and one whose client left.
        let id = begun(&app, "insert into outcome_t values (2)").await;
        app.fails("insert into outcome_t values (1)", "23505").await;
        app.run("commit").await;
        assert_eq!(status(&app, &id).await, "aborted");
        app.run("create table late_t(id int unique deferrable initially deferred)").await;
        let id = begun(&app, "insert into late_t values (1), (1)").await;
        app.fails("commit", "23505").await;
        assert_eq!(status(&app, &id).await, "aborted");
        let id = begun(&app, "insert into outcome_t values (3)").await;
        drop(app);
        eventually("the abandoned transaction to end", secs(10), || async {
            let status = status(&other, &id).await;
            if status == "aborted" { Ok(()) } else { Err(status) }
        })
        .await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn every_driver_can_ask() {
    run(async {
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("begin").await;
        let id: String = app.query_one("show lockstep.transaction_id", &[]).await.unwrap().get(0);
        let same = app.query_one("select lockstep.transaction_id() as id", &[]).await.unwrap();
        assert_eq!(id, same.get::<_, String>("id"));
        app.run("commit").await;
        let question = "select lockstep.transaction_status($1)";
        let row = app.query_one(question, &[&id]).await.unwrap();
        assert_eq!((row.get(0), row.columns()[0].name()), ("committed", "transaction_status"));
        let prepared = app.prepare(question).await.unwrap();
        assert_eq!(prepared.params(), [tokio_postgres::types::Type::TEXT]);
        let none: Option<String> = app.query_one(&prepared, &[&None::<&str>]).await.unwrap().get(0);
        assert_eq!(none, None);
        // In one string, and in a pipeline with the write.
        let text = "begin; show lockstep.transaction_id; select 1; commit";
        let id = app.one(text).await;
        assert_eq!(status(&app, &id).await, "committed");
        let mut wire = cluster.wire().await;
        wire.query("create table pipeline_t(id int primary key)").await;
        let insert = unnamed("insert into pipeline_t values (1)", &[]);
        let pipeline = [insert, unnamed("show lockstep.transaction_id", &[]), sync()].concat();
        let answer = wire.talk(&pipeline, 1).await;
        assert_eq!(status(&app, &shown(&answer)).await, "committed", "{answer:?}");
    });
}

#[test]
fn what_is_not_known_is_not_guessed() {
    run(async {
        let cluster = Options::servers(2).set("journal.keep_records", "5").start().await;
        let app = cluster.connect().await;
        app.fails("show lockstep.transaction_id", "25P01").await;
        app.fails("select lockstep.transaction_status('nonsense')", "22023").await;
        app.fails("select lockstep.transaction_status('x'), 1", "0A000").await;
        assert_eq!(app.one("begin read only; show lockstep.transaction_id").await, "NULL");
        app.run("commit").await;
        app.run("create table forget_t(id int primary key)").await;
        let (mut known, mut ids) = (Vec::new(), Vec::new());
        for (n, end) in ["commit", "rollback", "commit"].into_iter().enumerate() {
            let id = begun(&app, &format!("insert into forget_t values ({n})")).await;
            app.run(end).await;
            known.push(status(&app, &id).await);
            ids.push(id);
        }
        assert_eq!(known, ["committed", "aborted", "committed"]);
        // Somebody else's are none of anybody's business.
        let stranger = cluster.connect_as("app2").await;
        assert_eq!(status(&stranger, &ids[0]).await, "unknown");
        let open = begun(&app, "select 1").await;
        assert_eq!(status(&stranger, &open).await, "unknown");
        app.run("rollback").await;
        for n in 10..60 {
            app.run(&format!("insert into forget_t values ({n})")).await;
        }
        eventually("the journal to be pruned", secs(15), || async {
            let status = status(&app, &ids[0]).await;
            if status == "unknown" { Ok(()) } else { Err(status) }
        })
        .await;
        assert_eq!(status(&app, &ids[1]).await, "unknown", "a pruned one is never called aborted");
        let fresh = begun(&app, "insert into forget_t values (99)").await;
        app.run("rollback").await;
        assert_eq!(status(&app, &fresh).await, "aborted");
        // Of another cluster, and from a future that was lost.
        let (_, rest) = fresh.split_once('-').unwrap();
        assert_eq!(status(&app, &format!("00000000-{rest}")).await, "unknown");
        let (cluster_part, _) = fresh.split_once('-').unwrap();
        assert_eq!(status(&app, &format!("{cluster_part}-999999-1")).await, "unknown");
    });
}

#[test]
fn after_a_crash_of_the_proxy_the_answer_is_what_the_servers_hold() {
    run_heavy(secs(150), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table crash_t(id int primary key)").await;
        let mut seen = std::collections::BTreeMap::new();
        for round in 0..6 {
            let mut clients = Vec::new();
            for place in 0..8 {
                let id = round * 100 + place;
                let mut wire = cluster.wire().await;
                wire.query("begin").await;
                wire.query(&format!("insert into crash_t values ({id})")).await;
                let said = wire.query("show lockstep.transaction_id").await;
                clients.push((id, wire, shown(&said)));
            }
            for (_, wire, _) in &mut clients[1..] {
                wire.send(&query("commit")).await;
            }
            let wait = rand::rng().random_range(0..12_000);
            tokio::time::sleep(Duration::from_micros(wait)).await;
            cluster.proxy_kill9();
            cluster.proxy_start().await;
            let app = cluster.connect().await;
            for (id, _, identity) in clients {
                let status = status(&app, &identity).await;
                let count = format!("select count(*) from crash_t where id = {id}");
                for admin in cluster.admins().await {
                    let there = admin.one(&count).await == "1";
                    let expected = if there { "committed" } else { "aborted" };
                    assert_eq!(status, expected, "row {id}");
                }
                *seen.entry(status).or_insert(0) += 1;
            }
        }
        step(format!("{seen:?}"));
        assert!(seen.contains_key("aborted"), "the one that sent no COMMIT");
        cluster.assert_all_equal().await;
    });
}
