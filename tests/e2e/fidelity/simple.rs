//! The simple protocol: one string, any number of statements.

use super::Pair;
use crate::rig::run;
use crate::rig::wire::query;

#[test]
fn answers_are_those_of_one_server() {
    run(async {
        let mut pair = Pair::open().await;
        pair.queries(&[
            "select 1",
            "",
            ";",
            "  -- nothing but a comment",
            ";;select 1;;select 2;",
            "select 1 as a, 'x'::text as b, null::int as c, true, 1.50::numeric(10,2), '{1,2}'::int[]",
            "select 'ä€😀', E'\\t', $q$dollar;quoted$q$",
            "values (1, 'a'), (2, 'b')",
            "select * from generate_series(1, 5000) g",
            "select repeat('x', 3000000)",
            "select where false",
            "select",
            "show standard_conforming_strings",
            "explain (costs off) select 1",
            "explain (costs off) select * from generate_series(1, 3) g order by g desc",
            "select date '2024-02-29' + 1, interval '1 mon 2 days', timestamptz '2024-01-01 00:00+00'",
            "select float8 '0.1' + 0.2, 'NaN'::float4, '\\x00ff'::bytea, '{\"a\":1}'::jsonb, inet '::1'",
        ])
        .await;
    });
}

#[test]
fn command_tags_are_those_of_one_server() {
    run(async {
        let mut pair = Pair::open().await;
        pair.queries(&[
            "create table tag_t(id int primary key, v text)",
            "insert into tag_t values (1, 'a'), (2, 'b'), (3, 'c')",
            "insert into tag_t values (3, 'd') on conflict do nothing",
            "insert into tag_t values (3, 'd') on conflict (id) do update set v = excluded.v",
            "update tag_t set v = v || 'x' where id >= 2",
            "update tag_t set v = 'y' where id = 99",
            "update tag_t set v = 'z' where id = 1 returning id, v",
            "delete from tag_t where id = 3 returning *",
            "delete from tag_t where false",
            "select * from tag_t order by id",
            "table tag_t",
            "create table tag_copy as select * from tag_t",
            "select * into tag_into from tag_t",
            "create view tag_view as select v from tag_t",
            "create index tag_i on tag_t(v)",
            "create sequence tag_s",
            "alter table tag_t add column n int default 5",
            "comment on table tag_t is 'x'",
            "grant select on tag_t to app2",
            "revoke select on tag_t from app2",
            "merge into tag_t using (values (1), (7)) s(i) on id = s.i when matched then update set n = 6
             when not matched then insert values (s.i, 'm')",
            "with d as (delete from tag_t where id = 7 returning *) select count(*) from d",
            "truncate tag_into",
            "drop view tag_view",
            "drop table tag_copy, tag_into",
            "do $$ begin perform 1; end $$",
            "analyze tag_t",
            "begin",
            "savepoint s",
            "release s",
            "commit",
        ])
        .await;
        pair.cluster.same("tag%").await;
    });
}

#[test]
fn a_string_of_statements_is_one_transaction_unless_it_says_otherwise() {
    run(async {
        let mut pair = Pair::with("create table multi_t(id int primary key)").await;
        pair.queries(&[
            "insert into multi_t values (1); select count(*) from multi_t; insert into multi_t values (2)",
            // The error in the middle takes back what stands before it, and what follows does not
            // run.
            "insert into multi_t values (3); insert into multi_t values (1); insert into multi_t values (4)",
            "select * from multi_t order by id",
            "insert into multi_t values (5); select 1/0; insert into multi_t values (6)",
            "begin; insert into multi_t values (7); commit; insert into multi_t values (8); select 1/0",
            "select * from multi_t order by id",
            "begin; insert into multi_t values (9)",
            "insert into multi_t values (10); rollback; insert into multi_t values (11)",
            "select * from multi_t order by id",
            "insert into multi_t values (12); commit; insert into multi_t values (13)",
            "insert into multi_t values (14); rollback; select 1",
            "insert into multi_t values (15); begin; insert into multi_t values (16); select 1/0",
            "rollback",
            "create table multi_u(id int); insert into multi_u values (1); drop table multi_u",
            "select 1; select nonsense; select 2",
            "select 1; syntax error here; select 2",
            "insert into multi_t values (17); savepoint s",
            "select * from multi_t order by id",
        ])
        .await;
        pair.cluster.same("multi%").await;
    });
}

#[test]
fn errors_and_notices_arrive_whole() {
    run(async {
        let mut pair = Pair::with(
            "create table note_t(id int primary key, ref int references note_t, n int not null check (n > 0));
             create function note_f() returns trigger language plpgsql as $$
             begin raise notice 'row %', new.id using detail = 'd', hint = 'h'; return new; end $$;
             create trigger note_trigger before insert on note_t for each row execute function note_f()",
        )
        .await;
        pair.queries(&[
            "insert into note_t values (1, null, 1)",
            "insert into note_t values (1, null, 1)",
            "insert into note_t values (2, 77, 1)",
            "insert into note_t values (2, null, 0)",
            "insert into note_t values (2, null, null)",
            "insert into note_t values (2, null, 'x')",
            "select * from note_missing",
            "select missing from note_t",
            "selec 1",
            "select 1 from from",
            "select 'unterminated",
            "drop table if exists note_missing",
            "create table if not exists note_t(id int)",
            "do $$ begin raise warning 'w %', 1; raise info 'to the client'; raise log 'not to the client'; end $$",
            "do $$ begin raise exception 'own' using errcode = 'XX123', detail = 'why', hint = 'what', column = 'c',
             table = 't', schema = 's', constraint = 'k', datatype = 'y'; end $$",
            "set client_min_messages to error",
            "drop table if exists note_missing",
            "reset client_min_messages",
        ])
        .await;
        pair.cluster.same("note%").await;
    });
}

#[test]
fn queries_sent_ahead_are_answered_in_order() {
    run(async {
        let mut pair = Pair::with("create table ahead_t(id int primary key)").await;
        let mut bytes = Vec::new();
        for i in 0..40 {
            bytes.extend(query(&format!("insert into ahead_t values ({})", i % 30)));
            bytes.extend(query(&format!("select {i}, count(*) from ahead_t")));
        }
        let lines = pair.talk(&bytes, 80).await;
        assert_eq!(lines.iter().filter(|l| l.starts_with("E ERROR 23505")).count(), 10);
        pair.cluster.same("ahead%").await;
    });
}
