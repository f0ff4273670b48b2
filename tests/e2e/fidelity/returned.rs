//! Writes that are captured by a RETURNING list of the proxy's own: nobody sees it.

use super::Pair;
use crate::rig::run;
use crate::rig::wire::{
    bind, bind_formats, close, describe, execute, flush, parse, query, sync, unnamed,
};

const TABLE: &str = "create table ret_t(id bigint generated always as identity primary key, \
    v text not null default 'd', n int default 0, r float default 0.5, \
    g int generated always as (n * 2) stored, at timestamptz default '2020-02-02', a int[], j jsonb)";

fn all(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn simple_queries_show_what_was_asked_for() {
    run(async {
        let mut pair = Pair::with(TABLE).await;
        pair.queries(&[
            "insert into ret_t(v) values ('a')",
            "insert into ret_t(v) values ('b') returning id",
            "  insert into ret_t(v, a, j) values ('c', '{1,null,3}', '{\"k\": [1]}') returning a, j, g, length(v)",
            "  insert into ret_t as x (v, a) values ('c', '{1,null,3}') returning x.a, x.g * 2 as gg, v || '!'; -- end",
            "insert into ret_t default values returning id, v",
            "insert into ret_t(v, n) values ('d', 1), (default, 2), ('f', default) returning n, id",
            "insert into ret_t values (default, 'g') returning id -- a comment",
            "insert into ret_t overriding system value values (1000, 'h') returning id",
            "update ret_t set n = n + (random() * 0)::int + 1 where id = 1 returning n, g",
            "update ret_t set v = v || clock_timestamp()::text where id = 2",
            "update ret_t set at = now() where id = 77",
            "insert into ret_t(v) values ('m'); select 1 as one; insert into ret_t(v) values ('n') returning id",
        ])
        .await;
        // What goes wrong is said in the same words, at the same place.
        pair.queries(&[
            "insert into ret_t(id) values (1)",
            "insert into ret_t overriding system value values (1)",
            "insert into ret_t(v) values (null)",
            "insert into ret_t(v) values ('x') returning nosuch",
            "insert into ret_t(v) values ($1)",
            "insert into ret_t(v) values ('x'), ('y', 2)",
            "update ret_t set n = 1 / (n - n) where id = 1 and clock_timestamp() > '2000-01-01'",
            "insert into ret_t(v) values ('p'); insert into ret_t(v) values (1 / 0); select 2",
        ])
        .await;
        pair.cluster.same("ret_t").await;
    });
}

#[test]
fn extended_queries_show_what_was_asked_for() {
    run(async {
        let mut pair = Pair::with(&TABLE.replace("ret_t", "ret_x")).await;
        for list in ["", " returning id", " returning id, v, g", " returning v || $1"] {
            let text = format!("insert into ret_x(v) values ($1){list}");
            pair.talk(&all(&[parse("s", &text), describe(b'S', "s"), sync()]), 1).await;
            let run = [bind("", "s", &[Some("a")]), describe(b'P', ""), execute("", 0), sync()];
            pair.talk(&all(&run), 1).await;
            pair.talk(&all(&[bind("", "s", &[Some("b")]), execute("", 0), sync()]), 1).await;
            // Everything in one go, and a batch that is answered before its end.
            let once = [unnamed(&text, &[Some("c")]), sync()];
            pair.talk(&all(&once), 1).await;
            let flushed = [parse("", &text), describe(b'S', ""), flush()];
            pair.talk_until(&all(&flushed), if list.is_empty() { b'n' } else { b'T' }).await;
            pair.talk(&all(&[bind("", "", &[Some("d")]), execute("", 0), sync()]), 1).await;
            // With a limit on rows, which leaves a portal open.
            pair.talk(&all(&[bind("", "s", &[Some("e")]), execute("", 1), sync()]), 1).await;
            pair.talk(&all(&[describe(b'S', "s"), close(b'S', "s"), sync()]), 1).await;
        }
        pair.query("update ret_x set v = 'z' where id = 1").await;
        pair.cluster.same("ret_x").await;
    });
}

#[test]
fn formats_of_results_are_the_clients() {
    run(async {
        let mut pair = Pair::with(&TABLE.replace("ret_t", "ret_f")).await;
        let text = "insert into ret_f(v, n) values ($1, $2) returning id, v, n";
        pair.talk(&all(&[parse("f", text), sync()]), 1).await;
        let n = 9_i32.to_be_bytes();
        let values: [Option<&[u8]>; 2] = [Some(b"x"), Some(&n)];
        for results in [&[][..], &[0], &[1], &[1, 0, 1], &[0, 0, 0], &[1, 1]] {
            let bound = bind_formats("", "f", &[0, 1], &values, results);
            pair.talk(&all(&[bound, describe(b'P', ""), execute("", 0), sync()]), 1).await;
        }
        // In a transaction, with an error in the middle of a pipeline.
        pair.talk(&query("begin"), 1).await;
        let good = [bind_formats("", "f", &[0, 1], &values, &[1]), execute("", 0)].concat();
        let bad = [bind("", "f", &[None, Some("1")]), execute("", 0)].concat();
        pair.talk(&all(&[good.clone(), bad, good.clone(), sync()]), 1).await;
        pair.query("select 1").await;
        pair.query("rollback").await;
        pair.talk(&all(&[good, sync()]), 1).await;
        pair.cluster.same("ret_f").await;
    });
}
