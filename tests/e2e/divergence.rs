//! One server answers otherwise than the others: it goes, with the reason kept, and the right ones
//! stay.

use crate::rig::cluster::{Cluster, Options};
use crate::rig::server::ADMIN;
use crate::rig::session::Session;
use crate::rig::{eventually, run_within, runtime, secs, step};

/// A cluster with a table, and a follower to spoil.
async fn spoilt(spoil: &str) -> (std::sync::Arc<Cluster>, String) {
    let cluster = Options::servers(3).set("cluster.reactivate", "\"manual\"").start().await;
    let app = cluster.connect().await;
    app.run("create table odd_t(id int primary key, v int, r float8 default random()); insert into odd_t(id, v) select g, g from generate_series(1, 10) g").await;
    let follower = cluster.follower().await;
    cluster.server(&follower).admin().await.run(spoil).await;
    step(format!("{ADMIN} on {follower}: {spoil}"));
    (cluster, follower)
}

async fn is_given_up(cluster: &Cluster, name: &str) {
    cluster.wait_inactive(name).await;
    let backends = cluster.backends().await;
    assert!(!backends[name]["reason"].is_empty(), "no reason is kept: {backends:?}");
    assert_eq!(cluster.active().await.len(), 2, "{backends:?}");
    cluster.assert_equal().await;
}

#[test]
fn a_row_is_missing_on_one() {
    run_within(secs(60), async {
        for write in [
            "update odd_t set v = 50 where id = 5",
            "update odd_t set v = v + 1, r = random() where v between 4 and 6",
            "delete from odd_t where id = 5",
        ] {
            let (cluster, odd) = spoilt("delete from odd_t where id = 5").await;
            let app = cluster.connect().await;
            assert_ne!(app.affected(write).await, 0);
            is_given_up(&cluster, &odd).await;
        }
    });
}

#[test]
fn a_row_is_another_on_one() {
    run_within(secs(90), async {
        for write in [
            "update odd_t set r = 0.5 where id = 5 returning v",
            "delete from odd_t where id = 5 returning *",
            "begin; update odd_t set r = 0.5 where id = 5 returning id, v; insert into odd_t(id, v) values (70, 1); commit",
        ] {
            let (cluster, odd) = spoilt("update odd_t set v = 55 where id = 5").await;
            let app = cluster.connect().await;
            app.run("update odd_t set r = 0.25 where id = 4 returning *").await;
            assert_eq!(cluster.active().await.len(), 3, "what is the same is no difference");
            app.run(write).await;
            is_given_up(&cluster, &odd).await;
            let reason = cluster.backends().await[&odd]["reason"].clone();
            assert!(reason.contains("rows it returned"), "{reason}");
        }
        // With parameters the answer comes in binary form.
        let (cluster, odd) = spoilt("update odd_t set v = 55 where id = 5").await;
        let app = cluster.connect().await;
        let update = "update odd_t set r = $1 where id = $2 returning v";
        for (id, v) in [(4, 4), (5, 5)] {
            let rows = app.query(update, &[&0.5f64, &id]).await.unwrap();
            assert_eq!(rows[0].get::<_, i32>(0), v);
        }
        is_given_up(&cluster, &odd).await;
    });
}

#[test]
fn a_row_too_many_on_one() {
    run_within(secs(60), async {
        for write in [
            "insert into odd_t(id, v, r) values (77, 7, 0.5)",
            "insert into odd_t(id, v) values (77, 7)",
        ] {
            let (cluster, odd) = spoilt("insert into odd_t values (77, 1, 1)").await;
            cluster.connect().await.run(write).await;
            is_given_up(&cluster, &odd).await;
        }
    });
}

#[test]
fn one_alone_refuses_to_write() {
    run_within(secs(60), async {
        // As with a full disk: everything else works there.
        let spoil = "create function spoil() returns trigger language plpgsql as $$ begin raise exception 'no space left on device' using errcode = '53100'; end $$;
                     create trigger spoil before insert or update on odd_t for each row execute function spoil(); alter table odd_t enable always trigger spoil";
        let (cluster, odd) = spoilt(spoil).await;
        let app = cluster.connect().await;
        app.run("insert into odd_t(id, v) values (50, 50)").await;
        is_given_up(&cluster, &odd).await;
        app.run("insert into odd_t(id, v, r) values (51, 51, 0)").await;
        cluster.assert_equal().await;
    });
}

#[test]
fn ddl_fails_on_one_alone() {
    run_within(secs(60), async {
        let (cluster, odd) = spoilt("create table odd_new(other text)").await;
        let app = cluster.connect().await;
        app.run("create table odd_new(id int primary key); insert into odd_new values (1)").await;
        is_given_up(&cluster, &odd).await;
    });
}

#[test]
fn a_lock_on_one_alone_does_not_stop_the_others() {
    run_within(secs(60), async {
        let (cluster, odd) = spoilt("select 1").await;
        let holder = cluster.server(&odd).admin().await;
        holder.run("begin; lock table odd_t in access exclusive mode").await;
        let app = cluster.connect().await;
        let write = app.simple_query("update odd_t set v = 9 where id = 1");
        crate::rig::within("a write while a stranger holds a lock on one server", secs(25), write)
            .await
            .expect("the write");
        is_given_up(&cluster, &odd).await;
        holder.run("rollback").await;
    });
}

#[test]
fn an_error_that_all_give_is_the_clients() {
    run_within(secs(60), async {
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("create table alike_t(id int primary key check (id < 100)); insert into alike_t values (1)").await;
        app.fails("insert into alike_t values (1)", "23505").await;
        app.fails("insert into alike_t values (100)", "23514").await;
        app.fails("insert into alike_t select g from generate_series(50, 150) g", "23514").await;
        app.fails("update alike_t set id = 1/0", "22012").await;
        app.fails("do $$ begin raise exception 'full' using errcode = '53100'; end $$", "53100")
            .await;
        app.fails("do $$ begin raise exception 'gone' using errcode = '57P01'; end $$", "57P01")
            .await;
        app.fails("do $$ begin raise exception 'gone' using errcode = '08006'; end $$", "08006")
            .await;
        cluster.same("alike_%").await;
    });
}

#[test]
fn a_pool_that_is_full_on_one_is_no_difference() {
    run_within(secs(60), async {
        let options = Options::servers(3).set("pool.size", "1");
        let cluster = options.set("pool.checkout_timeout", "\"700ms\"").start().await;
        let app = cluster.connect().await;
        app.run("create table full_t(id int primary key, v int); insert into full_t values (1, 1)")
            .await;
        // On the followers one after the other an index waits for a stranger, on the only connection.
        let follower = cluster.follower().await;
        let stranger = cluster.server(&follower).admin().await;
        stranger.run("begin; lock table full_t in row exclusive mode").await;
        let builder = cluster.connect().await;
        let build = runtime().spawn(async move {
            builder.batch_execute("create index concurrently full_i on full_t(v)").await
        });
        let admin = cluster.server(&follower).admin().await;
        eventually("the index to wait", secs(15), || async {
            let ask = "select count(*) from pg_stat_activity where usename = 'app' and \
                       query like 'create index%' and wait_event_type = 'Lock'";
            if admin.one(ask).await == "1" { Ok(()) } else { Err("it does not".into()) }
        })
        .await;
        for write in [
            "insert into full_t values (2, 2)",
            "begin; update full_t set v = 3 where id = 1; insert into full_t values (2, 2); commit",
        ] {
            let error = app.fails(write, "53300").await;
            assert!(error.detail().is_some_and(|d| d.contains(&follower)), "{error:?}");
            app.run("rollback").await;
        }
        assert_eq!(app.one("select count(*) from full_t where v = 1").await, "1");
        assert_eq!(cluster.active().await.len(), 3, "nobody differs");
        stranger.run("rollback").await;
        build.await.unwrap().expect("the index");
        app.run("insert into full_t values (2, 2)").await;
        assert_eq!(cluster.active().await.len(), 3);
        cluster.assert_all_equal().await;
    });
}

/// Holds back every COMMIT on one server that writes to the journal, until the session that this
/// gives says otherwise.
pub(crate) async fn commits_held_on(cluster: &Cluster, name: &str) -> Session {
    let admin = cluster.server(name).admin().await;
    admin.run("create function public.hold() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(77); return null; end $$").await;
    admin.run("create constraint trigger hold after insert on lockstep.journal deferrable initially deferred for each row execute function public.hold()").await;
    admin.run("alter table lockstep.journal enable always trigger hold").await;
    admin.run("select pg_advisory_lock(77)").await;
    admin
}

/// Lets them go on, and takes the hindrance away.
pub(crate) async fn let_commits_go(admin: &Session) {
    admin.run("select pg_advisory_unlock(77)").await;
    admin.run("drop trigger hold on lockstep.journal; drop function public.hold()").await;
}

/// Waits until so many COMMITs are held there.
pub(crate) async fn commits_wait(admin: &Session, count: usize) {
    eventually("a COMMIT to be held", secs(2), || async {
        let ask = "select count(*) from pg_stat_activity where usename = 'app' and query = 'COMMIT' and wait_event = 'advisory'";
        let held = admin.one(ask).await;
        if held == count.to_string() { Ok(()) } else { Err(format!("{held} are held")) }
    })
    .await;
}

/// What a share needs may be in a commit that its follower has not done yet: it fails there, and is
/// applied again when that commit is done, not earlier and not never (I3).
#[test]
fn a_share_waits_for_the_commits_before_it() {
    run_within(secs(60), async {
        let cluster = Options::servers(3).set("cluster.reactivate", "\"manual\"").start().await;
        let app = cluster.connect().await;
        app.run("create table late_t(id int primary key, v int)").await;
        let follower = cluster.follower().await;
        for (turn, write) in [
            "update late_t set v = 10 where id = 1",
            "begin; update late_t set v = floor(random() * 9) where id = 2; commit",
            "delete from late_t where v = 3",
        ]
        .into_iter()
        .enumerate()
        {
            let held = commits_held_on(&cluster, &follower).await;
            let first = cluster.connect().await;
            let id = turn + 1;
            let insert = runtime().spawn(async move {
                first.batch_execute(&format!("insert into late_t values ({id}, {id})")).await
            });
            commits_wait(&held, 1).await;
            let second = cluster.connect().await;
            let write = runtime().spawn(async move { second.batch_execute(write).await });
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
            assert!(!insert.is_finished() && !write.is_finished(), "nobody is told too early");
            let_commits_go(&held).await;
            insert.await.unwrap().expect("the insert");
            write.await.unwrap().expect("the write behind it");
            assert_eq!(cluster.active().await.len(), 3, "{:?}", cluster.backends().await);
        }
        cluster.assert_all_equal().await;
    });
}
