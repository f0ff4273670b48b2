//! The catalog of the cluster's database and the classifications that were made with it.
//!
//! The catalog is read from the leader and replaced as a whole. A statement's plan remembers which
//! catalog it was made with; DDL raises the epoch *before* it commits, so that whoever got past the
//! lock of a table that was just changed can tell that its plan is too old.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use lockstep_protocol::Dialect;
use tokio::sync::Notify;

use crate::sql::{
    Answers, Class, Context, Entry, Hold, Judge, Scope, Script, Sequences, Statement, Touched,
    ignorant, informed, questions, shape,
};

/// A text's classification, with what it depended on.
#[derive(Debug)]
pub struct Plan {
    /// The statements of the text.
    pub script: Script,
    /// The epoch of the catalog.
    pub epoch: u64,
    /// The scope, by identity.
    scope: Arc<Scope>,
    /// Whether the text could not be parsed: the server will say why.
    pub unreadable: bool,
}

impl Plan {
    /// Whether it is one read, of which nothing was found that depends on a value in its text.
    fn is_plain_read(&self) -> bool {
        let [statement] = self.script.statements.as_slice() else {
            return false;
        };
        statement.class == Class::Read
            && !self.unreadable
            && !statement.clock
            && !statement.uses_currval
            && statement.drawn.is_none()
            && statement.set_config.is_none()
    }
}

/// A SQL text that is classified once and remembered.
#[derive(Debug)]
pub struct Text {
    /// The text itself.
    pub sql: String,
    /// The newest classification, with what it depended on.
    pub plan: arc_swap::ArcSwapOption<Plan>,
    /// How many more times it runs by itself, since it failed in the company of others.
    pub apart: AtomicU32,
}

impl Text {
    /// A text that has not been classified yet.
    pub fn new(sql: String) -> Self {
        Self { sql, plan: arc_swap::ArcSwapOption::empty(), apart: AtomicU32::new(0) }
    }
}

/// The newest catalog, and the epoch that a plan must have to be trusted.
#[derive(Debug)]
pub struct Catalogs {
    dialect: Dialect,
    current: ArcSwap<(u64, Box<dyn Judge>)>,
    /// Raised before DDL commits.
    epoch: AtomicU64,
    /// Reads by their shape: a text that differs from one seen before in nothing but values need not be
    /// parsed.
    shapes: Shapes,
    /// Wakes whoever waits for a newer catalog. Unlike a `watch` it wakes them in an order that can
    /// be repeated.
    loaded: Notify,
}

impl Catalogs {
    /// Nothing is known yet.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            current: ArcSwap::from_pointee((0, ignorant(dialect))),
            epoch: AtomicU64::new(1),
            shapes: Shapes::default(),
            loaded: Notify::new(),
        }
    }

    /// What to ask a backend about its catalog: names and texts.
    pub fn questions(&self) -> &'static [(&'static str, &'static str)] {
        questions(self.dialect)
    }

    /// Judges a text with a catalog of its own: the answers as a transaction sees them.
    ///
    /// # Errors
    /// When the answers are not those to [`Catalogs::questions`].
    pub fn judge_with(
        &self,
        answers: &Answers<'_>,
        sql: &str,
        scope: &Scope,
    ) -> Result<Option<Script>, String> {
        Ok(informed(self.dialect, answers)?.judge(sql, scope).ok())
    }

    /// The epoch that plans must have.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Makes all plans old: the catalog is about to change.
    pub fn outdate(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Installs a catalog that was read when the epoch was `epoch`.
    pub fn install(&self, epoch: u64, judge: Box<dyn Judge>) {
        if self.current.load().0 < epoch {
            self.current.store(Arc::new((epoch, judge)));
            self.loaded.notify_waiters();
        }
    }

    /// Whether a catalog has been read at all.
    pub fn is_loaded(&self) -> bool {
        self.current.load().0 > 0
    }

    /// Whether any constraint may be checked as late as at the commit.
    pub fn has_deferrable(&self) -> bool {
        self.current.load().1.checks_late()
    }

    /// Whether the servers would let this role log in, as far as is known.
    pub fn entry(&self, role: &str) -> Entry {
        let current = self.current.load();
        if current.0 == 0 { Entry::Open } else { current.1.entry(role) }
    }

    /// Waits until a catalog of at least the given epoch is there.
    pub async fn wait_for(&self, epoch: u64) {
        loop {
            // Asked for before the look, so that what comes in between is not missed.
            let loaded = self.loaded.notified();
            if self.current.load().0 >= epoch {
                return;
            }
            loaded.await;
        }
    }

    /// The classification of a text, made anew only when the catalog or the scope has changed.
    pub fn plan(&self, text: &Text, scope: &Arc<Scope>) -> Arc<Plan> {
        let catalog = self.current.load();
        if let Some(plan) = text.plan.load_full()
            && plan.epoch == catalog.0
            && (Arc::ptr_eq(&plan.scope, scope) || plan.scope == *scope)
        {
            return plan;
        }
        let shape = shape(self.dialect, &text.sql);
        let known =
            shape.as_ref().and_then(|shape| self.shapes.plan(shape, text, catalog.0, scope));
        let plan = known.unwrap_or_else(|| {
            let (script, unreadable) = match catalog.1.judge(&text.sql, scope) {
                Ok(script) => (script, false),
                Err(_) => (unreadable(&text.sql), true),
            };
            let plan = Plan { script, epoch: catalog.0, scope: scope.clone(), unreadable };
            let plan = Arc::new(plan);
            if let Some(shape) = shape {
                self.shapes.note(shape, text, &plan);
            }
            plan
        });
        text.plan.store(Some(plan.clone()));
        plan
    }
}

/// Reads by their shape, with the length of the text that was parsed.
#[derive(Debug, Default)]
struct Shapes(Mutex<HashMap<String, (Arc<Plan>, usize)>>);

impl Shapes {
    /// How many are remembered. Programs have fewer queries; who makes them up as it goes gains nothing
    /// here, and must not fill the memory.
    const MOST: usize = 5000;

    /// The plan of a text, made of that of another one of its shape.
    fn plan(&self, shape: &str, text: &Text, epoch: u64, scope: &Arc<Scope>) -> Option<Arc<Plan>> {
        let (like, length) = self.lock().get(shape).cloned()?;
        if like.epoch != epoch || !(Arc::ptr_eq(&like.scope, scope) || like.scope == *scope) {
            return None;
        }
        if length == text.sql.len() {
            return Some(like);
        }
        let mut statement = like.script.statements.first()?.clone();
        // What follows the statement has no values in it, so its end is as far from the text's.
        statement.range.end = (text.sql.len() + statement.range.end).checked_sub(length)?;
        let script = Script { statements: vec![statement] };
        let (epoch, scope, unreadable) = (like.epoch, like.scope.clone(), false);
        Some(Arc::new(Plan { script, epoch, scope, unreadable }))
    }

    /// Remembers what a text was found to be, if that holds for all of its shape.
    fn note(&self, shape: String, text: &Text, plan: &Arc<Plan>) {
        if !plan.is_plain_read() {
            return;
        }
        let mut known = self.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(shape, (plan.clone(), text.sql.len()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Arc<Plan>, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What cannot be read is a write of everything.
fn unreadable(sql: &str) -> Script {
    let statement = Statement {
        range: 0..sql.len(),
        class: Class::Captured { hold: Hold::Statement },
        tag: "unreadable",
        reads: Touched::Unknown,
        writes: Touched::Unknown,
        sequences: Sequences::Any,
        resets_sequences: true,
        locks_rows: false,
        relocks: false,
        clock: true,
        uses_currval: false,
        drawn: None,
        creates_temp: Vec::new(),
        drops: Vec::new(),
        temp_until_commit: false,
        returns_rows: true,
        set_config: None,
        modes: None,
        portable: false,
        cursor: None,
        keyed_if: Vec::new(),
        context: Context::default(),
        commits: false,
        pins: Vec::new(),
        beyond_rows: false,
        in_steps: false,
        returned: None,
    };
    Script { statements: vec![statement] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_the_same_shape_fits_its_own_text() {
        let catalogs = Catalogs::new(Dialect::Postgres);
        let scope = Arc::new(Scope::default());
        let said = |sql: &str| {
            let text = Text::new(sql.to_owned());
            let plan = catalogs.plan(&text, &scope);
            let statements = plan.script.statements.iter();
            statements.map(|s| (s.class.clone(), text.sql[s.range.clone()].to_owned())).collect()
        };
        let read = |sql: &str| vec![(Class::Read, sql.to_owned())];
        for _ in 0..2 {
            let found: [Vec<(Class, String)>; 3] =
                ["select 1 + 2", "select 12345 + 'x';", "select 1 + '' ; "].map(said);
            let wanted = ["select 1 + 2", "select 12345 + 'x'", "select 1 + ''"].map(read);
            assert_eq!(found.map(trimmed), wanted);
        }
        assert_eq!(catalogs.shapes.lock().len(), 3, "each text has a shape of its own");
        assert_eq!(trimmed(said("select 77 + 'abc';")), read("select 77 + 'abc'"));
        assert_eq!(catalogs.shapes.lock().len(), 3, "a text of a known shape has none");
    }

    fn trimmed(statements: Vec<(Class, String)>) -> Vec<(Class, String)> {
        statements.into_iter().map(|(class, sql)| (class, sql.trim().to_owned())).collect()
    }
}
