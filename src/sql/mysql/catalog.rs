//! What the classifier knows of the databases on a server: plain data, looked up by name.
//!
//! Names are compared without regard to case, whatever `lower_case_table_names` says: two tables
//! that differ in nothing else are then both meant, which only makes a verdict stricter.

use std::collections::{HashMap, HashSet};

use super::lexer::{Quoting, Server, Token, tokens};

/// What the classifier knows of the server. An empty one knows nothing, and every write is refused.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    pub(super) server: Server,
    /// By bare name.
    pub(super) tables: HashMap<String, Vec<Table>>,
    pub(super) routines: HashMap<String, Vec<Routine>>,
    /// Functions that somebody loaded into the server.
    pub(super) udfs: HashSet<String>,
    /// The server's own mode of reading, for sessions that chose none.
    pub(super) sql_mode: String,
    /// `innodb_autoinc_lock_mode` 2: the numbers of one statement need not follow one another.
    pub(super) interleaved: bool,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            server: Server { maria: true, version: 100_600 },
            tables: HashMap::new(),
            routines: HashMap::new(),
            udfs: HashSet::new(),
            sql_mode: String::new(),
            interleaved: true,
        }
    }
}

/// A table or view.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub schema: String,
    /// `schema.name`, without quotes.
    pub full: String,
    pub kind: TableKind,
    pub engine: String,
    pub columns: Vec<Column>,
    /// Unique keys over whole NOT NULL columns.
    pub keys: Vec<Vec<String>>,
    /// The one of these that is the primary key.
    pub primary: Option<Vec<String>>,
    /// The columns of every unique key, also of those that take NULL or look at a part of a value.
    pub unique: Vec<Vec<String>>,
    pub triggers: Vec<Trigger>,
    /// Foreign keys of other tables that change those when this one changes.
    pub cascades: Vec<Cascade>,
}

/// What stands behind a table's name.
#[derive(Debug, Clone)]
pub(super) enum TableKind {
    Table,
    /// With the query behind it.
    View(Code),
    /// Its rows carry the times of their changes.
    Versioned,
    Sequence,
    Other,
}

/// A column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    /// FLOAT and DOUBLE: sums depend on the order of the rows.
    pub approximate: bool,
    pub numbered: bool,
    /// A date, a time, or both.
    pub temporal: bool,
    /// Text whose collation takes other texts for the same.
    pub folded: bool,
    /// An expression that is evaluated for each row that leaves the column out.
    pub default: Option<Code>,
    /// The same as it is written.
    pub default_text: String,
    /// The type's name.
    pub kind: String,
    /// The character set of text; empty for what is none.
    pub charset: String,
    /// The server computes it.
    pub generated: bool,
    /// It is stored.
    pub stored: bool,
    /// The server sets it to the clock whenever its row changes.
    pub follows_clock: bool,
}

/// A trigger.
#[derive(Debug, Clone)]
pub(super) struct Trigger {
    pub name: String,
    pub event: Event,
    pub body: Code,
}

/// What fires a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Insert,
    Update,
    Delete,
}

/// A foreign key of another table with an action.
#[derive(Debug, Clone)]
pub(super) struct Cascade {
    pub on_delete: bool,
    pub on_update: bool,
    /// The table whose rows are changed, as `schema.name` in lower case.
    pub child: (String, String),
}

/// A stored function or procedure.
#[derive(Debug, Clone)]
pub(super) struct Routine {
    pub schema: String,
    pub name: String,
    pub function: bool,
    pub body: Code,
}

/// SQL that is stored in the server, cut into words; `None` where that was not possible.
#[derive(Debug, Clone)]
pub(super) struct Code(pub Option<Vec<Token>>);

impl Code {
    pub(super) fn new(text: &str, server: Server, sql_mode: &str) -> Self {
        Self(tokens(text, server, quoting(sql_mode)).ok())
    }
}

/// How a mode reads quotes and backslashes.
pub(super) fn quoting(sql_mode: &str) -> Quoting {
    let mut quoting = Quoting::default();
    for word in sql_mode.split(',') {
        match word.trim().to_ascii_uppercase().as_str() {
            "ANSI_QUOTES" | "ANSI" | "ORACLE" | "MSSQL" | "POSTGRESQL" | "DB2" | "MAXDB" => {
                quoting.ansi_quotes = true;
            }
            "NO_BACKSLASH_ESCAPES" => quoting.plain_backslash = true,
            _ => {}
        }
    }
    quoting
}

impl Table {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether a column belongs to a unique key.
    pub(super) fn is_unique(&self, column: &str) -> bool {
        self.unique.iter().flatten().any(|name| name == column)
    }

    /// The column that numbers its rows.
    pub(super) fn numbered(&self) -> Option<&Column> {
        self.columns.iter().find(|column| column.numbered)
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.engine.eq_ignore_ascii_case("innodb")
    }
}

impl Catalog {
    /// The tables that a name may mean.
    pub(super) fn tables(&self, schema: &str, name: &str) -> impl Iterator<Item = &Table> {
        let (schema, name) = (schema.to_lowercase(), name.to_lowercase());
        let named = self.tables.get(&name).map(Vec::as_slice).unwrap_or_default();
        named.iter().filter(move |table| table.schema.to_lowercase() == schema)
    }

    /// The routines that a name may mean.
    pub(super) fn routines<'c>(
        &'c self,
        schema: &str,
        name: &str,
        function: bool,
    ) -> impl Iterator<Item = &'c Routine> + use<'c> {
        let schema = schema.to_lowercase();
        let named = self.routines.get(&name.to_lowercase()).map(Vec::as_slice).unwrap_or_default();
        named.iter().filter(move |r| r.function == function && r.schema.to_lowercase() == schema)
    }
}
