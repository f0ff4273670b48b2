//! Two proxies before three MariaDB servers: one writes, the other connects clients through to it and takes over when it
//! dies, hangs or is cut off. Nothing acknowledged is lost, and never do two write.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::time::{sleep, timeout};

use crate::cluster::{refused, run, value};
use crate::net::relay::{Net, Relay};
use crate::net::step;
use crate::server::{DATABASE, PASSWORD, Server, USER, free_port};

/// One of the proxies, with a network of its own to every server.
pub(crate) struct Peer {
    name: String,
    pub(crate) port: u16,
    http: u16,
    folder: PathBuf,
    relays: Vec<Relay>,
    process: Mutex<Option<Child>>,
}

impl Peer {
    fn prepare(name: &str, servers: &[Server], folder: &std::path::Path, more: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let relays: Vec<Relay> = servers
            .iter()
            .map(|server| Relay::to(&format!("a server from {name}"), server.port))
            .collect();
        let backend = |(n, relay): (usize, &Relay)| {
            format!("[[backend]]\nname = \"db{n}\"\nurl = \"mysql://127.0.0.1:{}\"\n", relay.port)
        };
        let backends: Vec<String> = relays.iter().enumerate().map(backend).collect();
        let (port, http) = (free_port(), free_port());
        let text = format!(
            "database = \"{DATABASE}\"\nlisten = \"127.0.0.1:{port}\"\n\
             admin = {{ user = \"admin\", password = \"admin\" }}\n\
             user = [{{ name = \"{USER}\", password = \"{PASSWORD}\" }}]\n\
             [cluster]\nstate_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n\
             [timeouts]\ndead_after = \"3s\"\nprobe_interval = \"300ms\"\nprobe_timeout = \"2s\"\n\
             follower_lock = \"2s\"\nshutdown_grace = \"6s\"\n\
             [proxy]\nname = \"{name}\"\nadvertise = \"127.0.0.1:{port}\"\n{more}\n{}",
            folder.join("state").display(),
            backends.concat()
        );
        std::fs::write(folder.join("lockstep.toml"), text).unwrap();
        Self { name: name.to_owned(), port, http, folder, relays, process: Mutex::new(None) }
    }

    fn lockstep(&self, what: &str) -> Command {
        let mut lockstep = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        lockstep.args([what, "--config"]).arg(self.folder.join("lockstep.toml"));
        lockstep
    }

    fn start(&self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let proxy = self.lockstep("proxy").stdout(Stdio::null()).stderr(log).spawn().unwrap();
        *self.process.lock().unwrap() = Some(proxy);
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(crate) fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn signal(&self, name: &str) {
        step(format!("{name} to {}", self.name));
        let pid = self.process.lock().unwrap().as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// What the page for those who watch says.
    fn ready(&self) -> Option<(bool, String)> {
        let answer = self.page("/readyz")?;
        Some((answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"), answer))
    }

    /// The metrics of this name.
    pub(crate) fn figures(&self, metric: &str) -> Vec<f64> {
        let page = self.page("/metrics").expect("the metrics");
        let values = page.lines().filter(|line| line.starts_with(metric));
        values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
    }

    fn page(&self, path: &str) -> Option<String> {
        let address = ([127, 0, 0, 1], self.http).into();
        let mut stream =
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    async fn wait(&self, what: &str, is: impl Fn(bool, &str) -> bool) {
        let mut last = String::new();
        for _ in 0..400 {
            if let Some((ready, said)) = self.ready() {
                if is(ready, &said) {
                    return;
                }
                last = said;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        panic!("{} does not {what}; it says {last}; its log:\n{log}", self.name);
    }

    pub(crate) async fn wait_writing(&self) {
        self.wait("write", |ready, _| ready).await;
    }

    async fn wait_standing_by(&self) {
        self.wait("stand by", |ready, said| !ready && said.contains("writes")).await;
    }

    pub(crate) async fn connect_as(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> mysql_async::Result<Conn> {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some(user))
            .pass(Some(password))
            .db_name(Some(database))
            .prefer_socket(false);
        Conn::new(opts).await
    }

    pub(crate) async fn connect(&self) -> Conn {
        self.connect_as(USER, PASSWORD, DATABASE).await.expect("a connection")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            eprintln!("---- {}\n{log}", self.name);
        }
    }
}

pub(crate) struct Proxies {
    pub(crate) peers: Vec<Peer>,
    pub(crate) servers: Vec<Server>,
    _folder: tempfile::TempDir,
}

impl Proxies {
    pub(crate) async fn start() -> Self {
        Self::start_with("on_standby = \"forward\"").await
    }

    /// With these lines of the section `[proxy]`, and more sections behind it.
    pub(crate) async fn start_with(more: &str) -> Self {
        let servers: Vec<Server> = (0..3).map(|_| Server::launch()).collect();
        let folder = tempfile::tempdir().unwrap();
        let peers: Vec<Peer> =
            ["p1", "p2"].map(|name| Peer::prepare(name, &servers, folder.path(), more)).into();
        let init = peers[0].lockstep("init").output().unwrap();
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        peers[0].start();
        peers[0].wait_writing().await;
        peers[1].start();
        peers[1].wait_standing_by().await;
        Self { peers, servers, _folder: folder }
    }

    /// The one that writes, and the other one.
    pub(crate) fn roles(&self) -> (&Peer, &Peer) {
        let writes = |peer: &&Peer| peer.ready().is_some_and(|(ready, _)| ready);
        let writer = self.peers.iter().position(|peer| writes(&peer)).expect("one that writes");
        (&self.peers[writer], &self.peers[1 - writer])
    }

    pub(crate) async fn assert_all_equal(&self) {
        for attempt in 0.. {
            let contents: Vec<String> = self.servers.iter().map(Server::contents).collect();
            if contents.iter().all(|other| *other == contents[0]) {
                return;
            }
            assert!(attempt < 100, "the servers differ");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Clients that know both proxies, and keep book of what they were promised.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<i64>>>,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(all: &Proxies) -> Self {
        run(&mut all.peers[1].connect().await, "create table promise(id bigint primary key)").await;
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let next = Arc::new(AtomicUsize::new(0));
        let ports: Vec<u16> = all.peers.iter().map(|peer| peer.port).collect();
        let workers = (1..=4)
            .map(|client: i64| {
                let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
                let (acknowledged, ports) = (Arc::clone(&acknowledged), ports.clone());
                tokio::spawn(write(client, ports, stop, next, acknowledged))
            })
            .collect();
        Self { stop, acknowledged, workers }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    async fn go_on(&self, more: usize) {
        let before = self.count();
        for _ in 0..600 {
            if self.count() >= before + more {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {more} more writes within 30 s", self.count() - before);
    }

    /// Ends it: what was promised is on every server.
    async fn finish(self, all: &Proxies) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        all.assert_all_equal().await;
        let mut promised = self.acknowledged.lock().unwrap().clone();
        promised.sort_unstable();
        for server in &all.servers {
            let there = server.root(&format!("select id from {DATABASE}.promise"));
            let there: std::collections::BTreeSet<i64> =
                there.lines().filter_map(|id| id.parse().ok()).collect();
            let lost: Vec<&i64> = promised.iter().filter(|id| !there.contains(id)).collect();
            assert!(lost.is_empty(), "acknowledged, and not there: {lost:?}");
        }
    }
}

async fn write(
    client: i64,
    ports: Vec<u16>,
    stop: Arc<AtomicBool>,
    next: Arc<AtomicUsize>,
    acknowledged: Arc<Mutex<Vec<i64>>>,
) {
    let mut id = client * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        let port = ports[next.fetch_add(1, Ordering::Relaxed) % ports.len()];
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(port)
            .user(Some(USER))
            .pass(Some(PASSWORD))
            .db_name(Some(DATABASE))
            .prefer_socket(false);
        let Ok(Ok(mut conn)) = timeout(Duration::from_secs(2), Conn::new(opts)).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            id += 1;
            let insert = conn.query_drop(format!("insert into promise values ({id})"));
            match timeout(Duration::from_secs(4), insert).await {
                Ok(Ok(())) => acknowledged.lock().unwrap().push(id),
                _ => break,
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_connects_clients_through() {
    let all = Proxies::start().await;
    let (writer, standby) = all.roles();
    let mut far = standby.connect().await;
    run(&mut far, "create table through(id int primary key, t varchar(20))").await;
    far.exec_drop("insert into through values (?, ?)", (1, "prepared")).await.unwrap();
    let mut near = writer.connect().await;
    assert_eq!(value(&mut near, "select t from through").await, "prepared");
    // It is known by the number that it was greeted with, here and there.
    let number = far.id();
    assert_eq!(value(&mut far, "select connection_id()").await, number.to_string());
    let sleeping = tokio::spawn(async move { far.query_drop("select sleep(20)").await });
    sleep(Duration::from_millis(500)).await;
    let mut killer = standby.connect().await;
    run(&mut killer, &format!("kill query {number}")).await;
    let ended = timeout(Duration::from_secs(5), sleeping).await.expect("the statement ends");
    assert!(ended.unwrap().is_err() || value(&mut near, "select 1").await == "1");
    // A wrong password is wrong here already, and the console is each proxy's own.
    assert!(standby.connect_as(USER, "wrong", DATABASE).await.is_err());
    let mut console = standby.connect_as("admin", "admin", "lockstep").await.expect("a console");
    let row: mysql_async::Row = console.query_first("SHOW VIEW").await.unwrap().unwrap();
    assert_eq!(row.get::<String, _>(1).as_deref(), Some("standby"));
    // Whoever is connected through ends with the writer, and finds the next one behind the same address.
    writer.signal("KILL");
    assert!(
        timeout(Duration::from_secs(10), killer.query_drop("select 1")).await.unwrap().is_err()
    );
    standby.wait_writing().await;
    run(&mut standby.connect().await, "insert into through values (2, 'later')").await;
    all.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_for_reads_lets_nobody_write() {
    let all = Proxies::start_with("on_standby = \"read-only\"").await;
    let (writer, standby) = all.roles();
    let mut near = writer.connect().await;
    run(&mut near, "create table through(id int primary key)").await;
    let mut far = standby.connect().await;
    for id in 1..=20 {
        run(&mut near, &format!("insert into through values ({id})")).await;
        assert_eq!(value(&mut far, "select count(*) from through").await, id.to_string());
    }
    assert_eq!(refused(&mut far, "insert into through values (0)").await, 1290);
    assert_eq!(refused(&mut far, "truncate table through").await, 1290);
    all.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_dies_hangs_or_is_cut_off_and_nothing_acknowledged_is_lost() {
    let all = Proxies::start().await;
    let load = Load::start(&all).await;
    load.go_on(100).await;

    let (writer, other) = all.roles();
    writer.kill();
    other.wait_writing().await;
    load.go_on(100).await;
    writer.start();
    writer.wait_standing_by().await;

    // It wakes in the middle of a transaction, and can commit nothing.
    let (writer, other) = all.roles();
    let mut late = writer.connect().await;
    run(&mut late, "begin").await;
    run(&mut late, "insert into promise values (1)").await;
    writer.signal("STOP");
    other.wait_writing().await;
    load.go_on(100).await;
    writer.signal("CONT");
    assert!(late.query_drop("commit").await.is_err(), "a commit at a proxy that writes no more");
    writer.wait_standing_by().await;
    load.go_on(50).await;

    let (writer, other) = all.roles();
    writer.relays.iter().for_each(|relay| relay.set(Net::Silent));
    other.wait_writing().await;
    load.go_on(100).await;
    writer.relays.iter().for_each(|relay| relay.set(Net::Works));
    writer.wait_standing_by().await;
    load.go_on(50).await;
    let (writer, _) = all.roles();
    assert_eq!(
        value(&mut writer.connect().await, "select count(*) from promise where id = 1").await,
        "0"
    );
    load.finish(&all).await;
}
