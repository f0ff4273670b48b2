//! Servers with the proxy in front of them, as an operator would run it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use crate::server::{DATABASE, PASSWORD, Server, USER, free_port};

pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) port: u16,
    http: u16,
    folder: tempfile::TempDir,
    proxy: Mutex<Option<Child>>,
}

impl Cluster {
    /// So many servers, initialised, and the proxy, serving.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, "").await
    }

    /// The same, with more sections in its configuration.
    pub(crate) async fn start_with(count: usize, more: &str) -> Self {
        Self::start_on(count, &[], more).await
    }

    /// The same on servers that are started with options of their own.
    pub(crate) async fn start_on(
        count: usize,
        options: &'static [&'static str],
        more: &str,
    ) -> Self {
        let servers: Vec<Server> = (0..count).map(|_| Server::launch_with(options)).collect();
        let folder = tempfile::tempdir().unwrap();
        let cluster =
            Self { servers, port: free_port(), http: free_port(), folder, proxy: Mutex::new(None) };
        std::fs::write(cluster.config(), format!("{}{more}", cluster.settings())).unwrap();
        cluster.command("init");
        cluster.start_proxy();
        cluster.wait_active(count).await;
        cluster
    }

    fn settings(&self) -> String {
        let backends: Vec<String> = (1..)
            .zip(&self.servers)
            .map(|(n, server)| {
                format!(
                    "[[backend]]\nname = \"db{n}\"\nurl = \"mysql://127.0.0.1:{}\"\n",
                    server.port
                )
            })
            .collect();
        format!(
            "database = \"{DATABASE}\"\nlisten = \"127.0.0.1:{}\"\n\
             admin = {{ user = \"admin\", password = \"admin\" }}\n\
             user = [{{ name = \"{USER}\", password = \"{PASSWORD}\" }}, \
             {{ name = \"guest\", password = \"welcome\" }}]\n\
             [cluster]\nstate_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:{}\"\n{}",
            self.port,
            self.folder.path().join("state").display(),
            self.http,
            backends.concat()
        )
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("lockstep.toml")
    }

    /// Runs a subcommand to its end.
    pub(crate) fn command(&self, name: &str) -> String {
        let ran = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args([name, "--config"])
            .arg(self.config())
            .output()
            .unwrap();
        let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(ran.status.success(), "{name}: {}", said.concat());
        said.concat()
    }

    pub(crate) fn start_proxy(&self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let proxy = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args(["proxy", "--config"])
            .arg(self.config())
            .env("RUST_BACKTRACE", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.proxy.lock().unwrap() = Some(proxy);
    }

    pub(crate) fn kill_proxy(&self) {
        if let Some(mut proxy) = self.proxy.lock().unwrap().take() {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn status(&self) -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split("\r\n\r\n").nth(1)?).ok()
    }

    fn active(&self) -> Vec<String> {
        let Some(status) = self.status().filter(|s| s["serving"] == true) else {
            return Vec::new();
        };
        let backends = status["backends"].as_array().cloned().unwrap_or_default();
        let active = backends.iter().filter(|b| b["state"] == "active");
        active.map(|b| b["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The place of the server that leads.
    pub(crate) fn leader(&self) -> usize {
        let status = self.status().expect("a status");
        let backends = status["backends"].as_array().cloned().unwrap_or_default();
        backends.iter().position(|b| b["leader"] == true).expect("a leader")
    }

    /// Waits until another server leads.
    pub(crate) async fn wait_leader_other_than(&self, former: usize) {
        for _ in 0..300 {
            if self.leader() != former {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nobody else leads; the log:\n{}", self.log());
    }

    /// Waits until so many servers are active.
    pub(crate) async fn wait_active(&self, count: usize) {
        for _ in 0..600 {
            if self.active().len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{:?} are active, not {count}; the log:\n{}", self.active(), self.log());
    }

    /// A client of the proxy.
    pub(crate) async fn connect(&self) -> Conn {
        match self.try_connect().await {
            Ok(conn) => conn,
            Err(error) => panic!("{error}; the log:\n{}", self.log()),
        }
    }

    /// The same while the proxy may be away.
    pub(crate) async fn try_connect(&self) -> mysql_async::Result<Conn> {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some(USER))
            .pass(Some(PASSWORD))
            .db_name(Some(DATABASE))
            .prefer_socket(false);
        Conn::new(opts).await
    }

    /// Every server holds the same: schema and rows.
    pub(crate) async fn assert_all_equal(&self) {
        // A commit is acknowledged when all have it; what was cut off may take a moment to end.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let contents: Vec<String> = self.servers.iter().map(Server::contents).collect();
        for (n, other) in contents.iter().enumerate().skip(1) {
            if other != &contents[0] {
                let differs = contents[0].lines().zip(other.lines()).find(|(a, b)| a != b);
                panic!("server {n} differs from server 0: {differs:?}\n{}", self.log());
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_proxy();
        if std::thread::panicking() {
            eprintln!("the proxy's log:\n{}", self.log());
        }
    }
}

/// Runs a statement whose success is expected.
pub(crate) async fn run(conn: &mut Conn, sql: &str) {
    if let Err(error) = conn.query_drop(sql).await {
        panic!("{sql}: {error}");
    }
}

/// The one value of a query.
pub(crate) async fn value(conn: &mut Conn, sql: &str) -> String {
    let row: Option<mysql_async::Row> =
        conn.query_first(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let value = row.and_then(|row| row.get::<Option<Vec<u8>>, _>(0)).flatten();
    value.map_or("NULL".into(), |v| String::from_utf8_lossy(&v).into_owned())
}

/// The number of the error that a statement is answered with.
pub(crate) async fn refused(conn: &mut Conn, sql: &str) -> u16 {
    match conn.query_drop(sql).await {
        Err(mysql_async::Error::Server(error)) => error.code,
        other => panic!("{sql}: an error was expected, not {other:?}"),
    }
}
