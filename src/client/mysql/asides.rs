//! Questions about the session itself, which only this end can answer: the server's session is lent,
//! and the next statement may meet another.
//!
//! Only texts that consist of nothing else are answered here; their words mean the same in every mode
//! of reading quotes.

use super::{MyClient, MyWork};
use crate::exchange::{Client, Table};

/// A question about the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Aside {
    /// SHOW WARNINGS, SHOW ERRORS: so many rows behind so many.
    Messages { errors: bool, skip: usize, most: usize },
    /// How many of them there are; what the column is called.
    Count { errors: bool, column: String },
    /// CONNECTION_ID().
    Number(String),
    /// @@autocommit.
    Autocommit(String),
}

impl Aside {
    /// The question that a text asks, if it is one of these.
    pub(super) fn of(text: &str) -> Option<Self> {
        // Every statement passes here: most end at the first byte.
        let text = text.trim().trim_end_matches(';').trim_end();
        if text.len() > 80 || !text.starts_with(['s', 'S']) {
            return None;
        }
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let lower: Vec<String> = words.iter().map(|word| word.to_ascii_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        match lower.as_slice() {
            ["show", kind @ ("warnings" | "errors"), rest @ ..] => {
                let (skip, most) = limit(rest)?;
                Some(Self::Messages { errors: *kind == "errors", skip, most })
            }
            ["show", "count(*)", kind @ ("warnings" | "errors")] => {
                let errors = *kind == "errors";
                let column =
                    if errors { "@@session.error_count" } else { "@@session.warning_count" };
                Some(Self::Count { errors, column: column.to_owned() })
            }
            ["select", what] => Self::value(what, words.get(1)?),
            ["select", what, "as", _] => Self::value(what, words.get(3)?.trim_matches('`')),
            _ => None,
        }
    }

    fn value(what: &str, column: &str) -> Option<Self> {
        let column = column.to_owned();
        if what == "connection_id()" {
            return Some(Self::Number(column));
        }
        let name = what.strip_prefix("@@")?;
        let name = name.trim_start_matches("session.").trim_start_matches("local.");
        match name {
            "autocommit" => Some(Self::Autocommit(column)),
            "warning_count" => Some(Self::Count { errors: false, column }),
            "error_count" => Some(Self::Count { errors: true, column }),
            _ => None,
        }
    }
}

/// A list of settings without the path of the server's socket, through which a client on the same
/// machine would get past the proxy. `None` where a text is anything else.
pub(super) fn without_socket(text: &str) -> Option<String> {
    let list = text.trim_start();
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"_@., \t\r\n;".contains(&b);
    if !list.get(..7)?.eq_ignore_ascii_case("select ") || !list.bytes().all(harmless) {
        return None;
    }
    let at = list.to_ascii_lowercase().find("@@socket")?;
    let (head, tail) = (&list[..at], &list[at + "@@socket".len()..]);
    let ends = tail.bytes().next().is_none_or(|b| !b.is_ascii_alphanumeric() && b != b'_');
    ends.then(|| format!("{head}NULL AS `@@socket`{tail}"))
}

/// `LIMIT n`, `LIMIT skip, n`, or nothing.
fn limit(words: &[&str]) -> Option<(usize, usize)> {
    let Some((first, rest)) = words.split_first() else { return Some((0, usize::MAX)) };
    if *first != "limit" {
        return None;
    }
    let numbers = rest.concat();
    match numbers.split_once(',') {
        Some((skip, most)) => Some((skip.parse().ok()?, most.parse().ok()?)),
        None => Some((0, numbers.parse().ok()?)),
    }
}

impl MyClient {
    /// Answers such a question.
    pub(super) fn answer_aside(&mut self, work: &MyWork, aside: &Aside) {
        let is_error = |row: &&Vec<Option<String>>| row.first() == Some(&Some("Error".to_owned()));
        let one = |column: &str, value: String, client: &mut Self| {
            let table =
                Table { columns: &[column], rows: &[vec![Some(value)]], ..Table::default() };
            client.rows(work, &table);
        };
        match aside {
            Aside::Messages { errors, skip, most } => {
                self.past.keeps();
                let rows = self.messages.iter().filter(|row| !errors || is_error(row));
                let rows: Vec<_> = rows.skip(*skip).take(*most).cloned().collect();
                let columns = &["Level", "Code", "Message"];
                self.rows(work, &Table { columns, rows: &rows, ..Table::default() });
            }
            Aside::Count { errors, column } => {
                let count = self.messages.iter().filter(|row| !errors || is_error(row)).count();
                one(column, count.to_string(), self);
            }
            Aside::Number(column) => one(column, self.number.to_string(), self),
            Aside::Autocommit(column) => one(column, u8::from(self.autocommit).to_string(), self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_past_the_proxy_is_not_told() {
        let hidden = without_socket("SELECT @@max_allowed_packet,@@socket,@@wait_timeout");
        let expected = "SELECT @@max_allowed_packet,NULL AS `@@socket`,@@wait_timeout";
        assert_eq!(hidden.as_deref(), Some(expected));
        assert_eq!(without_socket("select @@socket").as_deref(), Some("select NULL AS `@@socket`"));
        for other in ["select '@@socket'", "select @@sockets", "select 1", "show", "select é"] {
            assert_eq!(without_socket(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_asks_nothing_else_is_answered_here() {
        let messages = |errors, skip, most| Some(Aside::Messages { errors, skip, most });
        assert_eq!(Aside::of("SHOW WARNINGS"), messages(false, 0, usize::MAX));
        assert_eq!(Aside::of(" show errors limit 2, 3;"), messages(true, 2, 3));
        assert_eq!(
            Aside::of("select connection_id()"),
            Some(Aside::Number("connection_id()".into()))
        );
        assert_eq!(
            Aside::of("SELECT @@session.autocommit AS `A`"),
            Some(Aside::Autocommit("A".into()))
        );
        for other in
            ["select 1", "show warnings x", "select @@autocommit, 1", "select 'connection_id()'"]
        {
            assert_eq!(Aside::of(other), None, "{other}");
        }
    }
}
