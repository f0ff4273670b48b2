//! How a fake server runs a request: READ COMMITTED, row locks to the end of the transaction,
//! deadlocks found among its own sessions only.

use std::time::Duration;

use lockstep::exchange::TxState;
use lockstep::store::journal::Record;
use tokio::time::Instant;

use crate::locks::Mode;
use crate::server::{Answer, Refusal, Request, Server, State, Tx};
use crate::sql::{Statement, parse};
use crate::statements::{duplicate, missing, no_savepoint};
use crate::tables::{JOURNAL, Place, SEQUENCE};

/// After how long a wait for a lock is looked at more closely.
const DEADLOCK_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) type Done = Result<Answer, Refusal>;

impl Server {
    /// Runs a request of a session.
    pub(crate) async fn execute(&self, pid: u64, request: &Request) -> Answer {
        if let Some(seat) = self.lock().seats.get_mut(&pid) {
            seat.running = true;
            seat.cancelled = false;
        }
        let mut answer = match self.perform(pid, request).await {
            Ok(answer) => answer,
            Err(refusal) => {
                self.fail(pid);
                Answer { error: Some(refusal), ..Answer::new("") }
            }
        };
        if let Some(seat) = self.lock().seats.get_mut(&pid) {
            seat.running = false;
            answer.tx = match &seat.tx {
                None => TxState::Idle,
                Some(tx) if tx.failed => TxState::Failed,
                Some(_) => TxState::Open,
            };
        }
        answer
    }

    async fn perform(&self, pid: u64, request: &Request) -> Done {
        let failed = self.with_tx(pid, |tx| tx.failed).unwrap_or(false);
        match request {
            Request::Commit => return Ok(self.commit(pid)),
            Request::Rollback => {
                self.undo(pid);
                return Ok(Answer::new("ROLLBACK"));
            }
            Request::Run { sql, .. } if failed => {
                let Ok(Statement::RollbackTo(name)) = parse(sql) else {
                    return Err(aborted());
                };
                return self.return_to(pid, &name);
            }
            _ if failed => return Err(aborted()),
            _ => {}
        }
        match request {
            Request::Begin => {
                if let Some(seat) = self.lock().seats.get_mut(&pid) {
                    seat.tx.get_or_insert_default();
                }
                Ok(Answer::new("BEGIN"))
            }
            Request::Run { sql, capture, sequences } => {
                self.run(pid, sql, *capture, *sequences).await
            }
            Request::Rows { token, relation, op, old, new } => {
                self.check_token(token)?;
                self.apply(pid, relation, *op, old, new).await
            }
            Request::Advance { token, sequence, value, exactly } => {
                self.check_token(token)?;
                self.advance(sequence, *value, *exactly)
            }
            Request::Record { token, record } => {
                self.check_token(token)?;
                self.record(pid, record).await
            }
            Request::Follow(_) | Request::LockTimeout(_) => {
                if let Some(seat) = self.lock().seats.get_mut(&pid) {
                    match request {
                        Request::Follow(on) => seat.follower = *on,
                        Request::LockTimeout(limit) => seat.lock_timeout = *limit,
                        _ => {}
                    }
                }
                Ok(Answer::new("SET"))
            }
            Request::Commit | Request::Rollback => Ok(Answer::new("")),
        }
    }

    /// Puts a record into the transaction, or into one of its own where none is open.
    async fn record(&self, pid: u64, record: &Record) -> Done {
        let alone = self.with_tx(pid, |_| ()).is_none();
        if alone && let Some(seat) = self.lock().seats.get_mut(&pid) {
            seat.tx = Some(Tx::default());
        }
        self.take(pid, (JOURNAL, record.seq), Mode::Exclusive).await?;
        if self.lock().disk.journal.contains_key(&record.seq) {
            return Err(duplicate("journal", record.seq));
        }
        self.with_tx(pid, |tx| tx.records.push(record.clone()));
        if alone {
            self.commit(pid);
        }
        Ok(Answer::new("SELECT"))
    }

    /// Sequences move outside of transactions.
    fn advance(&self, sequence: &str, value: i64, exactly: bool) -> Done {
        let mut state = self.lock();
        let known = state.disk.sequences.get_mut(sequence).ok_or_else(|| missing(sequence))?;
        if exactly || value > known.0 || (value == known.0 && !known.1) {
            *known = (value, true);
        }
        Ok(Answer::new("SELECT"))
    }

    pub(crate) fn with_tx<T>(&self, pid: u64, look: impl FnOnce(&mut Tx) -> T) -> Option<T> {
        self.lock().seats.get_mut(&pid)?.tx.as_mut().map(look)
    }

    fn check_token(&self, token: &str) -> Result<(), Refusal> {
        if self.lock().disk.token == token {
            return Ok(());
        }
        Err(Refusal::new("42501", "only the proxy may call this"))
    }

    async fn run(&self, pid: u64, sql: &str, capture: bool, sequences: bool) -> Done {
        let statement = parse(sql).map_err(|why| Refusal::new("42601", why))?;
        let (reader, open) = {
            let state = self.lock();
            let seat = state.seats.get(&pid).ok_or_else(ended)?;
            (seat.reader, seat.tx.is_some())
        };
        if reader && !matches!(statement, Statement::Select { locks: false, .. }) {
            return Err(Refusal::new("25006", "cannot write in a read-only transaction"));
        }
        if !open && let Some(seat) = self.lock().seats.get_mut(&pid) {
            seat.tx = Some(Tx::default());
        }
        let done = self.statement(pid, statement).await;
        if !open {
            // A statement outside a transaction is one of its own.
            if done.is_ok() {
                self.commit(pid);
            } else {
                self.undo(pid);
            }
        }
        let mut answer = done?;
        if !capture {
            answer.captured.clear();
        }
        if sequences {
            let value = self.lock().disk.sequences[SEQUENCE].0;
            answer.sequences.push((SEQUENCE.to_owned(), value, 1));
        }
        Ok(answer)
    }

    /// Takes a row lock, waiting for it as long as this session waits for locks.
    pub(crate) async fn take(&self, pid: u64, place: Place, mode: Mode) -> Result<(), Refusal> {
        let started = Instant::now();
        let mut looked = false;
        loop {
            let changed = self.wake.notified();
            let limit = {
                let mut state = self.lock();
                if take_now(&mut state, pid, place, mode) {
                    return Ok(());
                }
                let seat = state.seats.get(&pid).ok_or_else(ended)?;
                let (cancelled, limit) = (seat.cancelled, seat.lock_timeout);
                if cancelled {
                    state.locks.leave(pid, place);
                    return Err(Refusal::new("57014", "canceling statement due to user request"));
                }
                limit
            };
            let waited = started.elapsed();
            let refusal = if limit.is_some_and(|limit| waited >= limit) {
                Some(Refusal::new("55P03", "canceling statement due to lock timeout"))
            } else if waited >= DEADLOCK_TIMEOUT && !std::mem::replace(&mut looked, true) {
                self.world().waits_long(&self.name, pid, place, self.lock().follows(pid));
                let deadlocked = self.lock().locks.is_deadlocked(pid);
                deadlocked.then(|| Refusal::new("40P01", "deadlock detected"))
            } else {
                None
            };
            if let Some(refusal) = refusal {
                self.lock().locks.leave(pid, place);
                self.wake.notify_waiters();
                return Err(refusal);
            }
            let first = if looked { Duration::from_secs(3600) } else { DEADLOCK_TIMEOUT };
            let until = started + limit.map_or(first, |limit| limit.min(first).max(waited));
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    fn commit(&self, pid: u64) -> Answer {
        let mut state = self.lock();
        let Some(tx) = state.seats.get_mut(&pid).and_then(|seat| seat.tx.take()) else {
            return Answer::new("COMMIT");
        };
        let kept = !tx.failed;
        if kept && (!tx.rows.is_empty() || !tx.records.is_empty()) {
            self.before_change(&mut state);
            for ((table, id), row) in tx.rows {
                let rows = state.disk.tables.entry(table).or_default();
                match row {
                    Some(row) => rows.insert(id, row),
                    None => rows.remove(&id),
                };
            }
            state.disk.journal.extend(tx.records.into_iter().map(|record| (record.seq, record)));
        }
        state.locks.forget(pid);
        drop(state);
        self.wake.notify_waiters();
        Answer::new(if kept { "COMMIT" } else { "ROLLBACK" })
    }

    fn undo(&self, pid: u64) {
        let mut state = self.lock();
        if let Some(seat) = state.seats.get_mut(&pid) {
            seat.tx = None;
        }
        state.locks.forget(pid);
        drop(state);
        self.wake.notify_waiters();
    }

    /// An error: everything since the last savepoint is undone, and its locks are free.
    fn fail(&self, pid: u64) {
        let mut state = self.lock();
        let Some(tx) = state.seats.get_mut(&pid).and_then(|seat| seat.tx.as_mut()) else {
            return;
        };
        if !std::mem::replace(&mut tx.failed, true) {
            let free = go_back(tx, tx.savepoints.len().checked_sub(1));
            free.into_iter().for_each(|place| state.locks.release(pid, place));
        }
        drop(state);
        self.wake.notify_waiters();
    }

    pub(crate) fn return_to(&self, pid: u64, name: &str) -> Done {
        let mut state = self.lock();
        let tx = state.seats.get_mut(&pid).and_then(|seat| seat.tx.as_mut());
        let tx = tx.ok_or_else(|| no_savepoint(name))?;
        let at = tx.savepoints.iter().rposition(|mark| mark.name == name);
        let at = at.ok_or_else(|| no_savepoint(name))?;
        tx.savepoints.truncate(at + 1);
        tx.failed = false;
        let free = go_back(tx, Some(at));
        free.into_iter().for_each(|place| state.locks.release(pid, place));
        drop(state);
        self.wake.notify_waiters();
        Ok(Answer::new("ROLLBACK"))
    }
}

/// Goes back to a savepoint, or to the start; the locks that become free.
fn go_back(tx: &mut Tx, savepoint: Option<usize>) -> Vec<Place> {
    let Some(mark) = savepoint.and_then(|at| tx.savepoints.get(at)) else {
        tx.rows.clear();
        tx.records.clear();
        return std::mem::take(&mut tx.locks);
    };
    tx.rows.clone_from(&mark.rows);
    tx.records.truncate(mark.records);
    tx.locks.split_off(mark.locks.min(tx.locks.len()))
}

pub(crate) fn take_now(state: &mut State, pid: u64, place: Place, mode: Mode) -> bool {
    let Some(fresh) = state.locks.take(pid, place, mode) else {
        return false;
    };
    if let Some(tx) = state.seats.get_mut(&pid).and_then(|seat| seat.tx.as_mut()).filter(|_| fresh)
    {
        tx.locks.push(place);
    }
    true
}

fn aborted() -> Refusal {
    Refusal::new("25P02", "current transaction is aborted")
}

fn ended() -> Refusal {
    Refusal::new("57P01", "the session has ended")
}
