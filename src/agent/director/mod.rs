//! The director of one resource: asks the machine what to do, and has it done.
//!
//! One loop, one request to the database at a time, one machine. While an answer is awaited, the
//! deadline is watched all the same. What the machine asks for is done before anything else is sent:
//! the guard knows the deadline before the database knows that this node goes on.

mod acts;
mod adoption;
mod health;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::alerts::Herald;
use super::checks;
use super::clock;
use super::election::{
    Answer, Done, Event, Lease, Machine, Moment, NodeRow, Pause, PhaseName, Poll, Request, Roster,
};
use super::guard::Guard;
use super::http::View;
use super::lease::{EventRow, Lane, Orders};
use super::metrics::ResourceMetrics;
use super::news::News;
use super::stage::{Order, Report, Stage};
use super::state::Left;
use crate::config::agent::{Node, Resource, Settings};

/// All that a director works with.
pub struct Director {
    pub(super) settings: Settings,
    pub(super) resource: Resource,
    pub(super) node: String,
    /// The node's own, before checks and homes.
    pub(super) priority: i32,
    /// All nodes of the file.
    pub(super) nodes: Vec<Node>,
    pub(super) began: Moment,
    pub(super) machine: Machine,
    pub(super) stage: Stage,
    pub(super) guard: Arc<Mutex<Guard>>,
    pub(super) herald: Herald,
    pub(super) metrics: ResourceMetrics,
    pub(super) board: checks::Board,
    pub(super) wires: Wires,
    /// Where the highest epoch and the mark of a running resource are kept.
    pub(super) state_dir: PathBuf,
    /// How many resources this node has.
    pub(super) held_resources: Arc<AtomicUsize>,
    pub(super) memory: Memory,
}

/// What goes to and comes from the director's neighbours.
pub struct Wires {
    /// News of the other lane.
    pub news: mpsc::Receiver<News>,
    /// News of the checks.
    pub checks: mpsc::Receiver<checks::News>,
    /// Resources that the guard has ended.
    pub killed: mpsc::Receiver<()>,
    /// Events to be kept.
    pub events: mpsc::Sender<EventRow>,
    /// What this node says of itself.
    pub me: watch::Sender<NodeRow>,
    /// Where this node stands.
    pub phase: watch::Sender<PhaseName>,
    /// Until when everything must be stopped.
    pub deadline: watch::Sender<Option<Moment>>,
    /// How the resource stands.
    pub view: watch::Sender<View>,
    /// Asks the agent to end.
    pub stop: CancellationToken,
}

/// What the director has seen.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) roster: Roster,
    pub(super) orders: Option<Orders>,
    pub(super) settled: Option<bool>,
    /// Checks that fail, by name, and what they said.
    pub(super) failing: BTreeMap<String, String>,
    /// Why this node does not take the resource until an operator clears it.
    pub(super) out: Option<String>,
    /// A service that could not be kept running, until the resource has moved or it is cleared.
    pub(super) broken: Option<Broken>,
    pub(super) message: String,
    pub(super) place: String,
    pub(super) held: String,
    pub(super) had_standbys: Option<bool>,
    /// When the row was last seen to move before this node took it.
    pub(super) silence_since: Option<Moment>,
    pub(super) ending: bool,
    pub(super) ending_since: Option<Moment>,
    pub(super) stage_busy: bool,
    /// What an agent before this one has left running in maintenance, until it is known whose it is.
    pub(crate) left: Option<Left>,
    /// What runs is left running.
    pub(super) leaves: bool,
    pub(super) demoting: bool,
    /// The highest epoch that is in the file: no row below it is believed, ever.
    pub(crate) kept_floor: i64,
}

/// A service that could not be kept running.
#[derive(Debug)]
pub(super) struct Broken {
    service: String,
    why: String,
    /// When it is tried once more, if the resource has nowhere to go.
    again: Moment,
}

/// A request under way: the lane comes back with the answer.
type Asking = Pin<Box<dyn Future<Output = (Lane, Answer, Duration)> + Send>>;

impl Director {
    /// Runs until the agent is told to end and the resource is given back.
    ///
    /// # Errors
    /// When this node must not go on: another machine has its name, or nobody guards.
    pub async fn run(mut self, lane: Lane) -> Result<(), String> {
        let stop = self.wires.stop.clone();
        let mut lane = Some(lane);
        let mut asking: Option<Asking> = None;
        loop {
            let now = clock::now();
            self.consider(now);
            self.machine.tick(now);
            self.obey().await?;
            // Before anything is sent that says that this node goes on.
            self.end_what_is_not_ours().await?;
            let mut wake = self.machine.alarm();
            if let Some(free) = lane.take() {
                match self.machine.poll(now) {
                    Poll::Send(request) => {
                        self.obey().await?;
                        asking = Some(self.ask(free, request));
                    }
                    Poll::Wait(until) => {
                        wake = Some(wake.map_or(until, |wake| wake.min(until)));
                        lane = Some(free);
                    }
                }
            }
            self.obey().await?;
            self.show();
            if self.has_ended() {
                return Ok(());
            }
            let wake = wake.unwrap_or_else(|| now.after(self.settings.watch));
            tokio::select! {
                biased;
                (back, answer, took) = async { asking.as_mut().expect("checked").as_mut().await },
                    if asking.is_some() =>
                {
                    asking = None;
                    self.memory.place = back.place().to_owned();
                    lane = Some(back);
                    self.answered(answer, took);
                }
                report = self.stage.report() => self.on_report(report).await?,
                killed = self.wires.killed.recv() => {
                    if killed.is_none() {
                        return self.unguarded().await;
                    }
                    self.machine.give_up(clock::now(), Event::TimeUp);
                }
                Some(news) = self.wires.news.recv() => self.on_news(news)?,
                Some(news) = self.wires.checks.recv() => self.on_check(news),
                () = stop.cancelled(), if !self.memory.ending => {
                    self.memory.ending = true;
                    self.memory.ending_since = Some(clock::now());
                    if self.may_leave() {
                        self.stage.order(Order::Leave).await?;
                    } else if self.memory.left.is_none() {
                        self.machine.give_up(clock::now(), Event::Shutdown);
                    }
                }
                () = clock::sleep_until(wake.max(now.after(SHORTEST))) => {}
            }
        }
    }

    fn ask(&self, mut lane: Lane, request: Request) -> Asking {
        let resource = self.resource.name.clone();
        let may_create = self.machine.floor() == 0;
        Box::pin(async move {
            let sent = clock::now();
            let answer = match request.change() {
                None => read(&mut lane, &resource, may_create).await,
                Some(change) => lane.change(&resource, change).await.map(Answer::Matched),
            };
            let took = clock::now().since(sent);
            let answer = answer.unwrap_or_else(|why| {
                tracing::warn!(resource, why, "the lease cannot be reached");
                Answer::Lost
            });
            (lane, answer, took)
        })
    }

    fn answered(&mut self, answer: Answer, took: Duration) {
        let now = clock::now();
        match &answer {
            Answer::Lost if self.holds() => self.metrics.late.inc(),
            Answer::Matched(_) => self.metrics.renew.observe(took.as_secs_f64()),
            _ => {}
        }
        if self.machine.phase() == PhaseName::Standby {
            // A take changes what is seen: the silence before it is what users had to bear.
            self.memory.silence_since = self.machine.seen_at();
        }
        self.machine.on_answer(now, answer);
    }

    fn holds(&self) -> bool {
        matches!(self.machine.phase(), PhaseName::Starting | PhaseName::Master)
    }

    async fn on_report(&mut self, report: Option<Report>) -> Result<(), String> {
        let now = clock::now();
        match report {
            None => return Err("the stage is gone".into()),
            Some(Report::Started) => self.machine.on_done(now, Done::Started),
            Some(Report::StartFailed(why)) => {
                self.tell("start_failed", &why);
                self.machine.on_done(now, Done::StartFailed);
            }
            Some(Report::Stopped) => {
                self.memory.stage_busy = false;
                self.memory.demoting = false;
                self.memory.broken = None;
                self.guard.lock().await.stopped(&self.resource.name).await?;
                self.forget_mark();
                if self.machine.phase() == PhaseName::Stopping {
                    self.machine.on_done(now, Done::Stopped);
                }
            }
            Some(Report::Left(services)) => self.leave(services).await?,
            Some(Report::Root(root)) => {
                self.guard.lock().await.root(&self.resource.name, root).await?;
            }
            Some(Report::Failed { service, why }) => {
                self.tell("service_failed", &why);
                let again = now.after(self.resource.start_retry);
                self.memory.broken = Some(Broken { service, why, again });
            }
            Some(Report::Notice(event, why)) => {
                if event == "restarted" {
                    self.memory.broken = None;
                }
                self.tell(event, &why);
            }
        }
        Ok(())
    }

    /// Nobody enforces the deadline any more: this node stops, and the agent ends.
    async fn unguarded(mut self) -> Result<(), String> {
        self.memory.ending = true;
        self.machine.give_up(clock::now(), Event::TimeUp);
        // The guard's end is no reason to leave anything running; its lock is free already.
        let _ = self.obey().await;
        while self.memory.stage_busy {
            match self.stage.report().await {
                Some(Report::Stopped) | None => self.memory.stage_busy = false,
                Some(_) => {}
            }
        }
        Err("the guard is gone: this agent ends, and its services with it".into())
    }

    fn has_ended(&self) -> bool {
        if self.memory.ending && (self.memory.leaves || self.memory.left.is_some()) {
            return true;
        }
        let quiet = matches!(
            self.machine.phase(),
            PhaseName::Standby | PhaseName::Unknown | PhaseName::Regressed
        );
        // A lease that cannot be given back ends by itself: nothing runs any more.
        let given_up = self.memory.ending_since.is_some_and(|since| {
            let kept = matches!(self.machine.phase(), PhaseName::Releasing | PhaseName::Claiming);
            kept && clock::now().since(since) > self.settings.ttl
        });
        self.memory.ending && (quiet || given_up) && !self.memory.stage_busy
    }

    pub(super) fn paused(&self) -> bool {
        self.machine.row().is_some_and(|row| row.paused != Pause::No)
    }
}

/// The loop is never busier than this.
const SHORTEST: Duration = Duration::from_millis(5);

/// The row; on the first start ever the tables and the row are made.
async fn read(lane: &mut Lane, resource: &str, may_create: bool) -> Result<Answer, String> {
    let found: Result<Option<Lease>, String> = lane.read(resource).await;
    match found {
        Ok(Some(row)) => Ok(Answer::Row(Some(row))),
        Ok(None) | Err(_) if may_create => {
            if let Err(why) = lane.create_tables().await {
                // Another node may be doing the same: then they are there in a moment.
                tracing::debug!(resource, why, "the tables could not be made");
                tokio::time::sleep(SHORTEST * 20).await;
            }
            lane.create_row(resource).await?;
            lane.read(resource).await.map(Answer::Row)
        }
        other => other.map(Answer::Row),
    }
}
