//! ALTER TABLE: what fills or rewrites rows must fill them alike on every backend.

use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableCmd, AlterTableStmt, AlterTableType, RangeVar};

use super::catalog::{Relation, RelationKind, TypeClass};
use super::create::{column_literals, constraint_literals, partition_literals, stored};
use super::fills;
use super::names::{self, quote};
use super::resolve::{Found, Names};
use super::statement::{Ddl, Hold, Maintenance, Outside, Refusal, Statement};
use super::steps;
use super::walk::Walker;

/// The proxy's own triggers.
pub(super) const OWN_TRIGGERS: [&str; 2] = ["00_lockstep_capture", "00_lockstep_truncate"];

fn commands(alter: &AlterTableStmt) -> impl Iterator<Item = &AlterTableCmd> {
    alter.cmds.iter().filter_map(|node| match &node.node {
        Some(NodeEnum::AlterTableCmd(command)) => Some(&**command),
        _ => None,
    })
}

/// `ENABLE ALWAYS TRIGGER` of our own triggers, as a dump says it: it is so already.
pub(super) fn only_enables_own(alter: &AlterTableStmt) -> bool {
    !alter.cmds.is_empty()
        && commands(alter).count() == alter.cmds.len()
        && commands(alter).all(|command| {
            command.subtype() == AlterTableType::AtEnableAlwaysTrig
                && OWN_TRIGGERS.contains(&command.name.as_str())
        })
}

pub(super) fn table(names: Names<'_>, alter: &AlterTableStmt) -> Statement {
    let Some(relation) = &alter.relation else {
        return Statement::opaque("ddl");
    };
    let found = names.relation(relation);
    if matches!(found, Found::Temp) {
        return Statement::temporary(Hold::Session);
    }
    let known = match found {
        Found::Known(table) => Some(table),
        _ => None,
    };
    let mut walker = Walker::new(names);
    let mut mend = false;
    let mut varies = None;
    for command in commands(alter) {
        use AlterTableType as T;
        match command.subtype() {
            T::AtAddColumn => {
                if let Some(NodeEnum::ColumnDef(column)) = definition(command) {
                    if steps::is_there(known, alter, command, column) {
                        continue;
                    }
                    let fill = fills::fill(names, column);
                    varies = varies.or(fill.map(|fill| (&*column.colname, fill)));
                    column_literals(&mut walker, column);
                }
            }
            T::AtColumnDefault => default_literals(&mut walker, known, command),
            T::AtAlterColumnType => {
                if let Some(refusal) = rewrites(names, command) {
                    return Statement::refused("ddl", refusal);
                }
            }
            T::AtAddConstraint => {
                if let Some(NodeEnum::Constraint(constraint)) = definition(command) {
                    constraint_literals(&mut walker, constraint);
                }
            }
            T::AtAttachPartition | T::AtDetachPartition => {
                if let Some(NodeEnum::PartitionCmd(partition)) = definition(command) {
                    if partition.concurrent {
                        let name = partition.name.as_ref().map(names::written).unwrap_or_default();
                        let what = Outside::Detach(name);
                        return Statement::maintenance("ddl", Maintenance::Journaled(what));
                    }
                    if let Some(bound) = &partition.bound {
                        partition_literals(&mut walker, bound);
                    }
                }
            }
            T::AtEnableTrigAll
            | T::AtEnableTrigUser
            | T::AtDisableTrigAll
            | T::AtDisableTrigUser => mend = true,
            _ => {}
        }
    }
    if let Some(refused) = stored(&walker.effects) {
        return refused;
    }
    if let Some(varies) = varies {
        return steps::take_apart(names, alter, known, varies);
    }
    Statement::ddl(Ddl {
        after: mend.then(|| mended(names, known, relation)).flatten(),
        ..Ddl::default()
    })
}

fn definition(command: &AlterTableCmd) -> Option<&NodeEnum> {
    command.def.as_deref().and_then(|node| node.node.as_ref())
}

fn default_literals<'t>(
    walker: &mut Walker<'_, 't>,
    table: Option<&Relation>,
    command: &'t AlterTableCmd,
) {
    let class = table.and_then(|table| table.column(&command.name)).map(|column| column.class);
    let text = command.def.as_deref().and_then(names::string_constant).is_some();
    if text && class == Some(TypeClass::Plain) {
        return;
    }
    let mut inner = Walker::new(walker.names);
    inner.opt(&command.def);
    walker.effects.folded |= inner.effects.folded;
}

/// Why ALTER COLUMN TYPE … USING would give each backend other values.
fn rewrites(names: Names<'_>, command: &AlterTableCmd) -> Option<Refusal> {
    let Some(NodeEnum::ColumnDef(column)) = definition(command) else {
        return None;
    };
    let mut walker = Walker::new(names);
    walker.opt(&column.raw_default);
    let differs = walker.effects.differs() || walker.effects.folded;
    differs.then(|| {
        Refusal::unsupported(
            format!("USING would be computed on each backend for column \"{}\"", command.name),
            "In three steps: ADD COLUMN of the new type; UPDATE it from the old one; DROP the old \
             column and RENAME the new one.",
        )
    })
}

/// What puts the capture triggers back as they have to be.
fn mended(names: Names<'_>, known: Option<&Relation>, var: &RangeVar) -> Option<String> {
    let table = |name: &str| {
        let [capture, truncate] = OWN_TRIGGERS.map(quote);
        format!(
            "ALTER TABLE {name} ENABLE ALWAYS TRIGGER {capture}, ENABLE ALWAYS TRIGGER {truncate}"
        )
    };
    let Some(relation) = known else {
        let name = quote(&var.relname);
        return Some(match var.schemaname.as_str() {
            "" => table(&name),
            schema => table(&format!("{}.{name}", quote(schema))),
        });
    };
    // The command goes down to the partitions, which carry the triggers.
    let below = names.catalog.relations.values().flatten().filter(|other| {
        other.kind == RelationKind::Table && relation.descendants.contains(&other.full)
    });
    let own = (relation.kind == RelationKind::Table).then_some(relation);
    let all: Vec<String> = own.into_iter().chain(below).map(|r| table(&r.quoted)).collect();
    (!all.is_empty()).then(|| all.join("; "))
}
