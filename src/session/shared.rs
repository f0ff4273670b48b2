//! What all sessions share.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::crossing::Led;
use super::transaction::{Place, Transaction};
use super::{Crossings, Identities, Leases, Present, Registry};
use crate::backend::Backend;
use crate::catalog::Catalogs;
use crate::config::{Balancer, Config, Consistency, Journal, Reactivate};
use crate::exchange::{Link, Protocol};
use crate::keeper::{Control, Handle};
use crate::ledger::Ledger;
use crate::metrics::Metrics;

/// Settings of all sessions, which follow the file.
#[derive(Clone, Copy, Debug)]
pub struct SharedSettings {
    /// How long a client waits while no backend is active.
    pub hold: Duration,
    /// How reads are spread.
    pub balancer: Balancer,
    /// What reads are sure to see, unless a session says otherwise.
    pub consistency: Consistency,
    /// The most bytes of effects of one transaction.
    pub max_effects: usize,
    /// How many prepared statements one client may have.
    pub max_prepared: usize,
    /// Backends come back by themselves.
    pub automatic: bool,
    /// How long a client may say nothing in an open transaction.
    pub idle_in_transaction: Option<Duration>,
    /// How many single INSERTs of different clients may share a transaction.
    pub group_commit: usize,
    /// How long these wait together for somebody's lock.
    pub group_wait: Duration,
    /// How long a change of the schema waits for reads of the same tables.
    pub schema_lock: Duration,
    /// How long a write waits for tables that another session has locked, and their lock for writes.
    pub table_lock: Duration,
    /// How long a start waits for all members of the last view.
    pub startup_wait: Duration,
    /// How late a dead server is noticed.
    pub dead_after: Duration,
    /// How long the change of a lease waits for sessions that it ends.
    pub fence: Duration,
    /// How long those who begin something on a new leader wait for what was open on the former one.
    pub carry_over: Duration,
    /// How long the commit gate may be waited for and held while a backend rejoins.
    pub gate: Duration,
    /// How long transactions under way may take when the proxy stops, or another one is to write.
    pub shutdown_grace: Duration,
    /// Between two health checks of one backend.
    pub probe_interval: Duration,
    /// How much of the journal is kept.
    pub journal: Journal,
}

impl From<&Config> for SharedSettings {
    fn from(config: &Config) -> Self {
        Self {
            hold: config.timeouts.hold,
            balancer: config.reads.balancer,
            consistency: config.reads.consistency,
            max_effects: config.limits.max_transaction_effects_bytes,
            max_prepared: config.limits.max_prepared_per_client,
            automatic: config.cluster.reactivate == Reactivate::Auto,
            idle_in_transaction: config.timeouts.idle_in_transaction,
            group_commit: config.limits.group_commit,
            group_wait: config.timeouts.group_wait,
            table_lock: config.timeouts.table_lock,
            schema_lock: config.timeouts.schema_lock,
            startup_wait: config.timeouts.startup_wait,
            dead_after: config.timeouts.dead_after,
            fence: config.timeouts.fence,
            carry_over: config.timeouts.carry_over,
            gate: config.timeouts.gate,
            shutdown_grace: config.timeouts.shutdown_grace,
            probe_interval: config.timeouts.probe_interval,
            journal: config.journal,
        }
    }
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
    pub current: ArcSwap<SharedSettings>,
    /// Who is connected.
    pub registry: Registry<<P::Link as Link>::Canceller>,
    /// Whose sessions may write, where that depends on a lease.
    pub leases: Arc<Leases>,
    /// Shares that may be ended for the sake of a transaction that commits.
    pub present: Arc<Present<<P::Link as Link>::Canceller>>,
    /// Transactions on leaders, so that nobody overtakes those of one that died.
    pub crossings: Arc<Crossings>,
    /// Transactions under way that were given an identity.
    pub identities: Arc<Identities>,
    /// By how many microseconds each commit is slowed down, so that a backend can catch up.
    pub brake_us: std::sync::atomic::AtomicU32,
    /// Held shared by every transaction on the leader, whole by an operator's pause.
    pub admission: Arc<tokio::sync::RwLock<()>>,
    /// Tables that sessions have locked.
    pub tables: Arc<super::Tables>,
    /// Backends that an operator wants back.
    pub wanted: Wanted,
    /// Held shared by every transaction that changes the schema, whole by a statement that does so
    /// outside a transaction, on one backend after the other.
    pub schema: Arc<tokio::sync::RwLock<()>>,
    /// Single statements of several sessions that share a transaction.
    pub groups: super::Groups<P::Work>,
    /// Counts choices of a backend for a read.
    pub turn: std::sync::atomic::AtomicUsize,
    /// Where chance comes from: the choice of a reader, the identity of a record.
    pub dice: Dice,
}

/// Backends that an operator wants back, for whoever brings them.
#[derive(Debug, Default)]
pub struct Wanted {
    backends: Mutex<BTreeSet<usize>>,
    woken: tokio::sync::Notify,
}

impl Wanted {
    /// Asks for one backend.
    pub fn ask(&self, backend: usize) {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).insert(backend);
        self.woken.notify_one();
    }

    /// Waits until some are asked for, and takes note of them.
    pub async fn next(&self) -> BTreeSet<usize> {
        loop {
            let asked = {
                let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *backends)
            };
            if !asked.is_empty() {
                return asked;
            }
            self.woken.notified().await;
        }
    }
}

/// Gives random numbers.
pub type Dice = Box<dyn Fn() -> u64 + Send + Sync>;

impl<P: Protocol> Shared<P> {
    /// The settings in force.
    pub fn settings(&self) -> SharedSettings {
        **self.current.load()
    }

    /// Ends when another backend leads than the one where a transaction is; never where it is on no leader.
    pub(super) fn falls(
        &self,
        tx: Option<&Transaction<P::Link>>,
    ) -> impl Future<Output = ()> + use<'_, P> {
        let era = tx.and_then(|tx| match &tx.place {
            Place::Leading { led, .. } => Some(led.era()),
            _ => None,
        });
        async move {
            match era {
                Some(era) => self.keeper.another_leads(era).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Counts a transaction that has done nothing yet under the era in force, behind those of earlier ones.
    pub(super) async fn enter_era(&self, mut led: Option<Led>) -> Led {
        loop {
            let era = self.keeper.glance().era;
            if let Some(led) = led.take_if(|led| led.era() == era) {
                return led;
            }
            led = Some(self.crossings.enter(era));
            // Whoever comes with the next era sees this one, or else this one sees that era, when it looks again.
            self.wait_for_crossings(era).await;
        }
    }

    /// Waits for the transactions that were open on the leaders of earlier eras than this one.
    pub(super) async fn wait_for_crossings(&self, era: i64) {
        let limit = self.current.load().carry_over;
        let late = self.crossings.wait_for_earlier(era, limit).await;
        if late > 0 {
            let why = "their clients do not read, or their servers do not answer";
            tracing::warn!(late, ?limit, why, "transactions did not come over to the new leader");
        }
    }

    /// An identity for a record, by which two of the same number are told apart.
    pub fn new_record_id(&self) -> i64 {
        (self.dice)().cast_signed()
    }

    /// Reads the catalog again after it has changed. Tries until a leader gives it.
    pub async fn reload_catalog(&self) {
        loop {
            let epoch = self.catalogs.epoch();
            if let Some(leader) = self.keeper.view().leader() {
                match self.controls[leader].catalog().await {
                    Ok(judge) => {
                        self.catalogs.install(epoch, judge);
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the catalog cannot be read; trying again")
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if self.leases.is_used() {
            // The agents' tables may be what has changed.
            self.learn_leases_again().await;
        }
    }
}
