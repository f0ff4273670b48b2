//! Places in a statement: qualifiers, blocks, and whether a LIMIT always takes the same rows.

use super::catalog::Table;
use super::lexer::{Kind, Token};
use super::names::{Names, Target};

/// The name in front of the dot in front of a name.
pub(super) fn qualifier(tokens: &[Token], at: usize) -> Option<&str> {
    let dot = at.checked_sub(1).filter(|dot| tokens[*dot].symbol("."))?;
    let name = dot.checked_sub(1).filter(|name| tokens[*name].is_name())?;
    Some(&tokens[name].text)
}

/// The closing parenthesis of one that opens, or the end.
pub(super) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.symbol("(") {
            depth += 1;
        } else if token.symbol(")") {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return at;
            }
        }
    }
    tokens.len()
}

/// Whether a variable stands in the list behind INTO.
pub(super) fn after_into(tokens: &[Token], at: usize) -> bool {
    let listed =
        |t: &&Token| t.kind == Kind::Variable || t.symbol(",") || t.is_name() && !t.is("into");
    let before = tokens[..at].iter().rev();
    before.clone().find(|t| !listed(t)).is_some_and(|t| t.is("into"))
        && before.take_while(listed).all(|t| t.kind == Kind::Variable || t.symbol(","))
}

/// Whether the word in front of a parenthesis names something that is defined there.
pub(super) fn is_definition(tokens: &[Token], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|at| &tokens[at]);
    // `INSERT [INTO] t (…)`, `WITH x (a) AS`, `FROM (…) AS x (…)`, `USE INDEX (…)`.
    let introduced = [
        "into",
        "as",
        "recursive",
        "with",
        "table",
        "index",
        "key",
        "window",
        "insert",
        "replace",
        "ignore",
        "delayed",
        "low_priority",
        "high_priority",
    ];
    before(1).is_some_and(|t| introduced.iter().any(|word| t.is(word)))
        || before(1).is_some_and(|t| t.symbol(")"))
}

/// Whether there is an ORDER BY outside of inner parentheses.
pub(super) fn has_order(tokens: &[Token]) -> bool {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token.symbol("(") {
            at = closing(tokens, at);
        } else if token.is("order") && tokens.get(at + 1).is_some_and(|t| t.is("by")) {
            return true;
        }
        at += 1;
    }
    false
}

/// The block of a statement that a place belongs to: from its start to its end, without the parentheses.
fn block(tokens: &[Token], place: usize) -> (usize, usize) {
    let mut depth = 0_usize;
    let mut start = 0;
    for at in (0..place).rev() {
        let token = &tokens[at];
        if token.symbol(")") {
            depth += 1;
        } else if token.symbol("(") {
            if depth == 0 {
                start = at + 1;
                break;
            }
            depth -= 1;
        }
    }
    let open = start.checked_sub(1);
    (start, open.map_or(tokens.len(), |open| closing(tokens, open)))
}

/// The places in a block outside of inner parentheses.
pub(super) fn level(tokens: &[Token], (start, end): (usize, usize)) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        found.push(at);
        at = if tokens[at].symbol("(") { closing(tokens, at) } else { at } + 1;
    }
    found
}

/// Whether every LIMIT of a statement takes the same rows on every server: its block reads one table
/// and is ordered by a unique key of it.
pub(super) fn limits_are_fixed(names: Names<'_>, tokens: &[Token], target: Option<&Table>) -> bool {
    (0..tokens.len()).filter(|at| is_limit(tokens, *at)).all(|at| {
        let around = block(tokens, at);
        let places = level(tokens, around);
        let outermost = around.0 == 0;
        match target.filter(|_| outermost) {
            Some(table) => is_total(tokens, &places, table),
            None => only_table(names, tokens, &places)
                .is_some_and(|table| is_total(tokens, &places, table)),
        }
    })
}

fn is_limit(tokens: &[Token], at: usize) -> bool {
    let is = |word| tokens[at].is(word);
    let fetch = is("fetch") && tokens.get(at + 1).is_some_and(|t| t.is("first") || t.is("next"));
    (is("limit") || fetch) && qualifier(tokens, at).is_none()
}

/// The one table behind FROM in a block, if it is one only and nothing else shapes its rows.
pub(super) fn only_table<'c>(
    names: Names<'c>,
    tokens: &[Token],
    places: &[usize],
) -> Option<&'c Table> {
    let from = *places.iter().find(|at| tokens[**at].is("from"))?;
    let shaped =
        ["join", "straight_join", "group", "having", "distinct", "union", "except", "intersect"];
    if places.iter().any(|at| shaped.iter().any(|word| tokens[*at].is(word))) {
        return None;
    }
    let (target, length) = names.target(&tokens[from + 1..])?;
    // At most an alias may follow.
    let mut at = from + 1 + length;
    if tokens.get(at).is_some_and(|t| t.is("as")) {
        at += 1;
    }
    let ends = ["where", "order", "limit", "for", "lock", "use", "force", "ignore"];
    let closes = |at: usize| {
        tokens.get(at).is_none_or(|t| t.symbol(")") || ends.iter().any(|word| t.is(word)))
    };
    if !closes(at) && !closes(at + 1) {
        return None;
    }
    match target {
        Target::Known(tables) => match tables[..] {
            [table] => Some(table),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the ORDER BY of a block contains a unique key of its table.
pub(super) fn is_total(tokens: &[Token], places: &[usize], table: &Table) -> bool {
    let Some(order) = places
        .iter()
        .position(|at| tokens[*at].is("order") && tokens.get(at + 1).is_some_and(|t| t.is("by")))
    else {
        return false;
    };
    let ends = ["limit", "fetch", "offset", "for", "lock", "into", "returning"];
    let list: Vec<&Token> = places[order + 2..]
        .iter()
        .map(|at| &tokens[*at])
        .take_while(|t| !ends.iter().any(|word| t.is(word)))
        .collect();
    let columns: Vec<String> = list.split(|t| t.symbol(",")).filter_map(plain_column).collect();
    table.keys.iter().any(|key| {
        key.iter().all(|column| columns.contains(column) && !is_renamed(tokens, places, column))
    })
}

/// The column that an item of ORDER BY is, when it is nothing else.
fn plain_column(item: &[&Token]) -> Option<String> {
    let item = match item {
        [rest @ .., last] if last.is("asc") || last.is("desc") => rest,
        all => all,
    };
    match item {
        [column] if column.is_name() => Some(column.text.to_lowercase()),
        [_, dot, column] if dot.symbol(".") => Some(column.text.to_lowercase()),
        _ => None,
    }
}

/// Whether the block's list of results gives a column's name to something else.
fn is_renamed(tokens: &[Token], places: &[usize], column: &str) -> bool {
    if !places.first().is_some_and(|at| tokens[*at].is("select")) {
        return false;
    }
    let list: Vec<&Token> =
        places.iter().map(|at| &tokens[*at]).take_while(|t| !t.is("from")).collect();
    (1..list.len()).any(|at| {
        let named = list[at].is_name() && list[at].text.eq_ignore_ascii_case(column);
        let before = list[at - 1];
        let plain = before.is("select") || before.symbol(",") || before.symbol(".");
        let after = list.get(at + 1);
        named && !(plain && after.is_none_or(|t| t.symbol(",")))
    })
}

/// Whether a query's rows come in one order only.
pub(super) fn is_ordered(names: Names<'_>, tokens: &[Token]) -> bool {
    let places = level(tokens, (0, tokens.len()));
    only_table(names, tokens, &places).is_some_and(|table| is_total(tokens, &places, table))
}

/// Functions that make one value of many rows.
const AGGREGATES: &str = "count sum avg min max bit_and bit_or bit_xor std stddev stddev_pop \
    stddev_samp variance var_pop var_samp group_concat json_arrayagg json_objectagg";

/// Words in an expression that name no column.
const CONNECTIVES: &str = "null true false distinct all case when then else end and or not is in div \
    mod xor between like interval as asc desc select having sql_no_cache straight_join binary day \
    hour minute second month year week microsecond quarter unknown collate";

pub(super) fn is_connective(token: &Token) -> bool {
    CONNECTIVES.split_ascii_whitespace().any(|word| token.is(word))
}

/// Whether no grouped query picks the value of a row of its own choice: what is selected from groups
/// is made of aggregates and of the columns that are grouped by.
pub(super) fn groups_are_fixed(tokens: &[Token]) -> bool {
    (0..tokens.len()).filter(|at| tokens[*at].is("select")).all(|select| {
        let around = block(tokens, select);
        let places: Vec<usize> =
            level(tokens, around).into_iter().filter(|at| *at >= select).collect();
        let until = |words: &[&str]| {
            let ends = |at: &&usize| words.iter().any(|word| tokens[**at].is(word));
            places.iter().find(ends).copied().unwrap_or(around.1)
        };
        let group = until(&["group", "union", "except", "intersect"]);
        let groups = tokens.get(group).is_some_and(|t| t.is("group"));
        let list = &tokens[select + 1..until(&["from", "union", "into", "order", "limit"])];
        if !groups && !level(list, (0, list.len())).iter().any(|at| is_aggregate(list, *at)) {
            return true;
        }
        let ends = [
            "having",
            "order",
            "limit",
            "union",
            "except",
            "intersect",
            "for",
            "lock",
            "on",
            "window",
        ];
        let after = |from: usize| {
            let later = places.iter().filter(|at| **at > from);
            let end = later.clone().find(|at| ends.iter().any(|word| tokens[**at].is(word)));
            end.copied().unwrap_or(around.1)
        };
        let grouped = if groups { columns(&tokens[group + 1..after(group)]) } else { Vec::new() };
        let having = until(&["having"]);
        let condition = tokens.get(having..after(having)).unwrap_or_default();
        list.split(|t| t.symbol(",")).all(|item| is_of_group(item, &grouped))
            && is_of_group(condition, &grouped)
    })
}

fn columns(list: &[Token]) -> Vec<String> {
    let items = list.split(|t| t.symbol(","));
    items
        .filter_map(|item| item.last().filter(|t| t.is_name()).map(|t| t.text.to_lowercase()))
        .collect()
}

fn is_aggregate(tokens: &[Token], at: usize) -> bool {
    let named =
        AGGREGATES.split_ascii_whitespace().any(|name| tokens[at].text.eq_ignore_ascii_case(name));
    named && tokens[at].is_name() && tokens.get(at + 1).is_some_and(|t| t.symbol("("))
}

/// Whether an expression is the same for every row of a group.
fn is_of_group(item: &[Token], grouped: &[String]) -> bool {
    let mut at = 0;
    while let Some(token) = item.get(at) {
        let next = |symbol| item.get(at + 1).is_some_and(|t: &Token| t.symbol(symbol));
        if token.is("as") {
            return true;
        }
        if is_aggregate(item, at) {
            at = closing(item, at + 1) + 1;
            continue;
        }
        let star = token.symbol("*") && (at == 0 || item[at - 1].symbol("."));
        let column = token.is_name() && !next("(") && !next(".") && !is_connective(token);
        if star || (column && !grouped.contains(&token.text.to_lowercase())) {
            return false;
        }
        at += 1;
    }
    true
}
