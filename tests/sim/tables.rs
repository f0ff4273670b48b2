//! What a fake server keeps on its disk: tables of integers with a key, sequences, and everything
//! that the schema `lockstep` holds on a real one.

use std::collections::{BTreeMap, BTreeSet};

use lockstep::cluster::{Roster, Vote};
use lockstep::store::control::Control;
use lockstep::store::journal::Record;

/// A row: its columns in order, the key first.
pub(crate) type Row = Vec<i64>;
/// A row's place: table and key.
pub(crate) type Place = (&'static str, i64);

/// What a table looks like.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [&'static str],
    /// The sequence that its key comes from when it is left out.
    pub(crate) sequence: Option<&'static str>,
    /// A column that refers to the key of another table.
    pub(crate) refers: Option<(usize, &'static str)>,
}

/// All tables. `catalog.txt` describes the same ones to the classifier.
pub(crate) const SHAPES: [Shape; 7] = [
    table("account", &["id", "balance"]),
    table("counter", &["id", "n", "r"]),
    table("note", &["id", "client"]),
    Shape { sequence: Some(SEQUENCE), ..table("event", &["id", "client", "n", "at"]) },
    table("job", &["id", "owner"]),
    table("parent", &["id", "v"]),
    Shape { refers: Some((1, "parent")), ..table("child", &["id", "parent"]) },
];

/// The one sequence, as the product names it.
pub(crate) const SEQUENCE: &str = "\"public\".\"event_id_seq\"";
/// Where the journal's rows are locked.
pub(crate) const JOURNAL: &str = "lockstep.journal";

const fn table(name: &'static str, columns: &'static [&'static str]) -> Shape {
    Shape { name, columns, sequence: None, refers: None }
}

pub(crate) fn shape(name: &str) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.name == name)
}

/// `"public"."name"`, as the capture triggers say it.
pub(crate) fn relation(name: &str) -> String {
    format!("\"public\".\"{name}\"")
}

/// A row in the text form of the capture triggers.
pub(crate) fn row_text(row: &Row) -> String {
    let columns: Vec<String> = row.iter().map(i64::to_string).collect();
    format!("({})", columns.join(","))
}

/// The reverse of [`row_text`].
pub(crate) fn text_row(text: &str) -> Row {
    let inner = text.strip_prefix('(').and_then(|t| t.strip_suffix(')'));
    let inner = inner.expect("a row stands in parentheses");
    inner.split(',').map(|n| n.parse().expect("columns are numbers")).collect()
}

/// What survives a crash.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) tables: BTreeMap<&'static str, BTreeMap<i64, Row>>,
    /// Name: value, and whether it has been handed out.
    pub(crate) sequences: BTreeMap<String, (i64, bool)>,
    pub(crate) journal: BTreeMap<i64, Record>,
    pub(crate) control: Control,
    pub(crate) token: String,
}

/// How many accounts, counters and jobs there are at the start.
pub(crate) const ACCOUNTS: i64 = 6;
pub(crate) const COUNTERS: i64 = 5;
pub(crate) const JOBS: i64 = 40;
pub(crate) const PARENTS: i64 = 4;
/// What every account holds at the start.
pub(crate) const BALANCE: i64 = 1000;
/// Counters from here on belong to one client each.
pub(crate) const OWN: i64 = 100;

impl Disk {
    /// A disk as `lockstep init` leaves it.
    pub(crate) fn initial(name: &str, system: &str, members: &[String]) -> Self {
        let fill = |ids: std::ops::RangeInclusive<i64>, rest: &[i64]| {
            ids.map(|id| (id, [&[id], rest].concat())).collect::<BTreeMap<i64, Row>>()
        };
        let mut tables: BTreeMap<&'static str, BTreeMap<i64, Row>> =
            SHAPES.iter().map(|shape| (shape.name, BTreeMap::new())).collect();
        tables.insert("account", fill(1..=ACCOUNTS, &[BALANCE]));
        let mut counters = fill(1..=COUNTERS, &[0, 0]);
        counters.extend(fill(OWN..=OWN + 20, &[0, 0]));
        tables.insert("counter", counters);
        tables.insert("job", fill(1..=JOBS, &[0]));
        tables.insert("parent", fill(1..=PARENTS, &[0]));
        let control = Control {
            cluster_id: "simulated".into(),
            backend: name.into(),
            system_identifier: system.into(),
            vote: Vote {
                roster: Roster { number: 1, members: members.to_vec(), ..Roster::default() },
                ..Vote::default()
            },
            writer: String::new(),
            beat: 0,
            complete_to: 0,
            pruned_to: 0,
        };
        Self {
            tables,
            sequences: BTreeMap::from([(SEQUENCE.to_owned(), (1, false))]),
            journal: BTreeMap::new(),
            control,
            token: String::new(),
        }
    }

    /// The marks of all transactions that are here: what each is known by stands in one of three
    /// tables.
    pub(crate) fn marks(&self) -> BTreeSet<i64> {
        let column = |table: &str, at: usize| -> Vec<i64> {
            self.tables[table].values().map(|row| row[at]).collect()
        };
        let all = [column("note", 0), column("event", 2), column("job", 1)];
        all.into_iter().flatten().filter(|mark| *mark != 0).collect()
    }

    pub(crate) fn row(&self, place: Place) -> Option<&Row> {
        self.tables.get(place.0)?.get(&place.1)
    }

    /// The newest record, or up to where records were removed.
    pub(crate) fn newest(&self) -> i64 {
        let last = self.journal.last_key_value().map_or(0, |(seq, _)| *seq);
        last.max(self.control.pruned_to)
    }
}
