//! The glue, and the only one: builds every part in order, binds, spawns, drains.

mod build;
mod ferry;
mod forward;
mod front;
mod house;
mod moving;
mod moving_mysql;
mod moving_pg;
mod mysql;
mod near;
mod pg;
mod seal;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockstep_protocol::Dialect;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Phase;
use crate::config::{Config, OnStandby};
use crate::exchange::Protocol;
use crate::monitor;
use crate::session::Shared;
use crate::status::{self, StatusSource};
use crate::trace::Level;
use crate::{console, recovery};
use front::Front;
pub use mysql::MySql;
pub use pg::Pg;

/// How often the journal is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(2);

/// For how long a proxy that ends leaves its role to others.
const FOR_GOOD: Duration = Duration::from_secs(3600);

/// What the process around the proxy gives it.
#[derive(Default)]
pub struct Surroundings {
    /// Ends the proxy, after what is under way has ended.
    pub stop: CancellationToken,
    /// The configuration file, to be read again.
    pub file: Option<PathBuf>,
    /// The level of the logs.
    pub level: Option<Level>,
}

/// Runs the proxy until it is told to stop, then drains it.
///
/// # Errors
/// When it cannot start: an address in use, a state folder that cannot be written, and the like.
pub async fn run(config: Config, around: Surroundings) -> Result<(), String> {
    match config.cluster.dialect {
        Dialect::Postgres => serve::<Pg>(config, around).await,
        Dialect::MySql => serve::<MySql>(config, around).await,
    }
}

async fn serve<P: Front>(config: Config, around: Surroundings) -> Result<(), String> {
    let parts = build::build::<P>(&config)?;
    let stop = around.stop.clone();
    let listeners = house::bind::<P>(&config).await?;
    let tasks = TaskTracker::new();
    // The keeper and those who bring backends back work to the very end: sessions depend on them.
    let end = CancellationToken::new();
    tasks.spawn(parts.keeper.run());
    let role = parts.recovery.role.clone();
    let pulse = monitor::Pulse::new(role.address, role.heartbeat, role.takeover_after);
    tasks.spawn(recovery::run(parts.shared.clone(), parts.recovery, end.clone()));
    if let Some(witness) = parts.witness {
        let (shared, pulse) = (parts.shared.clone(), pulse.clone());
        tasks.spawn(monitor::beat_witness(shared, pulse, witness, end.clone()));
    }
    for backend in 0..config.backends.len() {
        let (shared, pulse) = (parts.shared.clone(), pulse.clone());
        tasks.spawn(monitor::beat(shared, pulse, backend, end.clone()));
        let shared = parts.shared.clone();
        tasks.spawn(monitor::probe(shared, backend, end.clone()));
    }
    tasks.spawn(monitor::housekeeping(parts.shared.clone(), HOUSEKEEPING, end.clone()));
    if let Some(address) = config.http {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.map_err(|e| format!("[http] listen {address}: {e}"))?;
        let source = Arc::new(source(parts.shared.clone(), &config));
        let serving = status::serve(listener, parts.shared.metrics.clone(), source, end.clone());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the status page has ended");
            }
        });
    }
    let house =
        house::House::new(parts.shared.clone(), parts.door, parts.common, config.clone(), around);
    tasks.spawn(house::signals(house.clone(), end.clone()));
    let clients = TaskTracker::new();
    for listener in listeners {
        tasks.spawn(house::accept(house.clone(), listener, clients.clone(), stop.clone()));
    }
    tasks.spawn(close_with_the_role(house.shared.clone(), end.clone()));
    if config.proxy.on_standby == OnStandby::Forward {
        tasks.spawn(near::keep_informed(house.clone(), end.clone()));
    }
    tracing::info!(listen = ?P::listen(&config).1, "started");
    stop.cancelled().await;
    house.shared.keeper.retire();
    drain(&clients, house.shared.settings().shutdown_grace).await;
    // Another proxy need not wait until it takes this one for dead.
    house.shared.keeper.lay_down(FOR_GOOD).await;
    end.cancel();
    tracing::info!("closed");
    Ok(())
}

/// Closes all sessions when another proxy is to write: what pools keep open would else answer with errors for long.
async fn close_with_the_role<P: Protocol>(shared: Arc<Shared<P>>, end: CancellationToken) {
    let mut view = shared.keeper.view();
    loop {
        let changed = shared.keeper.next_change();
        let now = shared.keeper.view();
        if now.phase == Phase::Standby && view.phase != Phase::Standby {
            shared.registry.end_all(&moving::farewell());
        }
        view = now;
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            () = changed => {}
        }
    }
}

/// Stop accepting, finish transactions, close.
async fn drain(clients: &TaskTracker, grace: Duration) {
    tracing::info!(?grace, clients = clients.len(), "stopped accepting; transactions may finish");
    clients.close();
    if tokio::time::timeout(grace, clients.wait()).await.is_err() {
        tracing::warn!(clients = clients.len(), "the grace period is over; the rest is cut off");
    }
}

fn source<P: Protocol>(shared: Arc<Shared<P>>, config: &Config) -> StatusSource {
    let names: Vec<String> = config.backends.iter().map(|b| b.name.clone()).collect();
    let ready = shared.clone();
    StatusSource {
        ready: Box::new(move || {
            let view = ready.keeper.view();
            match view.phase {
                Phase::Serving if ready.catalogs.is_loaded() => Ok(()),
                Phase::Serving => Err("the catalog is being read".into()),
                _ if !ready.keeper.obstacle().is_empty() => Err((*ready.keeper.obstacle()).clone()),
                Phase::Settling => Err("no backend is active yet".into()),
                Phase::Standby => Err(match &**ready.keeper.writer() {
                    "" => "another proxy writes".into(),
                    writer => format!("{writer} writes"),
                }),
            }
        }),
        snapshot: Box::new(move || {
            let view = shared.keeper.view();
            let backends: Vec<_> = view
                .backends
                .iter()
                .enumerate()
                .map(|(n, member)| {
                    serde_json::json!({
                        "name": names[n],
                        "state": member.state.word(),
                        "leader": view.leader() == Some(n),
                        "reason": member.why(),
                        "since_ms": member.since_ms,
                    })
                })
                .collect();
            serde_json::json!({
                "view": view.number,
                "serving": view.phase == Phase::Serving,
                "clients": shared.registry.count(None),
                "journal": shared.ledger.newest(),
                "backends": backends,
            })
        }),
    }
}

/// The console's levers.
pub(crate) type Levers = console::Levers;
