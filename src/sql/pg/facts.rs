//! What the expressions and queries stored in the database do: defaults, CHECK constraints,
//! policies, views, function bodies.

use std::collections::{HashMap, HashSet};

use pg_query::protobuf::{ParseResult, node};
use pg_query::{Node, NodeEnum};

use super::catalog::{Catalog, Column, DefaultKind, Relation, RelationKind, Triggers, TypeClass};
use super::determine::Proof;
use super::effects::{Effects, Volatility};
use super::names;
use super::resolve::Names;
use super::rows::{Numbers, Rows, by_number, find_type, table, text, value};
use super::scope::Scope;
use super::statement::{Hold, Sequences};
use super::walk::Walker;

/// The server's own texts name everything by schema, but for its own.
fn server_scope() -> Scope {
    Scope { search_path: Some(vec!["pg_catalog".to_owned()]), ..Scope::default() }
}

/// Fills in the effects of all that is stored.
pub(super) fn fill(
    catalog: &mut Catalog,
    rows: &Rows<'_>,
    numbers: &Numbers,
) -> Result<(), String> {
    domains(catalog, rows)?;
    defaults(catalog, rows, numbers)?;
    checks(catalog, rows, numbers)?;
    queries(catalog, rows, numbers)
}

/// A stored text, parsed. None: it nests too deeply to be read.
struct Stored(Option<ParseResult>);

impl Stored {
    fn expression(text: &str) -> Self {
        Self(pg_query::parse(&format!("SELECT {text}"), 0).ok().map(|parsed| parsed.protobuf))
    }

    fn query(text: &str) -> Self {
        Self(pg_query::parse(text, 0).ok().map(|parsed| parsed.protobuf))
    }

    fn root(&self) -> Option<&Node> {
        self.0.as_ref()?.stmts.first()?.stmt.as_deref()
    }

    /// The one expression of a SELECT.
    fn value(&self) -> Option<&Node> {
        let Some(node::Node::SelectStmt(select)) = self.root()?.node.as_ref() else {
            return None;
        };
        match select.target_list.first()?.node.as_ref()? {
            NodeEnum::ResTarget(target) => target.val.as_deref(),
            _ => None,
        }
    }

    fn effects(&self, catalog: &Catalog, scope: &Scope) -> Effects {
        let mut walker = Walker::new(Names { catalog, scope });
        walker.trusted = true;
        match self.root() {
            Some(node) => walker.node(node),
            None => walker.effects.anything(),
        }
        walker.effects
    }

    fn holds(&self, catalog: &Catalog, scope: &Scope, table: Option<&Relation>) -> bool {
        let proof = Proof { names: Names { catalog, scope }, table, alias: "" };
        self.value().is_some_and(|value| proof.holds(value))
    }
}

/// What a default expression gives, and what computing it does.
fn default_kind(catalog: &Catalog, scope: &Scope, expression: &str) -> (DefaultKind, Effects) {
    let stored = Stored::expression(expression);
    let literal = match stored.value().map(|value| &value.node) {
        // The server printed a constant that it keeps: whatever its type is, it was read long ago.
        Some(Some(NodeEnum::TypeCast(cast))) => cast.arg.as_deref().is_some_and(|arg| {
            matches!(&arg.node, Some(NodeEnum::AConst(_)))
                && cast.type_name.as_ref().is_some_and(|name| {
                    !names::qualified(&name.names).is_some_and(|(_, n)| n.starts_with("reg"))
                })
        }),
        Some(Some(NodeEnum::AConst(_))) => true,
        _ => false,
    };
    if literal || stored.holds(catalog, scope, None) {
        return (DefaultKind::Constant, Effects::default());
    }
    let effects = stored.effects(catalog, scope);
    let kind = match (&effects.sequences, effects.volatility) {
        (Sequences::Named(_) | Sequences::Any, _) => DefaultKind::Sequence,
        (Sequences::None, Volatility::Volatile) => DefaultKind::Volatile,
        _ => DefaultKind::Stable,
    };
    (kind, effects)
}

fn domains(catalog: &mut Catalog, rows: &Rows<'_>) -> Result<(), String> {
    let scope = server_scope();
    let mut checks: Vec<(String, Stored)> = Vec::new();
    for row in table(rows, "checks", 3)? {
        if value(row, 1).is_some_and(|domain| domain != "0") {
            checks.push((text(row, 1), Stored::expression(&text(row, 2))));
        }
    }
    for row in table(rows, "types", 8)? {
        let (schema, name) = (text(row, 1), text(row, 2));
        let default = value(row, 7).map(|text| default_kind(catalog, &scope, text));
        let Some(kind) = find_type(catalog, &schema, &name) else {
            continue;
        };
        let class = kind.class;
        if let Some((kind_of_default, effects)) = default {
            kind.default = kind_of_default;
            kind.default_sequences = effects.sequences;
        }
        for (_, check) in checks.iter().filter(|(domain, _)| *domain == text(row, 0)) {
            let plain = check.holds(catalog, &scope, Some(&value_row(class)));
            let effects = check.effects(catalog, &scope);
            if let Some(kind) = find_type(catalog, &schema, &name) {
                kind.effects.merge(&effects);
                if !plain {
                    kind.class = TypeClass::Other;
                }
            }
        }
    }
    Ok(())
}

/// The one value that a domain's condition speaks of.
fn value_row(class: TypeClass) -> Relation {
    let column = Column {
        name: "value".to_owned(),
        class,
        type_name: String::new(),
        not_null: false,
        default: DefaultKind::None,
        generated: false,
        portable: false,
        draws: None,
    };
    Relation {
        schema: String::new(),
        full: String::new(),
        quoted: String::new(),
        kind: RelationKind::Other,
        columns: vec![column],
        keys: Vec::new(),
        triggers: Triggers::default(),
        trigger_hold: Hold::Statement,
        rules: false,
        row_security: false,
        row_security_forced: false,
        readers_write: false,
        owner: String::new(),
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
    }
}

fn defaults(catalog: &mut Catalog, rows: &Rows<'_>, numbers: &Numbers) -> Result<(), String> {
    let scope = server_scope();
    let mut steps = HashMap::new();
    for row in table(rows, "sequences", 2)? {
        steps.insert(text(row, 0), value(row, 1).and_then(|step| step.parse::<i64>().ok()));
    }
    for row in table(rows, "columns", 9)? {
        let domain = catalog.types.get(&text(row, 3)).and_then(|kinds| {
            kinds.iter().find(|kind| Some(kind.schema.as_str()) == value(row, 2))
        });
        // A column of a domain may be of another class now, for the domain's conditions.
        let class = domain.map(|kind| kind.class);
        let (kind, mut effects) = match (value(row, 5), domain) {
            // The text of a generated column is no default.
            _ if value(row, 7).is_some_and(|how| !how.is_empty()) => {
                (DefaultKind::Constant, Effects::default())
            }
            (Some(expression), _) => default_kind(catalog, &scope, expression),
            (None, Some(domain)) => {
                let sequences = domain.default_sequences.clone();
                (domain.default.clone(), Effects { sequences, ..Effects::default() })
            }
            (None, None) => (DefaultKind::None, Effects::default()),
        };
        let identity = value(row, 6).is_some_and(|how| !how.is_empty());
        if let (true, Some(sequence)) = (identity, value(row, 8)) {
            effects.sequences.add(sequence);
        }
        let drawn = match &effects.sequences {
            Sequences::Named(names) if identity || value(row, 5).is_some_and(is_bare_draw) => {
                match names.as_slice() {
                    [only] => steps.get(only).copied().flatten().map(|step| (only.clone(), step)),
                    _ => None,
                }
            }
            _ => None,
        };
        // It is captured anyway: what counts is what else happens.
        let Some(relation) = by_number(catalog, numbers, &text(row, 0)) else {
            continue;
        };
        relation.default_effects.merge(&effects);
        let name = text(row, 1);
        if let Some(column) = relation.columns.iter_mut().find(|column| column.name == name) {
            column.default = if identity { DefaultKind::Sequence } else { kind };
            column.class = class.unwrap_or(column.class);
            column.draws = drawn;
        }
    }
    Ok(())
}

/// Whether a default is nothing but the next value of one sequence.
fn is_bare_draw(expression: &str) -> bool {
    let inner =
        expression.strip_prefix("nextval('").and_then(|rest| rest.strip_suffix("'::regclass)"));
    inner.is_some_and(|name| !name.contains("'::regclass"))
}

fn checks(catalog: &mut Catalog, rows: &Rows<'_>, numbers: &Numbers) -> Result<(), String> {
    let scope = server_scope();
    for row in table(rows, "checks", 3)? {
        let number = text(row, 0);
        let Some(relation) = by_number(catalog, numbers, &number).map(|relation| relation.clone())
        else {
            continue;
        };
        let stored = Stored::expression(&text(row, 2));
        let plain = stored.holds(catalog, &scope, Some(&relation));
        let effects = stored.effects(catalog, &scope);
        if let Some(relation) = by_number(catalog, numbers, &number) {
            relation.plain_checks &= plain;
            relation.check_effects.merge(&effects);
        }
    }
    Ok(())
}

/// Views and policies, which may speak of each other: until nothing changes any more.
fn queries(catalog: &mut Catalog, rows: &Rows<'_>, numbers: &Numbers) -> Result<(), String> {
    let scope = server_scope();
    let mut stored: Vec<(String, Stored)> = Vec::new();
    for row in table(rows, "views", 2)? {
        stored.push((text(row, 0), Stored::query(&text(row, 1))));
    }
    for row in table(rows, "policies", 3)? {
        for at in [1, 2] {
            if let Some(condition) = value(row, at) {
                stored.push((text(row, 0), Stored::expression(condition)));
            }
        }
    }
    // Effects only grow and each round carries them one view further.
    for _ in 0..=stored.len() {
        let mut changed = false;
        for (number, query) in &stored {
            let effects = query.effects(catalog, &scope);
            let Some(relation) = by_number(catalog, numbers, number) else {
                continue;
            };
            let target = match relation.kind {
                // Reading it reads what was stored; filling it again runs the query.
                RelationKind::Materialized => &mut relation.refresh_effects,
                _ => &mut relation.read_effects,
            };
            let before = target.clone();
            target.merge(&effects);
            changed |= *target != before;
        }
        if !changed {
            break;
        }
    }
    Ok(())
}

/// What the bodies of functions may leave in the server session.
///
/// A body in SQL or PL/pgSQL that never speaks of session state, runs no text made at run time and
/// calls none that does leaves nothing. Every other language can do anything.
pub(super) fn function_holds(rows: &[Vec<Option<String>>]) -> Vec<Hold> {
    let bodies: Vec<Option<Vec<String>>> = rows
        .iter()
        .map(|row| match value(row, 6) {
            Some("sql" | "plpgsql") => value(row, 7).map(words),
            _ => None,
        })
        .collect();
    let mut holds: Vec<bool> =
        bodies.iter().map(|body| body.as_deref().is_none_or(leaves_state)).collect();
    loop {
        let pinning: HashSet<String> = rows
            .iter()
            .zip(&holds)
            .filter(|(_, held)| **held)
            .filter_map(|(row, _)| value(row, 1).map(str::to_lowercase))
            .collect();
        let before = holds.iter().filter(|held| **held).count();
        for (held, body) in holds.iter_mut().zip(&bodies) {
            *held |=
                body.as_ref().is_some_and(|words| words.iter().any(|word| pinning.contains(word)));
        }
        if holds.iter().filter(|held| **held).count() == before {
            break;
        }
    }
    holds.into_iter().map(|held| if held { Hold::Session } else { Hold::Statement }).collect()
}

/// The volatility that a function was declared with, or the worse one that its body gives away: a
/// read-only function may still move a sequence or read the clock.
pub(super) fn honest_volatility(row: &[Option<String>]) -> Volatility {
    let declared = Volatility::from_letter(&text(row, 2));
    let (Some("sql" | "plpgsql"), Some(body)) = (value(row, 6), value(row, 7)) else {
        return declared;
    };
    let found = words(body)
        .iter()
        .map(|word| match word.as_str() {
            "nextval" | "setval" | "set_config" | "pg_notify" | "setseed" | "random"
            | "clock_timestamp" | "timeofday" | "gen_random_uuid" => Volatility::Volatile,
            "now" | "current_timestamp" | "current_date" | "current_time" | "localtime"
            | "localtimestamp" | "current_user" | "session_user" | "current_setting"
            | "txid_current" => Volatility::Stable,
            word if word.contains("advisory") || word.starts_with("dblink") => Volatility::Volatile,
            _ => Volatility::Immutable,
        })
        .max();
    declared.max(found.unwrap_or_default())
}

/// The words of a body in lower case, comments left out, `;` as a word of its own.
fn words(body: &str) -> Vec<String> {
    let mut plain = String::with_capacity(body.len());
    let mut rest = body;
    loop {
        let line = rest.find("--").unwrap_or(rest.len());
        let block = rest.find("/*").unwrap_or(rest.len());
        let at = line.min(block);
        plain.push_str(&rest[..at]);
        plain.push(' ');
        if at == rest.len() {
            break;
        }
        let end = if line < block { "\n" } else { "*/" };
        rest = rest[at..].find(end).map_or("", |skip| &rest[at + skip + end.len()..]);
    }
    let lower = plain.to_lowercase().replace(';', " ; ");
    lower
        .split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ';')))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What an anonymous block in PL/pgSQL may leave in the server session.
pub(super) fn block_hold(catalog: &Catalog, body: &str) -> Hold {
    let words = words(body);
    let calls = words
        .iter()
        .flat_map(|word| catalog.functions.get(word).into_iter().flatten())
        .any(|function| function.hold == Hold::Session);
    if calls || leaves_state(&words) { Hold::Session } else { Hold::Statement }
}

fn leaves_state(words: &[String]) -> bool {
    let mut before = "begin";
    for word in words {
        let starts = matches!(before, ";" | "begin" | "then" | "else" | "loop");
        let speaks = matches!(
            word.as_str(),
            "temp"
                | "temporary"
                | "set_config"
                | "listen"
                | "unlisten"
                | "prepare"
                | "deallocate"
                | "discard"
                | "execute"
                | "setseed"
                | "pg_temp"
        ) || word.contains("advisory")
            || word.starts_with("dblink")
            || (starts && matches!(word.as_str(), "set" | "reset"));
        if speaks {
            return true;
        }
        before = word;
    }
    false
}
