//! What belongs to a session follows it, whichever servers its statements are lent.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::cluster::{Cluster, refused, run, value};

/// All rows of a query, columns joined.
async fn rows(conn: &mut Conn, sql: &str) -> Vec<String> {
    let rows: Vec<Row> = conn.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let text = |row: Row| {
        let values = row.unwrap().into_iter().map(|value| match value {
            mysql_async::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => format!("{other:?}"),
        });
        values.collect::<Vec<_>>().join("|")
    };
    rows.into_iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_session_knows() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key, v tinyint, s varchar(3))").await;
    run(&mut conn, "insert into t values(1, 1, 'a'), (2, 2, 'b')").await;
    messages(&mut conn).await;
    // The number that the client was told is the one that KILL takes.
    assert_eq!(value(&mut conn, "select connection_id()").await, conn.id().to_string());
    let prepared: Option<String> = conn.exec_first("SELECT CONNECTION_ID()", ()).await.unwrap();
    assert_eq!(prepared, Some(conn.id().to_string()));
    assert_eq!(value(&mut conn, "select @@autocommit").await, "1");
    run(&mut conn, "set autocommit = 0").await;
    assert_eq!(value(&mut conn, "select @@session.autocommit").await, "0");
    run(&mut conn, "insert into t values(3, 3, 'c')").await;
    run(&mut conn, "rollback").await;
    // A savepoint opens a transaction where it is the first statement of one.
    run(&mut conn, "savepoint first").await;
    run(&mut conn, "insert into t values(4, 4, 'd')").await;
    run(&mut conn, "rollback to savepoint first").await;
    run(&mut conn, "commit").await;
    run(&mut conn, "set autocommit = 1").await;
    run(&mut conn, "savepoint alone").await;
    assert_eq!(refused(&mut conn, "rollback to savepoint alone").await, 1305);
    assert_eq!(value(&mut conn, "select count(*) from t").await, "2");
    snapshot(&cluster).await;
    assert_eq!(refused(&mut conn, "xa start 'x'").await, 1235);
    assert_eq!(refused(&mut conn, "handler t open").await, 1235);
    run(&mut conn, "set div_precision_increment = 9").await;
    assert_eq!(value(&mut conn, "select 1/3").await, "0.333333333");
    run(&mut conn, "set div_precision_increment = default").await;
    assert_eq!(value(&mut conn, "select 1/3").await, "0.3333");
    cluster.assert_all_equal().await;
}

/// SHOW WARNINGS tells of the statement before, wherever that ran.
async fn messages(conn: &mut Conn) {
    for round in 0..4 {
        assert_eq!(value(conn, "select cast('12x' as int)").await, "12");
        let told = rows(conn, "show warnings").await;
        assert_eq!(told, ["Warning|1292|Truncated incorrect INTEGER value: '12x'"], "{round}");
        assert_eq!(value(conn, "show count(*) warnings").await, "1");
        assert_eq!(value(conn, "select @@warning_count").await, "1");
        assert!(rows(conn, "show errors").await.is_empty());
        assert_eq!(value(conn, "select count(*) from t").await, "2");
        assert!(rows(conn, "show warnings").await.is_empty());
    }
    run(conn, "set sql_mode = ''").await;
    run(conn, "insert ignore into t values(1, 1, 'x'), (9, 999, 'long')").await;
    let told = rows(conn, "show warnings").await;
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(rows(conn, "show warnings limit 1, 1").await, told[1..2]);
    run(conn, "delete from t where id = 9").await;
    run(conn, "set sql_mode = default").await;
    assert_eq!(refused(conn, "select * from nowhere").await, 1146);
    assert_eq!(rows(conn, "show errors").await, ["Error|1146|Table 'app.nowhere' doesn't exist"]);
    assert_eq!(refused(conn, "handler t open").await, 1235);
    assert!(rows(conn, "show warnings").await[0].starts_with("Error|1235|HANDLER"));
}

/// The snapshot is what was there when the transaction began, not when it first read.
async fn snapshot(cluster: &Cluster) {
    let (mut early, mut late) = (cluster.connect().await, cluster.connect().await);
    run(&mut early, "start transaction with consistent snapshot").await;
    run(&mut late, "start transaction with consistent snapshot, read only").await;
    run(&mut cluster.connect().await, "insert into t values(5, 5, 'e')").await;
    for conn in [&mut early, &mut late] {
        assert_eq!(value(conn, "select count(*) from t").await, "2");
    }
    assert_eq!(refused(&mut late, "insert into t values(6, 6, 'f')").await, 1792);
    for conn in [&mut early, &mut late] {
        run(conn, "commit").await;
        assert_eq!(value(conn, "select count(*) from t").await, "3");
    }
    run(&mut early, "delete from t where id = 5").await;
}
