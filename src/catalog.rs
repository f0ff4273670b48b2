//! The catalog of the cluster's database and the classifications that were made with it.
//!
//! The catalog is read from the leader and replaced as a whole. A statement's plan remembers which
//! catalog it was made with; DDL raises the epoch *before* it commits, so that whoever got past the
//! lock of a table that was just changed can tell that its plan is too old.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::sql::{Catalog, Class, Hold, Scope, Script, Sequences, Statement, Touched, analyze};

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
}

impl Text {
    /// A text that has not been classified yet.
    pub fn new(sql: String) -> Self {
        Self { sql, plan: arc_swap::ArcSwapOption::empty() }
    }
}

/// The catalog as it was read.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// What statements are classified with.
    pub catalog: Catalog,
    /// Whether any constraint may be checked as late as at the commit.
    pub deferrable: bool,
}

/// The newest catalog, and the epoch that a plan must have to be trusted.
#[derive(Debug)]
pub struct Catalogs {
    current: ArcSwap<(u64, Snapshot)>,
    /// Raised before DDL commits.
    epoch: AtomicU64,
    /// Wakes whoever waits for a newer catalog. Unlike a `watch` it wakes them in an order that can
    /// be repeated.
    loaded: Notify,
}

impl Default for Catalogs {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee((0, Snapshot::default())),
            epoch: AtomicU64::new(1),
            loaded: Notify::new(),
        }
    }
}

impl Catalogs {
    /// The epoch that plans must have.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Makes all plans old: the catalog is about to change.
    pub fn outdate(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Installs a catalog that was read when the epoch was `epoch`.
    pub fn install(&self, epoch: u64, snapshot: Snapshot) {
        if self.current.load().0 < epoch {
            self.current.store(Arc::new((epoch, snapshot)));
            self.loaded.notify_waiters();
        }
    }

    /// Whether a catalog has been read at all.
    pub fn is_loaded(&self) -> bool {
        self.current.load().0 > 0
    }

    /// Whether any constraint may be checked as late as at the commit.
    pub fn has_deferrable(&self) -> bool {
        self.current.load().1.deferrable
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
        let (script, unreadable) = match analyze(&text.sql, &catalog.1.catalog, scope) {
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
        creates_temp: Vec::new(),
        drops: Vec::new(),
        temp_until_commit: false,
        returns_rows: true,
        set_config: None,
        modes: None,
        portable: false,
        cursor: None,
        keyed_if: Vec::new(),
        returned: None,
    };
    Script { statements: vec![statement] }
}
