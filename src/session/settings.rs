//! SET in all its forms: what the application chose, and how it follows the session from one
//! server connection to the next.

use std::sync::Arc;

use super::leader::ATTEMPTS;
use super::run::Step;
use super::transaction::Place;
use super::{Session, Stop};
use crate::config::Consistency;
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Manners, Outcome, Protocol, Settings, Sink, Watch};
use crate::sql::{Isolation, Modes, Scope, SetOp, Setting, Told};
use crate::store::capture::quoted;

/// The setting that chooses what the session's reads are sure to see.
pub const CONSISTENCY: &str = "lockstep.consistency";

/// The level of consistency of this name.
///
/// # Errors
/// Which names there are.
pub fn consistency_of(word: &str) -> Result<Consistency, Failure> {
    Consistency::of(word).ok_or_else(|| {
        let what = format!("invalid value for parameter \"{CONSISTENCY}\": \"{word}\"");
        Failure::new(Kind::Refused, what)
            .code("22023")
            .number(1231)
            .hint("Available values: strong, session, eventual.")
    })
}

/// The isolation level of transactions that do not choose one.
pub(super) fn default_isolation(settings: &Settings, manners: &Manners) -> Isolation {
    let chosen = manners.isolation_keys.iter().find_map(|key| settings.get(*key));
    let Some(statement) = chosen else {
        return manners.isolation;
    };
    let statement = statement.to_ascii_lowercase();
    // Unknown words count as the strictest level: that only costs portability.
    if statement.contains("uncommitted") || statement.contains("committed") {
        Isolation::ReadCommitted
    } else if statement.contains("repeatable") {
        Isolation::RepeatableRead
    } else {
        Isolation::Serializable
    }
}

impl<P: Protocol> Session<P> {
    /// The scope of a session that has run nothing yet.
    pub(super) fn initial_scope(&self) -> Arc<Scope> {
        let mut scope = Scope { user: self.user.clone(), ..Scope::default() };
        for (key, statement) in self.settings.iter() {
            adjust(&mut scope, key, statement_value(statement).as_deref(), &[]);
        }
        Arc::new(scope)
    }

    /// The settings that a connection needs before the transaction's own statements run on it.
    pub(super) fn base_settings(&self) -> Settings {
        self.tx.as_ref().map_or_else(|| self.settings.clone(), |tx| tx.before.0.clone())
    }

    /// Runs a SET.
    pub(super) async fn set(&mut self, step: &Step<'_, P::Work>, op: &SetOp) -> Result<(), Stop> {
        match op {
            SetOp::Assign { key, value, .. } if key == CONSISTENCY => {
                self.set_consistency(step, value.as_deref())
            }
            SetOp::Assign { key, local, value, list } => {
                self.establish(step).await?;
                let statement = follows(step.sql, key, value.as_deref(), *local);
                if *local {
                    if let Some(tx) = &mut self.tx {
                        tx.add_context(&statement);
                    }
                    self.adjust_scope(key, value.as_deref(), list);
                    return Ok(());
                }
                self.keep(key, Some(statement.clone()), value.as_deref(), list);
                self.note_context(&statement);
                Ok(())
            }
            SetOp::Reset { key } => {
                if let Some(first) = self.initial.get(key).cloned() {
                    let value = statement_value(&first);
                    self.keep(key, Some(first.clone()), value.as_deref(), &[]);
                    self.note_context(&first);
                    self.report_settings().await?;
                    return self.answered(step, "RESET");
                }
                self.establish(step).await?;
                self.keep(key, None, None, &[]);
                self.note_context(step.sql);
                Ok(())
            }
            SetOp::ResetAll => self.reset_all(step).await,
            SetOp::Transaction(_) => self.set_transaction(step).await,
            SetOp::Characteristics => {
                self.establish(step).await?;
                for (key, statement) in characteristics(step.statement.modes.unwrap_or_default()) {
                    self.keep(key, Some(statement), None, &[]);
                }
                self.note_context(step.sql);
                Ok(())
            }
            SetOp::Each(settings) => self.set_each(step, settings).await,
            SetOp::Noted(settings) => {
                for Setting { key, told } in settings {
                    if let Told::Constant(statement, value) = told {
                        self.keep(key, Some(statement.clone()), value.as_deref(), &[]);
                    }
                }
                self.answered(step, "SET")
            }
            SetOp::Constraints => {
                if self.tx.is_some() {
                    self.ensure_leading().await?;
                }
                self.establish(step).await?;
                self.note_context(step.sql);
                Ok(())
            }
        }
    }

    /// Several assignments in one statement: each is kept by itself.
    async fn set_each(
        &mut self,
        step: &Step<'_, P::Work>,
        settings: &[Setting],
    ) -> Result<(), Stop> {
        if self.tx.is_some() && settings.iter().any(|s| matches!(s.told, Told::Asked(_))) {
            self.ensure_leading().await?;
        }
        self.establish(step).await?;
        let mut computed = Vec::new();
        for Setting { key, told } in settings {
            match told {
                Told::Constant(..) if key == "autocommit" => {
                    if !std::mem::replace(&mut self.autocommit, true) {
                        self.commit_before().await?;
                    }
                }
                Told::Constant(statement, value) => {
                    computed.push(statement.clone());
                    self.keep(key, Some(statement.clone()), value.as_deref(), &[]);
                }
                Told::Dropped => self.keep(key, None, None, &[]),
                Told::Asked(query) => {
                    let (statement, value) = self.ask_setting(query).await?;
                    computed.push(statement.clone());
                    self.keep(key, Some(statement), value.as_deref(), &[]);
                }
            }
        }
        // Another server could compute another value, from variables that only this one has.
        if self.tx.is_some() && settings.iter().any(|s| matches!(s.told, Told::Asked(_))) {
            computed.iter().for_each(|statement| self.note_context(statement));
        } else {
            self.note_context(step.sql);
        }
        Ok(())
    }

    /// Asks the connection that has just taken a setting how another one gets the same.
    async fn ask_setting(&mut self, query: &str) -> Result<(String, Option<String>), Stop> {
        let lease = match self.tx.as_mut().map(|tx| &mut tx.place) {
            Some(Place::Leading { leader, .. }) => Some(leader),
            Some(_) => None,
            None => self.last.as_mut(),
        };
        let lease = lease.ok_or_else(|| super::leader::internal("no connection to ask"))?;
        let answer = lease.ask(query, &[]).await;
        let rows = match answer {
            Ok(rows) => rows?,
            Err(broken) => return Err(Failure::retry(broken.to_string()).into()),
        };
        match rows.into_iter().next().map(|row| (row.first().cloned(), row.get(1).cloned())) {
            Some((Some(Some(statement)), value)) => Ok((statement, value.flatten())),
            _ => Err(super::leader::internal("a setting has no value").into()),
        }
    }

    /// `SELECT set_config(…)` with constants: a SET in other clothes.
    pub(super) async fn set_config(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        let Some((key, value, local)) = &step.statement.set_config else {
            return Ok(());
        };
        self.establish(step).await?;
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let statement =
            format!("SELECT pg_catalog.set_config({}, {}, {local})", literal(key), literal(value));
        let statement = follows(&statement, key, Some(value), *local);
        let list: Vec<String> = split_list(value);
        if *local {
            if let Some(tx) = &mut self.tx {
                tx.add_context(&statement);
                self.adjust_scope(key, Some(value), &list);
            }
            return Ok(());
        }
        self.keep(key, Some(statement.clone()), Some(value), &list);
        self.note_context(&statement);
        Ok(())
    }

    fn set_consistency(
        &mut self,
        step: &Step<'_, P::Work>,
        value: Option<&str>,
    ) -> Result<(), Stop> {
        self.consistency = match value {
            None | Some("default") => self.shared.settings().consistency,
            Some(word) => consistency_of(word)?,
        };
        self.answered(step, "SET")
    }

    /// Has a server judge the statement: where the transaction is, or on any connection.
    pub(super) async fn establish(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        // A connection for reads stays one, whatever its session chooses.
        let leads = step.statement.opens_for_writes();
        if self.tx.is_some() {
            if leads {
                self.ensure_leading().await?;
            }
            let outcome = match self.tx.as_ref().map(|tx| &tx.place) {
                Some(Place::Leading { .. }) => self.on_leader(step.work, Watch::default()).await?,
                _ => self.in_reading(step.work, &crate::sql::Touched::None).await?,
            };
            return outcome.error.map_or(Ok(()), |error| Err(Stop::Server(error)));
        }
        let settings = self.settings.clone();
        for _ in 0..ATTEMPTS {
            let mut lease = match self.held.take() {
                Some(lease) => lease,
                None if leads => self.leader_lease().await?,
                None => self.read_lease().await?,
            };
            lease.adopt(&settings);
            if let Some((lease, outcome)) = self.attempt(lease, step.work, Watch::default()).await?
            {
                self.last = Some(lease);
                return outcome.error.map_or(Ok(()), |error| Err(Stop::Server(error)));
            }
        }
        Err(super::leader::unavailable().into())
    }

    /// In a transaction: whoever joins it later runs the statement too.
    pub(super) fn note_context(&mut self, sql: &str) {
        if let Some(tx) = &mut self.tx {
            tx.add_context(sql);
            tx.sets = true;
            // Whatever becomes of the transaction, that connection has them.
            if P::MANNERS.settings_outlast
                && let Place::Leading { leader: lease, .. } | Place::Reading(lease) = &mut tx.place
            {
                lease.assume(self.settings.clone());
            }
        } else if let Some(lease) = &mut self.last {
            lease.assume(self.settings.clone());
        }
    }

    /// A transaction was undone: so is what was set in it, where that goes with it.
    pub(super) fn settings_before(&mut self, before: (Settings, Arc<Scope>)) {
        if !P::MANNERS.settings_outlast {
            (self.settings, self.scope) = before;
        }
    }

    /// What a statement left in the server's session follows the application's from now on.
    pub(super) fn note_left(&mut self, outcome: &Outcome) {
        for (key, statement) in &outcome.found.left {
            self.keep(key, Some(statement.clone()), None, &[]);
            // Not even a rollback takes it back.
            if let Some(tx) = &mut self.tx {
                let mut before = (*tx.before.0).clone();
                before.insert((*key).to_owned(), statement.clone());
                tx.before.0 = Settings::new(before);
            }
        }
    }

    /// Notes a setting; a transaction that is undone takes it back.
    pub(super) fn keep(
        &mut self,
        key: &str,
        statement: Option<String>,
        value: Option<&str>,
        list: &[String],
    ) {
        let mut settings = (*self.settings).clone();
        match statement {
            Some(statement) => settings.insert(key.to_owned(), statement),
            None => settings.remove(key),
        };
        self.settings = Settings::new(settings);
        self.adjust_scope(key, value, list);
    }

    fn adjust_scope(&mut self, key: &str, value: Option<&str>, list: &[String]) {
        let mut scope = (*self.scope).clone();
        adjust(&mut scope, key, value, list);
        if scope != *self.scope {
            self.scope = Arc::new(scope);
        }
    }

    /// RESET ALL, key by key: the proxy's own settings of a server's session must survive it.
    async fn reset_all(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        let mut statements: Vec<String> =
            self.settings.keys().map(|key| format!("RESET {key}")).collect();
        statements.extend(self.initial.values().cloned());
        let temp_tables = self.scope.temp_tables.clone();
        if self.tx.is_some() {
            self.ensure_leading().await?;
            for statement in &statements {
                self.quietly(statement).await?;
                self.note_context(statement);
            }
        }
        self.settings = self.initial.clone();
        let mut scope = (*self.initial_scope()).clone();
        scope.temp_tables = temp_tables;
        self.scope = Arc::new(scope);
        self.report_settings().await?;
        self.answered(step, "RESET")
    }

    /// Tells the client what the server reports now that the settings have changed behind its back.
    pub(super) async fn report_settings(&mut self) -> Result<(), Stop> {
        if self.tx.is_some() {
            return Ok(());
        }
        let mut lease = self.read_lease().await?;
        lease.adopt(&self.settings);
        if let Ok(None) = lease.drain().await {
            for (name, value) in lease.reported() {
                self.client.report(name, value);
            }
            lease.release();
        }
        Ok(())
    }

    async fn set_transaction(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        let modes = step.statement.modes.unwrap_or_default();
        if let Some(tx) = &mut self.tx
            && matches!(tx.place, Place::Nowhere)
        {
            tx.mode.isolation = modes.isolation.or(tx.mode.isolation);
            tx.mode.read_only = modes.read_only.or(tx.mode.read_only);
            tx.mode.deferrable = modes.deferrable.or(tx.mode.deferrable);
            return self.answered(step, "SET");
        }
        self.establish(step).await
    }
}

fn characteristics(modes: Modes) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if let Some(isolation) = modes.isolation {
        let word = match isolation {
            Isolation::ReadUncommitted => "read uncommitted",
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
            Isolation::Serializable => "serializable",
        };
        let key = "default_transaction_isolation";
        found.push((key, format!("SET {key} = '{word}'")));
    }
    let flags = [
        ("default_transaction_read_only", modes.read_only),
        ("default_transaction_deferrable", modes.deferrable),
    ];
    for (key, flag) in flags {
        if let Some(flag) = flag {
            found.push((key, format!("SET {key} = {flag}")));
        }
    }
    found
}

/// The statement by which a setting follows its session. Connections look for the one that says how
/// they are to write texts, and know one form of it.
fn follows(sql: &str, key: &str, value: Option<&str>, local: bool) -> String {
    match (key, value) {
        ("client_encoding", Some(value)) => {
            let statement = startup_statement(key, value);
            if local { statement.replacen("SET ", "SET LOCAL ", 1) } else { statement }
        }
        _ => sql.to_owned(),
    }
}

/// What a setting means for reading statements.
fn adjust(scope: &mut Scope, key: &str, value: Option<&str>, list: &[String]) {
    match key {
        "search_path" => {
            scope.search_path = match (value, list) {
                (_, [_, ..]) => Some(list.to_vec()),
                (Some(value), []) => Some(split_list(value)),
                (None, []) => Scope::default().search_path,
            };
        }
        // "$user" is not who it was.
        "role" | "session_authorization" => scope.search_path = None,
        "standard_conforming_strings" => {
            scope.standard_conforming_strings = value != Some("off");
        }
        "sql_mode" => scope.sql_mode = value.map(str::to_owned),
        "use" => scope.search_path = value.map(|database| vec![database.to_owned()]),
        _ => {}
    }
}

/// The names in a list as `set_config` takes it.
fn split_list(value: &str) -> Vec<String> {
    let trimmed = value.split(',').map(str::trim).filter(|part| !part.is_empty());
    trimmed.map(|part| part.trim_matches('"').to_owned()).collect()
}

/// The value in a statement of our own making.
fn statement_value(statement: &str) -> Option<String> {
    if let Some(name) = statement.strip_prefix("USE `") {
        return Some(name.strip_suffix('`')?.replace("``", "`"));
    }
    let (_, value) = statement.split_once(" TO ")?;
    let value = value.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(value.replace("''", "'"))
}

/// The statement that establishes a setting of a start-up message.
pub fn startup_statement(key: &str, value: &str) -> String {
    if key == "search_path" {
        // The value is a list already, quoted by whoever wrote it.
        return format!(
            "SELECT pg_catalog.set_config('search_path', '{}', false)",
            value.replace('\'', "''")
        );
    }
    format!("SET {} TO '{}'", quoted(key), value.replace('\'', "''"))
}
