//! One machine of a site: its database server, its proxy, its agent, and what can befall each.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::daemon::Daemon;
use super::database::{Database, Kind};
use super::net::Net;
use super::node::Node;
use super::site::Want;
use super::{Environment, page};

/// One machine.
pub(crate) struct Machine {
    pub(crate) name: String,
    space: String,
    pub(crate) node: Node,
    pub(crate) database: Database,
    pub(super) proxy: Daemon,
    kind: Kind,
}

impl Machine {
    pub(super) fn build(number: usize, net: &Net, folder: &Path, want: &Want) -> Self {
        let name = format!("m{number}");
        let space = net.space(&format!("n{number}"));
        let ahead = if number == 2 { want.ahead } else { 0 };
        let wall =
            if want.wall { wall_clock(&wall_file(folder, &name)) } else { Environment::new() };
        let node = Node::named(&name, space.clone(), folder, ahead, wall.clone());
        let home = node.folder().to_owned();
        let address = format!("10.77.0.{}", 10 + number);
        let place = home.join("database");
        let mut database = Database::of_machine(
            want.kind,
            space.clone(),
            &address,
            &place,
            want.disk,
            wall.clone(),
        );
        database.prepare_as_documented(&page::roles(want.kind));
        let config = home.join("lockstep.toml");
        std::fs::write(&config, page::proxy_file(number, folder, want)).unwrap();
        std::fs::create_dir_all(home.join("proxy-state")).unwrap();
        let words = ["proxy", "--config", config.to_str().unwrap()];
        let proxy = Daemon::new(space.clone(), &words, home.join("proxy.log"));
        let proxy = proxy.with(wall);
        Self { name, space, node, database, proxy, kind: want.kind }
    }

    /// Whether its proxy lets clients in.
    pub(super) fn answers(&self) -> bool {
        self.sql("agents", "agents", "app", "select 1").is_some()
    }

    /// Whether its proxy is the one that writes.
    pub(crate) fn writes(&self) -> bool {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space, "curl", "-s", "-m", "2", "-o", "/dev/null"]);
        command.args(["-w", "%{http_code}", "http://127.0.0.1:9632/readyz"]);
        command.output().is_ok_and(|output| output.stdout == b"200")
    }

    /// What its proxy's console answers; it must.
    pub(crate) fn console(&self, words: &str) -> String {
        self.try_console(words).unwrap_or_else(|| panic!("{}: {words}", self.name))
    }

    pub(super) fn try_console(&self, words: &str) -> Option<String> {
        let admin = if self.kind == Kind::MariaDb { "lockstep" } else { "postgres" };
        self.sql(admin, "admin", "lockstep", words)
    }

    /// What its proxy answers: lines, with | between columns.
    fn sql(&self, user: &str, password: &str, database: &str, sql: &str) -> Option<String> {
        let mut command = Command::new("timeout");
        command.args(["10", "ip", "netns", "exec", &self.space]);
        match self.kind {
            Kind::Postgres => {
                let place = format!(
                    "host=127.0.0.1 port=6432 user={user} dbname={database} connect_timeout=3"
                );
                command.args(["psql", "-tAqc", sql, &place]).env("PGPASSWORD", password);
            }
            Kind::MariaDb => {
                command.args(["mariadb", "--no-defaults", "-N", "--batch", "--connect-timeout=3"]);
                command.args(["-h", "127.0.0.1", "-P", "6433", "-u", user, "-D", database]);
                command.arg(format!("-p{password}")).args(["-e", sql]);
            }
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().replace('\t', "|");
        output.status.success().then_some(text)
    }

    /// A client of the application on this machine, which has written in a transaction of that term and
    /// keeps it open.
    pub(crate) fn keeps_open(&self, epoch: i64, n: i64) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]);
        match self.kind {
            Kind::Postgres => {
                command.args(["psql", "-qtA", "-v", "ON_ERROR_STOP=1"]);
                command.arg("host=127.0.0.1,10.77.0.11,10.77.0.12 port=6432 user=app dbname=app");
                let options = format!(
                    "-c lockstep.resource=shop -c lockstep.node={} -c lockstep.epoch={epoch}",
                    self.name
                );
                command.env("PGOPTIONS", options).env("PGPASSWORD", "app");
            }
            Kind::MariaDb => {
                command.args(["mariadb", "--no-defaults", "-N", "--batch", "--unbuffered"]);
                let host = self.name.replace('m', "10.77.0.1");
                command.args(["-h", &host, "-P", "6433", "-u", "app", "-papp", "-D", "app"]);
            }
        }
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let values = format!("({epoch}, '{}', {n})", self.name);
        let sql = format!("begin; insert into writes(epoch, node, n) values {values} returning n;");
        writeln!(client.stdin.as_mut().unwrap(), "{sql}").unwrap();
        let mut answer = String::new();
        BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), n.to_string());
        client
    }

    /// Its processes: of the database, the proxy, the agent.
    pub(crate) fn pids(&self, part: Part) -> Vec<u32> {
        match part {
            Part::Database => with_children(self.database.pid()),
            Part::Proxy => vec![self.proxy.pid()],
            Part::Agent => vec![self.node.pid()],
            Part::Guard => vec![self.node.guard()],
            Part::Service => self.node.service_pids(),
            Part::All => self.node.all_pids(),
        }
    }

    pub(crate) fn signal(&self, name: &str, part: Part) {
        self.node.signal(name, &self.pids(part));
    }

    /// Sets the clock on its wall to what it really is and so much, such as `-3d`; no other clock.
    pub(crate) fn set_wall_clock(&self, to: &str) {
        let file = wall_file(self.node.folder().parent().unwrap(), &self.name);
        // At once, or somebody finds it empty.
        let new = file.with_extension("new");
        std::fs::write(&new, to).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// Where its database's files are.
    pub(crate) fn disk(&self) -> PathBuf {
        self.database.folder().to_owned()
    }
}

/// The file that says by how much a machine's wall clock is wrong.
fn wall_file(world: &Path, machine: &str) -> PathBuf {
    world.join(format!("{machine}.wall"))
}

/// Has processes look at a wall clock of their own. It is a library that stands between them and the
/// system: the agent's own clock is asked for past it, as it is past any adjustment of the time.
fn wall_clock(file: &Path) -> Environment {
    std::fs::write(file, "+0").unwrap();
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut files = libraries.map(|at| at.path().join("faketime/libfaketimeMT.so.1"));
    let library = files
        .find(|file| file.exists())
        .expect("libfaketimeMT.so.1: install the package libfaketime");
    vec![
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ]
}

/// What of a machine something befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Database,
    Proxy,
    Agent,
    Guard,
    Service,
    All,
}

fn with_children(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    std::iter::once(pid).chain(children).collect()
}
