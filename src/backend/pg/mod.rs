//! The conversation with a PostgreSQL server.

mod cancel;
mod connect;
mod dial;
mod link;
mod own;
mod relay;
mod request;
mod returned;
mod row;
mod rules;
mod share;
mod written;

pub use cancel::Canceller;
pub use connect::{Login, Route};
pub use dial::{Logins, PgDial};
pub use link::{PgLink, Shared};

use bytes::BytesMut;
use lockstep_protocol::pg::client;

use crate::encoding::Encoding;
use crate::exchange::{
    Broken, BulkPiece, Discard, Gathered, Link, Mishap, Outcome, PREPARED, ServerError, Settings,
    Sink, TextRows, TxMode, TxState, UNDO, Watch,
};
use crate::sql::{Isolation, Sequences};
use crate::store::control::Sequence;
use crate::store::journal::Effect;
use crate::wire::pg::PgWork;
use own::{ADVANCE, BEGIN, CAPTURE, FINGERPRINT, RECORD, RESET_SEQUENCE, bind_rest, text_array};
use share::SHARE_LIMITS;
use written::{SETTING, written};

fn begin_text(mode: &TxMode) -> String {
    let mut text = String::from("BEGIN");
    match mode.isolation {
        None => {}
        Some(Isolation::ReadUncommitted) => text.push_str(" ISOLATION LEVEL READ UNCOMMITTED"),
        Some(Isolation::ReadCommitted) => text.push_str(" ISOLATION LEVEL READ COMMITTED"),
        Some(Isolation::RepeatableRead) => text.push_str(" ISOLATION LEVEL REPEATABLE READ"),
        Some(Isolation::Serializable) => text.push_str(" ISOLATION LEVEL SERIALIZABLE"),
    }
    match mode.read_only {
        None => {}
        Some(true) => text.push_str(" READ ONLY"),
        Some(false) => text.push_str(" READ WRITE"),
    }
    match mode.deferrable {
        None => {}
        Some(true) => text.push_str(" DEFERRABLE"),
        Some(false) => text.push_str(" NOT DEFERRABLE"),
    }
    text
}

impl Link for PgLink {
    type Work = PgWork;
    type Canceller = Canceller;

    fn adopt(&mut self, wanted: &Settings) {
        self.trim_prepared();
        if std::sync::Arc::ptr_eq(&self.settings, wanted) {
            return;
        }
        self.adopt_encoding(wanted);
        let mut change = String::new();
        for key in self.settings.keys().filter(|key| !wanted.contains_key(*key) && *key != SETTING)
        {
            let (verb, name) =
                key.strip_prefix(PREPARED).map_or(("RESET", &**key), |name| ("DEALLOCATE", name));
            change.push_str(&format!("{verb} {name};"));
        }
        let others = wanted.iter().filter(|(key, _)| *key != SETTING);
        // What is prepared comes last: it may need the search_path that comes with the others.
        let (last, first): (Vec<_>, Vec<_>) =
            others.partition(|(key, _)| key.starts_with(PREPARED));
        for (key, statement) in first.into_iter().chain(last) {
            // A reader stays read-only, whatever the application has chosen for its writes.
            if self.reader && key == "default_transaction_read_only" {
                continue;
            }
            if self.settings.get(key) != Some(statement) {
                if let (Some(name), true) =
                    (key.strip_prefix(PREPARED), self.settings.contains_key(key))
                {
                    change.push_str(&format!("DEALLOCATE {name};"));
                }
                change.push_str(statement);
                change.push(';');
            }
        }
        if !change.is_empty() {
            self.queue_settings(&change, wanted);
        }
        self.settings = wanted.clone();
    }

    fn begin(&mut self, mode: &TxMode) {
        self.follow(false);
        if *mode == TxMode::default() {
            self.queue_own(&BEGIN, &bind_rest(&[]));
        } else {
            self.queue_query(&begin_text(mode), "BEGIN", None);
        }
        self.begins();
    }

    fn reported(&self) -> &std::collections::BTreeMap<String, String> {
        self.parameters()
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn assume(&mut self, settings: Settings) {
        self.settings = settings;
    }

    fn sends_any_text(&self) -> bool {
        self.encoding == Encoding::Utf8
    }

    fn begin_share(&mut self, settings: &Settings) {
        self.open_share(settings);
        // A request of its own: that it is there can be known while the effects wait for locks.
        self.close_request();
    }

    fn begin_whole_share(&mut self, settings: &Settings, effects: &[Effect]) {
        self.open_share(settings);
        if effects.iter().all(Self::shares_a_request) {
            self.open.whole = true;
        } else {
            self.close_request();
        }
    }

    fn unlimited(settings: &Settings) -> Settings {
        let mut settings = (**settings).clone();
        for key in ["lock_timeout", "statement_timeout"] {
            settings.insert(key.to_owned(), format!("SET {key} = 0"));
        }
        Settings::new(settings)
    }

    fn is_done_already(error: &ServerError) -> bool {
        // Duplicate and undefined objects.
        matches!(error.code.as_str(), "42P07" | "42704" | "42P01")
    }

    fn lead(&mut self, settings: &Settings) {
        let mut text = String::new();
        for key in SHARE_LIMITS {
            match settings.get(key) {
                Some(statement) => text.push_str(statement),
                None => {
                    text.push_str("RESET ");
                    text.push_str(key);
                }
            }
            text.push(';');
        }
        self.queue_query(&text, "limits", None);
        self.follow(false);
        // Should the transaction be undone, the session would be a follower's again, unseen.
        self.spent = true;
        self.settings = settings.clone();
    }

    async fn check_deferred(&mut self) -> Result<Outcome, Broken> {
        let check = PgWork::Query("SET CONSTRAINTS ALL IMMEDIATE".into());
        let watch = Watch { rows: true, sequences: Some(&Sequences::Any), ..Watch::default() };
        self.run(&check, watch, &mut Discard::default()).await
    }

    fn queue_commit(&mut self) {
        self.queue_query("COMMIT", "COMMIT", None);
    }

    fn queue_rollback(&mut self) {
        self.queue_query("ROLLBACK", "ROLLBACK", None);
    }

    fn queue(&mut self, sql: &str) {
        self.queue_query(sql, "statement", None);
    }

    fn queue_effect(&mut self, effect: &Effect) {
        let token = self.shared.token.clone();
        let token = (0, Some(token.as_bytes()));
        match effect {
            Effect::Text { sql, rows } => self.queue_query(sql, "effect", *rows),
            Effect::Bound { sql, types, bind, rows } => {
                let prepared = self.shared.statements.intern(sql, types, self.encoding);
                self.queue_bound(&prepared, bind, *rows);
            }
            Effect::Rows { relation, op, old, new } => self.queue_rows(relation, *op, old, new),
            Effect::Advance { sequence, value } => {
                let value = value.to_string();
                let sequence = self.armour(sequence);
                let sequence = (0, Some(sequence.as_bytes()));
                let rest = bind_rest(&[token, sequence, (0, Some(value.as_bytes()))]);
                self.queue_own(&ADVANCE, &rest);
            }
            Effect::ResetSequence { sequence, value, called } => {
                let value = value.to_string();
                let called: &[u8] = if *called { b"t" } else { b"f" };
                let sequence = self.armour(sequence);
                let sequence = (0, Some(sequence.as_bytes()));
                let value = (0, Some(value.as_bytes()));
                let rest = bind_rest(&[token, sequence, value, (0, Some(called))]);
                self.queue_own(&RESET_SEQUENCE, &rest);
            }
            Effect::Bulk { sql, data, rows } => {
                // The server reads the stream only after it has answered the statement; sent
                // ahead it waits in the socket, and an error makes the server skip it.
                self.queue_query(sql, "bulk load", *rows);
                client::copy_data(&mut self.outgoing, data);
                client::copy_done(&mut self.outgoing);
            }
            // Not a part of any transaction: whoever brings a backend to the outcome runs it apart.
            Effect::Outside { .. }
            | Effect::Intended(_)
            | Effect::Finished { .. }
            | Effect::Withdrawn { .. } => {}
            Effect::Checked { effect, digest } => {
                self.queue_effect(effect);
                self.expect_digest(*digest);
            }
            Effect::Deep { effect, .. } => self.queue_effect(effect),
        }
    }

    fn queue_record(&mut self, seq: i64, id: i64, user: &str, entry: &[u8]) {
        self.queue_unhurried();
        let token = self.shared.token.clone();
        let user = self.armour(user);
        let rest = bind_rest(&[
            (0, Some(token.as_bytes())),
            (1, Some(&seq.to_be_bytes())),
            (1, Some(&id.to_be_bytes())),
            (0, Some(user.as_bytes())),
            (1, Some(entry)),
        ]);
        self.queue_own(&RECORD, &rest);
    }

    async fn run<S: Sink>(
        &mut self,
        work: &PgWork,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        self.open_first().await?;
        if self.tx == b'I' && self.expected_is_empty() {
            self.follow(false);
        }
        if watch.undoable {
            self.queue_query(&format!("SAVEPOINT {UNDO}"), "savepoint", None);
        }
        if watch.rows {
            self.queue_own(&CAPTURE, &bind_rest(&[]));
        }
        let bulk = watch.bulk;
        self.bulk_by_steps = bulk && matches!(work, PgWork::Steps(_));
        let before = match (work, watch.returned) {
            (_, Some(returned)) => self.queue_returned(work, returned),
            (PgWork::Query(text), None) => {
                self.close_request();
                let text = written(self.encoding, text);
                client::query(&mut self.outgoing, text);
                self.simple_query_queued("statement", None);
                0
            }
            (PgWork::Steps(steps), None) => self.queue_steps(steps),
        };
        let watch = Self::watch_after(watch);
        // What is read afterwards travels with the statement, unless that waits for a bulk load.
        let after = if bulk { 0 } else { self.queue_watched(watch) };
        self.wants_digest = watch.digest;
        self.send().await?;
        self.settle(1 + after).await?;
        self.check_setup()?;
        if before > 0 && !self.settle_parts(1).await? {
            // What was to come first has failed, and the statement has been passed over.
            self.settle(0).await?;
        }
        self.set_up()?;
        let mut outcome = match watch.returned {
            Some(returned) => self.relay_returned(work, returned, sink).await?,
            None => self.relay(sink).await?,
        };
        if !bulk {
            self.collect_watched(watch, &mut outcome).await?;
        }
        Ok(outcome)
    }

    async fn run_several(
        &mut self,
        statements: &[(&PgWork, Watch<'_>)],
    ) -> Result<Vec<(BytesMut, Outcome)>, Broken> {
        let mut before = 0;
        for (n, (work, watch)) in statements.iter().enumerate() {
            let steps = self.as_steps(work, watch.returned);
            let parts = self.put_steps(&steps);
            if n == 0 {
                before = parts;
            }
        }
        self.send().await?;
        self.settle(1).await?;
        if before > 0 && !self.settle_parts(statements.len()).await? {
            self.settle(0).await?;
        }
        self.set_up()?;
        let mut ended = Vec::with_capacity(statements.len());
        for (work, watch) in statements {
            let mut answer = Gathered::default();
            let outcome = self.gather_one(work, watch.returned, &mut answer).await?;
            let failed = outcome.error.is_some();
            ended.push((answer.0, outcome));
            if failed {
                break;
            }
        }
        // Nothing but the end of the request is left; an error of it has been told.
        self.settle(0).await?;
        Ok(ended)
    }

    async fn repeat(&mut self, effect: &Effect) -> Result<Outcome, Broken> {
        self.spent = true;
        self.follow(false);
        self.queue_own(&CAPTURE, &bind_rest(&[]));
        self.close_request();
        self.queue_effect(effect);
        self.close_request();
        let watch = Watch { rows: true, ..Watch::default() };
        let after = self.queue_watched(watch);
        self.follow(true);
        self.send().await?;
        self.settle(2 + after).await?;
        self.set_up()?;
        let mut outcome = self.relay(&mut Discard::default()).await?;
        self.collect_watched(watch, &mut outcome).await?;
        Ok(outcome)
    }

    async fn fingerprint(
        &mut self,
        filled: &[String],
    ) -> Result<Result<String, ServerError>, Broken> {
        let token = self.shared.token.clone();
        let filled = text_array(filled);
        self.close_request();
        self.queue_own(
            &FINGERPRINT,
            &bind_rest(&[(0, Some(token.as_bytes())), (1, Some(&filled))]),
        );
        self.send().await?;
        self.settle(1).await?;
        let word = |rows: TextRows| rows.into_iter().flatten().flatten().next().unwrap_or_default();
        Ok(self.collect().await?.map(word))
    }

    async fn standing(&mut self) -> Result<Result<Vec<Sequence>, ServerError>, Broken> {
        let token = self.shared.token.clone();
        let sql = "SELECT name, value, called, increment FROM lockstep.sequences($1, NULL)";
        let rows = match self.ask(sql, &[Some(&*token)]).await? {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        let unreadable = || Broken::Lost("the server describes a sequence in another way".into());
        rows.into_iter()
            .map(|row| own::standing(row).ok_or_else(unreadable))
            .collect::<Result<_, _>>()
            .map(Ok)
    }

    async fn send_bulk(&mut self, piece: &BulkPiece) -> Result<(), Broken> {
        match piece {
            BulkPiece::Data(data) => client::copy_data(&mut self.outgoing, data),
            BulkPiece::Done => client::copy_done(&mut self.outgoing),
            BulkPiece::Fail(why) => client::copy_fail(&mut self.outgoing, why),
        }
        if self.bulk_by_steps && !matches!(piece, BulkPiece::Data(_)) {
            // The server passed over the Sync that came before the data.
            client::sync(&mut self.outgoing);
        }
        self.send().await
    }

    async fn finish_bulk<S: Sink>(
        &mut self,
        watch: Watch<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let mut outcome = self.relay(sink).await?;
        self.queue_watched(watch);
        self.send().await?;
        self.collect_watched(watch, &mut outcome).await?;
        Ok(outcome)
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        self.send().await
    }

    async fn drain(&mut self) -> Result<Option<Mishap>, Broken> {
        self.send().await?;
        let limit = self.shared.live.bounds().dead_after;
        match tokio::time::timeout(limit, self.settle(0)).await {
            Ok(settled) => settled?,
            Err(_) => return Err(Broken::Silent(format!("no answer within {limit:?}"))),
        }
        Ok(self.take_error())
    }

    fn outstanding(&self) -> usize {
        self.outstanding_requests()
    }

    async fn begun(&mut self) -> Result<(), Broken> {
        self.send().await?;
        let limit = self.shared.live.bounds().dead_after;
        let begun = tokio::time::timeout(limit, self.settle_until_open()).await;
        begun.unwrap_or_else(|_| Err(Broken::Silent(format!("no answer within {limit:?}"))))
    }

    async fn ask(
        &mut self,
        sql: &str,
        params: &[Option<&str>],
    ) -> Result<Result<TextRows, ServerError>, Broken> {
        let params: Vec<_> = params.iter().map(|p| (0, p.map(str::as_bytes))).collect();
        self.queue_unnamed(sql, &bind_rest(&params));
        self.send().await?;
        self.settle(1).await?;
        self.collect().await
    }

    async fn idle<S: Sink>(&mut self, sink: &mut S) -> Result<(), Broken> {
        self.unasked(sink).await
    }

    fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    async fn cancel(canceller: &Canceller) {
        canceller.cancel().await;
    }

    async fn end(_canceller: &Canceller) -> bool {
        // Rows alone are locked here, by keys: no follower locks more than the leader.
        false
    }

    fn tx_state(&self) -> TxState {
        self.state()
    }

    fn is_spent(&self) -> bool {
        self.spent || self.canceller.aim.may_be_struck()
    }

    fn is_quiet(&mut self) -> bool {
        self.is_quiet()
    }
}
