//! The sections `[proxy]` and `[witness]`: several proxies in front of the same databases.

use std::path::Path;
use std::time::Duration;

use lockstep_protocol::Dialect;
use serde::{Deserialize, Serialize};

use super::address;
use super::logins::secret;
use super::validate::{Result, name, once_in_url, tls};
use super::{BackendTls, ConfigError, Secret, units};

/// One of several proxies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proxy {
    /// What it is called; nothing where it is the only one.
    pub name: Option<String>,
    /// Where the other proxies reach it: host and port.
    pub advertise: Option<(String, u16)>,
    /// How the way to another proxy is protected.
    pub peer_tls: BackendTls,
    /// What becomes of clients while another proxy writes.
    pub on_standby: OnStandby,
    /// Pause between two signs of life of the proxy that writes.
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    /// A proxy that has shown no sign of life for so long is taken for dead, and takes itself for it.
    #[serde(with = "units::duration")]
    pub takeover_after: Duration,
}

/// What becomes of clients while another proxy writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStandby {
    /// They are connected through to it.
    Forward,
    /// They are connected through to it, and may only read.
    ReadOnly,
    /// They are turned away, so that their driver tries the next address.
    Refuse,
}

/// A third place that has a vote and no data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Witness {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Where it is a database, which one, and as whom.
    pub database: Option<WitnessDatabase>,
    /// The role's password; of `lockstep witness` the secret that it shares with the proxies.
    pub password: Secret,
    /// How the way to it is protected.
    pub tls: BackendTls,
}

/// A PostgreSQL database as a witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WitnessDatabase {
    /// The database.
    pub name: String,
    /// The role, which may make a schema there.
    pub user: String,
}

/// The port of `lockstep witness`, where none is given.
const WITNESS_PORT: u16 = 6440;

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawProxy {
    pub name: Option<String>,
    pub advertise: Option<String>,
    pub peer_tls: Option<String>,
    pub peer_tls_ca: Option<String>,
    pub on_standby: Option<OnStandby>,
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    #[serde(with = "units::duration")]
    pub takeover_after: Duration,
}

impl Default for RawProxy {
    fn default() -> Self {
        Self {
            name: None,
            advertise: None,
            peer_tls: None,
            peer_tls_ca: None,
            on_standby: None,
            heartbeat: Duration::from_millis(500),
            takeover_after: Duration::from_secs(2),
        }
    }
}

impl RawProxy {
    pub(super) fn validate(self, folder: &Path) -> Result<Proxy> {
        let named = |key: &str| {
            let problem =
                format!("`{key}` is for one of several proxies, and this one has no name");
            ConfigError::new(problem, "add `name = \"…\"` to [proxy], different on each proxy")
                .at(format!("proxy.{key}"))
        };
        if self.name.is_none() {
            if self.advertise.is_some() {
                return Err(named("advertise"));
            }
            if self.on_standby.is_some() {
                return Err(named("on_standby"));
            }
        }
        let advertise = self.advertise.map(|text| {
            let at =
                |why: String| ConfigError::new(why, "write \"host:port\"").at("proxy.advertise");
            let place = address::parse(&text).map_err(at)?;
            let port = place.port.ok_or_else(|| at(format!("`{text}` has no port")))?;
            Ok((place.host, port))
        });
        let advertise = advertise.transpose()?;
        let on_standby = self.on_standby.unwrap_or(match advertise {
            Some(_) => OnStandby::Forward,
            None => OnStandby::Refuse,
        });
        if on_standby != OnStandby::Refuse && advertise.is_none() {
            let remedy = "add `advertise = \"host:port\"`, where the other proxies reach this one; or write \
                          on_standby = \"refuse\"";
            return Err(ConfigError::new(
                "proxies that forward must know each other's address",
                remedy,
            )
            .at("proxy.on_standby"));
        }
        let (mode, ca) = (self.peer_tls.as_deref(), self.peer_tls_ca.as_deref());
        Ok(Proxy {
            name: self.name.map(|text| name(text, "proxy.name")).transpose()?,
            advertise,
            peer_tls: tls(mode, ca, "proxy.peer", folder)?,
            on_standby,
            heartbeat: self.heartbeat,
            takeover_after: self.takeover_after,
        })
    }
}

impl OnStandby {
    /// Whether clients are connected through to the proxy that writes.
    #[must_use]
    pub fn connects(self) -> bool {
        self != Self::Refuse
    }
}

impl Proxy {
    /// Whether it is the only one: its state file decides then where the databases alone do not.
    #[must_use]
    pub fn is_lone(&self) -> bool {
        self.name.is_none()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWitness {
    pub url: String,
    pub password: Option<String>,
    pub password_file: Option<String>,
    pub password_env: Option<String>,
}

impl RawWitness {
    pub(super) fn validate(self, proxy: &Proxy, folder: &Path) -> Result<Witness> {
        if proxy.is_lone() {
            let remedy = "add `name = \"…\"` to [proxy], or delete [witness]";
            let problem = "a witness decides between several proxies, and this one has no name";
            return Err(ConfigError::new(problem, remedy).at("witness"));
        }
        let bad = |why: String| {
            let remedy = "write \"postgresql://user:password@host:port/database\", or \"lockstep://host:port\" \
                          for `lockstep witness`";
            ConfigError::new(why, remedy).at("witness.url")
        };
        let daemon = self.url.strip_prefix("lockstep://");
        let url = daemon.map_or(self.url.clone(), |rest| format!("postgresql://{rest}"));
        let place = address::parse(&url).map_err(bad)?;
        if place.dialect != Some(Dialect::Postgres) {
            return Err(bad("a witness is a PostgreSQL database or `lockstep witness`".into()));
        }
        let database = match (daemon, place.user, place.database) {
            (Some(_), None, None) => None,
            (Some(_), ..) => {
                return Err(bad("`lockstep witness` has no users and databases".into()));
            }
            (None, Some(user), Some(name)) => Some(WitnessDatabase { name, user }),
            (None, ..) => return Err(bad("the witness's url names no user or no database".into())),
        };
        let plain = once_in_url("witness", "password", self.password, place.password)?;
        let password = secret(plain, self.password_file, self.password_env, "witness", folder)?;
        let password = password.unwrap_or_default();
        if database.is_none() && password.is_empty() {
            let problem = "the witness and the proxies share no secret";
            let remedy =
                "add `password_file`: the file that `lockstep witness` has as --secret-file";
            return Err(ConfigError::new(problem, remedy).at("witness"));
        }
        let (mode, ca) = (place.sslmode.as_deref(), place.sslrootcert.as_deref());
        Ok(Witness {
            tls: tls(mode, ca, "witness", folder)?,
            host: place.host,
            port: place.port.unwrap_or(if database.is_some() { 5432 } else { WITNESS_PORT }),
            database,
            password,
        })
    }
}
