//! SET in all its forms, and that no client inherits another's.

use super::Pair;
use crate::rig::cluster::Cluster;
use crate::rig::run;
use crate::rig::server::DATABASE;
use crate::rig::session::Session;

#[test]
fn settings_follow_transactions() {
    run(async {
        let mut pair = Pair::open().await;
        pair.queries(&[
            "set work_mem to '3MB'",
            "show work_mem",
            "begin; set work_mem to '4MB'",
            "rollback",
            "show work_mem",
            "begin",
            "set local work_mem to '5MB'",
            "show work_mem",
            "commit",
            "show work_mem",
            "begin",
            "savepoint s",
            "set work_mem to '6MB'",
            "rollback to s",
            "show work_mem",
            "select 1/0",
            "set work_mem to '7MB'",
            "commit",
            "show work_mem",
            "select set_config('work_mem', '8MB', false)",
            "show work_mem",
            "begin; select set_config('work_mem', '9MB', true); commit",
            "show work_mem",
            "reset work_mem",
            "show work_mem",
            "set local work_mem to '10MB'",
            "set nonsense to 1",
            "set app.tenant to 'x'",
            "show app.tenant",
            "select current_setting('app.tenant'), current_setting('app.none', true)",
            "set session characteristics as transaction isolation level repeatable read",
            "show transaction_isolation",
            "reset all",
            "show transaction_isolation",
            "set transaction_read_only to on",
            "begin; set transaction_read_only to on",
            "create table set_none(id int)",
            "rollback",
        ])
        .await;
    });
}

#[test]
fn reported_settings_are_reported() {
    run(async {
        let mut pair = Pair::open().await;
        pair.queries(&[
            "set timezone to 'Europe/Berlin'",
            "select timestamptz '2024-06-01 12:00+00'",
            "set datestyle to 'German'",
            "select date '2024-06-01'",
            "set client_encoding to 'LATIN1'",
            "select chr(228)",
            "set client_encoding to 'UTF8'",
            "set application_name to 'other'",
            "show application_name",
            "set intervalstyle to 'iso_8601'",
            "select interval '1 day 2 hours'",
            "set standard_conforming_strings to off",
            "select 'a\\\\b'",
            "begin; set timezone to 'Asia/Tokyo'; select now() is not null; rollback",
            "show timezone",
            "set session authorization default",
            "discard all",
            "show timezone",
        ])
        .await;
    });
}

#[test]
fn the_login_reports_what_a_server_reports() {
    run(async {
        let cluster = Cluster::shared().await;
        let port = Cluster::reference().await.port;
        let real = crate::rig::wire::Wire::open(port, "app", "app", DATABASE).await;
        let through = cluster.wire().await;
        assert_eq!(through.parameters, real.parameters);
        assert_ne!(through.secret.len(), 0, "no cancel key");
    });
}

#[test]
fn options_of_the_login_take_effect() {
    run(async {
        let cluster = Cluster::shared().await;
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(cluster.port).user("app").password("app").dbname(DATABASE);
        config.application_name("special").options("-c work_mem=7MB -csearch_path=pg_catalog");
        let session = Session::open_with(&config).await.expect("login with options");
        assert_eq!(session.one("show work_mem").await, "7MB");
        assert_eq!(session.one("show search_path").await, "pg_catalog");
        assert_eq!(session.one("show application_name").await, "special");
        session.run("set work_mem to '9MB'; reset work_mem").await;
        assert_eq!(
            session.one("show work_mem").await,
            "7MB",
            "RESET goes back to what the login asked for"
        );
        let plain = cluster.connect().await;
        assert_eq!(plain.one("show search_path").await, "\"$user\", public");
    });
}

#[test]
fn many_clients_on_few_connections_keep_to_themselves() {
    run(async {
        let cluster = Cluster::shared().await;
        cluster.connect().await.run("create schema leak_a; create schema leak_b").await;
        for schema in ["leak_a", "leak_b"] {
            let text = format!(
                "create table {schema}.which(v text); insert into {schema}.which values ('{schema}')"
            );
            cluster.connect().await.run(&text).await;
        }
        // More clients than a pool has connections, all with a session of their own.
        let mut clients = Vec::new();
        for i in 0..60 {
            let client = cluster.connect().await;
            let schema = if i % 2 == 0 { "leak_a" } else { "leak_b" };
            let zone = ["UTC", "Europe/Berlin", "Asia/Tokyo"][i % 3];
            client
                .run(&format!(
                    "set search_path to {schema}; set timezone to '{zone}'; set app.me to '{i}'"
                ))
                .await;
            client.run(&format!("prepare mine as select '{i}', v from which")).await;
            clients.push((client, i, schema, zone));
        }
        for round in 0..3 {
            for (client, i, schema, zone) in &clients {
                assert_eq!(client.one("show timezone").await, *zone, "round {round}, client {i}");
                assert_eq!(client.one("select v from which").await, *schema);
                assert_eq!(client.one("select current_setting('app.me')").await, i.to_string());
                let row = &client.rows("execute mine").await[0];
                assert_eq!(row[0].as_deref(), Some(i.to_string().as_str()));
                assert_eq!(row[1].as_deref(), Some(*schema));
            }
        }
        let fresh = cluster.connect().await;
        assert_eq!(fresh.one("select coalesce(current_setting('app.me', true), '')").await, "");
        assert_eq!(fresh.one("show timezone").await, "UTC");
        assert_eq!(fresh.one("show search_path").await, "\"$user\", public");
        fresh.fails("execute mine", "26000").await;
    });
}

#[test]
fn roles_are_left_behind_with_the_session() {
    run(async {
        let cluster = Cluster::shared().await;
        for admin in cluster.admins().await {
            admin.run("do $$ begin if not exists (select from pg_roles where rolname = 'roleleak') then create role roleleak; end if; end $$; grant roleleak to app").await;
        }
        let client = cluster.connect().await;
        client.run("set role roleleak").await;
        assert_eq!(client.one("select current_user").await, "roleleak");
        client.fails("create table public.roleleak_t(id int)", "42501").await;
        assert_eq!(client.one("select session_user").await, "app");
        for _ in 0..20 {
            let other = cluster.connect().await;
            assert_eq!(other.one("select current_user").await, "app");
            let second = cluster.connect_as("app2").await;
            assert_eq!(second.one("select session_user").await, "app2");
        }
        assert_eq!(client.one("select current_user").await, "roleleak", "a session keeps its role");
        client.run("begin; set local role none").await;
        assert_eq!(client.one("select current_user").await, "app");
        client.run("rollback").await;
        assert_eq!(client.one("select current_user").await, "roleleak");
        client.run("reset role").await;
        assert_eq!(client.one("select current_user").await, "app");
        client.fails("set role app2", "42501").await;
        client.fails("set session authorization app2", "42501").await;
    });
}
