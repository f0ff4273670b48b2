//! BEGIN, COMMIT, ROLLBACK and savepoints.

use super::leader::internal;
use super::run::Step;
use super::transaction::{Place, Transaction};
use super::{Session, Stop, shares};
use crate::error::{Failure, Kind};
use crate::exchange::{AUTOCOMMIT, Client, Link, Protocol, Sink, TxMode, TxState, Watch};
use crate::sql::{Class, Statement, TxOp};

impl<P: Protocol> Session<P> {
    /// Runs a statement that opens, ends or divides a transaction.
    pub(super) async fn control(
        &mut self,
        step: &Step<'_, P::Work>,
        op: &TxOp,
    ) -> Result<(), Stop> {
        match op {
            TxOp::Begin { isolation, read_only, deferrable, snapshot } => {
                let mode = TxMode {
                    isolation: *isolation,
                    read_only: *read_only,
                    deferrable: *deferrable,
                    snapshot: *snapshot,
                };
                self.begin(mode);
                if *snapshot {
                    self.take_snapshot().await?;
                }
                let first = step.sql.split_whitespace().next().unwrap_or_default();
                let started = first.eq_ignore_ascii_case("start");
                self.answered(step, if started { "START TRANSACTION" } else { "BEGIN" })
            }
            TxOp::Commit { chain } => self.end(step, true, *chain).await,
            TxOp::Rollback { chain } => self.end(step, false, *chain).await,
            TxOp::Savepoint(name) => self.savepoint(step, name).await,
            TxOp::Release(name) => self.release(step, name).await,
            TxOp::RollbackTo(name) => self.return_to(step, name).await,
            TxOp::Autocommit(on) => {
                if *on && !self.autocommit {
                    self.commit_before().await?;
                }
                self.autocommit = *on;
                self.client.report(AUTOCOMMIT, if *on { "on" } else { "off" });
                self.answered(step, "SET")
            }
        }
    }

    /// Without autocommit a transaction is open as soon as anything is to run in one.
    pub(super) fn open_unasked(&mut self, statements: &[Statement]) {
        let runs = |s: &Statement| match &s.class {
            Class::Tx(op) => matches!(op, TxOp::Savepoint(_)),
            // What these run in the end is looked at by itself.
            Class::Set(_) | Class::Indirect(_) | Class::Recall(_) => false,
            _ => !s.commits,
        };
        if !self.autocommit && self.tx.is_none() && statements.iter().any(runs) {
            self.open_block(true, TxMode::default());
        }
    }

    /// Ends the transaction that is open, for a statement that does so by itself.
    pub(super) async fn commit_before(&mut self) -> Result<(), Stop> {
        match &self.tx {
            Some(tx) if tx.failed => self.undo().await,
            Some(_) => {
                self.commit().await?;
                self.shared.metrics.commits.inc();
            }
            None => {}
        }
        Ok(())
    }

    /// BEGIN is held back: no backend knows of it before the first statement.
    fn begin(&mut self, mode: TxMode) {
        // As on one server: whoever begins a transaction gives up the tables it has locked.
        self.locked = None;
        match &mut self.tx {
            Some(tx) if tx.explicit => {
                self.client.warn("25001", "there is already a transaction in progress");
            }
            Some(tx) => {
                tx.explicit = true;
                tx.streams = true;
                if matches!(tx.place, Place::Nowhere) {
                    tx.mode = mode;
                }
            }
            None => self.open_block(true, mode),
        }
    }

    /// Has the leader take the snapshot now. It cannot be had again elsewhere.
    async fn take_snapshot(&mut self) -> Result<(), Stop> {
        self.ensure_leading().await?;
        let Some(Transaction { place: Place::Leading { leader, .. }, ran, .. }) = &mut self.tx
        else {
            return Err(internal("no transaction to take a snapshot in").into());
        };
        match leader.drain().await {
            Ok(None) => *ran = true,
            Ok(Some(error)) => return Err(internal(&error.what).into()),
            Err(broken) => {
                self.leader_lost(&broken).await?;
                return Err(Failure::retry("its backend died when it began").into());
            }
        }
        Ok(())
    }

    async fn end(
        &mut self,
        step: &Step<'_, P::Work>,
        commit: bool,
        chain: bool,
    ) -> Result<(), Stop> {
        let Some(tx) = &self.tx else {
            self.client.warn("25P01", "there is no transaction in progress");
            return self.answered(step, if commit { "COMMIT" } else { "ROLLBACK" });
        };
        if !tx.explicit {
            self.client.warn("25P01", "there is no transaction in progress");
        }
        let mode = tx.mode.clone();
        let tag = if commit && !tx.failed {
            let started = tokio::time::Instant::now();
            self.commit().await?;
            self.shared.metrics.commits.inc();
            self.shared.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
            "COMMIT"
        } else {
            self.undo().await;
            self.shared.metrics.rollbacks.inc();
            "ROLLBACK"
        };
        if chain {
            self.open_block(true, mode);
        }
        self.answered(step, tag)
    }

    /// Savepoints need a transaction that the client has opened.
    fn check_block(&self, what: &str) -> Result<(), Stop> {
        if self.tx.as_ref().is_some_and(|tx| tx.explicit) {
            return Ok(());
        }
        if P::MANNERS.lone_savepoints {
            let what = "SAVEPOINT does not exist: no transaction is open";
            return Err(Failure::new(Kind::Protocol, what).number(1305).code("42000").into());
        }
        let what = format!("{what} can only be used in transaction blocks");
        Err(Failure::new(Kind::Protocol, what).code("25P01").into())
    }

    async fn savepoint(&mut self, step: &Step<'_, P::Work>, name: &str) -> Result<(), Stop> {
        if P::MANNERS.lone_savepoints && self.tx.is_none() {
            return self.answered(step, "SAVEPOINT");
        }
        self.check_block("SAVEPOINT")?;
        self.on_leader_checked(step).await?;
        let (settings, scope) = (self.settings.clone(), self.scope.clone());
        if let Some(tx) = &mut self.tx {
            tx.mark(name, step.sql, settings, scope);
        }
        self.tell_shares(step.sql).await;
        Ok(())
    }

    async fn release(&mut self, step: &Step<'_, P::Work>, name: &str) -> Result<(), Stop> {
        self.check_block("RELEASE SAVEPOINT")?;
        self.on_leader_checked(step).await?;
        if let Some(tx) = &mut self.tx {
            tx.release(name);
        }
        self.tell_shares(step.sql).await;
        Ok(())
    }

    async fn return_to(&mut self, step: &Step<'_, P::Work>, name: &str) -> Result<(), Stop> {
        self.check_block("ROLLBACK TO SAVEPOINT")?;
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        if tx.failed && matches!(tx.place, Place::Nowhere) {
            let why = "its savepoints went with the backend that died";
            return Err(if tx.savepoints.is_empty() {
                Failure::new(
                    Kind::InFailedTransaction,
                    format!("savepoint \"{name}\" does not exist"),
                )
                .code("3B001")
            } else {
                Failure::retry(why)
            }
            .into());
        }
        // A lock that becomes free on the leader and is not yet taken on a follower would close a
        // cycle between two servers that neither can see (I8).
        if let Place::Leading { shares, .. } = &mut tx.place {
            shares::drain(&self.shared, shares).await;
        }
        tx.ahead = false;
        self.on_leader_checked(step).await?;
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        if let Some(before) = tx.return_to(name, P::MANNERS.settings_outlast) {
            self.settings_before(before);
        }
        self.tell_shares(step.sql).await;
        Ok(())
    }

    async fn on_leader_checked(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        let outcome = self.on_leader(step.work, Watch::default()).await?;
        outcome.error.map_or(Ok(()), |error| Err(Stop::Server(error)))
    }

    /// Sends a statement about savepoints to the shares that are open and well. One that is opened
    /// later gets only what is left of the effects, and needs no savepoints.
    async fn tell_shares(&mut self, sql: &str) {
        let Some(tx) = &mut self.tx else { return };
        let Transaction { place: Place::Leading { shares, .. }, effects, .. } = tx else {
            return;
        };
        for share in shares.iter_mut().filter(|s| s.failed.is_none()) {
            share.queue_rest(effects);
            share.lease.queue(sql);
        }
        shares::flush(shares).await;
    }

    /// A statement of a transaction did not come to its end.
    pub(super) async fn after_stop(&mut self, stop: &Stop) {
        let retry = matches!(stop, Stop::Failure(failure) if failure.kind == Kind::Retry);
        let explicit = self.tx.as_ref().is_some_and(|tx| tx.explicit);
        if retry && explicit && !P::MANNERS.error_fails_transaction {
            // Where an error leaves the transaction standing, this one says that it is undone; who began another one
            // would commit the rest of it.
            self.undo().await;
        } else {
            self.after_error().await;
        }
    }

    /// A statement failed inside a transaction: on the leader its locks are free already, so its
    /// shares are dropped at the same moment (I9).
    pub(super) async fn after_error(&mut self) {
        let Some(tx) = &mut self.tx else { return };
        if !tx.explicit {
            return; // Undone as a whole at the end of the batch.
        }
        if !P::MANNERS.error_fails_transaction {
            // Only a server's word that its transaction is gone ends ours: a deadlock, most likely.
            let ended = match &tx.place {
                Place::Nowhere => tx.writing > 0 || tx.ran,
                Place::Reading(lease) => lease.tx_state() == TxState::Idle,
                Place::Leading { leader, .. } => tx.ran && leader.tx_state() == TxState::Idle,
            };
            if ended {
                self.undo().await;
            }
            return;
        }
        tx.fail();
        let (keep, sets) = (!tx.savepoints.is_empty(), tx.sets);
        match std::mem::replace(&mut tx.place, Place::Nowhere) {
            Place::Leading { leader, shares, led, .. } if keep => {
                tx.place = Place::Leading { leader, shares: Vec::new(), shared: false, led };
                shares::abandon(&self.shared, shares).await;
            }
            Place::Leading { mut leader, shares, .. } => {
                tx.schema = None;
                leader.queue_rollback();
                let (ended, ()) =
                    tokio::join!(leader.drain(), shares::abandon(&self.shared, shares));
                if ended.is_ok() {
                    self.give_back(leader);
                }
            }
            Place::Reading(lease) => self.end_reading(lease, sets).await,
            Place::Nowhere => {}
        }
    }
}
