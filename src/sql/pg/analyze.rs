//! From a client's string to its classes.

use std::ops::Range;

use pg_query::protobuf::{
    ExecuteStmt, ExplainStmt, LockWaitPolicy, PrepareStmt, SelectStmt, Token,
};
use pg_query::{Node, NodeEnum, ParserOptions};

use super::catalog::{Catalog, TypeClass};
use super::determine::Proof;
use super::drawn;
use super::effects::{Effects, Volatility};
use super::functions;
use super::judge::{Entry, Judge};
use super::names;
use super::piece::Piece;
use super::resolve::Names;
use super::scope::{ParseError, Scope};
use super::statement::{
    Class, Hold, Maintenance, Refusal, Script, Sequences, SetOp, Statement, Touched,
};
use super::walk::Walker;
use super::{copy, create, ddl, keyed, own, returned, session};

/// Before a read: it is to run on the leader.
const LEADER_HINT: &str = "/*NO LOAD BALANCE*/";

impl Judge for Catalog {
    fn judge(&self, sql: &str, scope: &Scope) -> Result<Script, ParseError> {
        analyze(sql, self, scope)
    }

    fn checks_late(&self) -> bool {
        self.deferrable
    }

    fn entry(&self, role: &str) -> Entry {
        self.roles.get(role).copied().unwrap_or(Entry::Unknown)
    }
}

/// Cuts a client's string into statements and classifies each.
pub fn analyze(text: &str, catalog: &Catalog, scope: &Scope) -> Result<Script, ParseError> {
    let names = Names { catalog, scope };
    let parsed = match parse(text, scope) {
        Ok(parsed) => parsed,
        Err(error) => return deep(text, names).ok_or(error),
    };
    let mut statements = Vec::with_capacity(parsed.len());
    for raw in &parsed {
        let Some(node) = raw.stmt.as_deref().and_then(|stmt| stmt.node.as_ref()) else {
            continue;
        };
        let range = range_of(text, raw.stmt_location, raw.stmt_len);
        statements.push(statement(Piece { names, text, range, base: 0 }, node));
    }
    Ok(Script { statements })
}

fn parse(text: &str, scope: &Scope) -> Result<Vec<pg_query::protobuf::RawStmt>, ParseError> {
    let options = if scope.standard_conforming_strings {
        ParserOptions::DEFAULT
    } else {
        ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS
    };
    match pg_query::parse(text, options) {
        Ok(parsed) => Ok(parsed.protobuf.stmts),
        Err(error) => Err(ParseError { message: error.to_string(), position: None }),
    }
}

/// The bytes of a statement without the white space around it. A length of zero is "to the end".
fn range_of(text: &str, location: i32, len: i32) -> Range<usize> {
    let start = usize::try_from(location).unwrap_or(0).min(text.len());
    let end = match usize::try_from(len) {
        Ok(len) if len > 0 => (start + len).min(text.len()),
        _ => text.len(),
    };
    let Some(piece) = text.get(start..end) else {
        return 0..text.len();
    };
    let trimmed = piece.trim_start();
    let start = end - trimmed.len();
    start..start + trimmed.trim_end().len()
}

/// Classifies one statement and gives it its place.
pub(super) fn statement(piece: Piece<'_, '_>, node: &NodeEnum) -> Statement {
    let range = piece.range.clone();
    let mut statement = classify(&piece, node);
    if statement.class == Class::Read && wants_leader(&piece) {
        statement.class = Class::LeaderRead { hold: Hold::Statement };
    }
    Statement { range, ..statement }
}

/// Whether a statement comes behind the hint that its users know from pgpool.
fn wants_leader(piece: &Piece<'_, '_>) -> bool {
    let before = piece.text.get(..piece.range.start).unwrap_or_default().trim_end();
    let hint = before.len().checked_sub(LEADER_HINT.len()).and_then(|at| before.get(at..));
    hint.is_some_and(|hint| hint.eq_ignore_ascii_case(LEADER_HINT))
}

fn classify(piece: &Piece<'_, '_>, node: &NodeEnum) -> Statement {
    let names = piece.names;
    match node {
        NodeEnum::SelectStmt(select) => top_select(piece, select),
        NodeEnum::InsertStmt(_)
        | NodeEnum::UpdateStmt(_)
        | NodeEnum::DeleteStmt(_)
        | NodeEnum::MergeStmt(_) => modify(piece, node),
        NodeEnum::CopyStmt(stmt) => copy::copy(names, stmt),
        NodeEnum::ExplainStmt(explain) => self::explain(piece, explain),
        NodeEnum::PrepareStmt(prepare) => self::prepare(piece, prepare),
        NodeEnum::ExecuteStmt(execute) => self::execute(names, execute),
        NodeEnum::DeallocateStmt(stmt) => {
            let name = (!stmt.name.is_empty()).then(|| stmt.name.clone());
            Statement::new("deallocate", Class::Deallocate(name))
        }
        NodeEnum::TransactionStmt(tx) => session::transaction(tx),
        NodeEnum::VariableSetStmt(set) => session::set(set),
        NodeEnum::VariableShowStmt(show) => session::show(show),
        NodeEnum::ConstraintsSetStmt(_) => Statement::new("set", Class::Set(SetOp::Constraints)),
        NodeEnum::DiscardStmt(discard) => session::discard(discard),
        NodeEnum::DeclareCursorStmt(declare) => session::declare(names, declare),
        NodeEnum::FetchStmt(fetch) => session::fetch(fetch),
        NodeEnum::ClosePortalStmt(close) => session::close(&close.portalname),
        NodeEnum::LockStmt(lock) => session::lock(names, &lock.relations),
        NodeEnum::ListenStmt(listen) => {
            Statement::new("listen", Class::Listen(listen.conditionname.clone()))
        }
        NodeEnum::UnlistenStmt(unlisten) => {
            let name = &unlisten.conditionname;
            let channel = (!name.is_empty() && name != "*").then(|| name.clone());
            Statement::new("unlisten", Class::Unlisten(channel))
        }
        NodeEnum::NotifyStmt(_) => Statement::new("notify", Class::Notify),
        NodeEnum::CallStmt(call) => {
            let mut walker = Walker::new(names);
            if let Some(function) = &call.funccall {
                walker.call(function);
            }
            // A procedure may do what its volatility does not say.
            walker.effects.unknown_rows();
            walker.effects.into_statement("call", true)
        }
        NodeEnum::DoStmt(stmt) => ddl::inline_code(names, stmt),
        NodeEnum::CheckPointStmt(_) => {
            Statement::maintenance("checkpoint", Maintenance::Everywhere)
        }
        _ => ddl::classify(piece, node),
    }
}

fn top_select(piece: &Piece<'_, '_>, select: &SelectStmt) -> Statement {
    if into_clause(select) {
        return create::select_into(piece, select);
    }
    if let Some(question) = own::select(select) {
        return question;
    }
    let mut walker = Walker::new(piece.names);
    walker.select(select);
    let set_config = functions::bare_set_config(select);
    if set_config.is_some() && walker.effects.refused.is_none() {
        // The proxy does the same to the other connections of the session: nothing to hold on to.
        walker.effects.hold = Hold::Statement;
    }
    let relocks = relocks(select, &walker.effects);
    let statement = finish(piece.names, walker, "select", true);
    let refused = matches!(statement.class, Class::Refused(_));
    let drawn = drawn::bare(piece.names, select).filter(|_| !refused).map(Box::new);
    Statement { set_config: set_config.filter(|_| !refused), drawn, relocks, ..statement }
}

/// Whether a locking read of one table looks at each row by itself.
fn relocks(select: &SelectStmt, effects: &Effects) -> bool {
    let [Node { node: Some(NodeEnum::RangeVar(_)) }] = select.from_clause.as_slice() else {
        return false;
    };
    let skips = |node: &Node| match &node.node {
        Some(NodeEnum::LockingClause(clause)) => {
            clause.wait_policy == LockWaitPolicy::LockWaitSkip as i32
        }
        _ => true,
    };
    effects.locks_rows
        && !effects.subqueries
        && effects.volatility != Volatility::Volatile
        && matches!(&effects.reads, Touched::Tables(tables) if tables.len() == 1)
        && select.with_clause.is_none()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && !select.locking_clause.iter().any(skips)
}

/// SELECT … INTO, whose clause hangs on the leftmost query of a UNION.
fn into_clause(select: &SelectStmt) -> bool {
    select.into_clause.is_some() || select.larg.as_deref().is_some_and(into_clause)
}

/// The statement for these effects, seen from a session that may have temporary relations.
fn finish(
    names: Names<'_>,
    mut walker: Walker<'_, '_>,
    tag: &'static str,
    returns_rows: bool,
) -> Statement {
    let temps = !names.scope.temp_tables.is_empty();
    if temps && walker.effects.by_name {
        walker.effects.on_leader(Hold::Session);
    }
    walker.effects.into_statement(tag, returns_rows)
}

fn modify(piece: &Piece<'_, '_>, node: &NodeEnum) -> Statement {
    let names = piece.names;
    let mut walker = Walker::new(names);
    let (tag, keyed, relation, returning) = match node {
        NodeEnum::InsertStmt(insert) => {
            walker.insert(insert);
            ("insert", keyed::insert(names, insert), &insert.relation, &insert.returning_clause)
        }
        NodeEnum::UpdateStmt(update) => {
            walker.update(update);
            ("update", keyed::update(names, update), &update.relation, &update.returning_clause)
        }
        NodeEnum::DeleteStmt(delete) => {
            walker.delete(delete);
            ("delete", keyed::delete(names, delete), &delete.relation, &delete.returning_clause)
        }
        NodeEnum::MergeStmt(merge) => {
            walker.merge(merge);
            ("merge", None, &merge.relation, &merge.returning_clause)
        }
        _ => return Statement::opaque("other"),
    };
    let mut statement = finish(names, walker, tag, returning.is_some());
    statement.portable = keyed.is_some() && keyed::portable(names, relation, returning);
    statement.returned = match node {
        NodeEnum::InsertStmt(insert) => returned::insert(piece, insert, &statement),
        NodeEnum::UpdateStmt(update) => returned::update(piece, update, &statement),
        _ => None,
    }
    .map(Box::new);
    match keyed {
        // Nothing is left to defaults, so no sequence moves.
        Some(condition) if condition.is_empty() && statement.is_captured() => Statement {
            class: Class::Keyed,
            sequences: Sequences::None,
            clock: false,
            returned: None,
            ..statement
        },
        Some(keyed_if) if statement.is_captured() => Statement { keyed_if, ..statement },
        _ => statement,
    }
}

fn explain(piece: &Piece<'_, '_>, explain: &ExplainStmt) -> Statement {
    let Some(query) = explain.query.as_deref().and_then(|node| node.node.as_ref()) else {
        return Statement::opaque("explain");
    };
    let inner = classify(piece, query);
    let runs = names::option_on(&explain.options, "analyze");
    if runs && matches!(inner.class, Class::Execute(_)) {
        return Statement::opaque("explain");
    }
    let class = match (inner.class, runs) {
        (Class::Refused(refusal), true) => Class::Refused(refusal),
        (Class::Own(question), _) => Class::Refused(own::misplaced(&question.column)),
        (Class::LeaderRead { hold }, _) => Class::LeaderRead { hold },
        (Class::Read, _) => Class::Read,

        (Class::Execute(_), false) => Class::LeaderRead { hold: Hold::Statement },
        (Class::Captured { hold }, true) => Class::Captured { hold },
        (Class::Keyed, true) => Class::Captured { hold: Hold::Statement },
        (_, true) => Class::Refused(Refusal::unsupported(
            "EXPLAIN ANALYZE of a statement that changes the schema is not replicated",
            "Use EXPLAIN without ANALYZE.",
        )),
        // Planning a write changes nothing, but only the leader knows the session's temporary
        // tables and what the transaction has done so far.
        (_, false) => Class::LeaderRead { hold: Hold::Statement },
    };
    let nothing = Statement::new("explain", class);
    if runs {
        let class = nothing.class;
        return Statement {
            class,
            tag: "explain",
            returns_rows: true,
            creates_temp: Vec::new(),
            drops: Vec::new(),
            set_config: None,
            keyed_if: Vec::new(),
            returned: None,
            ..inner
        };
    }
    Statement { reads: inner.reads, clock: inner.clock, returns_rows: true, ..nothing }
}

fn prepare(piece: &Piece<'_, '_>, prepare: &PrepareStmt) -> Statement {
    let Some(query) = prepare.query.as_deref().and_then(|node| node.node.as_ref()) else {
        return Statement::opaque("prepare");
    };
    let body_range = piece.tokens().and_then(|tokens| {
        let after = tokens.range(tokens.find(0, Token::As)?)?.end;
        let rest = piece.own_text().get(after..)?;
        let start = piece.range.end - rest.trim_start().len();
        Some(start..piece.range.end)
    });
    let range = body_range.unwrap_or_else(|| piece.range.clone());
    let mut body = statement(Piece { range, ..piece.clone() }, query);
    if let Class::Own(question) = &body.class {
        return Statement::refused("prepare", own::misplaced(&question.column));
    }
    // A value declared as a date or time reads the clock where its text says so, whatever column
    // it ends up in.
    let time = prepare.argtypes.iter().any(|node| match &node.node {
        Some(NodeEnum::TypeName(name)) => piece.names.type_class(name) != TypeClass::Plain,
        _ => true,
    });
    if time && body.class == Class::Keyed {
        body.class = Class::Captured { hold: Hold::Statement };
    }
    // What EXECUTE passes are expressions, not values that could be looked at; and the text that
    // the server has prepared is the client's own.
    body.keyed_if.clear();
    body.returned = None;
    let class = Class::PrepareSql { name: prepare.name.clone(), body: Box::new(body) };
    Statement::new("prepare", class)
}

fn execute(names: Names<'_>, execute: &ExecuteStmt) -> Statement {
    let constants = Proof { names, table: None, alias: "" };
    if constants.all(&execute.params) {
        let class = Class::Execute(execute.name.clone());
        return Statement { returns_rows: true, ..Statement::new("execute", class) };
    }
    // The arguments are evaluated wherever the statement runs: they must be evaluated once.
    let mut walker = Walker::new(names);
    walker.nodes(&execute.params);
    walker.effects.unknown_rows();
    walker.effects.into_statement("execute", true)
}

/// A text that nests deeper than the parse tree's decoder goes: statement by statement, what cannot
/// be read is judged by its first word.
fn deep(text: &str, names: Names<'_>) -> Option<Script> {
    if !names.scope.standard_conforming_strings && text.contains('\\') {
        return None;
    }
    let pieces = pg_query::split_with_parser(text).ok()?;
    let mut statements = Vec::with_capacity(pieces.len());
    for own in pieces {
        // Each piece is a part of the text, so that the distance is its place.
        let start = (own.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
        let range = range_of(text, i32::try_from(start).ok()?, i32::try_from(own.len()).ok()?);
        let piece = Piece { names, text, range: range.clone(), base: range.start };
        let parsed = parse(piece.own_text(), names.scope).ok();
        let node = parsed.as_deref().and_then(|stmts| match stmts {
            [only] => only.stmt.as_deref().and_then(|stmt: &Node| stmt.node.as_ref()),
            _ => None,
        });
        statements.push(match node {
            Some(node) => statement(piece, node),
            None => Statement { range, ..too_deep(&piece) },
        });
    }
    Some(Script { statements })
}

fn too_deep(piece: &Piece<'_, '_>) -> Statement {
    let tokens = piece.tokens();
    let reserved = piece.own_text().to_ascii_lowercase().contains("lockstep");
    let tag = match tokens.as_ref().and_then(|tokens| tokens.kind(0)) {
        Some(Token::Select | Token::With | Token::Values | Token::Table | Token::Ascii40) => {
            Some("select")
        }
        Some(Token::Insert) => Some("insert"),
        Some(Token::Update) => Some("update"),
        Some(Token::DeleteP) => Some("delete"),
        Some(Token::Merge) => Some("merge"),
        _ => None,
    };
    match tag {
        Some(tag) if !reserved => Statement::opaque(tag),
        _ => Statement::refused(
            "other",
            Refusal {
                sqlstate: "54001",
                message: "the statement nests too deeply to be judged".to_owned(),
                hint: "Split it into smaller statements or views.".to_owned(),
            },
        ),
    }
}
