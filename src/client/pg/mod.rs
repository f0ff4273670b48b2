//! The conversation with an application that speaks PostgreSQL.
//!
//! Simple and extended queries are folded into one kind of batch. Statement and portal names are the
//! application's own and stay here; what goes on is the shared statement behind the name.

mod arrival;
mod login;
mod luggage;
mod names;
mod texts;
mod wanted;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;
use lockstep_protocol::DecodeError;
use lockstep_protocol::pg::server::ErrorFields;
use lockstep_protocol::pg::{client, frame, server};
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

pub use arrival::{Arrival, bring, knock};
pub use login::{Door, Greeting, Knock, Known, Passage, Signpost, Whither, not_here};
pub use luggage::{CallBack, Luggage};
use names::Names;
use texts::fields;
pub use wanted::{Escort, forwarded_cancel};

use crate::encoding::Encoding;
use crate::error::{Failure, Kind};
use crate::exchange::{
    Batch, BulkPiece, Client, End, Gone, Item, ServerError, Sink, Table, TxState,
};
use crate::net::{Line, Stream};
use crate::wire::pg::{PgWork, Statements, Step};

/// Bounds on what one client may make us keep.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The largest message.
    pub message: usize,
    /// Prepared statements.
    pub prepared: usize,
    /// Bytes of an answer that wait before they are sent.
    pub reply: usize,
}

/// The conversation with an application that speaks PostgreSQL.
#[derive(Debug)]
pub struct PgClient {
    stream: Line,
    incoming: BytesMut,
    outgoing: BytesMut,
    statements: Arc<Statements>,
    bounds: Bounds,
    names: Names,
    steps: Vec<Step>,
    items: SmallVec<[Item<PgWork>; 1]>,
    /// After an error in an extended query: everything up to the next Sync is passed over.
    skipping: bool,
    /// The batch under way is an extended one.
    extended: bool,
    end: End,
    /// A bulk load took the Sync of its batch: another one comes, and gets the answer.
    sync_owed: bool,
    flushes: u64,
    /// What the client was told of its server's session.
    told: HashMap<String, String>,
    /// What it will be told at the end of the batch, if it is something new.
    reports: Vec<(String, String)>,
    /// In which encoding it writes.
    encoding: Encoding,
    /// A message that came while a bulk load was not open yet.
    pushed_back: Option<frame::Frame>,
    /// The messages of the batch, where it may have to be taken back, and whether it is whole.
    kept: Option<(Vec<Bytes>, bool)>,
}

impl PgClient {
    /// A client that has logged in.
    fn new(
        stream: Stream,
        incoming: BytesMut,
        statements: Arc<Statements>,
        bounds: Bounds,
    ) -> Self {
        Self {
            stream: Line::new(stream),
            incoming,
            outgoing: BytesMut::with_capacity(8192),
            statements,
            bounds,
            names: Names::default(),
            steps: Vec::new(),
            items: SmallVec::new(),
            skipping: false,
            extended: false,
            end: End::Ready,
            sync_owed: false,
            flushes: 0,
            told: HashMap::default(),
            reports: Vec::new(),
            encoding: Encoding::Utf8,
            pushed_back: None,
            kept: None,
        }
    }

    /// Tells the client that it is in: the server's parameters, and its key for cancel requests.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn welcome<'a>(
        &mut self,
        parameters: impl Iterator<Item = (&'a str, &'a str)> + Send,
        number: u32,
        secret: &[u8],
    ) -> Result<(), Gone> {
        server::auth_ok(&mut self.outgoing);
        for (name, value) in parameters {
            server::parameter_status(&mut self.outgoing, name, value);
            self.told.insert(name.to_owned(), value.to_owned());
        }
        self.note_encoding();
        server::backend_key_data(&mut self.outgoing, number, secret);
        server::ready_for_query(&mut self.outgoing, server::IDLE);
        self.flush().await
    }

    async fn frame(&mut self) -> Result<frame::Frame, Gone> {
        if let Some(frame) = self.pushed_back.take() {
            return Ok(frame);
        }
        loop {
            match frame::take(&mut self.incoming, self.bounds.message) {
                Ok(Some(frame)) => {
                    self.keep(&frame);
                    return Ok(frame);
                }
                Ok(None) => {}
                Err(DecodeError::TooLong { announced, max }) => {
                    self.close(&texts::too_long(announced, max)).await;
                    return Err(Gone);
                }
                Err(error) => return Err(self.broken(&error.to_string()).await),
            }
            match self.stream.read_more(&mut self.incoming).await {
                Ok(0) | Err(_) => return Err(Gone),
                Ok(_) => {}
            }
        }
    }

    fn end_steps(&mut self) {
        if !self.steps.is_empty() {
            let steps = std::mem::take(&mut self.steps);
            self.items.push(Item { text: None, work: PgWork::Steps(steps) });
        }
    }

    fn take_batch(&mut self, end: End, failure: Option<Failure>) -> Batch<PgWork> {
        self.end_steps();
        if let Some((_, whole)) = &mut self.kept {
            *whole = true;
        }
        self.end = end;
        Batch { items: std::mem::take(&mut self.items), end, failure }
    }

    /// Takes one message of an extended query. A batch when it ends one.
    fn extended(&mut self, frame: &frame::Frame) -> Result<(), Failure> {
        let bad = |e: lockstep_protocol::DecodeError| {
            Failure::new(Kind::Protocol, format!("invalid message: {e}"))
        };
        let body = frame.body();
        match frame.tag {
            client::PARSE => {
                let parse = client::Parse::decode(body).map_err(bad)?;
                self.parse(parse.name, parse.text, &parse.types)?;
            }
            client::BIND => {
                let bind = client::Bind::decode(body).map_err(bad)?;
                let statement = self.names.reference(bind.statement)?;
                let rest = frame.bytes.slice_ref(bind.rest);
                self.names.bind(bind.portal, &statement);
                self.steps.push(Step::Bind { portal: bind.portal.to_owned(), statement, rest });
            }
            client::DESCRIBE => {
                let describe = client::Describe::decode(body).map_err(bad)?;
                if describe.kind == client::STATEMENT {
                    let statement = self.names.reference(describe.name)?;
                    self.steps.push(Step::DescribeStatement(statement));
                } else {
                    self.steps.push(Step::DescribePortal(describe.name.to_owned()));
                }
            }
            client::EXECUTE => {
                let execute = client::Execute::decode(body).map_err(bad)?;
                // A portal we do not know may be a cursor that SQL has declared: the server knows.
                let text = self.names.bound(execute.portal).map(|p| p.prepared.text.clone());
                let (portal, max_rows) = (execute.portal.to_owned(), execute.max_rows);
                self.steps.push(Step::Execute { portal, max_rows });
                let steps = std::mem::take(&mut self.steps);
                self.items.push(Item { text, work: PgWork::Steps(steps) });
            }
            client::CLOSE => {
                let close = client::Close::decode(body).map_err(bad)?;
                if close.kind == client::STATEMENT {
                    self.forget_prepared(Some(close.name));
                    self.steps.push(Step::CloseStatement);
                } else {
                    self.names.close(close.name);
                    self.steps.push(Step::ClosePortal(close.name.to_owned()));
                }
            }
            client::FUNCTION_CALL => {
                return Err(Failure::new(
                    Kind::Refused,
                    "function calls by number are not supported",
                )
                .hint("call the function with SELECT"));
            }
            tag => {
                let what = format!("invalid frontend message type {tag}");
                return Err(Failure::new(Kind::Protocol, what));
            }
        }
        Ok(())
    }

    fn parse(&mut self, name: &str, text: &str, types: &[u32]) -> Result<(), Failure> {
        let prepared = self.statements.intern(text, types, self.encoding);
        let reference = self.names.keep(name, prepared, self.bounds.prepared)?;
        self.steps.push(Step::Parse(reference));
        Ok(())
    }

    /// Tells what is new of the server's session.
    fn tell_reports(&mut self) {
        if self.reports.is_empty() {
            return;
        }
        // The last word counts, and they come in the order in which a server tells them.
        let last: HashMap<_, _> = std::mem::take(&mut self.reports).into_iter().collect();
        let mut reports: Vec<(String, String)> = last.into_iter().collect();
        reports.sort_by_key(|(name, _)| name.to_ascii_lowercase());
        for (name, value) in reports {
            if self.told.get(&name) != Some(&value) {
                server::parameter_status(&mut self.outgoing, &name, &value);
                self.told.insert(name, value);
            }
        }
        self.note_encoding();
    }

    fn after_error(&mut self) {
        self.skipping = self.extended && self.end == End::Flush;
        self.names.settle(false);
    }
}

impl Sink for PgClient {
    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        self.flushes += 1;
        let Self { stream, outgoing, incoming, .. } = self;
        stream.write_while_reading(outgoing, incoming).await.map_err(|_| Gone)
    }

    fn limit(&self) -> usize {
        self.bounds.reply
    }

    fn flushes(&self) -> u64 {
        self.flushes
    }

    fn report(&mut self, name: &str, value: &str) {
        // Only a primary is behind us: what was said at the login stays true.
        if name != "in_hot_standby" {
            self.reports.push((name.to_owned(), value.to_owned()));
        }
    }
}

impl Client for PgClient {
    type Work = PgWork;

    async fn next(&mut self) -> Result<Batch<PgWork>, Gone> {
        loop {
            let frame = self.frame().await?;
            if self.skipping && frame.tag != client::SYNC && frame.tag != client::TERMINATE {
                continue;
            }
            let tag = frame.tag;
            let frame = match texts::in_utf8(frame, self.encoding) {
                Ok(frame) => frame,
                Err(failure) => return Ok(self.unread(tag, failure)),
            };
            match frame.tag {
                client::QUERY => {
                    let text: Arc<str> = match client::Query::decode(frame.body()) {
                        Ok(query) => query.text.into(),
                        Err(error) => return Err(self.broken(&error.to_string()).await),
                    };
                    self.extended = false;
                    self.names.forget(Some(""));
                    let shared = self.statements.intern(&text, &[], self.encoding).text.clone();
                    let work = PgWork::Query(text);
                    self.end_steps();
                    self.items.push(Item { text: Some(shared), work });
                    return Ok(self.take_batch(End::Ready, None));
                }
                client::SYNC => {
                    self.skipping = false;
                    self.extended = true;
                    return Ok(self.take_batch(End::Ready, None));
                }
                client::FLUSH => {
                    self.extended = true;
                    return Ok(self.take_batch(End::Flush, None));
                }
                client::TERMINATE => return Err(Gone),
                // A bulk load that a statement of this pipeline opens: it comes first.
                client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL
                    if !self.items.is_empty() =>
                {
                    self.pushed_back = Some(frame);
                    return Ok(self.take_batch(End::Flush, None));
                }
                // Left over from a bulk load that has failed.
                client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL => {}
                _ => {
                    self.extended = true;
                    if let Err(failure) = self.extended(&frame) {
                        return Ok(self.take_batch(End::Flush, Some(failure)));
                    }
                }
            }
        }
    }

    fn answer(&mut self, work: &PgWork, tag: &str) {
        let out = &mut self.outgoing;
        let PgWork::Steps(steps) = work else {
            server::command_complete(out, tag);
            return;
        };
        for step in steps {
            match step {
                Step::Parse(_) => server::parse_complete(out),
                Step::Bind { .. } => server::bind_complete(out),
                Step::DescribeStatement(statement) => {
                    server::parameter_description(out, &statement.prepared.types);
                    server::no_data(out);
                }
                Step::DescribePortal(_) => server::no_data(out),
                Step::Execute { .. } => server::command_complete(out, tag),
                Step::CloseStatement | Step::ClosePortal(_) => server::close_complete(out),
            }
        }
    }

    fn rows(&mut self, work: &PgWork, table: &Table<'_>) {
        const TEXT: u32 = 25;
        let described: Vec<(&str, u32)> = table.columns.iter().map(|name| (*name, TEXT)).collect();
        let out = &mut self.outgoing;
        let describe = |out: &mut BytesMut| server::row_description(out, &described);
        let all = |out: &mut BytesMut| {
            for row in table.rows {
                let values: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
                server::data_row(out, &values);
            }
            server::command_complete(out, table.tag);
        };
        let PgWork::Steps(steps) = work else {
            describe(out);
            return all(out);
        };
        for step in steps {
            match step {
                Step::Parse(_) => server::parse_complete(out),
                Step::Bind { .. } => server::bind_complete(out),
                Step::DescribeStatement(statement) => {
                    let mut types = statement.prepared.types.clone();
                    types.resize(types.len().max(table.parameters), 0);
                    types.iter_mut().filter(|oid| **oid == 0).for_each(|oid| *oid = TEXT);
                    server::parameter_description(out, &types);
                    describe(out);
                }
                Step::DescribePortal(_) => describe(out),
                Step::Execute { .. } => all(out),
                Step::CloseStatement | Step::ClosePortal(_) => server::close_complete(out),
            }
        }
    }

    fn fail(&mut self, failure: &Failure) {
        fields(failure, "ERROR", self.encoding).encode(server::ERROR_RESPONSE, &mut self.outgoing);
        self.after_error();
    }

    fn relay_error(&mut self, error: &ServerError) {
        self.outgoing.extend_from_slice(&error.wire);
        self.after_error();
    }

    fn ready(&mut self, state: TxState) {
        self.names.settle(true);
        if state == TxState::Idle {
            self.names.end_portals();
        }
        self.tell_reports();
        if std::mem::take(&mut self.sync_owed) {
            return;
        }
        let status = match state {
            TxState::Idle => server::IDLE,
            TxState::Open => server::IN_TRANSACTION,
            TxState::Failed => server::FAILED,
        };
        server::ready_for_query(&mut self.outgoing, status);
    }

    fn warn(&mut self, code: &str, message: &str) {
        ErrorFields::new("WARNING", code, message)
            .encode(server::NOTICE_RESPONSE, &mut self.outgoing);
    }

    async fn next_bulk(&mut self) -> Result<BulkPiece, Gone> {
        self.sync_owed = self.extended && self.end == End::Ready;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                client::COPY_DATA => return Ok(BulkPiece::Data(frame.bytes.slice(5..))),
                client::COPY_DONE => return Ok(BulkPiece::Done),
                client::COPY_FAIL => {
                    let body = frame.body();
                    let text = body.strip_suffix(&[0]).unwrap_or(body);
                    return Ok(BulkPiece::Fail(String::from_utf8_lossy(text).into_owned()));
                }
                client::SYNC | client::FLUSH => {}
                client::TERMINATE => return Err(Gone),
                tag => {
                    let why = format!("message type {tag} during a COPY");
                    return Err(self.broken(&why).await);
                }
            }
        }
    }

    async fn skip_bulk(&mut self) -> Result<(), Gone> {
        loop {
            if !matches!(self.next_bulk().await?, BulkPiece::Data(_)) {
                return Ok(());
            }
        }
    }

    fn forget_prepared(&mut self, name: Option<&str>) -> bool {
        self.names.forget(name)
    }

    fn hang_up_on(&mut self, hangup: CancellationToken) {
        self.stream.hang_up_on(hangup);
    }

    fn is_at_rest(&self) -> bool {
        self.is_at_rest()
    }

    fn keep_requests(&mut self) {
        self.kept = Some((Vec::new(), true));
    }

    fn take_back(&mut self) {
        self.unread_batch();
    }

    async fn close(&mut self, failure: &Failure) {
        fields(failure, "FATAL", self.encoding).encode(server::ERROR_RESPONSE, &mut self.outgoing);
        // The client may have left already: then nobody misses the farewell.
        let _ = self.flush().await;
    }
}
