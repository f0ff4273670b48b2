//! Walks a query or an expression and gathers its effects.
//!
//! The walk knows every node that PostgreSQL's raw parser makes of queries. A node it does not know
//! counts as a function that may do anything, so that a new grammar can make it slow, not wrong.

use pg_query::protobuf::{
    self, CommonTableExpr, RangeVar, SelectStmt, SqlValueFunction, SqlValueFunctionOp, TypeCast,
    WindowDef, WithClause,
};
use pg_query::{Node, NodeEnum};

use super::catalog::{RelationKind, TypeClass};
use super::effects::{Effects, Volatility};
use super::names;
use super::resolve::{Found, Names};
use super::statement::{Hold, Refusal};

/// One walk. The text may come from a client or, `trusted`, from the server's own deparser.
pub(super) struct Walker<'c, 't> {
    pub names: Names<'c>,
    pub effects: Effects,
    /// The server wrote this text: a literal under a cast is a constant that was read long ago.
    pub trusted: bool,
    /// Names of WITH queries in sight; they hide tables.
    ctes: Vec<&'t str>,
}

impl<'c, 't> Walker<'c, 't> {
    pub(super) fn new(names: Names<'c>) -> Self {
        let mut effects = Effects::default();
        if names.catalog.wild_casts {
            effects.anything();
        }
        Self { names, effects, trusted: false, ctes: Vec::new() }
    }

    pub(super) fn nodes(&mut self, nodes: &'t [Node]) {
        nodes.iter().for_each(|node| self.node(node));
    }

    pub(super) fn opt(&mut self, node: &'t Option<Box<Node>>) {
        if let Some(node) = node {
            self.node(node);
        }
    }

    pub(super) fn node(&mut self, node: &'t Node) {
        let Some(inner) = &node.node else { return };
        match inner {
            NodeEnum::ParamRef(_) => self.effects.params = true,
            NodeEnum::SetToDefault(_)
            | NodeEnum::AStar(_)
            | NodeEnum::MergeSupportFunc(_)
            | NodeEnum::CaseTestExpr(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_)
            | NodeEnum::Float(_)
            | NodeEnum::Boolean(_)
            | NodeEnum::BitString(_) => {}
            NodeEnum::AConst(_) => self.literal(node),
            NodeEnum::ColumnRef(column) => self.column(&column.fields),
            NodeEnum::FuncCall(call) => self.call(call),
            NodeEnum::TypeCast(cast) => self.cast(cast),
            NodeEnum::SqlvalueFunction(value) => self.sql_value(value),
            NodeEnum::SelectStmt(select) => self.select(select),
            NodeEnum::InsertStmt(insert) => self.insert(insert),
            NodeEnum::UpdateStmt(update) => self.update(update),
            NodeEnum::DeleteStmt(delete) => self.delete(delete),
            NodeEnum::MergeStmt(merge) => self.merge(merge),
            NodeEnum::RangeVar(var) => self.read(var),
            NodeEnum::AExpr(_)
            | NodeEnum::BoolExpr(_)
            | NodeEnum::NullTest(_)
            | NodeEnum::BooleanTest(_)
            | NodeEnum::CaseExpr(_)
            | NodeEnum::CaseWhen(_)
            | NodeEnum::CoalesceExpr(_)
            | NodeEnum::MinMaxExpr(_)
            | NodeEnum::RowExpr(_)
            | NodeEnum::AArrayExpr(_)
            | NodeEnum::AIndirection(_)
            | NodeEnum::AIndices(_)
            | NodeEnum::CollateClause(_)
            | NodeEnum::SubLink(_)
            | NodeEnum::NamedArgExpr(_)
            | NodeEnum::GroupingFunc(_)
            | NodeEnum::GroupingSet(_) => self.expression(inner),
            NodeEnum::ResTarget(_)
            | NodeEnum::MultiAssignRef(_)
            | NodeEnum::SortBy(_)
            | NodeEnum::WindowDef(_)
            | NodeEnum::RangeSubselect(_)
            | NodeEnum::RangeFunction(_)
            | NodeEnum::RangeTableFunc(_)
            | NodeEnum::RangeTableFuncCol(_)
            | NodeEnum::RangeTableSample(_)
            | NodeEnum::JoinExpr(_)
            | NodeEnum::List(_)
            | NodeEnum::IndexElem(_)
            | NodeEnum::ReturnStmt(_)
            | NodeEnum::CurrentOfExpr(_) => self.clause(inner),
            _ => self.structured(inner),
        }
    }

    fn expression(&mut self, node: &'t NodeEnum) {
        match node {
            NodeEnum::AExpr(e) => {
                self.operator(&e.name);
                self.opt(&e.lexpr);
                self.opt(&e.rexpr);
            }
            NodeEnum::BoolExpr(e) => self.nodes(&e.args),
            NodeEnum::NullTest(e) => self.opt(&e.arg),
            NodeEnum::BooleanTest(e) => self.opt(&e.arg),
            NodeEnum::CaseExpr(e) => {
                self.opt(&e.arg);
                self.nodes(&e.args);
                self.opt(&e.defresult);
            }
            NodeEnum::CaseWhen(e) => {
                self.opt(&e.expr);
                self.opt(&e.result);
            }
            NodeEnum::CoalesceExpr(e) => self.nodes(&e.args),
            NodeEnum::MinMaxExpr(e) => self.nodes(&e.args),
            NodeEnum::RowExpr(e) => self.nodes(&e.args),
            NodeEnum::AArrayExpr(e) => self.nodes(&e.elements),
            NodeEnum::AIndirection(e) => {
                self.opt(&e.arg);
                self.nodes(&e.indirection);
            }
            NodeEnum::AIndices(e) => {
                self.opt(&e.lidx);
                self.opt(&e.uidx);
            }
            NodeEnum::CollateClause(e) => self.opt(&e.arg),
            NodeEnum::SubLink(e) => {
                self.operator(&e.oper_name);
                self.opt(&e.testexpr);
                self.opt(&e.subselect);
                self.effects.subqueries = true;
                self.effects.volatility(Volatility::Stable);
            }
            NodeEnum::NamedArgExpr(e) => self.opt(&e.arg),
            NodeEnum::GroupingFunc(e) => self.nodes(&e.args),
            NodeEnum::GroupingSet(e) => self.nodes(&e.content),
            _ => self.effects.anything(),
        }
    }

    fn clause(&mut self, node: &'t NodeEnum) {
        match node {
            NodeEnum::ResTarget(e) => {
                self.nodes(&e.indirection);
                self.opt(&e.val);
            }
            NodeEnum::MultiAssignRef(e) => self.opt(&e.source),
            NodeEnum::SortBy(e) => {
                self.operator(&e.use_op);
                self.opt(&e.node);
            }
            NodeEnum::WindowDef(e) => self.window(e),
            NodeEnum::RangeSubselect(e) => self.opt(&e.subquery),
            NodeEnum::RangeFunction(e) => self.nodes(&e.functions),
            NodeEnum::RangeTableFunc(e) => {
                self.opt(&e.docexpr);
                self.opt(&e.rowexpr);
                self.nodes(&e.namespaces);
                self.nodes(&e.columns);
            }
            NodeEnum::RangeTableFuncCol(e) => {
                self.opt(&e.colexpr);
                self.opt(&e.coldefexpr);
            }
            NodeEnum::RangeTableSample(e) => {
                self.effects.unordered = true;
                self.opt(&e.relation);
                self.nodes(&e.args);
                self.opt(&e.repeatable);
            }
            NodeEnum::JoinExpr(e) => {
                self.opt(&e.larg);
                self.opt(&e.rarg);
                self.opt(&e.quals);
            }
            // The column definitions of a function in FROM are part of such a list.
            NodeEnum::List(e) => e.items.iter().for_each(|item| {
                if !matches!(item.node, Some(NodeEnum::ColumnDef(_))) {
                    self.node(item);
                }
            }),
            NodeEnum::IndexElem(e) => self.opt(&e.expr),
            NodeEnum::ReturnStmt(e) => self.opt(&e.returnval),
            NodeEnum::CurrentOfExpr(_) => self.effects.on_leader(Hold::Transaction),
            _ => self.effects.anything(),
        }
    }

    pub(super) fn window(&mut self, window: &'t WindowDef) {
        self.nodes(&window.partition_clause);
        self.nodes(&window.order_clause);
        self.opt(&window.start_offset);
        self.opt(&window.end_offset);
    }

    fn literal(&mut self, node: &'t Node) {
        if self.trusted {
            return;
        }
        // Its type is not known here: if it is a date or a time, this reads the clock.
        if names::string_constant(node).is_some_and(names::is_clock) {
            self.effects.clock = true;
            self.effects.folded = true;
            self.effects.volatility(Volatility::Stable);
        }
    }

    fn column(&mut self, fields: &[Node]) {
        let Some(name) = fields.last().and_then(names::string) else {
            return;
        };
        // Where a row lies and who wrote it differs from one backend to another: what a client
        // reads of it must have a meaning for what it writes.
        if matches!(name, "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid") {
            self.effects.on_leader(Hold::Statement);
            self.effects.volatility(Volatility::Volatile);
        }
    }

    fn sql_value(&mut self, value: &SqlValueFunction) {
        use SqlValueFunctionOp as Op;
        self.effects.volatility(Volatility::Stable);
        let session = matches!(
            Op::try_from(value.op),
            Ok(Op::SvfopCurrentRole
                | Op::SvfopCurrentUser
                | Op::SvfopUser
                | Op::SvfopSessionUser
                | Op::SvfopCurrentCatalog
                | Op::SvfopCurrentSchema)
        );
        self.effects.clock |= !session;
    }

    fn cast(&mut self, cast: &'t TypeCast) {
        let Some(type_name) = &cast.type_name else {
            return self.effects.anything();
        };
        self.nodes(&type_name.typmods);
        let constant = cast.arg.as_deref().and_then(names::string_constant);
        let class = self.names.type_class(type_name);
        // A text that is said to be of a plain type is not a clock, whatever it says.
        if constant.is_none() || class != TypeClass::Plain {
            self.opt(&cast.arg);
        }
        let Some((schema, name)) = names::qualified(&type_name.names) else {
            return self.effects.anything();
        };
        if name.starts_with("reg") && (schema.is_empty() || schema == "pg_catalog") {
            // Object numbers differ from one backend to another; names may mean a temporary one.
            self.effects.by_name = true;
            self.effects.on_leader(Hold::Statement);
            self.effects.volatility(Volatility::Stable);
        }
        if self.trusted && constant.is_some() {
            return;
        }
        match class {
            TypeClass::Plain => {}
            TypeClass::Time => {
                let fixed = constant.is_some_and(|text| names::unambiguous_time(name, text));
                if !fixed {
                    self.effects.volatility(Volatility::Stable);
                }
                let clock = constant.is_some_and(names::mentions_clock);
                self.effects.clock |= clock;
                self.effects.folded |= clock;
            }
            TypeClass::Other => self.effects.volatility(Volatility::Stable),
        }
        if schema != "pg_catalog" {
            for kind in self.names.types(schema, name) {
                self.effects.merge(&kind.effects);
            }
        }
    }

    pub(super) fn operator(&mut self, name: &[Node]) {
        let Some((_, name)) = names::qualified(name) else {
            return;
        };
        if let Some(operator) = self.names.catalog.operators.get(name) {
            if operator.user == Volatility::Volatile {
                self.effects.anything();
            }
            self.effects.volatility(operator.user);
        }
    }

    pub(super) fn select(&mut self, select: &'t SelectStmt) {
        let outer = self.with(&select.with_clause);
        self.nodes(&select.distinct_clause);
        self.nodes(&select.target_list);
        self.nodes(&select.from_clause);
        self.opt(&select.where_clause);
        self.nodes(&select.group_clause);
        self.opt(&select.having_clause);
        self.nodes(&select.window_clause);
        self.nodes(&select.values_lists);
        self.nodes(&select.sort_clause);
        self.opt(&select.limit_offset);
        self.opt(&select.limit_count);
        if (select.limit_count.is_some() || select.limit_offset.is_some())
            && select.sort_clause.is_empty()
            || (select.distinct_clause.iter().any(|node| node.node.is_some()))
        {
            self.effects.unordered = true;
        }
        if !select.locking_clause.is_empty() {
            self.effects.locks_rows = true;
            self.effects.on_leader(Hold::Transaction);
        }
        if let Some(left) = &select.larg {
            self.select(left);
        }
        if let Some(right) = &select.rarg {
            self.select(right);
        }
        self.leave(outer);
    }

    /// Enters the queries of a WITH clause; [`Self::leave`] with the result forgets them.
    pub(super) fn with(&mut self, with: &'t Option<WithClause>) -> usize {
        let outer = self.ctes.len();
        let Some(with) = with else { return outer };
        let queries = || {
            with.ctes.iter().filter_map(|node| match &node.node {
                Some(NodeEnum::CommonTableExpr(cte)) => Some(&**cte),
                _ => None,
            })
        };
        if with.recursive {
            self.ctes.extend(queries().map(|cte: &CommonTableExpr| cte.ctename.as_str()));
        }
        for cte in queries() {
            self.opt(&cte.ctequery);
            if !with.recursive {
                self.ctes.push(&cte.ctename);
            }
        }
        outer
    }

    pub(super) fn leave(&mut self, outer: usize) {
        self.ctes.truncate(outer);
    }

    /// A relation that is read.
    pub(super) fn read(&mut self, var: &'t RangeVar) {
        if var.schemaname.is_empty() && self.ctes.contains(&var.relname.as_str()) {
            return;
        }
        self.effects.volatility(Volatility::Stable);
        match self.names.relation(var) {
            Found::Temp => {
                self.effects.temp = true;
                self.effects.on_leader(Hold::Session);
            }
            Found::System => self.read_system(var),
            Found::Lockstep if var.relname == "secret" => {
                self.effects.refuse(Refusal::reserved("lockstep.secret is not for applications"));
            }
            Found::Lockstep => self.effects.on_leader(Hold::Statement),
            Found::Known(relation) => {
                match relation.kind {
                    // A follower's sequence stands at a bound ahead of the leader's.
                    RelationKind::Sequence => self.effects.on_leader(Hold::Statement),
                    RelationKind::View => {}
                    _ => self.effects.reads.add(&relation.full),
                }
                for descendant in &relation.descendants {
                    self.effects.reads.add(descendant);
                }
                self.effects.merge(&relation.read_effects);
            }
            // It may be a view over a function that writes.
            Found::Unknown => self.effects.unknown_rows(),
        }
    }

    fn read_system(&mut self, var: &RangeVar) {
        self.effects.reads.add("pg_catalog.pg_class");
        self.effects.by_name = true;
        // Object numbers, statistics and sessions differ from one backend to another, and clients
        // carry object numbers from one query to the next (psql's \d, pg_dump, drivers' type
        // caches). The information schema speaks in names.
        if var.schemaname != "information_schema" {
            self.effects.on_leader(Hold::Statement);
        }
    }

    /// Nodes that are neither expressions nor clauses of FROM.
    fn structured(&mut self, node: &'t NodeEnum) {
        match node {
            NodeEnum::XmlExpr(e) => {
                self.nodes(&e.named_args);
                self.nodes(&e.args);
                self.effects.volatility(Volatility::Stable);
            }
            NodeEnum::XmlSerialize(e) => {
                self.opt(&e.expr);
                self.effects.volatility(Volatility::Stable);
            }
            NodeEnum::JsonValueExpr(e) => self.json_value(Some(e)),
            NodeEnum::JsonIsPredicate(e) => self.opt(&e.expr),
            NodeEnum::JsonParseExpr(e) => self.json_value(e.expr.as_deref()),
            NodeEnum::JsonScalarExpr(e) => self.opt(&e.expr),
            NodeEnum::JsonSerializeExpr(e) => self.json_value(e.expr.as_deref()),
            NodeEnum::JsonObjectConstructor(e) => self.nodes(&e.exprs),
            NodeEnum::JsonArrayConstructor(e) => self.nodes(&e.exprs),
            NodeEnum::JsonArrayQueryConstructor(e) => self.opt(&e.query),
            NodeEnum::JsonKeyValue(e) => {
                self.opt(&e.key);
                self.json_value(e.value.as_deref());
            }
            NodeEnum::JsonObjectAgg(e) => {
                if let Some(arg) = &e.arg {
                    self.opt(&arg.key);
                    self.json_value(arg.value.as_deref());
                }
                self.json_aggregate(e.constructor.as_deref());
            }
            NodeEnum::JsonArrayAgg(e) => {
                self.json_value(e.arg.as_deref());
                self.json_aggregate(e.constructor.as_deref());
            }
            NodeEnum::JsonArgument(e) => self.json_value(e.val.as_deref()),
            NodeEnum::JsonFuncExpr(e) => {
                self.json_value(e.context_item.as_deref());
                self.opt(&e.pathspec);
                self.nodes(&e.passing);
                for behavior in [&e.on_empty, &e.on_error].into_iter().flatten() {
                    self.opt(&behavior.expr);
                }
                self.effects.volatility(Volatility::Stable);
            }
            _ => self.effects.anything(),
        }
    }

    fn json_value(&mut self, value: Option<&'t protobuf::JsonValueExpr>) {
        if let Some(value) = value {
            self.opt(&value.raw_expr);
            self.opt(&value.formatted_expr);
        }
        self.effects.volatility(Volatility::Stable);
    }

    fn json_aggregate(&mut self, aggregate: Option<&'t protobuf::JsonAggConstructor>) {
        if let Some(aggregate) = aggregate {
            self.opt(&aggregate.agg_filter);
            self.nodes(&aggregate.agg_order);
            if let Some(window) = &aggregate.over {
                self.window(window);
            }
        }
    }
}
