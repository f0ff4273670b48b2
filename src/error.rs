//! What can go wrong, and what an application is told about it.
//!
//! `Kind` alone decides the SQLSTATE and the metric label, in one table, so that an error is described once.

use std::fmt;

/// Classes of failure that an application can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The transaction cannot be carried over to another backend; running it again is right.
    Retry,
    /// No backend can be reached within the limit.
    Unavailable,
    /// A limit of the configuration is reached.
    TooManyConnections,
    /// The statement cannot be made the same on every backend.
    Refused,
    /// The session is in an aborted transaction.
    InFailedTransaction,
    /// The bytes on the wire, or their order, are wrong.
    Protocol,
    /// The outcome of a COMMIT is not known.
    InDoubt,
    /// The server is going down, or the session was ended by an operator.
    Shutdown,
    /// A fault of ours.
    Internal,
}

impl Kind {
    /// The number and the SQLSTATE that an application of MySQL sees.
    pub fn mysql(self) -> (u16, &'static str) {
        match self {
            Self::Retry => (1213, "40001"),
            Self::Unavailable => (1047, "08S01"),
            Self::TooManyConnections => (1040, "08004"),
            Self::Refused => (1235, "42000"),
            Self::InFailedTransaction | Self::Internal => (1105, "HY000"),
            Self::Protocol => (1835, "HY000"),
            Self::InDoubt => (1180, "HY000"),
            Self::Shutdown => (1053, "08S01"),
        }
    }

    /// The SQLSTATE an application of PostgreSQL sees.
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::Retry => "40001",
            Self::Unavailable => "57P03",
            Self::TooManyConnections => "53300",
            Self::Refused => "0A000",
            Self::InFailedTransaction => "25P02",
            Self::Protocol => "08P01",
            Self::InDoubt => "08007",
            Self::Shutdown => "57P01",
            Self::Internal => "XX000",
        }
    }
}

/// An error as an application sees it: what, why, and what to do.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The class of the failure.
    pub kind: Kind,
    /// SQLSTATE where it differs from the one of `kind`.
    pub code: Option<&'static str>,
    /// MySQL's number where it differs from the one of `kind`.
    pub number: Option<u16>,
    /// What went wrong.
    pub message: String,
    /// Why.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of the given class.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, code: None, number: None, message: message.into(), detail: None, hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds why.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Replaces the SQLSTATE.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Replaces MySQL's number.
    #[must_use]
    pub fn number(mut self, number: u16) -> Self {
        self.number = Some(number);
        self
    }

    /// The SQLSTATE an application of PostgreSQL sees.
    pub fn sqlstate(&self) -> &'static str {
        self.code.unwrap_or_else(|| self.kind.sqlstate())
    }

    /// The number and the SQLSTATE that an application of MySQL sees.
    pub fn mysql(&self) -> (u16, &'static str) {
        let (number, state) = self.kind.mysql();
        let number = self.number.unwrap_or(match self.code {
            // What cannot be read is what a server calls a syntax error; what is ours is denied.
            Some("42000") => 1064,
            Some("42501") => 1142,
            _ => number,
        });
        (number, self.code.unwrap_or(state))
    }

    /// The transaction died with its backend and should be run again.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::new(Kind::Retry, "the transaction cannot be carried over to another backend")
            .detail(why)
            .hint("run the transaction again")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate())?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
