//! Fence before grant: the agents' lease changes only after every session that may write by the old one has ended.
//! The statements are the agents' own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use lockstep::agent::election::{Change, Grade, Lease};
use lockstep::agent::lease::Lane;
use lockstep::config::agent::Store;
use lockstep::config::{BackendTls, Secret};
use tokio::time::{sleep, timeout};

use crate::rig::cluster::{Cluster, Options};
use crate::rig::process::{As, command, output};
use crate::rig::server::DATABASE;
use crate::rig::session::{Session, code_of};
use crate::rig::wire::{Wire, query};
use crate::rig::{run_heavy, run_within, runtime, secs, step};

/// What is under the lease: user `app2` on the nodes n1 and n2.
fn shop(more: &str) -> String {
    format!("[{{ name = \"shop\", users = [\"app2\"]{more} }}]")
}

/// An agent's hand on the lease of `shop`.
struct Agent {
    lane: Lane,
    row: Lease,
}

impl Agent {
    async fn new(cluster: &Cluster) -> Self {
        let store = Store {
            dialect: lockstep_protocol::Dialect::Postgres,
            host: "127.0.0.1".into(),
            port: cluster.port,
            database: DATABASE.into(),
            user: "app".into(),
            password: Secret::new("app"),
            tls: BackendTls::Disable,
        };
        let mut lane = Lane::new(&[store], secs(5), secs(20));
        lane.create_tables().await.expect("tables");
        lane.create_row("shop").await.expect("a row");
        let row = lane.read("shop").await.expect("the row").expect("a row");
        Self { lane, row }
    }

    /// The agents' compare-and-set.
    async fn write(&mut self, change: impl FnOnce(&mut Lease)) -> Result<bool, String> {
        let mut row = self.row.next(self.row.stamp + 1);
        change(&mut row);
        let change = Change { expected: self.row.key(), row: row.clone() };
        let done = self.lane.change("shop", &change).await;
        if let Ok(true) = done {
            self.row = row;
        }
        done
    }

    /// Another node takes the lease.
    async fn take(&mut self, node: &str) {
        let node = node.to_owned();
        let taken = self.write(|row| {
            row.epoch += 1;
            row.incarnation = format!("run {}", row.epoch);
            row.holder = node;
            row.ttl = secs(10);
        });
        assert_eq!(taken.await, Ok(true), "the lease is taken");
    }
}

/// A session of the application.
async fn on(cluster: &Cluster, options: &str) -> Result<Session, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(cluster.port).user("app2").password("app2").dbname(DATABASE);
    config.options(options).connect_timeout(secs(20));
    Session::open_with(&config).await
}

async fn node(cluster: &Cluster, node: &str, epoch: i64) -> Session {
    let options = format!("-c lockstep.node={node} -c lockstep.epoch={epoch}");
    on(cluster, &options).await.expect("a session of the application")
}

/// Transactions of the application's user on all servers, as the servers see them.
async fn under_way(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for server in &cluster.servers {
        let admin = server.admin().await;
        let rows = admin
            .column(
                "select query from pg_stat_activity where usename = 'app2' and xact_start is not null",
            )
            .await;
        found.extend(rows.into_iter().map(|query| format!("{}: {query}", server.name)));
    }
    found
}

#[test]
fn the_former_masters_sessions_have_ended_when_the_new_one_is_told() {
    run_within(secs(120), async {
        let cluster = Options::servers(3).set("resource", &shop("")).start().await;
        let mut agent = Agent::new(&cluster).await;
        let app = cluster.connect().await;
        app.run("create table book(id int primary key, by text); grant all on book to app2").await;
        app.run("create table other(id int primary key); grant all on other to app2").await;
        app.run(
            "create table long as select repeat('x', 1000) as t from generate_series(1, 60000)",
        )
        .await;
        app.run("grant select on long to app2").await;
        agent.take("n1").await;

        let open = node(&cluster, "n1", 1).await;
        open.run("insert into book values (1, 'n1')").await;
        open.run("begin; insert into book values (2, 'n1')").await;
        let idle = node(&cluster, "n1", 1).await;
        let busy = node(&cluster, "n1", 1).await;
        let busy = runtime().spawn(async move {
            busy.batch_execute("begin; insert into book values (3, 'n1'); select pg_sleep(60)")
                .await
        });
        let copying = node(&cluster, "n1", 1).await;
        let sink =
            copying.copy_in::<_, bytes::Bytes>("copy other from stdin").await.expect("a copy");
        step("copying");
        // Its process is frozen in the middle of an answer: it takes nothing any more.
        let mut frozen =
            Wire::open_with(cluster.port, "app2", "app2", DATABASE, "-c lockstep.node=n1").await;
        frozen.query("begin; insert into book values (5, 'n1')").await;
        frozen.send(&query("select t from long")).await;
        step("frozen in an answer");
        sleep(secs(1)).await;
        assert!(under_way(&cluster).await.len() >= 4, "there is something to end");

        // Renewals and what operators write end nobody.
        for _ in 0..3 {
            assert_eq!(agent.write(|_| ()).await, Ok(true), "a renewal");
        }
        idle.run("select 1").await;

        let began = Instant::now();
        agent.take("n2").await;
        let took = began.elapsed();
        let left = under_way(&cluster).await;
        assert!(left.is_empty(), "told while these were under way: {left:?}");
        step(format!("the lease was granted after {took:?}"));
        assert!(took < secs(4), "a grant took {took:?}");

        // What the former master sends late is refused.
        let late = open.batch_execute("commit").await.expect_err("a commit of the former master");
        step(format!("the late commit was told {:?}", code_of(&late)));
        assert!(idle.batch_execute("insert into book values (6, 'n1')").await.is_err());
        assert!(busy.await.expect("it has ended").is_err());
        drop((sink, frozen));
        reads_only(&cluster).await;
        let master = node(&cluster, "n2", 2).await;
        master.run("insert into book values (8, 'n2')").await;
        assert_eq!(master.column("select id from book order by id").await, ["1", "8"]);
        cluster.assert_all_equal().await;
    });
}

/// The former master's next session may read, and write in no way.
async fn reads_only(cluster: &Cluster) {
    let again = node(cluster, "n1", 1).await;
    again.fails("insert into book values (7, 'n1')", "25006").await;
    assert_eq!(again.one("select count(*) from book").await, "1", "it may read");
    assert_eq!(again.one("show default_transaction_read_only").await, "on");
    // Nor by any other way to write.
    again.run("set default_transaction_read_only = off").await;
    for write in [
        "begin read write; insert into book values (7, 'n1')",
        "rollback; truncate book",
        "create table another(id int)",
        "create index concurrently i on book(by)",
        "do $$begin insert into book values (7, 'n1'); end$$",
        "with new as (insert into book values (7, 'n1') returning id) select * from new",
    ] {
        again.fails(write, "25006").await;
    }
    assert!(again.copy_in::<_, bytes::Bytes>("copy book from stdin").await.is_err());
}

#[test]
fn nothing_of_an_older_epoch_commits_after_the_grant() {
    run_heavy(secs(180), async {
        let cluster = Options::servers(3).set("resource", &shop("")).start().await;
        let mut agent = Agent::new(&cluster).await;
        let app = cluster.connect().await;
        app.run(
            "create table book(id bigint primary key, epoch bigint); grant all on book to app2",
        )
        .await;
        app.run("grant select on lockstep_lease to app2").await;
        agent.take("n1").await;
        let (end, acknowledged) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
        // Two writers on each node, as if nobody had told them anything: they come back at once, in each term.
        let mut writers = Vec::new();
        for writer in 0..4_i64 {
            let (cluster, end) = (cluster.clone(), end.clone());
            let acknowledged = acknowledged.clone();
            writers.push(runtime().spawn(async move {
                let name = if writer % 2 == 0 { "n1" } else { "n2" };
                let mut id = writer * 1_000_000;
                while end.load(Ordering::Relaxed) == 0 {
                    let Ok(session) = on(&cluster, &format!("-c lockstep.node={name}")).await else {
                        continue;
                    };
                    loop {
                        id += 1;
                        // The epoch in which it began: what it commits later is of that epoch.
                        let write = format!(
                            "begin; insert into book select {id}, epoch from lockstep_lease; select pg_sleep(0.01); commit"
                        );
                        match timeout(secs(10), session.batch_execute(&write)).await {
                            Ok(Ok(())) => acknowledged.fetch_add(1, Ordering::Relaxed),
                            Ok(Err(error)) if code_of(&error).as_deref() == Some("25006") => {
                                sleep(Duration::from_millis(10)).await;
                                break;
                            }
                            _ => break,
                        };
                        if end.load(Ordering::Relaxed) != 0 {
                            break;
                        }
                    }
                }
            }));
        }
        let count = |epoch| format!("select count(*) from book where epoch < {epoch}");
        let mut then = Vec::new();
        for round in 0..25 {
            sleep(Duration::from_millis(250)).await;
            agent.take(if round % 2 == 0 { "n2" } else { "n1" }).await;
            let epoch = agent.row.epoch;
            then.push((epoch, app.one(&count(epoch)).await));
        }
        end.store(1, Ordering::Relaxed);
        for writer in writers {
            writer.await.expect("a writer");
        }
        for (epoch, before) in then {
            assert_eq!(app.one(&count(epoch)).await, before, "older than {epoch}, and late");
        }
        let all = acknowledged.load(Ordering::Relaxed);
        step(format!("{all} writes in 25 terms"));
        assert!(all > 100, "{all} writes are no load");
        cluster.assert_all_equal().await;
    });
}

#[test]
fn the_lease_is_read_when_a_proxy_starts_and_any_change_of_it_counts() {
    run_within(secs(120), async {
        let nodes = ", node = [{ name = \"n1\", hosts = [\"127.0.0.1\"] }]";
        let cluster = Options::servers(2).set("resource", &shop(nodes)).start().await;
        // Nobody has it before there is a table.
        let nobody = on(&cluster, "").await.expect("its address says which node it is");
        nobody.fails("create table x(id int)", "25006").await;
        let mut agent = Agent::new(&cluster).await;
        let app = cluster.connect().await;
        app.run("create table book(id int primary key); grant all on book to app2").await;
        agent.take("n1").await;
        cluster.proxy_kill9();
        cluster.proxy_start().await;
        let master = on(&cluster, "").await.expect("a session");
        master.run("insert into book values (1)").await;
        // Released, deleted, put back by an operator's own words, and for reads only.
        agent
            .write(|row| (row.holder, row.incarnation) = (String::new(), String::new()))
            .await
            .unwrap();
        assert!(master.batch_execute("insert into book values (2)").await.is_err());
        agent.take("n1").await;
        let master = on(&cluster, "").await.expect("a session");
        master.run("insert into book values (3)").await;
        let app = cluster.connect().await;
        app.run("begin; delete from lockstep_lease; rollback").await;
        master.run("insert into book values (4)").await;
        app.run("delete from lockstep_lease").await;
        assert!(master.batch_execute("insert into book values (5)").await.is_err());
        app.run(
            "do $$begin insert into lockstep_lease values \
             ('shop', 9, 1, 'n1', 'x', 'normal', 10000, 0, '', '', 1); end$$",
        )
        .await;
        let master = on(&cluster, "").await.expect("a session");
        master.run("insert into book values (6)").await;
        agent.row = agent.lane.read("shop").await.unwrap().expect("the row");
        assert_eq!(agent.write(|row| row.grade = Grade::ReadOnly).await, Ok(true));
        assert!(master.batch_execute("insert into book values (7)").await.is_err());
        let reader = on(&cluster, "").await.expect("a session");
        reader.fails("insert into book values (7)", "25006").await;
        // A reader that may write from now on is told to come again.
        assert_eq!(agent.write(|row| row.grade = Grade::Normal).await, Ok(true));
        assert!(reader.batch_execute("select 1").await.is_err());
        app.run("drop table lockstep_lease").await;
        let nobody = on(&cluster, "").await.expect("a session");
        nobody.fails("insert into book values (8)", "25006").await;
        assert_eq!(app.column("select id from book order by id").await, ["1", "3", "4", "6"]);
        cluster.assert_all_equal().await;
    });
}

#[test]
fn the_console_shows_what_the_agents_write_and_checks_whether_it_leaves_time() {
    run_within(secs(90), async {
        let changes = [("resource", shop("")), ("timeouts.dead_after", "\"4s\"".to_owned())];
        let options =
            changes.iter().fold(Options::servers(2), |all, (key, value)| all.set(key, value));
        let cluster = options.start().await;
        let console =
            Session::open(cluster.port, "app", "app", "lockstep").await.expect("a console");
        let error = console.fails("SHOW LEASE", "55000").await;
        assert!(error.hint().is_some_and(|hint| hint.contains("agent init")), "{error:?}");
        let mut agent = Agent::new(&cluster).await;
        agent.take("n1").await;
        let app = cluster.connect().await;
        for (node, priority) in [("n1", 100), ("n2", 50)] {
            app.run(&format!(
                "insert into lockstep_node values ('shop', '{node}', 'i', 'm', 7, 'standby', 'normal', \
                 {priority}, 1, 0, 0, 0, 1, '10.0.0.1', '0.1.0', 'Monitoring Master Server Status')"
            ))
            .await;
        }
        app.run(
            "insert into lockstep_event values \
             ('shop', 'n1', 1, 1, 'started', '2026-01-01T00:00:01Z', 3250, ''), \
             ('shop', 'n1', 2, 1, 'check_failed', '2026-01-01T00:00:02Z', 0, 'page: no answer')",
        )
        .await;
        let _master = node(&cluster, "n1", 1).await;
        let lease = console.rows("SHOW LEASE").await;
        let lease: Vec<&str> = lease[0].iter().map(|cell| cell.as_deref().unwrap_or("-")).collect();
        assert_eq!(lease, ["shop", "n1", "1", "1", "normal", "10000", "no", "", "created", "1"]);
        let nodes = console.rows("SHOW NODES").await;
        assert_eq!((nodes[0][3].as_deref(), nodes[1][3].as_deref()), (None, Some("0")), "ranks");
        assert_eq!(nodes[1][12].as_deref(), Some("Monitoring Master Server Status"));
        assert_eq!(console.column("SHOW EVENTS").await.len(), 2);
        assert_eq!(console.rows("SHOW CHECKS").await[0][3].as_deref(), Some("failed"));
        assert_eq!(console.rows("SHOW DOWNTIME").await[0][4].as_deref(), Some("3.250"));

        // The proxy's numbers and the agents' do not fit: 4 s are more than a third of 10 s.
        assert_eq!(app.one("show lockstep.dead_after").await, "4000ms");
        let checked = crate::rig::cluster::spoken(&cluster.lockstep(&["check"]));
        assert!(checked.contains("more than a third of the agents' ttl"), "{checked}");
        let file = cluster.folder.join("agent.toml");
        for (ttl, warns) in [("10s", true), ("13s", false)] {
            let text = format!(
                "[agent]\ndatabase = \"postgresql://app:app@127.0.0.1:{}/{DATABASE}\"\nttl = \"{ttl}\"\n\
                 [[node]]\nname = \"n1\"\n[[resource]]\nname = \"shop\"\n\
                 [[service]]\nname = \"s\"\ncommand = \"sleep 60\"\n",
                cluster.port
            );
            std::fs::write(&file, text).expect("the agent's file");
            let mut check = command(As::Myself, env!("CARGO_BIN_EXE_lockstep"));
            check.args(["agent", "check", "--node", "n1", "--config"]).arg(&file);
            let said = crate::rig::cluster::spoken(&output("agent check", check, secs(20)));
            assert!(said.contains("the configuration is right"), "{said}");
            assert_eq!(said.contains("more than a third of ttl"), warns, "{ttl}: {said}");
        }
    });
}

#[test]
fn who_is_not_let_in_is_told_why() {
    run_within(secs(120), async {
        let cluster = Options::servers(2)
            .set("resource", &shop(", standby_sessions = \"refuse\""))
            .start()
            .await;
        let mut agent = Agent::new(&cluster).await;
        agent.take("n1").await;
        let refused = |options: &'static str| {
            let cluster = cluster.clone();
            async move {
                let error = on(&cluster, options).await.err().expect("turned away");
                code_of(&error).expect("a reason")
            }
        };
        assert_eq!(refused("").await, "28000", "on which node?");
        assert_eq!(refused("-c lockstep.node=n1 -c lockstep.resource=other").await, "28000");
        assert_eq!(refused("-c lockstep.node=n1 -c lockstep.epoch=first").await, "28000");
        assert_eq!(refused("-c lockstep.node=n1 -c lockstep.epoch=7").await, "57P03");
        assert_eq!(refused("-c lockstep.node=n2").await, "57P03");
        // Whoever is under the lease does not change it.
        let app = cluster.connect().await;
        app.run("grant all on lockstep_lease to app2").await;
        app.run("create table mine(id int); grant all on mine to app2").await;
        let master = on(&cluster, "-c lockstep.node=n1").await.expect("the master");
        master.fails("update lockstep_lease set epoch = epoch + 1", "42501").await;
        master.run("update lockstep_lease set seq = seq + 1").await;
        master.run("insert into mine values (1)").await;

        cluster.configure("resource", &shop(", standby_sessions = \"wait\""));
        cluster.proxy_stop();
        cluster.proxy_start().await;
        let mut agent = Agent::new(&cluster).await;
        let other = cluster.clone();
        let waiting = runtime().spawn(async move {
            let session = node(&other, "n2", 2).await;
            session.run("insert into mine values (1)").await;
        });
        sleep(secs(1)).await;
        assert!(!waiting.is_finished(), "it waits for its turn");
        agent.take("n2").await;
        waiting.await.expect("it is let in");
    });
}
