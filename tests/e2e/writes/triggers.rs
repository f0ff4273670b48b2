//! Writes out of the statement's sight: triggers, functions, rules, DO, CALL, CTEs.

use super::{ready, same_after};
use crate::rig::run;

#[test]
fn triggers_fire_once() {
    run(async {
        same_after(
            "trig_",
            "create table trig_t(id serial primary key, v text, updated timestamptz, noise float8);
             create table trig_log(id bigserial primary key, what text, old text, new text, at timestamptz default clock_timestamp(), r float8 default random());
             create function trig_touch() returns trigger language plpgsql as $$ begin new.updated := clock_timestamp(); new.noise := random(); return new; end $$;
             create function trig_audit() returns trigger language plpgsql as $$ begin
                insert into trig_log(what, old, new) values (tg_op, to_jsonb(old)::text, to_jsonb(new)::text); return null; end $$;
             create function trig_stmt() returns trigger language plpgsql as $$ begin insert into trig_log(what) values ('statement ' || tg_op); return null; end $$;
             create trigger touch before insert or update on trig_t for each row execute function trig_touch();
             create trigger audit after insert or update or delete on trig_t for each row execute function trig_audit();
             create trigger stmt after insert or update or delete or truncate on trig_t for each statement execute function trig_stmt()",
            &[
                "insert into trig_t(v) values ('a'), ('b'), ('c')",
                "insert into trig_t values (100, 'keyed', null, null)",
                "update trig_t set v = 'x' where id = 1",
                "update trig_t set v = 'y' where id = 777",
                "update trig_t set v = v || '!'",
                "delete from trig_t where id = 2",
                "begin; insert into trig_t(v) values ('gone'); rollback",
                "insert into trig_t values (100, 'again', null, null) on conflict (id) do update set v = 'merged'",
                "truncate trig_t",
            ],
        )
        .await;
        let (_, app) = ready("").await;
        assert_eq!(
            app.one("select count(*) from trig_log where what not like 'statement%'").await,
            "11"
        );
    });
}

#[test]
fn functions_write_wherever_they_are_called() {
    run(async {
        same_after(
            "func_",
            "create table func_t(id serial primary key, v text, at timestamptz default clock_timestamp());
             create function func_add(text) returns int language sql as $$ insert into func_t(v) values ($1) returning id $$;
             create function func_liar(text) returns int language plpgsql stable as $$ declare n int; begin
                execute 'insert into func_t(v) values ($1) returning id' into n using $1; return n; exception when others then return -1; end $$;
             create procedure func_proc(n int) language plpgsql as $$ begin for i in 1..n loop insert into func_t(v) values ('proc ' || random()); end loop; end $$;
             create view func_view as select func_add('view') as id;
             create function func_many(n int) returns setof func_t language plpgsql as $$ begin
                return query insert into func_t(v) select 'many' from generate_series(1, n) returning *; end $$",
            &[
                "select func_add('plain')",
                "select * from func_add('from')",
                "select 1 where func_add('where') > 0",
                "select coalesce(null, func_add('coalesce'))",
                "select * from func_view",
                "select count(*) from func_many(4)",
                "select func_liar('liar')",
                "call func_proc(3)",
                "do $$ begin perform func_add('do'); update func_t set v = v || random() where id % 2 = 0; end $$",
                "explain (analyze, costs off, timing off, summary off) insert into func_t(v) values ('explained')",
                "explain insert into func_t(v) values ('not run')",
                "with a as (insert into func_t(v) values ('cte') returning id), b as (update func_t set v = 'b' where id = 1 returning id) select * from a, b",
                "with d as (delete from func_t where v = 'many' returning *) insert into func_t(v) select v || ' moved' from d",
                "prepare func_p as select func_add($1)",
                "execute func_p('prepared')",
                "values (func_add('values'))",
                "merge into func_t using (values (1, 'm'), (5000, 'n')) s(id, v) on func_t.id = s.id when matched then update set v = s.v || clock_timestamp() when not matched then insert values (s.id, s.v, default)",
            ],
        )
        .await;
    });
}

#[test]
fn a_written_view_and_a_rule_reach_their_tables() {
    run(async {
        same_after(
            "rule_",
            "create table rule_t(id serial primary key, v text, r float8 default random());
             create table rule_log(v text, at timestamptz default clock_timestamp());
             create view rule_view as select id, v from rule_t where v <> 'hidden';
             create view rule_instead as select id, v from rule_t;
             create rule log as on insert to rule_t do also insert into rule_log values ('new');
             create function rule_f() returns trigger language plpgsql as $$ begin insert into rule_t(v) values (new.v || ' by trigger'); return new; end $$;
             create trigger t instead of insert on rule_instead for each row execute function rule_f()",
            &[
                "insert into rule_view(v) values ('a'), ('b')",
                "update rule_view set v = v || random() where v like 'a%'",
                "delete from rule_view where v = 'b'",
                "insert into rule_instead(v) values ('x')",
                "insert into rule_t(v) values ('direct')",
            ],
        )
        .await;
    });
}

#[test]
fn errors_inside_functions_leave_what_they_should() {
    run(async {
        let (cluster, app) = ready(
            "create table exc_t(id int primary key, r float8 default random());
             create function exc_f(n int) returns text language plpgsql as $$ begin
                insert into exc_t values (n);
                begin insert into exc_t values (n + 1); insert into exc_t values (n); exception when unique_violation then return 'caught'; end;
                return 'no error'; end $$",
        )
        .await;
        assert_eq!(app.one("select exc_f(1)").await, "caught");
        app.fails("select exc_f(1)", "23505").await;
        app.run("begin; savepoint s").await;
        app.fails("select exc_f(1)", "23505").await;
        app.run("rollback to s; select exc_f(10); commit").await;
        assert_eq!(app.column("select id from exc_t order by id").await, ["1", "10"]);
        cluster.same("exc_%").await;
    });
}
