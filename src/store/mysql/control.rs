//! The control row, the secret and the journal of one server, over an administrator's connection.
//!
//! Every name is qualified and every value a parameter, so nothing here depends on what users have put
//! into the server.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Result, params};
use tokio::time::{Instant, sleep};

use super::{schema, vote};
use crate::cluster::Ballot;
use crate::store::control::Control;
use crate::store::journal::{OUTSIDE_VERSION, Record};

/// When the server was started, in whole seconds of its own clock: the uptime is counted from the same
/// instant as the time, so that the difference stands still. Where that clock was set back to before
/// the start, the uptime is below zero, and told as a number without a sign.
pub const STARTED_SQL: &str = "SELECT CAST(UNIX_TIMESTAMP() AS SIGNED) - \
    CAST(CAST(VARIABLE_VALUE AS UNSIGNED) AS SIGNED) FROM \
    information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'UPTIME'";

/// The same where `information_schema` no longer has it (MySQL 8).
pub const STARTED_SQL_8: &str = "SELECT CAST(UNIX_TIMESTAMP() AS SIGNED) - \
    CAST(CAST(VARIABLE_VALUE AS UNSIGNED) AS SIGNED) FROM \
    performance_schema.global_status WHERE VARIABLE_NAME = 'UPTIME'";

/// Which server this is, and since when it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A value that was written once, and the moment at which its file was made: a copy of the data
    /// has another. Nothing on a server that was never prepared.
    pub system_identifier: Option<String>,
    /// When the server was started.
    pub started: i64,
    /// Whether it refuses writes, or follows another server.
    pub read_only: bool,
}

/// Whether the server is MariaDB.
pub async fn is_maria(conn: &mut Conn) -> Result<bool> {
    let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
    Ok(version.is_some_and(|version| version.to_lowercase().contains("mariadb")))
}

/// Which server stands behind this connection.
pub async fn identity(conn: &mut Conn) -> Result<Identity> {
    let started = if is_maria(conn).await? { STARTED_SQL } else { STARTED_SQL_8 };
    let started: Option<i64> = conn.query_first(started).await?;
    let read_only: Option<bool> = conn.query_first("SELECT @@GLOBAL.read_only <> 0").await?;
    let mut system_identifier = None;
    if has_table(conn, "identity").await? {
        system_identifier = conn
            .query_first(
                "SELECT CONCAT(i.value, '@', UNIX_TIMESTAMP(t.CREATE_TIME)) FROM lockstep.identity i \
                 JOIN information_schema.TABLES t \
                 ON t.TABLE_SCHEMA = 'lockstep' AND t.TABLE_NAME = 'identity' WHERE i.one = 1",
            )
            .await?;
    }
    Ok(Identity {
        system_identifier,
        started: started.unwrap_or_default(),
        read_only: read_only.unwrap_or_default(),
    })
}

async fn has_table(conn: &mut Conn, name: &str) -> Result<bool> {
    let found: Option<u64> = conn
        .exec_first(
            "SELECT COUNT(*) FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = 'lockstep' AND TABLE_NAME = ?",
            (name,),
        )
        .await?;
    Ok(found.is_some_and(|count| count > 0))
}

/// The control row; nothing when lockstep was never installed here, or not completely.
pub async fn read_control(conn: &mut Conn) -> Result<Option<Control>> {
    if !has_table(conn, "control").await? {
        return Ok(None);
    }
    let row: Option<ControlRow> = conn
        .query_first(
            "SELECT cluster_id, backend, system_identifier, complete_to, pruned_to, writer, beat \
             FROM lockstep.control WHERE one = 1",
        )
        .await?;
    let Some((cluster_id, backend, system_identifier, complete_to, pruned_to, writer, beat)) = row
    else {
        return Ok(None);
    };
    let vote = vote::read(conn).await?;
    Ok(Some(Control {
        cluster_id,
        backend,
        system_identifier,
        vote,
        writer,
        beat,
        complete_to,
        pruned_to,
    }))
}

/// Whether this version's records can be written here.
///
/// # Errors
/// The server's own about a column that a former version did not install.
pub async fn check_layout(conn: &mut Conn) -> Result<()> {
    conn.query_drop("SELECT proof FROM lockstep.journal WHERE seq < 0").await
}

type ControlRow = (String, String, String, i64, i64, String, i64);

/// Writes the whole control row, whatever was there.
pub async fn write_control(conn: &mut Conn, control: &Control) -> Result<()> {
    let roster = &control.vote.roster;
    conn.exec_drop(
        "REPLACE INTO lockstep.control (one, cluster_id, backend, system_identifier, view, members, \
         arbiter, promised, complete_to, pruned_to) VALUES (1, :cluster, :backend, :system, :view, \
         :members, :arbiter, :promised, :complete, :pruned)",
        params! {
            "cluster" => &control.cluster_id,
            "backend" => &control.backend,
            "system" => &control.system_identifier,
            "view" => roster.number,
            "members" => roster.members.join("\n"),
            "arbiter" => roster.arbiter.to_string(),
            "promised" => control.vote.promised.to_string(),
            "complete" => control.complete_to,
            "pruned" => control.pruned_to,
        },
    )
    .await
}

/// Numbers and identities of the records after one, in order, without their content.
pub async fn journal_tail(conn: &mut Conn, after: i64) -> Result<Vec<(i64, i64)>> {
    conn.exec("SELECT seq, id FROM lockstep.journal WHERE seq > ? ORDER BY seq", (after,)).await
}

/// The highest number in the journal, or that to which it was pruned.
pub async fn journal_end(conn: &mut Conn) -> Result<i64> {
    let end: Option<i64> = conn
        .query_first(
            "SELECT GREATEST(IFNULL((SELECT MAX(seq) FROM lockstep.journal), 0), \
             IFNULL((SELECT MAX(pruned_to) FROM lockstep.control), 0))",
        )
        .await?;
    Ok(end.unwrap_or_default())
}

/// The records with these numbers, in order; those that are not there are left out.
pub async fn read_records(conn: &mut Conn, seqs: &[i64]) -> Result<Vec<Record>> {
    let mut records = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let found: Option<(i64, i64, String, Vec<u8>)> = conn
            .exec_first("SELECT seq, id, usr, entry FROM lockstep.journal WHERE seq = ?", (seq,))
            .await?;
        records.extend(found.map(|(seq, id, user, entry)| Record { seq, id, user, entry }));
    }
    Ok(records)
}

/// The records after one that are about statements outside a transaction, in order.
pub async fn outside_records(conn: &mut Conn, after: i64) -> Result<Vec<Record>> {
    let found: Vec<(i64, i64, String, Vec<u8>)> = conn
        .exec(
            "SELECT seq, id, usr, entry FROM lockstep.journal WHERE seq > ? \
             AND ORD(SUBSTRING(entry, 1, 1)) = ? ORDER BY seq",
            (after, OUTSIDE_VERSION),
        )
        .await?;
    let record = |(seq, id, user, entry)| Record { seq, id, user, entry };
    Ok(found.into_iter().map(record).collect())
}

/// Whose the record with this identity is, among those after one number and up to another. There is
/// no index on the identity: it would cost every commit, and hardly anybody asks.
pub async fn owner_of(conn: &mut Conn, id: i64, after: i64, upto: i64) -> Result<Option<String>> {
    conn.exec_first(
        "SELECT usr FROM lockstep.journal WHERE seq > ? AND seq <= ? AND id = ? LIMIT 1",
        (after, upto, id),
    )
    .await
}

/// Records weighed at the most in one look.
const WEIGHED_AT_ONCE: u64 = 10_000;
/// About what a row of the journal takes besides its entry.
const ROW_BYTES: u64 = 80;

/// The records after one number and up to another, as many as have at most so many bytes, and at least
/// one: number of the last, how many, bytes. Nothing when there are none.
pub async fn weigh(
    conn: &mut Conn,
    after: i64,
    upto: i64,
    bytes: u64,
) -> Result<Option<(i64, u64, u64)>> {
    let sizes: Vec<(i64, u64)> = conn
        .exec(
            "SELECT seq, LENGTH(entry) + ? FROM lockstep.journal WHERE seq > ? AND seq <= ? \
             ORDER BY seq LIMIT ?",
            (ROW_BYTES, after, upto, WEIGHED_AT_ONCE),
        )
        .await?;
    let mut weighed: Option<(i64, u64, u64)> = None;
    for (seq, size) in sizes {
        let (_, count, total) = weighed.unwrap_or_default();
        if total >= bytes && count > 0 {
            break;
        }
        weighed = Some((seq, count + 1, total + size));
    }
    Ok(weighed)
}

/// The number of the oldest record that is younger than so many seconds, by the server's own clock.
pub async fn first_younger(conn: &mut Conn, seconds: f64) -> Result<Option<i64>> {
    conn.exec_first(
        "SELECT seq FROM lockstep.journal WHERE at >= \
         UTC_TIMESTAMP(6) - INTERVAL CAST(? * 1000000 AS UNSIGNED) MICROSECOND ORDER BY seq LIMIT 1",
        (seconds,),
    )
    .await
}

/// Notes that every record up to `seq` is on every member. Never goes back.
pub async fn set_complete(conn: &mut Conn, seq: i64, ballot: Ballot) -> Result<()> {
    conn.exec_drop(
        "UPDATE lockstep.control SET complete_to = :seq \
         WHERE one = 1 AND complete_to < :seq AND promised = :ballot",
        params! { seq, "ballot" => ballot.to_string() },
    )
    .await
}

/// Removes up to `limit` of the oldest records up to `upto`; says how many went. What is left begins
/// after `pruned_to`, and that is written in the same transaction. Only while the server obeys `ballot`.
pub async fn prune(conn: &mut Conn, upto: i64, limit: u64, ballot: Ballot) -> Result<u64> {
    let mut transaction = conn.start_transaction(mysql_async::TxOpts::default()).await?;
    let held: Option<i64> = transaction
        .exec_first(
            "SELECT one FROM lockstep.control WHERE one = 1 AND promised = ? FOR UPDATE",
            (ballot.to_string(),),
        )
        .await?;
    if held.is_none() {
        transaction.rollback().await?;
        return Ok(0);
    }
    let last: Option<Option<i64>> = transaction
        .exec_first(
            "SELECT MAX(seq) FROM (SELECT seq FROM lockstep.journal WHERE seq <= ? \
             ORDER BY seq LIMIT ?) AS old",
            (upto, limit),
        )
        .await?;
    let Some(last) = last.flatten() else {
        transaction.rollback().await?;
        return Ok(0);
    };
    transaction.exec_drop("DELETE FROM lockstep.journal WHERE seq <= ?", (last,)).await?;
    let gone = transaction.affected_rows();
    transaction
        .exec_drop(
            "UPDATE lockstep.control SET pruned_to = GREATEST(pruned_to, ?) WHERE one = 1",
            (last,),
        )
        .await?;
    transaction.commit().await?;
    Ok(gone)
}

/// Replaces the secret. From here on whoever knows only the former one can record nothing.
///
/// # Errors
/// The server's own; one about a wait, where a transaction that has shown the former secret does not end.
pub async fn install_token(conn: &mut Conn, token: &str) -> Result<()> {
    conn.exec_drop("REPLACE INTO lockstep.secret (one, token) VALUES (1, ?)", (token,)).await?;
    conn.query_drop(schema::records_view(token)).await
}

/// The secret, for a proxy that takes over a cluster.
pub async fn read_token(conn: &mut Conn) -> Result<Option<String>> {
    conn.query_first("SELECT token FROM lockstep.secret WHERE one = 1").await
}

/// Commits something small that changes a page, so that it must reach the disk: a full or read-only
/// disk shows here first.
pub async fn probe_write(conn: &mut Conn) -> Result<()> {
    conn.query_drop("UPDATE lockstep.control SET probes = probes + 1 WHERE one = 1").await
}

/// Ends every session of these users except our own and waits until they are gone, so that nothing a
/// former writer had under way can commit any more. Gives how many are still there at the deadline.
pub async fn fence(conn: &mut Conn, users: &[String], deadline: Duration) -> Result<usize> {
    let give_up = Instant::now() + deadline;
    let ended = sessions(conn, users).await?;
    for id in &ended {
        // One that has ended by itself is no longer there to be killed.
        match conn.query_drop(format!("KILL CONNECTION {id}")).await {
            Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_THREAD => {}
            other => other?,
        }
    }
    loop {
        let left = sessions(conn, users).await?.iter().filter(|id| ended.contains(id)).count();
        if left == 0 || Instant::now() >= give_up {
            return Ok(left);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// `ER_NO_SUCH_THREAD`.
const NO_SUCH_THREAD: u16 = 1094;

async fn sessions(conn: &mut Conn, users: &[String]) -> Result<Vec<u64>> {
    let found: Vec<(u64, String)> = conn
        .query("SELECT ID, USER FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()")
        .await?;
    Ok(found.into_iter().filter(|(_, user)| users.contains(user)).map(|(id, _)| id).collect())
}
