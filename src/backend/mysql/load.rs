//! LOAD DATA LOCAL on the leader: the server asks for the file, which the application sends.
//!
//! The protocol has no word for giving up: what was sent so far is loaded. So a savepoint comes first.

use bytes::BufMut as _;
use lockstep_protocol::mysql::answer::Event;
use lockstep_protocol::mysql::packet;

use super::context::{Fixed, LAST_INSERT_ID, is_asked};
use super::errors::read_error;
use super::link::{MyLink, Request};
use super::refused;
use super::relay::{Relay, put};
use crate::exchange::{Broken, BulkPiece, Discard, Outcome, Sink, UNDO, Watch};
use crate::sql::Context;
use crate::wire::mysql::{Mark, MyWork};

/// A load that is under way.
#[derive(Debug)]
pub(super) struct Loading {
    /// The number of the next packet.
    sequence: u8,
    fixed: Fixed,
    /// Why it was given up.
    failed: Option<String>,
}

/// How much of a file travels in one packet.
const FILE_PART: usize = 1 << 20;

impl MyLink {
    /// Sends a part of a file, or its end where that is empty; the number of the packet behind it.
    pub(super) async fn send_file(&mut self, sequence: u8, data: &[u8]) -> Result<u8, Broken> {
        let mut next = sequence;
        for part in data.chunks(FILE_PART) {
            next = packet::write(&mut self.outgoing, next, |buf| buf.put_slice(part));
            self.write().await?;
        }
        if data.is_empty() {
            next = packet::write(&mut self.outgoing, next, |_| {});
            self.write().await?;
        }
        Ok(next)
    }

    /// Runs the statement up to the server's request for the file, which is handed on.
    pub(super) async fn open_load<S: Sink>(
        &mut self,
        work: &MyWork,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let MyWork::Query { text, .. } = work else {
            let why = "a bulk load is sent as a text, not as a prepared statement";
            return Ok(Outcome { error: Some(refused(why).into()), ..Outcome::default() });
        };
        let context = watch.context.cloned().unwrap_or_default();
        let mut fixed = self.fix(&context);
        self.push_text(&format!("SAVEPOINT {UNDO}"), "savepoint");
        self.push(Request::Load(text.clone(), None), "statement", None);
        self.send().await?;
        if is_asked(&context) {
            self.settle(if context.hidden_id { 4 } else { 3 }).await?;
            self.check_setup()?;
            self.read_fixed(&mut fixed).await?;
        }
        self.settle(1).await?;
        self.check_setup()?;
        loop {
            let Some(seen) = self.next()? else {
                self.receive().await?;
                continue;
            };
            let payload = packet::first_part(&self.incoming);
            match seen.event {
                Event::Infile => {
                    put(sink, Mark::Middle, payload);
                    self.pass(&seen);
                    let sequence = seen.header.sequence.wrapping_add(1);
                    self.loading = Some(Loading { sequence, fixed, failed: None });
                    return Ok(Outcome { bulk: true, ..Outcome::default() });
                }
                Event::Error => {
                    let error = Some(read_error(payload).into());
                    self.pass(&seen);
                    self.unfix_load(&context, &fixed).await?;
                    self.remark(true, sink).await?;
                    return Ok(Outcome { error, ..Outcome::default() });
                }
                _ => return Err(Broken::Rules("a load without a file".into())),
            }
        }
    }

    /// Lets go what was held for a load that has come to nothing.
    async fn unfix_load(&mut self, context: &Context, fixed: &Fixed) -> Result<(), Broken> {
        if is_asked(context) {
            let former = &fixed.last_insert_id;
            self.push_text(&format!("SET timestamp=DEFAULT, {LAST_INSERT_ID}={former}"), "context");
        }
        self.restore_variables(fixed);
        self.send().await?;
        self.settle(0).await?;
        self.check_setup()
    }

    /// Columns of the file may have gone to variables, which are nobody's afterwards.
    fn restore_variables(&mut self, fixed: &Fixed) {
        if !fixed.variables.is_empty() {
            self.push_text(&format!("SET {}", fixed.variables.join(", ")), "context");
        }
    }

    /// Hands a piece of the file on, or its end.
    pub(super) async fn send_piece(&mut self, piece: &BulkPiece) -> Result<(), Broken> {
        let Some(mut loading) = self.loading.take() else {
            return Err(Broken::Lost("a file that no server has asked for".into()));
        };
        match piece {
            BulkPiece::Data(data) if data.is_empty() => {}
            BulkPiece::Data(data) => {
                loading.sequence = self.send_file(loading.sequence, data).await?;
            }
            BulkPiece::Done => {
                self.send_file(loading.sequence, &[]).await?;
            }
            BulkPiece::Fail(why) => {
                loading.failed = Some(why.clone());
                self.send_file(loading.sequence, &[]).await?;
            }
        }
        self.loading = Some(loading);
        Ok(())
    }

    /// The answer, once the file has been sent. What was given up is taken back.
    pub(super) async fn close_load<S: Sink>(
        &mut self,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let Some(Loading { fixed, failed, .. }) = self.loading.take() else {
            return Err(Broken::Lost("a file that no server has asked for".into()));
        };
        let context = watch.context.cloned().unwrap_or_default();
        let (mut outcome, told) = match &failed {
            Some(_) => self.relay(Relay::default(), &mut Discard::default()).await?,
            None => self.relay(Relay::default(), sink).await?,
        };
        if let Some(why) = failed {
            if outcome.error.is_some() {
                self.remark(true, &mut Discard::default()).await?;
            }
            self.unfix_load(&context, &fixed).await?;
            return match outcome.error {
                Some(_) => Ok(outcome),
                None => self.take_back(&why).await,
            };
        }
        self.release(&context);
        self.send().await?;
        self.settle(if is_asked(&context) { 2 } else { 1 }).await?;
        self.read_left(&context, &fixed, told.generated, &mut outcome).await?;
        self.remark(told.warns, sink).await?;
        self.restore_variables(&fixed);
        self.send().await?;
        self.settle(0).await?;
        self.check_setup()?;
        Ok(outcome)
    }
}
