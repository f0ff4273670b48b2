//! Transactions that meet, at every isolation level: every server sees the same winner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use crate::cluster::{Cluster, agree, all, run, value};
use crate::net::relay::Net;

/// A wait that is over, a deadlock, one about the next number: the client's to try again, as on one server.
const AGAIN: [u16; 3] = [1205, 1213, 1467];

const LEVELS: [&str; 4] = ["read committed", "repeatable read", "serializable", "read uncommitted"];

/// The same work in so many sessions at once, one level each; errors with these numbers are part of it.
async fn at_once(
    cluster: &Cluster,
    sessions: usize,
    rounds: usize,
    honest: &[u16],
    work: impl Fn(usize, usize) -> Vec<String>,
) {
    let work = &work;
    let all = (0..sessions).map(|s| async move {
        let mut conn = cluster.connect().await;
        let level = LEVELS[s % LEVELS.len()];
        run(&mut conn, &format!("set session transaction isolation level {level}")).await;
        for round in 0..rounds {
            for sql in work(s, round) {
                match conn.query_drop(&sql).await {
                    Ok(()) => {}
                    Err(Error::Server(error))
                        if AGAIN.contains(&error.code) || honest.contains(&error.code) =>
                    {
                        run(&mut conn, "rollback").await;
                        break;
                    }
                    Err(error) => panic!("{level}: {sql}: {error}\n{}", cluster.log()),
                }
            }
        }
    });
    futures_util::future::join_all(all).await;
}

fn one(sql: impl Into<String>) -> Vec<String> {
    vec![sql.into()]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_inserted_changed_and_deleted() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table meet_t(i int, v int default 0, key(i))",
            "insert into meet_t(i) select seq % 5 from seq_1_to_20",
            "create table keys_t(id int primary key, v int, mail varchar(20) unique)",
        ],
    )
    .await;
    // One changes what another deletes, in a table with no key.
    at_once(&cluster, 6, 25, &[], |s, round| match s % 3 {
        0 => one("update meet_t set i = i + 1 where i < 6"),
        1 => one("delete from meet_t where i = 1"),
        _ => one(format!("insert into meet_t values ({}, {round})", round % 3)),
    })
    .await;
    agree(&cluster).await;
    // Two unique keys: which row a statement hits is decided once.
    at_once(&cluster, 8, 25, &[1062], |s, round| {
        let (id, mail) = ((s + round) % 5, (s * round) % 6);
        one(match round % 6 {
            0 => format!("insert into keys_t values ({id}, {s}, 'm{mail}')"),
            1 => format!("update keys_t set v = v + 1 where id = {id}"),
            2 => format!("insert into keys_t values ({id}, {s}, 'm{mail}') on duplicate key update v = v + 100"),
            3 => format!("replace into keys_t values ({id}, {s}, 'm{mail}'), ({}, {s}, 'm{}')", id + 1, mail + 1),
            4 => format!("insert ignore into keys_t values ({id}, {s}, 'm{mail}'), ({}, 0, 'm{id}')", id + 2),
            _ => format!("delete from keys_t where id = {id} or mail = 'm{mail}'"),
        })
    })
    .await;
    agree(&cluster).await;
}

/// One after the other, as the test says when: the server that leads may let somebody past a key that an upsert has
/// found free while it waits for another one, so that a follower would meet another row than the leader.
#[tokio::test(flavor = "multi_thread")]
async fn which_row_an_upsert_meets_is_decided_once() {
    let cluster = Cluster::start(2).await;
    let mut first = cluster.connect().await;
    let table =
        "create table two_t(id int primary key, mail varchar(20) unique, n int not null default 0)";
    run(&mut first, table).await;
    let upsert = |id: u32, mail: &str| {
        format!(
            "insert into two_t(id, mail) values ({id}, '{mail}') on duplicate key update n = n + 1"
        )
    };
    let mut passed = 0;
    for _ in 0..100 {
        run(&mut first, "delete from two_t").await;
        run(&mut first, "insert into two_t values (4, 'b', 0)").await;
        run(&mut first, "start transaction").await;
        run(&mut first, "replace into two_t values (4, 'a', 0)").await;
        let (one, two) = (upsert(1, "a"), [upsert(4, "b"), upsert(1, "c")]);
        let (mut other, mut last) = (cluster.connect().await, cluster.connect().await);
        let waits = tokio::spawn(async move {
            run(&mut other, "start transaction").await;
            let met = other.query_drop(&one).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            run(&mut other, if met.is_ok() { "commit" } else { "rollback" }).await;
            met.is_ok()
        });
        let goes_past = tokio::spawn(async move {
            run(&mut last, "start transaction").await;
            run(&mut last, &two[0]).await;
            let met = last.query_drop(&two[1]).await;
            run(&mut last, if met.is_ok() { "commit" } else { "rollback" }).await;
            met.is_ok()
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        run(&mut first, "commit").await;
        // Else the server has found it to be a deadlock.
        passed += usize::from(waits.await.unwrap() & goes_past.await.unwrap());
        let rows = "select group_concat(id, mail, n order by id) from app.two_t";
        assert_eq!(cluster.servers[0].root(rows), cluster.servers[1].root(rows));
        if passed >= 5 {
            break;
        }
    }
    assert!(passed > 0);
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_read_from_the_tables_themselves() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table self_t(id bigint auto_increment primary key, n bigint, key(n))",
            "create table bag(n bigint, k int, key(k))",
            "create table src(id int primary key, n int, grp int, key(grp))",
            "insert into src select seq, seq, seq % 4 from seq_1_to_40",
        ],
    )
    .await;
    at_once(&cluster, 6, 20, &[], |s, round| match (s + round) % 5 {
        0 => one("insert into self_t(n) select count(*) from self_t"),
        1 => one("insert into self_t(n) select coalesce(max(n), 0) + 1 from self_t"),
        2 => one("insert into self_t(n) select 5 from dual where not exists (select 1 from self_t where n = 5)"),
        3 => one("insert into bag(n, k) select count(*), 1 from bag"),
        _ => one("insert into bag(n, k) values((select coalesce(max(n), 0) + 1 from self_t), 2)"),
    })
    .await;
    assert_ne!(value(&mut conn, "select count(*) from self_t").await, "0");
    agree(&cluster).await;
    // What one reads another changes, with conditions and subqueries instead of keys.
    at_once(&cluster, 6, 20, &[], |s, round| {
        let grp = (s + round) % 4;
        match (s * 7 + round) % 6 {
            0 => one(format!(
                "insert into bag select sum(n), grp from src where grp = {grp} group by grp"
            )),
            1 => one(format!("update src set n = n + 1 where grp = {grp}")),
            2 => one(format!(
                "update src set n = (select count(*) from bag where k = {grp}) where id % 7 = {grp}"
            )),
            3 => one(format!(
                "delete from bag where n > (select avg(n) * 3 from src where grp = {grp})"
            )),
            4 => one(format!("update src set grp = (grp + 1) % 4 where n % 5 = {grp}")),
            _ => vec![
                "start transaction".into(),
                format!("insert into bag select n, {grp} from src where id = {}", 1 + round),
                format!("update bag set n = n + 1 where k = {grp}"),
                format!("delete from src where id = {} and n > 60", 1 + round),
                format!(
                    "insert into src values({}, 1, {grp}) on duplicate key update n = n + 3",
                    1 + round
                ),
                "commit".into(),
            ],
        }
    })
    .await;
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_gives_each_job_once() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table queue_t(id int auto_increment primary key, v varchar(9), owner int)",
            "create table queue_done(job int, worker int, at timestamp(6) default now(6))",
            "insert into queue_t(v) select 'job' from seq_1_to_90",
        ],
    )
    .await;
    let workers = (0..6).map(|s| {
        let cluster = &cluster;
        async move {
            let mut conn = cluster.connect().await;
            for round in 0..20 {
                let (taken, sql) = match (s + round) % 3 {
                    0 => ("", "delete from queue_t where owner is null limit 1 returning id"),
                    1 => (
                        "",
                        "delete from queue_t where owner is null order by id limit 1 returning id",
                    ),
                    _ => (
                        "begin",
                        "select id from queue_t where owner is null limit 1 for update skip locked",
                    ),
                };
                if !taken.is_empty() {
                    run(&mut conn, taken).await;
                }
                let job: Option<u32> = match conn.query_first(sql).await {
                    Ok(job) => job,
                    Err(Error::Server(error)) if AGAIN.contains(&error.code) => {
                        run(&mut conn, "rollback").await;
                        continue;
                    }
                    Err(error) => panic!("{sql}: {error}"),
                };
                let done = async |conn: &mut Conn| {
                    if let Some(job) = job {
                        conn.query_drop(format!(
                            "insert into queue_done(job, worker) values({job}, {s})"
                        ))
                        .await?;
                        if !taken.is_empty() {
                            conn.query_drop(format!("delete from queue_t where id = {job}"))
                                .await?;
                        }
                    }
                    conn.query_drop("commit").await
                };
                if let Err(error) = done(&mut conn).await {
                    let Error::Server(error) = error else { panic!("{error}") };
                    assert!(AGAIN.contains(&error.code) && !taken.is_empty(), "{error}");
                    run(&mut conn, "rollback").await;
                }
            }
        }
    });
    futures_util::future::join_all(workers).await;
    assert_eq!(
        value(&mut conn, "select count(*) - count(distinct job) from queue_done").await,
        "0"
    );
    let both = "select count(*) from queue_t q join queue_done d on d.job = q.id";
    assert_eq!(value(&mut conn, both).await, "0");
    assert_ne!(value(&mut conn, "select count(*) from queue_done").await, "0");
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_waits_and_levels_end_transactions_and_put_nobody_out() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table dead_t(id int primary key, n int default 0)",
            "insert into dead_t(id) select seq from seq_1_to_6",
            "create table parent(id int primary key, v int)",
            "create table child(id int auto_increment primary key, pid int, n int, \
             foreign key(pid) references parent(id) on delete cascade on update cascade)",
            "create table log(what varchar(40))",
            "create trigger tc after delete on parent for each row insert into log values(concat('gone ', old.id))",
        ],
    )
    .await;
    at_once(&cluster, 8, 20, &[], |s, round| {
        let (a, b) = (1 + round % 6, 1 + (round + 3) % 6);
        let (a, b) = if s % 2 == 0 { (a, b) } else { (b, a) };
        vec![
            format!("set innodb_lock_wait_timeout = {}", 1 + s % 3),
            "begin".into(),
            format!("update dead_t set n = n + 1 where id = {a}"),
            format!("update dead_t set n = n + 1 where id = {b}"),
            "commit".into(),
        ]
    })
    .await;
    assert_eq!(value(&mut conn, "select sum(n) % 2 from dead_t").await, "0");
    agree(&cluster).await;
    at_once(&cluster, 8, 20, &[], |s, round| {
        let (a, b) = (1 + round % 6, 1 + (round + s) % 6);
        vec![
            "begin".into(),
            format!("update dead_t set n = n + (select count(*) from log where what like '%{a}') where id = {a}"),
            format!("update dead_t set n = n + 1 where id = {b}"),
            format!("insert into log select concat('n ', max(n)) from dead_t where id <= {b}"),
            "commit".into(),
        ]
    })
    .await;
    agree(&cluster).await;
    // Rows that other rows refer to come and go.
    at_once(&cluster, 8, 20, &[1062, 1451, 1452], |s, round| {
        let id = (s + round) % 5;
        match (s + 3 * round) % 5 {
            0 => one(format!("insert into parent values({id}, {s})")),
            1 => one(format!("insert into child(pid, n) values({id}, {round}), ({id}, {s})")),
            2 => one(format!("delete from parent where id = {id}")),
            3 => one(format!("update parent set id = {} where id = {id}", id + 5)),
            _ => vec![
                "begin".into(),
                format!("insert ignore into parent values({id}, 0)"),
                "savepoint s".into(),
                format!(
                    "insert into child(pid, n) select id, {round} from parent order by id limit 3"
                ),
                if s % 2 == 0 { "rollback to s".into() } else { "release savepoint s".into() },
                format!("replace into parent values({id}, {round})"),
                "commit".into(),
            ],
        }
    })
    .await;
    agree(&cluster).await;
}

/// KILL QUERY finds a statement before it runs, under way, or gone already; what is the proxy's own it does not find.
#[tokio::test(flavor = "multi_thread")]
async fn statements_killed_at_any_moment_are_everywhere_or_nowhere() {
    let cluster = Arc::new(Cluster::start(3).await);
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table t(id int auto_increment primary key, s int, v double, at timestamp(6) default now(6))",
            "create table big(id int primary key, n int not null)",
            "insert into big select seq, 0 from seq_1_to_2000",
        ],
    )
    .await;
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut numbers = Vec::new();
    let mut writers = Vec::new();
    for s in 0..4 {
        let mut conn = cluster.connect().await;
        numbers.push(conn.id());
        let (stop, told) = (stop.clone(), told.clone());
        writers.push(tokio::spawn(async move {
            let mut rows = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let done = async {
                    conn.query_drop("begin").await?;
                    conn.query_drop(format!("insert into t(s, v) values({s}, rand())")).await?;
                    conn.query_drop("update big set n = n + 1").await?;
                    conn.query_drop(format!(
                        "insert into t(s, v) select {s}, rand() from big limit 3"
                    ))
                    .await?;
                    conn.query_drop("commit").await
                };
                match done.await {
                    Ok(()) => rows += 1,
                    Err(Error::Server(error))
                        if AGAIN.contains(&error.code) || error.message.contains("interrupted") =>
                    {
                        conn.query_drop("rollback").await.unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            told.fetch_add(rows, Ordering::Relaxed);
        }));
    }
    let mut killer = cluster.connect().await;
    for turn in 0..150_u64 {
        tokio::time::sleep(Duration::from_millis(turn * 7 % 31)).await;
        let number = numbers[usize::try_from(turn).unwrap() % numbers.len()];
        killer.query_drop(format!("kill query {number}")).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let told = told.load(Ordering::Relaxed);
    assert!(told > 5, "{told}");
    agree(&cluster).await;
    let done: u64 = value(&mut conn, "select max(n) from big").await.parse().unwrap();
    assert_eq!(value(&mut conn, "select min(n) from big").await, done.to_string());
    assert_eq!(value(&mut conn, "select count(*) from t").await, (4 * done).to_string());
    assert_eq!(done, told, "were acknowledged, and are there");
}

/// A time limit of the session's that is hardly longer than its statements take: it strikes them, and nothing of the proxy's.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_take_too_long_are_nowhere() {
    let cluster = Arc::new(Cluster::start(3).await);
    let mut conn = cluster.connect().await;
    let big = "insert into big select seq, 0 from seq_1_to_500";
    let tables =
        ["create table t(id int primary key)", "create table big(id int primary key, n int)"];
    all(&mut conn, &[&tables[..], &[big]].concat()).await;
    let mut writers = Vec::new();
    for s in 0..6 {
        let mut conn = cluster.connect().await;
        writers.push(tokio::spawn(async move {
            let mut told = Vec::new();
            for round in 0..100 {
                let (id, limit) = (s * 1000 + round, 1 + round % 4);
                let set = format!("set max_statement_time = 0.00{limit}");
                // That itself may take too long.
                while conn.query_drop(&set).await.is_err() {}
                let done = async {
                    conn.query_drop("begin").await?;
                    conn.query_drop(format!("insert into t values({id})")).await?;
                    if round % 2 == 0 {
                        conn.query_drop("update big set n = n + 1").await?;
                    }
                    conn.query_drop("commit").await
                };
                match done.await {
                    Ok(()) => told.push(id),
                    Err(Error::Server(error))
                        if error.code == 1969 || AGAIN.contains(&error.code) =>
                    {
                        while conn.query_drop("rollback").await.is_err() {}
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            told
        }));
    }
    let mut told = Vec::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    told.sort_unstable();
    assert!(told.len() > 20 && told.len() < 590, "{} of 600", told.len());
    let there: Vec<i32> = conn.query("select id from t order by id").await.unwrap();
    assert_eq!(there, told, "is there, and was told to be");
    agree(&cluster).await;
}

/// What a cancel strikes in the middle of a START TRANSACTION leaves whatever was sent behind it to commit by itself.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_killed_before_its_transaction_is_open() {
    let cluster = Cluster::start_relayed(2, "").await;
    let mut conn = cluster.connect().await;
    all(&mut conn, &["create table t(id int primary key)", "insert into t values(0)"]).await;
    let (number, mut killer) = (conn.id(), cluster.connect().await);
    let leader = &cluster.relays[0];
    leader.set(Net::Mute);
    let killed = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = leader.accepted();
        let kill = killer.query_drop(format!("kill query {number}"));
        let waited = tokio::time::timeout(Duration::from_millis(300), kill).await.is_err();
        assert_eq!(leader.accepted(), before, "it was killed in its START TRANSACTION");
        leader.set(Net::Works);
        waited
    };
    let (told, waited) = tokio::join!(conn.query_drop("insert into t values(1)"), killed);
    assert!(waited, "nothing was killed");
    let there = value(&mut conn, "select count(*) from t where id = 1").await;
    assert_eq!(there == "1", told.is_ok(), "{told:?}");
    agree(&cluster).await;
}
