//! From a batch to statements, and from a statement's class to what is done with it.

use std::sync::Arc;

use super::draws::Answer;
use super::leader::{ATTEMPTS, internal};
use super::transaction::{Place, Transaction};
use super::{Session, Stop, near};
use crate::backend::{Lease, Purpose};
use crate::catalog::{Plan, Text};
use crate::error::{Failure, Kind};
use crate::exchange::{
    AUTOCOMMIT, Batch, Client, Item, Link, Outcome, Protocol, Sink, TxMode, Watch, Work,
};
use crate::sql::{Answers, Class, Discard, Hold, Statement, TxOp};

/// One statement on its way: its text, its class, and what to send.
pub(super) struct Step<'a, W> {
    pub(super) statement: &'a Statement,
    pub(super) sql: &'a str,
    pub(super) work: &'a W,
    /// The text it is a part of, and the plan it was classified with.
    pub(super) text: &'a Arc<Text>,
    pub(super) plan: &'a Plan,
}

impl<'a, W> Step<'a, W> {
    /// A statement of this text.
    pub(super) fn of(
        text: &'a Arc<Text>,
        plan: &'a Plan,
        statement: &'a Statement,
        work: &'a W,
    ) -> Self {
        let sql = text.sql.get(statement.range.clone()).unwrap_or(&text.sql).trim();
        Self { statement, sql, work, text, plan }
    }
}

impl<P: Protocol> Session<P> {
    /// Runs the statements of a batch until one fails.
    pub(super) async fn items(&mut self, batch: &Batch<P::Work>) -> Result<(), Stop> {
        self.planned_items(batch, None).await
    }

    /// The same, for who has just made the plan of the first one.
    pub(super) async fn planned_items(
        &mut self,
        batch: &Batch<P::Work>,
        mut planned: Option<Arc<Plan>>,
    ) -> Result<(), Stop> {
        let executed = batch.items.iter().filter(|item| item.text.is_some()).count();
        let partial = executed > 0 && batch.items.iter().any(|item| item.work.is_partial());
        if std::mem::take(&mut self.state_lost) {
            let why = "the state of its server session (temporary tables, locks) is gone";
            return Err(Failure::retry(why).into());
        }
        if !self.shared.catalogs.is_loaded() {
            // A statement that is judged before the catalog is there counts as the worst it could
            // be, and would tie the session to one connection.
            self.wait_serving().await?;
        }
        for item in &batch.items {
            match &item.text {
                Some(text) => {
                    let made = || self.shared.catalogs.plan(text, &self.scope);
                    let plan = planned.take().unwrap_or_else(made);
                    self.item(item, text, &plan, executed > 1 || partial).await?;
                }
                None => self.prepared_only(&item.work).await?,
            }
        }
        match &batch.failure {
            None => Ok(()),
            Some(failure) => {
                self.after_error().await;
                Err(failure.clone().into())
            }
        }
    }

    async fn item(
        &mut self,
        item: &Item<P::Work>,
        text: &Arc<Text>,
        plan: &Plan,
        block: bool,
    ) -> Result<(), Stop> {
        let statements = &plan.script.statements;
        let many = statements.len() > 1;
        let together = P::MANNERS.batch_is_transaction;
        self.open_unasked(statements);
        let reads = statements.iter().all(|s| matches!(s.class, Class::Read));
        let alone = self.tx.is_none() && !item.work.is_partial();
        if reads && alone && (together || !many) {
            return self.read_alone(statements, &item.work).await;
        }
        if statements.is_empty() {
            return self.prepared_only(&item.work).await;
        }
        for at in 0..statements.len() {
            // What came before in the same text may have changed what names mean: SET search_path, a
            // temporary table.
            let plan = self.shared.catalogs.plan(text, &self.scope);
            let Some(statement) = plan.script.statements.get(at) else {
                return Err(internal("a text falls into other statements than before").into());
            };
            let part;
            let work = if many {
                part = item.work.part(&text.sql, statement.range.clone());
                &part
            } else {
                &item.work
            };
            let control = matches!(statement.class, Class::Tx(_));
            if together && (block || many) && self.tx.is_none() && !control {
                self.open_block(false, TxMode::default());
                if let Some(tx) = &mut self.tx {
                    tx.streams = true;
                }
            }
            let step = Step::of(text, &plan, statement, work);
            self.statement(&step).await?;
            if many && !together && self.tx.as_ref().is_some_and(|tx| !tx.explicit) {
                self.commit().await?;
            }
        }
        Ok(())
    }

    /// Runs messages that execute nothing. Their failure fails the transaction like any other.
    async fn prepared_only(&mut self, work: &P::Work) -> Result<(), Stop> {
        if work.resets() {
            self.undo().await;
            self.begin_anew().await?;
            self.client.answer(work, "");
            return Ok(());
        }
        if !work.needs_backend() {
            // Drivers close statements behind their user's back, and nobody reads of a failure there.
            self.client.answer(work, "");
            return Ok(());
        }
        let done = match self.described_own(work) {
            Ok(true) => return Ok(()),
            Ok(false) => self.unexecuted(work).await,
            Err(stop) => Err(stop),
        };
        if let Err(stop) = &done {
            self.after_stop(stop).await;
        }
        done
    }

    /// Opens a transaction that no backend knows of yet.
    pub(super) fn open_block(&mut self, explicit: bool, mode: TxMode) {
        let before = (self.settings.clone(), self.scope.clone());
        self.tx = Some(Transaction::new(explicit, mode, before));
    }

    async fn statement(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        if self.tx.as_ref().is_some_and(|tx| tx.failed) && !ends_failure(&step.statement.class) {
            return Err(Failure::new(
                Kind::InFailedTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            )
            .into());
        }
        // COMMIT ends it, with the same error.
        let ends =
            matches!(&step.statement.class, Class::Tx(TxOp::Rollback { .. } | TxOp::Commit { .. }));
        let undone = self.tx.as_mut().filter(|_| !ends).and_then(|tx| tx.undone.take());
        let done = match undone {
            Some(stop) => Err(stop),
            None => self.run_step(step).await,
        };
        self.settle_last();
        let metrics = self.figures(step.statement.tag);
        match &done {
            Ok(()) => metrics.ok.inc(),
            Err(Stop::Failure(f)) if f.kind == Kind::Refused => metrics.refused.inc(),
            Err(_) => metrics.failed.inc(),
        }
        if let Err(stop) = &done {
            self.after_stop(stop).await;
        }
        done
    }

    pub(super) async fn run_step(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        if step.statement.commits {
            self.commit_before().await?;
        }
        self.open_unasked(std::slice::from_ref(step.statement));
        if !step.statement.uses_currval {
            return self.dispatch(step).await;
        }
        match self.check_drawn(step).await? {
            Some(work) => self.leader_read(&Step { work: &work, ..*step }, Hold::Statement).await,
            None => self.dispatch(step).await,
        }
    }

    /// currval() and lastval() are right only on the connection where this session drew last, unless
    /// we know the answer: then what to run in their place.
    async fn check_drawn(&mut self, step: &Step<'_, P::Work>) -> Result<Option<P::Work>, Stop> {
        if self.tx.is_some() {
            self.ensure_leading().await?;
        } else if self.held.is_none() {
            self.held = Some(self.leader_lease().await?);
        }
        let leader = match self.tx.as_ref().map(|tx| &tx.place) {
            Some(Place::Leading { leader, .. }) => Some(leader),
            _ => self.held.as_ref(),
        };
        let drawn = step.statement.drawn.as_deref();
        match self.draws.ask(drawn.map(|drawn| &drawn.from), leader.map(Lease::identity)) {
            Answer::Server => return Ok(None),
            Answer::Value(value) => {
                let column = drawn.map_or("?column?", |drawn| &drawn.column);
                let known = format!("SELECT {value}::pg_catalog.int8 AS {column}");
                if let Some(work) = step.work.rewritten(&known) {
                    return Ok(Some(work));
                }
            }
            Answer::Nobody => {}
        }
        // Whoever asks once will do so again.
        self.shared.groups.keep_draws_apart();
        Err(Failure::new(Kind::Refused, "the sequence is not yet defined in this session")
            .code("55000")
            .detail(
                "currval() and lastval() answer in larger expressions only on the connection that \
                 called nextval()",
            )
            .hint("use RETURNING, or call both in one transaction")
            .into())
    }

    pub(super) async fn dispatch(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        if self.near && !near::is_local(step.statement) {
            return Err(Stop::Elsewhere);
        }
        match &step.statement.class {
            Class::Read => self.read(step).await,
            Class::LeaderRead { .. } if step.statement.set_config.is_some() => {
                self.set_config(step).await
            }
            Class::LeaderRead { hold } => self.leader_read(step, *hold).await,
            Class::Keyed if !step.statement.pins.is_empty() => self.write_pinned(step).await,
            Class::Keyed => self.write(step, true, Hold::Statement).await,
            Class::Captured { hold } => self.write(step, false, *hold).await,
            Class::CopyIn(copy) => self.bulk(step, copy).await,
            Class::Ddl(ddl) => self.ddl(step, ddl).await,
            Class::Maintenance(kind) => self.maintenance(step, kind).await,
            Class::Set(op) => self.set(step, op).await,
            Class::Tx(op) => self.control(step, op).await,
            Class::Deallocate(name) => self.deallocate(step, name.as_deref()).await,
            Class::DiscardAll => self.discard_all(step).await,
            Class::Discard(Discard::Temp) => self.leader_read(step, Hold::Statement).await,
            Class::Discard(Discard::Plans) => self.answered(step, "DISCARD PLANS"),
            Class::Discard(Discard::Sequences) => self.answered(step, "DISCARD SEQUENCES"),
            Class::Execute(name) => self.execute(step, name).await,
            Class::Recall(calls) => self.recalled(step, calls).await,
            Class::Indirect(indirect) => self.indirect(step, indirect).await,
            Class::PrepareSql { name, body } => self.prepare(step, name, body).await,
            Class::Listen(channel) => {
                self.leader_read(step, Hold::Statement).await?;
                self.stays.listens.insert(channel.clone());
                Ok(())
            }
            Class::Unlisten(channel) => {
                self.leader_read(step, Hold::Statement).await?;
                match channel {
                    Some(channel) => self.stays.listens.remove(channel),
                    None => !std::mem::take(&mut self.stays.listens).is_empty(),
                };
                Ok(())
            }
            Class::Notify => self.leader_read(step, Hold::Statement).await,
            Class::Kill { number, whole } => self.kill(step, *number, *whole).await,
            Class::LockTables(listed) => self.lock_tables(step, listed).await,
            Class::UnlockTables => self.unlock_tables(step).await,
            Class::Own(own) => self.own(step, own).await,
            Class::Refused(refusal) => {
                if let Some(other) = self.second_look(step).await? {
                    let step = Step { statement: &other, ..*step };
                    return Box::pin(self.dispatch(&step)).await;
                }
                Err(Failure::new(Kind::Refused, refusal.message.clone())
                    .code(refusal.sqlstate)
                    .hint(refusal.hint.clone())
                    .into())
            }
        }
    }

    /// A refusal may come from not knowing what the same transaction has just made: the catalog as
    /// the transaction sees it decides. `None` when the refusal stands.
    async fn second_look(&mut self, step: &Step<'_, P::Work>) -> Result<Option<Statement>, Stop> {
        let Some(tx) = self.tx.as_mut().filter(|tx| tx.ddl) else {
            return Ok(None);
        };
        let Place::Leading { leader, .. } = &mut tx.place else {
            return Ok(None);
        };
        let catalogs = self.shared.catalogs.clone();
        let mut answers = Answers::new();
        for (name, sql) in catalogs.questions() {
            match leader.ask(sql, &[]).await {
                Ok(Ok(rows)) => answers.insert(*name, rows),
                Ok(Err(error)) => return Err(error.into()),
                Err(broken) => {
                    self.leader_lost(&broken).await?;
                    return Err(Failure::retry("its backend died in the middle of DDL").into());
                }
            };
        }
        let judged = catalogs.judge_with(&answers, &step.text.sql, &self.scope);
        let Some(script) = judged.map_err(|e| internal(&e))? else {
            return Ok(None);
        };
        let mut statements = script.statements.into_iter();
        let same = statements.find(|s| s.range == step.statement.range);
        Ok(same.filter(|s| !matches!(s.class, Class::Refused(_))))
    }

    pub(super) fn answered(&mut self, step: &Step<'_, P::Work>, tag: &str) -> Result<(), Stop> {
        self.client.answer(step.work, tag);
        Ok(())
    }

    /// What must run on the leader and changes nothing that the followers have.
    pub(super) async fn leader_read(
        &mut self,
        step: &Step<'_, P::Work>,
        hold: Hold,
    ) -> Result<(), Stop> {
        let statement = step.statement;
        let outcome = if self.tx.is_some() {
            let watch = Watch { digest: statement.locks_rows, ..leaves(statement) };
            let outcome = self.on_leader(step.work, watch).await?;
            if let Some(error) = outcome.error {
                return Err(Stop::Server(error));
            }
            if statement.locks_rows {
                self.note_lock(step.work, &outcome, statement.relocks);
            } else if hold == Hold::Transaction
                && let Some(tx) = &mut self.tx
            {
                tx.stateful = true;
            }
            outcome
        } else {
            self.leader_alone(step.work, leaves(statement)).await?
        };
        self.note_left(&outcome);
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        if hold == Hold::Session {
            self.stays.other = true;
        }
        self.note_temporary(statement);
        Ok(())
    }

    /// Gives the connection of the last statement back, or keeps it where the session has state.
    pub(super) fn settle_last(&mut self) {
        let Some(lease) = self.last.take() else {
            return;
        };
        if lease.purpose() == Purpose::Write {
            self.give_back(lease);
        } else {
            lease.release();
        }
    }

    /// Runs a statement on the leader outside a transaction.
    pub(super) async fn leader_alone(
        &mut self,
        work: &P::Work,
        watch: Watch<'_>,
    ) -> Result<Outcome, Stop> {
        for _ in 0..ATTEMPTS {
            let mut lease = self.leader_lease().await?;
            lease.adopt(&self.settings);
            if let Some((lease, outcome)) = self.attempt(lease, work, watch).await? {
                self.last = Some(lease);
                return Ok(outcome);
            }
            if std::mem::take(&mut self.stays.other) {
                self.forget_server_state();
                return Err(Failure::retry("the state of its server session is gone").into());
            }
        }
        Err(super::leader::unavailable().into())
    }

    pub(super) fn note_temporary(&mut self, statement: &Statement) {
        if statement.creates_temp.is_empty()
            && !statement.drops.iter().any(|t| self.scope.temp_tables.contains(t))
        {
            return;
        }
        let mut scope = (*self.scope).clone();
        scope.temp_tables.extend(statement.creates_temp.iter().cloned());
        for dropped in &statement.drops {
            scope.temp_tables.remove(dropped);
        }
        self.scope = Arc::new(scope);
        self.stays.other |= !statement.creates_temp.is_empty();
    }

    async fn discard_all(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        if self.tx.is_some() {
            // The server says that it cannot run inside a transaction block.
            return self.leader_read(step, Hold::Statement).await;
        }
        self.begin_anew().await?;
        self.answered(step, "DISCARD ALL")
    }

    /// The session as it was after the login.
    async fn begin_anew(&mut self) -> Result<(), Stop> {
        // The server's session goes with everything in it; a pooled one takes its place.
        self.held = None;
        self.stays = super::Stays::default();
        self.locked = None;
        if !std::mem::replace(&mut self.autocommit, true) {
            self.client.report(AUTOCOMMIT, "on");
        }
        self.prepared.clear();
        self.client.forget_prepared(None);
        // The very same settings where nothing is kept: a connection that has them is known at a glance.
        let mut settings = self.initial.clone();
        for key in P::MANNERS.kept_by_reset {
            if let Some(kept) = self.settings.get(*key) {
                Arc::make_mut(&mut settings).insert((*key).to_owned(), kept.clone());
            }
        }
        self.settings = settings;
        self.scope = self.initial_scope();
        self.report_settings().await
    }
}

/// What is looked at around a read that may leave something in the server's session.
fn leaves(statement: &Statement) -> Watch<'_> {
    let context = Some(&statement.context).filter(|context| context.last_insert_id);
    Watch { context, ..Watch::default() }
}

/// Statements that are allowed in a transaction that has failed.
fn ends_failure(class: &Class) -> bool {
    matches!(class, Class::Tx(TxOp::Commit { .. } | TxOp::Rollback { .. } | TxOp::RollbackTo(_)))
}
