//! One connection, in either dialect: texts and numbers in, texts out.

use std::time::Duration;

use lockstep_protocol::Dialect;
use mysql_async::prelude::Queryable;
use mysql_async::{OptsBuilder, Params, SslOpts};
use tokio_postgres::types::{ToSql, Type};

use crate::config::BackendTls;
use crate::config::agent::Store;
use crate::tls::{BackendConnector, ControlTls};

use super::Rows;

/// A value of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'v> {
    Number(i64),
    Text(&'v str),
}

pub(super) enum Link {
    Postgres(tokio_postgres::Client),
    MySql(Box<mysql_async::Conn>),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Self::Postgres(_) => "Link::Postgres",
            Self::MySql(_) => "Link::MySql",
        })
    }
}

impl Link {
    pub(super) async fn connect(store: &Store, timeout: Duration) -> Result<Self, String> {
        match store.dialect {
            Dialect::Postgres => postgres(store, timeout).await,
            Dialect::MySql => mysql(store).await,
        }
    }

    /// Whether the other side is known to have gone.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Postgres(client) if client.is_closed())
    }

    /// How many rows it changed, and the rows it answered.
    pub(super) async fn run(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<(u64, Rows), String> {
        match self {
            Self::Postgres(client) => run_postgres(client, sql, values).await,
            Self::MySql(conn) => {
                run_mysql(conn, sql, values).await.map_err(|error| error.to_string())
            }
        }
    }
}

async fn postgres(store: &Store, timeout: Duration) -> Result<Link, String> {
    let connector = BackendConnector::new(&store.tls, &store.host).map_err(|e| e.to_string())?;
    let tls = ControlTls::new(connector);
    let mut config = tokio_postgres::Config::new();
    config
        .host(&store.host)
        .port(store.port)
        .user(&store.user)
        .password(store.password.reveal())
        .dbname(&store.database)
        .application_name("lockstep agent")
        .connect_timeout(timeout)
        .tcp_user_timeout(timeout * 3)
        .ssl_mode(tls.mode());
    let (client, connection) =
        config.connect(tls).await.map_err(|e| crate::control::describe(&e))?;
    // Ends with the client, which is why nothing has to wait for it.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of the agent ended");
        }
    });
    // A write that waits for a lock for so long would be given up anyway.
    let limits = "SET lock_timeout = '1s'";
    client.batch_execute(limits).await.map_err(|e| crate::control::describe(&e))?;
    Ok(Link::Postgres(client))
}

async fn run_postgres(
    client: &tokio_postgres::Client,
    sql: &str,
    values: &[Value<'_>],
) -> Result<(u64, Rows), String> {
    let sql = if values.is_empty() { sql.to_owned() } else { numbered(sql) };
    let values: Vec<(&(dyn ToSql + Sync), Type)> = values
        .iter()
        .map(|value| match value {
            Value::Number(number) => (number as &(dyn ToSql + Sync), Type::INT8),
            Value::Text(text) => (text as &(dyn ToSql + Sync), Type::VARCHAR),
        })
        .collect();
    let describe = |error: tokio_postgres::Error| crate::control::describe(&error);
    if values.is_empty() {
        return simple(client, &sql).await.map_err(describe);
    }
    if !sql.contains("SELECT ") {
        let changed = client.execute_typed(&sql, &values).await.map_err(describe)?;
        return Ok((changed, Vec::new()));
    }
    let found = client.query_typed(&sql, &values).await.map_err(describe)?;
    let text = |row: &tokio_postgres::Row, i: usize| {
        if *row.columns()[i].type_() == Type::INT8 {
            row.try_get::<_, i64>(i).map(|number| number.to_string())
        } else {
            row.try_get::<_, String>(i)
        }
    };
    let rows = found.iter().map(|row| (0..row.len()).map(|i| text(row, i)).collect());
    let rows: Result<Rows, tokio_postgres::Error> = rows.collect();
    Ok((0, rows.map_err(describe)?))
}

/// A statement without values, whose answer is text whatever its types are.
async fn simple(
    client: &tokio_postgres::Client,
    sql: &str,
) -> Result<(u64, Rows), tokio_postgres::Error> {
    use tokio_postgres::SimpleQueryMessage::{CommandComplete, Row};
    let (mut changed, mut rows) = (0, Rows::new());
    for message in client.simple_query(sql).await? {
        match message {
            Row(row) => rows
                .push((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect()),
            CommandComplete(count) => changed = count,
            _ => {}
        }
    }
    Ok((changed, rows))
}

/// `?` as PostgreSQL numbers it. The statements are ours, and have no `?` in a literal.
fn numbered(sql: &str) -> String {
    let mut number = 0;
    let mut out = String::with_capacity(sql.len() + 16);
    for letter in sql.chars() {
        if letter == '?' {
            number += 1;
            out.push('$');
            out.push_str(&number.to_string());
        } else {
            out.push(letter);
        }
    }
    out
}

async fn mysql(store: &Store) -> Result<Link, String> {
    let authority = |ca: &std::path::Path| {
        SslOpts::default()
            .with_root_certs(vec![ca.to_owned().into()])
            .with_disable_built_in_roots(true)
    };
    let tls = match &store.tls {
        BackendTls::Disable => None,
        BackendTls::Require => Some(SslOpts::default().with_danger_accept_invalid_certs(true)),
        BackendTls::VerifyCa { ca } => Some(authority(ca).with_danger_skip_domain_validation(true)),
        BackendTls::VerifyFull { ca } => Some(authority(ca)),
    };
    let opts = OptsBuilder::default()
        .ip_or_hostname(&store.host)
        .tcp_port(store.port)
        .user(Some(&store.user))
        .pass(Some(store.password.reveal()))
        .db_name(Some(&store.database))
        .prefer_socket(false)
        .ssl_opts(tls);
    let mut conn = mysql_async::Conn::new(opts).await.map_err(|error| error.to_string())?;
    let limits = "SET SESSION innodb_lock_wait_timeout = 1";
    conn.query_drop(limits).await.map_err(|error| error.to_string())?;
    Ok(Link::MySql(Box::new(conn)))
}

async fn run_mysql(
    conn: &mut mysql_async::Conn,
    sql: &str,
    values: &[Value<'_>],
) -> mysql_async::Result<(u64, Rows)> {
    let values: Vec<mysql_async::Value> = values
        .iter()
        .map(|value| match value {
            Value::Number(number) => (*number).into(),
            Value::Text(text) => (*text).into(),
        })
        .collect();
    let params = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
    let mut answer = conn.exec_iter(sql, params).await?;
    let changed = answer.affected_rows();
    let found: Vec<mysql_async::Row> = answer.collect().await?;
    drop(answer);
    let text = |value: mysql_async::Value| match value {
        mysql_async::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        mysql_async::Value::NULL => String::new(),
        mysql_async::Value::Int(number) => number.to_string(),
        mysql_async::Value::UInt(number) => number.to_string(),
        other => other.as_sql(true),
    };
    let rows = found.into_iter().map(|row| row.unwrap().into_iter().map(text).collect());
    Ok((changed, rows.collect()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn places_are_numbered() {
        assert_eq!(super::numbered("a = ? AND b = ?"), "a = $1 AND b = $2");
    }
}
