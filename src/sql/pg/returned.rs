//! Writes whose outcome the leader's answer can tell: what a RETURNING list gives back is what the
//! followers are sent.
//!
//! `keyed` proves that the same bytes do the same everywhere. Here nothing has to be proved about the
//! values: a clock, a sequence, a subquery or a random number is decided on the leader, and the rows
//! that come back are written by key on the followers. What must be sure is that these rows are all
//! that happens: one table, on which nothing happens but what the statement says, and of an UPDATE
//! one row at the most, which its key names. Everything else is left to the capture triggers.

use pg_query::protobuf::{InsertStmt, OverridingKind, ReturningClause, UpdateStmt};
use pg_query::{Node, NodeEnum};

use super::catalog::{Column, Relation};
use super::determine::Proof;
use super::keyed::{self, is_star};
use super::names::quote;
use super::piece::Piece;
use super::statement::{Draw, Hold, Returned, Sequences, Statement, Touched};

/// More rows than this are handed over by the triggers: they travel in one piece there.
const MOST_ROWS: usize = 16;

/// INSERT … VALUES, whatever the values are.
pub(super) fn insert(
    piece: &Piece<'_, '_>,
    insert: &InsertStmt,
    statement: &Statement,
) -> Option<Returned> {
    let (table, alias) = keyed::target(piece.names, &insert.relation)?;
    let user_values =
        OverridingKind::try_from(insert.r#override) == Ok(OverridingKind::OverridingUserValue);
    if insert.on_conflict_clause.is_some()
        || insert.with_clause.is_some()
        || user_values
        || table.triggers.insert
        || keyed::values(insert)?.len() > MOST_ROWS
        || !only_touches(statement, table)
    {
        return None;
    }
    let columns: Vec<&Column> = table.columns.iter().filter(|column| !column.generated).collect();
    if columns.is_empty() {
        return None;
    }
    let given = keyed::insert_columns(table, &insert.cols)?;
    let rows = keyed::values(insert)?;
    let defaulted = |column: &Column| {
        let place = given.iter().position(|given| given.name == column.name);
        rows.iter().all(|row| match place.and_then(|place| row.get(place)) {
            None => true,
            Some(value) => matches!(value.node, Some(NodeEnum::SetToDefault(_))),
        })
    };
    let (names, places): (Vec<_>, Vec<_>) = columns
        .iter()
        .enumerate()
        .map(|(n, column)| (quote(&column.name), format!("${}", n + 1)))
        .unzip();
    let followers = format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
        table.quoted,
        names.join(","),
        places.join(",")
    );
    let mut returned =
        build(piece, table, alias, &insert.returning_clause, &columns, followers, statement)?;
    for (place, column) in columns.iter().enumerate().filter(|(_, column)| defaulted(column)) {
        if let Some((sequence, increment)) = &column.draws {
            returned.asks.remove(sequence);
            returned.draws.push(Draw { place, sequence: sequence.clone(), increment: *increment });
        }
    }
    Some(returned)
}

/// UPDATE of one row named by its key, whatever is written into it.
pub(super) fn update(
    piece: &Piece<'_, '_>,
    update: &UpdateStmt,
    statement: &Statement,
) -> Option<Returned> {
    let (table, alias) = keyed::target(piece.names, &update.relation)?;
    if !update.from_clause.is_empty()
        || update.with_clause.is_some()
        || table.triggers.update
        || !only_touches(statement, table)
    {
        return None;
    }
    let row = Proof { names: piece.names, table: Some(table), alias };
    let key = keyed::named_by(row, &update.where_clause)?;
    let mut columns = Vec::new();
    for node in &update.target_list {
        let Some(NodeEnum::ResTarget(assignment)) = &node.node else {
            return None;
        };
        let column = table.column(&assignment.name)?;
        if keyed::moves_key(table, key, column) {
            return None;
        }
        if !column.generated {
            columns.push(column);
        }
    }
    let assigned = columns.len();
    for name in key {
        columns.push(table.column(name)?);
    }
    let pair = |(n, column): (usize, &&Column)| format!("{}=${}", quote(&column.name), n + 1);
    let pairs: Vec<String> = columns.iter().enumerate().map(pair).collect();
    let (assignments, pins) = pairs.split_at_checked(assigned)?;
    let followers = format!(
        "UPDATE {} SET {} WHERE {}",
        table.quoted,
        assignments.join(","),
        pins.join(" AND ")
    );
    (assigned > 0)
        .then(|| {
            build(piece, table, alias, &update.returning_clause, &columns, followers, statement)
        })
        .flatten()
}

/// Whether the statement changes rows of this table and leaves nothing behind besides.
fn only_touches(statement: &Statement, table: &Relation) -> bool {
    statement.is_captured()
        && table.readers_write
        && statement.writes != Touched::Unknown
        // A function that may read anything may also call one that writes, whatever it says of itself.
        && statement.reads != Touched::Unknown
        && statement.sequences != Sequences::Any
        && !statement.resets_sequences
        && matches!(statement.class, super::statement::Class::Captured { hold: Hold::Statement })
}

fn build(
    piece: &Piece<'_, '_>,
    table: &Relation,
    alias: &str,
    clause: &Option<ReturningClause>,
    columns: &[&Column],
    followers: String,
    statement: &Statement,
) -> Option<Returned> {
    // What is sent in binary form must mean the same to every server.
    if !columns.iter().all(|column| column.portable) {
        return None;
    }
    let shown = shown(table, alias, clause)?;
    let list: Vec<String> = columns.iter().map(|column| quote(&column.name)).collect();
    let joint = if clause.is_some() { "," } else { " RETURNING " };
    // The text may end in a comment that runs to the end of its line.
    let leader = format!("{}\n{joint}{}", piece.own_text(), list.join(","));
    let asks = statement.sequences.clone();
    Some(Returned {
        leader,
        followers,
        shown,
        columns: columns.len(),
        draws: Vec::new(),
        asks,
        spelt: None,
        keys: None,
    })
}

/// How many columns the client's own RETURNING list has; `None` where that cannot be told.
fn shown(table: &Relation, alias: &str, clause: &Option<ReturningClause>) -> Option<usize> {
    let Some(clause) = clause else {
        return Some(0);
    };
    if !clause.options.is_empty() {
        return None;
    }
    let width = |node: &Node| {
        let Some(NodeEnum::ResTarget(target)) = &node.node else {
            return None;
        };
        match &target.val.as_deref()?.node {
            Some(NodeEnum::ColumnRef(column)) if is_star(column, alias) => {
                Some(table.columns.len())
            }
            Some(NodeEnum::ColumnRef(column)) if ends_in_star(&column.fields) => None,
            Some(NodeEnum::AIndirection(inner)) if ends_in_star(&inner.indirection) => None,
            _ => Some(1),
        }
    };
    clause.exprs.iter().map(width).sum()
}

fn ends_in_star(fields: &[Node]) -> bool {
    fields.last().is_some_and(|last| matches!(last.node, Some(NodeEnum::AStar(_))))
}
