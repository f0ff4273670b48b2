//! The rig's own pieces, tried without the proxy: a test bench that lies is worse than none.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use super::cluster::Options;
use super::compare::assert_same;
use super::load::{Load, Outcome};
use super::relay::{Net, Relay};
use super::server::{ADMIN, ADMIN_PASSWORD, DATABASE, Server};
use super::session::Session;
use super::wire::{self, Wire};
use super::{eventually, run, secs, within};

async fn answers(port: u16, limit: Duration) -> bool {
    let ask = async {
        let session = Session::open(port, ADMIN, ADMIN_PASSWORD, DATABASE).await.ok()?;
        session.simple_query("select 1").await.ok()
    };
    matches!(tokio::time::timeout(limit, ask).await, Ok(Some(_)))
}

#[test]
fn a_server_is_killed_and_comes_back_with_its_data() {
    run(async {
        let server = Server::launch("a", 0);
        let session = server.connect_to("app", "app", DATABASE).await;
        session.run("create table t(id serial primary key); insert into t default values").await;
        server.kill9();
        assert!(session.simple_query("select 1").await.is_err());
        assert!(!answers(server.port, secs(1)).await);
        server.start();
        assert_eq!(server.admin().await.one("select count(*) from t").await, "1");
        server.crash_and_recover();
        server.restart();
        server.stop_immediate();
        server.start();
        assert_eq!(server.admin().await.one("select count(*) from t").await, "1");
    });
}

#[test]
fn a_frozen_server_says_nothing_until_it_thaws() {
    run(async {
        let server = Server::launch("a", 0);
        let session = server.admin().await;
        server.freeze();
        let before = Instant::now();
        let mut query = Box::pin(session.simple_query("select 1"));
        assert!(tokio::time::timeout(Duration::from_millis(400), &mut query).await.is_err());
        server.thaw();
        within("the answer after the thaw", secs(5), query).await.expect("an answer");
        assert!(before.elapsed() >= Duration::from_millis(400));
    });
}

#[test]
fn a_relay_holds_back_and_cuts() {
    run(async {
        let server = Server::launch("a", 0);
        let relay = Relay::to("a", server.port);
        let session =
            Session::open(relay.port, ADMIN, ADMIN_PASSWORD, DATABASE).await.expect("open");
        assert_eq!(session.one("select 1").await, "1");
        for net in [Net::Silent, Net::Mute] {
            relay.set(net);
            let mut query = Box::pin(session.simple_query("select 2"));
            assert!(tokio::time::timeout(Duration::from_millis(300), &mut query).await.is_err());
            assert!(!answers(relay.port, Duration::from_millis(300)).await);
            relay.set(Net::Works);
            within("what was held back", secs(5), query).await.expect("it arrives");
        }
        relay.set(Net::Slow(Duration::from_millis(50)));
        let before = Instant::now();
        assert_eq!(session.one("select 3").await, "3");
        assert!(before.elapsed() >= Duration::from_millis(100));
        relay.set(Net::Cut);
        assert!(session.simple_query("select 4").await.is_err());
        assert!(!answers(relay.port, secs(1)).await);
        relay.set(Net::Works);
        assert!(answers(relay.port, secs(5)).await);
    });
}

#[test]
fn the_comparison_sees_what_differs() {
    run(async {
        let (a, b) = (Server::launch("a", 0), Server::launch("b", 1));
        let servers = [&a, &b];
        for server in servers {
            let app = server.connect_to("app", "app", DATABASE).await;
            app.run("create table t(id int, f float8, at timestamptz); create sequence s").await;
            app.run("insert into t values (1, 0.1, '2024-01-01 00:00+00'), (1, 0.1, null)").await;
        }
        assert_same(&servers, "%", Some("a".into())).await;
        b.admin()
            .await
            .run("insert into t values (1, 0.1, null); delete from t where at is not null")
            .await;
        assert!(
            differs(&servers).await.contains("only on"),
            "equal counts must not hide different rows"
        );
        b.admin().await.run("truncate t; insert into t select 1, 0.1, x from (values (null), (timestamptz '2024-01-01 00:00+00')) v(x)").await;
        assert_same(&servers, "%", Some("a".into())).await;
        a.admin().await.run("select nextval('s') from generate_series(1, 3)").await;
        assert!(differs(&servers).await.contains("hand out numbers twice"));
        b.admin().await.run("select setval('s', 30)").await;
        assert_same(&servers, "%", Some("a".into())).await;
        b.admin().await.run("create index on t(id)").await;
        assert!(differs(&servers).await.contains("CREATE INDEX"));
        let ids = [a.admin().await, b.admin().await];
        let ask = "select system_identifier from pg_control_system()";
        assert_ne!(
            ids[0].one(ask).await,
            ids[1].one(ask).await,
            "two servers must have two identities"
        );
    });
}

/// What the comparison says when it fails.
async fn differs(servers: &[&Server; 2]) -> String {
    let ports: Vec<u16> = servers.iter().map(|s| s.port).collect();
    let comparison = AssertUnwindSafe(assert_same(servers, "%", Some("a".into())));
    let Err(panic) = futures_util::FutureExt::catch_unwind(comparison).await else {
        panic!("no difference was seen between {ports:?}")
    };
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn a_raw_conversation_is_shown_in_lines() {
    run(async {
        let server = Server::launch("a", 0);
        let mut raw = Wire::open(server.port, "app", "app", DATABASE).await;
        assert_eq!(raw.parameters["server_encoding"], "UTF8");
        let lines = raw.query("select 1 as one, null::text; select 1/0; select 2").await;
        assert_eq!(
            lines,
            [
                "T one:23:-1:0, text:25:-1:0",
                "D 1|NULL",
                "C SELECT 1",
                "E ERROR 22012 division by zero",
                "Z I"
            ]
        );
        let bytes = [wire::unnamed("select $1::int + 1", &[Some("41")]), wire::sync()].concat();
        assert_eq!(
            raw.talk(&bytes, 1).await,
            ["1", "2", "T ?column?:23:-1:0", "D 42", "C SELECT 1", "Z I"]
        );
        raw.send(&wire::query("select pg_sleep(20)")).await;
        eventually("the query to be seen", secs(5), || async {
            let busy = server.admin().await;
            let n = busy.one("select count(*) from pg_stat_activity where query like '%pg_sleep(20)' and state = 'active' and pid <> pg_backend_pid()").await;
            if n == "1" { Ok(()) } else { Err(n) }
        })
        .await;
        raw.cancel().await;
        let lines = wire::lines(&raw.until_ready(1).await);
        assert_eq!(lines[1..], ["E ERROR 57014 canceling statement due to user request", "Z I"]);
    });
}

#[test]
fn the_judge_sees_a_broken_promise() {
    run(async {
        let cluster = Options::bare().start().await;
        let load = Load::start(&cluster, 8).await;
        load.goes_on(150, secs(20)).await;
        let outcome = load.stop().await;
        outcome.nobody_noticed();
        outcome.judge(&cluster).await;
        let admin = cluster.first_server().await;
        for (break_it, mend_it, word) in [
            (
                "create table kept as select * from ledger; delete from ledger where id = (select min(id) from ledger)",
                "truncate ledger; insert into ledger select * from kept",
                "is there 0 times",
            ),
            (
                "insert into ledger(id, token) select -1, token from ledger limit 1",
                "delete from ledger where id = -1",
                "is there 2 times",
            ),
            (
                "update account set balance = balance + 1 where id = 3",
                "update account set balance = balance - 1 where id = 3",
                "money came or went",
            ),
            (
                "update counter set n = n + 1 where id = 3",
                "update counter set n = n - 1 where id = 3",
                "counters disagree",
            ),
        ] {
            admin.run(break_it).await;
            let said = condemned(&outcome, &cluster).await;
            assert!(said.contains(word), "after {break_it} the judge says: {said}");
            admin.run(mend_it).await;
        }
        outcome.judge(&cluster).await;
        // A server that goes is noticed by the clients, and their books say so.
        let load = Load::again(&cluster, 4);
        load.goes_on(20, secs(20)).await;
        cluster.servers[0].restart();
        load.goes_on(20, secs(20)).await;
        let outcome = load.stop().await;
        let lost = std::panic::catch_unwind(AssertUnwindSafe(|| outcome.nobody_was_disconnected()));
        assert!(lost.is_err(), "lost connections were not noticed");
    });
}

/// What the judge says when a promise is broken.
async fn condemned(outcome: &Outcome, cluster: &super::cluster::Cluster) -> String {
    let names = cluster.active().await;
    let trial = AssertUnwindSafe(outcome.judge_on(cluster, &names));
    match futures_util::FutureExt::catch_unwind(trial).await {
        Ok(()) => "nothing".into(),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}
