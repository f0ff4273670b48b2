//! Writes that are captured by what they return.
//!
//! The leader runs the application's statement with a RETURNING list of ours behind its own. What
//! the application sees is as if it had run the statement as it wrote it: our columns are cut off,
//! and where it asked for none, there is no result at all. Our columns travel in binary form, and
//! become the parameters of what the followers run, byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Buf;
use lockstep_protocol::DecodeError;
use lockstep_protocol::pg::{client, server};

use super::link::PgLink;
use crate::exchange::{Broken, Outcome, Sink, Watch};
use crate::sql::{Draw, Returned};
use crate::store::journal::Effect;
use crate::wire::pg::{PgWork, Prepared, Step, UNSHARED};

impl PgLink {
    /// The statement as steps of the extended protocol: with our RETURNING list, or as it is.
    pub(super) fn as_steps(&self, work: &PgWork, returned: Option<&Returned>) -> Vec<Step> {
        let (statements, encoding) = (self.shared.statements.clone(), self.encoding);
        let swap = |types: &[u32]| match (work, returned) {
            (PgWork::Steps(_), Some(returned)) => {
                statements.intern(&returned.leader, types, encoding)
            }
            // A text with its values in it does not come again. Positions in errors count from
            // where the application's text begins.
            (PgWork::Query(text), Some(returned)) => {
                let before = text.len() - text.trim_ascii_start().len();
                unshared(" ".repeat(before) + &returned.leader)
            }
            (_, None) => unshared(work.text().to_owned()),
        };
        match (work, returned) {
            (PgWork::Steps(steps), None) => steps.clone(),
            (_, Some(returned)) => work.extended(&swap, returned.shown, returned.columns),
            (_, None) => work.extended(&swap, 0, 0),
        }
    }

    /// Queues the statement with our RETURNING list. How many statements of ours share its request,
    /// and come before it.
    pub(super) fn queue_returned(&mut self, work: &PgWork, returned: &Returned) -> usize {
        let steps = self.as_steps(work, Some(returned));
        self.queue_steps(&steps)
    }

    /// Hands the application its part of the answer, and makes effects of ours.
    pub(super) async fn relay_returned<S: Sink>(
        &mut self,
        work: &PgWork,
        returned: &Returned,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let mut answer = Cut::new(work, Some(returned));
        while !self.relay_cut(&mut answer, sink, b'Z')? {
            if sink.buffer().len() > sink.limit() {
                sink.flush().await?;
            }
            self.receive().await?;
        }
        Ok(answer.outcome())
    }

    /// The answer to one statement of a request that goes on behind it.
    pub(super) async fn gather_one<S: Sink>(
        &mut self,
        work: &PgWork,
        returned: Option<&Returned>,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let mut answer = Cut::new(work, returned);
        while !self.relay_cut(&mut answer, sink, b'C')? {
            self.receive().await?;
        }
        Ok(answer.outcome())
    }

    /// Takes the messages that have arrived, up to one with the tag `last`, or an error where that ends
    /// the statement only. True when that was among them.
    fn relay_cut<S: Sink>(
        &mut self,
        answer: &mut Cut<'_>,
        sink: &mut S,
        last: u8,
    ) -> Result<bool, Broken> {
        while let Some(header) = self.peek()? {
            let body = &self.incoming[5..header.total];
            match (header.tag, answer.returned) {
                (b'T', Some(returned)) if returned.shown > 0 => {
                    let first = server::first_columns(sink.buffer(), body, returned.shown);
                    first.map_err(unreadable)?;
                }
                (b'T', Some(_)) => {
                    if !answer.simple {
                        server::no_data(sink.buffer());
                    }
                }
                (b'D', Some(returned)) => {
                    let cut = server::cut_row(body, returned.shown, returned.columns);
                    let (shown, ours) = cut.map_err(unreadable)?;
                    if returned.shown > 0 {
                        server::encoded_row(sink.buffer(), returned.shown, shown);
                    }
                    answer.drawn.note(ours).map_err(unreadable)?;
                    answer.outcome.found.effects.push(effect(returned, ours));
                }
                (b'1', _) if answer.simple => {
                    self.parse_done();
                }
                (b'2' | b'n', _) if answer.simple => {}
                _ => {
                    self.relay_special(header, sink, &mut answer.outcome)?;
                }
            }
            self.incoming.advance(header.total);
            let ended = header.tag == last || matches!(header.tag, b'I' | b'E' if last == b'C');
            if ended {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is looked at after a statement that is captured by what it returns.
    pub(super) fn watch_after<'a>(watch: Watch<'a>) -> Watch<'a> {
        match watch.returned {
            Some(returned) => Watch { sequences: Some(&returned.asks), ..watch },
            None => watch,
        }
    }
}

/// A statement that is run once, and under no name.
fn unshared(text: String) -> Arc<Prepared> {
    Arc::new(Prepared::new(UNSHARED, text, Vec::new()))
}

/// An answer on its way, of which a part is ours.
struct Cut<'r> {
    /// The application asked by the simple protocol.
    simple: bool,
    returned: Option<&'r Returned>,
    drawn: Drawn<'r>,
    outcome: Outcome,
}

impl<'r> Cut<'r> {
    fn new(work: &PgWork, returned: Option<&'r Returned>) -> Self {
        let draws = returned.map_or(&[][..], |returned| &returned.draws);
        let simple = matches!(work, PgWork::Query(_));
        Self { simple, returned, drawn: Drawn::new(draws), outcome: Outcome::default() }
    }

    fn outcome(mut self) -> Outcome {
        self.outcome.found.sequences = self.drawn.furthest();
        self.outcome
    }
}

fn unreadable(error: DecodeError) -> Broken {
    super::rules::broken(error)
}

fn effect(returned: &Returned, values: &[u8]) -> Effect {
    Effect::Bound {
        sql: returned.followers.clone(),
        types: Vec::new(),
        bind: client::bind_rest_encoded(returned.columns, values).to_vec(),
        rows: Some(1),
    }
}

/// How far the rows that came back say that sequences have moved.
struct Drawn<'r> {
    draws: &'r [Draw],
    furthest: BTreeMap<&'r str, (i64, i64)>,
}

impl<'r> Drawn<'r> {
    fn new(draws: &'r [Draw]) -> Self {
        Self { draws, furthest: BTreeMap::new() }
    }

    fn note(&mut self, values: &[u8]) -> Result<(), DecodeError> {
        for draw in self.draws {
            let value = match server::value_at(values, draw.place)? {
                Some(bytes) => integer(bytes)?,
                None => continue,
            };
            let known = self.furthest.entry(&draw.sequence).or_insert((value, draw.increment));
            known.0 = if draw.increment > 0 { known.0.max(value) } else { known.0.min(value) };
        }
        Ok(())
    }

    fn furthest(self) -> Vec<(String, i64, i64)> {
        let each = self.furthest.into_iter();
        each.map(|(name, (value, step))| (name.to_owned(), value, step)).collect()
    }
}

/// An integer of any size in the binary form of the wire.
fn integer(bytes: &[u8]) -> Result<i64, DecodeError> {
    match *bytes {
        [a, b] => Ok(i16::from_be_bytes([a, b]).into()),
        [a, b, c, d] => Ok(i32::from_be_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Ok(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => Err(DecodeError::Invalid("a sequence gave something that is no integer")),
    }
}
