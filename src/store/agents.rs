//! The agents' tables, as far as the proxy reads them: ordinary tables of the application's database. The agents
//! write them like any other client; what stands there decides whose sessions may write.

use std::time::Duration;

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
    /// In PostgreSQL: where whoever names no schema makes its tables.
    pub fn postgres() -> Self {
        Self { schema: "public".to_owned(), quoted: "public".to_owned() }
    }

    /// In MariaDB and MySQL: in the database of the applications.
    pub fn mysql(database: &str) -> Self {
        let quoted = format!("`{}`", database.replace('`', "``"));
        Self { schema: database.to_owned(), quoted }
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
        self.select(&["resource", "epoch", "holder", "grade"], "lockstep_lease", "")
    }

    /// The same of one resource, which nobody else changes until the transaction ends.
    pub fn locked(&self, resource: &str) -> String {
        let resource = resource.replace('\'', "''");
        format!("{} WHERE resource = '{resource}' FOR UPDATE", self.terms())
    }

    /// One of the tables in SQL.
    pub fn named(&self, table: &str) -> String {
        format!("{}.{table}", self.quoted)
    }

    /// Columns of one of the tables, in an order that people expect.
    pub fn select(&self, columns: &[&str], table: &str, rest: &str) -> String {
        format!("SELECT {} FROM {} {rest}", columns.join(", "), self.named(table))
    }

    /// The shortest lease: resource and milliseconds.
    pub fn shortest(&self) -> String {
        self.select(
            &["resource", "ttl_ms"],
            "lockstep_lease",
            "WHERE ttl_ms > 0 ORDER BY ttl_ms LIMIT 1",
        )
    }
}

/// What is wrong where the proxy would notice a dead server later than the agents can wait: every write waits for
/// that, a renewal as well. `shortest` is what [`AgentTables::shortest`] gave.
pub fn too_slow(dead_after: Duration, shortest: &Rows) -> Option<String> {
    let [Some(resource), Some(ttl)] = shortest.first()?.as_slice() else {
        return None;
    };
    let ttl = Duration::from_millis(ttl.parse().ok()?);
    (dead_after > ttl / 3).then(|| {
        format!(
            "timeouts.dead_after is {dead_after:?}, more than a third of the agents' ttl ({ttl:?}, resource {resource}): \
             a server that falls silent may cost the master its lease"
        )
    })
}

/// What to do about [`too_slow`].
pub const TOO_SLOW: &str = "lower timeouts.dead_after of the proxy, or raise ttl of the agents";

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
    fn a_dead_server_is_noticed_within_a_third_of_the_lease() {
        let lease = |ttl: &str| vec![vec![Some("shop".to_owned()), Some(ttl.to_owned())]];
        assert!(
            too_slow(Duration::from_secs(10), &lease("10000"))
                .is_some_and(|why| why.contains("shop"))
        );
        assert!(too_slow(Duration::from_secs(3), &lease("9000")).is_none());
        assert!(too_slow(Duration::from_millis(3001), &lease("9000")).is_some());
        assert!(too_slow(Duration::from_secs(60), &Vec::new()).is_none(), "no agents");
    }

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
