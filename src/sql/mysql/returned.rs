//! Writes whose outcome is decided on the leader alone, because every server would decide it otherwise:
//! the followers get the rows that came of it.
//!
//! An INSERT gives its rows back (`RETURNING`, which MariaDB has). For UPDATE and DELETE the rows are
//! locked and read first; then the leader and the followers write them by their keys. In both cases a
//! row comes as the text that stands for it in the followers' statement, written by the server itself
//! out of hexadecimal digits and numbers: it means the same in every encoding, mode and time zone.
//!
//! What must be sure is that these rows are all that happens: one table, no trigger on it, and nothing
//! besides that a routine might have written. Foreign keys may act, since they do so everywhere.

use std::ops::Range;

use super::catalog::{Column, Event, Table, TableKind};
use super::lexer::{Kind, Token};
use super::names::{Names, Target};
use super::order::level;
use super::parts::{Source, delete_lists, insert_parts, update_parts};
use super::statement::{Keys, MET, Returned, Sequences, Spelt};
use super::walk::Facts;
use super::write::Written;

/// The first version of MariaDB whose INSERT and REPLACE give rows back.
const RETURNING_SINCE: u32 = 100_500;

/// Under what the followers write rows as values: whatever a row holds may be written, points in time
/// travel in UTC, and what the leader has checked is not checked again.
const AS_VALUES: &str = "SET STATEMENT sql_mode='NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES',\
    time_zone='+00:00',check_constraint_checks=0 FOR ";

/// A statement that changes rows, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'p, 'c> {
    pub names: Names<'c>,
    /// The client's string.
    pub sql: &'p str,
    pub tokens: &'p [Token],
    pub facts: &'p Facts,
    pub written: &'p Written,
}

/// How the rows of a statement come back; nothing where they would not be all that happens.
pub(super) fn returned(piece: Piece<'_, '_>) -> Option<Returned> {
    let Piece { names, facts, written, .. } = piece;
    let known = written.unknown.is_none() && !written.no_database && !written.temporary;
    let rows_only = facts.refused.is_none() && !facts.beyond_rows && !facts.leaves_state;
    // SET STATEMENT is MariaDB's, as RETURNING is.
    let server = names.catalog.server;
    if !known || !rows_only || !server.maria || server.version < RETURNING_SINCE {
        return None;
    }
    // A piece that is cut out of such a comment would lack its end.
    if piece.text(0..piece.tokens.len())?.contains("/*") {
        return None;
    }
    match piece.tokens.first()?.text.as_str() {
        "insert" | "replace" => insert(piece),
        "update" => update(piece),
        "delete" => delete(piece),
        _ => None,
    }
}

impl<'p> Piece<'p, '_> {
    /// The client's text from one token to another.
    fn text(&self, range: Range<usize>) -> Option<&'p str> {
        let tokens = self.tokens.get(range)?;
        match (tokens.first(), tokens.last()) {
            (Some(first), Some(last)) => self.sql.get(first.range.start..last.range.end),
            _ => Some(""),
        }
    }

    /// The first of these words outside of parentheses, or the end.
    fn place(&self, words: &[&str]) -> usize {
        let places = level(self.tokens, (0, self.tokens.len()));
        let found = places.into_iter().find(|at| words.iter().any(|w| self.tokens[*at].is(w)));
        found.unwrap_or(self.tokens.len())
    }

    /// How many parameters stand in a part.
    fn parameters(&self, range: Range<usize>) -> usize {
        let part = self.tokens.get(range).unwrap_or_default();
        part.iter().filter(|token| token.kind == Kind::Param).count()
    }
}

/// The one table that a name stands for, if rows of it can be told.
fn told_table<'c>(target: Target<'c>, events: &[Event]) -> Option<&'c Table> {
    let Target::Known(tables) = target else { return None };
    let [table] = tables[..] else { return None };
    let plain = matches!(table.kind, TableKind::Table) && table.is_transactional();
    let fires = table.triggers.iter().any(|trigger| events.contains(&trigger.event));
    // A stored column may be computed from a point in time as the session's time zone shows it.
    let computed = table.columns.iter().any(|column| column.stored)
        && table.columns.iter().any(|column| column.kind == "timestamp");
    (plain && !fires && !computed).then_some(table)
}

fn insert(piece: Piece<'_, '_>) -> Option<Returned> {
    let parts = insert_parts(piece.names, piece.tokens)?;
    let mut events = vec![Event::Insert];
    events.extend(parts.replace.then_some(Event::Delete));
    events.extend(parts.upsert.then_some(Event::Update));
    let table = told_table(parts.target, &events)?;
    let numbered = table.numbered().is_some();
    // Which number the rows were given first is found by setting what it reads.
    if numbered && piece.facts.context.last_insert_id {
        return None;
    }
    let columns: Vec<&Column> = table.columns.iter().filter(|c| !c.generated).collect();
    let values: Vec<String> = columns.iter().map(|c| literal(c)).collect::<Option<_>>()?;
    let ending = match parts.upsert {
        true => upsert(piece, table, &columns)?,
        false => String::new(),
    };
    // Beside a query the column might be one of the query's tables.
    let counts = match parts.source {
        Source::Values(_) if parts.upsert => counting(table, &columns),
        _ => String::new(),
    };
    let returning = piece.place(&["returning"]);
    let shows = returning < piece.tokens.len();
    let joint = if shows { "," } else { " RETURNING " };
    let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
    let verb = if parts.replace { "REPLACE" } else { "INSERT" };
    Some(Returned {
        leader: format!(
            "{}{counts} {}{joint}CONCAT('(',{},')') AS lockstep_row",
            piece.text(0..returning)?,
            piece.text(returning..piece.tokens.len())?,
            values.join(",',',")
        ),
        followers: format!(
            "{AS_VALUES}{verb} INTO {} ({}) VALUES ",
            full_name(table),
            names.join(",")
        ),
        spelt: Some(Spelt {
            ending,
            numbered,
            replaces: parts.replace || parts.upsert,
            several: !matches!(parts.source, Source::Values(1)),
            meets: !counts.is_empty(),
        }),
        ..empty(usize::from(shows))
    })
}

/// What a follower does with a row that is there already: it is the one with the same key, since that
/// is looked for first.
fn upsert(piece: Piece<'_, '_>, table: &Table, columns: &[&Column]) -> Option<String> {
    let key = table.primary.as_ref()?;
    let places = level(piece.tokens, (0, piece.tokens.len()));
    let duplicate = places.into_iter().find(|at| piece.tokens[*at].is("duplicate"))?;
    let end = piece.place(&["returning"]);
    let assigned = piece.tokens.get(duplicate..end)?;
    let moves = |at: usize| {
        let name = assigned[at].text.to_lowercase();
        key.contains(&name) && assigned.get(at + 1).is_some_and(|t| t.symbol("="))
    };
    if (0..assigned.len()).any(moves) {
        return None;
    }
    let rest = columns.iter().filter(|column| !key.contains(&column.name));
    let each = rest.map(|column| {
        let name = quoted(&column.name);
        format!("{name}=VALUES({name})")
    });
    let each: Vec<String> = each.collect();
    (!each.is_empty()).then(|| format!(" ON DUPLICATE KEY UPDATE {}", each.join(",")))
}

/// Behind the assignments of an upsert: one that changes nothing and counts the rows that are there already.
/// Of those that stay as they are neither the server's counters nor the rows that come back tell.
fn counting(table: &Table, columns: &[&Column]) -> String {
    let plain = |column: &&&Column| {
        ["int", "bigint", "smallint", "tinyint", "varchar", "char"].contains(&&*column.kind)
            && !table.is_unique(&column.name)
    };
    let name = columns.iter().find(plain).map(|column| quoted(&column.name));
    name.map_or_else(String::new, |name| {
        format!(",{name}=IF(({MET}:={MET}+1) IS NULL,{name},{name})")
    })
}

fn update(piece: Piece<'_, '_>) -> Option<Returned> {
    let parts = update_parts(piece.names, piece.tokens)?;
    if parts.list.several {
        return None;
    }
    let table = told_table(parts.list.named(None).into_iter().next()?, &[Event::Update])?;
    let mut written: Vec<&Column> = Vec::new();
    for assignment in &parts.assignments {
        let equals = assignment.iter().position(|t| t.symbol("="))?;
        written.push(table.column(&assignment[..equals].last()?.text.to_lowercase())?);
    }
    written.extend(table.columns.iter().filter(|column| column.follows_clock));
    written.retain(|column| !column.generated);
    written.sort_by(|a, b| a.name.cmp(&b.name));
    written.dedup_by(|a, b| a.name == b.name);
    // Two rows that exchange a unique value could not be written one after the other.
    if written.is_empty() || written.iter().any(|column| table.is_unique(&column.name)) {
        return None;
    }
    let pairs = written.iter().map(|column| {
        // Inside of a string in the query, so that quotes would have to be doubled.
        let name = quoted(&column.name).replace('\'', "''");
        Some(format!("'{name}=',{}", literal(column)?))
    });
    let pairs: Vec<String> = pairs.collect::<Option<_>>()?;
    let values = format!("CONCAT({})", pairs.join(",',',"));
    let (set, tail) = (piece.place(&["set"]), piece.place(&["where", "order", "limit"]));
    let start = behind(piece.tokens, &["low_priority", "ignore"]);
    let rows = piece.text(start..set)?;
    let (key, condition) = key_of(table)?;
    let keys = Keys {
        lock: format!(
            "SELECT {key},{values} FROM {rows} {} FOR UPDATE",
            condition_of(piece, tail)?
        ),
        parameters: piece.parameters(0..tail)..piece.parameters(0..piece.tokens.len()),
        of: piece.parameters(0..piece.tokens.len()),
        condition,
        ending: String::new(),
        again: Some(format!("SELECT {key},{values} FROM {rows} WHERE ")),
        singly: true,
    };
    Some(Returned {
        leader: format!("{} WHERE ", piece.text(0..tail)?),
        followers: format!("{AS_VALUES}UPDATE {} SET ", full_name(table)),
        keys: Some(keys),
        ..empty(0)
    })
}

fn delete(piece: Piece<'_, '_>) -> Option<Returned> {
    let (listed, list) = delete_lists(piece.names, piece.tokens)?;
    let [name] = listed[..] else { return None };
    if list.several {
        return None;
    }
    let target = list.deleted(piece.names, name).into_iter().next()?;
    let table = told_table(target, &[Event::Delete])?;
    let from = piece.place(&["from"]);
    let tail = piece.place(&["where", "order", "limit", "returning"]);
    let returning = piece.place(&["returning"]);
    let rows = piece.text(from + 1..tail)?;
    let (key, condition) = key_of(table)?;
    let own = |(schema, name): &(String, String)| {
        format!("{schema}.{name}").eq_ignore_ascii_case(&table.full)
    };
    let keys = Keys {
        lock: format!("SELECT {key},'' FROM {rows} {} FOR UPDATE", condition_of(piece, tail)?),
        parameters: piece.parameters(0..tail)..piece.parameters(0..returning),
        of: piece.parameters(0..piece.tokens.len()),
        condition,
        ending: format!(" {}", piece.text(returning..piece.tokens.len())?),
        again: None,
        // Rows that refer to each other go in the order in which the leader met them.
        singly: table.cascades.iter().any(|foreign| own(&foreign.child)),
    };
    Some(Returned {
        leader: format!("{} WHERE ", piece.text(0..tail)?),
        followers: format!("{AS_VALUES}DELETE FROM {} WHERE ", full_name(table)),
        keys: Some(keys),
        ..empty(usize::from(returning < piece.tokens.len()))
    })
}

/// Behind the words that may stand between a verb and its table.
fn behind(tokens: &[Token], words: &[&str]) -> usize {
    1 + tokens[1..].iter().take_while(|t| words.iter().any(|word| t.is(word))).count()
}

/// What chooses the rows, from WHERE on. A query in it would read without locks, and so past what others
/// have committed meanwhile, which the statement itself would not.
fn condition_of<'p>(piece: Piece<'p, '_>, tail: usize) -> Option<&'p str> {
    let range = tail..piece.place(&["returning"]);
    let queries = piece.tokens[range.clone()].iter().any(|t| t.is("select") || t.is("table"));
    if queries { None } else { piece.text(range) }
}

/// The expression that gives a row's key as text, and what makes a condition of several of these.
fn key_of(table: &Table) -> Option<(String, [String; 3])> {
    let key = table.primary.as_ref().or(table.keys.first())?;
    let columns: Vec<&Column> = key.iter().map(|name| table.column(name)).collect::<Option<_>>()?;
    let doubtful = |column: &&Column| column.approximate || column.kind == "timestamp";
    if columns.iter().any(doubtful) {
        return None;
    }
    if let [column] = columns[..] {
        let around = [format!("{} IN (", quoted(&column.name)), ",".to_owned(), ")".to_owned()];
        return Some((literal(column)?, around));
    }
    let pairs = columns.iter().map(|column| {
        let name = quoted(&column.name).replace('\'', "''");
        Some(format!("'{name}=',{}", literal(column)?))
    });
    let pairs: Vec<String> = pairs.collect::<Option<_>>()?;
    let key = format!("CONCAT('(',{},')')", pairs.join(",' AND ',"));
    Some((key, ["(".to_owned(), " OR ".to_owned(), ")".to_owned()]))
}

/// The expression that gives a column's value as the text that stands for it.
fn literal(column: &Column) -> Option<String> {
    let name = quoted(&column.name);
    let text = match column.kind.as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" | "decimal" => {
            name.clone()
        }
        "bit" => format!("{name}+0"),
        // As a text of all its digits.
        "float" | "double" => format!("CONCAT('''',{name}*1e0,'''')"),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" => {
            format!("CONCAT('_{} x''',HEX({name}),'''')", introducer(&column.charset)?)
        }
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
            format!("CONCAT('x''',HEX({name}),'''')")
        }
        "date" | "time" | "datetime" | "uuid" | "inet4" | "inet6" => {
            format!("CONCAT('''',{name},'''')")
        }
        "timestamp" => format!("CONCAT('FROM_UNIXTIME(',UNIX_TIMESTAMP({name}),')')"),
        _ => return None,
    };
    // What is too long to be a text is NULL as well: it must not be taken for a value that is.
    Some(format!("IF({name} IS NULL,'NULL',{text})"))
}

/// The name of a character set in front of a literal.
fn introducer(charset: &str) -> Option<&str> {
    let plain = charset.bytes().all(|b| b.is_ascii_alphanumeric());
    (plain && !charset.is_empty()).then_some(charset)
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn full_name(table: &Table) -> String {
    let name = table.full.get(table.schema.len() + 1..).unwrap_or_default();
    format!("{}.{}", quoted(&table.schema), quoted(name))
}

/// What all have in common. Whether the client has a list of its own is what counts here, not how long it is.
fn empty(shown: usize) -> Returned {
    Returned {
        leader: String::new(),
        followers: String::new(),
        shown,
        columns: 1,
        draws: Vec::new(),
        asks: Sequences::None,
        spelt: None,
        keys: None,
    }
}
