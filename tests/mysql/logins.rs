//! Who a connection belongs to, and what becomes of its session when that changes or somebody ends it.

use std::time::Duration;

use lockstep_protocol::mysql::response;
use lockstep_protocol::mysql::{command, handshake::capability as cap};
use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, refused, run, value};
use crate::server::PASSWORD;
use crate::wire::Wire;

fn error(packet: &[u8]) -> u16 {
    assert_eq!(packet[0], response::ERR, "{packet:?}");
    response::Err::decode(packet).unwrap().number
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_on_the_same_connection() {
    let cluster = Cluster::start(2).await;
    run(&mut cluster.connect().await, "create table t(id int primary key)").await;
    let port = cluster.port;
    tokio::task::spawn_blocking(move || {
        let mut wire = Wire::connect(port);
        let number = wire.greeting.connection.to_string();
        assert_eq!(wire.told("create temporary table mine(id int)"), "ok");
        assert_eq!(wire.told("set @x = 5"), "ok");
        assert_eq!(wire.told("set autocommit = 0"), "ok");
        assert_eq!(wire.told("insert into t values(1)"), "ok");
        // The former session is gone, with its transaction, and so are its rights.
        let answer = wire.change_user("guest", "welcome", "app");
        let ok = response::Ok::decode(&answer).unwrap();
        assert_eq!((answer[0], ok.status), (response::OK, response::status::AUTOCOMMIT));
        assert_eq!(wire.told("select user()"), "guest@localhost");
        assert_eq!(wire.told("select @x"), "NULL");
        assert_eq!(wire.told("select @@autocommit"), "1");
        assert_eq!(wire.told("select count(*) from t"), "0");
        assert_eq!(wire.told("select * from mine"), "error 1146");
        assert_eq!(wire.told("insert into t values(2)"), "error 1142");
        assert_eq!(wire.told("select connection_id()"), number);
        // And back, also as oneself, which is how some pools tidy up.
        for _ in 0..2 {
            assert_eq!(wire.change_user("app", PASSWORD, "app")[0], response::OK);
            assert_eq!(wire.told("select user()"), "app@localhost");
            assert_eq!(wire.told("set @x = 6"), "ok");
        }
        assert_eq!(wire.told("insert into t values(3)"), "ok");
        // The console is a database like another; a database that is not here is refused.
        assert_eq!(wire.change_user("admin", "admin", "lockstep")[0], response::OK);
        assert_eq!(wire.told("show version").split(' ').next(), Some("lockstep"));
        assert_eq!(wire.change_user("app", PASSWORD, "")[0], response::OK);
        assert_eq!(wire.told("select database()"), "app");
        refused_changes(&mut wire);
    })
    .await
    .unwrap();
    cluster.assert_all_equal().await;
}

/// Who is refused stays whom it was, without its session's state; and may not guess for long.
fn refused_changes(wire: &mut Wire) {
    assert_eq!(wire.told("set @x = 7"), "ok");
    assert_eq!(error(&wire.change_user("guest", "wrong", "app")), 1045);
    assert_eq!(wire.told("select @x"), "NULL");
    assert_eq!(wire.told("select user()"), "app@localhost");
    assert_eq!(error(&wire.change_user("nobody", "welcome", "app")), 1045);
    assert_eq!(error(&wire.change_user("guest", "welcome", "elsewhere")), 1049);
    assert_eq!(wire.told("insert into t values(4)"), "ok");
    assert_eq!(error(&wire.change_user("guest", "welcome", "app")), 1047);
    assert_eq!(wire.told("select count(*) from t"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_changes_users_and_resets() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key, v int)").await;
    conn.exec_drop("insert into t values(?, ?)", (1, 1)).await.unwrap();
    let guest = mysql_async::ChangeUserOpts::new()
        .with_user(Some("guest".to_owned()))
        .with_pass(Some("welcome".to_owned()))
        .with_db_name(Some("app".to_owned()));
    conn.change_user(guest).await.unwrap();
    assert_eq!(value(&mut conn, "select current_user()").await, "guest@localhost");
    assert_eq!(refused(&mut conn, "delete from t").await, 1142);
    let v: Option<i32> = conn.exec_first("select v from t where id = ?", (1,)).await.unwrap();
    assert_eq!(v, Some(1));
    // A reset keeps the user and the database, and nothing else of the session.
    let mut conn = cluster.connect().await;
    run(&mut conn, "use information_schema").await;
    run(&mut conn, "set @x = 1").await;
    run(&mut conn, "set autocommit = 0").await;
    run(&mut conn, "insert into app.t values(2, 2)").await;
    assert!(conn.reset().await.unwrap());
    assert_eq!(value(&mut conn, "select database()").await, "information_schema");
    assert_eq!(value(&mut conn, "select @x").await, "NULL");
    run(&mut conn, "insert into app.t values(3, 3)").await;
    assert_eq!(value(&mut conn, "select count(*) from app.t").await, "2");
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_about_the_connection() {
    let cluster = Cluster::start(2).await;
    let port = cluster.port;
    tokio::task::spawn_blocking(move || {
        // Whoever asks for compression is not offered it, and goes on without.
        let mut wire = Wire::connect_with(port, cap::COMPRESS);
        assert_eq!(wire.greeting.capabilities & cap::COMPRESS, 0);
        assert_eq!(wire.told("select 1"), "1");
        let line = wire.command(&[command::STATISTICS]);
        assert!(String::from_utf8(line).unwrap().starts_with("Uptime: "));
        let status = |packet: &[u8]| response::Ok::decode(packet).unwrap().status;
        assert_eq!(wire.told("set autocommit = 0"), "ok");
        assert_eq!(status(&wire.command(&[command::PING])), 0);
        assert_eq!(status(&wire.command(&[command::RESET_CONNECTION])), 2);
        assert_eq!(status(&wire.command(&[command::PING])), 2);
        assert_eq!(wire.command(b"\x02information_schema")[0], response::OK);
        assert_eq!(wire.told("select database()"), "information_schema");
        assert_eq!(error(&wire.command(b"\x02nowhere")), 1044);
        assert_eq!(wire.told("select database()"), "information_schema");
        assert_eq!(error(&wire.command(&[command::BINLOG_DUMP])), 1047);
        assert_eq!(error(&wire.command(&[0x1d])), 1047);
        assert_eq!(wire.told("select 1"), "1");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_and_who_may_kill() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key)").await;
    let port = cluster.port;
    let idle = Wire::connect(port);
    let number = idle.greeting.connection;
    let mut busy = cluster.connect().await;
    let other = busy.id();
    // What runs ends, and the session goes on.
    let sleeping = tokio::spawn(async move {
        let ended = busy.query_first::<i32, _>("select sleep(20) from t union select sleep(20)");
        (ended.await, busy)
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    run(&mut conn, &format!("kill query {other}")).await;
    let (ended, mut busy) = tokio::time::timeout(Duration::from_secs(10), sleeping)
        .await
        .expect("the statement is cancelled")
        .unwrap();
    // As on one server: a sleep that is interrupted may also just end.
    assert!(matches!(&ended, Ok(Some(1))) || ended.is_err(), "{ended:?}");
    assert_eq!(value(&mut busy, "select 1").await, "1");
    // A whole session ends, by text or by command; nobody else's.
    run(&mut conn, &format!("kill connection {number}")).await;
    assert_eq!(refused(&mut conn, &format!("kill {}", u32::MAX)).await, 1094);
    tokio::task::spawn_blocking(move || {
        let mut idle = idle;
        let mut guest = Wire::connect(port);
        assert_eq!(guest.change_user("guest", "welcome", "app")[0], response::OK);
        assert_eq!(guest.told(&format!("kill {other}")), "error 1094");
        let mut command = vec![command::PROCESS_KILL];
        command.extend(guest.greeting.connection.to_le_bytes());
        assert_eq!(error(&Wire::connect(port).command(&command)), 1094);
        assert_eq!(guest.told("select 1"), "1");
        let mut command = vec![command::PROCESS_KILL];
        command.extend(other.to_le_bytes());
        assert_eq!(Wire::connect(port).command(&command)[0], response::OK);
        assert_eq!(error(&idle.unasked()), 1927);
        assert!(idle.is_closed());
    })
    .await
    .unwrap();
    assert!(busy.query_drop("select 1").await.is_err());
    // Itself, too.
    let number = conn.id();
    let ended = conn.query_drop(format!("kill {number}")).await;
    assert!(ended.is_ok() || conn.query_drop("select 1").await.is_err(), "{ended:?}");
    assert!(conn.query_drop("select 1").await.is_err());
}
