//! Statements that may not run in a transaction: on one backend after the other, between an intent
//! and its outcome.
//!
//! The intent is recorded on all members before the first of them runs the statement, and the outcome
//! after the last. Whoever is interrupted in between leaves an intent without an outcome behind, and
//! settling brings every member to the same (`store/outside.rs` says what that is). Nobody else
//! changes the schema meanwhile: what such a statement has made must be told from what others made.
//!
//! Where each change of the schema commits by itself, nobody else is even on the leader: a write that
//! ran there with the new tables would meet the old ones on a follower.

use futures_util::future::join_all;
use tokio::sync::RwLockWriteGuard;

use super::leader::{ATTEMPTS, internal, unavailable};
use super::run::Step;
use super::{Session, Shared, Stop};
use crate::backend::{CheckoutError, Lease, Purpose};
use crate::cluster::Phase;
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Outcome, Protocol, ServerError, Settings, Watch};
use crate::keeper::Verdict;
use crate::ledger::Ticket;
use crate::sql::{Hold, Implicit, Outside, Touched};
use crate::store::journal::{Effect, Entry};
use crate::store::outside::{Fate, Kind as TaskKind, Task};

/// How long a transaction that has done something waits for a statement outside transactions, which
/// may be waiting for this very transaction on a server where nobody sees the circle; and how long a
/// statement that must be alone waits for those that are open, while others wait for it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A statement whose intent is recorded, and whose outcome is not yet.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The number of the record of the intent.
    pub(crate) intent: i64,
    /// Whose it is.
    pub(crate) user: String,
    /// The settings that give it its meaning.
    pub(crate) settings: Vec<(String, String)>,
    /// What it is.
    pub(crate) task: Task,
}

impl Job {
    /// The record of its outcome.
    pub(crate) fn outcome(&self, fate: &Fate) -> Entry {
        let (intent, task) = (self.intent, self.task.clone());
        let effect = match fate {
            Fate::Done(made) => Effect::Finished { intent, task, made: made.clone() },
            Fate::Undone => Effect::Withdrawn { intent, task },
        };
        let (user, settings) = (self.user.clone(), self.settings.clone());
        Entry { user, settings, effects: vec![effect] }
    }
}

/// What keeps others away from a statement outside transactions.
enum Alone<'s> {
    /// No other changes the schema.
    Schema(#[expect(dead_code, reason = "it is there to be held")] RwLockWriteGuard<'s, ()>),
    /// No transaction is on the leader.
    Everything(#[expect(dead_code, reason = "it is there to be held")] RwLockWriteGuard<'s, ()>),
}

impl<'s> Alone<'s> {
    async fn get<P: Protocol>(shared: &'s Shared<P>, what: &Outside) -> Result<Self, Failure> {
        if !matches!(what, Outside::Implicit(_)) {
            return Ok(Self::Schema(shared.schema.write().await));
        }
        let alone = tokio::time::timeout(PATIENCE, shared.admission.write()).await;
        alone.map(Self::Everything).map_err(|_| {
            Failure::new(Kind::Refused, "transactions are open that the change might cut in two")
                .code("HY000")
                .number(1205)
                .hint("run it again when they have ended")
        })
    }
}

impl<P: Protocol> Session<P> {
    /// Runs a statement that changes the schema and may not run in a transaction.
    pub(super) async fn outside(
        &mut self,
        step: &Step<'_, P::Work>,
        what: &Outside,
    ) -> Result<(), Stop> {
        if self.tx.is_some() {
            // The server says that it cannot run inside a transaction block.
            return self.leader_read(step, Hold::Statement).await;
        }
        self.may_write()?;
        let shared = self.shared.clone();
        // Before anything is held that whoever has the lock could need.
        let _writing = self.pass_locks_outside(&step.statement.writes).await?;
        let alone = Alone::get(&shared, what).await?;
        let task = self.task(step.sql, what).await?;
        let settings = self.settings.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let job = intend(&shared, self.user.clone(), settings, task).await?;
        let ran = self.on_leader_first(step, &job).await;
        let (fate, done) = match &ran {
            Ok((leader, outcome)) => self.seen(*leader, &job, outcome.error.is_some()).await,
            Err(_) => (None, Vec::new()),
        };
        let succeeded = fate.is_some();
        let fate = match fate {
            Some(fate) => fate,
            None => fate_on_members(&shared, &job).await?,
        };
        let ended = conclude(&shared, &job, &fate, done).await;
        drop(alone);
        if let Err(failure) = &ended {
            tracing::warn!(%failure, intent = job.intent, "settling decides the outcome");
        }
        shared.reload_catalog().await;
        match ran {
            Err(stop) => Err(stop),
            Ok((_, Outcome { error: Some(error), .. })) => Err(Stop::Server(error)),
            Ok(_) if !succeeded => {
                Err(Failure::retry("its backend died when it was done there").into())
            }
            Ok(_) => ended.map_err(Stop::from),
        }
    }

    /// What the statement is about, as the leader sees it.
    async fn task(&mut self, sql: &str, what: &Outside) -> Result<Task, Stop> {
        let (kind, name) = match what {
            Outside::CreateIndex(table) => (TaskKind::CreateIndex, table.as_str()),
            Outside::DropIndex(index) => (TaskKind::DropIndex, index.as_str()),
            Outside::Reindex => (TaskKind::Reindex, ""),
            Outside::Detach(partition) => (TaskKind::Detach, partition.as_str()),
            Outside::Implicit(Implicit::Once) => (TaskKind::Once, ""),
            Outside::Implicit(Implicit::Again) => (TaskKind::Again, ""),
            Outside::Implicit(Implicit::Account) => (TaskKind::Account, ""),
        };
        let mut task =
            Task { sql: sql.to_owned(), kind, relation: String::new(), before: Vec::new() };
        let mut lease = self.leader_lease().await?;
        let leader = lease.backend().index;
        if !name.is_empty() {
            lease.adopt(&self.settings);
            let rows = match lease.ask(RESOLVE, &[Some(name)]).await {
                Ok(Ok(rows)) => rows,
                Ok(Err(error)) => {
                    self.give_back(lease);
                    return Err(error.into());
                }
                Err(broken) => {
                    let generation = lease.generation();
                    let why = broken.to_string();
                    self.shared.keeper.lost(leader, generation, why, false).await;
                    return Err(Failure::retry("its backend died before it began").into());
                }
            };
            task.relation = rows.into_iter().flatten().flatten().next().unwrap_or_default();
        }
        self.give_back(lease);
        let remains = self.shared.controls[leader].remains(task.clone()).await;
        let remains = remains.map_err(|why| internal(&format!("the catalog: {why}")))?;
        let makes = matches!(kind, TaskKind::CreateIndex | TaskKind::Reindex) || task.is_implicit();
        task.before = remains.into_iter().filter(|r| makes || !r.whole).map(|r| r.name).collect();
        Ok(task)
    }

    /// Runs the statement on the leader; on the next one where a leader dies under it, as long as
    /// nobody else has decided the outcome.
    async fn on_leader_first(
        &mut self,
        step: &Step<'_, P::Work>,
        job: &Job,
    ) -> Result<(usize, Outcome), Stop> {
        for attempt in 0..ATTEMPTS {
            let mut lease = self.leader_lease().await?;
            if !self.shared.ledger.is_open(job.intent) {
                self.give_back(lease);
                return Err(Failure::retry("no backend was active; it was undone").into());
            }
            let leader = lease.backend().index;
            if attempt > 0 && self.was_done(leader, job).await {
                self.give_back(lease);
                self.answered(step, "")?;
                return Ok((leader, Outcome::default()));
            }
            // Everybody waits for one that must be alone: it waits for no read without end.
            lease.adopt(&match job.task.is_implicit() {
                true => P::Link::bounded(&self.settings, self.shared.settings().schema_lock),
                false => self.settings.clone(),
            });
            if let Some((lease, outcome)) = self.attempt(lease, step.work, Watch::default()).await?
            {
                self.give_back(lease);
                return Ok((leader, outcome));
            }
        }
        Err(unavailable().into())
    }

    /// Whether it was done on a leader that did not live to say so, or whose session did not.
    async fn was_done(&self, leader: usize, job: &Job) -> bool {
        let remains = self.shared.controls[leader].remains(job.task.clone()).await;
        job.task.kind == TaskKind::Once && remains.is_ok_and(|there| there.iter().any(|r| !r.whole))
    }

    /// What the statement has made on the leader is what it must make everywhere. Of one that failed
    /// this may be known, too, since it may have done a part of what it should.
    async fn seen(&self, leader: usize, job: &Job, failed: bool) -> (Option<Fate>, Vec<usize>) {
        if failed && !job.task.is_implicit() {
            return (None, Vec::new());
        }
        // The others may take long: whoever writes meanwhile does not wait for a catalog till then.
        // What the others do not have yet (a unique index) is no part of any proof that they rely on.
        self.shared.catalogs.outdate();
        self.shared.reload_catalog().await;
        match self.shared.controls[leader].remains(job.task.clone()).await {
            Ok(remains) if job.task.is_implicit() => {
                let unchanged = remains.iter().all(|r| r.whole);
                let made = remains.into_iter().map(|r| r.name).collect();
                let fate = if failed && unchanged { Fate::Undone } else { Fate::Done(made) };
                (Some(fate), vec![leader])
            }
            Ok(remains) => {
                let made = remains.into_iter().filter(|r| r.whole).map(|r| r.name).collect();
                let made = if job.task.kind == TaskKind::CreateIndex { made } else { Vec::new() };
                (Some(Fate::Done(made)), vec![leader])
            }
            Err(why) => {
                let generation = self.shared.backends[leader].generation();
                self.shared.keeper.lost(leader, generation, why, false).await;
                (None, Vec::new())
            }
        }
    }

    /// Keeps statements outside transactions away until this transaction has ended.
    pub(super) async fn hold_schema(&mut self) -> Result<(), Stop> {
        let Some(tx) = self.tx.as_mut().filter(|tx| tx.schema.is_none()) else {
            return Ok(());
        };
        let lock = self.shared.schema.clone();
        let held = match lock.clone().try_read_owned() {
            Ok(held) => held,
            // It holds nothing that anybody could be waiting for.
            Err(_) if !tx.ran => lock.read_owned().await,
            Err(_) => match tokio::time::timeout(PATIENCE, lock.read_owned()).await {
                Ok(held) => held,
                Err(_) => {
                    return Err(Failure::new(Kind::Refused, "the schema is being changed")
                        .code("55P03")
                        .detail(
                            "an index is built, dropped or rebuilt CONCURRENTLY, or a partition \
                             detached so, on one backend after the other; no other change of the \
                             schema runs meanwhile",
                        )
                        .hint("run the transaction again when that has ended")
                        .into());
                }
            },
        };
        tx.schema = Some(held);
        Ok(())
    }
}

/// The qualified name of what a name stands for.
const RESOLVE: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
     WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)";

/// Records an intent on all members.
async fn intend<P: Protocol>(
    shared: &Shared<P>,
    user: String,
    settings: Vec<(String, String)>,
    task: Task,
) -> Result<Job, Failure> {
    let effects = vec![Effect::Intended(task.clone())];
    let entry = Entry { user: user.clone(), settings: settings.clone(), effects };
    let gate = shared.keeper.gate.read().await;
    let ticket = shared.ledger.begin(Touched::None);
    // From before the first backend has it: whoever stops here is found out by it.
    shared.ledger.keep_open(ticket.seq);
    record_on_members(shared, &ticket, &entry).await?;
    ticket.acknowledged();
    drop(gate);
    Ok(Job { intent: ticket.seq, user, settings, task })
}

/// The outcome of a statement that failed, from what it left behind. Who cannot be asked leaves.
async fn fate_on_members<P: Protocol>(shared: &Shared<P>, job: &Job) -> Result<Fate, Failure> {
    loop {
        let view = shared.keeper.view();
        if view.phase != Phase::Serving || view.order.is_empty() {
            return Err(in_doubt());
        }
        let generations: Vec<u64> = shared.backends.iter().map(|b| b.generation()).collect();
        match decide(shared, &view.order, job).await {
            Ok(fate) => return Ok(fate),
            Err((member, why)) => {
                shared.keeper.lost(member, generations[member], why, false).await;
            }
        }
    }
}

/// The outcome of a statement that was interrupted, from what is there on the members. One that does
/// not show everywhere is done to its end on the first of them, to know.
///
/// # Errors
/// With a member that cannot be asked, and why.
pub(crate) async fn decide<P: Protocol>(
    shared: &Shared<P>,
    members: &[usize],
    job: &Job,
) -> Result<Fate, (usize, String)> {
    let task = &job.task;
    let mut remains = Vec::new();
    for &member in members {
        let there = shared.controls[member].remains(task.clone()).await;
        remains.push(there.map_err(|why| (member, why))?);
    }
    let Some(&first) =
        members.first().filter(|_| matches!(task.kind, TaskKind::Again | TaskKind::Account))
    else {
        return Ok(task.fate(&remains));
    };
    let error = execute(shared, first, job).await.map_err(|why| (first, why))?;
    let there = shared.controls[first].remains(task.clone()).await.map_err(|why| (first, why))?;
    let changed = remains.iter().flatten().chain(&there).any(|r| !r.whole);
    let undone = error.is_some_and(|error| !P::Link::is_done_already(&error)) && !changed;
    let made = there.into_iter().map(|r| r.name).collect();
    Ok(if undone { Fate::Undone } else { Fate::Done(made) })
}

/// Brings every member to the outcome and records it. Who cannot be brought there leaves; it will be
/// when it comes back.
async fn conclude<P: Protocol>(
    shared: &Shared<P>,
    job: &Job,
    fate: &Fate,
    mut done: Vec<usize>,
) -> Result<(), Failure> {
    loop {
        // Whoever joins before the outcome is recorded must be brought there too.
        let gate = shared.keeper.gate.read().await;
        let view = shared.keeper.view();
        if view.phase != Phase::Serving || !shared.ledger.is_open(job.intent) {
            return Err(in_doubt());
        }
        let pending: Vec<usize> =
            view.order.iter().copied().filter(|m| !done.contains(m)).collect();
        // Everybody waits for one that must be alone.
        let turn = if job.task.is_implicit() { pending.len() } else { pending.len().min(1) };
        if turn == 0 {
            shared.catalogs.outdate();
            let ticket = shared.ledger.begin(Touched::Unknown);
            record_on_members(shared, &ticket, &job.outcome(fate)).await?;
            ticket.acknowledged();
            shared.ledger.close(job.intent);
            return Ok(());
        }
        drop(gate);
        let brought = join_all(pending[..turn].iter().map(|&member| async move {
            let generation = shared.backends[member].generation();
            (member, generation, bring(shared, member, job, fate).await)
        }));
        for (member, generation, brought) in brought.await {
            match brought {
                Ok(()) => done.push(member),
                Err(why) => {
                    let cause = format!("did not take DDL outside a transaction: {why}");
                    shared.keeper.lost(member, generation, cause, true).await;
                }
            }
        }
    }
}

fn in_doubt() -> Failure {
    Failure::new(Kind::InDoubt, "the outcome of the statement is not known")
        .detail("no backend was active before it was done on all of them")
        .hint("look for what it should have made; it is there on all backends, or on none")
}

/// Brings one backend to an outcome, whatever state an interruption has left it in.
pub(crate) async fn bring<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    job: &Job,
    fate: &Fate,
) -> Result<(), String> {
    let (control, task) = (&shared.controls[backend], &job.task);
    control.clear(task.clone(), fate.clone()).await?;
    let Fate::Done(made) = fate else {
        return Ok(());
    };
    let there = control.remains(task.clone()).await?;
    if task.needs_no_run(&there, made) {
        return Ok(());
    }
    let failed = execute(shared, backend, job).await?;
    let there = control.remains(task.clone()).await?;
    match failed {
        // Of accounts each server may have its own: what is there already need not be made.
        Some(error) if task.kind == TaskKind::Account && P::Link::is_done_already(&error) => {
            tracing::warn!(backend, %error, "was done already");
        }
        Some(error) if !task.forgives(made) => return Err(error.to_string()),
        _ => {}
    }
    if task.is_done(&there, made) { Ok(()) } else { Err(format!("it left {there:?}")) }
}

/// Runs the statement on one backend; the error that the server answered. What limits the
/// application's own statement has been judged on the leader already.
async fn execute<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    job: &Job,
) -> Result<Option<ServerError>, String> {
    let mut lease = patient_lease(shared, backend, &job.user).await?;
    let settings = Settings::new(job.settings.iter().cloned().collect());
    let mut settings = P::Link::unlimited(&settings);
    if job.task.is_implicit() {
        settings = P::Link::bounded(&settings, shared.settings().schema_lock);
    }
    lease.adopt(&settings);
    match lease.ask(&job.task.sql, &[]).await {
        Ok(Ok(_)) => {
            lease.release();
            Ok(None)
        }
        Ok(Err(error)) => Ok(Some(error)),
        Err(broken) => Err(broken.to_string()),
    }
}

/// Writes a record of its own to every member; who does not take it leaves.
async fn record_on_members<P: Protocol>(
    shared: &Shared<P>,
    ticket: &Ticket,
    entry: &Entry,
) -> Result<(), Failure> {
    let (id, bytes) = (rand::random::<i64>(), entry.encode());
    let mut confirmed = 0;
    for &member in &shared.keeper.view().order {
        let generation = shared.backends[member].generation();
        match record_on(shared, member, ticket.seq, id, &entry.user, &bytes).await {
            Ok(()) => confirmed += 1,
            Err(why) => {
                let cause = format!("did not take a record: {why}");
                if shared.keeper.lost(member, generation, cause, true).await != Verdict::Evicted {
                    return Err(in_doubt());
                }
            }
        }
    }
    if confirmed > 0 { Ok(()) } else { Err(in_doubt()) }
}

/// A connection; that all of them are in use is no reason to give a backend up.
async fn patient_lease<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    user: &str,
) -> Result<Lease<P::Link>, String> {
    let pool = shared.backends[backend].pool(user, Purpose::Write);
    loop {
        match pool.checkout().await {
            Ok(lease) => return Ok(lease),
            Err(CheckoutError::Busy(waited)) => {
                tracing::warn!(backend, ?waited, "all connections are in use; waiting for one");
            }
            Err(CheckoutError::Connect(error)) => return Err(error.to_string()),
        }
    }
}

/// Writes a record to one backend, in a transaction of its own.
pub(crate) async fn record_on<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    seq: i64,
    id: i64,
    user: &str,
    entry: &[u8],
) -> Result<(), String> {
    let mut lease = patient_lease(shared, backend, user).await?;
    lease.queue_record(seq, id, user, entry);
    lease.settle().await
}
