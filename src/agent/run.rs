//! The glue: builds every part in order, spawns, and ends them in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alerts::Herald;
use super::checks;
use super::director::{Director, Memory, Wires};
use super::election::{Machine, NodeRow, PhaseName, Policy, Rules};
use super::guard::{self, Guard, Reports};
use super::here::{cookie, ending, former_guard_has_ended, machine, only_one, prepare, watchdog};
use super::http::{self, Source, View};
use super::lease::Lane;
use super::metrics::Metrics;
use super::news::NewsLane;
use super::stage::{self, Setting};
use super::state::Left;
use super::{cgroup, kill_budget, state};
use crate::config::agent::{AgentConfig, Node, Resource, Settings};

/// How long the tasks may take to end, after everything has been given back.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// News that wait for a director.
const QUEUE: usize = 64;

/// This machine, as the other nodes see it.
struct Here {
    node: Node,
    /// The machine's own identity and the agent's folder on it.
    machine: String,
    incarnation: String,
    state_dir: PathBuf,
}

/// Runs the agent until SIGTERM or SIGINT; SIGHUP calls `again`.
///
/// # Errors
/// What keeps it from running, or made it end.
pub async fn run(mut config: AgentConfig, node: &str, again: &dyn Fn()) -> Result<(), String> {
    let node = config.node(node).map_err(|error| error.to_string())?.clone();
    config.resources.retain(|resource| resource.only.as_ref().is_none_or(|n| *n == node.name));
    let state_dir = prepare(&config.agent.state_dir)?;
    let _lock = only_one(&state_dir)?;
    former_guard_has_ended(&state_dir).await?;
    for resource in &config.resources {
        if resource.adopt && state::left(&state_dir, &resource.name).is_some() {
            tracing::info!(resource = resource.name, "an earlier agent left this running");
            continue;
        }
        if state::may_be_running(&state_dir, &resource.name) {
            tracing::warn!(resource = resource.name, "stopping what an earlier run left behind");
            let ending = ending(&state_dir, resource);
            let ended = tokio::task::spawn_blocking(move || guard::put_down(&ending, &[])).await;
            if !ended.unwrap_or(false) {
                return Err(format!("{}: processes of an earlier run survive", resource.name));
            }
            state::unmark_running(&state_dir, &resource.name)?;
        }
        state::forget_left(&state_dir, &resource.name)?;
    }
    cgroup::prepare(&state_dir);
    let watchdog = watchdog(&config.agent)?;
    let (mut guard, reports) = Guard::start(&state_dir, watchdog.as_deref()).await?;
    for resource in &config.resources {
        guard.know(ending(&state_dir, resource)).await?;
    }
    let here = Here {
        machine: machine(&state_dir),
        incarnation: format!("{:032x}", rand::random::<u128>()),
        state_dir,
        node,
    };
    perform(config, here, guard, reports, again).await
}

async fn perform(
    config: AgentConfig,
    here: Here,
    guard: Guard,
    reports: Reports,
    again: &dyn Fn(),
) -> Result<(), String> {
    let listener = match config.agent.http {
        None => None,
        Some(address) => Some(
            TcpListener::bind(address).await.map_err(|error| format!("http {address}: {error}"))?,
        ),
    };
    let (stop, quiet) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let metrics = Metrics::new();
    let shared = Shared {
        nodes: config.nodes.clone(),
        settings: config.agent.clone(),
        guard: Arc::new(Mutex::new(guard)),
        herald: Herald::start(&config.alerts, &tasks),
        metrics: metrics.clone(),
        slots: Arc::new(Semaphore::new(config.agent.max_parallel)),
        held: Arc::new(AtomicUsize::new(0)),
        stop: stop.clone(),
        quiet: quiet.clone(),
        tasks: tasks.clone(),
    };
    let mut directors = JoinSet::new();
    let mut views = Vec::new();
    let mut killed = BTreeMap::new();
    for resource in config.resources {
        let name = resource.name.clone();
        let (director, lane, view, to_killed) = shared.build(&here, resource)?;
        views.push(view);
        killed.insert(name.clone(), to_killed);
        directors
            .spawn(async move { director.run(lane).await.map_err(|why| format!("{name}: {why}")) });
    }
    tasks.spawn(listen_to_guard(reports, killed));
    if let Some(listener) = listener {
        let source = Source { views: views.clone(), metrics };
        let quiet = quiet.clone();
        tasks.spawn(async move {
            if let Err(error) = http::serve(listener, source, quiet).await {
                tracing::error!(%error, "the page for load balancers ended");
            }
        });
    }
    tasks.spawn(notify(views, quiet.clone()));
    let node = &here.node.name;
    tracing::info!(node, "the agent runs");
    let outcome = until_ended(directors, &stop, again).await;
    quiet.cancel();
    drop(shared);
    tasks.close();
    if tokio::time::timeout(LAST_WORDS, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    outcome
}

/// What all resources share.
struct Shared {
    nodes: Vec<Node>,
    settings: Settings,
    guard: Arc<Mutex<Guard>>,
    herald: Herald,
    metrics: Metrics,
    slots: Arc<Semaphore>,
    held: Arc<AtomicUsize>,
    stop: CancellationToken,
    quiet: CancellationToken,
    tasks: TaskTracker,
}

type Built = (Director, Lane, watch::Receiver<View>, mpsc::Sender<()>);

impl Shared {
    fn build(&self, here: &Here, resource: Resource) -> Result<Built, String> {
        let settings = &self.settings;
        let floor = state::read_epoch(&here.state_dir, &resource.name)?;
        let policy = policy(settings, &resource);
        let wait = policy.wait(settings.ttl);
        let left = state::left(&here.state_dir, &resource.name).filter(|_| resource.adopt);
        let machine = machine_of(here, policy, floor, left.as_ref());
        let (phase, phases) = watch::channel(PhaseName::Unknown);
        let (deadline, deadlines) = watch::channel(None);
        let (me, mes) = watch::channel(describe(here));
        let (view, views) = watch::channel(blank(&here.node, &resource));
        let (to_news, news) = mpsc::channel(QUEUE);
        let (events, to_database) = mpsc::channel(QUEUE);
        let (to_killed, killed) = mpsc::channel(1);
        let board = checks::Board::default();
        let news_of_checks = self.start_checks(&resource, phases, &board);
        let other = NewsLane {
            resource: resource.name.clone(),
            lane: self.lane(),
            me: mes,
            events: to_database,
            to: to_news,
            every: settings.renew,
            wait,
            history: settings.history,
            stop: self.quiet.clone(),
        };
        self.tasks.spawn(other.run());
        let setting = Setting {
            resource: resource.clone(),
            node: here.node.name.clone(),
            cookie: cookie(&here.state_dir, &resource.name),
            deadline: deadlines,
            kill_budget: kill_budget(settings),
        };
        let stage = stage::set_up(setting, &self.tasks);
        let wires = Wires {
            news,
            checks: news_of_checks,
            killed,
            events,
            me,
            phase,
            deadline,
            view,
            stop: self.stop.clone(),
        };
        let metrics = self.metrics.of(&resource.name);
        let director = Director {
            settings: settings.clone(),
            node: here.node.name.clone(),
            priority: here.node.priority,
            // What runs on all nodes waits for none of them.
            nodes: if resource.only.is_some() { Vec::new() } else { self.nodes.clone() },
            began: super::clock::now(),
            machine,
            stage,
            guard: self.guard.clone(),
            herald: self.herald.clone(),
            metrics,
            board,
            wires,
            state_dir: here.state_dir.clone(),
            held_resources: self.held.clone(),
            memory: Memory { kept_floor: floor, left, ..Memory::default() },
            resource,
        };
        Ok((director, self.lane(), views, to_killed))
    }

    fn start_checks(
        &self,
        resource: &Resource,
        phase: watch::Receiver<PhaseName>,
        board: &checks::Board,
    ) -> mpsc::Receiver<checks::News> {
        let around = checks::Surroundings {
            phase,
            slots: self.slots.clone(),
            board: board.clone(),
            stop: self.quiet.clone(),
        };
        checks::start(&resource.checks, &around, &self.tasks)
    }

    fn lane(&self) -> Lane {
        let settings = &self.settings;
        Lane::new(&settings.stores, settings.connect_timeout, settings.statement_timeout)
    }
}

/// Waits for a signal or for the first director that cannot go on, then for all.
async fn until_ended(
    mut directors: JoinSet<Result<(), String>>,
    stop: &CancellationToken,
    again: &dyn Fn(),
) -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut outcome = Ok(());
    loop {
        let ended = tokio::select! {
            _ = terminate.recv() => { stop.cancel(); continue }
            _ = interrupt.recv() => { stop.cancel(); continue }
            _ = hangup.recv() => { again(); continue }
            ended = directors.join_next() => ended,
        };
        let Some(ended) = ended else { return outcome };
        let ended = ended.unwrap_or_else(|error| Err(format!("a director ended: {error}")));
        if ended.is_err() {
            stop.cancel();
        }
        outcome = outcome.and(ended);
    }
}

async fn listen_to_guard(mut reports: Reports, killed: BTreeMap<String, mpsc::Sender<()>>) {
    while let Some(resource) = reports.next().await {
        tracing::warn!(resource, "the guard ended what ran");
        if let Some(to) = killed.get(&resource) {
            // A director that is gone has ended.
            let _ = to.send(()).await;
        }
    }
}

/// Tells the service manager that the agent runs, how it stands, and that it is not stuck.
async fn notify(mut views: Vec<watch::Receiver<View>>, quiet: CancellationToken) {
    // Nobody may be listening: then all of this does nothing.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(1), |time| time / 3);
    let mut last = String::new();
    loop {
        tokio::select! {
            () = quiet.cancelled() => break,
            () = tokio::time::sleep(every.min(Duration::from_secs(1))) => {}
        }
        let lines = views.iter_mut().map(|view| {
            let view = view.borrow_and_update();
            format!("{}: {}", view.resource, view.message)
        });
        let status = lines.collect::<Vec<_>>().join("; ");
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        if status != last {
            let _ = sd_notify::notify(&[NotifyState::Status(&status)]);
            last = status;
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// The machine, which is the one of an earlier agent where that left something running.
fn machine_of(here: &Here, policy: Policy, floor: i64, left: Option<&Left>) -> Machine {
    let incarnation = left.map_or(&here.incarnation, |left| &left.incarnation);
    let machine = Machine::new(policy, &here.node.name, incarnation, floor, rand::random());
    if left.is_some() { machine.adopting() } else { machine }
}

fn policy(settings: &Settings, resource: &Resource) -> Policy {
    Policy {
        ttl: settings.ttl,
        renew: settings.renew,
        watch: settings.watch,
        stop_budget: settings.stop_budget,
        margin: settings.margin,
        handover: settings.watch * 2 + settings.statement_timeout * 2,
        failback: resource.failback,
        min_role_time: resource.min_role_time,
        flap_limit: resource.flap_limit,
        flap_window: resource.flap_window,
        start_retry: resource.start_retry,
        auto_failover: resource.auto_failover,
        rules: Rules::ALL,
        ..Policy::default()
    }
}

fn describe(here: &Here) -> NodeRow {
    NodeRow {
        node: here.node.name.clone(),
        incarnation: here.incarnation.clone(),
        machine: here.machine.clone(),
        seq: 0,
        role: PhaseName::Unknown.word().into(),
        mode: here.node.mode.word().into(),
        priority: here.node.priority,
        healthy: true,
        maintenance: false,
        seen_epoch: 0,
        addr: here.node.address.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        message: "starting".into(),
    }
}

fn blank(node: &Node, resource: &Resource) -> View {
    View {
        resource: resource.name.clone(),
        node: node.name.clone(),
        role: PhaseName::Unknown.word(),
        message: "nothing has been read yet".into(),
        grade: "",
        holder: String::new(),
        epoch: 0,
        lease_left_ms: None,
        paused: false,
        target: String::new(),
        healthy: true,
        maintenance: false,
        rank: 0,
        standbys: Vec::new(),
        held: String::new(),
        database: String::new(),
        checks: BTreeMap::new(),
    }
}
