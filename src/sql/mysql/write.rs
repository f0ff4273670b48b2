//! INSERT, REPLACE, UPDATE and DELETE: whether the same bytes do the same on every server.
//!
//! They do, at REPEATABLE READ and with the leader's context, as long as nothing in them depends on
//! the order in which rows are met: what a statement reads it locks, with the gaps between, until its
//! transaction has ended everywhere.

use super::catalog::{Event, Table, TableKind};
use super::lexer::Token;
use super::names::Target;
use super::numbers;
use super::order::{groups_are_fixed, is_ordered, level, limits_are_fixed, qualifier};
use super::parts::{Insert, Source, Update, delete_lists, insert_parts, update_parts};
use super::statement::Touched;
use super::walk::Walk;

/// What helps where a statement is refused for what it may do on another server.
pub(super) const INSTEAD: &str = "Split it: read first, then write by key with the values read.";

/// What was found about a statement, besides what the walk's facts say.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Only temporary tables are written.
    pub temporary: bool,
    /// The client gets rows.
    pub returns_rows: bool,
    /// A table that is not there, as far as anybody knows.
    pub unknown: Option<String>,
    /// No schema is named or chosen.
    pub no_database: bool,
}

impl Written {
    /// Why nothing can be said of it.
    pub(super) fn reason(&self) -> Option<String> {
        match &self.unknown {
            Some(table) => Some(format!("the table {table} is not known")),
            None if self.no_database => Some("no database is selected".to_owned()),
            None => None,
        }
    }
}

/// Judges a statement that changes rows.
pub(super) fn write(walk: &mut Walk<'_>, tokens: &[Token]) -> Written {
    walk.tokens(tokens);
    if !groups_are_fixed(tokens) {
        walk.facts.differ(
            "a grouped query takes the value of whichever row of a group the server meets",
            "Use MIN() or MAX(), or GROUP BY that column too; give other columns their names with AS.",
        );
    }
    let mut written = Written {
        returns_rows: level(tokens, (0, tokens.len())).iter().any(|at| tokens[*at].is("returning")),
        ..Written::default()
    };
    match tokens.first().map(|t| t.text.as_str()) {
        Some("insert" | "replace") => insert(walk, &mut written, tokens),
        Some("update") => update(walk, &mut written, tokens),
        _ => delete(walk, &mut written, tokens),
    }
    let context = &mut walk.facts.context;
    context.hidden_id |= context.insert_id && written.returns_rows;
    if context.hidden_id && context.last_insert_id {
        walk.facts.differ_beyond_rows(
            "from which number on its rows were numbered cannot be told when it reads LAST_INSERT_ID()",
            "Read LAST_INSERT_ID() first, or leave RETURNING out.",
        );
    }
    written
}

/// Notes a target, and gives the tables behind it that need a closer look.
pub(super) fn target<'c>(
    walk: &mut Walk<'c>,
    written: &mut Written,
    target: Target<'c>,
    events: &[Event],
) -> Vec<&'c Table> {
    match target {
        Target::Known(tables) => {
            tables.iter().for_each(|table| changed(walk, table, events));
            return tables;
        }
        Target::Temporary => written.temporary = true,
        Target::System(table) => {
            walk.facts.refused = Some((
                format!("{table} is the server's own"),
                "Use the statement made for it (CREATE USER, GRANT, …).",
            ))
        }
        Target::Reserved => {
            walk.facts.refused = Some((
                "the database lockstep keeps the servers equal".to_owned(),
                "Use the console's commands.",
            ))
        }
        Target::Unknown(table) => written.unknown = Some(table),
        Target::NoDatabase => written.no_database = true,
    }
    Vec::new()
}

/// Notes that rows of a table change, and what follows from that.
fn changed(walk: &mut Walk<'_>, table: &Table, events: &[Event]) {
    walk.facts.writes.add(&table.full);
    match table.kind {
        TableKind::Table if table.is_transactional() => {}
        TableKind::Table => walk.facts.differ_beyond_rows(
            format!("{} is kept by the engine {}, without transactions", table.full, table.engine),
            "ALTER TABLE … ENGINE=InnoDB.",
        ),
        TableKind::View(_) => walk.facts.differ_beyond_rows(
            format!("{} is a view", table.full),
            "Write to the table behind it.",
        ),
        TableKind::Versioned => walk.facts.differ_beyond_rows(
            format!("the rows of {} carry the times of their changes", table.full),
            "Keep the history with a trigger.",
        ),
        TableKind::Sequence | TableKind::Other => {
            walk.facts
                .differ_beyond_rows(format!("{} is no table", table.full), "Write to a table.");
        }
    }
    for trigger in table.triggers.iter().filter(|t| events.contains(&t.event)) {
        let what = format!("the trigger {}", trigger.name);
        walk.code(&table.schema, &what, &trigger.body);
    }
    cascade(walk, table, events);
}

/// Foreign keys that change rows elsewhere. Triggers do not fire for those.
fn cascade(walk: &mut Walk<'_>, table: &Table, events: &[Event]) {
    let acts = |on: Event| events.contains(&on);
    for foreign in &table.cascades {
        if !(foreign.on_delete && acts(Event::Delete) || foreign.on_update && acts(Event::Update)) {
            continue;
        }
        let (schema, name) = &foreign.child;
        let children: Vec<&Table> = walk.names.catalog.tables(schema, name).collect();
        for child in children {
            if walk.facts.writes.overlaps(&Touched::Tables(vec![child.full.clone()])) {
                continue;
            }
            walk.facts.writes.add(&child.full);
            cascade(walk, child, &[Event::Update, Event::Delete]);
        }
    }
}

fn insert(walk: &mut Walk<'_>, written: &mut Written, tokens: &[Token]) {
    let Some(parts) = insert_parts(walk.names, tokens) else {
        unreadable(walk);
        return;
    };
    let Insert { ignore, replace, upsert, target: name, columns, source } = parts;
    let mut events = vec![Event::Insert];
    if replace {
        events.push(Event::Delete);
    }
    if upsert {
        events.push(Event::Update);
    }
    let tables = target(walk, written, name, &events);
    let numbered = tables.iter().any(|table| table.numbered().is_some());
    if numbered {
        number(walk, &tables, columns.as_deref().filter(|_| !upsert && !replace), tokens);
    }
    for table in &tables {
        defaults(walk, table, columns.as_deref(), tokens);
    }
    let given = |table: &&Table| {
        table.numbered().is_some_and(|column| is_given(&column.name, columns.as_deref()))
    };
    if upsert && tables.iter().any(|table| meets_several(table, columns.as_deref())) {
        walk.facts.differ(
            "it may meet several rows, one by each unique key, and which one it updates depends on what others \
             have committed meanwhile",
            "Bring values for one unique key only (a numbered column may stay out), or give the table a primary \
             key that the statement does not change, and no triggers.",
        );
    }
    if upsert && !matches!(source, Source::Values(1)) && tables.iter().any(given) {
        walk.facts.differ(
            "from which number on the rows of an upsert were numbered, the server does not tell when \
             some of them bring their own",
            "Send one row in each INSERT … ON DUPLICATE KEY UPDATE, or leave the numbered column out.",
        );
    }
    // A row that is there already gives its number back, so that the first that is new has the first
    // number. Where none is new, the answer tells that of a row that was there.
    walk.facts.context.hidden_id |= numbered && upsert && !matches!(source, Source::Values(1));
    if numbered && walk.facts.context.last_insert_id && !matches!(source, Source::Values(1)) {
        walk.facts.differ_beyond_rows(
            "from which number on the rows were numbered cannot be told when LAST_INSERT_ID() is in it",
            "Send one row in each statement, or leave LAST_INSERT_ID() out.",
        );
    }
    let Source::Query(query) = source else {
        return;
    };
    dice(walk);
    let chooses = ignore || replace || upsert;
    if (numbered || chooses) && !is_ordered(walk.names, query) {
        let why = if numbered {
            "the rows would be numbered in the order in which each server reads them"
        } else {
            "which of two equal rows wins depends on the order in which they are read"
        };
        walk.facts.differ(why, "Add ORDER BY with a unique key of the one table that is read.");
    }
    if numbered && walk.names.catalog.interleaved {
        walk.facts.differ(
            "with innodb_autoinc_lock_mode 2 the numbers of one statement need not follow one another",
            "Start the servers with innodb_autoinc_lock_mode=1.",
        );
    }
    limits(walk, query, None);
}

/// Whether the rows of an INSERT bring a column, which they do where they name none.
fn is_given(column: &str, columns: Option<&[String]>) -> bool {
    columns.is_none_or(|given| given.iter().any(|name| name == column))
}

/// Whether the rows of an upsert may be there already by more than one unique key.
///
/// A server looks for one key after the other. When it has to wait for the row that has a later one, it does not
/// always keep those locked that it has found free (InnoDB of MariaDB 10.11): another session may bring a row
/// with one of them and commit first. A follower, which runs the statement later, would meet that row
/// instead. A number that the server gives out is nobody else's.
fn meets_several(table: &Table, columns: Option<&[String]>) -> bool {
    let brought = |column: &String| {
        let numbered = table.numbered().is_some_and(|numbered| numbered.name == *column);
        !numbered || is_given(column, columns)
    };
    table.unique.iter().filter(|key| key.iter().all(brought)).count() > 1
}

/// Notes that rows get numbers, or bring them.
fn number(walk: &mut Walk<'_>, tables: &[&Table], columns: Option<&[String]>, tokens: &[Token]) {
    let brought = match (tables, columns) {
        ([table], Some(columns)) => {
            let column = table.numbered();
            column.and_then(|column| numbers::brought(tokens, columns, &column.name))
        }
        _ => None,
    };
    let context = &mut walk.facts.context;
    // What triggers number is not brought by these rows.
    context.numbers = brought.filter(|_| !context.insert_id);
    // Rows that bring constants need nothing at all.
    context.insert_id |= context.numbers.as_ref().is_none_or(|n| !n.places.is_empty());
}

/// Columns that are filled by an expression where nothing is given.
pub(super) fn defaults(
    walk: &mut Walk<'_>,
    table: &Table,
    columns: Option<&[String]>,
    tokens: &[Token],
) {
    let asked = tokens.iter().any(|t| t.is("default"));
    for column in &table.columns {
        let given = is_given(&column.name, columns);
        if (given && !asked) || column.default.is_none() {
            continue;
        }
        match column.default.as_ref().and_then(|code| code.0.as_deref()) {
            Some(code) => walk.tokens(code),
            None => unreadable(walk),
        }
    }
}

/// Dice that are thrown for each row fall in the order in which the rows are met.
fn dice(walk: &mut Walk<'_>) {
    if std::mem::take(&mut walk.facts.context.rand_seeds) {
        walk.facts.differ(
            "RAND() gives each row a number in the order in which the server meets the rows",
            "SET @x = RAND() first, or write the values as constants.",
        );
    }
}

fn update(walk: &mut Walk<'_>, written: &mut Written, tokens: &[Token]) {
    let Some(Update { ignore, list, assignments }) = update_parts(walk.names, tokens) else {
        unreadable(walk);
        return;
    };
    dice(walk);
    let several = list.several;
    let mut only = None;
    for assignment in assignments {
        let Some(equals) = assignment.iter().position(|t| t.symbol("=")) else {
            unreadable(walk);
            return;
        };
        let (left, value) = (&assignment[..equals], &assignment[equals + 1..]);
        let column = left.last().map(|t| t.text.to_lowercase()).unwrap_or_default();
        let alias = qualifier(left, left.len() - 1).map(str::to_lowercase);
        for named in list.named(alias.as_deref()) {
            for table in target(walk, written, named, &[Event::Update]) {
                assigned(walk, table, &column, ignore, value);
                only = Some(table).filter(|_| !several);
            }
        }
        if several && !stays_in_row(alias.as_deref(), value) {
            walk.facts.differ(
                "a row that meets several of another table takes the value of the first that a server reads",
                "Use a subquery with MIN() or MAX(), or write row by row.",
            );
        }
    }
    limits(walk, tokens, only);
}

/// What follows from giving a column a value.
fn assigned(walk: &mut Walk<'_>, table: &Table, column: &str, ignore: bool, value: &[Token]) {
    if ignore && table.is_unique(column) {
        walk.facts.differ(
            "which of two rows is passed over depends on the order in which they are met",
            "Leave IGNORE out.",
        );
    }
    if value.iter().any(|t| t.is("default"))
        && let Some(code) = table.column(column).and_then(|c| c.default.as_ref())
    {
        match &code.0 {
            Some(code) => walk.tokens(code),
            None => unreadable(walk),
        }
        dice(walk);
    }
}

/// Whether a value is made of constants and of columns of the row that is changed.
fn stays_in_row(alias: Option<&str>, value: &[Token]) -> bool {
    (0..value.len()).all(|at| {
        let token = &value[at];
        let next = |symbol| value.get(at + 1).is_some_and(|t: &Token| t.symbol(symbol));
        if !token.is_name() || next("(") {
            return true;
        }
        if next(".") {
            return alias.is_some_and(|alias| token.text.eq_ignore_ascii_case(alias));
        }
        qualifier(value, at).is_some()
            || ["null", "true", "false", "default"].iter().any(|w| token.is(w))
    })
}

fn delete(walk: &mut Walk<'_>, written: &mut Written, tokens: &[Token]) {
    let Some((names, list)) = delete_lists(walk.names, tokens) else {
        unreadable(walk);
        return;
    };
    dice(walk);
    let mut only = None;
    for name in &names {
        for named in list.deleted(walk.names, name) {
            for table in target(walk, written, named, &[Event::Delete]) {
                only = Some(table).filter(|_| !list.several);
            }
        }
    }
    limits(walk, tokens, only);
}

fn limits(walk: &mut Walk<'_>, tokens: &[Token], only: Option<&Table>) {
    if !limits_are_fixed(walk.names, tokens, only) {
        walk.facts.differ(
            "LIMIT takes the rows that a server happens to meet first",
            "Add ORDER BY with the columns of a unique key.",
        );
    }
}

fn unreadable(walk: &mut Walk<'_>) {
    walk.facts
        .differ_beyond_rows("the statement cannot be taken apart", "Write it in its usual form.");
}
