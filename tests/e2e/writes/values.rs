//! Scenarios A: values that no two servers would compute alike.

use super::{ready, same_after};
use crate::rig::run;

#[test]
fn clocks_are_read_once() {
    run(async {
        same_after(
            "clock_",
            "create table clock_t(id serial primary key, a timestamptz, b timestamp, c date, d time, e text, n bigint)",
            &[
                "insert into clock_t(a, b, c, d, e) values (now(), localtimestamp, current_date, localtime, timeofday())",
                "insert into clock_t(a) values (current_timestamp), (clock_timestamp()), (statement_timestamp()), (transaction_timestamp())",
                "insert into clock_t(b, d) values (current_timestamp::timestamp, current_time(3)::time)",
                "update clock_t set a = now() where id = 1",
                "update clock_t set a = clock_timestamp() where id > 2",
                "update clock_t set e = age(timestamp '2001-01-01')::text where id = 1",
                "update clock_t set n = extract(epoch from clock_timestamp()) * 1000000",
                "insert into clock_t(a) values ('now'), ('today'), ('tomorrow'), ('yesterday')",
                "insert into clock_t(b, c, d) values ('now', 'today', 'now')",
                "insert into clock_t(a) select now() + g * interval '1 second' from generate_series(1, 5) g",
                "update clock_t set e = 'late' where a < now()",
                "delete from clock_t where a < clock_timestamp() - interval '1 hour'",
                "insert into clock_t(id, a) values (1, now()) on conflict (id) do update set a = clock_timestamp()",
                "with w as (insert into clock_t(a) values (clock_timestamp()) returning a) insert into clock_t(b) select a from w",
                "begin; insert into clock_t(a, e) values (now(), 'tx'); select pg_sleep(0.02); insert into clock_t(a, e) values (now(), 'tx'); commit",
            ],
        )
        .await;
        let (_, app) = ready("").await;
        assert_eq!(
            app.one("select count(distinct a) from clock_t where e = 'tx'").await,
            "1",
            "now() stands still in a transaction"
        );
    });
}

#[test]
fn text_that_looks_like_a_clock_stays_text() {
    run(async {
        let (cluster, app) =
            ready("create table quote_t(id int primary key, \"now\" text, v text default 'now()')")
                .await;
        app.run("insert into quote_t values (1, 'call now() please', 'random()')").await;
        app.run("insert into quote_t values (2, $$now()$$, $x$nextval('s')$x$) -- now()").await;
        app.run("insert into quote_t(id, \"now\") /* random() */ values (3, E'it\\'s now()')")
            .await;
        app.run("update quote_t set \"now\" = \"now\" || ' now()' where id = 1").await;
        assert_eq!(
            app.one("select \"now\" from quote_t where id = 1").await,
            "call now() please now()"
        );
        assert_eq!(app.one("select v from quote_t where id = 3").await, "now()");
        cluster.same("quote_%").await;
    });
}

#[test]
fn chance_falls_once() {
    run(async {
        same_after(
            "chance_",
            "create table chance_t(id serial primary key, f float8 default random(), u uuid default gen_random_uuid(), v text)",
            &[
                "insert into chance_t default values",
                "insert into chance_t(f, u) values (random(), gen_random_uuid()), (default, default)",
                "insert into chance_t(v) values (md5(random()::text))",
                "insert into chance_t(f) select random() from generate_series(1, 20)",
                "insert into chance_t(v) select 'x' from generate_series(1, 20)",
                "update chance_t set f = random(), u = gen_random_uuid() where id % 2 = 0",
                "delete from chance_t where random() < 0.3",
                "delete from chance_t where id in (select id from chance_t order by random() limit 5)",
                "select setseed(0.5); insert into chance_t(f) values (random())",
                "update chance_t set v = (select string_agg(chr(65 + (random() * 25)::int), '') from generate_series(1, 8))",
                "insert into chance_t(id, v) values (2, 'a') on conflict (id) do update set f = random()",
            ],
        )
        .await;
    });
}

#[test]
fn defaults_of_every_kind_are_filled_in_once() {
    run(async {
        let (cluster, app) = ready(
            "create function dflt_f() returns text language plpgsql volatile as $$ begin return 'f' || random(); end $$;
             create table dflt_t(id bigint generated always as identity primary key, a timestamptz not null default now(),
                b date default current_date + 1, c bigint default date_part('epoch', clock_timestamp()) * 1000,
                d text default dflt_f(), e int default (random() * 1000)::int, g text generated always as (upper(d)) stored,
                h text default 'now')",
        )
        .await;
        app.run("insert into dflt_t default values").await;
        app.run("insert into dflt_t(a) values (default), (default)").await;
        app.run("insert into dflt_t(h) values ('x')").await;
        let insert = app.prepare("insert into dflt_t(h) values ($1)").await.unwrap();
        for i in 0..5 {
            app.execute(&insert, &[&format!("prepared {i}")]).await.unwrap();
        }
        app.run("prepare dflt as insert into dflt_t(h, d) values ($1, default); execute dflt('sql prepared')").await;
        app.run("insert into dflt_t(h) select h from dflt_t").await;
        app.run("update dflt_t set d = default, e = default where id % 3 = 0").await;
        app.run("insert into dflt_t(id, h) overriding system value values (1000, 'given')").await;
        app.fails("insert into dflt_t(id, h) values (1001, 'given')", "428C9").await;
        assert_eq!(app.one("select count(*) from dflt_t where g <> upper(d)").await, "0");
        cluster.same("dflt_%").await;
    });
}

#[test]
fn what_returning_says_is_what_is_stored() {
    run(async {
        let (cluster, app) = ready(
            "create table back_t(id serial primary key, u uuid default gen_random_uuid(), f float8 default random(),
                                 a timestamptz default clock_timestamp(), v text)",
        )
        .await;
        let mut told = app.rows("insert into back_t(v) values ('a'), ('b') returning *").await;
        let insert = "insert into back_t(v) values ($1) returning id, f";
        let row = app.query_one(insert, &[&"c"]).await.unwrap();
        let (id, f): (i32, f64) = (row.get(0), row.get(1));
        let stored = app.query_one("select f from back_t where id = $1", &[&id]).await.unwrap();
        assert_eq!(f, stored.get::<_, f64>(0));
        told.extend(app.rows("select * from back_t where v = 'c'").await);
        assert_eq!(app.rows("select * from back_t order by id").await, told);
        let changed = app
            .rows(
                "update back_t set f = random(), u = gen_random_uuid() where v <> 'a' returning *",
            )
            .await;
        assert_eq!(app.rows("select * from back_t where v <> 'a' order by id").await, changed);
        // No column of the client's choice is a key, and none is added to its answer.
        let columns =
            app.rows("update back_t set f = 0.5 where v = 'a' returning 'only' as one").await;
        assert_eq!(columns, [[Some("only".to_owned())]]);
        let gone = app.rows("delete from back_t where v = 'b' returning v, f").await;
        assert_eq!(gone[0][0].as_deref(), Some("b"));
        cluster.same("back_%").await;
    });
}

#[test]
fn what_one_server_knows_of_itself_is_stored_alike() {
    run(async {
        same_after(
            "own_",
            "create table own_t(id serial primary key, v text)",
            &[
                "insert into own_t(v) values (pg_backend_pid()::text)",
                "insert into own_t(v) values (inet_server_port()::text), (version()), (current_setting('port'))",
                "insert into own_t(v) values (txid_current()::text), (pg_postmaster_start_time()::text), (current_user)",
                "insert into own_t(v) select xmin::text from own_t",
                "update own_t set v = ctid::text || tableoid::text where id = 1",
                "update own_t set v = v || 'x' where xmin::text <> '0'",
                "insert into own_t(v) select oid::text from pg_class where relname = 'own_t'",
                "insert into own_t(v) select setting from pg_settings where name = 'data_directory' union all select 'end'",
                "insert into own_t(v) values (pg_current_xact_id()::text), (now()::text), (session_user || current_database())",
            ],
        )
        .await;
    });
}

#[test]
fn concurrency_tokens_from_system_columns_work() {
    run(async {
        let (cluster, app) = ready(
            "create table xmin_t(id int primary key, v int); insert into xmin_t values (1, 1)",
        )
        .await;
        // As Entity Framework does: the version of a row is its xmin, read where the write will
        // run.
        app.run("begin").await;
        let version = app.one("select xmin from xmin_t where id = 1 for update").await;
        assert_eq!(
            app.affected(&format!("update xmin_t set v = 2 where id = 1 and xmin = '{version}'"))
                .await,
            1
        );
        assert_eq!(app.affected("update xmin_t set v = 3 where id = 1 and xmin = '3'").await, 0);
        app.run("commit").await;
        assert_eq!(app.one("select v from xmin_t").await, "2");
        cluster.same("xmin_%").await;
    });
}

#[test]
fn results_that_hang_on_order_are_stored_alike() {
    run(async {
        let (cluster, app) = ready(
            "create table order_s(v text, n int); create table order_t(id serial primary key, v text, n int);
             insert into order_s select 'g' || g % 3, g from generate_series(1, 30) g",
        )
        .await;
        // The same rows, but the servers' heaps are in different orders from here on.
        for (i, admin) in cluster.admins().await.iter().enumerate() {
            let turn = format!(
                "set session_replication_role to replica; delete from order_s; insert into order_s select 'g' || g % 3, g from generate_series(1, 30) g order by (g * {}) % 31",
                i + 3
            );
            admin.run(&turn).await;
        }
        for sql in [
            "insert into order_t(v) select string_agg(n::text, ',') from order_s group by v",
            "insert into order_t(v) select array_agg(n)::text from order_s",
            "insert into order_t(v, n) select distinct on (v) v, n from order_s",
            "insert into order_t(n) select row_number() over () from order_s",
            "insert into order_t(v) select v from order_s limit 7",
            "update order_t set n = s.n from order_s s where order_t.v = s.v",
            "insert into order_t(n) select n from order_s tablesample bernoulli (50)",
        ] {
            app.run(sql).await;
        }
        cluster.same("order_%").await;
    });
}

#[test]
fn awkward_values_travel_whole() {
    run(async {
        let (cluster, app) = ready(
            "create type odd_mood as enum ('sad', 'so so', 'it''s \"fine\"'); create domain odd_d as text check (value <> 'x');
             create type odd_pair as (a int, b text);
             create table odd_t(id serial primary key, f float8, r float4, n numeric, b bytea, j json, jb jsonb, x xml, i interval,
                ts timestamptz, m odd_mood, d odd_d, p odd_pair, ar text[], ir int4range, mr int4multirange, ip inet, u uuid, mo money, bi bit varying, pt point,
                tsv tsvector, noise float8 default random())",
        )
        .await;
        for sql in [
            "insert into odd_t(f, r, n) values ('NaN', 'Infinity', 'NaN'), ('-0', '1e-40', 1e100), (0.1 + 0.2, 1.0/3, 0.000000000000000000001)",
            "insert into odd_t(b) values ('\\x'), ('\\x00ff5c27'), (decode(repeat('ab', 3000), 'hex'))",
            "insert into odd_t(j, jb, x) values ('{\"a\" : 1, \"a\":2}', '{\"b\":[null,\"ü\\\\n\"]}', '<a b=\"c\">t</a>')",
            "insert into odd_t(i, ts) values ('1 year -2 mons +3 days 04:05:06.789', '0044-03-15 BC'), (null, 'infinity')",
            "insert into odd_t(i, ts) values ('1 year -2 mons', '294276-12-31 23:59:59.999999+00'), (null, '-infinity')",
            "insert into odd_t(m, d, p) values ('it''s \"fine\"', E'tab\\tnl\\nback\\\\slash', row(1, 'a,\"b\"')), ('sad', '', row(null, null))",
            "insert into odd_t(ar, ir, mr) values (array['a', null, 'NULL', '{}', 'x\"y', ''], '[1,5)', '{[1,2],[5,9)}'), ('{}', 'empty', '{}'), ('[2:3]={a,b}', '(,)', null)",
            "insert into odd_t(ip, u, mo, bi, pt, tsv) values ('::1/64', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 12.5, '101', '(1.5,-2)', 'a fat cat')",
            "insert into odd_t(d) values (repeat('long ', 200000))",
            "update odd_t set f = f + random() * 0, d = d || 'ä€😀' where d is not null",
            "set datestyle to 'German'; set timezone to 'Asia/Kolkata'; set intervalstyle to 'sql_standard'; set extra_float_digits to -5; set bytea_output to escape",
            "insert into odd_t(ts, i, f, b) values ('01.02.2024 10:00', '3 days', 0.12345678901234567, '\\x0001')",
            "insert into odd_t(ts, i, f, b) select ts, i, f, b from odd_t where ts is not null",
            "update odd_t set f = f where f is not null",
        ] {
            app.run(sql).await;
        }
        cluster.same("odd_%").await;
    });
}

#[test]
fn other_client_encodings_store_the_same_characters() {
    run(async {
        let (cluster, app) = ready(
            "create table enc_t(id serial primary key, v text, noise float8 default random())",
        )
        .await;
        app.run("set client_encoding to 'LATIN1'").await;
        app.run("insert into enc_t(v) values (chr(228) || chr(223))").await;
        app.run("insert into enc_t(v) select v || 'x' from enc_t").await;
        app.run(
            "set client_encoding to 'SJIS'; insert into enc_t(v) values ('ascii'), (chr(26085))",
        )
        .await;
        app.run("set client_encoding to 'UTF8'").await;
        assert_eq!(
            app.column("select v from enc_t order by id").await,
            ["äß", "äßx", "ascii", "日"]
        );
        cluster.same("enc_%").await;
    });
}
