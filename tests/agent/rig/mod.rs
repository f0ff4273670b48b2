//! The world of one test: a bridge, a database, nodes with agents, and the judge.

mod daemon;
mod database;
mod judge;
mod machine;
mod net;
mod node;
mod page;
mod proxy;
mod service;
mod site;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use database::{Database, Kind};
pub(crate) use machine::Part;
pub(crate) use node::Node;
pub(crate) use site::{Site, Want};

use judge::Evidence;

/// Variables of a process's environment, as `env` takes them.
type Environment = Vec<String>;

/// The address that follows the master, in both families.
pub(crate) const VIP: &str = "10.77.0.100";
pub(crate) const VIP6: &str = "fd77::100";

/// What an agent's file says, besides nodes and database.
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) nodes: usize,
    /// The lines of `[agent]` about times.
    pub(crate) times: &'static str,
    /// More lines of `[agent]`.
    pub(crate) agent: String,
    /// Lines of the first `[[resource]]`.
    pub(crate) resource: String,
    /// Whole sections, at the end.
    pub(crate) more: String,
    /// The `[[node]]` sections, where they are not the usual ones.
    pub(crate) node_sections: Option<String>,
    /// URLs in place of the database's.
    pub(crate) urls: Option<Vec<String>>,
    /// The agents may make cgroups; else their processes are told by what they inherit.
    pub(crate) cgroups: bool,
    /// Two databases, with `lockstep proxy` in front of them.
    pub(crate) through_proxy: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            kind: Kind::Postgres,
            nodes: 2,
            times: "ttl = \"3s\"\nrenew = \"500ms\"\nwatch = \"250ms\"\nstop_budget = \"1s\"",
            agent: String::new(),
            resource: String::new(),
            more: String::new(),
            node_sections: None,
            urls: None,
            cgroups: false,
            through_proxy: false,
        }
    }
}

pub(crate) struct World {
    // In the order in which they go.
    pub(crate) nodes: Vec<Node>,
    judge: judge::Judge,
    proxy: Option<proxy::Proxy>,
    pub(crate) database: Database,
    pub(crate) net: net::Net,
    folder: tempfile::TempDir,
}

impl World {
    /// A world with a running database and nodes whose agents do not run yet. `None` where there can
    /// be no namespaces, and that is known.
    pub(crate) fn build(plan: &Plan) -> Option<Self> {
        if has_no_namespaces() {
            return None;
        }
        let folder = world_folder();
        let net = net::Net::build(plan.nodes);
        let database = Database::start(plan.kind, &net, folder.path());
        let proxy = plan.through_proxy.then(|| proxy::Proxy::start(&net, &database, folder.path()));
        let config = folder.path().join("agent.toml");
        std::fs::write(&config, file(plan, &database, folder.path())).unwrap();
        let client =
            if plan.through_proxy { proxy::CLIENT.into() } else { database.client_command() };
        service::write(folder.path(), &client);
        let nodes: Vec<Node> =
            (1..=plan.nodes).map(|n| Node::new(n, &net, folder.path(), plan.cgroups)).collect();
        let second = proxy.as_ref().map(|proxy| &proxy.second);
        let databases = std::iter::once(&database).chain(second);
        let clerks = databases.map(|database| database.clerk().clone()).collect();
        let judge = judge::Judge::watch(net.node_spaces(), clerks);
        Some(Self { nodes, judge, proxy, database, net, folder })
    }

    /// The same, with all agents running and the first node the master.
    pub(crate) fn ready(plan: &Plan) -> Option<Self> {
        let world = Self::build(plan)?;
        // Else the wanted node may be busy making tables when another one is ready.
        world.tool("init");
        for node in &world.nodes {
            node.start();
        }
        world.wait_for_master(1);
        for node in &world.nodes[1..] {
            node.wait_for_role("standby");
        }
        Some(world)
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    pub(crate) fn wait_for_master(&self, number: usize) {
        self.node(number).wait_for_role("master");
    }

    /// Waits until the other nodes are known to be able to take over.
    pub(crate) fn wait_for_standbys(&self, number: usize, count: usize) {
        let node = self.node(number);
        wait_until(
            20,
            || format!("n{number} sees {count} standbys: {:?}", node.status()),
            || {
                let status = node.status();
                status["standbys"].as_array().is_some_and(|list| list.len() == count)
            },
        );
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What a tool of the agent says; it must succeed.
    pub(crate) fn tool(&self, words: &str) -> String {
        let output = self.try_tool(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "agent {words}: {text}{wrong}");
        text
    }

    pub(crate) fn try_tool(&self, words: &str) -> Output {
        let mut command = self.net.inside("hub", lockstep());
        command.arg("agent").args(words.split_whitespace());
        command.arg("--config").arg(self.path().join("agent.toml"));
        command.output().unwrap()
    }

    /// The second database of two.
    pub(crate) fn second(&self) -> &Database {
        &self.proxy.as_ref().expect("two databases").second
    }

    /// For how long nobody served between two terms that follow each other, in seconds.
    pub(crate) fn gaps(&self) -> Vec<f64> {
        self.evidence().gaps()
    }

    /// How the service's terms went so far: (epoch, node), in order.
    pub(crate) fn terms(&self) -> Vec<(i64, String)> {
        self.evidence().terms()
    }

    fn evidence(&self) -> Evidence {
        Evidence::gather(self.path(), &BTreeMap::new())
    }

    /// The verdict over the whole test.
    pub(crate) fn judge(mut self) {
        for node in &self.nodes {
            node.thaw();
        }
        let mut evidence = self.evidence();
        let second = self.proxy.as_ref().map(|proxy| &proxy.second);
        for database in std::iter::once(&self.database).chain(second).filter(|d| d.is_up()) {
            evidence.ask("the database", database.clerk());
        }
        let mut wrong = self.judge.end();
        wrong.extend(evidence.wrong_services());
        wrong.extend(evidence.wrong_writes());
        assert_eq!(wrong, Vec::<String>::new());
    }

    /// Everything the agents logged, for messages.
    pub(crate) fn logs(&self) -> String {
        self.nodes.iter().map(|node| format!("--- {}\n{}", node.name, node.log())).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

fn file(plan: &Plan, database: &Database, folder: &Path) -> String {
    let url = || if plan.through_proxy { proxy::URL.into() } else { database.url() };
    let urls = plan.urls.clone().unwrap_or_else(|| vec![url()]);
    let nodes = plan.node_sections.clone().unwrap_or_else(|| {
        let section = |n| {
            let role = if n == 1 { "master" } else { "failover" };
            format!("[[node]]\nname = \"n{n}\"\nrole = \"{role}\"\npriority = {}\n", 100 - 10 * n)
        };
        (1..=plan.nodes).map(section).collect()
    });
    let service = folder.join("service");
    format!(
        "[agent]\ndatabase = {urls:?}\n{}\nwatchdog = \"off\"\nhttp = \"127.0.0.1:8008\"\n\
         state_dir = \"state\"\n{}\n{nodes}\n[[resource]]\nname = \"app\"\nstart_retry = \"3s\"\n\
         min_role_time = \"1s\"\n{}\n\
         [[service]]\nname = \"toy\"\ncommand = [\"{}\"]\nstop_timeout = \"1s\"\n{}\n\
         [log]\nlevel = \"info,lockstep::agent=debug\"\n",
        plan.times,
        plan.agent,
        plan.resource,
        service.display(),
        plan.more
    )
}

/// Whether there can be no namespaces, and that is known.
fn has_no_namespaces() -> bool {
    let known = std::env::var_os("LOCKSTEP_NO_NETNS").is_some();
    if known {
        eprintln!("NOT TESTED: LOCKSTEP_NO_NETNS says that there are no namespaces here");
    }
    known
}

/// A folder of a test, which servers that are somebody else may read.
fn world_folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("lsa").tempdir_in("/tmp").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    folder
}

/// Waits until something is so; else fails with the words.
pub(crate) fn wait_until(
    seconds: u64,
    what: impl Fn() -> String,
    mut is_so: impl FnMut() -> bool,
) -> Duration {
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    loop {
        if is_so() {
            return begun.elapsed();
        }
        assert!(Instant::now() < end, "after {seconds} s: {}", what());
        std::thread::sleep(Duration::from_millis(25));
    }
}

pub(crate) fn lockstep() -> &'static str {
    env!("CARGO_BIN_EXE_lockstep")
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {wrong}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A number that no other world of this process has.
pub(crate) fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The folder of PostgreSQL's programs.
pub(crate) fn postgres_programs() -> PathBuf {
    if let Some(path) = std::env::var_os("LOCKSTEP_PG_BIN") {
        return path.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    let asked = Command::new("pg_config").arg("--bindir").output();
    found.extend(asked.ok().map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim())));
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found
        .pop()
        .expect("PostgreSQL's programs: install the package postgresql, or set LOCKSTEP_PG_BIN")
}
