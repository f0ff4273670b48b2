//! Statements in, classes out.
//!
//! A client's text is parsed once by PostgreSQL's own grammar and each statement gets exactly one
//! [`Class`]: how it has to be run so that every backend ends up the same. The rule behind every
//! line here: what cannot be *proved* to be in a cheaper class is in a dearer one. Nothing is
//! guessed from the text, no name is trusted before the [`Catalog`] has been asked what it stands
//! for, and a node of the parse tree that nobody thought of counts as the worst it could be.
//!
//! The whole folder is pure: no clock, no randomness, no I/O.

mod analyze;
mod catalog;
mod statement;

pub use analyze::analyze;
pub use catalog::Catalog;
pub use statement::{
    Class, CopyIn, Ddl, Discard, Hold, Isolation, Maintenance, Modes, ParseError, Password,
    Refusal, Scope, Script, Sequences, SetOp, Split, Statement, Touched, TxOp,
};
