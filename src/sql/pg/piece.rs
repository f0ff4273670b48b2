//! One statement's place in the client's string.

use std::ops::Range;

use super::resolve::Names;
use super::tokens::Tokens;

/// One statement's place in the client's string.
#[derive(Clone)]
pub(super) struct Piece<'c, 'x> {
    pub names: Names<'c>,
    pub text: &'x str,
    pub range: Range<usize>,
    /// Where the text that was parsed begins: positions in the tree count from here.
    pub base: usize,
}

impl<'x> Piece<'_, 'x> {
    pub(super) fn own_text(&self) -> &'x str {
        self.text.get(self.range.clone()).unwrap_or("")
    }

    /// The tokens, where they can be trusted to be cut as the session cuts them.
    pub(super) fn tokens(&self) -> Option<Tokens<'x>> {
        let text = self.own_text();
        let standard = self.names.scope.standard_conforming_strings || !text.contains('\\');
        if standard { Tokens::scan(text) } else { None }
    }
}
