//! The command line. Each subcommand reads what it was given and calls one function.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Limits, Log};
use crate::control::{Address, describe};
use crate::demo;
use crate::proxy::{self, Surroundings};
use crate::store::check::{self as store_check, CheckOptions, Severity};
use crate::store::init::{InitOptions, Target, init};
use crate::trace::{self, Level};

/// Two or more ordinary PostgreSQL servers as one database that does not die.
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
    /// Start local PostgreSQL servers and the proxy in front of them, and say what to try.
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
struct Demo {
    /// How many servers.
    #[arg(long, default_value_t = 3)]
    backends: usize,
    /// The proxy's port [default: 6432 if it is free, else any].
    #[arg(long)]
    port: Option<u16>,
    /// Keep data and logs in this folder, also afterwards [default: a temporary one].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where initdb and postgres are [default: searched].
    #[arg(long, value_name = "DIR", env = "LOCKSTEP_PG_BIN")]
    pg_bin: Option<PathBuf>,
    /// Print one line of JSON when ready, and nothing else.
    #[arg(long)]
    json: bool,
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    let outcome = match command {
        Command::Proxy(file) => with_config(&file, |config, level| {
            runtime(&config.limits)?.block_on(serve(config, file.config.clone(), level))
        }),
        Command::Check(file) => {
            with_config(&file, |config, _| runtime(&config.limits)?.block_on(check(config)))
        }
        Command::Init(init) => with_config(&init.file, |config, _| {
            let runtime = runtime(&config.limits)?;
            runtime.block_on(prepare(config, init.source.clone(), init.discard))
        }),
        Command::Demo(options) => {
            runtime(&Limits::default()).and_then(|runtime| runtime.block_on(demonstrate(options)))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => complain(&problem),
    }
}

fn runtime(limits: &Limits) -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
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
    let Demo { backends, port, dir, pg_bin, json } = options;
    let options = demo::Options { backends, port, dir, pg_bin, json };
    let init = |config| prepare(config, None, false);
    demo::run(options, init, serve_until).await.map_err(|error| error.to_string())
}

async fn serve(config: Config, file: PathBuf, level: Level) -> Result<(), String> {
    let around =
        Surroundings { stop: CancellationToken::new(), file: Some(file), level: Some(level) };
    proxy::run(config, around).await
}

async fn serve_until(config: Config, stop: CancellationToken) -> Result<(), String> {
    proxy::run(config, Surroundings { stop, file: None, level: None }).await
}

async fn check(config: Config) -> Result<(), String> {
    let mut backends = Vec::new();
    let mut unreachable = 0;
    for backend in &config.backends {
        match Address::of(&config, backend)?.connect().await {
            Ok(client) => backends.push((backend.name.clone(), client)),
            Err(why) => {
                unreachable += 1;
                println!("error    {}: cannot be reached: {why}", backend.name);
                println!("         remedy: start it, and check address, [admin] and pg_hba.conf");
            }
        }
    }
    let options = CheckOptions {
        users: config.users.iter().map(|user| user.name.clone()).collect(),
        connections: config.pool.size * 2 * u32::try_from(config.users.len()).unwrap_or(1),
    };
    let findings = store_check::check(&backends, &options).await;
    let findings = findings.map_err(|(name, e)| format!("{name}: {}", describe(&e)))?;
    let mut errors = unreachable;
    for finding in &findings {
        errors += usize::from(finding.severity == Severity::Error);
        println!("{:8} {}: {}", finding.severity, finding.backend, finding.what);
        println!("         remedy: {}", finding.remedy);
    }
    if errors > 0 {
        return Err(format!("{errors} problems have to be mended first"));
    }
    println!("{} backends fit together", backends.len());
    Ok(())
}

async fn prepare(config: Config, source: Option<String>, discard: bool) -> Result<(), String> {
    let mut targets = Vec::new();
    for backend in &config.backends {
        let connected = Address::of(&config, backend)?.connect().await;
        let client = connected.map_err(|why| format!("backend {}: {why}", backend.name))?;
        let url_for_tools = config.tools_url(backend);
        targets.push(Target { name: backend.name.clone(), client, url_for_tools });
    }
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
    let report = init(targets, options).await.map_err(|e| e.to_string())?;
    eprintln!("cluster {}: {} backends belong to it", report.cluster_id, report.joined.len());
    for name in &report.filled {
        eprintln!("{name}: filled from the source");
    }
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    Ok(())
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
