//! The control row, the secrets and the journal of one backend, over an administrator's connection.
//!
//! Every name is qualified and every value a parameter, so nothing here depends on the settings of the connection or
//! on what users have put into the database.

use futures_util::future::join_all;

use super::capture::quoted;
use super::journal::{OUTSIDE_VERSION, Record};
use super::vote::{VOTE, vote_of};
use crate::cluster::{Ballot, Vote};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Error, Row};

/// Tables, functions and rights of the schema `lockstep`, repeatable. [`install`] runs it and puts triggers
/// and event triggers in place afterwards.
pub const SCHEMA_SQL: &str = concat!(
    include_str!("schema_head.sql"),
    include_str!("voter.sql"),
    include_str!("schema.sql"),
    include_str!("apply.sql"),
    include_str!("fingerprint_head.sql"),
    include_str!("compare.sql"),
    include_str!("fingerprint_tail.sql"),
    include_str!("watch.sql")
);

/// What the comment on the schema says when it is of this version.
pub const SCHEMA_VERSION: &str = "lockstep schema 3";

/// `complete_to` of a backend that was never filled: it lacks even what was there before the journal's first record, so
/// that no journal, however far it reaches back, makes it complete.
pub const NOTHING: i64 = -1;

/// The control row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Which cluster the backend belongs to.
    pub cluster_id: String,
    /// What the backend is called in it.
    pub backend: String,
    /// The server it was when it was initialised; a difference means that another server stands at this address.
    pub system_identifier: String,
    /// What it keeps as a voter: the newest member list that it knows, and whom it obeys.
    pub vote: Vote,
    /// The proxy that writes, and where it can be reached; empty while that is being found out.
    pub writer: String,
    /// Goes up as long as that proxy lives; not above 0: it has laid down the role, or there never was one.
    pub beat: i64,
    /// Every record up to here is committed on every member.
    pub complete_to: i64,
    /// Records up to here are no longer in the journal.
    pub pruned_to: i64,
}

/// Which server this is, and since when it runs. A change of either makes a backend suspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// From `pg_control_system()`.
    pub system_identifier: String,
    /// Start of the server in microseconds since 1970.
    pub started: i64,
    /// Whether it is a standby.
    pub in_recovery: bool,
}

/// Where a sequence stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// `"schema"."name"`, always in quotes.
    pub name: String,
    /// `last_value`.
    pub value: i64,
    /// Whether that value has been handed out.
    pub called: bool,
    /// By how much it moves.
    pub increment: i64,
}

/// A session that did not end in time.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The database did not answer.
    #[error("the sessions of the former writer could not be ended: {0}")]
    Database(#[from] Error),
    /// Sessions that are still there after the deadline.
    #[error("{0} sessions of the former writer are still there after the deadline")]
    Alive(usize),
}

/// Which server stands behind this connection.
pub async fn identity(client: &Client) -> Result<Identity, Error> {
    let row = client
        .query_one(
            "SELECT system_identifier::text, \
             (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint, \
             pg_catalog.pg_is_in_recovery() FROM pg_catalog.pg_control_system()",
            &[],
        )
        .await?;
    Ok(Identity { system_identifier: row.get(0), started: row.get(1), in_recovery: row.get(2) })
}

/// Installs or upgrades schema `lockstep`, gives every table its triggers, and turns on the event triggers. Tables are
/// taken one by one, so that an upgrade never holds more than one lock.
pub async fn install(client: &Client) -> Result<(), Error> {
    client.batch_execute(SCHEMA_SQL).await?;
    client.batch_execute("SELECT lockstep.watch()").await?;
    for row in client.query("SELECT u::oid FROM lockstep.unguarded() AS u", &[]).await? {
        let table: u32 = row.get(0);
        client.execute("SELECT lockstep.guard($1::oid::regclass)", &[&table]).await?;
    }
    Ok(())
}

/// The control row; nothing when lockstep was never installed here, or not completely.
pub async fn read_control(client: &Client) -> Result<Option<Control>, Error> {
    let there =
        client.query_one("SELECT pg_catalog.to_regclass('lockstep.control') IS NOT NULL", &[]);
    if !there.await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client
        .query_opt(
            &format!(
                "SELECT cluster_id, backend, system_identifier, complete_to, pruned_to, writer, beat, {VOTE} \
                 FROM lockstep.control"
            ),
            &[],
        )
        .await?;
    Ok(row.map(|row| Control {
        cluster_id: row.get(0),
        backend: row.get(1),
        system_identifier: row.get(2),
        complete_to: row.get(3),
        pruned_to: row.get(4),
        writer: row.get(5),
        beat: row.get(6),
        vote: vote_of(&row, 7),
    }))
}

/// Writes the whole control row, whatever was there: for an initialisation and for a backend that was filled anew.
pub async fn write_control(client: &Client, control: &Control) -> Result<(), Error> {
    let Control { vote, .. } = control;
    client
        .execute(
            "INSERT INTO lockstep.control (cluster_id, backend, system_identifier, complete_to, pruned_to, view, \
             members, arbiter, promised) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (one) DO UPDATE SET \
             (cluster_id, backend, system_identifier, complete_to, pruned_to, view, members, arbiter, promised, \
             acc_ballot, writer, beat) = (excluded.cluster_id, excluded.backend, excluded.system_identifier, \
             excluded.complete_to, excluded.pruned_to, excluded.view, excluded.members, excluded.arbiter, \
             excluded.promised, '', '', 0)",
            &[
                &control.cluster_id,
                &control.backend,
                &control.system_identifier,
                &control.complete_to,
                &control.pruned_to,
                &vote.roster.number,
                &vote.roster.members,
                &vote.roster.arbiter.to_string(),
                &vote.promised.to_string(),
            ],
        )
        .await?;
    Ok(())
}

/// Sequence numbers and ids of the records after one, in order, without their content.
pub async fn journal_tail(client: &Client, after: i64) -> Result<Vec<(i64, i64)>, Error> {
    let rows = client
        .query("SELECT seq, id FROM lockstep.journal WHERE seq > $1 ORDER BY seq", &[&after])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Whose the record with this identity is, among those after one number and up to another. There is
/// no index on the identity: it would cost every commit, and hardly anybody asks.
pub async fn owner_of(
    client: &Client,
    id: i64,
    after: i64,
    upto: i64,
) -> Result<Option<String>, Error> {
    let found = client
        .query_opt(
            "SELECT usr FROM lockstep.journal WHERE seq > $1 AND seq <= $2 AND id = $3 LIMIT 1",
            &[&after, &upto, &id],
        )
        .await?;
    Ok(found.map(|row| row.get(0)))
}

/// The highest sequence number in the journal, or that to which it was pruned.
pub async fn journal_end(client: &Client) -> Result<i64, Error> {
    let row = client
        .query_one(
            "SELECT greatest((SELECT max(seq) FROM lockstep.journal), \
             (SELECT pruned_to FROM lockstep.control), 0::bigint)",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

/// Up to `limit` records after one, in order.
pub async fn read_records(client: &Client, after: i64, limit: i64) -> Result<Vec<Record>, Error> {
    let rows = client
        .query(
            "SELECT seq, id, usr, entry FROM lockstep.journal WHERE seq > $1 ORDER BY seq LIMIT $2",
            &[&after, &limit],
        )
        .await?;
    Ok(rows.iter().map(record).collect())
}

/// The records with these sequence numbers, in order; those that are not there are left out.
pub async fn read_records_by_seq(client: &Client, seqs: &[i64]) -> Result<Vec<Record>, Error> {
    let rows = client
        .query(
            "SELECT seq, id, usr, entry FROM lockstep.journal WHERE seq = ANY ($1) ORDER BY seq",
            &[&seqs],
        )
        .await?;
    Ok(rows.iter().map(record).collect())
}

/// The records after one that are about statements outside a transaction, in order.
pub async fn outside_records(client: &Client, after: i64) -> Result<Vec<Record>, Error> {
    let rows = client
        .query(
            "SELECT seq, id, usr, entry FROM lockstep.journal WHERE seq > $1 \
             AND pg_catalog.get_byte(pg_catalog.substring(entry, 1, 1), 0) = $2 ORDER BY seq",
            &[&after, &i32::from(OUTSIDE_VERSION)],
        )
        .await?;
    Ok(rows.iter().map(record).collect())
}

fn record(row: &tokio_postgres::Row) -> Record {
    Record { seq: row.get(0), id: row.get(1), user: row.get(2), entry: row.get(3) }
}

/// Notes that every record up to `seq` is on every member. Never goes back, and is left to whom the backend obeys.
pub async fn set_complete(client: &Client, seq: i64, ballot: Ballot) -> Result<(), Error> {
    let set =
        "UPDATE lockstep.control SET complete_to = $1 WHERE complete_to < $1 AND promised = $2";
    client.execute(set, &[&seq, &ballot.to_string()]).await?;
    Ok(())
}

/// Records weighed at the most in one look.
const WEIGHED_AT_ONCE: i64 = 10_000;
/// Sequences that one question is about: each is a table in it.
const SEQUENCES_AT_ONCE: usize = 200;
/// About what a row of the journal takes besides its entry.
const ROW_BYTES: i64 = 80;

/// The records after one number and up to another, as many as have at most so many bytes on disk, and at least one:
/// number of the last, how many, bytes. Nothing when there are none.
pub async fn weigh(
    client: &Client,
    after: i64,
    upto: i64,
    bytes: i64,
) -> Result<Option<(i64, u64, u64)>, Error> {
    let row = client
        .query_one(
            "SELECT max(seq), count(*), coalesce(sum(size), 0)::bigint FROM ( \
             SELECT seq, size, sum(size) OVER (ORDER BY seq) AS total FROM ( \
             SELECT seq, pg_catalog.pg_column_size(entry) + $4::bigint AS size FROM lockstep.journal \
             WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $5) AS next) AS summed \
             WHERE total - size < $3::bigint",
            &[&after, &upto, &bytes, &ROW_BYTES, &WEIGHED_AT_ONCE],
        )
        .await?;
    let last: Option<i64> = row.get(0);
    let number = |n: i64| n.unsigned_abs();
    Ok(last.map(|last| (last, number(row.get(1)), number(row.get(2)))))
}

/// The number of the oldest record that is younger than so many seconds, by the server's own clock.
pub async fn first_younger(client: &Client, seconds: f64) -> Result<Option<i64>, Error> {
    let row = client
        .query_opt(
            "SELECT seq FROM lockstep.journal \
             WHERE at >= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1) \
             ORDER BY seq LIMIT 1",
            &[&seconds],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// Removes up to `limit` of the oldest records up to `upto`; says how many went. What is left begins after
/// `pruned_to`, and that is written in the same transaction.
///
/// Only while the backend obeys `ballot`: whoever takes over waits for a removal under way, and none begins after it.
pub async fn prune(client: &Client, upto: i64, limit: i64, ballot: Ballot) -> Result<u64, Error> {
    let row = client
        .query_one(
            "WITH held AS (SELECT FROM lockstep.control WHERE promised = $3 FOR UPDATE), \
             old AS (SELECT seq FROM lockstep.journal, held WHERE seq <= $1 ORDER BY seq LIMIT $2), \
             gone AS (DELETE FROM lockstep.journal j USING old WHERE j.seq = old.seq RETURNING j.seq), \
             noted AS (UPDATE lockstep.control SET pruned_to = greatest(pruned_to, (SELECT max(seq) FROM gone)) \
             WHERE EXISTS (SELECT FROM gone)) SELECT count(*) FROM gone",
            &[&upto, &limit, &ballot.to_string()],
        )
        .await?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// Replaces the secrets. From here on whoever knows only the former ones can neither record nor apply.
pub async fn install_tokens(
    client: &Client,
    token: &str,
    capture_token: &str,
) -> Result<(), Error> {
    client
        .execute(
            "INSERT INTO lockstep.secret (token, capture_token) VALUES ($1, $2) ON CONFLICT (one) \
             DO UPDATE SET (token, capture_token) = (excluded.token, excluded.capture_token)",
            &[&token, &capture_token],
        )
        .await?;
    Ok(())
}

/// The secrets, for a proxy that takes over a cluster.
pub async fn read_tokens(client: &Client) -> Result<Option<(String, String)>, Error> {
    let row = client.query_opt("SELECT token, capture_token FROM lockstep.secret", &[]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Ends every session of these users in this database except our own and waits until they are gone, so that nothing a
/// former writer had under way can commit any more. A session is told by process id and start: ids are used again.
pub async fn fence(
    client: &Client,
    users: &[String],
    deadline: Duration,
) -> Result<usize, FenceError> {
    let give_up = Instant::now() + deadline;
    let ended = client
        .query(
            "SELECT pid, backend_start::text, pg_catalog.pg_terminate_backend(pid) \
             FROM pg_catalog.pg_stat_activity WHERE usename = ANY ($1) AND backend_type = 'client backend' \
             AND datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()",
            &[&users],
        )
        .await?;
    let pids: Vec<i32> = ended.iter().map(|row| row.get(0)).collect();
    let starts: Vec<String> = ended.iter().map(|row| row.get(1)).collect();
    loop {
        let row = client
            .query_one(
                "SELECT count(*) FROM pg_catalog.pg_stat_activity a \
                 JOIN ROWS FROM (pg_catalog.unnest($1::int[]), pg_catalog.unnest($2::text[])) AS e(pid, start) \
                 ON a.pid = e.pid AND a.backend_start::text = e.start",
                &[&pids, &starts],
            )
            .await?;
        match row.get::<_, i64>(0) {
            0 => return Ok(pids.len()),
            left if Instant::now() >= give_up => {
                return Err(FenceError::Alive(usize::try_from(left).unwrap_or(usize::MAX)));
            }
            _ => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Where all sequences of the database stand that are not temporary, in the order of their names.
pub async fn all_sequences(client: &Client) -> Result<Vec<Sequence>, Error> {
    let all = client
        .query(
            "SELECT n.nspname, c.relname, s.seqincrement FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid \
             WHERE c.relpersistence <> 't' AND n.nspname <> 'lockstep' ORDER BY 1, 2",
            &[],
        )
        .await?;
    let mut sequences = Vec::with_capacity(all.len());
    for some in all.chunks(SEQUENCES_AT_ONCE) {
        let name = |row: &Row| format!("{}.{}", quoted(row.get(0)), quoted(row.get(1)));
        let names: Vec<String> = some.iter().map(name).collect();
        let values: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(at, name)| format!("SELECT {at}, last_value, is_called FROM {name}"))
            .collect();
        let sql = format!("{} ORDER BY 1", values.join(" UNION ALL "));
        let rows = client.query(&sql, &[]).await?;
        for ((name, row), found) in names.into_iter().zip(rows).zip(some) {
            let (value, called, increment) = (row.get(1), row.get(2), found.get(2));
            sequences.push(Sequence { name, value, called, increment });
        }
    }
    Ok(sequences)
}

/// Sets sequences that are there, where the ballot is still obeyed.
pub async fn set_sequences(
    client: &Client,
    sequences: &[Sequence],
    ballot: Ballot,
) -> Result<(), Error> {
    let names: Vec<&str> = sequences.iter().map(|s| &*s.name).collect();
    let values: Vec<i64> = sequences.iter().map(|s| s.value).collect();
    let called: Vec<bool> = sequences.iter().map(|s| s.called).collect();
    // The row is locked, so that whoever takes over waits, and nothing is set after it.
    let set = "WITH held AS MATERIALIZED ( \
               SELECT FROM lockstep.control WHERE promised = $4 FOR SHARE) \
               SELECT pg_catalog.setval(q.seqrelid, least(greatest(s.value, q.seqmin), q.seqmax), s.called) \
               FROM held, ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::bigint[]), \
               pg_catalog.unnest($3::boolean[])) AS s(name, value, called) \
               JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.name::pg_catalog.regclass";
    client.execute(set, &[&names, &values, &called, &ballot.to_string()]).await?;
    Ok(())
}

/// Moves sequences on to the given numbers, never back. One that is not there any more is left out.
///
/// # Errors
/// Also when somebody else holds one of them for longer than a moment, who is about to change it.
pub async fn advance_sequences(client: &Client, values: &[(String, i64)]) -> Result<(), Error> {
    // The lock is the one of `lockstep.advance`, under which the value is read and set.
    let advance = "WITH patience AS MATERIALIZED ( \
                   SELECT pg_catalog.set_config('lock_timeout', '100ms', true)), \
                   held AS MATERIALIZED ( \
                   SELECT c.id, pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(c.id::text, \
                   pg_catalog.hashtextextended(s.capture_token, 0))) FROM patience, lockstep.secret s, \
                   (SELECT pg_catalog.to_regclass($1::text)) AS c(id) WHERE c.id IS NOT NULL), \
                   aim AS (SELECT q.seqrelid, q.seqincrement, pg_catalog.pg_sequence_last_value(q.seqrelid) AS reached, \
                   least(greatest($2::bigint, q.seqmin), q.seqmax) AS target \
                   FROM held JOIN pg_catalog.pg_sequence q ON q.seqrelid = held.id) \
                   SELECT pg_catalog.setval(seqrelid, target, true) FROM aim WHERE reached IS NULL \
                   OR CASE WHEN seqincrement > 0 THEN target > reached ELSE target < reached END";
    let advance = client.prepare(advance).await?;
    let all = values.iter().map(|(name, value)| {
        let (client, advance) = (client, &advance);
        async move { client.execute(advance, &[name, value]).await.map(|_| ()) }
    });
    // All of them are tried: one that somebody holds must not keep the others back.
    join_all(all).await.into_iter().collect()
}
