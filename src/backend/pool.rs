//! The connections of one user to one backend, for one purpose.
//!
//! A connection is given back only when nothing is under way on it; one that is dropped instead is
//! closed, never used again.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{Backend, ConnectError, Purpose};
use crate::error::{Failure, Kind};
use crate::exchange::{Link, TxState};

/// Numbers the connections of this process.
static LINKS: AtomicU64 = AtomicU64::new(1);

/// How many connections, for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections of a pool.
    pub size: u32,
    /// How long to wait for a free one.
    pub checkout: Duration,
    /// How long an unused one is kept.
    pub idle: Duration,
    /// How long any is kept.
    pub lifetime: Duration,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub enum CheckoutError {
    /// All are in use, and none came free in time.
    Busy(Duration),
    /// The backend could not be connected to.
    Connect(ConnectError),
}

impl CheckoutError {
    /// What an application is told when all connections are in use.
    pub fn no_room(limit: Duration) -> Failure {
        let what = format!("no server connection came free within {limit:?}");
        Failure::new(Kind::TooManyConnections, what)
            .hint("raise `[pool] size`, or make transactions shorter")
    }
}

impl std::fmt::Display for CheckoutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Busy(limit) => write!(
                f,
                "no connection to it came free within {limit:?}: raise `[pool] size`, or make \
                 transactions shorter"
            ),
            Self::Connect(error @ ConnectError::Refused { .. }) => write!(
                f,
                "it refuses the login: {error}; `lockstep check` names what is missing on it"
            ),
            Self::Connect(error @ ConnectError::Rules(_)) => write!(f, "{error}"),
            Self::Connect(error) => write!(f, "it cannot be connected to: {error}"),
        }
    }
}

struct Idle<L> {
    /// Boxed, since it is handed to and fro for every statement.
    link: Box<L>,
    identity: Identity,
    generation: u64,
    opened: Instant,
    used: Instant,
}

/// Which connection it is, and how often it has been used: who finds both as they were left knows
/// that nobody else has used it meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    link: u64,
    uses: u64,
}

impl Identity {
    /// The connection `link`, used so often.
    #[must_use]
    pub fn of(link: u64, uses: u64) -> Self {
        Self { link, uses }
    }

    /// What it is when the same user takes it the next time.
    #[must_use]
    pub fn next(self) -> Self {
        Self { uses: self.uses + 1, ..self }
    }
}

/// The connections of one user to one backend, for one purpose.
pub struct Pool<L> {
    backend: Arc<Backend<L>>,
    /// The user.
    pub user: String,
    /// The purpose.
    pub purpose: Purpose,
    permits: Arc<Semaphore>,
    /// How many permits there are, lent out or not.
    room: Arc<AtomicUsize>,
    idle: Mutex<Vec<Idle<L>>>,
    waiting: AtomicUsize,
}

impl<L: Link> Pool<L> {
    pub(super) fn new(backend: Arc<Backend<L>>, user: String, purpose: Purpose) -> Arc<Self> {
        let size = backend.limits().size as usize;
        let (permits, room) = (Arc::new(Semaphore::new(size)), Arc::new(AtomicUsize::new(size)));
        let (idle, waiting) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { backend, user, purpose, permits, room, idle, waiting })
    }

    /// Changes the most connections. Those that are too many go as they come back.
    pub(super) fn resize(&self, from: u32, to: u32) {
        let (from, to) = (from as usize, to as usize);
        if let Some(more) = to.checked_sub(from) {
            self.room.fetch_add(more, Ordering::Relaxed);
            self.permits.add_permits(more);
            return;
        }
        let (permits, room) = (self.permits.clone(), self.room.clone());
        tokio::spawn(async move {
            for _ in to..from {
                // One after the other, so that who waits for a connection is not kept waiting by us.
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                permit.forget();
                room.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }

    /// The backend it leads to.
    pub fn backend(&self) -> &Arc<Backend<L>> {
        &self.backend
    }

    /// Takes a connection, opening one when none is idle.
    pub async fn checkout(self: &Arc<Self>) -> Result<Lease<L>, CheckoutError> {
        self.checkout_again(None).await
    }

    /// Takes a connection: the one that was used before, if it is idle and nobody has used it since.
    pub async fn checkout_again(
        self: &Arc<Self>,
        before: Option<Identity>,
    ) -> Result<Lease<L>, CheckoutError> {
        let permit = self.permit().await?;
        let generation = self.backend.generation();
        if let Some(idle) = self.take_idle(generation, before) {
            let identity = idle.identity.next();
            return Ok(Lease {
                pool: self.clone(),
                link: idle.link,
                permit,
                generation,
                opened: idle.opened,
                identity,
            });
        }
        let gone = self.backend.gone();
        let link = self.backend.dial.dial(&self.user, self.purpose, gone).await;
        let link = Box::new(link.map_err(CheckoutError::Connect)?);
        let identity = Identity::of(LINKS.fetch_add(1, Ordering::Relaxed), 0);
        let opened = Instant::now();
        Ok(Lease { pool: self.clone(), link, permit, generation, opened, identity })
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, CheckoutError> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let limit = self.backend.limits().checkout;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let permit = tokio::time::timeout(limit, self.permits.clone().acquire_owned()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(CheckoutError::Busy(limit)),
        }
    }

    /// The connection used last: it is the warmest, and the others can grow old and be closed.
    fn take_idle(&self, generation: u64, before: Option<Identity>) -> Option<Idle<L>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = before
            && let Some(at) =
                idle.iter().position(|i| i.identity == before && i.generation == generation)
        {
            let mut candidate = idle.remove(at);
            if candidate.link.is_quiet() {
                return Some(candidate);
            }
        }
        while let Some(mut candidate) = idle.pop() {
            if candidate.generation == generation && candidate.link.is_quiet() {
                return Some(candidate);
            }
        }
        None
    }

    fn put_back(&self, kept: Idle<L>) {
        let link = &kept.link;
        let idle = link.outstanding() == 0 && link.tx_state() == TxState::Idle;
        // Whether it is quiet is looked at when it is lent the next time.
        let fit = idle && !link.is_spent();
        let fresh = kept.used - kept.opened < self.backend.limits().lifetime;
        if fit && fresh && kept.generation == self.backend.generation() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        }
    }

    pub(super) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Closes connections that were not used for long.
    pub fn close_unused(&self) {
        let now = Instant::now();
        let limit = self.backend.limits().idle;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|i| now - i.used < limit);
    }

    /// Connections in use, idle ones, and clients that wait for one.
    pub fn counts(&self) -> (usize, usize, usize) {
        let room = self.room.load(Ordering::Relaxed);
        let used = room.saturating_sub(self.permits.available_permits());
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        (used, idle, self.waiting.load(Ordering::Relaxed))
    }
}

/// A connection in use. Dropped, it is closed; `release` gives it back.
pub struct Lease<L: Link> {
    pool: Arc<Pool<L>>,
    link: Box<L>,
    permit: OwnedSemaphorePermit,
    generation: u64,
    opened: Instant,
    identity: Identity,
}

impl<L: Link> Lease<L> {
    /// Gives the connection back, if nothing is under way on it.
    pub fn release(self) {
        self.release_at(Instant::now());
    }

    /// The same, for who knows what time it is.
    pub fn release_at(self, now: Instant) {
        let Self { pool, link, permit, generation, opened, identity } = self;
        let kept = Idle { link, identity, generation, opened, used: now };
        pool.put_back(kept);
        drop(permit);
    }

    /// Waits for the answers to all that is queued, and gives the connection back.
    ///
    /// # Errors
    /// With what failed, or why the connection broke; it is closed then.
    pub async fn settle(mut self) -> Result<(), String> {
        match self.link.drain().await {
            Ok(None) => {
                self.release();
                Ok(())
            }
            Ok(Some(mishap)) => Err(mishap.what),
            Err(broken) => Err(broken.to_string()),
        }
    }

    /// The backend at the other end.
    pub fn backend(&self) -> &Arc<Backend<L>> {
        &self.pool.backend
    }

    /// Which connection it is, and how often it has been used.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What it is used for.
    pub fn purpose(&self) -> Purpose {
        self.pool.purpose
    }

    /// The backend's generation when this connection was taken.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl<L: Link> Deref for Lease<L> {
    type Target = L;
    fn deref(&self) -> &L {
        &self.link
    }
}

impl<L: Link> DerefMut for Lease<L> {
    fn deref_mut(&mut self) -> &mut L {
        &mut self.link
    }
}

impl<L> std::fmt::Debug for Pool<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("user", &self.user).finish_non_exhaustive()
    }
}

impl<L: Link> std::fmt::Debug for Lease<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("backend", &self.pool.backend.name).finish_non_exhaustive()
    }
}
