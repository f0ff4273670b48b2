//! Writes that every server would decide otherwise: the leader decides, the others get the rows.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::cluster::{Cluster, refused, run, value};

/// Rows, as the client sees them: one text for all.
async fn rows(conn: &mut Conn, sql: &str) -> String {
    let rows: Vec<Row> = conn.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    shown(rows)
}

fn shown(rows: Vec<Row>) -> String {
    let text = |row: Row| {
        let values = row.unwrap().into_iter().map(|value| match value {
            mysql_async::Value::NULL => "NULL".to_owned(),
            mysql_async::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => other.as_sql(true),
        });
        values.collect::<Vec<_>>().join(",")
    };
    rows.into_iter().map(text).collect::<Vec<_>>().join(";")
}

/// What a statement without rows is answered with: rows affected, first number, remark.
async fn told(conn: &mut Conn, sql: &str) -> (u64, u64, String) {
    run(conn, sql).await;
    (conn.affected_rows(), conn.last_insert_id().unwrap_or_default(), conn.info().into_owned())
}

const WIDE: &str = "create table wide(id int auto_increment primary key, b bigint unsigned, \
    d decimal(20,6), f float, g double, c char(5) character set latin1, v varchar(60), \
    u varchar(20) character set ucs2, t text, e enum('x','y'), s set('p','q'), bi bit(12), \
    vb varbinary(30), bl blob, y year, da date, ti time(3), dt datetime(6), ts timestamp(6) null, \
    j json, uu uuid, i6 inet6, gen int as (b + 1) stored, `o``d'd` int default 3)";

#[tokio::test(flavor = "multi_thread")]
async fn inserts_of_queries_give_their_rows_to_all() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table src(x int, w varchar(60), key(w))").await;
    run(&mut conn, "insert into src values(1, 'one'), (2, 'zwölf'), (3, null), (4, '''\"\\\\')")
        .await;
    run(&mut conn, &WIDE.replace(", ts timestamp(6) null", "")).await;
    // Each row gets a number and a value of its own, in whichever order they are read.
    let insert = "insert into wide(b, d, f, g, c, v, u, t, e, s, bi, vb, bl, y, da, ti, dt, j, uu, i6) \
        select cast(x as unsigned) * 4611686018427387904, rand(), rand(), rand(), left(w, 3), w, w, concat(uuid(), w), \
        'y', 'p,q', x * 700, concat(x'00ff27', x), random_bytes(20), 1990 + x, now(), \
        '-12:30:01.5', sysdate(6), json_array(x), uuid(), '::1' from src where x < 4";
    run(&mut conn, "set sql_mode = ''").await;
    let (affected, first, info) = told(&mut conn, insert).await;
    assert_eq!((affected, first), (3, 1));
    assert!(info.starts_with("Records: 3  Duplicates: 0  Warnings: "), "{info}");
    assert_eq!(value(&mut conn, "select last_insert_id()").await, "1");
    run(&mut conn, "set sql_mode = default").await;
    assert_eq!(
        told(&mut conn, "insert into wide(v) select w from src where 0 order by rand()").await.0,
        0
    );
    assert_eq!(value(&mut conn, "select last_insert_id()").await, "1");
    // The application's own list of results, by text and by prepared statement.
    let own = "insert into wide(v, g) select w, rand() from src where x > 2 returning id, v, gen";
    assert_eq!(rows(&mut conn, own).await, "4,NULL,NULL;5,'\"\\,NULL");
    let own = "insert into wide(v, b, f) select uuid(), ?, x / 7 from src where x = ? \
        returning b, v is null, f, dt, id > 5";
    let prepared: Vec<Row> = conn.exec(own, (77, 1)).await.unwrap();
    assert_eq!(shown(prepared), "77,0,0.14285715,NULL,1");
    let star = "insert into src(x, w) select 9, uuid() returning *";
    assert!(rows(&mut conn, star).await.starts_with("9,"));
    conn.exec_drop("insert into src(x, w) select ?, uuid()", (10,)).await.unwrap();
    assert_eq!((conn.affected_rows(), conn.info().into_owned().is_empty()), (1, false));
    cluster.assert_all_equal().await;
    assert_eq!(
        value(&mut conn, "select count(distinct g), count(distinct t) from wide").await,
        "5"
    );
    // Values that are none of the rows' own: temporary tables, other schemas, functions, rows skipped.
    run(&mut conn, "create temporary table mine as select 5 as n").await;
    assert_eq!(told(&mut conn, "insert into src(x) select n from mine").await.0, 1);
    run(&mut conn, "insert into src(w) select schema_name from information_schema.schemata").await;
    run(
        &mut conn,
        "insert into src select b, v from wide natural join wide as w where b < 9 limit 1",
    )
    .await;
    run(&mut conn, "insert into src select x, w from src order by w limit 2").await;
    run(&mut conn, "insert into src select x, group_concat(w) from src group by x").await;
    run(&mut conn, "insert into src select x, w from src where x = 2 for update skip locked").await;
    cluster.assert_all_equal().await;
    assert!(!cluster.log().contains("inactive"), "{}", cluster.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn times_and_modes_of_the_session_do_not_change_what_travels() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table src(x int, y timestamp(6) null)").await;
    run(&mut conn, "set time_zone = '+00:00'").await;
    let hours =
        "insert into src values(0, '2020-10-25 00:30:00.789'), (5, '2020-10-25 01:30'), (6, null)";
    run(&mut conn, hours).await;
    run(&mut conn, "create table t(id int primary key, ts timestamp(6) null, dt datetime, e enum('a', 'b'), f float)").await;
    // An hour that comes twice, days that there are none of, and a number that means no number.
    for zone in ["SYSTEM", "-11:00"] {
        run(
            &mut conn,
            &format!(
                "set time_zone = '{zone}', sql_mode = 'ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO'"
            ),
        )
        .await;
        let insert = "insert into t select x + (select count(*) from t), y, '2020-02-31', 'z', \
            -0.1 * rand() from src order by rand()";
        run(&mut conn, insert).await;
    }
    run(&mut conn, "set time_zone = '+05:00', sql_mode = 'ANSI'").await;
    run(&mut conn, "insert into t select 100 + x, y, now(), 'a', 1e-30 from src order by rand()")
        .await;
    assert_eq!(value(&mut conn, "select count(distinct ts) from t").await, "2");
    cluster.assert_all_equal().await;
    for set in ["set names latin1", "set character_set_results = ucs2"] {
        run(&mut conn, set).await;
        let insert = "insert into t(id) select max(id) + 1 from src, t order by uuid() limit 5";
        let done = conn.query_drop(insert).await;
        assert_eq!(done.is_ok(), set.contains("latin1"), "{set}: {done:?}");
    }
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_ignored_and_updated_rows_count_as_on_one_server() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table src(x int)").await;
    run(&mut conn, "insert into src values(1), (2), (2), (3)").await;
    run(
        &mut conn,
        "create table t(id int auto_increment primary key, u int unique, v varchar(60))",
    )
    .await;
    run(&mut conn, "insert into t(u, v) values(1, 'old'), (9, 'other')").await;
    // Two of four are there already.
    let told_first = told(&mut conn, "replace into t(u, v) select x, uuid() from src").await;
    assert_eq!((told_first.0, &*told_first.2), (6, "Records: 4  Duplicates: 2  Warnings: 0"));
    let ignoring =
        told(&mut conn, "insert ignore into t(u, v) select x + 1, uuid() from src").await;
    assert_eq!(ignoring.0, 1);
    let upsert = "insert into t(u, v) select x + 2, uuid() from src \
                  on duplicate key update v = concat('again ', values(v))";
    let (affected, ..) = told(&mut conn, upsert).await;
    // One is new, three are there (one of them by then), and each of these counts two.
    assert_eq!(affected, 7);
    let shown =
        rows(&mut conn, "select u, count(*), v like 'again%' from t group by u order by u").await;
    assert_eq!(shown, "1,1,0;2,1,0;3,1,1;4,1,1;5,1,0;9,1,0");
    // Some bring their numbers: of those that are there one is changed, which counts two, and one stays as it is.
    run(
        &mut conn,
        "create table n(id int auto_increment primary key, u int unique, v int not null)",
    )
    .await;
    run(&mut conn, "insert into n values(1, 1, 1), (2, 2, 2)").await;
    let upsert = "insert into n values(1, 9, 1), (null, 3, 3), (2, 2, 8) on duplicate key update v = values(v)";
    let (affected, _, info) = told(&mut conn, upsert).await;
    assert_eq!((affected, &*info), (3, "Records: 3  Duplicates: 1  Warnings: 0"));
    let upsert =
        "insert into n values(?, 9, 1), (null, 2, 8) on duplicate key update v = values(v)";
    conn.exec_drop(upsert, (1,)).await.unwrap();
    assert_eq!(conn.affected_rows(), 0);
    // Into a table with no key at all.
    run(&mut conn, "create table bag(x int, r double)").await;
    assert_eq!(told(&mut conn, "insert into bag select x, rand() from src").await.0, 4);
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_and_deletes_go_by_the_keys_of_the_rows_that_were_locked() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    let table = "create table t(id int primary key, n int, v varchar(60), \
        at timestamp(6) not null default now(6) on update now(6))";
    run(&mut conn, table).await;
    run(&mut conn, "insert into t(id, n) select seq, seq % 3 from seq_1_to_30").await;
    let picked = told(&mut conn, "update t set v = uuid() where n = 1 limit 4").await;
    assert_eq!((picked.0, &*picked.2), (4, "Rows matched: 4  Changed: 4  Warnings: 0"));
    assert_eq!(value(&mut conn, "select count(distinct v) from t").await, "4");
    // Rows that stay as they are keep their time, on all servers.
    assert_eq!(
        told(&mut conn, "update t set n = n + (rand() < 2) where id < 3 limit 9").await.0,
        2
    );
    assert_eq!(told(&mut conn, "update t set n = n where id < 9 limit 3").await.0, 0);
    assert_eq!(told(&mut conn, "update t as x set x.v = uuid() where x.id < 0").await.0, 0);
    conn.exec_drop(
        "update t set v = concat(?, uuid()) where n = ? order by rand() limit ?",
        ("p", 2, 3),
    )
    .await
    .unwrap();
    assert_eq!(conn.affected_rows(), 3);
    assert_eq!(value(&mut conn, "select count(*) from t where v like 'p%'").await, "3");
    assert_eq!(told(&mut conn, "delete from t limit 2").await.0, 2);
    conn.exec_drop("delete from t where n = ? limit ?", (2, 2)).await.unwrap();
    assert_eq!(conn.affected_rows(), 2);
    let gone =
        rows(&mut conn, "delete from t where rand() < 2 and n = 0 limit 1 returning n, id > 0")
            .await;
    assert_eq!(gone, "0,1");
    let gone: Vec<Row> =
        conn.exec("delete from t where n = ? limit 1 returning n + ?", (1, 5)).await.unwrap();
    assert_eq!(shown(gone), "6");
    assert_eq!(value(&mut conn, "select count(*) from t").await, "24");
    cluster.assert_all_equal().await;
    // Keys of several columns, of text in several encodings, and of bytes.
    let keyed = "create table k(a varchar(20) character set latin1, b varbinary(9), c date, n double, primary key(a, b, c))";
    run(&mut conn, keyed).await;
    run(&mut conn, "insert into k values('ä', x'0027ff', '2020-01-02', 0), ('b''c', '', '2020-01-03', 1), ('x', 'y', '2020-01-04', 2)").await;
    assert_eq!(told(&mut conn, "update k set n = rand() where n < 2").await.0, 2);
    assert_eq!(told(&mut conn, "delete from k where n <> 2 limit 1").await.0, 1);
    cluster.assert_all_equal().await;
    // In the middle of a transaction, with what it has written itself and others have committed.
    let mut other = cluster.connect().await;
    run(&mut conn, "start transaction").await;
    assert_eq!(value(&mut conn, "select count(*) from t").await, "24");
    run(&mut other, "update t set n = 50 where id = 20").await;
    run(&mut conn, "insert into t(id, n) values(100, 50)").await;
    assert_eq!(told(&mut conn, "update t set v = uuid() where n = 50 limit 7").await.0, 2);
    run(&mut conn, "commit").await;
    cluster.assert_all_equal().await;
    assert!(!cluster.log().contains("inactive"), "{}", cluster.log());
}

/// What the rows would not tell is refused, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn what_rows_cannot_tell_is_refused() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key, u int unique, n int)").await;
    run(&mut conn, "insert into t values(1, 1, 1), (2, 2, 2)").await;
    run(&mut conn, "create table bare(n int)").await;
    run(&mut conn, "create table shape(id int primary key, g geometry)").await;
    run(&mut conn, "create table fired(id int primary key, n int)").await;
    run(&mut conn, "create trigger tr before insert on fired for each row set new.n = 1").await;
    run(
        &mut conn,
        "create function writes() returns int begin insert into bare values(1); return 1; end",
    )
    .await;
    for refused_statement in [
        "update bare set n = rand()",
        "delete from bare limit 1",
        "update t set u = u + rand() limit 1",
        "update t set id = id + 1 limit 1",
        "insert into fired select n, rand() from t",
        "insert into shape select n, point(rand(), 1) from t",
        "insert into t select id + 10, null, writes() from t order by rand()",
        "update t, bare set t.n = uuid()",
        "update t set n = 1 where id in (select n from bare) limit 1",
        "insert into t select id, null, 1 from t order by rand() on duplicate key update id = t.id + 5",
    ] {
        assert_eq!(refused(&mut conn, refused_statement).await, 1235, "{refused_statement}");
    }
    // The server's own errors are the client's, and undo what they undo there.
    run(&mut conn, "start transaction").await;
    run(&mut conn, "insert into t values(3, 3, 3)").await;
    assert_eq!(
        refused(&mut conn, "insert into t select id + 1, null, rand() from t order by rand()")
            .await,
        1062
    );
    assert_eq!(
        refused(&mut conn, "update t set n = (select 1 union select 2) + rand() limit 1").await,
        1242
    );
    assert_eq!(refused(&mut conn, "update t set n = nowhere limit 1").await, 1054);
    run(&mut conn, "commit").await;
    assert_eq!(value(&mut conn, "select count(*) from t").await, "3");
    cluster.assert_all_equal().await;
}

/// A row that is longer as text than a packet may be: the statement is taken back, the transaction goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_long_to_travel_takes_its_statement_back() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int primary key, v longblob, n int)").await;
    run(&mut conn, "insert into t values(1, repeat('x', 9 << 20), 0)").await;
    run(&mut conn, "start transaction").await;
    run(&mut conn, "insert into t values(2, 'two', 0)").await;
    let insert = "insert into t select id + 10, v, rand() * 9 from t order by rand()";
    let update = "update t set v = concat(v, uuid()) order by id limit 1";
    // A strict server says so itself.
    assert_eq!(refused(&mut conn, insert).await, 1301);
    assert_eq!(refused(&mut conn, update).await, 1235);
    run(&mut conn, "set sql_mode = ''").await;
    assert_eq!(refused(&mut conn, insert).await, 1235);
    assert_eq!(refused(&mut conn, update).await, 1235);
    run(&mut conn, "commit").await;
    assert_eq!(value(&mut conn, "select group_concat(id) from t").await, "1,2");
    cluster.assert_all_equal().await;
}
