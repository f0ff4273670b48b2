//! The conversation with a server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep::backend::Dial;
use lockstep::backend::Purpose;
use lockstep::backend::mysql::{Login, Logins, MyDial, MyLink, Route, Shared};
use lockstep::catalog::Catalogs;
use lockstep::config::{Bounds, Live, Secret};
use lockstep::exchange::{Gathered, Link, Outcome, Settings, TxMode, TxState, Watch, Work};
use lockstep::sql::Context;
use lockstep::store::journal::Effect;
use lockstep::wire::mysql::{MyWork, Statements, identity};
use lockstep_protocol::Dialect;
use tokio_util::sync::CancellationToken;

use crate::server::{DATABASE, PASSWORD, Server, USER};

pub(crate) fn live() -> Arc<Live> {
    Live::new(Bounds { prepared_statements: 10, ..Bounds::default() })
}

pub(crate) fn statements() -> Arc<Statements> {
    Arc::new(Statements::new(live(), Arc::new(Catalogs::new(Dialect::MySql))))
}

pub(crate) fn shared(statements: &Arc<Statements>) -> Arc<Shared> {
    Arc::new(Shared {
        statements: statements.clone(),
        record: statements.intern("select ?, ?, ?, ?, ?"),
        token: "token".into(),
        guarded: false,
        version: Arc::default(),
        live: live(),
    })
}

pub(crate) fn dial(server: &Server, statements: &Arc<Statements>) -> MyDial {
    let route =
        Arc::new(Route { host: "127.0.0.1".into(), port: server.port, tls: None, live: live() });
    let shared = shared(statements);
    let login = Login {
        user: USER.into(),
        password: Secret::new(PASSWORD),
        database: DATABASE.into(),
        found_rows: false,
    };
    MyDial {
        route,
        shared,
        logins: Arc::new(Logins::from_pointee([(USER.to_owned(), login)].into())),
        started: Arc::default(),
    }
}

async fn link(server: &Server) -> MyLink {
    let dial = dial(server, &statements());
    dial.dial(USER, Purpose::Write, CancellationToken::new()).await.expect("a connection")
}

fn query(text: &str) -> MyWork {
    MyWork::Query { text: Bytes::copy_from_slice(text.as_bytes()), single: true }
}

async fn run(link: &mut MyLink, text: &str) -> Outcome {
    link.run(&query(text), Watch::default(), &mut Gathered::default()).await.expect("an answer")
}

async fn value(link: &mut MyLink, text: &str) -> String {
    let rows = link.ask(text, &[]).await.expect("an answer").expect("no error");
    rows.into_iter().flatten().flatten().next().unwrap_or_else(|| "NULL".into())
}

async fn with_context(link: &mut MyLink, work: &MyWork, context: &Context) -> Outcome {
    let watch = Watch { context: Some(context), ..Watch::default() };
    link.run(work, watch, &mut Gathered::default()).await.expect("an answer")
}

#[tokio::test]
async fn a_follower_repeats_a_statement_with_its_context() {
    let server = Server::launch();
    server.root(
        "create table app.one(id int auto_increment primary key, at timestamp(6) default now(6),
         r double, v int); create table app.two like app.one; alter table app.two auto_increment = 7",
    );
    let (mut leader, mut follower) = (link(&server).await, link(&server).await);
    let context = Context { clock: true, insert_id: true, rand_seeds: true, ..Context::default() };
    leader.begin(&TxMode::default());
    follower.begin_share(&Settings::default());
    for text in [
        "insert into one(r) values(rand()),(rand())",
        "insert into one(id, r) values(90, rand())",
        "insert into one(r) values(rand())",
        "update one set v = microsecond(now(6)) where id > 90",
    ] {
        let work = query(text);
        let outcome = with_context(&mut leader, &work, &context).await;
        assert!(outcome.error.is_none(), "{text}: {:?}", outcome.error);
        let context = outcome.found.context.clone().expect("a context");
        follower.queue_effect(&Effect::Text { sql: context, rows: None });
        let twin = text.replace("one", "two");
        follower.queue_effect(&query(&twin).effect(&twin, outcome.rows).expect("an effect"));
    }
    for link in [&mut leader, &mut follower] {
        link.queue_commit();
        assert_eq!(link.drain().await.expect("alive"), None);
        assert_eq!(link.tx_state(), TxState::Idle);
    }
    let rows = |table| server.root(&format!("select * from app.{table}"));
    assert_eq!(rows("one").lines().count(), 4);
    assert_eq!(rows("two"), rows("one"));
    assert_eq!(server.root("select max(id) from app.two"), "91\n");
    // Neither the clock nor a number is left standing for whoever comes next.
    let late = "select abs(timestampdiff(second, now(), sysdate())) < 2";
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(value(&mut follower, late).await, "1");
    assert_eq!(value(&mut leader, late).await, "1");
    run(&mut follower, "insert into two(r) values(0)").await;
    assert_eq!(server.root("select max(id) from app.two"), "92\n");
}

#[tokio::test]
async fn a_number_that_the_answer_does_not_tell_is_found_out() {
    let server = Server::launch();
    server.root(
        "create table app.one(id int auto_increment primary key, v int); create table app.two like app.one;
         alter table app.two auto_increment = 70",
    );
    let (mut leader, mut follower) = (link(&server).await, link(&server).await);
    let context = Context { insert_id: true, hidden_id: true, ..Context::default() };
    leader.begin(&TxMode::default());
    follower.begin_share(&Settings::default());
    // The second session's number is by chance the one that it was given before.
    for (text, last) in [
        ("insert into one(v) values(1),(2) returning id", "1"),
        ("insert into one(id, v) values(30, 3) returning id", "1"),
        ("delete from one where id > 2", "1"),
        ("insert into one(v) values(4) returning id, v", "31"),
        ("insert ignore into one(id, v) values(1, 5) returning id", "31"),
    ] {
        let outcome = with_context(&mut leader, &query(text), &context).await;
        assert!(outcome.error.is_none(), "{text}: {:?}", outcome.error);
        assert_eq!(value(&mut leader, "select last_insert_id()").await, last, "{text}");
        let context = outcome.found.context.clone().expect("a context");
        follower.queue_effect(&Effect::Text { sql: context, rows: None });
        let twin = text.replace("one", "two");
        follower.queue_effect(&query(&twin).effect(&twin, outcome.rows).expect("an effect"));
    }
    for link in [&mut leader, &mut follower] {
        link.queue_commit();
        assert_eq!(link.drain().await.expect("alive"), None);
    }
    let rows = |table| server.root(&format!("select * from app.{table}"));
    assert_eq!(rows("two"), rows("one"));
}

#[tokio::test]
async fn a_follower_that_does_otherwise_is_noticed() {
    let server = Server::launch();
    server.root("create table app.t(id int primary key); insert into app.t values(1)");
    let mut follower = link(&server).await;
    follower.begin_share(&Settings::default());
    let text = "delete from t where id > 0";
    follower.queue_effect(&query(text).effect(text, Some(2)).expect("an effect"));
    let mishap = follower.drain().await.expect("alive").expect("a difference");
    assert_eq!(mishap.what, "2 rows on the leader, 1 on the follower");
    follower.queue_rollback();
    assert_eq!(follower.drain().await.expect("alive"), None);
    assert_eq!(server.root("select count(*) from app.t"), "1\n");
}

#[tokio::test]
async fn prepared_statements_are_prepared_where_they_are_needed() {
    let server = Server::launch();
    server.root("create table app.t(id bigint primary key, v varchar(20))");
    let statements = statements();
    let dial = dial(&server, &statements);
    let gone = CancellationToken::new;
    let mut leader = dial.dial(USER, Purpose::Write, gone()).await.expect("a connection");
    let mut follower = dial.dial(USER, Purpose::Write, gone()).await.expect("a connection");
    let prepared = statements.intern("insert into t values(?, 'x')");
    let parameters = Bytes::from_static(b"\x00\x01\x08\x00\x07\0\0\0\0\0\0\0");
    let work = MyWork::Execute { prepared, parameters };
    leader.begin(&TxMode::default());
    let outcome = with_context(&mut leader, &work, &Context::default()).await;
    assert_eq!((outcome.rows, outcome.error.is_none()), (Some(1), true));
    leader.queue_rollback();
    assert_eq!(leader.drain().await.expect("alive"), None);
    follower.begin_share(&Settings::default());
    follower.queue_effect(&work.effect("", outcome.rows).expect("an effect"));
    follower.queue_record(1, 2, USER, b"entry");
    follower.queue_commit();
    assert_eq!(follower.drain().await.expect("alive"), None);
    assert_eq!(server.root("select * from app.t"), "7\tx\n");
    // A statement that cannot be prepared is the application's error, not the connection's.
    let prepared = statements.intern("insert into nowhere values(?)");
    let work = MyWork::Execute { prepared, parameters: Bytes::new() };
    let outcome =
        leader.run(&work, Watch::default(), &mut Gathered::default()).await.expect("alive");
    assert_eq!(outcome.error.expect("an error").code, "42S02");
    assert_eq!(value(&mut leader, "select 1").await, "1");
}

#[tokio::test]
async fn settings_follow_and_readers_refuse_writes() {
    let server = Server::launch();
    server.root("create table app.t(id int primary key)");
    let dial = dial(&server, &statements());
    let mut reader =
        dial.dial(USER, Purpose::Read, CancellationToken::new()).await.expect("a connection");
    let chosen = [("sql_mode", "SET sql_mode='ANSI'"), ("@a", "SET @a=5")];
    let settings: std::collections::BTreeMap<String, String> =
        chosen.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    reader.adopt(&Settings::new(settings));
    assert_eq!(value(&mut reader, "select concat(@@sql_mode like '%ANSI%', @a)").await, "15");
    reader.adopt(&Settings::default());
    let gone = "select concat(@@sql_mode = @@global.sql_mode, @a is null)";
    assert_eq!(value(&mut reader, gone).await, "11");
    let refused = run(&mut reader, "insert into t values(1)").await.error.expect("refused");
    assert_eq!(refused.code, "25006");
}

#[tokio::test]
async fn what_runs_is_cancelled_from_elsewhere() {
    let server = Server::launch();
    let mut link = link(&server).await;
    let canceller = link.canceller();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        MyLink::cancel(&canceller).await;
    };
    let started = tokio::time::Instant::now();
    let (outcome, ()) = tokio::join!(
        run(&mut link, "select count(*) from seq_1_to_100000000 a, seq_1_to_1000 b"),
        cancel
    );
    assert_eq!(outcome.error.expect("interrupted").code, "70100");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(value(&mut link, "select 1").await, "1");
}

#[tokio::test]
async fn an_error_that_ends_the_transaction_is_told_from_one_that_does_not() {
    for (options, left) in
        [(&[][..], TxState::Open), (&["--innodb-rollback-on-timeout"], TxState::Idle)]
    {
        let server = Server::launch_with(options);
        server.root("create table app.t(id int primary key); insert into app.t values(1)");
        let (mut holder, mut waiter) = (link(&server).await, link(&server).await);
        run(&mut waiter, "set innodb_lock_wait_timeout = 1").await;
        holder.begin(&TxMode::default());
        run(&mut holder, "delete from t").await;
        for context in [None, Some(Context::default())] {
            waiter.begin(&TxMode::default());
            run(&mut waiter, "insert into t values(2)").await;
            let watch = Watch { context: context.as_ref(), ..Watch::default() };
            let work = query("delete from t where id = 1");
            let outcome =
                waiter.run(&work, watch, &mut Gathered::default()).await.expect("an answer");
            assert!(outcome.error.expect("a wait that ends").message.ends_with("[1205]"));
            assert_eq!(waiter.tx_state(), left, "{options:?} {context:?}");
            waiter.queue_rollback();
            assert_eq!(waiter.drain().await.expect("alive"), None);
        }
    }
}

#[tokio::test]
async fn a_server_counts_as_each_client_wants_it() {
    let server = Server::launch();
    server.root("create table app.t(id int primary key); insert into app.t values(1)");
    let dial = dial(&server, &statements());
    for (found_rows, rows) in [(false, 0), (true, 1)] {
        let user = identity::of(USER, found_rows);
        let mut link =
            dial.dial(&user, Purpose::Write, CancellationToken::new()).await.expect("a connection");
        assert_eq!(run(&mut link, "update t set id=1 where id=1").await.rows, Some(rows));
    }
}

#[tokio::test]
async fn a_server_that_goes_is_noticed() {
    let server = Server::launch();
    let mut link = link(&server).await;
    server.kill();
    let lost = link.run(&query("select 1"), Watch::default(), &mut Gathered::default()).await;
    assert!(matches!(lost, Err(lockstep::exchange::Broken::Lost(_))), "{lost:?}");
}

/// Effects are sent one after the other, and a deadlock has the server roll back the whole transaction:
/// what was sent behind must not count by itself.
#[tokio::test]
async fn nothing_behind_a_deadlock_becomes_a_commit_of_its_own() {
    let server = Server::launch();
    server.root(
        "create table app.rows_t(id int primary key, v int);
         insert into app.rows_t select seq, 0 from app.seq_1_to_100",
    );
    let (mut other, mut share) = (link(&server).await, link(&server).await);
    // Who has changed less is the one that is rolled back.
    other.begin(&TxMode::default());
    run(&mut other, "update rows_t set v = 1 where id > 50").await;
    share.begin_share(&Settings::default());
    let effect = |id: u32| Effect::Text {
        sql: format!("update rows_t set v = 2 where id = {id}"),
        rows: Some(1),
    };
    for id in [1, 60, 2] {
        share.queue_effect(&effect(id));
    }
    share.flush().await.expect("sent");
    let waits = "select count(*) from information_schema.innodb_trx where trx_state = 'LOCK WAIT'";
    while server.root(waits) != "1\n" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(run(&mut other, "update rows_t set v = 1 where id = 1").await.rows, Some(1));
    let mishap = share.drain().await.expect("alive").expect("a deadlock");
    assert_eq!(mishap.code, "40001", "{mishap}");
    share.queue_rollback();
    assert_eq!(share.drain().await.expect("alive"), None);
    other.queue_commit();
    assert_eq!(other.drain().await.expect("alive"), None);
    assert_eq!(server.root("select count(*) from app.rows_t where v = 2"), "0\n");
    // As a leader's connection it commits each statement again.
    run(&mut share, "update rows_t set v = 3 where id = 3").await;
    assert_eq!(server.root("select v from app.rows_t where id = 3"), "3\n");
}

/// What was cancelled may have been a setting: nobody else may have a session that is not what it is taken for.
#[tokio::test]
async fn a_session_that_did_not_take_a_setting_is_not_lent_again() {
    let server = Server::launch();
    let mut share = link(&server).await;
    let settings = |sql: &str| Settings::new([("sql_mode".to_owned(), sql.to_owned())].into());
    share.begin_share(&settings("SET SESSION sql_mode='ANSI'"));
    share.queue_rollback();
    assert_eq!(share.drain().await.expect("alive"), None);
    assert!(!share.is_spent());
    share.begin_share(&settings("SET SESSION sql_mode='NONSENSE'"));
    share.queue_rollback();
    share.drain().await.expect("alive").expect("an error");
    assert!(share.is_spent());
}

/// A cancel strikes whatever runs when it arrives. A session that waits for no COMMIT any more without the proxy's
/// knowledge would commit what stands behind a deadlock.
#[tokio::test]
async fn a_cancelled_share_is_what_it_is_taken_for_or_not_lent_again() {
    let server = Server::launch();
    let mut link_of = link(&server).await;
    let (mut lent, mut took) = (0, Duration::ZERO);
    for round in 0..1000 {
        if link_of.is_spent() {
            link_of = link(&server).await;
        }
        // As a leader's connection it commits each statement.
        run(&mut link_of, "set @round = 1").await;
        link_of.begin_share(&Settings::default());
        let canceller = link_of.canceller();
        // It takes a login to get there.
        let pause = Duration::from_micros(rand::random_range(0..2 * took.as_micros() as u64 + 100));
        let began = tokio::time::Instant::now();
        let cancel = async {
            MyLink::cancel(&canceller).await;
            began.elapsed()
        };
        let send = async {
            tokio::time::sleep(pause).await;
            link_of.flush().await
        };
        let (sent, elapsed) = tokio::join!(send, cancel);
        (took, _) = (elapsed, sent.expect("sent"));
        link_of.queue_rollback();
        link_of.drain().await.expect("alive");
        if link_of.is_spent() {
            continue;
        }
        lent += 1;
        link_of.begin_share(&Settings::default());
        let rows = link_of.ask("select @@autocommit", &[]).await.expect("alive").expect("rows");
        assert_eq!(rows, [[Some("0".to_owned())]], "in round {round}");
        link_of.queue_rollback();
        assert_eq!(link_of.drain().await.expect("alive"), None);
    }
    assert!(lent > 100, "{lent}");
}
