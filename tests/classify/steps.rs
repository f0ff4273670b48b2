//! What is taken apart into steps ends as the statement itself would have ended.

use std::fs;
use std::path::PathBuf;

use lockstep::sql::{Class, Scope, analyze};

use super::server::Server;
use super::{CATALOG, folder};

const ROWS: &str = "
    INSERT INTO parents SELECT n, n::text FROM generate_series(0, 3) n;
    INSERT INTO plain (id, name, n) SELECT n, 'x', 5 FROM generate_series(1, 3) n;
    INSERT INTO other.plain SELECT n, 'x' FROM generate_series(1, 3) n;
    INSERT INTO keyless SELECT 1, 'same' FROM generate_series(1, 3) n;
    INSERT INTO base SELECT n, 'x' FROM generate_series(1, 2) n;
    INSERT INTO derived SELECT n, 'x', n FROM generate_series(3, 4) n;
    INSERT INTO secured SELECT n, 'x' FROM generate_series(1, 3) n;
    INSERT INTO \"MixedCase\" SELECT n, 'x' FROM generate_series(1, 3) n;
    INSERT INTO parted SELECT n, '2024-06-01' FROM generate_series(1, 3) n;";

/// Every SQL of the cases that comes in steps, and the steps.
fn taken_apart() -> Vec<(String, Vec<String>)> {
    let scope = Scope { user: "postgres".to_owned(), ..Scope::default() };
    let mut found = Vec::new();
    for name in ["e_schema.txt", "g_steps.txt"] {
        let text = fs::read_to_string(folder().join(name)).unwrap();
        let inputs = text.split("\n\n").filter_map(|b| b.split_once("\n----"));
        for (sql, _) in inputs.filter(|(sql, _)| !sql.starts_with('@')) {
            let Ok(script) = analyze(sql, &CATALOG, &scope) else {
                continue;
            };
            for statement in script.statements {
                if let Class::Ddl(ddl) = statement.class
                    && !ddl.steps.is_empty()
                {
                    assert_eq!(ddl.steps.iter().filter(|step| step.captured).count(), 1);
                    let steps = ddl.steps.into_iter().map(|step| step.sql).collect();
                    found.push((sql[statement.range].to_owned(), steps));
                }
            }
        }
    }
    found
}

#[test]
fn steps_end_as_the_statement_would_have() {
    let Some(bin) = std::env::var_os("LOCKSTEP_PG_BIN").map(PathBuf::from) else {
        return;
    };
    let server = Server::start(bin);
    server.must("createdb", &["start"]);
    let schema = fs::read_to_string(folder().join("schema.sql")).unwrap();
    server.ask("start", &format!("{schema};{ROWS}"));
    let all = taken_apart();
    assert!(all.len() > 20, "only {} statements", all.len());
    let mut worked = 0;
    for (sql, steps) in all {
        // What is random or a clock differs from one run to the next; numbers do not.
        let differs = ["random", "clock", "now()", "current_timestamp", "stamped"];
        let lower = sql.to_lowercase();
        let rows = !differs.iter().any(|word| lower.contains(word));
        let [whole, apart] = [("whole", &sql), ("apart", &steps.join(";"))].map(|(name, sql)| {
            server.must("createdb", &["-T", "start", name]);
            let done = server.try_ask(name, sql);
            let args: &[&str] = if rows { &[name] } else { &["-s", name] };
            let dump = server.must("pg_dump", args);
            server.must("dropdb", &[name]);
            let lines = dump.lines().filter(|line| !line.contains("restrict "));
            let dump = lines.collect::<Vec<_>>().join("\n");
            (done.status.success(), dump, done.stderr)
        });
        assert_eq!(
            whole.0,
            apart.0,
            "{sql}: {} {}",
            String::from_utf8_lossy(&whole.2),
            String::from_utf8_lossy(&apart.2)
        );
        assert!(whole.1 == apart.1, "{sql}:\n{}\nis not\n{}", whole.1, apart.1);
        worked += usize::from(whole.0);
    }
    assert!(worked > 20, "only {worked} statements worked");
}
