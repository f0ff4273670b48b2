//! Network namespaces on one bridge. Nothing leaves them, and they go with the value.

use std::process::Command;

use super::{run, unique};

pub(crate) struct Net {
    prefix: String,
    nodes: usize,
}

impl Net {
    pub(crate) fn build(nodes: usize) -> Self {
        let net = Self { prefix: format!("ls{}-{}", std::process::id(), unique()), nodes };
        let ip = |words: &str| {
            let output = Command::new("ip").args(words.split_whitespace()).output();
            let output = output.expect("ip: install the package iproute2");
            let wrong = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "ip {words}: {wrong}(network namespaces need root; LOCKSTEP_NO_NETNS=1 does without \
                 these tests)"
            );
        };
        let hub = net.space("hub");
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link set lo up"));
        ip(&format!("-n {hub} link add br0 type bridge"));
        ip(&format!("-n {hub} addr add 10.77.0.1/24 dev br0"));
        ip(&format!("-n {hub} addr add 10.77.0.2/24 dev br0"));
        ip(&format!("-n {hub} addr add fd77::1/64 dev br0 nodad"));
        ip(&format!("-n {hub} link set br0 up"));
        for n in 1..=nodes {
            let space = net.space(&format!("n{n}"));
            ip(&format!("netns add {space}"));
            ip(&format!("-n {space} link set lo up"));
            ip(&format!("-n {hub} link add p{n} type veth peer name eth0 netns {space}"));
            ip(&format!("-n {hub} link set p{n} master br0"));
            ip(&format!("-n {hub} link set p{n} up"));
            ip(&format!("-n {space} addr add 10.77.0.{}/24 dev eth0", 10 + n));
            ip(&format!("-n {space} addr add fd77::{}/64 dev eth0 nodad", 10 + n));
            ip(&format!("-n {space} link set eth0 up"));
        }
        net
    }

    /// The real name of a namespace: `hub` or `n1` and so on.
    pub(crate) fn space(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn node_spaces(&self) -> Vec<String> {
        (1..=self.nodes).map(|n| self.space(&format!("n{n}"))).collect()
    }

    /// A program inside of a namespace, which dies with the test's thread.
    pub(crate) fn inside(&self, space: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(space), program]);
        command
    }

    /// Pulls a node's cable out.
    pub(crate) fn cut(&self, node: usize) {
        run(Command::new("ip")
            .args(["-n", &self.space("hub"), "link", "set"])
            .args([&format!("p{node}"), "down"]));
    }

    /// What one node sends to another is lost, and only that: links need not be cut in both directions.
    pub(crate) fn deafen(&self, to: usize, from: usize) {
        self.route(from, to, "add");
    }

    /// It arrives again.
    pub(crate) fn listen(&self, to: usize, from: usize) {
        self.route(from, to, "del");
    }

    fn route(&self, from: usize, to: usize, what: &str) {
        let (space, to) = (self.space(&format!("n{from}")), format!("10.77.0.{}/32", 10 + to));
        run(Command::new("ip").args(["-n", &space, "route", what, "blackhole", &to]));
    }

    /// Puts it in again.
    pub(crate) fn mend(&self, node: usize) {
        run(Command::new("ip")
            .args(["-n", &self.space("hub"), "link", "set"])
            .args([&format!("p{node}"), "up"]));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in self.node_spaces().into_iter().chain([self.space("hub")]) {
            // Whatever still runs in it would keep it.
            let pids = Command::new("ip").args(["netns", "pids", &space]).output();
            let pids = pids.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            for pid in pids.unwrap_or_default().split_whitespace() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
            let _ = Command::new("ip").args(["netns", "del", &space]).status();
        }
    }
}
