//! Clients and frameworks as applications use them: scripts in tests/drivers, each with its own
//! assertions, and programs that come with the server.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::cluster::{Cluster, refused, run, value};
use crate::replicate::python;
use crate::server::{PASSWORD, USER};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs one of Python's scripts.
async fn script(name: &str) {
    let mut command = Command::new(python());
    command.arg(root().join("tests/drivers").join(name)).arg("mysql");
    driver(name, command).await;
}

/// Runs a driver's program on a cluster of its own and compares the servers afterwards. Where it says so, the
/// server that leads is killed under it, and comes back when the program has ended.
async fn driver(name: &str, mut command: Command) {
    let cluster = Cluster::start(3).await;
    command.env("MYSQL_PORT", cluster.port.to_string()).env("MYSQL_PWD", PASSWORD);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut killed, mut last) = (None, String::new());
    while let Some(line) = lines.next_line().await.unwrap() {
        if line == "kill" {
            let leader = cluster.leader();
            cluster.servers[leader].kill();
            killed = Some(leader);
            child.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
        }
        last = line;
    }
    let ended = child.wait_with_output().await.unwrap();
    assert!(last == "done", "{name}: {last}: {}", String::from_utf8_lossy(&ended.stderr));
    if let Some(server) = killed {
        cluster.servers[server].start();
    }
    cluster.wait_active(3).await;
    assert!(!cluster.log().contains("differs from the leader"), "{}", cluster.log());
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pymysql() {
    script("pymysql_client.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysqlclient() {
    script("mysqlclient_client.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql2_for_node() {
    let modules = root().join("target/node-mysql");
    // The package's own folder is there last: an installation without it was interrupted.
    if !modules.join("node_modules/mysql2/package.json").exists() {
        std::fs::create_dir_all(&modules).unwrap();
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&modules);
        let made = npm.arg("mysql2@^3").output().expect("npm: install what .ci/setup names");
        assert!(made.status.success(), "npm: {}", String::from_utf8_lossy(&made.stderr));
    }
    let mut node = Command::new("node");
    node.arg(root().join("tests/drivers/mysql2_client.js"));
    node.env("NODE_PATH", modules.join("node_modules"));
    driver("mysql2", node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connector_j() {
    const DEBIAN: &str = "/usr/share/java/mariadb-java-client.jar";
    let archive = std::env::var("LOCKSTEP_CONNECTOR_J").unwrap_or_else(|_| DEBIAN.into());
    assert!(
        std::path::Path::new(&archive).exists(),
        "{archive}: install the package libmariadb-java"
    );
    let mut java = Command::new("java");
    java.args(["-cp", &archive]).arg(root().join("tests/drivers/ConnectorClient.java"));
    driver("Connector/J", java).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn django_migrations_and_orm() {
    script("django_client.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_back_are_the_same_everywhere() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int auto_increment primary key, v int unique)").await;
    run(&mut conn, "insert into t(v) values(0)").await;
    // A number that was drawn and not used, on the leader alone.
    assert_eq!(refused(&mut conn, "insert into t(v) values(0)").await, 1062);
    assert_eq!(value(&mut conn, "insert into t(v) values(1), (2) returning id").await, "3");
    assert_eq!(value(&mut conn, "insert into t(id, v) values(90, 3) returning id").await, "90");
    assert_eq!(value(&mut conn, "delete from t where id = 4 returning v").await, "2");
    assert_eq!(value(&mut conn, "replace into t(v) values(5) returning id").await, "91");
    assert!(!cluster.log().contains("differs from the leader"), "{}", cluster.log());
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
}

/// A program that speaks to the cluster as the application does.
fn program(cluster: &Cluster, name: &str) -> Command {
    let mut command = Command::new(name);
    command.args(["--no-defaults", "-h127.0.0.1", &format!("-P{}", cluster.port)]);
    command.args([format!("-u{USER}"), format!("-p{PASSWORD}")]);
    command
}

fn succeeds(command: &mut Command) -> String {
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

const SHOP: &[&str] = &[
    "create table customer(id int auto_increment primary key, name varchar(40) not null, \
     born date, photo blob, note text, unique (name))",
    "create table sale(id bigint auto_increment primary key, customer int not null, \
     amount decimal(10,2) not null, at timestamp(6) not null default now(6), \
     half decimal(12,3) as (amount / 2) stored, foreign key (customer) references customer(id))",
    "create view rich as select name from customer where id in (select customer from sale)",
    "create trigger tidy before insert on customer for each row set new.name = trim(new.name)",
    "create procedure sell(who int, how decimal(10,2)) \
     update sale set amount = amount + how where customer = who",
    "insert into customer(name, born, photo, note) values (' ü''x ', '1999-12-31', x'00ff27', 'a\\\\b\nc'), \
     ('y', null, null, '')",
    "insert into sale(customer, amount) values (1, 10.5), (2, 3), (1, 0.01)",
    "call sell(2, 1.25)",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_taken_and_restored() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    for statement in SHOP {
        run(&mut conn, statement).await;
    }
    let before = cluster.servers[0].contents();
    // Also as it comes, with locks on the tables.
    let locking = succeeds(program(&cluster, "mariadb-dump").arg("app"));
    assert!(locking.contains("LOCK TABLES"), "{locking}");
    let dump = succeeds(program(&cluster, "mariadb-dump").args([
        "--single-transaction",
        "--skip-add-locks",
        "--hex-blob",
        "--routines",
        "app",
    ]));
    run(&mut conn, "drop table sale, customer").await;
    run(&mut conn, "drop view rich").await;
    run(&mut conn, "drop procedure sell").await;
    let mut restore = program(&cluster, "mariadb");
    let mut child =
        restore.arg("app").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), dump.as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(cluster.servers[0].contents(), before);
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysbench_leaves_all_servers_the_same() {
    let cluster = Cluster::start(3).await;
    let sysbench = |script: &str, action: &str| {
        let mut command = Command::new("sysbench");
        command.arg(script).args(["--mysql-host=127.0.0.1", "--mysql-ignore-errors=1213,1205"]);
        command.arg(format!("--mysql-port={}", cluster.port)).arg(format!("--mysql-user={USER}"));
        command.arg(format!("--mysql-password={PASSWORD}")).arg("--mysql-db=app");
        command.args(["--tables=2", "--table-size=500", "--threads=6", "--time=2", action]);
        succeeds(&mut command)
    };
    sysbench("oltp_read_write", "prepare");
    for script in ["oltp_point_select", "oltp_read_write", "oltp_write_only", "oltp_insert"] {
        let said = sysbench(script, "run");
        assert!(!said.contains("FATAL"), "{script}: {said}");
    }
    cluster.wait_active(3).await;
    assert!(!cluster.log().contains("differs from the leader"), "{}", cluster.log());
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlalchemy_with_alembic_migrations() {
    script("sqlalchemy_client.py").await;
}
