//! What class each statement has: cases in `tests/classify/*.txt`, judged with the catalog of
//! `tests/classify/schema.sql` as a real server described it (`catalog.txt`).
//!
//! A case is the SQL, a line `----`, and what is expected of each statement. `UPDATE_EXPECT=1`
//! writes what was found instead of comparing; `LOCKSTEP_PG_BIN=<directory>` besides builds
//! `catalog.txt` anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lockstep::sql::{
    Catalog, Class, Hold, Maintenance, Scope, Sequences, SetOp, Statement, Touched, TxOp, analyze,
    shape,
};
use lockstep_protocol::Dialect;
use proptest::prelude::*;

use server::Server;

#[path = "classify/server.rs"]
mod server;
#[path = "classify/steps.rs"]
mod steps;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/classify")
}

static CATALOG_TEXT: LazyLock<String> =
    LazyLock::new(|| fs::read_to_string(folder().join("catalog.txt")).unwrap());

static CATALOG: LazyLock<Catalog> =
    LazyLock::new(|| Catalog::from_rows(&parse_catalog(&CATALOG_TEXT)).unwrap());

/// COPY's text format, each query's rows under a line with its name.
fn parse_catalog(text: &str) -> BTreeMap<&str, Vec<Vec<Option<String>>>> {
    let mut rows: BTreeMap<&str, Vec<Vec<Option<String>>>> = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(next) => {
                name = next;
                rows.entry(name).or_default();
            }
            None => rows.entry(name).or_default().push(line.split('\t').map(unescape).collect()),
        }
    }
    rows
}

fn unescape(field: &str) -> Option<String> {
    if field == "\\N" {
        return None;
    }
    let mut out = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    Some(out)
}

#[test]
fn every_statement_has_the_class_that_it_must_have() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = String::new();
    let mut count = 0;
    for path in case_files() {
        let text = fs::read_to_string(&path).unwrap();
        let mut out = String::new();
        for block in text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
            let Some((input, expected)) = block.split_once("\n----") else {
                // A remark between cases.
                writeln!(out, "{}\n", block.trim_end_matches("\n----")).unwrap();
                continue;
            };
            count += 1;
            let found = judge(input);
            if found.trim() != expected.trim() {
                let name = path.file_name().unwrap().to_string_lossy();
                writeln!(wrong, "{name}:\n{input}\nexpected:\n{expected}\nfound:\n{found}\n")
                    .unwrap();
            }
            writeln!(out, "{input}\n----\n{}\n", found.trim()).unwrap();
        }
        if update {
            fs::write(&path, out.trim_end().to_owned() + "\n").unwrap();
        }
    }
    assert!(count >= 150, "only {count} cases were found");
    assert!(update || wrong.is_empty(), "{wrong}");
}

/// Values that would mean something where a rule looked at them.
const TELLING: [&str; 8] = [
    "'x'",
    "'plain'",
    "'pg_class'",
    "'lockstep.token'",
    "'session_authorization'",
    "'on'",
    "'2024-05-06'",
    "''",
];

/// Whether a query has its class for all texts of its shape.
fn is_plain_read(described: &str) -> bool {
    described.starts_with("select READ")
        && !described.contains(" clock")
        && !described.contains(" currval")
        && !described.contains(" set_config")
}

/// Texts of the same shape, with other values.
fn alike(shape: &str) -> Vec<String> {
    let one = |number: &str, string: &str| shape.replace('\u{1}', number).replace('\u{2}', string);
    let mut texts: Vec<String> = TELLING.iter().map(|string| one("1", string)).collect();
    texts.extend(["9", "77", "999999999"].map(|number| one(number, "'y'")));
    texts
}

#[test]
fn reads_of_one_shape_are_judged_alike() {
    let mut queries: Vec<String> = Vec::new();
    for path in case_files() {
        let text = fs::read_to_string(&path).unwrap();
        let inputs = text.split("\n\n").filter_map(|block| block.trim().split_once("\n----"));
        queries.extend(inputs.map(|(input, _)| input.to_owned()));
    }
    let names = CATALOG_TEXT.lines().flat_map(|line| line.split('\t').take(3));
    let names: BTreeSet<&str> =
        names.filter(|name| name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())).collect();
    for name in names {
        queries.push(format!("SELECT {name}('a', 'b', 1, 'c') = 'd'"));
        queries.push(format!("SELECT id FROM plain WHERE id = 5 AND {name}(1, 'plain') > 'x'"));
        queries.push(format!(
            "SELECT cast(id AS {name}) FROM plain WHERE {name} = 'a' OR {name} 'b' = 'c'"
        ));
    }
    let mut compared = 0;
    for input in queries {
        let (session, sql): (Vec<&str>, Vec<&str>) =
            input.lines().partition(|line| line.starts_with('@'));
        let Some(shape) = shape(Dialect::Postgres, &sql.join("\n")) else { continue };
        let judged: BTreeMap<String, String> = alike(&shape)
            .into_iter()
            .map(|sql| {
                assert_eq!(lockstep::sql::shape(Dialect::Postgres, &sql).as_ref(), Some(&shape));
                let found = judge(&[session.join("\n"), sql.clone()].join("\n"));
                (sql, found)
            })
            .collect();
        let classes: BTreeSet<&String> = judged.values().collect();
        compared += 1;
        assert!(
            classes.len() == 1 || !classes.iter().any(|found| is_plain_read(found)),
            "{input}: {judged:#?}"
        );
    }
    assert!(compared > 500, "only {compared} queries have a shape");
}

fn case_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .filter(|path| path.file_name().is_some_and(|name| name != "catalog.txt"))
        .collect();
    files.sort();
    files
}

/// Runs a case: lines that begin with `@` say what the session is like, the rest is SQL.
fn judge(input: &str) -> String {
    let mut scope = Scope { user: "alice".to_owned(), ..Scope::default() };
    let mut sql = Vec::new();
    for line in input.lines() {
        let list = |text: &str| -> Vec<String> {
            text.split(',').map(|item| item.trim().to_owned()).collect()
        };
        if let Some(temp) = line.strip_prefix("@temp ") {
            scope.temp_tables = list(temp).into_iter().collect::<BTreeSet<_>>();
        } else if line == "@path ?" {
            scope.search_path = None;
        } else if let Some(path) = line.strip_prefix("@path ") {
            scope.search_path = Some(list(path));
        } else if line == "@scs off" {
            scope.standard_conforming_strings = false;
        } else {
            sql.push(line);
        }
    }
    let sql = sql.join("\n");
    match analyze(&sql, &CATALOG, &scope) {
        Err(error) => format!("error: {error}"),
        Ok(script) if script.statements.is_empty() => "empty".to_owned(),
        Ok(script) => {
            let lines: Vec<String> =
                script.statements.iter().map(|statement| describe(&sql, statement)).collect();
            lines.join("\n")
        }
    }
}

fn describe(sql: &str, statement: &Statement) -> String {
    let mut out = format!("{} {}", statement.tag, class(sql, &statement.class));
    match &statement.reads {
        Touched::None => {}
        Touched::Tables(tables) => write!(out, " reads={}", tables.join(",")).unwrap(),
        Touched::Unknown => out.push_str(" reads=?"),
    }
    match &statement.writes {
        Touched::None => {}
        Touched::Tables(tables) => write!(out, " writes={}", tables.join(",")).unwrap(),
        Touched::Unknown => out.push_str(" writes=?"),
    }
    match &statement.sequences {
        Sequences::None => {}
        Sequences::Named(names) => write!(out, " sequences={}", names.join(",")).unwrap(),
        Sequences::Any => out.push_str(" sequences=?"),
    }
    let flags = [
        (statement.locks_rows, "locks"),
        (statement.clock, "clock"),
        (statement.resets_sequences, "resets"),
        (statement.uses_currval, "currval"),
        (statement.temp_until_commit, "until-commit"),
        (statement.returns_rows, "rows"),
        (statement.portable, "portable"),
    ];
    for (_, flag) in flags.iter().filter(|(on, _)| *on) {
        write!(out, " {flag}").unwrap();
    }
    if !statement.creates_temp.is_empty() {
        write!(out, " makes={}", statement.creates_temp.join(",")).unwrap();
    }
    if !statement.drops.is_empty() {
        write!(out, " drops={}", statement.drops.join(",")).unwrap();
    }
    if let Some(set) = &statement.set_config {
        write!(out, " set_config={set:?}").unwrap();
    }
    if let Some(modes) = &statement.modes {
        write!(out, " {modes:?}").unwrap();
    }
    if !statement.keyed_if.is_empty() {
        let params: Vec<String> = statement
            .keyed_if
            .iter()
            .map(|param| format!("${}:{}", param.number, param.type_name))
            .collect();
        write!(out, " keyed-if={}", params.join(",")).unwrap();
    }
    if let Some(returned) = &statement.returned {
        write!(out, " followers=[{}] shown={}", returned.followers, returned.shown).unwrap();
        for draw in &returned.draws {
            write!(out, " draws=${}:{}", draw.place + 1, draw.sequence).unwrap();
        }
        if let Sequences::Named(names) = &returned.asks {
            write!(out, " asks={}", names.join(",")).unwrap();
        }
    }
    if let Some(cursor) = &statement.cursor {
        write!(out, " cursor={cursor}").unwrap();
    }
    out
}

fn hold(hold: Hold) -> &'static str {
    match hold {
        Hold::Statement => "statement",
        Hold::Transaction => "transaction",
        Hold::Session => "session",
    }
}

fn class(sql: &str, class: &Class) -> String {
    match class {
        Class::Read => "READ".to_owned(),
        Class::LeaderRead { hold: h } => format!("LEADER({})", hold(*h)),
        Class::Keyed => "KEYED".to_owned(),
        Class::Captured { hold: h } => format!("CAPTURED({})", hold(*h)),
        Class::CopyIn(copy) => format!("COPY-IN {copy:?}"),
        Class::Ddl(ddl) => {
            let mut out = "DDL".to_owned();
            if let Some(text) = &ddl.followers {
                write!(out, " followers=[{text}]").unwrap();
            }
            if let Some(split) = &ddl.split {
                write!(out, " create=[{}] fill=[{}]", split.create, split.fill).unwrap();
            }
            if let Some(password) = &ddl.password {
                let literal = &sql[password.range.clone()];
                write!(out, " password={literal} plain={}", password.plain).unwrap();
            }
            if let Some(after) = &ddl.after {
                write!(out, " after=[{after}]").unwrap();
            }
            for step in &ddl.steps {
                let way = if step.captured { "rows" } else { "text" };
                write!(out, "\n  {way}: {}", step.sql).unwrap();
            }
            if !ddl.steps.is_empty() {
                out.push_str("\n ");
            }
            out.push_str(if ddl.duplicate_trigger { " duplicate-trigger" } else { "" });
            out.push_str(if ddl.reads_rows { " reads-rows" } else { "" });
            out
        }
        Class::Maintenance(Maintenance::Everywhere) => "MAINTENANCE(everywhere)".to_owned(),
        Class::Maintenance(Maintenance::Journaled(what)) => format!("MAINTENANCE {what:?}"),
        Class::Set(SetOp::Transaction(modes)) => format!("SET-TRANSACTION [{modes}]"),
        Class::Set(op) => format!("SET {op:?}"),
        Class::Tx(TxOp::Begin { .. }) => "BEGIN".to_owned(),
        Class::Tx(op) => format!("TX {op:?}"),
        Class::PrepareSql { name, body } => {
            format!("PREPARE {name} [{}] as {}", &sql[body.range.clone()], describe(sql, body))
        }
        Class::Refused(refusal) => format!("REFUSED {} {}", refusal.sqlstate, refusal.message),
        other => format!("{other:?}"),
    }
}

/// With a server at hand, the catalog is what that server says, and all queries are good SQL.
#[test]
fn the_catalog_is_read_from_a_real_server() {
    let Some(bin) = std::env::var_os("LOCKSTEP_PG_BIN").map(PathBuf::from) else {
        return;
    };
    let server = Server::start(bin);
    server.ask("postgres", &fs::read_to_string(folder().join("schema.sql")).unwrap());
    let mut text = String::new();
    for (name, query) in Catalog::queries() {
        let copy = format!("SET search_path = pg_catalog; COPY ({query}) TO STDOUT");
        let rows = server.ask("postgres", &copy);
        writeln!(text, "== {name}\n{}", rows.trim_end_matches('\n')).unwrap();
    }
    let text = text.replace("\n\n", "\n");
    Catalog::from_rows(&parse_catalog(&text)).unwrap();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(folder().join("catalog.txt"), only_what_is_used(&text)).unwrap();
    }
}

/// Of PostgreSQL's own functions, operators and relations those that a case or the schema names:
/// the others would only be ballast.
fn only_what_is_used(text: &str) -> String {
    let mut used = String::new();
    for path in case_files().into_iter().chain([folder().join("schema.sql")]) {
        used.push_str(&fs::read_to_string(path).unwrap().to_lowercase());
    }
    // What the grammar and the server's deparser write in other words.
    used.push_str(
        " btrim date_part extract timezone numeric int4 pg_collation_for overlay position ",
    );
    let words: BTreeSet<&str> = used.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let mut name = "";
    let mut out = String::new();
    for line in text.lines() {
        name = line.strip_prefix("== ").unwrap_or(name);
        let first = line.split('\t').next().unwrap_or("");
        let ballast = match name {
            "builtins" | "system" => !line.starts_with("== ") && !words.contains(first),
            _ => false,
        };
        if !ballast {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,120}") {
        let _ = analyze(&text, &CATALOG, &Scope::default());
    }

    #[test]
    fn no_mixture_of_sql_makes_it_panic(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..24),
        standard in any::<bool>(),
    ) {
        let text = words.join(" ");
        let scope = Scope { standard_conforming_strings: standard, ..Scope::default() };
        if let Ok(script) = analyze(&text, &CATALOG, &scope) {
            for statement in script.statements {
                prop_assert!(text.get(statement.range.clone()).is_some());
            }
        }
    }
}

/// The parse tree's decoder stops at a certain depth: what lies deeper is judged by its first word,
/// and everything around it as ever.
#[test]
fn what_nests_too_deeply_is_judged_by_its_first_word() {
    let deep = format!("SELECT 1{}", " + 1".repeat(200));
    let judged = judge(&format!("BEGIN; {deep}; DELETE FROM plain WHERE id = 1; COMMIT"));
    let lines: Vec<&str> = judged.lines().collect();
    assert!(lines[0].starts_with("begin BEGIN"), "{judged}");
    assert!(lines[1].starts_with("select CAPTURED(session)"), "{judged}");
    assert!(lines[2].starts_with("delete KEYED"), "{judged}");
    assert!(lines[3].starts_with("commit"), "{judged}");
    assert!(judge(&format!("CREATE VIEW v AS {deep}")).starts_with("other REFUSED 54001"));
    assert!(judge(&deep.replacen('1', "lockstep.apply()", 1)).contains("REFUSED 54001"));
    let union = format!("SELECT 1 INTO x{}", " UNION SELECT 1".repeat(20));
    assert!(
        judge(&format!("{deep}; {union}")).contains("create=[CREATE TABLE \"x\" AS SELECT 1 UNION")
    );
    // Far deeper the parser itself gives up: an error, not an overflow.
    for text in
        ["SELECT 1".to_owned() + &"+1".repeat(200_000), "SELECT ".to_owned() + &"(".repeat(200_000)]
    {
        let _ = judge(&text);
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
    "SELECT", "INSERT", "INTO", "plain", "VALUES", "(", ")", "1", "'now'", ",", ";", "UPDATE",
    "SET", "n", "=", "WHERE", "id", "DELETE", "FROM", "CREATE", "TABLE", "AS", "t", "IF", "NOT",
    "EXISTS", "WITH", "DATA", "NO", "INTO", "TEMP", "--", "/*", "*/", "\"ü\"", "$1", "$$",
    "E'\\''", "DROP", "FUNCTION", "f_vol", "(1)", "ALTER", "ROLE", "PASSWORD", "'x'", "COPY",
    "STDIN", "EXPLAIN", "ANALYZE", "PREPARE", "p", "EXECUTE", "BEGIN", "COMMIT", "SET", "LOCAL",
    "TO", "DEFAULT", "::", "date", "UNION", "ALL", "ORDER", "BY", "LIMIT", "TRIGGER", "SCHEMA",
    "lockstep", ".", "ONLY",
];
