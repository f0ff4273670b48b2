//! Writes that are captured by what they return: every type, rights that do not reach as far as
//! reading, and DDL at the same time.

use super::{ready, same_after};
use crate::rig::{run, secs, within};

#[test]
fn every_type_travels_whole() {
    run(async {
        same_after(
            "rty_",
            "create type rty_mood as enum ('sad', 'ok'); create table rty_t(id serial primary key, \
             b bool default random() < 2, i2 smallint, i4 int, i8 bigint, f4 real, f8 double precision, \
             nu numeric(20, 5), m money, t text, vc varchar(9), ch char(5), na name, by bytea, d date, \
             ti time, tz timetz, ts timestamp, tsz timestamptz, iv interval, u uuid, j json, jb jsonb, \
             ine inet, ci cidr, ma macaddr, bi bit(3), vb varbit, p point, ia int[], ta text[], \
             tsa timestamptz[]); \
             create table rty_u(id int primary key, mood rty_mood default 'ok', x xml, r int4range, \
             rc regclass, at timestamptz default now())",
            &[
                "insert into rty_t(i2, i4, i8, f4, f8, nu, m, t, vc, ch, na, by) values (-1, 2147483647, \
                 -9223372036854775808, 0.1, 'NaN', 'NaN', '$1,234.50', E'ü\\n\\'\"', 'abc', 'ab', 'n', '\\x00ff5c27')",
                "insert into rty_t(d, ti, tz, ts, tsz, iv) values ('infinity', '24:00', '12:00+05:30', \
                 '0044-03-15 BC', '-infinity', '-1 year 2 mons -3 days 04:05:06.7')",
                "set DateStyle = 'SQL, DMY'; set IntervalStyle = 'sql_standard'; set TimeZone = 'Asia/Kolkata'; \
                 insert into rty_t(d, tsz, iv, tsa) values ('13/12/2024', now(), '-1 2:03:04', array[now()]); \
                 reset DateStyle; reset IntervalStyle; reset TimeZone",
                "insert into rty_t(u, j, jb, ine, ci, ma, bi, vb, p) values (gen_random_uuid(), '{\"a\" : 1}', \
                 '{\"b\":[null,1.50]}', '::1/64', '10/8', '08:00:2b:01:02:03', '101', '1', '(1.5,-2)')",
                "insert into rty_t(ia, ta) values ('[2:3]={1,NULL}', '{\"a,b\",NULL,\"\"}'), (null, '{{a},{b}}')",
                "update rty_t set f8 = random(), tsz = clock_timestamp(), ia = ia || 7 where id = 5",
                "update rty_t set ia[3] = (random() * 9)::int where id = 5",
                "update rty_t set (t, i4) = (select md5(random()::text), 5) where id = 1",
                "insert into rty_u(id, mood) values (1, 'sad')",
                "insert into rty_u(id, x, r, rc) values (2, '<a/>', '[1,5)', 'rty_t')",
                "update rty_u set at = clock_timestamp() where id = 2",
            ],
        )
        .await;
    });
}

#[test]
fn who_may_write_needs_no_right_to_read() {
    run(async {
        let (cluster, app) = ready(
            "create table rig_t(id serial primary key, v text, at timestamptz default now()); \
             revoke select on rig_t from app; \
             create table rig_c(id serial primary key, v text, at timestamptz default now()); \
             revoke select on rig_c from app; grant select (v) on rig_c to app",
        )
        .await;
        app.run("insert into rig_t(v) values ('unseen')").await;
        app.run("insert into rig_c(v) values ('half seen') returning v").await;
        app.fails("insert into rig_t(v) values ('x') returning id", "42501").await;
        app.run("grant select on rig_t to app").await;
        assert_eq!(app.one("insert into rig_t(v) values ('seen') returning v").await, "seen");
        app.run("revoke select on rig_t from app").await;
        app.run("insert into rig_t(v) values ('unseen again')").await;
        app.run("grant select on rig_t, rig_c to app").await;
        assert_eq!(app.one("select count(*) from rig_t").await, "3");
        cluster.same("rig_%").await;
    });
}

#[test]
fn a_column_that_comes_meanwhile_is_filled_once() {
    run(async {
        let (cluster, app) = ready(
            "create table rdd_t(id serial primary key, v text, at timestamptz default now())",
        )
        .await;
        let other = cluster.connect().await;
        for n in 0..5 {
            app.run("begin").await;
            app.run(&format!("alter table rdd_t add column c{n} float default random()")).await;
            let insert = format!("insert into rdd_t(v) values ('{n}')");
            let waits = other.run(&insert);
            let commits = async {
                tokio::time::sleep(std::time::Duration::from_millis(150)).await;
                app.run("commit").await;
            };
            within("the insert", secs(20), async { tokio::join!(waits, commits) }).await;
            assert_eq!(
                app.one(&format!("select count(*) from rdd_t where c{n} is null")).await,
                "0"
            );
        }
        cluster.same("rdd_%").await;
    });
}
