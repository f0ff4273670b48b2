//! Statements that may not run in a transaction: what they leave behind when they are interrupted,
//! and how a backend is brought to one outcome.
//!
//! Such a statement commits in steps. Before the first backend runs it, an intent is recorded on all
//! of them; afterwards the outcome is. Between the two a crash may leave anything from nothing to
//! everything on each backend, an invalid index among it; whoever finds an intent without an outcome
//! looks at what is there, decides, and brings every backend to the same.
//!
//! Where the server commits by itself before and after each change of the schema, what is there is one
//! word for all that the statement could change: nobody else changes it meanwhile, so that every
//! difference is the statement's.

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Error};

use crate::cluster::Ballot;

/// What kind of a statement it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// CREATE INDEX CONCURRENTLY.
    CreateIndex,
    /// DROP INDEX CONCURRENTLY.
    DropIndex,
    /// REINDEX CONCURRENTLY.
    Reindex,
    /// DETACH PARTITION CONCURRENTLY.
    Detach,
    /// A change that commits by itself, as a whole, and shows in the schema.
    Once,
    /// A change that commits by itself, perhaps in steps, or that does not show; twice is as once.
    Again,
    /// A change of accounts and rights, which are each server's own.
    Account,
}

/// A statement that may not run in a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its text.
    pub sql: String,
    /// What kind it is.
    pub kind: Kind,
    /// The table of the new index, the index to be dropped, or the partition; empty when there is none.
    pub relation: String,
    /// New indexes: what was there already. Of what commits by itself: the schema as it was, in one
    /// word. Else: what was half done before, which says nothing.
    pub before: Vec<String>,
}

/// Something that is there of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remain {
    /// Its qualified name.
    pub name: String,
    /// Whether it is as it should be: a valid index, a partition that is not half detached, the schema
    /// as it was before.
    pub whole: bool,
}

/// How a statement outside a transaction ends, on every backend alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done, and has made these indexes, or this of the schema.
    Done(Vec<String>),
    /// It has not happened.
    Undone,
}

impl Task {
    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        let before: usize = self.before.iter().map(|name| name.len() + 5).sum();
        self.sql.len() + self.relation.len() + before + 24
    }

    /// Whether what is there is what the finished statement leaves.
    pub fn is_done(&self, remains: &[Remain], made: &[String]) -> bool {
        match self.kind {
            Kind::CreateIndex => {
                remains.iter().all(|r| r.whole) && remains.iter().map(|r| &r.name).eq(made)
            }
            Kind::DropIndex | Kind::Reindex | Kind::Detach => remains.is_empty(),
            Kind::Once | Kind::Again => remains.iter().map(|r| &r.name).eq(made),
            Kind::Account => true,
        }
    }

    /// Whether nothing has to be run any more where this is there. What does not show is run again.
    pub fn needs_no_run(&self, remains: &[Remain], made: &[String]) -> bool {
        match self.kind {
            Kind::Reindex | Kind::Account => false,
            Kind::Again if made == self.before => false,
            _ => self.is_done(remains, made),
        }
    }

    /// Whether it commits by itself, one server not knowing of the others.
    pub fn is_implicit(&self) -> bool {
        matches!(self.kind, Kind::Once | Kind::Again | Kind::Account)
    }

    /// Whether an error does no harm as long as the outcome is there: a part had been done before.
    pub fn forgives(&self, made: &[String]) -> bool {
        self.kind == Kind::Again && made != self.before
    }

    /// The outcome of a statement that was interrupted, from what is there on each backend: what can
    /// be taken back is taken back, since that is quick; what cannot is completed.
    pub fn fate(&self, remains: &[Vec<Remain>]) -> Fate {
        match self.kind {
            Kind::CreateIndex => {
                let made: Vec<String> =
                    remains.first().into_iter().flatten().map(|r| r.name.clone()).collect();
                let everywhere = remains.iter().all(|there| self.is_done(there, &made));
                if everywhere && !made.is_empty() { Fate::Done(made) } else { Fate::Undone }
            }
            // A rebuilt index is the same index: what is left over goes, and nothing has happened.
            Kind::Reindex => Fate::Undone,
            Kind::DropIndex | Kind::Detach => {
                let as_before = |r: &Remain| r.whole || self.before.contains(&r.name);
                let begun = remains.iter().any(|there| !there.iter().any(as_before));
                if begun { Fate::Done(Vec::new()) } else { Fate::Undone }
            }
            Kind::Once | Kind::Again | Kind::Account => {
                let changed = |there: &&Vec<Remain>| there.iter().any(|r| !r.whole);
                let found = remains.iter().find(changed);
                found.map_or(Fate::Undone, |there| {
                    Fate::Done(there.iter().map(|r| r.name.clone()).collect())
                })
            }
        }
    }

    /// `$1` is the relation. Columns: name, whether it is whole. `None` of what another dialect runs.
    fn question(&self) -> Option<&'static str> {
        Some(match self.kind {
            Kind::CreateIndex => {
                "SELECT format('%I.%I', n.nspname, c.relname), i.indisvalid FROM pg_index i \
                 JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE i.indrelid = to_regclass($1) ORDER BY 1"
            }
            Kind::DropIndex => {
                "SELECT format('%I.%I', n.nspname, c.relname), i.indisvalid FROM pg_index i \
                 JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE i.indexrelid = to_regclass($1)"
            }
            Kind::Reindex => {
                "SELECT format('%I.%I', n.nspname, c.relname), false FROM pg_index i \
                 JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND $1::text IS NULL ORDER BY 1"
            }
            Kind::Detach => {
                "SELECT h.inhparent::regclass::text, NOT h.inhdetachpending FROM pg_inherits h \
                 WHERE h.inhrelid = to_regclass($1)"
            }
            Kind::Once | Kind::Again | Kind::Account => return None,
        })
    }

    /// The statement that removes one remainder on the way to an outcome; nothing when it may stay.
    fn removal(&self, remain: &Remain, fate: &Fate) -> Option<String> {
        let Remain { name, whole } = remain;
        let undone = *fate == Fate::Undone;
        match self.kind {
            Kind::CreateIndex | Kind::Reindex if undone || !whole => {
                Some(format!("DROP INDEX CONCURRENTLY IF EXISTS {name}"))
            }
            Kind::DropIndex if !undone && !whole => {
                Some(format!("DROP INDEX CONCURRENTLY IF EXISTS {name}"))
            }
            // What remains of a partition is its parent's name.
            Kind::Detach if !undone && !whole => {
                Some(format!("ALTER TABLE {name} DETACH PARTITION {} FINALIZE", self.relation))
            }
            _ => None,
        }
    }
}

/// What is there of a statement. The connection's search_path must be `pg_catalog`.
pub async fn remains(client: &Client, task: &Task) -> Result<Vec<Remain>, Error> {
    let Some(question) = task.question() else { return Ok(Vec::new()) };
    let relation = (!task.relation.is_empty()).then_some(&*task.relation);
    let rows = client.query(question, &[&relation]).await?;
    let all = rows.iter().map(|row| Remain { name: row.get(0), whole: row.get(1) });
    let makes = matches!(task.kind, Kind::CreateIndex | Kind::Reindex);
    Ok(all.filter(|r| !makes || !task.before.contains(&r.name)).collect())
}

/// Removes what stands in the way of an outcome.
///
/// False when the server does not obey this ballot any more, and another proxy decides. Asked right before each removal:
/// what may not run in a transaction cannot ask in the same step.
pub async fn clear(
    client: &Client,
    task: &Task,
    fate: &Fate,
    ballot: Ballot,
) -> Result<bool, Error> {
    const OBEYS: &str = "SELECT FROM lockstep.control WHERE promised = $1";
    for remain in remains(client, task).await? {
        let Some(removal) = task.removal(&remain, fate) else {
            continue;
        };
        if client.query(OBEYS, &[&ballot.to_string()]).await?.is_empty() {
            return Ok(false);
        }
        client.batch_execute(&removal).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(kind: Kind) -> Task {
        Task { sql: String::new(), kind, relation: "public.t".into(), before: Vec::new() }
    }

    fn there(whole: bool) -> Vec<Remain> {
        vec![Remain { name: "public.i".into(), whole }]
    }

    #[test]
    fn an_index_is_kept_only_where_everybody_has_it() {
        let create = task(Kind::CreateIndex);
        let made = Fate::Done(vec!["public.i".into()]);
        assert_eq!(create.fate(&[there(true), there(true)]), made);
        assert_eq!(create.fate(&[there(true), there(false)]), Fate::Undone);
        assert_eq!(create.fate(&[there(true), Vec::new()]), Fate::Undone);
        assert_eq!(create.fate(&[Vec::new(), Vec::new()]), Fate::Undone);
    }

    #[test]
    fn what_cannot_be_taken_back_is_completed() {
        for kind in [Kind::DropIndex, Kind::Detach] {
            let done = Fate::Done(Vec::new());
            assert_eq!(task(kind).fate(&[there(true), there(true)]), Fate::Undone);
            assert_eq!(task(kind).fate(&[there(false), there(true)]), done);
            assert_eq!(task(kind).fate(&[Vec::new(), there(true)]), done);
        }
        // An index that was invalid before says nothing of this statement.
        let again = Task { before: vec!["public.i".into()], ..task(Kind::DropIndex) };
        assert_eq!(again.fate(&[there(false), there(false)]), Fate::Undone);
        assert_eq!(task(Kind::Reindex).fate(&[there(false), Vec::new()]), Fate::Undone);
    }

    #[test]
    fn what_commits_by_itself_is_known_by_the_schema() {
        let word = |name: &str| vec![Remain { name: name.into(), whole: name == "before" }];
        let (before, after) = (word("before"), word("after"));
        let done = Fate::Done(vec!["after".into()]);
        let of = |kind| Task { before: vec!["before".into()], ..task(kind) };
        let once = of(Kind::Once);
        assert_eq!(once.fate(&[before.clone(), before.clone()]), Fate::Undone);
        assert_eq!(once.fate(&[after.clone(), before.clone()]), done);
        assert_eq!(once.fate(&[before.clone(), after.clone()]), done);
        assert!(once.needs_no_run(&after, &["after".into()]));
        assert!(!once.forgives(&["after".into()]));
        // TRUNCATE: nobody sees whether it has run.
        let again = of(Kind::Again);
        assert!(!again.needs_no_run(&before, &["before".into()]));
        assert!(!again.forgives(&["before".into()]));
        assert!(again.needs_no_run(&after, &["after".into()]) && again.forgives(&["after".into()]));
        assert!(!of(Kind::Account).needs_no_run(&before, &["before".into()]));
    }
}
