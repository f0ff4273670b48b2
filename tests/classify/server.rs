//! A real server for a test, gone when it is dropped.

use std::path::PathBuf;
use std::process::{Command, Output};

pub(super) struct Server {
    bin: PathBuf,
    home: tempfile::TempDir,
}

impl Server {
    pub(super) fn start(bin: PathBuf) -> Self {
        let home = tempfile::tempdir().unwrap();
        Command::new("chown").arg("postgres").arg(home.path()).status().unwrap();
        let server = Self { bin, home };
        let (data, home) = (server.data(), server.socket());
        server.must("initdb", &["-D", &data, "-A", "trust", "-E", "UTF8", "--locale=C"]);
        let options = format!("-k {home} -c listen_addresses= -c fsync=off");
        let log = format!("{home}/log");
        server.must("pg_ctl", &["-D", &data, "-w", "-l", &log, "-o", &options, "start"]);
        server
    }

    fn data(&self) -> String {
        format!("{}/data", self.socket())
    }

    fn socket(&self) -> String {
        self.home.path().to_str().unwrap().to_owned()
    }

    /// The server refuses to run as root.
    pub(super) fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(self.bin.join(program)).args(args);
        command.env("PGHOST", self.socket()).output().unwrap()
    }

    pub(super) fn must(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What psql prints.
    pub(super) fn ask(&self, database: &str, sql: &str) -> String {
        let output = self.try_ask(database, sql);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) fn try_ask(&self, database: &str, sql: &str) -> Output {
        let args = ["-d", database, "-qXAt1", "-v", "ON_ERROR_STOP=1", "-c", sql];
        self.run("psql", &args)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
    }
}
