//! Two or three machines, each with a database server, a proxy, an agent and the application, and a
//! witness on one more: started from the files on the page on high availability.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::daemon::Daemon;
use super::database::Kind;
use super::judge::{Evidence, Judge};
use super::machine::Machine;
use super::net::Net;
use super::{lockstep, page, run, wait_until};

/// What a test wants to be different.
#[derive(Default)]
pub(crate) struct Want {
    /// What the databases are.
    pub(crate) kind: Kind,
    /// Three machines with a database each, and no witness.
    pub(crate) three: bool,
    /// The databases have filesystems of their own, of this size.
    pub(crate) disk: Option<&'static str>,
    /// By how many seconds the second machine's clock is ahead.
    pub(crate) ahead: u32,
    /// The clocks on the machines' walls can be set.
    pub(crate) wall: bool,
}

/// Two or three machines, and the judge.
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
        page::write_shared_files(folder.path(), want);
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
            evidence.compare(&machine.name, machine.database.clerk().contents());
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
