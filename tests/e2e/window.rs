//! What the README tells an administrator to do with a server that the journal cannot bring back.

use std::sync::Arc;

use crate::rig::cluster::{Cluster, Options, spoken};
use crate::rig::server::{ADMIN, ADMIN_PASSWORD};
use crate::rig::{eventually, run_heavy, secs, step};

/// The README's maintenance window, word for word: `right` were active, `wrong` are to be filled.
async fn maintenance_window(cluster: &Arc<Cluster>, right: &[String], wrong: &[String]) {
    cluster.proxy_stop();
    for name in right {
        step(format!("DROP SCHEMA lockstep on {name}"));
        cluster.server(name).admin().await.run("DROP SCHEMA lockstep CASCADE").await;
    }
    for name in wrong {
        step(format!("a new database on {name}"));
        let server = cluster.server(name);
        let postgres = server.connect_to(ADMIN, ADMIN_PASSWORD, "postgres").await;
        postgres.run("DROP DATABASE app WITH (FORCE)").await;
        postgres.run("CREATE DATABASE app OWNER app TEMPLATE template0").await;
    }
    std::fs::remove_file(cluster.folder.join("state/e2e.state.json")).expect("the state file");
    let output = cluster.lockstep(&["init", "--source", &right[0]]);
    assert!(output.status.success(), "{}", spoken(&output));
    cluster.proxy_start().await;
}

#[test]
fn a_server_left_behind_is_filled_in_a_maintenance_window() {
    run_heavy(secs(120), async {
        let short =
            Options::servers(3).set("journal.max_records", "20").set("journal.keep_records", "5");
        let cluster = short.start().await;
        let app = cluster.connect().await;
        for sql in [
            "create table window_t(id serial primary key, v text, at timestamptz default now())",
            "create function window_f() returns trigger language plpgsql as $$ begin new.v := new.v || '!'; return new; end $$",
            "create trigger window_g before insert on window_t for each row execute function window_f()",
            "create view window_v as select v from window_t",
            "grant select on window_t to app2",
            "insert into window_t(v) values ('first')",
        ] {
            app.run(sql).await;
        }
        let lost = cluster.follower().await;
        // What it has is noted every other second.
        tokio::time::sleep(secs(3)).await;
        cluster.server(&lost).kill9();
        app.run("insert into window_t(v) values ('while away')").await;
        cluster.wait_inactive(&lost).await;
        for _ in 0..60 {
            app.run("insert into window_t(v) values ('pruned')").await;
        }
        eventually("the reason to name the way out", secs(20), || async {
            let reason = cluster.backends().await[&lost]["reason"].clone();
            if reason.contains("When a server comes back") { Ok(()) } else { Err(reason) }
        })
        .await;
        cluster.server(&lost).start();
        let right = cluster.active().await;
        assert_eq!(right.len(), 2);
        maintenance_window(&cluster, &right, std::slice::from_ref(&lost)).await;
        for name in ["a", "b", "c"] {
            cluster.wait_active(name).await;
        }
        cluster.assert_all_equal().await;
        let app = cluster.connect().await;
        app.run("insert into window_t(v) values ('after')").await;
        assert_eq!(app.one("select v from window_t order by id desc limit 1").await, "after!");
        assert_eq!(app.one("select count(*) from window_t").await, "63");
        let reader = cluster.connect_as("app2").await;
        assert_eq!(reader.one("select count(*) from window_t").await, "63");
        // And whoever was filled can lead.
        while cluster.leader().await != lost {
            let leader = cluster.leader().await;
            cluster.server(&leader).kill9();
            cluster.wait_inactive(&leader).await;
        }
        app.run("insert into window_t(v) values ('led')").await;
        assert_eq!(app.one("select count(distinct id) from window_t").await, "64");
    });
}

#[test]
fn a_server_ahead_of_the_cluster_is_named_and_filled() {
    run_heavy(secs(120), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table ahead_t(id int primary key); insert into ahead_t values (1)").await;
        let lost = cluster.follower().await;
        cluster.server(&lost).stop_fast();
        app.run("insert into ahead_t values (2)").await;
        cluster.wait_inactive(&lost).await;
        cluster.server(&lost).start();
        // A record that nobody else has: a commit that only this server kept.
        let ahead = "begin; insert into ahead_t values (77); \
            insert into lockstep.journal select max(seq) + 1, 42, now(), 'app', '' from lockstep.journal; commit";
        cluster.server(&lost).admin().await.run(ahead).await;
        cluster.wait_inactive(&lost).await;
        eventually("the reason to name the record", secs(20), || async {
            let backend = cluster.backends().await[&lost].clone();
            assert_ne!(backend["state"], "active", "it holds what nobody else has");
            let reason = backend["reason"].clone();
            let named = reason.contains("which the cluster does not have")
                && reason.contains("When a server comes back");
            if named { Ok(()) } else { Err(reason) }
        })
        .await;
        let right = cluster.active().await;
        maintenance_window(&cluster, &right, std::slice::from_ref(&lost)).await;
        cluster.wait_active(&lost).await;
        cluster.assert_all_equal().await;
        let app = cluster.connect().await;
        assert_eq!(app.column("select id from ahead_t order by id").await, ["1", "2"]);
    });
}

#[test]
fn a_server_that_was_never_filled_does_not_join() {
    run_heavy(secs(120), async {
        let cluster = Options::servers(3).prepare();
        for admin in cluster.admins().await {
            admin.run("create table before_t as select g from generate_series(1, 9) g").await;
        }
        cluster.init();
        cluster.proxy_start().await;
        let app = cluster.connect().await;
        app.run("create table after_t(id int primary key); insert into after_t values (1)").await;
        let lost = cluster.follower().await;
        cluster.server(&lost).stop_fast();
        app.run("insert into after_t values (2)").await;
        cluster.wait_inactive(&lost).await;
        cluster.proxy_stop();
        let empty = crate::rig::server::Server::prepare("empty", 4, false);
        cluster.server(&lost).take_data_of(&empty.data);
        cluster.server(&lost).start();
        let output = cluster.lockstep(&["init"]);
        step(spoken(&output));
        assert!(output.status.success());
        cluster.proxy_start().await;
        // The journal reaches back to its beginning, but not to what was there before.
        for _ in 0..20 {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let backend = cluster.backends().await[&lost].clone();
            assert_ne!(backend["state"], "active", "{backend:?}");
        }
        let reason = cluster.backends().await[&lost]["reason"].clone();
        assert!(reason.contains("never filled"), "{reason}");
        cluster.assert_equal().await;
    });
}
