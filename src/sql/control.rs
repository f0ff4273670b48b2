//! Statements about the session and its transaction: settings, BEGIN and what ends it.

/// SET and RESET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetOp {
    /// SET key = …; `role` and `session_authorization` among the keys.
    Assign {
        /// The setting, in lower case.
        key: String,
        /// SET LOCAL.
        local: bool,
        /// Its value, when that is a single constant.
        value: Option<String>,
        /// All its values, when they are constants (`search_path`). Empty: to the default.
        list: Vec<String>,
    },
    /// RESET key, SET key TO DEFAULT.
    Reset {
        /// The setting, in lower case.
        key: String,
    },
    /// RESET ALL.
    ResetAll,
    /// SET TRANSACTION, with the text of the modes.
    Transaction(String),
    /// SET SESSION CHARACTERISTICS AS TRANSACTION: see `Statement::modes`.
    Characteristics,
    /// SET CONSTRAINTS.
    Constraints,
    /// Several settings of the session at once, in this order.
    Each(Vec<Setting>),
    /// The same, for connections to come: no server runs the statement itself.
    Noted(Vec<Setting>),
}

/// The setting that says whether transactions of a session may write, as all dialects keep it.
pub const READ_ONLY: &str = "default_transaction_read_only";

impl SetOp {
    /// Whether it is about whether transactions of the session may write.
    #[must_use]
    pub fn is_about_writing(&self) -> bool {
        match self {
            Self::Assign { key, .. } | Self::Reset { key } => key == READ_ONLY,
            Self::Each(settings) | Self::Noted(settings) => {
                settings.iter().any(|setting| setting.key == READ_ONLY)
            }
            Self::Characteristics => true,
            Self::ResetAll | Self::Transaction(_) | Self::Constraints => false,
        }
    }
}

/// What one of several assignments leaves in the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The setting, in lower case.
    pub key: String,
    /// How another connection gets it.
    pub told: Told,
}

/// How a setting follows its session from one connection to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// By this statement, which sets this constant. No constant: the server's default.
    Constant(String, Option<String>),
    /// By the statement that is the answer to this query, in the session that has the setting; the
    /// answer's second column is the value.
    Asked(String),
    /// Not at all: another setting has taken its place.
    Dropped,
}

/// Transaction control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxOp {
    /// BEGIN, START TRANSACTION.
    Begin {
        /// ISOLATION LEVEL, where given.
        isolation: Option<Isolation>,
        /// READ ONLY or READ WRITE, where given.
        read_only: Option<bool>,
        /// DEFERRABLE, where given.
        deferrable: Option<bool>,
        /// What it sees is what was there when it began, not when it first read.
        snapshot: bool,
    },
    /// COMMIT, END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint(String),
    /// RELEASE.
    Release(String),
    /// ROLLBACK TO.
    RollbackTo(String),
    /// From now on every statement is a transaction (true), or opens one if none is open (false).
    /// Turned on, it ends the transaction that is open.
    Autocommit(bool),
}

/// The modes of a transaction, where they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// READ ONLY or READ WRITE.
    pub read_only: Option<bool>,
    /// DEFERRABLE.
    pub deferrable: Option<bool>,
}

/// Isolation levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// The same as READ COMMITTED in PostgreSQL.
    ReadUncommitted,
    /// A snapshot for each statement.
    ReadCommitted,
    /// A snapshot for the transaction.
    RepeatableRead,
    /// As if one after the other.
    Serializable,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockstep_protocol::Dialect;

    use crate::sql::{Scope, ignorant};

    #[test]
    fn what_lets_a_session_write_is_known_in_all_its_forms() {
        let scope = Arc::new(Scope::default());
        // MariaDB's and MySQL's sessions cannot choose it.
        let opens = |sql: &str| {
            let script = ignorant(Dialect::Postgres).judge(sql, &scope).expect("a statement");
            script.statements[0].opens_for_writes()
        };
        for (sql, expected) in [
            ("set default_transaction_read_only = off", true),
            ("reset default_transaction_read_only", true),
            ("set session characteristics as transaction read write", true),
            ("select set_config('default_transaction_read_only', 'off', false)", true),
            ("set timezone = 'UTC'", false),
            ("select set_config('timezone', 'UTC', false)", false),
            ("select 1", false),
        ] {
            assert_eq!(opens(sql), expected, "{sql}");
        }
    }
}
