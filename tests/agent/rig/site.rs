//! Two or three machines, each with a database server, a proxy, an agent and the application, and a
//! witness on one more: started from the files on the page on high availability.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::daemon::Daemon;
use super::database::{Clerk, Database};
use super::judge::{Evidence, Judge};
use super::net::Net;
use super::node::Node;
use super::{Environment, lockstep, run, service, wait_until};

/// What a test wants to be different.
#[derive(Default)]
pub(crate) struct Want {
    /// Three machines with a database each, and no witness.
    pub(crate) three: bool,
    /// The databases have filesystems of their own, of this size.
    pub(crate) disk: Option<&'static str>,
    /// By how many seconds the second machine's clock is ahead.
    pub(crate) ahead: u32,
    /// The clocks on the machines' walls can be set.
    pub(crate) wall: bool,
}

/// The page, whose files are used as they stand there.
const PAGE: &str = include_str!("../../../docs/high-availability.md");
/// Addresses in place of names; all times are the page's.
const HERE: [(&str, &str); 6] = [
    ("m1.example.com", "10.77.0.11"),
    ("m2.example.com", "10.77.0.12"),
    ("w1.example.com", "10.77.0.13"),
    ("10.0.0.100/24", "10.77.0.100/24"),
    ("[agent]", "[agent]\nwatchdog = \"off\""),
    ("[[vip]]", "[[vip]]\nprobe = \"50ms\""),
];

/// One of the page's files.
fn page_file(name: &str) -> String {
    let mark = format!("<!-- file: {name} -->");
    let at = PAGE.find(&mark).unwrap_or_else(|| panic!("the page has no {name}"));
    let mut lines = PAGE[at..].lines().skip(1);
    let fence = lines.next().unwrap();
    let indent = fence.len() - fence.trim_start().len();
    let inside = lines.take_while(|line| line.trim() != "```");
    inside.map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n").collect()
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) name: String,
    space: String,
    pub(crate) node: Node,
    pub(crate) database: Database,
    proxy: Daemon,
}

pub(crate) struct Site {
    // In the order in which they go.
    pub(crate) machines: Vec<Machine>,
    witness: Option<Daemon>,
    judge: Judge,
    clocks: BTreeMap<String, f64>,
    pub(crate) net: Net,
    folder: tempfile::TempDir,
}

impl Site {
    /// Everything runs, and the first machine is the master. `None` where there can be no namespaces,
    /// and that is known.
    pub(crate) fn start(want: &Want) -> Option<Self> {
        if super::has_no_namespaces() {
            return None;
        }
        let folder = super::world_folder();
        // The third namespace is the third machine's, or the witness's.
        let net = Net::build(3);
        let count = if want.three { 3 } else { 2 };
        write_shared_files(folder.path(), want);
        let clocks: BTreeMap<String, f64> = [("m2".to_owned(), f64::from(want.ahead))].into();
        let machines: Vec<Machine> = std::thread::scope(|scope| {
            let build = |n| Machine::build(n, &net, folder.path(), want);
            let builds: Vec<_> = (1..=count).map(|n| scope.spawn(move || build(n))).collect();
            builds.into_iter().map(|build| build.join().unwrap()).collect()
        });
        let witness = (!want.three).then(|| start_witness(&net, folder.path()));
        run(net
            .inside("n1", lockstep())
            .args(["init", "--config"])
            .arg(folder.path().join("m1/lockstep.toml")));
        let clerks = machines.iter().map(|m| m.database.clerk().clone()).collect();
        let judge = Judge::watch(net.node_spaces(), clerks);
        let site = Self { machines, witness, judge, clocks, net, folder };
        for machine in &site.machines {
            machine.proxy.start();
            // The first one writes.
            wait_until(30, || machine.proxy.log(), || machine.answers());
        }
        site.tool("init");
        for (machine, role) in site.machines.iter().zip(["master", "standby", "standby"]) {
            machine.node.start();
            machine.node.wait_for_role(role);
        }
        site.flows(10, 30);
        Some(site)
    }

    pub(crate) fn machine(&self, number: usize) -> &Machine {
        &self.machines[number - 1]
    }

    /// What a tool of the agent says; it must succeed.
    pub(crate) fn tool(&self, words: &str) -> String {
        let mut command = self.net.inside("n1", lockstep());
        command.arg("agent").args(words.split_whitespace());
        command.arg("--config").arg(self.folder.path().join("agent.toml"));
        run(&mut command)
    }

    /// The number of the machine whose agent is the master, once there is one.
    pub(crate) fn master(&self) -> usize {
        let mut master = None;
        wait_until(
            60,
            || self.stands(),
            || {
                let is_master = |machine: &Machine| machine.node.role() == "master";
                master = self.machines.iter().position(is_master).map(|index| index + 1);
                master.is_some()
            },
        );
        master.unwrap()
    }

    /// The number of the machine whose proxy writes, once there is one.
    pub(crate) fn writer(&self) -> usize {
        let mut writer = None;
        wait_until(
            60,
            || self.stands(),
            || {
                writer = self.machines.iter().position(Machine::writes).map(|index| index + 1);
                writer.is_some()
            },
        );
        writer.unwrap()
    }

    /// The number of another machine that has a database.
    pub(crate) fn other(&self, number: usize) -> usize {
        number % self.machines.len() + 1
    }

    /// The number of the machine whose database leads.
    pub(crate) fn leader(&self) -> usize {
        let view = self.machine(self.writer()).console("SHOW VIEW");
        let leader = view.split('|').nth(2).unwrap_or_default().to_owned();
        let place = self.machines.iter().position(|machine| machine.name == leader);
        place.unwrap_or_else(|| panic!("{view}")) + 1
    }

    /// Lets the proxy of this machine write.
    pub(crate) fn hand_writing_to(&self, number: usize) {
        let writer = self.writer();
        if writer != number {
            self.machine(writer).console("SWITCHOVER PROXY");
            wait_until(30, || self.stands(), || self.machine(number).writes());
        }
    }

    /// Asks whichever proxy writes to let another one; there may be none.
    pub(crate) fn ask_for_another_writer(&self) {
        let writer = self.machines.iter().find(|machine| machine.writes());
        let _ = writer.and_then(|writer| writer.try_console("SWITCHOVER PROXY"));
    }

    /// Waits until so many more writes are confirmed.
    pub(crate) fn flows(&self, count: usize, seconds: u64) -> Duration {
        let before = self.evidence().confirmed();
        wait_until(seconds, || self.stands(), || self.evidence().confirmed() >= before + count)
    }

    /// How all of it stands, for messages.
    fn stands(&self) -> String {
        let line = |machine: &Machine| {
            let (node, view) = (machine.node.status(), machine.try_console("SHOW VIEW"));
            let backends = machine.try_console("SHOW BACKENDS");
            format!("{}: agent {node}; view {view:?}; backends {backends:?}\n", machine.name)
        };
        self.machines.iter().map(line).collect()
    }

    fn evidence(&self) -> Evidence {
        Evidence::gather(self.folder.path(), &self.clocks)
    }

    /// How the service's terms went so far: (epoch, node), in order.
    pub(crate) fn terms(&self) -> Vec<(i64, String)> {
        self.evidence().terms()
    }

    /// Starts whatever of a machine does not run: what its service manager would do.
    fn restart(&self, number: usize) {
        let machine = self.machine(number);
        if !machine.database.is_up() {
            machine.database.spawn();
        }
        machine.proxy.start();
        machine.node.restart();
    }

    /// Waits until every database takes part again and one machine serves. What ends meanwhile is
    /// started again, such as a server that found its own former processes.
    ///
    /// A database that was halted in the middle of a commit may have a record that the others never
    /// got and nobody was told of: it stays away until an operator has filled it again. Whether all
    /// take part.
    pub(crate) fn mended(&self) -> bool {
        let mut away = 0;
        let is_mended = || {
            (1..=self.machines.len()).for_each(|number| self.restart(number));
            let writer = self.machines.iter().find(|machine| machine.writes());
            let members = writer.and_then(|writer| writer.try_console("SHOW BACKENDS"));
            let members = members.unwrap_or_default();
            let active = members.lines().filter(|line| is_active(line)).count();
            away = members.lines().filter(|line| line.contains("needs a full copy")).count();
            active > 0 && active + away == self.machines.len()
        };
        wait_until(90, || self.stands(), is_mended);
        self.master();
        self.flows(10, 60);
        away == 0
    }

    /// The names of the databases that take part, by whoever writes.
    fn active(&self) -> Vec<String> {
        let rows = self.machine(self.writer()).console("SHOW BACKENDS");
        let active = rows.lines().filter(|line| is_active(line));
        active.map(|line| line.split('|').next().unwrap_or_default().to_owned()).collect()
    }

    /// The verdict over the whole test, when everything has been mended. Where a machine as a whole
    /// was `frozen`, its service may run, but not write, for a moment after it woke.
    pub(crate) fn judge(self, frozen: bool) {
        self.mended();
        let active = self.active();
        for machine in &self.machines {
            machine.node.stop_if_running();
        }
        // What is still under way at a proxy has ended then.
        std::thread::sleep(Duration::from_millis(500));
        self.verdict(&active, frozen);
    }

    fn verdict(mut self, active: &[String], frozen: bool) {
        let mut evidence = self.evidence();
        for machine in self.machines.iter().filter(|machine| active.contains(&machine.name)) {
            evidence.ask(&machine.name, machine.database.clerk());
            evidence.compare(&machine.name, contents(machine.database.clerk()));
        }
        let mut wrong = self.judge.end();
        wrong.extend(evidence.wrong_writes());
        if !frozen {
            wrong.extend(evidence.wrong_services());
        }
        assert!(evidence.confirmed() > 20, "only {} writes", evidence.confirmed());
        assert_eq!(wrong, Vec::<String>::new());
    }

    fn logs(&self) -> String {
        let witness = self.witness.as_ref().map(Daemon::log).unwrap_or_default();
        let of = |m: &Machine| {
            format!("--- agent {0}\n{1}--- proxy {0}\n{2}", m.name, m.node.log(), m.proxy.log())
        };
        self.machines.iter().map(of).chain([format!("--- witness\n{witness}")]).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

fn is_active(line: &str) -> bool {
    line.split('|').nth(2) == Some("active")
}

/// Everything in the tables that applications and agents write.
fn contents(clerk: &Clerk) -> String {
    let tables = ["writes", "lockstep_lease", "lockstep_node", "lockstep_event"];
    let rows = |table| clerk.ask(&format!("select t from {table} t order by t::text"));
    tables.iter().map(|table| format!("{table}\n{}\n", rows(table))).collect()
}

fn write_shared_files(folder: &Path, want: &Want) {
    let passwords = folder.join("etc");
    std::fs::create_dir(&passwords).unwrap();
    for (name, secret) in [
        ("admin.password", "admin"),
        ("app.password", "app"),
        ("agents.password", "agents"),
        ("witness.secret", "a secret of the witness"),
    ] {
        std::fs::write(passwords.join(name), secret).unwrap();
    }
    // Step 5 of the page.
    let options = "-c lockstep.resource=shop -c lockstep.node=$LOCKSTEP_NODE \
                   -c lockstep.epoch=$LOCKSTEP_EPOCH";
    let place = "host=127.0.0.1,10.77.0.11,10.77.0.12 port=6432 user=app dbname=app";
    service::write(folder, &format!("env PGOPTIONS=\"{options}\" psql -qtA '{place}'"));
    let mut agent = adapt(&page_file("agent.toml"), folder, "state");
    if want.three {
        agent = agent.replace("[[resource]]", "[[node]]\nname = \"m3\"\n[[resource]]");
    }
    agent =
        agent.replace("[[resource]]", "[[resource]]\nstart_retry = \"3s\"\nmin_role_time = \"1s\"");
    agent += "[log]\nlevel = \"info,lockstep::agent=debug\"\n";
    std::fs::write(folder.join("agent.toml"), agent).unwrap();
}

/// A file of the page, for this place.
fn adapt(text: &str, folder: &Path, state: &str) -> String {
    let mut text = text
        .replace("/etc/lockstep", &folder.join("etc").display().to_string())
        .replace("/var/lib/lockstep-agent", state)
        .replace("/var/lib/lockstep", state)
        .replace("/usr/local/bin/shop", &folder.join("service").display().to_string());
    for (there, here) in HERE {
        text = text.replace(there, here);
    }
    text
}

fn start_witness(net: &Net, folder: &Path) -> Daemon {
    let (state, secret) = (folder.join("w1"), folder.join("etc/witness.secret"));
    std::fs::create_dir(&state).unwrap();
    let words = [
        "witness",
        "--listen",
        "0.0.0.0:6440",
        "--state-dir",
        state.to_str().unwrap(),
        "--secret-file",
        secret.to_str().unwrap(),
    ];
    let witness = Daemon::new(net.space("n3"), &words, folder.join("witness.log"));
    witness.start();
    witness
}

impl Machine {
    fn build(number: usize, net: &Net, folder: &Path, want: &Want) -> Self {
        let name = format!("m{number}");
        let space = net.space(&format!("n{number}"));
        let ahead = if number == 2 { want.ahead } else { 0 };
        let wall =
            if want.wall { wall_clock(&wall_file(folder, &name)) } else { Environment::new() };
        let node = Node::named(&name, space.clone(), folder, ahead, wall.clone());
        let home = node.folder().to_owned();
        let address = format!("10.77.0.{}", 10 + number);
        let place = home.join("database");
        let mut database =
            Database::of_machine(space.clone(), &address, &place, want.disk, wall.clone());
        database.ask("alter role postgres password 'admin'");
        database.prepare_as_documented(&page_file("roles.sql"));
        let text = adapt(&page_file("lockstep.toml"), folder, "proxy-state");
        let (before, own) = text.split_at(text.find("[proxy]").unwrap());
        let own = own.replace("\"m1\"", &format!("\"{name}\"")).replace("10.77.0.11", &address);
        let mut text = format!("{before}{own}");
        if want.three {
            text = with_third(&text);
        }
        let config = home.join("lockstep.toml");
        std::fs::write(&config, text).unwrap();
        std::fs::create_dir_all(home.join("proxy-state")).unwrap();
        let words = ["proxy", "--config", config.to_str().unwrap()];
        let proxy = Daemon::new(space.clone(), &words, home.join("proxy.log"));
        let proxy = proxy.with(wall);
        Self { name, space, node, database, proxy }
    }

    /// Whether its proxy lets clients in.
    fn answers(&self) -> bool {
        self.psql("agents", "agents", "app", "select 1").is_some()
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

    fn try_console(&self, words: &str) -> Option<String> {
        self.psql("postgres", "admin", "lockstep", words)
    }

    fn psql(&self, user: &str, password: &str, database: &str, sql: &str) -> Option<String> {
        let mut command = Command::new("timeout");
        command.args(["10", "ip", "netns", "exec", &self.space, "psql", "-tAqc", sql]);
        let place =
            format!("host=127.0.0.1 port=6432 user={user} dbname={database} connect_timeout=3");
        let output = command.arg(place).env("PGPASSWORD", password).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
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

/// The third machine has a database, and there is no witness.
fn with_third(text: &str) -> String {
    let third = "[[backend]]\nname = \"m3\"\nurl = \"postgresql://10.77.0.13:5432\"\n[[user]]";
    let text = text.replacen("[[user]]", third, 1);
    let (before, witness) = text.split_at(text.find("[witness]").unwrap());
    let (_, rest) = witness.split_at(witness.find("[[resource]]").unwrap());
    format!("{before}{rest}")
}
