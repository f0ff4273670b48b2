//! Statements about relations of which some may be temporary: DROP, TRUNCATE, RENAME, GRANT,
//! VACUUM.

use pg_query::protobuf::{
    DropBehavior, DropStmt, GrantStmt, ObjectType, ReindexObjectType, ReindexStmt, RenameStmt,
    TruncateStmt, VacuumStmt,
};
use pg_query::{Node, NodeEnum};

use super::catalog::{Relation, RelationKind};
use super::create;
use super::functions;
use super::names;
use super::resolve::{Found, Names};
use super::statement::{
    Class, Ddl, Hold, Maintenance, Outside, Refusal, Sequences, Statement, Touched,
};

fn refused(message: impl Into<String>, hint: &str) -> Statement {
    Statement::refused("ddl", Refusal::unsupported(message, hint))
}

pub(super) fn named_object(names: Names<'_>, object: Option<&Node>) -> Statement {
    let temp = match object.and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::List(list)) => {
            // A table, or a column of it.
            let table = |parts: &[Node]| {
                names::qualified(parts)
                    .is_some_and(|(s, n)| matches!(names.relation_named(s, n), Found::Temp))
            };
            let all = list.items.as_slice();
            table(all) || all.split_last().is_some_and(|(_, rest)| table(rest))
        }
        _ => false,
    };
    if temp { Statement::temporary(Hold::Session) } else { Statement::ddl(Ddl::default()) }
}

pub(super) fn grant(names: Names<'_>, grant: &GrantStmt) -> Statement {
    if ObjectType::try_from(grant.objtype) == Ok(ObjectType::ObjectLargeobject) {
        return Statement::refused("ddl", functions::large_objects());
    }
    match create::temps(names, &grant.objects) {
        (_, true) => Statement::temporary(Hold::Session),
        (true, false) => mixed("GRANT"),
        _ => Statement::ddl(Ddl::default()),
    }
}

fn mixed(what: &str) -> Statement {
    refused(
        format!("{what} of temporary and other tables in one statement is not replicated"),
        "Use one statement for the temporary tables and one for the others.",
    )
}

/// DROP. Temporary relations are dropped on the leader only.
pub(super) fn drop(names: Names<'_>, drop: &DropStmt) -> Statement {
    use ObjectType as O;
    if drop.concurrent {
        let name = drop.objects.first().and_then(|object| match &object.node {
            Some(NodeEnum::List(list)) => names::qualified(&list.items),
            _ => None,
        });
        let name = name.map(|(schema, name)| names::dotted(schema, name)).unwrap_or_default();
        return Statement::maintenance("ddl", Maintenance::Journaled(Outside::DropIndex(name)));
    }
    let kind = ObjectType::try_from(drop.remove_type);
    match kind {
        Ok(
            O::ObjectTable
            | O::ObjectView
            | O::ObjectSequence
            | O::ObjectIndex
            | O::ObjectMatview
            | O::ObjectForeignTable,
        ) => drop_relations(names, drop, kind == Ok(O::ObjectTable)),
        Ok(O::ObjectTrigger | O::ObjectRule | O::ObjectPolicy) if hangs_on_temp(names, drop) => {
            Statement::temporary(Hold::Session)
        }
        _ => Statement::ddl(Ddl::default()),
    }
}

/// Whether what is dropped hangs on a temporary table, whose name is all but the last part.
fn hangs_on_temp(names: Names<'_>, drop: &DropStmt) -> bool {
    drop.objects.iter().any(|node| match &node.node {
        Some(NodeEnum::List(list)) => list.items.split_last().is_some_and(|(_, table)| {
            names::qualified(table)
                .is_some_and(|(s, n)| matches!(names.relation_named(s, n), Found::Temp))
        }),
        _ => false,
    })
}

fn drop_relations(names: Names<'_>, drop: &DropStmt, tables: bool) -> Statement {
    let named = drop.objects.iter().filter_map(|node| match &node.node {
        Some(NodeEnum::List(list)) => names::qualified(&list.items),
        _ => None,
    });
    let (temps, lasting): (Vec<_>, Vec<_>) =
        named.partition(|(schema, name)| matches!(names.relation_named(schema, name), Found::Temp));
    let drops: Vec<String> = temps.into_iter().map(|(_, name)| name.to_owned()).collect();
    if drops.is_empty() {
        return Statement::ddl(Ddl::default());
    }
    if lasting.is_empty() {
        return Statement { drops, ..Statement::temporary(Hold::Session) };
    }
    if !tables {
        return mixed("DROP");
    }
    let list: Vec<String> =
        lasting.iter().map(|(schema, name)| names::dotted(schema, name)).collect();
    let exists = if drop.missing_ok { "IF EXISTS " } else { "" };
    let cascade = match drop.behavior() {
        DropBehavior::DropCascade => " CASCADE",
        _ => "",
    };
    let followers = Some(format!("DROP TABLE {exists}{}{cascade}", list.join(", ")));
    Statement { drops, ..Statement::ddl(Ddl { followers, ..Ddl::default() }) }
}

pub(super) fn truncate(names: Names<'_>, truncate: &TruncateStmt) -> Statement {
    match create::temps(names, &truncate.relations) {
        (_, true) => {
            return Statement { tag: "truncate", ..Statement::temporary(Hold::Session) };
        }
        (true, false) => return mixed("TRUNCATE"),
        _ => {}
    }
    let cascade = truncate.behavior() == DropBehavior::DropCascade;
    let mut found = Truncated::default();
    for node in &truncate.relations {
        let Some(NodeEnum::RangeVar(var)) = &node.node else {
            continue;
        };
        match names.relation(var) {
            Found::Known(table) => found.add(table, cascade),
            Found::System | Found::Lockstep => {
                return refused(
                    format!("TRUNCATE of \"{}\" is not replicated", var.relname),
                    "Use the statement that is made for it.",
                );
            }
            _ => found.unknown = true,
        }
    }
    found.statement(truncate.restart_seqs, cascade)
}

/// What a TRUNCATE reaches.
#[derive(Default)]
struct Truncated<'c> {
    tables: Vec<&'c Relation>,
    /// Triggers that may do what only the leader may decide.
    triggers: bool,
    unknown: bool,
}

impl<'c> Truncated<'c> {
    fn add(&mut self, table: &'c Relation, cascade: bool) {
        self.triggers |= table.triggers.truncate
            || (table.reach_hidden && (cascade || !table.descendants.is_empty()));
        self.tables.push(table);
    }

    fn statement(&self, restart: bool, cascade: bool) -> Statement {
        let (mut writes, mut sequences) = (Touched::None, Sequences::None);
        for table in &self.tables {
            writes.add(&table.full);
            table.descendants.iter().for_each(|child| writes.add(child));
            if restart {
                sequences.merge(&table.default_effects.sequences);
            }
        }
        if self.unknown || cascade {
            writes = Touched::Unknown;
            if restart {
                sequences = Sequences::Any;
            }
        }
        match (self.triggers, restart) {
            (false, _) => Statement {
                writes,
                sequences,
                resets_sequences: restart,
                ..Statement::new("truncate", Class::Ddl(Ddl::default()))
            },
            (true, false) => Statement { returns_rows: false, ..Statement::opaque("truncate") },
            (true, true) => refused(
                "TRUNCATE … RESTART IDENTITY of a table with triggers is not replicated",
                "Use TRUNCATE, then ALTER SEQUENCE … RESTART.",
            ),
        }
    }
}

pub(super) fn rename(names: Names<'_>, rename: &RenameStmt) -> Statement {
    use ObjectType as O;
    let Some(relation) = &rename.relation else {
        return Statement::ddl(Ddl::default());
    };
    if !names.is_temp(relation) {
        return Statement::ddl(Ddl::default());
    }
    let itself = matches!(
        ObjectType::try_from(rename.rename_type),
        Ok(O::ObjectTable | O::ObjectView | O::ObjectSequence | O::ObjectIndex)
    );
    let statement = Statement::temporary(Hold::Session);
    if !itself {
        return statement;
    }
    let (creates_temp, drops) = (vec![rename.newname.clone()], vec![relation.relname.clone()]);
    Statement { creates_temp, drops, ..statement }
}

pub(super) fn vacuum(names: Names<'_>, vacuum: &VacuumStmt) -> Statement {
    let tag = if vacuum.is_vacuumcmd { "vacuum" } else { "analyze" };
    let temp = |node: &Node| match &node.node {
        Some(NodeEnum::VacuumRelation(item)) => {
            item.relation.as_ref().is_some_and(|var| names.is_temp(var))
        }
        _ => false,
    };
    if !vacuum.rels.is_empty() && vacuum.rels.iter().all(temp) {
        return Statement { tag, ..Statement::temporary(Hold::Session) };
    }
    Statement::maintenance(tag, Maintenance::Everywhere)
}

pub(super) fn reindex(names: Names<'_>, reindex: &ReindexStmt) -> Statement {
    if names::option_on(&reindex.params, "concurrently") {
        return Statement::maintenance("reindex", Maintenance::Journaled(Outside::Reindex));
    }
    let single = matches!(
        ReindexObjectType::try_from(reindex.kind),
        Ok(ReindexObjectType::ReindexObjectIndex | ReindexObjectType::ReindexObjectTable)
    );
    let found = reindex.relation.as_ref().map(|var| names.relation(var));
    match found {
        Some(Found::Temp) => Statement { tag: "reindex", ..Statement::temporary(Hold::Session) },
        // Partitions are done one by one, each in its own transaction.
        Some(Found::Known(table)) if table.kind == RelationKind::Partitioned => {
            Statement::maintenance("reindex", Maintenance::Everywhere)
        }
        _ if single => Statement { tag: "reindex", ..Statement::ddl(Ddl::default()) },
        _ => Statement::maintenance("reindex", Maintenance::Everywhere),
    }
}
