//! BEGIN, COMMIT and what belongs to them.

use super::lexer::Token;
use super::statement::{Class, Isolation, Modes, Refusal, Statement, TxOp};

/// BEGIN, START, COMMIT, ROLLBACK, SAVEPOINT, RELEASE, XA.
pub(super) fn control(tokens: &[Token]) -> Statement {
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|t| t.is(word));
    let has = |word: &str| tokens.iter().any(|t| t.is(word));
    let done = |tag, op| Statement::new(tag, Class::Tx(op));
    let second = usize::from(is(1, "work")) + 1;
    match tokens.first().map(|t| t.text.as_str()) {
        Some("begin") if tokens.len() == second => begin(&[]),
        Some("begin") => refused(
            "a block outside of a routine is not replicated",
            "Send its statements one by one, or CALL a procedure.",
        ),
        Some("start") if is(1, "transaction") => begin(&tokens[2..]),
        Some("commit" | "rollback") if has("release") && !(is(second, "to") || has("no")) => {
            refused(
                "RELEASE at the end of a transaction is not supported",
                "COMMIT or ROLLBACK, and close the connection.",
            )
        }
        Some("commit") => done("commit", TxOp::Commit { chain: chains(tokens) }),
        Some("rollback") if is(second, "to") => {
            let name = second + 1 + usize::from(is(second + 1, "savepoint"));
            named(tokens, name).map_or_else(nameless, |n| done("rollback", TxOp::RollbackTo(n)))
        }
        Some("rollback") => done("rollback", TxOp::Rollback { chain: chains(tokens) }),
        Some("savepoint") => {
            named(tokens, 1).map_or_else(nameless, |n| done("savepoint", TxOp::Savepoint(n)))
        }
        Some("release") if is(1, "savepoint") => {
            named(tokens, 2).map_or_else(nameless, |n| done("release", TxOp::Release(n)))
        }
        Some("xa") => refused(
            "two-phase commit is not for clients: the proxy commits on all servers itself",
            "Use COMMIT. For distributed transactions keep an outbox table in this database.",
        ),
        _ => super::analyze::unreadable("it is no statement about transactions known here"),
    }
}

fn refused(why: &str, instead: &str) -> Statement {
    Statement::refused("transaction", Refusal::unsupported(why, instead))
}

fn nameless() -> Statement {
    super::analyze::unreadable("a savepoint has no name")
}

/// Names of savepoints are compared without regard to case.
fn named(tokens: &[Token], at: usize) -> Option<String> {
    tokens.get(at).filter(|t| t.is_name()).map(|t| t.text.to_lowercase())
}

fn chains(tokens: &[Token]) -> bool {
    tokens.iter().position(|t| t.is("chain")).is_some_and(|at| !tokens[at - 1].is("no"))
}

/// A transaction that is open ends where another begins.
fn begin(options: &[Token]) -> Statement {
    let read_only = options.windows(2).find_map(|pair| match pair {
        [read, only] if read.is("read") && only.is("only") => Some(true),
        [read, write] if read.is("read") && write.is("write") => Some(false),
        _ => None,
    });
    let snapshot = options.iter().any(|t| t.is("snapshot"));
    let op = TxOp::Begin { isolation: None, read_only, deferrable: None, snapshot };
    let modes = Modes { read_only, ..Modes::default() };
    Statement { modes: Some(modes), commits: true, ..Statement::new("begin", Class::Tx(op)) }
}

/// The level that words name.
pub(super) fn isolation(words: &str) -> Option<Isolation> {
    Some(match words.to_ascii_lowercase().replace(['-', '_'], " ").as_str() {
        "read uncommitted" => Isolation::ReadUncommitted,
        "read committed" => Isolation::ReadCommitted,
        "repeatable read" => Isolation::RepeatableRead,
        "serializable" => Isolation::Serializable,
        _ => return None,
    })
}

/// The one setting of ours that is a session's to choose.
pub(super) fn is_consistency(tokens: &[Token]) -> bool {
    tokens.iter().any(|t| t.is("consistency"))
        && tokens.first().is_some_and(|t| t.is("set") || t.is("show"))
}
