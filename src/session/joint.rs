//! Single INSERTs of several sessions in one transaction.
//!
//! Each of them would be a transaction of its own, with a record, a commit and a flush on every
//! backend. Together they are one, and no application can tell: a group is one of the orders in
//! which they could have run one after the other. When anything goes wrong before the commit, all is
//! undone and each runs alone: an error is told only to whom it belongs. The journal sees one
//! transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;

use super::group::{Answered, Entrance, Rider, Seat, Turn};
use super::run::Step;
use super::transaction::Place;
use super::{Session, Stop, shares};
use crate::catalog::{Plan, Text};
use crate::error::{self, Failure};
use crate::exchange::{Batch, Broken, Item, Link, Outcome, Protocol, Sink, TxMode, Watch, Work};
use crate::sql::{Class, Context, Isolation, Sequences, Statement};

/// How often a text runs alone after it has failed in company.
const APART: u32 = 64;

/// Why a group came to nothing.
enum Ended {
    /// Nothing of it was kept: each runs alone.
    Undone,
    /// The same for all.
    Failed(Stop),
}

/// A statement of a group: text, plan, what to send.
type Member<'a, W> = (&'a Arc<Text>, &'a Arc<Plan>, &'a W);

impl<P: Protocol> Session<P> {
    /// Whether a batch that stands by itself is one statement that may share a transaction with others.
    pub(super) fn may_join(&self, batch: &Batch<P::Work>, plan: &Plan) -> bool {
        let ([Item { text: Some(text), work }], [statement]) =
            (batch.items.as_slice(), plan.script.statements.as_slice())
        else {
            return false;
        };
        let fits = way(statement, work).is_some()
            && !self.stays.any()
            && self.autocommit
            && !self.only_reads()
            && self.shared.settings().group_commit > 1
            && (statement.sequences == Sequences::None || self.shared.groups.may_draw())
            && self.default_isolation() <= Isolation::ReadCommitted;
        let apart = text.apart.load(Ordering::Relaxed);
        if fits && apart > 0 {
            text.apart.store(apart - 1, Ordering::Relaxed);
        }
        fits && apart == 0
    }

    /// Runs a batch of one statement, in company where there is some. Who holds the seat that comes
    /// back is to commit first.
    pub(super) async fn in_company(
        &mut self,
        batch: &Batch<P::Work>,
        plan: Arc<Plan>,
    ) -> (Result<(), Stop>, Option<Seat<P::Work>>) {
        let [Item { text: Some(text), work }] = batch.items.as_slice() else {
            return (self.items(batch).await, None);
        };
        let most = self.shared.settings().group_commit;
        let entrance = self.company().enter(most, (text, &plan, work));
        let turn = match entrance {
            Entrance::First(seat) => Ok(Turn::Drive(seat, Vec::new())),
            Entrance::Wait(turn) => turn.await,
        };
        match turn {
            Ok(Turn::Drive(seat, others)) if others.is_empty() => {
                let wait = self.shared.settings().group_wait;
                seat.hold(wait, self.items(batch)).await
            }
            Ok(Turn::Drive(seat, others)) => {
                match self.drive_all((text, &plan, work), others).await {
                    Some(ended) => (self.joined(&plan, ended), Some(seat)),
                    None => {
                        drop(seat);
                        (self.items(batch).await, None)
                    }
                }
            }
            Ok(Turn::Alone) => (self.items(batch).await, None),
            Ok(Turn::Done(ended)) => (self.joined(&plan, ended), None),
            Err(_) => {
                let failure =
                    Failure::new(error::Kind::InDoubt, "the outcome of the statement is unknown")
                        .detail("the session that ran it together with others has ended")
                        .hint("look whether its rows are there before it is run again");
                (Err(failure.into()), None)
            }
        }
    }

    /// Runs the transaction of a group and tells the others how it went. What became of its own
    /// statement: `None` when each has to run by itself.
    async fn drive_all(
        &mut self,
        own: Member<'_, P::Work>,
        others: Vec<Rider<P::Work>>,
    ) -> Option<Result<Answered, Stop>> {
        match self.drive(own, &others).await {
            Ok(mut answers) => {
                let own = answers.pop();
                for (other, answer) in others.into_iter().zip(answers) {
                    other.tell(Turn::Done(Ok(answer)));
                }
                own.map(Ok)
            }
            Err(Ended::Failed(stop)) => {
                others.into_iter().for_each(|other| other.tell(Turn::Done(Err(stop.clone()))));
                Some(Err(stop))
            }
            Err(Ended::Undone) => {
                others.into_iter().for_each(|other| other.tell(Turn::Alone));
                None
            }
        }
    }

    /// Takes the answer to a statement that was run together with others.
    fn joined(&mut self, plan: &Plan, ended: Result<Answered, Stop>) -> Result<(), Stop> {
        if let Some(statement) = plan.script.statements.first() {
            let metrics = self.figures(statement.tag);
            if ended.is_ok() { metrics.ok.inc() } else { metrics.failed.inc() }
        }
        let answered = ended?;
        self.draws.drew_elsewhere(&answered.drawn);
        self.client.buffer().extend_from_slice(&answered.answer);
        Ok(())
    }

    /// Runs the transaction of a group: the answers of the others, and its own behind them.
    async fn drive(
        &mut self,
        own: Member<'_, P::Work>,
        others: &[Rider<P::Work>],
    ) -> Result<Vec<Answered>, Ended> {
        let others = others.iter().map(|rider| (&rider.text, &rider.plan, &rider.work));
        let members: Vec<Member<'_, P::Work>> = others.chain([own]).collect();
        self.open_block(false, TxMode::default());
        let done = self.run_group(&members).await;
        if done.is_err() {
            self.undo().await;
        }
        let answers = done?;
        match self.commit_now().await {
            Ok(()) => {
                self.shared.metrics.grouped.inc_by(members.len() as u64);
                Ok(answers)
            }
            // Nobody has it, so it can be run again.
            Err(Stop::Failure(failure)) if failure.kind == error::Kind::Retry => Err(Ended::Undone),
            Err(stop) => Err(Ended::Failed(stop)),
        }
    }

    async fn run_group(&mut self, members: &[Member<'_, P::Work>]) -> Result<Vec<Answered>, Ended> {
        self.ensure_leading().await.map_err(Ended::Failed)?;
        let ended = match self.on_leader_together(members).await {
            Ok(ended) => ended,
            Err(broken) => {
                // What it means for the leader has been found out; the statements run again.
                let _undone = self.leader_lost(&broken).await;
                return Err(Ended::Undone);
            }
        };
        if let Some(at) = ended.iter().position(|(_, outcome)| outcome.error.is_some()) {
            if let Some((text, ..)) = members.get(at) {
                text.apart.store(APART, Ordering::Relaxed);
            }
            return Err(Ended::Undone);
        }
        let mut answers = Vec::with_capacity(members.len());
        for ((text, plan, work), (answer, outcome)) in members.iter().zip(ended) {
            let [statement] = plan.script.statements.as_slice() else {
                return Err(Ended::Undone);
            };
            let step = Step::of(text, plan, statement, *work);
            let drawn = outcome.found.sequences.clone();
            if !self.take_in(&step, outcome).await {
                return Err(Ended::Undone);
            }
            answers.push(Answered { answer, drawn });
        }
        if answers.len() != members.len() || self.run_deferred().await.is_err() {
            return Err(Ended::Undone);
        }
        Ok(answers)
    }

    /// Makes effects of what a statement has done. False when it has to run by itself.
    async fn take_in(&mut self, step: &Step<'_, P::Work>, outcome: Outcome) -> bool {
        if !self.is_still_proved(step).await {
            return false;
        }
        let taken = match way(step.statement, step.work) {
            Some(Way::Bytes) => self.add_keyed(step, &outcome, false),
            Some(Way::Returned(_)) => self.add_returned(step, outcome),
            None => return false,
        };
        taken.is_ok()
    }

    /// Runs the statements on the leader. One that waits for a lock must not hold up the others: past
    /// the limit all of it is cancelled, which is an error of that one.
    async fn on_leader_together(
        &mut self,
        members: &[Member<'_, P::Work>],
    ) -> Result<Vec<(BytesMut, Outcome)>, Broken> {
        let patience = self.shared.settings().group_wait;
        let statements: Vec<(&P::Work, Watch<'_>)> = members
            .iter()
            .map(|(_, plan, work)| {
                let statement = plan.script.statements.first();
                let returned = statement.and_then(|statement| match way(statement, *work) {
                    Some(Way::Returned(returned)) => Some(returned),
                    _ => None,
                });
                (*work, Watch { returned, ..Watch::default() })
            })
            .collect();
        let Some(Place::Leading { leader, .. }) = self.tx.as_mut().map(|tx| &mut tx.place) else {
            return Ok(Vec::new());
        };
        let canceller = leader.canceller();
        let cancel = || P::Link::cancel(&canceller);
        shares::cancelled_after(patience, cancel, leader.run_several(&statements)).await
    }
}

/// How a statement of a group reaches the followers.
enum Way<'a> {
    /// By its bytes.
    Bytes,
    /// By what it returned.
    Returned(&'a crate::sql::Returned),
}

/// An INSERT whose outcome is known without a look at anything but its answer.
fn way<'a, W: Work>(statement: &'a Statement, work: &W) -> Option<Way<'a>> {
    let plain = statement.tag == "insert"
        && !statement.uses_currval
        && !statement.locks_rows
        && statement.context == Context::default()
        && statement.creates_temp.is_empty();
    if !plain || !work.may_join() {
        return None;
    }
    let repeatable = matches!(statement.class, Class::Keyed) || !statement.keyed_if.is_empty();
    if repeatable && work.is_fixed(&statement.keyed_if) {
        return (!statement.returns_rows).then_some(Way::Bytes);
    }
    let returned = statement.returned.as_deref()?;
    (returned.asks == Sequences::None && work.may_return(returned.shown))
        .then_some(Way::Returned(returned))
}
