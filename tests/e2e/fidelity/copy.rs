//! COPY in both directions, whole, broken and given up.

use super::Pair;
use crate::rig::run;
use crate::rig::wire::{copy_data, copy_done, copy_fail, query, sync, unnamed};

#[test]
fn copy_in_text_csv_and_binary() {
    run(async {
        let mut pair = Pair::with("create table copy_t(id int primary key, v text, at timestamptz default clock_timestamp())").await;
        let text = [
            query("copy copy_t(id, v) from stdin"),
            copy_data(b"1\ta\n2\t\\N\n3"),
            copy_data(b"\tsplit \\\\ line\n"),
            copy_done(),
        ];
        pair.talk(&text.concat(), 1).await;
        let csv = [
            query("copy copy_t(id, v) from stdin with (format csv, header)"),
            copy_data(b"id,v\n4,\"a,b\"\n5,\"line\nbreak\"\n"),
            copy_done(),
        ];
        pair.talk(&csv.concat(), 1).await;
        let mut binary = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        binary.extend(b"\0\x02\0\0\0\x04\0\0\0\x06\0\0\0\x02ok\xff\xff");
        pair.talk(
            &[
                query("copy copy_t(id, v) from stdin (format binary)"),
                copy_data(&binary),
                copy_done(),
            ]
            .concat(),
            1,
        )
        .await;
        let empty = [query("copy copy_t from stdin"), copy_done()];
        pair.talk(&empty.concat(), 1).await;
        pair.talk(
            &[query("copy copy_t(id) from stdin"), copy_data(b"7\n\\.\n"), copy_done()].concat(),
            1,
        )
        .await;
        pair.query("select id, v, at is not null from copy_t order by id").await;
        pair.cluster.same("copy_t").await;
    });
}

#[test]
fn a_broken_copy_leaves_nothing() {
    run(async {
        let mut pair = Pair::with("create table copybad_t(id int primary key, v text)").await;
        let begin = query("copy copybad_t from stdin");
        pair.talk(
            &[begin.clone(), copy_data(b"1\ta\n"), copy_fail("I changed my mind")].concat(),
            1,
        )
        .await;
        pair.talk(
            &[begin.clone(), copy_data(b"1\ta\nx\tb\n"), copy_data(b"3\tc\n"), copy_done()]
                .concat(),
            1,
        )
        .await;
        pair.talk(&[begin.clone(), copy_data(b"1\ta\n1\tb\n"), copy_done()].concat(), 1).await;
        pair.talk(&[begin.clone(), copy_data(b"1\ta\tb\n"), copy_done()].concat(), 1).await;
        pair.queries(&["begin", "insert into copybad_t values (5, 'before')"]).await;
        pair.talk(&[begin.clone(), copy_data(b"6\ta\n"), copy_done()].concat(), 1).await;
        pair.query("savepoint s").await;
        pair.talk(&[begin, copy_data(b"7\ta\n5\tb\n"), copy_done()].concat(), 1).await;
        pair.queries(&["rollback to s", "commit", "select * from copybad_t order by id"]).await;
        pair.talk(&query("copy copybad_missing from stdin"), 1).await;
        pair.query("select 1").await;
        pair.cluster.same("copybad%").await;
    });
}

#[test]
fn copy_out_and_in_a_pipeline() {
    run(async {
        let mut pair = Pair::with("create table copyout_t(id int primary key, v text); insert into copyout_t values (1, 'a'), (2, null), (3, E'tab\\there')").await;
        pair.queries(&[
            "copy copyout_t to stdout",
            "copy (select v, id from copyout_t order by id desc) to stdout (format csv, header)",
            "copy copyout_t to stdout (format binary)",
            "copy copyout_missing to stdout",
            "copy (select 1/0) to stdout",
            "copy (insert into copyout_t values (4, 'd') returning id) to stdout",
            "select 1; copy copyout_t to stdout; select 2",
        ])
        .await;
        pair.talk(&[unnamed("copy copyout_t(id) to stdout", &[]), sync()].concat(), 1).await;
        let inside = [
            unnamed("copy copyout_t from stdin", &[]),
            copy_data(b"9\tnine\n"),
            copy_done(),
            sync(),
        ];
        pair.talk(&inside.concat(), 1).await;
        let two = [
            query("copy copyout_t from stdin; insert into copyout_t values (11, 'after')"),
            copy_data(b"10\tten\n"),
            copy_done(),
        ];
        pair.talk(&two.concat(), 1).await;
        pair.query("select * from copyout_t order by id").await;
        pair.cluster.same("copyout%").await;
    });
}

#[test]
fn a_large_copy_goes_to_every_server() {
    run(async {
        let mut pair = Pair::with("create table copylarge_t(id int primary key, v text, r float default random(), n bigserial)").await;
        let mut bytes = query("copy copylarge_t(id, v) from stdin");
        for chunk in 0..50 {
            let rows = (0..400).map(|i| format!("{}\t{}\n", chunk * 400 + i, "x".repeat(80)));
            bytes.extend(copy_data(rows.collect::<String>().as_bytes()));
        }
        bytes.extend(copy_done());
        pair.talk(&bytes, 1).await;
        pair.query("select count(*), count(distinct n) from copylarge_t").await;
        pair.cluster.same("copylarge%").await;
    });
}
