//! SQL's own prepared statements: PREPARE, EXECUTE, EXECUTE IMMEDIATE and DEALLOCATE PREPARE.
//!
//! None of them lives in a server. The text is kept with the session, and what runs in the place of
//! EXECUTE is EXECUTE IMMEDIATE with the text in it, which means the same: so it is judged as what it
//! does, goes to any connection, and is repeated from the journal like every other statement.

use super::analyze::{judged, unreadable};
use super::catalog::quoting;
use super::lexer::{Kind, Token, tokens};
use super::names::Names;
use super::order::level;
use super::split;
use super::statement::{Around, Class, Hold, Indirect, Refusal, Source, Statement, Touched, TxOp};
use super::walk::Walk;

/// The name under which a server tries whether it can prepare a text. Nothing is ever run by it.
const TRIAL: &str = "PREPARE `lockstep` FROM ";

const IMMEDIATE: &str = "EXECUTE IMMEDIATE ";

const DRIVER: &str = "Prepare it with the driver (COM_STMT_PREPARE).";

fn refused(why: &str, instead: &str) -> Statement {
    Statement::refused("execute", Refusal::unsupported(why, instead))
}

fn indirect(
    tag: &'static str,
    source: Source,
    keep: Option<String>,
    around: Option<Around>,
) -> Statement {
    Statement::new(tag, Class::Indirect(Box::new(Indirect { source, keep, around })))
}

fn mode<'n>(names: Names<'n>) -> &'n str {
    names.scope.sql_mode.as_deref().unwrap_or(&names.catalog.sql_mode)
}

fn around(names: Names<'_>, before: &'static str, after: &str) -> Option<Around> {
    let escapes = !quoting(mode(names)).plain_backslash;
    Some(Around { before, after: after.to_owned(), escapes })
}

/// Names of prepared statements are compared without regard to case.
fn name(tokens: &[Token], at: usize) -> Option<String> {
    tokens.get(at).filter(|t| t.is_name()).map(|t| t.text.to_lowercase())
}

/// PREPARE name FROM text.
pub(super) fn prepare(names: Names<'_>, sql: &str, tokens: &[Token]) -> Statement {
    let from = tokens.get(2).is_some_and(|t| t.is("from"));
    match (name(tokens, 1), tokens.get(3..)) {
        (Some(name), Some(text)) if from => match source(names, sql, text) {
            Ok(source) => indirect("prepare", source, Some(name), around(names, TRIAL, "")),
            Err(refused) => *refused,
        },
        _ => unreadable("PREPARE has no name or no text"),
    }
}

/// DEALLOCATE PREPARE name, or DROP PREPARE name.
pub(super) fn deallocate(tokens: &[Token]) -> Statement {
    match name(tokens, 2).filter(|_| tokens.len() == 3 && tokens[1].is("prepare")) {
        Some(name) => Statement::new("deallocate", Class::Deallocate(Some(name))),
        None => unreadable("DEALLOCATE PREPARE takes a name"),
    }
}

/// EXECUTE name, or EXECUTE IMMEDIATE text, each with USING and values.
pub(super) fn execute(names: Names<'_>, sql: &str, tokens: &[Token]) -> Statement {
    let using = level(tokens, (1, tokens.len())).into_iter().find(|at| tokens[*at].is("using"));
    let end = using.unwrap_or(tokens.len());
    let maria = names.catalog.server.maria;
    let after = match (using, tokens.last()) {
        (Some(at), Some(last)) => format!(" {}", &sql[tokens[at].range.start..last.range.end]),
        _ => String::new(),
    };
    if !tokens.get(1).is_some_and(|t| t.is("immediate")) || end < 3 {
        let Some(name) = name(tokens, 1).filter(|_| end == 2) else {
            return unreadable("EXECUTE takes a name");
        };
        if !maria && using.is_some() {
            let why = "MySQL has no EXECUTE IMMEDIATE to run EXECUTE … USING by";
            return refused(why, DRIVER);
        }
        // Where there is no EXECUTE IMMEDIATE, the text without values means the same by itself.
        let around = around(names, IMMEDIATE, &after).filter(|_| maria);
        return indirect("execute", Source::Kept(name), None, around);
    }
    match &tokens[2..end] {
        _ if !maria => unreadable("MySQL has no EXECUTE IMMEDIATE"),
        [text] if text.kind == Kind::Text => {
            run(names, &text.text, using.map_or(&[], |at| &tokens[at + 1..]))
        }
        text => match source(names, sql, text) {
            Ok(source) => indirect("execute", source, None, around(names, IMMEDIATE, &after)),
            Err(refused) => *refused,
        },
    }
}

/// A string is the text itself; anything else is for a server to say.
fn source(names: Names<'_>, sql: &str, text: &[Token]) -> Result<Source, Box<Statement>> {
    let (Some(first), Some(last)) = (text.first(), text.last()) else {
        return Err(Box::new(unreadable("there is no text to prepare")));
    };
    if text.len() == 1 && first.kind == Kind::Text {
        return Ok(Source::Constant(first.text.clone()));
    }
    let mut walk = Walk::new(names);
    walk.tokens(text);
    let facts = walk.facts;
    let does_more = facts.refused.is_some()
        || facts.writes != Touched::None
        || facts.leaves_state
        || facts.reads_rows;
    if does_more {
        return Err(Box::new(refused(
            "the text to prepare comes from an expression that does more than compute it",
            "SET @text = … first, and prepare it FROM @text.",
        )));
    }
    Ok(Source::Asked(format!("SELECT {}", &sql[first.range.start..last.range.end])))
}

/// EXECUTE IMMEDIATE of a text that is known: it does what the text does.
fn run(names: Names<'_>, text: &str, values: &[Token]) -> Statement {
    let Ok(found) = tokens(text, names.catalog.server, quoting(mode(names))) else {
        return unreadable("what is prepared has a quote or a comment without end");
    };
    let mut piece = match split::statements(&found).as_deref() {
        Ok([piece]) => piece.to_vec(),
        _ => return unreadable("what is prepared is not one statement"),
    };
    if ["prepare", "execute", "deallocate"].iter().any(|word| piece[0].is(word)) {
        return refused("a prepared statement cannot be about another one", "Send it by itself.");
    }
    if !are_plain(values) {
        return refused(
            "USING takes user variables and constants here",
            "SET @value = … first, and write USING @value.",
        );
    }
    let variables: Vec<&Token> = values.iter().filter(|t| t.kind == Kind::Variable).collect();
    // A variable that a procedure is called with may be written to; for others a place stays a place.
    if piece[0].is("call") && !variables.is_empty() {
        piece.iter_mut().filter(|t| t.kind == Kind::Param).for_each(|t| t.kind = Kind::Variable);
    }
    let mut inner = judged(names, text, &piece);
    if matches!(inner.class, Class::Recall(_)) {
        return refused(
            "ROW_COUNT(), FOUND_ROWS() or CONNECTION_ID() stands in a prepared text",
            "SET @value = ROW_COUNT() first, and give it with USING @value.",
        );
    }
    if !inner.pins.is_empty() {
        return refused(
            "a value that every server would choose for itself stands in a prepared text",
            "SET @value = … first, and give it with USING @value; or send the statement by itself.",
        );
    }
    if matches!(inner.class, Class::Captured { .. }) && piece.iter().any(|t| t.kind == Kind::Param)
    {
        return refused(
            "which rows it writes is decided on the leader, and its text has places for values",
            "Put the values into the text with CONCAT(), or prepare it with the driver.",
        );
    }
    // What the variables hold is a part of what the statement depends on.
    for variable in variables {
        if !inner.context.user_variables.contains(&variable.text) {
            inner.context.user_variables.push(variable.text.clone());
        }
    }
    match &inner.class {
        _ if values.is_empty() => {}
        // As with every read of a variable.
        Class::Read => inner.class = Class::LeaderRead { hold: Hold::Statement },
        Class::Maintenance(_) | Class::Tx(TxOp::Savepoint(_)) => {
            return refused("the statement takes no values", "EXECUTE it without USING.");
        }
        _ => {}
    }
    inner
}

/// Whether all values are variables and constants.
fn are_plain(values: &[Token]) -> bool {
    let constant = |t: &Token| {
        matches!(t.kind, Kind::Variable | Kind::Number | Kind::Text)
            || ["null", "true", "false", "default"].iter().any(|word| t.is(word))
    };
    values.is_empty()
        || values.split(|t| t.symbol(",")).all(|value| match value {
            [only] => constant(only),
            [sign, number] => sign.symbol("-") && number.kind == Kind::Number,
            _ => false,
        })
}
