//! What MariaDB does for lockstep, on real servers: the journal takes what the writer records, and
//! nobody else can write, read or forge it.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod maria;

use std::time::Duration;

use lockstep::cluster::{Arbiter, Ask, Ballot, Roster, Vote};
use lockstep::hex;
use lockstep::store::control::Control;
use lockstep::store::mysql::schema::{RECORD_SQL, grant, install, obeys, proof};
use lockstep::store::mysql::{SESSION_SQL, control, vote};
use lockstep::store::vote::{Poll, Secrets};
use maria::Server;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

const TOKEN: &str = "the proxy's secret";

async fn connect(server: &Server, user: &str) -> Conn {
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(server.port)
        .user(Some(user))
        .prefer_socket(false);
    let mut conn = Conn::new(opts).await.unwrap();
    conn.query_drop(SESSION_SQL).await.unwrap();
    conn
}

/// A server that is prepared, with a user `app`.
async fn prepared() -> Option<(Server, Conn)> {
    if !Server::is_there() {
        return None;
    }
    let server = Server::start(&[]);
    server.ask("", "CREATE DATABASE app; CREATE USER app@'%'; GRANT ALL ON app.* TO app@'%'");
    let mut admin = connect(&server, "root").await;
    install(&mut admin, "a-value").await.unwrap();
    control::install_token(&mut admin, TOKEN).await.unwrap();
    let absent = grant(&mut admin, &["app".to_owned(), "nobody".to_owned()]).await.unwrap();
    assert_eq!(absent, ["nobody"]);
    Some((server, admin))
}

fn row(backend: &str) -> Control {
    Control {
        cluster_id: "cluster".into(),
        backend: backend.into(),
        system_identifier: "x".into(),
        vote: Vote {
            roster: Roster {
                number: 1,
                members: vec!["one".into(), "zwei ü".into()],
                ..Roster::default()
            },
            ..Vote::default()
        },
        writer: String::new(),
        beat: 0,
        complete_to: 0,
        pruned_to: 0,
    }
}

/// The number of the error that whoever proves nothing gets.
const UNPROVED: u16 = 1369;

async fn record(conn: &mut Conn, proof: &[u8], seq: i64) -> Result<(), u16> {
    let done = conn.exec_drop(RECORD_SQL, (proof, seq, 7_i64, "app", &[0_u8, 255, 39][..])).await;
    done.map_err(|error| match error {
        mysql_async::Error::Server(error) => error.code,
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn a_connection_of_a_proxy_that_is_not_obeyed_is_let_in_for_nothing() {
    let Some((server, mut admin)) = prepared().await else { return };
    let mut app = connect(&server, "app").await;
    app.query_drop("SET SESSION TRANSACTION READ ONLY").await.unwrap();
    let number = app.id();
    app.query_drop(obeys(TOKEN, number)).await.expect("obeyed");
    control::install_token(&mut admin, "another proxy's").await.unwrap();
    for (token, connection) in [(TOKEN, number), ("another proxy's", number + 1)] {
        match app.query_drop(obeys(token, connection)).await {
            Err(mysql_async::Error::Server(error)) => assert_eq!(error.code, 1370, "{error}"),
            other => panic!("not obeyed, and let in: {other:?}"),
        }
    }
    app.query_drop(obeys("another proxy's", number)).await.expect("obeyed");
}

#[tokio::test]
async fn the_journal_is_written_in_the_transaction_and_read_back() {
    let Some((server, mut admin)) = prepared().await else { return };
    assert_eq!(control::read_control(&mut admin).await.unwrap(), None);
    let written = row("one");
    control::write_control(&mut admin, &written).await.unwrap();
    assert_eq!(control::read_control(&mut admin).await.unwrap(), Some(written));
    let mut app = connect(&server, "app").await;
    app.query_drop("CREATE TABLE app.t (id INT PRIMARY KEY)").await.unwrap();
    app.query_drop("SET SESSION time_zone = '-09:00'").await.unwrap();
    let own = app.id();
    for seq in 1..=3 {
        app.query_drop("BEGIN").await.unwrap();
        app.query_drop(format!("INSERT INTO app.t VALUES ({seq})")).await.unwrap();
        record(&mut app, &proof(TOKEN, own, seq, 7), seq).await.unwrap();
        let end = if seq == 2 { "ROLLBACK" } else { "COMMIT" };
        app.query_drop(end).await.unwrap();
    }
    assert_eq!(control::journal_tail(&mut admin, 0).await.unwrap(), [(1, 7), (3, 7)]);
    assert_eq!(control::journal_end(&mut admin).await.unwrap(), 3);
    let records = control::read_records(&mut admin, &[1, 2, 3]).await.unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!((records[0].user.as_str(), &records[0].entry[..]), ("app", &[0, 255, 39][..]));
    assert_eq!(control::owner_of(&mut admin, 7, 0, 3).await.unwrap().as_deref(), Some("app"));
    assert_eq!(control::owner_of(&mut admin, 8, 0, 3).await.unwrap(), None);
    // Each is three bytes long, and eighty besides.
    assert_eq!(control::weigh(&mut admin, 0, 3, 1).await.unwrap(), Some((1, 1, 83)));
    assert_eq!(control::weigh(&mut admin, 0, 3, 84).await.unwrap(), Some((3, 2, 166)));
    assert_eq!(control::weigh(&mut admin, 3, 9, 84).await.unwrap(), None);
    // The clock is the server's, whatever time zone a session lives in.
    assert_eq!(control::first_younger(&mut admin, 600.0).await.unwrap(), Some(1));
    assert_eq!(control::first_younger(&mut admin, 0.0).await.unwrap(), None);
    assert_eq!(control::outside_records(&mut admin, 0).await.unwrap(), []);
    let none = Ballot::NONE;
    control::set_complete(&mut admin, 3, none).await.unwrap();
    assert_eq!(control::prune(&mut admin, 3, 1, Ballot::above([], 1)).await.unwrap(), 0);
    assert_eq!(control::prune(&mut admin, 3, 1, none).await.unwrap(), 1);
    assert_eq!(control::prune(&mut admin, 3, 10, none).await.unwrap(), 1);
    assert_eq!(control::prune(&mut admin, 3, 10, none).await.unwrap(), 0);
    assert_eq!(control::journal_end(&mut admin).await.unwrap(), 3);
    let now = control::read_control(&mut admin).await.unwrap().unwrap();
    assert_eq!((now.complete_to, now.pruned_to), (3, 3));
    control::probe_write(&mut admin).await.unwrap();
}

#[tokio::test]
async fn a_server_votes_as_the_rules_say_and_remembers() {
    let Some((server, mut admin)) = prepared().await else { return };
    let first = row("one");
    control::write_control(&mut admin, &first).await.unwrap();
    let (low, high) = (Ballot::above([], 1), Ballot::above([], 2));
    let ask = |ask: Ask, secrets: Option<Secrets>| Poll {
        cluster: "cluster".into(),
        backend: "one".into(),
        ask,
        secrets,
    };
    let mut expected = first.vote;
    let next = |number| Roster {
        number,
        members: vec!["zwei ü".into(), "one".into()],
        arbiter: Arbiter::Lone("f".into()),
    };
    for question in [
        Ask::Prepare(high),
        Ask::Prepare(low),
        Ask::Accept(high, next(3)),
        Ask::Accept(high, next(2)),
        Ask::Install(low, next(2)),
        Ask::Claim(high, next(2)),
    ] {
        let rule = expected.on(&question).map(|()| expected.clone());
        let answer = vote::poll(&mut admin, &ask(question.clone(), None)).await.unwrap();
        assert_eq!(answer, rule, "{question:?}");
        assert_eq!(vote::read(&mut admin).await.unwrap(), expected);
    }
    // A transaction that has shown the former secret is ended, and with it its lock on the secret.
    let mut app = connect(&server, "app").await;
    app.query_drop("BEGIN").await.unwrap();
    let own = app.id();
    record(&mut app, &proof(TOKEN, own, 1, 7), 1).await.unwrap();
    let higher = Ballot::above([high], 1);
    let secrets =
        Secrets { token: "new".into(), capture: String::new(), users: vec!["app".into()] };
    let prepare = ask(Ask::Prepare(higher), Some(secrets));
    vote::poll(&mut admin, &prepare).await.unwrap().unwrap();
    assert!(app.query_drop("COMMIT").await.is_err());
    assert_eq!(control::read_token(&mut admin).await.unwrap().as_deref(), Some("new"));
    assert!(!vote::beat(&mut admin, high, "old").await.unwrap());
    assert!(vote::beat(&mut admin, higher, "new").await.unwrap());
    let now = control::read_control(&mut admin).await.unwrap().unwrap();
    assert_eq!((now.writer.as_str(), now.beat), ("new", 2));
    vote::lay_down(&mut admin, higher).await.unwrap();
    assert_eq!(control::read_control(&mut admin).await.unwrap().unwrap().beat, 0);
    assert!(vote::beat(&mut admin, higher, "new").await.unwrap(), "it obeys still");
    let now = control::read_control(&mut admin).await.unwrap().unwrap();
    assert_eq!((now.writer.as_str(), now.beat), ("", -1), "too late to be a sign of life");
}

#[tokio::test]
async fn nobody_but_the_writer_can_record_or_read() {
    let Some((server, mut admin)) = prepared().await else { return };
    let mut app = connect(&server, "app").await;
    let mut other = connect(&server, "app").await;
    assert_eq!(record(&mut app, b"", 1).await, Err(UNPROVED));
    let guessed = proof("guess", app.id(), 1, 7);
    assert_eq!(record(&mut app, &guessed, 1).await, Err(UNPROVED));
    // A proof that was seen somewhere is worth nothing on another connection or for another record.
    let seen = proof(TOKEN, app.id(), 1, 7);
    assert_eq!(record(&mut other, &seen, 1).await, Err(UNPROVED));
    assert_eq!(record(&mut app, &seen, 2).await, Err(UNPROVED));
    for sql in [
        "SELECT * FROM lockstep.secret",
        "SELECT * FROM lockstep.journal",
        "SELECT * FROM lockstep.control",
        "INSERT INTO lockstep.journal VALUES (1, 1, NOW(), 'x', '')",
        "UPDATE lockstep.control SET view = 9",
        "CREATE TABLE lockstep.evil (id INT)",
        "SELECT * FROM lockstep.records",
        "SELECT proof FROM lockstep.records WHERE seq = 1 FOR UPDATE",
        "UPDATE lockstep.records SET entry = ''",
        "DELETE FROM lockstep.records",
        "CREATE OR REPLACE VIEW lockstep.records AS SELECT 1",
        "DROP VIEW lockstep.records",
        "CREATE OR REPLACE PROCEDURE lockstep.obeys() SELECT 1",
        "DROP PROCEDURE lockstep.obeys",
        "DROP DATABASE lockstep",
    ] {
        let error = app.query_drop(sql).await.unwrap_err();
        assert!(error.to_string().contains("denied"), "{sql}: {error}");
    }
    admin.query_drop("DELETE FROM lockstep.secret").await.unwrap();
    let of_nothing = proof("", app.id(), 1, 7);
    assert_eq!(record(&mut app, &of_nothing, 1).await, Err(UNPROVED));
    assert_eq!(control::journal_end(&mut admin).await.unwrap(), 0);
}

/// The snapshot of a transaction is older than the secret that replaced the one it would be let in with.
#[tokio::test]
async fn a_former_writer_is_refused_whatever_it_has_read() {
    let Some((server, mut admin)) = prepared().await else { return };
    let mut app = connect(&server, "app").await;
    app.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    // The statement is known to the server from before.
    let proved = proof(TOKEN, app.id(), 1, 7);
    record(&mut app, &proved, 1).await.unwrap();
    app.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await.unwrap();
    control::install_token(&mut admin, "another secret").await.unwrap();
    let former = proof(TOKEN, app.id(), 2, 7);
    assert_eq!(record(&mut app, &former, 2).await, Err(UNPROVED));
    let proved = proof("another secret", app.id(), 2, 7);
    record(&mut app, &proved, 2).await.unwrap();
}

#[tokio::test]
async fn a_secret_stands_until_those_end_that_have_shown_it() {
    let Some((server, mut admin)) = prepared().await else { return };
    let mut app = connect(&server, "app").await;
    app.query_drop("BEGIN").await.unwrap();
    let proved = proof(TOKEN, app.id(), 1, 7);
    record(&mut app, &proved, 1).await.unwrap();
    admin.query_drop("SET SESSION lock_wait_timeout = 1").await.unwrap();
    match control::install_token(&mut admin, "another secret").await {
        Err(mysql_async::Error::Server(error)) => assert_eq!(error.code, 1205, "{error}"),
        other => panic!("replaced while it was shown: {other:?}"),
    }
    app.query_drop("COMMIT").await.unwrap();
    control::install_token(&mut admin, "another secret").await.unwrap();
    assert_eq!(control::journal_tail(&mut admin, 0).await.unwrap(), [(1, 7)]);
}

#[tokio::test]
async fn what_a_former_version_has_installed_is_brought_up_to_date() {
    let Some((server, mut admin)) = prepared().await else { return };
    for former in [
        "DROP VIEW lockstep.records",
        "ALTER TABLE lockstep.journal DROP COLUMN proof",
        "ALTER TABLE lockstep.control DROP COLUMN beat, ADD COLUMN ballot BIGINT NOT NULL",
        "INSERT INTO lockstep.journal VALUES (1, 7, NOW(6), 'app', 'x')",
        "CREATE PROCEDURE lockstep.record() SELECT 1",
    ] {
        admin.query_drop(former).await.expect(former);
    }
    let lacks = control::check_layout(&mut admin).await.unwrap_err();
    assert!(lacks.to_string().contains("column"), "that is how `init` is thought of: {lacks}");
    install(&mut admin, "another-value").await.unwrap();
    control::install_token(&mut admin, TOKEN).await.unwrap();
    grant(&mut admin, &["app".to_owned()]).await.unwrap();
    control::check_layout(&mut admin).await.unwrap();
    control::write_control(&mut admin, &row("one")).await.unwrap();
    let mut app = connect(&server, "app").await;
    let proved = proof(TOKEN, app.id(), 2, 7);
    record(&mut app, &proved, 2).await.unwrap();
    assert_eq!(control::journal_tail(&mut admin, 0).await.unwrap(), [(1, 7), (2, 7)]);
    assert!(admin.query_drop("CALL lockstep.record()").await.is_err());
}

#[tokio::test]
async fn a_record_is_the_same_whatever_the_session_s_settings() {
    let Some((server, mut admin)) = prepared().await else { return };
    let settings = [
        "SET collation_connection = ucs2_general_ci",
        "SET NAMES sjis",
        "SET sql_mode = ''",
        "SET sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
        "SET sql_select_limit = 0, max_join_size = 1, sql_big_selects = 0",
        "SET timestamp = 1",
    ];
    for (seq, setting) in (1..).zip(settings) {
        let mut app = connect(&server, "app").await;
        app.query_drop(setting).await.unwrap();
        // As a literal: this driver sends bytes as text, which the server would convert.
        let shown = |token| hex::encode(&proof(token, app.id(), seq, 7));
        let [guessed, proved] = [shown("guess"), shown(TOKEN)].map(|x| {
            format!("INSERT INTO lockstep.records VALUES (x'{x}', {seq}, 7, NOW(), 'a', 'b')")
        });
        assert!(app.query_drop(guessed).await.is_err(), "{setting}");
        app.query_drop(proved).await.expect(setting);
        // A row that got in without a proof would be one that a follower may lack.
        let sneaked = "INSERT IGNORE INTO lockstep.records VALUES ('', 99, 1, NOW(), 'x', '')";
        assert!(app.query_drop(sneaked).await.is_err(), "{setting}");
    }
    let count = i64::try_from(settings.len()).unwrap();
    assert_eq!(control::journal_end(&mut admin).await.unwrap(), count);
}

#[tokio::test]
async fn sessions_of_the_cluster_s_users_are_ended() {
    let Some((server, mut admin)) = prepared().await else { return };
    let mut app = connect(&server, "app").await;
    let users = ["app".to_owned()];
    let left = control::fence(&mut admin, &users, Duration::from_secs(5)).await.unwrap();
    assert_eq!(left, 0);
    assert!(app.query_drop("SELECT 1").await.is_err());
    admin.query_drop("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_server_is_known_by_its_value_and_its_start() {
    let Some((mut server, mut admin)) = prepared().await else { return };
    let first = control::identity(&mut admin).await.unwrap();
    assert!(first.system_identifier.as_deref().unwrap().starts_with("a-value@"));
    // Preparing it again leaves it who it is.
    install(&mut admin, "another-value").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(control::identity(&mut admin).await.unwrap(), first);
    server.restart(&["--read-only=1"]);
    let mut admin = connect(&server, "root").await;
    let again = control::identity(&mut admin).await.unwrap();
    assert_eq!(again.system_identifier, first.system_identifier);
    assert!(again.started > first.started && again.read_only && !first.read_only);
}

/// What a session has in a variable, another gets with its type, its bytes and its collation.
#[tokio::test]
async fn user_variables_can_be_given_to_another_session() {
    let Some((server, mut admin)) = prepared().await else { return };
    let mut other = connect(&server, "root").await;
    let values = [
        "5",
        "-1.50",
        "1e100",
        "'it''s \\\\ \"quoted\"'",
        "x'00ff27'",
        "NULL",
        "UUID()",
        "1 = 1",
        "CONVERT('ä' USING latin1)",
        "'5'",
        "_utf8mb4'x' COLLATE utf8mb4_bin",
        "NOW()",
    ];
    let seen = "SELECT CONCAT_WS('|', IFNULL(HEX(@`it's`), 'NULL'), CHARSET(@`it's`), \
                COLLATION(@`it's`), @`it's` / 3, JSON_QUOTE(@`it's`) IS NULL)";
    for value in values {
        admin.query_drop(format!("SET @`it's` = {value}")).await.unwrap();
        let question = format!("SELECT {}", lockstep::sql::assignment_of("it's"));
        let assignment: String = admin.query_first(question).await.unwrap().unwrap();
        other.query_drop(format!("SET {assignment}")).await.unwrap();
        let here: Option<String> = admin.query_first(seen).await.unwrap();
        let there: Option<String> = other.query_first(seen).await.unwrap();
        assert_eq!(here, there, "{value}: {assignment}");
    }
}
