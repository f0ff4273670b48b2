//! How a connection gets an application's settings, and a transaction its own.

use super::cancel::{BEGIN, TIME_LIMIT, UNLIMITED};
use super::link::MyLink;
use crate::exchange::{Settings, TxMode};
use crate::sql::{Isolation, READ_ONLY};

/// The setting that bounds a wait for a row.
const LOCK_WAIT: &str = "innodb_lock_wait_timeout";
/// The setting that bounds a wait for a table's definition.
pub(super) const METADATA_WAIT: &str = "lock_wait_timeout";
/// The settings that limit how long a statement may take.
pub(super) const TIME_LIMITS: &[&str] =
    &["max_statement_time", "max_execution_time", METADATA_WAIT, LOCK_WAIT];
/// The setting that chooses an isolation level.
const ISOLATION: &str = "default_transaction_isolation";

impl MyLink {
    /// Brings the session's settings to `wanted`.
    pub(super) fn adopt_settings(&mut self, wanted: &Settings) {
        self.hurry_again();
        if std::sync::Arc::ptr_eq(&self.settings, wanted) {
            return;
        }
        let gone: Vec<String> =
            self.settings.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            let statement = self.reset_statement(&key);
            self.push_text(&statement, "settings");
        }
        for (key, statement) in wanted.iter() {
            if self.settings.get(key) != Some(statement) && self.takes(key, statement) {
                self.push_text(statement, "settings");
            }
        }
        self.settings = wanted.clone();
        self.note_role();
    }

    /// There is no way back to the role that the login gave.
    pub(super) fn note_role(&mut self) {
        self.spent |= self.settings.contains_key("role");
    }

    /// Whether a setting is the application's to choose here.
    fn takes(&self, key: &str, statement: &str) -> bool {
        // A reader stays read-only, whatever the application has chosen for its writes.
        if self.reader {
            return key != READ_ONLY;
        }
        // Below REPEATABLE READ a statement cannot be repeated in the order of the commits.
        key != ISOLATION || statement.to_ascii_uppercase().contains("SERIALIZABLE")
    }

    pub(super) fn reset_statement(&self, key: &str) -> String {
        match key {
            "character_set_client" | "character_set_connection" | "character_set_results" => {
                format!("SET SESSION {key}=utf8mb4")
            }
            "collation_connection" => format!("SET SESSION {key}=utf8mb4_general_ci"),
            "use" => format!("USE `{}`", self.canceller.login.database.replace('`', "``")),
            "last_insert_id" => "SET last_insert_id=0".to_owned(),
            _ if key.starts_with('@') => format!("SET @`{}`=NULL", key[1..].replace('`', "``")),
            ISOLATION => "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ".to_owned(),
            "role" => "SET ROLE NONE".to_owned(),
            READ_ONLY if self.reader => "SET SESSION TRANSACTION READ ONLY".to_owned(),
            READ_ONLY => "SET SESSION TRANSACTION READ WRITE".to_owned(),
            _ => format!("SET SESSION {key}=DEFAULT"),
        }
    }

    /// What is sent while no transaction is open waits for a COMMIT from now on. A share's effects are sent one
    /// after the other: when a deadlock has the server roll back the transaction in the middle, those
    /// behind must not become commits of their own. Most connections that carry a share carry another one
    /// next, so that `autocommit` is given back only when something else is to be sent ([`MyLink::push`]).
    /// Gives whether a share before has left it off.
    fn hold_back(&mut self) -> bool {
        self.sharing = true;
        let held = std::mem::replace(&mut self.holds_back, true);
        if !held {
            self.push_text("SET autocommit=0", "settings");
        }
        held
    }

    /// Queues what makes a transaction of the effects behind it. Where `autocommit` is known to be off, the first of them
    /// opens it; a session that reads only by default has to be told otherwise.
    pub(super) fn push_share(&mut self, settings: &Settings) {
        let held = self.hold_back();
        let limited = self.limited(settings);
        self.adopt_settings(&limited);
        if !held || limited.contains_key(READ_ONLY) {
            self.push_text("START TRANSACTION READ WRITE", "part of a transaction");
        }
    }

    /// Queues the opening of a transaction.
    pub(super) fn push_begin(&mut self, mode: &TxMode) {
        if let Some(level) = mode.isolation {
            // Below REPEATABLE READ a statement cannot be repeated in the order of the commits.
            let level = if self.reader { level } else { level.max(Isolation::RepeatableRead) };
            let word = match level {
                Isolation::ReadUncommitted => "READ UNCOMMITTED",
                Isolation::ReadCommitted => "READ COMMITTED",
                Isolation::RepeatableRead => "REPEATABLE READ",
                Isolation::Serializable => "SERIALIZABLE",
            };
            self.push_text(&format!("SET TRANSACTION ISOLATION LEVEL {word}"), BEGIN);
        }
        let snapshot = mode.snapshot.then_some("WITH CONSISTENT SNAPSHOT");
        let access = match mode.read_only {
            _ if self.reader => Some("READ ONLY"),
            None => None,
            Some(true) => Some("READ ONLY"),
            Some(false) => Some("READ WRITE"),
        };
        let how: Vec<&str> = snapshot.into_iter().chain(access).collect();
        self.push_text(&format!("START TRANSACTION {}", how.join(", ")), BEGIN);
    }

    /// The settings of a follower's part of a transaction: a plan may lock more there than it did on
    /// the leader, and a share that waits too long is applied again, alone.
    fn limited(&self, settings: &Settings) -> Settings {
        // Whole seconds, and none at all would mean not to wait.
        let seconds = self.shared.live.bounds().follower_lock.as_secs().max(1);
        let mut limited = (**settings).clone();
        limited.insert(LOCK_WAIT.to_owned(), format!("SET SESSION {LOCK_WAIT}={seconds}"));
        if self.is_hurried() || settings.contains_key(TIME_LIMIT) {
            // How long a statement may take is judged on the leader.
            limited.insert(TIME_LIMIT.to_owned(), UNLIMITED.to_owned());
        }
        Settings::new(limited)
    }
}
