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
    /// Under which identity the transaction will be found later.
    TransactionId,
    /// What became of the transaction of that identity.
    TransactionStatus(Argument),
}

/// Where an argument is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// In the text.
    Constant(Option<String>),
    /// As the parameter of this number, from 1.
    Parameter(u32),
}
