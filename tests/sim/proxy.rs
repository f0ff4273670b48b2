//! The proxy's parts, put together as the product does it, but on fake servers; and how the whole
//! of it dies and comes back.

use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use lockstep::backend::{Backend, Limits};
use lockstep::catalog::Catalogs;
use lockstep::cluster::View;
use lockstep::config::{Balancer, Bounds, Consistency, Journal, Live};
use lockstep::keeper::state::{Remembered, StateFile};
use lockstep::keeper::{self, Candidate, Control, Keeper};
use lockstep::ledger::Ledger;
use lockstep::metrics::Metrics;
use lockstep::monitor;
use lockstep::recovery;
use lockstep::session::{Groups, Login, Registry, Session, Shared, SharedSettings, Wanted};
use lockstep::store::vote::Secrets;
use lockstep_protocol::Dialect;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::{Said, Sim, SimClient};
use crate::control::{PROBE, SimControl};
use crate::link::{DEAD_AFTER, SimDial, SimLink};
use crate::world::{CLUSTER, World, locked, name};

/// The one user.
const USER: &str = "app";
/// How long INSERTs in one group wait for a lock.
const GROUP_WAIT: Duration = Duration::from_millis(50);
/// How long a new leader is held for what was open on the former one.
const CARRY_OVER: Duration = Duration::from_secs(2);
/// How long a client waits while no backend is active.
const HOLD: Duration = Duration::from_secs(30);

/// The proxy while it runs.
pub(crate) struct Running {
    shared: Arc<Shared<Sim>>,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

/// An application's end of its connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) say: mpsc::Sender<Said>,
    pub(crate) hear: mpsc::Receiver<String>,
}

impl World {
    /// Starts the proxy from its state file.
    pub(crate) fn start_proxy(self: &Arc<Self>) {
        let file = StateFile::open(self.folder.path(), CLUSTER).expect("the state folder is free");
        let names: Vec<String> = (0..self.servers.len()).map(name).collect();
        let remembered = file.load().expect("the state file can be read");
        let state = remembered.unwrap_or_else(|| Remembered::new("file".into()));
        let place = |member: &String| names.iter().position(|n| n == member);
        let order = state.members.iter().filter_map(place).collect();
        let view = View::settling(state.view, order, names.len(), 0);
        let token = format!("token {}", self.random());
        let (metrics, ledger) = (Arc::new(Metrics::new()), Arc::new(Ledger::default()));
        locked(&self.figures).push(metrics.clone());
        let backends = self.backends(&metrics, &token);
        let controls: Vec<Arc<dyn Control>> = self
            .servers
            .iter()
            .map(|server| Arc::new(SimControl(server.clone())) as Arc<dyn Control>)
            .collect();
        let cluster = Some(state.cluster.clone()).filter(|cluster| !cluster.is_empty());
        let secrets = Secrets { token, capture: String::new(), users: vec![USER.to_owned()] };
        let world = Arc::downgrade(self);
        let candidate = Candidate {
            address: "the only proxy".into(),
            lone: true,
            witness: None,
            secrets: secrets.clone(),
            dice: Box::new(move || world.upgrade().map_or(0, |world| world.random())),
        };
        let (keeper, handle) = Keeper::new(
            view,
            backends.clone(),
            controls.clone(),
            (file, state),
            candidate,
            ledger.clone(),
            metrics.clone(),
            Live::new(Bounds { probe: PROBE, ..Bounds::default() }),
        );
        let shared = self.shared(backends, controls, handle, (ledger, metrics));
        let settings = recovery::Settings {
            names,
            secrets,
            cluster,
            retry: Duration::from_secs(1),
            role: recovery::Role {
                lone: true,
                address: "the only proxy".into(),
                heartbeat: Duration::from_millis(500),
                takeover_after: Duration::from_secs(2),
            },
        };
        self.trace("** the proxy starts");
        *locked(&self.running) = Some(spawn(shared, keeper, settings));
        self.proxy_changed.notify_waiters();
    }

    fn backends(&self, metrics: &Metrics, token: &str) -> Vec<Arc<Backend<SimLink>>> {
        let limits = Limits {
            size: 32,
            checkout: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            lifetime: Duration::from_secs(3600),
        };
        let backend = |server: &Arc<crate::server::Server>| {
            let started = Arc::default();
            let dial = SimDial {
                server: server.clone(),
                token: token.to_owned(),
                started: Arc::clone(&started),
            };
            let (name, figures) = (server.name.clone(), metrics.backend(&server.name));
            let address = name.clone();
            let dial = Box::new(dial);
            Arc::new(Backend::new(server.index, name, address, 1, limits, figures, started, dial))
        };
        self.servers.iter().map(backend).collect()
    }

    fn shared(
        self: &Arc<Self>,
        backends: Vec<Arc<Backend<SimLink>>>,
        controls: Vec<Arc<dyn Control>>,
        keeper: Arc<keeper::Handle>,
        (ledger, metrics): (Arc<Ledger>, Arc<Metrics>),
    ) -> Arc<Shared<Sim>> {
        let world: Weak<Self> = Arc::downgrade(self);
        Arc::new(Shared {
            backends,
            controls,
            keeper,
            ledger,
            catalogs: Arc::new(Catalogs::new(Dialect::Postgres)),
            metrics,
            current: ArcSwap::from_pointee(SharedSettings {
                hold: HOLD,
                balancer: Balancer::Random,
                consistency: Consistency::Strong,
                max_effects: 1 << 20,
                max_prepared: 100,
                automatic: true,
                idle_in_transaction: None,
                group_commit: 8,
                group_wait: GROUP_WAIT,
                table_lock: GROUP_WAIT,
                schema_lock: GROUP_WAIT,
                startup_wait: Duration::from_secs(10),
                dead_after: DEAD_AFTER,
                fence: HOLD,
                carry_over: CARRY_OVER,
                gate: self.scenario.gate,
                shutdown_grace: Duration::from_secs(30),
                probe_interval: Duration::from_secs(1),
                journal: Journal { keep_records: 1000, ..Journal::default() },
            }),
            present: Arc::default(),
            leases: Arc::default(),
            crossings: Arc::default(),
            identities: Arc::default(),
            registry: Registry::default(),
            brake_us: AtomicU32::new(0),
            admission: Arc::default(),
            schema: Arc::default(),
            tables: Arc::default(),
            wanted: Wanted::default(),
            groups: Groups::default(),
            turn: AtomicUsize::new(0),
            dice: Box::new(move || world.upgrade().map_or(0, |world| world.random())),
        })
    }

    /// The proxy is gone at once: no task of it takes another step.
    pub(crate) fn crash_proxy(self: &Arc<Self>, lasts: Duration) {
        let Some(running) = locked(&self.running).take() else {
            return;
        };
        for task in &running.tasks {
            task.abort();
        }
        self.proxy_changed.notify_waiters();
        let world = self.clone();
        tokio::spawn(async move {
            let Running { shared, tasks, .. } = running;
            world.bury(tasks).await;
            drop(shared);
            tokio::time::sleep(lasts).await;
            world.start_proxy();
        });
    }

    /// Waits until tasks have ended. None may have panicked.
    async fn bury(&self, tasks: Vec<JoinHandle<()>>) {
        for task in tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                self.complain(format!("a task of the proxy panicked: {error}"));
            }
        }
    }

    /// Ends the proxy in good order.
    pub(crate) async fn stop_proxy(&self) {
        let running = locked(&self.running).take();
        if let Some(running) = running {
            running.stop.cancel();
            running.tasks.iter().for_each(JoinHandle::abort);
            self.bury(running.tasks).await;
        }
    }

    /// Connects an application; waits while the proxy is down.
    pub(crate) async fn connect(self: &Arc<Self>) -> Line {
        loop {
            let changed = self.proxy_changed.notified();
            if let Some(running) = &mut *locked(&self.running) {
                let (say, inbox) = mpsc::channel(4);
                let (outbox, hear) = mpsc::channel(4);
                let client = SimClient::new(self.clone(), inbox, outbox);
                let login = Login {
                    user: USER.to_owned(),
                    name: USER.to_owned(),
                    settings: Arc::default(),
                    consistency: None,
                };
                let (shared, stop) = (running.shared.clone(), running.stop.clone());
                let session = Session::<Sim>::new(shared, client, login, Arc::default(), stop);
                running.tasks.push(tokio::spawn(async { drop(session.serve().await) }));
                return Line { say, hear };
            }
            changed.await;
        }
    }
}

fn spawn(
    shared: Arc<Shared<Sim>>,
    keeper: Keeper<SimLink>,
    settings: recovery::Settings,
) -> Running {
    let stop = CancellationToken::new();
    let mut tasks = vec![
        tokio::spawn(keeper.run()),
        tokio::spawn(recovery::run(shared.clone(), settings, stop.clone())),
    ];
    let (heartbeat, dead) = (Duration::from_millis(500), Duration::from_secs(2));
    let pulse = monitor::Pulse::new("the only proxy".into(), heartbeat, dead);
    for backend in 0..shared.backends.len() {
        let (sharing, pulse) = (shared.clone(), pulse.clone());
        tasks.push(tokio::spawn(monitor::beat(sharing, pulse, backend, stop.clone())));
        let probe = monitor::probe(shared.clone(), backend, stop.clone());
        tasks.push(tokio::spawn(probe));
    }
    let interval = Duration::from_secs(2);
    let housekeeping = monitor::housekeeping(shared.clone(), interval, stop.clone());
    tasks.push(tokio::spawn(housekeeping));
    Running { shared, tasks, stop }
}
