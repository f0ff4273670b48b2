//! Answers on their way from a server: to the application, or to the proxy itself.
//!
//! Messages that are handed on unchanged are copied in runs. Notices of the capture triggers are
//! taken out, errors are kept back for the session to judge.

use std::hash::Hasher;

use bytes::Buf;
use lockstep_protocol::pg::{frame, server};
use siphasher::sip::SipHasher13;

use super::link::PgLink;
use super::request::ParseFate;
use super::row::read_error;
use super::rules::{broken, may_come};
use crate::exchange::{Broken, Outcome, ServerError, Sink, TextRows};
use crate::store::capture::{self, Captured};

impl PgLink {
    /// Hands the answer of the newest request to `sink`, message by message, until its end.
    pub(super) async fn relay<S: Sink>(&mut self, sink: &mut S) -> Result<Outcome, Broken> {
        let mut outcome = Outcome::default();
        self.digest = SipHasher13::new();
        loop {
            if self.relay_chunk(sink, &mut outcome)? {
                outcome.digest = self.digest.finish();
                return Ok(outcome);
            }
            if sink.buffer().len() > sink.limit() {
                sink.flush().await?;
            }
            self.receive().await?;
        }
    }

    /// Handles the complete messages that have arrived. True at the end of the request.
    ///
    /// Messages that are handed on unchanged are copied in runs, not one by one.
    fn relay_chunk<S: Sink>(
        &mut self,
        sink: &mut S,
        outcome: &mut Outcome,
    ) -> Result<bool, Broken> {
        let mut run = 0;
        while let Some(header) =
            frame::peek(&self.incoming[run..], self.shared.live.max_message()).map_err(broken)?
        {
            if run + header.total > self.incoming.len() {
                may_come(header)?;
                break;
            }
            if matches!(header.tag, b'D' | b'T' | b'2' | b'n' | b'd') {
                if header.tag == b'D' && self.wants_digest {
                    self.digest.write(&self.incoming[run + 5..run + header.total]);
                }
                run += header.total;
                continue;
            }
            if run > 0 {
                sink.buffer().extend_from_slice(&self.incoming[..run]);
                self.incoming.advance(run);
                run = 0;
            }
            let end = self.relay_special(header, sink, outcome)?;
            self.incoming.advance(header.total);
            if end {
                return Ok(true);
            }
        }
        if run > 0 {
            sink.buffer().extend_from_slice(&self.incoming[..run]);
            self.incoming.advance(run);
        }
        Ok(false)
    }

    pub(super) fn relay_special<S: Sink>(
        &mut self,
        header: frame::Header,
        sink: &mut S,
        outcome: &mut Outcome,
    ) -> Result<bool, Broken> {
        may_come(header)?;
        let message = &self.incoming[..header.total];
        match header.tag {
            b'Z' => {
                self.tx = message.get(5).copied().unwrap_or(b'I');
                self.end_request();
                return Ok(true);
            }
            b'E' => {
                let error = read_error(message);
                if error.fatal {
                    return Err(Broken::Lost(error.to_string()));
                }
                outcome.error = Some(error.into());
                return Ok(false);
            }
            b'1' | b'3' => match self.parse_done() {
                Some(ParseFate::Swallow) => return Ok(false),
                Some(ParseFate::Invent) => {
                    server::parse_complete(sink.buffer());
                    return Ok(false);
                }
                _ => {}
            },
            b'C' => {
                outcome.rows = server::completed_rows(&message[5..]);
            }
            b'N' => {
                if let Some(captured) = self.captured(header.total) {
                    outcome.found.captured.push(captured);
                    return Ok(false);
                }
            }
            b'S' => {
                self.hand_on_parameter(header.total, sink);
                return Ok(false);
            }
            b's' => outcome.suspended = true,
            b'G' => outcome.bulk = true,
            _ => {}
        }
        sink.buffer().extend_from_slice(&self.incoming[..header.total]);
        outcome.completion = header.total;
        // The server says no more until the bulk load has been sent.
        Ok(header.tag == b'G')
    }

    /// Tells the application of a setting that the server reports.
    pub(super) fn hand_on_parameter<S: Sink>(&mut self, total: usize, sink: &mut S) {
        if let Ok((name, value)) = server::parameter_status_of(&self.incoming[5..total])
            && !(self.reader && name == "default_transaction_read_only")
        {
            sink.report(name, value);
        }
        self.note_parameter(total);
    }

    fn captured(&self, total: usize) -> Option<Captured> {
        let body = &self.incoming[5..total];
        let mut fields: Vec<(u8, &[u8])> = Vec::with_capacity(12);
        let mut rest = body;
        while let Some((&code, tail)) = rest.split_first() {
            if code == 0 {
                break;
            }
            let end = tail.iter().position(|&b| b == 0)?;
            fields.push((code, &tail[..end]));
            rest = &tail[end + 1..];
        }
        capture::captured(&fields, &self.mark)
    }

    /// The rows of the newest request, for the proxy itself.
    pub(super) async fn collect(&mut self) -> Result<Result<TextRows, ServerError>, Broken> {
        let mut rows = Vec::new();
        let mut error = None;
        loop {
            while let Some(header) = self.peek()? {
                let message = &self.incoming[..header.total];
                match header.tag {
                    b'D' => rows.push(super::row::text_row(&message[5..], self.encoding)?),
                    b'E' => {
                        let e = read_error(message);
                        if e.fatal {
                            return Err(Broken::Lost(e.to_string()));
                        }
                        error = Some(e);
                    }
                    b'Z' => {
                        self.tx = message.get(5).copied().unwrap_or(b'I');
                        self.incoming.advance(header.total);
                        self.end_request();
                        return Ok(error.map_or(Ok(rows), Err));
                    }
                    b'1' => {
                        self.parse_done();
                    }
                    b'S' => self.note_parameter(header.total),
                    _ => {}
                }
                self.incoming.advance(header.total);
            }
            self.receive().await?;
        }
    }
}
