//! Statements about the schema, roles and the server.

use pg_query::protobuf::{CreateFunctionStmt, CreateSeqStmt, DoStmt, ObjectType, RangeVar, Token};
use pg_query::{Node, NodeEnum};

use super::names;
use super::piece::Piece;
use super::resolve::{Found, Names, is_temp_schema};
use super::statement::{Class, Ddl, Hold, Maintenance, Refusal, Sequences, Statement};
use super::tokens::Tokens;
use super::{alter, create, facts, functions, relations, role};

fn refused(message: impl Into<String>, hint: &str) -> Statement {
    Statement::refused("ddl", Refusal::unsupported(message, hint))
}

/// Classifies what is neither a query nor about the session.
pub(super) fn classify(piece: &Piece<'_, '_>, node: &NodeEnum) -> Statement {
    if let NodeEnum::CreateTrigStmt(trigger) = node
        && alter::OWN_TRIGGERS.contains(&trigger.trigname.as_str())
    {
        return Statement::ddl(Ddl { duplicate_trigger: true, ..Ddl::default() });
    }
    if let NodeEnum::AlterTableStmt(stmt) = node
        && alter::only_enables_own(stmt)
    {
        return Statement::ddl(Ddl::default());
    }
    let Some(tokens) = piece.tokens() else {
        return refused(
            "a statement about the schema with backslashes in plain literals cannot be judged",
            "SET standard_conforming_strings = on, or write E'…'.",
        );
    };
    if names_own(&tokens) {
        return Statement::refused(
            "ddl",
            Refusal::reserved("what the proxy keeps in the database is changed by the proxy alone"),
        );
    }
    on_relations(piece, node)
}

/// Statements about relations.
fn on_relations(piece: &Piece<'_, '_>, node: &NodeEnum) -> Statement {
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
        NodeEnum::CreateSeqStmt(stmt) => create_sequence(names, stmt),
        NodeEnum::AlterSeqStmt(stmt) => Statement {
            resets_sequences: names::option(&stmt.options, "restart").is_some(),
            sequences: sequence(names, &stmt.sequence),
            ..on(&stmt.sequence)
        },
        NodeEnum::DropStmt(stmt) => relations::drop(names, stmt),
        NodeEnum::TruncateStmt(stmt) => relations::truncate(names, stmt),
        NodeEnum::RenameStmt(stmt) => relations::rename(names, stmt),
        NodeEnum::AlterObjectSchemaStmt(stmt) => on(&stmt.relation),
        NodeEnum::AlterOwnerStmt(stmt) => match ObjectType::try_from(stmt.object_type) {
            Ok(ObjectType::ObjectLargeobject) => {
                Statement::refused("ddl", functions::large_objects())
            }
            _ => on(&stmt.relation),
        },
        NodeEnum::CreateTrigStmt(stmt) => {
            create::storing(names, &[&stmt.when_clause]).unwrap_or_else(|| on(&stmt.relation))
        }
        NodeEnum::RuleStmt(stmt) => on(&stmt.relation),
        NodeEnum::CreatePolicyStmt(stmt) => create::storing(names, &[&stmt.qual, &stmt.with_check])
            .unwrap_or_else(|| on(&stmt.table)),
        NodeEnum::AlterPolicyStmt(stmt) => create::storing(names, &[&stmt.qual, &stmt.with_check])
            .unwrap_or_else(|| on(&stmt.table)),
        NodeEnum::CommentStmt(stmt) => match ObjectType::try_from(stmt.objtype) {
            Ok(ObjectType::ObjectLargeobject) => {
                Statement::refused("ddl", functions::large_objects())
            }
            _ => relations::named_object(names, stmt.object.as_deref()),
        },
        NodeEnum::GrantStmt(stmt) => relations::grant(names, stmt),
        NodeEnum::VacuumStmt(stmt) => relations::vacuum(names, stmt),
        NodeEnum::ClusterStmt(stmt) => match &stmt.relation {
            None => Statement::maintenance("cluster", Maintenance::Everywhere),
            some => Statement { tag: "cluster", ..on(some) },
        },
        NodeEnum::ReindexStmt(stmt) => relations::reindex(names, stmt),
        NodeEnum::CreateFunctionStmt(stmt) => create_function(names, stmt),
        _ => others(piece, node),
    }
}

fn create_sequence(names: Names<'_>, create: &CreateSeqStmt) -> Statement {
    match &create.sequence {
        Some(var) if names.makes_temp(var) => Statement {
            creates_temp: vec![var.relname.clone()],
            ..Statement::temporary(Hold::Session)
        },
        _ => Statement::ddl(Ddl::default()),
    }
}

fn sequence(names: Names<'_>, var: &Option<RangeVar>) -> Sequences {
    match var.as_ref().map(|var| names.relation(var)) {
        Some(Found::Known(sequence)) => Sequences::Named(vec![sequence.quoted.clone()]),
        Some(Found::Temp) => Sequences::None,
        _ => Sequences::Any,
    }
}

fn create_function(names: Names<'_>, create: &CreateFunctionStmt) -> Statement {
    if mentions_own(&create.options) {
        return reserved_code();
    }
    let temp = names::qualified(&create.funcname).is_some_and(|(s, _)| is_temp_schema(s));
    create::storing(names, &[&create.sql_body]).unwrap_or_else(|| {
        if temp { Statement::temporary(Hold::Session) } else { Statement::ddl(Ddl::default()) }
    })
}

/// Statements about everything else.
fn others(piece: &Piece<'_, '_>, node: &NodeEnum) -> Statement {
    match node {
        NodeEnum::CreateDomainStmt(stmt) => create::domain(piece.names, stmt),
        NodeEnum::CreateRoleStmt(stmt) => role::with_password(piece, &stmt.options),
        NodeEnum::AlterRoleStmt(stmt) => role::with_password(piece, &stmt.options),
        NodeEnum::CreatedbStmt(_) | NodeEnum::DropdbStmt(_) => refused(
            "a cluster replicates one database",
            "Create or drop databases on each server directly, and give each its own cluster.",
        ),
        NodeEnum::AlterDatabaseStmt(stmt)
            if names::option(&stmt.options, "tablespace").is_some() =>
        {
            refused("tablespaces are files of one server", "Move it on each server directly.")
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
        _ => refused("this statement is not known to the proxy", "Run it on each server directly."),
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
    names::option(options, "as").and_then(|def| def.arg.as_deref()).is_some_and(|arg| {
        match &arg.node {
            Some(NodeEnum::List(list)) => list.items.iter().any(text),
            _ => text(arg),
        }
    })
}

fn reserved_code() -> Statement {
    let message = "code that uses the schema or the settings of the proxy is not accepted";
    Statement::refused("ddl", Refusal::reserved(message))
}

/// DO: nobody knows what it does. Its text says whether it may leave state behind.
pub(super) fn inline_code(names: Names<'_>, code: &DoStmt) -> Statement {
    if mentions_own(&code.args) {
        return reserved_code();
    }
    let argument = |name| {
        names::option(&code.args, name).and_then(|def| def.arg.as_deref()).and_then(names::string)
    };
    let hold = match (argument("language"), argument("as")) {
        (None | Some("plpgsql"), Some(body)) => facts::block_hold(names.catalog, body),
        _ => Hold::Session,
    };
    let class = Class::Captured { hold };
    Statement { class, returns_rows: false, ..Statement::opaque("do") }
}
