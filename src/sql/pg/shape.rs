//! The shape of a query: its text without the values in it.
//!
//! Two queries of one shape are judged alike, so that a program that writes its values into its texts
//! pays for the grammar once. Only values that no rule of the judge looks at are taken out: a number of
//! few digits, and a string that is compared, listed or computed with. What stands first in a function's
//! parentheses may name a sequence or a table, what is cast may name anything, and what speaks of a clock
//! is a clock: all these stay, and so does everything that the lexer here does not know for certain.

use super::names::mentions_clock;

/// Longer texts are parsed each time.
const LONGEST: usize = 8192;
/// Stands for a number. Texts with control characters have no shape.
const NUMBER: char = '\u{1}';
/// Stands for a string.
const STRING: char = '\u{2}';
/// A number of more digits has another type.
const DIGITS: usize = 9;

/// What came before a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A comma, an operator, or a word after which a value is compared or listed.
    Open,
    /// A word that begins a list in parentheses.
    List,
    /// Anything else.
    Other,
}

/// The shape of a query, where its text has one: a single SELECT.
pub(in super::super) fn shape(sql: &str) -> Option<String> {
    let begins = sql.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"));
    if !begins || sql.len() > LONGEST {
        return None;
    }
    let mut shape = String::with_capacity(sql.len());
    let mut before = Before::Other;
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let token = match first {
            '\'' => string(rest, before)?,
            '0'..='9' => number(rest),
            _ => other(rest, first, before)?,
        };
        let (text, tail) = rest.split_at(token.length);
        match token.value {
            Some(stands_for) => shape.push(stands_for),
            None => shape.push_str(text),
        }
        (rest, before) = (tail, token.then);
    }
    Some(shape)
}

/// A piece of the text.
struct Token {
    length: usize,
    /// What stands for it in the shape, where it is a value that no rule looks at.
    value: Option<char>,
    /// What a value behind it would be.
    then: Before,
}

impl Token {
    fn plain(length: usize, then: Before) -> Self {
        Self { length, value: None, then }
    }
}

fn string(text: &str, before: Before) -> Option<Token> {
    let length = length_of_string(text)?;
    let tail = text[length..].trim_start();
    // A string behind a line break would be the rest of this one.
    if tail.starts_with('\'') {
        return None;
    }
    let literal = &text[1..length - 1];
    let taken = before == Before::Open && !tail.starts_with("::") && !mentions_clock(literal);
    Some(Token { length, value: taken.then_some(STRING), then: Before::Other })
}

fn number(text: &str) -> Token {
    let length = text.find(|c| !is_word(c) && c != '.').unwrap_or(text.len());
    let digits = text[..length].bytes().all(|b| b.is_ascii_digit());
    let taken = digits && length <= DIGITS && !text.starts_with('0');
    Token { length, value: taken.then_some(NUMBER), then: Before::Other }
}

/// Everything that is no value. `None` where it is not certain what it is.
fn other(text: &str, first: char, before: Before) -> Option<Token> {
    let token = match first {
        c if c.is_ascii_whitespace() => Token::plain(1, before),
        '"' => Token::plain(2 + text[1..].find('"')?, Before::Other),
        '$' => {
            // A parameter; anything else is a string between dollars.
            let digits = text[1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - 1);
            Token::plain((digits > 0).then_some(1 + digits)?, Before::Other)
        }
        c if is_word(c) => {
            let length = text.find(|c| !is_word(c)).unwrap_or(text.len());
            // A string with a prefix has rules of its own.
            if text[length..].starts_with('\'') {
                return None;
            }
            Token::plain(length, after_word(&text[..length]))
        }
        ',' => Token::plain(1, Before::Open),
        '(' if before == Before::List => Token::plain(1, Before::Open),
        '(' | ')' | '[' | ']' | '.' | ':' => Token::plain(1, Before::Other),
        ';' if text[1..].trim_start().is_empty() => Token::plain(1, Before::Other),
        c if is_operator(c) => {
            let uncertain = ["--", "/*", "&'"].iter().any(|start| text.starts_with(start));
            (!uncertain).then_some(Token::plain(1, Before::Open))?
        }
        _ => return None,
    };
    Some(token)
}

/// The length of the string at the front, with its quotes. `None` where a backslash may mean more than
/// itself, or there is no end.
fn length_of_string(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return Some(at + 1),
            b'\\' => return None,
            _ => at += 1,
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

fn is_operator(c: char) -> bool {
    matches!(
        c,
        '=' | '<'
            | '>'
            | '!'
            | '~'
            | '+'
            | '-'
            | '*'
            | '/'
            | '|'
            | '%'
            | '^'
            | '&'
            | '#'
            | '?'
            | '@'
    )
}

fn after_word(word: &str) -> Before {
    let is = |words: &[&str]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    if is(&["in", "values"]) {
        Before::List
    } else if is(&["and", "or", "not", "between", "like", "ilike", "when", "then", "else"]) {
        Before::Open
    } else {
        Before::Other
    }
}

#[cfg(test)]
mod tests {
    use super::{NUMBER, STRING, shape};

    fn shown(sql: &str) -> Option<String> {
        shape(sql).map(|shape| shape.replace(NUMBER, "N").replace(STRING, "S"))
    }

    #[test]
    fn values_are_taken_out() {
        for (sql, wanted) in [
            ("select a from t where id = 17", "select a from t where id = N"),
            (
                "SELECT * FROM t1 WHERE a='it''s' AND b IN (1, 22,'x');",
                "SELECT * FROM t1 WHERE a=S AND b IN (N, N,S);",
            ),
            (
                "select \"a 1\" from t where b like 'x%' limit 10",
                "select \"a 1\" from t where b like S limit N",
            ),
            (
                "select $1, $2 from t where c between 'a' and 'b'",
                "select $1, $2 from t where c between S and S",
            ),
        ] {
            assert_eq!(shown(sql).as_deref(), Some(wanted), "{sql}");
        }
    }

    #[test]
    fn values_that_mean_something_stay() {
        for sql in [
            "select nextval('s')",
            "select f ( 'x' )",
            "select a from t where at < 'now'",
            "select a from t where at < 'today'::date",
            "select a = 'pg_class'::regclass from t",
            "select date 'x'",
            "select 1.5 = 12345678901 from t",
            "select 0x1F, 1e5 from t",
        ] {
            let shape = shown(sql);
            assert!(shape.as_deref().is_none_or(|s| !s.contains('S')), "{sql}: {shape:?}");
        }
        assert_eq!(shown("select 12345678901").as_deref(), Some("select 12345678901"));
    }

    #[test]
    fn what_is_not_certain_has_no_shape() {
        for sql in [
            "insert into t values (1)",
            "select E'a'",
            "select a = 'x\\'",
            "select 'a",
            "select U&'x'",
            "select a = u&'x'",
            "select a -- b",
            "select /* 1 */ 2",
            "select 1; select 2",
            "select $x$a$x$",
            "select a = 'a'\n'b'",
            "select \u{1}",
        ] {
            assert_eq!(shown(sql), None, "{sql}");
        }
    }
}
