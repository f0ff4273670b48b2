//! The parts of INSERT, UPDATE and DELETE.

use super::lexer::Token;
use super::names::{Names, Target};
use super::order::{closing, level};

/// The parts of INSERT and REPLACE.
#[derive(Debug)]
pub(super) struct Insert<'t, 'c> {
    pub ignore: bool,
    pub replace: bool,
    /// ON DUPLICATE KEY UPDATE.
    pub upsert: bool,
    pub target: Target<'c>,
    /// The columns that are given, where they are named.
    pub columns: Option<Vec<String>>,
    pub source: Source<'t>,
}

/// Where the rows of an INSERT come from.
#[derive(Debug)]
pub(super) enum Source<'t> {
    /// They are written out, so many, in their order.
    Values(usize),
    /// A query.
    Query(&'t [Token]),
}

/// The parts of UPDATE.
#[derive(Debug)]
pub(super) struct Update<'t, 'c> {
    pub ignore: bool,
    pub list: TableList<'c>,
    /// `column = value`, each.
    pub assignments: Vec<&'t [Token]>,
}

/// The tables of a FROM or UPDATE, by the names that the statement has for them.
#[derive(Debug)]
pub(super) struct TableList<'c> {
    tables: Vec<(String, (Option<String>, String))>,
    names: Names<'c>,
    /// More than one, or something that is no table.
    pub several: bool,
}

impl<'c> TableList<'c> {
    /// What an alias stands for; without one, every table.
    pub(super) fn named(&self, alias: Option<&str>) -> Vec<Target<'c>> {
        let wanted = |known: &str| alias.is_none_or(|alias| known.eq_ignore_ascii_case(alias));
        let found = self.tables.iter().filter(|(known, _)| wanted(known));
        found.map(|(_, (schema, name))| self.names.resolve(schema.as_deref(), name)).collect()
    }

    /// What a name in the list of a DELETE stands for: an alias, or a table itself.
    pub(super) fn deleted(&self, names: Names<'c>, name: &[Token]) -> Vec<Target<'c>> {
        let known = match name {
            [only] => self.named(Some(&only.text)),
            _ => Vec::new(),
        };
        if known.is_empty() {
            return names.target(name).into_iter().map(|(target, _)| target).collect();
        }
        known
    }
}

/// Behind the words that may stand between a verb and its table.
fn skip(tokens: &[Token], words: &[&str]) -> usize {
    1 + tokens[1..].iter().take_while(|t| words.iter().any(|word| t.is(word))).count()
}

/// Takes an INSERT or REPLACE apart.
pub(super) fn insert_parts<'t, 'c>(
    names: Names<'c>,
    tokens: &'t [Token],
) -> Option<Insert<'t, 'c>> {
    let start = skip(tokens, &["low_priority", "delayed", "high_priority", "ignore", "into"]);
    let ignore = tokens[..start].iter().any(|t| t.is("ignore"));
    let (target, length) = names.target(tokens.get(start..)?)?;
    let mut at = start + length;
    if tokens.get(at)?.is("partition") {
        at = closing(tokens, at + 1) + 1;
    }
    let mut columns = None;
    let begins_query = |at: usize| {
        tokens.get(at).is_some_and(|t| ["select", "with", "table"].iter().any(|w| t.is(w)))
    };
    if tokens.get(at)?.symbol("(") && !begins_query(at + 1) && !tokens.get(at + 1)?.symbol("(") {
        let end = closing(tokens, at);
        let list = tokens.get(at + 1..end)?;
        let last = |item: &[Token]| item.last().map(|t| t.text.to_lowercase());
        columns = Some(list.split(|t| t.symbol(",")).filter_map(last).collect());
        at = end + 1;
    }
    let rest = tokens.get(at..)?;
    let places = level(rest, (0, rest.len()));
    let upsert = places
        .iter()
        .position(|p| rest[*p].is("on") && rest.get(p + 1).is_some_and(|t| t.is("duplicate")));
    let first = rest.first()?;
    let source = if first.is("values") || first.is("value") {
        let end = upsert.map_or(rest.len(), |at| places[at]);
        Source::Values(places.iter().filter(|at| **at < end && rest[**at].symbol("(")).count())
    } else if first.is("set") {
        columns = Some(set_columns(rest, &places));
        Source::Values(1)
    } else {
        let ends = |p: &&usize| {
            rest[**p].is("returning")
                || rest[**p].is("on") && rest.get(**p + 1).is_some_and(|t| t.is("duplicate"))
        };
        Source::Query(&rest[..places.iter().find(ends).copied().unwrap_or(rest.len())])
    };
    let replace = tokens[0].is("replace");
    Some(Insert { ignore, replace, upsert: upsert.is_some(), target, columns, source })
}

/// The columns of INSERT … SET.
fn set_columns(rest: &[Token], places: &[usize]) -> Vec<String> {
    let follows = |at: usize| rest.get(at + 1).is_some_and(|t| t.symbol("="));
    let named = places.iter().filter(|at| rest[**at].is_name() && follows(**at));
    named.map(|at| rest[*at].text.to_lowercase()).collect()
}

/// Takes an UPDATE apart.
pub(super) fn update_parts<'t, 'c>(
    names: Names<'c>,
    tokens: &'t [Token],
) -> Option<Update<'t, 'c>> {
    let start = skip(tokens, &["low_priority", "ignore"]);
    let ignore = tokens[..start].iter().any(|t| t.is("ignore"));
    let places = level(tokens, (start, tokens.len()));
    let set = *places.iter().find(|at| tokens[**at].is("set"))?;
    let list = table_list(names, &tokens[start..set]);
    let ends = ["where", "order", "limit", "returning"];
    let end = places
        .iter()
        .find(|at| **at > set && ends.iter().any(|word| tokens[**at].is(word)))
        .copied()
        .unwrap_or(tokens.len());
    let mut assignments = Vec::new();
    let mut from = set + 1;
    for at in level(tokens, (set + 1, end)) {
        if tokens[at].symbol(",") {
            assignments.push(&tokens[from..at]);
            from = at + 1;
        }
    }
    assignments.push(tokens.get(from..end)?);
    assignments.iter().all(|part| part.len() > 2).then_some(Update { ignore, list, assignments })
}

/// The names that a DELETE lists, and the tables that they are among.
pub(super) fn delete_lists<'t, 'c>(
    names: Names<'c>,
    tokens: &'t [Token],
) -> Option<(Vec<&'t [Token]>, TableList<'c>)> {
    let start = skip(tokens, &["low_priority", "quick", "ignore", "history"]);
    if tokens[..start].iter().any(|t| t.is("history")) {
        return None;
    }
    let places = level(tokens, (start, tokens.len()));
    let ends = ["where", "order", "limit", "returning"];
    let end = places
        .iter()
        .find(|at| ends.iter().any(|word| tokens[**at].is(word)))
        .copied()
        .unwrap_or(tokens.len());
    let from = *places.iter().find(|at| tokens[**at].is("from"))?;
    let using = places.iter().find(|at| **at < end && tokens[**at].is("using")).copied();
    let (listed, tables) = match using {
        Some(using) if from == start => (tokens.get(from + 1..using)?, tokens.get(using + 1..end)?),
        _ if from == start => {
            let list = table_list(names, tokens.get(from + 1..end)?);
            let target = tokens.get(from + 1..end)?;
            let length = names.target(target)?.1;
            return (!list.several).then_some((vec![&target[..length]], list));
        }
        _ => (tokens.get(start..from)?, tokens.get(from + 1..end)?),
    };
    // `t.*` names the table as well.
    let bare = |item: &'t [Token]| match item {
        [rest @ .., dot, star] if dot.symbol(".") && star.symbol("*") => rest,
        all => all,
    };
    let listed = listed.split(|t| t.symbol(",")).map(bare).collect();
    Some((listed, TableList { several: true, ..table_list(names, tables) }))
}

/// Every table that is named among others, with its alias.
fn table_list<'c>(names: Names<'c>, tokens: &[Token]) -> TableList<'c> {
    let mut tables = Vec::new();
    let mut several = false;
    let mut expected = true;
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        if token.symbol("(") {
            // Another list, or a query: what it names is found by walking through it.
            several = true;
            at += 1;
            continue;
        }
        if token.symbol(",") || token.is("join") || token.is("straight_join") {
            (several, expected) = (true, true);
        } else if expected && token.is_name() && !token.is("select") && !token.is("lateral") {
            let dotted = tokens.get(at + 1).is_some_and(|t| t.symbol("."));
            let name = match tokens.get(at + 2).filter(|_| dotted) {
                Some(second) => (Some(token.text.clone()), second.text.clone()),
                None => (None, token.text.clone()),
            };
            at += if dotted { 3 } else { 1 };
            let marked = tokens.get(at).is_some_and(|t| t.is("as"));
            at += usize::from(marked);
            let follows = [
                "on",
                "join",
                "inner",
                "left",
                "right",
                "cross",
                "natural",
                "use",
                "ignore",
                "force",
                "partition",
                "straight_join",
                "using",
                "set",
            ];
            let alias = tokens.get(at).filter(|t| t.is_name() && !follows.iter().any(|w| t.is(w)));
            let known = alias.map_or(&name.1, |t| &t.text).to_lowercase();
            at += usize::from(alias.is_some());
            tables.push((known, name));
            expected = false;
            continue;
        }
        at += 1;
    }
    TableList { tables, names, several }
}
