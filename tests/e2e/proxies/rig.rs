//! Several proxies in front of the same servers, each with a network of its own to every server, and a load that
//! goes to whichever of them takes it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::config::{LoadBalanceHosts, TargetSessionAttrs};

use crate::rig::cluster::{Cluster, Options};
use crate::rig::config::{self, BackendEntry, Entries};
use crate::rig::process::{As, Process, command, tail};
use crate::rig::relay::{Net, Relay};
use crate::rig::server::DATABASE;
use crate::rig::session::{Session, code_of, explain};
use crate::rig::{eventually, free_port, runtime, secs, step};

/// One proxy of several.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) http_port: u16,
    folder: PathBuf,
    relays: Vec<Relay>,
    process: Mutex<Option<Process>>,
}

/// The servers, and the proxies in front of them.
pub(crate) struct Proxies {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) peers: Vec<Peer>,
}

impl Proxies {
    /// Prepares everything, with these changes of the proxies' configuration, and starts the proxies one after the
    /// other: the first one writes.
    pub(crate) async fn start(servers: usize, proxies: usize, changes: &[(&str, &str)]) -> Self {
        let all = Self::prepare(servers, proxies, changes);
        for peer in &all.peers {
            peer.spawn();
            if peer.name == "p1" {
                peer.wait_writing(secs(30)).await;
            } else {
                peer.wait_standing_by(secs(30)).await;
            }
        }
        all
    }

    /// The same, with no proxy running yet.
    pub(crate) fn prepare(servers: usize, proxies: usize, changes: &[(&str, &str)]) -> Self {
        let cluster = Options::servers(servers).prepare();
        cluster.init();
        let peers = (1..=proxies).map(|n| Peer::prepare(&cluster, n, changes)).collect();
        Self { cluster, peers }
    }

    pub(crate) fn peer(&self, name: &str) -> &Peer {
        self.peers.iter().find(|peer| peer.name == name).expect("a proxy of that name")
    }

    /// Waits until exactly one of the proxies writes; which one.
    pub(crate) async fn writer(&self, limit: Duration) -> &Peer {
        eventually("one proxy to write", limit, || async {
            let mut writing = Vec::new();
            for peer in &self.peers {
                if peer.is_writing().await {
                    writing.push(peer);
                }
            }
            match writing.as_slice() {
                [one] => Ok(*one),
                _ => Err(format!("{} proxies write", writing.len())),
            }
        })
        .await
    }
}

impl Peer {
    fn prepare(cluster: &Cluster, number: usize, changes: &[(&str, &str)]) -> Self {
        let name = format!("p{number}");
        let folder = cluster.folder.join(&name);
        std::fs::create_dir_all(&folder).expect("the proxy's folder");
        let to = |server: &crate::rig::server::Server| {
            Relay::to(&format!("{} from {name}", server.name), server.port)
        };
        let relays: Vec<Relay> = cluster.servers.iter().map(to).collect();
        let backends = cluster.servers.iter().zip(&relays);
        let backends =
            backends.map(|(s, relay)| BackendEntry { name: s.name.clone(), port: relay.port });
        let backends: Vec<BackendEntry> = backends.collect();
        let (port, http_port) = (free_port(), free_port());
        let mut all = vec![
            ("proxy.name".to_owned(), format!("{name:?}")),
            ("proxy.advertise".to_owned(), format!("\"127.0.0.1:{port}\"")),
        ];
        all.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        // A key that a test sets to nothing is left out.
        all.retain(|(_, value)| !value.is_empty());
        let text = config::text(&Entries {
            port,
            http_port,
            state_dir: &folder.join("state"),
            backends: &backends,
            changes: &all,
        });
        std::fs::write(folder.join("lockstep.toml"), text).expect("the configuration");
        Self { name, port, http_port, folder, relays, process: Mutex::new(None) }
    }

    pub(crate) fn spawn(&self) {
        step(format!("start {}", self.name));
        let mut lockstep = command(As::Myself, env!("CARGO_BIN_EXE_lockstep"));
        lockstep.arg("proxy").arg("--config").arg(self.folder.join("lockstep.toml"));
        let process = Process::start(&self.name, lockstep, &self.log());
        *self.process.lock().unwrap() = Some(process);
    }

    /// Takes a backend out of its configuration, as somebody does who does not know better.
    pub(crate) fn without_backend(&self, name: &str) {
        let file = self.folder.join("lockstep.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let start = text.find(&format!("\n[[backend]]\nname = {name:?}")).expect("a backend");
        let end = text[start + 1..].find("\n[[").map_or(text.len(), |end| start + 1 + end);
        std::fs::write(&file, format!("{}{}", &text[..start], &text[end..])).unwrap();
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("proxy.log")
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&Process) -> T) -> T {
        act(self.process.lock().unwrap().as_ref().expect("the proxy was started"))
    }

    pub(crate) fn kill9(&self) {
        step(format!("kill -9 {}", self.name));
        self.with(Process::kill9);
    }

    pub(crate) fn freeze(&self) {
        step(format!("freeze {}", self.name));
        self.with(|p| p.signal("STOP"));
    }

    pub(crate) fn thaw(&self) {
        step(format!("thaw {}", self.name));
        self.with(|p| p.signal("CONT"));
    }

    /// SIGTERM, and the end of the process.
    pub(crate) fn stop(&self) {
        step(format!("SIGTERM to {}", self.name));
        self.with(|p| {
            p.signal("TERM");
            let status = p.wait(secs(20));
            assert!(status.success(), "{} ended with {status} after SIGTERM", self.name);
        });
    }

    /// What its network to a server does from now on.
    pub(crate) fn net(&self, server: usize, net: Net) {
        self.relays[server].set(net);
    }

    pub(crate) async fn ready(&self) -> Result<(), String> {
        match crate::rig::cluster::http(self.http_port, "/readyz").await {
            Ok((200, _)) => Ok(()),
            Ok((_, why)) => Err(why),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The metrics whose lines begin so.
    pub(crate) async fn figures(&self, metric: &str) -> Vec<f64> {
        let page = crate::rig::cluster::http(self.http_port, "/metrics").await;
        let page = page.expect("the metrics").1;
        let values = page.lines().filter(|line| line.starts_with(metric));
        values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
    }

    pub(crate) async fn is_writing(&self) -> bool {
        tokio::time::timeout(secs(1), self.ready()).await.is_ok_and(|ready| ready.is_ok())
    }

    pub(crate) async fn wait_writing(&self, limit: Duration) {
        let what = format!("{} to write", self.name);
        eventually(&what, limit, || self.ready()).await;
    }

    pub(crate) async fn wait_standing_by(&self, limit: Duration) {
        let what = format!("{} to stand by", self.name);
        eventually(&what, limit, || async {
            match self.ready().await {
                Err(why) if why.contains("writes") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until it says why it does not serve.
    pub(crate) async fn wait_obstacle(&self, words: &str, limit: Duration) {
        let what = format!("{} to say {words:?}", self.name);
        eventually(&what, limit, || async {
            match self.ready().await {
                Err(why) if why.contains(words) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub(crate) async fn connect(&self) -> Session {
        Session::open(self.port, "app", "app", DATABASE).await.expect("a connection")
    }

    /// A console command; the first value of the answer.
    pub(crate) async fn console(&self, text: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        let open = Session::open(self.port, "app", "app", "lockstep").await;
        let console = open.map_err(|e| e.to_string())?;
        let answer = console.simple_query(text).await;
        let answer = answer.map_err(|e| crate::rig::session::explain(&e))?;
        Ok(answer.iter().filter_map(crate::rig::session::text_row).collect())
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for peer in &self.peers {
                eprintln!("---- {}, its last lines:\n{}", peer.name, tail(&peer.log(), 40));
            }
        }
        for peer in &self.peers {
            *peer.process.lock().unwrap_or_else(|e| e.into_inner()) = None;
        }
    }
}

/// Clients that know all proxies, connect again whenever they must, and keep book of what they were promised.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Book>>,
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    /// Why a client was let in nowhere, the last time.
    outside: Arc<Mutex<String>>,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) acknowledged: Vec<i64>,
    /// Errors other than a connection's end between two transactions.
    pub(crate) failures: Vec<String>,
}

impl Writers {
    pub(crate) async fn start(all: &Proxies, clients: i64) -> Self {
        all.peers[0]
            .connect()
            .await
            .run("create table promise(id bigint primary key, by int)")
            .await;
        let mut config = tokio_postgres::Config::new();
        config.user("app").password("app").dbname(DATABASE).connect_timeout(secs(2));
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.load_balance_hosts(LoadBalanceHosts::Random);
        for peer in &all.peers {
            config.host("127.0.0.1").port(peer.port);
        }
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let outside = Arc::default();
        let start = |client: i64| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            runtime().spawn(write(client, config.clone(), stop, acknowledged, Arc::clone(&outside)))
        };
        let workers = (1..=clients).map(start).collect();
        Self { stop, workers, acknowledged, outside }
    }

    /// Waits for so many more acknowledged writes.
    pub(crate) async fn go_on(&self, more: usize, limit: Duration) {
        let before = self.acknowledged.lock().unwrap().len();
        eventually("writes to go on", limit, || async {
            let now = self.acknowledged.lock().unwrap().len();
            if now >= before + more { Ok(()) } else { Err(format!("{} more", now - before)) }
        })
        .await;
    }

    /// The time from a moment to the first write acknowledged after it.
    pub(crate) async fn first_after(&self, moment: Instant, limit: Duration) -> Duration {
        eventually("a write after that", limit, || async {
            let all = self.acknowledged.lock().unwrap();
            all.iter()
                .find(|at| **at > moment)
                .map(|at| *at - moment)
                .ok_or_else(|| format!("none; a client said: {}", self.outside.lock().unwrap()))
        })
        .await
    }

    /// For how long no write was acknowledged since a moment, at most.
    pub(crate) fn longest_silence_since(&self, moment: Instant) -> Duration {
        let mut since = vec![moment];
        since.extend(self.acknowledged.lock().unwrap().iter().filter(|at| **at > moment));
        since.sort_unstable();
        since.windows(2).map(|pair| pair[1] - pair[0]).max().expect("a write since then")
    }

    /// Ends the load; what was promised must be on every active server, and nothing twice.
    pub(crate) async fn finish(self, all: &Proxies) -> Vec<Book> {
        self.stop.store(true, Ordering::Relaxed);
        let mut books = Vec::new();
        for worker in self.workers {
            books.push(worker.await.expect("a client"));
        }
        let writer = all.writer(secs(30)).await;
        let active = writer.console("SHOW BACKENDS").await.expect("the console");
        for server in &all.cluster.servers {
            let row = active.iter().find(|row| row[0].as_deref() == Some(&server.name));
            if row.and_then(|row| row[2].as_deref()) != Some("active") {
                continue;
            }
            let admin = server.admin().await;
            let there = admin.rows("select id from promise order by id").await;
            let there: Vec<i64> =
                there.iter().filter_map(|row| row[0].as_ref()?.parse().ok()).collect();
            for id in books.iter().flat_map(|book| &book.acknowledged) {
                let found = there.binary_search(id).is_ok();
                assert!(found, "{id} was acknowledged, and {} lacks it", server.name);
            }
        }
        books
    }
}

async fn write(
    client: i64,
    config: tokio_postgres::Config,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    outside: Arc<Mutex<String>>,
) -> Book {
    let mut book = Book::default();
    let mut next = client * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        let opened = tokio::time::timeout(secs(2), Session::open_with(&config)).await;
        let session = match opened {
            Ok(Ok(session)) => session,
            other => {
                let why = other.map(|opened| opened.err().map(|error| explain(&error)));
                *outside.lock().unwrap() = format!("{why:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        while !stop.load(Ordering::Relaxed) {
            next += 1;
            let insert = format!("insert into promise values ({next}, {client})");
            let done = tokio::time::timeout(secs(4), session.batch_execute(&insert)).await;
            match done {
                Ok(Ok(())) => {
                    book.acknowledged.push(next);
                    acknowledged.lock().unwrap().push(Instant::now());
                    // A load, not a flood: the servers share two processors with everything else.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok(Err(error)) => {
                    book.failures.push(code_of(&error).unwrap_or_else(|| "-".into()));
                    *outside.lock().unwrap() = explain(&error);
                    break;
                }
                Err(_) => {
                    book.failures.push("silent".into());
                    break;
                }
            }
        }
    }
    book
}
