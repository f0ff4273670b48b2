//! What a proxy remembers, and what becomes of it when that is lost, broken, old or somebody else's.

use super::rig::Proxies;
use crate::rig::cluster::Cluster;
use crate::rig::process::tail;
use crate::rig::{run_within, secs};

/// Waits until the proxy of a cluster says why it does not serve.
async fn says(cluster: &Cluster, words: &str) {
    crate::rig::eventually("a reason", secs(20), || async {
        match cluster.http("/readyz").await {
            Ok((503, why)) if why.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[test]
fn a_state_file_that_is_lost_broken_old_or_foreign_is_not_guessed_at() {
    run_within(secs(120), async {
        let cluster = Cluster::start(3).await;
        let file = cluster.folder.join("state/e2e.state.json");
        let app = cluster.connect().await;
        app.run("create table t(id int primary key)").await;
        let old = std::fs::read_to_string(&file).unwrap();
        cluster.server("c").kill9();
        app.run("insert into t values (1)").await;
        cluster.wait_inactive("c").await;
        cluster.proxy_kill9();
        let newest = std::fs::read_to_string(&file).unwrap();
        cluster.server("c").start();

        // Broken: refused with the way out.
        std::fs::write(&file, &newest[..newest.len() / 2]).unwrap();
        let refused = cluster.lockstep(&["proxy"]);
        let words = crate::rig::cluster::spoken(&refused);
        assert!(!refused.status.success() && words.contains("move it away"), "{words}");

        // Another cluster's.
        std::fs::write(&file, newest.replace("\"cluster\": \"", "\"cluster\": \"other-")).unwrap();
        cluster.proxy_spawn();
        says(&cluster, "belongs to cluster").await;
        cluster.proxy_kill9();

        // One that was kept from before, and put back.
        std::fs::write(&file, &old).unwrap();
        cluster.proxy_spawn();
        says(&cluster, "older than the databases").await;
        cluster.proxy_kill9();

        // Lost: all members of the newest view are needed, and no others.
        std::fs::remove_file(&file).unwrap();
        cluster.server("b").kill9();
        cluster.proxy_spawn();
        says(&cluster, "1 of the 2 members").await;
        cluster.server("b").start();
        cluster.wait_ready(secs(30)).await;
        cluster.wait_active("c").await;
        assert_eq!(cluster.connect().await.one("select count(*) from t").await, "1");
        cluster.assert_all_equal().await;
    });
}

#[test]
fn a_server_that_is_not_ours_stops_nobody_else() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        cluster.proxy_stop();
        let admin = cluster.server("c").admin().await;
        admin.run("update lockstep.control set cluster_id = 'somebody else'").await;
        cluster.configure("timeouts.startup_wait", "\"2s\"");
        cluster.proxy_start().await;
        cluster.connect().await.run("create table t(id int)").await;
        cluster.wait_inactive("c").await;
        let why = &cluster.backends().await["c"]["reason"];
        assert!(why.contains("another cluster"), "{why}");
    });
}

#[test]
fn a_member_that_was_taken_out_of_the_file_by_hand_is_missed() {
    run_within(secs(90), async {
        let all = Proxies::start(3, 1, &[]).await;
        let p1 = all.peer("p1");
        p1.stop();
        p1.without_backend("c");
        p1.spawn();
        p1.wait_obstacle("c is a member of view", secs(20)).await;
    });
}

#[test]
fn a_view_is_forced_with_explicit_words_only() {
    run_within(secs(120), async {
        let all = Proxies::start(3, 2, &[]).await;
        let (p1, p2) = (all.peer("p1"), all.peer("p2"));
        p1.connect()
            .await
            .run("create table t(id int primary key); insert into t values (1)")
            .await;
        let refused = p1.console("FORCE VIEW c ACCEPT DATA LOSS").await;
        assert!(refused.is_err_and(|why| why.contains("serves")), "not while it serves");
        // Two of three burn down, and their proxy with them.
        p1.kill9();
        all.cluster.server("a").kill9();
        all.cluster.server("b").kill9();
        p2.wait_obstacle("1 of the 3 members", secs(20)).await;
        let refused = p2.console("FORCE VIEW c").await;
        assert!(refused.is_err_and(|why| why.contains("ACCEPT DATA LOSS")));
        p2.console("FORCE VIEW c ACCEPT DATA LOSS").await.expect("forced");
        p2.wait_writing(secs(20)).await;
        p2.connect().await.run("insert into t values (2)").await;
        assert!(tail(&p2.log(), 200).contains("a view was forced"));
        // Whoever returns follows the forced view.
        all.cluster.server("a").start();
        all.cluster.server("b").start();
        p1.spawn();
        for server in ["a", "b"] {
            all.cluster.wait_active_at(p2.port, server).await;
        }
        p1.wait_standing_by(secs(20)).await;
        all.cluster.assert_equal_on(&["a".into(), "b".into(), "c".into()]).await;
    });
}
