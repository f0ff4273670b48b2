//! Statements in, classes out.
//!
//! A client's text is parsed once by PostgreSQL's own grammar and each statement gets exactly one
//! [`Class`]: how it has to be run so that every backend ends up the same. The rule behind every
//! line here: what cannot be *proved* to be in a cheaper class is in a dearer one. Nothing is
//! guessed from the text, no name is trusted before the [`Catalog`] has been asked what it stands
//! for, and a node of the parse tree that nobody thought of counts as the worst it could be.
//!
//! Two walks judge a query. `walk` gathers everything that is *bad*: functions that may write,
//! locks, sequences, the clock. `determine` accepts only what is known to be *good*, and carries
//! the proof that a write may be sent to the followers as the same bytes (`keyed`).
//!
//! The whole folder is pure: no clock, no randomness, no I/O. From top to bottom, each file
//! importing only files that come later: `analyze`; `ddl`, `relations`, `alter`, `create`, `role`,
//! `copy`, `session`, `keyed`; `steps`, `fills`, `trees`; `build`, `facts`, `rows`; `dml`, `functions`,
//! `walk`; `determine`; `piece`, `resolve`, `catalog`, `queries`, `effects`, `tokens`, `value`, `names`,
//! `scope`, `statement`.

mod alter;
mod analyze;
mod build;
mod catalog;
mod copy;
mod create;
mod ddl;
mod determine;
mod dml;
mod effects;
mod facts;
mod fills;
mod functions;
mod keyed;
mod names;
mod piece;
mod queries;
mod relations;
mod resolve;
mod role;
mod rows;
mod scope;
mod session;
mod statement;
mod steps;
mod tokens;
mod trees;
mod value;
mod walk;

pub use analyze::analyze;
pub use catalog::Catalog;
pub use names::mentions_clock;
pub use scope::{ParseError, Scope};
pub use statement::{
    Class, CopyIn, Ddl, DdlStep, Discard, Hold, Isolation, Maintenance, Modes, Password, Refusal,
    Script, Sequences, SetOp, Split, Statement, TimeParam, Touched, TxOp,
};
pub use value::value_reads_clock;
