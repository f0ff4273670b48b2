//! Roles and their passwords: one verifier, the same on every server.

use crate::rig::cluster::{Cluster, Options};
use crate::rig::{run, run_within, secs, step};

const VERIFIERS: &str = "select rolname || ' ' || coalesce(rolpassword, '-') || ' ' || rolconnlimit from pg_authid where rolname like 'staff%' order by 1";

#[test]
fn a_password_becomes_one_verifier() {
    run(async {
        // Roles belong to the whole server, and `app` needs a right for this: a cluster of its own.
        let cluster = Options::servers(3).start().await;
        for admin in cluster.admins().await {
            admin.run("alter role app createrole").await;
        }
        let app = cluster.connect().await;
        for sql in [
            "create role staff_one login password 'first secret'",
            "create user staff_two with encrypted password 'second' connection limit 5",
            "alter role staff_one password 'another secret'",
            "create role staff_none nologin",
            "grant staff_none to staff_two",
            "alter role staff_two set work_mem to '9MB'",
            "begin; create role staff_gone password 'x'; rollback",
            "alter role staff_two password null",
            "alter role staff_one valid until '2040-01-01'",
        ] {
            step(sql);
            app.run(sql).await;
            let mut all = Vec::new();
            for admin in cluster.admins().await {
                all.push(admin.column(VERIFIERS).await);
            }
            assert!(all.windows(2).all(|w| w[0] == w[1]), "after {sql}: {all:?}");
            assert!(!all[0].iter().any(|row| row.contains("secret")));
        }
        // The password works on each, as the servers themselves see it.
        for server in &cluster.servers {
            server.connect_to("staff_one", "another secret", "app").await.run("select 1").await;
            let log = std::fs::read_to_string(&server.log).unwrap();
            assert!(!log.contains("another secret"), "the password is in a server's log");
        }
        if !crate::rig::cluster::direct() {
            let log = std::fs::read_to_string(cluster.proxy_log()).unwrap();
            assert!(!log.contains("secret"), "the password is in the proxy's log");
            let admin = cluster.first_server().await;
            let seen = "select count(*) from lockstep.journal where encode(entry, 'escape') like '%secret%'";
            assert_eq!(admin.one(seen).await, "0", "the password is in the journal");
        }
    });
}

#[test]
fn rights_are_granted_everywhere() {
    run(async {
        let cluster = Options::servers(3).start().await;
        let app = cluster.connect().await;
        app.run("create table right_t(id serial primary key, v text); insert into right_t(v) values ('x')").await;
        let second = cluster.connect_as("app2").await;
        second.fails("select * from right_t", "42501").await;
        second.fails("insert into right_t(v) values ('y')", "42501").await;
        app.run("grant select, insert on right_t to app2; grant usage on sequence right_t_id_seq to app2").await;
        for _ in 0..6 {
            second.run("select * from right_t").await;
        }
        second.run("insert into right_t(v) values ('y')").await;
        app.run("revoke select on right_t from app2").await;
        for _ in 0..6 {
            second.fails("select * from right_t", "42501").await;
        }
        second.fails("alter table right_t add x int", "42501").await;
        second.fails("drop table right_t", "42501").await;
        app.run(
            "alter default privileges grant select on tables to app2; create table right_u(id int)",
        )
        .await;
        second.run("select * from right_u").await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn roles_made_out_of_sight_are_made_everywhere() {
    run_within(secs(90), async {
        let cluster = Cluster::start(3).await;
        for admin in cluster.admins().await {
            admin.run("alter role app createrole").await;
        }
        let app = cluster.connect().await;
        let ask = "select string_agg(concat_ws(' ', rolname, rolcanlogin, rolconnlimit, rolconfig), ',' order by rolname) from pg_roles where rolname like 'unseen%'";
        for (sql, roles) in [
            (
                "do $$ begin if not exists (select from pg_roles where rolname = 'unseen_a') then create role unseen_a; end if; end $$",
                "unseen_a f -1",
            ),
            (
                "do $$ begin if not exists (select from pg_roles where rolname = 'unseen_a') then create role unseen_a; end if; end $$",
                "unseen_a f -1",
            ),
            (
                "begin; create table unseen_t(id int); do $$ begin create role unseen_b; grant unseen_a to unseen_b; grant select on unseen_t to unseen_b; end $$; commit",
                "unseen_a f -1,unseen_b f -1",
            ),
            (
                "do $$ begin alter role unseen_a connection limit 5; alter role unseen_a set work_mem to '8MB'; end $$",
                "unseen_a f 5 {work_mem=8MB},unseen_b f -1",
            ),
            (
                "do $$ begin revoke unseen_a from unseen_b; drop role unseen_a; end $$",
                "unseen_b f -1",
            ),
        ] {
            app.run(sql).await;
            for admin in cluster.admins().await {
                assert_eq!(admin.one(ask).await, roles, "{sql}");
            }
            cluster.assert_all_equal().await;
        }
        // Each server would make a verifier of its own.
        app.fails("do $$ begin create role unseen_c login password 'secret'; end $$", "0A000")
            .await;
        // A role that was made in sight a moment ago is no change of the statement after it.
        app.run("create role unseen_d").await;
        app.run("do $$ begin insert into unseen_t values ((random() * 100)::int); end $$").await;
        cluster.assert_all_equal().await;
    });
}
