//! LOAD DATA LOCAL: the application's file goes to every server, which reads its lines in their order.

use super::analyze::{keyed, unreadable, unwritable};
use super::catalog::Event;
use super::lexer::{Kind, Token};
use super::names::Names;
use super::order::{closing, level};
use super::statement::{Bulk, Class, CopyIn, Refusal, Statement};
use super::walk::Walk;
use super::write::{Written, defaults, target};

/// Classifies LOAD DATA.
pub(super) fn load(names: Names<'_>, tokens: &[Token]) -> Statement {
    let refused = |why, instead| Statement::refused("load", Refusal::unsupported(why, instead));
    let says = |word| tokens.iter().take(5).any(|t| t.is(word));
    if !says("data") {
        return refused("LOAD XML is not replicated", "LOAD DATA LOCAL INFILE, or INSERT.");
    }
    if !says("local") {
        return refused(
            "LOAD DATA without LOCAL reads a file of one server",
            "LOAD DATA LOCAL INFILE, which reads a file of the application's.",
        );
    }
    let places = level(tokens, (0, tokens.len()));
    let find = |word: &str| places.iter().copied().find(|at| tokens[*at].is(word));
    let (Some(into), Some(table)) = (find("into"), find("table")) else {
        return unreadable("it has no INTO TABLE");
    };
    let Some((named, length)) = names.target(tokens.get(table + 1..).unwrap_or_default()) else {
        return unreadable("its table has no name");
    };
    let set = find("set").filter(|at| !(*at > 0 && tokens[at - 1].is("character")));
    let set = set.filter(|at| *at > table).unwrap_or(tokens.len());
    let behind = table + 1 + length;
    let list = places.iter().copied().find(|at| *at >= behind && tokens[*at].symbol("("));
    let list = list.filter(|at| *at < set && !tokens[at - 1].is("partition"));
    let mut walk = Walk::new(names);
    walk.tokens(tokens);
    let mut written = Written::default();
    let mut events = vec![Event::Insert];
    events.extend(tokens[..into].iter().any(|t| t.is("replace")).then_some(Event::Delete));
    let full = tokens[table + 1..behind].iter().filter(|t| !t.symbol("."));
    let full = full.map(|t| t.text.as_str()).collect::<Vec<_>>().join(".");
    let tables = target(&mut walk, &mut written, named, &events);
    let columns = list.map(|open| given(tokens, open, set));
    for table in &tables {
        defaults(&mut walk, table, columns.as_deref(), tokens);
        let Some(numbered) = table.numbered() else { continue };
        walk.facts.context.insert_id = true;
        // The answer does not tell it.
        walk.facts.context.hidden_id = true;
        let left_out = columns.as_ref().is_some_and(|given| !given.contains(&numbered.name));
        if names.catalog.interleaved && left_out {
            walk.facts.differ(
                "with innodb_autoinc_lock_mode 2 the numbers of one statement need not follow one another",
                "Start the servers with innodb_autoinc_lock_mode=1, or load the numbers, too.",
            );
        }
        if walk.facts.context.last_insert_id {
            walk.facts.differ(
                "from which number on the rows were numbered cannot be told when LAST_INSERT_ID() is in it",
                "SET @x = LAST_INSERT_ID() first.",
            );
        }
    }
    // A variable that a column of the file goes to is as it was when the statement is done.
    walk.facts.leaves_state = false;
    let facts = walk.facts;
    if let Some(refusal) = unwritable(&facts, &written) {
        return Statement::refused("load", refusal);
    }
    let bulk = (!written.temporary).then_some(Bulk { lock: None });
    let copy = CopyIn { table: full, bulk, writes_temp: written.temporary };
    Statement { class: Class::CopyIn(copy), ..keyed("load", facts, false) }
}

/// The columns that get values: from the file, or behind SET.
fn given(tokens: &[Token], open: usize, set: usize) -> Vec<String> {
    let list = tokens.get(open + 1..closing(tokens, open)).unwrap_or_default();
    let listed = list.split(|t| t.symbol(",")).filter_map(<[Token]>::last);
    let listed = listed.filter(|t| t.kind != Kind::Variable).map(|t| t.text.to_lowercase());
    let assigned = level(tokens, (set, tokens.len()))
        .into_iter()
        .filter(|at| tokens[*at].is_name() && tokens.get(at + 1).is_some_and(|t| t.symbol("=")));
    listed.chain(assigned.map(|at| tokens[at].text.to_lowercase())).collect()
}
