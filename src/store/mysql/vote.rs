//! A server as a voter: its control row answers as [`Vote::on`] says, and keeps the answer on disk.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Result, TxOpts, params};

use super::control::{fence, install_token};
use crate::cluster::ballot::Accepted;
use crate::cluster::{Ballot, Refusal, Roster, Vote};
use crate::store::vote::{Poll, Secrets};

/// `ER_LOCK_WAIT_TIMEOUT`.
const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// How often former sessions are ended before the secret is given up on.
const ATTEMPTS: usize = 3;

type Columns = (String, i64, String, String, String, Option<String>, String);

/// The vote, locked if the caller is about to change it.
async fn select(conn: &mut impl Queryable, lock: &str) -> Result<Vote> {
    let sql = format!(
        "SELECT promised, view, members, arbiter, acc_ballot, acc_members, acc_arbiter \
         FROM lockstep.control WHERE one = 1{lock}"
    );
    let row: Option<Columns> = conn.query_first(sql).await?;
    let Some((promised, number, members, arbiter, acc_ballot, acc_members, acc_arbiter)) = row
    else {
        return Ok(Vote::default());
    };
    let bad = |why: String| Error::Other(format!("lockstep.control: {why}").into());
    // One name in each line: a name has no line breaks.
    let names = |text: &str| text.lines().map(str::to_owned).collect();
    let ballot: Ballot = acc_ballot.parse().map_err(bad)?;
    let roster =
        Roster { number, members: names(&members), arbiter: arbiter.parse().map_err(bad)? };
    let accepted = Accepted {
        ballot,
        roster: Roster {
            number: number + 1,
            members: names(&acc_members.unwrap_or_default()),
            arbiter: acc_arbiter.parse().map_err(bad)?,
        },
    };
    Ok(Vote {
        promised: promised.parse().map_err(bad)?,
        roster,
        accepted: (ballot != Ballot::NONE).then_some(accepted),
    })
}

/// What the server keeps.
pub async fn read(conn: &mut Conn) -> Result<Vote> {
    select(conn, "").await
}

/// Asks the voter. What it keeps is on disk when this returns.
///
/// # Errors
/// What the server says, or why it is not the one that was meant.
pub async fn poll(conn: &mut Conn, poll: &Poll) -> Result<std::result::Result<Vote, Refusal>> {
    let mut transaction = conn.start_transaction(TxOpts::default()).await?;
    let whose: Option<(String, String)> = transaction
        .query_first("SELECT cluster_id, backend FROM lockstep.control WHERE one = 1 FOR UPDATE")
        .await?;
    let stranger = whose.is_none_or(|(c, b)| c != poll.cluster || b != poll.backend);
    if stranger {
        transaction.rollback().await?;
        return Err(Error::Other("another backend stands at its address".into()));
    }
    let mut vote = select(&mut transaction, " FOR UPDATE").await?;
    let before = vote.promised;
    if let Err(refusal) = vote.on(&poll.ask) {
        transaction.rollback().await?;
        return Ok(Err(refusal));
    }
    let (ballot, accepted) = match &vote.accepted {
        Some(accepted) => (accepted.ballot, accepted.roster.clone()),
        None => (Ballot::NONE, Roster::default()),
    };
    let same = i64::from(before == vote.promised);
    transaction
        .exec_drop(
            "UPDATE lockstep.control SET promised = :promised, view = :view, members = :members, \
             arbiter = :arbiter, acc_ballot = :ballot, acc_members = :acc, acc_arbiter = :between, \
             beat = IF(:same, beat, 1), writer = IF(:same, writer, '') WHERE one = 1",
            params! {
                "promised" => vote.promised.to_string(),
                "view" => vote.roster.number,
                "members" => vote.roster.members.join("\n"),
                "arbiter" => vote.roster.arbiter.to_string(),
                "ballot" => ballot.to_string(),
                "acc" => accepted.members.join("\n"),
                "between" => accepted.arbiter.to_string(),
                same,
            },
        )
        .await?;
    transaction.commit().await?;
    if let Some(secrets) = &poll.secrets {
        replace_secret(conn, secrets).await?;
    }
    Ok(Ok(vote))
}

/// Replaces the secret. A transaction that has shown the former one keeps a lock on it: the sessions of the former
/// writer are ended, as they will be anyway, until the lock is free.
async fn replace_secret(conn: &mut Conn, secrets: &Secrets) -> Result<()> {
    conn.query_drop("SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1").await?;
    let mut left = ATTEMPTS;
    loop {
        fence(conn, &secrets.users, Duration::from_secs(1)).await?;
        match install_token(conn, &secrets.token).await {
            Err(Error::Server(error)) if error.code == LOCK_WAIT_TIMEOUT && left > 0 => left -= 1,
            done => return done,
        }
    }
}

/// Shows that the writer lives, where the server still obeys it; says whether it does. What was on its way when the
/// role was laid down is no sign of life: from 0 it counts downwards. (The server assigns from left to right.)
pub async fn beat(conn: &mut Conn, ballot: Ballot, writer: &str) -> Result<bool> {
    let sql = "UPDATE lockstep.control SET writer = IF(beat > 0, :writer, ''), \
               beat = IF(beat > 0, beat + 1, beat - 1) WHERE one = 1 AND promised = :ballot";
    conn.exec_drop(sql, params! { writer, "ballot" => ballot.to_string() }).await?;
    Ok(conn.affected_rows() == 1)
}

/// Lays down the role: whoever waits may take over at once.
pub async fn lay_down(conn: &mut Conn, ballot: Ballot) -> Result<()> {
    let sql =
        "UPDATE lockstep.control SET beat = 0, writer = '' WHERE one = 1 AND promised = :ballot";
    conn.exec_drop(sql, params! { "ballot" => ballot.to_string() }).await
}
