//! What is judged to be the same everywhere is run on one MariaDB server and repeated, with its
//! context, on another that has met its rows in the opposite order: both must hold the same.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod maria;

use lockstep::sql::{Answers, Class, Judge, Scope, assignment_of, informed, questions};
use lockstep_protocol::Dialect;
use maria::Server;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TABLES: &str = "CREATE DATABASE app; USE app; \
    CREATE TABLE n (id INT AUTO_INCREMENT PRIMARY KEY, u INT UNIQUE, v INT, \
      at TIMESTAMP(6) DEFAULT NOW(6) ON UPDATE NOW(6)); \
    CREATE TABLE k (a INT, b INT, KEY (b)); \
    CREATE TABLE p (id INT PRIMARY KEY, x INT, KEY (x)); \
    CREATE TABLE c (id INT PRIMARY KEY, pid INT, FOREIGN KEY (pid) REFERENCES p (id) ON DELETE CASCADE); \
    CREATE TRIGGER t BEFORE INSERT ON p FOR EACH ROW INSERT INTO k VALUES (NEW.id, NEW.x)";

/// Statements with `#` for a small number: some can be repeated, some cannot.
const STATEMENTS: &[&str] = &[
    "INSERT INTO n (u, v) VALUES (#, #), (#, #), (#, #) ON DUPLICATE KEY UPDATE v = v + VALUES(v)",
    "INSERT INTO n (id, u, v) VALUES (NULL, #, #), (#, #, #), (NULL, #, #) ON DUPLICATE KEY UPDATE v = VALUES(v)",
    "INSERT INTO n (u, v) SELECT x, id FROM p ORDER BY id ON DUPLICATE KEY UPDATE v = n.v + 1",
    "INSERT INTO n (u, v) VALUES (#, #) ON DUPLICATE KEY UPDATE v = v + VALUES(v)",
    "INSERT IGNORE INTO n (u, v) VALUES (#, #), (#, #), (#, #)",
    "INSERT IGNORE INTO n (id, u) VALUES (#, #), (NULL, #), (#, #), (NULL, #)",
    "REPLACE INTO n (u, v) VALUES (#, #), (#, #)",
    "INSERT IGNORE INTO n (u) SELECT b + # FROM k",
    "INSERT IGNORE INTO n (u) SELECT x + # FROM p ORDER BY id",
    "INSERT INTO n (v) VALUES (RAND() * 1000), (UNIX_TIMESTAMP(NOW(6)) * 10 % 1000)",
    "INSERT INTO n (v) VALUES (UUID_SHORT() % 1000)",
    "INSERT INTO k VALUES (#, LAST_INSERT_ID()), (#, @v)",
    "UPDATE n SET v = v * 2 % 97 WHERE v > #",
    "UPDATE n SET v = # ORDER BY v LIMIT 2",
    "UPDATE n SET v = # ORDER BY v, id LIMIT 2",
    "UPDATE IGNORE n SET u = u + 1 WHERE v > #",
    "UPDATE n JOIN p ON n.v = p.x SET n.v = p.id",
    "UPDATE n JOIN p ON n.v = p.x SET n.v = n.v + 1",
    "DELETE FROM n WHERE v = # LIMIT 1",
    "DELETE FROM n WHERE v % 7 = # ORDER BY id LIMIT 1",
    "DELETE FROM k LIMIT 1",
    "DELETE FROM k WHERE b < #",
    "INSERT IGNORE INTO p VALUES (#, #), (#, #)",
    "INSERT IGNORE INTO p SELECT a, b FROM k",
    "REPLACE INTO p VALUES (#, #)",
    "DELETE FROM p WHERE x = #",
    "INSERT IGNORE INTO c VALUES (#, #)",
    "INSERT INTO k SELECT v, COUNT(*) FROM n GROUP BY v",
    "INSERT INTO k SELECT id, MAX(v) FROM n",
    "INSERT INTO k SELECT (SELECT x FROM p ORDER BY x LIMIT 1), #",
    "INSERT INTO k SELECT (SELECT x FROM p ORDER BY x, id LIMIT 1), #",
];

async fn connect(server: &Server) -> Conn {
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(server.port)
        .user(Some("root"))
        .prefer_socket(false)
        .db_name(Some("app"));
    let mut conn = Conn::new(opts).await.unwrap();
    conn.query_drop("SET SESSION transaction_isolation = 'REPEATABLE-READ'").await.ok();
    conn.query_drop("SET @v = 5").await.unwrap();
    conn
}

async fn judge(conn: &mut Conn) -> Box<dyn Judge> {
    let mut answers = Answers::new();
    for (name, sql) in questions(Dialect::MySql) {
        let rows: Vec<mysql_async::Row> = conn.query(*sql).await.unwrap();
        let text = |value: mysql_async::Value| match value {
            mysql_async::Value::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
            _ => None,
        };
        let rows = rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect());
        answers.insert(name, rows.collect());
    }
    informed(Dialect::MySql, &answers).unwrap()
}

async fn checksums(conn: &mut Conn) -> Vec<(String, Option<u64>)> {
    conn.query("CHECKSUM TABLE n, k, p, c").await.unwrap()
}

#[tokio::test]
async fn what_may_be_repeated_ends_the_same_on_another_server() {
    if !Server::is_there() {
        return;
    }
    let servers = [Server::start(&[]), Server::start(&[])];
    servers.iter().for_each(|server| drop(server.ask("", TABLES)));
    let [mut leader, mut follower] = [connect(&servers[0]).await, connect(&servers[1]).await];
    for at in 0..40 {
        // The same rows, met in the opposite order where there is no key to order them.
        for (conn, at) in [(&mut leader, at), (&mut follower, 39 - at)] {
            let row = format!("INSERT INTO k VALUES ({}, {})", at % 9, at % 7);
            conn.query_drop(row).await.unwrap();
        }
    }
    let judge = judge(&mut leader).await;
    let scope = Scope { search_path: Some(vec!["app".into()]), ..Scope::default() };
    let mut dice = StdRng::seed_from_u64(20_061_204);
    let (mut repeated, mut refused) = (0, 0);
    for turn in 0..3000_u32 {
        let template = STATEMENTS[dice.random_range(0..STATEMENTS.len())];
        let pieces = template.split('#').map(str::to_owned);
        let sql = pieces.reduce(|a, b| format!("{a}{}{b}", dice.random_range(0..30))).unwrap();
        let script = judge.judge(&sql, &scope).unwrap();
        let statement = &script.statements[0];
        if !matches!(statement.class, Class::Keyed) {
            refused += 1;
            continue;
        }
        let clock = f64::from(turn).mul_add(0.37, 1_700_000_000.0);
        let given: Option<u64> = leader.query_first("SELECT @@last_insert_id").await.unwrap();
        let context = format!(
            "SET timestamp = {clock}, rand_seed1 = {turn}, rand_seed2 = 77, last_insert_id = {}",
            given.unwrap()
        );
        leader.query_drop(format!("{context}, insert_id = 0")).await.unwrap();
        let (sql, chosen) = statement.with_pins(&sql);
        let mut context = context;
        for (variable, value) in chosen {
            leader.query_drop(format!("SET @{variable} = {value}")).await.unwrap();
            let asked = format!("SELECT {}", assignment_of(&variable));
            let assignment: Option<String> = leader.query_first(asked).await.unwrap();
            context = format!("{context}, {}", assignment.unwrap());
        }
        let hidden = statement.context.hidden_id;
        if hidden {
            leader.query_drop("SET last_insert_id = 0").await.unwrap();
        }
        let ran = leader.query_drop(&sql).await;
        let (mut number, rows) = (leader.last_insert_id().unwrap_or(0), leader.affected_rows());
        if hidden {
            let left: Option<u64> = leader.query_first("SELECT @@last_insert_id").await.unwrap();
            number = left.unwrap();
        }
        if ran.is_err() {
            continue;
        }
        follower.query_drop(format!("{context}, insert_id = {number}")).await.unwrap();
        follower.query_drop(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(follower.affected_rows(), rows, "{sql}");
        let (here, there) = (checksums(&mut leader).await, checksums(&mut follower).await);
        assert_eq!(here, there, "turn {turn}: {sql}");
        repeated += 1;
    }
    assert!(repeated > 500 && refused > 200, "{repeated} repeated, {refused} refused");
}
