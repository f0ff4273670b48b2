//! Values that every server would choose for itself, wherever they stand: all servers hold the same.

use mysql_async::prelude::Queryable;

use crate::cluster::{Cluster, agree, all, all_refused, refused, run, value};

#[tokio::test(flavor = "multi_thread")]
async fn clocks_are_read_once_wherever_they_stand() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table c(id int auto_increment primary key, a datetime(6), b timestamp(6) null, d date, \
             t time(6), n bigint, w varchar(60), made timestamp(6) default now(6), \
             seen timestamp(6) default now(6) on update now(6))",
            "create table omitted(id int primary key, at timestamp, later timestamp null, y year default 2000, \
             s bigint default (unix_timestamp(now(6)) * 1000000), tomorrow date default (curdate() + interval 1 day))",
            "insert into c(a, b, d, t, n, w) values(now(6), current_timestamp(6), curdate(), curtime(6), \
             unix_timestamp(), concat(utc_timestamp(6))), (sysdate(6), localtime(6), utc_date(), utc_time(), 0, sysdate())",
            "insert into c(a) select now(6) from c",
            "update c set b = now(6), n = microsecond(now(6)) where a <= now(6)",
            "update c set a = sysdate(6) where id < 3",
            "insert into c(id, a) values(1, now(6)) on duplicate key update a = now(6), w = 'again'",
            "replace into c(id, d) values(2, current_date + interval 1 day)",
            "delete from c where a > now(6) + interval 1 hour or microsecond(now(6)) = 17",
            // What a time of day becomes a date by is the clock, too.
            "insert into c(a, t) values(cast('10:11:12' as time), '10:11:12')",
            "insert into omitted(id) values(1), (2)",
            "insert into omitted values(3, default, default, default, default, default)",
            "insert into omitted(id, at) values(4, null)",
            "insert into omitted() values(5, now(), now(), 1999, 7, '2020-01-01')",
            "update omitted set later = at, y = default where id = 1",
        ],
    )
    .await;
    conn.exec_drop("insert into c(a, n) values(now(6), ?), (sysdate(6), ?)", (1, 2)).await.unwrap();
    conn.exec_drop("insert into omitted(id, s) values(?, default)", (9,)).await.unwrap();
    // One transaction has many clocks here, as on one server.
    run(&mut conn, "begin").await;
    run(&mut conn, "insert into c(w, a) values('early', now(6))").await;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    run(&mut conn, "insert into c(w, a, b) values('late', now(6), now(6))").await;
    run(&mut conn, "commit").await;
    assert_eq!(
        value(&mut conn, "select count(distinct a) from c where w in ('early', 'late')").await,
        "2"
    );
    assert_eq!(value(&mut conn, "select a = b from c where w = 'late'").await, "1");
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_looks_like_a_call_stays_text() {
    let cluster = Cluster::start(2).await;
    let mut conn = cluster.connect().await;
    let table = "create table `now`(`uuid` varchar(60), `rand()` varchar(60), `sysdate` int auto_increment primary key)";
    all(
        &mut conn,
        &[
            table,
            "insert into `now`(`uuid`, `rand()`) values('call now() please', \"uuid()\")",
            "insert into `now`(`uuid`, `rand()`) values('it''s uuid() \\' rand()', 'x') /* uuid() */ -- rand()",
            "update `now` set `uuid` = concat(`uuid`, ' sysdate()') # uuid()",
            "insert into `now`(`rand()`) values(_utf8mb4'ünï uuid()'), (n'uuid()'), (x'75756964')",
            "set sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
            "insert into \"now\"(\"rand()\") values('\\'), ('a\\'';b')",
        ],
    )
    .await;
    assert_eq!(
        value(
            &mut conn,
            "select group_concat(\"rand()\" order by \"sysdate\" separator '|') from \"now\""
        )
        .await,
        "uuid()|x|ünï uuid()|uuid()|uuid|\\|a\\';b"
    );
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chance_identity_and_the_server_itself_are_asked_once() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table r(id int auto_increment primary key, u varchar(90), x double, b varbinary(60), n bigint unsigned)",
            "create table filled(id int auto_increment primary key, u char(36) default uuid(), x double default rand(), \
             s bigint unsigned default (uuid_short()), b varbinary(9) default (random_bytes(4)), v int)",
            "insert into r(u, x, b, n) values(uuid(), rand(), random_bytes(9), uuid_short()), \
             (concat(uuid(), rand()), rand(), random_bytes(9), connection_id())",
            "insert into r(u) values(user()), (current_user), (version()), (database()), (@@hostname), (@@server_id), \
             (@@port), (@@datadir)",
            "insert into r(u, n) values(concat(@@global.server_uid, @@version_comment), @@pseudo_thread_id)",
            "update r set u = uuid(), x = rand() where id % 2 = 0",
            "update r set b = random_bytes(5) order by rand() limit 3",
            "insert into filled(v) values(1), (2), (3)",
            "insert into filled(u, v) values(default, 4), ('given', 5)",
            "insert into filled() values()",
            "insert into filled(v) select id from r",
            "insert into filled(v, x) select id, rand() from r order by id",
            "replace into filled(id, v) values(1, 10), (2, 20)",
            "insert into filled(id, v) values(3, 1) on duplicate key update u = uuid(), x = rand()",
            "insert into r(x) values(rand(7)), (rand(id))",
            "insert into r(n) select rand(5) * 1000 from filled order by id",
            "delete from r where rand() < 0.2",
            "insert into r(x) values(sleep(0)), (benchmark(2, 1))",
            "insert into r(u) values(password('x')), (md5('x')), (hex(aes_encrypt('a', 'b'))), (soundex('x'))",
        ],
    )
    .await;
    agree(&cluster).await;
    // Columns that come with a value of their own for each row that is there.
    all_refused(
        &mut conn,
        &[
            "alter table r add column at timestamp default now()",
            "alter table r add column at datetime not null default current_timestamp on update current_timestamp",
            "alter table r add column k char(36) default uuid()",
            "alter table r add column z double default (rand())",
            "alter table filled add column z bigint default (uuid_short()), add column q int",
            "select nextval(s)",
            "create sequence s",
            "insert into r(u) values(encrypt(load_file('/etc/hostname')))",
        ],
    )
    .await;
    run(&mut conn, "alter table r add column later timestamp null, add column c int default 7")
        .await;
    run(&mut conn, "alter table filled add column num int auto_increment unique first, drop primary key, drop column id").await;
    agree(&cluster).await;
}

/// A value in a user variable is of the same type everywhere, not only of the same text.
#[tokio::test(flavor = "multi_thread")]
async fn variables_travel_with_their_types() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table v(id int auto_increment primary key, d double, t varchar(80), b varbinary(80))").await;
    for (n, set) in [
        "select sqrt(2e0), 1/3, 10 into @d, @q, @i",
        "select 0.1e0 + 0.2e0, 1e300, 9007199254740993 into @d, @q, @i",
        "select -1e-9, 123456789.123456789, cast(18446744073709551615 as unsigned) into @d, @q, @i",
        "select 2e0, 2.0, 2 into @d, @q, @i",
        "select 1e15, 1e16, 1e17 into @d, @q, @i",
        "set @d = sqrt(3e0), @q = 0.1, @i = length('abc')",
        "set @d = 7e0, @q = 7.00, @i = 7",
        "set @d = (select max(d) from v), @q = (select avg(id) from v), @i = (select count(*) from v)",
        "select @d := pi(), @q := 5 / 7, @i := id from v limit 1",
    ]
    .iter()
    .enumerate()
    {
        run(&mut conn, set).await;
        run(&mut conn, "insert into v(d, t) values(@d / 3, @d / 3), (@q / 3, @q / 3), (@i / 3, @i / 3)").await;
        run(&mut conn, "insert into v(d, t, b) values(@d * 7, concat(@d, '|', @q, '|', @i), @d), (@q * 7, @q + @i, @i)").await;
        run(&mut conn, "update v set d = d + @d / 7 where id % 3 = 0").await;
        conn.exec_drop("insert into v(d, t) values(@d / ?, @q / ?)", (3, n + 1)).await.unwrap();
    }
    for set in [
        "set @s = 'ä', @b = x'00ff', @n = null",
        "select _latin1 x'e9', json_object('a', 1), now(6) into @s, @b, @n",
    ] {
        run(&mut conn, set).await;
        run(&mut conn, "insert into v(t, b) values(concat(@s, ifnull(@n, '-')), @b), (charset(@s), collation(@s))").await;
    }
    agree(&cluster).await;
    // Row by row a variable would go the way of the rows.
    all_refused(
        &mut conn,
        &[
            "insert into v(d) select @k := @k + 1 from v",
            "update v set d = (@k := @k + 1)",
            "insert into v(d) values(@k := 5)",
        ],
    )
    .await;
    agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_hang_on_an_order_are_stored_alike_or_refused() {
    let cluster = Cluster::start(3).await;
    let mut conn = cluster.connect().await;
    all(
        &mut conn,
        &[
            "create table s(id int primary key, grp int, f float, d double, w varchar(20), key(grp))",
            "insert into s select seq, seq % 7, rand(), rand() * 1e9, concat('w', seq % 5) from seq_1_to_200",
            "create table o(id int auto_increment primary key, a varchar(400), n double)",
            "create table bag(n double, w varchar(20))",
            "insert into o(a) select group_concat(w) from s group by grp",
            "insert into o(a) select group_concat(distinct w order by w) from s",
            "insert into o(a) select json_arrayagg(w) from s where grp = 3",
            "insert into o(n) select sum(f) from s",
            "insert into o(n) select avg(d) from s group by grp",
            "insert into o(n) select stddev(d) + variance(f) from s",
            "insert into o(n) select row_number() over (order by grp) from s limit 20",
            "insert into bag select sum(d), w from s group by w",
            "insert into bag select d, w from s limit 5",
            "insert into bag select max(d), w from s group by grp",
            "insert into o(a, n) select w, first_value(d) over (partition by grp order by w) from s",
            "insert into o(a) select any_value from (select max(w) as any_value from s) x",
        ],
    )
    .await;
    for sql in [
        "update s set w = 'top' order by grp limit 4",
        "delete from s order by grp limit 4",
        "insert into bag(n) values((select d from s order by grp limit 1))",
        "update s join o on o.id = s.grp set s.w = o.a",
        "update bag set n = n + 1 limit 1",
        "delete from bag limit 1",
        "update bag set w = uuid()",
        "update ignore s set id = id + 1",
        "update s set w = (select left(a, 9) from o where a is not null limit 1)",
        "insert into o(a) select distinct w from s",
        "insert into o(a) select w from s union select w from bag",
        "replace into s(id, w) select grp, w from s",
        "insert ignore into s(id, w) select grp, w from s",
    ] {
        // Which of the two is a matter of what can be told; both keep the servers the same.
        if let Err(error) = conn.query_drop(sql).await {
            let mysql_async::Error::Server(error) = error else { panic!("{sql}: {error}") };
            assert_eq!(error.code, 1235, "{sql}: {error}");
        }
        agree(&cluster).await;
    }
    // Engines without transactions, and what only looks like a table.
    for (n, server) in cluster.servers.iter().enumerate() {
        server.root(&format!("create table app.other(id int primary key, n int) engine=myisam; insert into app.other values(1, {n})"));
    }
    let mut conn = cluster.connect().await;
    let stored = conn.query_drop("insert into o(n) select n from other").await;
    println!("from another engine: {stored:?}");
    assert!(refused(&mut conn, "insert into other values(2, 2)").await > 1000);
    for server in &cluster.servers {
        server.root("drop table app.other");
    }
    agree(&cluster).await;
}
