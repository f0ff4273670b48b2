//! MariaDB and MySQL: their words, their catalog, and what may be repeated as the same bytes.
//!
//! There is no parse tree here. A statement is cut into words exactly as the server cuts it, and every
//! word counts as whatever it could be: a name that is a table's means that table, a word in front of
//! a parenthesis calls a function. So nothing that a grammar of ours would not know can hide. Only
//! proofs of harmlessness look at places: which table is written, whether a LIMIT is ordered by a key.
//!
//! From top to bottom, each file importing only files that come later: `analyze` and `prepared`, which
//! judges the statement in a string; `ddl`, `recalls`, `settings`, `transaction`, `load`, `lock`, `returned`; `walk`, `body`, `write`, which
//! call each other as routines call statements; `parts`,
//! `numbers`, `order`, `names`; `queries`, `catalog`, `functions`, `split`, `lexer`.

mod analyze;
mod body;
mod catalog;
mod ddl;
mod functions;
mod lexer;
mod load;
mod lock;
mod names;
mod numbers;
mod order;
mod parts;
mod picks;
mod pins;
mod prepared;
mod queries;
mod recalls;
mod returned;
mod settings;
mod split;
mod transaction;
mod walk;
mod write;

use super::{context, judge, scope, statement};

pub(super) use catalog::Catalog;
pub use settings::assignment_of;
