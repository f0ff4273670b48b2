//! The database `lockstep`: its tables, its procedures, and who may call them.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use sha2::{Digest, Sha256};

use super::{quoted, run_all};
use crate::hex;

/// What the comment on the journal says when it is of this version.
pub const VERSION: &str = "lockstep schema 1";

/// The call that writes the journal's row of a transaction: proof, number, identity, user, entry.
pub const RECORD_SQL: &str = "CALL lockstep.record(?, ?, ?, ?, ?)";

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
     entry LONGBLOB NOT NULL) ENGINE=InnoDB COMMENT='lockstep schema 1'",
    "DROP PROCEDURE IF EXISTS lockstep.record",
    RECORD,
    "DROP PROCEDURE IF EXISTS lockstep.obeys",
    OBEYS,
];

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

/// The secret is read with a lock, since the snapshot of the caller's transaction may be older than
/// the newest secret; whoever replaces the secret waits for those who have shown the former one. The
/// proof is bound to the connection and the record: seen in a log or a list of processes, it is worth
/// nothing. One statement does both, which costs two thirds of two; a binary log of statements gets the
/// connection's number as a value.
const RECORD: &str = "CREATE PROCEDURE lockstep.record(IN proof VARCHAR(64) CHARACTER SET ascii, \
    IN seq BIGINT, IN id BIGINT, IN usr VARCHAR(255) CHARACTER SET utf8mb4, IN entry LONGBLOB) \
    MODIFIES SQL DATA SQL SECURITY DEFINER \
    BEGIN \
      DECLARE connection BIGINT DEFAULT CONNECTION_ID(); \
      INSERT INTO lockstep.journal (seq, id, at, usr, entry) \
        SELECT seq, id, UTC_TIMESTAMP(6), usr, entry FROM lockstep.secret s WHERE s.one = 1 \
        AND CAST(SHA2(CONCAT_WS('/', s.token, connection, seq, id), 256) AS BINARY) \
          = CAST(proof AS BINARY) LOCK IN SHARE MODE; \
      IF ROW_COUNT() <> 1 THEN \
        SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1370, \
          MESSAGE_TEXT = 'lockstep: only the proxy may call this'; \
      END IF; \
    END";

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
    format!("CALL lockstep.obeys('{}')", proof(token, connection, 0, 0))
}

/// Shows that a record comes from whoever knows the secret, on this connection.
pub fn proof(token: &str, connection: u32, seq: i64, id: i64) -> String {
    hex::encode(&Sha256::digest(format!("{token}/{connection}/{seq}/{id}")))
}

/// Installs or upgrades the database `lockstep`. `value` becomes the server's identity, unless it has
/// one.
pub async fn install(conn: &mut Conn, value: &str) -> mysql_async::Result<()> {
    run_all(conn, TABLES).await?;
    let there: Vec<String> = conn
        .query(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = 'lockstep' AND TABLE_NAME = 'control'",
        )
        .await?;
    let has = |name: &str| there.iter().any(|column| column == name);
    for (name, kind) in VOTES.iter().filter(|(name, _)| !has(name)) {
        conn.query_drop(format!("ALTER TABLE lockstep.control ADD COLUMN {name} {kind}")).await?;
    }
    if has("ballot") {
        conn.query_drop("ALTER TABLE lockstep.control DROP COLUMN ballot").await?;
    }
    conn.exec_drop("INSERT IGNORE INTO lockstep.identity VALUES (1, ?)", (value,)).await
}

/// Lets the users of the cluster call what is there for them. Gives those that do not exist.
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
            for routine in ["record", "obeys"] {
                let grant = format!("GRANT EXECUTE ON PROCEDURE lockstep.{routine} TO {account}");
                conn.query_drop(grant).await?;
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
        assert_eq!(first.len(), 64);
        assert_eq!(first, proof("secret", 5, 1, 2));
        for other in [proof("other", 5, 1, 2), proof("secret", 6, 1, 2), proof("secret", 5, 2, 2)] {
            assert_ne!(first, other);
        }
    }
}
