//! What names stand for, seen from a session.

use super::catalog::{Catalog, Table};
use super::lexer::Token;
use super::scope::Scope;

/// Schemas of the server itself.
const SYSTEM: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];

/// The schema in which the proxy keeps what makes it safe.
pub(super) const RESERVED: &str = "lockstep";

/// A session's view of the catalog.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'c> {
    pub catalog: &'c Catalog,
    pub scope: &'c Scope,
}

/// What a table's name stands for.
#[derive(Debug)]
pub(super) enum Target<'c> {
    /// Tables or views, nearly always one.
    Known(Vec<&'c Table>),
    /// A temporary table of the session.
    Temporary,
    /// A table of the server itself.
    System(String),
    /// A table of the proxy.
    Reserved,
    /// Nothing that the catalog knows.
    Unknown(String),
    /// No schema is named, and the session has none.
    NoDatabase,
}

impl<'c> Names<'c> {
    /// The database that names without one belong to.
    pub(super) fn database(&self) -> Option<&'c str> {
        match self.scope.search_path.as_deref() {
            Some([database]) => Some(database),
            _ => None,
        }
    }

    /// Whether the session has a temporary table of this name.
    pub(super) fn is_temporary(&self, name: &str) -> bool {
        self.scope.temp_tables.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// What the name at the start of these tokens stands for, and how many tokens it takes.
    pub(super) fn target(&self, tokens: &[Token]) -> Option<(Target<'c>, usize)> {
        let first = tokens.first().filter(|t| t.is_name())?;
        let dotted = tokens.get(1).is_some_and(|t| t.symbol("."));
        if let Some(second) = tokens.get(2).filter(|t| dotted && t.is_name()) {
            return Some((self.resolve(Some(&first.text), &second.text), 3));
        }
        Some((self.resolve(None, &first.text), 1))
    }

    /// What a table's name stands for.
    pub(super) fn resolve(&self, schema: Option<&str>, name: &str) -> Target<'c> {
        let own = schema.is_none_or(|s| self.database().is_some_and(|d| d.eq_ignore_ascii_case(s)));
        if own && self.is_temporary(name) {
            return Target::Temporary;
        }
        let Some(schema) = schema.or(self.database()) else {
            return Target::NoDatabase;
        };
        if is_reserved(schema) {
            return Target::Reserved;
        }
        let full = format!("{schema}.{name}");
        if is_system(schema) {
            return Target::System(full);
        }
        let found: Vec<&Table> = self.catalog.tables(schema, name).collect();
        if found.is_empty() { Target::Unknown(full) } else { Target::Known(found) }
    }
}

pub(super) fn is_system(schema: &str) -> bool {
    SYSTEM.iter().any(|known| known.eq_ignore_ascii_case(schema))
}

pub(super) fn is_reserved(schema: &str) -> bool {
    schema.eq_ignore_ascii_case(RESERVED)
}

/// Whether the proxy's own schema is named anywhere as a schema.
pub(super) fn names_reserved(tokens: &[Token]) -> bool {
    let before = ["use", "database", "schema", "from", "in", "exists", "databases", "like", "on"];
    tokens.iter().enumerate().any(|(at, token)| {
        token.is_name()
            && is_reserved(&token.text)
            && (tokens.get(at + 1).is_some_and(|t| t.symbol("."))
                || at > 0 && before.iter().any(|word| tokens[at - 1].is(word)))
            && !(at > 0 && tokens[at - 1].symbol("."))
    })
}
