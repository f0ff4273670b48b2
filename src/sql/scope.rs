//! What the meaning of a text depends on, and what becomes of a text without one.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What of the session the meaning of a text depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The current user, for `"$user"`.
    pub user: String,
    /// The search path, split, `$user` not replaced. None: not known.
    pub search_path: Option<Vec<String>>,
    /// The session's temporary relations, by their bare names.
    pub temp_tables: BTreeSet<String>,
    /// How the server reads backslashes in plain literals.
    pub standard_conforming_strings: bool,
    /// MySQL's way of reading quotes and backslashes. None: the server's default.
    pub sql_mode: Option<String>,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            user: String::new(),
            search_path: Some(vec!["$user".to_owned(), "public".to_owned()]),
            temp_tables: BTreeSet::new(),
            standard_conforming_strings: true,
            sql_mode: None,
        }
    }
}

/// The text could not be read. The server will find the same error: let it say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// The parser's words.
    pub message: String,
    /// The byte at which it stopped, where known.
    pub position: Option<usize>,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}
