//! Values that every server would choose for itself, in places where a statement asks for each once:
//! the leader chooses them before it runs the statement, and a user variable stands in for each.

use std::ops::Range;

use super::catalog::{Column, Table};
use super::lexer::{Kind, Token};
use super::names::{Names, Target};
use super::order::{closing, level};
use super::parts::{Source, insert_parts};
use super::statement::Pin;

/// Functions that have another value on every server, and leave nothing behind.
const CHOSEN: &str = "uuid uuid_v4 uuid_v7 uuid_short sys_guid sysdate random_bytes user session_user \
    system_user current_user version";

/// More of them in one statement are not worth their variables.
const MOST: usize = 64;

/// A statement whose values the leader chooses: its tokens as it is run, and what was replaced.
#[derive(Debug, Default)]
struct Pinned {
    tokens: Vec<Token>,
    pins: Vec<Pin>,
    chosen: usize,
}

/// Takes the calls out of an INSERT or REPLACE that names its rows, and writes the columns out whose
/// default is such a call: the statement with variables in their place, and what these stand for.
/// Nothing where there is no such call, or where a query might ask for it again and again.
pub(super) fn pinned(names: Names<'_>, tokens: &[Token]) -> Option<(Vec<Token>, Vec<Pin>)> {
    let inserts = tokens.first().is_some_and(|t| t.is("insert") || t.is("replace"));
    if !inserts || tokens.iter().any(|t| t.is("select")) {
        return None;
    }
    let places = level(tokens, (0, tokens.len()));
    let find = |words: &[&str]| {
        places.iter().copied().find(|at| words.iter().any(|word| tokens[*at].is(word)))
    };
    let start = find(&["values", "value", "set"])?;
    let ends = find(&["on", "returning"]).unwrap_or(tokens.len());
    let opens = |at: &usize| (start..ends).contains(at) && tokens[*at].symbol("(");
    let rows: Vec<usize> = places.iter().copied().filter(opens).collect();
    // What comes behind is asked for by each row that is there already.
    let alone = rows.len() <= 1;
    let end = if alone { find(&["returning"]).unwrap_or(tokens.len()) } else { ends };
    let defaults = left_out(names, tokens);
    let list = places.iter().find(|at| **at < start && tokens[**at].symbol("("));
    let list = list.map(|open| closing(tokens, *open));
    let row_ends: Vec<usize> = rows.iter().map(|open| closing(tokens, *open)).collect();
    let (mut done, mut at) = (Pinned::default(), 0);
    while let Some(token) = tokens.get(at) {
        for column in &defaults {
            if Some(at) == list {
                done.name(token.range.start, &column.name);
            } else if row_ends.contains(&at) {
                done.value(token.range.start, &column.default_text);
            }
        }
        match call(tokens, at).filter(|_| (start..end).contains(&at)) {
            Some(last) => {
                done.replace(token.range.start..tokens[last].range.end, tokens, at..last + 1);
                at = last + 1;
            }
            None => {
                done.tokens.push(token.clone());
                at += 1;
            }
        }
    }
    (done.chosen > 0 && done.chosen <= MOST).then_some((done.tokens, done.pins))
}

impl Pinned {
    fn variable(&mut self) -> String {
        self.chosen += 1;
        format!("lockstep_{}", self.chosen)
    }

    fn push(&mut self, kind: Kind, text: &str, at: usize) {
        self.tokens.push(Token { kind, text: text.to_owned(), range: at..at });
    }

    /// A call makes way for a variable.
    fn replace(&mut self, range: Range<usize>, tokens: &[Token], call: Range<usize>) {
        let name = self.variable();
        // Spelt out of its words: a comment in between would not end where it should.
        let value = tokens[call].iter().map(|t| t.text.as_str()).collect::<String>();
        let text = format!("@{name}");
        self.tokens.push(Token { kind: Kind::Variable, text: name.clone(), range: range.clone() });
        self.pins.push(Pin { range, text, chosen: Some((name, value)) });
    }

    /// A column is added to the list of those that are given.
    fn name(&mut self, at: usize, column: &str) {
        self.push(Kind::Symbol, ",", at);
        self.push(Kind::Quoted, column, at);
        let text = format!(", `{}`", column.replace('`', "``"));
        self.pins.push(Pin { range: at..at, text, chosen: None });
    }

    /// A value is added to a row.
    fn value(&mut self, at: usize, value: &str) {
        let name = self.variable();
        self.push(Kind::Symbol, ",", at);
        self.push(Kind::Variable, &name, at);
        let chosen = Some((name.clone(), value.to_owned()));
        self.pins.push(Pin { range: at..at, text: format!(", @{name}"), chosen });
    }
}

/// The columns that an INSERT leaves out although every server would fill them with a value of its own.
fn left_out<'c>(names: Names<'c>, tokens: &[Token]) -> Vec<&'c Column> {
    let Some(parts) = insert_parts(names, tokens) else { return Vec::new() };
    let given = parts.columns.as_ref().filter(|given| !given.is_empty());
    let (Source::Values(_), Some(given)) = (&parts.source, given) else {
        return Vec::new();
    };
    let table: Option<&Table> = match parts.target {
        Target::Known(tables) if tables.len() == 1 => tables.first().copied(),
        _ => None,
    };
    let columns = table.into_iter().flat_map(|table| &table.columns);
    let chosen = |column: &&Column| {
        let code = column.default.as_ref().and_then(|code| code.0.as_deref());
        code.is_some_and(|code| call(code, 0).is_some_and(|last| last + 1 == code.len()))
    };
    columns.filter(|column| !given.contains(&column.name)).filter(chosen).collect()
}

/// The end of a call that begins here, when it is one of these and has constant arguments.
fn call(tokens: &[Token], at: usize) -> Option<usize> {
    let token = tokens.get(at)?;
    let named =
        token.kind == Kind::Word && CHOSEN.split_ascii_whitespace().any(|name| token.text == name);
    let after_dot = at.checked_sub(1).is_some_and(|before| tokens[before].symbol("."));
    if !named || after_dot || !tokens.get(at + 1).is_some_and(|t| t.symbol("(")) {
        return None;
    }
    let last = closing(tokens, at + 1);
    let constant =
        tokens.get(at + 2..last)?.iter().all(|t| t.kind == Kind::Number || t.symbol(","));
    (constant && last < tokens.len()).then_some(last)
}
