//! Questions that the proxy answers itself: they look like settings and functions, so that every
//! driver can ask them, and no server knows them.

use pg_query::protobuf::SelectStmt;
use pg_query::{Node, NodeEnum};

use super::names;
use super::question::{Argument, Own, Question};
use super::statement::{Class, Refusal, Statement};

/// The functions in schema `lockstep` that are for applications.
pub(super) const FUNCTIONS: [&str; 2] = ["transaction_id", "transaction_status"];

/// SHOW of a setting that only the proxy has.
pub(super) fn show(key: &str) -> Option<Statement> {
    let question = match key {
        "lockstep.consistency" => Question::Consistency,
        "lockstep.dead_after" => Question::DeadAfter,
        "lockstep.transaction_id" => Question::TransactionId,
        _ => return None,
    };
    let own = Own { question, column: key.to_owned(), tag: "SHOW" };
    Some(Statement { returns_rows: true, ..Statement::new("show", Class::Own(own)) })
}

/// `SELECT lockstep.transaction_id()`, `SELECT lockstep.transaction_status('…')`, and nothing else.
pub(super) fn select(select: &SelectStmt) -> Option<Statement> {
    let target = names::only_target(select)?;
    let Some(NodeEnum::FuncCall(call)) = &target.val.as_deref()?.node else {
        return None;
    };
    let question = match (names::qualified(&call.funcname)?, call.args.as_slice()) {
        (("lockstep", "transaction_id"), []) => Question::TransactionId,
        (("lockstep", "transaction_status"), [id]) => Question::TransactionStatus(argument(id)?),
        _ => return None,
    };
    let (_, name) = names::qualified(&call.funcname)?;
    let column = if target.name.is_empty() { name } else { &target.name };
    let own = Own { question, column: column.to_owned(), tag: "SELECT 1" };
    Some(Statement { returns_rows: true, ..Statement::new("select", Class::Own(own)) })
}

/// Such a question in a place where a server would have to answer it.
pub(super) fn misplaced(name: &str) -> Refusal {
    Refusal::unsupported(
        format!("{name} is answered by the proxy, not by a database"),
        "Ask as a statement of its own, with a constant or a parameter: \
         SELECT lockstep.transaction_status('…').",
    )
}

fn argument(node: &Node) -> Option<Argument> {
    match node.node.as_ref()? {
        NodeEnum::ParamRef(param) => u32::try_from(param.number).ok().map(Argument::Parameter),
        NodeEnum::AConst(constant) if constant.isnull => Some(Argument::Constant(None)),
        NodeEnum::TypeCast(cast) => {
            let (_, name) = names::qualified(&cast.type_name.as_ref()?.names)?;
            let text = matches!(name, "text" | "varchar");
            text.then(|| cast.arg.as_deref().and_then(argument))?
        }
        _ => names::string_constant(node).map(|text| Argument::Constant(Some(text.to_owned()))),
    }
}
