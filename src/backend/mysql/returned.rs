//! Writes whose rows are decided on the leader alone, and which the followers get as values.
//!
//! An INSERT runs with a RETURNING list of ours behind the application's own: the last column is the row
//! as the followers' statement has it. It is cut off again, and where the application asked for no rows
//! it gets the OK that it would have got.
//!
//! What is found to be wrong afterwards takes the statement back alone, by a savepoint.

use bytes::{Bytes, BytesMut};
use lockstep_protocol::mysql::answer::Event;
use lockstep_protocol::mysql::{cut, response};

use super::context::LAST_INSERT_ID;
use super::errors::read_error;
use super::link::{MyLink, Request, Seen};
use super::refused;
use super::relay::{Relay, Told, put};
use crate::exchange::{Broken, Discard, Outcome, Sink, UNDO};
use crate::sql::{Keys, MET, Returned, Spelt};
use crate::store::journal::{Effect, ROWS_PER_BATCH};
use crate::wire::mysql::{Mark, MyWork};

/// The most bytes of rows in one statement of a follower.
const BYTES_PER_BATCH: usize = 256 * 1024;

/// How many rows have taken the place of others in this session.
const REPLACED: &str = "SELECT CAST(SUM(VARIABLE_VALUE) AS UNSIGNED) FROM \
    information_schema.SESSION_STATUS WHERE VARIABLE_NAME IN ('HANDLER_UPDATE','HANDLER_DELETE')";

impl MyLink {
    /// Runs a write that is captured by the rows that come of it.
    pub(super) async fn run_returned<S: Sink>(
        &mut self,
        work: &MyWork,
        returned: &Returned,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        match (&returned.keys, &returned.spelt) {
            (Some(keys), _) => self.run_by_keys(work, returned, keys, sink).await,
            (None, Some(spelt)) => self.run_spelt(work, returned, spelt, sink).await,
            (None, None) => self.refuse_capture(work).await,
        }
    }

    /// The request with another text, and those parameters that belong to it.
    pub(super) async fn instead(
        &mut self,
        work: &MyWork,
        text: &str,
        keys: Option<(&Keys, bool)>,
    ) -> Result<Result<Request, Outcome>, Broken> {
        let MyWork::Execute { parameters, .. } = work else {
            return Ok(Ok(Request::Text(Bytes::copy_from_slice(text.as_bytes()))));
        };
        let parameters = match keys {
            None => parameters.clone(),
            Some((keys, inside)) => cut::parameters(parameters, keys.of, &keys.parameters, inside)
                .map_err(|error| {
                    Broken::Lost(format!("parameters that cannot be read: {error}"))
                })?,
        };
        let prepared = self.shared.statements.intern(text);
        if !self.is_prepared(&prepared) {
            let mut quiet = Discard::default();
            let request = Request::Prepare(prepared.clone());
            let outcome = self.run_request(request, Relay::default(), &mut quiet).await?;
            if outcome.error.is_some() {
                return Ok(Err(outcome));
            }
        }
        Ok(Ok(Request::Execute(prepared, parameters)))
    }

    async fn run_spelt<S: Sink>(
        &mut self,
        work: &MyWork,
        returned: &Returned,
        spelt: &Spelt,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let request = match self.instead(work, &returned.leader, None).await? {
            Ok(request) => request,
            Err(outcome) => return Ok(outcome),
        };
        let before = if spelt.replaces { self.ask_number(REPLACED).await? } else { 0 };
        if spelt.meets {
            self.push_text(&format!("SET {MET}=0"), "context");
        }
        self.push_text(&format!("SAVEPOINT {UNDO}"), "savepoint");
        if spelt.numbered {
            // What it is afterwards is the first new number then, and no former one.
            self.push_text("SET last_insert_id=0", "context");
        }
        self.push(request, "statement", None);
        self.push_text("SELECT @@last_insert_id", "context");
        self.send().await?;
        self.settle(2).await?;
        self.check_setup()?;
        let mut answer = Answer::new(work, returned, &spelt.ending);
        self.relay_spelt(&mut answer, sink).await?;
        let generated = self.read_generated(spelt, &mut answer.outcome).await?;
        self.remark(answer.told.warns, sink).await?;
        if answer.outcome.error.is_some() {
            return Ok(answer.outcome);
        }
        if answer.incomplete {
            return self.take_back("a row is too long to be sent to the other databases").await;
        }
        let mut counts = Counts { generated, ..Counts::default() };
        if spelt.replaces {
            counts.replaced = self.ask_number(REPLACED).await?.saturating_sub(before);
        }
        // Who counts the rows found counts these too.
        if spelt.meets && !self.canceller.login.found_rows {
            let met = self.ask_number(&format!("SELECT {MET}")).await?;
            counts.kept = met.saturating_sub(counts.replaced);
        }
        Ok(answer.finish(spelt, &counts, sink))
    }

    async fn ask_number(&mut self, question: &str) -> Result<u64, Broken> {
        self.push_text(question, "counters");
        self.send().await?;
        self.settle(1).await?;
        self.check_setup()?;
        Ok(self.collect_one().await?.parse().unwrap_or_default())
    }

    /// Reads the first number that the rows were given, and has the session keep what it had before
    /// where that is none.
    async fn read_generated(
        &mut self,
        spelt: &Spelt,
        outcome: &mut Outcome,
    ) -> Result<u64, Broken> {
        let now = self.collect_one().await?;
        let generated = if spelt.numbered { now.parse().unwrap_or_default() } else { 0 };
        if spelt.numbered && generated == 0 {
            let former = self.last_insert_id();
            self.push_text(&format!("SET {LAST_INSERT_ID}={former}"), "context");
            self.send().await?;
            self.settle(0).await?;
            self.check_setup()?;
        } else if now != self.last_insert_id() {
            self.leave_last_insert_id(&now, outcome);
        }
        Ok(generated)
    }

    /// Undoes the statement that has just run, and says why.
    pub(super) async fn take_back(&mut self, why: &str) -> Result<Outcome, Broken> {
        self.return_to_savepoint().await?;
        Ok(Outcome { error: Some(refused(why).into()), ..Outcome::default() })
    }

    /// Undoes what the statement has done that has just run.
    pub(super) async fn return_to_savepoint(&mut self) -> Result<(), Broken> {
        self.push_text(&format!("ROLLBACK TO SAVEPOINT {UNDO}"), "savepoint");
        self.send().await?;
        self.settle(0).await?;
        self.check_setup()
    }

    /// Hands the application its part of the answer, and keeps ours.
    async fn relay_spelt<S: Sink>(
        &mut self,
        answer: &mut Answer<'_>,
        sink: &mut S,
    ) -> Result<(), Broken> {
        loop {
            while let Some((seen, payload)) = self.next_whole()? {
                answer.take(&seen, &payload, sink)?;
                if seen.last {
                    self.end_request();
                    return Ok(());
                }
            }
            if sink.buffer().len() > sink.limit() {
                sink.flush().await?;
            }
            self.receive().await?;
        }
    }
}

/// What is told of a statement besides its rows.
#[derive(Debug, Default)]
struct Counts {
    /// Rows that were changed or deleted.
    replaced: u64,
    /// Rows that were there already and stayed as they are, where these do not count.
    kept: u64,
    /// The first number that was given out.
    generated: u64,
}

/// The answer to an INSERT, a part of which is ours.
struct Answer<'r> {
    binary: bool,
    returned: &'r Returned,
    ending: &'r str,
    /// How many columns are the application's; known once the first packet is there.
    shown: Option<usize>,
    /// The types of the columns that have been described.
    kinds: Vec<u8>,
    /// Rows for the followers' next statement.
    batch: String,
    in_batch: u64,
    count: u64,
    /// A row that the server could not make a text of.
    incomplete: bool,
    warnings: u16,
    status: u16,
    told: Told,
    outcome: Outcome,
}

impl<'r> Answer<'r> {
    fn new(work: &MyWork, returned: &'r Returned, ending: &'r str) -> Self {
        Self {
            binary: matches!(work, MyWork::Execute { .. }),
            returned,
            ending,
            shown: None,
            kinds: Vec::new(),
            batch: String::new(),
            in_batch: 0,
            count: 0,
            incomplete: false,
            warnings: 0,
            status: 0,
            told: Told::default(),
            outcome: Outcome::default(),
        }
    }

    fn take<S: Sink>(&mut self, seen: &Seen, payload: &[u8], sink: &mut S) -> Result<(), Broken> {
        match seen.event {
            Event::Error => {
                self.outcome.error = Some(read_error(payload).into());
                self.told.warns = true;
            }
            Event::Row => self.row(payload, sink)?,
            Event::Result { .. } => {
                self.warnings = response::warnings_of(payload);
                self.told.warns |= self.warnings > 0;
                self.status = super::link::status_of(payload);
                if self.shows() {
                    self.outcome.completion = put(sink, Mark::Result, payload);
                }
            }
            _ => self.head(payload, sink)?,
        }
        Ok(())
    }

    fn shows(&self) -> bool {
        self.shown.is_some_and(|shown| shown > 0)
    }

    /// How many columns there are, what they are, and that there are no more.
    fn head<S: Sink>(&mut self, payload: &[u8], sink: &mut S) -> Result<(), Broken> {
        let Some(shown) = self.shown else {
            let all = response::count_of(payload).map_err(unreadable)?;
            let shown = all.checked_sub(1).ok_or(Broken::Rules("no columns".into()))?;
            self.shown = Some(shown);
            if shown > 0 {
                let mut count = BytesMut::new();
                response::column_count(&mut count, shown);
                put(sink, Mark::Middle, &count);
            }
            return Ok(());
        };
        let ours = self.kinds.len() == shown;
        if self.kinds.len() <= shown {
            self.kinds.push(response::Column::decode(payload).map_err(unreadable)?.kind);
        }
        if shown > 0 && !ours {
            put(sink, Mark::Middle, payload);
        }
        Ok(())
    }

    fn row<S: Sink>(&mut self, payload: &[u8], sink: &mut S) -> Result<(), Broken> {
        let shown = self.shown.unwrap_or_default();
        let kinds = self.kinds.get(..shown).unwrap_or_default();
        let parted = if self.binary {
            cut::binary_row(payload, kinds)
        } else {
            cut::text_row(payload, shown)
        };
        let (theirs, ours) = parted.map_err(unreadable)?;
        if shown > 0 {
            put(sink, Mark::Middle, &theirs);
        }
        self.count += 1;
        let Some(ours) = ours else {
            self.incomplete = true;
            return Ok(());
        };
        if self.in_batch as usize >= ROWS_PER_BATCH
            || self.batch.len() + ours.len() > BYTES_PER_BATCH
        {
            self.end_batch();
        }
        if self.in_batch > 0 {
            self.batch.push(',');
        }
        self.batch.push_str(&String::from_utf8_lossy(ours));
        self.in_batch += 1;
        Ok(())
    }

    fn end_batch(&mut self) {
        if self.in_batch == 0 {
            return;
        }
        let rows = std::mem::take(&mut self.batch);
        let sql = format!("{}{rows}{}", self.returned.followers, self.ending);
        // Of rows that take the place of others nobody knows in which batch they did.
        let replaces = self.returned.spelt.as_ref().is_some_and(|spelt| spelt.replaces);
        let rows = (!replaces).then_some(self.in_batch);
        self.outcome.found.effects.push(Effect::Text { sql, rows });
        self.in_batch = 0;
    }

    /// The outcome; an application that has asked for no rows is told how many there were.
    fn finish<S: Sink>(mut self, spelt: &Spelt, counts: &Counts, sink: &mut S) -> Outcome {
        self.end_batch();
        if !self.shows() {
            let (duplicates, warnings) = (counts.replaced, self.warnings);
            let info =
                format!("Records: {}  Duplicates: {duplicates}  Warnings: {warnings}", self.count);
            let ok = response::Ok {
                affected: (self.count + counts.replaced).saturating_sub(counts.kept),
                insert_id: counts.generated,
                status: self.status,
                warnings,
                info: if spelt.several { info.as_bytes() } else { &[] },
                changes: &[],
            };
            let mut payload = BytesMut::new();
            ok.encode(&mut payload);
            self.outcome.completion = put(sink, Mark::Result, &payload);
        }
        self.outcome.rows = (!spelt.replaces || self.count == 0).then_some(self.count);
        self.outcome
    }
}

pub(super) fn unreadable(error: lockstep_protocol::DecodeError) -> Broken {
    Broken::Rules(format!("an unreadable row: {error}"))
}
