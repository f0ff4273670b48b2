//! Proves that the same bytes do the same on every backend.
//!
//! The proof rests on three things: the row is named by its key, so that the leader's lock covers
//! all that the statement reads; every value comes from the statement's own text and from that row;
//! and nothing else happens on its behalf.

use pg_query::protobuf::{
    AExpr, AExprKind, BoolExprType, DeleteStmt, InsertStmt, OverridingKind, RangeVar, ResTarget,
    ReturningClause, SelectStmt, UpdateStmt,
};
use pg_query::{Node, NodeEnum};

use super::catalog::{Column, Relation, RelationKind, TypeClass};
use super::determine::Proof;
use super::names;
use super::resolve::{Found, Names};
use super::statement::TimeParam;

/// A proof, on condition that what is bound to these parameters does not read the clock.
pub(super) type Condition = Vec<TimeParam>;

/// INSERT … VALUES of values that are the same everywhere.
pub(super) fn insert(names: Names<'_>, insert: &InsertStmt) -> Option<Condition> {
    let (table, alias) = target(names, &insert.relation)?;
    let overriding = OverridingKind::try_from(insert.r#override);
    if insert.on_conflict_clause.is_some()
        || insert.with_clause.is_some()
        || overriding == Ok(OverridingKind::OverridingUserValue)
        || table.triggers.insert
    {
        return None;
    }
    let rows = values(insert)?;
    let columns = insert_columns(table, &insert.cols)?;
    let mut condition = Condition::new();
    let constants = Proof { names, table: None, alias: "" };
    let width = rows.iter().map(|row| row.len()).min().unwrap_or(0);
    // Columns that some row leaves out get their default.
    let mut omitted = table.columns.iter().filter(|column| {
        !column.generated && !columns.iter().take(width).any(|given| given.name == column.name)
    });
    let proved = omitted.all(|column| column.default.same_everywhere())
        && rows.iter().all(|row| {
            row.len() <= columns.len()
                && row
                    .iter()
                    .zip(&columns)
                    .all(|(value, column)| assigns(constants, value, column, &mut condition))
        })
        && returning(names, table, alias, &insert.returning_clause);
    proved.then_some(condition)
}

/// UPDATE of one row named by its key.
pub(super) fn update(names: Names<'_>, update: &UpdateStmt) -> Option<Condition> {
    let (table, alias) = target(names, &update.relation)?;
    if !update.from_clause.is_empty() || update.with_clause.is_some() || table.triggers.update {
        return None;
    }
    let row = Proof { names, table: Some(table), alias };
    let key = pinned(row, &update.where_clause)?;
    let mut condition = Condition::new();
    let proved = update.target_list.iter().all(|node| {
        let Some(NodeEnum::ResTarget(assignment)) = &node.node else {
            return false;
        };
        let Some(column) = assigned(table, assignment) else {
            return false;
        };
        !moves_key(table, key, column)
            && !column.generated
            && assignment
                .val
                .as_deref()
                .is_some_and(|value| assigns(row, value, column, &mut condition))
    }) && returning(names, table, alias, &update.returning_clause);
    proved.then_some(condition)
}

/// Whether writing this column changes what names the row, here or in another table.
pub(super) fn moves_key(table: &Relation, key: &[String], column: &Column) -> bool {
    let primary = table.keys.first();
    key.contains(&column.name)
        || primary.is_some_and(|primary| primary.contains(&column.name))
        || table
            .referenced
            .iter()
            .any(|reference| reference.on_update && reference.columns.contains(&column.name))
}

/// DELETE of one row named by its key.
pub(super) fn delete(names: Names<'_>, delete: &DeleteStmt) -> Option<Condition> {
    let (table, alias) = target(names, &delete.relation)?;
    let proved = delete.using_clause.is_empty()
        && delete.with_clause.is_none()
        && !table.triggers.delete
        && !table.referenced.iter().any(|reference| reference.on_delete)
        && pinned(Proof { names, table: Some(table), alias }, &delete.where_clause).is_some()
        && returning(names, table, alias, &delete.returning_clause);
    proved.then(Condition::new)
}

/// An ordinary table on which nothing happens but what the statement says.
pub(super) fn target<'c, 'a>(
    names: Names<'c>,
    var: &'a Option<RangeVar>,
) -> Option<(&'c Relation, &'a str)> {
    let var = var.as_ref()?;
    let Found::Known(table) = names.relation(var) else {
        return None;
    };
    let plain = table.kind == RelationKind::Table
        && table.descendants.is_empty()
        && !table.rules
        && !table.row_security
        && table.plain_checks
        && !names.catalog.loose_casts;
    let alias = var.alias.as_ref().map_or(&*var.relname, |alias| &alias.aliasname);
    plain.then_some((table, alias))
}

/// The rows of VALUES; none for DEFAULT VALUES.
pub(super) fn values(insert: &InsertStmt) -> Option<Vec<&[Node]>> {
    let Some(source) = insert.select_stmt.as_deref() else {
        return Some(vec![&[]]);
    };
    let Some(NodeEnum::SelectStmt(select)) = &source.node else {
        return None;
    };
    if select.values_lists.is_empty() || !bare_values(select) {
        return None;
    }
    select
        .values_lists
        .iter()
        .map(|row| match &row.node {
            Some(NodeEnum::List(list)) => Some(list.items.as_slice()),
            _ => None,
        })
        .collect()
}

fn bare_values(select: &SelectStmt) -> bool {
    select.with_clause.is_none()
        && select.sort_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.locking_clause.is_empty()
        && select.larg.is_none()
}

/// The columns that the values go to, in their order.
pub(super) fn insert_columns<'c>(table: &'c Relation, given: &[Node]) -> Option<Vec<&'c Column>> {
    if given.is_empty() {
        return Some(table.columns.iter().collect());
    }
    given
        .iter()
        .map(|node| match &node.node {
            Some(NodeEnum::ResTarget(column)) => assigned(table, column),
            _ => None,
        })
        .collect()
}

fn assigned<'c>(table: &'c Relation, target: &ResTarget) -> Option<&'c Column> {
    // A part of an array or a composite keeps the rest of the value: still that row, but rare.
    if target.indirection.is_empty() { table.column(&target.name) } else { None }
}

/// Whether this value, given to this column, is the same everywhere.
fn assigns(proof: Proof<'_, '_>, value: &Node, column: &Column, condition: &mut Condition) -> bool {
    match &value.node {
        Some(NodeEnum::SetToDefault(_)) => column.generated || column.default.same_everywhere(),
        _ if names::is_null(value) => true,
        _ => match column.class {
            TypeClass::Plain => proof.holds(value),
            TypeClass::Time => match time_param(&column.type_name, value) {
                Some(number) => {
                    let type_name = column.type_name.clone();
                    condition.push(TimeParam { number, type_name });
                    true
                }
                None => time_constant(&column.type_name, value),
            },
            TypeClass::Other => false,
        },
    }
}

/// A literal of a date/time type that means one thing only.
fn time_constant(type_name: &str, value: &Node) -> bool {
    match &value.node {
        Some(NodeEnum::AConst(_)) => names::string_constant(value)
            .is_some_and(|literal| names::unambiguous_time(type_name, literal)),
        Some(NodeEnum::TypeCast(cast)) => {
            let same = cast.type_name.as_ref().and_then(|name| names::qualified(&name.names));
            matches!(same, Some(("" | "pg_catalog", name)) if name == type_name)
                && cast.arg.as_deref().is_some_and(|arg| {
                    matches!(arg.node, Some(NodeEnum::AConst(_))) && time_constant(type_name, arg)
                })
        }
        _ => false,
    }
}

/// A bare parameter, or one cast to the column's own type.
fn time_param(type_name: &str, value: &Node) -> Option<u32> {
    match &value.node {
        Some(NodeEnum::ParamRef(param)) => u32::try_from(param.number).ok(),
        Some(NodeEnum::TypeCast(cast)) => {
            let same = cast.type_name.as_ref().and_then(|name| names::qualified(&name.names));
            match (same, &cast.arg.as_deref()?.node) {
                (Some(("" | "pg_catalog", name)), Some(NodeEnum::ParamRef(param)))
                    if name == type_name =>
                {
                    u32::try_from(param.number).ok()
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The key that WHERE pins to constants, if it pins a whole one and the rest judges that row alone.
fn pinned<'c>(row: Proof<'_, 'c>, condition: &Option<Box<Node>>) -> Option<&'c [String]> {
    let mut pins = Vec::new();
    if !conjuncts(row, condition.as_deref()?, &mut pins) {
        return None;
    }
    whole_key(row, &pins)
}

fn whole_key<'c>(row: Proof<'_, 'c>, pins: &[&str]) -> Option<&'c [String]> {
    let covers = |key: &&Vec<String>| key.iter().all(|name| pins.contains(&name.as_str()));
    row.table?.keys.iter().find(covers).map(Vec::as_slice)
}

/// The key that WHERE pins to constants, whatever else it asks of the row.
pub(super) fn named_by<'c>(
    row: Proof<'_, 'c>,
    condition: &Option<Box<Node>>,
) -> Option<&'c [String]> {
    let mut pins = Vec::new();
    // What cannot be proved of the other parts decides on the leader whether the row is changed.
    conjuncts(row, condition.as_deref()?, &mut pins);
    whole_key(row, &pins)
}

/// Gathers the pinned columns of an AND; false when a part is not the same everywhere.
fn conjuncts<'c>(row: Proof<'_, 'c>, node: &Node, pins: &mut Vec<&'c str>) -> bool {
    match &node.node {
        Some(NodeEnum::BoolExpr(e)) if e.boolop() == BoolExprType::AndExpr => {
            let mut proved = true;
            for part in &e.args {
                // Every part is looked at, for the columns that it pins.
                proved &= conjuncts(row, part, pins);
            }
            proved
        }
        Some(NodeEnum::AExpr(e)) => {
            if !row.holds(node) {
                return false;
            }
            equality(row, e, pins);
            true
        }
        _ => row.holds(node),
    }
}

/// `column = constant`, either way round, also as a list of one or a row of several.
fn equality<'c>(row: Proof<'_, 'c>, e: &AExpr, pins: &mut Vec<&'c str>) {
    let (Some(left), Some(right)) = (e.lexpr.as_deref(), e.rexpr.as_deref()) else {
        return;
    };
    if !matches!(names::qualified(&e.name), Some((_, "="))) {
        return;
    }
    match (AExprKind::try_from(e.kind), &right.node) {
        (Ok(AExprKind::AexprIn), Some(NodeEnum::List(list))) => {
            if let [only] = list.items.as_slice() {
                pins.extend(pin(row, left, only));
            }
        }
        (Ok(AExprKind::AexprOp), _) => match (&left.node, &right.node) {
            (Some(NodeEnum::RowExpr(a)), Some(NodeEnum::RowExpr(b))) => {
                for (a, b) in a.args.iter().zip(&b.args) {
                    pins.extend(pin(row, a, b));
                }
            }
            _ => pins.extend(pin(row, left, right).or_else(|| pin(row, right, left))),
        },
        _ => {}
    }
}

/// The column, if the other side is a constant that cannot stand for several of its values.
fn pin<'c>(row: Proof<'_, 'c>, side: &Node, other: &Node) -> Option<&'c str> {
    let Some(NodeEnum::ColumnRef(reference)) = &side.node else {
        return None;
    };
    let column = row.column(reference)?;
    if column.class != TypeClass::Plain || !is_exact(other) {
        return None;
    }
    let constants = Proof { table: None, ..row };
    // The name as the table keeps it, so that it outlives the proof.
    let name = row.table?.columns.iter().find(|known| known.name == column.name)?;
    constants.holds(other).then_some(name.name.as_str())
}

/// Comparing a large integer to a float rounds, and comparing under another collation may ignore
/// case: then several keys equal one constant. Plain constants, parameters and casts that cannot do
/// that are exact.
fn is_exact(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::AConst(_) | NodeEnum::ParamRef(_)) => true,
        Some(NodeEnum::TypeCast(cast)) => {
            let name = cast.type_name.as_ref().and_then(|name| names::qualified(&name.names));
            let exact = matches!(
                name,
                Some((
                    "" | "pg_catalog",
                    "int2"
                        | "int4"
                        | "int8"
                        | "numeric"
                        | "text"
                        | "varchar"
                        | "bpchar"
                        | "uuid"
                        | "bytea"
                        | "bool"
                ))
            );
            exact && cast.arg.as_deref().is_some_and(is_exact)
        }
        // A negative number in older spellings of the grammar.
        Some(NodeEnum::AExpr(e)) => {
            e.lexpr.is_none()
                && matches!(names::qualified(&e.name), Some(("", "-")))
                && e.rexpr.as_deref().is_some_and(is_exact)
        }
        _ => false,
    }
}

/// Whether what RETURNING gives back is the same everywhere: columns of any type, and expressions.
fn returning(
    names: Names<'_>,
    table: &Relation,
    alias: &str,
    clause: &Option<ReturningClause>,
) -> bool {
    let Some(clause) = clause else { return true };
    let row = Proof { names, table: Some(table), alias };
    clause.options.is_empty()
        && clause.exprs.iter().all(|node| {
            let Some(NodeEnum::ResTarget(target)) = &node.node else {
                return false;
            };
            let Some(value) = target.val.as_deref() else {
                return false;
            };
            match &value.node {
                Some(NodeEnum::ColumnRef(column)) => {
                    row.column(column).is_some() || is_star(column, alias)
                }
                _ => row.holds(value),
            }
        })
}

/// Whether what RETURNING gives back has the same bytes everywhere in binary form too: columns of
/// types that name nothing by a number of the server's own.
pub(super) fn portable(
    names: Names<'_>,
    relation: &Option<RangeVar>,
    clause: &Option<ReturningClause>,
) -> bool {
    let (Some((table, alias)), Some(clause)) = (target(names, relation), clause) else {
        return false;
    };
    let row = Proof { names, table: Some(table), alias };
    clause.exprs.iter().all(|node| {
        let value = match &node.node {
            Some(NodeEnum::ResTarget(target)) => target.val.as_deref(),
            _ => None,
        };
        match value.and_then(|value| value.node.as_ref()) {
            Some(NodeEnum::ColumnRef(column)) if is_star(column, alias) => {
                table.columns.iter().all(|column| column.portable)
            }
            Some(NodeEnum::ColumnRef(column)) => {
                row.column(column).is_some_and(|column| column.portable)
            }
            _ => false,
        }
    })
}

pub(super) fn is_star(column: &pg_query::protobuf::ColumnRef, alias: &str) -> bool {
    let star = |node: &Node| matches!(node.node, Some(NodeEnum::AStar(_)));
    match column.fields.as_slice() {
        [all] => star(all),
        [qualifier, all] => names::string(qualifier) == Some(alias) && star(all),
        _ => false,
    }
}
