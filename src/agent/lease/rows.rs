//! Rows as the tables have them, and back.

use std::time::Duration;

use super::Orders;
use super::link::Value;
use crate::agent::election::{Grade, Lease, NodeRow, Pause};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Who says so.
    pub node: String,
    /// Counts this node's events.
    pub n: i64,
    /// In which term.
    pub epoch: i64,
    /// What happened: a word.
    pub kind: String,
    /// When, by that node's wall clock: for people.
    pub happened: String,
    /// How long it took, in milliseconds; for `started`: how long nobody served, as this node saw it.
    pub lasted_ms: i64,
    /// More about it.
    pub detail: String,
}

pub(super) fn lease_values(row: &Lease) -> Vec<Value<'_>> {
    let ttl = i64::try_from(row.ttl.as_millis()).unwrap_or(i64::MAX);
    vec![
        Value::Number(row.epoch),
        Value::Number(row.seq),
        Value::Text(&row.holder),
        Value::Text(&row.incarnation),
        Value::Text(row.grade.word()),
        Value::Number(ttl),
        Value::Number(row.paused.number().into()),
        Value::Text(&row.target),
        Value::Text(&row.reason),
        Value::Number(row.stamp),
    ]
}

pub(super) fn lease(row: &[String]) -> Result<Lease, String> {
    let [epoch, seq, holder, incarnation, grade, ttl, paused, target, reason, stamp] = row else {
        return Err(format!("lockstep_lease has {} columns of those asked for", row.len()));
    };
    Ok(Lease {
        epoch: number(epoch)?,
        seq: number(seq)?,
        holder: holder.clone(),
        incarnation: incarnation.clone(),
        grade: Grade::from_word(grade),
        ttl: Duration::from_millis(number(ttl)?.unsigned_abs()),
        paused: Pause::from_number(number(paused)?),
        target: target.clone(),
        reason: reason.clone(),
        stamp: number(stamp)?,
    })
}

pub(super) fn node(row: &[String]) -> Result<(NodeRow, Orders), String> {
    let [node, incarnation, machine, seq, role, mode, priority, healthy, rest @ ..] = row else {
        return Err(format!("lockstep_node has {} columns of those asked for", row.len()));
    };
    let [maintenance, cleared, accepted, seen_epoch, addr, version, message] = rest else {
        return Err(format!("lockstep_node has {} columns of those asked for", row.len()));
    };
    let orders = Orders { cleared: number(cleared)?, accepted: number(accepted)? };
    let row = NodeRow {
        node: node.clone(),
        incarnation: incarnation.clone(),
        machine: machine.clone(),
        seq: number(seq)?,
        role: role.clone(),
        mode: mode.clone(),
        priority: i32::try_from(number(priority)?).unwrap_or_default(),
        healthy: number(healthy)? != 0,
        maintenance: number(maintenance)? != 0,
        seen_epoch: number(seen_epoch)?,
        addr: addr.clone(),
        version: version.clone(),
        message: message.clone(),
    };
    Ok((row, orders))
}

pub(super) fn event(row: &[String]) -> Result<EventRow, String> {
    let [node, n, epoch, kind, happened, lasted, detail] = row else {
        return Err(format!("lockstep_event has {} columns of those asked for", row.len()));
    };
    Ok(EventRow {
        node: node.clone(),
        n: number(n)?,
        epoch: number(epoch)?,
        kind: kind.clone(),
        happened: happened.clone(),
        lasted_ms: number(lasted)?,
        detail: detail.clone(),
    })
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("`{text}` stands where a number should"))
}

/// At most so many characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
