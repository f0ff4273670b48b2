//! One server and the proxy are told the same, and have to say the same: what a session knows of itself,
//! results of several kinds, long packets.

use bytes::{BufMut, BytesMut};
use lockstep_protocol::mysql::handshake::capability as cap;
use lockstep_protocol::mysql::{command, packet, response, stmt, value::kind};

use crate::cluster::{Cluster, refused, run, value};
use crate::server::Server;
use crate::wire::{Packets, Wire};

/// A server by itself and a cluster, and a conversation with each, which may be cut short by a panic.
async fn side_by_side<F>(more: u32, talk: F)
where
    F: FnOnce(&mut Wire, &mut Wire) + Send + 'static,
{
    let cluster = Cluster::start(3).await;
    let alone = Server::launch();
    // Packets in parts need servers that take them.
    let servers = cluster.servers.iter().chain([&alone]);
    servers.for_each(|server| drop(server.root("set global max_allowed_packet = 67108864")));
    let (direct, through) = (alone.port, cluster.port);
    tokio::task::spawn_blocking(move || {
        talk(&mut Wire::connect_with(direct, more), &mut Wire::connect_with(through, more));
    })
    .await
    .unwrap();
    assert_eq!(alone.contents(), cluster.servers[0].contents());
    cluster.assert_all_equal().await;
}

/// What is told otherwise.
fn differ<A: PartialEq + std::fmt::Debug>(
    talk: &[&str],
    direct: &mut Wire,
    through: &mut Wire,
    ask: impl Fn(&mut Wire, &str) -> A,
) -> String {
    let told = talk.iter().map(|sql| (sql, ask(direct, sql), ask(through, sql)));
    told.filter(|(_, a, b)| a != b).map(|x| format!("{x:?}\n")).collect()
}

const COUNTS: &[&str] = &[
    "create table t(id int primary key, n int)",
    "select row_count()",
    "insert into t values(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)",
    "select row_count()",
    "select row_count()",
    "select id from t where id > 2",
    "select found_rows()",
    "select found_rows()",
    "select id from t limit 2",
    "select found_rows() as x, row_count()",
    "select sql_calc_found_rows id from t limit 2",
    "select found_rows()",
    "select sql_calc_found_rows cast('1x' as int) from t limit 1",
    "select found_rows() + 100 as x",
    "update t set n = n where id < 4",
    "select row_count()",
    "update t set n = 0 where id < 4",
    "set @changed = row_count()",
    "select @changed",
    "select row_count()",
    "select id from t where 1 = 0",
    "select concat(found_rows(), '|', row_count()) as x",
    "nonsense",
    "select row_count()",
    "select id from t",
    "set @shown = found_rows(), @x = 1",
    "insert into t values(10, row_count()), (11, @shown)",
    "select group_concat(n order by id) from t where id > 9",
    "delete from t where id > 9",
    "select row_count(), found_rows()",
    "select 1 union select 2",
    "show warnings",
    "select found_rows()",
    "select connection_id() > 0 as x, 'connection_id()', `id` from t limit 1",
    "select last_insert_id(7)",
    "select last_insert_id()",
    "insert into t values(last_insert_id(), 7)",
    "select n from t where id = 7",
    "update t set n = last_insert_id(n + 30) where id = 7",
    "select last_insert_id()",
    "insert into t values(20, last_insert_id())",
    "select n from t where id = 20",
    "select last_insert_id(50) from t where 1 = 0",
    "select last_insert_id()",
    "select is_free_lock('a')",
    "select get_lock('a', 1)",
    "select is_free_lock('a')",
    "select is_used_lock('a') is not null",
    "select release_lock('a')",
    "select release_lock('a')",
];

#[tokio::test(flavor = "multi_thread")]
async fn counts_and_numbers_of_the_statement_before() {
    side_by_side(0, |direct, through| {
        // Also the names of the columns.
        let ask = |wire: &mut Wire, sql: &str| (wire.told(sql), wire.columns.clone());
        assert_eq!(differ(COUNTS, direct, through, ask), "");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_found_are_counted_where_that_was_asked_for() {
    const TALK: &[&str] = &[
        "create table t(id int primary key, n int)",
        "insert into t values(1, 1), (2, 2)",
        "update t set n = n",
        "select row_count()",
        "insert into t values(1, 1) on duplicate key update n = 1",
        "select row_count()",
        "start transaction",
        "update t set n = 1 where id = 1",
        "commit",
    ];
    for more in [0, cap::FOUND_ROWS] {
        side_by_side(more, |direct, through| {
            let affected = |wire: &mut Wire, sql: &str| {
                let packets = wire.query(sql);
                (packets[0][0] == response::OK)
                    .then(|| response::Ok::decode(&packets[0]).unwrap().affected)
            };
            assert_eq!(differ(TALK, direct, through, affected), "");
        })
        .await;
    }
}

const TRACKED: &[&str] = &[
    "use app",
    "use information_schema",
    "use app",
    "set names latin1",
    "set names utf8mb4",
    "set time_zone = '+01:00'",
    "set autocommit = 0",
    "set autocommit = 1",
    "set @a = 1",
    "set sql_mode = ''",
    "create table t(id int auto_increment primary key, n int)",
    "start transaction",
    "insert into t(n) values(1), (2)",
    "update t set n = 1",
    "commit",
    "select n from t",
    "set autocommit = 1, session_track_schema = 1, sql_mode = concat(@@sql_mode, ',STRICT_ALL_TABLES')",
    "set session_track_system_variables = 'sql_mode'",
    "set sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES'",
    "start transaction",
    "commit",
    "set session_track_state_change = 1",
    "set @z = 3",
    "insert into t(n) values(3)",
    "select @@session_track_system_variables",
];

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_session_are_told_to_who_asks() {
    for more in [cap::SESSION_TRACK, 0] {
        side_by_side(more, move |direct, through| {
            assert_eq!(through.welcome, direct.welcome);
            assert_eq!(
                differ(TRACKED, direct, through, |wire, sql| told_state(wire.query(sql))),
                ""
            );
            for command in [&b"\x02information_schema"[..], b"\x0e", &[command::RESET_CONNECTION]] {
                assert_eq!(through.command(command), direct.command(command), "{command:?}");
            }
            let told = |wire: &mut Wire| wire.change_user("guest", "welcome", "app");
            assert_eq!(told(through), told(direct));
            // What only one server could tell is refused.
            assert_eq!(through.told("set session_track_transaction_info = 'STATE'"), "error 1235");
        })
        .await;
    }
}

/// An answer without what the planner has to say, and with changes in one order.
fn told_state(mut packets: Packets) -> Packets {
    for packet in &mut packets {
        if let Ok(ok) = response::Ok::decode(packet)
            && packet[0] == response::OK
            && !ok.changes.is_empty()
        {
            let mut changes = ok.changes();
            changes.sort_by_key(|change| format!("{change:?}"));
            let mut sorted = BytesMut::new();
            changes.iter().for_each(|change| change.encode(&mut sorted));
            let states = ok.changes.len() - sorted.len();
            let mut again = BytesMut::new();
            response::Ok { changes: &sorted, ..ok }.encode(&mut again);
            again.put_u8(u8::try_from(states).unwrap());
            *packet = again.to_vec();
        }
        if let Some(at) = response::status_at(packet).filter(|_| packet[0] != response::ERR) {
            packet[at] &= !(0x30);
        }
    }
    packets
}

const SESSION: &[&str] = &[
    "create table t(id int primary key)",
    "create procedure several() begin select 1; select 2 union select 3; select 4 from t; end",
    "create procedure fails() begin select 1; select * from nowhere; end",
    "call several()",
    "call fails()",
    "select row_count()",
    "start transaction",
    "insert into t values(1)",
    "create table other(id int)",
    "rollback",
    "select count(*) from t",
    "start transaction",
    "insert into t values(2)",
    "start transaction",
    "rollback",
    "select count(*) from t",
    "set autocommit = 0",
    "insert into t values(3)",
    "truncate table other",
    "rollback",
    "insert into t values(4)",
    "set autocommit = 1",
    "rollback",
    "select count(*) from t",
    "insert into t values(5); insert into t values(5); insert into t values(6)",
    "select count(*) from t",
    "insert into t values(7); select 8; update t set id = id + 100 where id = 7",
    "select max(id) from t",
];

#[tokio::test(flavor = "multi_thread")]
async fn several_results_and_implicit_commits() {
    side_by_side(cap::MULTI_STATEMENTS, |direct, through| {
        let all = |wire: &mut Wire, sql: &str| {
            wire.results(sql).into_iter().map(told_state).collect::<Vec<_>>()
        };
        assert_eq!(differ(SESSION, direct, through, all), "");
        for refused in ["xa start 'x'", "xa recover", "xa commit 'x'"] {
            assert_eq!(through.told(refused), "error 1235", "{refused}");
        }
    })
    .await;
}

/// A statement with a long text, sent in two pieces, and a number.
fn long(wire: &mut Wire, size: usize) -> (Packets, Packets) {
    let prepare = [&[command::STMT_PREPARE][..], b"insert into t values(?, ?)"].concat();
    let ok = stmt::PrepareOk::decode(&wire.command(&prepare)).unwrap();
    wire.skip(3);
    for _ in 0..2 {
        let mut data = BytesMut::new();
        data.put_u8(command::STMT_SEND_LONG_DATA);
        data.put_u32_le(ok.statement);
        data.put_u16_le(1);
        data.put_bytes(b'x', size);
        wire.tell(&data);
    }
    let mut execute = BytesMut::new();
    let parameters = [0, 1, kind::LONGLONG, 0, kind::STRING, 0, 7, 0, 0, 0, 0, 0, 0, 0];
    stmt::execute(&mut execute, ok.statement, 0, &parameters);
    let inserted = vec![wire.command(&execute)];
    let query = [&[command::STMT_PREPARE][..], b"select id from t where id > ?"].concat();
    let ok = stmt::PrepareOk::decode(&wire.command(&query)).unwrap();
    wire.skip(4);
    // A cursor is asked for; the rows may come at once all the same.
    let mut execute = BytesMut::new();
    stmt::execute(
        &mut execute,
        ok.statement,
        1,
        &[0, 1, kind::LONGLONG, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    let mut rows = wire.result(&execute);
    let last = rows.last().unwrap();
    let at = response::status_at(last).unwrap();
    if last[at] & 0x40 != 0 {
        let mut fetch = BytesMut::new();
        command::Fetch { statement: ok.statement, rows: 10 }.encode(&mut fetch);
        rows = vec![wire.command(&fetch)];
        while !response::is_eof(rows.last().unwrap()) {
            rows.push(wire.unasked());
        }
    }
    rows.pop();
    (inserted, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn long_values_and_packets_in_parts() {
    side_by_side(0, |direct, through| {
        for wire in [&mut *direct, &mut *through] {
            assert_eq!(wire.told("create table t(id bigint primary key, v longtext)"), "ok");
        }
        assert_eq!(long(through, 300_000), long(direct, 300_000));
        // Longer than one packet of the wire, both ways.
        let most = packet::MAX_PART + 100;
        let text = format!("select '{}'", "y".repeat(most));
        for wire in [&mut *direct, &mut *through] {
            wire.told("set @@session.sql_mode = ''");
        }
        let (a, b) = (direct.told(&text), through.told(&text));
        assert!(a == b, "{} {}", &a[..a.len().min(80)], &b[..b.len().min(80)]);
        assert!(a.len() == most, "{}", &a[..a.len().min(80)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_the_session() {
    let cluster = Cluster::start(3).await;
    let (mut one, mut two) = (cluster.connect().await, cluster.connect().await);
    assert_eq!(value(&mut one, "select get_lock('door', 0)").await, "1");
    for _ in 0..4 {
        assert_eq!(value(&mut two, "select get_lock('door', 0)").await, "0");
        assert_eq!(value(&mut two, "select is_free_lock('door')").await, "0");
        assert_eq!(value(&mut one, "select 1").await, "1");
    }
    assert_eq!(value(&mut one, "select release_lock('door')").await, "1");
    assert_eq!(value(&mut two, "select get_lock('door', 0)").await, "1");
    // A lock dies with its server's session, and whoever had it is told.
    let former = cluster.leader();
    cluster.servers[former].kill();
    cluster.wait_leader_other_than(former).await;
    assert_eq!(refused(&mut two, "select 1").await, 1213);
    assert_eq!(value(&mut two, "select 1").await, "1");
    assert_eq!(refused(&mut one, "select 1").await, 1213);
    assert_eq!(value(&mut one, "select get_lock('door', 0)").await, "1");
    run(&mut one, "do release_all_locks()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_that_the_servers_do_not_take() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key, v longtext)").await;
    let port = cluster.port;
    tokio::task::spawn_blocking(move || {
        let mut wire = Wire::connect(port);
        let long = "x".repeat(packet::MAX_PART + 100);
        assert_eq!(wire.told(&format!("select length('{long}')")), "error 1153");
        assert_eq!(wire.told("start transaction"), "ok");
        assert_eq!(wire.told("insert into t values(1, 'short')"), "ok");
        assert_eq!(wire.told(&format!("insert into t values(2, '{long}')")), "error 1153");
        // The server has ended its session, and the transaction with it.
        assert_eq!(wire.told("commit"), "ok");
    })
    .await
    .unwrap();
    assert_eq!(value(&mut conn, "select count(*) from t").await, "0");
    assert!(!cluster.log().contains("suspect"), "{}", cluster.log());
    cluster.assert_all_equal().await;
}
