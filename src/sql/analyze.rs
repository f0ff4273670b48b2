//! From a client's string to its classes.

use super::catalog::Catalog;
use super::statement::*;

/// Cuts a client's string into statements and classifies each.
pub fn analyze(text: &str, catalog: &Catalog, scope: &Scope) -> Result<Script, ParseError> {
    let _ = (catalog, scope);
    let parsed = pg_query::parse(text, 0)
        .map_err(|e| ParseError { message: e.to_string(), position: None })?;
    let statements = parsed
        .protobuf
        .stmts
        .iter()
        .map(|raw| {
            let start = raw.stmt_location as usize;
            let end = if raw.stmt_len == 0 { text.len() } else { start + raw.stmt_len as usize };
            Statement {
                range: start..end,
                class: Class::Captured { hold: Hold::Statement },
                tag: "other",
                reads: Touched::Unknown,
                writes: Touched::Unknown,
                sequences: Sequences::Any,
                locks_rows: false,
                clock: true,
                uses_currval: false,
                creates_temp: Vec::new(),
                drops: Vec::new(),
                temp_until_commit: false,
                returns_rows: true,
                set_config: None,
                modes: None,
                cursor: None,
            }
        })
        .collect();
    Ok(Script { statements })
}
