//! PostgreSQL: its own grammar, its catalog, and the proofs that rest on both.
//!
//! Two walks judge a query. `walk` gathers everything that is *bad*: functions that may write,
//! locks, sequences, the clock. `determine` accepts only what is known to be *good*, and carries
//! the proof that a write may be sent to the followers as the same bytes (`keyed`).
//!
//! From top to bottom, each file importing only files that come later: `analyze`; `ddl`,
//! `relations`, `alter`, `create`, `role`, `copy`, `session`, `returned`, `keyed`; `steps`, `fills`, `trees`;
//! `build`, `facts`, `rows`; `dml`, `functions`, `walk`; `determine`; `piece`, `drawn`, `resolve`, `catalog`,
//! `queries`, `effects`, `tokens`, `value`, `own`, `shape`, `names`.

mod alter;
mod analyze;
mod build;
mod catalog;
mod copy;
mod create;
mod ddl;
mod determine;
mod dml;
mod drawn;
mod effects;
mod facts;
mod fills;
mod functions;
mod keyed;
mod names;
mod own;
mod piece;
mod queries;
mod relations;
mod resolve;
mod returned;
mod role;
mod rows;
mod session;
mod shape;
mod steps;
mod tokens;
mod trees;
mod value;
mod walk;

use super::{judge, question, scope, statement};

pub use analyze::analyze;
pub use catalog::Catalog;
pub use names::mentions_clock;
pub(super) use shape::shape;
pub use value::value_reads_clock;
