//! ADD COLUMN whose default differs from row to row, taken apart: the empty column everywhere, its
//! default, an UPDATE whose rows travel from the leader, and only then what judges those rows.

use pg_query::protobuf::{
    AlterTableCmd, AlterTableStmt, AlterTableType, ColumnDef, Constraint, RangeVar,
};
use pg_query::{Node, NodeEnum};

use super::catalog::{DefaultKind, Relation, RelationKind};
use super::effects::Effects;
use super::fills::{self, Fill};
use super::names::{self, quote};
use super::resolve::Names;
use super::statement::{Ddl, DdlStep, Hold, Refusal, Sequences, Statement};
use super::trees::{self, Sorted};
use super::walk::Walker;

/// The whole statement in steps; refused with what this column would need where that cannot be.
pub(super) fn take_apart(
    names: Names<'_>,
    alter: &AlterTableStmt,
    known: Option<&Relation>,
    (column, fill): (&str, Fill<'_>),
) -> Statement {
    let otherwise = || Statement::refused("ddl", fills::refusal(column, fill));
    let Some(table) = known else {
        return otherwise();
    };
    if let Some(refusal) = disturbed(names, table) {
        return Statement::refused("ddl", refusal);
    }
    Plan::new(names, table, alter).and_then(|plan| plan.of(alter)).unwrap_or_else(otherwise)
}

/// Whether ADD COLUMN IF NOT EXISTS finds the column.
pub(super) fn is_there(
    known: Option<&Relation>,
    alter: &AlterTableStmt,
    command: &AlterTableCmd,
    column: &ColumnDef,
) -> bool {
    let name = &column.colname;
    // The server drops first, wherever that stands.
    let dropped = alter.cmds.iter().any(|node| match &node.node {
        Some(NodeEnum::AlterTableCmd(other)) => {
            other.subtype() == AlterTableType::AtDropColumn && other.name == *name
        }
        _ => false,
    });
    command.missing_ok && !dropped && known.is_some_and(|table| table.column(name).is_some())
}

/// The tables whose rows an UPDATE of this one changes.
fn filled<'c>(names: Names<'c>, table: &'c Relation) -> impl Iterator<Item = &'c Relation> {
    let all = names.catalog.relations.values().flatten();
    std::iter::once(table).chain(all.filter(|other| table.descendants.contains(&other.full)))
}

/// Why an UPDATE would do more, or less, than ADD COLUMN does to the rows.
fn disturbed(names: Names<'_>, table: &Relation) -> Option<Refusal> {
    let because = |why: &str, hint: &str| {
        let message = format!(
            "the new column of \"{}\" has to be filled by an UPDATE, and {why}",
            table.full
        );
        Some(Refusal::unsupported(message, hint))
    };
    if table.rules || filled(names, table).any(|each| each.triggers.update) {
        return because(
            "that would fire triggers or rules",
            "In steps, in one transaction: ADD COLUMN without the default; ALTER COLUMN … SET \
             DEFAULT …; DISABLE TRIGGER each of them by its name; UPDATE the existing rows SET the \
             column = DEFAULT; ENABLE TRIGGER.",
        );
    }
    if table.row_security_forced {
        return because(
            "its row security could hide rows from that",
            "Before it, ALTER TABLE … NO FORCE ROW LEVEL SECURITY, and FORCE ROW LEVEL SECURITY \
             after it, in one transaction.",
        );
    }
    None
}

/// The steps as they come together, in the order in which they run.
struct Plan<'c> {
    names: Names<'c>,
    table: &'c Relation,
    /// The table as the client named it, with its schema.
    target: RangeVar,
    /// New sequences, quoted.
    sequences: Vec<String>,
    /// CREATE SEQUENCE.
    before: Vec<String>,
    /// ALTER TABLE: what goes away, and the new columns without what judges them.
    head: Vec<Node>,
    /// ALTER SEQUENCE … OWNED BY.
    owned: Vec<String>,
    /// ALTER TABLE: the defaults.
    defaults: Vec<Node>,
    /// The columns to be filled, quoted.
    fills: Vec<String>,
    /// ALTER TABLE: all the rest.
    tail: Vec<Node>,
    /// All new columns.
    added: Vec<String>,
    /// What filling does.
    effects: Effects,
}

impl<'c> Plan<'c> {
    fn new(names: Names<'c>, table: &'c Relation, alter: &AlterTableStmt) -> Option<Self> {
        let mut effects = Effects::default();
        for each in filled(names, table) {
            // What a foreign server does is out of sight.
            if !matches!(each.kind, RelationKind::Table | RelationKind::Partitioned) {
                return None;
            }
            effects.merge(&each.check_effects);
            effects.reads.add(&each.full);
        }
        Some(Self {
            names,
            table,
            target: RangeVar { schemaname: table.schema.clone(), ..alter.relation.clone()? },
            sequences: Vec::new(),
            before: Vec::new(),
            head: Vec::new(),
            owned: Vec::new(),
            defaults: Vec::new(),
            fills: Vec::new(),
            tail: Vec::new(),
            added: Vec::new(),
            effects,
        })
    }

    fn of(mut self, alter: &AlterTableStmt) -> Option<Statement> {
        use AlterTableType as T;
        for node in &alter.cmds {
            let Some(NodeEnum::AlterTableCmd(command)) = &node.node else {
                return None;
            };
            match command.subtype() {
                T::AtAddColumn => self.add_column(alter, command)?,
                // The server does these first, wherever they stand.
                T::AtDropColumn
                | T::AtDropConstraint
                | T::AtDropNotNull
                | T::AtDropIdentity
                | T::AtDropExpression
                | T::AtAlterColumnType => self.head.push(node.clone()),
                T::AtColumnDefault if command.def.is_none() => self.head.push(node.clone()),
                T::AtEnableTrigAll
                | T::AtEnableTrigUser
                | T::AtDisableTrigAll
                | T::AtDisableTrigUser => return None,
                _ => self.tail.push(node.clone()),
            }
        }
        self.statement(alter.objtype)
    }

    fn add_column(&mut self, alter: &AlterTableStmt, command: &AlterTableCmd) -> Option<()> {
        let Some(NodeEnum::ColumnDef(column)) = command.def.as_deref()?.node.as_ref() else {
            return None;
        };
        if is_there(Some(self.table), alter, command, column) {
            let unchanged = NodeEnum::AlterTableCmd(Box::new(command.clone()));
            self.head.push(trees::node(unchanged));
            return Some(());
        }
        // A descendant's own column would lose its values.
        let below = filled(self.names, self.table).skip(1);
        let known = below.filter_map(|each| each.column(&column.colname)).next().is_some();
        if known || self.added.contains(&column.colname) {
            return None;
        }
        self.added.push(column.colname.clone());
        let mut sorted = Sorted::default();
        for constraint in fills::constraints(column) {
            sorted.add(constraint, &column.colname)?;
        }
        let mut new = ColumnDef { constraints: Vec::new(), ..(**column).clone() };
        if let Some(fill) = fills::fill(self.names, column) {
            self.fills.push(quote(&column.colname));
            self.fill(fill, &mut new, &mut sorted)?;
        } else {
            new.constraints.append(&mut sorted.stay);
        }
        self.head.push(trees::add_column(command, new));
        if sorted.not_null {
            let text = format!("ALTER COLUMN {} SET NOT NULL", quote(&column.colname));
            self.tail.extend(trees::commands(&text)?);
        }
        for constraint in sorted.judge {
            self.tail.push(trees::add_constraint(constraint)?);
        }
        Some(())
    }

    /// The column as it is made first, and what fills it.
    fn fill(&mut self, fill: Fill<'_>, new: &mut ColumnDef, sorted: &mut Sorted) -> Option<()> {
        let name = quote(&new.colname);
        match fill {
            Fill::Default(default) => {
                // It would become a constant, on each backend another one.
                if fills::literal(default).is_some() {
                    return None;
                }
                let (schema, type_name) = names::qualified(&new.type_name.as_ref()?.names)?;
                if self.names.types(schema, type_name).next().is_some() {
                    // A domain's own default must not fill it either.
                    new.constraints = trees::column("int DEFAULT NULL")?.constraints;
                }
                let mut walker = Walker::new(self.names);
                walker.node(default);
                self.effects.merge(&walker.effects);
                let set = format!("ALTER COLUMN {name} SET DEFAULT NULL");
                let set = trees::with_definition(&set, default.clone())?;
                self.defaults.push(set);
            }
            Fill::Domain => {
                let (schema, type_name) = names::qualified(&new.type_name.as_ref()?.names)?;
                for kind in self.names.types(schema, type_name) {
                    match kind.default {
                        DefaultKind::Volatile => self.effects.unknown_rows(),
                        _ => self.effects.clock = true,
                    }
                    self.effects.sequences.merge(&kind.default_sequences);
                }
                new.constraints = trees::column("int DEFAULT NULL")?.constraints;
                let drop = format!("ALTER COLUMN {name} DROP DEFAULT");
                self.defaults.extend(trees::commands(&drop)?);
            }
            Fill::Serial(integer) => self.serial(integer, new, sorted)?,
            Fill::Identity(identity) => self.identity(identity, new, sorted)?,
        }
        Some(())
    }

    fn serial(&mut self, integer: &str, new: &mut ColumnDef, sorted: &mut Sorted) -> Option<()> {
        let written = new.type_name.as_ref()?;
        if sorted.default || self.table.owner.is_empty() {
            return None;
        }
        if !written.array_bounds.is_empty() || written.setof {
            return None;
        }
        new.type_name = trees::column(integer)?.type_name;
        let sequence = self.new_sequence(&new.colname)?;
        let (name, owner) = (quote(&new.colname), quote(&self.table.owner));
        let owned = format!("{}.{name}", self.table_name());
        // Who alters the table need not be its owner; the sequence has to be that one's.
        self.before.extend([
            format!("CREATE SEQUENCE {sequence} AS {integer}"),
            format!("ALTER SEQUENCE {sequence} OWNER TO {owner}"),
        ]);
        self.owned.push(format!("ALTER SEQUENCE {sequence} OWNED BY {owned}"));
        let text = sequence.replace('\'', "''");
        let set = format!("ALTER COLUMN {name} SET DEFAULT nextval('{text}'::regclass)");
        self.defaults.extend(trees::commands(&set)?);
        sorted.not_null = true;
        Some(())
    }

    /// An identity column may not be without a value even for a moment, and the followers can be
    /// given its values only as long as it is not GENERATED ALWAYS.
    fn identity(
        &mut self,
        identity: &Constraint,
        new: &mut ColumnDef,
        sorted: &mut Sorted,
    ) -> Option<()> {
        let named = names::option(&identity.options, "sequence_name").is_some();
        if named || sorted.default || !self.table.descendants.is_empty() {
            return None;
        }
        new.constraints = trees::column("int DEFAULT 0 NOT NULL")?.constraints;
        sorted.not_null = false;
        let name = quote(&new.colname);
        let sequence = self.new_sequence(&new.colname)?;
        let made = trees::commands(&format!(
            "ALTER COLUMN {name} DROP DEFAULT, ALTER COLUMN {name} \
             ADD GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME {sequence})"
        ))?;
        for mut command in made {
            if let Some(constraint) = trees::constraint(&mut command) {
                constraint.options.extend(identity.options.iter().cloned());
            }
            self.defaults.push(command);
        }
        if identity.generated_when == "a" {
            let always = format!("ALTER COLUMN {name} SET GENERATED ALWAYS");
            self.tail.extend(trees::commands(&always)?);
        }
        Some(())
    }

    /// The name that the server would choose for a column's sequence.
    fn new_sequence(&mut self, column: &str) -> Option<String> {
        let (schema, table) = (&self.target.schemaname, &self.target.relname);
        // In a literal a backslash has another meaning in some sessions.
        if [schema, table, column].iter().any(|name| name.contains('\\')) {
            return None;
        }
        let free = (0..100).find_map(|number| {
            let label = match number {
                0 => "seq".to_owned(),
                _ => format!("seq{number}"),
            };
            let name = trees::object_name(table, column, &label);
            let known = self.names.catalog.relations.get(&name);
            let taken = known.is_some_and(|all| all.iter().any(|other| other.schema == *schema));
            let full = format!("{}.{}", quote(schema), quote(&name));
            (!taken && !self.sequences.contains(&full)).then_some(full)
        })?;
        self.sequences.push(free.clone());
        Some(free)
    }

    fn table_name(&self) -> String {
        let (schema, name) = (&self.target.schemaname, &self.target.relname);
        format!("{}.{}", quote(schema), quote(name))
    }

    fn statement(self, objtype: i32) -> Option<Statement> {
        let effects = &self.effects;
        let numbered = !self.sequences.is_empty();
        // State that the UPDATE leaves in the leader's session would go unnoticed; and the
        // followers are told a new sequence's value exactly, which no other sequence would bear.
        let stateful = effects.hold != Hold::Statement
            || effects.uses_currval
            || effects.resets_sequences
            || effects.temp;
        let moves_old = effects.sequences != Sequences::None;
        if effects.refused.is_some() || stateful || (numbered && moves_old) {
            return None;
        }
        let table = |cmds: &[Node]| trees::alter_table(&self.target, objtype, cmds);
        let only = if self.target.inh { "" } else { "ONLY " };
        let sets: Vec<String> = self.fills.iter().map(|c| format!("{c} = DEFAULT")).collect();
        let update = format!("UPDATE {only}{} SET {}", self.table_name(), sets.join(", "));
        let (head, defaults) = (table(&self.head)?, table(&self.defaults)?);
        let mut texts = self.before;
        texts.push(head);
        texts.extend(self.owned);
        texts.extend([defaults, update.clone()]);
        if !self.tail.is_empty() {
            texts.push(trees::alter_table(&self.target, objtype, &self.tail)?);
        }
        let step = |sql: String| DdlStep { captured: sql == update, sql };
        let steps = texts.into_iter().map(step).collect();
        let sequences =
            if numbered { Sequences::Named(self.sequences) } else { self.effects.sequences };
        Some(Statement {
            reads: self.effects.reads,
            sequences,
            clock: self.effects.clock,
            resets_sequences: numbered,
            ..Statement::ddl(Ddl { steps, ..Ddl::default() })
        })
    }
}
