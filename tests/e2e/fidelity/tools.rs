//! The programs everybody has: psql, pgbench, pg_dump, pg_restore.

use std::path::Path;
use std::process::Command;

use crate::rig::cluster::Cluster;
use crate::rig::process::{As, command, must};
use crate::rig::server::{DATABASE, programs};
use crate::rig::{folder, run, run_within, secs, unique};

/// A libpq program as the application's user.
fn program(port: u16, name: &str) -> Command {
    let mut program = command(As::Myself, programs().join(name));
    program.env("PGPASSWORD", "app").env("PGUSER", "app").env("PGDATABASE", DATABASE);
    program
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGCONNECT_TIMEOUT", "20");
    program
}

fn psql(port: u16, words: &[&str]) -> String {
    let mut psql = program(port, "psql");
    psql.args(["-X", "-v", "ON_ERROR_STOP=1"]);
    for text in words {
        psql.args(["-c", text]);
    }
    must(&format!("psql {}", words.join(" ")), psql)
}

#[test]
fn psql_describes_what_is_there() {
    run(async {
        let cluster = Cluster::shared().await;
        let real = Cluster::reference().await.port;
        let schema = "create table psql_t(id serial primary key, v text not null, ref int references psql_t);
                      create view psql_v as select v from psql_t;
                      create function psql_f(int) returns int language sql as 'select $1'";
        for port in [real, cluster.port] {
            psql(port, &[schema]);
        }
        for ask in
            ["\\d psql_v", "\\df psql_f", "\\dn public", "\\ds psql*", "\\sf psql_f", "\\conninfo"]
        {
            let (expected, found) = (psql(real, &[ask]), psql(cluster.port, &[ask]));
            let stable = |text: &str| {
                text.replace(&format!("port \"{real}\""), "")
                    .replace(&format!("port \"{}\"", cluster.port), "")
            };
            assert_eq!(stable(&found), stable(&expected), "psql {ask}");
        }
        // The table shows lockstep's own trigger, and else the same.
        let (expected, found) = (psql(real, &["\\d psql_t"]), psql(cluster.port, &["\\d psql_t"]));
        assert!(expected.lines().all(|line| found.contains(line)), "psql \\d\n{expected}\n{found}");
        cluster.same("psql%").await;
    });
}

#[test]
fn pgbench_runs_in_all_three_modes() {
    run_within(secs(120), async {
        // pgbench's tables have fixed names: a cluster of its own.
        let cluster = Cluster::start(3).await;
        let mut init = program(cluster.port, "pgbench");
        must("pgbench -i", {
            init.args(["-i", "-s", "1", "--quiet"]);
            init
        });
        for mode in ["simple", "extended", "prepared"] {
            let mut bench = program(cluster.port, "pgbench");
            bench.args(["-n", "-c", "6", "-j", "1", "-t", "60", "-M", mode, "--max-tries=1"]);
            let said = must(&format!("pgbench -M {mode}"), bench);
            assert!(said.contains("transactions actually processed: 360/360"), "{said}");
            let mut select = program(cluster.port, "pgbench");
            select.args(["-n", "-S", "-c", "4", "-j", "1", "-t", "200", "-M", mode]);
            must(&format!("pgbench -S -M {mode}"), select);
        }
        let all = cluster.connect().await;
        let sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)
                    and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)";
        assert_eq!(all.one(sums).await, "t");
        assert_eq!(all.one("select count(*) from pgbench_history").await, "1080");
        cluster.assert_all_equal().await;
    });
}

#[test]
fn pgbench_pipelines() {
    run(async {
        let cluster = Cluster::shared().await;
        cluster
            .connect()
            .await
            .run("create table pipebench_t(id bigserial primary key, v int)")
            .await;
        let script = folder().join(format!("pipeline-{}.sql", unique()));
        let text = "\\startpipeline\nbegin;\ninsert into pipebench_t(v) values (:client_id);\nselect count(*) from pipebench_t where id < 5;\nupdate pipebench_t set v = v + 1 where id = 1;\ncommit;\n\\endpipeline\n";
        std::fs::write(&script, text).expect("a script");
        for mode in ["extended", "prepared"] {
            let mut bench = program(cluster.port, "pgbench");
            bench.args(["-n", "-c", "4", "-j", "1", "-t", "40", "-M", mode, "-f"]).arg(&script);
            must(&format!("pgbench pipelines -M {mode}"), bench);
        }
        assert_eq!(cluster.connect().await.one("select count(*) from pipebench_t").await, "320");
        cluster.same("pipebench%").await;
    });
}

fn dump(port: u16, format: &str, to: &Path) {
    let mut dump = program(port, "pg_dump");
    dump.args(["--schema=dumped", "--no-owner", "-F", format, "-f"]).arg(to);
    must(&format!("pg_dump -F {format}"), dump);
}

#[test]
fn a_dump_is_taken_and_restored_through_the_proxy() {
    run_within(secs(120), async {
        let cluster = Cluster::start(3).await;
        let app = cluster.connect().await;
        app.run("create schema dumped; set search_path to dumped;
            create table author(id serial primary key, name text not null unique, born date, photo bytea);
            create table book(id bigint generated always as identity primary key, author int not null references author on delete cascade,
                              title text, price numeric(8,2) check (price >= 0), tags text[], added timestamptz default now());
            create index on book using gin(tags); create view shelf as select name, title from author join book on author = author.id;
            insert into author(name, born, photo) select 'author ' || g, date '1900-01-01' + g, decode(md5(g::text), 'hex') from generate_series(1, 50) g;
            insert into book(author, title, price, tags) select 1 + g % 50, 'title ' || g, g * 1.5, array['a', g::text] from generate_series(1, 400) g;
            create function total() returns numeric language sql as 'select sum(price) from dumped.book';
            create materialized view cheap as select * from book where price < 20").await;
        let expected = app.rows("select count(*), sum(price), max(id) from book").await;
        for format in ["p", "c"] {
            let file = folder().join(format!("dump-{}", unique()));
            dump(cluster.port, format, &file);
            app.run("drop schema dumped cascade").await;
            if format == "p" {
                let mut restore = program(cluster.port, "psql");
                restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-f"]).arg(&file);
                must("restoring with psql", restore);
            } else {
                let mut restore = program(cluster.port, "pg_restore");
                restore.args(["--no-owner", "--exit-on-error", "-d", DATABASE]).arg(&file);
                must("pg_restore", restore);
            }
            let app = cluster.connect().await;
            let found = app.rows("select count(*), sum(price), max(id) from dumped.book").await;
            assert_eq!(found, expected, "after a restore of format {format}");
            app.run("insert into dumped.book(author, title) values (1, 'one more'); delete from dumped.book where title = 'one more'").await;
            cluster.assert_all_equal().await;
        }
    });
}
