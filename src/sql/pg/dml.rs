//! What INSERT, UPDATE, DELETE and MERGE reach, wherever in a query they stand.

use pg_query::protobuf::{
    DeleteStmt, InsertStmt, MergeStmt, RangeVar, ReturningClause, UpdateStmt,
};
use pg_query::{Node, NodeEnum};

use super::catalog::RelationKind;
use super::resolve::Found;
use super::statement::{Hold, Refusal};
use super::walk::Walker;

/// What is done to the rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// New rows; defaults are filled in.
    Insert,
    /// Rows that are there.
    Update,
    /// Rows go away.
    Delete,
    /// Anything (upsert, MERGE), or `SET x = DEFAULT`.
    Any,
}

impl<'t> Walker<'_, 't> {
    pub(super) fn insert(&mut self, insert: &'t InsertStmt) {
        let outer = self.with(&insert.with_clause);
        self.nodes(&insert.cols);
        self.opt(&insert.select_stmt);
        let mut change = Change::Insert;
        if let Some(conflict) = &insert.on_conflict_clause {
            change = Change::Any;
            self.nodes(&conflict.target_list);
            self.opt(&conflict.where_clause);
            if let Some(infer) = &conflict.infer {
                self.nodes(&infer.index_elems);
                self.opt(&infer.where_clause);
            }
        }
        self.returning(&insert.returning_clause);
        self.leave(outer);
        self.write(&insert.relation, change);
    }

    pub(super) fn update(&mut self, update: &'t UpdateStmt) {
        let outer = self.with(&update.with_clause);
        self.nodes(&update.target_list);
        self.nodes(&update.from_clause);
        self.opt(&update.where_clause);
        self.returning(&update.returning_clause);
        self.leave(outer);
        let defaults = update.target_list.iter().any(sets_default);
        self.write(&update.relation, if defaults { Change::Any } else { Change::Update });
        self.read_target(&update.relation);
    }

    pub(super) fn delete(&mut self, delete: &'t DeleteStmt) {
        let outer = self.with(&delete.with_clause);
        self.nodes(&delete.using_clause);
        self.opt(&delete.where_clause);
        self.returning(&delete.returning_clause);
        self.leave(outer);
        self.write(&delete.relation, Change::Delete);
        self.read_target(&delete.relation);
    }

    pub(super) fn merge(&mut self, merge: &'t MergeStmt) {
        let outer = self.with(&merge.with_clause);
        self.opt(&merge.source_relation);
        self.opt(&merge.join_condition);
        for node in &merge.merge_when_clauses {
            let Some(NodeEnum::MergeWhenClause(when)) = &node.node else {
                self.effects.anything();
                continue;
            };
            self.opt(&when.condition);
            self.nodes(&when.target_list);
            self.nodes(&when.values);
        }
        self.returning(&merge.returning_clause);
        self.leave(outer);
        self.write(&merge.relation, Change::Any);
        self.read_target(&merge.relation);
    }

    fn returning(&mut self, returning: &'t Option<ReturningClause>) {
        if let Some(returning) = returning {
            self.nodes(&returning.exprs);
        }
    }

    /// The rows that are changed are also read; the view or the policies behind the table were
    /// counted when it was written.
    fn read_target(&mut self, var: &Option<RangeVar>) {
        let Some(var) = var else { return };
        if let Found::Known(relation) = self.names.relation(var) {
            self.effects.reads.add(&relation.full);
            for descendant in &relation.descendants {
                self.effects.reads.add(descendant);
            }
        }
    }

    /// Rows of a relation are written.
    pub(super) fn write(&mut self, var: &Option<RangeVar>, change: Change) {
        let Some(var) = var else {
            return self.effects.anything();
        };
        match self.names.relation(var) {
            Found::Temp => {
                self.effects.temp = true;
                self.effects.on_leader(Hold::Session);
            }
            Found::System => self.effects.refuse(Refusal::unsupported(
                format!("writing to the system catalog \"{}\" is not replicated", var.relname),
                "Use the statement that is made for it (ALTER …, COMMENT …, SET …).",
            )),
            Found::Lockstep => self.effects.refuse(Refusal::reserved(format!(
                "lockstep.{} is written by the proxy alone",
                var.relname
            ))),
            Found::Known(relation) => {
                self.effects.captured = true;
                self.effects.merge(&relation.check_effects);
                if matches!(change, Change::Insert | Change::Any) {
                    self.effects.merge(&relation.default_effects);
                }
                self.effects.writes.add(&relation.full);
                let (reach, hidden) = match change {
                    Change::Insert => (&relation.descendants, relation.insert_hidden),
                    _ => (&relation.reach, relation.reach_hidden),
                };
                let fires = match change {
                    Change::Insert => relation.triggers.insert,
                    Change::Update => relation.triggers.update,
                    Change::Delete => relation.triggers.delete,
                    Change::Any => relation.triggers.any_row(),
                };
                for table in reach {
                    self.effects.writes.add(table);
                }
                if fires || hidden || relation.rules {
                    self.effects.hold = self.effects.hold.max(relation.trigger_hold);
                    self.effects.unknown_rows();
                }
                // The rows of a view are elsewhere; what a foreign server does is out of sight.
                if !matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned) {
                    self.effects.merge(&relation.read_effects);
                    self.effects.unknown_rows();
                }
                if relation.row_security {
                    self.effects.merge(&relation.read_effects);
                }
            }
            Found::Unknown => self.effects.unknown_rows(),
        }
    }
}

/// `SET x = DEFAULT`.
pub(super) fn sets_default(target: &Node) -> bool {
    let Some(NodeEnum::ResTarget(target)) = &target.node else {
        return true;
    };
    match target.val.as_deref().and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::SetToDefault(_)) => true,
        Some(NodeEnum::MultiAssignRef(assign)) => {
            match assign.source.as_deref().and_then(|node| node.node.as_ref()) {
                Some(NodeEnum::RowExpr(row)) => {
                    row.args.iter().any(|arg| matches!(arg.node, Some(NodeEnum::SetToDefault(_))))
                }
                _ => false,
            }
        }
        _ => false,
    }
}
