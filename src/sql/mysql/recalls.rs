//! Calls that only the session itself can answer: how many rows the statement before it changed or gave
//! back, and the number that the client was told at its login. A server's own answers would be about
//! whatever ran last on the connection that happens to be lent.

use super::lexer::{Kind, Token};
use super::order::level;
use super::statement::{Class, Recall, Recalled, Statement};

/// The statements in which a value can take the place of such a call.
const BEARERS: &[&str] =
    &["select", "values", "with", "do", "set", "insert", "replace", "update", "delete", "call"];

/// A statement with such calls, to be judged again with the answers in their places.
pub(super) fn recalls(sql: &str, tokens: &[Token]) -> Option<Statement> {
    let first = tokens.iter().find(|t| !t.symbol("("))?;
    if !BEARERS.iter().any(|word| first.is(word)) {
        return None;
    }
    let found: Vec<Recalled> =
        (0..tokens.len()).filter_map(|at| recalled(sql, tokens, at)).collect();
    (!found.is_empty()).then(|| Statement::new("recall", Class::Recall(found)))
}

fn recalled(sql: &str, tokens: &[Token], at: usize) -> Option<Recalled> {
    let token = tokens.get(at).filter(|t| t.kind == Kind::Word)?;
    let what = match token.text.as_str() {
        "row_count" => Recall::Changed,
        "found_rows" => Recall::Shown,
        "connection_id" => Recall::Number,
        _ => return None,
    };
    let close = tokens.get(at + 2).filter(|t| t.symbol(")") && tokens[at + 1].symbol("("))?;
    let before = at.checked_sub(1).map(|before| &tokens[before]);
    if before.is_some_and(|t| t.symbol(".") || t.symbol("@")) {
        return None;
    }
    let range = token.range.start..close.range.end;
    // A column is called by the words that stand there.
    let ends = ["into", "from", "where", "union", "limit", "order", "having"];
    let named = tokens[0].is("select")
        && before.is_some_and(|t| t.is("select") || t.symbol(","))
        && tokens.get(at + 3).is_none_or(|t| t.symbol(",") || ends.iter().any(|w| t.is(w)))
        && level(tokens, (0, tokens.len())).contains(&at);
    let name = named.then(|| format!(" AS `{}`", sql[range.clone()].replace('`', "``")));
    Some(Recalled { range, what, name: name.unwrap_or_default() })
}
