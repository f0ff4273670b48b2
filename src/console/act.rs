//! What a command does.

use std::time::Duration;

use super::chatter::Chatter;
use super::parse::{Command, Name, Sync};
use super::{Levers, Reply, role, show};
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Protocol};
use crate::session::Shared;
use crate::trace::TraceError;

/// How long PAUSE waits for the commits under way. All others queue behind it meanwhile, so that it
/// gives up rather than hold the applications because of one commit that does not end.
const PAUSE: Duration = Duration::from_secs(10);

/// The columns of the answer to RELOAD.
const RELOADED: [&str; 1] = ["result"];

/// How long a server may take to accept a request to cancel.
const CANCEL: Duration = Duration::from_secs(5);

/// Runs a command.
pub(super) async fn act<P: Protocol>(
    shared: &Shared<P>,
    levers: &Levers,
    command: &Command,
) -> Result<Reply, Failure> {
    match command {
        Command::Show(what) => show::show(shared, levers, *what).await,
        Command::Activate(name, sync) => activate(shared, name, *sync).await,
        Command::Deactivate(name) => {
            let backend = find(shared, name)?;
            let done = shared.keeper.deactivate(backend).await;
            done.map(|()| Reply::done("DEACTIVATE"))
                .map_err(|why| refused(format!("{} stays: {why}", shared.backends[backend].name)))
        }
        Command::Switchover => role::switchover(shared, levers).await,
        Command::Force(name) => role::force(shared, find(shared, name)?).await,
        Command::Pause => pause(shared, levers).await,
        Command::Resume => Ok(resume(levers).await),
        Command::Reload => reload(levers).await,
        Command::Shutdown => {
            tracing::info!("the console asks for the end");
            // Transactions that wait for RESUME could not finish.
            levers.resume().await;
            levers.shutdown.cancel();
            Ok(Reply::done("SHUTDOWN"))
        }
        Command::SetWeight(name, weight) => {
            let backend = &shared.backends[find(shared, name)?];
            let from = backend.weight();
            backend.set_weight(*weight);
            tracing::info!(backend = %backend.name, from, to = *weight, "weight set");
            Ok(Reply::done("SET"))
        }
        Command::SetLogLevel(level) => set_level(levers, level),
        Command::Kill(number) => kill(shared, *number).await,
        Command::Chatter(Chatter::Tag(tag)) => Ok(Reply::done(tag)),
        Command::Chatter(Chatter::Values { columns, values, tag }) => {
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            Ok(Reply::rows(&columns, vec![values.clone()], tag))
        }
    }
}

/// The columns of the answer to a command, where it has rows.
pub(super) fn columns(command: &Command) -> Option<Vec<&str>> {
    match command {
        Command::Show(what) => Some(show::columns(*what).to_vec()),
        Command::Reload => Some(RELOADED.to_vec()),
        Command::Chatter(Chatter::Values { columns, .. }) => {
            Some(columns.iter().map(String::as_str).collect())
        }
        _ => None,
    }
}

/// The backend that a name means.
fn find<P: Protocol>(shared: &Shared<P>, name: &Name) -> Result<usize, Failure> {
    let names = shared.backends.iter().map(|backend| backend.name.as_str());
    name.find(names.clone()).ok_or_else(|| {
        let known = names.collect::<Vec<_>>().join(", ");
        Failure::new(Kind::Refused, format!("backend \"{}\" does not exist", name.text))
            .code("42704")
            .hint(format!("The backends are {known}."))
    })
}

pub(super) fn refused(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Refused, message).code("55000")
}

async fn activate<P: Protocol>(
    shared: &Shared<P>,
    name: &Name,
    sync: Sync,
) -> Result<Reply, Failure> {
    let backend = find(shared, name)?;
    if sync != Sync::Replay {
        return Err(refused("this version catches up from the journal only")
            .detail(
                "bringing a backend back by a full or differential copy comes in a later version",
            )
            .hint("Write USING replay, or leave it out."));
    }
    shared.keeper.release(backend).await;
    if shared.keeper.view().is_member(backend) {
        let what = format!("{} takes part already", shared.backends[backend].name);
        return Ok(Reply::done("ACTIVATE").warn(what));
    }
    shared.wanted.ask(backend);
    tracing::info!(backend = %shared.backends[backend].name, "an operator wants it back");
    Ok(Reply::done("ACTIVATE"))
}

async fn pause<P: Protocol>(shared: &Shared<P>, levers: &Levers) -> Result<Reply, Failure> {
    // Held over the wait: a second PAUSE must not queue for a gate that the first one will keep.
    let mut paused = levers.paused.lock().await;
    if paused.is_some() {
        return Ok(Reply::done("PAUSE").warn("commits are paused already"));
    }
    let closing = shared.admission.clone().write_owned();
    let Ok(gate) = tokio::time::timeout(PAUSE, closing).await else {
        return Err(refused(format!("the commits under way did not end within {PAUSE:?}"))
            .hint("Nothing is paused. Try again."));
    };
    *paused = Some(gate);
    tracing::warn!(from = "running", to = "paused", cause = "console", "commits");
    Ok(Reply::done("PAUSE"))
}

async fn resume(levers: &Levers) -> Reply {
    if levers.resume().await {
        tracing::warn!(from = "paused", to = "running", cause = "console", "commits");
        Reply::done("RESUME")
    } else {
        Reply::done("RESUME").warn("commits were not paused")
    }
}

async fn reload(levers: &Levers) -> Result<Reply, Failure> {
    match (levers.reload)().await {
        Ok(what) => Ok(Reply::rows(&RELOADED, vec![vec![Some(what)]], "RELOAD")),
        Err(why) => Err(Failure::new(Kind::Refused, "the configuration was not taken over")
            .code("F0000")
            .detail(why)
            .hint("The old one stays in force.")),
    }
}

fn set_level(levers: &Levers, level: &str) -> Result<Reply, Failure> {
    let Some(handle) = &levers.level else {
        return Err(refused("the level of the logs cannot be changed in this process"));
    };
    handle.set(level).map_err(|error| {
        let code = if matches!(error, TraceError::Level(_)) { "22023" } else { "55000" };
        Failure::new(Kind::Refused, error.to_string()).code(code)
    })?;
    tracing::info!(to = level, "log level set");
    Ok(Reply::done("SET"))
}

async fn kill<P: Protocol>(shared: &Shared<P>, number: u32) -> Result<Reply, Failure> {
    let Some(running) = shared.registry.running(number) else {
        return Err(Failure::new(Kind::Refused, format!("client {number} does not exist"))
            .code("42704")
            .hint("SHOW CLIENTS lists them."));
    };
    let Some(canceller) = running else {
        return Ok(Reply::done("KILL").warn(format!("client {number} runs nothing")));
    };
    let cancel = <P::Link as Link>::cancel(&canceller);
    if tokio::time::timeout(CANCEL, cancel).await.is_err() {
        return Err(refused(format!("the server took no request within {CANCEL:?}")));
    }
    tracing::info!(client = number, "cancelled by an operator");
    Ok(Reply::done("KILL"))
}
