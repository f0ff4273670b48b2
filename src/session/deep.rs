//! DDL inside functions, procedures and DO blocks.
//!
//! The server tells that such DDL ran, not its text. So the statement is taken back on the leader and
//! runs again on every backend, while no other transaction is on the leader, with capture on
//! everywhere. All of them start from the same (every commit has ended everywhere), so a statement
//! that decides nothing by clock or chance does the same everywhere; whether it did is compared, and
//! else all of it is undone and refused. The record carries the statement and what it did: a backend
//! that comes back runs it after the same records, and is found out if it does something else.

use futures_util::future::join_all;

use super::leader::internal;
use super::run::Step;
use super::transaction::{Admission, Place, Share, Transaction};
use super::{Session, Stop, shares};
use crate::error::{Failure, Kind};
use crate::exchange::{Broken, Link, Mishap, Outcome, Protocol, Sink, UNDO, Watch, Work};
use crate::ledger::reservations::{ahead, clear_of, is_beyond};
use crate::sql::{Hold, Isolation, Sequences, Touched};
use crate::store::capture::Captured;
use crate::store::control::Sequence;
use crate::store::journal::Effect;
use crate::store::witness::{Reports, Witness};

/// How long to wait until no other transaction is on the leader.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// How a statement can be taken back that turns out to have run DDL out of sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WayBack {
    /// Not at all.
    None,
    /// The transaction has done nothing else that counts: it begins anew.
    Begin,
    /// To a savepoint before the statement.
    Savepoint,
}

/// Whether a statement ran DDL on anything that is not temporary.
pub(super) fn hides_ddl(outcome: &Outcome) -> bool {
    outcome.found.captured.iter().any(|c| matches!(c, Captured::Ddl { temporary: false, .. }))
}

/// Why DDL out of sight cannot be carried to the other backends.
pub(super) fn refused(tag: &str, why: &str) -> Failure {
    Failure::new(Kind::Refused, format!("{tag} inside a function, a procedure or a DO block"))
        .detail(why)
        .hint("run the DDL as a statement of its own")
}

/// Applies an effect on a follower. The answer to what is only queued comes with the next drain.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn apply<L: Link>(
    link: &mut L,
    effect: &Effect,
) -> Result<Option<Mishap>, Broken> {
    let Effect::Deep { effect, witness } = effect else {
        link.queue_effect(effect);
        return Ok(None);
    };
    if let Some(mishap) = link.drain().await? {
        return Ok(Some(mishap));
    }
    let mishap = |code: &str, what: String| Some(Mishap { code: code.to_owned(), what });
    let outcome = link.repeat(effect).await?;
    if let Some(error) = outcome.error {
        return Ok(mishap(&error.code, format!("the statement failed: {error}")));
    }
    let found = outcome.found.all();
    let reports = match Reports::read(found.captured, found.counted) {
        Ok(reports) => reports,
        Err(why) => return Ok(mishap("", why)),
    };
    let catalog = match link.fingerprint(&reports.filled).await? {
        Ok(catalog) => catalog,
        Err(error) => return Ok(mishap(&error.code, error.to_string())),
    };
    let difference = witness.difference(&reports.witness(catalog));
    Ok(difference.and_then(|what| mishap("", what)))
}

impl<P: Protocol> Session<P> {
    /// How this statement could be taken back, before it runs.
    pub(super) fn way_back(&self, step: &Step<'_, P::Work>) -> WayBack {
        let Some(tx) = &self.tx else {
            return WayBack::None;
        };
        let default = self.default_isolation();
        let level = tx.level(default);
        if step.work.is_partial() || step.work.effect(step.sql, None).is_none() {
            WayBack::None
        } else if tx.is_fresh(default) {
            WayBack::Begin
        } else if level <= Isolation::ReadCommitted && step.statement.writes == Touched::Unknown {
            WayBack::Savepoint
        } else {
            WayBack::None
        }
    }

    /// The statement stays: its savepoint goes along with whatever comes next.
    pub(super) fn forget_way_back(&mut self) {
        if let Some(tx) = &mut self.tx
            && let Place::Leading { leader, .. } = &mut tx.place
        {
            leader.queue(&format!("RELEASE SAVEPOINT {UNDO}"));
        }
    }

    /// A statement has run DDL out of sight: it is taken back and runs on every backend, alone.
    pub(super) async fn everywhere(
        &mut self,
        step: &Step<'_, P::Work>,
        hold: Hold,
        mark: (usize, u64),
        way_back: WayBack,
    ) -> Result<(), Stop> {
        if self.client.flushes() != mark.1 || way_back == WayBack::None {
            let why = "the transaction has done what cannot be taken back to run the statement on \
                       every database";
            return Err(refused("DDL", why).into());
        }
        self.client.buffer().truncate(mark.0);
        self.take_back(way_back).await?;
        self.hold_schema().await?;
        self.be_alone().await?;
        let done = Box::pin(self.run_everywhere(step)).await;
        if let Some(tx) = &mut self.tx {
            tx.admission = tx.admission.take().map(Admission::share);
        }
        done?;
        self.note_draw(&step.statement.sequences, &[]);
        self.stays.other |= hold == Hold::Session;
        self.note_temporary(step.statement);
        Ok(())
    }

    async fn take_back(&mut self, way_back: WayBack) -> Result<(), Stop> {
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction to take a statement back in").into());
        };
        tx.admission = None;
        if way_back == WayBack::Savepoint {
            let Place::Leading { leader, shares, .. } = &mut tx.place else {
                return Err(internal("no leader to take a statement back on").into());
            };
            // A lock must not become free here before it is taken there (I8).
            shares::drain(&self.shared, shares).await;
            leader.queue(&format!("ROLLBACK TO SAVEPOINT {UNDO}"));
            leader.queue(&format!("RELEASE SAVEPOINT {UNDO}"));
            return match leader.drain().await {
                Ok(None) => Ok(()),
                Ok(Some(mishap)) => Err(internal(&mishap.what).into()),
                Err(broken) => self.leader_lost(&broken).await,
            };
        }
        tx.ran = false;
        if let Place::Leading { mut leader, shares, .. } =
            std::mem::replace(&mut tx.place, Place::Nowhere)
        {
            leader.queue_rollback();
            let (ended, ()) = tokio::join!(leader.drain(), shares::abandon(&self.shared, shares));
            // Locks of the session's own would outlive the rollback: another connection goes on,
            // unless this one has state that the application counts on.
            if ended.is_ok() && self.stays.any() {
                self.give_back(leader);
            }
        }
        Ok(())
    }

    /// Waits until no other transaction is on the leader, and every commit has ended.
    async fn be_alone(&mut self) -> Result<(), Stop> {
        let waiting = self.shared.admission.clone().write_owned();
        let Ok(alone) = tokio::time::timeout(PATIENCE, waiting).await else {
            return Err(refused("DDL", "other transactions are open")
                .code("55P03")
                .hint(
                    "try again when they have ended: it runs on every database while no other \
                       transaction is open",
                )
                .into());
        };
        if let Some(tx) = &mut self.tx {
            tx.admission = Some(Admission::Alone(alone));
        }
        Ok(())
    }

    /// Where the sequences stand on the leader, and which backend that is.
    async fn standing(&mut self) -> Result<(usize, Vec<Sequence>), Stop> {
        self.ensure_leading().await?;
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        let Place::Leading { leader, .. } = &mut tx.place else {
            return Err(internal("no leader").into());
        };
        match leader.standing().await {
            Ok(Ok(standing)) => Ok((leader.backend().index, standing)),
            Ok(Err(error)) => Err(error.into()),
            Err(broken) => {
                self.leader_lost(&broken).await?;
                Err(Failure::retry("its backend died in the middle of DDL").into())
            }
        }
    }

    async fn run_everywhere(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        let Some(repeated) = step.work.effect(step.sql, None) else {
            return Err(internal("no bytes to repeat").into());
        };
        let before = self.standing().await?;
        let watch = Watch { rows: true, sequences: Some(&Sequences::Any), ..Watch::default() };
        let mut outcome = self.on_leader(step.work, watch).await?;
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        if !hides_ddl(&outcome) {
            // What it found to do a moment ago has been done by somebody else.
            let from = self.tx.as_ref().map_or(0, |tx| tx.effects.len());
            self.add_captured(Touched::Unknown, outcome, step.statement.resets_sequences)?;
            return self.stream(from).await;
        }
        let after = self.standing().await?;
        if before.0 != after.0 {
            return Err(Failure::retry("the leader changed in the middle of DDL").into());
        }
        let moved: Vec<Sequence> =
            before.1.into_iter().filter(|standing| !after.1.contains(standing)).collect();
        let ahead = reserved(&moved, &after.1);
        let reports =
            Reports::read(std::mem::take(&mut outcome.found.captured), outcome.found.counted)
                .map_err(|e| internal(&e))?;
        self.stays.other |= reports.temporary;
        let witness = self.testify(reports).await?;
        let tag = witness.tags.first().cloned().unwrap_or_default();
        let mut effects: Vec<Effect> = moved.iter().cloned().map(reset).collect();
        effects.push(Effect::Deep { effect: Box::new(repeated), witness });
        effects.extend(
            ahead
                .iter()
                .map(|(name, value)| Effect::Advance { sequence: name.clone(), value: *value }),
        );
        let told = self.on_shares(effects, &ahead).await?;
        self.check_size()?;
        match told {
            None => Ok(()),
            Some(why) => {
                self.keep_clear(&moved, &after.1).await;
                let why = format!("it does not do the same on every database: {why}");
                Err(refused(&tag, &why).into())
            }
        }
    }

    /// What the leader's transaction has done, to be held against the others'.
    async fn testify(&mut self, reports: Reports) -> Result<Witness, Stop> {
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        let Place::Leading { leader, .. } = &mut tx.place else {
            return Err(internal("no leader").into());
        };
        match leader.fingerprint(&reports.filled).await {
            Ok(Ok(catalog)) => Ok(reports.witness(catalog)),
            Ok(Err(error)) => Err(error.into()),
            Err(broken) => {
                self.leader_lost(&broken).await?;
                Err(Failure::retry("its backend died in the middle of DDL").into())
            }
        }
    }

    /// Runs the effects on all followers; why one of them differs, if so. Then all shares are gone.
    async fn on_shares(
        &mut self,
        effects: Vec<Effect>,
        ahead: &[(String, i64)],
    ) -> Result<Option<String>, Stop> {
        let shared = self.shared.clone();
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        shares::open_all(&shared, &self.user, tx, false).await;
        let from = tx.effects.len();
        for effect in effects {
            tx.add(effect, true);
        }
        tx.ddl = true;
        tx.touch(&Touched::Unknown);
        tx.bounds.extend(ahead.iter().cloned());
        let Transaction { place, effects, .. } = tx;
        let Place::Leading { shares, .. } = place else {
            return Err(internal("no leader").into());
        };
        for share in shares.iter_mut() {
            share.queue_rest(&effects[..from]);
        }
        shares::drain(&shared, shares).await;
        let runs = shares.iter_mut().filter(|share| share.failed.is_none());
        let ends = join_all(runs.map(|share| run_on(share, &effects[from..]))).await;
        let total = effects.len();
        for share in shares.iter_mut() {
            share.sent = total;
        }
        // Who broke is judged with the next drain; who differs makes it all undone.
        let differs = ends.into_iter().flatten().next();
        if differs.is_some() {
            let gone = std::mem::take(shares);
            shares::abandon(&shared, gone).await;
        } else {
            shares::drain(&shared, shares).await;
        }
        Ok(differs)
    }

    /// After a statement that was undone: followers have moved their sequences, and stay ahead.
    async fn keep_clear(&self, moved: &[Sequence], after: &[Sequence]) {
        let values = moved.iter().map(|was| {
            let is = after.iter().find(|is| is.name == was.name).filter(|is| {
                // What was set back by the transaction goes forward again with it.
                !is_beyond(was.value, is.value, is.increment)
            });
            clear_of(is.unwrap_or(was).clone())
        });
        let values: Vec<_> = values.collect();
        if values.is_empty() {
            return;
        }
        self.shared.ledger.reservations.forget_bounds();
        for &follower in self.shared.keeper.view().followers() {
            let generation = self.shared.backends[follower].generation();
            let set = self.shared.controls[follower].set_sequences(values.clone());
            if let Err(why) = set.await {
                let cause = format!("its sequences could not be moved on: {why}");
                self.shared.keeper.lost(follower, generation, cause, true).await;
            }
        }
    }
}

/// Applies effects on one follower; in what it differs.
async fn run_on<L: Link>(share: &mut Share<L>, effects: &[Effect]) -> Option<String> {
    for effect in effects {
        match apply(&mut *share.lease, effect).await {
            Ok(None) => {}
            Ok(Some(mishap)) => return Some(mishap.what),
            Err(broken) => {
                share.failed = Some(broken.to_string());
                return None;
            }
        }
    }
    match share.lease.drain().await {
        Ok(mishap) => mishap.map(|m| m.what),
        Err(broken) => {
            share.failed = Some(broken.to_string());
            None
        }
    }
}

fn reset(standing: Sequence) -> Effect {
    let Sequence { name, value, called, .. } = standing;
    Effect::ResetSequence { sequence: name, value, called }
}

/// How far the sequences that moved, and are still there, are reserved on the followers.
fn reserved(moved: &[Sequence], now: &[Sequence]) -> Vec<(String, i64)> {
    let still = now.iter().filter(|now| moved.iter().any(|was| was.name == now.name));
    still.map(|now| (now.name.clone(), ahead(now.value, now.increment))).collect()
}
