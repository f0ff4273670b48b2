//! The database `lockstep`: its tables, its procedures, and who may call them.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use sha2::{Digest, Sha256};

use super::{quoted, run_all};
use crate::hex;

/// The statement that writes the journal's row of a transaction: proof, number, identity, user, entry.
pub const RECORD_SQL: &str = "INSERT INTO lockstep.records (proof, seq, id, at, usr, entry) \
    VALUES (?, ?, ?, UTC_TIMESTAMP(6), ?, ?)";

const TABLES: &[&str] = &[
    "CREATE DATABASE IF NOT EXISTS lockstep CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS lockstep.identity (one TINYINT NOT NULL PRIMARY KEY, \
     value VARCHAR(64) NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS lockstep.control (one TINYINT NOT NULL PRIMARY KEY, \
     cluster_id VARCHAR(255) NOT NULL, backend VARCHAR(255) NOT NULL, \
     system_identifier VARCHAR(255) NOT NULL, view BIGINT NOT NULL, members TEXT NOT NULL, \
     complete_to BIGINT NOT NULL, pruned_to BIGINT NOT NULL, \
     probes BIGINT NOT NULL DEFAULT 0) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS lockstep.secret (one TINYINT NOT NULL PRIMARY KEY, \
     token VARCHAR(255) NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS lockstep.journal (seq BIGINT NOT NULL PRIMARY KEY, \
     id BIGINT NOT NULL, at DATETIME(6) NOT NULL, usr VARCHAR(255) NOT NULL, \
     entry LONGBLOB NOT NULL, proof BINARY(32) NOT NULL DEFAULT '') ENGINE=InnoDB",
    "DROP PROCEDURE IF EXISTS lockstep.obeys",
    OBEYS,
];

/// What a journal of a former version lacks.
const JOURNAL: &[(&str, &str)] = &[("proof", "BINARY(32) NOT NULL DEFAULT ''")];

/// What the server keeps as a voter, besides view and members: whom it obeys, who decides between halves, what it has
/// accepted to be view + 1, and who writes. Names of columns and what they are.
const VOTES: &[(&str, &str)] = &[
    ("promised", "VARCHAR(40) CHARACTER SET ascii NOT NULL DEFAULT ''"),
    ("arbiter", "VARCHAR(255) NOT NULL DEFAULT ''"),
    ("acc_ballot", "VARCHAR(40) CHARACTER SET ascii NOT NULL DEFAULT ''"),
    ("acc_members", "TEXT"),
    ("acc_arbiter", "VARCHAR(255) NOT NULL DEFAULT ''"),
    ("writer", "VARCHAR(255) NOT NULL DEFAULT ''"),
    ("beat", "BIGINT NOT NULL DEFAULT 0"),
];

/// The statement that makes the only way into the journal: a view that lets in what proves to know the secret, and that
/// nobody may read. A transaction that has got in there holds the view as it is until its end, and one that gets in later
/// meets the new one whatever its snapshot: whoever replaces the secret waits for those who have shown the former one, and
/// for nobody else. The proof is bound to the connection and the record: seen in a log or a list of processes, it is worth
/// nothing.
///
/// The secret stands in the view itself: what that adds to a plain INSERT is a third of what a subquery for it adds, and a
/// fifth of a procedure, which writes out all its parameters as text. Numbers and digests are made text in the session's
/// character set unless they are told another one.
pub fn records_view(token: &str) -> String {
    let token = hex::encode(token.as_bytes());
    let plain = |value: &str| format!("CAST({value} AS CHAR CHARACTER SET latin1)");
    format!(
        "CREATE OR REPLACE SQL SECURITY DEFINER VIEW lockstep.records AS \
         SELECT proof, seq, id, at, usr, entry FROM lockstep.journal \
         WHERE proof = UNHEX({}) WITH CHECK OPTION",
        plain(&format!(
            "SHA2(CONCAT(x'{token}2f', {}, x'2f', {}, x'2f', {}), 256)",
            plain("CONNECTION_ID()"),
            plain("seq"),
            plain("id")
        ))
    )
}

/// How former versions wrote the journal.
const FORMER: &str = "DROP PROCEDURE IF EXISTS lockstep.record";

/// What every connection says first: whom the server obeys no more is let in for nothing, not even for a read. Whoever has
/// asked before the secret was replaced is there by then, and is ended.
const OBEYS: &str = "CREATE PROCEDURE lockstep.obeys(IN proof VARCHAR(64) CHARACTER SET ascii) \
    READS SQL DATA SQL SECURITY DEFINER \
    BEGIN \
      DECLARE known INT DEFAULT 0; \
      SELECT COUNT(*) INTO known FROM lockstep.secret s WHERE s.one = 1 \
        AND CAST(SHA2(CONCAT_WS('/', s.token, CONNECTION_ID(), 0, 0), 256) AS BINARY) \
          = CAST(proof AS BINARY); \
      IF known <> 1 THEN \
        SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1370, \
          MESSAGE_TEXT = 'lockstep: the server obeys another proxy'; \
      END IF; \
    END";

/// The statement with which a connection asks whether the server obeys this proxy.
pub fn obeys(token: &str, connection: u32) -> String {
    format!("CALL lockstep.obeys('{}')", hex::encode(&proof(token, connection, 0, 0)))
}

/// Shows that a record comes from whoever knows the secret, on this connection.
pub fn proof(token: &str, connection: u32, seq: i64, id: i64) -> [u8; 32] {
    Sha256::digest(format!("{token}/{connection}/{seq}/{id}")).into()
}

/// Installs or upgrades the database `lockstep`. `value` becomes the server's identity, unless it has
/// one.
pub async fn install(conn: &mut Conn, value: &str) -> mysql_async::Result<()> {
    run_all(conn, TABLES).await?;
    add_columns(conn, "journal", JOURNAL).await?;
    if add_columns(conn, "control", VOTES).await?.iter().any(|column| column == "ballot") {
        conn.query_drop("ALTER TABLE lockstep.control DROP COLUMN ballot").await?;
    }
    conn.query_drop(FORMER).await?;
    conn.exec_drop("INSERT IGNORE INTO lockstep.identity VALUES (1, ?)", (value,)).await
}

/// Adds those columns that a table of a former version lacks. Gives those it had.
async fn add_columns(
    conn: &mut Conn,
    table: &str,
    columns: &[(&str, &str)],
) -> mysql_async::Result<Vec<String>> {
    let there: Vec<String> = conn
        .exec(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = 'lockstep' AND TABLE_NAME = ?",
            (table,),
        )
        .await?;
    for (name, kind) in columns.iter().filter(|(name, _)| !there.iter().any(|there| there == name))
    {
        conn.query_drop(format!("ALTER TABLE lockstep.{table} ADD COLUMN {name} {kind}")).await?;
    }
    Ok(there)
}

/// Lets the users of the cluster do what they have to. Gives those that do not exist.
pub async fn grant(conn: &mut Conn, users: &[String]) -> mysql_async::Result<Vec<String>> {
    let mut absent = Vec::new();
    for user in users {
        let hosts: Vec<String> =
            conn.exec("SELECT Host FROM mysql.user WHERE User = ?", (user,)).await?;
        if hosts.is_empty() {
            absent.push(user.clone());
        }
        for host in hosts {
            let account = format!("{}@{}", quoted(user), quoted(&host));
            for what in ["EXECUTE ON PROCEDURE lockstep.obeys", "INSERT ON lockstep.records"] {
                conn.query_drop(format!("GRANT {what} TO {account}")).await?;
            }
        }
    }
    Ok(absent)
}

#[cfg(test)]
mod tests {
    use super::proof;

    #[test]
    fn a_proof_is_bound_to_connection_and_record() {
        let first = proof("secret", 5, 1, 2);
        assert_eq!(first, proof("secret", 5, 1, 2));
        for other in [proof("other", 5, 1, 2), proof("secret", 6, 1, 2), proof("secret", 5, 2, 2)] {
            assert_ne!(first, other);
        }
    }
}
