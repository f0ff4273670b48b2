//! A text cut into words exactly as the server cuts it.
//!
//! What is a string, what a comment and where a statement ends decides everything that follows, so
//! this follows the server's own lexer: the quotes that the SQL mode gives a meaning to, the
//! backslashes that it takes it from, and comments that one version runs and another skips.

use std::ops::Range;

/// Which server reads the text: comments with a version in them depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    /// MariaDB, not MySQL.
    pub maria: bool,
    /// 10.11.6 is `101_106`.
    pub version: u32,
}

/// How quotes and backslashes are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Quoting {
    /// `"…"` is a name, not a string.
    pub ansi_quotes: bool,
    /// `\` is an ordinary character in a string.
    pub plain_backslash: bool,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word without quotes: a keyword or a name.
    Word,
    /// A name in quotes.
    Quoted,
    /// A string, with what it says.
    Text,
    /// A number.
    Number,
    /// `@name`.
    Variable,
    /// `@@name`, with its scope where that is written.
    Setting,
    /// `?`.
    Param,
    /// Anything else, one character at a time.
    Symbol,
}

/// A word, with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: Kind,
    /// Without quotes; words that stand without quotes in lower case.
    pub text: String,
    pub range: Range<usize>,
}

impl Token {
    /// Whether it is this keyword.
    pub(super) fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    /// Whether it is this character.
    pub(super) fn symbol(&self, symbol: &str) -> bool {
        self.kind == Kind::Symbol && self.text == symbol
    }

    /// Whether it may be a name.
    pub(super) fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted)
    }
}

/// A string, name or comment that has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfinished(pub usize);

/// Cuts a text into its tokens.
pub(super) fn tokens(
    text: &str,
    server: Server,
    quoting: Quoting,
) -> Result<Vec<Token>, Unfinished> {
    Lexer { text, bytes: text.as_bytes(), at: 0, server, quoting, in_version: false }.run()
}

struct Lexer<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    server: Server,
    quoting: Quoting,
    /// Inside a comment that this server runs.
    in_version: bool,
}

impl Lexer<'_> {
    fn run(mut self) -> Result<Vec<Token>, Unfinished> {
        let mut found = Vec::new();
        while let Some(byte) = self.peek(0) {
            let start = self.at;
            match byte {
                // The server ends a text here, and so hides what follows: nobody means that.
                0 => return Err(Unfinished(start)),
                b' ' | b'\t'..=b'\r' => self.at += 1,
                b'#' => self.skip_line(),
                b'-' if self.is_dash_comment() => self.skip_line(),
                b'/' if self.peek(1) == Some(b'*') => self.comment()?,
                b'*' if self.in_version && self.peek(1) == Some(b'/') => {
                    self.in_version = false;
                    self.at += 2;
                }
                _ => found.push(self.token(byte, start)?),
            }
        }
        if self.in_version { Err(Unfinished(self.at)) } else { Ok(found) }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    /// `--` begins a comment only in front of white space, a control character or the end.
    fn is_dash_comment(&self) -> bool {
        self.peek(1) == Some(b'-') && self.peek(2).is_none_or(|b| b <= b' ' || b == 0x7f)
    }

    fn skip_line(&mut self) {
        let rest = &self.bytes[self.at..];
        self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }

    /// A comment is skipped, unless it is one that this server runs.
    fn comment(&mut self) -> Result<(), Unfinished> {
        let start = self.at;
        let maria = self.peek(2) == Some(b'M') && self.peek(3) == Some(b'!');
        let marked = self.peek(2) == Some(b'!') || (maria && self.server.maria);
        if self.in_version {
            // Which of the two ends belongs to which is a matter of the server's version.
            return Err(Unfinished(start));
        }
        if !marked {
            self.at += 2;
            return self.skip_comment(start, false);
        }
        self.at += if maria { 4 } else { 3 };
        let digits =
            self.bytes[self.at..].iter().take(6).take_while(|b| b.is_ascii_digit()).count();
        if digits >= 5 {
            let version: u32 = self.text[self.at..self.at + digits].parse().unwrap_or(u32::MAX);
            // MariaDB takes no versions of MySQL that came after the two had parted.
            let foreign = self.server.maria && !maria && (50_700..=99_999).contains(&version);
            if version > self.server.version || foreign {
                return self.skip_comment(start, true);
            }
            self.at += digits;
        }
        self.in_version = true;
        Ok(())
    }

    /// Goes behind the end of a comment. Inside one that is skipped for its version, whole comments
    /// may stand.
    fn skip_comment(&mut self, start: usize, nested: bool) -> Result<(), Unfinished> {
        let mut depth = 1;
        while self.at + 1 < self.bytes.len() {
            match (self.bytes[self.at], self.bytes[self.at + 1]) {
                (b'*', b'/') => {
                    self.at += 2;
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (b'/', b'*') if nested && depth == 1 => {
                    self.at += 2;
                    depth += 1;
                }
                _ => self.at += 1,
            }
        }
        Err(Unfinished(start))
    }

    fn token(&mut self, byte: u8, start: usize) -> Result<Token, Unfinished> {
        let (kind, text) = match byte {
            b'\'' => (Kind::Text, self.quoted(b'\'')?),
            b'"' if self.quoting.ansi_quotes => (Kind::Quoted, self.quoted(b'"')?),
            b'"' => (Kind::Text, self.quoted(b'"')?),
            b'`' => (Kind::Quoted, self.quoted(b'`')?),
            b'@' => self.variable()?,
            b'?' => (Kind::Param, self.one()),
            _ if is_word(byte) => self.word(),
            b'.' if self.peek(1).is_some_and(|b| b.is_ascii_digit()) && !self.after_name(start) => {
                (Kind::Number, self.number())
            }
            _ => (Kind::Symbol, self.one()),
        };
        Ok(Token { kind, text, range: start..self.at })
    }

    fn one(&mut self) -> String {
        let length = self.text[self.at..].chars().next().map_or(1, char::len_utf8);
        let text = self.text[self.at..self.at + length].to_owned();
        self.at += length;
        text
    }

    /// A name may begin with digits when a dot stands between it and another name.
    fn after_name(&self, start: usize) -> bool {
        start > 0
            && self.bytes.get(start - 1).is_some_and(|b| is_word(*b) || *b == b'`' || *b == b'"')
    }

    /// What stands between quotes. A quote that is doubled is one; a backslash hides what follows it,
    /// in strings and where the mode has not taken that from it.
    fn quoted(&mut self, quote: u8) -> Result<String, Unfinished> {
        let start = self.at;
        let is_text = quote == b'\'' || (quote == b'"' && !self.quoting.ansi_quotes);
        let escapes = is_text && !self.quoting.plain_backslash;
        let mut content = Vec::new();
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            if byte == quote {
                if self.peek(0) != Some(quote) {
                    return Ok(String::from_utf8_lossy(&content).into_owned());
                }
                self.at += 1;
                content.push(quote);
            } else if byte == b'\\' && escapes {
                let Some(next) = self.peek(0) else { break };
                self.at += 1;
                // These two keep their backslash, for LIKE.
                if matches!(next, b'%' | b'_') {
                    content.push(b'\\');
                }
                content.push(unescaped(next));
            } else {
                content.push(byte);
            }
        }
        Err(Unfinished(start))
    }

    fn variable(&mut self) -> Result<(Kind, String), Unfinished> {
        self.at += 1;
        if self.peek(0) == Some(b'@') {
            self.at += 1;
            return Ok((Kind::Setting, self.setting()));
        }
        let name = match self.peek(0) {
            Some(quote @ (b'\'' | b'"' | b'`')) => self.quoted(quote)?,
            _ => self.take(|b| is_word(b) || b == b'.'),
        };
        Ok((Kind::Variable, name.to_lowercase()))
    }

    /// `global.x`, `x`, also in backticks; lower case.
    fn setting(&mut self) -> String {
        let name = self.take(|b| is_word(b) || b == b'.' || b == b'`');
        name.replace('`', "").to_lowercase()
    }

    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> String {
        let length = self.bytes[self.at..].iter().take_while(|b| wanted(**b)).count();
        let text = self.text.get(self.at..self.at + length).unwrap_or_default().to_owned();
        self.at += length;
        text
    }

    /// A word, or a number where it begins with a digit and is one.
    fn word(&mut self) -> (Kind, String) {
        let start = self.at;
        if self.bytes[start].is_ascii_digit() && !(start > 0 && self.bytes[start - 1] == b'.') {
            let digits = self.bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
            let next = self.bytes.get(start + digits).copied();
            let is_number = match next {
                Some(b'e' | b'E') => self.exponent(start + digits) > 0,
                Some(byte) => !is_word(byte),
                None => true,
            };
            if is_number {
                return (Kind::Number, self.number());
            }
        }
        let word = self.take(is_word);
        let is_number = word.starts_with("0x") && word[2..].bytes().all(|b| b.is_ascii_hexdigit());
        (if is_number { Kind::Number } else { Kind::Word }, word.to_lowercase())
    }

    fn number(&mut self) -> String {
        let start = self.at;
        let mut end = self.digits(start);
        if self.bytes.get(end) == Some(&b'.') {
            end = self.digits(end + 1);
        }
        end += self.exponent(end);
        self.at = end;
        self.text[start..end].to_owned()
    }

    fn digits(&self, from: usize) -> usize {
        from + self.bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count()
    }

    /// How long the exponent is that stands here, if one does.
    fn exponent(&self, at: usize) -> usize {
        if !matches!(self.bytes.get(at), Some(b'e' | b'E')) {
            return 0;
        }
        let sign = usize::from(matches!(self.bytes.get(at + 1), Some(b'+' | b'-')));
        let from = at + 1 + sign;
        let digits = self.digits(from.min(self.bytes.len())) - from.min(self.bytes.len());
        if digits > 0 { 1 + sign + digits } else { 0 }
    }
}

/// Letters, digits, `_`, `$`, and everything beyond ASCII.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 8,
        b'0' => 0,
        b'Z' => 26,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARIA: Server = Server { maria: true, version: 101_106 };
    const MYSQL: Server = Server { maria: false, version: 80_036 };

    fn texts(sql: &str, server: Server, quoting: Quoting) -> String {
        match tokens(sql, server, quoting) {
            Ok(found) => found.iter().map(|t| t.text.clone()).collect::<Vec<_>>().join("|"),
            Err(Unfinished(at)) => format!("unfinished {at}"),
        }
    }

    fn plain(sql: &str) -> String {
        texts(sql, MARIA, Quoting::default())
    }

    #[test]
    fn strings_names_and_comments_end_where_the_server_ends_them() {
        assert_eq!(
            plain("SELECT 'it''s', \"a\\\"b\" -- x\n, `a``b`#y\n;"),
            "select|it's|,|a\"b|,|a`b|;"
        );
        assert_eq!(plain(r"'\%\_\n\x'"), "\\%\\_\nx");
        assert_eq!(plain("a--1"), "a|-|-|1");
        assert_eq!(plain("'a\\'; DROP"), "unfinished 0");
        assert_eq!(plain("/* ; */1/**/2"), "1|2");
        assert_eq!(plain("/* open"), "unfinished 0");
        let plain_backslash = Quoting { plain_backslash: true, ..Quoting::default() };
        assert_eq!(texts("'a\\', 1", MARIA, plain_backslash), "a\\|,|1");
        let ansi = Quoting { ansi_quotes: true, ..Quoting::default() };
        assert_eq!(tokens("\"t\"", MARIA, ansi).map(|t| t[0].kind.clone()), Ok(Kind::Quoted));
    }

    #[test]
    fn comments_with_a_version_depend_on_the_server() {
        assert_eq!(plain("1 /*!50000 + 2 */"), "1|+|2");
        assert_eq!(plain("1 /*!80000 + 2 */"), "1");
        assert_eq!(texts("1 /*!80000 + 2 */", MYSQL, Quoting::default()), "1|+|2");
        assert_eq!(plain("1 /*M! + 2 */"), "1|+|2");
        assert_eq!(texts("1 /*M! + 2 */", MYSQL, Quoting::default()), "1");
        assert_eq!(plain("1 /*M!110000 + /* x */ 2 */ + 3"), "1|+|3");
        assert_eq!(plain("/*! + 2 */"), "+|2");
        assert_eq!(plain("/*!50000 /* inner */ 5 */ 6"), "unfinished 9");
        assert_eq!(plain("/*!50000 5"), "unfinished 10");
    }

    #[test]
    fn numbers_and_names_are_told_apart() {
        assert_eq!(
            plain("1e5 1.5e-3 .5 t.1a 1abc 0x1F x'1F'"),
            "1e5|1.5e-3|.5|t|.|1a|1abc|0x1f|x|1F"
        );
        let kinds: Vec<Kind> = tokens("@a @'B c' @@global.x ?", MARIA, Quoting::default())
            .unwrap_or_default()
            .into_iter()
            .map(|t| t.kind)
            .collect();
        assert_eq!(kinds, [Kind::Variable, Kind::Variable, Kind::Setting, Kind::Param]);
        assert_eq!(plain("@A @'B c' @@Global.X"), "a|b c|global.x");
    }
}
