//! What the classifier knows of the database: plain data, looked up by name.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use super::effects::{Effects, Volatility};
use super::judge::Entry;
use super::statement::{Hold, Sequences};

/// What the classifier knows of the database. An empty one knows nothing, and every statement that
/// names anything at all is then captured.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// By bare name: few names live in more than one schema.
    pub(super) relations: HashMap<String, Vec<Relation>>,
    pub(super) functions: HashMap<String, Vec<Function>>,
    pub(super) operators: HashMap<String, Operator>,
    /// Types that are not PostgreSQL's own.
    pub(super) types: HashMap<String, Vec<UserType>>,
    /// The relations of `pg_catalog`, by bare name.
    pub(super) system: HashSet<String>,
    /// Somebody made an implicit cast with a volatile function: any expression may call it.
    pub(super) wild_casts: bool,
    /// … or with one that is not immutable: no expression is proved to be the same everywhere.
    pub(super) loose_casts: bool,
    /// Some constraint may be checked as late as at the commit.
    pub(super) deferrable: bool,
    /// Who may log in.
    pub(super) roles: HashMap<String, Entry>,
}

/// A table, view, sequence, …
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub schema: String,
    /// `schema.name`, without quotes.
    pub full: String,
    /// As the server quotes it.
    pub quoted: String,
    pub kind: RelationKind,
    pub columns: Vec<Column>,
    /// Immediate unique keys over NOT NULL columns, the primary key first.
    pub keys: Vec<Vec<String>>,
    /// User triggers.
    pub triggers: Triggers,
    /// What the trigger functions may leave in the server session.
    pub trigger_hold: Hold,
    pub rules: bool,
    pub row_security: bool,
    /// … for its owner too.
    pub row_security_forced: bool,
    /// Whoever may write rows may also read them: a RETURNING list asks for no further right.
    pub readers_write: bool,
    /// The role that owns it.
    pub owner: String,
    /// All CHECK constraints are proved to judge alike on every backend.
    pub plain_checks: bool,
    /// Partitions and inheriting tables, all levels.
    pub descendants: Vec<String>,
    /// Foreign keys of other tables that change those when this one changes.
    pub referenced: Vec<Reference>,
    /// What a change of a row may reach besides: descendants and cascades, all levels.
    pub reach: Vec<String>,
    /// Triggers or rules in that reach.
    pub reach_hidden: bool,
    /// Triggers or rules among the descendants, where new rows may go.
    pub insert_hidden: bool,
    /// What reading does: a view's query, a table's policies.
    pub read_effects: Effects,
    /// What filling a materialized view again does.
    pub refresh_effects: Effects,
    /// What writing does besides: policies and CHECK constraints.
    pub check_effects: Effects,
    /// What filling in the defaults does.
    pub default_effects: Effects,
}

/// What fires a table's triggers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Triggers {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
}

impl Triggers {
    /// Adds one, from `pg_trigger.tgtype`.
    pub(super) fn add(&mut self, bits: u32) {
        self.insert |= bits & 4 != 0;
        self.delete |= bits & 8 != 0;
        self.update |= bits & 16 != 0;
        self.truncate |= bits & 32 != 0;
    }

    /// Whether any fires on rows.
    pub(super) fn any_row(self) -> bool {
        self.insert || self.update || self.delete
    }
}

/// What stands behind a relation's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelationKind {
    Table,
    Partitioned,
    View,
    Materialized,
    Foreign,
    Sequence,
    Other,
}

/// A column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    pub class: TypeClass,
    /// The type's own name (`timestamptz`), for literals of date/time types.
    pub type_name: String,
    pub not_null: bool,
    pub default: DefaultKind,
    /// GENERATED ALWAYS AS (…).
    pub generated: bool,
    /// The binary form of its values means the same to every server.
    pub portable: bool,
    /// Its default is the next value of this sequence, whose step this is, and nothing else.
    pub draws: Option<(String, i64)>,
}

/// What a column gets that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DefaultKind {
    None,
    /// Proved to be the same on every backend.
    Constant,
    Stable,
    Volatile,
    /// The next value of a sequence, serial or identity.
    Sequence,
}

impl DefaultKind {
    pub(super) fn same_everywhere(&self) -> bool {
        matches!(self, Self::None | Self::Constant)
    }
}

/// How far the text of a type can be trusted to mean the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeClass {
    /// Its input does not depend on settings in a way that could differ, nor on a clock.
    Plain,
    /// Dates and times: `'now'` is a value.
    Time,
    /// Not proved to be plain.
    Other,
}

/// A foreign key of another table with an action.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    /// The referenced columns of this table.
    pub columns: Vec<String>,
    pub on_delete: bool,
    pub on_update: bool,
    /// The table whose rows are changed.
    pub child: String,
}

/// Functions of one name in one schema that a call may mean, taken together.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub schema: String,
    /// The worst of the overloads; an aggregate counts as its transition functions.
    pub volatility: Volatility,
    /// PostgreSQL's own.
    pub builtin: bool,
    /// The extension that it belongs to.
    pub extension: String,
    /// An overload takes a date/time type: a literal may be read as a clock.
    pub takes_time: bool,
    /// Plain functions only: no aggregate, window, procedure or set-returning one among them.
    pub scalar: bool,
    /// What its body may leave in the server session.
    pub hold: Hold,
    /// How many arguments it takes.
    pub args: RangeInclusive<usize>,
}

/// All operators of one name, taken together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operator {
    /// The worst of those that take no date/time type.
    pub plain: Volatility,
    /// The worst of those that users made.
    pub user: Volatility,
    /// A user made one on PostgreSQL's own types.
    pub shadowing: bool,
}

/// A type that is not PostgreSQL's own.
#[derive(Debug, Clone)]
pub(super) struct UserType {
    pub schema: String,
    pub class: TypeClass,
    /// What casting to it may do.
    pub effects: Effects,
    /// The default of a domain.
    pub default: DefaultKind,
    pub default_sequences: Sequences,
}

impl Relation {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}
