//! Answers on their way from a server: to the application, or to the proxy itself.
//!
//! Packets that are handed on unchanged are copied in runs. In the place of its number each carries
//! the mark that says whether it ends a result; errors are kept back for the session to judge.

use std::hash::Hasher;

use bytes::{Buf, BytesMut};
use lockstep_protocol::mysql::answer::Event;
use lockstep_protocol::mysql::packet::{self, HEADER};
use lockstep_protocol::mysql::response;
use lockstep_protocol::mysql::stmt::PrepareOk;

use super::errors::{TOO_LONG, number_of, read_error};
use super::link::{MyLink, Seen, told};
use crate::exchange::{Broken, Outcome, ServerError, Sink, TextRows};
use crate::wire::mysql::Mark;

/// How an answer is handed on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Relay {
    /// The rows are hashed.
    pub(super) digest: bool,
    /// The application's number for the statement that was prepared.
    pub(super) number: Option<u32>,
}

/// What an answer tells besides its rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// The first number that AUTO_INCREMENT gave.
    pub(super) generated: u64,
    /// The server has more to say: warnings, or an error.
    pub(super) warns: bool,
}

impl MyLink {
    /// Hands the answer that is to be read next to `sink`, packet by packet, until its end.
    pub(super) async fn relay<S: Sink>(
        &mut self,
        how: Relay,
        sink: &mut S,
    ) -> Result<(Outcome, Told), Broken> {
        let mut outcome = Outcome::default();
        let mut digest = std::hash::DefaultHasher::new();
        let (mut rows, mut all) = (0, Told::default());
        loop {
            let mut run = 0;
            while let Some(seen) = self.next_after(run)? {
                let at = run;
                run += seen.header.total;
                self.mark(at, &seen);
                match seen.event {
                    Event::Row => {
                        rows += 1;
                        if how.digest {
                            digest.write(&self.incoming[at + HEADER..run]);
                        }
                    }
                    Event::Prepared { .. } => self.renumber(at, how.number),
                    Event::Error => {
                        let payload = packet::first_part(&self.incoming[at..]);
                        let number = number_of(payload);
                        outcome.error = Some(read_error(payload).into());
                        self.hand_on(at, sink);
                        self.pass(&seen);
                        // Whoever has closed the connection has nothing more to say.
                        all.warns = number != TOO_LONG;
                        return Ok((outcome, all));
                    }
                    Event::Result { .. } => {
                        let payload = packet::first_part(&self.incoming[at..]);
                        let told = told(payload);
                        outcome.rows = told.map(|(affected, _)| affected).or(Some(rows));
                        all.generated = told.map_or(0, |(_, insert_id)| insert_id);
                        all.warns |= response::warnings_of(payload) > 0;
                        outcome.completion = seen.header.total;
                    }
                    _ => outcome.completion = seen.header.total,
                }
                if seen.last {
                    self.end_request();
                    self.hand_on(run, sink);
                    outcome.digest = digest.finish();
                    return Ok((outcome, all));
                }
            }
            self.hand_on(run, sink);
            if sink.buffer().len() > sink.limit() {
                sink.flush().await?;
            }
            self.receive().await?;
        }
    }

    fn hand_on<S: Sink>(&mut self, length: usize, sink: &mut S) {
        if length > 0 {
            sink.buffer().extend_from_slice(&self.incoming[..length]);
            self.incoming.advance(length);
        }
    }

    /// Puts the mark where the numbers of the packet's parts stand.
    fn mark(&mut self, at: usize, seen: &Seen) {
        let ends = matches!(seen.event, Event::Result { .. });
        let mark = if ends { Mark::Result } else { Mark::Middle };
        if seen.header.is_whole() {
            self.incoming[at + 3] = mark.byte();
            return;
        }
        let (mut part, end) = (at, at + seen.header.total);
        while part < end {
            self.incoming[part + 3] = mark.byte();
            part += HEADER + packet::first_part(&self.incoming[part..]).len();
        }
    }

    /// Puts the application's number for a prepared statement in the place of the server's.
    fn renumber(&mut self, at: usize, number: Option<u32>) {
        let at = at + HEADER + PrepareOk::STATEMENT_AT;
        if let (Some(number), Some(place)) = (number, self.incoming.get_mut(at..at + 4)) {
            place.copy_from_slice(&number.to_le_bytes());
        }
    }

    /// The one value of an answer to a question of ours; empty where there is none.
    pub(super) async fn collect_one(&mut self) -> Result<String, Broken> {
        let rows = self.collect().await?.map_err(|error| Broken::Setup(error.into()))?;
        Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
    }

    /// The rows of the answer that is to be read next, for the proxy itself.
    pub(super) async fn collect(&mut self) -> Result<Result<TextRows, ServerError>, Broken> {
        let mut rows = Vec::new();
        loop {
            while let Some(seen) = self.next()? {
                let payload = packet::first_part(&self.incoming);
                let mut error = None;
                match seen.event {
                    Event::Row => rows.push(text_row(payload)?),
                    Event::Error => error = Some(read_error(payload)),
                    _ => {}
                }
                self.pass(&seen);
                if let Some(error) = error {
                    return Ok(Err(error));
                }
                if seen.last {
                    return Ok(Ok(rows));
                }
            }
            self.receive().await?;
        }
    }
}

fn text_row(payload: &[u8]) -> Result<Vec<Option<String>>, Broken> {
    let row = response::text_row(payload)
        .map_err(|e| Broken::Lost(format!("the server sent an unreadable row: {e}")))?;
    let text = |value: Option<&[u8]>| value.map(|v| String::from_utf8_lossy(v).into_owned());
    Ok(row.into_iter().map(text).collect())
}

/// Appends a packet of ours; how long it is.
pub(super) fn put<S: Sink>(sink: &mut S, mark: Mark, payload: &[u8]) -> usize {
    let mut wire = BytesMut::with_capacity(HEADER + payload.len());
    packet::put(&mut wire, 0, payload);
    let mut part = 0;
    while part < wire.len() {
        wire[part + 3] = mark.byte();
        part += HEADER + packet::first_part(&wire[part..]).len();
    }
    sink.buffer().extend_from_slice(&wire);
    wire.len()
}
