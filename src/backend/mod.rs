//! Towards the databases: backends and their connections.

mod line;
pub mod mysql;
pub mod pg;
mod pool;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::balance;
use crate::metrics::BackendMetrics;
pub use pool::{CheckoutError, Identity, Lease, Limits, Pool};

/// What a connection is used for. Readers refuse writes at the server, so that a write that was
/// taken for a read is noticed before it has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Transactions that may write.
    Write,
    /// Balanced reads.
    Read,
    /// Reads by way of a proxy that stands by: the server obeys another one.
    Near,
}

/// Why a connection could not be opened.
#[derive(Clone, Debug)]
pub enum ConnectError {
    /// The server cannot be reached, or does not take connections now.
    Unreachable(String),
    /// The server broke the protocol.
    Rules(String),
    /// The server is there and refuses this login.
    Refused {
        /// SQLSTATE.
        code: String,
        /// What the server says.
        message: String,
    },
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "{why}"),
            Self::Rules(why) => write!(f, "the server broke the protocol: {why}"),
            Self::Refused { code, message } => write!(f, "{message} ({code})"),
        }
    }
}

impl ConnectError {
    /// The server answered a question of ours with an error, before the first use. When somebody has cancelled that, the
    /// error tells nothing of the server.
    pub fn answered(code: String, message: String) -> Self {
        if crate::exchange::struck(&code).is_some() {
            Self::Unreachable(format!("{message} ({code})"))
        } else {
            Self::Refused { code, message }
        }
    }

    /// Whether it tells of the backend, whatever it answers elsewhere.
    pub fn is_damning(&self) -> bool {
        matches!(self, Self::Rules(_))
    }
}

impl From<crate::exchange::Broken> for ConnectError {
    fn from(broken: crate::exchange::Broken) -> Self {
        match broken {
            crate::exchange::Broken::Rules(why) => Self::Rules(why),
            broken => Self::Unreachable(broken.to_string()),
        }
    }
}

/// A connection under way.
pub type Dialling<'a, L> = Pin<Box<dyn Future<Output = Result<L, ConnectError>> + Send + 'a>>;

/// Opens connections to one backend.
pub trait Dial<L>: Send + Sync {
    /// Opens a connection for an application user. The connection ends when `gone` does.
    fn dial<'a>(
        &'a self,
        user: &'a str,
        purpose: Purpose,
        gone: CancellationToken,
    ) -> Dialling<'a, L>;
}

/// By user and purpose, in an order that is the same each time.
type Pools<L> = BTreeMap<(String, Purpose), Arc<Pool<L>>>;

/// One backend: its connections and its load.
pub struct Backend<L> {
    /// Its name in the configuration.
    pub name: String,
    /// Its place in the configuration.
    pub index: usize,
    /// Where it is, for people.
    pub address: String,
    /// When its server was started, as of the last look at its journal. A connection to a server
    /// that was started at another time is not used before somebody has looked again.
    pub started: Arc<Mutex<String>>,
    /// Its figures.
    pub metrics: Arc<BackendMetrics>,
    weight: AtomicU32,
    in_flight: AtomicU32,
    latency_us: AtomicU32,
    /// When the last read ended, in milliseconds since `made`.
    read_ms: AtomicU64,
    made: Instant,
    generation: AtomicU64,
    gone: Mutex<CancellationToken>,
    dial: Box<dyn Dial<L>>,
    limits: ArcSwap<Limits>,
    pools: Mutex<Pools<L>>,
}

impl<L: crate::exchange::Link> Backend<L> {
    /// A backend nobody is connected to yet.
    #[allow(clippy::too_many_arguments)] // Built in one place, from parts that have nothing in common.
    pub fn new(
        index: usize,
        name: String,
        address: String,
        weight: u32,
        limits: Limits,
        metrics: Arc<BackendMetrics>,
        started: Arc<Mutex<String>>,
        dial: Box<dyn Dial<L>>,
    ) -> Self {
        Self {
            name,
            index,
            address,
            started,
            metrics,
            weight: AtomicU32::new(weight),
            in_flight: AtomicU32::new(0),
            latency_us: AtomicU32::new(500),
            read_ms: AtomicU64::new(0),
            made: Instant::now(),
            generation: AtomicU64::new(1),
            gone: Mutex::new(CancellationToken::new()),
            dial,
            limits: ArcSwap::from_pointee(limits),
            pools: Mutex::default(),
        }
    }

    /// The connections of one user for one purpose.
    pub fn pool(self: &Arc<Self>, user: &str, purpose: Purpose) -> Arc<Pool<L>> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (user.to_owned(), purpose);
        pools
            .entry(key)
            .or_insert_with(|| Pool::new(self.clone(), user.to_owned(), purpose))
            .clone()
    }

    /// How many connections a pool has, for how long.
    pub fn limits(&self) -> Limits {
        **self.limits.load()
    }

    /// Changes how many connections a pool has, and for how long.
    pub fn set_limits(&self, limits: Limits) {
        // Nobody makes a pool meanwhile, which would have the new size already.
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.limits.swap(Arc::new(limits));
        for pool in pools.values() {
            pool.resize(before.size, limits.size);
        }
    }

    /// All pools, for people.
    pub fn pools(&self) -> Vec<Arc<Pool<L>>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.values().cloned().collect()
    }

    /// Goes up each time the backend is given up or comes back: older connections are not used again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Whether a look at the server is reassuring.
    ///
    /// # Errors
    /// When it takes no writes, or was restarted since its journal was looked at.
    pub fn judge(&self, started: &str, writable: bool) -> Result<(), String> {
        let known = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if !writable {
            Err("it does not take writes".into())
        } else if !known.is_empty() && *known != started {
            Err("the server was restarted".into())
        } else {
            Ok(())
        }
    }

    /// When the server was started whose journal was looked at; empty when none was.
    pub fn known_start(&self) -> String {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes when the server was started, before its journal is compared.
    pub fn note_start(&self, started: &str) {
        let mut known = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.clone_into(&mut known);
    }

    /// Ends when the backend is given up.
    pub fn gone(&self) -> CancellationToken {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends every connection at once: whoever waits for an answer gets an error.
    pub fn give_up(&self) {
        self.note_start("");
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *gone, CancellationToken::new()).cancel();
        self.forget_idle();
    }

    /// Closes the idle connections; those in use are closed when they come back.
    pub fn refresh(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.forget_idle();
    }

    fn forget_idle(&self) {
        for pool in self.pools() {
            pool.close_idle();
        }
    }

    /// The weight in balancing.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Changes the weight in balancing.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Decaying mean latency of reads in microseconds, at this moment.
    pub fn latency_us(&self, now: Instant) -> u32 {
        self.latency_at(self.age_ms(now))
    }

    fn latency_at(&self, age_ms: u64) -> u32 {
        let idle = age_ms.saturating_sub(self.read_ms.load(Ordering::Relaxed));
        balance::faded(self.latency_us.load(Ordering::Relaxed), idle / 1000)
    }

    fn age_ms(&self, now: Instant) -> u64 {
        let age = now - self.made;
        age.as_secs() * 1000 + u64::from(age.subsec_millis())
    }

    /// A request begins.
    pub fn request_begins(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has ended at this moment, after some time.
    pub fn request_ends(&self, took: Duration, now: Instant) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let sample = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let at = self.age_ms(now);
        let old = self.latency_at(at);
        // An exponentially weighted mean with a weight of 1/8; a lost update does no harm.
        let new = old - old / 8 + sample / 8;
        self.latency_us.store(new, Ordering::Relaxed);
        self.read_ms.store(at, Ordering::Relaxed);
    }
}

impl<L> std::fmt::Debug for Backend<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("name", &self.name).finish_non_exhaustive()
    }
}
