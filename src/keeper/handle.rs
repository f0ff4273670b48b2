//! What the rest of the program has of the keeper: snapshots, questions, and the commit gate.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, RwLock, mpsc, oneshot};

use super::Verdict;
use crate::cluster::{Phase, State, View};

/// What the keeper is told.
#[derive(Debug)]
pub(super) enum Message {
    /// A connection broke, or a backend gave no answer.
    Lost {
        backend: usize,
        generation: u64,
        cause: String,
        force: bool,
        reply: oneshot::Sender<Verdict>,
    },
    /// What an inactive backend is doing.
    Note { backend: usize, state: State, reason: String },
    /// The journal no longer reaches back to an inactive backend.
    LeftBehind { backend: usize, has: i64, pruned: i64 },
    /// The members have been found and are the same.
    Settled { number: i64, order: Vec<usize>, cluster: Option<String>, reply: oneshot::Sender<()> },
    /// A backend has everything; commits are held back meanwhile.
    Join { backend: usize, reply: oneshot::Sender<Result<(), String>> },
    /// An operator wants a backend out.
    Deactivate { backend: usize, reply: oneshot::Sender<Result<(), String>> },
    /// An operator wants a backend back.
    Release { backend: usize, reply: oneshot::Sender<()> },
}

/// Snapshots of the view, questions to the keeper, and the commit gate.
#[derive(Debug)]
pub struct Handle {
    view: ArcSwap<View>,
    cluster: ArcSwap<String>,
    /// Wakes whoever waits for another view. Unlike a `watch` it wakes them in an order that can be
    /// repeated.
    changed: Notify,
    inbox: mpsc::Sender<Message>,
    /// Every commit holds it shared from its number to its end; whoever needs a moment without
    /// commits takes it whole.
    pub gate: Arc<RwLock<()>>,
}

impl Handle {
    pub(super) fn new(view: View, cluster: String, inbox: mpsc::Sender<Message>) -> Self {
        Self {
            view: ArcSwap::from_pointee(view),
            cluster: ArcSwap::from_pointee(cluster),
            changed: Notify::new(),
            inbox,
            gate: Arc::new(RwLock::new(())),
        }
    }

    pub(super) fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
        self.changed.notify_waiters();
    }

    pub(super) fn set_cluster(&self, cluster: &str) {
        self.cluster.store(Arc::new(cluster.to_owned()));
    }

    /// The identity of the cluster; known before anybody is served.
    pub fn cluster(&self) -> Arc<String> {
        self.cluster.load_full()
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Ends with the next snapshot. Taken before a look at the view, it misses none.
    pub fn next_change(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Waits until the cluster serves, for at most `limit`. False when it does not by then.
    pub async fn wait_serving(&self, limit: Duration) -> bool {
        let serving = async {
            loop {
                let changed = self.next_change();
                if self.view.load().phase == Phase::Serving {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, serving).await.is_ok()
    }

    async fn ask<T>(&self, message: Message, answer: oneshot::Receiver<T>, otherwise: T) -> T {
        if self.inbox.send(message).await.is_err() {
            return otherwise;
        }
        answer.await.unwrap_or(otherwise)
    }

    /// Reports a broken connection and waits for what follows from it.
    pub async fn lost(
        &self,
        backend: usize,
        generation: u64,
        cause: String,
        force: bool,
    ) -> Verdict {
        let (reply, answer) = oneshot::channel();
        let message = Message::Lost { backend, generation, cause, force, reply };
        self.ask(message, answer, Verdict::Settling).await
    }

    /// Notes what an inactive backend is doing.
    pub async fn note(&self, backend: usize, state: State, reason: String) {
        // Without a keeper the process is ending, and nobody looks at the note.
        let _ = self.inbox.send(Message::Note { backend, state, reason }).await;
    }

    /// Notes that a backend has everything up to one record only, and that the journal begins after
    /// another one.
    pub async fn left_behind(&self, backend: usize, has: i64, pruned: i64) {
        // Without a keeper the process is ending, and nobody looks at the note.
        let _ = self.inbox.send(Message::LeftBehind { backend, has, pruned }).await;
    }

    /// The members of the newest view have been found and are the same.
    pub async fn settled(&self, number: i64, order: Vec<usize>, cluster: Option<String>) {
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Settled { number, order, cluster, reply }, answer, ()).await;
    }

    /// Makes a backend a member. The gate must be held whole.
    ///
    /// # Errors
    /// When the backend does not take the view.
    pub async fn join(&self, backend: usize) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let stopping = Err("the proxy is stopping".to_owned());
        self.ask(Message::Join { backend, reply }, answer, stopping).await
    }

    /// Makes a backend inactive until an operator wants it back.
    ///
    /// # Errors
    /// When it is the last active one.
    pub async fn deactivate(&self, backend: usize) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let stopping = Err("the proxy is stopping".to_owned());
        self.ask(Message::Deactivate { backend, reply }, answer, stopping).await
    }

    /// Lets a backend come back by itself again.
    pub async fn release(&self, backend: usize) {
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Release { backend, reply }, answer, ()).await;
    }
}
