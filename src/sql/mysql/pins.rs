//! Values that every server would choose for itself, in places where a statement asks for each once:
//! the leader chooses them before it runs the statement, and a user variable stands in for each.

use std::ops::Range;

use super::lexer::{Kind, Token};
use super::order::{closing, level};
use super::statement::Pin;

/// Functions that have another value on every server, and leave nothing behind.
const CHOSEN: &str = "uuid uuid_v4 uuid_v7 uuid_short sys_guid sysdate random_bytes user session_user \
    system_user current_user version";

/// More of them in one statement are not worth their variables.
const MOST: usize = 64;

/// Takes the calls out of an INSERT or REPLACE that names its rows: the statement with variables in
/// their place, and what these stand for. Nothing where there is no such call, or where a query might
/// ask for it again and again.
pub(super) fn pinned(tokens: &[Token]) -> Option<(Vec<Token>, Vec<Pin>)> {
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
    let rows = places.iter().filter(|at| (start..ends).contains(*at) && tokens[**at].symbol("("));
    // What comes behind is asked for by each row that is there already.
    let alone = rows.count() <= 1;
    let end = if alone { find(&["returning"]).unwrap_or(tokens.len()) } else { ends };
    let (mut stand_in, mut pins, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(token) = tokens.get(at) {
        match call(tokens, at).filter(|_| (start..end).contains(&at)) {
            Some(last) => {
                let range = token.range.start..tokens[last].range.end;
                let name = format!("lockstep_{}", pins.len() + 1);
                pins.push(Pin { range: range.clone(), variable: format!("@{name}") });
                stand_in.push(Token { kind: Kind::Variable, text: name, range });
                at = last + 1;
            }
            None => {
                stand_in.push(token.clone());
                at += 1;
            }
        }
    }
    (!pins.is_empty() && pins.len() <= MOST).then_some((stand_in, pins))
}

/// The end of a call that begins here, when it is one of these and has constant arguments.
fn call(tokens: &[Token], at: usize) -> Option<usize> {
    let named = tokens[at].kind == Kind::Word
        && CHOSEN.split_ascii_whitespace().any(|name| tokens[at].text == name);
    let after_dot = at.checked_sub(1).is_some_and(|before| tokens[before].symbol("."));
    if !named || after_dot || !tokens.get(at + 1).is_some_and(|t| t.symbol("(")) {
        return None;
    }
    let last = closing(tokens, at + 1);
    let inside: Range<usize> = at + 2..last;
    let constant = tokens.get(inside)?.iter().all(|t| t.kind == Kind::Number || t.symbol(","));
    (constant && last < tokens.len()).then_some(last)
}
