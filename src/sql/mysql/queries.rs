//! What to ask a server about itself, and the catalog that its answers make.

use std::collections::HashMap;

use super::catalog::{Cascade, Catalog, Code, Column, Event, Routine, Table, TableKind, Trigger};
use super::judge::Answers;
use super::lexer::Server;

/// Names and texts. Every column comes as text; they are asked with an empty `sql_mode`, on which the
/// quotes in what the server shows depend.
pub(super) const QUERIES: &[(&str, &str)] = &[
    ("server", SERVER),
    ("tables", TABLES),
    ("columns", COLUMNS),
    ("keys", KEYS),
    ("views", VIEWS),
    ("triggers", TRIGGERS),
    ("references", REFERENCES),
    ("routines", ROUTINES),
    ("udfs", "SELECT name FROM mysql.func ORDER BY name"),
];

/// version, sql_mode, innodb_autoinc_lock_mode
const SERVER: &str = "SELECT VERSION(), @@GLOBAL.sql_mode, @@GLOBAL.innodb_autoinc_lock_mode";

/// schema, name, type, engine
const TABLES: &str = "
SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, IFNULL(ENGINE, '') FROM information_schema.TABLES
WHERE TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', 'lockstep')
ORDER BY TABLE_SCHEMA, TABLE_NAME";

/// schema, table, column, type, extra, default, collation of text, character set, expression
const COLUMNS: &str = "
SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, EXTRA, COLUMN_DEFAULT,
       IF(DATA_TYPE IN ('enum', 'set'), '', IFNULL(COLLATION_NAME, '')),
       IFNULL(CHARACTER_SET_NAME, ''), IFNULL(GENERATION_EXPRESSION, '')
FROM information_schema.COLUMNS
WHERE TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', 'lockstep')
ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION";

/// schema, table, key, column, nullable or a prefix only
const KEYS: &str = "
SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, IFNULL(COLUMN_NAME, ''),
       IF(NULLABLE = 'YES' OR SUB_PART IS NOT NULL OR COLUMN_NAME IS NULL, 'partial', 'whole')
FROM information_schema.STATISTICS
WHERE NON_UNIQUE = 0
  AND TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', 'lockstep')
ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX";

/// schema, name, query
const VIEWS: &str = "
SELECT TABLE_SCHEMA, TABLE_NAME, VIEW_DEFINITION FROM information_schema.VIEWS
WHERE TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', 'lockstep')
ORDER BY TABLE_SCHEMA, TABLE_NAME";

/// schema, table, name, event, body, sql_mode
const TRIGGERS: &str = "
SELECT EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, TRIGGER_NAME, EVENT_MANIPULATION, ACTION_STATEMENT,
       SQL_MODE
FROM information_schema.TRIGGERS
WHERE EVENT_OBJECT_SCHEMA NOT IN ('mysql', 'sys', 'lockstep')
ORDER BY EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, TRIGGER_NAME";

/// schema and table that is referenced, schema and table that refers, rules of DELETE and UPDATE
const REFERENCES: &str = "
SELECT UNIQUE_CONSTRAINT_SCHEMA, REFERENCED_TABLE_NAME, CONSTRAINT_SCHEMA, TABLE_NAME, DELETE_RULE,
       UPDATE_RULE
FROM information_schema.REFERENTIAL_CONSTRAINTS
ORDER BY UNIQUE_CONSTRAINT_SCHEMA, REFERENCED_TABLE_NAME, CONSTRAINT_SCHEMA, TABLE_NAME,
         CONSTRAINT_NAME";

/// schema, name, type, body, sql_mode
const ROUTINES: &str = "
SELECT ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_TYPE, IFNULL(ROUTINE_DEFINITION, ''), SQL_MODE
FROM information_schema.ROUTINES
WHERE ROUTINE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', 'lockstep')
ORDER BY ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_TYPE";

type Rows<'r> = &'r [Vec<Option<String>>];

impl Catalog {
    /// Builds the catalog from the answers to [`Catalog::queries`], by name.
    ///
    /// A query that was not asked, or a row of another shape, is an error: a catalog that lacks
    /// half of what it should know would take writes for the same when they are not.
    pub(crate) fn from_answers(answers: &Answers<'_>) -> Result<Self, String> {
        let mut catalog = server(rows(answers, "server", 3)?)?;
        let server = catalog.server;
        for row in rows(answers, "tables", 4)? {
            let table = table(row);
            catalog.tables.entry(text(row, 1).to_lowercase()).or_default().push(table);
        }
        columns(&mut catalog, rows(answers, "columns", 9)?, server);
        keys(&mut catalog, rows(answers, "keys", 5)?);
        for row in rows(answers, "views", 3)? {
            let query = Code::new(&text(row, 2), server, "");
            if let Some(view) = find(&mut catalog, row) {
                view.kind = TableKind::View(query);
            }
        }
        for row in rows(answers, "triggers", 6)? {
            let event = match text(row, 3).as_str() {
                "INSERT" => Event::Insert,
                "UPDATE" => Event::Update,
                "DELETE" => Event::Delete,
                other => return Err(format!("triggers: an unknown event {other}")),
            };
            let body = Code::new(&text(row, 4), server, &text(row, 5));
            if let Some(table) = find(&mut catalog, row) {
                table.triggers.push(Trigger { name: text(row, 2), event, body });
            }
        }
        for row in rows(answers, "references", 6)? {
            let acts = |at| !matches!(text(row, at).as_str(), "RESTRICT" | "NO ACTION");
            let cascade = Cascade {
                on_delete: acts(4),
                on_update: acts(5),
                child: (text(row, 2).to_lowercase(), text(row, 3).to_lowercase()),
            };
            if let Some(table) = find(&mut catalog, row) {
                table.cascades.push(cascade);
            }
        }
        for row in rows(answers, "routines", 5)? {
            let routine = Routine {
                schema: text(row, 0),
                name: text(row, 1),
                function: text(row, 2) == "FUNCTION",
                body: Code::new(&text(row, 3), server, &text(row, 4)),
            };
            catalog.routines.entry(text(row, 1).to_lowercase()).or_default().push(routine);
        }
        let udfs = rows(answers, "udfs", 1)?;
        catalog.udfs = udfs.iter().map(|row| text(row, 0).to_lowercase()).collect();
        Ok(catalog)
    }
}

/// The rows of a query, each of at least this width.
fn rows<'r>(answers: &'r Answers<'_>, name: &str, width: usize) -> Result<Rows<'r>, String> {
    let found =
        answers.get(name).ok_or_else(|| format!("the catalog query {name} was not asked"))?;
    match found.iter().find(|row| row.len() < width) {
        Some(row) => Err(format!("{name}: a row of {} columns, not {width}", row.len())),
        None => Ok(found),
    }
}

fn text(row: &[Option<String>], at: usize) -> String {
    row.get(at).cloned().flatten().unwrap_or_default()
}

fn server(rows: Rows<'_>) -> Result<Catalog, String> {
    let row = rows.first().ok_or("the server does not say what it is")?;
    Ok(Catalog {
        server: version(&text(row, 0))?,
        sql_mode: text(row, 1),
        interleaved: text(row, 2) == "2",
        ..Catalog::default()
    })
}

/// `10.11.6-MariaDB-0+deb12u1`, `8.0.36`.
fn version(text: &str) -> Result<Server, String> {
    let maria = text.to_lowercase().contains("mariadb");
    let text = text.strip_prefix("5.5.5-").unwrap_or(text);
    let numbers: Vec<u32> =
        text.split(['.', '-']).map_while(|part| part.parse().ok()).take(3).collect();
    match numbers[..] {
        [major, minor, patch] => {
            Ok(Server { maria, version: major * 10_000 + minor * 100 + patch })
        }
        _ => Err(format!("`{text}` is no version known here")),
    }
}

fn table(row: &[Option<String>]) -> Table {
    let kind = match text(row, 2).as_str() {
        "BASE TABLE" => TableKind::Table,
        "SYSTEM VERSIONED" => TableKind::Versioned,
        "SEQUENCE" => TableKind::Sequence,
        _ => TableKind::Other,
    };
    Table {
        schema: text(row, 0),
        full: format!("{}.{}", text(row, 0), text(row, 1)),
        kind,
        engine: text(row, 3),
        columns: Vec::new(),
        keys: Vec::new(),
        primary: None,
        unique: Vec::new(),
        triggers: Vec::new(),
        cascades: Vec::new(),
    }
}

/// The table that the first two columns of a row name.
fn find<'c>(catalog: &'c mut Catalog, row: &[Option<String>]) -> Option<&'c mut Table> {
    let (schema, name) = (text(row, 0), text(row, 1));
    let named = catalog.tables.get_mut(&name.to_lowercase())?;
    let full = format!("{schema}.{name}");
    // Some servers give the names of foreign keys' tables in lower case.
    let at = named.iter().position(|t| t.full == full);
    let at = at.or_else(|| named.iter().position(|t| t.full.eq_ignore_ascii_case(&full)))?;
    named.get_mut(at)
}

fn columns(catalog: &mut Catalog, rows: Rows<'_>, server: Server) {
    for row in rows {
        let (default, extra) = (text(row, 5), text(row, 4).to_lowercase());
        // MySQL says `DEFAULT_GENERATED` of a default that is an expression.
        let generated = !text(row, 8).is_empty();
        let stored = generated && (extra.contains("stored") || extra.contains("persistent"));
        let column = Column {
            name: text(row, 2).to_lowercase(),
            approximate: matches!(text(row, 3).as_str(), "float" | "double" | "real"),
            temporal: matches!(
                text(row, 3).as_str(),
                "date" | "time" | "datetime" | "timestamp" | "year"
            ),
            folded: folds(&text(row, 6)),
            numbered: extra.contains("auto_increment"),
            kind: text(row, 3).to_lowercase(),
            charset: text(row, 7),
            generated,
            stored,
            follows_clock: extra.contains("on update"),
            default: default.contains('(').then(|| Code::new(&default, server, "")),
            default_text: default,
        };
        if let Some(table) = find(catalog, row) {
            table.columns.push(column);
        }
    }
}

/// Whether a collation takes different texts for equal. Most of those that compare bytes still do not
/// look at spaces at the end.
fn folds(collation: &str) -> bool {
    let exact = ["", "binary", "utf8mb4_0900_bin"].contains(&collation);
    !exact && !collation.ends_with("nopad_bin")
}

fn keys(catalog: &mut Catalog, rows: Rows<'_>) {
    let mut partial: HashMap<(String, String), bool> = HashMap::new();
    let place =
        |row: &[Option<String>]| (format!("{}.{}", text(row, 0), text(row, 1)), text(row, 2));
    for row in rows {
        *partial.entry(place(row)).or_default() |= text(row, 4) == "partial";
    }
    let mut last = None;
    for row in rows {
        let key = place(row);
        let column = text(row, 3).to_lowercase();
        let whole = partial.get(&key) == Some(&false);
        let continues = last.replace(key.clone()) == Some(key);
        let Some(table) = find(catalog, row) else { continue };
        match table.unique.last_mut() {
            Some(columns) if continues => columns.push(column.clone()),
            _ => table.unique.push(vec![column.clone()]),
        }
        if text(row, 2) == "PRIMARY" && whole {
            table.primary.get_or_insert_default().push(column.clone());
        }
        match table.keys.last_mut() {
            Some(columns) if whole && continues => columns.push(column),
            _ if whole => table.keys.push(vec![column]),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let maria = version("10.11.6-MariaDB-0+deb12u1").expect("a version");
        assert_eq!(maria, Server { maria: true, version: 101_106 });
        assert_eq!(version("5.5.5-10.6.12-MariaDB").map(|s| s.version), Ok(100_612));
        assert_eq!(version("8.0.36-28").map(|s| s.version), Ok(80_036));
        assert!(version("latest").is_err());
    }
}
