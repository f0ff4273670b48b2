//! Reads: spread over the servers, and never older than what anyone was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::rig::cluster::{Cluster, Options, direct};
use crate::rig::load::Load;
use crate::rig::relay::Net;
use crate::rig::{run, run_heavy, runtime, secs};

#[test]
fn reads_are_spread_and_writes_are_not() {
    run(async {
        if direct() {
            return;
        }
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("create table spread_t(id int primary key); insert into spread_t values (1)").await;
        let reads = async || {
            let (_, text) = cluster.http("/metrics").await.expect("HTTP");
            let count = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok());
            let lines = text.lines().filter(|l| l.starts_with("lockstep_reads_total{"));
            lines.map(|l| count(l).unwrap_or(0.0)).collect::<Vec<_>>()
        };
        let before = reads().await;
        for _ in 0..60 {
            app.one("select id from spread_t").await;
        }
        let after = reads().await;
        let readers = before.iter().zip(&after).filter(|(b, a)| a > b).count();
        assert!(readers > 1, "all reads went to one server: {before:?} {after:?}");
    });
}

#[test]
fn a_write_is_never_taken_for_a_read() {
    run(async {
        let (cluster, app) = {
            let cluster = Cluster::shared().await;
            let app = cluster.connect().await;
            (cluster, app)
        };
        app.run("create table taken_t(id serial primary key, v text); create sequence taken_s;
                 create function taken_f() returns int language sql volatile as $$ insert into taken_t(v) values ('f') returning id $$;
                 create function taken_stable() returns int language sql stable as $$ select 5 $$; create view taken_v as select taken_f() as id").await;
        for sql in [
            "select taken_f()",
            "  /* x */ -- y\n select taken_f()",
            "(select taken_f())",
            "select taken_stable() + taken_f()",
            "with w as (insert into taken_t(v) values ('w') returning 1) select 1",
            "with w as (select taken_f() f) select f from w",
            "select * from taken_v",
            "table taken_v",
            "values (taken_f())",
            "select 1 order by taken_f()",
            "select 1 from generate_series(1, 2) where taken_f() > 0",
            "select (select taken_f())",
            "explain (analyze, timing off) select taken_f()",
            "select case when taken_f() > 0 then 1 end",
            "select nextval('taken_s'), setval('taken_s', 50)",
            "select id from taken_t limit 1 for update",
            "select pg_notify('taken', 'x')",
            "select set_config('app.x', 'y', false)",
        ] {
            for _ in 0..3 {
                if let Err(e) = app.simple_query(sql).await {
                    panic!("{sql}: {}", crate::rig::session::explain(&e));
                }
            }
        }
        let mut raw = cluster.wire().await;
        let answer = raw.query("copy (select taken_f()) to stdout").await;
        assert!(answer.contains(&"C COPY 1".to_owned()), "{answer:?}");
        cluster.same("taken_%").await;
    });
}

#[test]
fn every_session_sees_every_acknowledged_commit() {
    run(async {
        let cluster = Cluster::shared().await;
        let setup = cluster.connect().await;
        setup.run("create table seen_t(id int primary key, n bigint); insert into seen_t values (1, 0)").await;
        let told = Arc::new(AtomicI64::new(0));
        let mut tasks = Vec::new();
        {
            let (cluster, told) = (cluster.clone(), told.clone());
            tasks.push(runtime().spawn(async move {
                let app = cluster.connect().await;
                for n in 1..=150 {
                    app.run(&format!("update seen_t set n = {n} where id = 1")).await;
                    told.store(n, Ordering::SeqCst);
                }
            }));
        }
        for _ in 0..4 {
            let (cluster, told) = (cluster.clone(), told.clone());
            tasks.push(runtime().spawn(async move {
                let app = cluster.connect().await;
                let mut last = 0;
                while told.load(Ordering::SeqCst) < 150 {
                    let before = told.load(Ordering::SeqCst);
                    let n: i64 =
                        app.one("select n from seen_t where id = 1").await.parse().unwrap();
                    assert!(n >= before, "read {n} after a commit of {before} was acknowledged");
                    assert!(n >= last, "read {n} after {last}");
                    last = n;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        cluster.same("seen_%").await;
    });
}

#[test]
fn a_session_reads_its_own_writes_everywhere() {
    run(async {
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("create table own_reads_t(id serial primary key, v float8 default random())").await;
        for n in 1..=60 {
            app.run("insert into own_reads_t default values").await;
            assert_eq!(app.one("select count(*) from own_reads_t").await, n.to_string());
            // Inside a transaction, too, before and after its first write.
            app.run("begin").await;
            assert_eq!(app.one("select count(*) from own_reads_t").await, n.to_string());
            app.run("update own_reads_t set v = 2").await;
            assert_eq!(
                app.one("select count(*) from own_reads_t where v = 2").await,
                n.to_string()
            );
            app.run("rollback").await;
            assert_eq!(app.one("select count(*) from own_reads_t where v = 2").await, "0");
        }
        cluster.same("own_reads_%").await;
    });
}

#[test]
fn a_read_whose_server_dies_is_run_again() {
    run_heavy(secs(90), async {
        let cluster = Options::servers(3).relays().start().await;
        let app = cluster.connect().await;
        app.run("create table again_t(id int primary key); insert into again_t select g from generate_series(1, 100) g").await;
        let mut readers = Vec::new();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for _ in 0..8 {
            let (cluster, stop) = (cluster.clone(), stop.clone());
            readers.push(runtime().spawn(async move {
                let app = cluster.connect().await;
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    let sum = app.one("select sum(id) from again_t where id > 0 and pg_sleep(0.005) is not null limit 1").await;
                    assert_eq!(sum, "5050");
                    let row = app.query_one("select sum(id) from again_t", &[]).await.unwrap();
                    assert_eq!(row.get::<_, i64>(0), 5050);
                    count += 1;
                }
                count
            }));
        }
        tokio::time::sleep(secs(1)).await;
        for name in ["c", "b"] {
            cluster.relay(name).set(Net::Cut);
            cluster.wait_inactive(name).await;
            cluster.relay(name).set(Net::Works);
            cluster.wait_active(name).await;
            cluster.server(name).kill9();
            cluster.wait_inactive(name).await;
            cluster.server(name).start();
            cluster.wait_active(name).await;
        }
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.await.unwrap() > 0);
        }
    });
}

#[test]
fn consistency_is_chosen_by_session() {
    run(async {
        if direct() {
            return;
        }
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("create table level_reads_t(id serial primary key)").await;
        for level in ["eventual", "session", "strong"] {
            app.run(&format!("set lockstep.consistency to '{level}'")).await;
            assert_eq!(app.one("show lockstep.consistency").await, level);
            app.run("insert into level_reads_t default values").await;
            app.run("select count(*) from level_reads_t").await;
        }
        app.fails("set lockstep.consistency to 'nonsense'", "22023").await;
        app.run("reset lockstep.consistency").await;
        cluster.same("level_reads_%").await;
    });
}

#[test]
fn an_inactive_server_is_never_read() {
    run_heavy(secs(90), async {
        let cluster = Cluster::start(3).await;
        let load = Load::start(&cluster, 8).await;
        load.goes_on(40, secs(20)).await;
        let out = cluster.follower().await;
        cluster.console(&format!("DEACTIVATE {out}")).await;
        cluster.wait_inactive(&out).await;
        // Its rows are spoilt: whoever reads them would tell.
        let admin = cluster.server(&out).admin().await;
        admin.run("set session_replication_role to replica; update account set balance = -1").await;
        let app = cluster.connect().await;
        for _ in 0..60 {
            assert_eq!(app.one("select count(*) from account where balance = -1").await, "0");
        }
        let outcome = load.stop().await;
        outcome.nobody_noticed();
        outcome.judge(&cluster).await;
    });
}

#[test]
fn a_hint_sends_a_read_to_the_leader() {
    run(async {
        let cluster = Options::servers(2).start().await;
        let app = cluster.connect().await;
        app.run("create table hint_t(id int primary key); insert into hint_t values (1)").await;
        let balanced = async || {
            let (_, text) = cluster.http("/metrics").await.expect("metrics");
            let lines = text.lines().filter(|line| line.starts_with("lockstep_reads_total{"));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
        };
        let before = balanced().await;
        for _ in 0..5 {
            app.run("/*NO LOAD BALANCE*/ select count(*) from hint_t").await;
            app.query("/*no load balance*/ select id from hint_t", &[]).await.unwrap();
        }
        let hinted = balanced().await - before;
        for _ in 0..5 {
            app.run("/*REPLICATION*/ select count(*) from hint_t").await;
        }
        let plain = balanced().await - before - hinted;
        // Preparing a statement executes nothing, and is balanced.
        assert!(hinted <= 5 && plain >= 5, "{hinted} with the hint, {plain} without");
    });
}
