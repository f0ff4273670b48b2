//! Tables for people, and the same as JSON.

use std::fmt::Write;

use crate::agent::election::{Lease, NodeRow, Pause};
use crate::agent::lease::{EventRow, Orders};

/// Columns as wide as what is in them.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(head[column].len())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let heads = [head.iter().map(|cell| (*cell).to_owned()).collect()];
    for row in heads.iter().chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}

pub(super) fn lease(resource: &str, row: &Lease) -> String {
    let paused = match row.paused {
        Pause::No => "no",
        Pause::Yes => "yes",
        Pause::Ending => "ending",
    };
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let head = [
        "resource",
        "holder",
        "epoch",
        "seq",
        "grade",
        "ttl_ms",
        "maintenance",
        "target",
        "reason",
    ];
    let cells = vec![
        resource.to_owned(),
        dash(&row.holder),
        row.epoch.to_string(),
        row.seq.to_string(),
        row.grade.word().to_owned(),
        row.ttl.as_millis().to_string(),
        paused.to_owned(),
        dash(&row.target),
        row.reason.clone(),
    ];
    table(&head, &[cells])
}

/// Rank 0 is who comes next; the holder and who cannot take over have none.
fn ranks(row: &Lease, nodes: &[(NodeRow, Orders, bool)]) -> Vec<Option<usize>> {
    let ready = |(node, _, lives): &(NodeRow, Orders, bool)| {
        *lives
            && node.healthy
            && !node.maintenance
            && node.mode != "observer"
            && node.node != row.holder
    };
    let before = |one: &NodeRow| {
        nodes.iter().filter(|n| ready(n)).filter(|(n, ..)| n.turn() < one.turn()).count()
    };
    nodes.iter().map(|node| ready(node).then(|| before(&node.0))).collect()
}

pub(super) fn nodes(row: &Lease, nodes: &[(NodeRow, Orders, bool)]) -> String {
    let head = [
        "node",
        "role",
        "rank",
        "mode",
        "priority",
        "epoch",
        "alive",
        "healthy",
        "maintenance",
        "version",
        "message",
    ];
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let ranks = ranks(row, nodes);
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .zip(ranks)
        .map(|((node, _, lives), rank)| {
            vec![
                node.node.clone(),
                node.role.clone(),
                rank.map_or("-".to_owned(), |rank| rank.to_string()),
                node.mode.clone(),
                node.priority.to_string(),
                node.seen_epoch.to_string(),
                yes(*lives),
                yes(node.healthy),
                yes(node.maintenance),
                node.version.clone(),
                node.message.clone(),
            ]
        })
        .collect();
    table(&head, &rows)
}

pub(super) fn status_json(
    resource: &str,
    row: &Lease,
    nodes: &[(NodeRow, Orders, bool)],
) -> String {
    let ranks = ranks(row, nodes);
    let nodes: Vec<_> = nodes
        .iter()
        .zip(ranks)
        .map(|((node, _, lives), rank)| {
            serde_json::json!({
                "node": node.node, "role": node.role, "rank": rank, "mode": node.mode,
                "priority": node.priority, "epoch": node.seen_epoch, "alive": lives,
                "healthy": node.healthy, "maintenance": node.maintenance, "addr": node.addr,
                "version": node.version, "message": node.message,
            })
        })
        .collect();
    let value = serde_json::json!({
        "resource": resource, "holder": row.holder, "epoch": row.epoch, "seq": row.seq,
        "grade": row.grade.word(), "ttl_ms": u64::try_from(row.ttl.as_millis()).unwrap_or(u64::MAX),
        "maintenance": row.paused != Pause::No, "target": row.target, "reason": row.reason,
        "nodes": nodes,
    });
    format!("{value}\n")
}

pub(super) fn events(events: &[EventRow]) -> String {
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            vec![
                event.happened.clone(),
                event.node.clone(),
                event.epoch.to_string(),
                event.kind.clone(),
                event.detail.clone(),
            ]
        })
        .collect();
    table(&["happened", "node", "epoch", "event", "detail"], &rows)
}

/// The checks in what an agent's `/status` answers.
pub(super) fn checks(views: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows = Vec::new();
    for view in views.as_array().into_iter().flatten() {
        for (name, check) in view["checks"].as_object().into_iter().flatten() {
            let cells = ["kind", "state", "failures", "said"].map(|key| text(&check[key]));
            rows.push([vec![text(&view["resource"]), name.clone()], cells.to_vec()].concat());
        }
    }
    table(&["resource", "check", "kind", "state", "failures", "said"], &rows)
}

pub(super) fn downtime(outages: &[EventRow]) -> String {
    let rows: Vec<Vec<String>> = outages
        .iter()
        .map(|event| {
            let seconds = format!("{:.3}", event.lasted_ms as f64 / 1000.0);
            vec![event.happened.clone(), event.node.clone(), event.epoch.to_string(), seconds]
        })
        .collect();
    table(&["served_again", "master", "epoch", "seconds_without"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let text = table(&["a", "longer"], &[row("wide cell", "x"), row("y", "z")]);
        assert_eq!(text, "a          longer\nwide cell  x\ny          z\n");
    }
}
