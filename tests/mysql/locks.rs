//! LOCK TABLES: others' writes wait, reads go on, and a dump with its locks in it can be restored.

use std::process::{Command, Stdio};
use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, refused, run, value};
use crate::server::{DATABASE, PASSWORD, USER};

const IMPATIENT: &str = "[timeouts]\ntable_lock = \"1s\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn others_write_when_the_tables_are_free_again() {
    let cluster = Cluster::start(3).await;
    let (mut conn, mut other) = (cluster.connect().await, cluster.connect().await);
    run(&mut conn, "create table t(id int primary key, v int)").await;
    run(&mut conn, "create table free(id int primary key)").await;
    run(&mut conn, "insert into t values(1, 0)").await;
    // A transaction that has written is waited for.
    run(&mut other, "start transaction").await;
    run(&mut other, "update t set v = 1").await;
    let locking = tokio::spawn(async move {
        run(&mut conn, "lock tables t write, free as f write").await;
        conn
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!locking.is_finished());
    run(&mut other, "update t set v = v + 1").await;
    run(&mut other, "commit").await;
    let mut conn = locking.await.unwrap();
    // Each statement of the holder is a transaction of its own; others read what is committed.
    run(&mut conn, "update t set v = v * 10").await;
    assert_eq!(value(&mut other, "select v from t").await, "20");
    let waiting = tokio::spawn(async move {
        run(&mut other, "update t set v = v + 1").await;
        other
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    run(&mut conn, "update t set v = v * 10").await;
    run(&mut conn, "alter table t add column w int").await;
    assert!(!waiting.is_finished());
    run(&mut conn, "unlock tables").await;
    let mut other = waiting.await.unwrap();
    assert_eq!(value(&mut conn, "select v from t").await, "201");
    // Who begins a transaction, or leaves, gives the tables up.
    run(&mut conn, "lock tables t write").await;
    run(&mut conn, "start transaction").await;
    run(&mut other, "update t set v = 5").await;
    run(&mut conn, "rollback").await;
    run(&mut conn, "lock tables t write").await;
    drop(conn);
    run(&mut other, "update t set v = 6").await;
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_locks_keep_everybody_from_writing() {
    let cluster = Cluster::start_with(2, IMPATIENT).await;
    let (mut conn, mut other) = (cluster.connect().await, cluster.connect().await);
    run(&mut conn, "create table t(id int primary key, v int)").await;
    run(&mut conn, "insert into t values(1, 0)").await;
    run(&mut conn, "lock tables t read local").await;
    run(&mut other, "lock tables t read").await;
    run(&mut other, "unlock tables").await;
    assert_eq!(refused(&mut conn, "update t set v = 1").await, 1099);
    assert_eq!(value(&mut conn, "select v from t").await, "0");
    for waits in ["update t set v = 1", "lock tables t write", "alter table t add column w int"] {
        assert_eq!(refused(&mut other, waits).await, 1205, "{waits}");
    }
    for wrong in
        ["lock tables nowhere write", "lock tables lockstep.journal write", "lock tables t"]
    {
        assert!(other.query_drop(wrong).await.is_err(), "{wrong}");
    }
    run(&mut conn, "unlock tables").await;
    run(&mut other, "update t set v = 1").await;
    cluster.assert_all_equal().await;
}

fn tool(program: &str, cluster: &Cluster) -> Command {
    let mut tool = Command::new(program);
    tool.args(["--no-defaults", "-h127.0.0.1", "-u", USER, DATABASE]);
    tool.args([format!("-p{PASSWORD}"), format!("-P{}", cluster.port)]);
    tool
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_as_it_comes_is_taken_and_restored() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table p(id int auto_increment primary key, v varchar(30), key(v))")
        .await;
    run(&mut conn, "create table c(id int primary key, pid int, b varbinary(9), foreign key(pid) references p(id))").await;
    run(&mut conn, "insert into p(v) values('a'), ('ä'), (null)").await;
    run(&mut conn, "insert into c values(1, 2, 'x'), (2, null, 'y')").await;
    let dumped = tool("mariadb-dump", &cluster).args(["--hex-blob"]).output().unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let dump = String::from_utf8(dumped.stdout).unwrap();
    assert!(dump.contains("LOCK TABLES `p` WRITE") && dump.contains("DISABLE KEYS"), "{dump}");
    run(&mut conn, "drop table c").await;
    run(&mut conn, "insert into p(v) values('to go')").await;
    let mut restore = tool("mariadb", &cluster).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut restore.stdin.take().unwrap(), dump.as_bytes()).unwrap();
    assert!(restore.wait().unwrap().success());
    assert_eq!(value(&mut conn, "select count(*) from p left join c on pid = p.id").await, "3");
    assert_eq!(value(&mut conn, "select count(*) from c").await, "2");
    cluster.assert_all_equal().await;
}
