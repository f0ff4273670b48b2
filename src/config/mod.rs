//! The configuration: one TOML file, read once, right by its types afterwards.
//!
//! The text becomes a `raw::Raw`, which mirrors the file key by key and refuses what it does not
//! know; validation turns that into a [`Config`], in which every address parses, every name is
//! unique and every limit is within reason. Nothing past this module checks a setting again.
//! A mistake is answered with the line it stands on and with what to write instead, because the
//! person who reads it is about to start a database and has no patience for riddles.
//!
//! `config/lockstep.toml` lists every key with its default; a test holds it equal to this code.

pub mod agent;

mod validate;

mod address;
mod dialect;
mod lease;
mod live;
mod logins;
mod proxy;
mod raw;

mod reload;
mod tuning;

mod error;
mod secret;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lockstep_protocol::Dialect;
use serde::{Deserialize, Serialize};

pub use error::ConfigError;
pub use lease::{Node, Resource, StandbySessions};
pub use live::{Bounds, Live};
pub use proxy::{OnStandby, Proxy, Witness, WitnessDatabase};
pub use reload::Changes;
pub use secret::Secret;
pub use tuning::{Balancer, Consistency, Journal, Limits, Log, LogFormat, Pool, Reads, Timeouts};

/// Everything lockstep was told, validated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// What the cluster is called, where it listens and where it keeps its state.
    pub cluster: Cluster,
    /// The databases behind the proxy, in the order of the file.
    pub backends: Vec<Backend>,
    /// The superuser for control connections, unless a backend has its own.
    pub admin: Credentials,
    /// Who may log in; each exists on every backend.
    pub users: Vec<User>,
    /// Server connections kept for each user on each backend.
    pub pool: Pool,
    /// How reads are spread and what they are sure to see.
    pub reads: Reads,
    /// Every deadline.
    pub timeouts: Timeouts,
    /// Every bound on memory and numbers.
    pub limits: Limits,
    /// Where /metrics, /healthz and /readyz are served; `None` when switched off.
    pub http: Option<SocketAddr>,
    /// What is logged, and in which form.
    pub log: Log,
    /// The certificate shown to applications; without it they connect unencrypted.
    pub client_tls: Option<ClientTls>,
    /// How much of the journal is kept for backends that are away.
    pub journal: Journal,
    /// This proxy among several.
    pub proxy: Proxy,
    /// What decides where the members of the cluster are halved.
    pub witness: Option<Witness>,
    /// Applications whose sessions follow the lease of their agents.
    pub resources: Vec<Resource>,
}

/// The cluster as a whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// Appears in logs and metrics, and in the identity written to each backend.
    pub name: String,
    /// What all its databases are, and what applications speak to it.
    #[serde(serialize_with = "dialect::word")]
    pub dialect: Dialect,
    /// The one database that applications see.
    pub database: String,
    /// Where PostgreSQL clients connect.
    pub postgres_listen: Vec<SocketAddr>,
    /// Where clients of MariaDB and MySQL connect.
    pub mysql_listen: Vec<SocketAddr>,
    /// Holds the state file: which backends are active.
    pub state_dir: PathBuf,
    /// How users prove who they are, unless a user says otherwise.
    pub auth: AuthMethod,
    /// Who may use the console besides the admin.
    pub console_users: Vec<String>,
    /// Whether a backend that is back returns by itself.
    pub reactivate: Reactivate,
}

/// How a user proves who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMethod {
    /// The password never crosses the wire and cannot be replayed.
    #[serde(rename = "scram-sha-256", alias = "scram")]
    ScramSha256,
    /// For drivers that know nothing newer.
    Md5,
    /// No proof asked: only for networks in which everyone may be anyone.
    Trust,
}

/// What happens when an inactive backend answers again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reactivate {
    /// It catches up and takes part again.
    Auto,
    /// It waits for `ACTIVATE` on the console.
    Manual,
}

/// One database server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backend {
    /// Its name in the console, the metrics and the view; part of its identity.
    pub name: String,
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The database there, where it is not called as the cluster's.
    pub database: Option<String>,
    /// Its part of the reads, relative to the others; 0 means only when no other is left.
    pub weight: u32,
    /// How the way to it is protected.
    pub tls: BackendTls,
    /// Its own superuser, where it is not the cluster's.
    pub admin: Option<Credentials>,
    /// Other credentials on this backend, by the name of the application's user.
    pub users: BTreeMap<String, Credentials>,
}

/// How a connection to a backend is protected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum BackendTls {
    /// Plain text.
    Disable,
    /// Encrypted, without a look at who answers.
    Require,
    /// Encrypted; the certificate is signed by `ca`.
    VerifyCa {
        /// PEM file with the certificates trusted to sign.
        ca: PathBuf,
    },
    /// As `VerifyCa`, and the certificate names the host.
    VerifyFull {
        /// PEM file with the certificates trusted to sign.
        ca: PathBuf,
    },
}

/// A name and the proof of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credentials {
    /// The role.
    pub user: String,
    /// Its password; empty where the backend asks for none.
    pub password: Secret,
}

/// An application's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The role, the same on every backend.
    pub name: String,
    /// Its password; empty only where `auth` is trust.
    pub password: Secret,
    /// How many client connections it may have at once.
    pub max_connections: Option<u32>,
    /// How it proves itself, where it differs from the cluster's way.
    pub auth: Option<AuthMethod>,
}

/// The certificate shown to applications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientTls {
    /// PEM file: the certificate, then those that signed it.
    pub cert: PathBuf,
    /// PEM file: the private key.
    pub key: PathBuf,
    /// Whether a client that asks for no encryption is turned away.
    pub required: bool,
}

impl Config {
    /// Reads and validates a file. Paths in it are relative to the folder it stands in.
    ///
    /// # Errors
    /// What is wrong, on which line, and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(
                format!("cannot be read: {error}"),
                "name an existing file with --config; `config/lockstep.toml` is a sample",
            )
            .in_file(path)
        })?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        Self::parse(&text, folder).map_err(|error| error.in_file(path))
    }

    /// Validates the text of a file; `folder` is where relative paths start.
    ///
    /// # Errors
    /// As [`Config::load`], without the file's name.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        let raw: raw::Raw = toml::from_str(text).map_err(|e| ConfigError::from_toml(&e, text))?;
        validate::config(raw, folder).map_err(|error| error.locate(text))
    }

    /// Every setting as a dotted key and its value, secrets masked: what `SHOW CONFIG` prints.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        match toml::Value::try_from(self) {
            Ok(value) => flatten("", &value, &mut rows),
            Err(error) => rows.push(("error".into(), error.to_string())),
        }
        rows
    }

    /// The credentials of control connections to `backend`.
    #[must_use]
    pub fn admin_of<'a>(&'a self, backend: &'a Backend) -> &'a Credentials {
        backend.admin.as_ref().unwrap_or(&self.admin)
    }

    /// The credentials with which `backend` knows an application's user; `None` for a stranger.
    #[must_use]
    pub fn credentials_of(&self, backend: &Backend, user: &str) -> Option<Credentials> {
        let own = backend.users.get(user).cloned();
        own.or_else(|| {
            let user = self.users.iter().find(|known| known.name == user)?;
            Some(Credentials { user: user.name.clone(), password: user.password.clone() })
        })
    }

    /// A connection URL of the administrator for the database's own tools. It holds the password.
    #[must_use]
    pub fn tools_url(&self, backend: &Backend) -> String {
        let admin = self.admin_of(backend);
        let mode = match &backend.tls {
            BackendTls::Disable => "sslmode=disable".to_owned(),
            BackendTls::Require => "sslmode=require".to_owned(),
            BackendTls::VerifyCa { ca } => {
                format!("sslmode=verify-ca&sslrootcert={}", percent(&ca.display().to_string()))
            }
            BackendTls::VerifyFull { ca } => {
                format!("sslmode=verify-full&sslrootcert={}", percent(&ca.display().to_string()))
            }
        };
        format!(
            "postgresql://{}:{}@{}:{}/{}?{mode}",
            percent(&admin.user),
            percent(admin.password.reveal()),
            percent(&backend.host),
            backend.port,
            percent(self.database_of(backend)),
        )
    }

    /// The database's name on `backend`.
    #[must_use]
    pub fn database_of<'a>(&'a self, backend: &'a Backend) -> &'a str {
        backend.database.as_deref().unwrap_or(&self.cluster.database)
    }

    /// Whether `user` may use the console.
    #[must_use]
    pub fn may_use_console(&self, user: &str) -> bool {
        user == self.admin.user || self.cluster.console_users.iter().any(|known| known == user)
    }
}

/// Percent-encodes what must not be taken for a part of a URL's structure.
fn percent(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

impl BackendTls {
    /// The word for it in the file and in `SHOW` commands.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Require => "require",
            Self::VerifyCa { .. } => "verify-ca",
            Self::VerifyFull { .. } => "verify-full",
        }
    }
}

/// Lists of tables are keyed by name where there is one, so that a row says which backend it means.
fn flatten(prefix: &str, value: &toml::Value, rows: &mut Vec<(String, String)>) {
    let join = |key: &str| {
        if prefix.is_empty() { key.into() } else { format!("{prefix}.{key}") }
    };
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                flatten(&join(key), value, rows);
            }
        }
        toml::Value::Array(items) if items.iter().all(toml::Value::is_table) => {
            for (index, item) in items.iter().enumerate() {
                let name = item.get("name").and_then(toml::Value::as_str);
                flatten(&join(&name.map_or(index.to_string(), str::to_owned)), item, rows);
            }
        }
        toml::Value::String(text) => rows.push((prefix.into(), text.clone())),
        other => rows.push((prefix.into(), other.to_string())),
    }
}

#[cfg(test)]
mod tests;
