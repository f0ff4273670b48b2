//! What a database contains, in a form that can be held against another's.
//!
//! Tables are reduced to a count and a sum of hashes of their rows' text, which does not depend on the order of the
//! rows. It is read in one snapshot with fixed output settings, so that two backends at the same point of the journal
//! give the same answer whatever their own settings are. A sum of 64-bit hashes is made to notice accidents; it is no
//! proof against somebody who crafts rows to collide.

use super::capture::quoted;
use super::control::all_sequences;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{Client, Error};

/// The rows of one table, reduced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDigest {
    /// How many rows.
    pub rows: i64,
    /// Sum of their hashes.
    pub hash: String,
}

/// What one database contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// By `"schema"."table"`; partitions and children each on their own, and all large objects under one name.
    pub tables: BTreeMap<String, TableDigest>,
    /// Definitions by kind and name of the object.
    pub schema: BTreeMap<String, String>,
    /// Value and whether it was handed out, by `"schema"."sequence"`.
    pub sequences: BTreeMap<String, (i64, bool)>,
}

impl Content {
    /// Whether there is nothing that a user made: no table, view, function, type or row.
    pub fn is_empty(&self) -> bool {
        let standing = ["schema public", "extension plpgsql"];
        self.tables.values().all(|table| table.rows == 0)
            && self.schema.keys().all(|key| standing.contains(&key.as_str()))
    }
}

/// Under what name large objects appear among the tables.
const LARGE_OBJECTS: &str = "large objects";

const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL \"DateStyle\" = 'ISO, MDY'; \
    SET LOCAL \"IntervalStyle\" = 'postgres'; SET LOCAL \"TimeZone\" = 'UTC'; SET LOCAL bytea_output = 'hex'; \
    SET LOCAL extra_float_digits = 1; SET LOCAL lc_monetary = 'C'; SET LOCAL row_security = off; \
    SET LOCAL quote_all_identifiers = off; SET LOCAL statement_timeout = 0";

/// Reads everything, in one snapshot. The connection must not be in a transaction.
pub async fn content(client: &Client) -> Result<Content, Error> {
    client.batch_execute(SNAPSHOT).await?;
    let found = read(client).await;
    // The error of the reading matters more than that of its end.
    let ended = client.batch_execute("ROLLBACK").await;
    let found = found?;
    ended.map(|()| found)
}

/// Where two databases differ, in sentences; empty when they are equal. Sequences are left to [`sequences_differ`].
pub fn diff(a: &Content, b: &Content) -> Vec<String> {
    let mut differences = Vec::new();
    for key in keys(&a.schema, &b.schema) {
        match (a.schema.get(key), b.schema.get(key)) {
            (Some(x), Some(y)) if x != y => {
                differences.push(format!("{key} is defined differently: {}", parting(x, y)));
            }
            (Some(_), None) => differences.push(format!("{key} is missing on the second")),
            (None, Some(_)) => differences.push(format!("{key} is missing on the first")),
            _ => {}
        }
    }
    for key in keys(&a.tables, &b.tables) {
        if let (Some(x), Some(y)) = (a.tables.get(key), b.tables.get(key))
            && x != y
        {
            differences.push(if x.rows == y.rows {
                format!("{key} has {} rows on both, but their content differs", x.rows)
            } else {
                format!("{key} has {} rows on the first and {} on the second", x.rows, y.rows)
            });
        }
    }
    differences
}

/// Sequences that do not stand at the same value. In a running cluster a follower may be ahead of the leader by the
/// bound that it has stored, so this is for backends that are at rest.
pub fn sequences_differ(a: &Content, b: &Content) -> Vec<String> {
    let mut differences = Vec::new();
    for key in keys(&a.sequences, &b.sequences) {
        if let (Some(x), Some(y)) = (a.sequences.get(key), b.sequences.get(key))
            && x != y
        {
            differences.push(format!(
                "sequence {key} stands at {} on the first and at {} on the second",
                x.0, y.0
            ));
        }
    }
    differences
}

fn keys<'a, V, W>(a: &'a BTreeMap<String, V>, b: &'a BTreeMap<String, W>) -> BTreeSet<&'a String> {
    a.keys().chain(b.keys()).collect()
}

/// The part in which two definitions differ, cut to what fits a line.
fn parting(a: &str, b: &str) -> String {
    let same = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    let cut = |text: &str| {
        let rest: String = text.chars().skip(same.saturating_sub(15)).take(60).collect();
        rest.replace('\n', " ")
    };
    format!("“{}” against “{}”", cut(a), cut(b))
}

async fn read(client: &Client) -> Result<Content, Error> {
    let mut found = Content::default();
    for row in client.query(include_str!("compare.sql"), &[]).await? {
        let (kind, name): (&str, &str) = (row.get(0), row.get(1));
        let definition: Option<String> = row.get(2);
        found.schema.insert(format!("{kind} {name}"), definition.unwrap_or_default());
    }
    for name in tables(client).await? {
        let digest = table(client, &name).await?;
        found.tables.insert(name, digest);
    }
    let row = client
        .query_one(
            "SELECT count(*), coalesce(sum(hashtextextended(concat(loid, '/', pageno, '/', encode(data, 'hex')), 0)), 0)::text \
             FROM pg_largeobject",
            &[],
        )
        .await?;
    found.tables.insert(LARGE_OBJECTS.into(), TableDigest { rows: row.get(0), hash: row.get(1) });
    for sequence in all_sequences(client).await? {
        found.sequences.insert(sequence.name, (sequence.value, sequence.called));
    }
    Ok(found)
}

/// All tables and filled materialized views, by quoted name.
pub async fn tables(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client
        .query(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE (c.relkind = 'r' OR (c.relkind = 'm' AND c.relispopulated)) AND c.relpersistence <> 't' \
             AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep') ORDER BY 1, 2",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| format!("{}.{}", quoted(row.get(0)), quoted(row.get(1)))).collect())
}

/// The digest of one table, in whatever transaction and output settings the connection has.
pub async fn table(client: &Client, name: &str) -> Result<TableDigest, Error> {
    let row = client
        .query_one(
            &format!(
                "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(pg_catalog.hashtextextended(\
                 pg_catalog.textin(pg_catalog.record_out(t.*)), 0)), 0)::text FROM ONLY {name} t"
            ),
            &[],
        )
        .await?;
    Ok(TableDigest { rows: row.get(0), hash: row.get(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(table: &str, rows: i64, hash: &str) -> Content {
        let mut content = Content::default();
        content.tables.insert(table.into(), TableDigest { rows, hash: hash.into() });
        content.schema.insert(format!("table {table}"), "r p".into());
        content
    }

    #[test]
    fn equal_contents_have_no_difference() {
        assert!(diff(&with("t", 1, "5"), &with("t", 1, "5")).is_empty());
    }

    #[test]
    fn a_difference_names_the_table_and_says_how() {
        assert_eq!(
            diff(&with("t", 1, "5"), &with("t", 2, "5")),
            ["t has 1 rows on the first and 2 on the second"]
        );
        assert_eq!(
            diff(&with("t", 1, "5"), &with("t", 1, "6")),
            ["t has 1 rows on both, but their content differs"]
        );
        assert_eq!(
            diff(&with("t", 1, "5"), &Content::default()),
            ["table t is missing on the second"]
        );
    }
}
