//! Portals and cursors: results read in parts.

use super::Pair;
use crate::rig::run;
use crate::rig::wire::{bind, close, describe, execute, parse, sync, unnamed};

#[test]
fn a_portal_is_read_in_parts() {
    run(async {
        let mut pair = Pair::open().await;
        let open = [
            parse("", "select g from generate_series(1, 7) g"),
            bind("", "", &[]),
            describe(b'P', ""),
        ]
        .concat();
        pair.talk(
            &[open.clone(), execute("", 3), execute("", 3), execute("", 3), sync()].concat(),
            1,
        )
        .await;
        pair.talk(&[open.clone(), execute("", 3), sync()].concat(), 1).await;
        // Outside a transaction the Sync has closed it.
        pair.talk(&[execute("", 3), sync()].concat(), 1).await;
        pair.query("begin").await;
        let named = [
            parse("g", "select g from generate_series(1, $1::int) g"),
            bind("one", "g", &[Some("5")]),
            bind("two", "g", &[Some("4")]),
        ];
        pair.talk(&[named.concat(), execute("one", 2), sync()].concat(), 1).await;
        pair.talk(&[execute("two", 3), execute("one", 2), sync()].concat(), 1).await;
        pair.talk(&[execute("one", 2), execute("two", 0), execute("two", 0), sync()].concat(), 1)
            .await;
        pair.talk(&[close(b'P', "one"), execute("one", 1), sync()].concat(), 1).await;
        pair.query("rollback").await;
    });
}

#[test]
fn a_write_with_a_row_limit_runs_once() {
    run(async {
        let mut pair = Pair::with("create table part_t(id int primary key, v int); insert into part_t select g, 0 from generate_series(1, 6) g").await;
        pair.query("begin").await;
        let update = "update part_t set v = v + 1 returning id, v";
        let open = [parse("u", update), bind("u", "u", &[]), execute("u", 2), sync()].concat();
        pair.talk(&open, 1).await;
        pair.query("insert into part_t values (100, 100)").await;
        pair.talk(&[execute("u", 2), execute("u", 0), sync()].concat(), 1).await;
        pair.query("commit").await;
        // Suspended for ever, and committed all the same.
        pair.talk(
            &[
                unnamed("begin", &[]),
                parse("", update),
                bind("", "", &[]),
                execute("", 1),
                unnamed("commit", &[]),
                sync(),
            ]
            .concat(),
            1,
        )
        .await;
        pair.query("select * from part_t order by id").await;
        pair.cluster.same("part%").await;
    });
}

#[test]
fn cursors_scroll_hold_and_close() {
    run(async {
        let mut pair = Pair::with("create table cur_t(id int primary key, v int); insert into cur_t select g, g from generate_series(1, 9) g").await;
        pair.queries(&[
            "declare c cursor for select 1",
            "begin",
            "declare c scroll cursor for select id from cur_t order by id",
            "fetch 2 from c",
            "fetch backward 1 from c",
            "move forward 3 from c",
            "fetch absolute 8 from c",
            "fetch all from c",
            "fetch from nothing",
            "rollback",
            "begin",
            "declare w cursor for select * from cur_t order by id for update",
            "fetch 2 from w",
            "update cur_t set v = -v where current of w",
            "fetch 1 from w",
            "delete from cur_t where current of w",
            "close w",
            "commit",
            "begin",
            "declare h cursor with hold for select id, v from cur_t order by id",
            "commit",
            "fetch 3 from h",
            "update cur_t set v = 0 where id = 4",
            "fetch 3 from h",
            "select name, is_holdable from pg_cursors",
            "close h",
            "fetch 1 from h",
            "select * from cur_t order by id",
        ])
        .await;
        pair.cluster.same("cur%").await;
    });
}
