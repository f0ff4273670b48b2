//! One real MariaDB server with its own data folder and port, gone with its value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// The application's user, its password, and its database.
pub(crate) const USER: &str = "app";
pub(crate) const PASSWORD: &str = "secret";
pub(crate) const DATABASE: &str = "app";

const PREPARE: &str = "drop user if exists ''@localhost; create database app;
    create user app@'%' identified by 'secret'; create user app@localhost identified by 'secret';
    grant all on app.* to app@'%'; grant all on app.* to app@localhost; flush privileges;
    create user guest@'%' identified by 'welcome'; grant select on app.* to guest@'%';
    create user guest@localhost identified by 'welcome'; grant select on app.* to guest@localhost;
    create user admin@'%' identified by 'admin'; grant all on *.* to admin@'%' with grant option;
    create user admin@localhost identified by 'admin';
    grant all on *.* to admin@localhost with grant option";

pub(crate) struct Server {
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    options: &'static [&'static str],
    child: Mutex<Option<Child>>,
}

impl Server {
    /// A new server, running, with users and an empty database.
    pub(crate) fn launch() -> Self {
        Self::launch_with(&[])
    }

    /// The same, started with more options.
    pub(crate) fn launch_with(options: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(template(), &folder.path().join("data"));
        let server = Self { port: free_port(), folder, options, child: Mutex::new(None) };
        server.start();
        server
    }

    /// Keeps a copy of what a server that is not running has, to be taken back later by it or another.
    pub(crate) fn save(&self) -> tempfile::TempDir {
        let saved = tempfile::tempdir().unwrap();
        copy(&self.folder.path().join("data"), &saved.path().join("data"));
        saved
    }

    /// Puts such a copy, or the data of a new server, in the place of its own.
    pub(crate) fn take(&self, saved: Option<&tempfile::TempDir>) {
        let data = self.folder.path().join("data");
        std::fs::remove_dir_all(&data).unwrap();
        match saved {
            Some(saved) => copy(&saved.path().join("data"), &data),
            None => copy(template(), &data),
        }
    }

    /// Makes a data folder for others to copy.
    fn install(folder: tempfile::TempDir) -> Self {
        let data = folder.path().join("data");
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--skip-test-db"])
            .arg("--auth-root-authentication-method=normal")
            .args(["--innodb-log-file-size=8M", "--skip-name-resolve"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--tmpdir={}", folder.path().display()))
            .output()
            .expect("mariadb-install-db: install the package mariadb-server");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let server = Self { port: free_port(), folder, options: &[], child: Mutex::new(None) };
        server.start();
        server.root(PREPARE);
        server.root("set global innodb_fast_shutdown = 0; shutdown");
        let mut child = server.child.lock().unwrap().take().unwrap();
        child.wait().unwrap();
        server
    }

    pub(crate) fn start(&self) {
        let folder = self.folder.path();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new(program())
            .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1", "--skip-log-bin"])
            .args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"])
            // What is committed outlives the process, though not the machine: changes of the schema are durable at once,
            // and a server that lost the records of several would have to be mended by hand.
            .args(["--innodb-flush-log-at-trx-commit=2", "--character-set-server=utf8mb4"])
            .arg(format!("--datadir={}", folder.join("data").display()))
            // A server that starts removes what it takes for its own leftovers there.
            .arg(format!("--tmpdir={}", folder.display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", folder.join("pid").display()))
            .arg(format!("--port={}", self.port))
            .args(self.options)
            // One in which an hour comes twice a year.
            .env("TZ", "Europe/Berlin")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mariadbd");
        *self.child.lock().unwrap() = Some(child);
        for attempt in 0.. {
            if self.is_up() {
                break;
            }
            let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(attempt < 600, "the server does not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_up(&self) -> bool {
        let mut ask = self.client("root");
        ask.args(["-e", "select 1"]).stdout(Stdio::null()).stderr(Stdio::null());
        ask.status().unwrap().success()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn client(&self, user: &str) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-u", user, "--batch"]);
        client.arg(format!("--socket={}", self.socket().display()));
        client
    }

    /// Runs statements as the administrator; what they answer.
    pub(crate) fn root(&self, sql: &str) -> String {
        self.try_root(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same where it may fail: then what the server says.
    pub(crate) fn try_root(&self, sql: &str) -> Result<String, String> {
        let ran = self.client("root").args(["-N", "-e", sql]).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if ran.status.success() { Ok(said(&ran.stdout)) } else { Err(said(&ran.stderr)) }
    }

    /// Schema and rows of the database, in an order of their own.
    pub(crate) fn contents(&self) -> String {
        let dumped = Command::new("mariadb-dump")
            .args(["--no-defaults", "-uroot", "--order-by-primary", "--skip-extended-insert"])
            .args(["--routines", "--triggers", "--skip-comments", "--tz-utc"])
            .arg(format!("--socket={}", self.socket().display()))
            .arg(DATABASE)
            .output()
            .unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        let dumped = String::from_utf8_lossy(&dumped.stdout).into_owned();
        // Numbers that were drawn and not used are not the same everywhere, and need not be.
        let plain = |line| str::split(line, " AUTO_INCREMENT=").next().unwrap_or(line);
        let mut lines: Vec<&str> = dumped.lines().map(plain).collect();
        // Rows of a table without a key have no order.
        let is_row = |line: &&str| line.starts_with("INSERT INTO ");
        lines.chunk_by_mut(|a, b| is_row(a) && is_row(b)).for_each(<[&str]>::sort_unstable);
        lines.join("\n")
    }

    /// A signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.lock().unwrap().as_ref().map(|child| child.id().to_string());
        let Some(pid) = pid else { return };
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.unwrap().success(), "{name} to a server");
    }

    /// The clean stop that ends all sessions.
    /// What the server said since it was last started.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn stop(&self) {
        self.signal("TERM");
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.wait();
        }
    }

    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// The data folder that all servers begin with, made once.
fn template() -> &'static Path {
    static MADE: OnceLock<Server> = OnceLock::new();
    static DATA: OnceLock<PathBuf> = OnceLock::new();
    DATA.get_or_init(|| {
        let made = MADE.get_or_init(|| Server::install(tempfile::tempdir().unwrap()));
        made.folder.path().join("data")
    })
}

/// The server's program: Debian keeps it where only administrators look.
fn program() -> &'static str {
    const DEBIAN: &str = "/usr/sbin/mariadbd";
    if std::path::Path::new(DEBIAN).exists() { DEBIAN } else { "mariadbd" }
}

/// A port that nobody listens on, below those of outgoing connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(67) % 15_000;
    (0..15_000)
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed))
        .map(|step| 14_000 + u16::try_from((first + step) % 15_000).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
