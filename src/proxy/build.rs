//! From a configuration to the parts of a proxy.

use std::sync::Arc;
use std::time::Duration;

use super::front::Front;
use crate::backend::{Backend, Limits as PoolLimits};
use crate::catalog::Catalogs;
use crate::cluster::View;
use crate::config::{self, Config, Live};
use crate::control::daemon::DaemonWitness;
use crate::control::witness::PgWitness;
use crate::keeper::state::{Remembered, StateFile};
use crate::keeper::{self, Candidate, Control, Keeper, now_ms};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::recovery;
use crate::session::{Groups, Leases, Registry, Shared, Wanted};
use crate::store::vote::Secrets;

/// Pause before the first repeated attempt to bring a backend back.
const RETRY: Duration = Duration::from_secs(1);

/// The parts of a proxy.
pub(super) struct Parts<P: Front> {
    pub(super) shared: Arc<Shared<P>>,
    pub(super) keeper: Keeper<P::Link>,
    pub(super) recovery: recovery::Settings,
    pub(super) witness: Option<Arc<dyn keeper::Witness>>,
    pub(super) door: P::Door,
    pub(super) common: P::Common,
}

/// Builds the parts.
pub(super) fn build<P: Front>(config: &Config) -> Result<Parts<P>, String> {
    let file = StateFile::open(&config.cluster.state_dir, &config.cluster.name)
        .map_err(|e| format!("[cluster] state_dir {}: {e}", config.cluster.state_dir.display()))?;
    let remembered = file.load().map_err(|e| e.to_string())?;
    let state =
        remembered.unwrap_or_else(|| Remembered::new(format!("{:032x}", rand::random::<u128>())));
    let (metrics, catalogs) = (Arc::new(Metrics::new()), Arc::new(Catalogs::new(P::DIALECT)));
    let (token, capture_token) = (secret(), secret());
    let live = Live::new(config.into());
    let common = P::common(config, &live, catalogs.clone(), &token);
    let (mut backends, mut controls) = (Vec::new(), Vec::<Arc<dyn Control>>::new());
    for (index, backend) in config.backends.iter().enumerate() {
        backends.push(Arc::new(connect::<P>(config, index, backend, &metrics, &common)?));
        controls.push(P::control(config, backend, &live)?);
    }
    let names: Vec<String> = config.backends.iter().map(|b| b.name.clone()).collect();
    let view = initial_view(&state, &names);
    let ledger = Arc::new(Ledger::default());
    let secrets = Secrets { token, capture: capture_token, users: roles(config) };
    let recovery = recovery(config, &state, secrets.clone());
    let witness = config.witness.as_ref().map(|known| witness(known, live.clone())).transpose()?;
    let candidate = Candidate {
        address: recovery.role.address.clone(),
        lone: config.proxy.is_lone(),
        witness: witness.clone(),
        secrets,
        dice: Box::new(rand::random),
    };
    let (keeper, handle) = Keeper::new(
        view,
        backends.clone(),
        controls.clone(),
        (file, state),
        candidate,
        ledger.clone(),
        metrics.clone(),
        live.clone(),
    );
    let shared = Arc::new(Shared {
        backends,
        controls,
        keeper: handle,
        ledger,
        catalogs,
        metrics,
        current: arc_swap::ArcSwap::from_pointee(config.into()),
        registry: Registry::default(),
        leases: Leases::new(config.resources.clone(), P::agent_tables(config)),
        present: Arc::default(),
        crossings: Arc::default(),
        identities: Arc::default(),
        brake_us: std::sync::atomic::AtomicU32::new(0),
        admission: Arc::default(),
        tables: Arc::default(),
        wanted: Wanted::default(),
        schema: Arc::default(),
        groups: Groups::default(),
        turn: std::sync::atomic::AtomicUsize::new(0),
        dice: Box::new(rand::random),
    });
    let door = P::door(config, &common)?;
    Ok(Parts { shared, keeper, recovery, witness, door, common })
}

/// The way to the witness.
fn witness(known: &config::Witness, live: Arc<Live>) -> Result<Arc<dyn keeper::Witness>, String> {
    Ok(match &known.database {
        Some(database) => Arc::new(PgWitness::new(known, database, live)?),
        None => Arc::new(DaemonWitness::new(known, live)?),
    })
}

/// Every role under which applications are logged in on some backend.
fn roles(config: &Config) -> Vec<String> {
    let of = |user: &config::User| {
        let known = config.backends.iter().filter_map(|b| config.credentials_of(b, &user.name));
        known.map(|credentials| credentials.user).collect::<Vec<_>>()
    };
    let roles: std::collections::BTreeSet<String> = config.users.iter().flat_map(of).collect();
    roles.into_iter().collect()
}

/// How other proxies and operators know this one.
fn address(config: &Config) -> String {
    let name = config.proxy.name.as_deref().unwrap_or("the only proxy");
    match &config.proxy.advertise {
        Some((host, port)) => format!("{name} {host}:{port}"),
        None => name.to_owned(),
    }
}

fn recovery(config: &Config, state: &Remembered, secrets: Secrets) -> recovery::Settings {
    recovery::Settings {
        names: config.backends.iter().map(|b| b.name.clone()).collect(),
        secrets,
        cluster: Some(state.cluster.clone()).filter(|cluster| !cluster.is_empty()),
        retry: RETRY,
        role: recovery::Role {
            lone: config.proxy.is_lone(),
            address: address(config),
            heartbeat: config.proxy.heartbeat,
            takeover_after: config.proxy.takeover_after,
        },
    }
}

/// The view that the state file remembers, as far as the configuration knows its members.
fn initial_view(state: &Remembered, names: &[String]) -> View {
    let place = |name: &String| names.iter().position(|n| n == name);
    let order: Vec<usize> = state.members.iter().filter_map(place).collect();
    let mut view = View::settling(state.view, order, names.len(), now_ms());
    for held in state.held.iter().filter_map(place) {
        view.backends[held].held = true;
    }
    view
}

fn connect<P: Front>(
    config: &Config,
    index: usize,
    backend: &config::Backend,
    metrics: &Metrics,
    common: &P::Common,
) -> Result<Backend<P::Link>, String> {
    let started = Arc::default();
    let dial = P::dial(config, index, common, Arc::clone(&started))?;
    let address = format!("{}:{}", backend.host, backend.port);
    let figures = metrics.backend(&backend.name);
    Ok(Backend::new(
        index,
        backend.name.clone(),
        address,
        backend.weight,
        pool_limits(config),
        figures,
        started,
        dial,
    ))
}

/// How many connections a pool has, for how long.
pub(super) fn pool_limits(config: &Config) -> PoolLimits {
    PoolLimits {
        size: config.pool.size,
        checkout: config.pool.checkout_timeout,
        idle: config.pool.idle_timeout,
        lifetime: config.pool.max_lifetime,
    }
}

/// A secret nobody can guess.
pub(super) fn secret() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}
