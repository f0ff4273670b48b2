//! State that lives in a session of one server: temporary tables, notifications, advisory locks,
//! cancels.

use std::time::{Duration, Instant};

use super::Pair;
use crate::rig::cluster::Cluster;
use crate::rig::wire::{cancel, lines, query};
use crate::rig::{eventually, run, secs, within};

#[test]
fn temporary_tables_belong_to_one_session() {
    run(async {
        let mut pair = Pair::with("create table temp_real(id int primary key, v text); insert into temp_real values (1, 'real')").await;
        pair.queries(&[
            "create temp table temp_mine(id serial primary key, v text default 'd')",
            "insert into temp_mine(v) values ('a'), ('b') returning *",
            "select * from temp_mine order by id",
            "insert into temp_real select id + 10, v from temp_mine",
            "select * from temp_real order by id",
            // A temporary table hides the real one of the same name.
            "create temp table temp_real(id int primary key, v text)",
            "insert into temp_real values (99, 'temp')",
            "select * from temp_real order by id",
            "select * from public.temp_real order by id",
            "update temp_real set v = 'still temp'",
            "drop table temp_real",
            "select * from temp_real order by id",
            "begin; create temp table temp_drop(id int) on commit drop; insert into temp_drop values (1)",
            "select * from temp_drop",
            "commit",
            "select * from temp_drop",
            "create temp table temp_as as select g from generate_series(1, 3) g",
            "select 'temp_as'::regclass, count(*) from temp_as",
            "truncate temp_as",
            "discard temp",
            "select * from temp_mine",
        ])
        .await;
        let other = pair.cluster.connect().await;
        other.fails("select * from temp_mine", "42P01").await;
        pair.cluster.same("temp%").await;
    });
}

#[test]
fn a_notification_arrives_once_and_after_commit() {
    run(async {
        let cluster = Cluster::shared().await;
        let mut listener = cluster.connect().await;
        let sender = cluster.connect().await;
        listener.run("listen news").await;
        sender.run("notify news, 'one'").await;
        assert_eq!(listener.notification().await, "news:one");
        assert!(listener.stays_silent().await, "one notification came more than once");
        sender.run("begin; select pg_notify('news', 'two')").await;
        assert!(listener.stays_silent().await, "a notification came before its commit");
        sender.run("commit").await;
        assert_eq!(listener.notification().await, "news:two");
        sender.run("begin; notify news, 'never'; rollback").await;
        assert!(listener.stays_silent().await, "a rolled back notification came");
        assert_eq!(listener.one("select 5").await, "5", "a listening session still works");
        sender.run("create table news_t(id int primary key); create function news_f() returns trigger language plpgsql as
            $$ begin perform pg_notify('news', 'row ' || new.id); return new; end $$;
            create trigger t after insert on news_t for each row execute function news_f(); insert into news_t values (7)").await;
        assert_eq!(listener.notification().await, "news:row 7");
        assert!(
            listener.stays_silent().await,
            "a trigger's notification came once for every server"
        );
        listener.run("unlisten news").await;
        sender.run("notify news, 'three'").await;
        assert!(listener.stays_silent().await);
        cluster.same("news%").await;
    });
}

#[test]
fn advisory_locks_hold_across_the_cluster() {
    run(async {
        let cluster = Cluster::shared().await;
        let (one, two) = (cluster.connect().await, cluster.connect().await);
        assert_eq!(one.one("select pg_try_advisory_lock(77001)").await, "t");
        assert_eq!(two.one("select pg_try_advisory_lock(77001)").await, "f");
        assert_eq!(one.one("select 1").await, "1");
        assert_eq!(
            two.one("select pg_try_advisory_lock(77001)").await,
            "f",
            "the lock went with the transaction"
        );
        one.run("begin; select pg_advisory_xact_lock(77002)").await;
        assert_eq!(two.one("select pg_try_advisory_xact_lock(77002)").await, "f");
        one.run("commit").await;
        assert_eq!(two.one("select pg_try_advisory_xact_lock(77002)").await, "t");
        assert_eq!(one.one("select pg_advisory_unlock(77001)").await, "t");
        assert_eq!(two.one("select pg_try_advisory_lock(77001)").await, "t");
        drop(two);
        eventually("the lock of a closed session to be free", secs(10), || async {
            let free = one.one("select pg_try_advisory_lock(77001)").await;
            if free == "t" { Ok(()) } else { Err(free) }
        })
        .await;
        assert_eq!(one.one("select pg_advisory_unlock(77001)").await, "t");
    });
}

#[test]
fn a_cancel_stops_the_query_and_nothing_else() {
    run(async {
        let cluster = Cluster::shared().await;
        let mut victim = cluster.wire().await;
        let mut other = cluster.wire().await;
        other.send(&query("select pg_sleep(2)")).await;
        let began = Instant::now();
        victim.send(&query("select pg_sleep(30)")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel(cluster.port, victim.pid, b"\0\0\0\x01").await;
        assert!(victim.is_silent_for(Duration::from_millis(400)).await, "a wrong key cancels");
        victim.cancel().await;
        let answer = lines(&victim.until_ready(1).await);
        assert!(began.elapsed() < secs(10));
        assert_eq!(answer[1..], ["E ERROR 57014 canceling statement due to user request", "Z I"]);
        assert_eq!(lines(&other.until_ready(1).await).last().map(String::as_str), Some("Z I"));
        // Between statements a cancel does nothing.
        victim.cancel().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(victim.query("select 1").await.last().map(String::as_str), Some("Z I"));
    });
}

#[test]
fn a_cancelled_write_is_nowhere() {
    run(async {
        let cluster = Cluster::shared().await;
        let keeper = cluster.connect().await;
        keeper.run("create table stop_t(id int primary key, v int); insert into stop_t select g, 0 from generate_series(1, 5) g").await;
        let mut victim = cluster.wire().await;
        let slow = "update stop_t set v = v + 1 where pg_sleep(1) is not null";
        for sql in ["begin", "insert into stop_t values (9, 9)"] {
            victim.query(sql).await;
        }
        victim.send(&query(slow)).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        victim.cancel().await;
        let answer = lines(&victim.until_ready(1).await);
        assert_eq!(answer.last().map(String::as_str), Some("Z E"), "{answer:?}");
        victim.query("rollback").await;
        // One that waits for another's lock.
        keeper.run("begin; update stop_t set v = 5 where id = 1").await;
        victim.send(&query("update stop_t set v = 6 where id = 1")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        victim.cancel().await;
        let answer = lines(&victim.until_ready(1).await);
        assert!(answer[0].starts_with("E ERROR 57014"), "{answer:?}");
        keeper.run("commit").await;
        assert_eq!(
            keeper.column("select v from stop_t order by id").await,
            ["5", "0", "0", "0", "0"]
        );
        cluster.same("stop_t").await;
    });
}

#[test]
fn ending_one_session_is_not_a_servers_death() {
    run(async {
        let cluster = Cluster::shared().await;
        let victim = cluster.connect().await;
        victim
            .run("create table term_t(id int primary key); create temp table term_temp(id int)")
            .await;
        let pid = victim.one("select pg_backend_pid()").await;
        for admin in cluster.admins().await {
            admin
                .run(&format!(
                    "select pg_terminate_backend({pid}) where exists
                     (select from pg_stat_activity where pid = {pid} and usename = 'app')"
                ))
                .await;
        }
        // Whatever becomes of that one session, nobody else notices and no backend goes.
        let outcome =
            within("an answer to the ended session", secs(15), victim.simple_query("select 1"))
                .await;
        crate::rig::step(format!("the ended session got {:?}", outcome.is_ok()));
        let other = cluster.connect().await;
        other.run("insert into term_t values (1)").await;
        cluster.same("term_t").await;
    });
}
