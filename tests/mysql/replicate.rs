//! Writes through the proxy reach every server, whoever dies meanwhile.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, refused, run, value};

/// Rows that bring their numbers need no help, and those that ask for one by NULL or zero get the leader's.
#[tokio::test(flavor = "multi_thread")]
async fn rows_may_bring_their_numbers() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id bigint auto_increment primary key, n int)").await;
    // A number that was given and taken back is used up, and on the leader alone.
    let use_up = ["start transaction", "insert into t(n) values(0), (0), (0)", "rollback"];
    for id in [Some(7_i64), Some(70), None, Some(0), Some(-3)] {
        for statement in use_up {
            run(&mut conn, statement).await;
        }
        conn.exec_drop("insert into t(id, n) values(?, 1)", (id,)).await.unwrap();
        let two = "insert into t(n, id) values(2, 90 + ?), (3, ?)";
        conn.exec_drop(two, (id.unwrap_or(5), None::<i64>)).await.unwrap();
        let last = value(&mut conn, "select last_insert_id()").await;
        let newest = value(&mut conn, "select max(id) from t where n = 3").await;
        assert_eq!(last, newest, "{id:?}");
    }
    for statement in use_up {
        run(&mut conn, statement).await;
    }
    let used_up = value(&mut conn, "select last_insert_id()").await;
    run(&mut conn, "insert into t(id, n) values(4000, 4), (5000, 4)").await;
    assert_eq!(value(&mut conn, "select last_insert_id()").await, used_up);
    run(&mut conn, "insert into t(id, n) values(6000, 5), (null, 5), (0, 5)").await;
    conn.exec_drop("insert into t(id, n) values(?, 6)", ("8000",)).await.unwrap();
    run(&mut conn, "insert into t(n) values(7)").await;
    assert_eq!(value(&mut conn, "select max(id) from t").await, "8001");
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_of_all_kinds() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    assert_eq!(value(&mut conn, "select 1").await, "1");
    run(&mut conn, "create table t(id int auto_increment primary key, v varchar(50), n int, r double, at timestamp(6) default now(6))").await;
    run(&mut conn, "insert into t(v, n) values('a', 1), ('b', 2)").await;
    run(&mut conn, "insert into t(v, r) values('c', 0.5)").await;
    assert_eq!(value(&mut conn, "select last_insert_id()").await, "3");
    conn.exec_drop("insert into t(v, n) values(?, ?)", ("d", 4)).await.unwrap();
    conn.exec_drop("update t set n = n + ?, at = now(6) where id = ?", (10, 1)).await.unwrap();
    run(&mut conn, "update t set n = 0 where n is null").await;
    assert_eq!(refused(&mut conn, "insert into t(id) values(1)").await, 1062);
    assert_eq!(refused(&mut conn, "select * from nowhere").await, 1146);
    assert_eq!(refused(&mut conn, "nonsense").await, 1064);
    run(&mut conn, "start transaction").await;
    run(&mut conn, "insert into t(v) values('e')").await;
    assert_eq!(refused(&mut conn, "insert into t(id) values(1)").await, 1062);
    run(&mut conn, "savepoint s").await;
    run(&mut conn, "delete from t").await;
    run(&mut conn, "rollback to savepoint s").await;
    run(&mut conn, "commit").await;
    run(&mut conn, "start transaction").await;
    run(&mut conn, "delete from t").await;
    run(&mut conn, "rollback").await;
    assert_eq!(value(&mut conn, "select count(*) from t").await, "5");
    assert_eq!(value(&mut conn, "select n from t where id = 1").await, "11");
    run(&mut conn, "alter table t add column more int default 7").await;
    run(&mut conn, "set @x = 5").await;
    run(&mut conn, "insert into t(v, n) values('f', @x)").await;
    assert_eq!(value(&mut conn, "select concat(n, more) from t where v = 'f'").await, "57");
    // A variable that a query has set is known on the leader alone, until it is used.
    for (name, query) in [
        ("g", "select n + 1, 'it''s' into @y, @`a b` from t where v = 'f'"),
        ("h", "select @y := 4.5, @`a b` := x'00ff27'"),
        ("i", "select @y := null, @`a b` := _latin1 x'e9'"),
    ] {
        run(&mut conn, query).await;
        run(&mut conn, &format!("insert into t(v, r) values('{name}', @y)")).await;
        run(&mut conn, &format!("insert into t(v) values(concat('{name}', hex(@`a b`)))")).await;
    }
    assert_eq!(value(&mut conn, "select count(distinct v) from t where v like 'g%'").await, "2");
    // What every server would choose for itself is chosen once.
    run(&mut conn, "insert into t(v, n) values(uuid(), 71), (concat('x', uuid()), 71)").await;
    run(&mut conn, "insert into t set v = sysdate(6), n = 71").await;
    conn.exec_drop("insert into t(v, n) values(uuid(), ?)", (71,)).await.unwrap();
    conn.exec_drop("insert into t(v, n) values(uuid(), ?)", (71,)).await.unwrap();
    let upsert = "insert into t(id, v) values(1, 'z') on duplicate key update v = uuid(), n = 71";
    run(&mut conn, upsert).await;
    assert_eq!(value(&mut conn, "select count(distinct v) from t where n = 71").await, "6");
    assert_eq!(
        value(&mut conn, "select count(*) from t where length(v) in (36, 37, 26)").await,
        "6"
    );
    let ids = "create table ids(id char(36) primary key default uuid(), n int, \
               m bigint default (uuid_short()))";
    run(&mut conn, ids).await;
    run(&mut conn, "insert into ids(n) values(1), (2)").await;
    let upsert = "insert into ids(n) values(?) on duplicate key update n = 0";
    conn.exec_drop(upsert, (3,)).await.unwrap();
    let key = "insert into ids(n) values(4) returning length(id)";
    assert_eq!(value(&mut conn, key).await, "36");
    assert_eq!(value(&mut conn, "select count(distinct id, m) from ids").await, "4");
    cluster.assert_all_equal().await;
}

/// A Python with PyMySQL in it: `LOCKSTEP_PYTHON`, or a virtual environment that is made once and kept.
pub(crate) fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("LOCKSTEP_PYTHON") {
        return path.into();
    }
    // Several tests want it at the same time.
    static MADE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let venv = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv-mysql");
    let python = venv.join("bin/python");
    let knows = Command::new(&python)
        .args(["-c", "import pymysql, MySQLdb, django, alembic, greenlet"])
        .output();
    if !knows.is_ok_and(|asked| asked.status.success()) {
        let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv).status();
        assert!(made.unwrap().success(), "python3 -m venv: is python3-venv installed?");
        let wanted = [
            "pymysql>=1.1,<2",
            "mysqlclient>=2.2,<3",
            "django>=5.0,<6",
            "sqlalchemy[asyncio]>=2.0,<3",
            "alembic>=1.13",
        ];
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(wanted);
        assert!(pip.status().unwrap().success(), "pip");
    }
    python
}

/// A follower that locks more than the leader did closes a circle that no server sees: whoever commits
/// goes first, and the other's share is applied again.
#[tokio::test(flavor = "multi_thread")]
async fn who_commits_goes_first_where_a_follower_locks_more() {
    let cluster = Cluster::start_with(3, "[timeouts]\nfollower_lock = \"1s\"\n").await;
    let (mut early, mut late) = (cluster.connect().await, cluster.connect().await);
    for table in ["a", "b"] {
        run(&mut early, &format!("create table {table}(id int primary key, v int)")).await;
        run(&mut early, &format!("insert into {table} values(1, 0)")).await;
    }
    let follower = &cluster.servers[(cluster.leader() + 1) % 3];
    follower
        .root("create trigger app.more after update on app.a for each row update app.b set v = v");
    run(&mut early, "start transaction").await;
    // A long transaction does not wait for its end before its effects are sent.
    for n in 1..=30 {
        run(&mut early, &format!("update a set v = {n}")).await;
    }
    // The share has that row of b by now, and the leader has not.
    tokio::time::sleep(Duration::from_millis(300)).await;
    run(&mut late, "start transaction").await;
    run(&mut late, "update b set v = 2").await;
    let waiting = tokio::spawn(async move {
        // On the leader it waits for the other one, as that one does for it on the follower.
        run(&mut early, "update b set v = v + 10").await;
        run(&mut early, "commit").await;
    });
    run(&mut late, "commit").await;
    waiting.await.unwrap();
    follower.root("drop trigger app.more");
    cluster.wait_active(3).await;
    assert!(cluster.log().contains("made way"), "{}", cluster.log());
    assert!(!cluster.log().contains("inactive"), "{}", cluster.log());
    assert_eq!(value(&mut late, "select v from b").await, "12");
    cluster.assert_all_equal().await;
}
