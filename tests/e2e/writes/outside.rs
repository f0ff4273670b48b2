//! Scenario 62: what may not run in a transaction, interrupted at every point.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::session::{Session, explain};
use crate::rig::{eventually, run_within, runtime, secs, step, within};

const BUILD: &str = "create index concurrently step_i on step_t(v)";
const TABLE: &str = "create table step_t(id int primary key, v int); insert into step_t select g, g % 7 from generate_series(1, 300) g";
const INDEX: &str = "select coalesce((select indisvalid::text from pg_index where indexrelid = to_regclass('public.step_i')), 'none')";

/// Starts a statement that will not answer soon.
fn start(app: Session, sql: &'static str) -> JoinHandle<Result<(), String>> {
    runtime().spawn(async move { app.batch_execute(sql).await.map_err(|e| explain(&e)) })
}

/// Somebody on one server whose end such a statement waits for.
async fn in_the_way(cluster: &Cluster, name: &str) -> Session {
    let holder = cluster.server(name).admin().await;
    holder.run("begin; lock table step_t in row exclusive mode").await;
    holder
}

/// Waits until a statement of the application waits on this server.
async fn waits_on(cluster: &Cluster, name: &str, what: &str) {
    let admin = cluster.server(name).admin().await;
    eventually(&format!("{what} to wait on {name}"), secs(15), || async {
        let ask = format!("select count(*) from pg_stat_activity where usename = 'app' and wait_event_type = 'Lock' and query ilike '%{what}%'");
        let waiting = admin.one(&ask).await;
        if waiting == "0" { Err("nobody waits".to_owned()) } else { Ok(()) }
    })
    .await;
}

/// The same answer on every server.
async fn everywhere(cluster: &Cluster, ask: &str) -> String {
    let mut all = Vec::new();
    for admin in cluster.admins().await {
        all.push(admin.one(ask).await);
    }
    assert!(all.windows(2).all(|w| w[0] == w[1]), "{ask}: {all:?}");
    all.swap_remove(0)
}

async fn no_half_index(cluster: &Cluster) {
    assert_eq!(
        everywhere(cluster, "select count(*) from pg_index where not indisvalid").await,
        "0"
    );
    cluster.assert_all_equal().await;
}

/// The servers in the order in which such a statement reaches them.
async fn in_order(cluster: &Cluster) -> Vec<String> {
    let leader = cluster.leader().await;
    let mut names: Vec<String> = cluster.servers.iter().map(|s| s.name.clone()).collect();
    names.sort_by_key(|name| *name != leader);
    names
}

/// kill -9 of the proxy while `sql` waits on each server in turn; what is there afterwards.
async fn killed_everywhere(cluster: &Arc<Cluster>, sql: &'static str, what: &str, left: [&str; 3]) {
    for (turn, left) in left.into_iter().enumerate() {
        let name = in_order(cluster).await.swap_remove(turn);
        step(format!("{sql}: killed while it waits on {name}"));
        cluster.connect().await.run("drop index if exists step_i").await;
        if !sql.starts_with("create") {
            cluster.connect().await.run("create index step_i on step_t(v)").await;
        }
        let holder = in_the_way(cluster, &name).await;
        let build = start(cluster.connect().await, sql);
        waits_on(cluster, &name, what).await;
        cluster.proxy_kill9();
        assert!(build.await.unwrap().is_err());
        holder.run("rollback").await;
        cluster.proxy_start().await;
        assert_eq!(everywhere(cluster, INDEX).await, left);
        no_half_index(cluster).await;
    }
}

#[test]
fn the_proxy_is_killed_while_an_index_is_built_dropped_and_rebuilt() {
    run_within(secs(150), async {
        let cluster = Cluster::start(3).await;
        cluster.connect().await.run(TABLE).await;
        // The last one completes it when nobody is in the way any more: then everybody has it.
        killed_everywhere(&cluster, BUILD, "create index", ["none", "none", "true"]).await;
        cluster.connect().await.run("drop index step_i").await;
        cluster.connect().await.run(BUILD).await;
        assert_eq!(everywhere(&cluster, INDEX).await, "true");
        no_half_index(&cluster).await;
        // What has been begun is gone: it cannot be taken back.
        killed_everywhere(&cluster, "drop index concurrently step_i", "drop index", ["none"; 3])
            .await;
        let rebuild = "reindex index concurrently step_i";
        killed_everywhere(&cluster, rebuild, "reindex", ["true"; 3]).await;
    });
}

#[test]
fn the_proxy_is_killed_before_the_intent_and_before_the_outcome() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        cluster.connect().await.run(TABLE).await;
        let order = in_order(&cluster).await;
        // The intent reaches some and not all: nobody has begun.
        let journal = cluster.server(&order[1]).admin().await;
        journal.run("begin; lock table lockstep.journal in share mode").await;
        let build = start(cluster.connect().await, BUILD);
        waits_on(&cluster, &order[1], "record").await;
        cluster.proxy_kill9();
        assert!(build.await.unwrap().is_err());
        journal.run("rollback").await;
        cluster.proxy_start().await;
        assert_eq!(everywhere(&cluster, INDEX).await, "none");
        no_half_index(&cluster).await;
        // Everybody has the index, and nobody the outcome: the index stays.
        let holder = in_the_way(&cluster, &order[2]).await;
        let build = start(cluster.connect().await, BUILD);
        waits_on(&cluster, &order[2], "create index").await;
        journal.run("begin; lock table lockstep.journal in share mode").await;
        holder.run("rollback").await;
        waits_on(&cluster, &order[1], "record").await;
        cluster.proxy_kill9();
        assert!(build.await.unwrap().is_err());
        journal.run("rollback").await;
        cluster.proxy_start().await;
        assert_eq!(everywhere(&cluster, INDEX).await, "true");
        no_half_index(&cluster).await;
    });
}

#[test]
fn others_write_while_an_index_is_built() {
    run_within(secs(60), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(TABLE).await;
        let prepared = app.prepare("update step_t set v = 70 + $1 where id = 7").await.unwrap();
        for turn in 0..3 {
            let name = in_order(&cluster).await.swap_remove(turn);
            let holder = in_the_way(&cluster, &name).await;
            let unique = "create unique index concurrently step_i on step_t(id, v)";
            let build = start(cluster.connect().await, unique);
            waits_on(&cluster, &name, "create unique").await;
            let writes = async {
                app.run("insert into step_t values (1001, 1)").await;
                app.run("insert into step_t select id + 1, 5 from step_t where id = 1001").await;
                app.run("update step_t set v = floor(random() * 9) where id = 5").await;
                app.run("begin; update step_t set v = v + 1 where id < 9; delete from step_t where id > 1000; commit").await;
                assert_eq!(app.execute(&prepared, &[&(turn as i32)]).await.unwrap(), 1);
            };
            within(&format!("writes while {name} builds an index"), secs(9), writes).await;
            assert!(!build.is_finished());
            holder.run("rollback").await;
            build.await.unwrap().unwrap();
            app.run("drop index concurrently step_i").await;
        }
        no_half_index(&cluster).await;
        assert_eq!(cluster.active().await.len(), 3);
    });
}

#[test]
fn a_server_dies_while_an_index_is_built() {
    run_within(secs(150), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(TABLE).await;
        for turn in 0..3 {
            app.run("drop index if exists step_i").await;
            let name = in_order(&cluster).await.swap_remove(turn);
            let _holder = in_the_way(&cluster, &name).await;
            let build = start(cluster.connect().await, BUILD);
            waits_on(&cluster, &name, "create index").await;
            cluster.server(&name).kill9();
            build.await.unwrap().unwrap_or_else(|e| panic!("{name} died: {e}"));
            app.run("insert into step_t select max(id) + 1, 5 from step_t").await;
            cluster.server(&name).start();
            cluster.wait_active(&name).await;
            assert_eq!(everywhere(&cluster, INDEX).await, "true");
            no_half_index(&cluster).await;
        }
    });
}

#[test]
fn a_server_that_was_away_gets_the_index() {
    run_within(secs(60), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(TABLE).await;
        app.run("create index step_old on step_t(v)").await;
        let away = cluster.follower().await;
        cluster.server(&away).kill9();
        app.run(BUILD).await;
        app.run("create index concurrently on step_t(v, id)").await;
        app.run("create index concurrently if not exists step_i on step_t(v)").await;
        app.run("drop index concurrently step_old").await;
        app.fails("create unique index concurrently step_u on step_t(v)", "23505").await;
        app.run("update step_t set v = v + 1").await;
        app.run("reindex table concurrently step_t").await;
        cluster.server(&away).start();
        cluster.wait_active(&away).await;
        assert_eq!(everywhere(&cluster, INDEX).await, "true");
        assert_eq!(everywhere(&cluster, "select to_regclass('public.step_old')").await, "NULL");
        no_half_index(&cluster).await;
    });
}

#[test]
fn one_alone_does_not_take_an_index() {
    run_within(secs(60), async {
        let cluster = Options::servers(3).set("cluster.reactivate", "\"manual\"").start().await;
        let app = cluster.connect().await;
        app.run(TABLE).await;
        let odd = cluster.follower().await;
        cluster
            .server(&odd)
            .admin()
            .await
            .run("insert into step_t values (0, 1), (-1, 1); create view step_i as select 1")
            .await;
        app.run(BUILD).await;
        cluster.wait_inactive(&odd).await;
        let reason = cluster.backends().await[&odd]["reason"].clone();
        assert!(reason.contains("already exists"), "{reason}");
        cluster.assert_equal().await;
    });
}

#[test]
fn a_failure_leaves_nothing_and_others_wait_their_turn() {
    run_within(secs(60), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(TABLE).await;
        app.fails("create unique index concurrently step_i on step_t(v)", "23505").await;
        assert_eq!(everywhere(&cluster, INDEX).await, "none");
        app.fails("drop index concurrently step_none", "42704").await;
        app.fails("create index concurrently step_i on step_none(v)", "42P01").await;
        cluster
            .connect_as("app2")
            .await
            .fails("create index concurrently step_i on step_t(v)", "42501")
            .await;
        // Cancelled in the middle: nothing is left of it.
        let holder = in_the_way(&cluster, &cluster.leader().await).await;
        let building = cluster.connect().await;
        building.run("set statement_timeout = '700ms'").await;
        let build = start(building, BUILD);
        waits_on(&cluster, &cluster.leader().await, "create index").await;
        tokio::time::sleep(secs(1)).await;
        holder.run("rollback").await;
        let said = build.await.unwrap().unwrap_err();
        assert!(said.contains("57014"), "{said}");
        assert_eq!(everywhere(&cluster, INDEX).await, "none");
        // Whoever changes the schema meanwhile waits, or is told when he may be what is waited for.
        let open = cluster.connect().await;
        open.run("begin; insert into step_t values (1000, 1)").await;
        let build = start(cluster.connect().await, BUILD);
        waits_on(&cluster, &cluster.leader().await, "create index").await;
        let later = start(cluster.connect().await, "alter table step_t add column w int default 1");
        open.fails("create table step_other(id int)", "55P03").await;
        assert!(!build.is_finished() && !later.is_finished());
        open.run("rollback").await;
        build.await.unwrap().unwrap();
        later.await.unwrap().unwrap();
        no_half_index(&cluster).await;
    });
}

#[test]
fn a_partition_is_detached_concurrently() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create table step_t(id int primary key) partition by range (id); create table step_a partition of step_t for values from (0) to (10); create table step_b partition of step_t for values from (10) to (20); insert into step_t values (1), (11)").await;
        let children = "select string_agg(inhrelid::regclass::text || inhdetachpending, ' ' order by 1) from pg_inherits";
        app.run("alter table step_t detach partition step_a concurrently").await;
        cluster.assert_all_equal().await;
        let last = in_order(&cluster).await.swap_remove(1);
        let holder = cluster.server(&last).admin().await;
        holder.run("begin; select * from step_t").await;
        let detach = start(
            cluster.connect().await,
            "alter table step_t detach partition step_b concurrently",
        );
        waits_on(&cluster, &last, "detach").await;
        cluster.proxy_kill9();
        assert!(detach.await.unwrap().is_err());
        holder.run("rollback").await;
        cluster.proxy_start().await;
        assert_eq!(everywhere(&cluster, children).await, "NULL");
        cluster.assert_all_equal().await;
    });
}
