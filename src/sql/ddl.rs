//! Statements about the schema, roles and the server.

use pg_query::protobuf::{
    DoStmt, DropStmt, GrantStmt, ObjectType, RangeVar, ReindexObjectType, ReindexStmt, RenameStmt,
    Token, TruncateStmt, VacuumStmt,
};
use pg_query::{Node, NodeEnum};

use super::catalog::Relation;
use super::names::{self, quote};
use super::piece::Piece;
use super::resolve::{Found, Names, is_temp_schema};
use super::statement::{Class, Ddl, Hold, Maintenance, Refusal, Sequences, Statement, Touched};
use super::tokens::Tokens;
use super::{alter, create, functions, role};

fn refused(message: impl Into<String>, hint: &str) -> Statement {
    Statement::refused("ddl", Refusal::unsupported(message, hint))
}

/// Classifies what is neither a query nor about the session.
pub(super) fn classify(piece: &Piece<'_, '_>, node: &NodeEnum) -> Statement {
    if let NodeEnum::CreateTrigStmt(trigger) = node
        && alter::OWN_TRIGGERS.contains(&trigger.trigname.as_str())
    {
        return Statement::ddl(Ddl {
            duplicate_trigger: true,
            ..Ddl::default()
        });
    }
    if let NodeEnum::AlterTableStmt(stmt) = node
        && alter::only_enables_own(stmt)
    {
        return Statement::ddl(Ddl::default());
    }
    if piece.tokens().is_none_or(|tokens| names_own(&tokens)) {
        return Statement::refused(
            "ddl",
            Refusal::reserved("what the proxy keeps in the database is changed by the proxy alone"),
        );
    }
    relations(piece, node)
}

/// Statements about relations.
fn relations(piece: &Piece<'_, '_>, node: &NodeEnum) -> Statement {
    let names = piece.names;
    let on = |relation: &Option<RangeVar>| match relation {
        Some(var) if names.is_temp(var) => Statement::temporary(Hold::Session),
        _ => Statement::ddl(Ddl::default()),
    };
    match node {
        NodeEnum::CreateStmt(stmt) => create::table(names, stmt),
        NodeEnum::CreateForeignTableStmt(_) => Statement::ddl(Ddl::default()),
        NodeEnum::CreateTableAsStmt(stmt) => create::table_as(piece, stmt),
        NodeEnum::ViewStmt(stmt) => create::view(names, stmt),
        NodeEnum::IndexStmt(stmt) => create::index(names, stmt),
        NodeEnum::RefreshMatViewStmt(stmt) => create::refresh(names, stmt),
        NodeEnum::AlterTableStmt(stmt) => alter::table(names, stmt),
        NodeEnum::CreateSeqStmt(stmt) => match &stmt.sequence {
            Some(var) if names.makes_temp(var) => Statement {
                creates_temp: vec![var.relname.clone()],
                ..Statement::temporary(Hold::Session)
            },
            _ => Statement::ddl(Ddl::default()),
        },
        NodeEnum::AlterSeqStmt(stmt) => {
            let restarts = names::option(&stmt.options, "restart").is_some();
            let sequences = match stmt.sequence.as_ref().map(|var| names.relation(var)) {
                Some(Found::Known(sequence)) => Sequences::Named(vec![sequence.quoted.clone()]),
                _ => Sequences::Any,
            };
            Statement {
                resets_sequences: restarts,
                sequences,
                ..on(&stmt.sequence)
            }
        }
        NodeEnum::DropStmt(stmt) => drop(names, stmt),
        NodeEnum::TruncateStmt(stmt) => truncate(names, stmt),
        NodeEnum::RenameStmt(stmt) => rename(names, stmt),
        NodeEnum::AlterObjectSchemaStmt(stmt) => on(&stmt.relation),
        NodeEnum::AlterOwnerStmt(stmt) => match ObjectType::try_from(stmt.object_type) {
            Ok(ObjectType::ObjectLargeobject) => {
                Statement::refused("ddl", functions::large_objects())
            }
            _ => on(&stmt.relation),
        },
        NodeEnum::CreateTrigStmt(stmt) => on(&stmt.relation),
        NodeEnum::RuleStmt(stmt) => on(&stmt.relation),
        NodeEnum::CreatePolicyStmt(stmt) => on(&stmt.table),
        NodeEnum::AlterPolicyStmt(stmt) => on(&stmt.table),
        NodeEnum::CommentStmt(stmt) => match ObjectType::try_from(stmt.objtype) {
            Ok(ObjectType::ObjectLargeobject) => {
                Statement::refused("ddl", functions::large_objects())
            }
            _ => named_object(names, stmt.object.as_deref()),
        },
        NodeEnum::GrantStmt(stmt) => grant(names, stmt),
        NodeEnum::VacuumStmt(stmt) => vacuum(names, stmt),
        NodeEnum::ClusterStmt(stmt) => match &stmt.relation {
            None => Statement::maintenance("cluster", Maintenance::Everywhere),
            some => Statement {
                tag: "cluster",
                ..on(some)
            },
        },
        NodeEnum::ReindexStmt(stmt) => reindex(names, stmt),
        NodeEnum::CreateFunctionStmt(stmt) => {
            let temp =
                matches!(names::qualified(&stmt.funcname), Some((s, _)) if is_temp_schema(s));
            if mentions_own(&stmt.options) {
                return reserved_code();
            }
            if temp {
                Statement::temporary(Hold::Session)
            } else {
                Statement::ddl(Ddl::default())
            }
        }
        _ => others(piece, node),
    }
}

/// Statements about everything else.
fn others(piece: &Piece<'_, '_>, node: &NodeEnum) -> Statement {
    match node {
        NodeEnum::CreateRoleStmt(stmt) => role::with_password(piece, &stmt.options),
        NodeEnum::AlterRoleStmt(stmt) => role::with_password(piece, &stmt.options),
        NodeEnum::CreatedbStmt(_) | NodeEnum::DropdbStmt(_) => refused(
            "a cluster replicates one database",
            "Create or drop databases on each server directly, and give each its own cluster.",
        ),
        NodeEnum::AlterDatabaseStmt(stmt)
            if names::option(&stmt.options, "tablespace").is_some() =>
        {
            refused(
                "tablespaces are files of one server",
                "Move it on each server directly.",
            )
        }
        NodeEnum::AlterDatabaseRefreshCollStmt(_) => refused(
            "the version of a collation belongs to one server's libraries",
            "Run it on each server directly.",
        ),
        NodeEnum::CreateTableSpaceStmt(_)
        | NodeEnum::DropTableSpaceStmt(_)
        | NodeEnum::AlterTableSpaceOptionsStmt(_)
        | NodeEnum::AlterTableMoveAllStmt(_) => refused(
            "tablespaces are directories of one server",
            "Manage them on each server directly.",
        ),
        NodeEnum::AlterSystemStmt(_) => refused(
            "ALTER SYSTEM writes the configuration file of one server",
            "Run it on each server directly, or use ALTER DATABASE … SET or ALTER ROLE … SET.",
        ),
        NodeEnum::LoadStmt(_) => refused(
            "LOAD brings a library into one server process",
            "Set session_preload_libraries on each server.",
        ),
        NodeEnum::CreateSubscriptionStmt(_)
        | NodeEnum::AlterSubscriptionStmt(_)
        | NodeEnum::DropSubscriptionStmt(_) => refused(
            "a subscription would write to each backend behind the proxy's back",
            "Subscribe with a separate database and copy from there through the proxy.",
        ),
        NodeEnum::RenameStmt(_) => Statement::ddl(Ddl::default()),
        known if is_plain(known) => Statement::ddl(Ddl::default()),
        _ => refused(
            "this statement is not known to the proxy",
            "Run it on each server directly.",
        ),
    }
}

/// Statements that say the same thing everywhere and read no rows.
fn is_plain(node: &NodeEnum) -> bool {
    matches!(
        node,
        NodeEnum::AlterCollationStmt(_)
            | NodeEnum::AlterDatabaseStmt(_)
            | NodeEnum::AlterDatabaseSetStmt(_)
            | NodeEnum::AlterDefaultPrivilegesStmt(_)
            | NodeEnum::AlterDomainStmt(_)
            | NodeEnum::AlterEnumStmt(_)
            | NodeEnum::AlterEventTrigStmt(_)
            | NodeEnum::AlterExtensionContentsStmt(_)
            | NodeEnum::AlterExtensionStmt(_)
            | NodeEnum::AlterFdwStmt(_)
            | NodeEnum::AlterForeignServerStmt(_)
            | NodeEnum::AlterFunctionStmt(_)
            | NodeEnum::AlterObjectDependsStmt(_)
            | NodeEnum::AlterOpFamilyStmt(_)
            | NodeEnum::AlterOperatorStmt(_)
            | NodeEnum::AlterPublicationStmt(_)
            | NodeEnum::AlterRoleSetStmt(_)
            | NodeEnum::AlterStatsStmt(_)
            | NodeEnum::AlterTsconfigurationStmt(_)
            | NodeEnum::AlterTsdictionaryStmt(_)
            | NodeEnum::AlterTypeStmt(_)
            | NodeEnum::AlterUserMappingStmt(_)
            | NodeEnum::CompositeTypeStmt(_)
            | NodeEnum::CreateAmStmt(_)
            | NodeEnum::CreateCastStmt(_)
            | NodeEnum::CreateConversionStmt(_)
            | NodeEnum::CreateDomainStmt(_)
            | NodeEnum::CreateEnumStmt(_)
            | NodeEnum::CreateEventTrigStmt(_)
            | NodeEnum::CreateExtensionStmt(_)
            | NodeEnum::CreateFdwStmt(_)
            | NodeEnum::CreateForeignServerStmt(_)
            | NodeEnum::CreateOpClassStmt(_)
            | NodeEnum::CreateOpFamilyStmt(_)
            | NodeEnum::CreatePlangStmt(_)
            | NodeEnum::CreatePublicationStmt(_)
            | NodeEnum::CreateRangeStmt(_)
            | NodeEnum::CreateSchemaStmt(_)
            | NodeEnum::CreateStatsStmt(_)
            | NodeEnum::CreateTransformStmt(_)
            | NodeEnum::CreateUserMappingStmt(_)
            | NodeEnum::DefineStmt(_)
            | NodeEnum::DropOwnedStmt(_)
            | NodeEnum::DropRoleStmt(_)
            | NodeEnum::DropUserMappingStmt(_)
            | NodeEnum::GrantRoleStmt(_)
            | NodeEnum::ImportForeignSchemaStmt(_)
            | NodeEnum::ReassignOwnedStmt(_)
            | NodeEnum::ReplicaIdentityStmt(_)
            | NodeEnum::SecLabelStmt(_)
    )
}

/// Whether a statement about the schema names what is the proxy's: its schema, its settings, its
/// triggers.
fn names_own(tokens: &Tokens<'_>) -> bool {
    let mut schemas = false;
    let mut event_trigger = false;
    for at in 0..tokens.len() {
        let Some(kind) = tokens.kind(at) else {
            return true;
        };
        event_trigger |= kind == Token::Event && tokens.kind(at + 1) == Some(Token::Trigger);
        match kind {
            Token::Schema => schemas = true,
            Token::IfP | Token::Not | Token::Exists | Token::Ascii44 => {}
            Token::Ident => {
                let name = tokens.identifier(at).unwrap_or_default();
                let qualifies = tokens.kind(at + 1) == Some(Token::Ascii46);
                if (name == "lockstep" && (schemas || qualifies))
                    || alter::OWN_TRIGGERS.contains(&name.as_str())
                    || (event_trigger && name.starts_with("lockstep"))
                {
                    return true;
                }
            }
            // A name written by its code points could be any.
            Token::Uident => return true,
            _ => schemas = false,
        }
    }
    false
}

fn mentions_own(options: &[Node]) -> bool {
    let text = |node: &Node| {
        names::string(node).is_some_and(|body| body.to_ascii_lowercase().contains("lockstep."))
    };
    names::option(options, "as")
        .and_then(|def| def.arg.as_deref())
        .is_some_and(|arg| match &arg.node {
            Some(NodeEnum::List(list)) => list.items.iter().any(text),
            _ => text(arg),
        })
}

fn reserved_code() -> Statement {
    let message = "code that uses the schema or the settings of the proxy is not accepted";
    Statement::refused("ddl", Refusal::reserved(message))
}

/// DO: nobody looks inside, so it may do anything.
pub(super) fn inline_code(code: &DoStmt) -> Statement {
    if mentions_own(&code.args) {
        return reserved_code();
    }
    Statement {
        returns_rows: false,
        ..Statement::opaque("do")
    }
}

fn named_object(names: Names<'_>, object: Option<&Node>) -> Statement {
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
    if temp {
        Statement::temporary(Hold::Session)
    } else {
        Statement::ddl(Ddl::default())
    }
}

fn grant(names: Names<'_>, grant: &GrantStmt) -> Statement {
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
fn drop(names: Names<'_>, drop: &DropStmt) -> Statement {
    use ObjectType as O;
    let kind = ObjectType::try_from(drop.remove_type);
    let relations = matches!(
        kind,
        Ok(O::ObjectTable
            | O::ObjectView
            | O::ObjectSequence
            | O::ObjectIndex
            | O::ObjectMatview
            | O::ObjectForeignTable)
    );
    if drop.concurrent {
        return Statement::maintenance("ddl", Maintenance::Journaled);
    }
    let parts = |node: &'_ Node| match &node.node {
        Some(NodeEnum::List(list)) => {
            names::qualified(&list.items).map(|(schema, name)| (schema.to_owned(), name.to_owned()))
        }
        _ => None,
    };
    if !relations {
        // Triggers, rules and policies hang on a table; functions and types may be temporary too.
        let on_temp = drop.objects.iter().any(|node| match &node.node {
            Some(NodeEnum::List(list)) => list.items.split_last().is_some_and(|(_, table)| {
                names::qualified(table)
                    .is_some_and(|(s, n)| matches!(names.relation_named(s, n), Found::Temp))
            }),
            _ => false,
        });
        let hangs = matches!(kind, Ok(O::ObjectTrigger | O::ObjectRule | O::ObjectPolicy));
        return if hangs && on_temp {
            Statement::temporary(Hold::Session)
        } else {
            Statement::ddl(Ddl::default())
        };
    }
    let named: Vec<(String, String)> = drop.objects.iter().filter_map(parts).collect();
    let (temps, lasting): (Vec<_>, Vec<_>) = named
        .into_iter()
        .partition(|(schema, name)| matches!(names.relation_named(schema, name), Found::Temp));
    let drops: Vec<String> = temps.into_iter().map(|(_, name)| name).collect();
    if drops.is_empty() {
        return Statement::ddl(Ddl::default());
    }
    if lasting.is_empty() {
        return Statement {
            drops,
            ..Statement::temporary(Hold::Session)
        };
    }
    let (Ok(O::ObjectTable), false) = (kind, lasting.is_empty()) else {
        return mixed("DROP");
    };
    let list: Vec<String> = lasting
        .iter()
        .map(|(schema, name)| match schema.as_str() {
            "" => quote(name),
            _ => format!("{}.{}", quote(schema), quote(name)),
        })
        .collect();
    let exists = if drop.missing_ok { "IF EXISTS " } else { "" };
    let cascade = match drop.behavior() {
        pg_query::protobuf::DropBehavior::DropCascade => " CASCADE",
        _ => "",
    };
    let followers = Some(format!("DROP TABLE {exists}{}{cascade}", list.join(", ")));
    Statement {
        drops,
        ..Statement::ddl(Ddl {
            followers,
            ..Ddl::default()
        })
    }
}

fn truncate(names: Names<'_>, truncate: &TruncateStmt) -> Statement {
    match create::temps(names, &truncate.relations) {
        (_, true) => {
            return Statement {
                tag: "truncate",
                ..Statement::temporary(Hold::Session)
            };
        }
        (true, false) => return mixed("TRUNCATE"),
        _ => {}
    }
    let mut writes = Touched::None;
    let mut sequences = Sequences::None;
    let mut triggers = false;
    let cascade = truncate.behavior() == pg_query::protobuf::DropBehavior::DropCascade;
    for node in &truncate.relations {
        let Some(NodeEnum::RangeVar(var)) = &node.node else {
            continue;
        };
        match names.relation(var) {
            Found::Known(table) => {
                touches(table, &mut writes);
                triggers |= table.triggers || table.reach_hidden;
                if truncate.restart_seqs {
                    sequences.merge(&table.default_effects.sequences);
                }
            }
            Found::System | Found::Lockstep => {
                return refused(
                    format!("TRUNCATE of \"{}\" is not replicated", var.relname),
                    "Use the statement that is made for it.",
                );
            }
            _ => {
                writes = Touched::Unknown;
                sequences = Sequences::Any;
            }
        }
    }
    if cascade {
        writes = Touched::Unknown;
        if truncate.restart_seqs {
            sequences = Sequences::Any;
        }
    }
    let class = match (triggers, truncate.restart_seqs) {
        (false, _) => Class::Ddl(Ddl::default()),
        // Its triggers may do what only the leader may decide.
        (true, false) => Class::Captured {
            hold: Hold::Session,
        },
        (true, true) => {
            return refused(
                "TRUNCATE … RESTART IDENTITY of a table with triggers is not replicated",
                "Use TRUNCATE, then ALTER SEQUENCE … RESTART.",
            );
        }
    };
    if triggers {
        return Statement {
            class,
            tag: "truncate",
            ..Statement::opaque("truncate")
        };
    }
    Statement {
        writes,
        sequences,
        resets_sequences: truncate.restart_seqs,
        ..Statement::new("truncate", class)
    }
}

fn touches(table: &Relation, writes: &mut Touched) {
    writes.add(&table.full);
    table.descendants.iter().for_each(|child| writes.add(child));
}

fn rename(names: Names<'_>, rename: &RenameStmt) -> Statement {
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
    Statement {
        creates_temp,
        drops,
        ..statement
    }
}

fn vacuum(names: Names<'_>, vacuum: &VacuumStmt) -> Statement {
    let tag = if vacuum.is_vacuumcmd {
        "vacuum"
    } else {
        "analyze"
    };
    let temp = |node: &Node| match &node.node {
        Some(NodeEnum::VacuumRelation(item)) => {
            item.relation.as_ref().is_some_and(|var| names.is_temp(var))
        }
        _ => false,
    };
    if !vacuum.rels.is_empty() && vacuum.rels.iter().all(temp) {
        return Statement {
            tag,
            ..Statement::temporary(Hold::Session)
        };
    }
    Statement::maintenance(tag, Maintenance::Everywhere)
}

fn reindex(names: Names<'_>, reindex: &ReindexStmt) -> Statement {
    use super::catalog::RelationKind;
    if names::option_on(&reindex.params, "concurrently") {
        return Statement::maintenance("reindex", Maintenance::Journaled);
    }
    let single = matches!(
        ReindexObjectType::try_from(reindex.kind),
        Ok(ReindexObjectType::ReindexObjectIndex | ReindexObjectType::ReindexObjectTable)
    );
    let found = reindex.relation.as_ref().map(|var| names.relation(var));
    match found {
        Some(Found::Temp) => Statement {
            tag: "reindex",
            ..Statement::temporary(Hold::Session)
        },
        // Partitions are done one by one, each in its own transaction.
        Some(Found::Known(table)) if table.kind == RelationKind::Partitioned => {
            Statement::maintenance("reindex", Maintenance::Everywhere)
        }
        _ if single => Statement {
            tag: "reindex",
            ..Statement::ddl(Ddl::default())
        },
        _ => Statement::maintenance("reindex", Maintenance::Everywhere),
    }
}
