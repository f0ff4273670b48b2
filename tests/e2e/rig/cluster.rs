//! Three servers, the proxy in front of them, and what a test asks of both.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::Error;

use super::config::{self, BackendEntry, Entries};
use super::liar::Liar;
use super::process::{As, Process, command, output, tail};
use super::relay::Relay;
use super::server::{ADMIN, ADMIN_PASSWORD, DATABASE, Server};
use super::session::Session;
use super::wire::Wire;
use super::{eventually, folder, free_port, secs, step, unique};

/// The names of backends, in the order of the configuration.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Whether a bare server stands in the proxy's place, to check the tests themselves.
pub(crate) fn direct() -> bool {
    std::env::var_os("LOCKSTEP_E2E_DIRECT").is_some()
}

/// What a test wants otherwise than the usual.
#[derive(Default)]
pub(crate) struct Options {
    servers: usize,
    relays: bool,
    liars: bool,
    fsync: bool,
    bare: bool,
    changes: Vec<(String, String)>,
}

impl Options {
    pub(crate) fn servers(servers: usize) -> Self {
        if direct() {
            return Self::bare();
        }
        Self { servers, ..Self::default() }
    }

    /// One server, and no proxy before it.
    pub(crate) fn bare() -> Self {
        Self { servers: 1, bare: true, ..Self::default() }
    }

    /// A relay before each server, so that its network can fail.
    pub(crate) fn relays(mut self) -> Self {
        self.relays = true;
        self
    }

    /// Before each server one that can break the protocol.
    pub(crate) fn liars(mut self) -> Self {
        self.liars = true;
        self
    }

    /// Servers that flush to disk before they say yes.
    pub(crate) fn fsync(mut self) -> Self {
        self.fsync = true;
        self
    }

    /// One key of the configuration: `set("timeouts.hold", "\"2s\"")`.
    pub(crate) fn set(mut self, path: &str, value: &str) -> Self {
        self.changes.push((path.into(), value.into()));
        self
    }

    /// Servers and configuration, with nothing initialised and no proxy running.
    pub(crate) fn prepare(self) -> Arc<Cluster> {
        Cluster::prepare(self)
    }

    /// Everything running and ready.
    pub(crate) async fn start(self) -> Arc<Cluster> {
        let cluster = Cluster::prepare(self);
        if !cluster.bare {
            cluster.init();
            cluster.proxy_start().await;
        }
        cluster
    }
}

pub(crate) struct Cluster {
    pub(crate) folder: PathBuf,
    pub(crate) servers: Vec<Server>,
    pub(crate) relays: Vec<Relay>,
    liars: Vec<Liar>,
    pub(crate) port: u16,
    pub(crate) http_port: u16,
    pub(crate) config: PathBuf,
    /// The first server itself stands in the proxy's place.
    pub(crate) bare: bool,
    proxy: Mutex<Option<Process>>,
    changes: Mutex<Vec<(String, String)>>,
}

impl Cluster {
    /// A cluster of the test's own, with nothing unusual.
    pub(crate) async fn start(servers: usize) -> Arc<Self> {
        Options::servers(servers).start().await
    }

    /// The cluster that all tests share which kill nothing. One that lost a backend is replaced, so
    /// that one test's failure is not the next one's.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: OnceLock<tokio::sync::Mutex<Option<Arc<Cluster>>>> = OnceLock::new();
        let mut place = SHARED.get_or_init(tokio::sync::Mutex::default).lock().await;
        if let Some(cluster) = place.as_ref() {
            if cluster.is_whole().await {
                remember(cluster);
                return Arc::clone(cluster);
            }
            step("the shared cluster lost a backend: a new one takes its place");
        }
        let cluster = Self::start(3).await;
        *place = Some(Arc::clone(&cluster));
        cluster
    }

    /// A bare server beside the clusters, to compare answers with: what PostgreSQL itself says.
    pub(crate) async fn reference() -> &'static Server {
        static REFERENCE: OnceLock<Server> = OnceLock::new();
        REFERENCE.get_or_init(|| Server::launch("reference", 5))
    }

    fn prepare(options: Options) -> Arc<Self> {
        let number = unique();
        step(format!("cluster {number}: {} servers", options.servers));
        let home = folder().join(format!("cluster-{number}"));
        std::fs::create_dir_all(&home).expect("the cluster's folder");
        let servers: Vec<Server> = std::thread::scope(|scope| {
            let start = |slot: usize| {
                let server = Server::prepare(NAMES[slot], slot, options.fsync);
                server.start();
                server
            };
            let work: Vec<_> =
                (0..options.servers).map(|i| scope.spawn(move || start(i))).collect();
            work.into_iter().map(|w| w.join().expect("a server starts")).collect()
        });
        let relays = servers.iter().filter(|_| options.relays);
        let relays: Vec<Relay> = relays.map(|s| Relay::to(&s.name, s.port)).collect();
        let liars = servers.iter().filter(|_| options.liars);
        let liars: Vec<Liar> = liars.map(|s| Liar::before(&s.name, s.port)).collect();
        let port = if options.bare { servers[0].port } else { free_port() };
        let cluster = Arc::new(Self {
            config: home.join("lockstep.toml"),
            folder: home,
            servers,
            relays,
            liars,
            port,
            http_port: free_port(),
            bare: options.bare,
            proxy: Mutex::new(None),
            changes: Mutex::new(options.changes),
        });
        cluster.write_config();
        remember(&cluster);
        cluster
    }

    fn write_config(&self) {
        let backends = self.servers.iter().enumerate().map(|(i, server)| BackendEntry {
            name: server.name.clone(),
            port: (self.relays.get(i).map(|relay| relay.port))
                .or(self.liars.get(i).map(|liar| liar.port))
                .unwrap_or(server.port),
        });
        let backends: Vec<BackendEntry> = backends.collect();
        let changes = self.changes.lock().unwrap();
        let text = config::text(&Entries {
            port: self.port,
            http_port: self.http_port,
            state_dir: &self.folder.join("state"),
            backends: &backends,
            changes: &changes,
        });
        std::fs::write(&self.config, text).expect("the configuration");
    }

    /// Changes one key of the configuration file; the proxy is not told.
    pub(crate) fn configure(&self, path: &str, value: &str) {
        self.changes.lock().unwrap().push((path.into(), value.into()));
        self.write_config();
    }

    // The proxy's process.

    /// Runs `lockstep WORDS --config FILE` to its end.
    pub(crate) fn lockstep(&self, words: &[&str]) -> Output {
        let mut lockstep = command(As::Myself, env!("CARGO_BIN_EXE_lockstep"));
        lockstep.args(words).arg("--config").arg(&self.config);
        output(&format!("lockstep {}", words.join(" ")), lockstep, secs(60))
    }

    /// `lockstep init`, which must succeed.
    pub(crate) fn init(&self) {
        step("lockstep init");
        let output = self.lockstep(&["init"]);
        assert!(output.status.success(), "lockstep init failed: {}", spoken(&output));
    }

    /// Starts the proxy, without waiting for it.
    pub(crate) fn proxy_spawn(&self) {
        let mut place = self.proxy.lock().unwrap();
        assert!(place.as_ref().is_none_or(|p| p.exited().is_some()), "the proxy runs already");
        let mut lockstep = command(As::Myself, env!("CARGO_BIN_EXE_lockstep"));
        lockstep.arg("proxy").arg("--config").arg(&self.config).env("RUST_BACKTRACE", "1");
        *place = Some(Process::start("lockstep proxy", lockstep, &self.proxy_log()));
    }

    /// Starts the proxy and waits until it serves.
    pub(crate) async fn proxy_start(&self) {
        step("start the proxy");
        self.proxy_spawn();
        self.wait_ready(secs(30)).await;
    }

    /// Until /readyz says yes.
    pub(crate) async fn wait_ready(&self, limit: Duration) {
        eventually("the proxy to be ready", limit, || async {
            if let Some(status) = self.proxy_exited() {
                panic!("the proxy ended by itself: {status}\n{}", tail(&self.proxy_log(), 40));
            }
            match self.http("/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("/readyz: {other:?}")),
            }
        })
        .await;
    }

    pub(crate) fn proxy_exited(&self) -> Option<std::process::ExitStatus> {
        self.proxy.lock().unwrap().as_ref().and_then(Process::exited)
    }

    /// Whether this cluster's own proxy was started, and runs.
    pub(crate) fn proxy_runs(&self) -> bool {
        self.proxy.lock().unwrap().as_ref().is_some_and(|proxy| proxy.exited().is_none())
    }

    pub(crate) fn with_proxy<T>(&self, act: impl FnOnce(&Process) -> T) -> T {
        act(self.proxy.lock().unwrap().as_ref().expect("a proxy was started"))
    }

    pub(crate) fn proxy_kill9(&self) {
        step("kill -9 the proxy");
        self.with_proxy(Process::kill9);
    }

    /// SIGTERM, and the end of the process.
    pub(crate) fn proxy_stop(&self) {
        step("SIGTERM to the proxy");
        self.with_proxy(|p| {
            p.signal("TERM");
            let status = p.wait(secs(20));
            assert!(status.success(), "the proxy ended with {status} after SIGTERM");
        });
    }

    pub(crate) fn proxy_log(&self) -> PathBuf {
        self.folder.join("proxy.log")
    }

    // Connections.

    pub(crate) async fn connect(&self) -> Session {
        self.connect_as("app").await
    }

    /// A user whose password is the name.
    pub(crate) async fn connect_as(&self, user: &str) -> Session {
        let open = self.try_connect(user, user, DATABASE).await;
        open.unwrap_or_else(|e| panic!("{user} cannot connect: {e:?}"))
    }

    pub(crate) async fn try_connect(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Session, Error> {
        Session::open(self.port, user, password, database).await
    }

    pub(crate) async fn wire(&self) -> Wire {
        Wire::open(self.port, "app", "app", DATABASE).await
    }

    /// The superuser straight on each of the servers, past the proxy.
    pub(crate) async fn admins(&self) -> Vec<Session> {
        let mut all = Vec::new();
        for server in &self.servers {
            all.push(server.admin().await);
        }
        all
    }

    /// Kills the leader; which one that was.
    pub(crate) async fn kill_leader(&self) -> String {
        let lost = self.leader().await;
        self.server(&lost).kill9();
        lost
    }

    /// Kills the leader, and waits until it is known.
    pub(crate) async fn lose_leader(&self) {
        let lost = self.kill_leader().await;
        self.wait_inactive(&lost).await;
    }

    /// The superuser through the proxy is no application: this goes to the first server only and is
    /// for reading.
    pub(crate) async fn first_server(&self) -> Session {
        self.servers[0].connect_to(ADMIN, ADMIN_PASSWORD, DATABASE).await
    }

    pub(crate) fn server(&self, name: &str) -> &Server {
        self.servers.iter().find(|s| s.name == name).expect("a server of that name")
    }

    pub(crate) fn relay(&self, name: &str) -> &Relay {
        let place =
            self.servers.iter().position(|s| s.name == name).expect("a server of that name");
        &self.relays[place]
    }

    pub(crate) fn liar(&self, name: &str) -> &Liar {
        let place =
            self.servers.iter().position(|s| s.name == name).expect("a server of that name");
        &self.liars[place]
    }

    /// A connection string as libpq's programs and drivers read it.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://app:app@127.0.0.1:{}/{DATABASE}", self.port)
    }

    // HTTP.

    /// A GET on the proxy's HTTP port: status and body.
    pub(crate) async fn http(&self, path: &str) -> std::io::Result<(u16, String)> {
        http(self.http_port, path).await
    }
}

/// A GET on a port of this machine: status and body.
pub(crate) async fn http(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}

/// What a program said on both its outputs.
pub(crate) fn spoken(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

thread_local! {
    /// The clusters that the test on this thread has used, for their logs when it fails.
    static USED: RefCell<Vec<Weak<Cluster>>> = const { RefCell::new(Vec::new()) };
}

fn remember(cluster: &Arc<Cluster>) {
    USED.with_borrow_mut(|used| used.push(Arc::downgrade(cluster)));
}

/// Prints the ends of the logs of a shared cluster; a test's own prints them when it is dropped.
pub(crate) fn show_logs_of_this_test() {
    for cluster in USED.take().iter().filter_map(Weak::upgrade) {
        cluster.show_logs();
    }
}

impl Cluster {
    fn show_logs(&self) {
        let show = |name: &str, path: &Path, lines| {
            eprintln!("---- {name} ({}), its last lines:\n{}", path.display(), tail(path, lines));
        };
        show("proxy", &self.proxy_log(), 60);
        for server in &self.servers {
            show(&server.name, &server.log, 25);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // The proxy first: it shall not see its backends go.
        *self.proxy.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }
}
