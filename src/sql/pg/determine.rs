//! Proves that an expression has the same value on every backend.
//!
//! The other walk looks for what is bad; this one accepts only what is known to be good, because
//! what it accepts is evaluated again on every follower.

use pg_query::protobuf::{AExprKind, ColumnRef, FuncCall, TypeCast};
use pg_query::{Node, NodeEnum};

use super::catalog::{Relation, TypeClass};
use super::effects::Volatility;
use super::names;
use super::resolve::Names;

/// One proof, over the columns of at most one row.
#[derive(Clone, Copy)]
pub(super) struct Proof<'c, 'a> {
    pub names: Names<'c>,
    /// The table whose row may be read.
    pub table: Option<&'a Relation>,
    /// The name under which its columns may be qualified.
    pub alias: &'a str,
}

/// Stable for the sake of arguments whose text depends on settings; with none such among the
/// arguments (dates and times, money) they are the same everywhere.
const SAFE_STABLE: [&str; 13] = [
    "concat",
    "concat_ws",
    "format",
    "quote_literal",
    "quote_nullable",
    "array_to_string",
    "to_json",
    "to_jsonb",
    "json_build_array",
    "json_build_object",
    "jsonb_build_array",
    "jsonb_build_object",
    "array_to_json",
];

impl Proof<'_, '_> {
    pub(super) fn all(&self, nodes: &[Node]) -> bool {
        nodes.iter().all(|node| self.holds(node))
    }

    fn opt(&self, node: &Option<Box<Node>>) -> bool {
        node.as_deref().is_none_or(|node| self.holds(node))
    }

    /// Whether the expression is proved.
    pub(super) fn holds(&self, node: &Node) -> bool {
        let Some(inner) = &node.node else {
            return false;
        };
        match inner {
            NodeEnum::AConst(_) | NodeEnum::ParamRef(_) => true,
            NodeEnum::ColumnRef(column) => {
                self.column(column).is_some_and(|column| column.class == TypeClass::Plain)
            }
            NodeEnum::BoolExpr(e) => self.all(&e.args),
            // That a value is there does not depend on how its type reads or writes it.
            NodeEnum::NullTest(e) => e.arg.as_deref().is_some_and(|arg| match &arg.node {
                Some(NodeEnum::ColumnRef(column)) => self.column(column).is_some(),
                _ => self.holds(arg),
            }),
            NodeEnum::BooleanTest(e) => self.opt(&e.arg),
            NodeEnum::CaseExpr(e) => {
                self.opt(&e.arg) && self.all(&e.args) && self.opt(&e.defresult)
            }
            NodeEnum::CaseWhen(e) => self.opt(&e.expr) && self.opt(&e.result),
            NodeEnum::CoalesceExpr(e) => self.all(&e.args),
            NodeEnum::MinMaxExpr(e) => self.all(&e.args),
            NodeEnum::RowExpr(e) => self.all(&e.args),
            NodeEnum::AArrayExpr(e) => self.all(&e.elements),
            NodeEnum::List(e) => self.all(&e.items),
            NodeEnum::AIndirection(e) => {
                self.opt(&e.arg)
                    && e.indirection.iter().all(|step| match &step.node {
                        Some(NodeEnum::AIndices(at)) => self.opt(&at.lidx) && self.opt(&at.uidx),
                        _ => false,
                    })
            }
            NodeEnum::AExpr(e) => {
                AExprKind::try_from(e.kind).is_ok_and(|kind| kind != AExprKind::Undefined)
                    && self.operator(&e.name)
                    && self.opt(&e.lexpr)
                    && self.opt(&e.rexpr)
            }
            NodeEnum::TypeCast(cast) => self.cast(cast),
            NodeEnum::FuncCall(call) => self.call(call),
            _ => false,
        }
    }

    /// The column of the row, if it is one.
    pub(super) fn column(&self, column: &ColumnRef) -> Option<&super::catalog::Column> {
        let table = self.table?;
        let name = match column.fields.as_slice() {
            [name] => names::string(name)?,
            [qualifier, name] if names::string(qualifier)? == self.alias => names::string(name)?,
            _ => return None,
        };
        table.column(name)
    }

    fn cast(&self, cast: &TypeCast) -> bool {
        cast.type_name.as_ref().is_some_and(|name| {
            self.names.type_class(name) == TypeClass::Plain
                && self.all(&name.typmods)
                && self.opt(&cast.arg)
        })
    }

    /// Operators by name: the worst of all of that name, but for those on dates and times, which
    /// cannot be meant because no value of these types is among the operands.
    pub(super) fn operator(&self, name: &[Node]) -> bool {
        let Some((schema, name)) = names::qualified(name) else {
            return false;
        };
        if !matches!(schema, "" | "pg_catalog") {
            return false;
        }
        match name {
            // The parser's own words for what it turns into comparisons.
            "BETWEEN" | "NOT BETWEEN" | "BETWEEN SYMMETRIC" | "NOT BETWEEN SYMMETRIC" => {
                self.known_operator("<")
                    && self.known_operator(">=")
                    && self.known_operator("<=")
                    && self.known_operator(">")
            }
            _ => self.known_operator(name),
        }
    }

    fn known_operator(&self, name: &str) -> bool {
        self.names.catalog.operators.get(name).is_some_and(|operator| {
            let plain = operator.plain == Volatility::Immutable || name == "||";
            plain && operator.user == Volatility::Immutable && !operator.shadowing
        })
    }

    fn call(&self, call: &FuncCall) -> bool {
        let simple = call.agg_order.is_empty()
            && call.agg_filter.is_none()
            && call.over.is_none()
            && !call.agg_star
            && !call.agg_distinct
            && !call.agg_within_group;
        let Some((schema, name)) = names::qualified(&call.funcname) else {
            return false;
        };
        if !simple || schema == "lockstep" || !self.all(&call.args) {
            return false;
        }
        let mut found = false;
        for function in self.names.functions(schema, name, names::arguments(call)) {
            found = true;
            let safe = function.builtin && SAFE_STABLE.contains(&name);
            let immutable = function.volatility == Volatility::Immutable && !function.takes_time;
            if !(function.scalar && (immutable || safe)) {
                return false;
            }
        }
        found
    }
}
