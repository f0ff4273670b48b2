//! Which new columns would be filled differently on each backend, and how.

use pg_query::protobuf::{ColumnDef, ConstrType, Constraint};
use pg_query::{Node, NodeEnum};

use super::catalog::TypeClass;
use super::determine::Proof;
use super::names;
use super::resolve::Names;
use super::statement::Refusal;

/// The words for a numbered column, and what its type is.
const SERIAL: [(&str, &str); 6] = [
    ("serial", "integer"),
    ("serial4", "integer"),
    ("bigserial", "bigint"),
    ("serial8", "bigint"),
    ("smallserial", "smallint"),
    ("serial2", "smallint"),
];

/// What gives the existing rows a value in a new column that each backend would compute otherwise.
#[derive(Clone, Copy)]
pub(super) enum Fill<'t> {
    /// DEFAULT.
    Default(&'t Node),
    /// The default of a domain.
    Domain,
    /// A serial of this integer type.
    Serial(&'static str),
    /// GENERATED … AS IDENTITY.
    Identity(&'t Constraint),
}

/// How the rows that are there get their values, where that could differ.
pub(super) fn fill<'t>(names: Names<'_>, column: &'t ColumnDef) -> Option<Fill<'t>> {
    let type_name = column.type_name.as_ref()?;
    let (schema, name) = names::qualified(&type_name.names).unwrap_or(("", ""));
    if let Some((_, integer)) = SERIAL.iter().find(|(word, _)| *word == name)
        && schema.is_empty()
    {
        return Some(Fill::Serial(integer));
    }
    let mut default = None;
    for constraint in constraints(column) {
        match ConstrType::try_from(constraint.contype) {
            Ok(ConstrType::ConstrIdentity) => return Some(Fill::Identity(constraint)),
            Ok(ConstrType::ConstrDefault) => default = constraint.raw_expr.as_deref(),
            _ => {}
        }
    }
    if let Some(default) = default {
        let same = same_default(names, names.type_class(type_name), default);
        return (!same).then_some(Fill::Default(default));
    }
    let varies = schema != "pg_catalog"
        && names.types(schema, name).any(|kind| !kind.default.same_everywhere());
    varies.then_some(Fill::Domain)
}

/// A column's constraints, the default among them.
pub(super) fn constraints(column: &ColumnDef) -> impl Iterator<Item = &Constraint> {
    column.constraints.iter().filter_map(|node| match &node.node {
        Some(NodeEnum::Constraint(constraint)) => Some(&**constraint),
        _ => None,
    })
}

/// The text of a default that is a literal.
pub(super) fn literal(default: &Node) -> Option<&str> {
    match &default.node {
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().and_then(names::string_constant),
        _ => names::string_constant(default),
    }
}

/// Whether every backend computes the same for the existing rows.
fn same_default(names: Names<'_>, class: TypeClass, default: &Node) -> bool {
    if names::is_null(default) {
        return true;
    }
    match literal(default) {
        // All backends read the literal under the same settings, once, as a constant.
        Some(text) => class == TypeClass::Plain || !names::mentions_clock(text),
        None => class == TypeClass::Plain && Proof { names, table: None, alias: "" }.holds(default),
    }
}

/// Why a column cannot be filled by steps of ours.
pub(super) fn refusal(column: &str, fill: Fill<'_>) -> Refusal {
    match fill {
        Fill::Serial(_) | Fill::Identity(_) => Refusal::unsupported(
            format!(
                "adding column \"{column}\" would number the existing rows in the order in which \
                 each backend finds them"
            ),
            "In three steps: ADD COLUMN as a plain integer; CREATE SEQUENCE … OWNED BY it and \
             ALTER COLUMN … SET DEFAULT nextval(…); UPDATE the existing rows SET it = DEFAULT.",
        ),
        Fill::Default(_) | Fill::Domain => Refusal::unsupported(
            format!(
                "the default of the new column \"{column}\" would be computed on each backend for \
                 the existing rows"
            ),
            "In three steps: ADD COLUMN without the default; ALTER COLUMN … SET DEFAULT …; UPDATE \
             the existing rows SET it = DEFAULT.",
        ),
    }
}
