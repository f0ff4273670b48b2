//! Changes of the schema, which commit by themselves: interrupted at every point, they are on all
//! servers or on none.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, refused, run, value};

/// Somebody on one server whose end a change of these tables waits for.
async fn in_the_way(cluster: &Cluster, server: usize) -> Conn {
    let mut holder = cluster.administrator(server).await;
    run(&mut holder, "start transaction").await;
    run(&mut holder, "select * from app.s1, app.s2").await;
    holder
}

/// Waits until a statement of the application waits for a table on this server.
async fn waits_on(cluster: &Cluster, server: usize) {
    let ask = "select count(*) from information_schema.processlist \
               where user = 'app' and state like 'Waiting for table%'";
    for _ in 0..150 {
        if cluster.servers[server].root(ask) != "0\n" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody waits on server {server}; the log:\n{}", cluster.log());
}

/// kill -9 of the proxy while a statement waits on each server in turn, the leader first; what
/// `look` gives afterwards.
async fn killed_everywhere(cluster: &Cluster, sql: &'static str, look: &str, left: [&str; 3]) {
    for (turn, left) in left.into_iter().enumerate() {
        let mut conn = cluster.connect().await;
        run(&mut conn, "drop table if exists s1, s2").await;
        run(&mut conn, "create table s1(id int primary key, v int)").await;
        run(&mut conn, "create table s2(id int primary key, v int)").await;
        run(&mut conn, "insert into s1 values(1, 1), (2, 2)").await;
        run(&mut conn, "insert into s2 values(1, 1), (2, 2)").await;
        let server = (cluster.leader() + turn) % 3;
        let mut holder = in_the_way(cluster, server).await;
        let change = tokio::spawn(async move { conn.query_drop(sql).await });
        waits_on(cluster, server).await;
        if turn > 0 {
            // The other follower has time to be done with it.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        cluster.kill_proxy();
        assert!(change.await.unwrap().is_err(), "{sql}: the proxy is dead");
        // What waits still when the next proxy comes is ended by it.
        let undone = turn == 0 && sql.starts_with("alter");
        if !undone {
            run(&mut holder, "rollback").await;
        }
        cluster.start_proxy();
        cluster.wait_active(3).await;
        if undone {
            run(&mut holder, "rollback").await;
        }
        let mut conn = cluster.connect().await;
        assert_eq!(value(&mut conn, look).await, left, "{sql}, killed at server {turn}");
        cluster.assert_all_equal().await;
        run(&mut conn, "insert into s1(id) values(7)").await;
        conn.disconnect().await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_killed_in_the_middle_of_a_change() {
    let cluster = Cluster::start(3).await;
    let columns = "select count(*) from information_schema.columns \
                   where table_schema = 'app' and table_name = 's1'";
    let added = "alter table s1 add column w int default 3, add index (v)";
    // Done on the leader, it cannot be taken back; not yet done there, it has not happened.
    killed_everywhere(&cluster, added, columns, ["2", "3", "3"]).await;
    // That rows are gone shows nowhere, and so it is always completed.
    let rows = "select count(*) from s1";
    killed_everywhere(&cluster, "truncate table s1", rows, ["0", "0", "0"]).await;
    // The first table goes before the second is waited for.
    let tables = "select count(*) from information_schema.tables where table_schema = 'app'";
    let cut = "create or replace table s1(id int primary key)";
    killed_everywhere(&cluster, cut, columns, ["1", "1", "1"]).await;
    assert_eq!(value(&mut cluster.connect().await, tables).await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_alike_where_they_fail_and_where_a_server_was_away() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    for table in ["a", "b", "c"] {
        run(&mut conn, &format!("create table {table}(id int primary key, v int)")).await;
        run(&mut conn, &format!("insert into {table} values(1, 1)")).await;
    }
    // A part of it happens, and the same part everywhere.
    assert_eq!(refused(&mut conn, "drop table a, nowhere").await, 1051);
    assert_eq!(refused(&mut conn, "select * from a").await, 1146);
    assert_eq!(refused(&mut conn, "alter table b add column v int").await, 1060);
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
    let away = (cluster.leader() + 1) % 3;
    cluster.servers[away].kill();
    cluster.wait_active(2).await;
    run(&mut conn, "create table d(id int auto_increment primary key, v int)").await;
    run(&mut conn, "insert into d(v) values(1), (2)").await;
    assert_eq!(refused(&mut conn, "drop table b, nowhere").await, 1051);
    run(&mut conn, "rename table c to e, d to c").await;
    run(&mut conn, "truncate table c").await;
    run(&mut conn, "insert into c(v) values(3)").await;
    run(&mut conn, "create view v as select v from c").await;
    run(&mut conn, "create trigger r before insert on c for each row set new.v = new.v + 1").await;
    run(&mut conn, "insert into c(v) values(4)").await;
    run(&mut conn, "alter table c auto_increment = 50").await;
    run(&mut conn, "alter table e modify v bigint not null, add unique (v)").await;
    cluster.servers[away].start();
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
    assert_eq!(value(&mut conn, "select sum(v) from v").await, "8");
    for exchange in [
        "rename table c to x, e to c, x to e",
        "alter table c exchange partition p with table e",
        "alter table c discard tablespace",
    ] {
        assert_eq!(refused(&mut conn, exchange).await, 1235, "{exchange}");
    }
}

/// Who reads without end on one server holds up no change of the schema for long, and so nobody who writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_holds_up_a_change_for_a_while_only() {
    let cluster = Cluster::start_with(3, "[timeouts]\nschema_lock = \"1s\"\n").await;
    let mut conn = cluster.connect().await;
    for table in ["s1", "s2"] {
        run(&mut conn, &format!("create table {table}(id int primary key)")).await;
    }
    let leader = cluster.leader();
    let holder = in_the_way(&cluster, leader).await;
    // On the leader the statement fails, and nothing has happened.
    assert_eq!(refused(&mut conn, "alter table s1 add column a int").await, 1205);
    run(&mut conn, "insert into s1 values(2)").await;
    drop(holder);
    let mut holder = in_the_way(&cluster, (leader + 1) % 3).await;
    run(&mut conn, "alter table s1 add column b int").await;
    run(&mut conn, "insert into s1 values(3, 3)").await;
    assert!(cluster.log().contains("did not take DDL"), "{}", cluster.log());
    // It comes back when nobody is in the way any more.
    run(&mut holder, "rollback").await;
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
}
