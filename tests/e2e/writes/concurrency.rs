//! Scenarios B: two transactions meet, and every server sees the same winner.

use super::ready;
use crate::rig::cluster::Cluster;
use crate::rig::load::Load;
use crate::rig::{run, run_within, runtime, secs};

/// The same work in so many sessions at once; errors with these codes are part of it.
async fn at_once(
    sessions: usize,
    honest: &'static [&'static str],
    work: impl Fn(usize, usize) -> String + Send + Sync + Clone + 'static,
) {
    let cluster = Cluster::shared().await;
    let mut all = Vec::new();
    for s in 0..sessions {
        let (cluster, work) = (cluster.clone(), work.clone());
        all.push(runtime().spawn(async move {
            let app = cluster.connect().await;
            for round in 0..25 {
                let sql = work(s, round);
                if let Err(e) = app.simple_query(&sql).await {
                    let code = crate::rig::session::code_of(&e).unwrap_or_default();
                    assert!(
                        honest.contains(&code.as_str()),
                        "{sql}\nfailed: {}",
                        crate::rig::session::explain(&e)
                    );
                    app.run("rollback").await;
                }
            }
        }));
    }
    for session in all {
        session.await.unwrap();
    }
}

#[test]
fn update_against_delete() {
    run(async {
        let (cluster, _) = ready("create table meet_t(i int, v int default 0); insert into meet_t(i) select g % 5 from generate_series(1, 20) g").await;
        at_once(6, &["40P01"], |s, round| match s % 3 {
            0 => "update meet_t set i = i + 1".into(),
            1 => "delete from meet_t where i = 1".into(),
            _ => format!("insert into meet_t values ({}, {round})", round % 3),
        })
        .await;
        cluster.same("meet_%").await;
    });
}

#[test]
fn the_same_keys_inserted_changed_and_deleted() {
    run(async {
        let (cluster, _) =
            ready("create table keys_t(id int primary key, v int, mail text unique)").await;
        at_once(8, &["40P01", "23505"], |s, round| {
            let id = (s + round) % 4;
            match round % 4 {
                0 => format!("insert into keys_t values ({id}, {s}, 'm{}')", (s * round) % 5),
                1 => format!("update keys_t set v = v + 1 where id = {id}"),
                2 => format!("insert into keys_t values ({id}, {s}, 'm{s}') on conflict (id) do update set v = keys_t.v + 100"),
                _ => format!("delete from keys_t where id = {id}"),
            }
        })
        .await;
        cluster.same("keys_%").await;
    });
}

#[test]
fn values_read_from_the_table_itself() {
    run(async {
        let (cluster, app) = ready("create table self_t(id bigserial primary key, n bigint)").await;
        at_once(6, &[], |s, round| match (s + round) % 3 {
            0 => "insert into self_t(n) select count(*) from self_t".into(),
            1 => "insert into self_t(n) select coalesce(max(n), 0) + 1 from self_t".into(),
            _ => "insert into self_t(n) select 5 where not exists (select from self_t where n = 5)"
                .into(),
        })
        .await;
        assert_ne!(app.one("select count(*) from self_t").await, "0");
        cluster.same("self_%").await;
    });
}

#[test]
fn a_queue_gives_each_job_once() {
    run(async {
        let (cluster, app) = ready(
            "create table queue_t(id serial primary key, v text); create table queue_done(job int, worker int, at timestamptz default clock_timestamp());
             insert into queue_t(v) select 'job' from generate_series(1, 120)",
        )
        .await;
        at_once(8, &[], |s, round| {
            if round % 2 == 0 {
                format!(
                    "with j as (delete from queue_t where id in (select id from queue_t order by id for update skip locked limit 1) returning id)
                     insert into queue_done(job, worker) select id, {s} from j"
                )
            } else {
                "delete from queue_t where id = (select id from queue_t for update skip locked limit 1) returning *".into()
            }
        })
        .await;
        assert_eq!(app.one("select count(*) - count(distinct job) from queue_done").await, "0");
        assert_eq!(
            app.one("select count(*) from queue_t q join queue_done d on d.job = q.id").await,
            "0"
        );
        cluster.same("queue_%").await;
    });
}

#[test]
fn deadlocks_have_one_victim_and_no_backend_is_lost() {
    run(async {
        let (cluster, app) = ready("create table dead_t(id int primary key, n int default 0); insert into dead_t select g from generate_series(1, 6) g").await;
        at_once(6, &["40P01"], |s, round| {
            let (a, b) = if s % 2 == 0 { (1 + round % 6, 1 + (round + 3) % 6) } else { (1 + (round + 3) % 6, 1 + round % 6) };
            format!("begin; update dead_t set n = n + 1 where id = {a}; update dead_t set n = n + 1 where id = {b}; commit")
        })
        .await;
        assert_eq!(app.one("select sum(n) % 2 from dead_t").await, "0");
        cluster.same("dead_%").await;
    });
}

#[test]
fn higher_isolation_levels_converge() {
    run(async {
        let (cluster, app) = ready("create table level_t(id int primary key, n int default 0); insert into level_t select g from generate_series(1, 8) g").await;
        at_once(6, &["40001", "40P01"], |s, round| {
            let level = ["read committed", "repeatable read", "serializable"][s % 3];
            let (a, b) = (1 + round % 8, 1 + (round + s) % 8);
            format!(
                "begin isolation level {level}; update level_t set n = n + (select count(*) from level_t where n > 3) where id = {a};
                 update level_t set n = n + 1 where id = {b}; commit"
            )
        })
        .await;
        assert_ne!(app.one("select sum(n) from level_t").await, "0");
        cluster.same("level_%").await;
    });
}

#[test]
fn lock_timeouts_end_statements_not_backends() {
    run(async {
        let (cluster, _) = ready("create table wait_t(id int primary key, n int default 0); insert into wait_t select g from generate_series(1, 3) g").await;
        at_once(6, &["55P03", "57014", "40P01"], |s, round| {
            let limit = if s % 2 == 0 { "lock_timeout = '15ms'" } else { "statement_timeout = '40ms'" };
            format!("begin; set local {limit}; update wait_t set n = n + 1 where id = {}; select pg_sleep(0.01); commit", 1 + round % 3)
        })
        .await;
        cluster.same("wait_%").await;
    });
}

#[test]
fn a_mixed_load_converges() {
    run_within(secs(120), async {
        let cluster = Cluster::start(3).await;
        let load = Load::start(&cluster, 24).await;
        tokio::time::sleep(secs(10)).await;
        let outcome = load.stop().await;
        outcome.did_at_least(300);
        outcome.nobody_noticed();
        outcome.judge(&cluster).await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn a_mixed_load_converges_on_two_servers() {
    run_within(secs(120), async {
        let cluster = Cluster::start(2).await;
        let load = Load::start(&cluster, 16).await;
        tokio::time::sleep(secs(5)).await;
        let outcome = load.stop().await;
        outcome.did_at_least(150);
        outcome.nobody_noticed();
        outcome.judge(&cluster).await;
        cluster.assert_all_equal().await;
    });
}

/// What has been checked on the leader is not checked again on a follower, also not on a connection
/// whose last transaction was rolled back.
#[test]
fn followers_check_no_foreign_key_after_a_rollback() {
    run(async {
        let cluster = Cluster::start(2).await;
        let app = cluster.connect().await;
        app.run("create table fkr_p(id int primary key); create table fkr_c(id int primary key, p int references fkr_p)")
            .await;
        app.run("insert into fkr_p values (1); grant all on fkr_p, fkr_c to app2").await;
        // The first that this user's connections to the followers see is undone.
        let other = cluster.connect_as("app2").await;
        other.run("begin; insert into fkr_c values (1, 1); rollback").await;
        // A check would wait for this lock until its limit.
        let follower = &cluster.admins().await[1];
        follower.run("begin; select * from fkr_p for update").await;
        let began = std::time::Instant::now();
        other.run("insert into fkr_c values (7, 1)").await;
        assert!(
            began.elapsed() < secs(1),
            "the follower has checked the key: {:?}",
            began.elapsed()
        );
        follower.run("rollback").await;
        cluster.assert_all_equal().await;
    });
}
