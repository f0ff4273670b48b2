//! UPDATE and DELETE whose rows are decided on the leader alone: they are locked and read first, then
//! written by their keys, and read once more. What has not changed is sent to nobody.

use bytes::Bytes;
use lockstep_protocol::mysql::answer::Event;
use lockstep_protocol::mysql::{cut, response};

use super::errors::read_error;
use super::link::{MyLink, Request};
use super::refused;
use super::relay::Relay;
use super::returned::unreadable;
use crate::exchange::{Broken, Outcome, Sink, UNDO};
use crate::sql::{Keys, Returned};
use crate::store::journal::{Effect, ROWS_PER_BATCH};
use crate::wire::mysql::MyWork;

/// The most bytes that the keys of the rows of one statement may take.
const MOST_KEYS: usize = 8 * 1024 * 1024;

impl MyLink {
    /// Runs a write by the keys of its rows.
    pub(super) async fn run_by_keys<S: Sink>(
        &mut self,
        work: &MyWork,
        returned: &Returned,
        keys: &Keys,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let lock = match self.instead(work, &keys.lock, Some((keys, true))).await? {
            Ok(request) => request,
            Err(outcome) => return Ok(outcome),
        };
        let binary = matches!(work, MyWork::Execute { .. });
        let rows = match self.read_keys(binary, lock, sink).await? {
            Ok(rows) => rows,
            Err(outcome) => return Ok(outcome),
        };
        let condition = condition(keys, rows.iter().map(|row| &*row.key));
        if condition.len() > MOST_KEYS {
            let why = "it changes more rows than can be named by their keys: change them in several steps";
            return Ok(Outcome { error: Some(refused(why).into()), ..Outcome::default() });
        }
        let text = format!("{}{condition}{}", returned.leader, keys.ending);
        let request = match self.instead(work, &text, Some((keys, false))).await? {
            Ok(request) => request,
            Err(outcome) => return Ok(outcome),
        };
        self.push_text(&format!("SAVEPOINT {UNDO}"), "savepoint");
        let mut outcome = self.run_request(request, Relay::default(), sink).await?;
        if outcome.error.is_some() {
            return Ok(outcome);
        }
        if rows.is_empty() {
            outcome.rows = Some(0);
            return Ok(outcome);
        }
        let effects = match &keys.again {
            Some(again) => {
                let again = format!("{again}{condition} FOR UPDATE");
                let request = Request::Text(Bytes::from(again));
                let after = match self.read_keys(false, request, sink).await? {
                    Ok(after) => after,
                    Err(outcome) => return Ok(outcome),
                };
                updates(returned, keys, &rows, after)
            }
            None => deletions(returned, keys, &rows),
        };
        let written: u64 = effects.iter().filter_map(Effect::rows).sum();
        let counted = outcome.rows.unwrap_or_default();
        // Where the rows found are counted, those that stayed as they were are among them.
        let short =
            if self.canceller.login.found_rows { written > counted } else { written != counted };
        if short {
            return self.take_back("the rows that it changed cannot be told from the others").await;
        }
        outcome.rows = Some(written);
        outcome.found.effects = effects;
        Ok(outcome)
    }

    /// The rows that a query of ours locks: their keys, and what stands in the columns that are written.
    async fn read_keys<S: Sink>(
        &mut self,
        binary: bool,
        request: Request,
        sink: &mut S,
    ) -> Result<Result<Vec<Found>, Outcome>, Broken> {
        self.push(request, "keys", None);
        self.send().await?;
        self.settle(1).await?;
        self.check_setup()?;
        let (mut rows, mut error) = (Vec::new(), None);
        'answer: loop {
            while let Some((seen, payload)) = self.next_whole()? {
                match seen.event {
                    Event::Row => rows.push(found(&payload, binary)?),
                    Event::Error => error = Some(read_error(&payload)),
                    _ => {}
                }
                if seen.last {
                    self.end_request();
                    break 'answer;
                }
            }
            self.receive().await?;
        }
        if error.is_some() {
            // Whether the transaction goes on is asked with it.
            self.remark(true, sink).await?;
            return Ok(Err(Outcome { error: error.map(Box::new), ..Outcome::default() }));
        }
        match rows.into_iter().collect::<Option<Vec<_>>>() {
            Some(rows) => Ok(Ok(rows)),
            None => {
                let why = "a row is too long to be sent to the other databases";
                Ok(Err(Outcome { error: Some(refused(why).into()), ..Outcome::default() }))
            }
        }
    }
}

/// A row that is changed.
#[derive(Debug)]
struct Found {
    key: String,
    values: String,
}

/// A row of ours; `None` inside where the server could not make a text of it.
fn found(payload: &[u8], binary: bool) -> Result<Option<Found>, Broken> {
    let texts = if binary { cut::binary_texts(payload, 2) } else { response::text_row(payload) };
    let texts = texts.map_err(unreadable)?;
    let text = |at: usize| {
        let value = texts.get(at).copied().flatten();
        value.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    Ok(text(0).zip(text(1)).map(|(key, values)| Found { key, values }))
}

/// The condition that holds for the rows with these keys.
fn condition<'k>(keys: &Keys, listed: impl Iterator<Item = &'k str>) -> String {
    let [before, between, behind] = &keys.condition;
    let listed: Vec<&str> = listed.collect();
    if listed.is_empty() {
        return "FALSE".to_owned();
    }
    format!("{before}{}{behind}", listed.join(between))
}

/// What the followers run for the rows that have changed.
fn updates(returned: &Returned, keys: &Keys, before: &[Found], after: Vec<Found>) -> Vec<Effect> {
    let former: std::collections::HashMap<&str, &str> =
        before.iter().map(|row| (&*row.key, &*row.values)).collect();
    let changed = after.into_iter().filter(|row| former.get(&*row.key) != Some(&&*row.values));
    let update = |row: Found| {
        let condition = condition(keys, std::iter::once(&*row.key));
        let sql = format!("{}{} WHERE {condition}", returned.followers, row.values);
        Effect::Text { sql, rows: Some(1) }
    };
    changed.map(update).collect()
}

/// What the followers run for the rows that are gone.
fn deletions(returned: &Returned, keys: &Keys, rows: &[Found]) -> Vec<Effect> {
    let together = if keys.singly { 1 } else { ROWS_PER_BATCH };
    let delete = |rows: &[Found]| {
        let condition = condition(keys, rows.iter().map(|row| &*row.key));
        let sql = format!("{}{condition}", returned.followers);
        Effect::Text { sql, rows: Some(rows.len() as u64) }
    };
    rows.chunks(together).map(delete).collect()
}
