//! The agents' tables, as far as the proxy reads them: ordinary tables of the application's database. The agents
//! write them like any other client; what stands there decides whose sessions may write.

use crate::cluster::{Term, Terms};

/// Rows as text.
type Rows = Vec<Vec<Option<String>>>;

/// How the agents write that a holder may do everything; any other word means that it may only read.
const NORMAL: &str = "normal";

/// Where the agents' tables are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentTables {
    /// The schema, as the catalog calls it.
    schema: String,
    /// The same in SQL.
    quoted: String,
}

impl AgentTables {
    /// Tables in a schema: its name, and the same in SQL.
    pub fn new(schema: &str, quoted: &str) -> Self {
        Self { schema: schema.to_owned(), quoted: quoted.to_owned() }
    }

    /// The lease's table, as statements are classified.
    pub fn lease(&self) -> String {
        format!("{}.lockstep_lease", self.schema)
    }

    /// The lease's table, as rows are captured.
    pub fn captured(&self) -> String {
        format!("\"{}\".\"lockstep_lease\"", self.schema)
    }

    /// Which of the tables are there.
    pub fn there(&self) -> String {
        format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = '{}' \
             AND table_name IN ('lockstep_lease', 'lockstep_node', 'lockstep_event')",
            self.schema.replace('\'', "''")
        )
    }

    /// Who has what.
    pub fn terms(&self) -> String {
        format!("SELECT resource, epoch, holder, grade FROM {}.lockstep_lease", self.quoted)
    }

    /// The same of one resource, which nobody else changes until the transaction ends.
    pub fn locked(&self, resource: &str) -> String {
        let resource = resource.replace('\'', "''");
        format!("{} WHERE resource = '{resource}' FOR UPDATE", self.terms())
    }

    /// Columns of one of the tables, in an order that people expect.
    pub fn select(&self, columns: &[&str], table: &str, rest: &str) -> String {
        format!("SELECT {} FROM {}.{table} {rest}", columns.join(", "), self.quoted)
    }
}

/// Reads what [`AgentTables::terms`] gave.
///
/// # Errors
/// When a row is not one of the agents'.
pub fn terms(rows: Rows) -> Result<Terms, String> {
    let mut terms = Terms::new();
    for row in rows {
        let [Some(resource), Some(epoch), Some(holder), Some(grade)] = row.as_slice() else {
            return Err("a row of lockstep_lease has no value where it needs one".into());
        };
        let epoch = epoch.parse().map_err(|_| format!("`{epoch}` is no epoch"))?;
        let term = Term { epoch, holder: holder.clone(), read_only: grade != NORMAL };
        terms.insert(resource.clone(), term);
    }
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_terms_and_nothing_is_guessed_at() {
        let row = |words: [&str; 4]| words.map(|word| Some(word.to_owned())).to_vec();
        let read = terms(vec![row(["shop", "7", "n1", "normal"]), row(["a", "1", "", "ro"])]);
        let read = read.expect("two rows");
        assert_eq!(read["shop"], Term { epoch: 7, holder: "n1".into(), read_only: false });
        assert!(read["a"].read_only && read["a"].holder.is_empty());
        assert!(terms(vec![row(["shop", "seven", "n1", "normal"])]).is_err());
        assert!(terms(vec![vec![Some("shop".into()), None, None, None]]).is_err());
    }
}
