//! What the agents' tables say, for people: who has what, how the nodes stand, what happened.
//!
//! Read from the leader, or from any server that answers while this proxy stands by. The rows are the agents' own;
//! nothing here is on the path of a statement.

use std::collections::BTreeMap;

use super::act::refused;
use super::parse::Agents;
use crate::cluster::turn;
use crate::error::Failure;
use crate::exchange::Protocol;
use crate::session::Shared;

type Row = Vec<Option<String>>;

/// How many of the newest events are shown, or looked through.
const MOST: &str = "1000";

/// The columns of a table.
pub(super) fn columns(what: Agents) -> &'static [&'static str] {
    match what {
        Agents::Lease => &[
            "resource",
            "holder",
            "epoch",
            "seq",
            "grade",
            "ttl_ms",
            "maintenance",
            "target",
            "reason",
            "sessions",
        ],
        Agents::Nodes => &[
            "resource",
            "node",
            "role",
            "rank",
            "mode",
            "priority",
            "epoch",
            "healthy",
            "maintenance",
            "seq",
            "address",
            "version",
            "message",
        ],
        Agents::Events => {
            &["happened", "resource", "node", "epoch", "event", "lasted_ms", "detail"]
        }
        Agents::Checks => &["resource", "node", "check", "state", "since", "said"],
        Agents::Downtime => &["served_again", "resource", "master", "epoch", "seconds_without"],
    }
}

/// The rows of a table.
pub(super) async fn rows<P: Protocol>(
    shared: &Shared<P>,
    what: Agents,
) -> Result<Vec<Row>, Failure> {
    let tables = shared.leases.tables();
    let events = ["happened", "resource", "node", "epoch", "kind", "lasted_ms", "detail"];
    let newest = |which: &str| {
        format!("{which} ORDER BY happened DESC, resource, node, n DESC LIMIT {MOST}")
    };
    let (table, sql) = match what {
        Agents::Lease => {
            let columns = [
                "resource", "holder", "epoch", "seq", "grade", "ttl_ms", "paused", "target",
                "reason",
            ];
            ("lockstep_lease", tables.select(&columns, "lockstep_lease", "ORDER BY resource"))
        }
        Agents::Nodes => {
            let columns = [
                "n.resource",
                "node",
                "role",
                "mode",
                "priority",
                "seen_epoch",
                "healthy",
                "maintenance",
                "n.seq",
                "addr",
                "version",
                "message",
                "holder",
            ];
            let rest = format!(
                "n LEFT JOIN {} l ON l.resource = n.resource ORDER BY n.resource, node",
                tables.named("lockstep_lease")
            );
            ("lockstep_node", tables.select(&columns, "lockstep_node", &rest))
        }
        Agents::Events => ("lockstep_event", tables.select(&events, "lockstep_event", &newest(""))),
        Agents::Checks => {
            let which = newest("WHERE kind IN ('check_failed', 'check_passed')");
            ("lockstep_event", tables.select(&events, "lockstep_event", &which))
        }
        Agents::Downtime => {
            let which = newest("WHERE kind = 'started'");
            ("lockstep_event", tables.select(&events, "lockstep_event", &which))
        }
    };
    let found = read(shared, table, sql).await?;
    Ok(match what {
        Agents::Lease => found.into_iter().map(|row| lease(shared, row)).collect(),
        Agents::Nodes => nodes(found),
        Agents::Events => found.into_iter().rev().collect(),
        Agents::Checks => checks(found),
        Agents::Downtime => found.into_iter().rev().map(outage).collect(),
    })
}

/// From the leader where there is one; else from whoever answers first.
async fn read<P: Protocol>(
    shared: &Shared<P>,
    table: &str,
    sql: String,
) -> Result<Vec<Row>, Failure> {
    let view = shared.keeper.view();
    let all = (0..shared.controls.len()).filter(|backend| view.leader() != Some(*backend));
    let order = view.leader().into_iter().chain(all);
    let mut problems = Vec::new();
    for backend in order {
        let control = &shared.controls[backend];
        let looked = async {
            let there = control.rows(shared.leases.tables().there()).await?;
            let is_there = there
                .iter()
                .any(|row| row.first().is_some_and(|name| name.as_deref() == Some(table)));
            if is_there { control.rows(sql.clone()).await.map(Some) } else { Ok(None) }
        };
        match looked.await {
            Ok(Some(rows)) => return Ok(rows),
            Ok(None) => {
                let what = format!("there is no table {}", shared.leases.tables().named(table));
                return Err(refused(what).hint(
                    "The agents make it, or `lockstep agent init`, where they hold their election in this database.",
                ));
            }
            Err(why) => problems.push(format!("{}: {why}", shared.backends[backend].name)),
        }
    }
    Err(refused("no server answers").detail(problems.join("; ")))
}

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

fn yes(cell: Option<String>) -> Option<String> {
    text(if cell.as_deref() == Some("0") { "no" } else { "yes" })
}

fn lease<P: Protocol>(shared: &Shared<P>, mut row: Row) -> Row {
    let paused = match row[6].as_deref() {
        Some("0") => "no",
        Some("1") => "yes",
        _ => "ending",
    };
    row[6] = text(paused);
    let resource = row[0].as_deref().unwrap_or_default();
    // Nothing where the configuration has no such resource: its sessions are not told apart.
    row.push(shared.leases.writers(resource).map(|sessions| sessions.to_string()));
    row
}

/// Rank 0 is who comes next, as far as the rows say: whether a node lives, they cannot. Its `seq` rises while it does.
fn nodes(found: Vec<Row>) -> Vec<Row> {
    let cell = |row: &Row, at: usize| row[at].clone().unwrap_or_default();
    let ready = |row: &Row| {
        cell(row, 3) != "observer"
            && cell(row, 6) != "0"
            && cell(row, 7) == "0"
            && cell(row, 1) != cell(row, 12)
    };
    let comes_before = |one: &Row, other: &Row| {
        let priority = |row: &Row| cell(row, 4).parse().unwrap_or_default();
        turn(&cell(one, 3), priority(one), &cell(one, 1))
            < turn(&cell(other, 3), priority(other), &cell(other, 1))
    };
    let rank = |row: &Row| {
        let others = found.iter().filter(|other| cell(other, 0) == cell(row, 0) && ready(other));
        let before = others.filter(|other| comes_before(other, row)).count();
        ready(row).then(|| before.to_string())
    };
    let ranks: Vec<Option<String>> = found.iter().map(rank).collect();
    let shown = |(mut row, rank): (Row, Option<String>)| {
        row.truncate(12);
        row[6] = yes(row[6].take());
        row[7] = yes(row[7].take());
        row.insert(3, rank);
        row
    };
    found.into_iter().zip(ranks).map(shown).collect()
}

/// The last word about each check, from events with the newest first.
fn checks(events: Vec<Row>) -> Vec<Row> {
    let mut last: BTreeMap<[String; 3], Row> = BTreeMap::new();
    for row in events {
        let [happened, Some(resource), Some(node), _, Some(kind), _, Some(detail)] = row.as_slice()
        else {
            continue;
        };
        let (check, said) = detail.split_once(": ").unwrap_or((detail, ""));
        let state = if kind == "check_failed" { "failed" } else { "passed" };
        let key = [resource.clone(), node.clone(), check.to_owned()];
        let shown = || {
            vec![text(resource), text(node), text(check), text(state), happened.clone(), text(said)]
        };
        last.entry(key).or_insert_with(shown);
    }
    last.into_values().collect()
}

fn outage(row: Row) -> Row {
    let [happened, resource, node, epoch, _, lasted, _] = row.try_into().unwrap_or_default();
    let seconds =
        lasted.and_then(|ms| ms.parse::<f64>().ok()).map(|ms| format!("{:.3}", ms / 1000.0));
    vec![happened, resource, node, epoch, seconds]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(words: &[&str]) -> Row {
        words.iter().map(text).collect()
    }

    #[test]
    fn the_next_master_is_the_first_that_is_well_and_free() {
        let node = |name: &str, mode: &str, priority: &str, healthy: &str, maintenance: &str| {
            row(&[
                "shop",
                name,
                "standby",
                mode,
                priority,
                "3",
                healthy,
                maintenance,
                "9",
                "",
                "1",
                "m",
                "n1",
            ])
        };
        let shown = nodes(vec![
            node("n1", "normal", "100", "1", "0"),
            node("n2", "normal", "50", "1", "0"),
            node("n3", "normal", "60", "0", "0"),
            node("n4", "read-only", "90", "1", "0"),
            node("n5", "observer", "90", "1", "0"),
            node("n6", "normal", "90", "1", "1"),
        ]);
        let ranks: Vec<Option<&str>> = shown.iter().map(|row| row[3].as_deref()).collect();
        assert_eq!(ranks, [None, Some("0"), None, Some("1"), None, None]);
        assert!(shown.iter().all(|row| row.len() == columns(Agents::Nodes).len()));
        assert_eq!((shown[2][7].as_deref(), shown[5][8].as_deref()), (Some("no"), Some("yes")));
    }

    #[test]
    fn the_last_word_about_a_check_counts() {
        let event =
            |at: &str, kind: &str, detail: &str| row(&[at, "shop", "n1", "1", kind, "0", detail]);
        let shown = checks(vec![
            event("3", "check_passed", "page: 200"),
            event("2", "check_failed", "disk: 1 % free"),
            event("1", "check_failed", "page: no answer"),
        ]);
        assert_eq!(shown[0], row(&["shop", "n1", "disk", "failed", "2", "1 % free"]));
        assert_eq!(shown[1], row(&["shop", "n1", "page", "passed", "3", "200"]));
        assert_eq!(
            outage(row(&["t", "shop", "n1", "4", "started", "2500", ""])),
            row(&["t", "shop", "n1", "4", "2.500"])
        );
    }
}
