//! Builds the catalog from what a backend says about itself.

use std::collections::HashMap;

use super::catalog::{
    Catalog, Column, DefaultKind, Function, Operator, Reference, Relation, RelationKind, Triggers,
    TypeClass, UserType,
};
use super::effects::{Effects, Volatility};
use super::facts;
use super::judge::Entry;
use super::queries::QUERIES;
use super::resolve::builtin_type;
use super::rows::{Numbers, Rows, by_number, count, find_type, flag, table, text, value};
use super::statement::{Hold, Sequences};

impl Catalog {
    /// What to ask a backend: name and text, to be run with `search_path = pg_catalog`, every
    /// column as text.
    pub fn queries() -> &'static [(&'static str, &'static str)] {
        QUERIES
    }

    /// Builds the catalog from the answers to [`Catalog::queries`], by name.
    ///
    /// A query that was not asked, or a row of another shape, is an error: a catalog that lacks
    /// half of what it should know would take writes for reads.
    pub fn from_rows(rows: &Rows<'_>) -> Result<Self, String> {
        let casts = table(rows, "casts", 1)?;
        let mut catalog = Self {
            system: table(rows, "system", 1)?.iter().map(|row| text(row, 0)).collect(),
            wild_casts: casts.iter().any(|row| value(row, 0) == Some("v")),
            loose_casts: !casts.is_empty(),
            deferrable: !table(rows, "deferrable", 1)?.is_empty(),
            roles: roles(rows)?,
            ..Self::default()
        };
        functions(&mut catalog, rows)?;
        for row in table(rows, "operators", 4)? {
            let operator = Operator {
                plain: Volatility::from_letter(&text(row, 1)),
                user: Volatility::from_letter(&text(row, 2)),
                shadowing: flag(row, 3),
            };
            catalog.operators.insert(text(row, 0), operator);
        }
        types(&mut catalog, rows)?;
        let numbers = relations(&mut catalog, rows)?;
        inheritance(&mut catalog, rows, &numbers)?;
        references(&mut catalog, rows, &numbers)?;
        triggers(&mut catalog, rows, &numbers)?;
        facts::fill(&mut catalog, rows, &numbers)?;
        reach(&mut catalog);
        Ok(catalog)
    }
}

fn roles(rows: &Rows<'_>) -> Result<HashMap<String, Entry>, String> {
    let entry = |row: &Vec<Option<String>>| match value(row, 2).map(str::parse) {
        _ if !flag(row, 1) => Entry::Closed,
        Some(Ok(until)) => Entry::Until(until),
        _ => Entry::Open,
    };
    Ok(table(rows, "roles", 3)?.iter().map(|row| (text(row, 0), entry(row))).collect())
}

fn functions(catalog: &mut Catalog, rows: &Rows<'_>) -> Result<(), String> {
    for row in table(rows, "builtins", 6)? {
        let function = Function {
            schema: "pg_catalog".to_owned(),
            volatility: Volatility::from_letter(&text(row, 1)),
            builtin: true,
            extension: String::new(),
            takes_time: flag(row, 2),
            scalar: flag(row, 3),
            hold: Hold::Statement,
            args: count(row, 4)..=count(row, 5),
        };
        catalog.functions.entry(text(row, 0)).or_default().push(function);
    }
    let users = table(rows, "functions", 10)?;
    let holds = facts::function_holds(users);
    for (row, hold) in users.iter().zip(holds) {
        let function = Function {
            schema: text(row, 0),
            volatility: facts::honest_volatility(row),
            builtin: false,
            extension: text(row, 3),
            takes_time: flag(row, 4),
            scalar: flag(row, 5),
            hold,
            args: count(row, 8)..=count(row, 9),
        };
        catalog.functions.entry(text(row, 1)).or_default().push(function);
    }
    Ok(())
}

/// User types: enums and base types are plain where their input is immutable, domains and arrays as
/// far as what is below them.
fn types(catalog: &mut Catalog, rows: &Rows<'_>) -> Result<(), String> {
    let rows = table(rows, "types", 8)?;
    for row in rows {
        let input = Volatility::from_letter(&text(row, 6));
        let class = match value(row, 3) {
            Some("e") => TypeClass::Plain,
            Some("b") if input == Volatility::Immutable => TypeClass::Plain,
            _ => TypeClass::Other,
        };
        let mut effects = Effects::default();
        if input == Volatility::Volatile {
            effects.anything();
        }
        let kind = UserType {
            schema: text(row, 1),
            class,
            effects,
            default: DefaultKind::None,
            default_sequences: Sequences::None,
        };
        catalog.types.entry(text(row, 2)).or_default().push(kind);
    }
    // A type can only be made from types that are there: the chain is as long as it was declared.
    for _ in 0..rows.len().min(32) {
        let mut changed = false;
        for row in rows.iter().filter(|row| matches!(value(row, 3), Some("a" | "d"))) {
            let below = match value(row, 4) {
                Some("pg_catalog") => builtin_type(&text(row, 5)),
                schema => find_type(catalog, schema.unwrap_or(""), &text(row, 5))
                    .map_or(TypeClass::Other, |kind| kind.class),
            };
            if let Some(kind) = find_type(catalog, &text(row, 1), &text(row, 2))
                && kind.class != below
            {
                kind.class = below;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    Ok(())
}

fn relations(catalog: &mut Catalog, rows: &Rows<'_>) -> Result<Numbers, String> {
    let mut numbers = Numbers::new();
    for row in table(rows, "relations", 10)? {
        let (schema, name) = (text(row, 1), text(row, 2));
        let kind = match value(row, 4) {
            Some("r") => RelationKind::Table,
            Some("p") => RelationKind::Partitioned,
            Some("v") => RelationKind::View,
            Some("m") => RelationKind::Materialized,
            Some("f") => RelationKind::Foreign,
            Some("S") => RelationKind::Sequence,
            _ => RelationKind::Other,
        };
        let relation = Relation {
            full: format!("{schema}.{name}"),
            schema,
            quoted: text(row, 3),
            kind,
            columns: Vec::new(),
            keys: Vec::new(),
            triggers: Triggers::default(),
            trigger_hold: Hold::Statement,
            rules: flag(row, 6),
            row_security: flag(row, 5),
            row_security_forced: flag(row, 7),
            readers_write: flag(row, 9),
            owner: text(row, 8),
            plain_checks: true,
            descendants: Vec::new(),
            referenced: Vec::new(),
            reach: Vec::new(),
            reach_hidden: false,
            insert_hidden: false,
            read_effects: Effects::default(),
            refresh_effects: Effects::default(),
            check_effects: Effects::default(),
            default_effects: Effects::default(),
        };
        let same = catalog.relations.entry(name.clone()).or_default();
        numbers.insert(text(row, 0), (name, same.len()));
        same.push(relation);
    }
    for row in table(rows, "columns", 9)? {
        let (schema, type_name) = (text(row, 2), text(row, 3));
        let class = match schema.as_str() {
            "pg_catalog" => builtin_type(&type_name),
            _ => {
                find_type(catalog, &schema, &type_name).map_or(TypeClass::Other, |kind| kind.class)
            }
        };
        let portable = schema == "pg_catalog" && is_portable(&type_name);
        let column = Column {
            name: text(row, 1),
            class,
            type_name,
            not_null: flag(row, 4),
            default: DefaultKind::None,
            portable,
            draws: None,
            generated: value(row, 7).is_some_and(|how| !how.is_empty()),
        };
        if let Some(relation) = by_number(catalog, &numbers, &text(row, 0)) {
            relation.columns.push(column);
        }
    }
    keys(catalog, rows, &numbers)?;
    Ok(numbers)
}

/// Types of PostgreSQL's own whose binary form holds the value and nothing else: no number of an
/// object, which is another one on every server, and no setting.
const PORTABLE: [&str; 31] = [
    "bit",
    "bool",
    "bpchar",
    "bytea",
    "char",
    "cidr",
    "circle",
    "date",
    "float4",
    "float8",
    "inet",
    "int2",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "point",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "uuid",
    "varbit",
    "varchar",
];

/// Whether values of this type of PostgreSQL's own, or of an array of it, may travel in binary form.
fn is_portable(type_name: &str) -> bool {
    let element = type_name.strip_prefix('_').unwrap_or(type_name);
    PORTABLE.contains(&element)
}

fn keys(catalog: &mut Catalog, rows: &Rows<'_>, numbers: &Numbers) -> Result<(), String> {
    let rows = table(rows, "keys", 5)?;
    for index in rows.chunk_by(|a, b| a.get(1) == b.get(1)) {
        let Some(relation) =
            index.first().and_then(|row| by_number(catalog, numbers, &text(row, 0)))
        else {
            continue;
        };
        let columns: Vec<String> = index.iter().map(|row| text(row, 3)).collect();
        let usable = index.iter().all(|row| flag(row, 4))
            && columns.iter().all(|name| relation.column(name).is_some_and(|c| c.not_null));
        if usable {
            relation.keys.push(columns);
        }
    }
    Ok(())
}

fn inheritance(catalog: &mut Catalog, rows: &Rows<'_>, numbers: &Numbers) -> Result<(), String> {
    let mut children: HashMap<String, Vec<String>> = HashMap::new();
    for row in table(rows, "inherits", 2)? {
        children.entry(text(row, 0)).or_default().push(text(row, 1));
    }
    for parent in children.keys() {
        let mut found = Vec::new();
        let mut open = vec![parent.as_str()];
        while let Some(next) = open.pop() {
            for child in children.get(next).into_iter().flatten() {
                if !found.contains(&child.as_str()) {
                    found.push(child);
                    open.push(child);
                }
            }
        }
        let mut names = Vec::new();
        for child in found {
            names.extend(by_number(catalog, numbers, child).map(|relation| relation.full.clone()));
        }
        names.sort();
        if let Some(relation) = by_number(catalog, numbers, parent) {
            relation.descendants = names;
        }
    }
    Ok(())
}

fn references(catalog: &mut Catalog, rows: &Rows<'_>, numbers: &Numbers) -> Result<(), String> {
    let rows = table(rows, "references", 6)?;
    for key in rows.chunk_by(|a, b| a.first() == b.first()) {
        let Some(first) = key.first() else { continue };
        let child = by_number(catalog, numbers, &text(first, 2)).map(|table| table.full.clone());
        let reference = Reference {
            columns: key.iter().map(|row| text(row, 5)).collect(),
            on_delete: flag(first, 3),
            on_update: flag(first, 4),
            child: child.unwrap_or_default(),
        };
        if let Some(relation) = by_number(catalog, numbers, &text(first, 1)) {
            relation.referenced.push(reference);
        }
    }
    Ok(())
}

fn triggers(catalog: &mut Catalog, rows: &Rows<'_>, numbers: &Numbers) -> Result<(), String> {
    for row in table(rows, "triggers", 4)? {
        let (schema, name) = (text(row, 1), text(row, 2));
        let hold = catalog
            .functions
            .get(&name)
            .into_iter()
            .flatten()
            .filter(|function| function.schema == schema && !function.builtin)
            .map(|function| function.hold)
            .max()
            .unwrap_or(Hold::Statement);
        if let Some(relation) = by_number(catalog, numbers, &text(row, 0)) {
            // What is not understood fires on everything.
            let bits = value(row, 3).and_then(|bits| bits.parse().ok()).unwrap_or(u32::MAX);
            relation.triggers.add(bits);
            relation.trigger_hold = relation.trigger_hold.max(hold);
        }
    }
    Ok(())
}

/// What a change of a row may reach: partitions, inheriting tables, cascades, and theirs in turn.
fn reach(catalog: &mut Catalog) {
    struct Node {
        next: Vec<String>,
        hidden: bool,
        hold: Hold,
    }
    let graph: HashMap<String, Node> = catalog
        .relations
        .values()
        .flatten()
        .map(|relation| {
            let children = relation.referenced.iter().map(|reference| reference.child.clone());
            let node = Node {
                next: relation.descendants.iter().cloned().chain(children).collect(),
                hidden: relation.triggers.any_row() || relation.rules,
                hold: relation.trigger_hold,
            };
            (relation.full.clone(), node)
        })
        .collect();
    for relation in catalog.relations.values_mut().flatten() {
        let mut found: Vec<String> = Vec::new();
        let mut open = vec![relation.full.clone()];
        while let Some(next) = open.pop() {
            for child in graph.get(&next).into_iter().flat_map(|node| &node.next) {
                if *child != relation.full && !found.contains(child) {
                    found.push(child.clone());
                    open.push(child.clone());
                }
            }
        }
        found.sort();
        for child in &found {
            let Some(node) = graph.get(child) else {
                continue;
            };
            relation.reach_hidden |= node.hidden;
            relation.insert_hidden |= node.hidden && relation.descendants.contains(child);
            relation.trigger_hold = relation.trigger_hold.max(node.hold);
        }
        relation.reach = found;
    }
}
