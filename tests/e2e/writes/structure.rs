//! Tables of every make: no key, partitions, inheritance, generated columns, quoted names,
//! policies, cascades.

use super::{ready, same_after};
use crate::rig::run;

#[test]
fn tables_without_a_key() {
    run(async {
        same_after(
            "nokey_",
            "create table nokey_t(a int, b text, r float8 default random())",
            &[
                "insert into nokey_t(a, b) values (1, 'x'), (1, 'x'), (1, 'x'), (2, null), (null, null)",
                "insert into nokey_t select 7, 'twin', 0.5 from generate_series(1, 4)",
                "update nokey_t set b = 'one twin' where ctid = (select min(ctid) from nokey_t where b = 'twin')",
                "delete from nokey_t where ctid in (select ctid from nokey_t where b = 'twin' limit 1)",
                "update nokey_t set r = random() where a = 1",
                "update nokey_t set a = a + 1",
                "delete from nokey_t where b is null and a is null",
            ],
        )
        .await;
    });
}

#[test]
fn keys_that_change() {
    run(async {
        same_after(
            "move_",
            "create table move_t(id int primary key, v int, r float8 default random()); insert into move_t(id, v) select g, g from generate_series(1, 10) g;
             create table move_d(id int, u int, primary key (id) deferrable initially deferred); insert into move_d select g, g from generate_series(1, 6) g;
             create table move_u(a int not null, b text not null, c int, unique (a, b)); insert into move_u values (1, 'x', 1), (2, 'y', 2)",
            &[
                "update move_t set id = id + 100 where id > 8",
                "update move_t set id = -id, r = random()",
                "update move_t set id = 500 where id = -1",
                "update move_d set id = 7 - id",
                "update move_d set id = id % 6 + 1, u = u + 1",
                "update move_u set a = a + 1, b = b || random()::text where c = 2",
                "update move_u set c = 5 where a = 1 and b = 'x'",
                "delete from move_t where id in (500, -2)",
            ],
        )
        .await;
    });
}

#[test]
fn partitions_and_inheritance() {
    run(async {
        same_after(
            "portion_",
            "create table portion_t(id bigserial, day date not null, v text, r float8 default random(), primary key (id, day, v)) partition by range (day);
             create table portion_a partition of portion_t for values from ('2024-01-01') to ('2024-07-01');
             create table portion_b partition of portion_t for values from ('2024-07-01') to ('2025-01-01') partition by list (v);
             create table portion_b1 partition of portion_b for values in ('x', 'y'); create table portion_b2 partition of portion_b default;
             create table portion_p(id int, v text); create table portion_c(w int default 5) inherits (portion_p)",
            &[
                "insert into portion_t(day, v) select date '2024-01-01' + g * 10, case g % 3 when 0 then 'x' else 'z' end from generate_series(1, 30) g",
                "update portion_t set v = 'moved', r = random() where v = 'x'",
                "update portion_t set day = day + 150 where day < '2024-03-01'",
                "delete from portion_t where id % 4 = 0",
                "insert into portion_p values (1, 'p'); insert into portion_c values (2, 'c')",
                "update portion_p set v = v || random()",
                "update only portion_p set v = 'only'",
                "create table portion_n partition of portion_t for values from ('2025-01-01') to ('2026-01-01')",
                "insert into portion_t(day, v) values ('2025-05-05', 'new')",
                "alter table portion_t detach partition portion_a",
                "insert into portion_a(id, day, v) values (9999, '2024-02-02', 'alone')",
                "alter table portion_t attach partition portion_a for values from ('2024-01-01') to ('2024-07-01')",
                "update portion_t set v = 'end' where id = 9999",
                "truncate portion_b",
            ],
        )
        .await;
    });
}

#[test]
fn cascades_and_checks() {
    run(async {
        let (cluster, app) = ready(
            "create table casc_p(id int primary key, v int, r float8 default random());
             create table casc_c(id serial primary key, p int references casc_p on delete cascade on update cascade, n int references casc_p on delete set null on update cascade);
             create table casc_d(id serial primary key, c int default 1 references casc_p on delete set default on update cascade);
             create table casc_x(during int4range, exclude using gist (during with &&));
             insert into casc_p select g, g from generate_series(1, 20) g; insert into casc_c(p, n) select 1 + g % 20, 1 + (g * 7) % 20 from generate_series(1, 60) g;
             insert into casc_d(c) select g from generate_series(1, 20) g",
        )
        .await;
        for sql in [
            "update casc_p set id = id + 100 where id > 15",
            "delete from casc_p where id in (2, 3)",
            "delete from casc_p where v > 10 and random() < 0.5 and id <> 1",
            "update casc_p set id = 999 where id = 5",
            "insert into casc_x values ('[1,5)'), ('[5,9)')",
        ] {
            app.run(sql).await;
        }
        app.fails("insert into casc_x values ('[20,25)'), ('[4,6)')", "23P01").await;
        app.fails("insert into casc_c(p) values (4711)", "23503").await;
        app.run("begin; insert into casc_p values (3000, 1); savepoint s").await;
        app.fails("insert into casc_c(p) values (3000), (4711)", "23503").await;
        app.run("rollback to s; insert into casc_c(p) values (3000); commit").await;
        cluster.same("casc_%").await;
    });
}

#[test]
fn names_in_quotes_and_other_schemas() {
    run(async {
        let (cluster, app) = ready(
            "create schema \"Odd schema\"; create table \"Odd schema\".\"naming \"\"T\"\"\"(\"the id\" serial primary key, \"select\" text, \"A.b\" float8 default random());
             create table naming_t(id serial primary key, v text, r float8 default random());
             create schema naming_other; create table naming_other.naming_t(id serial primary key, v text, r float8 default random())",
        )
        .await;
        for sql in [
            "insert into \"Odd schema\".\"naming \"\"T\"\"\"(\"select\") values ('from'), ('where')",
            "update \"Odd schema\".\"naming \"\"T\"\"\" set \"A.b\" = random(), \"select\" = 'x' where \"the id\" > 1",
            "set search_path to naming_other, public; insert into naming_t(v) values ('other'), ('other')",
            "update naming_t set r = random() where v = 'other'; insert into public.naming_t(v) values ('public')",
            "set search_path to ''; update naming_other.naming_t set v = 'x' where id = 1",
            "set search_path to public; delete from naming_t where v = 'public'; insert into naming_t(v) select v from naming_other.naming_t",
        ] {
            app.run(sql).await;
        }
        assert_eq!(app.one("select count(*) from naming_other.naming_t").await, "2");
        cluster.same("naming%").await;
    });
}

#[test]
fn own_functions_of_the_same_name_do_not_confuse_the_proxy() {
    run(async {
        let (cluster, app) = ready(
            "create schema mask; create function mask.now() returns timestamptz language sql immutable as $$ select timestamptz '2000-01-01 00:00+00' $$;
             create function mask.md5(text) returns text language sql as $$ select 'mine' $$;
             create function mask.never(int, int) returns bool language sql as $$ select false $$;
             create operator mask.= (leftarg = int, rightarg = int, function = mask.never);
             create table mask_t(id int primary key, at timestamptz, v text, r float8 default random())",
        )
        .await;
        app.run("set search_path to mask, pg_catalog, public").await;
        app.run("insert into mask_t(id, at, v) values (1, now(), md5('x')), (2, clock_timestamp(), 'y')").await;
        app.run("update mask_t set r = random() where id > 1").await;
        app.run("reset search_path").await;
        assert_eq!(app.one("select v from mask_t where id = 1").await, "mine");
        app.run("set search_path to public").await;
        app.run("update mask_t set v = 'after' where id = 2").await;
        cluster.same("mask_%").await;
    });
}

#[test]
fn row_policies_hold_for_the_user_and_not_for_the_copy() {
    run(async {
        let (cluster, app) = ready(
            "create table policy_t(id serial primary key, owner text not null default current_user, v text, r float8 default random());
             alter table policy_t enable row level security; create policy own on policy_t using (owner = current_user);
             grant all on policy_t to app2; grant usage on sequence policy_t_id_seq to app2;
             alter table policy_t force row level security; insert into policy_t(v) values ('of app')",
        )
        .await;
        let second = cluster.connect_as("app2").await;
        second.run("insert into policy_t(v) values ('of app2'), ('more')").await;
        second.fails("insert into policy_t(owner, v) values ('app', 'forged')", "42501").await;
        assert_eq!(second.affected("update policy_t set v = v || random()").await, 2);
        assert_eq!(second.affected("delete from policy_t").await, 2);
        assert_eq!(app.one("select count(*) from policy_t").await, "1");
        second.run("insert into policy_t(v) values ('again')").await;
        second.fails("create table public.policy_none(id int)", "42501").await;
        cluster.same("policy_%").await;
    });
}
