//! The bodies of routines and triggers, statement by statement.
//!
//! `DETERMINISTIC` is a promise that nobody keeps watch over: what counts is what the body does. A
//! SELECT in a body reads without locks what another transaction may be changing, so what it decides
//! would be decided otherwise on another server; the reads inside of INSERT, UPDATE and DELETE lock.

use super::lexer::{Kind, Token};
use super::statement::Touched;
use super::walk::Walk;
use super::write;

/// Judges a whole body into the walk's facts.
pub(super) fn body(walk: &mut Walk<'_>, what: &str, tokens: &[Token]) {
    for piece in pieces(tokens) {
        statement(walk, what, piece);
    }
}

/// The pieces between the words that begin a statement.
fn pieces(tokens: &[Token]) -> Vec<&[Token]> {
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < tokens.len() {
        let token = &tokens[at];
        let first = at == start;
        if token.is("case") && !first && !tokens[start].is("end") {
            at = case_end(tokens, at);
            continue;
        }
        let opens = ["begin", "then", "else", "loop", "repeat", "do"];
        let ends_here = token.symbol(";")
            || token.kind == Kind::Word
                && opens.contains(&token.text.as_str())
                && !tokens[start].is("end")
                && !tokens.get(at + 1).is_some_and(|t| t.symbol("("))
            || first && tokens.get(at + 1).is_some_and(|t| t.symbol(":")) && token.is_name();
        if ends_here {
            // A label goes with its colon.
            let label = tokens.get(at + 1).is_some_and(|t| t.symbol(":")) && !token.symbol(";");
            found.push(&tokens[start..at]);
            start = at + 1 + usize::from(label);
            at = start;
        } else {
            at += 1;
        }
    }
    found.push(&tokens[start.min(tokens.len())..]);
    found.retain(|piece| !piece.is_empty());
    found
}

/// Behind the END of a CASE inside an expression.
fn case_end(tokens: &[Token], case: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(case) {
        if token.is("case") {
            depth += 1;
        } else if token.is("end") {
            depth -= 1;
            if depth == 0 {
                return at + 1;
            }
        }
    }
    tokens.len()
}

fn statement(walk: &mut Walk<'_>, what: &str, tokens: &[Token]) {
    let Some(first) = tokens.first() else { return };
    let word = if first.kind == Kind::Word { first.text.as_str() } else { "" };
    match word {
        "insert" | "replace" | "update" | "delete" => {
            let written = write::write(walk, tokens);
            if let Some(reason) = written.reason() {
                walk.facts.refuse(format!("{what}: {reason}"), write::INSTEAD);
            }
            if written.temporary {
                walk.facts.temporary = true;
            }
            if std::mem::take(&mut walk.facts.context.insert_id) {
                walk.facts.differ_beyond_rows(
                    format!("{what} inserts into a table whose rows are numbered, out of the statement's sight"),
                    "Insert there with a statement of its own.",
                );
            }
        }
        "call" => call(walk, tokens),
        // A condition handler's own statement follows its condition.
        "declare" if tokens.iter().any(|t| t.is("handler")) => handler(walk, what, tokens),
        "select" | "with" | "values" => query(walk, what, tokens),
        "set" | "declare" | "if" | "elseif" | "else" | "while" | "until" | "case" | "when"
        | "return" | "for" | "open" | "fetch" | "close" | "leave" | "iterate" | "signal"
        | "resignal" | "get" | "end" | "exit" | "continue" | "null" => query(walk, what, tokens),
        _ => {
            walk.facts.refuse(
                format!("{what} has a statement in it that does not belong to a transaction, or cannot be judged: {}", first.text),
                "Run that statement by itself.",
            );
        }
    }
}

/// A statement that reads, if it reads at all.
fn query(walk: &mut Walk<'_>, what: &str, tokens: &[Token]) {
    let reads = tokens.iter().any(|t| t.is("select") || t.is("table"));
    let locked = std::mem::take(&mut walk.facts.locks_rows);
    let before = std::mem::replace(&mut walk.facts.reads, Touched::None);
    let differs = walk.facts.differs.take();
    let state = walk.facts.leaves_state;
    walk.tokens(tokens);
    // INTO names local variables here: they are gone when the routine ends.
    let variables = tokens.iter().any(|t| t.kind == Kind::Variable);
    walk.facts.leaves_state = state || (walk.facts.leaves_state && variables);
    let unlocked = reads && walk.facts.reads != Touched::None && !walk.facts.locks_rows;
    walk.facts.locks_rows |= locked;
    walk.facts.reads.merge(&before);
    walk.facts.differs = differs.or(walk.facts.differs.take());
    if unlocked {
        walk.facts.differ(
            format!(
                "{what} reads rows without locking them, and may read others on another server"
            ),
            "Add FOR UPDATE or LOCK IN SHARE MODE to its SELECT.",
        );
    }
}

/// `DECLARE … HANDLER FOR condition, … statement`.
fn handler(walk: &mut Walk<'_>, what: &str, tokens: &[Token]) {
    let verbs = [
        "insert", "replace", "update", "delete", "select", "set", "call", "begin", "rollback",
        "commit",
    ];
    let place = tokens.iter().position(|t| verbs.iter().any(|verb| t.is(verb)));
    match place {
        Some(at) if !tokens[at].is("begin") => statement(walk, what, &tokens[at..]),
        _ => {}
    }
}

/// CALL of a procedure, from anywhere.
pub(super) fn call(walk: &mut Walk<'_>, tokens: &[Token]) {
    let Some(first) = tokens.get(1).filter(|t| t.is_name()) else {
        walk.facts.refuse("a CALL without a name", "Name a procedure.");
        return;
    };
    let dotted = tokens.get(2).is_some_and(|t| t.symbol("."));
    let (schema, name) = match tokens.get(3).filter(|_| dotted) {
        Some(second) => (Some(first.text.as_str()), second.text.as_str()),
        None => (walk.names.database(), first.text.as_str()),
    };
    walk.tokens(&tokens[if dotted { 4 } else { 2 }..]);
    let schema = schema.unwrap_or_default();
    let known: Vec<_> = walk.names.catalog.routines(schema, name, false).collect();
    if known.is_empty() {
        walk.facts.refuse(
            format!("there is no procedure {schema}.{name} that lockstep knows"),
            "Look for its name with SHOW PROCEDURE STATUS.",
        );
    }
    for routine in known {
        let what = format!("the procedure {}.{}", routine.schema, routine.name);
        walk.code(&routine.schema, &what, &routine.body);
    }
}
