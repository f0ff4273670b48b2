//! The command line. Each subcommand reads what it was given and calls one function.

mod agent;
mod cluster;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{ClientTls, Config, Limits, Log, Secret};
use crate::demo;
use crate::proxy::{self, Surroundings};
use crate::trace::{self, Level};
use crate::witness;

/// Two or more ordinary PostgreSQL or MariaDB servers as one database that does not die.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve applications. SIGHUP reads the configuration again, SIGTERM drains and ends.
    Proxy(File),
    /// Read the configuration, reach every backend, and say what would go wrong and how to mend it.
    Check(File),
    /// Prepare the backends: schema `lockstep`, identity, capture triggers.
    Init(Init),
    /// Elect the node on which an application runs, through a table in the database.
    #[command(subcommand)]
    Agent(agent::Command),
    /// Vote for proxies where half of the databases is away: a small process on a machine of its own.
    Witness(Witness),
    /// Start local PostgreSQL (or MariaDB) servers and the proxy in front of them, and say what to try.
    Demo(Demo),
}

#[derive(Debug, Args)]
struct File {
    /// The configuration; config/lockstep.toml shows every key.
    #[arg(long, short, value_name = "FILE", env = "LOCKSTEP_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Init {
    #[command(flatten)]
    file: File,
    /// The backend whose data are right, where the backends differ.
    #[arg(long, value_name = "BACKEND")]
    source: Option<String>,
    /// Overwrite the other backends with the source's data.
    #[arg(long, requires = "source")]
    discard: bool,
}

#[derive(Debug, Args)]
struct Witness {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:6440", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The folder of its file: what it has promised must outlive it.
    #[arg(long, default_value = "/var/lib/lockstep", value_name = "DIR")]
    state_dir: PathBuf,
    /// The file with the secret that it shares with the proxies (`[witness] password_file` there).
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// PEM file of its certificate; without one connections are not encrypted.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's key.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Demo {
    /// How many servers.
    #[arg(long, default_value_t = 3)]
    backends: usize,
    /// MariaDB servers, and MySQL's protocol.
    #[arg(long)]
    mysql: bool,
    /// The proxy's port [default: 6432, with --mysql 6433, if it is free, else any].
    #[arg(long)]
    port: Option<u16>,
    /// Keep data and logs in this folder, also afterwards [default: a temporary one].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the servers' programs are (initdb, postgres; mariadbd) [default: searched].
    #[arg(long, alias = "pg-bin", value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Print one line of JSON when ready, and nothing else.
    #[arg(long)]
    json: bool,
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    let outcome =
        match command {
            Command::Proxy(file) => with_config(&file, |config, level| {
                runtime(&config.limits)?.block_on(serve(config, file.config.clone(), level))
            }),
            Command::Check(file) => with_config(&file, |config, _| {
                runtime(&config.limits)?.block_on(cluster::check(config))
            }),
            Command::Init(init) => with_config(&init.file, |config, _| {
                let runtime = runtime(&config.limits)?;
                runtime.block_on(cluster::prepare(config, init.source.clone(), init.discard))
            }),
            Command::Agent(command) => agent::run(command),
            Command::Witness(options) => runtime(&Limits::default())
                .and_then(|runtime| runtime.block_on(bear_witness(options))),
            Command::Demo(options) => runtime(&Limits::default())
                .and_then(|runtime| runtime.block_on(demonstrate(options))),
        };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => complain(&problem),
    }
}

fn runtime(limits: &Limits) -> Result<tokio::runtime::Runtime, String> {
    // One thread needs none of what several owe each other.
    let mut builder = match limits.threads() {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder
        .worker_threads(limits.threads())
        .enable_all()
        .build()
        .map_err(|error| format!("threads cannot be started: {error}"))
}

fn complain(problem: &dyn Display) -> ExitCode {
    eprintln!("lockstep: {problem}");
    ExitCode::FAILURE
}

fn with_config(
    file: &File,
    act: impl FnOnce(Config, Level) -> Result<(), String>,
) -> Result<(), String> {
    let config = Config::load(&file.config).map_err(|error| error.to_string())?;
    let level = trace::init(&config.log).map_err(|error| error.to_string())?;
    act(config, level)
}

async fn demonstrate(options: Demo) -> Result<(), String> {
    let log = Log { level: "warn,lockstep=info".into(), ..Log::default() };
    trace::init(&log).map_err(|error| error.to_string())?;
    let Demo { backends, mysql, port, dir, bin, json } = options;
    let make = if mysql { demo::Make::MariaDb } else { demo::Make::Postgres };
    let of_postgres = || std::env::var_os("LOCKSTEP_PG_BIN").filter(|_| !mysql).map(PathBuf::from);
    let bin = bin.or_else(of_postgres);
    let options = demo::Options { make, backends, port, dir, bin, json };
    let init = |config| cluster::prepare(config, None, false);
    demo::run(options, init, serve_until).await.map_err(|error| error.to_string())
}

async fn bear_witness(options: Witness) -> Result<(), String> {
    trace::init(&Log::default()).map_err(|error| error.to_string())?;
    let file = options.secret_file.display();
    let secret = std::fs::read_to_string(&options.secret_file);
    let secret = secret.map_err(|error| format!("--secret-file {file}: {error}"))?;
    let secret = secret.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(format!(
            "--secret-file {file}: it is empty; write the secret of the proxies into it"
        ));
    }
    let tls = options.tls_cert.zip(options.tls_key);
    let options = witness::Options {
        listen: options.listen,
        state_dir: options.state_dir,
        secret: Secret::new(secret),
        tls: tls.map(|(cert, key)| ClientTls { cert, key, required: true }),
    };
    let stop = CancellationToken::new();
    let told = stop.clone();
    let ended = async move {
        let terminated = async {
            match signal(SignalKind::terminate()) {
                Ok(mut terminate) => terminate.recv().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminated => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        told.cancel();
    };
    tokio::select! {
        done = witness::run(options, stop) => done,
        () = ended => Ok(()),
    }
}

async fn serve(config: Config, file: PathBuf, level: Level) -> Result<(), String> {
    let around =
        Surroundings { stop: CancellationToken::new(), file: Some(file), level: Some(level) };
    proxy::run(config, around).await
}

async fn serve_until(config: Config, stop: CancellationToken) -> Result<(), String> {
    proxy::run(config, Surroundings { stop, file: None, level: None }).await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn data_are_discarded_only_for_a_named_source() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("lockstep init --config x --discard").is_err());
        assert!(parse("lockstep init --config x --source db1 --discard").is_ok());
        assert!(parse("lockstep proxy --config x").is_ok());
        assert!(parse("lockstep demo --json --backends 2 --port 6000").is_ok());
        assert!(parse("lockstep").is_err());
    }
}
