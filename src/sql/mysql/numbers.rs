//! Rows that bring the number that `AUTO_INCREMENT` would give them.
//!
//! A restored dump, a synchronised table, most benchmarks: where every row has its number, no server gives one,
//! and nothing has to be asked of the leader or told to the followers.

use super::context::Numbers;
use super::lexer::{Kind, Token};
use super::order::{closing, level};

/// Where the numbers of all rows stand in an INSERT … VALUES, if each row has a number of its own there: a
/// constant, or a parameter that may turn out to be one.
pub(super) fn brought(tokens: &[Token], columns: &[String], column: &str) -> Option<Numbers> {
    let place = columns.iter().position(|given| given == column)?;
    let outer = level(tokens, (0, tokens.len()));
    let values = outer.iter().position(|at| tokens[*at].is("values") || tokens[*at].is("value"))?;
    let parameters: Vec<usize> =
        (0..tokens.len()).filter(|at| tokens[*at].kind == Kind::Param).collect();
    let mut places = Vec::new();
    for (nth, at) in outer[values + 1..].iter().enumerate() {
        if nth % 2 == 1 {
            // Behind the rows there is nothing but a RETURNING.
            if !tokens[*at].symbol(",") {
                break;
            }
            continue;
        }
        let only = value_at(tokens, *at, place)?;
        let token = &tokens[only];
        match parameters.binary_search(&only) {
            Ok(number) => places.push(number),
            // Zero asks for a number.
            Err(_) if token.kind == Kind::Number && is_number(token.text.as_bytes()) => {}
            Err(_) => return None,
        }
    }
    (outer.len() > values + 1).then_some(Numbers { places, of: parameters.len() })
}

/// The one word that stands at a place of the row that begins here.
fn value_at(tokens: &[Token], open: usize, place: usize) -> Option<usize> {
    if !tokens[open].symbol("(") {
        return None;
    }
    let inside = level(tokens, (open + 1, closing(tokens, open)));
    match inside.split(|at| tokens[*at].symbol(",")).nth(place)? {
        [only] => Some(*only),
        _ => None,
    }
}

/// Whether these are digits, and not of a zero.
fn is_number(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_digit) && digits.iter().any(|digit| *digit != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::mysql::lexer::{Quoting, Server, tokens};

    const SERVER: Server = Server { maria: true, version: 101_106 };

    fn places(sql: &str) -> Option<Vec<usize>> {
        let tokens = tokens(sql, SERVER, Quoting::default()).ok()?;
        let columns = ["id".to_owned(), "k".to_owned()];
        brought(&tokens, &columns, "id").map(|numbers| numbers.places)
    }

    #[test]
    fn only_rows_that_all_have_a_number_bring_it() {
        let brings =
            |sql: &str, wanted: &[usize]| assert_eq!(places(sql).as_deref(), Some(wanted), "{sql}");
        brings("insert into t (id, k) values (7, 'x')", &[]);
        brings("insert into t (id, k) values (7, f(1, 2)), (?, ?), (9, ?)", &[0]);
        brings("insert into t (id, k) values (?, ?), (?, ?) returning id", &[0, 2]);
        brings("insert into t (id, k) value (?, (select 1))", &[0]);
        for sql in [
            "insert into t (id, k) values (0, 'x')",
            "insert into t (id, k) values (00, 'x')",
            "insert into t (id, k) values (null, 'x')",
            "insert into t (id, k) values (default, 'x')",
            "insert into t (id, k) values (-1, 'x')",
            "insert into t (id, k) values (0.4, 'x')",
            "insert into t (id, k) values ('', 'x')",
            "insert into t (id, k) values (? - ?, 'x')",
            "insert into t (id, k) values (7, 'x'), (null, 'y')",
            "insert into t (id, k) values (7, 'x'), (), (8, 'y')",
            "insert into t (id, k) select 7, 'x'",
            "insert into t (id, k) values",
        ] {
            assert_eq!(places(sql), None, "{sql}");
        }
    }
}
