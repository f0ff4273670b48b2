//! What a session is in the middle of: temporary tables, settings, transactions that begin and end by
//! other words. It is nobody else's, and it is the same on every server that takes part.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, agree, all, all_refused, refused, run, value};

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_belong_to_one_session() {
    let cluster = Cluster::start(3).await;
    let (mut conn, mut other) = (cluster.connect().await, cluster.connect().await);
    all(
        &mut conn,
        &[
            "create table t(id int auto_increment primary key, v int)",
            "insert into t(v) values(1), (2)",
            "create temporary table tmp(id int primary key, v int)",
            "insert into tmp select id, v * 10 from t",
            "insert into t(v) select v from tmp",
        ],
    )
    .await;
    assert_eq!(value(&mut conn, "select sum(v) from t").await, "33");
    assert_eq!(refused(&mut other, "select * from tmp").await, 1146);
    run(&mut other, "create temporary table tmp(other text)").await;
    // One of the same name stands in front of the real one, for this session alone.
    run(&mut conn, "create temporary table t(id int auto_increment primary key, v int)").await;
    run(&mut conn, "insert into t(v) values(100)").await;
    conn.exec_drop("insert into t(v) values(?)", (101,)).await.unwrap();
    run(&mut conn, "update t set v = v + 1; delete from t where v = 101").await;
    assert_eq!(value(&mut conn, "select sum(v) from t").await, "102");
    assert_eq!(value(&mut other, "select sum(v) from t").await, "33");
    run(&mut conn, "drop temporary table t").await;
    assert_eq!(value(&mut conn, "select sum(v) from t").await, "33");
    // Made in a text of several statements, and in a transaction.
    run(&mut conn, "create temporary table two(v int); insert into two values(5); insert into t(v) select v from two").await;
    all(
        &mut conn,
        &[
            "start transaction",
            "create temporary table three(v int)",
            "insert into three values(1)",
            "insert into t(v) values(50)",
            "rollback",
        ],
    )
    .await;
    assert_eq!(value(&mut conn, "select sum(v) from t").await, "38");
    // In the place of a real one by another way of writing it.
    run(&mut conn, "create temporary table app.`T`(v int)").await;
    let _ = conn.query_drop("insert into `T` values(7)").await;
    drop(conn);
    for _ in 0..4 {
        let mut fresh = cluster.connect().await;
        assert_eq!(refused(&mut fresh, "select * from two").await, 1146);
        assert_eq!(value(&mut fresh, "select sum(v) from t").await, "38");
    }
    agree(&cluster).await;
    // It dies with its server, and whoever had it is told.
    let leader = cluster.leader();
    cluster.servers[leader].kill();
    cluster.wait_leader_other_than(leader).await;
    assert_eq!(refused(&mut other, "insert into tmp values('x')").await, 1213);
    assert_eq!(refused(&mut other, "select * from tmp").await, 1146);
    run(&mut other, "insert into t(v) values(1)").await;
    cluster.servers[leader].start();
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
}

const CHOSEN: &[(&str, &str, &str)] = &[
    ("time_zone", "set time_zone = '+09:00'", "SYSTEM"),
    ("sql_mode like '%ANSI%'", "set sql_mode = 'ANSI'", "0"),
    ("foreign_key_checks", "set foreign_key_checks = 0", "1"),
    ("unique_checks", "set unique_checks = 0", "1"),
    ("sql_safe_updates", "set sql_safe_updates = 1", "0"),
    ("collation_connection", "set names latin1", "utf8mb4_general_ci"),
    ("div_precision_increment", "set div_precision_increment = 9", "4"),
    ("group_concat_max_len", "set group_concat_max_len = 5", "1048576"),
    ("lc_time_names", "set lc_time_names = 'de_DE'", "en_US"),
    ("default_week_format", "set default_week_format = 3", "0"),
    ("max_statement_time", "set max_statement_time = 30", "0.000000"),
    ("sql_select_limit > 5", "set sql_select_limit = 3", "1"),
    ("innodb_lock_wait_timeout", "set innodb_lock_wait_timeout = 3", "50"),
    ("autocommit", "set autocommit = 0", "1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn settings_follow_their_session_and_nobody_else() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table s(id int auto_increment primary key, w varchar(60), d datetime, n decimal(30, 12))",
            "create table p(id int primary key)",
            "create table c(id int primary key, pid int, foreign key(pid) references p(id))",
        ],
    )
    .await;
    for (setting, set, usual) in CHOSEN {
        let mut one = cluster.connect().await;
        assert_eq!(
            value(&mut one, &format!("select @@session.{setting}")).await,
            *usual,
            "{setting}"
        );
        run(&mut one, set).await;
        // What it means for what is written is the same everywhere.
        for sql in [
            "insert into s(w, d, n) values(dayname(now()), now(), 1 / 3)",
            "insert into s(w, d, n) values(\"x\", from_unixtime(1700000000), week('2024-12-31'))",
            "insert into s(w, n) values((select group_concat(id order by id) from (select 123 as id union select 456) x), 2 / 3)",
            "update s set w = concat('x', w), d = d + interval 1 hour where id = (select * from (select max(id) from s) m)",
            "insert into c values((select count(*) from (select id from c) x) + 1, 999)",
            "select 1",
        ] {
            if let Err(error) = one.query_drop(sql).await {
                assert!(matches!(error, mysql_async::Error::Server(_)), "{set}: {sql}: {error}");
            }
        }
        let _ = one.query_drop("commit").await;
        assert_ne!(
            value(&mut one, &format!("select @@session.{setting}")).await,
            *usual,
            "{setting}"
        );
        drop(one);
        for _ in 0..4 {
            let mut other = cluster.connect().await;
            let now = value(&mut other, &format!("select @@session.{setting}")).await;
            assert_eq!(now, *usual, "{setting} of somebody else");
            assert_eq!(refused(&mut other, "insert into c values(-1, 999)").await, 1452);
        }
        agree(&cluster).await;
    }
}

/// What was set in a transaction stays when it is undone, and is nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn settings_outlast_a_rollback() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(
        &mut conn,
        "create table s(id int auto_increment primary key, w varchar(60), d datetime, n int)",
    )
    .await;
    // In a transaction, undone with it or not, they are what one server makes of them.
    all(
        &mut conn,
        &[
            "start transaction",
            "set time_zone = '+05:00'",
            "insert into s(d) values(from_unixtime(0))",
            "rollback",
            "insert into s(d) values(from_unixtime(0))",
            "start transaction",
            "insert into s(d) values(from_unixtime(0))",
            "set time_zone = '-03:00', sql_mode = ''",
            "insert into s(d, w) values(from_unixtime(0), repeat('long', 30))",
            "commit",
            "start transaction",
            "insert into s(d) values(from_unixtime(0))",
            "savepoint p",
            "set time_zone = '+07:00'",
            "select '+08:00' into @zone",
            "insert into s(d) values(from_unixtime(0))",
            "rollback to p",
            "insert into s(d) values(from_unixtime(0))",
            "set time_zone = @zone",
            "insert into s(d) values(from_unixtime(0))",
            "commit",
        ],
    )
    .await;
    let hours = "select group_concat(hour(d) order by id) from s";
    assert_eq!(value(&mut conn, hours).await, "5,5,21,21,7,8");
    assert_eq!(value(&mut conn, "select @@time_zone").await, "+08:00");
    // Nobody else finds any of it, on the leader or where a share was.
    for n in 0..8 {
        let mut other = cluster.connect().await;
        run(&mut other, "begin").await;
        run(&mut other, "insert into s(d, w) values(from_unixtime(0), 'other')").await;
        run(&mut other, if n % 2 == 0 { "commit" } else { "rollback" }).await;
    }
    assert_eq!(value(&mut conn, "select count(distinct d) from s where w = 'other'").await, "1");
    agree(&cluster).await;
}

/// Transactions that begin and end by other words than BEGIN and COMMIT.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_say_otherwise_than_they_do() {
    let cluster = Cluster::start(3).await;
    let (mut conn, mut other) = (cluster.connect().await, cluster.connect().await);
    all(
        &mut conn,
        &[
            "create table t(id int primary key)",
            "create procedure commits() begin insert into t values(900); commit; end",
            "create procedure begins() begin start transaction; insert into t values(901); end",
            "create procedure auto() begin set autocommit = 0; insert into t values(902); end",
        ],
    )
    .await;
    all_refused(
        &mut conn,
        &[
            "call commits()",
            "call begins()",
            "call auto()",
            "commit release",
            "begin not atomic commit; end",
        ],
    )
    .await;
    // Prepared, chained, nested, in several statements.
    all(
        &mut conn,
        &["prepare off from 'set autocommit = 0'", "execute off", "insert into t values(1)"],
    )
    .await;
    assert_eq!(value(&mut other, "select count(*) from t").await, "0");
    all(
        &mut conn,
        &[
            "commit and chain",
            "insert into t values(2)",
            "rollback and chain",
            "insert into t values(3)",
            "set autocommit = 1",
        ],
    )
    .await;
    assert_eq!(value(&mut other, "select group_concat(id) from t").await, "1,3");
    all(
        &mut conn,
        &["begin", "insert into t values(4)", "begin", "insert into t values(5)", "rollback"],
    )
    .await;
    run(&mut conn, "begin; insert into t values(6); commit; insert into t values(7); begin; insert into t values(8); rollback").await;
    let twice = "insert into t values(9); insert into t values(9); insert into t values(10)";
    assert_eq!(refused(&mut conn, twice).await, 1062);
    run(&mut conn, "start transaction read only").await;
    assert_eq!(refused(&mut conn, "insert into t values(11)").await, 1792);
    run(&mut conn, "commit").await;
    assert_eq!(value(&mut conn, "select group_concat(id order by id) from t").await, "1,3,4,6,7,9");
    savepoints(&mut conn).await;
    agree(&cluster).await;
}

async fn savepoints(conn: &mut Conn) {
    // Savepoints of the same name, released, gone back to after an error.
    all(
        conn,
        &[
            "begin",
            "insert into t values(20)",
            "savepoint a",
            "insert into t values(21)",
            "savepoint b",
            "insert into t values(22)",
            "savepoint a",
        ],
    )
    .await;
    assert_eq!(refused(conn, "insert into t values(20)").await, 1062);
    all(
        conn,
        &[
            "insert into t values(23)",
            "rollback to a",
            "insert into t values(24)",
            "rollback to savepoint b",
            "insert into t values(25)",
            "release savepoint b",
        ],
    )
    .await;
    assert_eq!(refused(conn, "rollback to a").await, 1305);
    run(conn, "commit").await;
    assert_eq!(
        value(conn, "select group_concat(id order by id) from t where id >= 20").await,
        "20,21,25"
    );
}

/// Whoever is alone has the followers work beside the leader, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_transaction_is_at_the_followers_before_it_ends() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key)").await;
    let leader = cluster.leader();
    let done = || {
        let rows = "select coalesce(max(trx_rows_modified), 0) from information_schema.innodb_trx";
        let followers = (0..3).filter(|server| *server != leader);
        let mut done: Vec<String> =
            followers.map(|server| cluster.servers[server].root(rows).trim().to_owned()).collect();
        done.sort();
        done
    };
    run(&mut conn, "begin").await;
    let mut seen = vec![done()];
    for id in 1..5 {
        run(&mut conn, &format!("insert into t values({id})")).await;
        // Each is asked for its transactions anew only every tenth of a second.
        tokio::time::sleep(Duration::from_millis(300)).await;
        seen.push(done());
    }
    assert_eq!(seen, [["0", "0"], ["0", "0"], ["0", "0"], ["0", "2"], ["2", "3"]]);
    run(&mut conn, "savepoint a").await;
    run(&mut conn, "insert into t values(5), (6)").await;
    run(&mut conn, "rollback to a").await;
    run(&mut conn, "insert into t values(7)").await;
    run(&mut conn, "commit").await;
    assert_eq!(value(&mut conn, "select group_concat(id order by id) from t").await, "1,2,3,4,7");
    // What no follower has been sent is not sent for the sake of being undone.
    let written = || {
        let asked = "show global status like 'Com_insert'";
        (0..3)
            .filter(|server| *server != leader)
            .map(|server| cluster.servers[server].root(asked))
            .collect::<Vec<_>>()
    };
    let before = written();
    run(&mut conn, "begin").await;
    run(&mut conn, "insert into t values(8)").await;
    run(&mut conn, "insert into t values(9)").await;
    run(&mut conn, "rollback").await;
    assert_eq!(written(), before);
    run(&mut conn, "insert into t values(10)").await;
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_the_middle_leaves_nothing() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key)").await;
    for how in 0..3 {
        let mut gone = cluster.connect().await;
        run(&mut gone, "begin").await;
        run(&mut gone, &format!("insert into t values({})", 30 + how)).await;
        match how {
            0 => drop(gone),
            1 => gone.disconnect().await.unwrap(),
            _ => {
                let id = gone.id();
                run(&mut conn, &format!("kill {id}")).await;
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    run(&mut conn, "insert into t values(30), (31), (32)").await;
    agree(&cluster).await;
}

/// Each level with reads before and after the first write, in both kinds of transactions.
#[tokio::test(flavor = "multi_thread")]
async fn every_level_sees_what_it_does_on_one_server() {
    let cluster = Cluster::start(3).await;
    let (mut conn, mut other) = (cluster.connect().await, cluster.connect().await);
    all(
        &mut conn,
        &["create table l(id int primary key, n int)", "insert into l values(1, 0), (2, 0)"],
    )
    .await;
    let mut n = 0;
    for (level, sees) in
        [("read uncommitted", true), ("read committed", true), ("repeatable read", false)]
    {
        run(&mut conn, &format!("set session transaction isolation level {level}")).await;
        for write in [false, true] {
            run(&mut conn, "start transaction").await;
            let before = value(&mut conn, "select n from l where id = 1").await;
            if write {
                run(&mut conn, "update l set n = n + 1 where id = 2").await;
            }
            n += 1;
            run(&mut other, &format!("update l set n = {n} where id = 1")).await;
            let after = value(&mut conn, "select n from l where id = 1").await;
            assert_eq!(after, if sees { n.to_string() } else { before }, "{level}, {write}");
            run(&mut conn, "commit").await;
            assert_eq!(value(&mut conn, "select n from l where id = 1").await, n.to_string());
        }
    }
    // What is read there is locked.
    run(&mut conn, "set session transaction isolation level serializable").await;
    run(&mut other, "set innodb_lock_wait_timeout = 1").await;
    run(&mut conn, "start transaction").await;
    assert_eq!(value(&mut conn, "select n from l where id = 1").await, n.to_string());
    assert_eq!(refused(&mut other, "update l set n = 99 where id = 1").await, 1205);
    run(&mut conn, "update l set n = n + 1 where id = 1").await;
    run(&mut conn, "commit").await;
    // Whoever was told of a commit reads it, wherever; and each reads its own.
    for id in 10..60 {
        run(&mut conn, &format!("insert into l values({id}, 0)")).await;
        assert_eq!(value(&mut other, "select max(id) from l").await, id.to_string());
        assert_eq!(value(&mut conn, &format!("select count(*) from l where id = {id}")).await, "1");
        assert_eq!(
            value(&mut cluster.connect().await, "select max(id) from l").await,
            id.to_string()
        );
    }
    agree(&cluster).await;
}

/// Accounts and rights are made on every server, and so is a password.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_rights_and_what_belongs_to_a_server() {
    let cluster = Cluster::start(3).await;
    // The application's user may make accounts here.
    for server in &cluster.servers {
        server.root("grant all on *.* to app@'%' with grant option; grant all on *.* to app@localhost with grant option");
    }
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table app.t(id int primary key, secret int)",
            "create user 'clerk'@'%' identified by 'first'",
            "create role reader",
            "grant select (id) on app.t to reader",
            "grant reader to 'clerk'@'%'",
            "grant insert, update on app.t to 'clerk'@'%'",
            "alter user 'clerk'@'%' identified by 'second'",
            "set password for 'clerk'@'%' = password('third')",
            "revoke update on app.t from 'clerk'@'%'",
            "rename user 'clerk'@'%' to 'boss'@'%'",
            "create user if not exists 'gone'@'%'",
            "drop user 'gone'@'%'",
        ],
    )
    .await;
    let told: Vec<String> = cluster
        .servers
        .iter()
        .map(|server| {
            server.root(
                "show grants for 'boss'@'%'; select user, host, authentication_string, plugin from mysql.user \
                 where user in ('boss', 'clerk', 'gone', 'reader') order by 1; \
                 select * from information_schema.column_privileges where table_name = 't'",
            )
        })
        .collect();
    assert!(
        told[0].contains("INSERT") && !told[0].contains("UPDATE") && !told[0].contains("clerk"),
        "{}",
        told[0]
    );
    assert!(told.iter().all(|other| *other == told[0]), "{told:#?}");
    all_refused(
        &mut conn,
        &[
            "insert into mysql.user(user) values('x')",
            "update mysql.global_priv set priv = '{}'",
            "delete from mysql.proxies_priv",
            "set global max_connections = 5",
            "flush tables with read lock",
            "install soname 'x'",
            "purge binary logs to 'x'",
            "change master to master_host = 'x'",
            "shutdown",
            "create event e on schedule every 1 day do delete from t",
            "alter event e disable",
        ],
    )
    .await;
    agree(&cluster).await;
}
