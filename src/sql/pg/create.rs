//! CREATE TABLE and its kin, and what is created and filled by one statement.

use pg_query::protobuf::{
    ColumnDef, ConstrType, Constraint, CreateDomainStmt, CreateStmt, CreateTableAsStmt, IndexStmt,
    IntoClause, ObjectType, OnCommitAction, RangeVar, RefreshMatViewStmt, SelectStmt, Token,
    ViewStmt,
};
use pg_query::{Node, NodeEnum};

use super::catalog::{RelationKind, TypeClass};
use super::effects::Effects;
use super::names::{self, quote};
use super::piece::Piece;
use super::resolve::{Found, Names};
use super::statement::{
    Class, Ddl, Hold, Maintenance, Outside, Refusal, Split, Statement, Touched,
};
use super::walk::Walker;

/// How long a new temporary table lives.
fn temp_hold(on_commit: i32) -> Hold {
    match OnCommitAction::try_from(on_commit) {
        Ok(OnCommitAction::OncommitDrop) => Hold::Transaction,
        _ => Hold::Session,
    }
}

fn new_temp(name: &str, hold: Hold) -> Statement {
    Statement {
        creates_temp: vec![name.to_owned()],
        temp_until_commit: hold == Hold::Transaction,
        ..Statement::temporary(hold)
    }
}

/// CREATE TABLE. Any default is fine: there are no rows yet that it would fill.
pub(super) fn table(names: Names<'_>, create: &CreateStmt) -> Statement {
    let Some(relation) = &create.relation else {
        return Statement::opaque("ddl");
    };
    if names.makes_temp(relation) {
        return new_temp(&relation.relname, temp_hold(create.oncommit));
    }
    let mut walker = Walker::new(names);
    for element in create.table_elts.iter().chain(&create.constraints) {
        match &element.node {
            Some(NodeEnum::ColumnDef(column)) => column_literals(&mut walker, column),
            Some(NodeEnum::Constraint(constraint)) => constraint_literals(&mut walker, constraint),
            Some(NodeEnum::TableLikeClause(like)) => {
                walker.effects.temp |= like.relation.as_ref().is_some_and(|v| names.is_temp(v));
            }
            _ => {}
        }
    }
    if let Some(bound) = &create.partbound {
        partition_literals(&mut walker, bound);
    }
    stored(&walker.effects).unwrap_or_else(|| Statement::ddl(Ddl::default()))
}

/// The refusal of an expression that every backend would store as another constant, or that names
/// what only one session has.
pub(super) fn stored(effects: &Effects) -> Option<Statement> {
    if effects.folded {
        return Some(Statement::refused(
            "ddl",
            Refusal::unsupported(
                "a literal such as 'now' or 'today' becomes a constant when it is stored, on each \
                 backend another one",
                "Write now() or CURRENT_DATE; if the text itself is meant, write 'now'::text.",
            ),
        ));
    }
    effects.temp.then(|| {
        Statement::refused(
            "ddl",
            Refusal::unsupported(
                "a lasting object cannot be made from a temporary table: the followers do not \
                 have it",
                "Create the table with its columns spelled out, then INSERT … SELECT from the \
                 temporary table.",
            ),
        )
    })
}

/// The same of expressions that are stored with an object.
pub(super) fn storing(names: Names<'_>, expressions: &[&Option<Box<Node>>]) -> Option<Statement> {
    let mut walker = Walker::new(names);
    for expression in expressions {
        walker.opt(expression);
    }
    // A function's body may name temporary tables; it is not bound to them.
    stored(&Effects { temp: false, ..walker.effects })
}

/// CREATE DOMAIN.
pub(super) fn domain(names: Names<'_>, domain: &CreateDomainStmt) -> Statement {
    let mut walker = Walker::new(names);
    for node in &domain.constraints {
        if let Some(NodeEnum::Constraint(constraint)) = &node.node {
            constraint_literals(&mut walker, constraint);
        }
    }
    stored(&walker.effects).unwrap_or_else(|| Statement::ddl(Ddl::default()))
}

/// Literals in a column's definition.
pub(super) fn column_literals<'t>(walker: &mut Walker<'_, 't>, column: &'t ColumnDef) {
    let class = column.type_name.as_ref().map(|name| walker.names.type_class(name));
    for node in &column.constraints {
        let Some(NodeEnum::Constraint(constraint)) = &node.node else {
            continue;
        };
        let default = ConstrType::try_from(constraint.contype) == Ok(ConstrType::ConstrDefault);
        let text = constraint.raw_expr.as_deref().and_then(names::string_constant).is_some();
        if default && text && class == Some(TypeClass::Plain) {
            continue;
        }
        constraint_literals(walker, constraint);
    }
}

/// Literals in a constraint.
pub(super) fn constraint_literals<'t>(walker: &mut Walker<'_, 't>, constraint: &'t Constraint) {
    let mut inner = Walker::new(walker.names);
    inner.opt(&constraint.raw_expr);
    inner.opt(&constraint.where_clause);
    walker.effects.folded |= inner.effects.folded;
}

/// Literals in the bounds of a partition.
pub(super) fn partition_literals<'t>(
    walker: &mut Walker<'_, 't>,
    bound: &'t pg_query::protobuf::PartitionBoundSpec,
) {
    let mut inner = Walker::new(walker.names);
    inner.nodes(&bound.listdatums);
    for datum in bound.lowerdatums.iter().chain(&bound.upperdatums) {
        inner.node(datum);
    }
    walker.effects.folded |= inner.effects.folded;
}

/// CREATE VIEW. Over a temporary table it becomes temporary without being asked to.
pub(super) fn view(names: Names<'_>, view: &ViewStmt) -> Statement {
    let Some(relation) = &view.view else {
        return Statement::opaque("ddl");
    };
    let mut walker = Walker::new(names);
    walker.opt(&view.query);
    if walker.effects.temp || names.makes_temp(relation) {
        return new_temp(&relation.relname, Hold::Session);
    }
    stored(&walker.effects).unwrap_or_else(|| Statement::ddl(Ddl::default()))
}

/// CREATE INDEX.
pub(super) fn index(names: Names<'_>, index: &IndexStmt) -> Statement {
    let Some(relation) = &index.relation else {
        return Statement::opaque("ddl");
    };
    if names.is_temp(relation) {
        let creates_temp: Vec<String> =
            (!index.idxname.is_empty()).then(|| index.idxname.clone()).into_iter().collect();
        return Statement { creates_temp, ..Statement::temporary(Hold::Session) };
    }
    let mut walker = Walker::new(names);
    walker.nodes(&index.index_params);
    walker.opt(&index.where_clause);
    stored(&walker.effects).unwrap_or_else(|| {
        if index.concurrent {
            let what = Outside::CreateIndex(names::written(relation));
            Statement::maintenance("ddl", Maintenance::Journaled(what))
        } else {
            Statement::ddl(Ddl::default())
        }
    })
}

/// REFRESH MATERIALIZED VIEW: every backend runs the query itself.
pub(super) fn refresh(names: Names<'_>, refresh: &RefreshMatViewStmt) -> Statement {
    if refresh.skip_data {
        return Statement::ddl(Ddl::default());
    }
    let Some(var) = &refresh.relation else {
        return Statement::opaque("ddl");
    };
    match names.relation(var) {
        Found::Known(view) if view.kind == RelationKind::Materialized => {
            let reads = view.refresh_effects.reads.clone();
            materialized(&view.refresh_effects)
                .unwrap_or_else(|| Statement { reads, ..rows_read() })
        }
        _ => Statement::refused(
            "ddl",
            Refusal::unsupported(
                format!("the materialized view \"{}\" is not known to the proxy yet", var.relname),
                "Refresh it after the transaction that creates it, by its qualified name.",
            ),
        ),
    }
}

fn rows_read() -> Statement {
    Statement::ddl(Ddl { reads_rows: true, ..Ddl::default() })
}

fn materialized(effects: &Effects) -> Option<Statement> {
    if let Some(refusal) = &effects.refused {
        return Some(Statement::refused("ddl", refusal.clone()));
    }
    effects.differs().then(|| {
        Statement::refused(
            "ddl",
            Refusal::unsupported(
                "every backend fills a materialized view itself, and this query could give each \
                 of them other rows",
                "Leave out volatile functions and the clock, give LIMIT and order-dependent \
                 aggregates an ORDER BY, or use a table filled by INSERT … SELECT.",
            ),
        )
    })
}

/// CREATE TABLE AS and CREATE MATERIALIZED VIEW.
pub(super) fn table_as(piece: &Piece<'_, '_>, create: &CreateTableAsStmt) -> Statement {
    let (Some(into), Some(query)) = (&create.into, create.query.as_deref()) else {
        return Statement::opaque("ddl");
    };
    let Some(target) = &into.rel else {
        return Statement::opaque("ddl");
    };
    let mut walker = Walker::new(piece.names);
    let executes = matches!(query.node, Some(NodeEnum::ExecuteStmt(_)));
    if executes {
        walker.effects.anything();
    } else {
        walker.node(query);
    }
    if ObjectType::try_from(create.objtype) == Ok(ObjectType::ObjectMatview) {
        let reads = walker.effects.reads.clone();
        return stored(&walker.effects).unwrap_or_else(|| {
            if into.skip_data {
                return Statement::ddl(Ddl::default());
            }
            materialized(&walker.effects).unwrap_or_else(|| Statement { reads, ..rows_read() })
        });
    }
    if piece.names.makes_temp(target) {
        return temp_as(walker.effects, into, target);
    }
    let exists = matches!(piece.names.relation(target), Found::Known(_));
    if into.skip_data || (create.if_not_exists && exists) {
        return stored(&walker.effects).unwrap_or_else(|| Statement::ddl(Ddl::default()));
    }
    let split = if executes { None } else { cut_table_as(piece, target) };
    filled(piece.names, walker.effects, target, split)
}

/// SELECT … INTO.
pub(super) fn select_into(piece: &Piece<'_, '_>, select: &SelectStmt) -> Statement {
    let mut leftmost = select;
    while let Some(left) = leftmost.larg.as_deref() {
        leftmost = left;
    }
    let target = leftmost.into_clause.as_deref().and_then(|into| Some((into, into.rel.as_ref()?)));
    let Some((into, target)) = target else {
        return Statement::opaque("select");
    };
    let mut walker = Walker::new(piece.names);
    walker.select(select);
    let statement = if piece.names.makes_temp(target) {
        temp_as(walker.effects, into, target)
    } else {
        filled(piece.names, walker.effects, target, cut_select_into(piece, target))
    };
    Statement { tag: "select", ..statement }
}

fn temp_as(mut effects: Effects, into: &IntoClause, target: &RangeVar) -> Statement {
    let hold = temp_hold(into.on_commit);
    effects.on_leader(hold);
    effects.writes = if effects.captured { effects.writes } else { Touched::None };
    let temp = new_temp(&target.relname, hold);
    let statement = effects.into_statement("ddl", false);
    Statement {
        creates_temp: temp.creates_temp,
        temp_until_commit: temp.temp_until_commit,
        ..statement
    }
}

/// A table that is made everywhere and then filled by what the leader's query gives.
fn filled(
    names: Names<'_>,
    effects: Effects,
    target: &RangeVar,
    split: Option<Split>,
) -> Statement {
    if let Some(refusal) = effects.refused {
        return Statement::refused("ddl", refusal);
    }
    // The literal is folded into the rows, and those come from the leader.
    if let Some(refused) = stored(&Effects { folded: false, ..effects.clone() }) {
        return refused;
    }
    let hidden = target.schemaname.is_empty() && names.scope.temp_tables.contains(&target.relname);
    match split {
        Some(split) if !effects.params && !hidden => {
            let ddl = Ddl { split: Some(split), ..Ddl::default() };
            let statement = effects.into_statement("ddl", false);
            Statement { class: Class::Ddl(ddl), writes: Touched::Unknown, ..statement }
        }
        _ => Statement::refused(
            "ddl",
            Refusal::unsupported(
                "this form of CREATE TABLE AS cannot be taken apart into a table and its rows",
                "Write CREATE TABLE with the columns, then INSERT … SELECT.",
            ),
        ),
    }
}

fn target_name(target: &RangeVar) -> String {
    if target.schemaname.is_empty() {
        quote(&target.relname)
    } else {
        format!("{}.{}", quote(&target.schemaname), quote(&target.relname))
    }
}

/// Cuts CREATE TABLE … AS query [WITH DATA] by its tokens.
fn cut_table_as(piece: &Piece<'_, '_>, target: &RangeVar) -> Option<Split> {
    let tokens = piece.tokens()?;
    let as_at = tokens.find(0, Token::As)?;
    let mut last = tokens.len().checked_sub(1)?;
    if tokens.kind(last) == Some(Token::DataP)
        && tokens.kind(last.checked_sub(1)?) == Some(Token::With)
    {
        last = last.checked_sub(2)?;
    }
    let query = tokens.text.get(tokens.range(as_at + 1)?.start..tokens.range(last)?.end)?;
    let head_end = tokens.range(as_at)?.end;
    // Whether it exists was seen in the catalog; if it has come to exist since then, an error is
    // better than filling another's table.
    let exists = (0..as_at)
        .find(|at| tokens.kind(*at) == Some(Token::IfP) && tokens.kind(at + 1) == Some(Token::Not));
    let head = match exists {
        Some(at) => {
            let before = tokens.text.get(..tokens.range(at)?.start)?;
            let after = tokens.text.get(tokens.range(at + 2)?.end..head_end)?;
            format!("{before}{}", after.trim_start())
        }
        None => tokens.text.get(..head_end)?.to_owned(),
    };
    Some(Split {
        create: format!("{head} {query} WITH NO DATA"),
        fill: format!("INSERT INTO {} {query}", target_name(target)),
        verb: "SELECT",
    })
}

/// Cuts `INTO [TABLE] name` out of a SELECT by its tokens.
fn cut_select_into(piece: &Piece<'_, '_>, target: &RangeVar) -> Option<Split> {
    let tokens = piece.tokens()?;
    let position = usize::try_from(target.location).ok()? + piece.base;
    let position = position.checked_sub(piece.range.start)?;
    let name_at =
        (0..tokens.len()).find(|at| tokens.range(*at).is_some_and(|r| r.start == position))?;
    let into_at = (0..name_at).rev().find(|at| tokens.kind(*at) == Some(Token::Into))?;
    let mut name_end = name_at;
    while tokens.kind(name_end + 1) == Some(Token::Ascii46) {
        name_end += 2;
    }
    let end = tokens.range(tokens.len().checked_sub(1)?)?.end;
    let before = tokens.text.get(..tokens.range(into_at)?.start)?.trim_end();
    let after = tokens.text.get(tokens.range(name_end)?.end..end)?;
    let name = target_name(target);
    let unlogged = if target.relpersistence == "u" { "UNLOGGED " } else { "" };
    Some(Split {
        create: format!("CREATE {unlogged}TABLE {name} AS {before}{after} WITH NO DATA"),
        fill: format!("INSERT INTO {name} {before}{after}"),
        verb: "SELECT",
    })
}

/// Whether any of the relations named is temporary, and whether all are.
pub(super) fn temps(names: Names<'_>, nodes: &[Node]) -> (bool, bool) {
    let temp = |node: &&Node| match &node.node {
        Some(NodeEnum::RangeVar(var)) => names.is_temp(var),
        _ => false,
    };
    let count = nodes.iter().filter(temp).count();
    (count > 0, count == nodes.len() && count > 0)
}
