//! Clients and frameworks as applications use them: scripts in tests/drivers, each with its own
//! assertions, and programs that come with the server.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, run, value};
use crate::replicate::python;
use crate::server::{PASSWORD, USER};

/// Runs one script on a cluster of its own and compares the servers afterwards.
async fn script(name: &str) {
    let cluster = Cluster::start(3).await;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(name);
    let ran = Command::new(python())
        .arg(path)
        .env("MYSQL_PORT", cluster.port.to_string())
        .env("MYSQL_PWD", PASSWORD)
        .output()
        .unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(said[0].trim_end().ends_with("done"), "{name}: {}", said.concat());
    cluster.wait_active(3).await;
    assert!(!cluster.log().contains("differs from the leader"), "{}", cluster.log());
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pymysql() {
    script("pymysql_client.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn django_migrations_and_orm() {
    script("django_mysql_client.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_back_are_the_same_everywhere() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int auto_increment primary key, v int)").await;
    // A number that was drawn and not used, on the leader alone.
    run(&mut conn, "start transaction").await;
    run(&mut conn, "insert into t(v) values(0), (0)").await;
    run(&mut conn, "rollback").await;
    assert_eq!(value(&mut conn, "insert into t(v) values(1), (2) returning id").await, "3");
    assert_eq!(value(&mut conn, "insert into t(id, v) values(90, 3) returning id").await, "90");
    assert_eq!(value(&mut conn, "delete from t where id = 4 returning v").await, "2");
    assert_eq!(value(&mut conn, "replace into t(v) values(5) returning id").await, "91");
    assert!(!cluster.log().contains("differs from the leader"), "{}", cluster.log());
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
}
