//! SQL's own prepared statements, and statements whose text comes from elsewhere.
//!
//! Where EXECUTE is given to a server, PREPARE follows the session like a setting. Where what is
//! executed has to be known here, the text stays here, and a statement with the text in it runs.

use std::sync::Arc;

use super::leader::internal;
use super::run::Step;
use super::transaction::Place;
use super::{Session, Stop};
use crate::catalog::Text;
use crate::error::{Failure, Kind};
use crate::exchange::{Client, Link, PREPARED, Protocol, Settings, Work};
use crate::sql::{Class, Hold, Indirect, Recalled, Scope, Source, Statement};
use crate::store::capture::quoted;

/// A statement of SQL's own PREPARE.
pub(super) enum Prepared {
    /// The servers of the session have it, too.
    Statement(Box<Statement>),
    /// Its text, and what of the session its meaning depended on.
    Text(String, Arc<Scope>),
}

impl<P: Protocol> Session<P> {
    /// SQL's own PREPARE: it follows the session like a setting.
    pub(super) async fn prepare(
        &mut self,
        step: &Step<'_, P::Work>,
        name: &str,
        body: &Statement,
    ) -> Result<(), Stop> {
        self.establish(step).await?;
        self.keep(&prepared_key(name), Some(step.sql.to_owned()), None, &[]);
        if self.tx.is_none() {
            self.note_context(step.sql);
        }
        self.prepared.insert(name.to_owned(), Prepared::Statement(Box::new(body.clone())));
        // Not even a rollback takes a prepared statement back.
        if let Some(tx) = &mut self.tx {
            let mut before = (*tx.before.0).clone();
            before.insert(prepared_key(name), step.sql.to_owned());
            tx.before.0 = Settings::new(before);
            tx.sets = true;
        }
        Ok(())
    }

    pub(super) async fn execute(
        &mut self,
        step: &Step<'_, P::Work>,
        name: &str,
    ) -> Result<(), Stop> {
        let Some(Prepared::Statement(body)) = self.prepared.get(name) else {
            return self.leader_read(step, Hold::Statement).await;
        };
        let body = body.clone();
        let step = Step { statement: &body, ..*step };
        match &body.class {
            // The text that a follower would get is EXECUTE: rows travel instead.
            Class::Keyed => self.write(&step, false, Hold::Statement).await,
            Class::Captured { hold } => self.write(&step, false, *hold).await,
            Class::Refused(_) => Box::pin(self.dispatch(&step)).await,
            Class::Read => self.read(&step).await,
            _ => self.leader_read(&step, Hold::Statement).await,
        }
    }

    pub(super) async fn deallocate(
        &mut self,
        step: &Step<'_, P::Work>,
        name: Option<&str>,
    ) -> Result<(), Stop> {
        let Some(name) = name else {
            for (name, prepared) in std::mem::take(&mut self.prepared) {
                self.drop_prepared(&name, &prepared);
            }
            self.client.forget_prepared(None);
            return self.answered(step, "DEALLOCATE ALL");
        };
        if let Some(prepared) = self.prepared.remove(name) {
            self.drop_prepared(name, &prepared);
            return self.answered(step, "DEALLOCATE");
        }
        if self.client.forget_prepared(Some(name)) {
            return self.answered(step, "DEALLOCATE");
        }
        self.leader_read(step, Hold::Statement).await
    }

    fn drop_prepared(&mut self, name: &str, prepared: &Prepared) {
        if matches!(prepared, Prepared::Statement(_)) {
            self.keep(&prepared_key(name), None, None, &[]);
        }
    }

    /// Looks up the text that a statement is about, and keeps it or runs it.
    pub(super) async fn indirect(
        &mut self,
        step: &Step<'_, P::Work>,
        indirect: &Indirect,
    ) -> Result<(), Stop> {
        if let Some(name) = &indirect.keep {
            // Whether or not the new one can be prepared, the former one is gone.
            self.prepared.remove(name);
        }
        let text = match &indirect.source {
            Source::Constant(text) => text.clone(),
            Source::Asked(query) => self.ask_text(query).await?,
            Source::Kept(name) => self.kept(name)?,
        };
        let sql = indirect.statement(&text);
        let Some(work) = step.work.rewritten(&sql) else {
            return Err(internal("no way to send a statement of ours").into());
        };
        if let Some(name) = &indirect.keep {
            return self.try_and_keep(&work, name, text).await;
        }
        self.instead(sql, &work).await
    }

    /// Runs a statement with what only the session knows in the places where it asks for it.
    pub(super) async fn recalled(
        &mut self,
        step: &Step<'_, P::Work>,
        calls: &[Recalled],
    ) -> Result<(), Stop> {
        let (mut sql, mut at) = (String::new(), step.statement.range.start);
        for call in calls {
            let known = self.client.recall(call.what);
            let value = match known {
                Some(value) => value.to_string(),
                None => {
                    self.ask_text(&format!("SELECT {}", &step.text.sql[call.range.clone()])).await?
                }
            };
            sql.push_str(&step.text.sql[at..call.range.start]);
            sql.push_str(&value);
            sql.push_str(&call.name);
            at = call.range.end;
        }
        sql.push_str(&step.text.sql[at..step.statement.range.end]);
        let Some(work) = step.work.rewritten(&sql) else {
            return Err(internal("no way to send a statement of ours").into());
        };
        self.instead(sql, &work).await
    }

    /// Runs another statement in the place of one that has told which.
    async fn instead(&mut self, sql: String, work: &P::Work) -> Result<(), Stop> {
        let whole = Arc::new(Text::new(sql));
        let plan = self.shared.catalogs.plan(&whole, &self.scope);
        let [statement] = plan.script.statements.as_slice() else {
            return Err(internal("what is to be run is not one statement").into());
        };
        if matches!(statement.class, Class::Indirect(_) | Class::Recall(_)) {
            return Err(internal("what is to be run is about another statement").into());
        }
        Box::pin(self.run_step(&Step::of(&whole, &plan, statement, work))).await
    }

    /// Has a server say whether it can prepare a text, and keeps it under its name.
    async fn try_and_keep(
        &mut self,
        trial: &P::Work,
        name: &str,
        text: String,
    ) -> Result<(), Stop> {
        if self.prepared.len() >= self.shared.settings().max_prepared {
            let what = "Can't create more prepared statements";
            return Err(Failure::new(Kind::TooManyConnections, what)
                .number(1461)
                .code("42000")
                .hint("deallocate some, or raise `[limits] max_prepared_per_client`")
                .into());
        }
        self.unexecuted(trial).await?;
        self.prepared.insert(name.to_owned(), Prepared::Text(text, self.scope.clone()));
        Ok(())
    }

    /// The text that is kept under a name.
    fn kept(&self, name: &str) -> Result<String, Stop> {
        let Some(Prepared::Text(text, scope)) = self.prepared.get(name) else {
            let what = format!("Unknown prepared statement handler ({name}) given to EXECUTE");
            return Err(Failure::new(Kind::Protocol, what).number(1243).code("HY000").into());
        };
        let now = &self.scope;
        if scope.search_path != now.search_path || scope.sql_mode != now.sql_mode {
            let what = "the statement was prepared in another database, or under another sql_mode";
            return Err(Failure::new(Kind::Refused, what)
                .hint("PREPARE it again, or set them back before EXECUTE")
                .into());
        }
        Ok(text.clone())
    }

    /// Asks a server of the session for a text.
    async fn ask_text(&mut self, query: &str) -> Result<String, Stop> {
        if self.tx.is_some() {
            self.ensure_leading().await?;
        } else {
            let mut lease = match self.held.take() {
                Some(lease) => lease,
                None => self.read_lease().await?,
            };
            lease.adopt(&self.settings);
            self.last = Some(lease);
        }
        let lease = match self.tx.as_mut().map(|tx| &mut tx.place) {
            Some(Place::Leading { leader, .. }) => Some(leader),
            _ => self.last.as_mut(),
        };
        let lease = lease.ok_or_else(|| internal("no connection to ask"))?;
        let sends_any = lease.sends_any_text();
        let answer = lease.ask(query, &[]).await;
        self.settle_last();
        let rows = match answer {
            Ok(rows) => rows?,
            Err(broken) => return Err(Failure::retry(broken.to_string()).into()),
        };
        let text = rows.into_iter().flatten().next().flatten();
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            let what = "You have an error in your SQL syntax: there is no text to prepare";
            return Err(Failure::new(Kind::Refused, what).number(1064).code("42000").into());
        };
        if !sends_any && !text.is_ascii() {
            let what = "a text that is not ASCII, in a session that is not in UTF-8";
            return Err(Failure::new(Kind::Refused, what).hint("SET NAMES utf8mb4").into());
        }
        Ok(text)
    }
}

/// Under which key a prepared statement follows its session.
pub(super) fn prepared_key(name: &str) -> String {
    format!("{PREPARED}{}", quoted(name))
}
