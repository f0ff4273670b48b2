//! Checks: what is looked at, how often, and what a row of failures means.

mod kinds;
mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock;
use super::election::PhaseName;
use crate::config::agent::{Check, When};

pub use tally::{Change, Tally};

/// What the director learns of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Which one, in the order of the file.
    pub check: usize,
    /// What changed.
    pub change: Change,
    /// What the check said.
    pub said: String,
}

/// How a check stands; for tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// What it looks at.
    pub kind: &'static str,
    /// `pass`, `fail` or `idle`.
    pub state: &'static str,
    /// Failures in a row.
    pub failures: u32,
    /// What it said last.
    pub said: String,
}

/// How all checks of a resource stand, by name.
pub type Board = Arc<Mutex<BTreeMap<String, Standing>>>;

/// What all checks share.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where this node stands.
    pub phase: watch::Receiver<PhaseName>,
    /// How many may be under way at once.
    pub slots: Arc<Semaphore>,
    /// Where it is shown how they stand.
    pub board: Board,
    /// Ends them.
    pub stop: CancellationToken,
}

/// Starts looking; the news come out.
#[must_use]
pub fn start(checks: &[Check], around: &Surroundings, tasks: &TaskTracker) -> mpsc::Receiver<News> {
    let (to, news) = mpsc::channel(checks.len().max(1) * 4);
    for (index, check) in checks.iter().enumerate() {
        let watcher = Watcher {
            index,
            tally: Tally::new(check),
            check: check.clone(),
            around: around.clone(),
            to: to.clone(),
        };
        tasks.spawn(watcher.watch());
    }
    news
}

struct Watcher {
    index: usize,
    check: Check,
    tally: Tally,
    around: Surroundings,
    to: mpsc::Sender<News>,
}

impl Watcher {
    async fn watch(mut self) {
        // Not all at once, on all nodes at once.
        let mut pause = self.check.interval.mul_f64(rand::random::<f64>() / 2.0);
        let mut hanging: Option<tokio::task::JoinHandle<()>> = None;
        self.show("idle", String::new());
        loop {
            let stop = self.around.stop.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = self.check.interval;
            if !self.is_due() {
                let changes = self.tally.rest();
                self.show("idle", String::new());
                self.tell(changes, "not looked at now").await;
                continue;
            }
            let said = if hanging.as_ref().is_some_and(|task| !task.is_finished()) {
                Err("the look before this one still hangs".to_owned())
            } else {
                let (outcome, task) = self.look().await;
                hanging = task;
                outcome
            };
            let told = self.check.period.as_ref().is_none_or(|p| p.contains(clock::seconds()));
            let changes = self.tally.on_result(clock::now(), said.is_ok(), told);
            let failing = self.tally.is_failing();
            let said = said.unwrap_or_else(|why| why);
            self.show(if failing { "fail" } else { "pass" }, said.clone());
            self.tell(changes, &said).await;
        }
    }

    /// One look, and the task that goes on with it when it took too long.
    async fn look(&self) -> (Result<String, String>, Option<tokio::task::JoinHandle<()>>) {
        let Ok(slot) = self.around.slots.clone().acquire_owned().await else {
            return (Err("the agent ends".into()), None);
        };
        let (kind, timeout) = (self.check.kind.clone(), self.check.timeout);
        let (to, answer) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let _slot = slot;
            // Nobody may wait any more.
            let _ = to.send(kinds::look(&kind, timeout).await);
        });
        match tokio::time::timeout(timeout + GRACE, answer).await {
            Ok(Ok(outcome)) => (outcome, None),
            Ok(Err(_)) => (Err("the look ended without an answer".into()), None),
            Err(_) => (Err(format!("no answer within {timeout:?}")), Some(task)),
        }
    }

    fn is_due(&self) -> bool {
        let phase = *self.around.phase.borrow();
        let now = match self.check.when {
            When::Always => true,
            When::Master => phase == PhaseName::Master,
            When::Standby | When::PrePromote => {
                matches!(phase, PhaseName::Standby | PhaseName::Unknown)
            }
        };
        let waits = self.check.depends.as_ref().is_some_and(|other| {
            let board = self.around.board.lock().unwrap_or_else(PoisonError::into_inner);
            board.get(other).is_some_and(|standing| standing.state == "fail")
        });
        now && !waits
    }

    fn show(&self, state: &'static str, said: String) {
        let kind = self.check.kind.word();
        let standing = Standing { kind, state, failures: self.tally.failures(), said };
        let mut board = self.around.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.insert(self.check.name.clone(), standing);
    }

    async fn tell(&self, changes: Vec<Change>, said: &str) {
        for change in changes {
            let news = News { check: self.index, change, said: said.to_owned() };
            // A director that is gone has ended.
            let _ = self.to.send(news).await;
        }
    }
}

/// The kinds keep their own time; this is for those that hang in the kernel.
const GRACE: Duration = Duration::from_millis(250);
