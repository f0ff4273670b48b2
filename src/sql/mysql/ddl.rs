//! What changes the schema, and the statements that stand beside it.
//!
//! The server ends the open transaction before any of these, and none of them can be undone: they run
//! on one server after the other, between an intent and its outcome. After an interruption has to be
//! known what may be done twice, and what shows whether it has been done.

use super::analyze::upkeep;
use super::lexer::{Kind, Token};
use super::names::{Names, Target};
use super::statement::{Class, Hold, Implicit, Maintenance, Outside, Refusal, Statement, Touched};
use super::walk::Walk;

/// Classifies what begins with this word; `None` when it is none of these.
pub(super) fn classify(names: Names<'_>, tokens: &[Token], word: &str) -> Option<Statement> {
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|t| t.is(word));
    Some(match word {
        "create" => create(names, tokens),
        "alter" => alter(names, tokens),
        "drop" => drop(names, tokens),
        "rename" if is(1, "user") => account("ddl"),
        "rename" if is(1, "table") || is(1, "tables") => rename(names, tokens),
        "truncate" => truncate(names, tokens),
        "grant" | "revoke" => account("ddl"),
        "analyze" | "optimize" | "check" | "repair" => upkeep("upkeep"),
        "checksum" => Statement { returns_rows: true, ..Statement::new("upkeep", Class::Read) },
        "flush" => flush(tokens),
        "lock" => super::lock::lock(names, tokens),
        "unlock" => Statement::new("unlock", Class::UnlockTables),
        "handler" => refused("handler", "HANDLER reads past every transaction", "SELECT."),
        "kill" => kill(tokens),
        "install" | "uninstall" | "shutdown" | "change" | "stop" | "reset" | "purge" | "binlog"
        | "import" | "clone" | "cache" | "backup" | "restart" => refused(
            "server",
            "it concerns one server, not the database",
            "Run it on each server by itself.",
        ),
        _ => return None,
    })
}

fn refused(tag: &'static str, why: &str, instead: &str) -> Statement {
    Statement::refused(tag, Refusal::unsupported(why, instead))
}

/// KILL of a connection, or of what it runs, by the number that a client was told at its login.
fn kill(tokens: &[Token]) -> Statement {
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|t| t.is(word));
    let at = 1 + usize::from(is(1, "hard") || is(1, "soft"));
    let (query, connection) = (is(at, "query"), is(at, "connection"));
    let number = at + usize::from(query || connection);
    let number = tokens.get(number).filter(|_| tokens.len() == number + 1);
    match number.and_then(|token| token.text.parse().ok()) {
        Some(number) => Statement::new("kill", Class::Kill { number, whole: !query }),
        None => refused(
            "kill",
            "KILL takes the number of one connection",
            "SELECT CONNECTION_ID(), or the number that the driver shows.",
        ),
    }
}

fn implicit(tag: &'static str, kind: Implicit) -> Statement {
    let class = Maintenance::Journaled(Outside::Implicit(kind));
    Statement { commits: true, ..Statement::maintenance(tag, class) }
}

fn schema(kind: Implicit) -> Statement {
    Statement { writes: Touched::Unknown, ..implicit("ddl", kind) }
}

/// About accounts and rights.
pub(super) fn account(tag: &'static str) -> Statement {
    implicit(tag, Implicit::Account)
}

/// Tables that only exchange their names look the same before and after.
fn rename(names: Names<'_>, tokens: &[Token]) -> Statement {
    let pairs = tokens[2..].split(|t| t.symbol(","));
    let table = |name: &[Token]| {
        let length = names.target(name)?.1;
        let parts = name[..length].iter().filter(|t| !t.symbol("."));
        Some(parts.map(|t| t.text.to_lowercase()).collect::<Vec<_>>())
    };
    let sides = pairs.filter_map(|pair| {
        let to = pair.iter().position(|t| t.is("to"))?;
        Some((table(&pair[..to])?, table(&pair[to + 1..])?))
    });
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for (from, to) in sides {
        match new.iter().position(|name| *name == from) {
            Some(at) => {
                new.remove(at);
            }
            None => gone.push(from),
        }
        new.push(to);
    }
    if !gone.is_empty() && gone.iter().all(|name| new.contains(name)) {
        return refused(
            "ddl",
            "tables that exchange their names would not be told from tables that have not yet",
            "RENAME one of them to a third name in a statement of its own first.",
        );
    }
    schema(Implicit::Once)
}

/// Where the kind of object stands: behind OR REPLACE, DEFINER and the like.
fn kind<'t>(tokens: &'t [Token], kinds: &[&str]) -> Option<(usize, &'t str)> {
    let place = tokens.iter().position(|t| kinds.iter().any(|kind| t.is(kind)))?;
    Some((place, tokens[place].text.as_str()))
}

const KINDS: &[&str] = &[
    "table",
    "view",
    "index",
    "procedure",
    "function",
    "trigger",
    "event",
    "database",
    "schema",
    "sequence",
    "server",
    "tablespace",
    "user",
    "role",
    "package",
    "logfile",
    "undo",
    "spatial",
];

/// Whether these words follow one another somewhere.
fn says(tokens: &[Token], words: &[&str]) -> bool {
    tokens.windows(words.len()).any(|found| found.iter().zip(words).all(|(t, word)| t.is(word)))
}

/// What is replaced goes with everything in it, whether or not the new one looks the same.
fn made(tokens: &[Token]) -> Statement {
    let replaces = says(&tokens[..tokens.len().min(4)], &["or", "replace"]);
    schema(if replaces { Implicit::Again } else { Implicit::Once })
}

fn create(names: Names<'_>, tokens: &[Token]) -> Statement {
    let Some((at, what)) = kind(tokens, KINDS) else {
        return super::analyze::unreadable("what is to be created is not known");
    };
    match what {
        "table" => create_table(names, tokens, at),
        "event" => refused(
            "ddl",
            "events would run on every server by themselves",
            "Use a scheduler outside.",
        ),
        "sequence" => {
            refused("ddl", "sequences are not replicated yet", "Use an AUTO_INCREMENT column.")
        }
        "function" if tokens.iter().any(|t| t.is("soname")) => {
            refused("ddl", "what a loaded function does is not known", "Write a stored function.")
        }
        "server" | "tablespace" | "logfile" | "undo" | "package" => refused(
            "ddl",
            &format!("CREATE {} is not supported", what.to_uppercase()),
            "Leave it out.",
        ),
        "user" | "role" => account("ddl"),
        _ => made(tokens),
    }
}

fn create_table(names: Names<'_>, tokens: &[Token], at: usize) -> Statement {
    let temporary = tokens[..at].iter().any(|t| t.is("temporary"));
    let exists = ["if", "not", "exists"];
    let name =
        at + 1 + tokens[at + 1..].iter().take_while(|t| exists.iter().any(|w| t.is(w))).count();
    if temporary {
        let bare =
            names.target(&tokens[name.min(tokens.len())..]).map(|(_, length)| name + length - 1);
        let made = bare.map(|at| tokens[at].text.clone()).into_iter().collect();
        let class = Class::LeaderRead { hold: Hold::Session };
        return Statement { creates_temp: made, ..Statement::new("ddl", class) };
    }
    let filled = tokens.iter().skip(name).any(|t| t.is("select"))
        || tokens
            .windows(2)
            .any(|pair| pair[0].is("as") && (pair[1].is("values") || pair[1].is("table")));
    if filled {
        return refused(
            "ddl",
            "a table that is created and filled at once could be filled otherwise on another server",
            "CREATE TABLE first, then INSERT … SELECT … ORDER BY a key.",
        );
    }
    engine(tokens).unwrap_or_else(|| made(tokens))
}

/// An engine without transactions, or a place on the server's disk.
fn engine(tokens: &[Token]) -> Option<Statement> {
    for (at, token) in tokens.iter().enumerate() {
        let value = || {
            let skip = usize::from(tokens.get(at + 1).is_some_and(|t| t.symbol("=")));
            tokens.get(at + 1 + skip)
        };
        if token.is("engine") && value().is_some_and(|t| !t.text.eq_ignore_ascii_case("innodb")) {
            return Some(refused(
                "ddl",
                "tables of this engine have no transactions and cannot be kept the same",
                "Use ENGINE=InnoDB.",
            ));
        }
        if token.is("versioning") && tokens.get(at.wrapping_sub(1)).is_some_and(|t| t.is("system"))
        {
            return Some(refused(
                "ddl",
                "rows that carry the times of their changes differ from server to server",
                "Keep the history with a trigger.",
            ));
        }
        if token.is("directory") {
            return Some(refused("ddl", "a place on one server's disk is named", "Leave it out."));
        }
    }
    None
}

fn alter(names: Names<'_>, tokens: &[Token]) -> Statement {
    let Some((at, what)) = kind(tokens, KINDS) else {
        return super::analyze::unreadable("what is to be altered is not known");
    };
    if what != "table" {
        return create(names, tokens);
    }
    let name = at + 1 + usize::from(tokens.get(at + 1).is_some_and(|t| t.is("if"))) * 2;
    let table = match names.target(&tokens[name.min(tokens.len())..]) {
        Some((Target::Temporary, _)) => {
            return Statement::new("ddl", Class::LeaderRead { hold: Hold::Session });
        }
        Some((Target::Known(tables), _)) => tables.first().copied(),
        _ => None,
    };
    if let Some(refused) = engine(tokens) {
        return refused;
    }
    let adds = tokens.iter().any(|t| t.is("add") || t.is("modify") || t.is("change"));
    let numbers = tokens.iter().any(|t| t.is("auto_increment"))
        && !tokens.windows(2).any(|pair| pair[0].is("auto_increment") && pair[1].symbol("="));
    if adds && numbers && table.is_none_or(|table| table.keys.is_empty()) {
        return refused(
            "ddl",
            "the rows of a table without a key would be numbered in another order on every server",
            "Give the table a primary key first.",
        );
    }
    if adds && fills_differently(names, &tokens[name.min(tokens.len())..]) {
        return refused(
            "ddl",
            "the rows that are there would get another value on every server",
            "Add the column without that default, UPDATE it, then ALTER … SET DEFAULT.",
        );
    }
    rows_of_partitions(tokens).unwrap_or_else(|| {
        let numbered = tokens.windows(2).any(|p| p[0].is("auto_increment") && p[1].symbol("="));
        let shows = !numbered && !says(tokens, &["truncate", "partition"]);
        schema(if shows { Implicit::Once } else { Implicit::Again })
    })
}

/// Rows that change their table do not show in the schema, and changing twice is to change back.
fn rows_of_partitions(tokens: &[Token]) -> Option<Statement> {
    if says(tokens, &["exchange", "partition"]) {
        return Some(refused(
            "ddl",
            "rows that change places with another table's would not be told from rows that have not yet",
            "INSERT … SELECT them, and TRUNCATE the partition.",
        ));
    }
    (says(tokens, &["discard", "tablespace"]) || says(tokens, &["import", "tablespace"]))
        .then(|| refused("ddl", "a file on one server's disk is meant", "INSERT the rows."))
}

/// Whether a new column's default is a clock, or differs from one server to the next. A default of a
/// column that allows no NULL fills the rows that are there.
fn fills_differently(names: Names<'_>, tokens: &[Token]) -> bool {
    let defaults = tokens.iter().enumerate().filter(|(_, t)| t.is("default") || t.is("as"));
    defaults.into_iter().any(|(at, token)| {
        let end =
            tokens[at..].iter().position(|t| t.symbol(",")).map_or(tokens.len(), |end| at + end);
        let value = &tokens[at + 1..end];
        let clock = value.iter().any(|t| {
            t.kind == Kind::Word
                && [
                    "current_timestamp",
                    "now",
                    "localtime",
                    "localtimestamp",
                    "curdate",
                    "current_date",
                    "unix_timestamp",
                    "sysdate",
                    "curtime",
                    "current_time",
                ]
                .contains(&t.text.as_str())
        });
        let mut walk = Walk::new(names);
        walk.tokens(value);
        let rolls = walk.facts.context.rand_seeds || walk.facts.differs.is_some();
        token.is("default") && (clock || rolls)
    })
}

fn drop(names: Names<'_>, tokens: &[Token]) -> Statement {
    let Some((at, what)) = kind(tokens, KINDS) else {
        return super::analyze::unreadable("what is to be dropped is not known");
    };
    match what {
        "table" => {}
        "user" | "role" => return account("ddl"),
        "view" | "database" | "schema" => return schema(Implicit::Again),
        _ => return schema(Implicit::Once),
    }
    let exists = ["if", "exists"];
    let rest = &tokens[at + 1..];
    let rest = &rest[rest.iter().take_while(|t| exists.iter().any(|w| t.is(w))).count()..];
    let listed: Vec<&[Token]> = rest.split(|t| t.symbol(",")).collect();
    let temporary = |name: &&[Token]| matches!(names.target(name), Some((Target::Temporary, _)));
    let count = listed.iter().filter(|name| temporary(name)).count();
    if tokens[..at].iter().any(|t| t.is("temporary")) || count == listed.len() && count > 0 {
        let bare = listed.iter().filter_map(|name| {
            let length = names.target(name)?.1;
            name.get(length - 1).map(|t| t.text.clone())
        });
        let class = Class::LeaderRead { hold: Hold::Session };
        return Statement { drops: bare.collect(), ..Statement::new("ddl", class) };
    }
    if count > 0 {
        return refused(
            "ddl",
            "temporary tables and others are dropped in one statement",
            "DROP TEMPORARY TABLE for the temporary ones.",
        );
    }
    // Tables go one by one.
    schema(Implicit::Again)
}

fn truncate(names: Names<'_>, tokens: &[Token]) -> Statement {
    let name = 1 + usize::from(tokens.get(1).is_some_and(|t| t.is("table")));
    match names.target(&tokens[name.min(tokens.len())..]) {
        Some((Target::Temporary, _)) => {
            Statement::new("truncate", Class::LeaderRead { hold: Hold::Session })
        }
        _ => schema(Implicit::Again),
    }
}

fn flush(tokens: &[Token]) -> Statement {
    if tokens.iter().any(|t| t.is("lock") || t.is("export")) {
        return refused(
            "flush",
            "FLUSH … WITH READ LOCK would stop one server only",
            "PAUSE on the console.",
        );
    }
    upkeep("flush")
}
