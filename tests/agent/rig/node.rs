//! One node: its agent's process, and what can be done to it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::{Environment, VIP, VIP6, lockstep, net, wait_until};

pub(crate) struct Node {
    pub(crate) name: String,
    space: String,
    folder: PathBuf,
    /// By how many seconds its kernel's clock is ahead of the others'.
    ahead: u32,
    /// It sees the tree of cgroups, which a network namespace by itself hides.
    cgroups: bool,
    environment: Environment,
    child: Mutex<Option<Child>>,
}

impl Node {
    pub(super) fn new(number: usize, net: &net::Net, world: &Path, cgroups: bool) -> Self {
        let name = format!("n{number}");
        let mut node = Self::named(&name, net.space(&name), world, 0, Environment::new());
        node.cgroups = cgroups;
        node
    }

    /// A node of that name in any namespace, whose machine has been running for so much longer.
    pub(super) fn named(
        name: &str,
        space: String,
        world: &Path,
        ahead: u32,
        environment: Environment,
    ) -> Self {
        let folder = world.join(name);
        std::fs::create_dir(&folder).unwrap();
        let config = world.join("agent.toml");
        std::os::unix::fs::symlink(config, folder.join("agent.toml")).unwrap();
        let name = name.to_owned();
        Self { space, name, folder, ahead, cgroups: false, environment, child: Mutex::new(None) }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]);
        if self.ahead > 0 {
            // Does not fork: the agent keeps the number of this process.
            command.args(["unshare", "--time", &format!("--boottime={}", self.ahead)]);
            command.arg(format!("--monotonic={}", self.ahead));
        }
        if self.cgroups {
            let mount = "mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
            command.args(["sh", "-c", mount, "sh"]);
        }
        command.arg("env").args(&self.environment);
        command.args([lockstep(), "agent", "run", "--node", name]);
        // Relative paths begin at the link, so that each node has a folder of its own.
        command.arg("--config").arg(self.folder.join("agent.toml"));
        command
    }

    /// Starts the agent.
    pub(crate) fn start(&self) {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = self.command(&self.name).stderr(log).spawn().unwrap();
        let mut place = self.child.lock().unwrap();
        assert!(place.is_none(), "{} runs already", self.name);
        *place = Some(child);
    }

    /// Starts the agent in the node's own folder, where relative paths of programs begin.
    pub(crate) fn start_in_folder(&self) {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = self.command(&self.name);
        let child = command.current_dir(&self.folder).stderr(log).spawn().unwrap();
        *self.child.lock().unwrap() = Some(child);
    }

    /// Starts an agent that must refuse, under any name; what it says.
    pub(crate) fn refused(&self, name: &str) -> String {
        let output = self.command(name).output().unwrap();
        assert!(!output.status.success(), "it runs");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The agent's own process.
    pub(super) fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it runs").id()
    }

    /// The process that enforces the deadline.
    pub(crate) fn guard(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = std::fs::read_to_string(children).unwrap();
        let is_guard = |pid: &u32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == b"guard")
        };
        let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
        // A thread other than the first may have started it.
        pids.chain(self.all_pids()).find(is_guard).expect("a guard")
    }

    /// Every process in its namespace.
    pub(crate) fn all_pids(&self) -> Vec<u32> {
        let output = Command::new("ip").args(["netns", "pids", &self.space]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    pub(crate) fn signal(&self, name: &str, pids: &[u32]) {
        if pids.is_empty() {
            return;
        }
        let pids = pids.iter().map(u32::to_string);
        let _ =
            Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status();
    }

    /// Starts the agent, unless it runs.
    pub(super) fn restart(&self) {
        let mut place = self.child.lock().unwrap();
        if place.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
            *place = None;
            drop(place);
            self.start();
        }
    }

    /// Asks the agent to end, if it runs, and waits until it has.
    pub(super) fn stop_if_running(&self) {
        let ended = |child: &mut Child| child.try_wait().unwrap().is_some();
        if !self.child.lock().unwrap().as_mut().is_none_or(ended) {
            self.stop();
        }
    }

    /// Has the agent read again what it reads again.
    pub(crate) fn hang_up(&self) {
        self.signal("HUP", &[self.pid()]);
    }

    /// How much of a processor agent and guard have used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks = |pid: &u32| -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let rest = &stat[stat.rfind(')').unwrap() + 2..];
            let words: Vec<&str> = rest.split(' ').collect();
            words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
        };
        // A tick is a hundredth of a second on every Linux of today.
        Duration::from_millis([self.pid(), self.guard()].iter().map(ticks).sum::<u64>() * 10)
    }

    /// Asks the agent to end, and waits until it has.
    pub(crate) fn stop(&self) -> ExitStatus {
        self.signal("TERM", &[self.pid()]);
        self.wait()
    }

    /// Kills the agent, and nothing else.
    pub(crate) fn kill(&self) {
        self.signal("KILL", &[self.pid()]);
        self.wait();
    }

    /// Kills agent and guard together, so that nobody is left who ends what runs.
    pub(crate) fn kill_both(&self) {
        self.signal("KILL", &[self.guard(), self.pid()]);
        self.wait();
    }

    /// Everything of this node dies at once, as when its machine loses power.
    pub(crate) fn crash(&self) {
        self.signal("KILL", &self.all_pids());
        self.wait();
    }

    fn wait(&self) -> ExitStatus {
        self.child.lock().unwrap().take().expect("it runs").wait().unwrap()
    }

    /// Waits for an agent that ends by itself.
    pub(crate) fn wait_for_end(&self, seconds: u64) -> ExitStatus {
        let mut ended = None;
        wait_until(
            seconds,
            || format!("{} runs on: {}", self.name, self.log()),
            || {
                let mut place = self.child.lock().unwrap();
                ended = place.as_mut().and_then(|child| child.try_wait().unwrap());
                ended.is_some()
            },
        );
        *self.child.lock().unwrap() = None;
        ended.unwrap()
    }

    /// The agent stands still; its guard does not.
    pub(crate) fn freeze_agent(&self) {
        self.signal("STOP", &[self.pid()]);
    }

    /// Agent and guard stand still, and nobody but the kernel is left.
    pub(crate) fn freeze_both(&self) {
        self.signal("STOP", &[self.pid(), self.guard()]);
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT", &self.all_pids());
    }

    /// What a path of the agent's page answers: its code, and its body.
    pub(crate) fn page(&self, path: &str) -> (u32, String) {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.space,
            "curl",
            "-s",
            "-m",
            "2",
            "-w",
            "\n%{http_code}",
        ]);
        let output = command.arg(format!("http://127.0.0.1:8008{path}")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
        (code.parse().unwrap_or(0), body.trim().to_owned())
    }

    /// How the first resource stands here.
    pub(crate) fn status(&self) -> serde_json::Value {
        let (_, body) = self.page("/status");
        let all: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        all[0].clone()
    }

    pub(crate) fn role(&self) -> String {
        self.status()["role"].as_str().unwrap_or("gone").to_owned()
    }

    pub(crate) fn wait_for_role(&self, role: &str) {
        let what = || format!("{} is {:?}, not {role}", self.name, self.status());
        wait_until(60, what, || self.role() == role);
    }

    pub(crate) fn has_vip(&self) -> bool {
        self.addresses().contains(&format!("inet {VIP}/"))
    }

    pub(crate) fn has_vip6(&self) -> bool {
        self.addresses().contains(&format!("inet6 {VIP6}/"))
    }

    pub(crate) fn addresses(&self) -> String {
        let output = Command::new("ip").args(["-n", &self.space, "addr"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The processes here that have these words.
    pub(crate) fn pids_of(&self, words: &str) -> Vec<u32> {
        let wanted = words.replace(' ', "\0") + "\0";
        let line = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        self.all_pids().into_iter().filter(|pid| line(pid) == wanted.as_bytes()).collect()
    }

    /// Whether the toy service runs here.
    pub(crate) fn serves(&self) -> bool {
        !self.service_pids().is_empty()
    }

    /// The toy service's processes.
    pub(crate) fn service_pids(&self) -> Vec<u32> {
        let is_service = |pid: &u32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains("/service\0")
        };
        self.all_pids().into_iter().filter(is_service).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.thaw();
        self.signal("KILL", &self.all_pids());
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.wait();
        }
    }
}
