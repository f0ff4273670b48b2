//! The catalog of the simulated database, through the product's own door: from the rows that a
//! server would have answered.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use lockstep::sql::Catalog;

type Rows = Vec<Vec<Option<String>>>;

/// Words that the statements of the simulation use: name, worst volatility, and so on.
const BUILTINS: &[&str] =
    &["now|s|false|true|0|0", "random|v|false|true|0|0", "nextval|v|false|true|1|1"];
const OPERATORS: &[&str] =
    &["=|i|i|false", "<|i|i|false", ">|i|i|false", "+|i|i|false", "-|i|i|false"];

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let rows = rows();
    let named = rows.iter().map(|(name, rows)| (*name, rows.clone())).collect();
    Catalog::from_rows(&named).expect("the catalog of the simulation")
});

/// The catalog.
pub(crate) fn catalog() -> Catalog {
    CATALOG.clone()
}

fn row(columns: &[&str]) -> Vec<Option<String>> {
    columns.iter().map(|c| (*c != "\\N").then(|| (*c).to_owned())).collect()
}

fn split(lines: &[&str]) -> Rows {
    lines.iter().map(|line| row(&line.split('|').collect::<Vec<_>>())).collect()
}

fn rows() -> BTreeMap<&'static str, Rows> {
    let mut all: BTreeMap<&'static str, Rows> =
        Catalog::queries().iter().map(|(name, _)| (*name, Rows::new())).collect();
    let (mut relations, mut columns, mut keys) = (Rows::new(), Rows::new(), Rows::new());
    for (n, shape) in crate::tables::SHAPES.iter().enumerate() {
        let (oid, index) = ((20_000 + n * 10).to_string(), (20_001 + n * 10).to_string());
        let full = format!("public.{}", shape.name);
        let flags = ["false", "false", "false", "app", "true"];
        relations
            .push(row(&[&[oid.as_str(), "public", shape.name, &full, "r"], &flags[..]].concat()));
        for (place, column) in shape.columns.iter().enumerate() {
            let default = match (shape.sequence, place) {
                (Some(_), 0) => "nextval('public.event_id_seq'::regclass)",
                (Some(_), 3) => "now()",
                _ => "\\N",
            };
            let key = if place == 0 { "true" } else { "false" };
            columns.push(row(&[&oid, column, "pg_catalog", "int8", key, default, "", "", "\\N"]));
        }
        keys.push(row(&[&oid, &index, "true", "id", "true"]));
        if shape.sequence.is_some() {
            let name = ["20999", "public", "event_id_seq", "public.event_id_seq", "S"];
            relations.push(row(&[&name[..], &flags[..]].concat()));
        }
    }
    all.insert("relations", relations);
    all.insert("columns", columns);
    all.insert("keys", keys);
    all.insert("builtins", split(BUILTINS));
    all.insert("operators", split(OPERATORS));
    all
}
