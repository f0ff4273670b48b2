//! The console: the database `lockstep` on the applications' port.

use crate::rig::cluster::{Cluster, Options};
use crate::rig::load::Load;
use crate::rig::session::expect_code;
use crate::rig::{eventually, run, run_heavy, run_within, secs, within};

#[test]
fn everything_can_be_shown() {
    run(async {
        let cluster = Cluster::shared().await;
        let held = cluster.connect().await;
        held.run("begin; select 1").await;
        let backends = cluster.console("SHOW BACKENDS").await;
        assert_eq!(backends.len(), 3);
        for backend in &backends {
            for column in [
                "name",
                "address",
                "state",
                "role",
                "weight",
                "in_flight",
                "lag_records",
                "reason",
                "since",
            ] {
                assert!(
                    backend.contains_key(column),
                    "SHOW BACKENDS has no column {column}: {backend:?}"
                );
            }
        }
        assert_eq!(backends.iter().filter(|b| b["role"] == "leader").count(), 1);
        assert!(!cluster.console("SHOW CLIENTS").await.is_empty());
        for what in ["POOLS", "JOURNAL", "STATS", "CONFIG", "VERSION", "HELP"] {
            let rows = cluster.console(&format!("SHOW {what}")).await;
            assert!(!rows.is_empty(), "SHOW {what} is empty");
            assert!(!format!("{rows:?}").contains("admin secret"), "SHOW {what} shows a password");
        }
        // In any case and with a semicolon, as people type.
        assert_eq!(cluster.console("show backends;").await.len(), 3);
        held.run("rollback").await;
    });
}

#[test]
fn help_names_every_command() {
    run(async {
        let cluster = Cluster::shared().await;
        let help = format!("{:?}", cluster.console("HELP").await).to_uppercase();
        for command in [
            "SHOW BACKENDS",
            "SHOW CLIENTS",
            "ACTIVATE",
            "DEACTIVATE",
            "PAUSE",
            "RESUME",
            "RELOAD",
            "SHUTDOWN",
            "SET WEIGHT",
        ] {
            assert!(help.contains(command), "HELP does not know {command}");
        }
    });
}

#[test]
fn mistakes_are_answered_with_a_hint() {
    run(async {
        let cluster = Cluster::shared().await;
        let console = cluster.try_connect("app", "app", "lockstep").await.expect("a console");
        console.fails("SHOW NONSENSE", "42601").await;
        console.fails("DROP TABLE x", "42601").await;
        console.fails("DEACTIVATE nobody", "42704").await;
        console.fails("SET WEIGHT a TO minus", "42601").await;
        assert_eq!(
            console.rows("SHOW BACKENDS").await.len(),
            3,
            "the console goes on after an error"
        );
        console.run("").await;
    });
}

#[test]
fn the_console_is_for_its_users_only() {
    run(async {
        let cluster = Cluster::shared().await;
        let refused = cluster
            .try_connect("app2", "app2", "lockstep")
            .await
            .err()
            .expect("app2 is no console user");
        expect_code("app2 at the console", &refused, "42501");
        let refused = cluster
            .try_connect("app", "wrong", "lockstep")
            .await
            .err()
            .expect("the password is wrong");
        expect_code("a wrong password at the console", &refused, "28P01");
        let refused =
            cluster.try_connect("nobody", "nobody", "lockstep").await.err().expect("no such user");
        expect_code("a stranger at the console", &refused, "28P01");
    });
}

#[test]
fn a_backend_is_taken_out_and_brought_back() {
    run_heavy(secs(90), async {
        let cluster = Cluster::start(3).await;
        let load = Load::start(&cluster, 10).await;
        for name in [cluster.follower().await, cluster.leader().await] {
            load.goes_on(40, secs(20)).await;
            cluster.console(&format!("DEACTIVATE {name}")).await;
            cluster.wait_inactive(&name).await;
            load.goes_on(60, secs(20)).await;
            tokio::time::sleep(secs(2)).await;
            assert_eq!(
                cluster.backends().await[&name]["state"],
                "inactive",
                "it came back by itself"
            );
            cluster.console(&format!("ACTIVATE {name}")).await;
            cluster.wait_active(&name).await;
        }
        let outcome = load.stop().await;
        outcome.nobody_was_disconnected();
        outcome.failed_only_with(&["40001"]);
        outcome.judge(&cluster).await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn activate_wakes_the_named_one_alone() {
    run_within(secs(90), async {
        let cluster = Options::servers(3).set("cluster.reactivate", "\"manual\"").start().await;
        let app = cluster.connect().await;
        app.run("create table wake_t(id int primary key)").await;
        for name in ["b", "c"] {
            cluster.server(name).stop_fast();
            app.run("insert into wake_t select count(*) from wake_t").await;
            cluster.wait_inactive(name).await;
            cluster.server(name).start();
        }
        tokio::time::sleep(secs(2)).await;
        assert_eq!(cluster.active().await, ["a"], "nobody was told to come back");
        cluster.console("ACTIVATE c").await;
        cluster.wait_active("c").await;
        tokio::time::sleep(secs(2)).await;
        assert_eq!(cluster.active().await, ["a", "c"]);
        cluster.console("ACTIVATE b").await;
        cluster.wait_active("b").await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn the_last_active_backend_stays() {
    run_within(secs(60), async {
        let cluster = Cluster::start(2).await;
        let out = cluster.follower().await;
        cluster.console(&format!("DEACTIVATE {out}")).await;
        cluster.wait_inactive(&out).await;
        let last = cluster.leader().await;
        cluster
            .try_console(&format!("DEACTIVATE {last}"))
            .await
            .expect_err("the last one was taken out");
        assert_eq!(cluster.active().await, [last]);
        // A backend that was taken out by hand stays out over a restart.
        cluster.proxy_stop();
        cluster.proxy_start().await;
        assert_eq!(cluster.backends().await[&out]["state"], "inactive");
        cluster.console(&format!("ACTIVATE {out}")).await;
        cluster.wait_active(&out).await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn pause_holds_clients_and_resume_lets_them_go() {
    run_within(secs(60), async {
        let cluster = Cluster::start(2).await;
        let app = cluster.connect().await;
        app.run("create table pause_t(id serial primary key)").await;
        let open = cluster.connect().await;
        open.run("begin; insert into pause_t default values").await;
        let console = cluster.try_connect("app", "app", "lockstep").await.expect("a console");
        let pause = console.simple_query("PAUSE");
        let work = async {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            open.run("insert into pause_t default values; commit").await;
        };
        let (paused, ()) = within("PAUSE, once open transactions have ended", secs(15), async {
            tokio::join!(pause, work)
        })
        .await;
        paused.expect("PAUSE");
        let mut waiting = Box::pin(app.simple_query("insert into pause_t default values"));
        assert!(
            tokio::time::timeout(secs(1), &mut waiting).await.is_err(),
            "a paused client is served"
        );
        console.run("RESUME").await;
        within("the held statement", secs(10), waiting).await.expect("it runs");
        assert_eq!(app.one("select count(*) from pause_t").await, "3");
        cluster.assert_all_equal().await;
    });
}

#[test]
fn weights_move_reads() {
    run_within(secs(60), async {
        let cluster = Options::servers(3).start().await;
        let app = cluster.connect().await;
        app.run("create table weight_t(id int); insert into weight_t values (1)").await;
        for name in ["b", "c"] {
            cluster.console(&format!("SET WEIGHT {name} 0")).await;
        }
        eventually("reads to go to one server", secs(5), || async {
            let mut ports = Vec::new();
            for _ in 0..20 {
                ports.push(app.one("select current_setting('port') from weight_t").await);
            }
            ports.dedup();
            if ports.len() == 1 { Ok(()) } else { Err(format!("{ports:?}")) }
        })
        .await;
        assert_eq!(cluster.backends().await["b"]["weight"], "0");
    });
}

#[test]
fn shutdown_ends_the_proxy() {
    run_within(secs(60), async {
        let cluster = Cluster::start(2).await;
        let _ = cluster.try_console("SHUTDOWN").await;
        let status = cluster.with_proxy(|p| p.wait(secs(15)));
        assert!(status.success(), "{status}");
    });
}
