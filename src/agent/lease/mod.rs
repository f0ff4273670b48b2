//! The tables of the election, by SQL: three ordinary tables in an ordinary database, on PostgreSQL,
//! MariaDB and MySQL alike, directly or through any proxy. No function is called and no clock is
//! asked, so that every copy of the database computes the same rows.

mod link;
mod rows;

use std::time::Duration;

use crate::config::agent::Store;

use super::election::{Change, Lease, NodeRow};
use link::{Link, Value};

pub use rows::EventRow;

/// The tables, as `lockstep agent init` makes them.
const TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS lockstep_lease (resource varchar(64) NOT NULL PRIMARY KEY, \
     epoch bigint NOT NULL, seq bigint NOT NULL, holder varchar(64) NOT NULL, \
     incarnation varchar(36) NOT NULL, grade varchar(8) NOT NULL, ttl_ms bigint NOT NULL, \
     paused bigint NOT NULL, target varchar(64) NOT NULL, reason varchar(200) NOT NULL, \
     stamp bigint NOT NULL)",
    "CREATE TABLE IF NOT EXISTS lockstep_node (resource varchar(64) NOT NULL, \
     node varchar(64) NOT NULL, incarnation varchar(36) NOT NULL, machine varchar(64) NOT NULL, \
     seq bigint NOT NULL, role varchar(16) NOT NULL, mode varchar(16) NOT NULL, \
     priority bigint NOT NULL, healthy bigint NOT NULL, maintenance bigint NOT NULL, \
     cleared bigint NOT NULL, accepted bigint NOT NULL, seen_epoch bigint NOT NULL, \
     addr varchar(200) NOT NULL, version varchar(32) NOT NULL, message varchar(200) NOT NULL, \
     PRIMARY KEY (resource, node))",
    "CREATE TABLE IF NOT EXISTS lockstep_event (resource varchar(64) NOT NULL, \
     node varchar(64) NOT NULL, n bigint NOT NULL, epoch bigint NOT NULL, kind varchar(32) NOT NULL, \
     happened varchar(32) NOT NULL, lasted_ms bigint NOT NULL, detail varchar(400) NOT NULL, \
     PRIMARY KEY (resource, node, n))",
];

const LEASE_COLUMNS: &str =
    "epoch, seq, holder, incarnation, grade, ttl_ms, paused, target, reason, stamp";
const NODE_COLUMNS: &str = "node, incarnation, machine, seq, role, mode, priority, healthy, \
                            maintenance, cleared, accepted, seen_epoch, addr, version, message";

/// Marks of a node that only operators write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orders {
    /// Rises when what damping holds back is to end.
    pub cleared: i64,
    /// Rises when an older row is to be accepted.
    pub accepted: i64,
}

/// A way to the tables: one connection, opened when it is needed and again after it broke, to the
/// first of the databases that answers.
#[derive(Debug)]
pub struct Lane {
    stores: Vec<Store>,
    connect_timeout: Duration,
    statement_timeout: Duration,
    link: Option<Link>,
    /// Where the connection goes; for people.
    place: String,
}

impl Lane {
    /// A way that has no connection yet.
    #[must_use]
    pub fn new(stores: &[Store], connect_timeout: Duration, statement_timeout: Duration) -> Self {
        let stores = stores.to_vec();
        Self { stores, connect_timeout, statement_timeout, link: None, place: String::new() }
    }

    /// Where the connection goes.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    async fn connect(&self) -> Result<(Link, String), String> {
        let mut problems = Vec::new();
        for store in &self.stores {
            let connecting = Link::connect(store, self.connect_timeout);
            match tokio::time::timeout(self.connect_timeout, connecting).await {
                Ok(Ok(link)) => return Ok((link, store.to_string())),
                Ok(Err(why)) => problems.push(format!("{store}: {why}")),
                Err(_) => problems.push(format!("{store}: no answer in time")),
            }
        }
        Err(problems.join("; "))
    }

    /// One statement. A connection whose statement failed is not used again: what it still owes
    /// would be taken for the next one's answer.
    async fn run(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(u64, Rows), String> {
        // Taken out, so that a caller who stops waiting leaves no half-read connection behind.
        let link = self.link.take().filter(|link| !link.is_closed());
        let mut link = match link {
            Some(link) => link,
            None => {
                let (link, place) = self.connect().await?;
                if place != self.place {
                    tracing::info!(%place, "the election is held in this database");
                    self.place = place;
                }
                link
            }
        };
        let answer = tokio::time::timeout(self.statement_timeout, link.run(sql, values)).await;
        let answer = answer.map_err(|_| {
            format!("{}: no answer within {:?}", self.place, self.statement_timeout)
        })?;
        let answer = answer.map_err(|why| format!("{}: {why}", self.place))?;
        self.link = Some(link);
        Ok(answer)
    }

    /// Makes the tables where they are missing.
    ///
    /// # Errors
    /// The first: when the database cannot be reached, or refuses.
    pub async fn create_tables(&mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        for table in TABLES {
            // Each is tried: another node may be making the same ones at the same time.
            outcome = outcome.and(self.run(table, &[]).await.map(drop));
        }
        outcome
    }

    /// Makes the row of a resource. One that is there already stays as it is.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn create_row(&mut self, resource: &str) -> Result<(), String> {
        let row = Lease::unborn();
        let sql = format!(
            "INSERT INTO lockstep_lease (resource, {LEASE_COLUMNS}) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        );
        let mut values = vec![Value::Text(resource)];
        values.extend(rows::lease_values(&row));
        match self.run(&sql, &values).await {
            Ok(_) => Ok(()),
            // Another node may have been quicker.
            Err(why) => match self.read(resource).await {
                Ok(Some(_)) => Ok(()),
                _ => Err(why),
            },
        }
    }

    /// The row of a resource.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn read(&mut self, resource: &str) -> Result<Option<Lease>, String> {
        let sql = format!(
            "/*NO LOAD BALANCE*/ SELECT {LEASE_COLUMNS} FROM lockstep_lease WHERE resource = ?"
        );
        let (_, found) = self.run(&sql, &[Value::Text(resource)]).await?;
        found.first().map(|row| rows::lease(row)).transpose()
    }

    /// Changes the row, if it is still as expected; whether it was.
    ///
    /// # Errors
    /// When no answer came: the change may have happened, or may still happen.
    pub async fn change(&mut self, resource: &str, change: &Change) -> Result<bool, String> {
        const SQL: &str = "UPDATE lockstep_lease SET epoch = ?, seq = ?, holder = ?, \
                           incarnation = ?, grade = ?, ttl_ms = ?, paused = ?, target = ?, \
                           reason = ?, stamp = ? WHERE resource = ? AND epoch = ? AND seq = ?";
        let mut values = rows::lease_values(&change.row);
        let (epoch, seq) = change.expected;
        values.extend([Value::Text(resource), Value::Number(epoch), Value::Number(seq)]);
        self.run(SQL, &values).await.map(|(matched, _)| matched == 1)
    }

    /// All nodes of a resource, and what operators ordered each.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn nodes(&mut self, resource: &str) -> Result<Vec<(NodeRow, Orders)>, String> {
        let sql = format!("SELECT {NODE_COLUMNS} FROM lockstep_node WHERE resource = ?");
        let (_, found) = self.run(&sql, &[Value::Text(resource)]).await?;
        found.iter().map(|row| rows::node(row)).collect()
    }

    /// Says that a node lives, and how it stands. What operators write is left alone.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn beat(&mut self, resource: &str, row: &NodeRow) -> Result<(), String> {
        const SQL: &str = "UPDATE lockstep_node SET incarnation = ?, machine = ?, seq = ?, \
                           role = ?, mode = ?, priority = ?, healthy = ?, seen_epoch = ?, \
                           addr = ?, version = ?, message = ? WHERE resource = ? AND node = ?";
        let message = rows::shortened(&row.message, 200);
        let values = [
            Value::Text(&row.incarnation),
            Value::Text(&row.machine),
            Value::Number(row.seq),
            Value::Text(&row.role),
            Value::Text(&row.mode),
            Value::Number(row.priority.into()),
            Value::Number(row.healthy.into()),
            Value::Number(row.seen_epoch),
            Value::Text(&row.addr),
            Value::Text(&row.version),
            Value::Text(&message),
            Value::Text(resource),
            Value::Text(&row.node),
        ];
        let (matched, _) = self.run(SQL, &values).await?;
        if matched == 0 {
            let sql = format!(
                "INSERT INTO lockstep_node (resource, {NODE_COLUMNS}) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?, ?, ?)"
            );
            let [
                incarnation,
                machine,
                seq,
                role,
                mode,
                priority,
                healthy,
                seen,
                addr,
                version,
                said,
                ..,
            ] = values;
            let name = [Value::Text(resource), Value::Text(&row.node)];
            let rest = [incarnation, machine, seq, role, mode, priority, healthy, seen, addr];
            let all: Vec<_> = name.into_iter().chain(rest).chain([version, said]).collect();
            self.run(&sql, &all).await?;
        }
        Ok(())
    }

    /// An operator takes a node out, or lets it back; whether there is such a node.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn maintain(
        &mut self,
        resource: &str,
        node: &str,
        out: bool,
    ) -> Result<bool, String> {
        // Without its condition a server may count a row that was so already, or may not.
        const SQL: &str = "UPDATE lockstep_node SET maintenance = ? \
                           WHERE resource = ? AND node = ? AND maintenance <> ?";
        let out = Value::Number(out.into());
        let values = [out, Value::Text(resource), Value::Text(node), out];
        if self.run(SQL, &values).await?.0 == 1 {
            return Ok(true);
        }
        Ok(self.nodes(resource).await?.iter().any(|(row, _)| row.node == node))
    }

    /// An operator's order to a node, given once more: one of its marks rises. Whether there is such a
    /// node. One statement, so that no order is lost where two are given at the same time.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn raise(&mut self, resource: &str, node: &str, mark: Mark) -> Result<bool, String> {
        let column = mark.column();
        let sql = format!(
            "UPDATE lockstep_node SET {column} = {column} + 1 WHERE resource = ? AND node = ?"
        );
        let values = [Value::Text(resource), Value::Text(node)];
        self.run(&sql, &values).await.map(|(matched, _)| matched == 1)
    }

    /// The number of the newest event of a node.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn newest_event(&mut self, resource: &str, node: &str) -> Result<i64, String> {
        const SQL: &str =
            "SELECT coalesce(max(n), 0) FROM lockstep_event WHERE resource = ? AND node = ?";
        let (_, found) = self.run(SQL, &[Value::Text(resource), Value::Text(node)]).await?;
        Ok(found.first().and_then(|row| row.first()?.parse().ok()).unwrap_or(0))
    }

    /// Records an event, and forgets the one that is `history` older.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn record(
        &mut self,
        resource: &str,
        event: &EventRow,
        history: u32,
    ) -> Result<(), String> {
        const INSERT: &str = "INSERT INTO lockstep_event (resource, node, n, epoch, kind, \
                              happened, lasted_ms, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        const DELETE: &str = "DELETE FROM lockstep_event WHERE resource = ? AND node = ? AND n = ?";
        let detail = rows::shortened(&event.detail, 400);
        let values = [
            Value::Text(resource),
            Value::Text(&event.node),
            Value::Number(event.n),
            Value::Number(event.epoch),
            Value::Text(&event.kind),
            Value::Text(&event.happened),
            Value::Number(event.lasted_ms),
            Value::Text(&detail),
        ];
        self.run(INSERT, &values).await?;
        let old = event.n - i64::from(history);
        if old > 0 {
            let values = [Value::Text(resource), Value::Text(&event.node), Value::Number(old)];
            self.run(DELETE, &values).await?;
        }
        Ok(())
    }

    /// A question of a check: the first value of the first row, if there is one.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn ask(&mut self, sql: &str) -> Result<Option<String>, String> {
        let (_, found) = self.run(sql, &[]).await?;
        Ok(found.into_iter().next().and_then(|row| row.into_iter().next()))
    }

    /// The newest events of a resource, the newest last.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn events(&mut self, resource: &str, most: u32) -> Result<Vec<EventRow>, String> {
        let sql = format!(
            "SELECT node, n, epoch, kind, happened, lasted_ms, detail FROM lockstep_event \
             WHERE resource = ? ORDER BY happened DESC, node DESC, n DESC LIMIT {most}"
        );
        let (_, found) = self.run(&sql, &[Value::Text(resource)]).await?;
        let mut events: Vec<_> =
            found.iter().map(|row| rows::event(row)).collect::<Result<_, _>>()?;
        events.reverse();
        Ok(events)
    }
}

/// Rows as text.
type Rows = Vec<Vec<String>>;

/// What operators count up in a node's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// See [`Orders::cleared`].
    Cleared,
    /// See [`Orders::accepted`].
    Accepted,
}

impl Mark {
    const fn column(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Accepted => "accepted",
        }
    }
}
