//! Scenarios 19, 20 and 62: DDL inside functions, procedures, triggers and DO blocks.

use crate::rig::cluster::{Cluster, Options};
use crate::rig::{run_within, runtime, secs};

/// What the tests of this file call.
const SETUP: &str = "
    create table deep_t(id serial primary key, v text, at timestamptz);
    create table deep_days(day date not null, v text) partition by range (day);
    create function deep_part(d date) returns text language plpgsql as $$
      declare name text := 'deep_days_' || to_char(d, 'YYYYMMDD');
      begin
        execute format('create table if not exists %I partition of deep_days for values from (%L) to (%L)', name, d, d + 1);
        insert into deep_t(v) values ('made ' || name);
        return name;
      end $$;
    create procedure deep_proc(n int) language plpgsql as $$
      begin
        for i in 1..n loop execute format('create table deep_p%s(id serial primary key, v int default %s)', i, i); end loop;
        insert into deep_p1(v) select g from generate_series(1, 20) g;
      end $$;
    create function deep_route() returns trigger language plpgsql as $$
      begin
        if to_regclass('deep_r_' || new.v) is null then execute format('create table deep_r_%s(id int, v text)', new.v); end if;
        execute format('insert into deep_r_%s values ($1, $2)', new.v) using new.id, new.v;
        return new;
      end $$";

#[test]
fn ddl_out_of_sight_is_the_same_everywhere() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(SETUP).await;
        for sql in [
            "do $$ begin execute 'create table deep_a(id int primary key, v text)'; insert into deep_a select g, g::text from generate_series(1, 5) g; end $$",
            "do $$ begin if not exists (select from information_schema.columns where table_name = 'deep_a' and column_name = 'w') then alter table deep_a add column w int not null default 7; end if; end $$",
            "do $$ begin if not exists (select from information_schema.columns where table_name = 'deep_a' and column_name = 'w') then alter table deep_a add column w int not null default 7; end if; end $$",
            "select deep_part('2024-01-01')",
            "select deep_part(d::date) from generate_series(date '2024-02-01', '2024-02-05', interval '1 day') d",
            "insert into deep_days values ('2024-02-03', 'x'), ('2024-01-01', 'y')",
            "call deep_proc(3)",
            "insert into deep_p1(v) values (100); insert into deep_p2 default values",
            "do $$ begin create table deep_as as select id, v from deep_a; create materialized view deep_m as select count(*) from deep_a; alter table deep_a alter column id type bigint; end $$",
            "do $$ begin begin create table deep_lost(id int); raise exception 'no'; exception when others then insert into deep_t(v) values ('caught'); end; create index deep_i on deep_t(v); end $$",
            "do $$ begin create temp table deep_tmp(id int) on commit drop; insert into deep_tmp values (1); insert into deep_t(v) select id::text from deep_tmp; create table deep_with_temp(id int); end $$",
            "create trigger route before insert on deep_t for each row execute function deep_route(); ",
            "insert into deep_t(v) values ('one'), ('two'), ('one')",
            "insert into deep_t(v) values ('two')",
            "drop trigger route on deep_t",
            "do $$ begin drop table deep_p3; comment on table deep_a is 'c'; grant select on deep_a to app2; end $$",
        ] {
            app.run(sql).await;
            cluster.assert_all_equal().await;
        }
        let made = app.query("select deep_part($1::text::date)", &[&"2024-03-01"]).await.unwrap();
        assert_eq!(made[0].get::<_, String>(0), "deep_days_20240301");
        assert_eq!(app.one("select count(*) from deep_r_one").await, "2");
        cluster.assert_all_equal().await;
    });
}

#[test]
fn ddl_out_of_sight_inside_transactions() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(SETUP).await;
        for sql in [
            "begin; select deep_part('2024-01-01'); insert into deep_days values ('2024-01-01', 'first'); commit",
            "begin; insert into deep_t(v, at) values ('before', now()); select deep_part('2024-01-02'); insert into deep_days values ('2024-01-02', 'after'); commit",
            "begin; insert into deep_t(v) values ('gone'); select deep_part('2024-01-03'); rollback",
            "begin; update deep_t set v = v || random(); savepoint s; select deep_part('2024-01-04'); rollback to s; select deep_part('2024-01-05'); release s; select deep_part('2024-01-06'); commit",
            "begin; create table deep_c(id int); do $$ begin alter table deep_c add v int default 3; insert into deep_c values (1); end $$; alter table deep_c add w text; commit",
            "begin isolation level repeatable read; select deep_part('2024-01-07'); commit",
            "begin; set local search_path to public; do $$ begin create table deep_path(id int); end $$; commit",
        ] {
            app.run(sql).await;
            cluster.assert_all_equal().await;
        }
        app.run("begin; insert into deep_t(v) values ('x')").await;
        app.fails("do $$ begin create table deep_bad(id int); insert into deep_t(at) values (clock_timestamp()); end $$", "0A000").await;
        app.fails("select 1", "25P02").await;
        app.run("rollback; begin; insert into deep_t(v) values ('y'); savepoint s").await;
        app.fails("do $$ begin create table deep_bad(id int); perform 1 / 0; end $$", "22012")
            .await;
        app.run("rollback to s; insert into deep_t(v) values ('z'); commit").await;
        app.run("select deep_part('2024-02-01')").await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn what_differs_is_refused_and_leaves_nothing() {
    run_within(secs(60), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(SETUP).await;
        for sql in [
            "do $$ begin create table deep_no(id int); insert into deep_t(at) values (clock_timestamp()); end $$",
            "do $$ begin create table deep_no(id int, r float8); insert into deep_no values (1, random()); end $$",
            "do $$ begin create table deep_no as select random() r; end $$",
            "do $$ begin create materialized view deep_no as select random() r; end $$",
            "do $$ begin alter table deep_t add column r float8 default random(); end $$",
            "do $$ begin insert into deep_t(v) values ('fixed'); alter table deep_t add column ts timestamptz default clock_timestamp(); end $$",
            "do $$ begin alter table deep_t add column ts timestamptz default now(); end $$",
            "do $$ begin execute format('create table deep_no_%s(id int)', (random() * 1e9)::int); end $$",
            "do $$ begin execute format('create table deep_no(id int default %s)', (random() * 1e9)::int); end $$",
        ] {
            app.run("insert into deep_t(v) values ('row')").await;
            let refusal = app.fails(sql, "0A000").await;
            assert!(refusal.hint().is_some() && refusal.detail().is_some(), "{refusal:?}");
            cluster.assert_all_equal().await;
        }
        app.run("insert into deep_t(v) values ('on')").await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn a_server_that_was_away_runs_it_too() {
    run_within(secs(120), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(SETUP).await;
        for _ in 0..2 {
            // The second time it is the one that leads.
            let away = if app.one("select count(*) from deep_t").await == "0" {
                cluster.follower().await
            } else {
                cluster.leader().await
            };
            let month = app.one("select count(*) + 1 from deep_t").await;
            cluster.server(&away).kill9();
            // The former session may have state where it was; another one has not.
            let app = cluster.connect().await;
            app.run("insert into deep_t(v, at) values ('before', clock_timestamp())").await;
            app.run(&format!("select deep_part('2024-{month}-01'); begin; insert into deep_t(v) values ('x'); select deep_part('2024-{month}-02'); insert into deep_days values ('2024-{month}-01', 'y'), ('2024-{month}-02', 'y'); commit")).await;
            app.run("insert into deep_t(v, at) values ('after', clock_timestamp()); update deep_t set v = v || random()").await;
            app.run("do $$ begin execute 'create table if not exists deep_once(id serial primary key, v text)'; insert into deep_once(v) values ('a'), ('b'); end $$").await;
            cluster.server(&away).start();
            cluster.wait_active(&away).await;
            app.run("insert into deep_once(v) values ('c'); insert into deep_t(v) values ('end')")
                .await;
            cluster.assert_all_equal().await;
        }
    });
}

#[test]
fn a_server_that_would_do_something_else_stays_out() {
    run_within(secs(60), async {
        let cluster = Options::servers(3).set("cluster.reactivate", "\"manual\"").start().await;
        let app = cluster.connect().await;
        app.run(SETUP).await;
        let odd = cluster.follower().await;
        cluster.console(&format!("DEACTIVATE {odd}")).await;
        app.run("select deep_part('2024-01-01')").await;
        let spoil = "set session_replication_role = replica; insert into deep_t(v) values ('of its own'); create table deep_days_20240101(id int)";
        cluster.server(&odd).admin().await.run(spoil).await;
        cluster.console(&format!("ACTIVATE {odd}")).await;
        crate::rig::eventually("the reason", secs(20), || async {
            let reason = cluster.backends().await[&odd]["reason"].clone();
            if reason.contains("record") { Ok(()) } else { Err(reason) }
        })
        .await;
        cluster.assert_equal().await;
    });
}

#[test]
fn many_at_once_beside_other_writers() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(SETUP).await;
        let mut work = Vec::new();
        for n in 0..4 {
            let client = cluster.connect().await;
            work.push(runtime().spawn(async move {
                for round in 0..6 {
                    if n % 2 == 0 {
                        client.run(&format!("select deep_part('2024-0{}-1{round}')", n + 1)).await;
                    } else {
                        client.run("begin; insert into deep_t(v, at) values ('w', clock_timestamp()); update deep_t set v = v || random() where id % 3 = 0; commit").await;
                    }
                }
            }));
        }
        for one in work {
            one.await.unwrap();
        }
        // An open transaction is waited for, but not for ever.
        let open = cluster.connect().await;
        open.run("begin; insert into deep_t(v) values ('open')").await;
        app.fails("select deep_part('2025-01-01')", "55P03").await;
        open.run("commit").await;
        app.run("select deep_part('2025-01-01')").await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn a_server_dies_while_ddl_runs_out_of_sight() {
    run_within(secs(120), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run(SETUP).await;
        for leader in [false, true] {
            let name = if leader { cluster.leader().await } else { cluster.follower().await };
            let holder = cluster.server(&name).admin().await;
            holder.run("begin; lock table deep_days in access exclusive mode").await;
            let client = cluster.connect().await;
            let day = if leader { "2024-05-01" } else { "2024-04-01" };
            let making = runtime()
                .spawn(async move { client.run(&format!("select deep_part('{day}')")).await });
            tokio::time::sleep(secs(1)).await;
            cluster.server(&name).kill9();
            making.await.expect("the client sees nothing of it");
            app.run("insert into deep_t(v) values ('on')").await;
            cluster.server(&name).start();
            cluster.wait_active(&name).await;
            cluster.assert_all_equal().await;
        }
    });
}
