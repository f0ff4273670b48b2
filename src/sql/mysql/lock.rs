//! LOCK TABLES and UNLOCK TABLES.

use super::lexer::Token;
use super::names::{Names, Target};
use super::statement::{Class, Refusal, Statement, TableLock};

/// Classifies LOCK TABLES: `table [AS alias] READ [LOCAL]` or `[LOW_PRIORITY] WRITE [CONCURRENT]`, each.
pub(super) fn lock(names: Names<'_>, tokens: &[Token]) -> Statement {
    let plural = |t: &Token| t.is("tables") || t.is("table");
    if !tokens.get(1).is_some_and(plural) {
        return super::analyze::unreadable("it locks something else than tables");
    }
    let mut listed = Vec::new();
    for item in tokens[2..].split(|t| t.symbol(",")) {
        let read = item.iter().any(|t| t.is("read"));
        let whole = item.iter().any(|t| t.is("write"));
        let Some((named, _)) = names.target(item).filter(|_| read != whole) else {
            return super::analyze::unreadable("a table has no name, or neither READ nor WRITE");
        };
        match named {
            Target::Known(tables) => {
                listed.extend(tables.iter().map(|t| TableLock { table: t.full.clone(), whole }));
            }
            // Nobody else sees it, or nobody writes to it through here.
            Target::Temporary | Target::System(_) => {}
            Target::Unknown(table) => {
                return refused("42S02", &format!("Table '{table}' doesn't exist"));
            }
            Target::NoDatabase => return refused("3D000", "No database selected"),
            Target::Reserved => {
                return refused("42000", "the database lockstep is the proxy's own");
            }
        }
    }
    Statement { commits: true, ..Statement::new("lock", Class::LockTables(listed)) }
}

fn refused(sqlstate: &'static str, message: &str) -> Statement {
    let hint = "Look for its name with SHOW TABLES.".to_owned();
    Statement::refused("lock", Refusal { sqlstate, message: message.to_owned(), hint })
}
