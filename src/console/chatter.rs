//! What drivers and tools say on their own, and what keeps them content. (P)
//!
//! The console has no transactions and no settings of a session, so that all of this may be
//! answered and forgotten. What could be a mistyped command is not taken for chatter.

use super::variables;
use super::words::Token;

/// What drivers say on their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chatter {
    /// Answered with this tag, and nothing else.
    Tag(&'static str),
    /// Answered with one row.
    Values {
        /// What the columns are called.
        columns: Vec<String>,
        /// The values.
        values: Vec<Option<String>>,
        /// The tag.
        tag: &'static str,
    },
}

/// What stands before the console's version number, so that drivers find a server's version.
const SERVER: &str = concat!("PostgreSQL 15.0 (lockstep ", env!("CARGO_PKG_VERSION"), ")");

/// Settings that drivers ask for.
const SETTINGS: [(&str, &str); 17] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("max_identifier_length", "63"),
    ("search_path", ""),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0 (lockstep)"),
    ("server_version_num", "150000"),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
    ("transaction_read_only", "off"),
];

/// Functions that drivers call.
const FUNCTIONS: [(&str, &str); 5] = [
    ("version", SERVER),
    ("current_database", "lockstep"),
    ("current_catalog", "lockstep"),
    ("current_schema", "public"),
    ("pg_is_in_recovery", "f"),
];

/// What a driver says, if this is something drivers say.
pub(super) fn recognize(tokens: &[Token]) -> Option<Chatter> {
    let (first, rest) = tokens.split_first()?;
    let Token::Word(first) = first else {
        return None;
    };
    match first.to_ascii_uppercase().as_str() {
        "BEGIN" => Some(Chatter::Tag("BEGIN")),
        "START" if begins(rest, &["TRANSACTION"]) => Some(Chatter::Tag("START TRANSACTION")),
        "COMMIT" | "END" => Some(Chatter::Tag("COMMIT")),
        "ROLLBACK" | "ABORT" => Some(Chatter::Tag("ROLLBACK")),
        "DISCARD" if begins(rest, &["ALL"]) => Some(Chatter::Tag("DISCARD ALL")),
        "DEALLOCATE" => Some(Chatter::Tag("DEALLOCATE")),
        "CLOSE" if begins(rest, &["ALL"]) => Some(Chatter::Tag("CLOSE CURSOR ALL")),
        "UNLISTEN" => Some(Chatter::Tag("UNLISTEN")),
        "RESET" if rest.len() == 1 => Some(Chatter::Tag("RESET")),
        "SET" if is_setting(rest) => Some(Chatter::Tag("SET")),
        "SHOW" => setting(rest),
        "SELECT" => value(rest).or_else(|| variables::recognize(rest)),
        "USE" if rest.len() == 1 => Some(Chatter::Tag("USE")),
        _ => None,
    }
}

fn begins(tokens: &[Token], words: &[&str]) -> bool {
    words.len() <= tokens.len() && words.iter().zip(tokens).all(|(word, token)| token.is(word))
}

/// Whether this is a setting in the database's spelling, which no command of ours has.
fn is_setting(rest: &[Token]) -> bool {
    let rest = match rest {
        [scope, rest @ ..] if scope.is("SESSION") || scope.is("LOCAL") => rest,
        rest => rest,
    };
    let forms: [&[&str]; 4] =
        [&["TIME", "ZONE"], &["NAMES"], &["TRANSACTION"], &["CHARACTERISTICS", "AS"]];
    let assigned = matches!(rest, [Token::Word(_) | Token::Name(_), sign, _, ..]
        if sign.is("TO") || *sign == Token::Sign('='));
    assigned || forms.iter().any(|form| begins(rest, form))
}

fn setting(rest: &[Token]) -> Option<Chatter> {
    let name = match rest {
        [Token::Word(name) | Token::Name(name)] => name.to_ascii_lowercase(),
        [time, zone] if time.is("TIME") && zone.is("ZONE") => "timezone".to_owned(),
        _ if rest.len() == 3 && begins(rest, &["TRANSACTION", "ISOLATION", "LEVEL"]) => {
            return Some(found("transaction_isolation", "read committed", "SHOW"));
        }
        _ => return None,
    };
    if name == "transaction_isolation" {
        return Some(found("transaction_isolation", "read committed", "SHOW"));
    }
    let (name, value) = SETTINGS.iter().find(|(known, _)| *known == name)?;
    Some(found(name, value, "SHOW"))
}

/// One constant or one of the functions, with or without a name for the column.
fn value(rest: &[Token]) -> Option<Chatter> {
    let (rest, alias) = match rest {
        [rest @ .., keyword, Token::Word(alias) | Token::Name(alias)] if keyword.is("AS") => {
            (rest, Some(alias.clone()))
        }
        rest => (rest, None),
    };
    let (column, value) = match rest {
        [Token::Text(text)] => ("?column?", text.clone()),
        [Token::Word(word)] if word.bytes().all(|b| b.is_ascii_digit()) => {
            ("?column?", word.clone())
        }
        [Token::Word(word)] => function(word).filter(|(name, _)| *name == "current_catalog")?,
        [Token::Word(word), Token::Sign('('), Token::Sign(')')] => function(word)?,
        _ => return None,
    };
    Some(found(&alias.unwrap_or_else(|| column.to_owned()), &value, "SELECT 1"))
}

fn function(word: &str) -> Option<(&'static str, String)> {
    let word = word.to_ascii_lowercase();
    let bare = word.strip_prefix("pg_catalog.").unwrap_or(&word);
    let found = FUNCTIONS.iter().find(|(name, _)| *name == bare)?;
    Some((found.0, found.1.to_owned()))
}

fn found(column: &str, value: &str, tag: &'static str) -> Chatter {
    Chatter::Values { columns: vec![column.to_owned()], values: vec![Some(value.to_owned())], tag }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Option<Chatter> {
        let commands = crate::console::words::commands(text).expect("tokens");
        recognize(&commands[0])
    }

    #[test]
    fn drivers_are_answered() {
        for (text, tag) in [
            ("BEGIN", "BEGIN"),
            ("begin isolation level serializable", "BEGIN"),
            ("START TRANSACTION READ ONLY", "START TRANSACTION"),
            ("COMMIT", "COMMIT"),
            ("ROLLBACK", "ROLLBACK"),
            ("DISCARD ALL", "DISCARD ALL"),
            ("RESET ALL", "RESET"),
            ("SET client_encoding TO 'UTF8'", "SET"),
            ("set extra_float_digits = 3", "SET"),
            ("SET SESSION application_name = 'psql'", "SET"),
            ("SET datestyle TO ISO, DMY", "SET"),
            ("SET NAMES 'utf8'", "SET"),
            ("SET TIME ZONE 'UTC'", "SET"),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "SET"),
        ] {
            assert_eq!(heard(text), Some(Chatter::Tag(tag)), "{text}");
        }
        for (text, column, value) in [
            ("SHOW transaction_read_only", "transaction_read_only", "off"),
            ("show TRANSACTION ISOLATION LEVEL", "transaction_isolation", "read committed"),
            ("SHOW TimeZone", "timezone", "UTC"),
            ("SELECT 1", "?column?", "1"),
            ("select 'x' as y", "y", "x"),
            ("SELECT pg_catalog.version()", "version", SERVER),
            ("select pg_is_in_recovery()", "pg_is_in_recovery", "f"),
        ] {
            let Some(Chatter::Values { columns, values, .. }) = heard(text) else {
                panic!("{text}");
            };
            assert_eq!((columns, values), (vec![column.to_owned()], vec![Some(value.to_owned())]));
        }
    }

    #[test]
    fn slips_and_queries_are_not_taken_for_chatter() {
        for text in [
            "SET WIEGHT a 3",
            "SET WIEGHT a TO 3",
            "SHOW NONSENSE",
            "SELECT now()",
            "SELECT 1, 2",
            "SELECT x FROM y",
            "DISCARD WORK",
            "\"BEGIN\"",
        ] {
            assert_eq!(heard(text), None, "{text}");
        }
    }
}
