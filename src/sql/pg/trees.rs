//! Parse trees made or changed, and written down again.

use pg_query::protobuf::{
    AlterTableCmd, AlterTableStmt, ColumnDef, ConstrType, Constraint, RangeVar,
};
use pg_query::{DeparseOptions, Node, NodeEnum, ParserOptions};

/// The longest name that the server keeps whole.
const LONGEST_NAME: usize = 63;

pub(super) fn node(inner: NodeEnum) -> Node {
    Node { node: Some(inner) }
}

/// The sub-commands of an ALTER TABLE with this text.
pub(super) fn commands(text: &str) -> Option<Vec<Node>> {
    let parsed = pg_query::parse(&format!("ALTER TABLE x {text}"), ParserOptions::DEFAULT).ok()?;
    match parsed.protobuf.stmts.into_iter().next()?.stmt?.node? {
        NodeEnum::AlterTableStmt(alter) => Some(alter.cmds),
        _ => None,
    }
}

/// A sub-command with another definition than in its text.
pub(super) fn with_definition(text: &str, definition: Node) -> Option<Node> {
    let mut made = commands(text)?.into_iter().next()?;
    match &mut made.node {
        Some(NodeEnum::AlterTableCmd(command)) => command.def = Some(Box::new(definition)),
        _ => return None,
    }
    Some(made)
}

/// A column with this type and these constraints.
pub(super) fn column(text: &str) -> Option<ColumnDef> {
    let made = commands(&format!("ADD COLUMN x {text}"))?;
    let Some(NodeEnum::AlterTableCmd(command)) = made.into_iter().next()?.node else {
        return None;
    };
    match command.def?.node? {
        NodeEnum::ColumnDef(column) => Some(*column),
        _ => None,
    }
}

/// The constraint of a sub-command.
pub(super) fn constraint(command: &mut Node) -> Option<&mut Constraint> {
    match &mut command.node {
        Some(NodeEnum::AlterTableCmd(command)) => match &mut command.def.as_deref_mut()?.node {
            Some(NodeEnum::Constraint(constraint)) => Some(constraint),
            _ => None,
        },
        _ => None,
    }
}

/// The text of an ALTER TABLE. None: it would not say the same as the tree.
pub(super) fn alter_table(target: &RangeVar, objtype: i32, cmds: &[Node]) -> Option<String> {
    let tree = NodeEnum::AlterTableStmt(AlterTableStmt {
        relation: Some(target.clone()),
        cmds: cmds.to_vec(),
        objtype,
        missing_ok: false,
    });
    let text = tree.deparse(DeparseOptions::default()).ok()?;
    let mut again = pg_query::parse(&text, ParserOptions::DEFAULT).ok()?.protobuf.stmts;
    let read = again.pop()?.stmt?.node?;
    (again.is_empty() && placeless(&tree) == placeless(&read)).then_some(text)
}

/// A tree as text, without the places in the source.
fn placeless(tree: &NodeEnum) -> String {
    let mut text = format!("{tree:?}");
    for field in ["location: ", "list_start: ", "list_end: "] {
        let mut parts = text.split(field);
        let mut out = parts.next().unwrap_or("").to_owned();
        for part in parts {
            out.push_str(field);
            out.push_str(part.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit()));
        }
        text = out;
    }
    text
}

/// A column's own constraints, sorted into those that may stay and those that judge its values.
#[derive(Default)]
pub(super) struct Sorted {
    pub stay: Vec<Node>,
    /// As constraints of the table.
    pub judge: Vec<Constraint>,
    pub not_null: bool,
    /// It has a default besides.
    pub default: bool,
}

impl Sorted {
    /// Adds one. None: what it means for the rest is not known.
    pub(super) fn add(&mut self, constraint: &Constraint, name: &str) -> Option<()> {
        use ConstrType as C;
        let key = || vec![node(NodeEnum::String(pg_query::protobuf::String { sval: name.into() }))];
        let mut table = constraint.clone();
        match ConstrType::try_from(constraint.contype).ok()? {
            // An identity is made from what it says later.
            C::ConstrIdentity => {}
            C::ConstrDefault => {
                self.default = true;
                self.stay.push(node(NodeEnum::Constraint(Box::new(table))));
            }
            C::ConstrNull | C::ConstrGenerated => {
                self.stay.push(node(NodeEnum::Constraint(Box::new(table))));
            }
            C::ConstrNotnull if constraint.conname.is_empty() && !constraint.is_no_inherit => {
                self.not_null = true;
            }
            C::ConstrPrimary | C::ConstrUnique => {
                table.keys = key();
                self.judge.push(table);
            }
            C::ConstrForeign => {
                table.fk_attrs = key();
                self.judge.push(table);
            }
            C::ConstrCheck => self.judge.push(table),
            C::ConstrAttrDeferrable => self.judge.last_mut()?.deferrable = true,
            C::ConstrAttrNotDeferrable => self.judge.last_mut()?.deferrable = false,
            C::ConstrAttrDeferred => {
                let last = self.judge.last_mut()?;
                last.deferrable = true;
                last.initdeferred = true;
            }
            C::ConstrAttrImmediate => self.judge.last_mut()?.initdeferred = false,
            _ => return None,
        }
        Some(())
    }
}

/// A sub-command that adds this constraint.
pub(super) fn add_constraint(constraint: Constraint) -> Option<Node> {
    with_definition("ADD CHECK (true)", node(NodeEnum::Constraint(Box::new(constraint))))
}

/// A sub-command that adds this column.
pub(super) fn add_column(command: &AlterTableCmd, column: ColumnDef) -> Node {
    let def = node(NodeEnum::ColumnDef(Box::new(column)));
    node(NodeEnum::AlterTableCmd(Box::new(AlterTableCmd {
        def: Some(Box::new(def)),
        // Where it has come to exist since the catalog was read, an error is better than filling
        // another's column.
        missing_ok: false,
        ..command.clone()
    })))
}

/// The name that the server makes for what belongs to a column: the longer part is cut first.
pub(super) fn object_name(table: &str, column: &str, label: &str) -> String {
    let room = LONGEST_NAME.saturating_sub(label.len() + 2);
    let (mut first, mut second) = (table.len(), column.len());
    while first + second > room {
        if first > second {
            first -= 1;
        } else {
            second -= 1;
        }
    }
    let cut = |name: &str, mut at: usize| -> String {
        while !name.is_char_boundary(at) {
            at -= 1;
        }
        name[..at].to_owned()
    };
    format!("{}_{}_{label}", cut(table, first), cut(column, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_as_the_server_cuts_them() {
        assert_eq!(object_name("t", "c", "seq"), "t_c_seq");
        let (long, short) = ("a".repeat(60), "b".repeat(10));
        let name = object_name(&long, &short, "seq");
        assert_eq!(name, format!("{}_{short}_seq", "a".repeat(48)));
        assert_eq!(name.len(), LONGEST_NAME);
        assert_eq!(object_name(&"ü".repeat(31), "c", "seq").len(), 62);
    }

    #[test]
    fn a_tree_is_the_same_wherever_it_stood() {
        let tree = |text: &str| commands(text).unwrap().remove(0).node.unwrap();
        let (near, far) = (tree("DROP COLUMN a"), tree("  DROP    COLUMN a"));
        assert_eq!(placeless(&near), placeless(&far));
        let (one, other) = (tree("ADD CHECK (a > 1)"), tree("ADD CHECK (a > 2)"));
        assert_ne!(placeless(&one), placeless(&other));
    }
}
