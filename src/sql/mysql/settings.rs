//! SET and USE.
//!
//! Each assignment follows the session by itself to whichever connection it is given: as the constant
//! that was written, or, where it was an expression, as the value that a server made of it.

use super::ddl::account;
use super::lexer::{Kind, Token};
use super::names::{Names, is_reserved, is_system};
use super::order::level;
use super::statement::{Class, Hold, Isolation, Refusal, SetOp, Setting, Statement, Told, TxOp};
use super::transaction::isolation;
use super::walk::Walk;
use super::{analyze, catalog};

/// Settings that the proxy needs for itself, or that would make servers differ.
const KEPT: &[&str] = &[
    "sql_log_bin",
    "binlog_format",
    "server_id",
    "gtid_next",
    "gtid_domain_id",
    "gtid_seq_no",
    "pseudo_thread_id",
    "pseudo_slave_mode",
    "insert_id",
    "rand_seed1",
    "rand_seed2",
    "timestamp",
    "sql_auto_is_null",
    "session_track_transaction_info",
    "session_track_gtids",
    "system_versioning_asof",
    "completion_type",
    "tx_read_only",
    "transaction_read_only",
    "last_insert_id",
    "identity",
];

/// Character sets whose characters may have a quote or a backslash as their second byte.
const UNSAFE: &[&str] =
    &["big5", "cp932", "gb18030", "gbk", "sjis", "eucjpms", "ucs2", "utf16", "utf16le", "utf32"];

/// USE database.
pub(super) fn use_database(tokens: &[Token]) -> Statement {
    let Some(name) = tokens.get(1).filter(|t| t.is_name()) else {
        return analyze::unreadable("USE without a name");
    };
    if is_reserved(&name.text) {
        return Statement::refused(
            "use",
            Refusal::reserved("the database lockstep is the proxy's own"),
        );
    }
    let statement = format!("USE `{}`", name.text.replace('`', "``"));
    let setting =
        Setting { key: "use".to_owned(), told: Told::Constant(statement, Some(name.text.clone())) };
    Statement::new("use", Class::Set(SetOp::Each(vec![setting])))
}

/// SET in all its forms.
pub(super) fn set(names: Names<'_>, sql: &str, tokens: &[Token]) -> Statement {
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|t| t.is(word));
    let scoped = 1 + usize::from(is(1, "session") || is(1, "local"));
    if is(scoped, "transaction") {
        return characteristics(scoped == 2, &tokens[scoped + 1..]);
    }
    if is(1, "global") && is(2, "transaction") {
        return global();
    }
    if is(1, "password") {
        return account("set");
    }
    if is(1, "role") {
        let role = sql[tokens[0].range.start..tokens[tokens.len() - 1].range.end].to_owned();
        return each(vec![constant("role", role, None)]);
    }
    if is(1, "default") && is(2, "role") {
        return account("set");
    }
    if is(1, "statement") || is(1, "resource") {
        return Statement::refused(
            "set",
            Refusal::unsupported(
                "settings for one statement are not supported",
                "SET the variable, run the statement, and SET it back.",
            ),
        );
    }
    let mut found = Assigned {
        names,
        sql,
        settings: Vec::new(),
        refused: None,
        on_leader: false,
        autocommit: None,
    };
    let mut from = 1;
    let places = level(tokens, (1, tokens.len()));
    for at in places.into_iter().filter(|at| tokens[*at].symbol(",")).chain([tokens.len()]) {
        found.assignment(&tokens[from..at]);
        from = at + 1;
    }
    found.statement()
}

fn global() -> Statement {
    Statement::refused(
        "set",
        Refusal::unsupported(
            "settings of the servers themselves are not replicated",
            "Set them on every server, in its configuration.",
        ),
    )
}

fn each(settings: Vec<Setting>) -> Statement {
    Statement::new("set", Class::Set(SetOp::Each(settings)))
}

fn constant(key: &str, statement: String, value: Option<String>) -> Setting {
    Setting { key: key.to_owned(), told: Told::Constant(statement, value) }
}

/// SET [SESSION] TRANSACTION.
fn characteristics(session: bool, words: &[Token]) -> Statement {
    let texts: Vec<&str> = words.iter().map(|t| t.text.as_str()).collect();
    let text = texts.join(" ");
    let level =
        text.split("isolation level ").nth(1).map(|rest| rest.split(" ,").next().unwrap_or(rest));
    if text.contains("read only") {
        return Statement::refused(
            "set",
            Refusal::unsupported(
                "read-only transactions are not the session's default here",
                "START TRANSACTION READ ONLY.",
            ),
        );
    }
    let settings = match level.map(isolation) {
        None => Vec::new(),
        Some(None) => return analyze::unreadable("an unknown isolation level"),
        Some(Some(level)) if session => vec![default_level(level)],
        Some(Some(Isolation::Serializable)) => {
            return Statement::refused(
                "set",
                Refusal::unsupported(
                    "the level of the next transaction alone cannot be chosen",
                    "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE.",
                ),
            );
        }
        // Every transaction has at least the level that is asked for.
        Some(Some(_)) => Vec::new(),
    };
    Statement::new("set", Class::Set(SetOp::Noted(settings)))
}

/// Below REPEATABLE READ a statement does not lock the gaps that it has read, and would not do the
/// same on another server: where it writes, a connection strengthens weaker levels, which the standard
/// allows. What was asked for still counts when a transaction has to go on at another server.
fn default_level(level: Isolation) -> Setting {
    let words = match level {
        Isolation::ReadUncommitted => "READ UNCOMMITTED",
        Isolation::ReadCommitted => "READ COMMITTED",
        Isolation::RepeatableRead => "REPEATABLE READ",
        Isolation::Serializable => "SERIALIZABLE",
    };
    let statement = format!("SET SESSION TRANSACTION ISOLATION LEVEL {words}");
    constant("default_transaction_isolation", statement, Some(words.to_owned()))
}

struct Assigned<'n, 't> {
    names: Names<'n>,
    sql: &'t str,
    settings: Vec<Setting>,
    refused: Option<Statement>,
    /// A value can only be had on the leader.
    on_leader: bool,
    autocommit: Option<bool>,
}

impl Assigned<'_, '_> {
    fn refuse(&mut self, why: impl Into<String>, instead: &str) {
        let refusal = Refusal::unsupported(why, instead);
        self.refused.get_or_insert(Statement::refused("set", refusal));
    }

    fn assignment(&mut self, tokens: &[Token]) {
        let is = |at: usize, word: &str| tokens.get(at).is_some_and(|t| t.is(word));
        if is(0, "names") {
            return self.charset("names", &tokens[1..]);
        }
        if is(0, "character") && is(1, "set") || is(0, "charset") {
            return self.charset("charset", &tokens[usize::from(is(0, "character")) + 1..]);
        }
        let Some(equals) = tokens.iter().position(|t| t.symbol("=")) else {
            self.refused.get_or_insert(analyze::unreadable("an assignment without `=`"));
            return;
        };
        let colon = usize::from(equals > 0 && tokens[equals - 1].symbol(":"));
        let (left, value) = (&tokens[..equals - colon], &tokens[equals + 1..]);
        let Some(last) = left.last().filter(|_| !value.is_empty()) else {
            self.refused.get_or_insert(analyze::unreadable("half an assignment"));
            return;
        };
        if last.kind == Kind::Variable {
            return self.variable(&last.text, value);
        }
        let scopes = ["session", "local", "global", "persist", "persist_only"];
        let scope = left.first().filter(|t| left.len() > 1 && scopes.iter().any(|word| t.is(word)));
        let name = &left[usize::from(scope.is_some())..];
        let mut key = name.iter().map(|t| t.text.to_lowercase()).collect::<String>();
        if let Some(scope) = scope {
            key = format!("{}.{key}", scope.text);
        }
        let key = key.trim_start_matches("session.").trim_start_matches("local.").to_owned();
        if ["global.", "persist.", "persist_only."].iter().any(|scope| key.starts_with(scope)) {
            self.refused.get_or_insert(global());
            return;
        }
        self.setting(&key, value);
    }

    /// SET NAMES and SET CHARACTER SET, as the assignments that they stand for.
    fn charset(&mut self, form: &str, tokens: &[Token]) {
        let Some(name) = tokens.first() else {
            self.refused.get_or_insert(analyze::unreadable("a character set without a name"));
            return;
        };
        let collation = tokens.get(2).filter(|_| tokens.get(1).is_some_and(|t| t.is("collate")));
        let name = if name.is("default") { "utf8mb4" } else { &name.text }.to_lowercase();
        self.readable("character_set_client", &name);
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            self.refused.get_or_insert(analyze::unreadable("an unknown character set"));
        }
        for key in ["character_set_client", "character_set_results"] {
            let statement = format!("SET SESSION {key} = {name}");
            self.settings.push(constant(key, statement, Some(name.clone())));
        }
        let key = "character_set_connection";
        let of_database = form == "charset";
        let connection = if of_database { "@@SESSION.character_set_database" } else { &name };
        let statement = format!("SET SESSION {key} = {connection}");
        self.settings.push(constant(key, statement, None));
        // The collation comes after the character set, in their order by name as well.
        let key = "collation_connection".to_owned();
        self.settings.push(match collation.filter(|_| !of_database) {
            Some(collation) => {
                let collation = collation.text.replace('\'', "''");
                constant(&key, format!("SET SESSION {key} = '{collation}'"), Some(collation))
            }
            None => Setting { key, told: Told::Dropped },
        });
    }

    /// Text in some character sets cannot be read without knowing them.
    fn readable(&mut self, key: &str, value: &str) {
        if key == "character_set_client" && UNSAFE.contains(&value.to_lowercase().as_str()) {
            self.refuse(
                format!("statements in {value} cannot be read safely"),
                "SET NAMES utf8mb4, and let the driver convert.",
            );
        }
    }

    /// A user variable has the value that one server computes, on all of them.
    fn variable(&mut self, name: &str, value: &[Token]) {
        self.expression(value);
        let quoted = format!("@`{}`", name.replace('`', "``"));
        let key = format!("@{name}");
        if let Some(text) = self.literal(value) {
            self.settings.push(constant(&key, format!("SET {quoted} = {text}"), None));
            return;
        }
        let query = format!("SELECT CONCAT('SET ', {}), NULL", assignment_of(name));
        self.settings.push(Setting { key, told: Told::Asked(query) });
    }

    fn setting(&mut self, key: &str, value: &[Token]) {
        let word = match value {
            [only] => only.text.to_lowercase(),
            _ => String::new(),
        };
        if key == "lockstep.consistency" {
            let op = SetOp::Assign {
                key: key.to_owned(),
                local: false,
                value: Some(word),
                list: Vec::new(),
            };
            self.refused.get_or_insert(Statement::new("set", Class::Set(op)));
            return;
        }
        match key {
            "autocommit" => return self.autocommit(&word),
            "tx_isolation" | "transaction_isolation" => return self.level(&word),
            "sql_mode"
                if ["oracle", "mssql", "db2"].iter().any(|mode| contains_mode(value, mode)) =>
            {
                self.refuse(
                    "statements of another dialect cannot be read",
                    "Leave that sql_mode out.",
                );
            }
            "storage_engine" | "default_storage_engine" | "default_tmp_storage_engine"
                if word != "innodb" && word != "default" =>
            {
                self.refuse(
                    format!("tables of the engine {word} have no transactions"),
                    "Use InnoDB.",
                );
            }
            "character_set_client" => self.readable(key, &word),
            _ if KEPT.contains(&key) => {
                self.refuse(
                    format!("the setting {key} is the proxy's, or each server's own"),
                    "Leave it as it is; values can be written into the statement.",
                );
            }
            _ => {}
        }
        if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
            self.refused.get_or_insert(analyze::unreadable("an unknown setting"));
            return;
        }
        if key == "character_set_connection" {
            let key = "collation_connection".to_owned();
            self.settings.push(Setting { key, told: Told::Dropped });
        }
        self.expression(value);
        if let Some(text) = self.literal(value) {
            let constant_value = (word != "default").then(|| value[0].text.clone());
            self.settings.push(constant(
                key,
                format!("SET SESSION {key} = {text}"),
                constant_value,
            ));
            return;
        }
        let query = format!(
            "SELECT CONCAT('SET SESSION {key} = ', IF(@@SESSION.{key} REGEXP '^-?[0-9]+([.][0-9]+)?$', \
             @@SESSION.{key}, QUOTE(@@SESSION.{key}))), @@SESSION.{key}"
        );
        self.settings.push(Setting { key: key.to_owned(), told: Told::Asked(query) });
    }

    fn autocommit(&mut self, word: &str) {
        match word {
            "1" | "on" | "true" | "default" => self.autocommit = Some(true),
            "0" | "off" | "false" => self.autocommit = Some(false),
            _ => self.refuse("autocommit is either on or off", "SET autocommit = 0 or 1."),
        }
    }

    fn level(&mut self, word: &str) {
        match isolation(word) {
            Some(level) => self.settings.push(default_level(level)),
            None => {
                self.refused.get_or_insert(analyze::unreadable("an unknown isolation level"));
            }
        }
    }

    /// What an expression on the right side needs.
    fn expression(&mut self, value: &[Token]) {
        let mut walk = Walk::new(self.names);
        walk.tokens(value);
        let facts = walk.facts;
        if let Some((why, instead)) = facts.refused {
            self.refuse(why, instead);
        }
        if facts.writes != super::statement::Touched::None {
            self.refuse(
                "an assignment whose function writes is not replicated",
                "CALL a procedure.",
            );
        }
        if facts.sets_number {
            self.refuse(
                "LAST_INSERT_ID() is given a value in a SET",
                "SELECT LAST_INSERT_ID(value), and SET the variable to LAST_INSERT_ID().",
            );
        }
        self.on_leader |= facts.reads_rows || facts.leaves_state || facts.temporary;
    }

    /// A value that is a constant, as it is written.
    fn literal(&self, value: &[Token]) -> Option<String> {
        let text = |token: &Token| self.sql[token.range.clone()].to_owned();
        match value {
            [only] if matches!(only.kind, Kind::Text | Kind::Number | Kind::Word) => {
                Some(text(only))
            }
            [sign, number] if sign.symbol("-") && number.kind == Kind::Number => {
                Some(format!("-{}", text(number)))
            }
            _ => None,
        }
    }

    fn statement(mut self) -> Statement {
        if let Some(refused) = self.refused {
            return refused;
        }
        let only_noted = self.settings.iter().all(|s| s.key == "default_transaction_isolation");
        match (self.autocommit, self.settings.is_empty()) {
            (Some(on), true) => return Statement::new("set", Class::Tx(TxOp::Autocommit(on))),
            // The statement itself turns it on at the server, where it is on already.
            (Some(true), false) => {
                let on = constant("autocommit", "SET autocommit = 1".to_owned(), None);
                self.settings.push(on);
            }
            (Some(false), false) => {
                return Statement::refused(
                    "set",
                    Refusal::unsupported(
                        "autocommit is turned off together with other settings",
                        "SET autocommit = 0 in a statement of its own.",
                    ),
                );
            }
            (None, _) => {}
        }
        if only_noted {
            return Statement::new("set", Class::Set(SetOp::Noted(self.settings)));
        }
        let plain = self.settings.iter().all(|s| s.key.starts_with('@'));
        match (self.on_leader, plain) {
            (false, _)
                if self.settings.iter().all(|s| s.key != "default_transaction_isolation") =>
            {
                each(self.settings)
            }
            (true, true) => Statement::new("set", Class::LeaderRead { hold: Hold::Session }),
            _ => Statement::refused(
                "set",
                Refusal::unsupported(
                    "settings of different kinds are set in one statement",
                    "SET them one by one.",
                ),
            ),
        }
    }
}

/// An expression whose value is the assignment that gives a user variable the value that it has:
/// `@name = 5`, for a SET on another server. `JSON_QUOTE()` knows no numbers; and of these only what
/// is approximate stays without a fraction when one is added to zero.
pub fn assignment_of(variable: &str) -> String {
    let v = format!("@`{}`", variable.replace('`', "``"));
    let text = format!("CONVERT({v} USING utf8mb4)");
    let number = format!(
        "IF(CONCAT({v} - {v} + 0.0) = '0', CONCAT({text}, IF(LOCATE('e', {text}), '', 'e0')), {text})"
    );
    format!(
        "CONCAT('{} = ', IF({v} IS NULL, 'NULL', IF(JSON_QUOTE({v}) IS NULL, {number}, \
         IF(CHARSET({v}) = 'binary', CONCAT('x''', HEX({v}), ''''), CONCAT('CONVERT(', \
         QUOTE({text}), ' USING ', CHARSET({v}), ') COLLATE ', COLLATION({v}))))))",
        v.replace('\'', "''")
    )
}

/// Whether a value names a mode of reading.
fn contains_mode(value: &[Token], mode: &str) -> bool {
    value.iter().any(|t| t.text.to_lowercase().split([',', ' ']).any(|word| word == mode))
        || value
            .iter()
            .any(|t| catalog::quoting(&t.text).ansi_quotes && t.text.to_lowercase().contains(mode))
        || value.iter().any(|t| t.is_name() && is_system(&t.text))
}
