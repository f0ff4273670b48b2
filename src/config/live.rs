//! Limits of parts that outlast a change of the file: they look here each time they need one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{Config, Limits, Pool, Timeouts};

/// The limits in force.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For opening a connection to a backend.
    pub connect: Duration,
    /// After how long without an answer a backend counts as dead. A connection's unacknowledged bytes may be as old as
    /// this was when it was opened.
    pub dead_after: Duration,
    /// For a question of the proxy's own.
    pub probe: Duration,
    /// For a sign of life: two of them must fit into the time after which a writer is taken for dead.
    pub pulse: Duration,
    /// How long a follower's part of a transaction waits for a lock.
    pub follower_lock: Duration,
    /// The largest message taken from a server, in bytes.
    pub max_message: usize,
    /// How many statements a connection to a server keeps prepared.
    pub prepared_statements: usize,
    /// How many statements the proxy keeps that no session uses.
    pub statement_cache: usize,
}

impl Bounds {
    /// `takeover_after` is when another proxy would take this one for dead.
    fn of(
        takeover_after: Option<Duration>,
        timeouts: &Timeouts,
        pool: &Pool,
        limits: &Limits,
    ) -> Self {
        let probe = timeouts.probe_timeout;
        Self {
            connect: timeouts.connect,
            dead_after: timeouts.dead_after,
            probe,
            pulse: takeover_after.map_or(probe, |after| probe.min(after / 2)),
            follower_lock: timeouts.follower_lock,
            max_message: limits.max_message_bytes,
            prepared_statements: pool.prepared_statements,
            statement_cache: limits.max_statement_cache,
        }
    }
}

impl From<&Config> for Bounds {
    fn from(config: &Config) -> Self {
        let after = (!config.proxy.is_lone()).then_some(config.proxy.takeover_after);
        Self::of(after, &config.timeouts, &config.pool, &config.limits)
    }
}

/// What holds where the file says nothing.
impl Default for Bounds {
    fn default() -> Self {
        Self::of(None, &Timeouts::default(), &Pool::default(), &Limits::default())
    }
}

/// The limits in force, for all parts of a proxy at once.
#[derive(Debug)]
pub struct Live {
    bounds: ArcSwap<Bounds>,
    /// Copies of those that are asked for with every message and every statement.
    max_message: AtomicUsize,
    prepared_statements: AtomicUsize,
}

impl Live {
    /// These limits, until others come.
    #[must_use]
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            max_message: AtomicUsize::new(bounds.max_message),
            prepared_statements: AtomicUsize::new(bounds.prepared_statements),
            bounds: ArcSwap::from_pointee(bounds),
        })
    }

    /// What holds now.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        **self.bounds.load()
    }

    /// The largest message taken from a server, in bytes.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.max_message.load(Ordering::Relaxed)
    }

    /// How many statements a connection to a server keeps prepared.
    #[must_use]
    pub fn prepared_statements(&self) -> usize {
        self.prepared_statements.load(Ordering::Relaxed)
    }

    /// From now on these hold.
    pub fn renew(&self, bounds: Bounds) {
        self.max_message.store(bounds.max_message, Ordering::Relaxed);
        self.prepared_statements.store(bounds.prepared_statements, Ordering::Relaxed);
        self.bounds.store(Arc::new(bounds));
    }
}
