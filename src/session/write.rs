//! Writes: the leader first, then the effect to everyone else (I1).

use super::deep::{self, WayBack};
use super::leader::internal;
use super::run::Step;
use super::transaction::Place;
use super::{Session, Stop, shares};
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Outcome, Protocol, Sink, TxMode, Watch, Work};
use crate::ledger::reservations::ahead;
use crate::sql::{Context, Hold, Returned, Sequences, Touched};
use crate::store::journal::{Effect, push_row};
use crate::store::witness::Reports;

/// With how many transactions at once the followers are sent what is done before it is to be committed.
const FEW: usize = 2;

impl<P: Protocol> Session<P> {
    /// Runs a write on the leader and streams its effect to the followers.
    pub(super) async fn write(
        &mut self,
        step: &Step<'_, P::Work>,
        keyed: bool,
        hold: Hold,
    ) -> Result<(), Stop> {
        self.may_write()?;
        if self.tx.is_none() {
            self.open_block(false, TxMode::default());
        }
        self.pass_locks(&step.statement.writes).await?;
        if let Some(tx) = &mut self.tx {
            tx.stateful |= step.work.is_partial();
        }
        // Inside a transaction that changed the catalog nothing the catalog says is true; and a
        // portal that was bound earlier has no bytes that could be repeated.
        let changed = self.tx.as_ref().is_some_and(|tx| tx.ddl);
        let doubtful = &step.statement.keyed_if;
        let keyed = (keyed || !doubtful.is_empty())
            && !changed
            && step.work.effect(step.sql, None).is_some()
            && step.work.is_fixed(doubtful);
        let returned = if keyed || changed { None } else { self.returned(step).await? };
        let proved = keyed || returned.is_some();
        let way_back = if proved { WayBack::None } else { self.way_back(step) };
        let watch = match returned {
            Some(_) => Watch { returned, ..Watch::default() },
            None if keyed => Watch { undoable: self.is_in_steps(step), ..keyed_watch(step) },
            None => captured_watch(step, way_back == WayBack::Savepoint),
        };
        let mark = (self.client.buffer().len(), self.client.flushes());
        let outcome = self.on_leader(step.work, watch).await?;
        if let Some(error) = outcome.error {
            // What the proof says of the table may be what is wrong.
            if returned.is_some() && !self.is_still_proved(step).await {
                return self.write_again(step, hold, mark).await;
            }
            return Err(Stop::Server(error));
        }
        if deep::hides_ddl(&outcome) {
            return self.everywhere(step, hold, mark, way_back).await;
        }
        if watch.undoable {
            self.forget_way_back();
        }
        if proved && !self.is_still_proved(step).await {
            return self.write_again(step, hold, mark).await;
        }
        let from = self.tx.as_ref().map_or(0, |tx| tx.effects.len());
        self.note_left(&outcome);
        let added = if keyed {
            self.add_keyed(step, &outcome, watch.digest)
        } else if let Some(returned) = returned {
            // What was asked for afterwards is where the sequence stands, for whomever.
            let told = (returned.asks == Sequences::None).then_some(&*outcome.found.sequences);
            self.note_draw(&step.statement.sequences, told.unwrap_or_default());
            self.add_returned(step, outcome)
        } else {
            let resets = step.statement.resets_sequences;
            let added = self.add_captured(step.statement.writes.clone(), outcome, resets);
            self.note_draw(&step.statement.sequences, &[]);
            self.stays.other |= hold == Hold::Session;
            self.note_temporary(step.statement);
            added
        };
        match added {
            Ok(()) => self.stream(from).await,
            Err(stop) => self.only_here(stop).await,
        }
    }

    /// Whether a part of it could stay on the leader alone where the rest fails.
    fn is_in_steps(&self, step: &Step<'_, P::Work>) -> bool {
        step.statement.in_steps && self.tx.as_ref().is_some_and(|tx| tx.explicit)
    }

    /// The leader has done what the followers will not get: no error may leave it done.
    pub(super) async fn only_here(&mut self, stop: Stop) -> Result<(), Stop> {
        if !P::MANNERS.error_fails_transaction {
            self.undo().await;
        }
        Err(stop)
    }

    /// How the statement is captured by what it returns, where it can be.
    async fn returned<'s>(
        &mut self,
        step: &Step<'s, P::Work>,
    ) -> Result<Option<&'s Returned>, Stop> {
        let returned = step.statement.returned.as_deref();
        let returned = returned.filter(|r| step.work.may_return(r.shown));
        // A value that the session's encoding lacks would fail a statement that shows it to nobody.
        match returned {
            Some(_) if !self.leader_sends_any_text().await? => Ok(None),
            returned => Ok(returned),
        }
    }

    /// Has the leader choose the values that every server would choose for itself, and runs the
    /// statement with variables in their place. Whoever leads next chooses anew, with the statement.
    pub(super) async fn write_pinned(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        if self.tx.is_none() {
            self.open_block(false, TxMode::default());
        }
        let (text, chosen) = step.statement.with_pins(&step.text.sql);
        let Some(work) = step.work.rewritten(&text) else {
            return Err(internal("no way to send a statement of ours").into());
        };
        self.ensure_leading().await?;
        let chosen = chosen.iter().map(|(variable, value)| format!("@{variable} = {value}"));
        let chosen = format!("SET {}", chosen.collect::<Vec<_>>().join(", "));
        if let Some(tx) = &mut self.tx {
            if let Place::Leading { leader, .. } = &mut tx.place {
                leader.queue(&chosen);
            }
            tx.add_context(&chosen);
        }
        let mut statement = step.statement.clone();
        statement.pins.clear();
        let step = Step { statement: &statement, sql: text.trim(), work: &work, ..*step };
        self.write(&step, true, Hold::Statement).await
    }

    /// DDL committed while a statement waited for its table of which more was known than that it
    /// writes: alone, it runs again, captured.
    async fn write_again(
        &mut self,
        step: &Step<'_, P::Work>,
        hold: Hold,
        mark: (usize, u64),
    ) -> Result<(), Stop> {
        let alone = self.tx.as_ref().is_some_and(|tx| !tx.explicit && tx.writing == 0);
        if !alone || self.client.flushes() != mark.1 {
            return Err(Failure::retry("a table it writes was changed meanwhile").into());
        }
        self.client.buffer().truncate(mark.0);
        self.undo().await;
        // Captured whatever the classifier would say now: there is no third attempt.
        let mut statement = step.statement.clone();
        statement.keyed_if.clear();
        statement.returned = None;
        let step = Step { statement: &statement, ..*step };
        Box::pin(self.write(&step, false, hold)).await
    }

    /// Notes on which connection the session has drawn from sequences, and what is known of it.
    pub(super) fn note_draw(&mut self, sequences: &Sequences, values: &[(String, i64, i64)]) {
        if *sequences != Sequences::None
            && let Some(tx) = &self.tx
            && let Place::Leading { leader, .. } = &tx.place
        {
            self.draws.drew(leader.identity(), sequences, values);
        }
    }

    /// Whether what was proved of a statement holds with the newest catalog.
    pub(super) async fn is_still_proved(&self, step: &Step<'_, P::Work>) -> bool {
        let epoch = self.shared.catalogs.epoch();
        if epoch == step.plan.epoch {
            return true;
        }
        self.shared.catalogs.wait_for(epoch).await;
        let plan = self.shared.catalogs.plan(step.text, &self.scope);
        let mut statements = plan.script.statements.iter();
        statements.find(|s| s.range == step.statement.range).is_some_and(|s| {
            s.class == step.statement.class
                && s.writes == step.statement.writes
                && s.keyed_if == step.statement.keyed_if
                && s.returned == step.statement.returned
                && s.portable == step.statement.portable
        })
    }

    pub(super) fn add_keyed(
        &mut self,
        step: &Step<'_, P::Work>,
        outcome: &Outcome,
        checked: bool,
    ) -> Result<(), Stop> {
        // Zero rows on the leader: there is nothing to send, if that says it all.
        if outcome.rows == Some(0) && !step.statement.beyond_rows {
            return Ok(());
        }
        let Some(effect) = step.work.effect(step.sql, outcome.rows) else {
            return Err(internal("a keyed statement without bytes to repeat").into());
        };
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        if outcome.found.context.is_none() && context_of(step).is_some() {
            return Err(internal("a statement came back without what it depends on").into());
        }
        if let Some(sql) = &outcome.found.context {
            tx.add(Effect::Text { sql: sql.clone(), rows: None }, false);
        }
        let effect = match checked {
            true => Effect::Checked { effect: Box::new(effect), digest: outcome.digest },
            false => effect,
        };
        tx.add(effect, true);
        tx.touch(&step.statement.writes);
        self.check_size()
    }

    /// Takes the effects that were made of the rows that came back.
    pub(super) fn add_returned(
        &mut self,
        step: &Step<'_, P::Work>,
        outcome: Outcome,
    ) -> Result<(), Stop> {
        let (rows, found) = (outcome.rows, outcome.found.all());
        let came: Option<u64> = found.effects.iter().map(Effect::rows).sum();
        if rows != came {
            return Err(internal("not every row that was written came back").into());
        }
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        if !found.effects.is_empty() {
            tx.touch(&step.statement.writes);
        }
        for effect in found.effects {
            tx.add(effect, true);
        }
        self.reserve(found.sequences, false)?;
        self.check_size()
    }

    /// Turns the rows and sequences that were reported into effects.
    pub(super) fn add_captured(
        &mut self,
        writes: Touched,
        outcome: Outcome,
        resets: bool,
    ) -> Result<(), Stop> {
        let found = outcome.found.all();
        let reports = Reports::read(found.captured, found.counted).map_err(|e| internal(&e))?;
        if let Some(tag) = reports.tags.first() {
            let why = "it was not the statement itself that ran it, or its answer was on the way";
            return Err(deep::refused(tag, why).into());
        }
        self.stays.other |= reports.temporary;
        let changes = reports.rows;
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        if !changes.is_empty() {
            tx.touch(&writes);
            tx.writing += 1;
        }
        let from = tx.effects.len();
        for change in changes {
            tx.size += 64
                + change.old.as_ref().map_or(0, String::len)
                + change.new.as_ref().map_or(0, String::len);
            push_row(&mut tx.effects, from, change);
        }
        self.reserve(found.sequences, resets)?;
        self.check_size()
    }

    /// Keeps the followers' sequences ahead of what was drawn: name, value, step.
    fn reserve(&mut self, sequences: Vec<(String, i64, i64)>, resets: bool) -> Result<(), Stop> {
        let reservations = &self.shared.ledger.reservations;
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        for (sequence, value, increment) in sequences {
            let bound = ahead(value, increment);
            if resets {
                reservations.restart(&sequence, value, increment);
                tx.bounds.push((sequence.clone(), bound));
                tx.add(Effect::ResetSequence { sequence, value: bound, called: true }, true);
            } else if reservations.draw(&sequence, value, increment) {
                tx.bounds.push((sequence.clone(), bound));
                tx.add(Effect::Advance { sequence, value: bound }, true);
            }
        }
        Ok(())
    }

    pub(super) fn check_size(&self) -> Result<(), Stop> {
        let limit = self.shared.settings().max_effects;
        if self.tx.as_ref().is_some_and(|tx| tx.size > limit) {
            return Err(Failure::new(
                Kind::Refused,
                "the transaction changes more than one transaction may",
            )
            .code("54000")
            .detail(format!("its effects exceed {limit} bytes"))
            .hint("split it, or raise `[limits] max_transaction_effects_bytes`")
            .into());
        }
        Ok(())
    }

    /// Sends the newest effects to the followers, behind the client's back. A single statement
    /// sends them with its commit, which follows at once, and so does a short transaction.
    pub(super) async fn stream(&mut self, from: usize) -> Result<(), Stop> {
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        let opened = matches!(&tx.place, Place::Leading { shared: true, .. }) && !tx.ahead;
        let streams = opened || tx.streams && tx.is_worth_streaming();
        if !streams || tx.effects.len() == from || tx.writing == 0 {
            return Ok(());
        }
        shares::open_all(&self.shared, &self.user, tx, false).await;
        let super::Transaction { place, effects, .. } = tx;
        let Place::Leading { shares, .. } = place else {
            return Ok(());
        };
        for share in shares.iter_mut() {
            share.queue_rest(effects);
        }
        shares::flush(shares).await;
        Ok(())
    }

    /// Opens the shares of a short transaction while its client thinks: what it has done goes there while the leader works
    /// on what it does next ([`Session::on_leader`]), and its end is shorter. Only while there are few transactions, since
    /// what it costs is what others could use.
    pub(super) async fn run_ahead(&mut self) {
        let Some(tx) = self.tx.as_mut().filter(|_| P::MANNERS.shares_in_parts) else { return };
        let worth = tx.streams && tx.writing > 0 && tx.effects.len() >= shares::AHEAD;
        let leads = matches!(tx.place, Place::Leading { shared: false, .. }) && !tx.failed;
        if worth && leads && self.shared.crossings.under_way() <= FEW {
            tx.ahead = true;
            // On the heap, since it would be part of every idle session.
            Box::pin(shares::open_all(&self.shared, &self.user, tx, false)).await;
        }
    }

    /// A statement that was taken for a read and writes: the server refused it on a reader.
    pub(super) async fn write_misjudged(&mut self, work: &P::Work) -> Result<(), Stop> {
        self.may_write()?;
        self.open_block(false, TxMode::default());
        let watch = Watch { rows: true, sequences: Some(&Sequences::Any), ..Watch::default() };
        let outcome = self.on_leader(work, watch).await?;
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        self.add_captured(Touched::Unknown, outcome, false)
    }
}

/// What is looked at around a statement whose rows the triggers report.
fn captured_watch<'a, W: Work>(step: &Step<'a, W>, undoable: bool) -> Watch<'a> {
    let sequences = Some(&step.statement.sequences);
    Watch { rows: true, sequences, undoable, ..Watch::default() }
}

/// What is looked at around a statement whose bytes are repeated.
fn keyed_watch<'a, W: Work>(step: &Step<'a, W>) -> Watch<'a> {
    // What a server of its own gives back must be what the leader gave back (I3).
    let alike = step.statement.portable || step.work.answers_in_text();
    let digest = step.statement.returns_rows && alike;
    Watch { digest, context: context_of(step), ..Watch::default() }
}

/// What has to be fixed for a statement, and reported of it. What depends on nothing but its text and its
/// parameters needs no look around it.
fn context_of<'a, W: Work>(step: &Step<'a, W>) -> Option<&'a Context> {
    let context = &step.statement.context;
    context.is_needed(|numbers| step.work.brings(numbers)).then_some(context)
}
