//! What a server holds, reduced so that two can be compared: definitions as the server shows them, and
//! for each table the number and a checksum of its rows.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Result};
use sha2::{Digest, Sha256};

use super::quoted;

/// What one server holds, in all databases that are neither its own nor lockstep's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Databases, in order.
    pub databases: Vec<String>,
    /// Definitions by kind and name.
    pub schema: BTreeMap<String, String>,
    /// Rows and their checksum, by `database.table`.
    pub tables: BTreeMap<String, (u64, Option<u64>)>,
}

impl Content {
    /// Whether there is nothing that a user made, but perhaps empty databases.
    pub fn is_empty(&self) -> bool {
        self.schema.keys().all(|key| key.starts_with("database "))
    }
}

/// Databases of users.
const DATABASES: &str = "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME \
    FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN \
    ('mysql', 'information_schema', 'performance_schema', 'sys', 'lockstep') ORDER BY 1";

const TABLES: &str = "SELECT TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES \
    WHERE TABLE_SCHEMA = ? ORDER BY 1";

const ROUTINES: &str = "SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES \
    WHERE ROUTINE_SCHEMA = ? ORDER BY 1, 2";

const TRIGGERS: &str = "SELECT TRIGGER_NAME, CONCAT_WS(' ', ACTION_TIMING, EVENT_MANIPULATION, \
    EVENT_OBJECT_TABLE, ACTION_ORDER, SQL_MODE, ACTION_STATEMENT) \
    FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = ? ORDER BY 1";

const EVENTS: &str = "SELECT EVENT_NAME, EVENT_DEFINITION FROM information_schema.EVENTS \
    WHERE EVENT_SCHEMA = ? ORDER BY 1";

/// Reads everything. Nobody may write meanwhile.
pub async fn content(conn: &mut Conn) -> Result<Content> {
    let (mut content, tables) = definitions(conn).await?;
    for (database, table) in tables {
        let name = format!("{}.{}", quoted(&database), quoted(&table));
        let rows: Option<u64> = conn.query_first(format!("SELECT COUNT(*) FROM {name}")).await?;
        let sum: Option<(String, Option<u64>)> =
            conn.query_first(format!("CHECKSUM TABLE {name}")).await?;
        let digest = (rows.unwrap_or_default(), sum.and_then(|(_, sum)| sum));
        content.tables.insert(format!("{database}.{table}"), digest);
    }
    Ok(content)
}

/// How a word begins that is made of the definitions that a statement names. Older ones are made of all.
const NAMED: &str = "named ";

/// Names of all tables, routines, triggers and events, with what is quickly said of them.
const NAMES: [(&str, &str); 4] = [
    (
        "TABLE",
        "SELECT TABLE_SCHEMA, TABLE_NAME, '' FROM information_schema.TABLES WHERE TABLE_SCHEMA",
    ),
    (
        "",
        "SELECT ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_TYPE FROM information_schema.ROUTINES \
         WHERE ROUTINE_SCHEMA",
    ),
    (
        "TRIGGER",
        "SELECT TRIGGER_SCHEMA, TRIGGER_NAME, '' FROM information_schema.TRIGGERS \
         WHERE TRIGGER_SCHEMA",
    ),
    (
        "EVENT",
        "SELECT EVENT_SCHEMA, EVENT_NAME, '' FROM information_schema.EVENTS WHERE EVENT_SCHEMA",
    ),
];

/// What is there of a statement that changes the schema, in one word, which is another after each change
/// that it makes: what exists at all, and the definitions of whatever bears a name that stands in its
/// text. To read all definitions would take long where there are hundreds of tables, on each server
/// several times. `former` is the word that was read before, if there was one.
pub async fn schema_word(conn: &mut Conn, sql: &str, former: Option<&str>) -> Result<String> {
    if former.is_some_and(|former| !former.starts_with(NAMED)) {
        let (content, _) = definitions(conn).await?;
        return Ok(word(content.schema.iter().flat_map(|(key, text)| [key, text])));
    }
    let mut parts = Vec::new();
    let databases: Vec<(String, String, String)> = conn.query(DATABASES).await?;
    parts.extend(databases.into_iter().flat_map(|(a, b, c)| [a, b, c]));
    let sql = sql.to_lowercase();
    for (kind, names) in NAMES {
        let query = format!(
            "{names} NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', \
             'lockstep') ORDER BY 1, 2, 3"
        );
        let found: Vec<(String, String, String)> = conn.query(query).await?;
        for (database, name, routine) in found {
            let kind = if kind.is_empty() { &*routine } else { kind };
            if is_named(&sql, &name) {
                let whole = format!("{kind} {}.{}", quoted(&database), quoted(&name));
                parts.push(definition(conn, &whole).await?);
            }
            parts.extend([kind.to_owned(), database, name]);
        }
    }
    Ok(format!("{NAMED}{}", word(parts.iter())))
}

/// Whether a name may stand in a text (in lower case), however it is quoted there.
fn is_named(sql: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    let doubled = |quote: char| name.replace(quote, &format!("{quote}{quote}"));
    sql.contains(&name) || sql.contains(&doubled('`')) || sql.contains(&doubled('"'))
}

/// Some texts in one word.
fn word<'t>(parts: impl Iterator<Item = &'t String>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        // With their lengths no two lists run into the same bytes.
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    format!("{:x}", digest.finalize())
}

/// Reads all definitions, and which tables have rows: database and name.
async fn definitions(conn: &mut Conn) -> Result<(Content, Vec<(String, String)>)> {
    let mut with_rows = Vec::new();
    let mut content = Content::default();
    let databases: Vec<(String, String, String)> = conn.query(DATABASES).await?;
    for (database, charset, collation) in databases {
        let tables: Vec<(String, String)> = conn.exec(TABLES, (&database,)).await?;
        for (table, kind) in tables {
            let name = format!("{}.{}", quoted(&database), quoted(&table));
            let key = format!("{} {database}.{table}", kind.to_lowercase());
            content.schema.insert(key, definition(conn, &format!("TABLE {name}")).await?);
            if kind == "BASE TABLE" || kind == "SYSTEM VERSIONED" {
                with_rows.push((database.clone(), table));
            }
        }
        let routines: Vec<(String, String)> = conn.exec(ROUTINES, (&database,)).await?;
        for (kind, routine) in routines {
            let name = format!("{kind} {}.{}", quoted(&database), quoted(&routine));
            let key = format!("{} {database}.{routine}", kind.to_lowercase());
            content.schema.insert(key, definition(conn, &name).await?);
        }
        for (kind, query) in [("trigger", TRIGGERS), ("event", EVENTS)] {
            let found: Vec<(String, String)> = conn.exec(query, (&database,)).await?;
            let named =
                found.into_iter().map(|(name, text)| (format!("{kind} {database}.{name}"), text));
            content.schema.extend(named);
        }
        content.schema.insert(format!("database {database}"), format!("{charset} {collation}"));
        content.databases.push(database);
    }
    Ok((content, with_rows))
}

/// What SHOW CREATE says, without the number that the next row will get.
async fn definition(conn: &mut Conn, what: &str) -> Result<String> {
    let row: Option<mysql_async::Row> = conn.query_first(format!("SHOW CREATE {what}")).await?;
    let Some(row) = row else { return Ok(String::new()) };
    let text = |at: usize| {
        row.get_opt::<Option<String>, _>(at).and_then(std::result::Result::ok).flatten()
    };
    // Routines and triggers have their mode between name and definition, events also their time zone.
    let at = match () {
        () if what.starts_with("TABLE") => 1,
        () if what.starts_with("EVENT") => 3,
        () => 2,
    };
    let text = text(at).unwrap_or_default();
    let mut kept = String::with_capacity(text.len());
    for (index, part) in text.split(" AUTO_INCREMENT=").enumerate() {
        let part =
            if index == 0 { part } else { part.trim_start_matches(|c: char| c.is_ascii_digit()) };
        kept.push_str(part);
    }
    Ok(kept)
}

/// In words, how one server's content differs from another's.
pub fn diff(wanted: &Content, found: &Content) -> Vec<String> {
    let mut differences = Vec::new();
    for (key, text) in &wanted.schema {
        match found.schema.get(key) {
            None => differences.push(format!("{key} is missing")),
            Some(other) if other != text => {
                differences.push(format!("{key} is defined differently"))
            }
            Some(_) => {}
        }
    }
    let more = found.schema.keys().filter(|key| !wanted.schema.contains_key(*key));
    differences.extend(more.map(|key| format!("{key} is there in addition")));
    for (table, (rows, sum)) in &wanted.tables {
        match found.tables.get(table) {
            Some((other, _)) if other != rows => {
                differences.push(format!("{table} has {other} rows, not {rows}"));
            }
            Some((_, other)) if other != sum => {
                differences.push(format!("{table} has other rows"));
            }
            _ => {}
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn a_name_is_found_however_it_is_written() {
        for sql in ["alter table t add x int", "alter table `T` add x int", "drop table a,T,b"] {
            assert!(is_named(&sql.to_lowercase(), "t"), "{sql}");
        }
        assert!(is_named("drop table `a``b`", "A`b"));
        assert!(is_named("drop table \"a\"\"b\"", "a\"b"));
        assert!(!is_named("drop table orders", "items"));
    }
}
