//! The shape of the code, held by a test: sizes, ranks, banned words, and what is pure stays pure.
//!
//! The table of ranks below *is* the documentation of the layers.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A file longer than this has found its next split.
const MOST_LINES: usize = 500;
/// A function longer than this, too.
const MOST_FUNCTION_LINES: usize = 70;

/// The modules of `src`, lowest first: one imports only lower ranks, and its own. What stands on
/// one line may not import each other.
const RANKS: [&[&str]; 16] = [
    &["ending"],
    &["error", "config", "encoding", "metrics", "trace", "tls", "net", "durable", "hex"],
    &["sql", "cluster"],
    &["store"],
    &["catalog"],
    &["exchange"],
    &["ledger", "wire"],
    &["backend", "client"],
    &["keeper"],
    &["control"],
    &["session"],
    &["recovery", "monitor", "status"],
    &["console"],
    &["proxy", "demo", "agent", "witness"],
    &["cli"],
    &["main", "lib"],
];

/// The lowest rank is values and handles; these few may name each other, since a setting's type has
/// one home.
const NEIGHBOURS: [(&str, &str); 3] =
    [("tls", "config"), ("trace", "config"), ("shutdown", "config")];

/// No word of these in code, with the reason that is printed.
const BANNED: [(&str, &str); 4] = [
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
    ("dbg!", "tracing is the log"),
    ("unsafe ", "forbidden in this workspace"),
];

/// Folders without async, clock or randomness: time and seeds come in as arguments.
const PURE: [&str; 4] = ["src/sql", "src/cluster", "src/agent/election", "protocol/src"];
const IMPURE: [&str; 10] = [
    "tokio",
    "async fn",
    ".await",
    "Instant::now",
    "SystemTime",
    "rand::",
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
];

struct Source {
    /// From the root of the repository.
    name: String,
    /// The code: comments and the contents of strings are blank, lines stand where they stood.
    code: Vec<String>,
    /// Where the tests at the end of the file begin, if there are any.
    tests: usize,
    lines: usize,
}

impl Source {
    /// A file of tests only, wherever it stands.
    fn is_test(&self) -> bool {
        self.name.starts_with("tests/")
            || self.name.ends_with("tests.rs")
            || self.name.contains("/tests/")
    }

    /// The numbered lines of the code that runs in the product.
    fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = if self.is_test() { 0 } else { self.tests };
        self.code[..end].iter().enumerate().map(|(i, line)| (i + 1, line.as_str()))
    }

    /// The module of `src` that the file belongs to.
    fn module(&self) -> Option<&str> {
        let path = self.name.strip_prefix("src/")?;
        let first = path.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "protocol", "tests", "benches"] {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file is readable");
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        let code: Vec<String> = blank(&text).lines().map(str::to_owned).collect();
        let tests = code.iter().position(|l| l.trim() == "#[cfg(test)]").unwrap_or(code.len());
        Source { name, lines: text.lines().count(), code, tests }
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Blanks comments, strings and characters, and keeps the lines.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = hidden_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where a comment, string or character that begins here ends; here, if none does.
fn hidden_end(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let starts = |text: &str| {
        text.chars().zip(rest).filter(|(a, b)| a == *b).count() == text.chars().count()
    };
    let word_before = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let until = |from: usize, found: &dyn Fn(usize) -> bool| {
        (from..chars.len()).find(|&i| found(i)).unwrap_or(chars.len())
    };
    if starts("//") {
        return until(at, &|i| chars[i] == '\n');
    }
    if starts("/*") {
        let end = until(at + 2, &|i| chars[i] == '/' && chars[i - 1] == '*');
        return (end + 1).min(chars.len());
    }
    if chars[at] == '"' {
        let mut i = at + 1;
        while i < chars.len() && chars[i] != '"' {
            i += if chars[i] == '\\' { 2 } else { 1 };
        }
        return (i + 1).min(chars.len());
    }
    if chars[at] == 'r' && !word_before {
        let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
        if rest.get(1 + hashes) == Some(&'"') {
            let closes = |i: usize| {
                chars[i] == '"'
                    && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
            };
            let end = until(at + 2 + hashes, &closes);
            return (end + 1 + hashes).min(chars.len());
        }
    }
    if chars[at] == '\'' {
        // A character, not a lifetime.
        if rest.get(1) == Some(&'\\') {
            return (until(at + 3, &|i| chars[i] == '\'') + 1).min(chars.len());
        }
        if rest.get(2) == Some(&'\'') {
            return at + 3;
        }
    }
    at
}

/// Fails with all complaints at once.
fn settle(complaints: Vec<String>) {
    let mut text = String::new();
    for complaint in &complaints {
        let _ = writeln!(text, "  {complaint}");
    }
    assert!(complaints.is_empty(), "{} complaints:\n{text}", complaints.len());
}

#[test]
fn files_are_short() {
    let long = sources().into_iter().filter(|s| s.lines > MOST_LINES);
    settle(
        long.map(|s| format!("{} has {} lines, at most {MOST_LINES} are good", s.name, s.lines))
            .collect(),
    );
}

#[test]
fn functions_are_short() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (line, name, length) in functions(&source.code) {
            if length > MOST_FUNCTION_LINES {
                let place = format!("{}:{line}", source.name);
                complaints.push(format!(
                    "{place}: fn {name} has {length} lines, at most {MOST_FUNCTION_LINES} are good"
                ));
            }
        }
    }
    settle(complaints);
}

/// The functions of a file: line, name, number of lines from `fn` to the closing brace.
fn functions(code: &[String]) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (start, line) in code.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let mut depth = 0_i32;
        let mut opened = false;
        'body: for (i, line) in code.iter().enumerate().skip(start) {
            for c in line.chars() {
                match c {
                    '{' => {
                        depth += 1;
                        opened = true;
                    }
                    '}' => depth -= 1,
                    // A declaration without a body.
                    ';' if !opened && depth == 0 => break 'body,
                    _ => {}
                }
                if opened && depth == 0 {
                    found.push((start + 1, name, i - start + 1));
                    break 'body;
                }
            }
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let place = words.iter().position(|w| *w == "fn")?;
    let qualifiers = ["pub", "async", "const", "extern", "default"];
    let plain = |w: &&str| qualifiers.contains(w) || w.starts_with("pub(") || w.ends_with(')');
    if !words[..place].iter().all(plain) {
        return None;
    }
    let name = words.get(place + 1)?;
    Some(name.split(['(', '<']).next()?.to_owned())
}

#[test]
fn imports_go_down() {
    let rank = |module: &str| RANKS.iter().position(|r| r.contains(&module));
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        let Some(module) = source.module().filter(|m| !["main", "lib"].contains(m)) else {
            continue;
        };
        let Some(own) = rank(module) else {
            complaints.push(format!(
                "{}: `{module}` has no rank: give it a place in tests/tidy.rs",
                source.name
            ));
            continue;
        };
        for (line, text) in source.product() {
            for used in crate_paths(text) {
                let Some(theirs) = rank(&used) else {
                    complaints.push(format!("{}:{line}: crate::{used} has no rank", source.name));
                    continue;
                };
                let neighbours = NEIGHBOURS.contains(&(module, used.as_str()));
                if used != module && theirs >= own && !neighbours {
                    complaints.push(format!(
                        "{}:{line}: `{module}` imports `{used}`, which is not below it",
                        source.name
                    ));
                }
            }
        }
    }
    settle(complaints);
}

/// The modules that a line names as `crate::module`, also in braces.
fn crate_paths(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let parts: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or("").split(',').collect(),
            None => vec![rest],
        };
        let word = |p: &str| {
            p.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        };
        let lower = |w: &String| w.starts_with(|c: char| c.is_ascii_lowercase());
        found.extend(parts.into_iter().map(word).filter(lower));
    }
    found
}

#[test]
fn banned_words_are_not_there() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (i, line) in source.code.iter().enumerate() {
            for (word, reason) in BANNED {
                if line.contains(word) {
                    complaints.push(format!(
                        "{}:{}: {}: {reason}",
                        source.name,
                        i + 1,
                        word.trim()
                    ));
                }
            }
        }
    }
    settle(complaints);
}

#[test]
fn pure_files_have_no_clock_no_dice_and_no_runtime() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|s| PURE.iter().any(|p| s.name.starts_with(p))) {
        for (line, text) in source.product() {
            for word in IMPURE.iter().filter(|w| text.contains(*w)) {
                complaints.push(format!("{}:{line}: {word} in a pure file", source.name));
            }
        }
    }
    settle(complaints);
}

/// The tests of a file, with the names of the modules that they are in.
fn tests_in(source: &Source) -> Vec<Vec<String>> {
    let path = source.name.trim_end_matches(".rs");
    let roots = ["src/", "tests/", "protocol/src/"];
    let path = roots.iter().find_map(|root| path.strip_prefix(root)).unwrap_or(path);
    let words = path.split('/').filter(|word| !["main", "lib", "mod"].contains(word));
    let mut modules: Vec<String> = words.map(str::to_owned).collect();
    if !source.is_test() {
        modules.push("tests".into());
    }
    // What all dialects share becomes tests where a suite takes it.
    let shared = path == "faults/mod";
    let attribute = |line: &str| {
        line.starts_with("#[test]")
            || line.starts_with("#[tokio::test")
            || shared && line.starts_with("pub(crate) async fn")
    };
    let marked = source.code.iter().enumerate().filter(|(_, line)| attribute(line.trim()));
    let named =
        marked.filter_map(|(at, _)| source.code[at..].iter().find_map(|l| function_name(l)));
    named.map(|name| modules.iter().cloned().chain([name]).collect()).collect()
}

/// Whether a name as the inventory writes it (`a::b`, `a::b…`, `a::*`) is that of a test, or of modules
/// that it is in.
fn names(text: &str, test: &[String]) -> bool {
    let wanted: Vec<&str> = text.split("::").collect();
    let fits = |(wanted, there): (&&str, &String)| match wanted.strip_suffix('…') {
        Some(begin) => there.starts_with(begin),
        None => *wanted == "*" || *wanted == there,
    };
    test.windows(wanted.len()).any(|there| wanted.iter().zip(there).all(fits))
}

/// What stands between backquotes, line by line.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        found.extend(line.split('`').skip(1).step_by(2).map(|word| (at + 1, word)));
    }
    found
}

#[test]
fn the_inventory_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect("it is readable");
    let tests: Vec<Vec<String>> = sources().iter().flat_map(tests_in).collect();
    let makefile = read("Makefile");
    let targets: Vec<&str> = makefile.lines().filter_map(|line| line.split(':').next()).collect();
    let mut complaints = Vec::new();
    for (line, word) in quoted(&read("docs/inventory.md")) {
        let is_there = if word.contains("::") || word.ends_with('…') {
            tests.iter().any(|test| names(word, test))
        } else if let Some(target) = word.strip_prefix("make ") {
            targets.contains(&target)
        } else if ["tests/", "src/", "config/", "docs/"].iter().any(|f| word.starts_with(f)) {
            root.join(word).exists()
        } else {
            true
        };
        if !is_there {
            complaints.push(format!("docs/inventory.md:{line}: there is no {word}"));
        }
    }
    settle(complaints);
}

#[test]
fn the_tidy_test_sees_what_it_should() {
    let code: Vec<String> = blank("pub(crate) async fn long(a: &str) {\n  // }\n  let x = \"}\\\"\"; let c = '}';\n r#\"}\"#;\n}\nfn next<'a>() {}")
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(functions(&code), [(1, "long".into(), 5), (6, "next".into(), 1)]);
    assert_eq!(
        crate_paths("use crate::{sql::Class, keeper}; let x = crate::error::Error; $crate::no"),
        ["sql", "keeper", "error"]
    );
    let test = ["agent", "failover", "one_dies"].map(str::to_owned);
    let good = ["failover::one_dies", "failover::one…", "one_d…", "agent::failover", "failover::*"];
    assert!(good.iter().all(|name| names(name, &test)));
    assert!(
        ["failover::one", "two…", "farm::one_dies", "one_dies::*"].iter().all(|n| !names(n, &test))
    );
    assert_eq!(quoted("a `b` c\n`d::e`"), [(1, "b"), (2, "d::e")]);
}

/// docs/scenarios.md has each case once, and names for both dialects tests that exist.
#[test]
fn every_scenario_has_its_tests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scenarios.md");
    let text = std::fs::read_to_string(path).expect("docs/scenarios.md");
    let known: std::collections::BTreeSet<String> =
        sources().iter().flat_map(tests_in).map(|test| test.join("::")).collect();
    let (mut complaints, mut next) = (Vec::new(), 1);
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(|c: char| c.is_ascii_digit()));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, postgres, maria] = cells[..] else {
            complaints.push(format!("not four cells: {row}"));
            continue;
        };
        if number != next.to_string() {
            complaints.push(format!("case {next} is due, not {number}"));
        }
        next += 1;
        for (suite, cell) in [("e2e", postgres), ("mysql", maria)] {
            let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
            let reason = cell.starts_with("cannot: ") || cell.starts_with("not built: ");
            if named.is_empty() && !reason {
                complaints.push(format!("case {number}, {suite}: no test, and no reason"));
            }
            for name in named {
                let here = known.contains(&format!("{suite}::{name}"));
                if !here && !known.contains(name) {
                    complaints.push(format!("case {number}: there is no test {suite}::{name}"));
                }
            }
        }
    }
    if next != 104 {
        complaints.push(format!("{} cases, not 103", next - 1));
    }
    settle(complaints);
}
