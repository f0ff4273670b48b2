//! `lockstep demo`: a few local PostgreSQL or MariaDB servers, the proxy in front of them, and what to try.
//!
//! Everything lives in one folder: data, logs, sockets, the configuration. The servers are
//! ordinary ones with their flushes on, because what the demo shows (kill one, nothing is lost)
//! would be worth nothing without them. They end with the demo, also when it is killed outright.
//! A server that the user kills stays dead until the user starts it again, by a command printed
//! for that purpose: then one sees it catch up.

mod make;
mod maria;
mod pg;
mod report;
mod server;
mod site;

use std::fmt::Display;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
pub use make::Make;
use report::Report;
use server::Server;
use site::Site;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of which make the servers are.
    pub make: Make,
    /// How many servers.
    pub backends: usize,
    /// The proxy's port; without one, 6432 (MariaDB: 6433) or any that is free.
    pub port: Option<u16>,
    /// Where everything is kept, and left at the end; without one, a temporary folder.
    pub dir: Option<PathBuf>,
    /// Where the servers' programs are; without one, the usual places are searched.
    pub bin: Option<PathBuf>,
    /// One line of JSON on stdout in place of a text for people.
    pub json: bool,
}

/// Why the demo could not go on, in a sentence for its user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DemoError(String);

impl DemoError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

type Result<T> = std::result::Result<T, DemoError>;

/// The ports that are taken if they are free, since people know them from the documentation.
const HTTP_PORT: u16 = 9632;
const PORTS: std::ops::Range<u16> = 10_000..30_000;
const TRIES: usize = 1_000;
const MOST_BACKENDS: usize = server::NAMES.len();
/// A slow machine with cold disks needs its time to make three databases.
const READY_WITHIN: Duration = Duration::from_secs(90);
const PROXY_END_WITHIN: Duration = Duration::from_secs(15);

/// Runs the demo until Ctrl-C or SIGTERM.
///
/// `prepare` does what `lockstep init` does; `proxy` is the proxy itself, which serves until its
/// token is cancelled. Both are handed in, so that this module needs neither.
///
/// # Errors
/// If the servers are not installed, a server does not start or the proxy ends by itself.
pub async fn run<P, PF, S, SF, E>(options: Options, prepare: P, proxy: S) -> Result<()>
where
    P: FnOnce(Config) -> PF,
    PF: Future<Output = std::result::Result<(), E>>,
    S: FnOnce(Config, CancellationToken) -> SF,
    SF: Future<Output = std::result::Result<(), E>>,
    E: Display,
{
    let stop = CancellationToken::new();
    let mut interrupt = listen_for(SignalKind::interrupt())?;
    let mut terminate = listen_for(SignalKind::terminate())?;
    let json = options.json;
    let show = |report: &Report| report.print(json);
    let mut demo = pin!(run_until(options, prepare, proxy, show, stop.clone()));
    tokio::select! {
        ended = &mut demo => return ended,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
    demo.await
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal> {
    signal(kind).map_err(|error| DemoError::new(format!("signals cannot be caught: {error}")))
}

async fn run_until<P, PF, S, SF, E>(
    options: Options,
    prepare: P,
    proxy: S,
    show: impl FnOnce(&Report),
    stop: CancellationToken,
) -> Result<()>
where
    P: FnOnce(Config) -> PF,
    PF: Future<Output = std::result::Result<(), E>>,
    S: FnOnce(Config, CancellationToken) -> SF,
    SF: Future<Output = std::result::Result<(), E>>,
    E: Display,
{
    if !(1..=MOST_BACKENDS).contains(&options.backends) {
        return Err(DemoError::new(format!("--backends goes from 1 to {MOST_BACKENDS}")));
    }
    let site = Site::open(options.make, options.dir.as_deref(), options.bin.as_deref()).await?;
    let mut servers = Vec::new();
    let outcome = async {
        let started = stop.run_until_cancelled(start_all(&site, options.backends)).await;
        let Some(started) = started else {
            return Ok(());
        };
        servers = started?;
        let config = configure(&site, &servers, options.port)?;
        let prepared = stop.run_until_cancelled(prepare(config.clone())).await;
        let Some(prepared) = prepared else {
            return Ok(());
        };
        prepared.map_err(|error| DemoError::new(format!("the backends were refused: {error}")))?;
        let report = Report::new(&site, &servers, &config);
        serve(proxy, config, &mut servers, || show(&report), &stop).await
    }
    .await;
    site.close(servers).await;
    outcome
}

async fn start_all(site: &Site, count: usize) -> Result<Vec<Server>> {
    let ports = free_ports(count)?;
    let names = server::NAMES.iter().zip(ports);
    let starts = names.map(|(name, port)| async move {
        let server = Server::start(site, name, port).await?;
        site.make.fill(site, &server).await?;
        Ok(server)
    });
    futures_util::future::try_join_all(starts).await
}

/// Runs the proxy until `stop`, tells when it is ready, and notes when a server ends.
async fn serve<S, SF, E>(
    proxy: S,
    config: Config,
    servers: &mut [Server],
    show: impl FnOnce(),
    stop: &CancellationToken,
) -> Result<()>
where
    S: FnOnce(Config, CancellationToken) -> SF,
    SF: Future<Output = std::result::Result<(), E>>,
    E: Display,
{
    let over = |ended: std::result::Result<(), E>| match ended {
        Ok(()) => DemoError::new("the proxy ended by itself"),
        Err(error) => DemoError::new(format!("the proxy ended: {error}")),
    };
    let http = config.http;
    let end_proxy = CancellationToken::new();
    let mut proxy = pin!(proxy(config, end_proxy.clone()));
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        ended = &mut proxy => return Err(over(ended)),
        ready = until_ready(http) => { ready?; show(); }
    }
    let mut ends: FuturesUnordered<_> = servers.iter_mut().map(Server::ended).collect();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            ended = &mut proxy => return Err(over(ended)),
            Some(note) = ends.next() => eprintln!("{note}"),
        }
    }
    end_proxy.cancel();
    match tokio::time::timeout(PROXY_END_WITHIN, proxy).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(DemoError::new(format!("the proxy ended: {error}"))),
        Err(_) => Err(DemoError::new("the proxy did not end in time")),
    }
}

/// Writes the demo's configuration into its folder and reads it from there, as `lockstep proxy`
/// would: it can be looked at and used by hand.
fn configure(site: &Site, servers: &[Server], port: Option<u16>) -> Result<Config> {
    use std::fmt::Write as _;
    let port = match port {
        Some(port) => port,
        None => free_port_near(site.make.proxy_port())?,
    };
    let http = free_port_near(HTTP_PORT)?;
    let settings = include_str!("../../config/demo.toml");
    let admin = site.make.admin();
    let mut text = format!("listen = \"127.0.0.1:{port}\"\n\n{settings}\n");
    let password = &site.admin_password;
    let _ = write!(
        text,
        "[http]\nlisten = \"127.0.0.1:{http}\"\n\n\
         [admin]\nuser = \"{admin}\"\npassword = \"{password}\"\n\n\
         [[user]]\nname = \"app\"\npassword = \"app\"\n"
    );
    for server in servers {
        let url = format!("{}://127.0.0.1:{}", site.make.scheme(), server.port);
        let _ = write!(text, "\n[[backend]]\nname = \"{}\"\nurl = \"{url}\"\n", server.name);
    }
    let path = site.dir.join("lockstep.toml");
    site.write_private(&path, &text)?;
    Config::load(&path).map_err(|error| DemoError::new(error.to_string()))
}

/// Asks the proxy's own status page until it says that clients can come.
async fn until_ready(http: Option<SocketAddr>) -> Result<()> {
    let Some(http) = http else { return Ok(()) };
    let deadline = tokio::time::Instant::now() + READY_WITHIN;
    let mut last = String::from("no answer");
    while tokio::time::Instant::now() < deadline {
        match ask_ready(http).await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
            Ok(answer) => last = answer.lines().last().unwrap_or_default().to_owned(),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(DemoError::new(format!("the proxy is not ready after {READY_WITHIN:?}: {last}")))
}

async fn ask_ready(http: SocketAddr) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(http).await?;
    let request = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Distinct ports that were free a moment ago. They lie below the range from which the system takes
/// the near end of outgoing connections: else some connection may sit on the port of a server that
/// was killed when it is to start again.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for _ in 0..TRIES {
        let port = rand::random_range(PORTS);
        if !ports.contains(&port) && is_free(port) {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    Err(DemoError::new(format!("no free port was found from {PORTS:?} in {TRIES} tries")))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn free_port_near(wish: u16) -> Result<u16> {
    if is_free(wish) {
        return Ok(wish);
    }
    Ok(free_ports(1)?[0])
}

#[cfg(test)]
mod tests;
