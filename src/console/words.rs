//! Words of a console text. (P)
//!
//! Just enough of SQL's spelling for what people and drivers type: comments, quoted names, quoted
//! texts, semicolons.

/// A piece of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword, name or number without quotes.
    Word(String),
    /// A name in double quotes, or in backquotes.
    Name(String),
    /// A text in single quotes.
    Text(String),
    /// Any other character.
    Sign(char),
}

impl Token {
    /// Whether it is this keyword, in any case.
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// What it says, without its quotes.
    pub(super) fn said(&self) -> String {
        match self {
            Self::Word(text) | Self::Name(text) | Self::Text(text) => text.clone(),
            Self::Sign(sign) => sign.to_string(),
        }
    }
}

/// The commands of a text, as tokens; empty ones are left out.
///
/// # Errors
/// When a quote or a comment has no end.
pub(super) fn commands(text: &str) -> Result<Vec<Vec<Token>>, String> {
    let mut found = vec![Vec::new()];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, after) = next(first, rest)?;
        rest = after;
        match token {
            None => {}
            Some(Token::Sign(';')) => found.push(Vec::new()),
            Some(token) => {
                if let Some(command) = found.last_mut() {
                    command.push(token);
                }
            }
        }
    }
    found.retain(|command| !command.is_empty());
    Ok(found)
}

/// The token at the start of `rest`, if it is not blank, and what stands behind it.
fn next(first: char, rest: &str) -> Result<(Option<Token>, &str), String> {
    if first.is_whitespace() {
        return Ok((None, rest.trim_start()));
    }
    if rest.starts_with("--") {
        return Ok((None, rest.find('\n').map_or("", |end| &rest[end..])));
    }
    if rest.starts_with("/*") {
        return Ok((None, after_comment(rest)?));
    }
    if ['\'', '"', '`'].contains(&first) {
        let (said, after) = quoted(first, rest)?;
        let token = if first == '\'' { Token::Text(said) } else { Token::Name(said) };
        return Ok((Some(token), after));
    }
    let end = word_end(rest);
    if end > 0 {
        return Ok((Some(Token::Word(rest[..end].to_owned())), &rest[end..]));
    }
    Ok((Some(Token::Sign(first)), &rest[first.len_utf8()..]))
}

/// Backends may be called `eu.db-1:5432` without anybody having to quote that.
fn word_end(rest: &str) -> usize {
    let stops = |(at, letter): &(usize, char)| {
        let fits = letter.is_alphanumeric() || "_.:-$".contains(*letter);
        !fits || rest[*at..].starts_with("--")
    };
    rest.char_indices().find(stops).map_or(rest.len(), |(at, _)| at)
}

fn quoted(quote: char, rest: &str) -> Result<(String, &str), String> {
    let mut said = String::new();
    let mut letters = rest.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter != quote {
            said.push(letter);
        } else if letters.next_if(|(_, next)| *next == quote).is_some() {
            said.push(quote);
        } else {
            return Ok((said, &rest[at + quote.len_utf8()..]));
        }
    }
    Err(format!("unterminated quoted text at or near \"{rest}\""))
}

/// Comments may stand in comments.
fn after_comment(rest: &str) -> Result<&str, String> {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Ok(&rest[at..]);
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    Err("unterminated /* comment".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<Vec<String>> {
        let commands = commands(text).expect("tokens");
        commands.iter().map(|c| c.iter().map(Token::said).collect()).collect()
    }

    #[test]
    fn comments_blanks_and_empty_commands_are_nothing() {
        for text in ["", " ;\n; ", "-- nothing", "/* a /* b */ c */;", "-- a\n-- b"] {
            assert!(said(text).is_empty(), "{text}");
        }
        assert_eq!(said("a--b\nc /*x*/d;e"), [vec!["a", "c", "d"], vec!["e"]]);
    }

    #[test]
    fn names_need_quotes_only_when_they_are_odd() {
        assert_eq!(said("DEACTIVATE eu.db-1:5432;"), [["DEACTIVATE", "eu.db-1:5432"]]);
        let tokens = commands("x \"a \"\"b\" 'it''s'").expect("tokens");
        let expected =
            [Token::Word("x".into()), Token::Name("a \"b".into()), Token::Text("it's".into())];
        assert_eq!(tokens, [expected.to_vec()]);
        assert_eq!(said("größe 'ä;ö'"), [["größe", "ä;ö"]]);
    }

    #[test]
    fn what_has_no_end_is_an_error() {
        for text in ["'a", "\"a", "/* a /* b */", "/*"] {
            assert!(commands(text).is_err(), "{text}");
        }
    }
}
