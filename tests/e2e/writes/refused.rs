//! What cannot be made the same is refused: with a SQLSTATE, the reason, and what to write instead.

use super::ready;
use crate::rig::cluster::direct;
use crate::rig::run;
use crate::rig::session::explain;

#[test]
fn refusals_say_why_and_leave_nothing() {
    run(async {
        let (cluster, app) = ready("create table no_t(id int primary key, v text)").await;
        for admin in cluster.admins().await {
            // Rights are not what these statements shall fail for.
            admin.run("grant pg_read_server_files, pg_write_server_files, pg_execute_server_program to app").await;
        }
        if direct() {
            return;
        }
        for sql in [
            "copy no_t from '/etc/passwd'",
            "copy no_t from program 'echo 1'",
            "copy no_t to '/tmp/lockstep-none'",
            "select lo_create(0)",
            "select lo_from_bytea(0, 'x')",
            "select lo_creat(-1)",
            "create database no_such",
            "create tablespace no_such location '/tmp'",
            "alter system set work_mem to '4MB'",
            "prepare transaction 'x'",
            "begin; insert into no_t values (1, 'x'); prepare transaction 'x'",
            "do $$ begin execute 'create table no_hidden(id int)'; insert into no_t values (1, random()); end $$",
            "create subscription no_sub connection 'host=none' publication p",
        ] {
            let refusal = app.simple_query(sql).await;
            let e = refusal.err().unwrap_or_else(|| panic!("{sql} went through"));
            let db = e.as_db_error().unwrap_or_else(|| panic!("{sql} ended the connection: {e:?}"));
            assert_eq!(db.code().code().len(), 5, "{}", explain(&e));
            assert_ne!(db.code().code(), "XX000", "{sql} is refused on purpose: {}", explain(&e));
            app.run("rollback").await;
        }
        // Those that the proxy itself refuses carry a hint.
        for sql in [
            "copy no_t from '/etc/passwd'",
            "select lo_create(0)",
            "do $$ begin execute 'create table no_hidden(id int)'; insert into no_t values (1, random()); end $$",
        ] {
            let e = app.simple_query(sql).await.unwrap_err();
            assert!(
                e.as_db_error().is_some_and(|db| db.hint().is_some()),
                "no hint: {}",
                explain(&e)
            );
        }
        assert_eq!(app.one("select count(*) from no_t").await, "0");
        cluster.same("no_%").await;
    });
}

#[test]
fn a_refusal_inside_a_transaction_aborts_it_everywhere() {
    run(async {
        let (cluster, app) = ready("create table halt_t(id int primary key)").await;
        if direct() {
            return;
        }
        app.run("begin; insert into halt_t values (1)").await;
        assert!(app.simple_query("select lo_create(0)").await.is_err());
        app.fails("insert into halt_t values (2)", "25P02").await;
        app.run("commit").await;
        assert_eq!(app.one("select count(*) from halt_t").await, "0");
        app.run("begin; insert into halt_t values (3); savepoint s").await;
        assert!(app.simple_query("select lo_create(0)").await.is_err());
        app.run("rollback to s; insert into halt_t values (4); commit").await;
        assert_eq!(app.column("select id from halt_t order by id").await, ["3", "4"]);
        cluster.same("halt_%").await;
    });
}

#[test]
fn an_unparsable_statement_is_the_servers_to_refuse() {
    run(async {
        let (cluster, app) = ready("create table parse_t(id int primary key)").await;
        app.fails("insrt into parse_t values (1)", "42601").await;
        app.fails("insert into parse_t values (1", "42601").await;
        app.fails("select 1 \\ 2", "42601").await;
        app.run("/* lead */ -- more\n insert /* x */ into parse_t -- y\n values (1)").await;
        app.run("INSERT INTO public.\"parse_t\" VALUES (2);;").await;
        cluster.same("parse_%").await;
    });
}
