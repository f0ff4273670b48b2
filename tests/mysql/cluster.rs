//! Servers with the proxy in front of them, as an operator would run it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use crate::net::relay::Relay;
use crate::server::{DATABASE, PASSWORD, Server, USER, free_port};

pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    /// Networks to them, where the test wants some.
    pub(crate) relays: Vec<Relay>,
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

    /// The same, with more in its configuration: keys of `[cluster]`, then other sections.
    pub(crate) async fn start_with(count: usize, more: &str) -> Self {
        Self::start_on(count, &[], more).await
    }

    /// The same on servers that are started with options of their own.
    pub(crate) async fn start_on(
        count: usize,
        options: &'static [&'static str],
        more: &str,
    ) -> Self {
        Self::begin(count, options, more, false).await
    }

    /// The same with a network of the proxy's own to each server.
    pub(crate) async fn start_relayed(count: usize, more: &str) -> Self {
        Self::begin(count, &[], more, true).await
    }

    async fn begin(
        count: usize,
        options: &'static [&'static str],
        more: &str,
        relayed: bool,
    ) -> Self {
        let servers: Vec<Server> = (0..count).map(|_| Server::launch_with(options)).collect();
        let relays = servers.iter().filter(|_| relayed);
        let relays = relays.map(|server| Relay::to("a server", server.port)).collect();
        let folder = tempfile::tempdir().unwrap();
        let (port, http, proxy) = (free_port(), free_port(), Mutex::new(None));
        let cluster = Self { servers, relays, port, http, folder, proxy };
        std::fs::write(cluster.config(), format!("{}{more}", cluster.settings())).unwrap();
        cluster.command("init");
        cluster.start_proxy();
        cluster.wait_active(count).await;
        cluster
    }

    fn settings(&self) -> String {
        let backend = |(n, server): (usize, &Server)| {
            let port = self.relays.get(n).map_or(server.port, |relay| relay.port);
            format!("[[backend]]\nname = \"db{}\"\nurl = \"mysql://127.0.0.1:{port}\"\n", n + 1)
        };
        let backends: Vec<String> = self.servers.iter().enumerate().map(backend).collect();
        format!(
            "database = \"{DATABASE}\"\nlisten = \"127.0.0.1:{}\"\n\
             admin = {{ user = \"admin\", password = \"admin\" }}\n\
             user = [{{ name = \"{USER}\", password = \"{PASSWORD}\" }}, \
             {{ name = \"guest\", password = \"welcome\" }}]\n\
             [http]\nlisten = \"127.0.0.1:{}\"\n{}[cluster]\nstate_dir = \"{}\"\n",
            self.port,
            self.http,
            backends.concat(),
            self.folder.path().join("state").display(),
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

    /// SIGTERM, and its end.
    pub(crate) fn stop_proxy(&self) {
        if let Some(mut proxy) = self.proxy.lock().unwrap().take() {
            let sent = Command::new("kill").arg(proxy.id().to_string()).status();
            assert!(sent.unwrap().success());
            assert!(proxy.wait().unwrap().success(), "the proxy ended badly");
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

    /// What the proxy says of each server, in their order; nothing while it does not serve.
    pub(crate) fn backends(&self) -> Vec<serde_json::Value> {
        let status = self.status().filter(|s| s["serving"] == true);
        status.and_then(|s| s["backends"].as_array().cloned()).unwrap_or_default()
    }

    fn active(&self) -> Vec<String> {
        let backends = self.backends();
        let active = backends.iter().filter(|b| b["state"] == "active");
        active.map(|b| b["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The place of a server that follows.
    pub(crate) fn follower(&self) -> usize {
        self.place(|b| b["leader"] != true && b["state"] == "active")
    }

    /// Waits until this server takes part no more; why not.
    pub(crate) async fn wait_inactive(&self, server: usize) -> String {
        for _ in 0..300 {
            if let Some(backend) = self.backends().get(server).filter(|b| b["state"] != "active") {
                return backend["reason"].as_str().unwrap_or_default().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("server {server} stays; the log:\n{}", self.log());
    }

    /// The place of the server that leads.
    pub(crate) fn leader(&self) -> usize {
        self.place(|b| b["leader"] == true)
    }

    /// The first server of this kind, once there is one.
    fn place(&self, is: impl Fn(&serde_json::Value) -> bool) -> usize {
        for _ in 0..100 {
            if let Some(place) = self.backends().iter().position(&is) {
                return place;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("there is none; the log:\n{}", self.log());
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

    /// Waits until this server takes part.
    pub(crate) async fn wait_member(&self, server: usize) {
        for _ in 0..600 {
            if self.backends().get(server).is_some_and(|b| b["state"] == "active") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (seen, own) = (self.backends(), self.servers[server].log());
        panic!("server {server} takes no part: {seen:?}; its log:\n{own}\nours:\n{}", self.log());
    }

    /// Waits until anybody is served.
    pub(crate) async fn wait_serving(&self) {
        for _ in 0..300 {
            if !self.backends().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nobody is served; the log:\n{}", self.log());
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

    /// The administrator, straight on one of the servers.
    pub(crate) async fn administrator(&self, server: usize) -> Conn {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.servers[server].port)
            .user(Some("admin"))
            .pass(Some("admin"))
            .prefer_socket(false);
        Conn::new(opts).await.unwrap()
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
        let all: Vec<usize> = (0..self.servers.len()).collect();
        self.assert_equal(&all).await;
    }

    /// The same for those that take part.
    pub(crate) async fn assert_active_equal(&self) {
        let backends = self.backends();
        let active: Vec<usize> =
            (0..backends.len()).filter(|n| backends[*n]["state"] == "active").collect();
        assert!(!active.is_empty(), "nobody is active; the log:\n{}", self.log());
        self.assert_equal(&active).await;
    }

    /// What runs on each server and what it waits for, and what the proxy has said: for a test that hangs.
    pub(crate) fn who_waits(&self) -> String {
        let ask = "select p.id, p.time, p.state, p.info, t.trx_state, t.trx_rows_locked, t.trx_rows_modified
                   from information_schema.processlist p left join information_schema.innodb_trx t
                   on t.trx_mysql_thread_id = p.id where p.user = 'app'
                   union all select requesting_trx_id, 0, blocking_trx_id, requested_lock_id, 'wait', 0, 0
                   from information_schema.innodb_lock_waits";
        let each = self.servers.iter().enumerate().map(|(n, server)| {
            let said = server.try_root(ask).unwrap_or_else(|why| why);
            format!("server {n}:\n{said}\n")
        });
        format!("{}the proxy's log:\n{}", each.collect::<String>(), self.log())
    }

    async fn assert_equal(&self, servers: &[usize]) {
        // A commit is acknowledged when all have it; what was cut off may take a moment to end.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let contents: Vec<String> = servers.iter().map(|n| self.servers[*n].contents()).collect();
        for (n, other) in servers.iter().zip(&contents).skip(1) {
            if other != &contents[0] {
                let differs = contents[0].lines().zip(other.lines()).find(|(a, b)| a != b);
                panic!("server {n} differs from {}: {differs:?}\n{}", servers[0], self.log());
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

/// The number of a refusal of ours.
const REFUSED: u16 = 1235;

/// Runs statements whose success is expected.
pub(crate) async fn all(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        run(conn, sql).await;
    }
}

/// Each is refused by the proxy itself.
pub(crate) async fn all_refused(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        assert_eq!(refused(conn, sql).await, REFUSED, "{sql}");
    }
}

/// All servers hold the same, and none of them was ever put out.
pub(crate) async fn agree(cluster: &Cluster) {
    cluster.assert_all_equal().await;
    assert!(!cluster.log().contains("to=\"inactive\""), "{}", cluster.log());
}
