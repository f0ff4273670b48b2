//! PREPARE, EXECUTE and DEALLOCATE PREPARE as statements: what one server says is what comes through the
//! proxy, and what they write is the same everywhere.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, refused, run, value};
use crate::server::Server;
use crate::wire::Wire;

/// What is said to one server and to the proxy.
const TALK: &[&str] = &[
    "create table t(id int primary key, v varchar(40), n int)",
    "set @a = 41",
    "prepare s from 'select ? + 1'",
    "execute s using @a",
    "execute S using 5",
    "execute s",
    "execute s using @a, @a",
    "execute nope",
    "deallocate prepare nope",
    "prepare s from 'nonsense'",
    "execute s using @a",
    "prepare s from 'select 1; select 2'",
    "prepare s from 'select * from nowhere'",
    "prepare s from null",
    "prepare s from @unknown",
    "execute immediate 'select database()'",
    "execute immediate concat('select ', '7')",
    "set @text = 'select ''it''''s'', \"\\\\\\\\\", ''%\\\\_'' like ''%\\\\_'''",
    "prepare s from @text",
    "execute s",
    "prepare w from 'insert into t values(?, ?, ?)'",
    "set @v = 'eins', @n = 1",
    "execute w using @n, @v, @n",
    "execute w using @n, @v, @n",
    "execute w using 2, 'zwei', -2",
    "execute immediate 'update t set n = n + ? where id = ?' using @a, @n",
    "select group_concat(id, v, n order by id) from t",
    "prepare u from 'select id, v into @id, @v from t where id = 2'",
    "execute u",
    "select concat(@id, @v)",
    "start transaction",
    "execute w using 3, @v, null",
    "prepare c from 'rollback'",
    "execute c",
    "select count(*) from t",
    "prepare c from 'set autocommit = 0'",
    "execute c",
    "select @@autocommit",
    "execute w using 4, 'vier', 4",
    "rollback",
    "set autocommit = 1",
    "prepare d from 'create table other(id int primary key)'",
    "execute d",
    "execute d",
    "execute immediate 'insert into other select id from t order by id'",
    "select count(*) from other",
    "execute immediate 'drop table other'",
    "prepare d from 'create temporary table mine(id int)'",
    "execute d",
    "execute immediate 'insert into mine values(7)'",
    "prepare m from 'select * from mine'",
    "execute m",
    "deallocate prepare m",
    "execute m",
    "drop prepare s",
    "execute s",
    "prepare p from 'create procedure p(out x int) set x = 8'",
    "execute p",
    "execute immediate 'call p(?)' using @out",
    "select @out",
    "execute immediate 'drop procedure p'",
    "set sql_mode = 'NO_BACKSLASH_ESCAPES'",
    "prepare s from 'select length(''\\n''), ''x'''",
    "execute s",
    "set sql_mode = default",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_says() {
    let cluster = Cluster::start(3).await;
    let alone = Server::launch();
    let (direct, through) = (alone.port, cluster.port);
    let differ = tokio::task::spawn_blocking(move || {
        let (mut direct, mut through) = (Wire::connect(direct), Wire::connect(through));
        let talk = TALK.iter().map(|sql| (sql, direct.told(sql), through.told(sql)));
        talk.filter(|(_, direct, through)| direct != through).map(|x| format!("{x:?}\n")).collect()
    });
    let differ: String = differ.await.unwrap();
    assert_eq!(differ, "");
    assert_eq!(alone.contents(), cluster.servers[0].contents());
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_executed_is_judged_and_outlives_its_servers() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(
        &mut conn,
        "create table t(id int auto_increment primary key, v varchar(40), at datetime(6))",
    )
    .await;
    run(&mut conn, "prepare w from 'insert into t(v, at) values(?, now(6))'").await;
    run(&mut conn, "set @v = 'a'").await;
    run(&mut conn, "execute w using @v").await;
    for not_the_same in [
        "execute immediate 'insert into t(v) values(uuid())'",
        "execute immediate 'delete from t limit ?' using 1",
        "execute immediate 'execute immediate \"delete from t\"'",
        "execute immediate concat('delete from lockstep', '.record')",
        "execute immediate 'delete from t where id = ?' using last_insert_id()",
    ] {
        assert!(refused(&mut conn, not_the_same).await > 1000, "{not_the_same}");
    }
    run(&mut conn, "set @text = 'delete from t limit ?'").await;
    run(&mut conn, "prepare d from @text").await;
    assert_eq!(refused(&mut conn, "execute d using 1").await, 1235);
    // What every server would decide otherwise is decided on the leader, here as well.
    run(&mut conn, "prepare d from 'update t set v = uuid()'").await;
    run(&mut conn, "execute d").await;
    run(&mut conn, "execute immediate 'insert into t(v) select v from t limit 1'").await;
    run(&mut conn, "execute immediate 'delete from t limit 1'").await;
    assert_eq!(value(&mut conn, "select count(*) from t").await, "1");
    // Another session knows nothing of it, on whichever connection it comes to.
    let mut other = cluster.connect().await;
    for _ in 0..4 {
        assert_eq!(refused(&mut other, "execute w using 1").await, 1243);
        assert_eq!(refused(&mut other, "execute lockstep").await, 1243);
    }
    // Another database, or another way of reading, is not what it was prepared in.
    run(&mut conn, "prepare q from 'select \"a\", database()'").await;
    for (away, back) in [
        ("use information_schema", "use app"),
        ("set sql_mode = 'ANSI_QUOTES'", "set sql_mode = default"),
    ] {
        run(&mut conn, away).await;
        assert_eq!(refused(&mut conn, "execute q").await, 1235, "{away}");
        run(&mut conn, back).await;
    }
    assert_eq!(value(&mut conn, "execute q").await, "a");
    // A transaction goes on at the next leader, with what was prepared before.
    run(&mut conn, "set session transaction isolation level read committed").await;
    run(&mut conn, "start transaction").await;
    run(&mut conn, "execute w using @v").await;
    let former = cluster.leader();
    cluster.servers[former].kill();
    run(&mut conn, "execute w using @v").await;
    run(&mut conn, "commit").await;
    cluster.wait_leader_other_than(former).await;
    run(&mut conn, "execute w using 'while one is away'").await;
    assert_eq!(value(&mut conn, "select count(*) from t").await, "4");
    cluster.servers[former].start();
    cluster.wait_active(3).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!cluster.log().contains("differs from the leader"), "{}", cluster.log());
    cluster.assert_all_equal().await;
    // A reset forgets them.
    conn.reset().await.unwrap();
    assert_eq!(refused(&mut conn, "execute w using 1").await, 1243);
    conn.query_drop("select 1").await.unwrap();
}
