//! The proxy's end of a conversation with a simulated application. Each message is a line:
//! `D 1|2` a row, `C UPDATE 1` a statement's end, `E 40001 why` an error, `Z I` the ready sign.

use std::sync::Arc;

use bytes::BytesMut;
use lockstep::catalog::Text;
use lockstep::error::Failure;
use lockstep::exchange::{
    Batch, BulkPiece, Client, End, Gone, Item, Manners, Protocol, ServerError, Sink, Table,
    TxState, Work,
};
use lockstep::sql::{Numbers, TimeParam};
use lockstep::store::journal::Effect;
use tokio::sync::mpsc;

use crate::link::SimLink;
use crate::world::World;

/// The simulated protocol.
pub(crate) struct Sim;

impl Protocol for Sim {
    type Work = SimWork;
    type Client = SimClient;
    type Link = SimLink;
    /// With few transactions followers get them in parts, with more in one piece: both are to be met here.
    const MANNERS: Manners =
        Manners { shares_in_parts: true, ..<lockstep::proxy::Pg as Protocol>::MANNERS };
}

/// A statement is its text.
#[derive(Clone, Debug)]
pub(crate) struct SimWork {
    pub(crate) sql: String,
}

impl Work for SimWork {
    fn part(&self, whole: &str, range: std::ops::Range<usize>) -> Self {
        Self { sql: whole[range].to_owned() }
    }

    fn rewritten(&self, text: &str) -> Option<Self> {
        Some(Self { sql: text.to_owned() })
    }

    fn effect(&self, text: &str, rows: Option<u64>) -> Option<Effect> {
        Some(Effect::Text { sql: text.to_owned(), rows })
    }

    fn is_fixed(&self, doubtful: &[TimeParam]) -> bool {
        doubtful.is_empty()
    }

    fn needs_backend(&self) -> bool {
        true
    }

    fn answers_in_text(&self) -> bool {
        true
    }

    fn is_partial(&self) -> bool {
        false
    }

    fn resets(&self) -> bool {
        false
    }

    fn may_join(&self) -> bool {
        true
    }

    fn may_return(&self, _shown: usize) -> bool {
        false
    }

    fn described(&self) -> Option<&str> {
        None
    }

    fn texts(&self) -> Vec<&Arc<Text>> {
        Vec::new()
    }

    fn brings(&self, _numbers: &Numbers) -> bool {
        false
    }

    fn parameter(&self, _number: u32) -> Option<Option<String>> {
        None
    }
}

/// What an application sends: a text, and the mark by which the judge knows its transaction when
/// the answer to this text says that it is committed.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) sql: String,
    pub(crate) commits: Option<i64>,
}

/// The proxy's end.
#[derive(Debug)]
pub(crate) struct SimClient {
    world: Arc<World>,
    inbox: mpsc::Receiver<Said>,
    outbox: mpsc::Sender<String>,
    buffer: BytesMut,
    flushes: u64,
    commits: Option<i64>,
}

impl SimClient {
    pub(crate) fn new(
        world: Arc<World>,
        inbox: mpsc::Receiver<Said>,
        outbox: mpsc::Sender<String>,
    ) -> Self {
        Self { world, inbox, outbox, buffer: BytesMut::new(), flushes: 0, commits: None }
    }

    fn say(&mut self, line: &str) {
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.extend_from_slice(b"\n");
    }
}

impl Sink for SimClient {
    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        let text = String::from_utf8_lossy(&self.buffer.split()).into_owned();
        self.flushes += 1;
        let failed = text.lines().any(|line| line.starts_with("E ") || line == "C ROLLBACK");
        if text.ends_with("Z I\n") && !failed {
            // From here on the application has been told.
            if let Some(mark) = self.commits.take() {
                self.world.acknowledged(mark);
            }
        }
        self.outbox.send(text).await.map_err(|_| Gone)
    }

    fn limit(&self) -> usize {
        usize::MAX
    }

    fn flushes(&self) -> u64 {
        self.flushes
    }
}

impl Client for SimClient {
    type Work = SimWork;

    fn hang_up_on(&mut self, _hangup: tokio_util::sync::CancellationToken) {}

    async fn next(&mut self) -> Result<Batch<SimWork>, Gone> {
        let said = self.inbox.recv().await.ok_or(Gone)?;
        self.commits = said.commits;
        let text = Some(Arc::new(Text::new(said.sql.clone())));
        let items = [Item { text, work: SimWork { sql: said.sql } }].into();
        Ok(Batch { items, end: End::Ready, failure: None })
    }

    fn answer(&mut self, _work: &SimWork, tag: &str) {
        self.say(&format!("C {tag}"));
    }

    fn rows(&mut self, _work: &SimWork, table: &Table<'_>) {
        for row in table.rows {
            let columns: Vec<String> = row.iter().cloned().map(Option::unwrap_or_default).collect();
            self.say(&format!("D {}", columns.join("|")));
        }
        self.say(&format!("C {}", table.tag));
    }

    fn fail(&mut self, failure: &Failure) {
        let detail = failure.detail.as_deref().unwrap_or_default();
        self.say(&format!("E {} {}: {detail}", failure.sqlstate(), failure.message));
    }

    fn relay_error(&mut self, error: &ServerError) {
        self.buffer.extend_from_slice(&error.wire);
    }

    fn ready(&mut self, state: TxState) {
        self.say(match state {
            TxState::Idle => "Z I",
            TxState::Open => "Z T",
            TxState::Failed => "Z E",
        });
    }

    fn warn(&mut self, code: &str, message: &str) {
        self.say(&format!("W {code} {message}"));
    }

    async fn next_bulk(&mut self) -> Result<BulkPiece, Gone> {
        panic!("the simulation loads nothing in bulk")
    }

    async fn skip_bulk(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    fn forget_prepared(&mut self, _name: Option<&str>) -> bool {
        false
    }

    async fn close(&mut self, failure: &Failure) {
        self.world.complain(format!("a client was sent away: {failure}"));
    }
}
