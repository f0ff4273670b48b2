//! Running it: the console in the words of MySQL's clients, and the demo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row};

use crate::cluster::{Cluster, run, value};
use crate::replicate::python;
use crate::server::{PASSWORD, USER};

impl Cluster {
    /// The console, as the administrator.
    pub(crate) async fn console(&self) -> Conn {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some("admin"))
            .pass(Some("admin"))
            .db_name(Some("lockstep"))
            .prefer_socket(false);
        Conn::new(opts).await.unwrap_or_else(|error| panic!("{error}; the log:\n{}", self.log()))
    }
}

/// Rows as text, by the names of their columns.
async fn table(conn: &mut Conn, sql: &str) -> Vec<std::collections::BTreeMap<String, String>> {
    let rows: Vec<Row> = conn.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let named = |row: Row| {
        let columns = row.columns();
        let values = row.unwrap().into_iter().map(|value| value.as_sql(true));
        columns.iter().map(|c| c.name_str().into_owned()).zip(values).collect()
    };
    rows.into_iter().map(named).collect()
}

async fn fails(conn: &mut Conn, sql: &str) -> String {
    match conn.query_drop(sql).await {
        Err(mysql_async::Error::Server(error)) => format!("{} {}", error.code, error.message),
        other => panic!("{sql}: an error was expected, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_answers_any_client() {
    let cluster = Cluster::start(3).await;
    let mut app = cluster.connect().await;
    run(&mut app, "create table t(id int auto_increment primary key)").await;
    let mut console = cluster.console().await;
    let backends = table(&mut console, "SHOW BACKENDS").await;
    assert_eq!(backends.len(), 3);
    assert_eq!(backends.iter().filter(|b| b["role"] == "'leader'").count(), 1, "{backends:?}");
    for what in ["VIEW", "CLIENTS", "POOLS", "JOURNAL", "STATS", "CONFIG", "VERSION"] {
        let rows = table(&mut console, &format!("show {what};")).await;
        assert!(!rows.is_empty(), "SHOW {what} is empty");
        assert!(!format!("{rows:?}").contains(PASSWORD), "SHOW {what} shows a password");
    }
    assert!(table(&mut console, "HELP").await.len() > 15);
    // The same prepared, in binary form.
    let prepared: Vec<Row> = console.exec("SHOW BACKENDS", ()).await.unwrap();
    assert_eq!(prepared.len(), 3);
    assert!(fails(&mut console, "SHOW NONSENSE").await.starts_with("1064 "));
    assert!(fails(&mut console, "DROP TABLE t").await.starts_with("1064 "));
    let name = &backends.iter().find(|b| b["role"] == "'follower'").unwrap()["name"];
    let name = name.trim_matches('\'');
    run(&mut console, &format!("DEACTIVATE {name}")).await;
    cluster.wait_active(2).await;
    run(&mut app, "insert into t values()").await;
    run(&mut console, &format!("ACTIVATE {name}")).await;
    cluster.wait_active(3).await;
    run(&mut console, &format!("SET WEIGHT {name} 0")).await;
    run(&mut console, "PAUSE").await;
    let written = tokio::spawn(async move {
        run(&mut app, "insert into t values()").await;
        app
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!written.is_finished(), "commits are held");
    run(&mut console, "RESUME").await;
    let mut app = written.await.unwrap();
    // Who sleeps there is woken by its number.
    let number = app.id();
    let sleeper = tokio::spawn(async move { app.query_drop("select sleep(20)").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    run(&mut console, &format!("KILL {number}")).await;
    tokio::time::timeout(Duration::from_secs(5), sleeper).await.expect("woken").unwrap().ok();
    cluster.assert_all_equal().await;
    command_line(&cluster);
}

/// What the command-line client and a driver of Python say on their own.
fn command_line(cluster: &Cluster) {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-h127.0.0.1", "-uadmin", "-padmin", "-t", "lockstep"]);
    client
        .arg(format!("-P{}", cluster.port))
        .args(["-e", "status; show backends; use lockstep; help;"]);
    let ran = client.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("| db3"), "{said}");
    let script = "import os, pymysql\n\
        c = pymysql.connect(host='127.0.0.1', port=int(os.environ['P']), user='admin', \
            password='admin', database='lockstep', charset='utf8mb4', autocommit=True)\n\
        q = c.cursor(); q.execute('SHOW BACKENDS'); print(len(q.fetchall()))\n\
        q.execute('SELECT VERSION()'); c.ping(); c.commit(); c.rollback()";
    let ran =
        Command::new(python()).args(["-c", script]).env("P", cluster.port.to_string()).output();
    let ran = ran.unwrap();
    assert_eq!(ran.stdout, b"3\n", "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The line that a demo prints when it is ready.
fn first_line(log: &Path) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines().find(|line| line.starts_with('{')).and_then(|line| serde_json::from_str(line).ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_starts_serves_and_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let log: PathBuf = folder.path().join("log");
    let port = crate::server::free_port();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_lockstep"))
        .args(["demo", "--mysql", "--json", "--port", &port.to_string()])
        .stdout(std::fs::File::create(&log).unwrap())
        .stderr(std::fs::File::create(log.with_extension("err")).unwrap())
        .spawn()
        .unwrap();
    let mut told = None;
    for _ in 0..600 {
        told = first_line(&log);
        if told.is_some() || demo.try_wait().unwrap().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told = told.expect("the demo's line");
    let url = told["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&format!("mysql://{USER}:")), "{url}");
    let mut conn = Conn::new(Opts::from_url(&url).unwrap()).await.unwrap();
    run(&mut conn, "insert into visits(who) values('me')").await;
    let backends = told["backends"].as_array().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for backend in backends {
        let url = backend["url"].as_str().unwrap();
        let mut direct = Conn::new(Opts::from_url(url).unwrap()).await.unwrap();
        seen.insert(value(&mut direct, "select concat(id, who, at, dice) from visits").await);
    }
    let said = std::fs::read_to_string(log.with_extension("err")).unwrap();
    assert_eq!((backends.len(), seen.len()), (3, 1), "{seen:?}\n{said}");
    for key in ["console", "http", "config"] {
        assert!(told[key].is_string(), "no {key} in {told}");
    }
    let interrupt = Command::new("kill").args(["-INT", &demo.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    assert!(demo.wait().unwrap().success());
    for backend in backends {
        let process = format!("/proc/{}", backend["pid"]);
        assert!(!Path::new(&process).exists(), "a server outlives the demo");
    }
    assert!(!Path::new(told["config"].as_str().unwrap()).exists(), "the folder is left behind");
}
