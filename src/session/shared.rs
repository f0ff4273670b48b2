//! What all sessions share.

use std::sync::Arc;
use std::time::Duration;

use super::Registry;
use crate::backend::Backend;
use crate::catalog::Catalogs;
use crate::config::{Balancer, Consistency};
use crate::exchange::{Link, Protocol};
use crate::keeper::{Control, Handle};
use crate::ledger::Ledger;
use crate::metrics::Metrics;

/// Settings of all sessions.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    /// How long a client waits while no backend is active.
    pub hold: Duration,
    /// How reads are spread.
    pub balancer: Balancer,
    /// What reads are sure to see, unless a session says otherwise.
    pub consistency: Consistency,
    /// The most bytes of effects of one transaction.
    pub max_effects: usize,
}

/// What all sessions share.
pub struct Shared<P: Protocol> {
    /// The backends, in the order of the configuration.
    pub backends: Vec<Arc<Backend<P::Link>>>,
    /// Their bookkeeping.
    pub controls: Vec<Arc<dyn Control>>,
    /// The keeper of the view.
    pub keeper: Arc<Handle>,
    /// Sequence numbers and commits under way.
    pub ledger: Arc<Ledger>,
    /// The catalog and the classifications made with it.
    pub catalogs: Arc<Catalogs>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub settings: SharedSettings,
    /// Who is connected.
    pub registry: Registry<<P::Link as Link>::Canceller>,
    /// By how many microseconds each commit is slowed down, so that a backend can catch up.
    pub brake_us: std::sync::atomic::AtomicU32,
    /// Held shared by every transaction on the leader, whole by an operator's pause.
    pub admission: Arc<tokio::sync::RwLock<()>>,
    /// Wakes whoever brings backends back.
    pub activate: tokio::sync::Notify,
    /// Counts choices of a backend for a read.
    pub turn: std::sync::atomic::AtomicUsize,
}

impl<P: Protocol> Shared<P> {
    /// Reads the catalog again after it has changed. Tries until a leader gives it.
    pub async fn reload_catalog(&self) {
        loop {
            let epoch = self.catalogs.epoch();
            if let Some(leader) = self.keeper.view().leader() {
                match self.controls[leader].catalog().await {
                    Ok(judge) => {
                        self.catalogs.install(epoch, judge);
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the catalog cannot be read; trying again")
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
