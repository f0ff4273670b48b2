//! What class each statement of MariaDB and MySQL has: cases in `tests/classify-mysql/*.txt`, judged
//! with the catalog of `schema.sql` there as a real server described it (`catalog.txt`).
//!
//! A case is the SQL, a line `----`, and what is expected of each statement. `UPDATE_EXPECT=1`
//! writes what was found instead of comparing, the catalog too where MariaDB is installed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lockstep::sql::{
    Answers, Class, Hold, Judge, Maintenance, Outside, Scope, SetOp, Statement, Told, Touched,
    TxOp, informed, questions,
};
use lockstep_protocol::Dialect;
use maria::Server;
use proptest::prelude::*;

mod maria;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/classify-mysql")
}

fn updating() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}

static JUDGE: LazyLock<Box<dyn Judge>> = LazyLock::new(|| {
    let text = fs::read_to_string(folder().join("catalog.txt")).unwrap();
    informed(Dialect::MySql, &answers(&text)).unwrap()
});

/// Each query's rows under a line with its name, tabs between columns.
fn answers(text: &str) -> Answers<'_> {
    let mut answers = Answers::new();
    let mut name = "";
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(next) => {
                name = next;
                answers.entry(name).or_default();
            }
            None => {
                let row = line.split('\t').map(|field| Some(unescape(field))).collect();
                answers.entry(name).or_default().push(row);
            }
        }
    }
    answers
}

fn unescape(field: &str) -> String {
    field.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")
}

#[test]
fn the_catalog_is_what_a_real_server_says() {
    if !Server::is_there() {
        return;
    }
    let server = Server::start(&[]);
    let schema = fs::read_to_string(folder().join("schema.sql")).unwrap();
    let statements = schema.replace(";\nCREATE", "$$\nCREATE").replace(";\nUSE", "$$\nUSE");
    server.ask("", &format!("DELIMITER $$\n{statements}"));
    let mut text = String::new();
    for (name, query) in questions(Dialect::MySql) {
        writeln!(text, "== {name}").unwrap();
        text.push_str(&server.ask("", &format!("SET sql_mode=''; {query}")));
    }
    let path = folder().join("catalog.txt");
    if updating() {
        fs::write(&path, &text).unwrap();
    }
    // The first row says which server it is, down to its package.
    let rest =
        |text: &str| text.lines().filter(|l| !l.contains("MariaDB")).collect::<Vec<_>>().join("\n");
    assert_eq!(rest(&fs::read_to_string(path).unwrap()), rest(&text));
}

#[test]
fn every_statement_has_the_class_that_it_must_have() {
    let mut wrong = String::new();
    let mut count = 0;
    for path in case_files() {
        let text = fs::read_to_string(&path).unwrap();
        let mut out = String::new();
        for block in text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
            let (input, expected) = match block.split_once("\n----") {
                Some((input, expected)) => (input, expected.trim()),
                None if block.starts_with("%% ") => {
                    writeln!(out, "{block}\n").unwrap();
                    continue;
                }
                None => (block, ""),
            };
            count += 1;
            let found = judge(input);
            if found.trim() != expected {
                let name = path.file_name().unwrap().to_string_lossy();
                writeln!(wrong, "{name}:\n{input}\nexpected:\n{expected}\nfound:\n{found}\n")
                    .unwrap();
            }
            writeln!(out, "{input}\n----\n{}\n", found.trim()).unwrap();
        }
        if updating() {
            fs::write(&path, out.trim_end().to_owned() + "\n").unwrap();
        }
    }
    assert!(count >= 150, "only {count} cases were found");
    assert!(updating() || wrong.is_empty(), "{wrong}");
}

fn case_files() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .filter(|path| path.file_name().is_some_and(|name| name != "catalog.txt"))
        .collect();
    files.sort();
    files
}

/// Runs a case: lines that begin with `@@@` say what the session is like, the rest is SQL.
fn judge(input: &str) -> String {
    let mut scope =
        Scope { user: "alice".into(), search_path: Some(vec!["app".into()]), ..Scope::default() };
    let mut sql = Vec::new();
    for line in input.lines() {
        if let Some(temp) = line.strip_prefix("@@@temp ") {
            scope.temp_tables.insert(temp.to_owned());
        } else if let Some(database) = line.strip_prefix("@@@use") {
            let database = database.trim();
            scope.search_path = Some(vec![database.to_owned()]).filter(|_| !database.is_empty());
        } else if let Some(mode) = line.strip_prefix("@@@mode ") {
            scope.sql_mode = Some(mode.to_owned());
        } else {
            sql.push(line);
        }
    }
    let sql = sql.join("\n");
    let script = JUDGE.judge(&sql, &scope).unwrap();
    if script.statements.is_empty() {
        return "empty".to_owned();
    }
    let many = script.statements.len() > 1;
    let lines = script.statements.iter().map(|statement| {
        let text =
            if many { format!("[{}] ", &sql[statement.range.clone()]) } else { String::new() };
        text + &describe(statement)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn describe(statement: &Statement) -> String {
    let mut out = format!("{} {}", statement.tag, class(&statement.class));
    for (name, touched) in [("reads", &statement.reads), ("writes", &statement.writes)] {
        match touched {
            Touched::None => {}
            Touched::Tables(tables) => write!(out, " {name}={}", tables.join(",")).unwrap(),
            Touched::Unknown => write!(out, " {name}=?").unwrap(),
        }
    }
    let context = &statement.context;
    let flags = [
        (context.insert_id, "insert_id"),
        (context.last_insert_id, "last_insert_id"),
        (context.clock, "clock"),
        (context.hidden_id, "hidden_id"),
        (context.rand_seeds, "rand_seeds"),
        (statement.locks_rows, "locks"),
        (statement.commits, "commits"),
        (statement.returns_rows, "rows"),
        (statement.beyond_rows, "beyond_rows"),
        (statement.in_steps, "in_steps"),
    ];
    for (_, flag) in flags.iter().filter(|(on, _)| *on) {
        write!(out, " {flag}").unwrap();
    }
    for variable in &context.user_variables {
        write!(out, " @{variable}").unwrap();
    }
    if !statement.creates_temp.is_empty() {
        write!(out, " makes={}", statement.creates_temp.join(",")).unwrap();
    }
    if !statement.drops.is_empty() {
        write!(out, " drops={}", statement.drops.join(",")).unwrap();
    }
    out
}

fn class(class: &Class) -> String {
    match class {
        Class::Read => "READ".to_owned(),
        Class::LeaderRead { hold: Hold::Session } => "LEADER(session)".to_owned(),
        Class::LeaderRead { .. } => "LEADER".to_owned(),
        Class::Keyed => "KEYED".to_owned(),
        Class::Maintenance(Maintenance::Everywhere) => "MAINTENANCE(everywhere)".to_owned(),
        Class::Maintenance(Maintenance::Journaled(Outside::Implicit(kind))) => {
            format!("MAINTENANCE({})", format!("{kind:?}").to_lowercase())
        }
        Class::Set(SetOp::Each(settings)) => {
            let each = settings.iter().map(|setting| match &setting.told {
                Told::Constant(statement, None) => format!("\n  {}: {statement}", setting.key),
                Told::Constant(statement, Some(value)) => {
                    format!("\n  {}: {statement} [{value}]", setting.key)
                }
                Told::Asked(_) => format!("\n  {}: asked", setting.key),
                Told::Dropped => format!("\n  {}: dropped", setting.key),
            });
            format!("SET{}", each.collect::<String>())
        }
        Class::Set(SetOp::Noted(settings)) => {
            let keys: Vec<&str> = settings.iter().map(|setting| setting.key.as_str()).collect();
            format!("NOTED [{}]", keys.join(","))
        }
        Class::Tx(TxOp::Begin { read_only, .. }) => format!("BEGIN read_only={read_only:?}"),
        Class::Tx(op) => format!("TX {op:?}"),
        Class::Refused(refusal) => {
            format!("REFUSED {} {}; {}", refusal.sqlstate, refusal.message, refusal.hint)
        }
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,120}") {
        let _ = JUDGE.judge(&text, &Scope::default());
    }

    #[test]
    fn no_mixture_of_sql_makes_it_panic(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..24),
        ansi in any::<bool>(),
    ) {
        let text = words.join(" ");
        let mode = if ansi { "ANSI_QUOTES,NO_BACKSLASH_ESCAPES" } else { "" };
        let scope = Scope { sql_mode: Some(mode.to_owned()), search_path: Some(vec!["app".into()]), ..Scope::default() };
        for statement in JUDGE.judge(&text, &scope).unwrap().statements {
            prop_assert!(text.get(statement.range.clone()).is_some());
        }
    }
}

/// Not a benchmark, only a guard against something quadratic: a long statement is read in time.
#[test]
fn a_long_statement_is_read_in_time() {
    let rows: Vec<String> = (0..20_000).map(|n| format!("({n}, 'x')")).collect();
    let text = format!("INSERT INTO plain (id, name) VALUES {}", rows.join(","));
    assert!(judge(&text).starts_with("insert KEYED"));
    let list: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    let text = format!("SELECT * FROM plain WHERE id IN ({})", list.join(","));
    assert!(judge(&text).starts_with("select READ"));
}

const WORDS: &[&str] = &[
    "SELECT",
    "INSERT",
    "INTO",
    "plain",
    "VALUES",
    "(",
    ")",
    "1",
    "'now'",
    ",",
    ";",
    "UPDATE",
    "SET",
    "n",
    "=",
    "WHERE",
    "id",
    "DELETE",
    "FROM",
    "CREATE",
    "TABLE",
    "AS",
    "t",
    "IF",
    "NOT",
    "EXISTS",
    "WITH",
    "ALTER",
    "DROP",
    "TEMPORARY",
    "--",
    "/*",
    "*/",
    "/*!",
    "/*!50000",
    "\"ü\"",
    "?",
    "`",
    "'\\''",
    "FUNCTION",
    "twice",
    "(1)",
    "CALL",
    "moves",
    "PASSWORD",
    "'x'",
    "LIMIT",
    "USING",
    "EXPLAIN",
    "ANALYZE",
    "PREPARE",
    "p",
    "EXECUTE",
    "BEGIN",
    "COMMIT",
    "@a",
    "@@x",
    ":=",
    "GLOBAL",
    "TO",
    "DEFAULT",
    "ON",
    "DUPLICATE",
    "KEY",
    "UNION",
    "ALL",
    "ORDER",
    "BY",
    "TRIGGER",
    "END",
    "CASE",
    "lockstep",
    ".",
    "RETURNING",
    "*",
    "NAMES",
    "TRANSACTION",
    "COLLATE",
    "REPLACE",
    "USE",
    "JOIN",
    "PARTITION",
    "LOAD",
    "START",
    "ROLLBACK",
    "SAVEPOINT",
    "FOR",
    "LOCK",
    "IN",
    "RAND",
    "OVER",
    "#",
];
