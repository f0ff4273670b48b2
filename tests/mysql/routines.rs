//! Procedures, functions and triggers: what they do out of the statement's sight is the same on every
//! server, also where they fail half-way, change nothing at their end, or pass over errors.

use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, agree, all, all_refused, refused, run, value};

const TABLES: &[&str] = &[
    "create table t(id int primary key, v int not null default 0)",
    "create table audit(what varchar(80))",
    "insert into t values(1, 0), (2, 0), (3, 0)",
];

/// A statement that answers with no rows has written all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_no_row_at_its_end_has_still_written() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, TABLES).await;
    all(
        &mut conn,
        &[
            "create procedure p(n int) begin insert into t values(n, 0); update t set v = 9 where id < 0; end",
            "create trigger tu after update on t for each row insert into audit values(concat('saw ', old.id))",
            "create trigger ti before insert on t for each row insert into audit values(concat('new ', new.id))",
            "call p(10)",
            "start transaction",
            "call p(11)",
            "commit",
        ],
    )
    .await;
    assert_eq!(value(&mut conn, "select count(*) from t").await, "5");
    // The row is as it was, and the trigger has fired.
    run(&mut conn, "update t set v = v where id = 1").await;
    run(&mut conn, "insert ignore into t values(1, 1)").await;
    run(&mut conn, "insert into t values(2, 0) on duplicate key update v = v").await;
    conn.exec_drop("update t set v = v where id = ?", (3,)).await.unwrap();
    assert_eq!(value(&mut conn, "select count(*) from audit where what like 'saw%'").await, "3");
    agree(&cluster).await;
}

/// What a procedure has written before it failed is undone with it, in a transaction that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_procedure_that_fails_leaves_nothing() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, TABLES).await;
    all(
        &mut conn,
        &[
            "create procedure fails(n int) begin insert into t values(n, 1); insert into t values(1, 1); end",
            "create procedure says(n int) begin update t set v = v + 1; \
             signal sqlstate '45000' set message_text = 'no'; end",
            "create procedure retry(n int) begin update t set v = v + 1; \
             signal sqlstate '40001' set message_text = 'again', mysql_errno = 1213; end",
            "create procedure outer_p(n int) begin insert into audit values('outer'); call fails(n); end",
        ],
    )
    .await;
    assert_eq!(refused(&mut conn, "call fails(20)").await, 1062);
    assert_eq!(refused(&mut conn, "call says(20)").await, 1644);
    run(&mut conn, "start transaction").await;
    run(&mut conn, "insert into t values(30, 0)").await;
    assert_eq!(refused(&mut conn, "call fails(31)").await, 1062);
    assert_eq!(refused(&mut conn, "call says(31)").await, 1644);
    // It says what a deadlock says, and is none.
    assert_eq!(refused(&mut conn, "call retry(31)").await, 1213);
    assert_eq!(refused(&mut conn, "call outer_p(32)").await, 1062);
    let prepared = conn.exec_drop("call fails(?)", (33,)).await;
    assert!(prepared.is_err(), "{prepared:?}");
    run(&mut conn, "insert into t values(34, 0)").await;
    run(&mut conn, "commit").await;
    assert_eq!(value(&mut conn, "select group_concat(id order by id) from t").await, "1,2,3,30,34");
    assert_eq!(value(&mut conn, "select sum(v) from t").await, "0");
    agree(&cluster).await;
}

/// A handler may pass over an error that only one server meets: a wait that is over, a deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_errors_that_one_server_meets_are_refused() {
    let cluster = Cluster::start(3).await;
    let (mut conn, mut other) = (cluster.connect().await, cluster.connect().await);
    all(&mut conn, TABLES).await;
    let handled = [
        ("h1", "continue handler for 1205 begin end"),
        ("h2", "continue handler for sqlexception begin end"),
        ("h3", "exit handler for sqlstate 'HY000' begin end"),
        ("h4", "continue handler for sqlstate value '40001' begin end"),
        ("h5", "continue handler for not found, 1213 set @x = 1"),
        ("h6", "late condition for 1205; declare continue handler for late begin end"),
    ];
    for (name, handler) in handled {
        let body = format!(
            "create procedure {name}() begin declare {handler}; update t set v = v + 1 where id = 1; \
             insert into audit values('{name}'); end"
        );
        run(&mut conn, &body).await;
    }
    run(
        &mut conn,
        "create procedure good() begin declare done int default 0; \
         declare continue handler for not found set done = 1; \
         declare continue handler for 1062, sqlstate '23000' begin insert into audit values('there'); end; \
         insert into t values(1, 1); insert into t values(40, 1); end",
    )
    .await;
    all(&mut other, &["start transaction", "update t set v = 100 where id = 1"]).await;
    run(&mut conn, "set innodb_lock_wait_timeout = 1").await;
    for (name, _) in handled {
        let called = conn.query_drop(format!("call {name}()")).await;
        assert!(
            matches!(&called, Err(mysql_async::Error::Server(error)) if error.code == 1235),
            "{name}: {called:?}"
        );
    }
    run(&mut other, "commit").await;
    run(&mut conn, "call good()").await;
    assert_eq!(value(&mut conn, "select group_concat(what) from audit").await, "there");
    assert_eq!(value(&mut conn, "select count(*) from t").await, "4");
    agree(&cluster).await;
}

/// What a routine sets is its own, or refused: nobody else's session may find it.
#[tokio::test(flavor = "multi_thread")]
async fn routines_leave_nothing_in_a_session_that_is_lent_to_others() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, TABLES).await;
    all(
        &mut conn,
        &[
            "create table c(id int primary key, t_id int, foreign key(t_id) references t(id))",
            "create trigger tr before insert on t for each row set @seen = new.id",
            "create procedure unchecked() begin set foreign_key_checks = 0; insert into audit values('a'); end",
            "create procedure zoned() begin set session time_zone = '+09:00'; insert into audit values('b'); end",
            "create procedure named() begin set names latin1; insert into audit values('c'); end",
            "create procedure counted() begin set @leak = 5; insert into audit values('d'); end",
            "create procedure local_p(x int) begin declare y int; set y = x + 1; insert into audit values(y); end",
        ],
    )
    .await;
    run(&mut conn, "call local_p(4)").await;
    for sql in ["call unchecked()", "call zoned()", "call named()"] {
        assert_eq!(refused(&mut conn, sql).await, 1235, "{sql}");
    }
    for sql in ["insert into t values(50, 0)", "call counted()"] {
        let _ = conn.query_drop(sql).await;
        for _ in 0..4 {
            let mut other = cluster.connect().await;
            assert_eq!(
                value(&mut other, "select concat(ifnull(@seen, ''), ifnull(@leak, ''))").await,
                "",
                "{sql}"
            );
            assert_eq!(refused(&mut other, "insert into c values(1, 999)").await, 1452);
            assert_eq!(value(&mut other, "select @@time_zone").await, "SYSTEM");
        }
    }
    agree(&cluster).await;
}

/// Numbers of errors with which a server says goodbye, said by a procedure.
#[tokio::test(flavor = "multi_thread")]
async fn a_procedure_that_says_what_a_dying_server_says_puts_nobody_out() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(&mut conn, TABLES).await;
    for (number, state) in
        [(1053, "08S01"), (1927, "70100"), (4031, "HY000"), (1153, "08S01"), (1021, "HY000")]
    {
        run(
            &mut conn,
            &format!(
                "create procedure s{number}() begin update t set v = v + 1; \
                 signal sqlstate '{state}' set mysql_errno = {number}, message_text = 'bye'; end"
            ),
        )
        .await;
        for open in ["do 1", "start transaction"] {
            run(&mut conn, open).await;
            let _ = conn.query_drop("insert into audit values('x')").await;
            let said = conn.query_drop(format!("call s{number}()")).await;
            assert!(matches!(said, Err(mysql_async::Error::Server(_))), "{number}: {said:?}");
            run(&mut conn, "rollback").await;
        }
    }
    assert_eq!(value(&mut conn, "select sum(v) from t").await, "0");
    agree(&cluster).await;
}

/// Two tables that number their rows, written by one statement: refused, and nothing is left of it.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_numbered_out_of_sight_are_refused() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table n(id int auto_increment primary key, v int)",
            "create table m(id int auto_increment primary key, v int)",
            "create trigger tn after insert on n for each row insert into m(v) values(new.id)",
            "create function made(x int) returns int begin insert into m(v) values(x); return x; end",
            "create procedure both_p() begin insert into n(v) values(1); insert into m(v) values(1); end",
            "create view w as select id, v from m",
        ],
    )
    .await;
    all_refused(
        &mut conn,
        &[
            "insert into n(v) values(1), (2)",
            "insert into n(v) values(made(3))",
            "call both_p()",
            "select made(3)",
            "do made(3)",
            "set @x = made(3)",
            "insert into w(v) values(1)",
            "update w set v = 1",
        ],
    )
    .await;
    assert_eq!(
        value(&mut conn, "select (select count(*) from n) + (select count(*) from m)").await,
        "0"
    );
    agree(&cluster).await;
}
