//! Where a server takes one of several values that count as equal and are not the same: `'a'` and
//! `'A '` under most collations. Which one depends on the order in which it meets the rows.

use super::lexer::{Kind, Token};
use super::order::{closing, is_connective, level};

/// What the places of a statement where one of equal values is taken mention.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Picks {
    /// Names in lower case; they may be columns.
    pub names: Vec<String>,
    /// All columns.
    pub all: bool,
}

impl Picks {
    /// Looks for MIN(), MAX(), DISTINCT, GROUP BY and the set operations.
    pub(super) fn of(tokens: &[Token]) -> Self {
        let mut picks = Self::default();
        for at in 0..tokens.len() {
            let is = |word: &str| tokens[at].is(word);
            let next = |ahead: usize| tokens.get(at + ahead);
            if (is("min") || is("max")) && next(1).is_some_and(|t| t.symbol("(")) {
                picks.add(&tokens[at + 1..closing(tokens, at + 1)]);
            } else if is("distinct") || is("distinctrow") {
                picks.distinct(tokens, at);
            } else if is("group") && next(1).is_some_and(|t| t.is("by")) {
                picks.add(list(&tokens[at + 2..]));
            } else if (is("union") && !next(1).is_some_and(|t| t.is("all")))
                || is("except")
                || is("intersect")
            {
                picks.around(tokens);
            }
        }
        picks
    }

    /// How many different values there are does not depend on which of the equal ones are counted.
    fn distinct(&mut self, tokens: &[Token], at: usize) {
        let before = |back: usize| at.checked_sub(back).map(|at| &tokens[at]);
        let inside = before(1).is_some_and(|t| t.symbol("("));
        if inside && before(2).is_some_and(|t| t.is("count")) {
            return;
        }
        let end = if inside { closing(tokens, at - 1) } else { tokens.len() };
        self.add(list(&tokens[at + 1..end]));
    }

    /// The queries of a set operation may stand on either side: all of their lists count.
    fn around(&mut self, tokens: &[Token]) {
        for at in 0..tokens.len() {
            if tokens[at].is("select") {
                self.add(list(&tokens[at + 1..]));
            }
        }
    }

    /// The names in some expressions. One that is compared byte by byte picks nothing.
    fn add(&mut self, expressions: &[Token]) {
        for item in expressions.split(|t| t.symbol(",")) {
            let exact = item.iter().any(|t| {
                t.is("binary") || t.is_name() && t.text.to_lowercase().ends_with("nopad_bin")
            });
            if exact {
                continue;
            }
            self.all |= item.first().is_some_and(|t| t.symbol("*"))
                || item.last().is_some_and(|t| t.symbol("*"));
            let names = (0..item.len()).filter(|at| is_column(item, *at));
            self.names.extend(names.map(|at| item[at].text.to_lowercase()));
        }
    }
}

/// Whether a word may name a column: no function, table, alias or word of the language.
fn is_column(item: &[Token], at: usize) -> bool {
    let follows = |symbol| item.get(at + 1).is_some_and(|t: &Token| t.symbol(symbol));
    let renames = at.checked_sub(1).is_some_and(|before| item[before].is("as"));
    matches!(item[at].kind, Kind::Word | Kind::Quoted)
        && !follows("(")
        && !follows(".")
        && !renames
        && !item[at].is("as")
        && (item[at].kind == Kind::Quoted || !is_connective(&item[at]))
}

/// A list of expressions: up to the word that ends it, outside of parentheses.
fn list(tokens: &[Token]) -> &[Token] {
    let ends = [
        "from",
        "into",
        "where",
        "having",
        "order",
        "limit",
        "union",
        "except",
        "intersect",
        "for",
        "lock",
        "on",
        "window",
        "returning",
        "group",
        "with",
    ];
    let places = level(tokens, (0, tokens.len()));
    let end = places
        .into_iter()
        .find(|at| tokens[*at].symbol(")") || ends.iter().any(|word| tokens[*at].is(word)));
    &tokens[..end.unwrap_or(tokens.len())]
}
