//! What MySQL's clients ask on their own before anybody types a command. (P)

use super::chatter::Chatter;
use super::words::Token;

/// Variables that clients ask for; of others the value is NULL.
const VARIABLES: [(&str, &str); 22] = [
    ("auto_increment_increment", "1"),
    ("autocommit", "1"),
    ("character_set_client", "utf8mb4"),
    ("character_set_connection", "utf8mb4"),
    ("character_set_results", "utf8mb4"),
    ("character_set_server", "utf8mb4"),
    ("collation_connection", "utf8mb4_general_ci"),
    ("collation_server", "utf8mb4_general_ci"),
    ("init_connect", ""),
    ("interactive_timeout", "28800"),
    ("license", "Apache-2.0"),
    ("lower_case_table_names", "0"),
    ("max_allowed_packet", "16777216"),
    ("net_write_timeout", "60"),
    ("performance_schema", "0"),
    ("sql_mode", ""),
    ("system_time_zone", "UTC"),
    ("time_zone", "+00:00"),
    ("transaction_isolation", "REPEATABLE-READ"),
    ("tx_isolation", "REPEATABLE-READ"),
    ("version_comment", VERSION),
    ("wait_timeout", "28800"),
];

const VERSION: &str = concat!("lockstep ", env!("CARGO_PKG_VERSION"));

/// A list of variables and of functions of the session, or nothing of this kind.
pub(super) fn recognize(rest: &[Token]) -> Option<Chatter> {
    let list = match rest {
        [list @ .., limit, Token::Word(_)] if limit.is("LIMIT") => list,
        list => list,
    };
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for item in list.split(|token| *token == Token::Sign(',')) {
        let (what, alias) = match item {
            [what @ .., keyword, alias @ (Token::Word(_) | Token::Name(_))] if keyword.is("AS") => {
                (what, Some(alias.said()))
            }
            what => (what, None),
        };
        let (column, value) = variable(what).or_else(|| function(what))?;
        columns.push(alias.unwrap_or(column));
        values.push(value);
    }
    Some(Chatter::Values { columns, values, tag: "SELECT 1" })
}

fn variable(what: &[Token]) -> Option<(String, Option<String>)> {
    let [Token::Sign('@'), Token::Sign('@'), Token::Word(name)] = what else {
        return None;
    };
    let lower = name.to_ascii_lowercase();
    let bare = lower.rsplit('.').next().unwrap_or(&lower);
    let known = VARIABLES.iter().find(|(known, _)| *known == bare);
    Some((format!("@@{name}"), known.map(|(_, value)| (*value).to_owned())))
}

fn function(what: &[Token]) -> Option<(String, Option<String>)> {
    let [Token::Word(name), Token::Sign('('), Token::Sign(')')] = what else {
        return None;
    };
    let value = match name.to_ascii_lowercase().as_str() {
        "database" | "schema" => Some("lockstep".to_owned()),
        // Who it is, the console does not ask.
        "user" | "current_user" => None,
        _ => return None,
    };
    Some((format!("{name}()"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Option<Chatter> {
        let commands = crate::console::words::commands(text).expect("tokens");
        recognize(&commands[0][1..])
    }

    #[test]
    fn lists_of_variables_are_answered() {
        let answer = |columns: &[&str], values: &[Option<&str>]| {
            let text = |value: &Option<&str>| value.map(str::to_owned);
            Some(Chatter::Values {
                columns: columns.iter().map(|&name| name.to_owned()).collect(),
                values: values.iter().map(text).collect(),
                tag: "SELECT 1",
            })
        };
        assert_eq!(
            heard("SELECT @@max_allowed_packet,@@session.wait_timeout AS `w`,@@nothing"),
            answer(
                &["@@max_allowed_packet", "w", "@@nothing"],
                &[Some("16777216"), Some("28800"), None]
            )
        );
        assert_eq!(
            heard("select DATABASE(), USER() limit 1"),
            answer(&["DATABASE()", "USER()"], &[Some("lockstep"), None])
        );
        for other in ["select 1 + 1", "select @@a from t", "select sleep(5)"] {
            assert_eq!(heard(other), None, "{other}");
        }
    }
}
