//! The conversation with a MySQL or MariaDB server.

mod cancel;
mod connect;
mod context;
mod dial;
mod errors;
mod keys;
mod known;
mod link;
mod load;
mod relay;
mod returned;
mod settings;

pub use cancel::Canceller;
pub use connect::{Login, Manner, Route};
pub use dial::{Logins, MyDial};
pub use link::{MyLink, Shared};

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_protocol::mysql::answer::Asked;
use lockstep_protocol::mysql::value::kind;
use lockstep_protocol::mysql::{command, response};

use crate::error::Kind;
use crate::exchange::{
    Broken, BulkPiece, Discard, Findings, Link, Mishap, Outcome, ServerError, Settings, Sink,
    TextRows, TxMode, TxState, UNDO, Watch,
};
use crate::hex;
use crate::store::control::Sequence;
use crate::store::journal::Effect;
use crate::store::mysql::schema;
use crate::wire::mysql::MyWork;
use link::{EFFECT, Request};
use relay::Relay;

impl Link for MyLink {
    type Work = MyWork;
    type Canceller = Canceller;

    fn adopt(&mut self, wanted: &Settings) {
        self.trim_prepared();
        self.adopt_settings(wanted);
    }

    fn reported(&self) -> &std::collections::BTreeMap<String, String> {
        &self.parameters
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn assume(&mut self, settings: Settings) {
        self.settings = settings;
        self.note_role();
    }

    fn sends_any_text(&self) -> bool {
        // Rows come as texts of ASCII characters, which all encodings but these have in common.
        let chosen = self.settings.get("character_set_results");
        chosen.is_none_or(|statement| !WIDE.iter().any(|wide| statement.contains(wide)))
    }

    fn begin(&mut self, mode: &TxMode) {
        self.unfix();
        self.push_begin(mode);
    }

    fn begin_share(&mut self, settings: &Settings) {
        self.trim_prepared();
        self.push_share(settings);
    }

    fn unlimited(settings: &Settings) -> Settings {
        let mut settings = (**settings).clone();
        for key in settings::TIME_LIMITS {
            settings.remove(*key);
        }
        Settings::new(settings)
    }

    fn bounded(settings: &Settings, wait: std::time::Duration) -> Settings {
        if settings.contains_key(settings::METADATA_WAIT) {
            return settings.clone();
        }
        let (key, seconds) = (settings::METADATA_WAIT, wait.as_secs().max(1));
        let mut settings = (**settings).clone();
        settings.insert(key.to_owned(), format!("SET SESSION {key}={seconds}"));
        Settings::new(settings)
    }

    fn is_done_already(error: &ServerError) -> bool {
        let number = response::Err::decode(&error.wire).map_or(0, |error| error.number);
        DONE_ALREADY.contains(&number)
    }

    fn lead(&mut self, settings: &Settings) {
        self.unfix();
        self.adopt_settings(settings);
    }

    async fn check_deferred(&mut self) -> Result<Outcome, Broken> {
        // Every constraint is checked with its own statement.
        let found = Findings { counted: Some(0), ..Findings::default() };
        Ok(Outcome { found: found.into(), ..Outcome::default() })
    }

    fn queue_commit(&mut self) {
        self.push_text("COMMIT", "COMMIT");
        self.unfix();
        self.sharing = false;
    }

    fn queue_rollback(&mut self) {
        self.push_text("ROLLBACK", "ROLLBACK");
        self.unfix();
        self.sharing = false;
    }

    fn queue(&mut self, sql: &str) {
        self.push_text(sql, "statement");
    }

    fn queue_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Text { sql, rows } => {
                // A context, or a SET of the application's own: not even a rollback takes that back, and
                // whoever came next would find it.
                self.fixed |= rows.is_none();
                self.spent |= effect.leaves_settings();
                let text = Bytes::copy_from_slice(sql.as_bytes());
                self.push(Request::Text(text), EFFECT, *rows);
            }
            Effect::Bound { sql, bind, rows, .. } => {
                let prepared = self.shared.statements.intern(sql);
                let parameters = Bytes::copy_from_slice(bind);
                self.push(Request::Execute(prepared, parameters), EFFECT, *rows);
            }
            Effect::Bulk { sql, data, rows } => {
                let text = Bytes::copy_from_slice(sql.as_bytes());
                let file = Bytes::copy_from_slice(data);
                self.push(Request::Load(text, Some(file)), EFFECT, *rows);
            }
            Effect::Outside { sql } => self.push_text(sql, "statement outside a transaction"),
            Effect::Rows { .. }
            | Effect::Advance { .. }
            | Effect::ResetSequence { .. }
            | Effect::Intended(_)
            | Effect::Finished { .. }
            | Effect::Withdrawn { .. }
            | Effect::Checked { .. }
            | Effect::Deep { .. } => self.fail("an effect of a kind that no MySQL leader has"),
        }
    }

    fn queue_record(&mut self, seq: i64, id: i64, user: &str, entry: &[u8]) {
        self.queue_unhurried();
        let record = self.shared.record.clone();
        let proof = schema::proof(&self.shared.token, self.canceller.number, seq, id);
        let parameters = record_parameters(&proof, seq, id, user, entry);
        self.push(Request::Execute(record, parameters), "record", None);
    }

    async fn run<S: Sink>(
        &mut self,
        work: &MyWork,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        self.open_first().await?;
        if watch.bulk {
            return self.open_load(work, watch, sink).await;
        }
        if let Some(returned) = watch.returned {
            return self.run_returned(work, returned, sink).await;
        }
        if watch.rows {
            return self.refuse_capture(work).await;
        }
        if let MyWork::Execute { prepared, .. } = work
            && !self.is_prepared(prepared)
        {
            let mut quiet = Discard::default();
            let request = Request::Prepare(prepared.clone());
            let outcome = self.run_request(request, Relay::default(), &mut quiet).await?;
            if outcome.error.is_some() {
                return Ok(outcome);
            }
        }
        if watch.undoable {
            self.push_text(&format!("SAVEPOINT {UNDO}"), "savepoint");
        }
        let (request, number) = request(work);
        let relay = Relay { digest: watch.digest, number };
        let outcome = match watch.context {
            Some(context) => self.run_fixed(request, relay, context, sink).await?,
            None => self.run_request(request, relay, sink).await?,
        };
        // A transaction that is gone has taken its savepoint along.
        if watch.undoable && outcome.error.is_some() && self.in_transaction {
            self.return_to_savepoint().await?;
        }
        Ok(outcome)
    }

    async fn repeat(&mut self, _effect: &Effect) -> Result<Outcome, Broken> {
        Ok(Outcome { error: Some(refused(UNSEEN).into()), ..Outcome::default() })
    }

    async fn fingerprint(
        &mut self,
        _filled: &[String],
    ) -> Result<Result<String, ServerError>, Broken> {
        Ok(Err(refused(UNSEEN)))
    }

    async fn standing(&mut self) -> Result<Result<Vec<Sequence>, ServerError>, Broken> {
        Ok(Ok(Vec::new())) // The numbers that rows are given follow the rows themselves.
    }

    async fn send_bulk(&mut self, piece: &BulkPiece) -> Result<(), Broken> {
        self.send_piece(piece).await
    }

    async fn finish_bulk<S: Sink>(
        &mut self,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        self.close_load(watch, sink).await
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        self.send_off().await
    }

    async fn drain(&mut self) -> Result<Option<Mishap>, Broken> {
        let limit = self.shared.live.bounds().dead_after;
        let answered = async {
            self.send().await?;
            self.settle(0).await
        };
        match tokio::time::timeout(limit, answered).await {
            Ok(settled) => settled?,
            Err(_) => return Err(Broken::Silent(format!("no answer within {limit:?}"))),
        }
        Ok(self.take_error())
    }

    fn outstanding(&self) -> usize {
        self.outstanding_requests()
    }

    fn withdraw(&mut self) -> bool {
        self.withdraw_effects()
    }

    async fn ask(
        &mut self,
        sql: &str,
        params: &[Option<&str>],
    ) -> Result<Result<TextRows, ServerError>, Broken> {
        self.push_text(&with_params(sql, params), "question");
        self.send().await?;
        self.settle(1).await?;
        self.collect().await
    }

    async fn idle<S: Sink>(&mut self, _sink: &mut S) -> Result<(), Broken> {
        self.receive().await?;
        // Whatever it is, it answers nothing: `next` says what the server said.
        match self.next()? {
            Some(_) => Err(Broken::Lost("the server answered a question nobody asked".into())),
            None => Ok(()),
        }
    }

    fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    async fn cancel(canceller: &Canceller) {
        canceller.cancel().await;
    }

    async fn end(canceller: &Canceller) -> bool {
        canceller.end().await;
        true
    }

    fn tx_state(&self) -> TxState {
        self.state()
    }

    fn is_spent(&self) -> bool {
        self.spent || self.canceller.aim.may_be_struck() // All else that a session leaves behind is in its settings, and goes with them.
    }

    fn is_quiet(&mut self) -> bool {
        // A server says something by itself only when it says goodbye.
        self.stream.take_arrived(&mut self.incoming).is_ok() && self.incoming.is_empty()
    }
}

impl MyLink {
    /// Sends one request behind all that was queued, and hands its answer on.
    async fn run_request<S: Sink>(
        &mut self,
        request: Request,
        relay: Relay,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        self.push(request, "statement", None);
        self.send().await?;
        self.settle(1).await?;
        self.check_setup()?;
        let (outcome, told) = self.relay(relay, sink).await?;
        self.remark(told.warns, sink).await?;
        Ok(outcome)
    }

    /// Tells what the server has to say besides the answer. After an error the answer to this also tells
    /// whether the transaction goes on, which the error itself does not: not only a deadlock ends it
    /// (one about the next number of AUTO_INCREMENT, a wait for a row where the server is set up so),
    /// and what came next would be committed by itself.
    pub(super) async fn remark<S: Sink>(
        &mut self,
        warns: bool,
        sink: &mut S,
    ) -> Result<(), Broken> {
        let mut remarks = TextRows::new();
        if warns {
            self.push_text("SHOW WARNINGS", "messages");
            self.send().await?;
            self.settle(1).await?;
            remarks = self.collect().await?.map_err(|error| Broken::Lost(error.to_string()))?;
        }
        sink.remark(remarks);
        Ok(())
    }

    /// Rows that a statement changes cannot be seen here. A statement that the server cannot read
    /// either gets the server's own words.
    async fn refuse_capture(&mut self, work: &MyWork) -> Result<Outcome, Broken> {
        let prepared = match work {
            MyWork::Query { text, .. } => {
                Some(self.shared.statements.intern(&String::from_utf8_lossy(text)))
            }
            _ => None,
        };
        if let Some(prepared) = prepared.filter(|prepared| !self.is_prepared(prepared)) {
            let mut quiet = Discard::default();
            let request = Request::Prepare(prepared);
            let outcome = self.run_request(request, Relay::default(), &mut quiet).await?;
            if outcome.error.is_some() {
                return Ok(outcome);
            }
        }
        Ok(Outcome { error: Some(refused(UNSEEN).into()), ..Outcome::default() })
    }
}

/// The numbers of errors that say that something is there already, or gone already: databases, tables,
/// columns, keys, routines, triggers, accounts, rights.
const DONE_ALREADY: [u16; 17] = [
    1007, 1008, 1050, 1051, 1060, 1061, 1091, 1141, 1147, 1304, 1305, 1359, 1360, 1396, 1403, 1962,
    4092,
];

/// Encodings whose characters have more than one byte each.
const WIDE: [&str; 3] = ["ucs2", "utf16", "utf32"];

/// Why a statement that only rows could carry is not run.
const UNSEEN: &str =
    "the statement may change rows in a way that the other databases cannot repeat";

/// An error of ours in the form of a server's.
fn refused(what: &str) -> ServerError {
    let (number, state) = Kind::Refused.mysql();
    let error = response::Err { number, state: state.as_bytes(), message: what.as_bytes() };
    let mut wire = BytesMut::new();
    error.encode(&mut wire);
    let (code, message) = (state.to_owned(), what.to_owned());
    ServerError { code, message, fatal: false, wire: wire.freeze() }
}

/// What is sent for a piece of work, and the application's number for a statement it prepares.
fn request(work: &MyWork) -> (Request, Option<u32>) {
    match work {
        MyWork::Query { text, .. } => (Request::Text(text.clone()), None),
        MyWork::Prepare { prepared, number } => (Request::Prepare(prepared.clone()), Some(*number)),
        MyWork::Execute { prepared, parameters } => {
            (Request::Execute(prepared.clone(), parameters.clone()), None)
        }
        MyWork::Columns(payload) => (Request::Command(payload.clone(), Asked::Columns), None),
        MyWork::Reset => {
            let payload = Bytes::from_static(&[command::RESET_CONNECTION]);
            (Request::Command(payload, Asked::Results), None)
        }
    }
}

/// A question of ours with its parameters in it: in hexadecimal they mean the same in every mode of
/// reading quotes. Our own texts have a question mark for each and none besides.
fn with_params(sql: &str, params: &[Option<&str>]) -> String {
    let mut params = params.iter();
    let mut text = String::with_capacity(sql.len());
    for piece in sql.split_inclusive('?') {
        match (piece.strip_suffix('?'), params.clone().next()) {
            (Some(front), Some(param)) => {
                params.next();
                text.push_str(front);
                let Some(param) = param else {
                    text.push_str("NULL");
                    continue;
                };
                text.push_str("CONVERT(x'");
                text.push_str(&hex::encode(param.as_bytes()));
                text.push_str("' USING utf8mb4)");
            }
            _ => text.push_str(piece),
        }
    }
    text
}

/// The parameters of the journal's record, in the form of an EXECUTE.
fn record_parameters(proof: &[u8], seq: i64, id: i64, user: &str, entry: &[u8]) -> Bytes {
    const BLOB: u8 = 252;
    let mut out = BytesMut::with_capacity(64 + proof.len() + user.len() + entry.len());
    out.put_slice(&[0, 1]);
    for kind in [BLOB, kind::LONGLONG, kind::LONGLONG, kind::VAR_STRING, BLOB] {
        out.put_slice(&[kind, 0]);
    }
    lockstep_protocol::mysql::stmt::put_bytes(&mut out, proof);
    out.put_i64_le(seq);
    out.put_i64_le(id);
    lockstep_protocol::mysql::stmt::put_bytes(&mut out, user.as_bytes());
    lockstep_protocol::mysql::stmt::put_bytes(&mut out, entry);
    out.freeze()
}
