//! Single INSERTs in one transaction.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{CLIENTS, counter, many};
use crate::rig::cluster::{Cluster, Options};
use crate::rig::session::{Session, code_of, explain};
use crate::rig::{run, run_heavy, secs, step};

const EACH: usize = 40;

async fn ready(setup: &str) -> (Arc<Cluster>, Session) {
    let cluster = Cluster::shared().await;
    let app = cluster.connect().await;
    app.run(setup).await;
    (cluster, app)
}

#[test]
fn everybody_gets_their_own_answer() {
    run(async {
        let (cluster, app) = ready(
            "create table grp_t(id int generated always as identity primary key, who int, n int, \
             at timestamptz default clock_timestamp()); create table grp_k(id int primary key, v text)",
        )
        .await;
        let before = counter(&cluster, "grouped").await;
        let clients = many(&cluster).await;
        let ids = join_all(clients.iter().enumerate().map(async |(who, client)| {
            let mut ids = Vec::new();
            let (who, sql) =
                (i32::try_from(who).unwrap(), "insert into grp_t(who, n) values ($1, $2)");
            let returning = client.prepare(&format!("{sql} returning id, n * 2")).await.unwrap();
            let silent = client.prepare(sql).await.unwrap();
            for n in 0..i32::try_from(EACH).unwrap() {
                if n % 3 == 0 {
                    assert_eq!(client.execute(&silent, &[&who, &n]).await.unwrap(), 1);
                    let id = client.one("select lastval()").await;
                    assert_eq!(client.one("select currval('grp_t_id_seq') as grp").await, id);
                    ids.push(id.parse().unwrap());
                } else {
                    let row = client.query_one(&returning, &[&who, &n]).await.unwrap();
                    assert_eq!(row.get::<_, i32>(1), n * 2);
                    ids.push(row.get::<_, i32>(0));
                }
                let key = who * 1000 + n;
                client.run(&format!("insert into grp_k values ({key}, 'it''s {n}')")).await;
            }
            (who, ids)
        }))
        .await;
        for (who, mut ids) in ids {
            let found =
                app.column(&format!("select id from grp_t where who = {who} order by n")).await;
            assert_eq!(
                found,
                ids.iter().map(i32::to_string).collect::<Vec<_>>(),
                "of client {who}"
            );
            ids.dedup();
            assert_eq!(ids.len(), EACH);
        }
        assert_eq!(app.one("select count(*) from grp_k").await, (CLIENTS * EACH).to_string());
        let shared = counter(&cluster, "grouped").await - before;
        assert!(shared > 100, "only {shared} INSERTs shared a transaction");
        cluster.same("grp_%").await;
    });
}

#[test]
fn an_error_is_told_to_whom_it_belongs() {
    run(async {
        let (cluster, _app) = ready(
            "create table gre_p(id int primary key); insert into gre_p values (1); \
             create table gre_t(id int primary key, p int references gre_p deferrable initially deferred, \
             v int check (v < 1000))",
        )
        .await;
        let clients = many(&cluster).await;
        join_all(clients.iter().enumerate().map(async |(who, client)| {
            for n in 0..EACH {
                let id = who * 1000 + n;
                client.run(&format!("insert into gre_t values ({id}, 1, {n})")).await;
                let (sql, code) = match (who, n % 4) {
                    (0..4, 0) => (format!("insert into gre_t values ({id}, 1, 5)"), "23505"),
                    (0..4, 1) => {
                        (format!("insert into gre_t values (-1, 1, {})", 1000 + n), "23514")
                    }
                    (0..4, 2) => ("insert into gre_t values (-1, 99, 1)".to_owned(), "23503"),
                    (4, 0) => ("insert into gre_t values (-1, 1, 1/0)".to_owned(), "22012"),
                    _ => continue,
                };
                client.fails(&sql, code).await;
            }
        }))
        .await;
        assert_eq!(
            clients[0].one("select count(*) from gre_t").await,
            (CLIENTS * EACH).to_string()
        );
        cluster.same("gre_%").await;
    });
}

#[test]
fn who_waits_for_a_lock_waits_alone() {
    run(async {
        let (cluster, holder) = ready("create table grw_t(id int primary key, v text)").await;
        let clients = many(&cluster).await;
        holder.run("begin; insert into grw_t values (0, 'held')").await;
        let (waiting, others) = clients.split_at(2);
        let blocked = join_all(
            waiting
                .iter()
                .map(|client| client.batch_execute("insert into grw_t values (0, 'waits')")),
        );
        let free = async {
            let started = Instant::now();
            join_all(others.iter().enumerate().map(async |(who, client)| {
                for n in 0..20 {
                    client
                        .run(&format!("insert into grw_t values ({}, 'free')", who * 100 + n + 1))
                        .await;
                }
            }))
            .await;
            let took = started.elapsed();
            holder.run("commit").await;
            took
        };
        let (blocked, took) = tokio::join!(blocked, free);
        assert!(took < secs(15), "those who need no lock were held up for {took:?}");
        for ended in blocked {
            let error = ended.expect_err("the row is there");
            assert_eq!(code_of(&error).as_deref(), Some("23505"), "{}", explain(&error));
        }
        cluster.same("grw_%").await;
    });
}

#[test]
fn a_server_that_dies_takes_nothing_with_it() {
    run_heavy(secs(150), async {
        let cluster = Options::servers(3).start().await;
        let app = cluster.connect().await;
        app.run("create table grd_t(id int primary key, v int default (random() * 9)::int)").await;
        let clients = many(&cluster).await;
        let until = Instant::now() + Duration::from_secs(25);
        let inserts = join_all(clients.iter().enumerate().map(async |(who, client)| {
            let mut acknowledged = BTreeSet::new();
            let insert = client.prepare("insert into grd_t(id) values ($1)").await.unwrap();
            for id in (who * 1_000_000).. {
                if Instant::now() > until {
                    break;
                }
                let id = i32::try_from(id).unwrap();
                match client.execute(&insert, &[&id]).await {
                    Ok(_) => drop(acknowledged.insert(id)),
                    Err(error) => panic!("client {who}: {}", explain(&error)),
                }
            }
            acknowledged
        }));
        let faults = async {
            tokio::time::sleep(secs(3)).await;
            let leader = cluster.leader().await;
            step(format!("kill -9 the leader, {leader}"));
            cluster.server(&leader).kill9();
            cluster.wait_inactive(&leader).await;
            tokio::time::sleep(secs(2)).await;
            cluster.server(&leader).start();
            cluster.wait_active(&leader).await;
            let follower = cluster.follower().await;
            step(format!("kill -9 a follower, {follower}"));
            cluster.server(&follower).kill9();
            cluster.wait_inactive(&follower).await;
            cluster.server(&follower).start();
            cluster.wait_active(&follower).await;
        };
        let (acknowledged, ()) = tokio::join!(inserts, faults);
        let all: BTreeSet<i32> = acknowledged.into_iter().flatten().collect();
        let shared = counter(&cluster, "grouped").await;
        step(format!("{} rows, {shared} of them in company", all.len()));
        let found = app.column("select id from grd_t order by id").await;
        let wanted: Vec<String> = all.iter().map(i32::to_string).collect();
        assert!(found == wanted, "{} rows, {} acknowledged", found.len(), wanted.len());
        assert!(shared > 100, "only {shared} shared a transaction");
        cluster.same("grd_%").await;
    });
}
