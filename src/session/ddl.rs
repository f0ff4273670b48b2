//! DDL, and what may not run in a transaction.

use futures_util::future::join_all;
use lockstep_protocol::pg::auth::ScramVerifier;

use super::leader::internal;
use super::run::Step;
use super::transaction::Place;
use super::{Session, Stop, shares};
use crate::backend::Purpose;
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Protocol, Sink, TxMode, Watch, Work};
use crate::sql::{Ddl, Hold, Maintenance, Password, Split, Touched};
use crate::store::journal::Effect;

/// Rounds of PBKDF2 in a verifier, as the server's own default.
const SCRAM_ITERATIONS: u32 = 4096;

/// How long DDL that must not race with commits waits for a lock.
const ALONE_LOCK: &str = "SET LOCAL lock_timeout = '3s'";

impl<P: Protocol> Session<P> {
    /// Runs DDL on the leader, then on the followers, in the transaction.
    pub(super) async fn ddl(&mut self, step: &Step<'_, P::Work>, ddl: &Ddl) -> Result<(), Stop> {
        self.may_write()?;
        if ddl.duplicate_trigger {
            return self.answered(step, "CREATE TRIGGER");
        }
        if self.tx.is_none() {
            self.open_block(false, TxMode::default());
        }
        self.hold_schema().await?;
        if step.statement.tag == "truncate" && !step.statement.resets_sequences {
            // What its triggers do must be seen: it is captured like any other write.
            return self.write(step, false, Hold::Statement).await;
        }
        if let Some(split) = &ddl.split {
            return self.create_and_fill(step, split).await;
        }
        if ddl.reads_rows {
            return self.ddl_alone(step, ddl).await;
        }
        if !ddl.steps.is_empty() {
            return self.in_steps(step, ddl).await;
        }
        self.ddl_streamed(step, ddl).await
    }

    async fn ddl_streamed(&mut self, step: &Step<'_, P::Work>, ddl: &Ddl) -> Result<(), Stop> {
        let mut text = step.sql.to_owned();
        let mut rewritten = None;
        if let Some(password) = &ddl.password {
            text = with_verifier(&step.text.sql, step, password);
            rewritten = step.work.rewritten(&text);
        }
        let outcome =
            self.on_leader(rewritten.as_ref().unwrap_or(step.work), Watch::default()).await?;
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        let follower = ddl.followers.clone().unwrap_or(text);
        self.add_ddl(follower).await?;
        if let Some(after) = &ddl.after {
            self.quietly(after).await?;
            self.add_ddl(after.clone()).await?;
        }
        self.note_temporary(step.statement);
        Ok(())
    }

    /// DDL that fills existing rows with values of their own: the schema as text, the rows as they
    /// are on the leader.
    async fn in_steps(&mut self, step: &Step<'_, P::Work>, ddl: &Ddl) -> Result<(), Stop> {
        for part in &ddl.steps {
            if !part.captured {
                self.quietly(&part.sql).await?;
                self.add_ddl(part.sql.clone()).await?;
                continue;
            }
            let Some(work) = step.work.rewritten(&part.sql) else {
                return Err(internal("no way to send a statement of ours").into());
            };
            let from = self.tx.as_ref().map_or(0, |tx| tx.effects.len());
            let mark = self.client.buffer().len();
            let watch = Watch {
                rows: true,
                sequences: Some(&step.statement.sequences),
                ..Watch::default()
            };
            let outcome = self.on_leader(&work, watch).await?;
            if let Some(error) = outcome.error {
                return Err(Stop::Server(error));
            }
            self.client.buffer().truncate(mark);
            self.add_captured(Touched::Unknown, outcome, step.statement.resets_sequences)?;
            self.stream(from).await?;
        }
        self.answered(step, "ALTER TABLE")
    }

    async fn add_ddl(&mut self, sql: String) -> Result<(), Stop> {
        let Some(tx) = &mut self.tx else {
            return Err(internal("no transaction").into());
        };
        let from = tx.effects.len();
        tx.ddl = true;
        tx.touch(&Touched::Unknown);
        tx.add(Effect::Text { sql, rows: None }, true);
        self.stream(from).await
    }

    /// Runs a statement of ours in the transaction on the leader.
    pub(super) async fn quietly(&mut self, sql: &str) -> Result<(), Stop> {
        self.ensure_leading().await?;
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        let Place::Leading { leader, .. } = &mut tx.place else {
            return Ok(());
        };
        match leader.ask(sql, &[]).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(broken) => {
                self.leader_lost(&broken).await?;
                Err(Failure::retry("its backend died in the middle of DDL").into())
            }
        }
    }

    /// DDL whose outcome depends on rows: no commit is under way while it runs anywhere.
    async fn ddl_alone(&mut self, step: &Step<'_, P::Work>, ddl: &Ddl) -> Result<(), Stop> {
        self.ensure_leading().await?;
        let shared = self.shared.clone();
        let alone = shared.keeper.gate.write().await;
        self.quietly(ALONE_LOCK).await?;
        self.ddl_streamed(step, ddl).await?;
        if let Some(tx) = &mut self.tx {
            shares::open_all(&shared, &self.user, tx, false).await;
            if let Place::Leading { shares, .. } = &mut tx.place {
                shares::drain(&shared, shares).await;
            }
        }
        drop(alone);
        Ok(())
    }

    /// CREATE TABLE AS: the empty table everywhere, then its rows as they are on the leader.
    async fn create_and_fill(
        &mut self,
        step: &Step<'_, P::Work>,
        split: &Split,
    ) -> Result<(), Stop> {
        let (Some(create), Some(fill)) =
            (step.work.rewritten(&split.create), step.work.rewritten(&split.fill))
        else {
            return Err(Failure::new(Kind::Refused, "CREATE TABLE AS in this form")
                .hint("create the table first, then INSERT … SELECT into it")
                .into());
        };
        let mark = self.client.buffer().len();
        let outcome = self.on_leader(&create, Watch::default()).await?;
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        self.client.buffer().truncate(mark);
        let Some(effect) = create.effect(&split.create, None) else {
            return Err(internal("no bytes to repeat").into());
        };
        let from = {
            let Some(tx) = &mut self.tx else {
                return Err(internal("no transaction").into());
            };
            let from = tx.effects.len();
            tx.ddl = true;
            tx.touch(&Touched::Unknown);
            tx.add(effect, true);
            from
        };
        let watch =
            Watch { rows: true, sequences: Some(&step.statement.sequences), ..Watch::default() };
        let outcome = self.on_leader(&fill, watch).await?;
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        self.client.buffer().truncate(mark);
        let rows = outcome.rows.unwrap_or(0);
        self.add_captured(Touched::Unknown, outcome, false)?;
        self.stream(from).await?;
        self.answered(step, &format!("{} {rows}", split.verb))
    }

    /// Runs maintenance: on the leader, then on the followers, where a failure does no harm.
    pub(super) async fn maintenance(
        &mut self,
        step: &Step<'_, P::Work>,
        kind: &Maintenance,
    ) -> Result<(), Stop> {
        if let Maintenance::Journaled(what) = kind {
            return self.outside(step, what).await;
        }
        if self.tx.is_some() {
            // The server says that it cannot run inside a transaction block.
            return self.leader_read(step, Hold::Statement).await;
        }
        let outcome = self.leader_alone(step.work, Watch::default()).await?;
        self.settle_last();
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        for (backend, why) in self.on_followers(step.sql).await {
            let backend = &self.shared.backends[backend].name;
            tracing::warn!(%backend, %why, sql = step.statement.tag, "maintenance failed on a follower");
        }
        Ok(())
    }

    /// Runs a statement on every follower at once; those on which it failed.
    pub(super) async fn on_followers(&self, sql: &str) -> Vec<(usize, String)> {
        let view = self.shared.keeper.view();
        let runs = view.followers().iter().map(|&follower| async move {
            let pool = self.shared.backends[follower].pool(&self.user, Purpose::Write);
            let mut lease = pool.checkout().await.map_err(|error| (follower, error.to_string()))?;
            lease.adopt(&self.settings);
            match lease.ask(sql, &[]).await {
                Ok(Ok(_)) => {
                    lease.release();
                    Ok(())
                }
                Ok(Err(error)) => Err((follower, error.to_string())),
                Err(broken) => Err((follower, broken.to_string())),
            }
        });
        join_all(runs).await.into_iter().filter_map(Result::err).collect()
    }
}

/// The statement with one verifier in the place of the password: every server would make another.
fn with_verifier<W>(whole: &str, step: &Step<'_, W>, password: &Password) -> String {
    let salt: [u8; 16] = rand::random();
    let verifier = ScramVerifier::from_password(&password.plain, &salt, SCRAM_ITERATIONS);
    let range = &step.statement.range;
    let (head, tail) =
        (&whole[range.start..password.range.start], &whole[password.range.end..range.end]);
    format!("{head}'{verifier}'{tail}").trim().to_owned()
}
