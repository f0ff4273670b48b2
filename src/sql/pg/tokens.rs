//! The tokens of a statement, for what the parse tree does not say where it stood.

use std::ops::Range;

use pg_query::protobuf::{ScanToken, Token};

/// The tokens of a piece of text, comments left out. Positions count from the piece's start.
pub(super) struct Tokens<'x> {
    pub text: &'x str,
    all: Vec<ScanToken>,
}

impl<'x> Tokens<'x> {
    /// None when the scanner does not like it. It reads plain literals as standard SQL does, so
    /// the caller must not trust it where a session reads them otherwise.
    pub(super) fn scan(text: &'x str) -> Option<Self> {
        let mut all = pg_query::scan(text).ok()?.tokens;
        all.retain(|token| !matches!(token.token(), Token::SqlComment | Token::CComment));
        let inside = |token: &ScanToken| text.get(range(token)).is_some();
        all.iter().all(inside).then_some(Self { text, all })
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn kind(&self, at: usize) -> Option<Token> {
        self.all.get(at).map(ScanToken::token)
    }

    pub(super) fn range(&self, at: usize) -> Option<Range<usize>> {
        self.all.get(at).map(range)
    }

    /// The first token of this kind outside of parentheses, from a place on.
    pub(super) fn find(&self, from: usize, wanted: Token) -> Option<usize> {
        let mut depth = 0usize;
        for at in from..self.all.len() {
            match self.kind(at)? {
                Token::Ascii40 => depth += 1,
                Token::Ascii41 => depth = depth.saturating_sub(1),
                kind if kind == wanted && depth == 0 => return Some(at),
                _ => {}
            }
        }
        None
    }

    /// The identifier (or keyword used as one) at this place, folded as the server does.
    pub(super) fn identifier(&self, at: usize) -> Option<String> {
        let text = self.text.get(self.range(at)?)?;
        match text.strip_prefix('"') {
            Some(quoted) => Some(quoted.strip_suffix('"')?.replace("\"\"", "\"")),
            None => {
                let word = text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
                word.then(|| text.to_lowercase())
            }
        }
    }
}

fn range(token: &ScanToken) -> Range<usize> {
    usize::try_from(token.start).unwrap_or(usize::MAX)
        ..usize::try_from(token.end).unwrap_or(usize::MAX)
}
