//! The catalog of the cluster's database and the classifications that were made with it.
//!
//! The catalog is read from the leader and replaced as a whole. A statement's plan remembers which
//! catalog it was made with; DDL raises the epoch *before* it commits, so that whoever got past the
//! lock of a table that was just changed can tell that its plan is too old.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use lockstep_protocol::Dialect;
use tokio::sync::Notify;

use crate::sql::{
    Answers, Class, Context, Entry, Hold, Judge, Scope, Script, Sequences, Statement, Touched,
    ignorant, informed, questions,
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
        let (script, unreadable) = match catalog.1.judge(&text.sql, scope) {
            Ok(script) => (script, false),
            Err(_) => (unreadable(&text.sql), true),
        };
        let plan = Arc::new(Plan { script, epoch: catalog.0, scope: scope.clone(), unreadable });
        text.plan.store(Some(plan.clone()));
        plan
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
        returned: None,
    };
    Script { statements: vec![statement] }
}
