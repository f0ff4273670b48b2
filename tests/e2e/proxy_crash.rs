//! What a proxy that was killed leaves behind on the servers. That nothing acknowledged is missing when it
//! is killed at any moment, alone or with a server, is in `tests/faults`.

use crate::divergence::{commits_held_on, commits_wait, let_commits_go};
use crate::rig::cluster::Cluster;
use crate::rig::wire::query;
use crate::rig::{eventually, run_within, runtime, secs};

#[test]
fn nothing_of_a_killed_proxy_holds_locks_for_long() {
    run_within(secs(60), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table held_t(id int primary key, v int default 0); insert into held_t values (1), (2)").await;
        let open = cluster.connect().await;
        open.run("begin; update held_t set v = 1 where id = 1; insert into held_t values (3)")
            .await;
        let mut waiting = cluster.wire().await;
        waiting.send(&query("update held_t set v = v + 1 where id = 1")).await;
        cluster.proxy_kill9();
        cluster.proxy_start().await;
        let after = cluster.connect().await;
        eventually("the row to be free", secs(15), || async {
            let write = "set lock_timeout to '500ms'; update held_t set v = 5 where id = 1; insert into held_t values (3)";
            after.simple_query(write).await.map(|_| ()).map_err(|e| crate::rig::session::explain(&e))
        })
        .await;
        assert_eq!(after.one("select v from held_t where id = 1").await, "5");
        cluster.assert_all_equal().await;
    });
}

/// What a proxy had sent before it was killed may still be under way on the servers when the next
/// one has looked at their journals: it must never come to its end (I6).
#[test]
fn a_commit_of_the_former_proxy_does_not_come_late() {
    run_within(secs(60), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table former_t(id int primary key)").await;
        app.run("begin; insert into former_t values (1)").await;
        let identity = app.one("show lockstep.transaction_id").await;
        let mut held = Vec::new();
        for server in &cluster.servers {
            held.push(commits_held_on(&cluster, &server.name).await);
        }
        let commit = runtime().spawn(async move { app.batch_execute("commit").await });
        for admin in &held {
            commits_wait(admin, 1).await;
        }
        cluster.proxy_kill9();
        assert!(commit.await.unwrap().is_err());
        cluster.proxy_start().await;
        let status = format!("select lockstep.transaction_status('{identity}')");
        assert_eq!(cluster.connect().await.one(&status).await, "aborted");
        // Should one of them come late, it comes late on some servers, and not on this one.
        let others = "select pg_terminate_backend(pid) from pg_stat_activity where query = 'COMMIT' and wait_event = 'advisory'";
        assert_eq!(held[2].column(others).await, [""; 0], "sessions of the former proxy live on");
        for admin in &held {
            let_commits_go(admin).await;
        }
        cluster.assert_all_equal().await;
        let after = cluster.connect().await;
        assert_eq!(after.one("select count(*) from former_t").await, "0", "it came late");
        assert_eq!(after.one(&status).await, "aborted");
        after.run("insert into former_t values (1)").await;
        cluster.assert_all_equal().await;
    });
}
