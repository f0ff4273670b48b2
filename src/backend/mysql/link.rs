//! One connection to a MySQL or MariaDB server.
//!
//! Everything is queued first and sent together, so that a transaction's settings, its BEGIN and its
//! first statement travel in one packet of the network: a server reads commands from its socket one
//! after the other and answers each in turn. Answers are matched to requests by order.
//!
//! A statement that this connection has not prepared yet is the exception: its number comes with the
//! answer to the prepare, so that sending waits for it, once for each statement and connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lockstep_protocol::mysql::answer::{Answer, Asked, Event};
use lockstep_protocol::mysql::response::{self, status};
use lockstep_protocol::mysql::stmt::{self, PrepareOk};
use lockstep_protocol::mysql::{command, packet};
use tokio_util::sync::CancellationToken;

use super::super::line;
use super::cancel::{BEGIN, Canceller};
use super::errors::{TOO_LONG, number_of, read_error, tells_of_a_full_disk};
use crate::config::Live;
use crate::ending::Ending;
use crate::exchange::{Broken, DISK_FULL, Mishap, Settings, TxState};
use crate::net::Stream;
use crate::wire::mysql::{Prepared, Statements};

/// A change that a follower repeats, for error messages.
pub(super) const EFFECT: &str = "effect";

/// SQLSTATE of a deadlock.
const DEADLOCK: &str = "40001";

/// What all connections to one backend have in common.
#[derive(Debug)]
pub struct Shared {
    /// The statements known to this process.
    pub statements: Arc<Statements>,
    /// The statement that writes the journal's record.
    pub record: Arc<Prepared>,
    /// The proxy's secret for the routines of database `lockstep`.
    pub token: String,
    /// Whether a connection asks first whether the server obeys this proxy.
    pub guarded: bool,
    /// The version of the servers, as the newest connection has learnt it.
    pub version: Arc<Mutex<String>>,
    /// The limits in force.
    pub live: Arc<Live>,
}

impl Shared {
    pub(super) fn note_version(&self, version: &str) {
        let mut known = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != version {
            version.clone_into(&mut known);
        }
    }
}

/// Something a server is asked.
#[derive(Debug)]
pub(super) enum Request {
    /// A text.
    Text(Bytes),
    /// To prepare a statement, for its own sake.
    Prepare(Arc<Prepared>),
    /// A prepared statement with its parameters.
    Execute(Arc<Prepared>, Bytes),
    /// A whole command.
    Command(Bytes, Asked),
    /// A text that asks for a file, and the file; without one, somebody else sends it.
    Load(Bytes, Option<Bytes>),
}

/// A request that waits to be sent.
#[derive(Debug)]
struct Queued {
    request: Request,
    what: &'static str,
    rows: Option<u64>,
}

/// One request whose answer is outstanding.
#[derive(Debug)]
struct Expected {
    /// Rows that the leader had, for an effect.
    rows: Option<u64>,
    /// For error messages.
    what: &'static str,
    /// What comes next.
    answer: Answer,
    /// The statement that the server gives a number.
    learns: Option<u64>,
    /// Rows of the answer that went nowhere.
    seen: u64,
    /// The server may ask for a file.
    file: bool,
}

/// One connection to a MySQL or MariaDB server.
#[derive(Debug)]
pub struct MyLink {
    pub(super) stream: Stream,
    pub(super) incoming: BytesMut,
    pub(super) outgoing: BytesMut,
    pub(super) shared: Arc<Shared>,
    pub(super) canceller: Canceller,
    gone: Ending,
    pub(super) settings: Settings,
    /// What the server reports of its session: nothing that a client would have to be told.
    pub(super) parameters: std::collections::BTreeMap<String, String>,
    pub(super) in_transaction: bool,
    /// `autocommit` is off: see [`MyLink::hold_back`].
    pub(super) holds_back: bool,
    /// What is sent belongs to a share. Otherwise `autocommit` is given back before anything else is sent.
    pub(super) sharing: bool,
    /// Used for balanced reads only.
    pub(super) reader: bool,
    /// The server limits how long a statement may take, unless the session says otherwise.
    pub(super) hurried: bool,
    /// That limit, or the session's, has been lifted.
    pub(super) unhurried: bool,
    /// Clock and next number are fixed for the statement that a follower repeats.
    pub(super) fixed: bool,
    /// What was fixed for a bulk load that is under way.
    pub(super) loading: Option<super::load::Loading>,
    /// Nobody waits for the answers to what was sent.
    unattended: bool,
    /// Nobody else may have the session afterwards.
    pub(super) spent: bool,
    queue: VecDeque<Queued>,
    expected: VecDeque<Expected>,
    first_error: Option<Mishap>,
    /// The server's numbers of the statements it has prepared.
    pub(super) known: HashMap<u64, u32>,
}

impl MyLink {
    pub(super) fn new(
        stream: Stream,
        incoming: BytesMut,
        shared: Arc<Shared>,
        canceller: Canceller,
        gone: CancellationToken,
    ) -> Self {
        Self {
            stream,
            incoming,
            outgoing: BytesMut::with_capacity(4096),
            shared,
            canceller,
            gone: Ending::of(gone),
            settings: Settings::default(),
            parameters: std::collections::BTreeMap::new(),
            in_transaction: false,
            holds_back: false,
            sharing: false,
            reader: false,
            hurried: false,
            unhurried: false,
            fixed: false,
            loading: None,
            unattended: false,
            spent: false,
            queue: VecDeque::new(),
            expected: VecDeque::new(),
            first_error: None,
            known: HashMap::new(),
        }
    }

    pub(super) fn push(&mut self, request: Request, what: &'static str, rows: Option<u64>) {
        if self.holds_back && !self.sharing {
            self.holds_back = false;
            self.push_text("SET autocommit=1", "settings");
        }
        self.queue.push_back(Queued { request, what, rows });
    }

    pub(super) fn push_text(&mut self, sql: &str, what: &'static str) {
        self.push(Request::Text(Bytes::copy_from_slice(sql.as_bytes())), what, None);
    }

    /// Whether what opens a transaction is queued, or not answered yet.
    pub(super) fn begins(&self) -> bool {
        self.queue.iter().any(|queued| queued.what == BEGIN)
            || self.expected.iter().any(|expected| expected.what == BEGIN)
    }

    pub(super) fn outstanding_requests(&self) -> usize {
        self.queue.len() + self.expected.len()
    }

    /// Takes back the effects that have not been sent; settings count as set already. Whether anything has been sent and
    /// not been answered.
    pub(super) fn withdraw_effects(&mut self) -> bool {
        self.queue.retain(|queued| queued.what != EFFECT);
        !self.expected.is_empty()
    }

    /// Sends what is queued. Waits where a statement has to be prepared first.
    pub(super) async fn send(&mut self) -> Result<(), Broken> {
        while let Some(queued) = self.queue.pop_front() {
            let Queued { request, what, rows } = queued;
            match request {
                Request::Text(text) => {
                    packet::write(&mut self.outgoing, 0, |buf| {
                        buf.put_u8(command::QUERY);
                        buf.put_slice(&text);
                    });
                    self.expect(what, rows, Asked::Results, None);
                }
                Request::Prepare(prepared) => self.prepare(&prepared, what),
                Request::Execute(prepared, parameters) => {
                    if !self.is_prepared(&prepared) {
                        self.prepare(&prepared, what);
                        self.write().await?;
                        self.settle(0).await?;
                    }
                    // Where that failed, the error is noted, and there is nothing to run.
                    if let Some(&number) = self.known.get(&prepared.id) {
                        packet::write(&mut self.outgoing, 0, |buf| {
                            stmt::execute(buf, number, 0, &parameters);
                        });
                        self.expect(what, rows, Asked::Results, None);
                    }
                }
                Request::Command(payload, asked) => {
                    packet::put(&mut self.outgoing, 0, &payload);
                    self.expect(what, rows, asked, None);
                }
                Request::Load(text, file) => self.load(text, file, what, rows).await?,
            }
        }
        self.write().await
    }

    /// Sends a text that asks for a file, and the file once the server wants it.
    async fn load(
        &mut self,
        text: Bytes,
        file: Option<Bytes>,
        what: &'static str,
        rows: Option<u64>,
    ) -> Result<(), Broken> {
        packet::write(&mut self.outgoing, 0, |buf| {
            buf.put_u8(command::QUERY);
            buf.put_slice(&text);
        });
        self.expect(what, rows, Asked::Results, None);
        if let Some(expected) = self.expected.back_mut() {
            expected.file = true;
        }
        let Some(file) = file else { return Ok(()) };
        self.write().await?;
        self.settle(1).await?;
        loop {
            let Some(seen) = self.next()? else {
                self.receive().await?;
                continue;
            };
            let wanted = seen.event == Event::Infile;
            self.judge_own(&seen);
            self.pass(&seen);
            if wanted {
                let sequence = seen.header.sequence.wrapping_add(1);
                let sequence = self.send_file(sequence, &file).await?;
                self.send_file(sequence, &[]).await?;
            }
            if wanted || seen.last {
                return Ok(());
            }
        }
    }

    pub(super) fn expect(
        &mut self,
        what: &'static str,
        rows: Option<u64>,
        asked: Asked,
        learns: Option<u64>,
    ) {
        if what == BEGIN {
            self.canceller.aim.opens();
        }
        self.expected.push_back(Expected {
            rows,
            what,
            answer: Answer::to(asked),
            learns,
            seen: 0,
            file: false,
        });
    }

    pub(super) async fn write(&mut self) -> Result<(), Broken> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let Self { stream, outgoing, incoming, gone, .. } = self;
        line::send(stream, outgoing, incoming, gone).await
    }

    /// Sends what is queued, and leaves the answers to whoever asks for them later.
    pub(super) async fn send_off(&mut self) -> Result<(), Broken> {
        if self.sharing && !std::mem::replace(&mut self.unattended, true) {
            self.stream.attend(false);
        }
        self.send().await
    }

    /// Waits for more bytes of the server.
    pub(super) async fn receive(&mut self) -> Result<(), Broken> {
        if std::mem::take(&mut self.unattended) {
            self.stream.attend(true);
        }
        let Self { stream, incoming, gone, .. } = self;
        line::receive(stream, incoming, gone).await
    }

    /// Waits until all requests but the newest `keep` are answered; their answers go nowhere.
    pub(super) async fn settle(&mut self, keep: usize) -> Result<(), Broken> {
        while self.expected.len() > keep {
            match self.next()? {
                Some(seen) => {
                    self.judge_own(&seen);
                    self.pass(&seen);
                }
                None => self.receive().await?,
            }
        }
        Ok(())
    }

    /// The packet that has arrived, and what it is in the answer that is being read.
    pub(super) fn next(&mut self) -> Result<Option<Seen>, Broken> {
        self.next_after(0)
    }

    /// The packet behind those `passed` bytes that are about to be handed on.
    pub(super) fn next_after(&mut self, passed: usize) -> Result<Option<Seen>, Broken> {
        let arrived = &self.incoming[passed..];
        let header = packet::peek(arrived, self.shared.live.max_message()).map_err(rules)?;
        let Some(header) = header.filter(|h| h.total <= arrived.len()) else {
            return Ok(None);
        };
        let payload = packet::first_part(arrived);
        let Some(expected) = self.expected.front_mut() else {
            return Err(unasked(payload));
        };
        let event = expected.answer.on(payload).map_err(rules)?;
        let last = match event {
            Event::Middle | Event::Row => false,
            Event::Prepared { last } => {
                if let (Some(id), Ok(ok)) = (expected.learns, PrepareOk::decode(payload)) {
                    self.known.insert(id, ok.statement);
                }
                last
            }
            Event::Result { more, .. } => {
                self.in_transaction = status_of(payload) & status::IN_TRANSACTION != 0;
                !more
            }
            Event::Done => true,
            Event::Error => {
                let error = read_error(payload);
                if error.fatal {
                    return Err(Broken::Lost(error.to_string()));
                }
                // After a deadlock the transaction is gone as a whole; else what is asked next knows.
                self.in_transaction &= error.code != DEADLOCK;
                if number_of(payload) == TOO_LONG {
                    (self.in_transaction, self.spent) = (false, true);
                }
                true
            }
            Event::Infile if expected.file => false,
            Event::Infile => return Err(rules("it asks for a file that nobody has offered")),
        };
        Ok(Some(Seen { header, event, last }))
    }

    /// The next packet, taken out, with all its parts.
    pub(super) fn next_whole(&mut self) -> Result<Option<(Seen, Bytes)>, Broken> {
        let Some(seen) = self.next()? else {
            return Ok(None);
        };
        match packet::take(&mut self.incoming, self.shared.live.max_message()) {
            Ok(Some(packet)) => Ok(Some((seen, packet.payload))),
            _ => Err(Broken::Rules("a packet that is not there".into())),
        }
    }

    /// Leaves a packet behind.
    pub(super) fn pass(&mut self, seen: &Seen) {
        self.incoming.advance(seen.header.total);
        if seen.last {
            self.end_request();
        }
    }

    /// The answer has been read to its end.
    pub(super) fn end_request(&mut self) {
        let ended = self.expected.pop_front();
        if ended.is_some_and(|ended| ended.what == BEGIN) && !self.begins() {
            self.canceller.aim.opened();
        }
    }

    /// Looks at a packet nobody but us is interested in.
    fn judge_own(&mut self, seen: &Seen) {
        let payload = packet::first_part(&self.incoming);
        let Some(expected) = self.expected.front_mut() else { return };
        expected.seen += u64::from(seen.event == Event::Row);
        let mishap = match seen.event {
            Event::Error => {
                let error = read_error(payload);
                // A setting that did not get through (it was what ran when the share was cancelled) is not what
                // the next one would find.
                self.spent |= ["settings", "context"].contains(&expected.what);
                let what = format!("{}: {error}", expected.what);
                let code =
                    if tells_of_a_full_disk(payload) { DISK_FULL.into() } else { error.code };
                Some(Mishap { code, what })
            }
            Event::Result { more: false, .. } => {
                let got = told(payload).map_or(expected.seen, |(affected, _)| affected);
                expected.rows.filter(|wanted| got != *wanted).map(|wanted| {
                    let what = format!("{wanted} rows on the leader, {got} on the follower");
                    Mishap { code: String::new(), what }
                })
            }
            _ => None,
        };
        if self.first_error.is_none() {
            self.first_error = mishap;
        }
    }

    /// Notes that something could not even be asked.
    pub(super) fn fail(&mut self, what: &str) {
        let mishap = Mishap { code: String::new(), what: what.to_owned() };
        self.first_error.get_or_insert(mishap);
    }

    /// The first error among the answers since the last call.
    pub(super) fn take_error(&mut self) -> Option<Mishap> {
        self.first_error.take()
    }

    pub(super) fn state(&self) -> TxState {
        if self.in_transaction { TxState::Open } else { TxState::Idle }
    }
}

/// A packet of an answer, complete but not passed yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) header: packet::Header,
    pub(super) event: Event,
    /// The answer ends with it.
    pub(super) last: bool,
}

fn rules(why: impl std::fmt::Display) -> Broken {
    Broken::Rules(why.to_string())
}

/// A server says something unasked only when it says goodbye.
fn unasked(payload: &[u8]) -> Broken {
    if payload.first() == Some(&response::ERR) {
        Broken::Lost(read_error(payload).to_string())
    } else {
        rules("an answer to nothing")
    }
}

pub(super) fn status_of(payload: &[u8]) -> u16 {
    let at = response::status_at(payload);
    at.map_or(0, |at| u16::from_le_bytes([payload[at], payload[at + 1]]))
}

/// Rows changed or found, and the first number that AUTO_INCREMENT gave, where the packet says so:
/// an OK does, the end of rows does not.
pub(super) fn told(payload: &[u8]) -> Option<(u64, u64)> {
    if response::is_eof(payload) {
        return None;
    }
    response::counts(payload)
}
