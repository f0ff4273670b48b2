//! One real PostgreSQL server: started, killed, frozen, thawed, asked directly.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::process::{self, As, Process, command, must};
use super::session::Session;
use super::{folder, free_port, secs, step, unique};

/// The superuser of every test server, and the proxy's administrator.
pub(crate) const ADMIN: &str = "postgres";
pub(crate) const ADMIN_PASSWORD: &str = "admin secret";
/// The database that is replicated.
pub(crate) const DATABASE: &str = "app";

/// What every server holds from the start; the same text on each, as an operator would prepare
/// them.
const PREPARE: &str = "
    create role app login password 'app';
    create role app2 login password 'app2';
    create role stranger login password 'stranger';
    create role sleeper nologin password 'sleeper';
    create database app owner app;";
const PREPARE_DATABASE: &str = "
    alter schema public owner to app;
    grant usage on schema public to app2;";

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 120
shared_buffers = 24MB
max_wal_size = 256MB
timezone = 'UTC'
log_timezone = 'UTC'
deadlock_timeout = 300ms
log_line_prefix = '%m [%p] %q%u@%d %a '
log_min_messages = warning
log_min_error_statement = error
";

/// The folder of PostgreSQL's programs.
pub(crate) fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(path) = std::env::var_os("LOCKSTEP_PG_BIN") {
            return path.into();
        }
        let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|version| version.path().join("bin"))
            .collect();
        let asked = Command::new("pg_config").arg("--bindir").output();
        found.extend(asked.ok().map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim())));
        found.retain(|bin| bin.join("initdb").exists());
        found.sort();
        found.pop().unwrap_or_else(|| {
            panic!(
                "no PostgreSQL server programs (initdb) in /usr/lib/postgresql/*/bin or where pg_config \
                 points: install the package postgresql, or set LOCKSTEP_PG_BIN"
            )
        })
    })
}

/// A prepared data folder a slot. Slots are initialised one by one, not copied from each other: two
/// servers with one system identifier would be one server to anybody who looks.
fn template(slot: usize) -> PathBuf {
    static TEMPLATES: [Mutex<Option<PathBuf>>; 6] = [const { Mutex::new(None) }; 6];
    let mut place = TEMPLATES[slot].lock().unwrap_or_else(|e| e.into_inner());
    place.get_or_insert_with(|| make_template(slot)).clone()
}

fn make_template(slot: usize) -> PathBuf {
    step(format!("initdb for slot {slot}"));
    let data = folder().join(format!("template-{slot}"));
    let password = folder().join(format!("password-{slot}"));
    std::fs::write(&password, ADMIN_PASSWORD).expect("a password file");
    let mut init = command(As::DatabaseUser, programs().join("initdb"));
    init.args(["--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", "-U", ADMIN]);
    init.arg("--pwfile").arg(&password).arg("-D").arg(&data);
    must("initdb", init);
    let server = Server::on_data("template", data.clone(), false);
    server.start();
    super::runtime().block_on_here(async {
        let admin = server.connect_to(ADMIN, ADMIN_PASSWORD, "postgres").await;
        for statement in PREPARE.split_inclusive(';') {
            admin.run(statement).await;
        }
        server.admin().await.run(PREPARE_DATABASE).await;
    });
    server.stop("INT");
    data
}

pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    fsync: bool,
    process: Mutex<Option<Process>>,
}

impl Server {
    /// A new server with its own copy of the slot's data, not started.
    pub(crate) fn prepare(name: &str, slot: usize, fsync: bool) -> Self {
        let data = folder().join(format!("data-{}-{name}", unique()));
        copy_folder(&template(slot), &data);
        Self::on_data(name, data, fsync)
    }

    /// A new server, running.
    pub(crate) fn launch(name: &str, slot: usize) -> Self {
        let server = Self::prepare(name, slot, false);
        server.start();
        server
    }

    fn on_data(name: &str, data: PathBuf, fsync: bool) -> Self {
        let log = data.with_extension("log");
        Self { name: name.into(), port: free_port(), data, log, fsync, process: Mutex::new(None) }
    }

    /// Another server's data folder as it is now, behind this server's port: an older backup
    /// restored, or another machine under the same address. Both must be down.
    pub(crate) fn take_data_of(&self, other: &Path) {
        assert!(!self.is_running(), "{} still runs", self.name);
        std::fs::remove_dir_all(&self.data).expect("the old data goes");
        copy_folder(other, &self.data);
    }

    /// A copy of the data folder for later; the server must be down.
    pub(crate) fn save_data(&self) -> PathBuf {
        assert!(!self.is_running(), "{} still runs", self.name);
        let copy = folder().join(format!("saved-{}-{}", unique(), self.name));
        copy_folder(&self.data, &copy);
        copy
    }

    /// Adds lines to postgresql.conf; they count from the next start on.
    pub(crate) fn configure(&self, lines: &str) {
        let path = self.data.join("postgresql.conf");
        let text = std::fs::read_to_string(&path).expect("postgresql.conf");
        std::fs::write(&path, format!("{text}\n{lines}\n")).expect("postgresql.conf");
    }

    /// Starts it and waits until it takes connections.
    pub(crate) fn start(&self) {
        let mut place = self.process.lock().unwrap();
        assert!(place.as_ref().is_none_or(|p| p.exited().is_some()), "{} runs already", self.name);
        let settings = self.data.join("test.conf");
        let fsync = if self.fsync { "on" } else { "off" };
        std::fs::write(settings, format!("{SETTINGS}\nport = {}\nfsync = {fsync}\n", self.port))
            .expect("the test's settings");
        self.include_settings_once();
        // A process number may come again, and would then look like the server that was killed.
        let _ = std::fs::remove_file(self.data.join("postmaster.pid"));
        let before = self.ready_lines();
        let mut postgres = command(As::DatabaseUser, programs().join("postgres"));
        postgres.arg("-D").arg(&self.data);
        let process = Process::start(&self.name, postgres, &self.log);
        let end = Instant::now() + secs(30);
        while self.ready_lines() == before {
            let gone = process.exited();
            assert!(
                gone.is_none() && Instant::now() < end,
                "server {} does not start ({gone:?}):\n{}",
                self.name,
                process::tail(&self.log, 30)
            );
            std::thread::sleep(Duration::from_millis(15));
        }
        *place = Some(process);
    }

    fn include_settings_once(&self) {
        let path = self.data.join("postgresql.conf");
        let text = std::fs::read_to_string(&path).expect("postgresql.conf");
        let line = "include = 'test.conf'\n";
        if !text.contains(line) {
            std::fs::write(&path, text + "\n" + line).expect("postgresql.conf");
        }
    }

    fn ready_lines(&self) -> usize {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).matches("is ready to accept connections").count()
    }

    fn with_process<T>(&self, act: impl FnOnce(&Process) -> T) -> T {
        let place = self.process.lock().unwrap();
        act(place.as_ref().unwrap_or_else(|| panic!("server {} was never started", self.name)))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.lock().unwrap().as_ref().is_some_and(|p| p.exited().is_none())
    }

    /// kill -9 of the whole server.
    pub(crate) fn kill9(&self) {
        step(format!("kill -9 server {}", self.name));
        self.with_process(Process::kill9);
    }

    fn stop(&self, signal: &str) {
        self.with_process(|p| {
            p.signal(signal);
            p.wait(secs(30));
        });
    }

    /// The clean stop that ends all sessions with 57P01.
    pub(crate) fn stop_fast(&self) {
        step(format!("fast stop of server {}", self.name));
        self.stop("INT");
    }

    /// The stop without a checkpoint.
    pub(crate) fn stop_immediate(&self) {
        step(format!("immediate stop of server {}", self.name));
        self.stop("QUIT");
    }

    pub(crate) fn freeze(&self) {
        step(format!("freeze server {}", self.name));
        self.with_process(Process::freeze);
    }

    pub(crate) fn thaw(&self) {
        step(format!("thaw server {}", self.name));
        self.with_process(Process::thaw);
    }

    pub(crate) fn restart(&self) {
        if self.is_running() {
            self.stop_fast();
        }
        step(format!("start server {}", self.name));
        self.start();
    }

    /// kill -9 of one server process: the postmaster ends all sessions, recovers and goes on within
    /// a moment.
    pub(crate) fn crash_and_recover(&self) {
        step(format!("crash-restart of server {}", self.name));
        let before = self.ready_lines();
        let children = self.with_process(|p| process::descendants(p.pid()));
        process::signal("KILL", &children[..1]);
        let end = Instant::now() + secs(20);
        while self.ready_lines() == before {
            assert!(Instant::now() < end, "server {} does not recover", self.name);
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    /// A connection straight to this server, past the proxy, as anybody.
    pub(crate) async fn connect_to(&self, user: &str, password: &str, database: &str) -> Session {
        Session::open(self.port, user, password, database)
            .await
            .unwrap_or_else(|e| panic!("no connection to server {}: {e:?}", self.name))
    }

    /// A connection straight to this server, past the proxy, as the superuser in the replicated
    /// database.
    pub(crate) async fn admin(&self) -> Session {
        self.connect_to(ADMIN, ADMIN_PASSWORD, DATABASE).await
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let mut copy = command(As::DatabaseUser, "cp");
    copy.args(["-r", "--reflink=auto"]).arg(from).arg(to);
    must("copying a data folder", copy);
}

/// Blocking on async work from a thread that may or may not be inside the runtime already.
trait BlockHere {
    fn block_on_here<T: Send>(&self, work: impl Future<Output = T> + Send) -> T;
}

impl BlockHere for tokio::runtime::Runtime {
    fn block_on_here<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        // A thread of its own: a runtime refuses to block inside itself.
        std::thread::scope(|s| {
            s.spawn(|| self.block_on(work)).join().expect("the work does not panic")
        })
    }
}
