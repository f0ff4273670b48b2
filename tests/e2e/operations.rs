//! Running it: signals, HTTP, `init` and `check`, logs.

use crate::rig::cluster::{Cluster, Options, spoken};
use crate::rig::load::Load;
use crate::rig::session::Session;
use crate::rig::wire::lines;
use crate::rig::{eventually, run, run_heavy, run_within, secs, within};

#[test]
fn health_and_metrics_are_served() {
    run(async {
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("create table metric_t(id int); insert into metric_t values (1); select * from metric_t").await;
        assert_eq!(cluster.http("/healthz").await.expect("HTTP").0, 200);
        assert_eq!(cluster.http("/readyz").await.expect("HTTP").0, 200);
        assert_eq!(cluster.http("/nonsense").await.expect("HTTP").0, 404);
        let (status, text) = cluster.http("/metrics").await.expect("HTTP");
        assert_eq!(status, 200);
        for part in [
            "lockstep_backend_state{backend=\"a\",state=\"active\"} 1",
            "lockstep_commits_total",
            "lockstep_statements_total{",
            "# HELP ",
            "# TYPE ",
        ] {
            assert!(text.contains(part), "no {part} in /metrics:\n{text}");
        }
        assert!(
            !text.contains("insert into") && !text.contains("secret"),
            "statements or passwords in /metrics"
        );
    });
}

#[test]
fn sigterm_lets_transactions_finish() {
    run_within(secs(60), async {
        let cluster = Cluster::start(2).await;
        let app = cluster.connect().await;
        app.run("create table drain_t(id int primary key)").await;
        app.run("begin; insert into drain_t values (1)").await;
        let idle = cluster.connect().await;
        idle.run("select 1").await;
        cluster.with_proxy(|p| p.signal("TERM"));
        eventually("new clients to be turned away", secs(5), || async {
            match cluster.try_connect("app", "app", "app").await {
                Ok(_) => Err("one more was let in".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;
        app.run("insert into drain_t values (2); commit").await;
        let status = cluster.with_proxy(|p| p.wait(secs(15)));
        assert!(status.success(), "{status}");
        within("the end of idle connections", secs(5), async {
            while !idle.is_closed() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        let names = ["a".to_owned(), "b".to_owned()];
        cluster.assert_equal_on(&names).await;
        assert_eq!(
            cluster.server("b").admin().await.one("select count(*) from drain_t").await,
            "2"
        );
        cluster.proxy_start().await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn sigterm_does_not_wait_for_ever() {
    run_within(secs(60), async {
        let cluster = Options::servers(2).set("timeouts.shutdown_grace", "\"1s\"").start().await;
        let app = cluster.connect().await;
        app.run("create table grace_t(id int primary key)").await;
        app.run("begin; insert into grace_t values (1)").await;
        let began = std::time::Instant::now();
        cluster.proxy_stop();
        assert!(began.elapsed() < secs(8));
        cluster.proxy_start().await;
        assert_eq!(cluster.connect().await.one("select count(*) from grace_t").await, "0");
        cluster.assert_all_equal().await;
    });
}

#[test]
fn sighup_reads_the_configuration_again() {
    run_heavy(secs(60), async {
        let cluster = Cluster::start(2).await;
        let load = Load::start(&cluster, 6).await;
        load.goes_on(20, secs(20)).await;
        cluster.configure("limits.max_clients", "3");
        cluster.with_proxy(|p| p.signal("HUP"));
        eventually("the new limit to hold", secs(10), || async {
            match cluster.try_connect("app", "app", "app").await {
                Ok(_) => Err("one more was let in".to_owned()),
                Err(e) => crate::rig::session::code_of(&e)
                    .filter(|c| c == "53300")
                    .map(|_| ())
                    .ok_or(format!("{e:?}")),
            }
        })
        .await;
        cluster.configure("limits.max_clients", "100");
        cluster.configure("limits.no_such_key", "1");
        cluster.with_proxy(|p| p.signal("HUP"));
        tokio::time::sleep(secs(1)).await;
        assert!(cluster.proxy_exited().is_none(), "a mistake in the file ended the proxy");
        cluster.configure("limits.no_such_key", "2");
        load.goes_on(20, secs(10)).await;
        load.stop().await.nobody_was_disconnected();
    });
}

/// Transactions that write, of which only so many can be open as there are connections.
async fn open_writes(cluster: &Cluster, rows: std::ops::Range<usize>) -> Vec<Session> {
    let mut open = Vec::new();
    for n in rows {
        let app = cluster.connect().await;
        app.run(&format!("begin; insert into pooled_t values ({n})")).await;
        open.push(app);
    }
    open
}

#[test]
fn a_pool_grows_and_shrinks_without_a_restart() {
    run_within(secs(90), async {
        let limits =
            Options::servers(2).set("pool.size", "2").set("pool.checkout_timeout", "\"1s\"");
        let cluster = limits.start().await;
        cluster.connect().await.run("create table pooled_t(id int primary key)").await;
        let full = open_writes(&cluster, 0..2).await;
        let more = cluster.connect().await;
        more.fails("insert into pooled_t values (99)", "53300").await;
        cluster.configure("pool.size", "4");
        let said = format!("{:?}", cluster.console("RELOAD").await);
        assert!(said.contains("pool") && said.contains("nothing"), "{said}");
        more.run("insert into pooled_t values (100)").await;
        for app in full {
            app.run("commit").await;
        }
        // Smaller while all are in use: what is too much goes as it comes back.
        let full = open_writes(&cluster, 200..204).await;
        cluster.configure("pool.size", "1");
        cluster.console("RELOAD").await;
        for app in &full {
            app.run("commit").await;
        }
        let _one = open_writes(&cluster, 300..301).await;
        more.fails("insert into pooled_t values (400)", "53300").await;
        drop((full, _one));
        cluster.assert_all_equal().await;
    });
}

#[test]
fn limits_are_taken_over_without_a_restart() {
    run_within(secs(90), async {
        let slow = Options::servers(3)
            .set("timeouts.dead_after", "\"10min\"")
            .set("timeouts.probe_timeout", "\"5min\"");
        let cluster = slow.start().await;
        let app = cluster.connect().await;
        app.run("create table limit_t(id int primary key); insert into limit_t values (1)").await;
        let quick = [("dead_after", "1s"), ("probe_timeout", "500ms"), ("follower_lock", "500ms")];
        for (key, value) in quick {
            cluster.configure(&format!("timeouts.{key}"), &format!("{value:?}"));
        }
        cluster.configure("pool.prepared_statements", "7");
        let said = format!("{:?}", cluster.console("RELOAD").await);
        assert!(said.contains("timeouts") && said.contains("restart: nothing"), "{said}");
        // Neither the connections nor the bookkeeping wait for what was said at the start.
        cluster.servers[1].freeze();
        within("a write", secs(15), app.run("update limit_t set id = 2")).await;
        cluster.servers[1].thaw();
        cluster.wait_active(&cluster.servers[1].name).await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn check_does_not_wait_for_a_silent_server_for_ever() {
    run_within(secs(60), async {
        let cluster = Options::servers(2).prepare();
        cluster.init();
        cluster.servers[1].freeze();
        let began = std::time::Instant::now();
        let said = cluster.lockstep(&["check"]);
        assert!(!said.status.success() && began.elapsed() < secs(20), "{:?}", began.elapsed());
        let said = crate::rig::cluster::spoken(&said);
        assert!(said.contains("b: cannot be reached: no connection within"), "{said}");
        cluster.servers[1].thaw();
    });
}

#[test]
fn a_new_password_is_taken_over_without_a_restart() {
    run_within(secs(60), async {
        let cluster = Cluster::start(2).await;
        let app2 = cluster.connect_as("app2").await;
        app2.run("alter role app2 password 'renewed'").await;
        let text = std::fs::read_to_string(&cluster.config).expect("the configuration");
        let renewed = text.replace("password = \"app2\"", "password = \"renewed\"");
        assert_ne!(text, renewed);
        std::fs::write(&cluster.config, renewed).expect("the configuration");
        cluster.with_proxy(|p| p.signal("HUP"));
        let again = eventually("the new password to be taken", secs(5), || async {
            let open = cluster.try_connect("app2", "renewed", "app").await;
            open.map_err(|e| format!("{e:?}"))
        })
        .await;
        assert!(cluster.try_connect("app2", "app2", "app").await.is_err(), "the old one is good");
        // Also where a new connection to the servers is needed.
        again.run("begin; select 1").await;
        app2.run("begin; select pg_advisory_xact_lock(1); commit").await;
        again.run("commit; select pg_advisory_xact_lock(1)").await;
    });
}

#[test]
fn a_silent_transaction_ends_when_told() {
    run_within(secs(60), async {
        let limit = Options::servers(2).set("timeouts.idle_in_transaction", "\"1s\"");
        let cluster = limit.start().await;
        let app = cluster.connect().await;
        app.run("create table silent_t(id int primary key); insert into silent_t values (1)").await;
        let mut silent = cluster.wire().await;
        silent.query("begin; update silent_t set id = 2").await;
        let said = lines(&silent.until_ready(1).await);
        assert!(said.iter().any(|line| line.contains("25P03")), "{said:?}");
        // What it had locked is free, and whoever is silent without a transaction may be.
        within("the row", secs(5), app.run("update silent_t set id = 3")).await;
        tokio::time::sleep(secs(2)).await;
        app.run("begin; update silent_t set id = 4; commit").await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn init_can_be_repeated_and_proxy_says_what_is_missing() {
    run_within(secs(60), async {
        let cluster = Options::servers(2).prepare();
        cluster.proxy_spawn();
        // Without init: it ends, or waits unready; it never serves.
        tokio::time::sleep(secs(2)).await;
        if cluster.proxy_exited().is_none() {
            assert!(!matches!(cluster.http("/readyz").await, Ok((200, _))), "served without init");
            cluster.proxy_kill9();
        }
        let said = std::fs::read_to_string(cluster.proxy_log()).unwrap();
        assert!(said.contains("lockstep init"), "the log does not name the remedy:\n{said}");
        cluster.init();
        cluster.init();
        cluster.proxy_start().await;
        cluster
            .connect()
            .await
            .run("create table init_t(id serial primary key); insert into init_t default values")
            .await;
        cluster.assert_all_equal().await;
        cluster.proxy_stop();
        cluster.init();
        cluster.proxy_start().await;
        cluster.connect().await.run("insert into init_t default values").await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn init_takes_existing_data_when_all_agree_and_else_refuses() {
    run_within(secs(60), async {
        let cluster = Options::servers(2).prepare();
        for server in &cluster.servers {
            let app = server.connect_to("app", "app", "app").await;
            app.run("create table had_t(id serial primary key, v text); insert into had_t(v) values ('x'), ('y')").await;
        }
        cluster.init();
        cluster.proxy_start().await;
        let app = cluster.connect().await;
        app.run("insert into had_t(v) values ('z'); update had_t set v = v || random()").await;
        cluster.assert_all_equal().await;

        let differing = Options::servers(2).prepare();
        for (i, server) in differing.servers.iter().enumerate() {
            let app = server.connect_to("app", "app", "app").await;
            app.run(&format!("create table had_t(id serial primary key, v int); insert into had_t(v) values ({i})")).await;
        }
        let output = differing.lockstep(&["init"]);
        let said = spoken(&output);
        assert!(!output.status.success(), "init takes servers that differ: {said}");
        assert!(said.contains("had_t"), "init does not say what differs: {said}");
        for (i, server) in differing.servers.iter().enumerate() {
            let v = server.admin().await.one("select v from had_t").await;
            assert_eq!(v, i.to_string(), "init touched data without being told which is right");
        }
    });
}

#[test]
fn check_finds_what_would_go_wrong() {
    run_within(secs(90), async {
        let cluster = Options::servers(3).prepare();
        cluster.init();
        let output = cluster.lockstep(&["check"]);
        assert!(output.status.success(), "check of a good cluster: {}", spoken(&output));
        cluster.server("b").configure("timezone = 'Asia/Tokyo'\nextra_float_digits = -3");
        cluster.server("b").restart();
        let output = cluster.lockstep(&["check"]);
        let said = spoken(&output);
        assert!(!output.status.success(), "a server with another time zone passes: {said}");
        assert!(said.to_lowercase().contains("timezone") && said.contains('b'), "{said}");
        cluster.server("c").stop_fast();
        let output = cluster.lockstep(&["check"]);
        let said = spoken(&output);
        assert!(
            !output.status.success() && said.contains('c'),
            "a server that is down passes: {said}"
        );
        assert!(!said.contains("admin secret"), "a password is printed");
        cluster.configure("cluster.databse", "\"app\"");
        let output = cluster.lockstep(&["check"]);
        let said = spoken(&output);
        assert!(
            !output.status.success() && said.contains("databse") && said.contains("lockstep.toml:"),
            "{said}"
        );
    });
}

#[test]
fn changes_of_state_are_logged_with_their_cause() {
    run_within(secs(60), async {
        let cluster = Cluster::start(2).await;
        let lost = cluster.follower().await;
        cluster.server(&lost).kill9();
        cluster
            .connect()
            .await
            .run("create table log_t(id int); insert into log_t values (1)")
            .await;
        cluster.wait_inactive(&lost).await;
        cluster.server(&lost).start();
        cluster.wait_active(&lost).await;
        let log = std::fs::read_to_string(cluster.proxy_log()).unwrap();
        let line = log.lines().find(|l| {
            l.contains("inactive") && l.contains("active") && l.contains(&format!("backend={lost}"))
        });
        assert!(line.is_some(), "no line tells the change of {lost}:\n{log}");
        for secret in ["admin secret", "insert into log_t"] {
            assert!(!log.contains(secret), "`{secret}` is in the log");
        }
    });
}

#[test]
fn a_demo_starts_serves_and_cleans_up() {
    run_within(secs(90), async {
        use crate::rig::process::{As, Process, command, tail};
        let folder = crate::rig::folder().join("demo");
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join("demo.log");
        let mut demo = command(As::Myself, env!("CARGO_BIN_EXE_lockstep"));
        let port = crate::rig::free_port();
        demo.args(["demo", "--json", "--port", &port.to_string()])
            .env("LOCKSTEP_PG_BIN", crate::rig::server::programs());
        let demo = Process::start("lockstep demo", demo, &log);
        let line = eventually("the demo's line", secs(60), || async {
            assert!(demo.exited().is_none(), "the demo ended: {}", tail(&log, 30));
            let text = std::fs::read_to_string(&log).unwrap();
            text.lines()
                .find(|l| l.starts_with('{') && l.ends_with('}'))
                .map(str::to_owned)
                .ok_or(text)
        })
        .await;
        let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let url = told["url"].as_str().expect("a url");
        let config: tokio_postgres::Config = url.parse().expect("a connection string");
        let app = crate::rig::session::Session::open_with(&config).await.expect("a login");
        app.run(
            "create table demo_e2e(id serial primary key); insert into demo_e2e default values",
        )
        .await;
        let backends = told["backends"].as_array().expect("backends");
        assert_eq!(backends.len(), 3);
        for backend in backends {
            for key in ["name", "url", "data_dir", "pid"] {
                assert!(!backend[key].is_null(), "no {key} in {line}");
            }
        }
        assert!(told["console"].is_string() && told["http"].is_string(), "{line}");
        demo.signal("INT");
        demo.wait(secs(20));
        for backend in backends {
            let pid = backend["pid"].as_u64().expect("a number");
            assert!(
                !std::path::Path::new(&format!("/proc/{pid}")).exists(),
                "a server outlives the demo"
            );
        }
    });
}
