//! What belongs to a resource: services, addresses, checks; and whom to tell.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::config::Secret;

/// A program with its arguments, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// After this it is killed, and has failed.
    pub timeout: Duration,
}

/// One thing to start and to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name, in logs and for checks.
    pub name: String,
    /// How it runs.
    pub kind: ServiceKind,
    /// How long its start may take.
    pub start_timeout: Duration,
    /// How long its stop may take before it is killed.
    pub stop_timeout: Duration,
    /// An address that takes connections once it is up.
    pub ready: Option<String>,
    /// How often it is restarted here within `restart_window` before the resource moves.
    pub restart_limit: usize,
    /// See `restart_limit`.
    pub restart_window: Duration,
}

/// How a service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// A process that the agent starts and keeps: it ends with its whole tree.
    Exec {
        /// What runs.
        command: Vec<String>,
        /// What asks it to stop; SIGTERM where there is none.
        stop: Option<Vec<String>>,
    },
    /// A unit of systemd.
    Systemd {
        /// Its name.
        unit: String,
    },
    /// Two programs, each of which ends: a mount, a route, a script of another cluster manager.
    Script {
        /// Brings it up.
        start: Vec<String>,
        /// Takes it down.
        stop: Vec<String>,
    },
}

/// An address that follows the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// How it is moved.
    pub way: VipWay,
}

/// How an address is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VipWay {
    /// On an interface of this machine.
    Interface {
        /// Its name; where there is none, the interface with an address in the same network.
        name: Option<String>,
        /// How long each answer to the question whether the address is in use is waited for; 0: it
        /// is not asked.
        probe: Duration,
        /// How often it is announced after it moved.
        announce: u32,
        /// How often it is announced again while it is held.
        refresh: Duration,
    },
    /// By a program that is called with `add`, `del` or `status`, and the address.
    Program(Program),
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What it looks at.
    pub kind: CheckKind,
    /// When it is looked at.
    pub when: When,
    /// How often.
    pub interval: Duration,
    /// After this it has failed.
    pub timeout: Duration,
    /// So many failures in a row count as one.
    pub fail_after: u32,
    /// So many successes in a row end it.
    pub pass_after: u32,
    /// So many failures are told to people: in a row, or within `alert_window`.
    pub alert_after: u32,
    /// See `alert_after`.
    pub alert_window: Option<Duration>,
    /// People are told only then.
    pub period: Option<super::Period>,
    /// While it lasts it is told again after this; never where there is none.
    pub alert_every: Option<Duration>,
    /// Whether people are told when it is over.
    pub up_alert: bool,
    /// What is done about it.
    pub action: Action,
    /// Which service is restarted; the last one where none is named.
    pub service: Option<String>,
    /// Takes so much from the node's priority while it fails, instead of its health.
    pub weight: Option<i32>,
    /// Another check; while that one fails, this one is not looked at.
    pub depends: Option<String>,
}

/// What a check looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// A connection can be opened.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// A page answers.
    Http {
        /// Its URL, http or https.
        url: String,
        /// The status that is expected.
        status: u16,
        /// A text that its body has.
        body: Option<String>,
    },
    /// A database answers.
    Sql {
        /// Where, with user and password.
        store: Box<super::Store>,
        /// The question.
        query: String,
        /// What its first value is; anything where nothing is said.
        expect: Option<String>,
    },
    /// A program: 0 is well, 1 a warning, anything else a failure.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// Processes are there.
    Process {
        /// The file with the number of one.
        pidfile: Option<PathBuf>,
        /// What it is called.
        name: Option<String>,
        /// How many there must be.
        at_least: usize,
    },
    /// At least one of some addresses answers an echo.
    Ping {
        /// The addresses.
        targets: Vec<IpAddr>,
    },
    /// There is a default route.
    Route {
        /// Through this interface, where it matters.
        interface: Option<String>,
    },
    /// An interface is up and has a carrier.
    Link {
        /// Its name.
        interface: String,
    },
    /// A filesystem has room and can be written to.
    Disk {
        /// A folder on it.
        path: PathBuf,
        /// How much of it must be free, in per cent.
        free_percent: u8,
    },
    /// The machine is not overloaded.
    Load {
        /// The load of one minute, for each processor.
        most: f64,
    },
    /// Nobody else answers for the resource's addresses.
    Vip {
        /// Which.
        vips: Vec<Vip>,
    },
    /// A file is there.
    File {
        /// The file.
        path: PathBuf,
        /// Not older than this.
        max_age: Option<Duration>,
    },
}

impl CheckKind {
    /// The word for it in the file and in tables.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
            Self::Sql { .. } => "sql",
            Self::Exec { .. } => "exec",
            Self::Process { .. } => "process",
            Self::Ping { .. } => "ping",
            Self::Route { .. } => "route",
            Self::Link { .. } => "link",
            Self::Disk { .. } => "disk",
            Self::Load { .. } => "load",
            Self::Vip { .. } => "vip",
            Self::File { .. } => "file",
        }
    }
}

/// When a check is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Always.
    Always,
    /// While this node is the master.
    Master,
    /// While it stands by.
    Standby,
    /// While it stands by; as long as it fails, the node does not become the master.
    PrePromote,
}

/// What is done about a check that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing but a line in the log.
    Log,
    /// People are told.
    Alert,
    /// A service is restarted; when that was done too often, the resource moves.
    Restart,
    /// The resource moves, and the node is not ready until the check passes.
    Failover,
    /// As `failover`, and the node stays out until `lockstep agent clear`.
    Standby,
}

/// Whom to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Its name, in logs.
    pub name: String,
    /// Which events are told; all where the list is empty.
    pub events: Vec<String>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How often it is tried.
    pub attempts: u32,
    /// By what.
    pub way: AlertWay,
}

/// How people are told.
#[derive(Debug, Clone, PartialEq)]
pub enum AlertWay {
    /// By a program, with the event in its environment.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// By a request with JSON.
    Webhook {
        /// Where to.
        url: String,
        /// Signs the body: `X-Lockstep-Signature` is HMAC-SHA256 of it.
        secret: Secret,
    },
    /// By mail.
    Smtp {
        /// `host:port` of the server.
        server: String,
        /// How the way to it is protected: `starttls`, `tls` or `none`.
        tls: String,
        /// As whom to log in; nobody where it is empty.
        user: String,
        /// The proof of it.
        password: Secret,
        /// From whom.
        from: String,
        /// To whom.
        to: Vec<String>,
    },
}
