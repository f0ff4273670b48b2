//! Small readers of the parse tree and of literals.

use pg_query::protobuf::{self, ResTarget, SelectStmt, a_const, node};
use pg_query::{Node, NodeEnum};

/// A name of up to three parts: the schema (empty where not given) and the name.
pub(super) fn qualified(parts: &[Node]) -> Option<(&str, &str)> {
    match parts {
        [name] => Some(("", string(name)?)),
        [schema, name] => Some((string(schema)?, string(name)?)),
        [_, schema, name] => Some((string(schema)?, string(name)?)),
        _ => None,
    }
}

/// The text of a name.
pub(super) fn string(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::String(s) => Some(&s.sval),
        _ => None,
    }
}

/// The value of a string constant, also `'…'::text` and the like.
pub(super) fn string_constant(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            a_const::Val::Sval(s) => Some(&s.sval),
            _ => None,
        },
        NodeEnum::TypeCast(cast) => {
            let (_, name) = qualified(&cast.type_name.as_ref()?.names)?;
            matches!(name, "text" | "varchar" | "bpchar" | "name" | "regclass")
                .then(|| cast.arg.as_deref().and_then(string_constant))?
        }
        _ => None,
    }
}

/// The one thing that a SELECT without any clause selects.
pub(super) fn only_target(select: &SelectStmt) -> Option<&ResTarget> {
    let [target] = select.target_list.as_slice() else {
        return None;
    };
    let bare = select.from_clause.is_empty()
        && select.where_clause.is_none()
        && select.with_clause.is_none()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.having_clause.is_none()
        && select.group_clause.is_empty()
        && select.larg.is_none();
    match &target.node {
        Some(NodeEnum::ResTarget(target)) if bare => Some(target),
        _ => None,
    }
}

/// A boolean constant in any of its spellings.
pub(super) fn bool_constant(node: &Node) -> Option<bool> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            a_const::Val::Boolval(b) => Some(b.boolval),
            a_const::Val::Ival(i) => Some(i.ival != 0),
            a_const::Val::Sval(s) => truth(&s.sval),
            _ => None,
        },
        NodeEnum::TypeCast(cast) => {
            let (_, name) = qualified(&cast.type_name.as_ref()?.names)?;
            (name == "bool").then(|| cast.arg.as_deref().and_then(bool_constant))?
        }
        NodeEnum::Boolean(b) => Some(b.boolval),
        NodeEnum::Integer(i) => Some(i.ival != 0),
        NodeEnum::String(s) => truth(&s.sval),
        _ => None,
    }
}

fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "t" | "true" | "on" | "yes" | "y" | "1" => Some(true),
        "f" | "false" | "off" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// A constant as SET would take it.
pub(super) fn setting_constant(node: &Node) -> Option<String> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => match constant.val.as_ref() {
            Some(a_const::Val::Sval(s)) => Some(s.sval.clone()),
            Some(a_const::Val::Fval(f)) => Some(f.fval.clone()),
            Some(a_const::Val::Ival(i)) => Some(i.ival.to_string()),
            Some(a_const::Val::Boolval(b)) => Some(b.boolval.to_string()),
            // A zero is the default of the message's field and may be left out.
            None if !constant.isnull => Some("0".to_owned()),
            _ => None,
        },
        NodeEnum::String(s) => Some(s.sval.clone()),
        NodeEnum::Integer(i) => Some(i.ival.to_string()),
        NodeEnum::Float(f) => Some(f.fval.clone()),
        _ => None,
    }
}

pub(super) fn is_null(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::AConst(constant)) if constant.isnull)
}

/// The option of this name in a list of options.
pub(super) fn option<'t>(options: &'t [Node], name: &str) -> Option<&'t protobuf::DefElem> {
    options.iter().find_map(|node| match node.node.as_ref()? {
        node::Node::DefElem(def) if def.defname.eq_ignore_ascii_case(name) => Some(&**def),
        _ => None,
    })
}

/// How many arguments a call has, where that can be told.
pub(super) fn arguments(call: &protobuf::FuncCall) -> Option<usize> {
    let ordered = if call.agg_within_group { call.agg_order.len() } else { 0 };
    (!call.func_variadic).then(|| call.args.len() + ordered)
}

/// Whether an option is on: given without a value it is.
pub(super) fn option_on(options: &[Node], name: &str) -> bool {
    option(options, name)
        .is_some_and(|def| def.arg.as_deref().is_none_or(|arg| bool_constant(arg) != Some(false)))
}

const CLOCK_WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

fn words(literal: &str) -> impl Iterator<Item = &str> {
    literal.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty())
}

fn is_clock_word(word: &str) -> bool {
    CLOCK_WORDS.iter().any(|clock| word.eq_ignore_ascii_case(clock))
}

/// Whether a date/time type could read a clock out of this text.
pub fn mentions_clock(literal: &str) -> bool {
    // A value of any date/time type that has such a word is short; prose is not.
    words(literal).any(is_clock_word)
}

/// Whether this text is *nothing but* a clock to a date/time type, or a range of it: what decides
/// where a text in prose must not be taken for one.
pub(super) fn is_clock(literal: &str) -> bool {
    const COMPANIONS: [&str; 9] =
        ["allballs", "zulu", "utc", "gmt", "z", "infinity", "empty", "am", "pm"];
    mentions_clock(literal)
        && words(literal).all(|word| {
            is_clock_word(word) || COMPANIONS.iter().any(|known| word.eq_ignore_ascii_case(known))
        })
}

/// Whether a literal of a date/time type means the same whatever the settings are: ISO 8601, with
/// the offset where the type has one.
pub(super) fn unambiguous_time(type_name: &str, literal: &str) -> bool {
    let literal = literal.trim();
    match type_name {
        "date" => is_iso_date(literal),
        "timestamp" => {
            is_iso_date(literal) || split_stamp(literal).is_some_and(|(_, time)| is_time(time))
        }
        "timestamptz" => {
            split_stamp(literal).is_some_and(|(_, time)| without_offset(time).is_some_and(is_time))
        }
        "time" => is_time(literal),
        "timetz" => without_offset(literal).is_some_and(is_time),
        _ => false,
    }
}

fn split_stamp(literal: &str) -> Option<(&str, &str)> {
    let (date, time) = literal.split_once(['T', ' '])?;
    is_iso_date(date).then_some((date, time))
}

fn is_iso_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10
        && bytes.iter().enumerate().all(|(i, b)| match i {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        })
}

fn is_time(text: &str) -> bool {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut fields = 0;
    let pairs = clock.split(':').all(|pair| {
        fields += 1;
        pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_digit())
    });
    pairs
        && (fields == 3 || (fields == 2 && !text.contains('.')))
        && !fraction.is_empty()
        && fraction.bytes().all(|b| b.is_ascii_digit())
}

/// The time without its offset; None where there is none.
fn without_offset(time: &str) -> Option<&str> {
    if let Some(time) = time.strip_suffix('Z') {
        return Some(time);
    }
    let at = time.rfind(['+', '-'])?;
    let (time, offset) = (&time[..at], &time[at + 1..]);
    let digits = match offset.split_once(':') {
        Some((hours, minutes)) => hours.len() == 2 && minutes.len() == 2,
        None => offset.len() == 2 || offset.len() == 4,
    };
    (digits && offset.bytes().all(|b| b.is_ascii_digit() || b == b':')).then_some(time)
}

/// An identifier, quoted whatever it is.
pub(super) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A name that may have a schema, quoted whatever it is.
pub(super) fn dotted(schema: &str, name: &str) -> String {
    if schema.is_empty() { quote(name) } else { format!("{}.{}", quote(schema), quote(name)) }
}

/// A relation's name as it was written.
pub(super) fn written(var: &protobuf::RangeVar) -> String {
    dotted(&var.schemaname, &var.relname)
}

/// A qualified name as written in a literal (`'public."Order_id_seq"'`), folded as the server does.
pub(super) fn parse_qualified(text: &str) -> Option<(String, String)> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let part;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next()? {
                    (_, '"') if matches!(chars.peek(), Some((_, '"'))) => {
                        chars.next();
                        name.push('"');
                    }
                    (at, '"') => break at + 1,
                    (_, c) => name.push(c),
                }
            };
            part = name;
            rest = &quoted[end..];
        } else {
            let end = rest.find(['.', ' ', '"']).unwrap_or(rest.len());
            part = rest[..end].to_lowercase();
            rest = &rest[end..];
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match rest.trim().strip_prefix('.') {
            Some(more) => rest = more.trim_start(),
            None if rest.trim().is_empty() => break,
            None => return None,
        }
    }
    let name = parts.pop()?;
    match parts.pop() {
        Some(schema) if parts.is_empty() => Some((schema, name)),
        None => Some((String::new(), name)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_that_are_a_clock_are_told_from_prose() {
        for clock in ["now", " NOW ", "today 12:00", "[now,)", "tomorrow allballs"] {
            assert!(is_clock(clock), "{clock}");
        }
        for prose in ["call now() please", "known", "nowhere", "today's menu", ""] {
            assert!(!is_clock(prose), "{prose}");
        }
        assert!(mentions_clock("call now() please"));
        assert!(!mentions_clock("unknown"));
    }

    #[test]
    fn only_iso_times_are_unambiguous() {
        assert!(unambiguous_time("date", "2024-02-29"));
        assert!(unambiguous_time("timestamp", "2024-02-29 12:00:00.5"));
        assert!(unambiguous_time("timestamptz", "2024-02-29T12:00:00Z"));
        assert!(unambiguous_time("timestamptz", "2024-02-29 12:00:00+05:30"));
        assert!(!unambiguous_time("timestamptz", "2024-02-29 12:00:00"));
        assert!(!unambiguous_time("timestamptz", "2024-02-29 12:00:00 Europe/Berlin"));
        assert!(!unambiguous_time("date", "02/03/2024"));
        assert!(!unambiguous_time("date", "now"));
        assert!(!unambiguous_time("timetz", "12:00"));
    }

    #[test]
    fn names_in_literals_are_folded_as_the_server_does() {
        let parsed = |text| parse_qualified(text);
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(parsed("Public.Items_id_seq"), pair("public", "items_id_seq"));
        assert_eq!(parsed("public.\"Or\"\"der\""), pair("public", "Or\"der"));
        assert_eq!(parsed("s"), pair("", "s"));
        assert_eq!(parsed(""), None);
        assert_eq!(parsed("a.b.c"), None);
        assert_eq!(parsed("\"open"), None);
    }
}
