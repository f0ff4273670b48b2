//! A real MariaDB server for a test, with a data folder of its own, gone when it is dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A server that is running.
pub(crate) struct Server {
    home: tempfile::TempDir,
    pub(crate) port: u16,
    child: Child,
}

impl Server {
    /// Whether there is a MariaDB to be started on this machine.
    pub(crate) fn is_there() -> bool {
        program().is_some()
    }

    /// Starts a server whose administrator is `root` without a password.
    pub(crate) fn start(options: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let made = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", data.display()))
            // Two that are made at the same time would meet in the common folder.
            .arg(format!("--tmpdir={}", home.path().display()))
            .arg(format!("--user={}", user()))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let child = spawn(home.path(), port, options);
        let server = Self { home, port, child };
        server.wait();
        server
    }

    /// Kills the server as a power failure would, and starts it again.
    #[allow(dead_code, reason = "not every test restarts its server")]
    pub(crate) fn restart(&mut self, options: &[&str]) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(self.home.path(), self.port, options);
        self.wait();
    }

    fn wait(&self) {
        for _ in 0..300 {
            if self.try_ask("", "SELECT 1").status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
        panic!("the server does not answer: {log}");
    }

    /// What the server answers, tabs between columns, without names of columns.
    pub(crate) fn ask(&self, database: &str, sql: &str) -> String {
        let output = self.try_ask(database, sql);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same for what may fail.
    pub(crate) fn try_ask(&self, database: &str, sql: &str) -> Output {
        Command::new("mariadb")
            .args(["--no-defaults", "-uroot", "--batch", "-N", "--comments"])
            .arg("--default-character-set=utf8mb4")
            .arg(format!("--socket={}", self.home.path().join("socket").display()))
            .args(["-D", database, "-e", sql])
            .output()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let places = ["/usr/sbin/mariadbd", "/usr/bin/mariadbd", "/usr/libexec/mariadbd"];
    places.iter().map(PathBuf::from).find(|place| place.exists())
}

/// The server does not run as root unless it is told to.
fn user() -> &'static str {
    "root"
}

fn spawn(home: &Path, port: u16, options: &[&str]) -> Child {
    let log = std::fs::File::create(home.join("log")).unwrap();
    Command::new(program().expect("MariaDB's server is installed"))
        .arg("--no-defaults")
        .arg(format!("--user={}", user()))
        .arg(format!("--datadir={}", home.join("data").display()))
        .arg(format!("--tmpdir={}", home.display()))
        .arg(format!("--socket={}", home.join("socket").display()))
        .arg(format!("--port={port}"))
        .args(["--bind-address=127.0.0.1", "--innodb-buffer-pool-size=16M", "--skip-name-resolve"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
