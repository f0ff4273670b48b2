//! One connection to a PostgreSQL server.
//!
//! Everything is queued first and flushed together, so that a transaction's settings, its BEGIN and
//! its first statement travel in one packet. Answers are matched to requests by order: each request
//! ends with a ReadyForQuery. Statements of the extended protocol that are queued one after the other
//! share one request: the server then answers all of them in one piece, and after an error in one it
//! passes over the rest.

use std::collections::VecDeque;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use foldhash::HashSet;
use lockstep_protocol::pg::{client, frame, server};
use siphasher::sip::SipHasher13;
use tokio_util::sync::CancellationToken;

use super::super::line;
use super::cancel::Canceller;
use super::own::Own;
use super::request::{ParseFate, Part, Request};
use super::row::read_error;
use super::rules;
use super::written::{SETTING, written};
use crate::config::Live;
use crate::encoding::Encoding;
use crate::ending::Ending;
use crate::exchange::{Broken, Mishap, Settings, TxState};
use crate::net::Stream;
use crate::wire::pg::{Prepared, Reference, Statements, Step};

/// What all connections to one backend have in common.
#[derive(Debug)]
pub struct Shared {
    /// The statements known to this process.
    pub statements: Arc<Statements>,
    /// The proxy's secret for the functions in schema `lockstep`.
    pub token: String,
    /// The limits in force.
    pub live: Arc<Live>,
}

/// One connection to a PostgreSQL server.
#[derive(Debug)]
pub struct PgLink {
    pub(super) stream: Stream,
    pub(super) incoming: BytesMut,
    pub(super) outgoing: BytesMut,
    pub(super) shared: Arc<Shared>,
    pub(super) canceller: Canceller,
    pub(super) parameters: std::collections::BTreeMap<String, String>,
    /// In which encoding the server reads what is queued next, and in which one it did at first.
    pub(super) encoding: Encoding,
    pub(super) own_encoding: Encoding,
    pub(super) gone: Ending,
    pub(super) settings: Settings,
    pub(super) tx: u8,
    /// Not to be used by anybody else.
    pub(super) spent: bool,
    /// Used for balanced reads only.
    pub(super) reader: bool,
    /// The server limits how long a statement may take, unless the session says otherwise.
    pub(super) hurried: bool,
    /// The server's session is a follower's: triggers and foreign keys do not fire.
    pub(super) follows: bool,
    /// What the capture triggers sign their reports on this connection with.
    pub(super) mark: String,
    /// Hashes the rows of the answer being handed on.
    pub(super) digest: SipHasher13,
    pub(super) wants_digest: bool,
    /// The bulk load under way was opened by an extended query.
    pub(super) bulk_by_steps: bool,
    /// The session's settings, how long a share may wait for locks, and both together.
    pub(super) share: Option<(Settings, Duration, Settings)>,
    /// Requests whose answers are outstanding, and how many of them have been sent.
    pub(super) expected: VecDeque<Request>,
    sent: usize,
    /// The request that is being put together.
    pub(super) open: Request,
    /// One that has been answered, whose room is used again.
    spare: Request,
    first_error: Option<Mishap>,
    /// Statements the server knows, and those whose Parse is under way.
    prepared: HashSet<u64>,
    unnamed: Option<u64>,
}

/// A statement that does not exist: to close it does nothing, and is answered in its turn.
const NOTHING: &str = "ls_nothing";
/// The number of a statement that is not kept.
const UNNAMED: u64 = 0;

impl PgLink {
    pub(super) fn new(
        stream: Stream,
        incoming: BytesMut,
        shared: Arc<Shared>,
        canceller: Canceller,
        parameters: std::collections::BTreeMap<String, String>,
        gone: CancellationToken,
    ) -> Self {
        let encoding = Encoding::named(parameters.get(SETTING).map_or("", String::as_str));
        Self {
            encoding,
            own_encoding: encoding,
            stream,
            incoming,
            outgoing: BytesMut::with_capacity(4096),
            shared,
            canceller,
            parameters,
            gone: Ending::of(gone),
            settings: Settings::default(),
            tx: b'I',
            spent: false,
            reader: false,
            hurried: false,
            follows: false,
            mark: String::new(),
            digest: SipHasher13::new(),
            wants_digest: false,
            bulk_by_steps: false,
            share: None,
            expected: VecDeque::new(),
            sent: 0,
            open: Request::default(),
            spare: Request::default(),
            first_error: None,
            prepared: HashSet::default(),
            unnamed: None,
        }
    }

    /// The server's parameters as it last reported them.
    pub fn parameters(&self) -> &std::collections::BTreeMap<String, String> {
        &self.parameters
    }

    /// Ends the request that is being put together, if there is one.
    pub(super) fn close_request(&mut self) {
        if !self.open.parts.is_empty() || !self.open.fates.is_empty() {
            if self.open.begins {
                self.canceller.aim.opens();
            }
            client::sync(&mut self.outgoing);
            let next = std::mem::take(&mut self.spare);
            self.expected.push_back(std::mem::replace(&mut self.open, next));
        }
    }

    /// Notes that a simple query has been queued: always a request of its own.
    pub(super) fn simple_query_queued(&mut self, what: &'static str, rows: Option<u64>) {
        // A simple query ends the life of the unnamed statement.
        self.unnamed = None;
        let parts = VecDeque::from([Part { rows, digest: None, what }]);
        self.expected.push_back(Request { parts, ..Request::default() });
    }

    pub(super) fn expected_is_empty(&self) -> bool {
        self.outstanding_requests() == 0
    }

    pub(super) fn outstanding_requests(&self) -> usize {
        self.expected.len() + usize::from(!self.open.parts.is_empty())
    }

    /// Queues a simple query.
    pub(super) fn queue_query(&mut self, sql: &str, what: &'static str, rows: Option<u64>) {
        self.close_request();
        client::query(&mut self.outgoing, written(self.encoding, sql));
        self.foresee(sql);
        self.simple_query_queued(what, rows);
    }

    /// Queues one of the proxy's own statements, prepared at its first use on this connection.
    pub(super) fn queue_own(&mut self, own: &Own, bind_rest: &[u8]) {
        if self.prepared.insert(own.id) {
            client::parse(&mut self.outgoing, own.name, own.sql, own.types);
            self.open.fates.push_back((ParseFate::Swallow, own.id));
        }
        self.queue_execution(own.name, bind_rest, own.name, None);
    }

    /// Queues a statement of the proxy's that is not worth keeping prepared, as a request of its own.
    pub(super) fn queue_unnamed(&mut self, sql: &str, bind_rest: &[u8]) {
        self.close_request();
        self.unnamed = None;
        client::parse(&mut self.outgoing, "", written(self.encoding, sql), &[]);
        self.open.fates.push_back((ParseFate::Swallow, UNNAMED));
        self.queue_execution("", bind_rest, "question", None);
        self.close_request();
    }

    /// Queues a statement with the application's own Bind, for a follower.
    pub(super) fn queue_bound(&mut self, prepared: &Prepared, bind: &[u8], rows: Option<u64>) {
        let name = self.ensure_prepared(prepared);
        self.queue_execution(name, bind, "effect", rows);
    }

    fn queue_execution(&mut self, name: &str, bind: &[u8], what: &'static str, rows: Option<u64>) {
        client::bind(&mut self.outgoing, "", name, bind);
        client::execute(&mut self.outgoing, "", 0);
        self.open.parts.push_back(Part { rows, digest: None, what });
    }

    fn ensure_prepared<'p>(&mut self, prepared: &'p Prepared) -> &'p str {
        if self.prepared.insert(prepared.id) {
            let text = written(self.encoding, &prepared.text.sql);
            client::parse(&mut self.outgoing, &prepared.name, text, &prepared.types);
            self.open.fates.push_back((ParseFate::Swallow, prepared.id));
        }
        &prepared.name
    }

    /// Forgets what the server has prepared: after DISCARD ALL, or when it is too much.
    pub(super) fn forget_prepared(&mut self) {
        self.prepared.clear();
        self.unnamed = None;
    }

    /// Keeps the number of prepared statements on the server within its limit.
    pub(super) fn trim_prepared(&mut self) {
        if self.prepared.len() > self.shared.live.prepared_statements() && self.tx == b'I' {
            self.queue_query("DEALLOCATE ALL", "deallocate", None);
            self.forget_prepared();
        }
    }

    /// Queues the steps of an extended query, with our names for the statements. How many statements
    /// of ours, whose answers are nobody's business, share its request.
    pub(super) fn queue_steps(&mut self, steps: &[Step]) -> usize {
        let before = self.put_steps(steps);
        self.close_request();
        before
    }

    /// The same as a part of a request that goes on: how many statements come before it there.
    pub(super) fn put_steps(&mut self, steps: &[Step]) -> usize {
        let before = self.open.parts.len();
        // What strikes its BEGIN strikes them as well.
        self.open.begins = false;
        for step in steps {
            match step {
                Step::Parse(reference) => self.queue_parse(reference),
                Step::Bind { portal, statement, rest } => {
                    let name = self.statement_name(statement);
                    client::bind(&mut self.outgoing, portal, name, rest);
                }
                Step::DescribeStatement(statement) => {
                    let name = self.statement_name(statement);
                    client::describe(&mut self.outgoing, b'S', name);
                }
                Step::DescribePortal(portal) => {
                    client::describe(&mut self.outgoing, b'P', portal);
                }
                Step::Execute { portal, max_rows } => {
                    client::execute(&mut self.outgoing, portal, *max_rows);
                }
                Step::CloseStatement => {
                    // The name is the application's; the server keeps the statement.
                    client::close(&mut self.outgoing, b'S', NOTHING);
                    self.open.fates.push_back((ParseFate::Close, UNNAMED));
                }
                Step::ClosePortal(portal) => {
                    client::close(&mut self.outgoing, b'P', portal);
                    self.open.fates.push_back((ParseFate::Close, UNNAMED));
                }
            }
        }
        self.open.parts.push_back(Part { rows: None, digest: None, what: "statement" });
        before
    }

    fn queue_parse(&mut self, reference: &Reference) {
        let prepared = &reference.prepared;
        if reference.named {
            if !self.prepared.insert(prepared.id) {
                client::close(&mut self.outgoing, b'S', NOTHING);
                self.open.fates.push_back((ParseFate::Invent, UNNAMED));
                return;
            }
            let text = written(self.encoding, &prepared.text.sql);
            client::parse(&mut self.outgoing, &prepared.name, text, &prepared.types);
            self.open.fates.push_back((ParseFate::HandOn, prepared.id));
        } else {
            let text = written(self.encoding, &prepared.text.sql);
            client::parse(&mut self.outgoing, "", text, &prepared.types);
            self.unnamed = Some(prepared.id);
            self.open.fates.push_back((ParseFate::HandOn, UNNAMED));
        }
    }

    fn statement_name<'r>(&mut self, reference: &'r Reference) -> &'r str {
        if reference.named {
            return self.ensure_prepared(&reference.prepared);
        }
        if self.unnamed != Some(reference.prepared.id) {
            let prepared = &reference.prepared;
            let text = written(self.encoding, &prepared.text.sql);
            client::parse(&mut self.outgoing, "", text, &prepared.types);
            self.unnamed = Some(prepared.id);
            self.open.fates.push_back((ParseFate::Swallow, UNNAMED));
        }
        ""
    }

    /// Sends what is queued.
    pub(super) async fn send(&mut self) -> Result<(), Broken> {
        self.close_request();
        if self.outgoing.is_empty() {
            return Ok(());
        }
        if self.sent == 0 {
            self.expect_nothing()?;
        }
        self.sent = self.expected.len();
        let Self { stream, outgoing, incoming, gone, .. } = self;
        line::send(stream, outgoing, incoming, gone).await
    }

    /// Waits for more bytes of the server.
    pub(super) async fn receive(&mut self) -> Result<(), Broken> {
        let Self { stream, incoming, gone, .. } = self;
        line::receive(stream, incoming, gone).await
    }

    /// Waits until all requests but the newest `keep` are answered; their answers go nowhere.
    pub(super) async fn settle(&mut self, keep: usize) -> Result<(), Broken> {
        while self.expected.len() > keep {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Waits until a transaction is open, or nothing more is to be answered, or nothing but all of a share at once.
    pub(super) async fn settle_until_open(&mut self) -> Result<(), Broken> {
        while self.tx == b'I' && !self.expected.is_empty() {
            if self.expected.len() == 1 && self.expected[0].whole {
                break;
            }
            self.settle_one().await?;
        }
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), Broken> {
        loop {
            while let Some(header) = self.peek()? {
                let done = self.take_own(header)?;
                self.incoming.advance(header.total);
                if done {
                    return Ok(());
                }
            }
            self.receive().await?;
        }
    }

    pub(super) fn peek(&self) -> Result<Option<frame::Header>, Broken> {
        frame::peek(&self.incoming, self.shared.live.max_message()).map_err(rules::broken)?.map_or(
            Ok(None),
            |header| {
                rules::may_come(header)?;
                Ok((header.total <= self.incoming.len()).then_some(header))
            },
        )
    }

    /// Waits until the newest request has answered all but its last `keep` statements, which are
    /// the application's; the answers before go nowhere. False when it has ended before.
    pub(super) async fn settle_parts(&mut self, keep: usize) -> Result<bool, Broken> {
        while self.expected.front().is_some_and(|request| request.parts.len() > keep) {
            match self.peek()? {
                None => self.receive().await?,
                Some(header) => {
                    let ended = self.take_own(header)?;
                    self.incoming.advance(header.total);
                    if ended {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    fn front_part(&self) -> Option<&Part> {
        self.expected.front()?.parts.front()
    }

    /// The rows that the newest statement gives back must have this hash.
    pub(super) fn expect_digest(&mut self, digest: u64) {
        let open = self.open.parts.back_mut();
        let part = open.or_else(|| self.expected.back_mut()?.parts.back_mut());
        if let Some(part) = part {
            part.digest = Some(digest);
        }
    }

    /// Looks at a message nobody but us is interested in. True at the end of a request.
    fn take_own(&mut self, header: frame::Header) -> Result<bool, Broken> {
        let body = &self.incoming[5..header.total];
        match header.tag {
            b'Z' => {
                self.tx = body.first().copied().unwrap_or(b'I');
                self.end_request();
                return Ok(true);
            }
            b'E' => {
                let error = read_error(&self.incoming[..header.total]);
                if error.fatal {
                    return Err(Broken::Lost(error.to_string()));
                }
                self.digest = SipHasher13::new();
                let what = self.front_part().map_or("request", |part| part.what);
                // A setting that did not get through (it was what ran when the share was cancelled) is not
                // what the next one would find.
                self.spent |= what == "settings";
                if self.first_error.is_none() {
                    let what = format!("{what}: {error}");
                    self.first_error = Some(Mishap { code: error.code, what });
                }
            }
            b'D' if self.front_part().is_some_and(|part| part.digest.is_some()) => {
                self.digest.write(body);
            }
            b'C' => {
                let rows = server::completed_rows(body);
                let part = self.expected.front_mut().and_then(|request| request.parts.pop_front());
                let difference = part.and_then(|part| part.difference(rows, &mut self.digest));
                if let Some(what) = difference.filter(|_| self.first_error.is_none()) {
                    self.first_error = Some(Mishap { code: String::new(), what });
                }
            }
            b'1' => {
                self.parse_done();
            }
            b'S' => self.note_parameter(header.total),
            _ => {}
        }
        Ok(false)
    }

    pub(super) fn end_request(&mut self) {
        let Some(mut ended) = self.expected.pop_front() else {
            return;
        };
        if std::mem::take(&mut ended.begins) {
            self.canceller.aim.opened();
        }
        self.sent = self.sent.saturating_sub(1);
        // What is left was skipped after an error: the server does not know these statements.
        for (fate, id) in ended.fates.drain(..) {
            if matches!(fate, ParseFate::HandOn | ParseFate::Swallow) {
                self.prepared.remove(&id);
                if id == UNNAMED {
                    self.unnamed = None;
                }
            }
        }
        ended.parts.clear();
        ended.whole = false;
        self.spare = ended;
    }

    /// A Parse has succeeded: the fate of its answer.
    pub(super) fn parse_done(&mut self) -> Option<ParseFate> {
        self.expected.front_mut()?.fates.pop_front().map(|(fate, _)| fate)
    }

    pub(super) fn note_parameter(&mut self, total: usize) {
        if let Ok((name, value)) = server::parameter_status_of(&self.incoming[5..total])
            // A reader's own limit is none of the application's settings.
            && !(self.reader && name == "default_transaction_read_only")
        {
            self.parameters.insert(name.to_owned(), value.to_owned());
        }
        self.note_encoding();
    }

    /// The first error among the answers since the last call.
    pub(super) fn take_error(&mut self) -> Option<Mishap> {
        self.first_error.take()
    }

    pub(super) fn state(&self) -> TxState {
        match self.tx {
            b'I' => TxState::Idle,
            b'T' => TxState::Open,
            _ => TxState::Failed,
        }
    }
}
