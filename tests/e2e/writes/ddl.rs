//! Scenarios E: the schema is data too.

use super::{ready, same_after};
use crate::rig::cluster::Cluster;
use crate::rig::{run, run_within, secs};

#[test]
fn ddl_in_transactions_is_all_or_nothing() {
    run_within(secs(120), async {
        // The text of the whole schema is compared here: a cluster of its own.
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        for sql in [
            "create table ddl_t(id serial primary key, v text)",
            "begin; create table ddl_gone(id int primary key); insert into ddl_gone values (1); rollback",
            "begin; create table ddl_kept(id int primary key, r float8 default random()); insert into ddl_kept values (1); alter table ddl_kept add n int; commit",
            "begin; savepoint s; create table ddl_half(id int); rollback to s; create table ddl_other(id int); commit",
            "insert into ddl_kept(id) select g from generate_series(2, 50) g",
            "alter table ddl_kept add column at timestamptz default now(), add column k int default 5 not null",
            "alter table ddl_kept alter column n type bigint using id * 2; alter table ddl_kept rename column k to kk",
        ] {
            app.run(sql).await;
        }
        app.run("create index ddl_i on ddl_kept(n) where n > 4; create unique index on ddl_t(lower(v)); alter table ddl_t add constraint c check (v <> 'bad')").await;
        app.fails("create unique index on ddl_kept((1))", "23505").await;
        app.fails("create table ddl_t(id int)", "42P07").await;
        app.fails("alter table ddl_kept add constraint no check (id < 3)", "23514").await;
        app.run("create type ddl_e as enum ('a', 'b'); create table ddl_u(e ddl_e, r float8 default random())").await;
        app.run("alter type ddl_e add value 'c' after 'a'").await;
        app.run("insert into ddl_u(e) values ('c'), ('a')").await;
        app.run("create materialized view ddl_m as select v, count(*) from ddl_t group by v; insert into ddl_t(v) values ('x')").await;
        app.run("refresh materialized view ddl_m").await;
        app.run("create function ddl_f(a int, b text default 'q') returns text language sql as $$ select a || b $$; comment on function ddl_f is 'c'").await;
        app.run("create schema ddl_s; create table ddl_s.t(id int generated always as identity, v text collate \"C\"); grant select on ddl_s.t to app2; alter table ddl_s.t owner to app").await;
        app.run("alter table ddl_other rename to ddl_renamed; alter table ddl_renamed set schema ddl_s; drop table ddl_u cascade; drop type ddl_e").await;
        app.run("alter table ddl_t disable trigger user; alter table ddl_t enable trigger user; alter table ddl_t set (fillfactor = 70)").await;
        app.run("insert into ddl_s.t(v) values ('1'); insert into ddl_s.ddl_renamed values (1); update ddl_kept set n = n + 1, at = clock_timestamp()").await;
        cluster.assert_all_equal().await;
        // Every new table is captured as well as the old ones are.
        app.run("create table ddl_last as select g id, random() r from generate_series(1, 30) g; delete from ddl_last where random() < 0.5").await;
        app.run("create table ddl_like (like ddl_kept including all); insert into ddl_like select * from ddl_kept; update ddl_like set at = clock_timestamp() where id > 40").await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn filling_existing_rows_is_the_same_or_refused() {
    run(async {
        let (cluster, app) = ready("create sequence fill_n; create table fill_t(id int primary key); insert into fill_t select g from generate_series(1, 20) g").await;
        for change in [
            "alter table fill_t add column r float8 default random()",
            "alter table fill_t add column at timestamptz default clock_timestamp()",
            "alter table fill_t add column u uuid default gen_random_uuid()",
            "alter table fill_t add column s serial",
            "alter table fill_t add column i int generated always as identity",
            "alter table fill_t add column t timestamptz default now()",
            "alter table fill_t alter column id type bigint using id + (random() * 0)::int",
            "create table fill_as as select id, random() r, clock_timestamp() at from fill_t",
            "select id, random() r into fill_into from fill_t",
            "create table fill_seq as select nextval('fill_n'), id from fill_t",
            "create materialized view fill_mat as select id, random() r from fill_t",
            "create index on fill_t((id % 7))",
        ] {
            if let Err(e) = app.simple_query(change).await {
                let said = crate::rig::session::explain(&e);
                assert!(said.contains("hint"), "a refusal says what to write instead: {said}");
            }
            cluster.same("fill_%").await;
        }
    });
}

#[test]
fn what_runs_outside_transactions() {
    run(async {
        same_after(
            "outside_",
            "create table outside_t(id int primary key, v int); insert into outside_t select g, g % 7 from generate_series(1, 300) g",
            &[
                "vacuum outside_t",
                "vacuum (analyze, full) outside_t",
                "analyze",
                "create index concurrently outside_i on outside_t(v)",
                "reindex table outside_t",
                "reindex index concurrently outside_i",
                "cluster outside_t using outside_i",
                "drop index concurrently outside_i",
            ],
        )
        .await;
        let (cluster, app) = ready("").await;
        app.run("begin").await;
        app.fails("vacuum outside_t", "25001").await;
        app.run("rollback").await;
        for admin in cluster.admins().await {
            assert_eq!(admin.one("select count(*) from pg_index where not indisvalid").await, "0");
            assert_eq!(admin.one("select to_regclass('outside_i')").await, "NULL");
        }
    });
}

#[test]
fn a_failing_concurrent_index_leaves_the_same_everywhere() {
    run(async {
        let (cluster, app) = ready("create table conc_t(id int primary key, v int); insert into conc_t values (1, 1), (2, 1)").await;
        app.fails("create unique index concurrently conc_i on conc_t(v)", "23505").await;
        let mut left = Vec::new();
        for admin in cluster.admins().await {
            left.push(admin.rows("select indexrelid::regclass, indisvalid from pg_index where indrelid = 'conc_t'::regclass order by 1").await);
        }
        assert!(left.windows(2).all(|w| w[0] == w[1]), "{left:?}");
        cluster.same("conc_%").await;
        app.run("drop index if exists conc_i").await;
    });
}

#[test]
fn truncate_in_all_forms() {
    run(async {
        same_after(
            "trunc_",
            "create table trunc_p(id serial primary key, v int); create table trunc_c(id serial primary key, p int references trunc_p); create table trunc_x(v int);
             insert into trunc_p(v) select 1 from generate_series(1, 5); insert into trunc_c(p) select 1 from generate_series(1, 5); insert into trunc_x values (1)",
            &[
                "begin; truncate trunc_x; rollback",
                "begin; insert into trunc_x values (2); truncate trunc_x; insert into trunc_x values (3); commit",
                "truncate trunc_p restart identity cascade",
                "insert into trunc_p(v) values (9)",
                "begin; savepoint s; truncate trunc_p cascade; rollback to s; insert into trunc_p(v) values (10); commit",
                "do $$ begin truncate trunc_x; insert into trunc_x select random() * 1000; end $$",
            ],
        )
        .await;
    });
}

#[test]
fn other_sessions_see_new_columns_at_once() {
    run(async {
        let (cluster, app) = ready("create table fresh_t(id serial primary key, v int)").await;
        let other = cluster.connect().await;
        let insert = other.prepare("insert into fresh_t(v) values ($1)").await.unwrap();
        other.execute(&insert, &[&1]).await.unwrap();
        for round in 0..4 {
            app.run(&format!("alter table fresh_t add column c{round} float8 default random()"))
                .await;
            other.execute(&insert, &[&round]).await.unwrap();
            other.run(&format!("insert into fresh_t(v) values ({round}); update fresh_t set c{round} = random()")).await;
        }
        app.run("alter table fresh_t drop column v").await;
        let gone = other.execute(&insert, &[&9]).await.expect_err("the column is gone");
        crate::rig::session::expect_code("insert into a dropped column", &gone, "42703");
        other.run("insert into fresh_t default values").await;
        cluster.same("fresh_%").await;
    });
}
