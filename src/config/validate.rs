//! From the file's keys to a [`Config`] that is right by its types.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lockstep_protocol::Dialect;

use super::logins::{credentials, references, shared_admin, users};
use super::raw::{OneOrMany, Raw, RawBackend, RawCluster, WordOr};
use super::{
    AuthMethod, Backend, BackendTls, ClientTls, Cluster, Config, ConfigError, Credentials,
    Reactivate, Secret, address, dialect, lease,
};

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

/// The name of the console, which answers on the same port as the application's database.
const CONSOLE_DATABASE: &str = "lockstep";
const DEFAULT_HTTP: &str = "127.0.0.1:9632";
const DEFAULT_STATE_DIR: &str = "/var/lib/lockstep";

/// Turns the file into a configuration. Relative paths start at `folder`.
pub(super) fn config(raw: Raw, folder: &Path) -> Result<Config> {
    let dialect = dialect::of(&raw.backend, &raw.cluster)?;
    let cluster = cluster(raw.cluster, dialect, raw.database, raw.listen, folder)?;
    let backends = backends(raw.backend, dialect, folder)?;
    let admin = match raw.admin {
        Some(admin) => credentials(admin, "admin", folder)?,
        None => shared_admin(&backends)?,
    };
    let users = users(raw.user, &cluster, folder)?;
    let http = http(raw.http)?;
    let client_tls = raw.client_tls.map(|tls| ClientTls {
        cert: path(folder, &tls.cert),
        key: path(folder, &tls.key),
        required: tls.required,
    });
    let proxy = raw.proxy.validate(folder)?;
    let witness = raw.witness.map(|witness| witness.validate(&proxy, folder)).transpose()?;
    let resources = lease::resources(raw.resource, &users)?;
    let config = Config {
        proxy,
        witness,
        resources,
        cluster,
        backends,
        admin,
        users,
        pool: raw.pool,
        reads: raw.reads,
        timeouts: raw.timeouts,
        limits: raw.limits,
        http,
        log: raw.log,
        client_tls,
        journal: raw.journal,
    };
    references(&config)?;
    bounds(&config)?;
    Ok(config)
}

fn cluster(
    raw: RawCluster,
    dialect: Dialect,
    short_database: Option<String>,
    short_listen: Option<OneOrMany>,
    folder: &Path,
) -> Result<Cluster> {
    let database = once("database", short_database, raw.database)?.ok_or_else(|| {
        ConfigError::new("no database is named", "add `database = \"…\"` at the top of the file")
    })?;
    if database.is_empty() || database == CONSOLE_DATABASE {
        return Err(ConfigError::new(
            format!("`{database}` cannot be the cluster's database: that name is the console's"),
            "give the application's database another name",
        )
        .at("cluster.database"));
    }
    let (postgres_listen, mysql_listen) =
        dialect::listen(dialect, short_listen, raw.postgres_listen, raw.mysql_listen)?;
    Ok(Cluster {
        name: name(raw.name.unwrap_or_else(|| "lockstep".into()), "cluster.name")?,
        dialect,
        database,
        postgres_listen,
        mysql_listen,
        state_dir: path(folder, raw.state_dir.as_deref().unwrap_or(DEFAULT_STATE_DIR)),
        auth: raw.auth.unwrap_or(AuthMethod::ScramSha256),
        console_users: raw.console_users,
        reactivate: raw.reactivate.unwrap_or(Reactivate::Auto),
    })
}

/// A value that may stand at the top or in `[cluster]`, but not in both.
pub(super) fn once<T>(key: &str, short: Option<T>, long: Option<T>) -> Result<Option<T>> {
    if short.is_some() && long.is_some() {
        return Err(ConfigError::new(
            format!("`{key}` is given at the top and again in [cluster]"),
            "delete one of them",
        )
        .at(key));
    }
    Ok(short.or(long))
}

fn backends(raw: Vec<WordOr<RawBackend>>, dialect: Dialect, folder: &Path) -> Result<Vec<Backend>> {
    if raw.is_empty() {
        return Err(ConfigError::new(
            "no backend is named",
            "add a `[[backend]]` with `url = \"postgresql://host:port/database\"` for each database",
        ));
    }
    let mut backends: Vec<Backend> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("backend.{index}");
        let raw = match raw {
            WordOr::Word(url) => RawBackend { url: Some(url), ..RawBackend::default() },
            WordOr::Table(table) => table,
        };
        let backend = backend(raw, &key, dialect, folder)?;
        if let Some(twin) = backends.iter().find(|other| other.name == backend.name) {
            return Err(ConfigError::new(
                format!("two backends are called `{}`", twin.name),
                "give each `[[backend]]` a `name` of its own",
            )
            .at(format!("{key}.name")));
        }
        let at = |other: &&Backend| (&other.host, other.port) == (&backend.host, backend.port);
        if let Some(twin) = backends.iter().find(at) {
            return Err(ConfigError::new(
                format!("`{}` and `{}` are the same server", twin.name, backend.name),
                "every backend must be a server of its own, else one loss takes both",
            )
            .at(format!("{key}.url")));
        }
        backends.push(backend);
    }
    Ok(backends)
}

fn backend(raw: RawBackend, key: &str, dialect: Dialect, folder: &Path) -> Result<Backend> {
    let form = "write `url = \"postgresql://host:5432/database\"` (or mysql://) or `address = \"host:5432\"`";
    let (field, text) = match (raw.url, raw.address) {
        (Some(url), None) => ("url", url),
        (None, Some(address)) => ("address", address),
        (None, None) => return Err(ConfigError::new("a backend has no address", form).at(key)),
        (Some(_), Some(_)) => {
            let problem = "a backend has both `url` and `address`";
            return Err(ConfigError::new(problem, "delete one of them").at(format!("{key}.url")));
        }
    };
    let place = address::parse(&text)
        .map_err(|problem| ConfigError::new(problem, form).at(format!("{key}.{field}")))?;
    let port = place.port.unwrap_or_else(|| dialect::port(dialect));
    let mode = once_in_url(key, "tls", raw.tls, place.sslmode)?;
    let ca = once_in_url(key, "tls_ca", raw.tls_ca, place.sslrootcert)?;
    let admin = match (raw.admin, place.user) {
        (Some(_), Some(_)) => {
            let problem = "a backend has an admin both in its url and in `admin`";
            return Err(ConfigError::new(problem, "delete one of them").at(format!("{key}.admin")));
        }
        (Some(admin), None) => Some(credentials(admin, &format!("{key}.admin"), folder)?),
        (None, user) => user.map(|user| Credentials {
            user,
            password: Secret::new(place.password.unwrap_or_default()),
        }),
    };
    let mut users = BTreeMap::new();
    for (user, raw) in raw.users {
        let known = credentials(raw, &format!("{key}.users.{user}"), folder)?;
        users.insert(user, known);
    }
    let name_key = format!("{key}.name");
    Ok(Backend {
        name: name(raw.name.unwrap_or_else(|| format!("{}:{port}", place.host)), &name_key)?,
        port,
        host: place.host,
        database: once_in_url(key, "database", raw.database, place.database)?,
        weight: raw.weight.unwrap_or(1),
        tls: tls(mode.as_deref(), ca.as_deref(), key, folder)?,
        admin,
        users,
    })
}

pub(super) fn once_in_url<T>(
    key: &str,
    field: &str,
    own: Option<T>,
    url: Option<T>,
) -> Result<Option<T>> {
    if own.is_some() && url.is_some() {
        let problem = format!("a backend has `{field}` both as a key and in its url");
        return Err(ConfigError::new(problem, "delete one of them").at(format!("{key}.{field}")));
    }
    Ok(own.or(url))
}

pub(super) fn tls(
    mode: Option<&str>,
    ca: Option<&str>,
    key: &str,
    folder: &Path,
) -> Result<BackendTls> {
    let ca = ca.map(|ca| path(folder, ca));
    let wants_ca = || {
        let remedy =
            "add `tls_ca = \"FILE\"`: the PEM file of the authority that signed the server";
        ConfigError::new("the server's certificate is to be verified, but by what?", remedy)
            .at(format!("{key}.tls"))
    };
    match (mode, ca) {
        (None | Some("disable"), None) => Ok(BackendTls::Disable),
        (Some("require"), None) => Ok(BackendTls::Require),
        (Some("verify-ca"), ca) => Ok(BackendTls::VerifyCa { ca: ca.ok_or_else(wants_ca)? }),
        (Some("verify-full"), ca) => Ok(BackendTls::VerifyFull { ca: ca.ok_or_else(wants_ca)? }),
        (None | Some("disable" | "require"), Some(_)) => Err(ConfigError::new(
            "`tls_ca` is given, but nothing would be verified by it",
            "add `tls = \"verify-full\"` (or \"verify-ca\" where the name does not match)",
        )
        .at(format!("{key}.tls_ca"))),
        (Some("prefer" | "allow"), _) => Err(ConfigError::new(
            "encryption that anyone on the way can switch off protects nothing",
            "write \"require\", \"verify-ca\" or \"verify-full\"; or \"disable\" and mean it",
        )
        .at(format!("{key}.tls"))),
        (Some(other), _) => Err(ConfigError::new(
            format!("`{other}` is not a choice here"),
            "write one of \"disable\", \"require\", \"verify-ca\", \"verify-full\"",
        )
        .at(format!("{key}.tls"))),
    }
}

fn http(raw: Option<WordOr<super::raw::RawHttp>>) -> Result<Option<SocketAddr>> {
    let (text, key) = match raw {
        None => (DEFAULT_HTTP.to_owned(), "http"),
        Some(WordOr::Word(text)) => (text, "http"),
        Some(WordOr::Table(table)) => (table.listen, "http.listen"),
    };
    if text == "off" { Ok(None) } else { listen_address(&text, key).map(Some) }
}

/// An address to listen on. Names are not looked up, since that would make the meaning of the file
/// depend on the machine; `localhost` and `*` are the two that everyone means alike.
pub(super) fn listen_address(text: &str, key: &str) -> Result<SocketAddr> {
    let numeric = text.replacen("localhost:", "127.0.0.1:", 1).replacen("*:", "0.0.0.0:", 1);
    numeric.parse().map_err(|_| {
        let problem = format!("`{text}` is no address to listen on");
        let remedy = "write an IP address and a port, such as \"127.0.0.1:6432\" or \"*:6432\"";
        ConfigError::new(problem, remedy).at(key)
    })
}

/// Names stand in logs, labels and console commands, where blanks and quotes make trouble.
pub(super) fn name(name: String, key: &str) -> Result<String> {
    let fits = |letter: char| letter.is_alphanumeric() || "._:-".contains(letter);
    if (1..=63).contains(&name.len()) && name.chars().all(fits) {
        return Ok(name);
    }
    Err(ConfigError::new(
        format!("`{name}` cannot be a name"),
        "use up to 63 letters, digits and . _ : -",
    )
    .at(key))
}

pub(super) fn path(folder: &Path, text: &str) -> PathBuf {
    folder.join(text)
}

/// A key, whether its value is out of range, and what to write instead.
type Bound = (&'static str, bool, &'static str);

const POSITIVE: &str = "write a value greater than 0";

/// Numbers that would make the proxy useless, or contradict each other.
fn bounds(config: &Config) -> Result<()> {
    let mut bounds = times(config).into_iter().chain(sizes(config));
    match bounds.find(|(_, wrong, _)| *wrong) {
        Some((key, _, remedy)) => {
            Err(ConfigError::new(format!("`{key}` is out of range"), remedy).at(key))
        }
        None => Ok(()),
    }
}

fn times(config: &Config) -> Vec<Bound> {
    let Config { pool, timeouts, proxy, .. } = config;
    vec![
        ("proxy.heartbeat", proxy.heartbeat.is_zero(), POSITIVE),
        (
            "proxy.takeover_after",
            proxy.takeover_after < proxy.heartbeat * 3,
            "make it at least three times proxy.heartbeat: one sign of life that comes late must not cost the role",
        ),
        ("pool.size", pool.size == 0, POSITIVE),
        ("pool.checkout_timeout", pool.checkout_timeout.is_zero(), POSITIVE),
        ("pool.idle_timeout", pool.idle_timeout.is_zero(), POSITIVE),
        ("pool.max_lifetime", pool.max_lifetime.is_zero(), POSITIVE),
        ("pool.prepared_statements", pool.prepared_statements == 0, POSITIVE),
        ("timeouts.connect", timeouts.connect.is_zero(), POSITIVE),
        ("timeouts.login", timeouts.login.is_zero(), POSITIVE),
        ("timeouts.dead_after", timeouts.dead_after.is_zero(), POSITIVE),
        ("timeouts.probe_interval", timeouts.probe_interval.is_zero(), POSITIVE),
        ("timeouts.probe_timeout", timeouts.probe_timeout.is_zero(), POSITIVE),
        ("timeouts.follower_lock", timeouts.follower_lock.is_zero(), POSITIVE),
        ("timeouts.schema_lock", timeouts.schema_lock.is_zero(), POSITIVE),
        ("timeouts.table_lock", timeouts.table_lock.is_zero(), POSITIVE),
        ("timeouts.group_wait", timeouts.group_wait.is_zero(), POSITIVE),
        ("timeouts.carry_over", timeouts.carry_over.is_zero(), POSITIVE),
        ("timeouts.gate", timeouts.gate.is_zero(), POSITIVE),
        ("timeouts.fence", timeouts.fence.is_zero(), POSITIVE),
        (
            "timeouts.probe_timeout",
            timeouts.probe_timeout > timeouts.dead_after,
            "keep it below dead_after: a probe that is still waiting cannot tell that a backend is dead",
        ),
        (
            "timeouts.follower_lock",
            timeouts.follower_lock >= timeouts.dead_after,
            "keep it below dead_after: else a follower that only waits for a lock is taken for dead",
        ),
    ]
}

fn sizes(config: &Config) -> Vec<Bound> {
    let Config { limits, journal, .. } = config;
    vec![
        ("limits.max_clients", limits.max_clients == 0, POSITIVE),
        (
            "limits.group_commit",
            !(1..=1000).contains(&limits.group_commit),
            "write a number from 1 (each INSERT by itself) to 1000",
        ),
        ("limits.max_statement_cache", limits.max_statement_cache == 0, POSITIVE),
        ("limits.max_prepared_per_client", limits.max_prepared_per_client == 0, POSITIVE),
        (
            "limits.worker_threads",
            limits.worker_threads > 1024,
            "write a number up to 1024; 0 is half of the processors",
        ),
        (
            "limits.max_message_bytes",
            !(1 << 16..=1 << 30).contains(&limits.max_message_bytes),
            "write a size from \"64KiB\" to \"1GiB\", PostgreSQL's own limit",
        ),
        (
            "limits.max_startup_bytes",
            !(1_000..=65_536).contains(&limits.max_startup_bytes),
            "write a size from \"1000B\" to \"64KiB\"; PostgreSQL's own limit is 10000 bytes",
        ),
        (
            "limits.max_transaction_effects_bytes",
            limits.max_transaction_effects_bytes < 1 << 20,
            "write at least \"1MiB\", or no write of some size succeeds",
        ),
        (
            "limits.reply_buffer_bytes",
            !(1 << 12..=1 << 24).contains(&limits.reply_buffer_bytes),
            "write a size from \"4KiB\" to \"16MiB\"; every busy client may use that much",
        ),
        ("journal.max_records", journal.max_records == 0, POSITIVE),
        ("journal.max_bytes", journal.max_bytes < 1 << 20, "write at least \"1MiB\""),
        (
            "journal.keep_records",
            journal.keep_records > journal.max_records,
            "keep it below journal.max_records",
        ),
    ]
}
