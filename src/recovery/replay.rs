//! Records again, through the same door as live effects.
//!
//! Records of the same user are applied in batches of one transaction each: as exact as one by one,
//! since each brings its own journal row along, and much faster.

use std::sync::Arc;

use crate::backend::{Lease, Purpose};
use crate::exchange::{Link, Protocol, Settings};
use crate::session::Shared;
use crate::session::deep;
use crate::session::outside::{Job, bring, record_on};
use crate::store::journal::{Effect, Entry, Record};
use crate::store::outside::{Fate, Task};

/// Records applied in one transaction.
const BATCH: usize = 100;

/// Records that are sent before the answers are waited for. A server that answers nothing for
/// `timeouts.dead_after` counts as dead, and a slow one needs that long for a whole batch.
const SENT: usize = 10;

/// Applies records to a backend, in order.
///
/// # Errors
/// When the backend does not take one, with the reason.
pub(super) async fn replay<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    records: &[Record],
) -> Result<(), String> {
    let mut rest = records;
    while !rest.is_empty() {
        let mut entries: Vec<Entry> = Vec::new();
        for record in rest.iter().take(BATCH) {
            let entry =
                Entry::decode(&record.entry).map_err(|e| format!("record {}: {e}", record.seq))?;
            if entries.first().is_some_and(|first| !go_together::<P>(first, &entry)) {
                break;
            }
            entries.push(entry);
        }
        let (batch, tail) = rest.split_at(entries.len());
        if is_outside(&entries[0]) {
            outside(shared, backend, &batch[0], &entries[0]).await?;
        } else {
            halving(shared, backend, batch, &entries).await?;
        }
        rest = tail;
    }
    Ok(())
}

/// Whether two records can be applied in one transaction: the same user, nothing that changes settings, and
/// the same settings. Where settings outlast a transaction, each record can be given its own.
fn go_together<P: Protocol>(first: &Entry, next: &Entry) -> bool {
    let alone = |entry: &Entry| is_outside(entry) || changes_settings::<P>(entry);
    let alike = P::MANNERS.settings_outlast || first.settings == next.settings;
    first.user == next.user && alike && !alone(first) && !alone(next)
}

/// Applies records in one transaction, or, when that fails, in smaller ones.
async fn halving<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    records: &[Record],
    entries: &[Entry],
) -> Result<(), String> {
    let mut parts = vec![(records, entries)];
    while let Some((records, entries)) = parts.pop() {
        let Err(why) = together(shared, backend, records, entries).await else {
            continue;
        };
        if records.len() == 1 {
            return Err(format!("record {}: {why}", records[0].seq));
        }
        tracing::debug!(%why, records = records.len(), "a batch of records is cut in half");
        let middle = records.len() / 2;
        parts.push((&records[middle..], &entries[middle..]));
        parts.push((&records[..middle], &entries[..middle]));
    }
    Ok(())
}

fn is_outside(entry: &Entry) -> bool {
    entry.effects.iter().any(Effect::is_outside)
}

async fn lease<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    user: &str,
) -> Result<Lease<P::Link>, String> {
    let pool = shared.backends[backend].pool(user, Purpose::Write);
    pool.checkout().await.map_err(|e| e.to_string())
}

fn settings_of(entry: &Entry) -> Settings {
    Arc::new(entry.settings.iter().cloned().collect())
}

async fn together<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    records: &[Record],
    entries: &[Entry],
) -> Result<(), String> {
    let user = &records[0].user;
    let mut lease = lease(shared, backend, user).await?;
    lease.begin_share(&settings_of(&entries[0]));
    for (n, (record, entry)) in records.iter().zip(entries).enumerate() {
        if n > 0 && entry.settings != entries[n - 1].settings {
            lease.adopt(&settings_of(entry));
        }
        for effect in &entry.effects {
            match deep::apply(&mut *lease, effect).await {
                Ok(None) => {}
                Ok(Some(mishap)) => return give_up(lease, mishap.what).await,
                Err(broken) => return Err(broken.to_string()),
            }
        }
        lease.queue_record(record.seq, record.id, user, &record.entry);
        if (n + 1) % SENT != 0 && n + 1 != records.len() {
            continue;
        }
        match lease.drain().await {
            Ok(None) => {}
            Ok(Some(error)) => return give_up(lease, error.what).await,
            Err(broken) => return Err(broken.to_string()),
        }
    }
    lease.queue_commit();
    lease.settle().await
}

/// Undoes what was applied, and says why.
async fn give_up<L: Link>(mut lease: Lease<L>, why: String) -> Result<(), String> {
    lease.queue_rollback();
    match lease.drain().await {
        Ok(_) => {
            lease.release();
            Err(why)
        }
        Err(broken) => Err(broken.to_string()),
    }
}

/// Whether an entry has statements that must not be seen by the next one.
fn changes_settings<P: Protocol>(entry: &Entry) -> bool {
    entry.effects.iter().any(|effect| match effect {
        Effect::Text { rows: None, .. } => effect.leaves_settings() || !P::MANNERS.settings_outlast,
        _ => false,
    })
}

/// A statement that may not run in a transaction, or a word about one. Whatever an interruption has
/// left, it is brought to the outcome; then the record says so.
async fn outside<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    record: &Record,
    entry: &Entry,
) -> Result<(), String> {
    let job = |intent: &i64, task: &Task| Job {
        intent: *intent,
        user: record.user.clone(),
        settings: entry.settings.clone(),
        task: task.clone(),
    };
    for effect in &entry.effects {
        match effect {
            Effect::Outside { sql } => repeat(shared, backend, record, entry, sql).await?,
            Effect::Finished { intent, task, made } => {
                bring(shared, backend, &job(intent, task), &Fate::Done(made.clone())).await?;
            }
            Effect::Withdrawn { intent, task } => {
                bring(shared, backend, &job(intent, task), &Fate::Undone).await?;
            }
            _ => {}
        }
    }
    record_on(shared, backend, record.seq, record.id, &record.user, &record.entry).await
}

/// A statement outside a transaction that was recorded without an intent. When a crash came between it
/// and its record, it has been done already, and says so.
async fn repeat<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
    record: &Record,
    entry: &Entry,
    sql: &str,
) -> Result<(), String> {
    let mut lease = lease(shared, backend, &record.user).await?;
    lease.adopt(&settings_of(entry));
    match lease.ask(sql, &[]).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if P::Link::is_done_already(&error) => {
            tracing::info!(%error, seq = record.seq, "was done already");
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Err(broken) => return Err(broken.to_string()),
    }
    lease.release();
    Ok(())
}
