//! From a configuration to the parts of a proxy.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_protocol::Dialect;

use super::Pg;
use crate::backend::pg::{Login, PgDial, PgLink, Route, Shared as LinkShared};
use crate::backend::{Backend, Limits as PoolLimits};
use crate::catalog::Catalogs;
use crate::client::pg::{Bounds, Door, Known};
use crate::cluster::View;
use crate::config::{self, Config, Reactivate};
use crate::control::{Address, PgControl};
use crate::keeper::state::{Remembered, StateFile};
use crate::keeper::{self, Control, Keeper, now_ms};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::recovery;
use crate::session::{Registry, Shared, SharedSettings};
use crate::tls::{BackendConnector, ServerTls};
use crate::wire::pg::Statements;

/// Pause before the first repeated attempt to bring a backend back.
const RETRY: Duration = Duration::from_secs(1);

/// The parts of a proxy.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared<Pg>>,
    pub(super) keeper: Keeper<PgLink>,
    pub(super) recovery: recovery::Settings,
    pub(super) door: Door,
}

/// Builds the parts.
pub(super) fn build(config: &Config) -> Result<Parts, String> {
    let file = StateFile::open(&config.cluster.state_dir, &config.cluster.name)
        .map_err(|e| format!("[cluster] state_dir {}: {e}", config.cluster.state_dir.display()))?;
    let remembered = file.load().map_err(|e| e.to_string())?;
    let metrics = Arc::new(Metrics::new());
    let catalogs = Arc::new(Catalogs::new(Dialect::Postgres));
    let statements = Arc::new(Statements::new(config.limits.max_statement_cache, catalogs.clone()));
    let (token, capture_token) = (secret(), secret());
    let shared_links = Arc::new(LinkShared {
        statements: statements.clone(),
        token: token.clone(),
        max_message: config.limits.max_message_bytes,
        max_prepared: config.pool.prepared_statements,
        follower_lock: config.timeouts.follower_lock,
        dead_after: config.timeouts.dead_after,
    });
    let mut backends = Vec::new();
    let mut controls: Vec<Arc<dyn Control>> = Vec::new();
    for (index, backend) in config.backends.iter().enumerate() {
        backends.push(Arc::new(connect(config, index, backend, &metrics, &shared_links)?));
        let limit = config.timeouts.probe_timeout;
        controls.push(Arc::new(PgControl::new(Address::of(config, backend)?, limit)));
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
        settings: SharedSettings {
            hold: config.timeouts.hold,
            balancer: config.reads.balancer,
            consistency: config.reads.consistency,
            max_effects: config.limits.max_transaction_effects_bytes,
        },
        registry: Registry::default(),
        brake_us: std::sync::atomic::AtomicU32::new(0),
        admission: Arc::default(),
        activate: tokio::sync::Notify::new(),
        turn: std::sync::atomic::AtomicUsize::new(0),
    });
    let recovery = recovery::Settings {
        names,
        users: config.users.iter().map(|u| u.name.clone()).collect(),
        token,
        capture_token,
        startup_wait: config.timeouts.startup_wait,
        gate: config.timeouts.gate,
        remembers: remembered.is_some(),
        cluster,
        automatic: config.cluster.reactivate == Reactivate::Auto,
        retry: RETRY,
    };
    Ok(Parts { shared, keeper, recovery, door: door(config, statements)? })
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

fn connect(
    config: &Config,
    index: usize,
    backend: &config::Backend,
    metrics: &Metrics,
    shared: &Arc<LinkShared>,
) -> Result<Backend<PgLink>, String> {
    let tls = BackendConnector::new(&backend.tls, &backend.host)
        .map_err(|e| format!("backend {}: {e}", backend.name))?;
    let route = Arc::new(Route {
        host: backend.host.clone(),
        port: backend.port,
        tls,
        timeout: config.timeouts.connect,
        user_timeout: config.timeouts.dead_after,
    });
    let mut logins = HashMap::new();
    for user in &config.users {
        if let Some(credentials) = config.credentials_of(backend, &user.name) {
            let login = Login {
                user: credentials.user,
                password: credentials.password,
                database: config.database_of(backend).to_owned(),
                parameters: Vec::new(),
            };
            logins.insert(user.name.clone(), login);
        }
    }
    let limits = PoolLimits {
        size: config.pool.size,
        checkout: config.pool.checkout_timeout,
        idle: config.pool.idle_timeout,
        lifetime: config.pool.max_lifetime,
    };
    let started = Arc::default();
    let dial =
        Box::new(PgDial { route, shared: shared.clone(), logins, started: Arc::clone(&started) });
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

/// The front door.
pub(super) fn door(config: &Config, statements: Arc<Statements>) -> Result<Door, String> {
    let tls = match &config.client_tls {
        Some(files) => {
            let tls = ServerTls::load(files).map_err(|e| e.to_string())?;
            Some((Arc::new(tls), files.required))
        }
        None => None,
    };
    let known = |user: &config::User| Known {
        method: user.auth.unwrap_or(config.cluster.auth),
        password: user.password.clone(),
        verifier: Door::verifier(user.password.reveal()),
    };
    let mut users: HashMap<String, Known> =
        config.users.iter().map(|user| (user.name.clone(), known(user))).collect();
    // The administrator has a way in to the console, and only there.
    let admin = config::User {
        name: config.admin.user.clone(),
        password: config.admin.password.clone(),
        max_connections: None,
        auth: None,
    };
    users.entry(admin.name.clone()).or_insert_with(|| known(&admin));
    Ok(Door {
        tls,
        users,
        method: config.cluster.auth,
        secret: rand::random(),
        timeout: config.timeouts.login,
        max_startup: config.limits.max_startup_bytes,
        bounds: Bounds {
            message: config.limits.max_message_bytes,
            prepared: config.limits.max_prepared_per_client,
            reply: config.limits.reply_buffer_bytes,
        },
        statements,
    })
}

/// A secret nobody can guess.
pub(super) fn secret() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}
