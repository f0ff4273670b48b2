//! The proxy's end of a connection to a fake server, and how it is opened.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lockstep::backend::{ConnectError, Dial, Dialling, Purpose};
use lockstep::exchange::{
    Broken, BulkPiece, Discard, Findings, Link, Mishap, Outcome, ServerError, Settings, Sink,
    TextRows, TxMode, TxState, Watch,
};
use lockstep::sql::Sequences;
use lockstep::store::control::Sequence;
use lockstep::store::journal::{Effect, Record};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::SimWork;
use crate::server::{Answer, Request, Server, Wire};

/// How long opening a connection may take.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// After how long without an answer a backend counts as dead.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(10);
/// How long a follower's part of a transaction waits for a lock.
pub(crate) const FOLLOWER_LOCK: Duration = Duration::from_secs(5);

/// Opens connections to one fake server.
pub(crate) struct SimDial {
    pub(crate) server: Arc<Server>,
    pub(crate) token: String,
    /// When the server was started, as far as its journal has been looked at since.
    pub(crate) started: Arc<Mutex<String>>,
}

impl SimDial {
    async fn open(
        &self,
        user: &str,
        purpose: Purpose,
        gone: CancellationToken,
    ) -> Result<SimLink, ConnectError> {
        let unreachable = |why: &str| Err(ConnectError::Unreachable(why.to_owned()));
        let attempt = async {
            let way = self.server.world().way();
            tokio::time::sleep(way).await;
            self.server.awake().await;
            let (up, refusing) = {
                let state = self.server.lock();
                (state.up, state.refusing)
            };
            if !up || refusing {
                return unreachable("connection refused");
            }
            let wire = self.server.connect(user, purpose);
            let known = self.started.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Who was restarted unseen may have lost commits: PgDial asks the same question.
            if !known.is_empty() && known != wire.boot.to_string() {
                return unreachable("the server was restarted");
            }
            Ok(SimLink::new(self.server.clone(), wire, self.token.clone(), gone.clone()))
        };
        tokio::select! {
            biased;
            () = gone.cancelled() => unreachable("the backend was made inactive"),
            done = tokio::time::timeout(CONNECT, attempt) => {
                done.unwrap_or_else(|_| unreachable("no answer in time"))
            }
        }
    }
}

impl Dial<SimLink> for SimDial {
    fn dial<'a>(
        &'a self,
        user: &'a str,
        purpose: Purpose,
        gone: CancellationToken,
    ) -> Dialling<'a, SimLink> {
        Box::pin(self.open(user, purpose, gone))
    }
}

/// How to cancel what a connection runs.
#[derive(Clone, Debug)]
pub(crate) struct SimCanceller {
    server: Arc<Server>,
    pid: u64,
}

/// One connection to a fake server.
#[derive(Debug)]
pub(crate) struct SimLink {
    server: Arc<Server>,
    pid: u64,
    requests: mpsc::Sender<Request>,
    answers: mpsc::Receiver<Answer>,
    token: String,
    gone: CancellationToken,
    settings: Settings,
    reported: BTreeMap<String, String>,
    queued: Vec<Request>,
    /// Of each request without an answer: how many rows it must touch, where that is known.
    expected: VecDeque<Option<u64>>,
    first_error: Option<Mishap>,
    tx: TxState,
    follows: bool,
    spent: bool,
}

impl SimLink {
    fn new(server: Arc<Server>, wire: Wire, token: String, gone: CancellationToken) -> Self {
        Self {
            server,
            pid: wire.pid,
            requests: wire.requests,
            answers: wire.answers,
            token,
            gone,
            settings: Settings::default(),
            reported: BTreeMap::new(),
            queued: Vec::new(),
            expected: VecDeque::new(),
            first_error: None,
            tx: TxState::Idle,
            follows: false,
            spent: false,
        }
    }

    fn put(&mut self, request: Request, rows: Option<u64>) {
        self.queued.push(request);
        self.expected.push_back(rows);
    }

    fn put_text(&mut self, sql: &str, rows: Option<u64>) {
        let request = Request::Run { sql: sql.to_owned(), capture: false, sequences: false };
        self.put(request, rows);
    }

    fn follow(&mut self, follower: bool) {
        if self.follows != follower {
            self.follows = follower;
            self.put(Request::Follow(follower), None);
        }
    }

    fn send(&mut self) -> Result<(), Broken> {
        if self.gone.is_cancelled() {
            return Err(Broken::Lost("the backend was made inactive".into()));
        }
        for request in self.queued.drain(..) {
            let sent = self.requests.try_send(request);
            sent.map_err(|_| Broken::Lost("the server closed the connection".into()))?;
        }
        Ok(())
    }

    /// The next answer, with the number of rows that was wanted.
    async fn receive(&mut self) -> Result<(Answer, Option<u64>), Broken> {
        let answer = tokio::select! {
            biased;
            answer = self.answers.recv() => answer,
            () = self.gone.cancelled() => {
                return Err(Broken::Lost("the backend was made inactive".into()));
            }
        };
        let answer =
            answer.ok_or_else(|| Broken::Lost("the server closed the connection".into()))?;
        self.tx = answer.tx;
        Ok((answer, self.expected.pop_front().flatten()))
    }

    /// Waits until all requests but the newest `keep` are answered.
    async fn settle(&mut self, keep: usize) -> Result<(), Broken> {
        while self.expected.len() > keep {
            let (answer, wanted) = self.receive().await?;
            let mishap = match answer.error {
                Some(e) => {
                    Some(Mishap { code: e.code.into(), what: format!("effect: {}", e.message) })
                }
                None if wanted.is_some() && wanted != answer.rows => {
                    let what = format!("{wanted:?} rows on the leader, {:?} here", answer.rows);
                    Some(Mishap { code: String::new(), what })
                }
                None => None,
            };
            self.first_error = self.first_error.take().or(mishap);
        }
        Ok(())
    }
}

/// An answer as the application gets it, each message on a line.
fn hand_on<S: Sink>(answer: &Answer, sink: &mut S) -> usize {
    for line in &answer.lines {
        let columns: Vec<String> = line.iter().map(i64::to_string).collect();
        sink.buffer().extend_from_slice(format!("D {}\n", columns.join("|")).as_bytes());
    }
    let rows = answer.rows.map_or_else(String::new, |rows| format!(" {rows}"));
    let end = format!("C {}{rows}\n", answer.tag);
    sink.buffer().extend_from_slice(end.as_bytes());
    end.len()
}

fn server_error(answer: &Answer) -> Option<ServerError> {
    answer.error.as_ref().map(|e| ServerError {
        code: e.code.into(),
        message: e.message.clone(),
        fatal: false,
        wire: Bytes::from(format!("E {} {}\n", e.code, e.message)),
    })
}

/// What these servers never do.
const NO_SCHEMA: &str = "a simulated server changes no schema";

impl Link for SimLink {
    type Work = SimWork;
    type Canceller = SimCanceller;

    fn adopt(&mut self, wanted: &Settings) {
        self.settings = wanted.clone();
    }

    fn reported(&self) -> &BTreeMap<String, String> {
        &self.reported
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn assume(&mut self, settings: Settings) {
        self.settings = settings;
    }

    fn sends_any_text(&self) -> bool {
        true
    }

    fn begin(&mut self, _mode: &TxMode) {
        self.put(Request::LockTimeout(None), None);
        self.follow(false);
        self.put(Request::Begin, None);
    }

    fn unlimited(settings: &Settings) -> Settings {
        settings.clone()
    }

    fn is_done_already(_error: &ServerError) -> bool {
        false
    }

    fn begin_share(&mut self, settings: &Settings) {
        self.adopt(settings);
        self.put(Request::LockTimeout(Some(FOLLOWER_LOCK)), None);
        self.follow(true);
        self.put(Request::Begin, None);
    }

    fn lead(&mut self, _settings: &Settings) {
        self.put(Request::LockTimeout(None), None);
        self.follow(false);
        self.spent = true;
    }

    async fn repeat(&mut self, _effect: &Effect) -> Result<Outcome, Broken> {
        Err(Broken::Lost(NO_SCHEMA.into()))
    }

    async fn fingerprint(
        &mut self,
        _filled: &[String],
    ) -> Result<Result<String, ServerError>, Broken> {
        Err(Broken::Lost(NO_SCHEMA.into()))
    }

    async fn standing(&mut self) -> Result<Result<Vec<Sequence>, ServerError>, Broken> {
        Err(Broken::Lost(NO_SCHEMA.into()))
    }

    async fn check_deferred(&mut self) -> Result<Outcome, Broken> {
        let found = Findings { counted: Some(0), ..Findings::default() };
        Ok(Outcome { found: found.into(), ..Outcome::default() })
    }

    fn queue_commit(&mut self) {
        self.put(Request::Commit, None);
    }

    fn queue_rollback(&mut self) {
        self.put(Request::Rollback, None);
    }

    fn queue(&mut self, sql: &str) {
        self.put_text(sql, None);
    }

    fn queue_effect(&mut self, effect: &Effect) {
        let token = self.token.clone();
        let request = match effect.clone() {
            Effect::Text { sql, rows } => return self.put_text(&sql, rows),
            Effect::Rows { relation, op, old, new } => {
                Request::Rows { token, relation, op, old, new }
            }
            Effect::Advance { sequence, value } => {
                Request::Advance { token, sequence, value, exactly: false }
            }
            Effect::ResetSequence { sequence, value, .. } => {
                Request::Advance { token, sequence, value, exactly: true }
            }
            Effect::Checked { effect, .. } => return self.queue_effect(&effect),
            other => panic!("the simulation has no effects like {other:?}"),
        };
        self.put(request, None);
    }

    fn queue_record(&mut self, seq: i64, id: i64, user: &str, entry: &[u8]) {
        let record = Record { seq, id, user: user.to_owned(), entry: entry.to_vec() };
        self.put(Request::Record { token: self.token.clone(), record }, None);
    }

    async fn run<S: Sink>(
        &mut self,
        work: &SimWork,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        if self.tx == TxState::Idle && self.expected.is_empty() {
            self.follow(false);
        }
        let sequences = watch.sequences.is_some_and(|watched| *watched != Sequences::None);
        let sql = work.sql.clone();
        self.put(Request::Run { sql, capture: watch.rows, sequences }, None);
        self.send()?;
        self.settle(1).await?;
        if let Some(error) = self.first_error.take() {
            return Err(Broken::Setup(error));
        }
        let (answer, _) = self.receive().await?;
        let error = server_error(&answer).map(Box::new);
        let completion = if error.is_none() { hand_on(&answer, sink) } else { 0 };
        let mut digest = DefaultHasher::new();
        answer.lines.hash(&mut digest);
        let found = Findings {
            counted: watch.rows.then_some(answer.captured.len() as u64),
            captured: answer.captured,
            sequences: answer.sequences,
            ..Findings::default()
        };
        Ok(Outcome {
            error,
            rows: answer.rows,
            digest: if watch.digest { digest.finish() } else { 0 },
            completion,
            found: found.into(),
            ..Outcome::default()
        })
    }

    async fn send_bulk(&mut self, _piece: &BulkPiece) -> Result<(), Broken> {
        panic!("the simulation loads nothing in bulk")
    }

    async fn finish_bulk<S: Sink>(
        &mut self,
        _watch: Watch<'_>,
        _sink: &mut S,
    ) -> Result<Outcome, Broken> {
        panic!("the simulation loads nothing in bulk")
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        self.send()
    }

    async fn drain(&mut self) -> Result<Option<Mishap>, Broken> {
        self.send()?;
        match tokio::time::timeout(DEAD_AFTER, self.settle(0)).await {
            Ok(settled) => settled?,
            Err(_) => return Err(Broken::Silent(format!("no answer within {DEAD_AFTER:?}"))),
        }
        Ok(self.first_error.take())
    }

    fn outstanding(&self) -> usize {
        self.expected.len()
    }

    async fn ask(
        &mut self,
        sql: &str,
        _params: &[Option<&str>],
    ) -> Result<Result<TextRows, ServerError>, Broken> {
        let work = SimWork { sql: sql.to_owned() };
        let outcome = self.run(&work, Watch::default(), &mut Discard::default()).await?;
        Ok(outcome.error.map_or(Ok(Vec::new()), |error| Err(*error)))
    }

    async fn idle<S: Sink>(&mut self, _sink: &mut S) -> Result<(), Broken> {
        self.receive().await.map(|_| ())
    }

    fn canceller(&self) -> SimCanceller {
        SimCanceller { server: self.server.clone(), pid: self.pid }
    }

    async fn cancel(canceller: &SimCanceller) {
        let attempt = async {
            let way = canceller.server.world().way();
            tokio::time::sleep(way).await;
            canceller.server.awake().await;
            canceller.server.cancel(canceller.pid);
        };
        // A cancel that does not get through is followed by the time limit of whoever waits.
        let _ = tokio::time::timeout(CONNECT, attempt).await;
    }

    async fn end(_canceller: &Self::Canceller) -> bool {
        false
    }

    fn tx_state(&self) -> TxState {
        self.tx
    }

    fn is_spent(&self) -> bool {
        self.spent
    }

    fn is_quiet(&mut self) -> bool {
        true // These servers say nothing by themselves.
    }
}
