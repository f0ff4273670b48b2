//! What broke other systems of this kind, on MariaDB: each case ends the same on every server, or is
//! refused. `docs/mysql-statements.md` says which is which.

use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, agree, all, all_refused, refused, run, value};

/// Numbers of AUTO_INCREMENT in every lock mode: several rows, rows that bring their own, gaps, clients
/// at once.
async fn numbers(options: &'static [&'static str]) {
    let cluster = Cluster::start_on(3, options, "").await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table t(id int auto_increment primary key, u int unique, v varchar(40))",
            "create table src(x int)",
            "insert into src values(1), (2), (3), (4), (5)",
            "insert into t(v) values('a'), ('b'), ('c')",
            // Mixed: some bring their number.
            "insert into t(id, v) values(null, 'd'), (50, 'e'), (0, 'f'), (default, 'g')",
        ],
    )
    .await;
    assert_eq!(refused(&mut conn, "insert into t(id, u) values(null, 7), (50, 8)").await, 1062);
    all(&mut conn, &[
        "insert into t(u) values(7)",
        "insert ignore into t(u) values(7), (8), (7), (9)",
        "replace into t(u, v) values(8, 'again'), (10, 'new')",
        "insert into t(u, v) values(9, 'x'), (11, 'y') on duplicate key update v = concat('was ', u)",
        "insert into t(v) select x from src",
        "insert into t(u, v) select x + 8, uuid() from src on duplicate key update v = values(v)",
        "start transaction",
        "insert into t(v) values('undone'), ('undone')",
        "rollback",
        "insert into t(v) values('after')",
        "delete from t where v = 'after'",
        "insert into t(v) values('last')",
    ])
    .await;
    let writers = (0..4).map(|writer| {
        let connecting = cluster.try_connect();
        async move {
            let mut conn = connecting.await.unwrap();
            for turn in 0..15 {
                let sql = match (writer + turn) % 3 {
                    0 => "insert into t(v) values('p'), ('q'), ('r')",
                    1 => "insert into t(v) select concat('s', x) from src",
                    _ => "insert into t(id, v) values(null, 'm'), (null, 'n')",
                };
                // A deadlock is the client's to try again, as on one server.
                if let Err(mysql_async::Error::Server(error)) = conn.query_drop(sql).await {
                    assert!([1205, 1213].contains(&error.code), "{sql}: {error}");
                }
            }
        }
    });
    futures_util::future::join_all(writers).await;
    // What the next leader hands out has not been handed out before.
    let highest = value(&mut conn, "select max(id) from t").await;
    let leader = cluster.leader();
    cluster.servers[leader].kill();
    cluster.wait_leader_other_than(leader).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "insert into t(v) values('next')").await;
    let next: u64 = value(&mut conn, "select id from t where v = 'next'").await.parse().unwrap();
    assert!(next > highest.parse().unwrap(), "{next} after {highest}");
    cluster.servers[leader].start();
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_in_the_traditional_mode() {
    numbers(&["--innodb-autoinc-lock-mode=0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_in_the_consecutive_mode() {
    numbers(&["--innodb-autoinc-lock-mode=1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_in_the_interleaved_mode() {
    numbers(&["--innodb-autoinc-lock-mode=2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tables_triggers_cascades_and_computed_columns() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, &[
        "create table p(id int primary key, v int, stamp datetime(6))",
        "create table c(id int auto_increment primary key, pid int, n int, \
         foreign key(pid) references p(id) on delete cascade on update cascade)",
        "create table g(id int primary key, cid int, foreign key(cid) references c(id) on delete set null)",
        "create table audit(what varchar(80), at timestamp(6))",
        "create trigger pi before insert on p for each row set new.stamp = now(6), new.v = ifnull(new.v, 1)",
        "create trigger pu after update on p for each row insert into audit values(concat(old.v, '>', new.v), now(6))",
        "create trigger pd before delete on p for each row insert into audit values(concat('gone ', old.id), now(6))",
        "insert into p(id, v) values(1, null), (2, 2), (3, 3), (4, 4)",
        "insert into c(pid, n) values(1, 1), (1, 2), (2, 3), (3, 4)",
        "insert into g values(1, 1), (2, 3)",
        "update p set v = v * 2 where id > 1",
        "update p set id = id + 10 where id = 2",
        "update p join c on c.pid = p.id set p.v = p.v + 1, c.n = 0 where c.n > 2",
        "update p, (select pid, count(*) as k from c group by pid) as x set p.v = 100 where p.id = x.pid and k > 1",
        "delete p, c from p join c on c.pid = p.id where p.id = 12",
        "delete from c using c left join p on p.id = c.pid where p.id is null",
        "replace into p(id, v) values(3, 33), (5, 55)",
        "insert ignore into p(id) values(1), (6), (6)",
        "delete from p where id = 1",
        // Columns that are computed, stored or not, and indexed.
        "create table calc(a int, b int as (a * 2) stored, c varchar(20) as (concat('x', a)) virtual, \
         primary key(a), key(c), check (a < 100))",
        "insert into calc(a) values(1), (2)",
        "update calc set a = a + 10 where c = 'x2'",
        "insert into calc(a) select seq from seq_20_to_25 order by rand()",
    ])
    .await;
    assert_eq!(refused(&mut conn, "insert into calc(a) values(200)").await, 4025);
    // A check, or a stored column, that reads the clock or a session is refused by the server itself.
    for sql in [
        "create table clock1(a datetime check (a < now()))",
        "create table clock2(a int, b datetime as (now()) stored)",
        "create table clock3(a varchar(60) check (a <> user()))",
    ] {
        assert_eq!(refused(&mut conn, sql).await, 1901, "{sql}");
    }
    all_refused(
        &mut conn,
        &[
            // Which of several matches wins is each server's choice.
            "update p join c on c.pid = p.id set p.v = c.n",
            "insert into p(id, v) select id + 50, uuid() from c",
            "delete p from p join c on c.pid = p.id where rand() < 0.5",
        ],
    )
    .await;
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_a_session_is_told() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table t(id int auto_increment primary key, k int unique, n int default 0)",
            "create table u(t_id int)",
            "insert into t(k) values(1), (2), (3)",
        ],
    )
    .await;
    assert_eq!(value(&mut conn, "select last_insert_id()").await, "1");
    run(&mut conn, "insert into u values(last_insert_id())").await;
    let upsert =
        "insert into t(k) values(2) on duplicate key update id = last_insert_id(id), n = n + 1";
    run(&mut conn, upsert).await;
    assert_eq!(value(&mut conn, "select last_insert_id()").await, "2");
    assert_eq!(conn.last_insert_id(), None, "a read has none");
    run(&mut conn, "update t set n = last_insert_id(n + 5) where k = 2").await;
    assert_eq!(value(&mut conn, "select last_insert_id()").await, "6");
    run(&mut conn, "insert into u values(last_insert_id())").await;
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_end_the_transaction_unasked() {
    let cluster = Cluster::start(2).await;
    let (mut conn, mut other) = (cluster.connect().await, cluster.connect().await);
    all(&mut conn, &["create table t(id int primary key)", "create table s(id int primary key)"])
        .await;
    let enders = [
        "create table made(id int)",
        "alter table made add column x int",
        "drop table made",
        "truncate table s",
        "create view w as select 1",
        "drop view w",
        "begin",
        "lock tables s write",
        "analyze table s",
        "create index i on s(id)",
        "rename table s to r",
        "rename table r to s",
        "create function f() returns int return 1",
        "drop function f",
        "set autocommit = 1",
        "create trigger tr before insert on s for each row set @x = 1",
    ];
    for (n, ender) in enders.iter().enumerate() {
        all(&mut conn, &["set autocommit = 0", &format!("insert into t values({n})"), ender]).await;
        assert_eq!(
            value(&mut other, &format!("select count(*) from t where id = {n}")).await,
            "1",
            "{ender}"
        );
        all(&mut conn, &["unlock tables", "rollback", "set autocommit = 1"]).await;
    }
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_taken_off_a_queue_and_waits_that_end() {
    let cluster = Cluster::start(3).await;
    let (mut conn, mut other) = (cluster.connect().await, cluster.connect().await);
    all(
        &mut conn,
        &[
            "create table job(id int auto_increment primary key, taken varchar(40))",
            "insert into job(taken) values(null), (null), (null), (null)",
            "start transaction",
        ],
    )
    .await;
    let first =
        value(&mut conn, "select id from job where taken is null limit 1 for update skip locked")
            .await;
    run(&mut other, "start transaction").await;
    let second =
        value(&mut other, "select id from job where taken is null limit 1 for update skip locked")
            .await;
    assert_ne!(first, second);
    assert_eq!(
        refused(&mut other, &format!("select * from job where id = {first} for update nowait"))
            .await,
        1205
    );
    run(&mut conn, &format!("update job set taken = uuid() where id = {first}")).await;
    run(&mut other, &format!("delete from job where id = {second}")).await;
    // A wait that is over undoes the statement, not the transaction.
    run(&mut other, "set innodb_lock_wait_timeout = 1").await;
    assert_eq!(
        refused(&mut other, &format!("update job set taken = 'me' where id = {first}")).await,
        1205
    );
    all(&mut other, &["insert into job(taken) values('other')", "commit"]).await;
    run(&mut conn, "commit").await;
    // A circle ends one of the transactions, everywhere.
    all(&mut conn, &["start transaction", "update job set taken = 'a' where id = 3"]).await;
    all(
        &mut other,
        &[
            "set innodb_lock_wait_timeout = 50",
            "start transaction",
            "update job set taken = 'b' where id = 4",
        ],
    )
    .await;
    let circle = async {
        let ran = conn.query_drop("update job set taken = 'a' where id = 4").await;
        conn.query_drop("commit").await.unwrap();
        ran
    };
    let closing = async {
        let ran = other.query_drop("update job set taken = 'b' where id = 3").await;
        other.query_drop("commit").await.unwrap();
        ran
    };
    let (one, two) = tokio::join!(circle, closing);
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_alone_could_do_is_refused() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key, v varchar(90))").await;
    all_refused(
        &mut conn,
        &[
            "create table m(id int) engine=myisam",
            "create table m(id int) engine=memory",
            "create table m(id int) engine=aria transactional=1",
            "create table m(id int primary key) with system versioning",
            "alter table t engine=myisam",
            "create table m as select * from t",
            "create event e on schedule every 1 day do delete from t",
            "create function x returns integer soname 'x.so'",
            "insert into mysql.user select * from mysql.user",
            "delete from mysql.db",
            "insert into t values(1, load_file('/etc/passwd'))",
            "select * from t into outfile '/tmp/x'",
            "insert into t values(1, get_lock('x', 1))",
            "insert into t values(1, nextval(s))",
            "handler t open",
            "xa start 'x'",
            "install plugin x soname 'y'",
            "flush tables with read lock",
        ],
    )
    .await;
    assert_eq!(value(&mut conn, "select count(*) from t").await, "0");
    agree(&cluster).await;
}
