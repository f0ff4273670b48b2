//! What lockstep keeps inside MariaDB and MySQL: the database `lockstep` on each server.
//!
//! The same rows as on PostgreSQL with the same meaning, read and written over an administrator's
//! connection. An application's user may do one thing there: insert into `lockstep.records`, a view on the
//! journal that lets in the row of a transaction, and only from whoever can prove to be the writer.

pub mod init;

pub mod fill;

pub mod check;

pub mod compare;

pub mod control;

pub mod vote;

pub mod schema;

use mysql_async::Conn;

/// Statements that are run one after the other; the first error ends it.
pub(crate) async fn run_all(conn: &mut Conn, statements: &[&str]) -> mysql_async::Result<()> {
    use mysql_async::prelude::Queryable;
    for statement in statements {
        conn.query_drop(*statement).await?;
    }
    Ok(())
}

/// Names are compared byte by byte, and never in another session's way of reading quotes.
pub const SESSION_SQL: &str = "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES', \
    time_zone = '+00:00', character_set_client = utf8mb4, character_set_results = utf8mb4, \
    character_set_connection = utf8mb4";

/// A name as the server takes it whatever its mode.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
