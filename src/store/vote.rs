//! A backend as a voter: its control row answers as [`Vote::on`] says, and keeps the answer on disk.
//!
//! The row is read, the answer is found by the same code as everywhere, and written where the row is
//! still what was read: a second proxy that asks at the same moment makes the first one ask again.

use tokio_postgres::{Client, Error, Row};

use crate::cluster::ballot::Accepted;
use crate::cluster::{Ask, Ballot, Refusal, Roster, Vote};

/// The columns of a vote, as [`vote_of`] expects them.
pub(super) const VOTE: &str =
    "promised, view, members, arbiter, acc_ballot, acc_members, acc_arbiter";

/// How often a row that changes under our hands is asked again.
const ATTEMPTS: usize = 20;

/// A question to the voter in one backend.
#[derive(Clone, Debug)]
pub struct Poll {
    /// The cluster that the backend must belong to.
    pub cluster: String,
    /// What the backend must be called in it.
    pub backend: String,
    /// The question.
    pub ask: Ask,
    /// Replaces the secrets together with the promise: whoever knows only the former ones can record nothing from
    /// then on.
    pub secrets: Option<Secrets>,
}

/// By what a backend knows the writer.
#[derive(Clone)]
pub struct Secrets {
    /// What records are accepted by.
    pub token: String,
    /// What capture reports are signed with.
    pub capture: String,
    /// The users whose sessions end when the secrets are replaced.
    pub users: Vec<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("users", &self.users).finish_non_exhaustive()
    }
}

/// A vote from the columns of [`VOTE`], the first of them at a place.
///
/// # Panics
/// When the row has other columns. The table lets in no text that is not a ballot or an arbiter.
pub(super) fn vote_of(row: &Row, at: usize) -> Vote {
    let text = |n: usize| row.get::<_, String>(at + n);
    let number: i64 = row.get(at + 1);
    let ballot: Ballot = text(4).parse().unwrap_or_default();
    let accepted = (ballot != Ballot::NONE).then(|| Accepted {
        ballot,
        roster: Roster {
            number: number + 1,
            members: row.get(at + 5),
            arbiter: text(6).parse().unwrap_or_default(),
        },
    });
    let roster =
        Roster { number, members: row.get(at + 2), arbiter: text(3).parse().unwrap_or_default() };
    Vote { promised: text(0).parse().unwrap_or_default(), roster, accepted }
}

/// Asks the voter. What it keeps is on disk when this returns.
///
/// # Errors
/// What the database says, or why it is not the one that was meant.
pub async fn poll(client: &Client, poll: &Poll) -> Result<Result<Vote, Refusal>, String> {
    for _ in 0..ATTEMPTS {
        let read = format!("SELECT cluster_id, backend, {VOTE} FROM lockstep.control");
        let row = client.query_opt(&read, &[]).await.map_err(|e| describe(&e))?;
        let row = row.ok_or("it is not initialised")?;
        let (cluster, backend): (String, String) = (row.get(0), row.get(1));
        if cluster != poll.cluster || backend != poll.backend {
            return Err(format!("backend {backend} of cluster {cluster} stands at its address"));
        }
        let before = vote_of(&row, 2);
        let mut vote = before.clone();
        if let Err(refusal) = vote.on(&poll.ask) {
            return Ok(Err(refusal));
        }
        let kept = keep(client, &before, &vote, poll.secrets.as_ref());
        if kept.await.map_err(|e| describe(&e))? {
            return Ok(Ok(vote));
        }
    }
    Err("others ask it all the time".into())
}

fn describe(error: &Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Writes a vote, and the secrets with it, if the row is still what it was. Whoever is obeyed for the first time is
/// not known to live yet.
async fn keep(
    client: &Client,
    before: &Vote,
    vote: &Vote,
    secrets: Option<&Secrets>,
) -> Result<bool, Error> {
    let ballot_of = |vote: &Vote| vote.accepted.as_ref().map_or(Ballot::NONE, |a| a.ballot);
    let accepted = vote.accepted.as_ref().map(|a| a.roster.clone()).unwrap_or_default();
    let token = secrets.map_or("", |s| s.token.as_str());
    let capture = secrets.map_or("", |s| s.capture.as_str());
    let row = client
        .query_one(
            "WITH kept AS (UPDATE lockstep.control SET promised = $1, view = $2, members = $3, arbiter = $4, \
             acc_ballot = $5, acc_members = $6, acc_arbiter = $7, \
             beat = CASE WHEN promised = $1 THEN beat ELSE 1 END, \
             writer = CASE WHEN promised = $1 THEN writer ELSE '' END \
             WHERE promised = $8 AND view = $9 AND acc_ballot = $10 RETURNING one), \
             secrets AS (INSERT INTO lockstep.secret (token, capture_token) SELECT $11, $12 FROM kept WHERE $13 \
             ON CONFLICT (one) DO UPDATE SET (token, capture_token) = (excluded.token, excluded.capture_token)) \
             SELECT count(*) FROM kept",
            &[
                &vote.promised.to_string(),
                &vote.roster.number,
                &vote.roster.members,
                &vote.roster.arbiter.to_string(),
                &ballot_of(vote).to_string(),
                &accepted.members,
                &accepted.arbiter.to_string(),
                &before.promised.to_string(),
                &before.roster.number,
                &ballot_of(before).to_string(),
                &token,
                &capture,
                &secrets.is_some(),
            ],
        )
        .await?;
    Ok(row.get::<_, i64>(0) == 1)
}

/// Shows that the writer lives, where the backend still obeys it; says whether it does. Not flushed: a beat that is
/// lost with the server is worth nothing anyway. One that was on its way when the role was laid down is no sign of life:
/// from 0 it counts downwards.
pub async fn beat(client: &Client, ballot: Ballot, writer: &str) -> Result<bool, Error> {
    let beaten = client
        .execute(
            "UPDATE lockstep.control SET beat = CASE WHEN beat > 0 THEN beat + 1 ELSE beat - 1 END, \
             writer = CASE WHEN beat > 0 THEN $2 ELSE '' END WHERE promised = $1 \
             AND pg_catalog.set_config('synchronous_commit', 'off', true) IS NOT NULL",
            &[&ballot.to_string(), &writer],
        )
        .await?;
    Ok(beaten == 1)
}

/// Lays down the role: whoever waits may take over at once.
pub async fn lay_down(client: &Client, ballot: Ballot) -> Result<(), Error> {
    let down = "UPDATE lockstep.control SET beat = 0, writer = '' WHERE promised = $1";
    client.execute(down, &[&ballot.to_string()]).await?;
    Ok(())
}

/// What a database needs to be a witness: the same control row, and no data.
const WITNESS_SQL: &str =
    concat!("CREATE SCHEMA IF NOT EXISTS lockstep;\n", include_str!("voter.sql"));

/// Makes a database a witness, unless it is one. `identity` becomes its name: one that lost its memory has another.
///
/// # Errors
/// When the database refuses: the role must be allowed to make a schema.
pub async fn found_witness(client: &Client, identity: &str) -> Result<(), Error> {
    let there = "SELECT pg_catalog.to_regclass('lockstep.control') IS NOT NULL";
    if !client.query_one(there, &[]).await?.get::<_, bool>(0) {
        client.batch_execute(WITNESS_SQL).await?;
    }
    let row = "INSERT INTO lockstep.control (cluster_id, backend, system_identifier) VALUES ('', $1, '') \
               ON CONFLICT DO NOTHING";
    client.execute(row, &[&identity]).await?;
    Ok(())
}

/// The first cluster that asks a witness keeps it.
///
/// # Errors
/// What the database says.
pub async fn engage_witness(client: &Client, cluster: &str) -> Result<(), Error> {
    let engage = "UPDATE lockstep.control SET cluster_id = $1 WHERE cluster_id = ''";
    client.execute(engage, &[&cluster]).await?;
    Ok(())
}
