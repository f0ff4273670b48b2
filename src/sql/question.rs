//! What applications can ask the proxy itself: plain data.

/// A question to the proxy itself, answered with one row of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// What is asked.
    pub question: Question,
    /// What the column is called.
    pub column: String,
    /// The command tag of the answer.
    pub tag: &'static str,
}

/// What the proxy can be asked by applications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What the session's reads are sure to see.
    Consistency,
    /// How late the proxy notices that a server is dead.
    DeadAfter,
    /// Under which identity the transaction will be found later.
    TransactionId,
    /// What became of the transaction of that identity.
    TransactionStatus(Argument),
}

/// A bare `SELECT currval(…)` or `SELECT lastval()`: whoever knows the value can answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// Whose newest value is asked for.
    pub from: DrawnFrom,
    /// What the column is called, as the server quotes it.
    pub column: String,
}

/// Whose newest value is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrawnFrom {
    /// Of the sequence that was drawn from last.
    Last,
    /// Of the one of these that the session has drawn from, each as the server quotes it.
    OneOf(Vec<String>),
}

/// Where an argument is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// In the text.
    Constant(Option<String>),
    /// As the parameter of this number, from 1.
    Parameter(u32),
}
