//! Calls that name a sequence, and the questions for what was drawn from one.

use pg_query::protobuf::SelectStmt;
use pg_query::{Node, NodeEnum};

use super::names;
use super::question::{Drawn, DrawnFrom};
use super::resolve::{Found, Names};
use super::statement::Sequences;

/// `SELECT currval('…')`, `SELECT lastval()`, and nothing else.
pub(super) fn bare(names: Names<'_>, select: &SelectStmt) -> Option<Drawn> {
    let target = names::only_target(select)?;
    let Some(NodeEnum::FuncCall(call)) = &target.val.as_deref()?.node else {
        return None;
    };
    let from = match (names::qualified(&call.funcname)?, call.args.as_slice()) {
        (("" | "pg_catalog", "lastval"), []) => DrawnFrom::Last,
        (("" | "pg_catalog", "currval"), [sequence]) => {
            match sequences_of(names, uncast(sequence))? {
                Sequences::Named(sequences) => DrawnFrom::OneOf(sequences),
                Sequences::None | Sequences::Any => return None,
            }
        }
        _ => return None,
    };
    let (_, name) = names::qualified(&call.funcname)?;
    let column = if target.name.is_empty() { name } else { &target.name };
    Some(Drawn { from, column: names::quote(column) })
}

/// `'…'::regclass` without its type.
fn uncast(node: &Node) -> &Node {
    match &node.node {
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().unwrap_or(node),
        _ => node,
    }
}

/// The sequence that a constant names, or of `pg_get_serial_sequence('table', 'column')` those that
/// the table's defaults use.
pub(super) fn sequences_of(names: Names<'_>, node: &Node) -> Option<Sequences> {
    if let Some((schema, name)) = names::string_constant(node).and_then(names::parse_qualified) {
        return match names.relation_named(&schema, &name) {
            Found::Known(relation) => Some(Sequences::Named(vec![relation.quoted.clone()])),
            _ => None,
        };
    }
    let Some(NodeEnum::FuncCall(call)) = &node.node else {
        return None;
    };
    let (_, "pg_get_serial_sequence") = names::qualified(&call.funcname)? else {
        return None;
    };
    let table = names::parse_qualified(names::string_constant(call.args.first()?)?)?;
    match names.relation_named(&table.0, &table.1) {
        Found::Known(table) => match &table.default_effects.sequences {
            Sequences::None => None,
            some => Some(some.clone()),
        },
        _ => None,
    }
}
