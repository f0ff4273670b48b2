//! Scenarios 29 to 31, 43, 44, 47, 49 and 59: what a statement means hangs on what came before it.

use super::{ready, same_after};
use crate::rig::session::{code_of, explain};
use crate::rig::{run, runtime};

#[test]
fn names_change_their_meaning_in_the_middle_of_a_text() {
    run(async {
        let (cluster, app) = ready(
            "create table mid_t(id serial primary key, v text, r float8 default random());
             create schema mid_s; create table mid_s.mid_t(id serial primary key, v text, r float8 default random())",
        )
        .await;
        for sql in [
            "set search_path to mid_s, public; insert into mid_t(id, v) values (1, 's'), (2, 's'); insert into mid_t(id, v, r) values (3, 's', 0); update mid_t set v = 's2' where id = 1; set search_path to public; insert into mid_t(id, v) values (1, 'p')",
            "begin; set local search_path to mid_s; insert into mid_t(id, v, r) values (4, 's', 0); delete from mid_t where id = 2; commit; insert into mid_t(id, v, r) values (4, 'p', 0)",
            "select set_config('search_path', 'mid_s', false); insert into mid_t(id, v, r) values (5, 's', 0); reset search_path; insert into mid_t(id, v, r) values (5, 'p', 0)",
            "create temp table mid_t(id int primary key, v text); insert into mid_t values (9, 'temp'); drop table mid_t; insert into mid_t(id, v, r) values (9, 'p', 0)",
            "create table mid_n(id int primary key, v text default random()::text); insert into mid_n(id) values (1); update mid_n set v = v || random() where id = 1",
            "alter table mid_t add column w int default 5; insert into mid_t(id, v, r) values (10, 'w', 0); update mid_t set w = w + 1 where id = 10",
            "alter table mid_t alter column w set default (random() * 1000)::int; insert into mid_t(id, v, r) values (11, 'w', 0)",
            "prepare mid_p as insert into mid_t(id, v) values ($1, $2); execute mid_p(12, 'x'); set search_path to mid_s; execute mid_p(13, 'y'); reset search_path; deallocate mid_p",
        ] {
            app.run(sql).await;
            cluster.same("mid_%").await;
        }
        assert_eq!(
            app.column("select id from mid_s.mid_t where r = 0 order by id").await,
            ["3", "4", "5"]
        );
        assert_eq!(
            app.column("select id from mid_t where r = 0 order by id").await,
            ["4", "5", "9", "10", "11"]
        );
    });
}

#[test]
fn upserts_on_two_keys_have_the_same_winner() {
    run(async {
        let (cluster, app) = ready("create table upsert_t(a int primary key, b int unique, v text, n int default 0, at timestamptz default clock_timestamp())").await;
        let mut work = Vec::new();
        for client in 0..5 {
            let app = cluster.connect().await;
            work.push(runtime().spawn(async move {
                for round in 0..12 {
                    let (a, b) = ((client + round) % 7, (client * 3 + round) % 5);
                    for sql in [
                        format!("insert into upsert_t(a, b, v) values ({a}, {b}, 'c{client}') on conflict (a) do update set v = excluded.v, n = upsert_t.n + 1"),
                        format!("insert into upsert_t(a, b, v) values ({a} + 10, {b} + 10, 'd{client}') on conflict do nothing"),
                        format!("insert into upsert_t(a, b, v, at) values ({b}, {a}, 'e', 'epoch') on conflict (b) do update set n = 100 returning v"),
                        format!("delete from upsert_t where b = {b} and n > 3"),
                    ] {
                        if let Err(e) = app.simple_query(&sql).await {
                            let code = code_of(&e).unwrap_or_default();
                            assert!(["23505", "40P01", "40001"].contains(&code.as_str()), "{sql}: {}", explain(&e));
                        }
                    }
                }
            }));
        }
        for one in work {
            one.await.unwrap();
        }
        assert_ne!(app.one("select count(*) from upsert_t").await, "0");
        cluster.same("upsert_%").await;
    });
}

#[test]
fn rows_named_by_a_cursor_a_sample_or_a_lock() {
    run(async {
        same_after(
            "picked_",
            "create table picked_t(id int primary key, v text, r float8 default random()); insert into picked_t(id, v) select g, 'row ' || g from generate_series(1, 60) g",
            &[
                "begin; declare c cursor for select * from picked_t where id > 10 for update; fetch 3 from c; update picked_t set r = random() where current of c; move 2 in c; fetch 1 from c; delete from picked_t where current of c; commit",
                "begin; declare c scroll cursor with hold for select id from picked_t order by id; fetch 2 from c; commit; fetch 2 from c; close c; update picked_t set v = 'after' where id = 3",
                "delete from picked_t where id in (select id from picked_t tablesample bernoulli (30))",
                "update picked_t set v = 'sampled' where id in (select id from picked_t tablesample system (50) repeatable (1))",
                "begin; select * from picked_t where id = (select min(id) from picked_t) for no key update nowait; update picked_t set v = 'locked' where id = (select min(id) from picked_t); commit",
                "with gone as (delete from picked_t where ctid = (select ctid from picked_t order by random() limit 1) returning *) insert into picked_t(id, v) select id + 1000, v from gone",
                "merge into picked_t t using (values (1, 'm'), (2001, 'n')) s(id, v) on t.id = s.id when matched then update set v = s.v, r = random() when not matched then insert (id, v) values (s.id, s.v)",
            ],
        )
        .await;
    });
}

#[test]
fn transactions_that_say_otherwise_than_they_do() {
    run(async {
        let (cluster, app) = ready(
            "create table hidden_t(id int primary key, r float8 default random());
             create procedure hidden_p(n int) language plpgsql as $$ begin insert into hidden_t(id) values (n); commit; end $$;
             create function hidden_stable(n int) returns int language plpgsql stable as $$ begin insert into hidden_t(id) values (n); return n; end $$;
             create function hidden_volatile(n int) returns int language plpgsql as $$ begin insert into hidden_t(id) values (n); return n; end $$",
        )
        .await;
        app.run("start transaction read only").await;
        app.fails("insert into hidden_t(id) values (1)", "25006").await;
        app.run("rollback; begin; insert into hidden_t(id) values (2); commit and chain; insert into hidden_t(id) values (3); rollback and chain; insert into hidden_t(id) values (4); commit").await;
        app.run("begin; set transaction read write; insert into hidden_t(id) values (5); end")
            .await;
        app.fails("call hidden_p(6)", "2D000").await;
        app.fails("begin; call hidden_p(7)", "2D000").await;
        app.run("rollback").await;
        app.fails("select hidden_stable(8)", "0A000").await;
        app.run("select hidden_volatile(9)").await;
        app.run("explain analyze insert into hidden_t(id) values (10)").await;
        app.run("/* select */ with x as (select 1) insert into hidden_t(id) select 11 from x")
            .await;
        app.run("set default_transaction_read_only to on").await;
        app.fails("insert into hidden_t(id) values (12)", "25006").await;
        app.run("reset default_transaction_read_only").await;
        assert_eq!(
            app.column("select id from hidden_t order by id").await,
            ["2", "4", "5", "9", "10", "11"]
        );
        cluster.same("hidden_%").await;
    });
}
