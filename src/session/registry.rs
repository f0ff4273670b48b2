//! Who is connected, and how what they run is cancelled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::error::Failure;
use crate::exchange::{Shot, Target};

/// How what a session runs now is cancelled, and how the session is ended.
#[derive(Debug)]
pub struct CancelSlot<C> {
    running: Target<C>,
    ended: CancellationToken,
    /// Ends the conversation with the client at once, also in the middle of an answer.
    hangup: CancellationToken,
    /// What the client is told when its session is ended, where it is not the usual.
    farewell: OnceLock<Failure>,
}

impl<C> Default for CancelSlot<C> {
    fn default() -> Self {
        Self {
            running: Target::default(),
            ended: CancellationToken::new(),
            hangup: CancellationToken::new(),
            farewell: OnceLock::new(),
        }
    }
}

impl<C: Clone> CancelSlot<C> {
    /// What the session runs.
    pub fn running(&self) -> &Target<C> {
        &self.running
    }

    /// Ends the session as soon as it runs nothing.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// The same, with these words.
    pub fn end_with(&self, farewell: Failure) {
        // Whoever came first has said why.
        let _ = self.farewell.set(farewell);
        self.ended.cancel();
    }

    /// What the client is told in the end, if somebody has said so.
    pub fn farewell(&self) -> Option<Failure> {
        self.farewell.get().cloned()
    }

    /// Whether and when the conversation with the client ends at once.
    pub fn hangup(&self) -> &CancellationToken {
        &self.hangup
    }

    /// Whether and when the session has to end.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

/// What is known about a connected client.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// The user.
    pub user: String,
    /// The database.
    pub database: String,
    /// Where it comes from.
    pub address: String,
    /// The name the application gave itself.
    pub application: String,
    /// Since when, in milliseconds of the Unix epoch.
    pub since_ms: u64,
}

type Session<C> = (Vec<u8>, SessionInfo, Arc<CancelSlot<C>>);

/// By number; nothing yet where the number is kept for somebody who has not logged in.
type Sessions<C> = BTreeMap<u32, Option<Session<C>>>;

/// Who is connected.
#[derive(Debug)]
pub struct Registry<C>(Mutex<Sessions<C>>);

impl<C> Default for Registry<C> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<C: Clone> Registry<C> {
    fn lock(&self) -> MutexGuard<'_, Sessions<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a client under a number that nobody has.
    pub fn add(&self, secret: Vec<u8>, info: SessionInfo) -> (u32, Arc<CancelSlot<C>>) {
        let number = self.reserve();
        (number, self.enter(number, secret, info))
    }

    /// Keeps a number that nobody has, for a client that is told its number before it logs in.
    pub fn reserve(&self) -> u32 {
        let mut sessions = self.lock();
        let mut number = rand::random_range(1..u32::MAX / 2);
        while sessions.contains_key(&number) {
            number = rand::random_range(1..u32::MAX / 2);
        }
        sessions.insert(number, None);
        number
    }

    /// Keeps another number in the place of one, where nobody has it; which one it is then.
    pub fn renumber(&self, number: u32, wanted: u32) -> u32 {
        let mut sessions = self.lock();
        if sessions.contains_key(&wanted) {
            return number;
        }
        sessions.remove(&number);
        sessions.insert(wanted, None);
        wanted
    }

    /// Adds a client under the number that was kept for it.
    pub fn enter(&self, number: u32, secret: Vec<u8>, info: SessionInfo) -> Arc<CancelSlot<C>> {
        let slot = Arc::new(CancelSlot::default());
        self.lock().insert(number, Some((secret, info, slot.clone())));
        slot
    }

    /// Adds a client under the number that it has from elsewhere. `None` where somebody else has it.
    pub fn claim(
        &self,
        number: u32,
        secret: Vec<u8>,
        info: SessionInfo,
    ) -> Option<Arc<CancelSlot<C>>> {
        let mut sessions = self.lock();
        if sessions.contains_key(&number) {
            return None;
        }
        let slot = Arc::new(CancelSlot::default());
        sessions.insert(number, Some((secret, info, slot.clone())));
        Some(slot)
    }

    /// Removes a client and keeps its number, under which it may come again.
    pub fn vacate(&self, number: u32) {
        self.lock().insert(number, None);
    }

    /// Removes a client.
    pub fn remove(&self, number: u32) {
        self.lock().remove(&number);
    }

    /// How to cancel what a client runs, for whoever knows its secret.
    pub fn canceller(&self, number: u32, secret: &[u8]) -> Option<Shot<C>> {
        let sessions = self.lock();
        let (known, _, slot) = sessions.get(&number)?.as_ref()?;
        let may = lockstep_protocol::pg::auth::constant_time_eq(known, secret);
        may.then(|| slot.running.take_aim()).flatten()
    }

    /// How to cancel what a client runs, for an operator: `None` when there is no such client, and
    /// nothing in it when it runs nothing.
    pub fn running(&self, number: u32) -> Option<Option<Shot<C>>> {
        self.lock().get(&number)?.as_ref().map(|(_, _, slot)| slot.running.take_aim())
    }

    /// The slot of a client of the given user.
    pub fn slot(&self, number: u32, user: &str) -> Option<Arc<CancelSlot<C>>> {
        let sessions = self.lock();
        let (_, info, slot) = sessions.get(&number)?.as_ref()?;
        (info.user == user).then(|| slot.clone())
    }

    /// How many clients a user has.
    pub fn count(&self, user: Option<&str>) -> usize {
        let sessions = self.lock();
        let inside = sessions.values().flatten();
        inside.filter(|(_, info, _)| user.is_none_or(|user| info.user == user)).count()
    }

    /// Ends all sessions with these words, also in the middle of a transaction.
    pub fn end_all(&self, farewell: &Failure) {
        for (_, _, slot) in self.lock().values().flatten() {
            slot.end_with(farewell.clone());
        }
    }

    /// Ends a session with these words, also in the middle of a transaction.
    pub fn end(&self, number: u32, farewell: &Failure) {
        if let Some(Some((_, _, slot))) = self.lock().get(&number) {
            slot.end_with(farewell.clone());
        }
    }

    /// Cuts a client off, whatever it is being told.
    pub fn cut(&self, number: u32) {
        if let Some(Some((_, _, slot))) = self.lock().get(&number) {
            slot.hangup.cancel();
        }
    }

    /// How many clients are there on another database than this one.
    pub fn count_outside(&self, database: &str) -> usize {
        let sessions = self.lock();
        sessions.values().flatten().filter(|(_, info, _)| info.database != database).count()
    }

    /// All clients, with whether each runs something.
    pub fn list(&self) -> Vec<(u32, SessionInfo, bool)> {
        let sessions = self.lock();
        let mut list = Vec::with_capacity(sessions.len());
        for (n, session) in sessions.iter() {
            if let Some((_, info, slot)) = session {
                list.push((*n, info.clone(), slot.running.is_set()));
            }
        }
        list
    }
}
