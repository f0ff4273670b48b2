//! `lockstep check` and `lockstep init`, in the dialect of the cluster.

use lockstep_protocol::Dialect;

use crate::config::{BackendTls, Config, Live};
use crate::control::{Address, PgControl, describe, mysql};
use crate::keeper::Control;
use crate::store::agents::{AgentTables, TOO_SLOW, too_slow};
use crate::store::check::{self as store_check, CheckOptions, Finding, Severity};
use crate::store::init::{InitOptions, InitReport, Target, init};
use crate::store::mysql as store_mysql;

/// Reaches every backend, and says what would go wrong and how to mend it.
pub(super) async fn check(config: Config) -> Result<(), String> {
    let options = CheckOptions {
        users: config.users.iter().map(|user| user.name.clone()).collect(),
        connections: config.pool.size * 2 * u32::try_from(config.users.len()).unwrap_or(1),
    };
    let (reached, unreachable, findings) = match config.cluster.dialect {
        Dialect::Postgres => check_postgres(&config, &options).await?,
        Dialect::MySql => check_mysql(&config, &options).await?,
    };
    let mut errors = unreachable;
    if let Some(what) = agents(&config).await {
        println!("warning  agents: {what}");
        println!("         remedy: {TOO_SLOW}");
    }
    for finding in &findings {
        errors += usize::from(finding.severity == Severity::Error);
        println!("{:8} {}: {}", finding.severity, finding.backend, finding.what);
        println!("         remedy: {}", finding.remedy);
    }
    if errors > 0 {
        return Err(format!("{errors} problems have to be mended first"));
    }
    println!("{reached} backends fit together");
    Ok(())
}

/// Whether the agents whose tables are in this database leave the proxy enough time. One server that answers is enough.
async fn agents(config: &Config) -> Option<String> {
    let live = Live::new(config.into());
    for backend in &config.backends {
        let (control, tables): (Box<dyn Control>, AgentTables) = match config.cluster.dialect {
            Dialect::Postgres => {
                let address = Address::of(config, backend).ok()?;
                (Box::new(PgControl::new(address, live.clone())), AgentTables::postgres())
            }
            Dialect::MySql => {
                let address = mysql::Address::of(config, backend);
                let tables = AgentTables::mysql(&config.cluster.database);
                (Box::new(mysql::MyControl::new(address, live.clone())), tables)
            }
        };
        // A server that cannot be reached, or has no such table, has been spoken of, or nothing to say.
        if let Ok(shortest) = control.rows(tables.shortest()).await {
            return too_slow(config.timeouts.dead_after, &shortest);
        }
    }
    None
}

/// How many were reached and how many not, and what was found.
type Checked = Result<(usize, usize, Vec<Finding>), String>;

async fn check_postgres(config: &Config, options: &CheckOptions) -> Checked {
    let mut backends = Vec::new();
    for backend in &config.backends {
        match Address::of(config, backend)?.connect(config.timeouts.connect).await {
            Ok(client) => backends.push((backend.name.clone(), client)),
            Err(why) => unreachable(&backend.name, &why, remedy(&why)),
        }
    }
    let findings = store_check::check(&backends, options).await;
    let findings = findings.map_err(|(name, e)| format!("{name}: {}", describe(&e)))?;
    Ok((backends.len(), config.backends.len() - backends.len(), findings))
}

async fn check_mysql(config: &Config, options: &CheckOptions) -> Checked {
    let mut backends = Vec::new();
    for backend in &config.backends {
        match mysql::Address::of(config, backend).connect(config.timeouts.connect).await {
            Ok(conn) => backends.push((backend.name.clone(), conn)),
            Err(why) => unreachable(&backend.name, &why, MYSQL_REMEDY),
        }
    }
    let findings = store_mysql::check::check(&mut backends, options).await;
    let findings = findings.map_err(|(name, e)| format!("{name}: {e}"))?;
    Ok((backends.len(), config.backends.len() - backends.len(), findings))
}

const MYSQL_REMEDY: &str = "start it, and check address, `tls`, [admin] and its account's host";

fn unreachable(name: &str, why: &str, remedy: &str) {
    println!("error    {name}: cannot be reached: {why}");
    println!("         remedy: {remedy}");
}

/// What to do about a PostgreSQL backend that cannot be connected to.
fn remedy(why: &str) -> &'static str {
    if why.contains("certificate") {
        "its certificate has to name the host in `url` and be signed by an authority in `tls_ca`; \
         mend the one that is wrong, or choose `tls = \"verify-ca\"` to do without the name"
    } else if why.contains("TLS") {
        "turn `ssl` on in its postgresql.conf, or check `tls` of this backend"
    } else {
        "start it, and check address, [admin] and pg_hba.conf"
    }
}

/// Prepares the backends.
pub(super) async fn prepare(
    config: Config,
    source: Option<String>,
    discard: bool,
) -> Result<(), String> {
    let secret = || format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let options = InitOptions {
        source,
        discard,
        cluster_id: format!("{}-{:016x}", config.cluster.name, rand::random::<u64>()),
        token: secret(),
        capture_token: secret(),
        users: config.users.iter().map(|user| user.name.clone()).collect(),
        tools: None,
    };
    let report = match config.cluster.dialect {
        Dialect::Postgres => prepare_postgres(&config, options).await?,
        Dialect::MySql => prepare_mysql(&config, options).await?,
    };
    eprintln!("cluster {}: {} backends belong to it", report.cluster_id, report.joined.len());
    for name in &report.filled {
        eprintln!("{name}: filled from the source");
    }
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    Ok(())
}

async fn prepare_postgres(config: &Config, options: InitOptions) -> Result<InitReport, String> {
    let mut targets = Vec::new();
    for backend in &config.backends {
        let connected = Address::of(config, backend)?.connect(config.timeouts.connect).await;
        let client = connected.map_err(|why| {
            format!("backend {}: {why}\n  remedy: {}", backend.name, remedy(&why))
        })?;
        let url_for_tools = config.tools_url(backend);
        targets.push(Target { name: backend.name.clone(), client, url_for_tools });
    }
    init(targets, options).await.map_err(|e| e.to_string())
}

async fn prepare_mysql(config: &Config, options: InitOptions) -> Result<InitReport, String> {
    let mut targets = Vec::new();
    for backend in &config.backends {
        let connected = mysql::Address::of(config, backend).connect(config.timeouts.connect).await;
        let conn = connected
            .map_err(|why| format!("backend {}: {why}\n  remedy: {MYSQL_REMEDY}", backend.name))?;
        let admin = config.admin_of(backend);
        let login = store_mysql::fill::Login {
            host: backend.host.clone(),
            port: backend.port,
            user: admin.user.clone(),
            password: admin.password.clone(),
            tls: tls_options(&backend.tls),
        };
        targets.push(store_mysql::init::Target { name: backend.name.clone(), conn, login });
    }
    store_mysql::init::init(targets, options).await.map_err(|e| e.to_string())
}

/// What the servers' tools call the ways to protect a connection.
fn tls_options(mode: &BackendTls) -> Vec<String> {
    let authority = |ca: &std::path::Path| format!("ssl-ca=\"{}\"", ca.display());
    match mode {
        BackendTls::Disable => vec!["skip-ssl".to_owned()],
        BackendTls::Require => vec!["ssl".to_owned()],
        BackendTls::VerifyCa { ca } => vec!["ssl".to_owned(), authority(ca)],
        BackendTls::VerifyFull { ca } => {
            vec!["ssl".to_owned(), authority(ca), "ssl-verify-server-cert".to_owned()]
        }
    }
}
