//! The extended protocol: statements, parameters, formats, pipelines.

use super::Pair;
use crate::rig::run;
use crate::rig::wire::{
    bind, bind_formats, close, describe, execute, flush, parse, parse_typed, query, sync, unnamed,
};

fn all(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn statements_are_described_bound_and_closed() {
    run(async {
        let mut pair =
            Pair::with("create table ext_t(id int primary key, v text, at timestamptz)").await;
        let prepare = [parse("s", "select $1::int + 1, $2::text"), describe(b'S', "s"), sync()];
        pair.talk(&all(&prepare), 1).await;
        for value in ["1", "41"] {
            let run =
                [bind("", "s", &[Some(value), None]), describe(b'P', ""), execute("", 0), sync()];
            pair.talk(&all(&run), 1).await;
        }
        pair.talk(
            &all(&[
                parse("i", "insert into ext_t values ($1, $2, $3) returning id"),
                describe(b'S', "i"),
                sync(),
            ]),
            1,
        )
        .await;
        for id in ["1", "2", "1"] {
            let run = [bind("", "i", &[Some(id), Some("x"), None]), execute("", 0), sync()];
            pair.talk(&all(&run), 1).await;
        }
        pair.talk(&all(&[describe(b'S', "i"), close(b'S', "i"), sync()]), 1).await;
        pair.talk(&all(&[bind("", "i", &[]), sync()]), 1).await;
        pair.talk(&all(&[close(b'S', "never"), close(b'P', "never"), sync()]), 1).await;
        pair.cluster.same("ext%").await;
    });
}

#[test]
fn odd_statements_are_described_too() {
    run(async {
        let mut pair = Pair::open().await;
        pair.talk(
            &all(&[parse("", ""), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()]),
            1,
        )
        .await;
        pair.talk(&all(&[parse("", "create table ext_u(id int)"), describe(b'S', ""), sync()]), 1)
            .await;
        pair.talk(&all(&[unnamed("select 1; select 2", &[]), sync()]), 1).await;
        pair.talk(
            &all(&[parse_typed("ty", "select $1, $2", &[23, 0]), describe(b'S', "ty"), sync()]),
            1,
        )
        .await;
    });
}

#[test]
fn binary_values_pass_both_ways() {
    run(async {
        let mut pair =
            Pair::with("create table bin_t(id int primary key, f float8, b bytea, t text, u uuid)")
                .await;
        let insert =
            "insert into bin_t values ($1, $2, $3, $4, gen_random_uuid()) returning id, f, b, t";
        let id = 7_i32.to_be_bytes();
        let float = 0.1_f64.to_be_bytes();
        let values: [Option<&[u8]>; 4] =
            [Some(&id), Some(&float), Some(&[0, 255, 10, 92, 39]), Some("ü\\'".as_bytes())];
        for results in [&[1_u16][..], &[0, 1, 0, 1], &[]] {
            pair.query("truncate bin_t").await;
            let bytes = [
                parse("", insert),
                bind_formats("", "", &[1], &values, results),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ];
            pair.talk(&all(&bytes), 1).await;
        }
        let mixed = [
            parse("", insert),
            bind_formats("", "", &[0, 1, 1, 0], &[Some(b"8"), None, None, Some(b"")], &[1]),
            execute("", 0),
            sync(),
        ];
        pair.talk(&all(&mixed), 1).await;
        let short = [
            parse("", insert),
            bind_formats("", "", &[1], &[Some(&[1, 2]), None, None, None], &[]),
            execute("", 0),
            sync(),
        ];
        pair.talk(&all(&short), 1).await;
        pair.cluster.same("bin%").await;
    });
}

#[test]
fn an_error_skips_to_sync() {
    run(async {
        let mut pair = Pair::with("create table skip_t(id int primary key)").await;
        let insert = |id: &str| unnamed("insert into skip_t values ($1)", &[Some(id)]);
        // The pipeline is one transaction: the duplicate takes the two before it back, and hides
        // what follows.
        pair.talk(&all(&[insert("1"), insert("2"), insert("1"), insert("3"), sync()]), 1).await;
        pair.talk(
            &all(&[insert("4"), sync(), insert("4"), insert("5"), sync(), insert("6"), sync()]),
            3,
        )
        .await;
        pair.talk(
            &all(&[
                parse("x", "selec"),
                bind("", "x", &[]),
                execute("", 0),
                close(b'S', "x"),
                sync(),
            ]),
            1,
        )
        .await;
        pair.talk(&all(&[unnamed("begin", &[]), insert("7"), insert("7"), insert("8"), sync()]), 1)
            .await;
        pair.talk(&all(&[insert("9"), sync()]), 1).await;
        pair.query("rollback").await;
        pair.talk(
            &all(&[
                unnamed("begin", &[]),
                insert("10"),
                unnamed("commit", &[]),
                insert("11"),
                unnamed("select 1/0", &[]),
                sync(),
            ]),
            1,
        )
        .await;
        pair.query("select * from skip_t order by id").await;
        pair.cluster.same("skip%").await;
    });
}

#[test]
fn long_pipelines_keep_their_order() {
    run(async {
        let mut pair = Pair::with("create table pipe_t(id serial primary key, v int unique)").await;
        let mut bytes = parse("ins", "insert into pipe_t(v) values ($1) returning v");
        bytes.extend(parse("sel", "select count(*), $1::text from pipe_t"));
        for i in 0..300 {
            let n = (i % 280).to_string();
            bytes.extend(all(&[bind("", "ins", &[Some(&n)]), execute("", 0), sync()]));
            bytes.extend(all(&[bind("", "sel", &[Some(&n)]), execute("", 0), sync()]));
        }
        pair.talk(&bytes, 600).await;
        // One Sync for all of it, as drivers batch.
        let mut bytes = Vec::new();
        for i in 300..500 {
            bytes.extend(all(&[
                bind("", "ins", &[Some(&i.to_string())]),
                describe(b'P', ""),
                execute("", 0),
            ]));
        }
        bytes.extend(sync());
        pair.talk(&bytes, 1).await;
        pair.cluster.same("pipe%").await;
    });
}

#[test]
fn flush_brings_answers_before_sync() {
    run(async {
        let mut pair = Pair::with("create table flush_t(id int primary key)").await;
        pair.talk_until(&all(&[parse("f", "select $1::int"), describe(b'S', "f"), flush()]), b'T')
            .await;
        pair.talk_until(&all(&[bind("p", "f", &[Some("5")]), execute("p", 0), flush()]), b'C')
            .await;
        pair.talk_until(&all(&[unnamed("insert into flush_t values (1)", &[]), flush()]), b'C')
            .await;
        pair.talk_until(&all(&[unnamed("insert into flush_t values (1)", &[]), flush()]), b'E')
            .await;
        pair.talk(&sync(), 1).await;
        pair.query("select count(*) from flush_t").await;
    });
}

#[test]
fn mistakes_of_a_client_get_the_servers_words() {
    run(async {
        let mut pair = Pair::open().await;
        pair.talk(&all(&[parse("dup", "select 1"), parse("dup", "select 2"), sync()]), 1).await;
        pair.talk(&all(&[parse("dup2", "select 1"), sync(), parse("dup2", "select 2"), sync()]), 2)
            .await;
        pair.talk(&all(&[bind("", "unknown", &[]), sync()]), 1).await;
        pair.talk(&all(&[execute("unknown", 0), sync()]), 1).await;
        pair.talk(&all(&[describe(b'P', "unknown"), sync()]), 1).await;
        pair.talk(&all(&[describe(b'S', "unknown"), sync()]), 1).await;
        pair.talk(
            &all(&[parse("", "select $1::int, $2::int"), bind("", "", &[Some("1")]), sync()]),
            1,
        )
        .await;
        pair.talk(
            &all(&[
                parse("", "select $1::int"),
                bind("", "", &[Some("x")]),
                execute("", 0),
                sync(),
            ]),
            1,
        )
        .await;
        pair.talk(&all(&[parse("", "select $1"), describe(b'S', ""), sync()]), 1).await;
        pair.talk(&all(&[parse("", "select $1 + $1"), sync()]), 1).await;
        pair.talk(&sync(), 1).await;
    });
}

#[test]
fn a_simple_query_ends_the_unnamed_statement() {
    run(async {
        let mut pair = Pair::open().await;
        pair.talk(&all(&[parse("", "select 1"), sync()]), 1).await;
        pair.query("select 2").await;
        pair.talk(&all(&[bind("", "", &[]), execute("", 0), sync()]), 1).await;
        // A simple query between Parse and Sync.
        let bytes = all(&[
            parse("kept", "select 3"),
            query("select 4"),
            bind("", "kept", &[]),
            execute("", 0),
            sync(),
        ]);
        pair.talk(&bytes, 2).await;
    });
}

#[test]
fn prepared_statements_live_through_ddl_and_die_on_request() {
    run(async {
        let mut pair = Pair::with(
            "create table prep_t(id int primary key, v int); insert into prep_t values (1, 1)",
        )
        .await;
        let select = all(&[bind("", "star", &[]), describe(b'P', ""), execute("", 0), sync()]);
        let update = all(&[bind("", "upd", &[]), execute("", 0), sync()]);
        pair.talk(
            &all(&[
                parse("star", "select * from prep_t"),
                parse("upd", "update prep_t set v = v + 1"),
                sync(),
            ]),
            1,
        )
        .await;
        pair.talk(&select, 1).await;
        pair.talk(&update, 1).await;
        pair.query("create index on prep_t(v)").await;
        pair.talk(&select, 1).await;
        pair.talk(&update, 1).await;
        // A result that has other columns now: a connection that had prepared the statement says so
        // (0A000), one that prepares it now does not. Which one is lent is not the client's to know.
        pair.query("alter table prep_t add column w int default 3").await;
        pair.talk(&update, 1).await;
        pair.queries(&[
            "prepare p(int) as select v + $1 from prep_t",
            "execute p(10)",
            "deallocate p",
            "execute p(10)",
            "deallocate upd",
        ])
        .await;
        pair.talk(&update, 1).await;
        pair.queries(&[
            "prepare q as insert into prep_t values ($1, random()::int) returning id",
            "execute q(5)",
            "execute q(5)",
            "discard all",
            "execute q(6)",
        ])
        .await;
        pair.talk(&select, 1).await;
        pair.cluster.same("prep%").await;
    });
}
