//! From a client's string to its classes.

use super::catalog::{Catalog, quoting};
use super::context::Context;
use super::judge::{Entry, Judge};
use super::lexer::{Kind, Token, tokens};
use super::names::{Names, names_reserved};
use super::pins::pinned;
use super::queries::QUERIES;
use super::recalls::recalls;
use super::returned::{Piece, returned};
use super::scope::{ParseError, Scope};
use super::statement::{Class, Hold, Maintenance, Refusal, Script, Statement, Touched};
use super::walk::{Facts, Walk};
use super::write::{Written, write};
use super::{body, ddl, load, prepared, settings, split, transaction};

impl Catalog {
    /// What to ask a server: name and text, to be run with an empty `sql_mode`.
    pub(crate) fn queries() -> &'static [(&'static str, &'static str)] {
        QUERIES
    }
}

impl Judge for Catalog {
    /// A text that cannot be cut into statements is one statement, and refused: nobody knows what the
    /// server would make of it.
    fn judge(&self, sql: &str, scope: &Scope) -> Result<Script, ParseError> {
        let names = Names { catalog: self, scope };
        let mode = scope.sql_mode.as_deref().unwrap_or(&self.sql_mode);
        let whole = |why: String| {
            let refused = Statement { range: 0..sql.len(), ..unreadable(&why) };
            Ok(Script { statements: vec![refused] })
        };
        let found = match tokens(sql, self.server, quoting(mode)) {
            Ok(found) => found,
            Err(at) => return whole(format!("what begins at byte {} has no end", at.0)),
        };
        let pieces = match split::statements(&found) {
            Ok(pieces) => pieces,
            Err(why) => return whole(why.to_owned()),
        };
        let judged = pieces.into_iter().map(|piece| one(names, sql, piece));
        Ok(Script { statements: judged.collect() })
    }

    fn checks_late(&self) -> bool {
        false
    }

    fn entry(&self, _role: &str) -> Entry {
        // What accounts may do hangs on where they come from, which is another place here.
        Entry::Open
    }
}

/// Classifies one statement and gives it its place.
fn one(names: Names<'_>, sql: &str, tokens: &[Token]) -> Statement {
    let range = match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => first.range.start..last.range.end,
        _ => 0..0,
    };
    // A comment with a version goes along as a whole, or the server would not see its start.
    let range = whole_comments(sql, range);
    Statement { range, ..judged(names, sql, tokens) }
}

/// Classifies one statement, wherever it stands.
pub(super) fn judged(names: Names<'_>, sql: &str, tokens: &[Token]) -> Statement {
    if names_reserved(tokens) && !transaction::is_consistency(tokens) {
        Statement::refused("other", Refusal::reserved("the database lockstep is the proxy's own"))
    } else {
        recalls(sql, tokens).unwrap_or_else(|| classify(names, sql, tokens))
    }
}

/// The range with the comments around it that a server may run.
fn whole_comments(sql: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let before = &sql[..range.start];
    let start = match before.rfind("/*") {
        Some(open) if !before[open..].contains("*/") => open,
        _ => range.start,
    };
    let inside = &sql[start..range.end];
    let open = inside.rfind("/*").is_some_and(|open| !inside[open..].contains("*/"));
    let end = match sql[range.end..].find("*/") {
        Some(close) if open => range.end + close + 2,
        _ => range.end,
    };
    start..end
}

fn classify(names: Names<'_>, sql: &str, tokens: &[Token]) -> Statement {
    let first = tokens.iter().find(|t| !t.symbol("("));
    let word = match first {
        Some(token) if token.kind == Kind::Word => token.text.as_str(),
        _ => "",
    };
    match word {
        "select" | "values" | "table" | "do" => query(names, tokens, "select"),
        "with" => with(names, tokens),
        "insert" => modify(names, sql, tokens, "insert"),
        "replace" => modify(names, sql, tokens, "replace"),
        "update" => modify(names, sql, tokens, "update"),
        "delete" => modify(names, sql, tokens, "delete"),
        "call" => call(names, tokens),
        "load" => load::load(names, tokens),
        "explain" | "describe" | "desc" => explain(names, tokens),
        "analyze" if !tokens.get(1..3).is_some_and(|t| t.iter().any(|t| t.is("table"))) => {
            explain(names, tokens)
        }
        "show" | "help" => show(names, tokens),
        "set" => settings::set(names, sql, tokens),
        "use" => settings::use_database(tokens),
        "prepare" => prepared::prepare(names, sql, tokens),
        "execute" => prepared::execute(names, sql, tokens),
        "deallocate" => prepared::deallocate(tokens),
        "drop" if tokens.get(1).is_some_and(|t| t.is("prepare")) => prepared::deallocate(tokens),
        "begin" | "start" | "commit" | "rollback" | "savepoint" | "release" | "xa" => {
            transaction::control(tokens)
        }
        _ => ddl::classify(names, tokens, word).unwrap_or_else(|| {
            unreadable(&format!("it begins with `{}`", tokens.first().map_or("", |t| &t.text)))
        }),
    }
}

/// What nobody here can read may be anything.
pub(super) fn unreadable(why: &str) -> Statement {
    let refusal = Refusal {
        sqlstate: "42000",
        message: format!("lockstep cannot read the statement: {why}"),
        hint: "Look for a missing quote, parenthesis or END, or write the statement in its usual form."
            .to_owned(),
    };
    Statement {
        reads: Touched::Unknown,
        writes: Touched::Unknown,
        ..Statement::refused("other", refusal)
    }
}

/// What is refused for the first reason in the facts, if there is one.
fn refusal(facts: &Facts) -> Option<Refusal> {
    let (why, instead) = facts.refused.as_ref()?;
    Some(Refusal::unsupported(why.clone(), *instead))
}

/// A query, or anything else that only has expressions in it.
pub(super) fn query(names: Names<'_>, tokens: &[Token], tag: &'static str) -> Statement {
    let mut walk = Walk::new(names);
    walk.tokens(tokens);
    let facts = walk.facts;
    if let Some(refusal) = refusal(&facts) {
        return Statement::refused(tag, refusal);
    }
    if facts.writes != Touched::None {
        return Statement::refused(
            tag,
            Refusal::unsupported(
                "a SELECT whose function writes is not replicated",
                "CALL a procedure, or send the statements themselves.",
            ),
        );
    }
    let class = if facts.temporary || facts.leaves_state {
        Class::LeaderRead { hold: Hold::Session }
    } else if facts.locks_rows || facts.about_session {
        Class::LeaderRead { hold: Hold::Statement }
    } else {
        Class::Read
    };
    let reads = if facts.reads == Touched::None && facts.reads_rows {
        Touched::Unknown
    } else {
        facts.reads
    };
    Statement {
        reads,
        locks_rows: facts.locks_rows,
        // Nobody repeats a read.
        context: Context { rand_seeds: false, clock: false, ..facts.context },
        returns_rows: true,
        ..Statement::new(tag, class)
    }
}

/// WITH in front of a query; in front of anything else it is not written here.
fn with(names: Names<'_>, tokens: &[Token]) -> Statement {
    let places = super::order::level(tokens, (0, tokens.len()));
    let writes = ["insert", "replace", "update", "delete"];
    if places.iter().any(|at| writes.iter().any(|word| tokens[*at].is(word))) {
        return Statement::refused(
            "with",
            Refusal::unsupported(
                "a WITH in front of a statement that writes is not replicated",
                "Write the query as a derived table: FROM (SELECT …) AS x.",
            ),
        );
    }
    query(names, tokens, "select")
}

fn modify(names: Names<'_>, sql: &str, tokens: &[Token], tag: &'static str) -> Statement {
    // What is stored in the server (a trigger, a routine) cannot be given other words.
    let (stand_in, pins) = pinned(names, tokens).unwrap_or_default();
    let mut walk = Walk::new(names);
    let written = write(&mut walk, if pins.is_empty() { tokens } else { &stand_in });
    let facts = walk.facts;
    match unwritable(&facts, &written) {
        Some(refusal) => {
            let piece = Piece { names, sql, tokens, facts: &facts, written: &written };
            match returned(piece) {
                Some(returned) => Statement {
                    returned: Some(Box::new(returned)),
                    reads: facts.reads,
                    writes: facts.writes,
                    returns_rows: written.returns_rows,
                    ..Statement::new(tag, Class::Captured { hold: Hold::Statement })
                },
                None => Statement::refused(tag, refusal),
            }
        }
        None if written.temporary => Statement {
            reads: facts.reads,
            returns_rows: written.returns_rows,
            ..Statement::new(tag, Class::LeaderRead { hold: Hold::Session })
        },
        None => Statement { pins, ..keyed(tag, facts, written.returns_rows) },
    }
}

/// Why the same bytes would not do the same everywhere.
pub(super) fn unwritable(facts: &Facts, written: &Written) -> Option<Refusal> {
    if let Some(refusal) = refusal(facts) {
        return Some(refusal);
    }
    if let Some(table) = &written.unknown {
        return Some(Refusal {
            sqlstate: "42S02",
            message: format!("Table '{table}' doesn't exist, as far as lockstep knows"),
            hint: "Look for its name with SHOW TABLES.".to_owned(),
        });
    }
    if written.no_database {
        return Some(Refusal {
            sqlstate: "3D000",
            message: "No database selected".to_owned(),
            hint: "USE a database, or write its name in front of the table's.".to_owned(),
        });
    }
    if written.temporary && facts.writes == Touched::None {
        return None;
    }
    if facts.temporary {
        return Some(Refusal::unsupported(
            "the other servers do not have the session's temporary tables",
            "Read the rows first, and write them as values.",
        ));
    }
    let (why, instead) = facts.differs.as_ref()?;
    Some(Refusal::unsupported(format!("it could not be made the same everywhere: {why}"), *instead))
}

pub(super) fn keyed(tag: &'static str, facts: Facts, returns_rows: bool) -> Statement {
    Statement {
        reads: facts.reads,
        writes: facts.writes,
        context: facts.context,
        returns_rows,
        beyond_rows: facts.beyond_rows,
        ..Statement::new(tag, Class::Keyed)
    }
}

fn call(names: Names<'_>, tokens: &[Token]) -> Statement {
    let mut walk = Walk::new(names);
    body::call(&mut walk, tokens);
    let facts = walk.facts;
    let variables = tokens.iter().any(|t| t.kind == Kind::Variable);
    let reads_only = facts.writes == Touched::None;
    let refused = match reads_only {
        // What it reads may differ from one moment to the next, and nothing is made of it.
        true => refusal(&facts),
        false => unwritable(&facts, &Written::default()),
    };
    match refused {
        Some(refusal) => Statement::refused("call", refusal),
        None if reads_only => {
            let state = facts.leaves_state || facts.temporary || variables;
            let hold = if state { Hold::Session } else { Hold::Statement };
            Statement {
                reads: facts.reads,
                locks_rows: facts.locks_rows,
                returns_rows: true,
                ..Statement::new("call", Class::LeaderRead { hold })
            }
        }
        None if variables => Statement::refused(
            "call",
            Refusal::unsupported(
                "a procedure that writes and gives values back in user variables is not replicated",
                "Let it SELECT the values instead.",
            ),
        ),
        None => {
            // The number of rows that a CALL answers with is that of its last statement.
            Statement { beyond_rows: true, in_steps: true, ..keyed("call", facts, true) }
        }
    }
}

/// EXPLAIN shows a plan; only ANALYZE runs what it explains.
fn explain(names: Names<'_>, tokens: &[Token]) -> Statement {
    let verbs = ["select", "with", "insert", "replace", "update", "delete", "values", "table"];
    let runs = tokens.iter().take(4).any(|t| t.is("analyze"));
    let Some(at) = tokens.iter().position(|t| verbs.iter().any(|verb| t.is(verb))) else {
        return Statement { returns_rows: true, ..Statement::new("explain", Class::Read) };
    };
    let reading = tokens[at].is("select") || tokens[at].is("with") || tokens[at].is("values");
    if reading {
        let inner = query(names, &tokens[at..], "explain");
        let locks_rows = inner.locks_rows && runs;
        return Statement { locks_rows, ..inner };
    }
    if runs {
        return Statement::refused(
            "explain",
            Refusal::unsupported(
                "ANALYZE of a statement that writes is not replicated",
                "EXPLAIN it instead.",
            ),
        );
    }
    Statement {
        returns_rows: true,
        ..Statement::new("explain", Class::LeaderRead { hold: Hold::Statement })
    }
}

fn show(names: Names<'_>, tokens: &[Token]) -> Statement {
    let about = [
        "warnings",
        "errors",
        "warning_count",
        "error_count",
        "profile",
        "profiles",
        "tables",
        "columns",
        "fields",
        "create",
        "index",
        "keys",
        "indexes",
        "variables",
        "status",
        "processlist",
    ];
    let second = tokens.iter().skip(1).find(|t| about.iter().any(|word| t.is(word)));
    // With temporary tables only the session's own connection shows what it sees.
    let own = second
        .is_some_and(|t| ["warnings", "errors", "profile", "profiles"].iter().any(|w| t.is(w)));
    let temps = !names.scope.temp_tables.is_empty();
    let class =
        if own || temps { Class::LeaderRead { hold: Hold::Statement } } else { Class::Read };
    Statement { returns_rows: true, ..Statement::new("show", class) }
}

/// Statements about tables that change nothing which anybody reads.
pub(super) fn upkeep(tag: &'static str) -> Statement {
    Statement {
        commits: true,
        returns_rows: true,
        ..Statement::maintenance(tag, Maintenance::Everywhere)
    }
}
