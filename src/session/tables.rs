//! Tables that a session has locked (LOCK TABLES).
//!
//! The servers' own table locks would shut out the proxy's bookkeeping, which writes its record in the
//! same session, and end with every transaction. All writes come through here, so the locks are kept
//! here: nobody else's write, nor change of the schema, touches a locked table. Reads go on, and see what
//! is committed. Who holds the lock runs transactions like everybody else, each of which is acknowledged
//! when all have it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::run::Step;
use super::{Session, Stop};
use crate::error::{Failure, Kind};
use crate::exchange::Protocol;
use crate::sql::{TableLock, Touched};

/// The locks of all sessions, and the writes that are in their way.
#[derive(Debug, Default)]
pub struct Tables {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    locks: Vec<Lock>,
    /// Locks that wait for writes to end. Who has not written yet waits behind them.
    wanted: Vec<Lock>,
    /// What transactions that are open have written.
    writes: BTreeMap<u64, Touched>,
}

#[derive(Clone, Debug)]
struct Lock {
    owner: u64,
    table: String,
    whole: bool,
}

impl Lock {
    fn touches(&self, written: &Touched) -> bool {
        match written {
            Touched::None => false,
            Touched::Unknown => true,
            Touched::Tables(tables) => tables.contains(&self.table),
        }
    }

    fn excludes(&self, other: &Self) -> bool {
        self.owner != other.owner && self.table == other.table && (self.whole || other.whole)
    }
}

/// That a transaction writes; until it has ended.
#[derive(Debug)]
pub(super) struct Writing {
    tables: Arc<Tables>,
    number: u64,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut state = self.tables.state();
        state.writes.remove(&self.number);
        let awaited = !state.wanted.is_empty();
        drop(state);
        if awaited {
            self.tables.changed.notify_waiters();
        }
    }
}

/// The locks of one session.
#[derive(Debug)]
pub(super) struct Locked {
    tables: Arc<Tables>,
    owner: u64,
    only_read: Vec<String>,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut state = self.tables.state();
        state.locks.retain(|lock| lock.owner != self.owner);
        state.wanted.retain(|lock| lock.owner != self.owner);
        drop(state);
        self.tables.changed.notify_waiters();
    }
}

impl Tables {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries until it works out, or the time is over.
    async fn until<T>(
        &self,
        limit: Duration,
        mut attempt: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Failure> {
        // Nobody is in the way, as a rule.
        if let Some(done) = attempt(&mut self.state()) {
            return Ok(done);
        }
        let deadline = Instant::now() + limit;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(done) = attempt(&mut self.state()) {
                return Ok(done);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let what = "Lock wait timeout exceeded: a table is locked, or written to, by another session";
                return Err(Failure::new(Kind::Refused, what)
                    .number(1205)
                    .code("HY000")
                    .hint("run it again when that has ended, or raise `[timeouts] table_lock`"));
            }
        }
    }

    /// Notes that a transaction is about to write, once no other session's lock is in its way.
    async fn enter(
        self: &Arc<Self>,
        writing: &mut Option<Writing>,
        written: &Touched,
        own: Option<u64>,
        limit: Duration,
    ) -> Result<(), Failure> {
        let known = writing.as_ref().map(|writing| writing.number);
        let number = self.until(limit, |state| {
            let bars = |lock: &Lock| Some(lock.owner) != own && lock.touches(written);
            let waits = known.is_none() && own.is_none() && state.wanted.iter().any(bars);
            if waits || state.locks.iter().any(bars) {
                return None;
            }
            let number = known.unwrap_or_else(|| state.number());
            state.writes.entry(number).or_insert(Touched::None).merge(written);
            Some(number)
        });
        let number = number.await?;
        writing.get_or_insert_with(|| Writing { tables: self.clone(), number });
        Ok(())
    }

    /// Locks tables, all at once.
    async fn lock(
        self: &Arc<Self>,
        listed: &[TableLock],
        limit: Duration,
    ) -> Result<Locked, Failure> {
        let owner = self.state().number();
        let lock = |l: &TableLock| Lock { owner, table: l.table.clone(), whole: l.whole };
        let wanted: Vec<Lock> = listed.iter().map(lock).collect();
        let only_read = listed.iter().filter(|l| !l.whole).map(|l| l.table.clone()).collect();
        self.state().wanted.extend(wanted.iter().cloned());
        // From here on it is forgotten again wherever this ends.
        let locked = Locked { tables: self.clone(), owner, only_read };
        self.until(limit, |state| {
            let excluded = |lock: &Lock| wanted.iter().any(|wanted| wanted.excludes(lock));
            let written = |touched: &Touched| wanted.iter().any(|lock| lock.touches(touched));
            if state.locks.iter().any(excluded) || state.writes.values().any(written) {
                return None;
            }
            state.wanted.retain(|lock| lock.owner != owner);
            state.locks.extend(wanted.iter().cloned());
            Some(())
        })
        .await?;
        Ok(locked)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl<P: Protocol> Session<P> {
    /// LOCK TABLES. What was locked before is free again.
    pub(super) async fn lock_tables(
        &mut self,
        step: &Step<'_, P::Work>,
        listed: &[TableLock],
    ) -> Result<(), Stop> {
        self.locked = None;
        if listed.iter().any(|lock| lock.whole) {
            self.may_write()?;
        }
        let limit = self.shared.settings().table_lock;
        self.locked = Some(self.shared.tables.clone().lock(listed, limit).await?);
        self.answered(step, "LOCK TABLES")
    }

    /// UNLOCK TABLES ends the transaction as well, where there is anything to unlock.
    pub(super) async fn unlock_tables(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        if self.locked.is_some() {
            self.commit_before().await?;
            self.locked = None;
        }
        self.answered(step, "UNLOCK TABLES")
    }

    /// Waits until no other session's lock is in the way of a write of the open transaction.
    pub(super) async fn pass_locks(&mut self, written: &Touched) -> Result<(), Stop> {
        if !P::MANNERS.locks_tables {
            return Ok(());
        }
        let own = self.pass_own_locks(written)?;
        let limit = self.shared.settings().table_lock;
        if let Some(tx) = &mut self.tx {
            self.shared.tables.enter(&mut tx.locked_out, written, own, limit).await?;
        }
        Ok(())
    }

    /// The same for a statement outside of transactions: others' locks wait for it meanwhile.
    pub(super) async fn pass_locks_outside(
        &self,
        written: &Touched,
    ) -> Result<Option<Writing>, Stop> {
        if !P::MANNERS.locks_tables {
            return Ok(None);
        }
        let own = self.locked.as_ref().map(|locked| locked.owner);
        let (mut writing, limit) = (None, self.shared.settings().table_lock);
        self.shared.tables.enter(&mut writing, written, own, limit).await?;
        Ok(writing)
    }

    fn pass_own_locks(&self, written: &Touched) -> Result<Option<u64>, Stop> {
        let Some(locked) = &self.locked else { return Ok(None) };
        let Touched::Tables(tables) = written else { return Ok(Some(locked.owner)) };
        match tables.iter().find(|table| locked.only_read.contains(table)) {
            None => Ok(Some(locked.owner)),
            Some(table) => {
                let what =
                    format!("Table '{table}' was locked with a READ lock and can't be updated");
                let failure = Failure::new(Kind::Refused, what).number(1099).code("HY000");
                Err(failure.hint("lock it for WRITE").into())
            }
        }
    }
}
