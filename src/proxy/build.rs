//! From a configuration to the parts of a proxy.

use std::sync::Arc;
use std::time::Duration;

use super::front::Front;
use crate::backend::{Backend, Limits as PoolLimits};
use crate::catalog::Catalogs;
use crate::cluster::View;
use crate::config::{self, Config};
use crate::keeper::state::{Remembered, StateFile};
use crate::keeper::{self, Control, Keeper, now_ms};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::recovery;
use crate::session::{Groups, Registry, Shared, Wanted};

/// Pause before the first repeated attempt to bring a backend back.
const RETRY: Duration = Duration::from_secs(1);

/// The parts of a proxy.
pub(super) struct Parts<P: Front> {
    pub(super) shared: Arc<Shared<P>>,
    pub(super) keeper: Keeper<P::Link>,
    pub(super) recovery: recovery::Settings,
    pub(super) door: P::Door,
    pub(super) common: P::Common,
}

/// Builds the parts.
pub(super) fn build<P: Front>(config: &Config) -> Result<Parts<P>, String> {
    let file = StateFile::open(&config.cluster.state_dir, &config.cluster.name)
        .map_err(|e| format!("[cluster] state_dir {}: {e}", config.cluster.state_dir.display()))?;
    let remembered = file.load().map_err(|e| e.to_string())?;
    let (metrics, catalogs) = (Arc::new(Metrics::new()), Arc::new(Catalogs::new(P::DIALECT)));
    let (token, capture_token) = (secret(), secret());
    let common = P::common(config, catalogs.clone(), &token);
    let (mut backends, mut controls) = (Vec::new(), Vec::<Arc<dyn Control>>::new());
    for (index, backend) in config.backends.iter().enumerate() {
        backends.push(Arc::new(connect::<P>(config, index, backend, &metrics, &common)?));
        controls.push(P::control(config, backend)?);
    }
    let names: Vec<String> = config.backends.iter().map(|b| b.name.clone()).collect();
    let view = initial_view(remembered.as_ref(), &names)?;
    let ledger = Arc::new(Ledger::default());
    let cluster = remembered.as_ref().map(|state| state.cluster.clone());
    let (keeper, handle) = Keeper::new(
        view,
        backends.clone(),
        controls.clone(),
        file,
        cluster.clone().unwrap_or_default(),
        ledger.clone(),
        metrics.clone(),
        keeper::Limits { probe: config.timeouts.probe_timeout },
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
        present: Arc::default(),
        identities: Arc::default(),
        brake_us: std::sync::atomic::AtomicU32::new(0),
        admission: Arc::default(),
        wanted: Wanted::default(),
        schema: Arc::default(),
        groups: Groups::default(),
        turn: std::sync::atomic::AtomicUsize::new(0),
        dice: Box::new(rand::random),
    });
    let recovery = recovery(config, remembered.is_some(), cluster, token, capture_token);
    let door = P::door(config, &common)?;
    Ok(Parts { shared, keeper, recovery, door, common })
}

fn recovery(
    config: &Config,
    remembers: bool,
    cluster: Option<String>,
    token: String,
    capture_token: String,
) -> recovery::Settings {
    recovery::Settings {
        names: config.backends.iter().map(|b| b.name.clone()).collect(),
        users: config.users.iter().map(|u| u.name.clone()).collect(),
        token,
        capture_token,
        startup_wait: config.timeouts.startup_wait,
        gate: config.timeouts.gate,
        remembers,
        cluster,
        retry: RETRY,
    }
}

/// The view that the state file remembers; without one, all backends have to be seen first.
fn initial_view(remembered: Option<&Remembered>, names: &[String]) -> Result<View, String> {
    let place = |name: &String| names.iter().position(|n| n == name);
    let Some(state) = remembered else {
        return Ok(View::settling(0, (0..names.len()).collect(), names.len(), now_ms()));
    };
    let order: Vec<usize> = state.members.iter().filter_map(place).collect();
    if order.len() != state.members.len() {
        return Err(format!(
            "the state file names the members {:?}, but the configuration lacks some of them; put \
             them back, or make them inactive first",
            state.members
        ));
    }
    let mut view = View::settling(state.view, order, names.len(), now_ms());
    for held in state.held.iter().filter_map(place) {
        view.backends[held].held = true;
    }
    Ok(view)
}

fn connect<P: Front>(
    config: &Config,
    index: usize,
    backend: &config::Backend,
    metrics: &Metrics,
    common: &P::Common,
) -> Result<Backend<P::Link>, String> {
    let limits = PoolLimits {
        size: config.pool.size,
        checkout: config.pool.checkout_timeout,
        idle: config.pool.idle_timeout,
        lifetime: config.pool.max_lifetime,
    };
    let started = Arc::default();
    let dial = P::dial(config, index, common, Arc::clone(&started))?;
    let address = format!("{}:{}", backend.host, backend.port);
    let figures = metrics.backend(&backend.name);
    Ok(Backend::new(
        index,
        backend.name.clone(),
        address,
        backend.weight,
        limits,
        figures,
        started,
        dial,
    ))
}

/// A secret nobody can guess.
pub(super) fn secret() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}
