//! The stage of one resource: what is started when this node becomes the master, and stopped when it
//! is no longer, in order and with deadlines.
//!
//! Up: make sure that the former master is gone, ask whether the addresses are free, start the
//! services, take the addresses, tell. Down, the other way round; whatever does not stop in time is
//! killed with its whole tree, and `Stopped` is said only when nothing is left. A start that is under
//! way is given up as soon as a stop is asked for.

mod addresses;
pub(super) mod service;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::clock;
use super::election::{Event, Grade, Moment};
use super::program;
use super::state::Left;
use super::tree;
use crate::config::agent::{Program, Resource, ServiceKind};

use addresses::Held;
use service::Running;

/// How long processes are waited for after they were killed, before that is told again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is tried to give an address back.
const ADDRESS_ATTEMPTS: u32 = 4;
/// Messages under way in either direction.
const QUEUE: usize = 32;

/// What the stage is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Start everything.
    Promote {
        /// In which term.
        epoch: i64,
        /// What this node may do.
        grade: Grade,
        /// What runs already, from an agent before this one.
        left: Option<Left>,
    },
    /// Say what runs, and leave it running when the agent ends.
    Leave,
    /// Stop everything.
    Demote(Event),
    /// Restart one service, or the last.
    Restart {
        /// Its name.
        service: Option<String>,
        /// Also where that was done too often: there is nowhere else to go.
        forced: bool,
    },
}

/// What the stage tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Everything is up.
    Started,
    /// Something did not come up.
    StartFailed(String),
    /// Nothing runs any more.
    Stopped,
    /// A service could not be kept running here.
    Failed {
        /// Its name.
        service: String,
        /// What happened.
        why: String,
    },
    /// What is left running.
    Left(Vec<(String, Option<tree::Root>)>),
    /// A process of ours, which the guard should know.
    Root(tree::Root),
    /// A word for the event it is, and more about it.
    Notice(&'static str, String),
}

/// The director's end.
#[derive(Debug)]
pub struct Stage {
    orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Report>,
}

impl Stage {
    /// Asks for something.
    ///
    /// # Errors
    /// If the stage is gone, which is a mistake of the program.
    pub async fn order(&self, order: Order) -> Result<(), String> {
        self.orders.send(order).await.map_err(|_| "the stage is gone".into())
    }

    /// Asks for something that may be left undone; whether it was asked for.
    #[must_use]
    pub fn try_order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    /// What it tells next; `None` when it is gone.
    pub async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }
}

/// What the stage needs to know of its surroundings.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What is to be run.
    pub resource: Resource,
    /// This node's name.
    pub node: String,
    /// Names the resource's processes.
    pub cookie: String,
    /// Until when everything must be stopped; none: no such moment.
    pub deadline: watch::Receiver<Option<Moment>>,
    /// Time before the deadline at which what still runs is killed.
    pub kill_budget: Duration,
}

/// Sets the stage up; its task ends when the returned end is dropped.
#[must_use]
pub fn set_up(setting: Setting, tasks: &tokio_util::task::TaskTracker) -> Stage {
    let (orders, from_director) = mpsc::channel(QUEUE);
    let (to_director, reports) = mpsc::channel(QUEUE);
    let (deaths, died) = mpsc::channel(QUEUE);
    let crew = Crew {
        setting,
        to_director,
        deaths,
        running: Vec::new(),
        held: Vec::new(),
        environment: Vec::new(),
        restarts: VecDeque::new(),
        leaves: false,
    };
    tasks.spawn(crew.work(from_director, died));
    Stage { orders, reports }
}

/// A service's process ended by itself.
#[derive(Debug)]
pub(super) struct Death {
    service: usize,
    pid: u32,
    how: String,
}

struct Crew {
    setting: Setting,
    to_director: mpsc::Sender<Report>,
    deaths: mpsc::Sender<Death>,
    running: Vec<Running>,
    held: Vec<Held>,
    environment: Vec<(String, String)>,
    /// When services were restarted, and which.
    restarts: VecDeque<(Moment, usize)>,
    /// What runs goes on when the agent ends.
    leaves: bool,
}

impl Crew {
    async fn work(mut self, mut orders: mpsc::Receiver<Order>, mut died: mpsc::Receiver<Death>) {
        let mut next = None;
        loop {
            let order = match next.take() {
                Some(order) => Some(order),
                None => tokio::select! {
                    order = orders.recv() => order,
                    Some(death) = died.recv() => match self.on_death(death).await {
                        Some(order) => Some(order),
                        None => continue,
                    },
                },
            };
            match order {
                None => break,
                Some(Order::Demote(cause)) => {
                    self.demote(cause).await;
                    while died.try_recv().is_ok() {}
                }
                Some(Order::Leave) => {
                    self.leaves = true;
                    let left = self.running.iter().map(Running::left).collect();
                    self.tell(Report::Left(left)).await;
                }
                Some(Order::Promote { epoch, grade, left }) => {
                    tokio::select! {
                        biased;
                        order = orders.recv() => next = order.or(Some(Order::Demote(Event::Shutdown))),
                        outcome = self.promote(epoch, grade, left) => self.tell(match outcome {
                            Ok(()) => Report::Started,
                            Err(why) => Report::StartFailed(why),
                        }).await,
                    }
                }
                Some(Order::Restart { service, forced }) => {
                    // What is stopped is stopped; only the start is given up for another order.
                    let Some(index) = self.make_way(service, forced).await else { continue };
                    tokio::select! {
                        biased;
                        order = orders.recv() => next = order.or(Some(Order::Demote(Event::Shutdown))),
                        () = self.start_again(index) => {}
                    }
                }
            }
        }
        if !self.leaves {
            // The agent ends: nothing is left behind, whatever was said.
            self.demote(Event::Shutdown).await;
        }
    }

    async fn tell(&self, report: Report) {
        // A director that is gone has ended, and the guard with it.
        let _ = self.to_director.send(report).await;
    }

    async fn promote(
        &mut self,
        epoch: i64,
        grade: Grade,
        left: Option<Left>,
    ) -> Result<(), String> {
        let resource = self.setting.resource.clone();
        let vips: Vec<String> = resource.vips.iter().map(|vip| vip.address.to_string()).collect();
        self.environment = [
            ("LOCKSTEP_RESOURCE", resource.name.clone()),
            ("LOCKSTEP_NODE", self.setting.node.clone()),
            ("LOCKSTEP_EPOCH", epoch.to_string()),
            ("LOCKSTEP_GRADE", grade.word().to_owned()),
            ("LOCKSTEP_VIP", vips.join(" ")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec();
        self.restarts.clear();
        if left.is_none() {
            self.hook("fence", resource.fence.as_ref()).await?;
        }
        let claims = addresses::claim(&resource.vips).await?;
        for (index, service) in resource.services.iter().enumerate() {
            let mut running = left.iter().flat_map(|left| &left.services);
            let running = running.find(|(name, _)| *name == service.name).map(|(_, root)| *root);
            let started = self.start(index, running).await;
            started.map_err(|why| format!("service {}: {why}", service.name))?;
        }
        for claim in claims {
            // Held from the first attempt on: one that fails half-way is taken away as well.
            let deadline = self.setting.deadline.clone();
            let held = Held::begin(claim, deadline, self.environment.clone());
            self.held.push(held);
            if let Some(held) = self.held.last_mut() {
                held.up().await?;
            }
        }
        if left.is_some() {
            tracing::info!(resource = resource.name, "what ran already goes on");
        } else if let Err(why) = self.hook("on_promote", resource.on_promote.as_ref()).await {
            // The services are up: people should know, and nobody is helped by a stop.
            self.tell(Report::Notice("hook_failed", why)).await;
        }
        Ok(())
    }

    async fn hook(&self, name: &str, program: Option<&Program>) -> Result<(), String> {
        let Some(program) = program else { return Ok(()) };
        let mut environment = self.environment.clone();
        environment.push(("LOCKSTEP_EVENT".into(), name.into()));
        let ended = program::run(&program.words, &environment, program.timeout).await;
        let output =
            ended.and_then(program::Ended::success).map_err(|why| format!("{name}: {why}"))?;
        tracing::info!(hook = name, output, "hook ended");
        Ok(())
    }

    /// Starts a service, or goes on with it if it runs already: by its process, where it is one.
    async fn start(
        &mut self,
        index: usize,
        left: Option<Option<tree::Root>>,
    ) -> Result<(), String> {
        let deadline = *self.setting.deadline.borrow();
        if deadline.is_some_and(|end| clock::now() >= end.before(self.setting.kill_budget)) {
            return Err("the lease is at its end".into());
        }
        let service = &self.setting.resource.services[index];
        let cookie = format!("{}/{}", self.setting.cookie, service.name);
        // Counts as running before it is: what was half started is stopped as well.
        self.running.push(Running::new(index, service.clone(), cookie));
        let Some(running) = self.running.last_mut() else { return Ok(()) };
        let adopted = left.is_some_and(|root| running.adopt(root, &self.deaths));
        let root = if adopted {
            left.flatten()
        } else {
            running.spawn(&self.environment, &self.deaths)?
        };
        if let Some(root) = root {
            self.tell(Report::Root(root)).await;
        }
        let Some(running) = self.running.last_mut() else { return Ok(()) };
        running.wait_until_up(&self.environment, adopted).await
    }

    async fn demote(&mut self, cause: Event) {
        self.leaves = false;
        let resource = self.setting.resource.clone();
        if !self.running.is_empty() || !self.held.is_empty() {
            self.environment.push(("LOCKSTEP_CAUSE".into(), cause.word().into()));
            let told =
                self.within(Duration::MAX, self.hook("on_demote", resource.on_demote.as_ref()));
            if let Some(Err(why)) = told.await {
                self.tell(Report::Notice("hook_failed", why)).await;
            }
        }
        for mut held in std::mem::take(&mut self.held).into_iter().rev() {
            let mut attempts = 1;
            while let Err(why) = held.down().await {
                if attempts == ADDRESS_ATTEMPTS {
                    // The kernel, or whoever takes it next, takes it away.
                    self.tell(Report::Notice("stuck", why)).await;
                    break;
                }
                attempts += 1;
                tokio::time::sleep(PATIENCE / 4).await;
            }
        }
        for mut running in std::mem::take(&mut self.running).into_iter().rev() {
            let stop_timeout = running.service.stop_timeout;
            let stopped = self.within(stop_timeout, running.stop(&self.environment)).await;
            if stopped.is_none() && matches!(running.service.kind, ServiceKind::Exec { .. }) {
                let name = &running.service.name;
                let what = format!("service {name} did not stop in time and is killed");
                self.tell(Report::Notice("killed", what)).await;
            }
            self.end(&mut running).await;
        }
        self.tell(Report::Stopped).await;
    }

    /// Kills what is left of a service, and comes back when nothing is.
    async fn end(&mut self, running: &mut Running) {
        let mut told = false;
        loop {
            let Some(left) = running.kill(&self.environment, PATIENCE).await else { return };
            if !told {
                let what = format!("service {}: {left}", running.service.name);
                self.tell(Report::Notice("stuck", what)).await;
                let hook = self.setting.resource.on_stuck.clone();
                if let Err(why) = self.hook("on_stuck", hook.as_ref()).await {
                    self.tell(Report::Notice("hook_failed", why)).await;
                }
                told = true;
            }
        }
    }

    /// Waits for something no longer than `most`, and not into the time for killing. The deadline
    /// moves on while the lease is renewed.
    async fn within<T>(&self, most: Duration, what: impl Future<Output = T>) -> Option<T> {
        let begun = clock::now();
        tokio::pin!(what);
        loop {
            let deadline = *self.setting.deadline.borrow();
            let limit = begun.after(most);
            let end = deadline.map_or(limit, |d| limit.min(d.before(self.setting.kill_budget)));
            tokio::select! {
                done = &mut what => return Some(done),
                () = clock::sleep_until(end.min(clock::now().after(PATIENCE / 8))) => {
                    if clock::now() >= end {
                        return None;
                    }
                }
            }
        }
    }

    /// What is to be done about a process that ended by itself.
    async fn on_death(&mut self, death: Death) -> Option<Order> {
        let ours = self.running.iter().any(|r| r.index == death.service && r.is(death.pid));
        if !ours {
            return None;
        }
        let name = self.setting.resource.services[death.service].name.clone();
        self.tell(Report::Notice("service_died", format!("{name} {}", death.how))).await;
        Some(Order::Restart { service: Some(name), forced: false })
    }

    /// Stops a service that is to be restarted, if that was not done too often; which one it is.
    async fn make_way(&mut self, name: Option<String>, forced: bool) -> Option<usize> {
        let services = &self.setting.resource.services;
        let index = match name {
            Some(name) => services.iter().position(|service| service.name == name),
            None => services.len().checked_sub(1),
        }?;
        let service = services[index].clone();
        let now = clock::now();
        self.restarts.retain(|(at, _)| now.since(*at) < service.restart_window);
        let count = self.restarts.iter().filter(|(_, which)| *which == index).count();
        if count >= service.restart_limit && !forced {
            let window = service.restart_window;
            let why = format!("service {} needed {count} restarts in {window:?}", service.name);
            self.tell(Report::Failed { service: service.name, why }).await;
            return None;
        }
        self.restarts.push_back((now, index));
        let place = self.running.iter().position(|running| running.index == index);
        if let Some(place) = place {
            let mut running = self.running.remove(place);
            let _ = self.within(service.stop_timeout, running.stop(&self.environment)).await;
            self.end(&mut running).await;
        }
        Some(index)
    }

    async fn start_again(&mut self, index: usize) {
        let name = self.setting.resource.services[index].name.clone();
        match self.start(index, None).await {
            Ok(()) => {
                let what = format!("service {name} was restarted");
                self.tell(Report::Notice("restarted", what)).await;
            }
            Err(why) => {
                let why = format!("service {name} does not come up again: {why}");
                self.tell(Report::Failed { service: name, why }).await;
            }
        }
    }
}
