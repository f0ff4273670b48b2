//! The conversation with an application that speaks MySQL's protocol.
//!
//! A command is a batch of one. Numbers of statements are the application's own and stay here, as
//! do long parameters and the types of earlier ones: what goes on is a statement that leans on
//! nothing. Cursors are not opened, so that no server has to keep one: the rows come at once, which
//! the protocol allows.
//!
//! Packets get their numbers and the transaction's state at the last moment (`dress`). The packet
//! that ends a result is held back until more is known: whether another result follows, and whether
//! the commit behind it succeeds.

mod answers;
mod asides;
mod binary;
mod charset;
mod commands;
mod dress;
mod leave;
mod login;
mod luggage;
mod past;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_protocol::mysql::handshake::{CHALLENGE, capability as cap};
use lockstep_protocol::mysql::stmt::{Kind as ParameterKind, PrepareOk};
use lockstep_protocol::mysql::{packet, response};
use smallvec::smallvec;
use tokio_util::sync::CancellationToken;

pub use charset::charset_settings;
pub use login::{Door, Greeting, Known, Who};
pub use luggage::{CallBack, Luggage, bring};

use crate::error::{Failure, Kind};
use crate::exchange::{
    AUTOCOMMIT, Batch, BulkPiece, Client, End, Gone, ServerError, Sink, Table, TextRows, TxState,
};
use crate::net::{Line, Stream};
use crate::sql::Recall;
use crate::wire::mysql::{Mark, MyWork, Prepared, Statements};
use past::Past;

/// The number of a warning that has none of its own: `ER_UNKNOWN_ERROR`.
const OUR_WARNING: &str = "1105";

/// The longest error text that clients have room for.
const MESSAGE_LIMIT: usize = 500;

/// Bounds on what one client may make us keep.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The largest packet, and the most bytes of long parameters.
    pub message: usize,
    /// Prepared statements.
    pub prepared: usize,
    /// Bytes of an answer that wait before they are sent.
    pub reply: usize,
}

/// A statement that the application has prepared.
#[derive(Debug)]
struct Own {
    prepared: Arc<Prepared>,
    /// How many parameters it takes, as a server said.
    parameters: u16,
    /// The types of its last EXECUTE.
    kinds: Vec<ParameterKind>,
    /// Values sent ahead, by the parameter's place.
    long: BTreeMap<u16, BytesMut>,
}

/// The conversation with an application that speaks MySQL's protocol.
#[derive(Debug)]
pub struct MyClient {
    stream: Line,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// The number of the next packet.
    sequence: u8,
    statements: Arc<Statements>,
    bounds: Bounds,
    /// What it has agreed on with us at its login.
    capabilities: u32,
    /// Several statements may stand in one text.
    multi: bool,
    /// It is sending a file that was asked for.
    sends_file: bool,
    /// It wants to go on as somebody else: the command that says as whom.
    leaving: Option<Bytes>,
    /// What its proofs are about.
    challenge: [u8; CHALLENGE],
    /// How often it could not prove to be whom it wanted to be.
    denied: u8,
    own: HashMap<u32, Own>,
    /// The number of the statement that was prepared last.
    newest: u32,
    /// The statement whose prepare has not been answered yet.
    preparing: Option<u32>,
    /// Bytes of all long parameters.
    long: usize,
    state: TxState,
    autocommit: bool,
    /// What SHOW WARNINGS has to say: level, number, text.
    messages: TextRows,
    /// The number that the client was told at its login.
    number: u32,
    /// How texts are read, as the last answer of a server has told.
    reading: Option<u16>,
    /// How the statements before have ended, for who asks.
    past: Past,
    /// What has changed in the session by an answer of our own.
    change: Option<response::Change>,
    /// The answer is complete: nothing is held back.
    settled: bool,
    flushes: u64,
    /// What may have to be taken back.
    kept: Option<luggage::Kept>,
}

impl MyClient {
    /// A client that has proved who it is.
    fn new(
        stream: Stream,
        incoming: BytesMut,
        sequence: u8,
        capabilities: u32,
        statements: Arc<Statements>,
        bounds: Bounds,
    ) -> Self {
        Self {
            stream: Line::new(stream),
            incoming,
            outgoing: BytesMut::with_capacity(8192),
            sequence,
            statements,
            bounds,
            capabilities,
            multi: capabilities & cap::MULTI_STATEMENTS != 0,
            sends_file: false,
            leaving: None,
            challenge: [0; CHALLENGE],
            denied: 0,
            own: HashMap::new(),
            newest: 0,
            preparing: None,
            long: 0,
            state: TxState::Idle,
            autocommit: true,
            messages: TextRows::new(),
            number: 0,
            reading: None,
            past: Past::default(),
            change: None,
            settled: true,
            flushes: 0,
            kept: None,
        }
    }

    /// Tells the client that it is in, and in which database; remembers the number that it was greeted
    /// with.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn welcome(&mut self, number: u32, database: &str) -> Result<(), Gone> {
        self.number = number;
        self.change = Some(response::Change::Database(database.to_owned()));
        self.ok();
        self.settled = true;
        self.flush().await
    }

    /// The stream, and what has arrived on it, for whoever goes on from here.
    pub fn into_stream(self) -> (Stream, BytesMut) {
        (self.stream.into_stream(), self.incoming)
    }

    async fn packet(&mut self) -> Result<packet::Packet, Gone> {
        loop {
            match packet::take(&mut self.incoming, self.bounds.message) {
                Ok(Some(packet)) => {
                    self.sequence = packet.last.wrapping_add(1);
                    return Ok(packet);
                }
                Ok(None) => {}
                Err(error) => {
                    let failure = Failure::new(Kind::Protocol, error.to_string())
                        .number(1153)
                        .code("08S01")
                        .hint("raise `[limits] max_message_bytes`");
                    self.close(&failure).await;
                    return Err(Gone);
                }
            }
            match self.stream.read_more(&mut self.incoming).await {
                Ok(0) | Err(_) => return Err(Gone),
                Ok(_) => {}
            }
        }
    }

    fn put(&mut self, mark: Mark, body: impl FnOnce(&mut BytesMut)) {
        let at = self.outgoing.len();
        packet::write(&mut self.outgoing, Mark::Middle.byte(), body);
        if let Some(byte) = self.outgoing.get_mut(at + 3) {
            *byte = mark.byte();
        }
    }

    fn ok(&mut self) {
        let mut changes = BytesMut::new();
        if let Some(change) = self.change.take() {
            change.encode(&mut changes);
        }
        let changed = if changes.is_empty() { 0 } else { response::status::SESSION_CHANGED };
        let ok = response::Ok { status: changed, changes: &changes, ..response::Ok::default() };
        self.put(Mark::Result, |buf| ok.encode(buf));
    }

    fn eof(&mut self, mark: Mark) {
        self.put(mark, |buf| response::eof(buf, 0, 0));
    }

    /// A prepared statement is known with its parameters once a server has answered.
    fn note_prepared(&mut self) {
        let Some(number) = self.preparing.take() else { return };
        let answer = packet::first_part(&self.outgoing);
        if let (Some(own), Ok(ok)) = (self.own.get_mut(&number), PrepareOk::decode(answer)) {
            own.parameters = ok.parameters;
        }
    }

    /// What was under way has failed: a statement that was to be prepared is not there.
    fn forget_preparing(&mut self) {
        if let Some(number) = self.preparing.take() {
            self.own.remove(&number);
        }
    }
}

impl Sink for MyClient {
    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        self.note_prepared();
        let end = self.dress();
        if end == 0 {
            return Ok(());
        }
        self.flushes += 1;
        let kept = self.outgoing.split_off(end);
        let Self { stream, outgoing, incoming, .. } = self;
        let sent = stream.write_while_reading(outgoing, incoming).await;
        self.outgoing.unsplit(kept);
        sent.map_err(|_| Gone)
    }

    fn limit(&self) -> usize {
        self.bounds.reply
    }

    fn flushes(&self) -> u64 {
        self.flushes
    }

    fn report(&mut self, name: &str, value: &str) {
        if name == AUTOCOMMIT {
            self.autocommit = value == "on";
            let told = if self.autocommit { "ON" } else { "OFF" };
            self.change = Some(response::Change::Variable(name.to_owned(), told.to_owned()));
        }
    }

    fn remark(&mut self, remarks: TextRows) {
        self.messages = remarks;
    }
}

impl Client for MyClient {
    type Work = MyWork;

    async fn next(&mut self) -> Result<Batch<MyWork>, Gone> {
        if self.sends_file {
            self.skip_bulk().await?;
        }
        loop {
            let packet = self.packet().await?;
            self.settled = false;
            self.past.begin();
            if let Some(kept) = &mut self.kept {
                kept.begin(&packet.payload);
            }
            match self.command(&packet.payload)? {
                Some(item) => {
                    return Ok(Batch { items: smallvec![item], end: End::Ready, failure: None });
                }
                None => {
                    self.settled = true;
                    self.flush().await?;
                }
            }
        }
    }

    fn answer(&mut self, work: &MyWork, _tag: &str) {
        match work {
            MyWork::Prepare { number, .. } => self.prepared(*number, &[]),
            MyWork::Reset => {
                // A server says nothing of what it has set back.
                self.change = None;
                self.reading = None;
                self.past = Past::default();
                self.ok();
            }
            _ => self.ok(),
        }
    }

    fn rows(&mut self, work: &MyWork, table: &Table<'_>) {
        if let MyWork::Prepare { number, .. } = work {
            return self.prepared(*number, table.columns);
        }
        self.table(table, matches!(work, MyWork::Execute { .. }));
    }

    fn fail(&mut self, failure: &Failure) {
        let (number, state) = failure.mysql();
        let message = text_of(failure);
        let error = response::Err { number, state: state.as_bytes(), message: message.as_bytes() };
        self.messages = vec![as_message(number, &message)];
        self.past.failed();
        self.put(Mark::Middle, |buf| error.encode(buf));
        self.forget_preparing();
    }

    fn relay_error(&mut self, error: &ServerError) {
        if let Ok(error) = response::Err::decode(&error.wire) {
            let message = as_message(error.number, &String::from_utf8_lossy(error.message));
            // What the server said of it besides is there already.
            if !self.messages.iter().any(|known| known[..2] == message[..2]) {
                self.messages = vec![message];
            }
        }
        self.past.failed();
        self.put(Mark::Middle, |buf| buf.put_slice(&error.wire));
        self.forget_preparing();
    }

    fn ready(&mut self, state: TxState) {
        self.state = state;
        self.settled = true;
    }

    fn warn(&mut self, _code: &str, message: &str) {
        // There is no packet that brings a warning: SHOW WARNINGS asks for it.
        let warning = ["Warning", OUR_WARNING, message];
        self.messages = vec![warning.map(|text| Some(text.to_owned())).to_vec()];
    }

    fn refuses_bulk(&self) -> Option<Failure> {
        (self.capabilities & cap::LOCAL_FILES == 0).then(|| {
            let what = "the client does not send files: LOAD DATA LOCAL is switched off there";
            Failure::new(Kind::Refused, what)
                .number(4166)
                .hint("connect with local_infile (allow-local-infile, allowLoadLocalInfile)")
        })
    }

    async fn next_bulk(&mut self) -> Result<BulkPiece, Gone> {
        // Whatever becomes of the load, the client sends its file to the end.
        self.sends_file = true;
        let packet = self.packet().await?;
        self.sends_file = !packet.payload.is_empty();
        Ok(if packet.payload.is_empty() {
            BulkPiece::Done
        } else {
            BulkPiece::Data(packet.payload)
        })
    }

    fn owes_bulk(&self) -> bool {
        self.sends_file
    }

    async fn skip_bulk(&mut self) -> Result<(), Gone> {
        while !matches!(self.next_bulk().await?, BulkPiece::Done) {}
        Ok(())
    }

    fn recall(&self, what: Recall) -> Option<i64> {
        match what {
            Recall::Changed => Some(self.past.changed()),
            Recall::Shown => self.past.shown(),
            Recall::Number => Some(self.number.into()),
        }
    }

    fn forget_prepared(&mut self, name: Option<&str>) -> bool {
        // Statements of SQL have names, those of the protocol have numbers: only all can be meant.
        if name.is_none() {
            self.own.clear();
            self.long = 0;
            self.kept.iter_mut().for_each(luggage::Kept::forget);
        }
        false
    }

    fn hang_up_on(&mut self, hangup: CancellationToken) {
        self.stream.hang_up_on(hangup);
    }

    fn keep_requests(&mut self) {
        self.kept = Some(luggage::Kept::default());
    }

    fn take_back(&mut self) {
        self.unread();
    }

    fn is_at_rest(&self) -> bool {
        self.is_at_rest()
    }

    async fn close(&mut self, failure: &Failure) {
        self.fail(failure);
        self.settled = true;
        // The client may have left already: then nobody misses the farewell.
        let _ = self.flush().await;
    }
}

/// An error as SHOW WARNINGS shows it.
fn as_message(number: u16, text: &str) -> Vec<Option<String>> {
    ["Error".to_owned(), number.to_string(), text.to_owned()].map(Some).to_vec()
}

/// What, why, and what to do, in the one text that an error has here.
fn text_of(failure: &Failure) -> String {
    let mut text = failure.message.clone();
    if let Some(detail) = &failure.detail {
        text.push_str(": ");
        text.push_str(detail);
    }
    if let Some(hint) = &failure.hint {
        text.push_str("; ");
        text.push_str(hint);
    }
    let end = (0..=MESSAGE_LIMIT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}
