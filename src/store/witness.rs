//! What a statement did that every backend runs for itself, in a form that can be compared.
//!
//! DDL inside a function cannot be sent on as rows, and the server does not tell its text. So the
//! statement runs on every backend, with capture on, and what it did must be the same: the rows it
//! changed, what it did to the catalog, and the content of tables that were filled out of sight.

use serde::{Deserialize, Serialize};

use super::capture::Captured;
use super::changes::{Change, Changes};

/// What a statement did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Tags of the DDL that it ran, in order.
    pub tags: Vec<String>,
    /// The rows that it changed. In which order does not matter, and need not be the same.
    pub rows: Vec<Change>,
    /// What became of the catalog, in one word.
    pub catalog: String,
}

/// What the reports of the triggers say of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Tags of the DDL on objects that are not temporary.
    pub tags: Vec<String>,
    /// Tables that were filled out of sight.
    pub filled: Vec<String>,
    /// Whether temporary objects were made or changed.
    pub temporary: bool,
    /// The rows.
    pub rows: Vec<Change>,
}

impl Reports {
    /// Reads the reports of one statement; `counted` is how many rows the server counted.
    ///
    /// # Errors
    /// When they cannot be all that happened.
    pub fn read(reports: Vec<Captured>, counted: Option<u64>) -> Result<Self, String> {
        let (mut read, mut rows) = (Self::default(), Changes::new(0));
        for report in reports {
            match report {
                Captured::Row(row) => rows.push(row),
                Captured::Ddl { temporary: true, .. } => read.temporary = true,
                Captured::Ddl { tag, .. } => read.tags.push(tag),
                Captured::Filled(table) => read.filled.push(table),
                Captured::Unreadable => {
                    return Err("a report of the capture triggers cannot be read".into());
                }
            }
        }
        let counted = counted.ok_or("the captured rows were not counted")?;
        read.rows = rows.settle(counted).map_err(|e| e.to_string())?;
        Ok(read)
    }

    /// With what became of the catalog.
    pub fn witness(mut self, catalog: String) -> Witness {
        self.rows.sort();
        Witness { tags: self.tags, rows: self.rows, catalog }
    }
}

impl Witness {
    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        let side = |side: &Option<String>| side.as_ref().map_or(0, String::len);
        let row = |row: &Change| row.relation.len() + side(&row.old) + side(&row.new) + 16;
        self.tags.iter().map(|tag| tag.len() + 2).sum::<usize>()
            + self.rows.iter().map(row).sum::<usize>()
            + self.catalog.len()
            + 16
    }

    /// In what another backend did otherwise; nothing when it did the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.tags != other.tags {
            let list = |tags: &[String]| {
                if tags.is_empty() { "no DDL".to_owned() } else { tags.join(", ") }
            };
            return Some(format!("{} there, {} here", list(&self.tags), list(&other.tags)));
        }
        if self.rows != other.rows {
            let mut pairs = self.rows.iter().zip(&other.rows);
            let table = match pairs.find(|(a, b)| a != b) {
                Some((row, _)) => &row.relation,
                None => {
                    let longer = if self.rows.len() > other.rows.len() { self } else { other };
                    let shorter = self.rows.len().min(other.rows.len());
                    longer.rows.get(shorter).map_or("a table", |row| &row.relation)
                }
            };
            return Some(format!("other rows in {table}"));
        }
        (self.catalog != other.catalog)
            .then(|| "another schema, or other rows in a new table".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::capture::Op;

    fn witness(tag: &str, row: &str) -> Witness {
        let new = Some(row.to_owned());
        let rows = vec![Change { relation: "t".into(), op: Op::Insert, old: None, new }];
        Reports { tags: vec![tag.into()], rows, ..Reports::default() }.witness("word".into())
    }

    #[test]
    fn every_part_is_compared() {
        let one = witness("CREATE TABLE", "(1)");
        assert_eq!(one.difference(&one), None);
        let tag = one.difference(&witness("DROP TABLE", "(1)"));
        assert_eq!(tag.as_deref(), Some("CREATE TABLE there, DROP TABLE here"));
        let row = one.difference(&witness("CREATE TABLE", "(2)"));
        assert_eq!(row.as_deref(), Some("other rows in t"));
        let fewer = Witness { rows: Vec::new(), ..one.clone() };
        assert_eq!(one.difference(&fewer).as_deref(), Some("other rows in t"));
        let schema = Witness { catalog: "other".into(), ..one.clone() };
        assert!(one.difference(&schema).is_some());
    }

    #[test]
    fn reports_that_are_not_whole_are_refused() {
        assert!(Reports::read(Vec::new(), None).is_err());
        assert!(Reports::read(Vec::new(), Some(1)).is_err());
        assert!(Reports::read(vec![Captured::Unreadable], Some(0)).is_err());
    }
}
