//! The console: the database `lockstep`, which any client of the applications' protocol can open.
//!
//! `words` and `parse` turn a text into commands, all of which stand in one list in `commands`;
//! `show` has the tables and `act` does the rest. The console stands beside the sessions and above
//! everything they share; nothing depends on it.

mod act;
mod agents;
mod chatter;
mod commands;
mod parse;
mod role;
mod show;
pub(crate) mod time;
mod variables;
mod words;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedRwLockWriteGuard};
use tokio_util::sync::CancellationToken;

pub use commands::markdown;
pub use role::Handover;

use crate::error::{Failure, Kind};
use crate::exchange::{self, Batch, Client, End, Gone, Item, Protocol, Sink, TxState, Work};
use crate::session::Shared;
use crate::store::journal::Effect;
use crate::trace::Level;
use parse::{Command, Mistake};

/// A reload under way: what it changed, or why nothing was changed.
pub type Reloading = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;
/// Reads the configuration again.
pub type Reload = Box<dyn Fn() -> Reloading + Send + Sync>;
/// The settings in force, as dotted keys and values.
pub type Settings = Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>;

/// What the console moves of the process around it.
pub struct Levers {
    reload: Reload,
    shutdown: CancellationToken,
    level: Option<Level>,
    settings: Settings,
    handover: Handover,
    /// Held whole while commits are paused.
    paused: Mutex<Option<OwnedRwLockWriteGuard<()>>>,
}

impl Levers {
    /// Levers that nobody has moved yet. Without a `level` the logs are as they are.
    pub fn new(
        reload: Reload,
        shutdown: CancellationToken,
        level: Option<Level>,
        settings: Settings,
        handover: Handover,
    ) -> Self {
        Self { reload, shutdown, level, settings, handover, paused: Mutex::new(None) }
    }

    /// Lets commits go on, if they were paused. To be called when the proxy stops, whoever told it
    /// to: transactions must be able to finish.
    pub async fn resume(&self) -> bool {
        self.paused.lock().await.take().is_some()
    }

    /// Whether an operator holds commits.
    fn is_paused(&self) -> bool {
        // Whoever has the lock is pausing or resuming at this moment: either answer would be right.
        self.paused.try_lock().is_ok_and(|held| held.is_some())
    }
}

impl std::fmt::Debug for Levers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Levers").field("paused", &self.is_paused()).finish_non_exhaustive()
    }
}

/// The answer to a command.
#[derive(Debug)]
struct Reply {
    /// Columns and rows, where there are any.
    table: Option<Table>,
    tag: &'static str,
    /// Something the operator should know although it went well.
    warning: Option<String>,
}

/// Columns and rows.
#[derive(Debug)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

impl Reply {
    fn done(tag: &'static str) -> Self {
        Self { table: None, tag, warning: None }
    }

    fn rows(columns: &[&str], rows: Vec<Vec<Option<String>>>, tag: &'static str) -> Self {
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        Self { table: Some(Table { columns, rows }), tag, warning: None }
    }

    fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warning = Some(warning.into());
        self
    }
}

/// Serves a client of the console until it leaves, or until the proxy stops. Gives the client back:
/// it may have left to begin another session.
pub async fn serve<P: Protocol>(
    shared: Arc<Shared<P>>,
    levers: Arc<Levers>,
    mut client: P::Client,
    stop: CancellationToken,
) -> P::Client {
    loop {
        let batch = tokio::select! {
            biased;
            () = stop.cancelled() => {
                let farewell = Failure::new(Kind::Shutdown, "the proxy is shutting down");
                client.close(&farewell).await;
                return client;
            }
            batch = client.next() => batch,
        };
        let Ok(batch) = batch else { return client };
        if answer(&shared, &levers, &mut client, batch).await.is_err() {
            return client;
        }
    }
}

/// Runs a batch and sends the answer.
async fn answer<P: Protocol>(
    shared: &Shared<P>,
    levers: &Levers,
    client: &mut P::Client,
    batch: Batch<P::Work>,
) -> Result<(), Gone> {
    let mut failure = None;
    for item in &batch.items {
        failure = run(shared, levers, client, item).await.err();
        if failure.is_some() {
            break;
        }
    }
    if let Some(failure) = failure.or(batch.failure) {
        client.fail(&failure);
    }
    if batch.end == End::Ready {
        client.ready(TxState::Idle);
    }
    client.flush().await
}

async fn run<P: Protocol>(
    shared: &Shared<P>,
    levers: &Levers,
    client: &mut P::Client,
    item: &Item<P::Work>,
) -> Result<(), Failure> {
    let Some(text) = &item.text else {
        return describe(client, &item.work);
    };
    let commands = understand(&item.work, &text.sql)?;
    if commands.is_empty() {
        client.answer(&item.work, "");
    }
    for command in &commands {
        let reply = act::act(shared, levers, command).await?;
        if let Some(warning) = &reply.warning {
            client.warn("01000", warning);
        }
        match &reply.table {
            None => client.answer(&item.work, reply.tag),
            Some(table) => {
                let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
                let (columns, rows) = (columns.as_slice(), table.rows.as_slice());
                let answer = exchange::Table { columns, rows, tag: reply.tag, parameters: 0 };
                client.rows(&item.work, &answer);
            }
        }
    }
    Ok(())
}

/// Tells what a statement would return, which drivers ask before they run it.
fn describe<C: Client>(client: &mut C, work: &C::Work) -> Result<(), Failure> {
    let commands = understand(work, work.described().unwrap_or_default())?;
    match commands.first().and_then(act::columns) {
        Some(columns) => {
            client.rows(work, &exchange::Table { columns: &columns, ..Default::default() });
        }
        None => client.answer(work, ""),
    }
    Ok(())
}

/// The commands of a text, as many as its form allows.
fn understand<W: Work>(work: &W, sql: &str) -> Result<Vec<Command>, Failure> {
    let commands = parse::parse(sql).map_err(|Mistake { message, hint }| {
        Failure::new(Kind::Refused, message).code("42601").number(1064).hint(hint)
    })?;
    // Only a plain text can have several answers; a statement with parameters has one.
    let plain = matches!(work.effect("", None), Some(Effect::Text { .. }));
    if commands.len() > 1 && !plain {
        let what = "cannot insert multiple commands into a prepared statement";
        return Err(Failure::new(Kind::Refused, what).code("42601"));
    }
    Ok(commands)
}
