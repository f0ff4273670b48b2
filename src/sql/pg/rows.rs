//! The rows that a backend answered with, and what they point at.

use std::collections::{BTreeMap, HashMap};

use super::catalog::{Catalog, Relation, UserType};

/// The answers, by the name of the query.
pub(super) type Rows<'r> = BTreeMap<&'r str, Vec<Vec<Option<String>>>>;

/// Where a relation's object number leads to: its bare name and its place among those of that name.
pub(super) type Numbers = HashMap<String, (String, usize)>;

/// The rows of a query, each of at least this width.
pub(super) fn table<'r>(
    rows: &'r Rows<'_>,
    name: &str,
    width: usize,
) -> Result<&'r [Vec<Option<String>>], String> {
    let found = rows.get(name).ok_or_else(|| format!("the catalog query {name} was not asked"))?;
    match found.iter().find(|row| row.len() < width) {
        Some(row) => Err(format!("{name}: a row of {} columns, not {width}", row.len())),
        None => Ok(found),
    }
}

pub(super) fn value(row: &[Option<String>], at: usize) -> Option<&str> {
    row.get(at)?.as_deref()
}

pub(super) fn text(row: &[Option<String>], at: usize) -> String {
    value(row, at).unwrap_or("").to_owned()
}

pub(super) fn flag(row: &[Option<String>], at: usize) -> bool {
    matches!(value(row, at), Some("t" | "true"))
}

pub(super) fn count(row: &[Option<String>], at: usize) -> usize {
    value(row, at).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The relation behind an object number.
pub(super) fn by_number<'c>(
    catalog: &'c mut Catalog,
    numbers: &Numbers,
    number: &str,
) -> Option<&'c mut Relation> {
    let (name, at) = numbers.get(number)?;
    catalog.relations.get_mut(name)?.get_mut(*at)
}

/// A user's type.
pub(super) fn find_type<'c>(
    catalog: &'c mut Catalog,
    schema: &str,
    name: &str,
) -> Option<&'c mut UserType> {
    catalog.types.get_mut(name)?.iter_mut().find(|kind| kind.schema == schema)
}
