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
use crate::catalog::Text;
use crate::exchange::{Broken, Outcome, Sink, Watch};
use crate::sql::{Draw, Returned};
use crate::store::journal::Effect;
use crate::wire::pg::{PgWork, Prepared, UNSHARED};

impl PgLink {
    /// Queues the statement with our RETURNING list, as steps of the extended protocol. How many
    /// statements of ours share its request, and come before it.
    pub(super) fn queue_returned(&mut self, work: &PgWork, returned: &Returned) -> usize {
        let (statements, encoding) = (self.shared.statements.clone(), self.encoding);
        let swap = |types: &[u32]| match work {
            PgWork::Steps(_) => statements.intern(&returned.leader, types, encoding),
            // A text with its values in it does not come again. Positions in errors count from
            // where the application's text begins.
            PgWork::Query(text) => {
                let before = text.len() - text.trim_ascii_start().len();
                let text = " ".repeat(before) + &returned.leader;
                let text = Arc::new(Text::new(text));
                Arc::new(Prepared { id: UNSHARED, text, types: Vec::new() })
            }
        };
        let steps = work.extended(&swap, returned.shown, returned.columns);
        self.queue_steps(&steps)
    }

    /// Hands the application its part of the answer, and makes effects of ours.
    pub(super) async fn relay_returned<S: Sink>(
        &mut self,
        work: &PgWork,
        returned: &Returned,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let simple = matches!(work, PgWork::Query(_));
        let mut outcome = Outcome::default();
        let mut drawn = Drawn::new(&returned.draws);
        loop {
            while let Some(header) = self.peek()? {
                let body = &self.incoming[5..header.total];
                let ended = match header.tag {
                    b'T' if returned.shown > 0 => {
                        let first = server::first_columns(sink.buffer(), body, returned.shown);
                        first.map_err(unreadable)?;
                        false
                    }
                    b'T' => {
                        if !simple {
                            server::no_data(sink.buffer());
                        }
                        false
                    }
                    b'D' => {
                        let cut = server::cut_row(body, returned.shown, returned.columns);
                        let (shown, ours) = cut.map_err(unreadable)?;
                        if returned.shown > 0 {
                            server::encoded_row(sink.buffer(), returned.shown, shown);
                        }
                        drawn.note(ours).map_err(unreadable)?;
                        outcome.effects.push(effect(returned, ours));
                        false
                    }
                    b'1' if simple => {
                        self.parse_done();
                        false
                    }
                    b'2' if simple => false,
                    _ => self.relay_special(header, sink, &mut outcome)?,
                };
                self.incoming.advance(header.total);
                if ended {
                    outcome.sequences = drawn.furthest();
                    return Ok(outcome);
                }
            }
            if sink.buffer().len() > sink.limit() {
                sink.flush().await?;
            }
            self.receive().await?;
        }
    }

    /// What is looked at after a statement that is captured by what it returns.
    pub(super) fn watch_after<'a>(watch: Watch<'a>) -> Watch<'a> {
        match watch.returned {
            Some(returned) => Watch { sequences: Some(&returned.asks), ..watch },
            None => watch,
        }
    }
}

fn unreadable(error: DecodeError) -> Broken {
    Broken::Lost(format!("the server broke the protocol: {error}"))
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
