//! Intents without an outcome: a proxy ended, or all backends did, in the middle of a statement that
//! may not run in a transaction.

use std::collections::BTreeMap;

use crate::exchange::Protocol;
use crate::session::Shared;
use crate::session::outside::{Job, bring, decide, record_on};
use crate::sql::Touched;
use crate::store::journal::{Effect, Entry, Record};

/// Decides each open intent, brings the members to the outcome, and records it. Who cannot be brought
/// there is a member no longer. Nobody is served yet; what is interrupted here is found again.
///
/// # Errors
/// When no member can be brought there.
pub(super) async fn conclude_open<P: Protocol>(
    shared: &Shared<P>,
    members: &mut Vec<usize>,
    after: i64,
) -> Result<(), String> {
    let mut records: BTreeMap<i64, Record> = BTreeMap::new();
    for &member in members.iter() {
        let found = shared.controls[member].outside(after).await?;
        records.extend(found.into_iter().map(|record| (record.seq, record)));
    }
    for (intent, job) in open(records.into_values())? {
        let fate = decide(shared, members, &job).await.map_err(|(_, why)| why)?;
        tracing::warn!(
            intent,
            sql = job.task.sql,
            ?fate,
            "a statement outside a transaction was interrupted"
        );
        let mut failed = Vec::new();
        for &member in members.iter() {
            if let Err(why) = bring(shared, member, &job, &fate).await {
                failed.push((member, why));
            }
        }
        match failed.first() {
            Some((_, why)) if failed.len() == members.len() => return Err(why.clone()),
            _ => members.retain(|member| failed.iter().all(|(other, _)| other != member)),
        }
        for (member, why) in failed {
            let backend = &shared.backends[member].name;
            tracing::error!(%backend, why, "it cannot be brought to where the others are; it stays out");
        }
        let ticket = shared.ledger.begin(Touched::None);
        let (id, entry) = (rand::random::<i64>(), job.outcome(&fate).encode());
        for &member in members.iter() {
            record_on(shared, member, ticket.seq, id, &job.user, &entry).await?;
        }
    }
    shared.ledger.close_all();
    Ok(())
}

/// The intents among the records that no other record ends.
fn open(records: impl Iterator<Item = Record>) -> Result<BTreeMap<i64, Job>, String> {
    let mut open = BTreeMap::new();
    for record in records {
        let entry =
            Entry::decode(&record.entry).map_err(|e| format!("record {}: {e}", record.seq))?;
        for effect in entry.effects {
            match effect {
                Effect::Intended(task) => {
                    let (user, settings) = (record.user.clone(), entry.settings.clone());
                    open.insert(record.seq, Job { intent: record.seq, user, settings, task });
                }
                Effect::Finished { intent, .. } | Effect::Withdrawn { intent, .. } => {
                    open.remove(&intent);
                }
                _ => {}
            }
        }
    }
    Ok(open)
}
