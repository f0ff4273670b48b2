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
    let pieces = pieces(tokens);
    let declared = pieces.iter().filter(|piece| piece[0].is("declare")).copied().flatten();
    let body = Body { what, declared: declared.filter(|t| t.is_name()).collect() };
    for piece in pieces {
        statement(walk, &body, piece);
    }
}

/// A body on its way.
struct Body<'b> {
    what: &'b str,
    /// Words of its declarations, the names of its variables among them.
    declared: Vec<&'b Token>,
}

/// Settings of a session that change what statements do or say. Routines that set them leave them
/// behind in a server's session that is somebody else's next.
const SETTINGS: &[&str] = &[
    "autocommit",
    "big_tables",
    "binlog_format",
    "character_set_client",
    "character_set_connection",
    "character_set_filesystem",
    "character_set_results",
    "check_constraint_checks",
    "collation_connection",
    "default_storage_engine",
    "default_week_format",
    "div_precision_increment",
    "explicit_defaults_for_timestamp",
    "foreign_key_checks",
    "group_concat_max_len",
    "identity",
    "innodb_lock_wait_timeout",
    "innodb_strict_mode",
    "insert_id",
    "last_insert_id",
    "lc_messages",
    "lc_time_names",
    "lock_wait_timeout",
    "low_priority_updates",
    "max_error_count",
    "max_join_size",
    "max_sp_recursion_depth",
    "max_statement_time",
    "old_mode",
    "optimizer_switch",
    "pseudo_thread_id",
    "rand_seed1",
    "rand_seed2",
    "server_id",
    "sql_auto_is_null",
    "sql_big_selects",
    "sql_buffer_result",
    "sql_log_bin",
    "sql_mode",
    "sql_notes",
    "sql_quote_show_create",
    "sql_safe_updates",
    "sql_select_limit",
    "sql_warnings",
    "storage_engine",
    "time_zone",
    "timestamp",
    "transaction_isolation",
    "transaction_read_only",
    "tx_isolation",
    "tx_read_only",
    "unique_checks",
    "wait_timeout",
];

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

fn statement(walk: &mut Walk<'_>, body: &Body<'_>, tokens: &[Token]) {
    let what = body.what;
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
        "declare" if tokens.iter().any(|t| t.is("handler")) => handler(walk, body, tokens),
        "set" => {
            assignments(walk, body, &tokens[1..]);
            query(walk, what, tokens);
        }
        "select" | "with" | "values" => query(walk, what, tokens),
        "declare" | "if" | "elseif" | "else" | "while" | "until" | "case" | "when" | "return"
        | "for" | "open" | "fetch" | "close" | "leave" | "iterate" | "signal" | "resignal"
        | "get" | "end" | "exit" | "continue" | "null" => query(walk, what, tokens),
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

/// What a SET gives values to: the body's own variables and the row's columns are nobody else's.
fn assignments(walk: &mut Walk<'_>, body: &Body<'_>, tokens: &[Token]) {
    let places: Vec<usize> = super::order::level(tokens, (0, tokens.len()));
    let commas = places.into_iter().filter(|at| tokens[*at].symbol(","));
    let starts = std::iter::once(0).chain(commas.map(|at| at + 1));
    for target in starts.filter_map(|at| tokens.get(at..)) {
        let (Some(first), second) = (target.first(), target.get(1)) else { continue };
        if first.kind == Kind::Variable {
            walk.facts.leaves_state = true;
            walk.facts.differ_beyond_rows(
                format!(
                    "{} gives a user variable a value, row by row, and leaves it behind",
                    body.what
                ),
                "DECLARE a variable of its own.",
            );
            continue;
        }
        // `NEW.column`, or a name and its value; else two words: SESSION name, NAMES charset.
        let plain = second.is_some_and(|t| t.symbol("=") || t.symbol(":") || t.symbol("."));
        let known = body.declared.iter().any(|t| t.text.eq_ignore_ascii_case(&first.text));
        let setting = SETTINGS.iter().any(|name| first.text.eq_ignore_ascii_case(name));
        if first.kind == Kind::Setting || !plain || (setting && !known) {
            walk.facts.refuse(
                format!("{} changes settings of the session that it runs in", body.what),
                "SET them in the session, before the statement.",
            );
        }
    }
}

/// `DECLARE … HANDLER FOR condition, … statement`.
fn handler(walk: &mut Walk<'_>, body: &Body<'_>, tokens: &[Token]) {
    if !conditions_are_alike(tokens) {
        walk.facts.differ_beyond_rows(
            format!(
                "{} goes on after errors that one server alone may meet: a wait that is over, a deadlock",
                body.what
            ),
            "Handle NOT FOUND, or SQLSTATE '23000' (a key that is there already), and let others end it.",
        );
    }
    let verbs = [
        "insert", "replace", "update", "delete", "select", "set", "call", "begin", "rollback",
        "commit",
    ];
    let place = tokens.iter().position(|t| verbs.iter().any(|verb| t.is(verb)));
    match place {
        Some(at) if !tokens[at].is("begin") => statement(walk, body, &tokens[at..]),
        _ => {}
    }
}

/// Whether a handler's conditions hold of the rows alone, and so on every server that runs the same.
fn conditions_are_alike(tokens: &[Token]) -> bool {
    const NUMBERS: [&str; 7] = ["1022", "1048", "1062", "1329", "1451", "1452", "1586"];
    let Some(at) = tokens.iter().position(|t| t.is("for")) else { return false };
    let mut rest = &tokens[at + 1..];
    loop {
        rest = match rest {
            [not, found, rest @ ..] if not.is("not") && found.is("found") => rest,
            [number, rest @ ..] if NUMBERS.contains(&&*number.text) => rest,
            [state, value, text, rest @ ..]
                if state.is("sqlstate") && value.is("value") && is_of_rows(text) =>
            {
                rest
            }
            [state, text, rest @ ..] if state.is("sqlstate") && is_of_rows(text) => rest,
            _ => return false,
        };
        match rest {
            [comma, more @ ..] if comma.symbol(",") => rest = more,
            _ => return true,
        }
    }
}

/// A state that tells of no more rows, or of a constraint.
fn is_of_rows(state: &Token) -> bool {
    state.kind == Kind::Text && (state.text.starts_with("02") || state.text.starts_with("23"))
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
    // What a procedure gives back lands in a variable of the session.
    if tokens.iter().any(|t| t.kind == Kind::Variable) && walk.is_inside() {
        walk.facts.leaves_state = true;
        walk.facts.differ_beyond_rows(
            "a routine has another one give a user variable a value, and leaves it behind",
            "DECLARE a variable of its own.",
        );
    }
    for routine in known {
        let what = format!("the procedure {}.{}", routine.schema, routine.name);
        walk.code(&routine.schema, &what, &routine.body);
    }
}
