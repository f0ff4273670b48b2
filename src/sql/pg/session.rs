//! Settings, transaction control, cursors: what concerns the session rather than rows.

use pg_query::Node;
use pg_query::protobuf::{
    DeclareCursorStmt, DiscardMode, DiscardStmt, FetchStmt, TransactionStmt, TransactionStmtKind,
    VariableSetKind, VariableSetStmt, VariableShowStmt,
};

use super::effects::Effects;
use super::functions::{is_leader_setting, is_reserved_setting};
use super::names;
use super::own;
use super::resolve::Names;
use super::statement::{Class, Discard, Hold, Isolation, Modes, Refusal, SetOp, Statement, TxOp};
use super::walk::Walker;

/// WITH HOLD, among the options of DECLARE.
const CURSOR_WITH_HOLD: i32 = 0x0020;

pub(super) fn transaction(tx: &TransactionStmt) -> Statement {
    use TransactionStmtKind as Kind;
    let done = |tag, op| Statement::new(tag, Class::Tx(op));
    match Kind::try_from(tx.kind) {
        Ok(Kind::TransStmtBegin | Kind::TransStmtStart) => {
            let modes = modes(&tx.options);
            let Modes { isolation, read_only, deferrable } = modes;
            let begin = TxOp::Begin { isolation, read_only, deferrable, snapshot: false };
            Statement { modes: Some(modes), ..done("begin", begin) }
        }
        Ok(Kind::TransStmtCommit) => done("commit", TxOp::Commit { chain: tx.chain }),
        Ok(Kind::TransStmtRollback) => done("rollback", TxOp::Rollback { chain: tx.chain }),
        Ok(Kind::TransStmtSavepoint) => {
            done("savepoint", TxOp::Savepoint(tx.savepoint_name.clone()))
        }
        Ok(Kind::TransStmtRelease) => done("release", TxOp::Release(tx.savepoint_name.clone())),
        Ok(Kind::TransStmtRollbackTo) => {
            done("rollback", TxOp::RollbackTo(tx.savepoint_name.clone()))
        }
        _ => Statement::refused(
            "prepare",
            Refusal::unsupported(
                "two-phase commit is not for clients: the proxy commits on all backends itself",
                "Use COMMIT. For distributed transactions keep an outbox table in this database.",
            ),
        ),
    }
}

/// The modes in a list of options.
pub(super) fn modes(options: &[Node]) -> Modes {
    let flag = |name| {
        names::option(options, name).and_then(|def| def.arg.as_deref()).and_then(flag_constant)
    };
    let isolation = names::option(options, "transaction_isolation")
        .and_then(|def| def.arg.as_deref())
        .and_then(names::setting_constant)
        .and_then(|level| isolation(&level));
    Modes {
        isolation,
        read_only: flag("transaction_read_only"),
        deferrable: flag("transaction_deferrable"),
    }
}

fn flag_constant(node: &Node) -> Option<bool> {
    // A zero is the default of the message's field and may be left out.
    names::bool_constant(node).or_else(|| names::setting_constant(node).map(|text| text != "0"))
}

fn isolation(level: &str) -> Option<Isolation> {
    Some(match level.to_ascii_lowercase().as_str() {
        "read uncommitted" => Isolation::ReadUncommitted,
        "read committed" => Isolation::ReadCommitted,
        "repeatable read" => Isolation::RepeatableRead,
        "serializable" => Isolation::Serializable,
        _ => return None,
    })
}

fn modes_text(modes: Modes) -> String {
    let isolation = modes.isolation.map(|level| match level {
        Isolation::ReadUncommitted => "ISOLATION LEVEL READ UNCOMMITTED",
        Isolation::ReadCommitted => "ISOLATION LEVEL READ COMMITTED",
        Isolation::RepeatableRead => "ISOLATION LEVEL REPEATABLE READ",
        Isolation::Serializable => "ISOLATION LEVEL SERIALIZABLE",
    });
    let access = modes.read_only.map(|on| if on { "READ ONLY" } else { "READ WRITE" });
    let deferrable = modes.deferrable.map(|on| if on { "DEFERRABLE" } else { "NOT DEFERRABLE" });
    let given: Vec<&str> = [isolation, access, deferrable].into_iter().flatten().collect();
    given.join(", ")
}

/// SET and RESET.
pub(super) fn set(set: &VariableSetStmt) -> Statement {
    let key = set.name.to_lowercase();
    // The one setting of ours that is a session's to choose.
    if is_reserved_setting(&key) && key != "lockstep.consistency" {
        return Statement::refused(
            "set",
            Refusal::reserved("the settings \"lockstep.*\" are the proxy's own"),
        );
    }
    let done = |op| Statement::new("set", Class::Set(op));
    match VariableSetKind::try_from(set.kind) {
        Ok(VariableSetKind::VarSetValue) => {
            let list: Option<Vec<String>> = set.args.iter().map(names::setting_constant).collect();
            let list = list.unwrap_or_default();
            let value = match list.as_slice() {
                [only] => Some(only.clone()),
                _ => None,
            };
            done(SetOp::Assign { key, local: set.is_local, value, list })
        }
        // SET LOCAL … TO DEFAULT ends with the transaction, which RESET does not.
        Ok(VariableSetKind::VarSetDefault) if set.is_local => {
            done(SetOp::Assign { key, local: true, value: None, list: Vec::new() })
        }
        Ok(VariableSetKind::VarSetDefault | VariableSetKind::VarReset) => {
            done(SetOp::Reset { key })
        }
        Ok(VariableSetKind::VarResetAll) => done(SetOp::ResetAll),
        Ok(VariableSetKind::VarSetMulti) => multi(set, &key),
        // SET … FROM CURRENT belongs into a function's definition: the server says so.
        _ => Statement::new("set", Class::LeaderRead { hold: Hold::Statement }),
    }
}

fn multi(set: &VariableSetStmt, key: &str) -> Statement {
    let done = |op| Statement::new("set", Class::Set(op));
    match key {
        "transaction" => {
            let modes = modes(&set.args);
            let op = SetOp::Transaction(modes_text(modes));
            Statement { modes: Some(modes), ..done(op) }
        }
        "session characteristics" => {
            Statement { modes: Some(modes(&set.args)), ..done(SetOp::Characteristics) }
        }
        // A snapshot exported by another session, which can only have been the leader's.
        "transaction snapshot" => {
            let id = set.args.first().and_then(names::setting_constant).unwrap_or_default();
            done(SetOp::Transaction(format!("SNAPSHOT '{}'", id.replace('\'', "''"))))
        }
        _ => Statement::opaque("set"),
    }
}

pub(super) fn show(show: &VariableShowStmt) -> Statement {
    let key = show.name.to_ascii_lowercase();
    if let Some(question) = own::show(&key) {
        return question;
    }
    if is_reserved_setting(&key) {
        return Statement::refused(
            "show",
            Refusal::reserved("the settings \"lockstep.*\" are the proxy's own"),
        );
    }
    let class = if is_leader_setting(&key) {
        Class::LeaderRead { hold: Hold::Statement }
    } else {
        Class::Read
    };
    Statement { returns_rows: true, ..Statement::new("show", class) }
}

pub(super) fn discard(discard: &DiscardStmt) -> Statement {
    let class = match DiscardMode::try_from(discard.target) {
        Ok(DiscardMode::DiscardAll) => Class::DiscardAll,
        Ok(DiscardMode::DiscardPlans) => Class::Discard(Discard::Plans),
        Ok(DiscardMode::DiscardSequences) => Class::Discard(Discard::Sequences),
        Ok(DiscardMode::DiscardTemp) => Class::Discard(Discard::Temp),
        _ => return Statement::opaque("discard"),
    };
    Statement::new("discard", class)
}

/// DECLARE CURSOR: its query runs at FETCH, and at COMMIT when it is held.
pub(super) fn declare(names: Names<'_>, declare: &DeclareCursorStmt) -> Statement {
    let mut walker = Walker::new(names);
    walker.opt(&declare.query);
    let hold =
        if declare.options & CURSOR_WITH_HOLD != 0 { Hold::Session } else { Hold::Transaction };
    walker.effects.on_leader(hold);
    if walker.effects.captured && walker.effects.refused.is_none() {
        return Statement::refused(
            "declare",
            Refusal::unsupported(
                "a cursor over a function that may write would write while it is fetched from, \
                 out of the proxy's sight",
                "Store the result in a temporary table and declare the cursor over that, or \
                 declare the function STABLE if it does not write.",
            ),
        );
    }
    Statement {
        cursor: Some(declare.portalname.clone()),
        ..walker.effects.into_statement("declare", false)
    }
}

pub(super) fn fetch(fetch: &FetchStmt) -> Statement {
    let tag = if fetch.ismove { "move" } else { "fetch" };
    Statement {
        cursor: Some(fetch.portalname.clone()),
        returns_rows: !fetch.ismove,
        ..Statement::new(tag, Class::LeaderRead { hold: Hold::Transaction })
    }
}

pub(super) fn close(portal: &str) -> Statement {
    Statement {
        cursor: (!portal.is_empty()).then(|| portal.to_owned()),
        ..Statement::new("close", Class::LeaderRead { hold: Hold::Statement })
    }
}

/// LOCK TABLE.
pub(super) fn lock(names: Names<'_>, relations: &[Node]) -> Statement {
    let mut walker = Walker::new(names);
    walker.nodes(relations);
    // Nothing is read: what stands behind a view is locked with it, but not run.
    let mut effects =
        Effects { reads: walker.effects.reads, locks_rows: true, ..Effects::default() };
    effects.on_leader(Hold::Transaction);
    effects.into_statement("lock", false)
}
