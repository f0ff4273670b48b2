//! COPY in both directions.

use pg_query::protobuf::CopyStmt;

use super::catalog::{Relation, RelationKind, TypeClass};
use super::determine::Proof;
use super::dml::Change;
use super::functions::server_files;
use super::names;
use super::resolve::{Found, Names};
use super::statement::{Bulk, Class, CopyIn, Statement};
use super::walk::Walker;

pub(super) fn copy(names: Names<'_>, copy: &CopyStmt) -> Statement {
    if copy.is_program || !copy.filename.is_empty() {
        return Statement::refused("copy", server_files("COPY with a file or program"));
    }
    if copy.is_from { copy_in(names, copy) } else { copy_out(names, copy) }
}

fn copy_out(names: Names<'_>, copy: &CopyStmt) -> Statement {
    let mut walker = Walker::new(names);
    walker.opt(&copy.query);
    if let Some(relation) = &copy.relation {
        walker.read(relation);
    }
    walker.effects.into_statement("copy", false)
}

fn copy_in(names: Names<'_>, copy: &CopyStmt) -> Statement {
    let mut walker = Walker::new(names);
    walker.opt(&copy.where_clause);
    let condition = walker.effects.captured || walker.effects.leader;
    walker.write(&copy.relation, Change::Insert);
    let Some(var) = &copy.relation else {
        return Statement::opaque("copy");
    };
    let found = names.relation(var);
    let (table, bulk) = match &found {
        Found::Known(table) => {
            let allowed = !condition && may_go_to_all(names, table, copy);
            let lock = || format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table.quoted);
            (table.full.clone(), allowed.then(|| Bulk { lock: Some(lock()) }))
        }
        _ if var.schemaname.is_empty() => (var.relname.clone(), None),
        _ => (format!("{}.{}", var.schemaname, var.relname), None),
    };
    if walker.effects.refused.is_some() {
        return walker.effects.into_statement("copy", false);
    }
    let copy_in = CopyIn { table, bulk, writes_temp: matches!(found, Found::Temp) };
    let statement = walker.effects.into_statement("copy", false);
    Statement { class: Class::CopyIn(copy_in), ..statement }
}

/// Whether the same stream makes the same rows on every backend, with the table locked.
fn may_go_to_all(names: Names<'_>, table: &Relation, copy: &CopyStmt) -> bool {
    let plain = table.kind == RelationKind::Table
        && table.descendants.is_empty()
        && !table.triggers.insert
        && !table.rules
        && !table.row_security
        && table.plain_checks
        && !names.catalog.loose_casts;
    let given = |name: &str| {
        copy.attlist.is_empty() || copy.attlist.iter().any(|node| names::string(node) == Some(name))
    };
    // A text that goes into a date/time column may say 'now'; a binary value cannot.
    let binary = names::option(&copy.options, "format")
        .and_then(|def| def.arg.as_deref())
        .and_then(names::setting_constant)
        .is_some_and(|format| format.eq_ignore_ascii_case("binary"));
    let columns = table.columns.iter().filter(|column| !column.generated).all(|column| {
        if given(&column.name) {
            column.class == TypeClass::Plain || (binary && column.class == TypeClass::Time)
        } else {
            column.default.same_everywhere()
        }
    });
    // Rows may ask for their default by a marker of their own.
    let marker = names::option(&copy.options, "default").is_some();
    let row = Proof { names, table: Some(table), alias: "" };
    let condition = copy.where_clause.as_deref().is_none_or(|node| row.holds(node));
    plain && columns && !marker && condition
}
