//! Where one statement ends and the next begins.

use super::lexer::{Kind, Token};

/// The tokens of each statement. A `;` inside the body of a routine does not end it.
pub(super) fn statements(tokens: &[Token]) -> Result<Vec<&[Token]>, &'static str> {
    let mut found = Vec::new();
    let mut rest = tokens;
    while !rest.is_empty() {
        let end = if has_body(rest) { body_end(rest)? } else { first_delimiter(rest) };
        if end > 0 {
            found.push(&rest[..end]);
        }
        rest = rest.get(end + 1..).unwrap_or(&[]);
    }
    Ok(found)
}

fn first_delimiter(tokens: &[Token]) -> usize {
    tokens.iter().position(|t| t.symbol(";")).unwrap_or(tokens.len())
}

/// Whether the statement may have a body with statements of its own.
fn has_body(tokens: &[Token]) -> bool {
    let words = &tokens[..first_delimiter(tokens)];
    let routine = ["procedure", "function", "trigger", "event", "package"];
    match words.first() {
        Some(first) if first.is("begin") => words.get(1).is_some_and(|t| t.is("not")),
        Some(first) if first.is("create") || first.is("alter") => {
            let head = words.iter().take_while(|t| !t.symbol("("));
            head.take(12).any(|t| routine.iter().any(|word| t.is(word)))
        }
        Some(first) => ["if", "case", "while", "loop", "repeat", "for"].iter().any(|w| first.is(w)),
        None => false,
    }
}

/// The `;` behind a body: blocks are counted, and a count that does not work out is an error.
fn body_end(tokens: &[Token]) -> Result<usize, &'static str> {
    let mut depth = 0_usize;
    let mut starts = true;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let word = if token.kind == Kind::Word { token.text.as_str() } else { "" };
        if token.symbol(";") && depth == 0 {
            return Ok(at);
        }
        match word {
            "end" => {
                depth = depth.checked_sub(1).ok_or("a body has an END too many")?;
                // END IF, END CASE and the like close what the word alone would open.
                let closes = ["if", "case", "loop", "repeat", "while", "for"];
                if tokens.get(at + 1).is_some_and(|t| closes.iter().any(|w| t.is(w))) {
                    at += 1;
                }
            }
            "begin" | "case" => depth += 1,
            "if" | "loop" | "repeat" | "while" | "for" if starts && depth > 0 => depth += 1,
            _ => {}
        }
        starts = token.symbol(";")
            || token.symbol(":")
            || ["begin", "then", "else", "do", "loop", "repeat"].contains(&word);
        at += 1;
    }
    if depth == 0 { Ok(at) } else { Err("a body has a block without END") }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::{Quoting, Server, tokens};
    use super::*;

    fn count(sql: &str) -> Result<usize, &'static str> {
        let server = Server { maria: true, version: 101_106 };
        let found = tokens(sql, server, Quoting::default()).map_err(|_| "unfinished")?;
        statements(&found).map(|s| s.len())
    }

    #[test]
    fn delimiters_count_outside_of_bodies_only() {
        assert_eq!(count("SELECT 1; SELECT ';';; SELECT 2"), Ok(3));
        assert_eq!(count("BEGIN; DELETE FROM t; COMMIT"), Ok(3));
        let body = "CREATE PROCEDURE p() BEGIN IF 1 THEN SELECT 1; END IF; SELECT IF(1,2,3); \
                    SELECT CASE 1 WHEN 1 THEN 2 END; CASE 1 WHEN 1 THEN SELECT 1; END CASE; \
                    l: LOOP LEAVE l; END LOOP; REPEAT SET @a=REPEAT('x',2); UNTIL 1 END REPEAT; \
                    WHILE 0 DO SELECT 1; END WHILE; END";
        assert_eq!(count(body), Ok(1));
        assert_eq!(count(&format!("{body}; DROP TABLE t")), Ok(2));
        assert_eq!(
            count("CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW SET NEW.a = 1; SELECT 1"),
            Ok(2)
        );
        assert_eq!(
            count("CREATE PROCEDURE p() SELECT CASE 1 WHEN 1 THEN 2 END; DROP TABLE t"),
            Ok(2)
        );
        assert!(count("CREATE PROCEDURE p() BEGIN SELECT 1; ").is_err());
        assert!(count("CREATE PROCEDURE p() BEGIN END; END; DROP TABLE t").is_ok_and(|n| n > 1));
    }
}
