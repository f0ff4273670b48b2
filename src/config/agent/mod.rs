//! The configuration of the agents: one file, the same on every node.
//!
//! A node finds itself in it by its name. As with the proxy's file, nothing past this module checks
//! a setting again; `config/agent.toml` lists every key with its default.

mod parts;
mod period;
mod raw;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_protocol::Dialect;

use super::{BackendTls, ConfigError, Log, Secret};

pub use parts::{
    Action, Alert, AlertWay, Check, CheckKind, Program, Service, ServiceKind, Vip, VipWay, When,
};
pub use period::Period;

/// Everything the agents were told, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// What holds for the agent as a whole.
    pub agent: Settings,
    /// The nodes, in the order of the file.
    pub nodes: Vec<Node>,
    /// What is to run on one node at a time.
    pub resources: Vec<Resource>,
    /// Whom to tell.
    pub alerts: Vec<Alert>,
    /// What is logged, and in which form.
    pub log: Log,
}

/// A database that holds the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// What is spoken there.
    pub dialect: Dialect,
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The database there.
    pub database: String,
    /// As whom to log in.
    pub user: String,
    /// The proof of it.
    pub password: Secret,
    /// How the way to it is protected.
    pub tls: BackendTls,
}

impl std::fmt::Display for Store {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// What holds for the agent as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the lease is kept: ways to one and the same database, tried in this order.
    pub stores: Vec<Store>,
    /// Holds what must outlive the process: the highest epoch that was seen.
    pub state_dir: PathBuf,
    /// Where `/primary`, `/replica` and the like are served; `None` when switched off.
    pub http: Option<SocketAddr>,
    /// How long a master acts after it began to renew.
    pub ttl: Duration,
    /// How often it renews, and every node says that it lives.
    pub renew: Duration,
    /// How often the others look.
    pub watch: Duration,
    /// Time before the deadline at which a master that could not renew begins to stop.
    pub stop_budget: Duration,
    /// What must be left of the lease for a start to begin.
    pub margin: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// How long it may take to connect.
    pub connect_timeout: Duration,
    /// How many checks run at once.
    pub max_parallel: usize,
    /// How many events are kept in the database, for each resource.
    pub history: u32,
    /// How many resources one node takes.
    pub max_resources: usize,
    /// The kernel's watchdog.
    pub watchdog: Watchdog,
}

/// The kernel's watchdog: it restarts a machine whose agent does not say that all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watchdog {
    /// Not used.
    Off,
    /// Used where there is one.
    Auto(PathBuf),
    /// No node is the master without one.
    Required(PathBuf),
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name: the host name, unless `--node` says otherwise.
    pub name: String,
    /// What it may become.
    pub mode: Mode,
    /// The higher, the sooner it is the master.
    pub priority: i32,
    /// Where it is, for people and hooks.
    pub address: String,
}

/// What a node may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The master.
    Normal,
    /// The master when nobody else is left; it should write nothing then.
    ReadOnly,
    /// Nothing: it watches.
    Observer,
}

impl Mode {
    /// The word for it in the file and in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ReadOnly => "read-only",
            Self::Observer => "observer",
        }
    }
}

/// What runs on one node at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Its name, the key of its row.
    pub name: String,
    /// The node that is to have it where all are well.
    pub home: Option<String>,
    /// How long a node of higher priority must be well before it asks to have it back.
    pub failback: Option<Duration>,
    /// When it may be asked back; at any time where nothing is said.
    pub failback_window: Option<Period>,
    /// The node whose part this is, of what runs on all nodes.
    pub only: Option<String>,
    /// Whether it moves without being told.
    pub auto_failover: bool,
    /// An agent that ends in maintenance leaves the services running, and the next one goes on with them.
    pub adopt: bool,
    /// A master keeps its role at least so long, unless it fails.
    pub min_role_time: Duration,
    /// So many failovers within `flap_window` hold back what is not necessary.
    pub flap_limit: usize,
    /// See `flap_limit`.
    pub flap_window: Duration,
    /// How long a node that could not start leaves it to others.
    pub start_retry: Duration,
    /// Before services start: makes sure that the former master is gone. Its failure ends the start.
    pub fence: Option<Program>,
    /// After everything is up.
    pub on_promote: Option<Program>,
    /// Before anything is stopped.
    pub on_demote: Option<Program>,
    /// When processes survive their end.
    pub on_stuck: Option<Program>,
    /// What to start, in this order, and to stop in the other.
    pub services: Vec<Service>,
    /// The addresses that follow the master.
    pub vips: Vec<Vip>,
    /// What is looked at.
    pub checks: Vec<Check>,
}

impl AgentConfig {
    /// Reads and validates a file. Paths in it are relative to the folder it stands in.
    ///
    /// # Errors
    /// What is wrong, on which line, and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(
                format!("cannot be read: {error}"),
                "name an existing file with --config; `config/agent.toml` is a sample",
            )
            .in_file(path)
        })?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        Self::parse(&text, folder).map_err(|error| error.in_file(path))
    }

    /// Validates the text of a file; `folder` is where relative paths start.
    ///
    /// # Errors
    /// As [`AgentConfig::load`], without the file's name.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        let raw: Result<raw::Raw, _> = toml::from_str(text);
        let raw = raw.map_err(|e| ConfigError::from_toml(&e, text).with_sample(SAMPLE))?;
        validate::config(raw, folder).map_err(|error| error.locate(text))
    }

    /// The node of that name.
    ///
    /// # Errors
    /// If the file does not know it.
    pub fn node(&self, name: &str) -> Result<&Node, ConfigError> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            ConfigError::new(
                format!("no [[node]] is called `{name}`"),
                format!(
                    "say with --node which of `{}` this machine is, or add a [[node]]",
                    known.join("`, `")
                ),
            )
        })
    }
}

const SAMPLE: &str = "config/agent.toml";

#[cfg(test)]
mod tests;
