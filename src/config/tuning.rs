//! The sections that have a default for every key: how much, how long, how often.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units;

/// Server connections kept for each user on each backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// The most connections of one user to one backend.
    #[serde(alias = "default_pool_size")]
    pub size: u32,
    /// How long a client waits for a free connection before it gets an error.
    #[serde(with = "units::duration")]
    pub checkout_timeout: Duration,
    /// An unused connection is closed after this.
    #[serde(with = "units::duration", alias = "server_idle_timeout")]
    pub idle_timeout: Duration,
    /// A connection is closed at the first chance after this.
    #[serde(with = "units::duration", alias = "server_lifetime")]
    pub max_lifetime: Duration,
    /// Prepared statements kept on one server connection.
    pub prepared_statements: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            size: 20,
            checkout_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(3600),
            prepared_statements: 500,
        }
    }
}

/// How reads are spread and what they are sure to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reads {
    /// Which active backend gets a read.
    pub balancer: Balancer,
    /// What a session's reads see, unless the session says otherwise.
    pub consistency: Consistency,
}

impl Default for Reads {
    fn default() -> Self {
        Self { balancer: Balancer::Load, consistency: Consistency::Strong }
    }
}

/// Which active backend gets a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancer {
    /// The less loaded of two drawn at random.
    Load,
    /// The one with the fewest reads under way.
    Least,
    /// One after the other.
    #[serde(alias = "round_robin")]
    RoundRobin,
    /// Any, by weight.
    Random,
    /// Always the first with the highest weight.
    Simple,
}

/// What a read is sure to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Every commit that any client can have seen.
    Strong,
    /// The session's own writes, and never an older state than it saw before.
    Session,
    /// Some committed state.
    Eventual,
}

impl Consistency {
    /// The level of this name.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "strong" => Some(Self::Strong),
            "session" => Some(Self::Session),
            "eventual" => Some(Self::Eventual),
            _ => None,
        }
    }
}

/// Every deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To open a connection to a backend.
    #[serde(with = "units::duration", alias = "connect_timeout")]
    pub connect: Duration,
    /// For a client to finish logging in.
    #[serde(with = "units::duration", alias = "client_login_timeout")]
    pub login: Duration,
    /// A backend that owes an answer for this long is taken for dead.
    #[serde(with = "units::duration")]
    pub dead_after: Duration,
    /// Between two health checks of one backend.
    #[serde(with = "units::duration", alias = "health_check_period")]
    pub probe_interval: Duration,
    /// For one health check, and for any other question that the proxy has of its own.
    #[serde(with = "units::duration", alias = "health_check_timeout")]
    pub probe_timeout: Duration,
    /// How long a follower may wait for a row lock before its share is put off to the commit.
    #[serde(with = "units::duration")]
    pub follower_lock: Duration,
    /// For transactions under way to end when the proxy is told to stop.
    #[serde(with = "units::duration")]
    pub shutdown_grace: Duration,
    /// How long a client is kept waiting while no backend is active.
    #[serde(with = "units::duration")]
    pub hold: Duration,
    /// How long a starting proxy waits for all members of the last view before it serves without
    /// those that are not the newest.
    #[serde(with = "units::duration")]
    pub startup_wait: Duration,
    /// A transaction in which the client says nothing for this long is rolled back.
    #[serde(with = "units::optional_duration", alias = "idle_transaction_timeout")]
    pub idle_in_transaction: Option<Duration>,
    /// How long single INSERTs of several clients wait together for a lock before each goes its own
    /// way.
    #[serde(with = "units::duration")]
    pub group_wait: Duration,
    /// How long a change of the schema waits, on each server, for reads of the same tables that are under
    /// way there.
    #[serde(with = "units::duration")]
    pub schema_lock: Duration,
    /// How long a write waits for a table that another session has locked (LOCK TABLES), and such a lock
    /// for writes that are under way.
    #[serde(with = "units::duration")]
    pub table_lock: Duration,
    /// How long those who begin something on a new leader wait for the transactions that were open on the former one.
    #[serde(with = "units::duration")]
    pub carry_over: Duration,
    /// How long commits may be held while a backend rejoins, before the attempt is given up.
    #[serde(with = "units::duration")]
    pub gate: Duration,
    /// How long the change of an agents' lease waits for the end of the former holder's sessions,
    /// before it is refused.
    #[serde(with = "units::duration")]
    pub fence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            login: Duration::from_secs(60),
            dead_after: Duration::from_secs(10),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(3),
            follower_lock: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(30),
            hold: Duration::from_secs(30),
            startup_wait: Duration::from_secs(10),
            idle_in_transaction: None,
            group_wait: Duration::from_millis(50),
            table_lock: Duration::from_secs(50),
            schema_lock: Duration::from_secs(30),
            carry_over: Duration::from_secs(2),
            gate: Duration::from_secs(5),
            fence: Duration::from_secs(5),
        }
    }
}

/// Every bound on memory and numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections at once.
    #[serde(alias = "max_client_conn")]
    pub max_clients: usize,
    /// The longest message taken from a client or a backend.
    #[serde(with = "units::size")]
    pub max_message_bytes: usize,
    /// The longest start-up packet, before anyone has proved anything.
    #[serde(with = "units::size")]
    pub max_startup_bytes: usize,
    /// Changed rows of one open transaction kept in memory for the followers.
    #[serde(with = "units::size")]
    pub max_transaction_effects_bytes: usize,
    /// Answer bytes gathered before they are written to the client.
    #[serde(with = "units::size")]
    pub reply_buffer_bytes: usize,
    /// Analysed statement texts remembered, for all clients together.
    pub max_statement_cache: usize,
    /// How many single INSERTs of different clients may share one transaction when there are many at
    /// once; 1: each is its own.
    pub group_commit: usize,
    /// Prepared statements of one client.
    pub max_prepared_per_client: usize,
    /// Threads that serve clients; 0: half of the processors, and one at the least.
    pub worker_threads: usize,
}

impl Limits {
    /// How many threads serve clients. They do little but hand on bytes: where the databases or the
    /// applications share the machine, more of them only take turns.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2)),
            given => given,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            max_message_bytes: 1 << 30,
            max_startup_bytes: 10_000,
            max_transaction_effects_bytes: 256 << 20,
            reply_buffer_bytes: 64 << 10,
            max_statement_cache: 10_000,
            group_commit: 64,
            max_prepared_per_client: 10_000,
            worker_threads: 0,
        }
    }
}

/// What is logged, and in which form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,lockstep::keeper=debug`.
    pub level: String,
    /// For people or for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much of the journal is kept for backends that are away.
///
/// The journal is pruned once every backend has a record. While one is away it grows up to these
/// bounds; past the first of them the oldest records go, and that backend can no longer return by
/// replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// The most records.
    pub max_records: u64,
    /// The most bytes of records.
    #[serde(with = "units::size")]
    pub max_bytes: usize,
    /// Records kept though every backend has them, for clients that ask after a lost answer.
    pub keep_records: u64,
    /// A backend away for longer no longer holds records back.
    #[serde(with = "units::duration")]
    pub keep_while_away: Duration,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            max_records: 10_000_000,
            max_bytes: 8 << 30,
            keep_records: 10_000,
            keep_while_away: Duration::from_secs(24 * 3600),
        }
    }
}
