//! Statements in, classes out.
//!
//! A client's text is parsed once and each statement gets exactly one [`Class`]: how it has to be
//! run so that every backend ends up the same. The rule behind every line here: what cannot be
//! *proved* to be in a cheaper class is in a dearer one. Nothing is guessed from the text, no name
//! is trusted before the [`Catalog`] has been asked what it stands for, and a node of the parse tree
//! that nobody thought of counts as the worst it could be.
//!
//! What a statement is called is common to all databases (`statement`, `scope`); how it is judged
//! is each one's own (a folder a dialect), behind one trait (`judge`). The whole folder is pure: no clock, no randomness, no I/O.

mod context;
mod control;
mod indirect;
mod judge;
mod mysql;
mod pg;
mod question;
mod refusal;
mod schema;
mod scope;
mod statement;

pub use context::{Context, Numbers};
pub use indirect::{Around, Indirect, Source};
pub use judge::{Answers, Entry, Judge, ignorant, informed, questions, shape};
pub use mysql::assignment_of;
pub use pg::{Catalog, analyze, mentions_clock, value_reads_clock};
pub use question::{Argument, Drawn, DrawnFrom, Own, Question};
pub use scope::{ParseError, Scope};
pub use statement::{
    Bulk, Class, CopyIn, Ddl, DdlStep, Discard, Draw, Hold, Implicit, Isolation, Keys, MET,
    Maintenance, Modes, Outside, Password, Pin, READ_ONLY, Recall, Recalled, Refusal, Returned,
    Script, Sequences, SetOp, Setting, Spelt, Split, Statement, TableLock, TimeParam, Told,
    Touched, TxOp,
};
