//! Statements in other encodings than UTF-8: read rightly, and the same bytes for every server, also
//! for one that gets them later from the journal.

use crate::rig::cluster::Cluster;
use crate::rig::wire::{Wire, any, copy_data, copy_done, lines, query, sync};
use crate::rig::{run_heavy, run_within, secs};

/// An encoding, a word in it, and the same word in UTF-8. In some the second byte of a character is
/// a backslash.
const WORDS: [(&str, &[u8], &str); 8] = [
    ("LATIN1", b"\xe4\xdf", "äß"),
    ("LATIN9", b"\xa4", "€"),
    ("WIN1251", b"\xe6", "ж"),
    ("EUC_JP", b"\xc6\xfc\xcb\xdc", "日本"),
    ("SJIS", b"\x95\x5c\x8e\xa6", "表示"),
    ("BIG5", b"\xa5\x5c", "功"),
    ("GBK", b"\xb2\x5c", "瞈"),
    ("UHC", b"\xb0\xa1", "가"),
];

/// A text with `@` for the word.
fn with(text: &str, word: &[u8]) -> Vec<u8> {
    let mut parts = text.split('@').map(|part| part.as_bytes().to_vec());
    let first = parts.next().unwrap_or_default();
    parts.fold(first, |all, part| [all, word.to_vec(), part].concat())
}

fn simple(text: &[u8]) -> Vec<u8> {
    any(b'Q', &[text, b"\0"].concat())
}

/// Parse, Bind with one parameter in text form, Execute, Sync.
fn extended(text: &[u8], value: &[u8]) -> Vec<u8> {
    let parse = any(b'P', &[b"\0", text, b"\0\0\0"].concat());
    let length = (value.len() as u32).to_be_bytes();
    let bind = any(b'B', &[b"\0\0\0\0\0\x01", &length[..], value, b"\0\0"].concat());
    [parse, bind, any(b'E', b"\0\0\0\0\0"), sync()].concat()
}

async fn well(wire: &mut Wire, bytes: &[u8]) -> Vec<String> {
    let answer = wire.talk(bytes, 1).await;
    let shown = bytes.escape_ascii();
    assert!(answer.iter().all(|line| !line.starts_with('E')), "{shown}\n{answer:?}");
    answer
}

async fn write_in(wire: &mut Wire, encoding: &str, word: &[u8]) {
    well(wire, &query(&format!("set client_encoding to '{encoding}'"))).await;
    let name = format!("enc_{}", encoding.to_lowercase());
    for text in [
        "create table NAME(id serial primary key, v text default '@', noise float8 default random(), \"@\" int)",
        "insert into NAME(id, v, noise, \"@\") values (100, '@', 0, 1)",
        "insert into NAME(v) values ('@;'' @')",
        "insert into NAME(\"@\") values (2), (3)",
        "insert into NAME(v) select v || '@' from NAME where v = '@'",
        "update NAME set v = '@!' where id = 100",
        "begin; insert into NAME(v) values (E'\\t@'); savepoint \"@\"; insert into NAME(v) values ('no'); rollback to \"@\"; commit",
        "prepare p_NAME as insert into NAME(v) values ('@' || $1)",
        "execute p_NAME('@')",
        "create sequence \"s_@\"; select nextval('\"s_@\"')",
        "comment on table NAME is '@'",
        "do $$ begin insert into NAME(v) values ('@ in DO'); end $$",
    ] {
        well(wire, &simple(&with(&text.replace("NAME", &name), word))).await;
    }
    let insert = format!("insert into {name}(v) values ('@ ' || $1)");
    well(wire, &extended(&with(&insert, word), word)).await;
    let update = format!("update {name} set v = $1 || '@' where id = 100");
    well(wire, &extended(&with(&update, word), word)).await;
    let copy = [
        simple(format!("copy {name}(v) from stdin").as_bytes()),
        copy_data(&[word, b"\n"].concat()),
        copy_done(),
    ];
    well(wire, &copy.concat()).await;
    well(wire, &query("set client_encoding to 'UTF8'")).await;
}

#[test]
fn statements_in_every_encoding_mean_the_same_everywhere() {
    run_heavy(secs(120), async {
        let cluster = Cluster::start(3).await;
        let lost = cluster.follower().await;
        let mut wire = cluster.wire().await;
        for (n, (encoding, word, _)) in WORDS.into_iter().enumerate() {
            // The second half is written while one is away, and replayed when it is back.
            if n == WORDS.len() / 2 {
                cluster.server(&lost).stop_fast();
            }
            write_in(&mut wire, encoding, word).await;
        }
        cluster.wait_inactive(&lost).await;
        cluster.server(&lost).start();
        cluster.wait_active(&lost).await;
        cluster.assert_all_equal().await;
        let app = cluster.connect().await;
        for (encoding, _, word) in WORDS {
            let name = format!("enc_{}", encoding.to_lowercase());
            let all = app.column(&format!("select v from {name} order by id")).await;
            let expected = [
                format!("{word};' {word}"),
                word.to_owned(),
                word.to_owned(),
                format!("{word}{word}"),
            ];
            assert_eq!(all[..4], expected, "{encoding}");
            assert!(all.contains(&format!("\t{word}")) && all.contains(&format!("{word} {word}")));
            assert_eq!(all.last(), Some(&format!("{word}{word}")), "{encoding}: {all:?}");
            assert_eq!(app.one(&format!("select last_value from \"s_{word}\"")).await, "1");
        }
    });
}

#[test]
fn what_cannot_be_read_is_refused_and_nothing_else() {
    run_within(secs(60), async {
        let cluster = Cluster::shared().await;
        let mut wire = cluster.wire().await;
        wire.query("create table enc_bad(v text)").await;
        for (encoding, word, code) in [
            ("UTF8", &b"\xe4'"[..], "22021"),
            ("SQL_ASCII", b"\xe4", "22021"),
            ("GBK", b"\xbf", "22021"),
            ("SJIS", b"\x95", "22021"),
            ("EUC_TW", b"\xa4\xa1", "0A000"),
        ] {
            wire.query(&format!("set client_encoding to '{encoding}'")).await;
            for bytes in [
                simple(&with("insert into enc_bad values ('@')", word)),
                extended(&with("insert into enc_bad values ('@' || $1)", word), b"x"),
            ] {
                let answer = wire.talk(&bytes, 1).await;
                assert!(answer[0].contains(code), "{encoding}: {answer:?}");
                // The session goes on.
                let answer = wire.query("select 1").await;
                assert!(answer.iter().any(|line| line == "D 1"), "{answer:?}");
            }
            well(&mut wire, &query("insert into enc_bad values ('ascii')")).await;
            well(&mut wire, &extended(b"insert into enc_bad values ($1)", b"ascii")).await;
        }
        wire.query("set client_encoding to 'UTF8'").await;
        let answer = wire.query("select count(*) from enc_bad").await;
        assert!(answer.iter().any(|line| line == "D 10"), "{answer:?}");
        cluster.same("enc_bad").await;
    });
}

#[test]
fn the_encoding_follows_the_session() {
    run_within(secs(60), async {
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("create table enc_follow(id serial primary key, v text)").await;
        let mut wire = cluster.wire().await;
        let insert = simple(&with("insert into enc_follow(v) values ('@')", b"\xe4"));
        // Taken back with its transaction, local to one, and by way of RESET.
        wire.query("begin; set client_encoding to 'LATIN1'").await;
        well(&mut wire, &insert).await;
        wire.query("commit").await;
        well(&mut wire, &insert).await;
        wire.query("begin; set client_encoding to 'UTF8'").await;
        well(&mut wire, &simple("insert into enc_follow(v) values ('ä')".as_bytes())).await;
        wire.query("rollback").await;
        well(&mut wire, &insert).await;
        wire.query("reset client_encoding").await;
        well(&mut wire, &simple("insert into enc_follow(v) values ('ä')".as_bytes())).await;
        wire.query("begin; set local client_encoding to 'LATIN1'").await;
        well(&mut wire, &insert).await;
        wire.query("commit").await;
        well(&mut wire, &simple("insert into enc_follow(v) values ('ä')".as_bytes())).await;
        wire.send(&query("set names 'latin1'")).await;
        let said = lines(&wire.until_ready(1).await);
        assert!(said.contains(&"S client_encoding=LATIN1".to_owned()), "{said:?}");
        well(&mut wire, &insert).await;
        let all = app.column("select v from enc_follow order by id").await;
        assert_eq!(all, vec!["ä"; 7]);
        cluster.same("enc_%").await;
    });
}

#[test]
fn a_value_that_the_encoding_lacks_fails_only_who_asks_for_it() {
    run_within(secs(60), async {
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run(
            "create table enc_lack(id int primary key, v text, n int default floor(random() * 9), \
             u text default '€')",
        )
        .await;
        app.run("insert into enc_lack values (1, '€', 0), (2, '日', 0), (3, 'a', 0)").await;
        let mut wire = cluster.wire().await;
        wire.query("set client_encoding to 'LATIN1'").await;
        // Captured rows have a value that LATIN1 lacks: by the default, by what is there, by what
        // the statement makes.
        for text in [
            "insert into enc_lack(id, v) values (4, 'x')",
            "update enc_lack set n = floor(random() * 9), v = v || '!' where id = 1",
            "update enc_lack set v = chr(8364) || random()::int where id = 3",
            "begin; insert into enc_lack(id, v) values (5, 'y') returning id, n is null; \
             update enc_lack set n = n + random()::int, v = u where id = 5; commit",
            "begin; set local client_encoding to 'UTF8'; insert into enc_lack(id) values (6); commit",
        ] {
            well(&mut wire, &query(text)).await;
        }
        well(&mut wire, &extended(b"insert into enc_lack(id, v) values (7, $1)", b"\xe4")).await;
        // Who wants to see it gets the error that a single server gives.
        let answer = wire.query("insert into enc_lack(id) values (8) returning u").await;
        assert!(answer.iter().any(|line| line.contains("22P05")), "{answer:?}");
        let all = app.column("select id || coalesce(v, '-') || u from enc_lack order by id").await;
        let third = app.one("select v from enc_lack where id = 3").await;
        assert!(third.starts_with('€'), "{third}");
        let third = format!("3{third}€");
        assert_eq!(all, ["1€!€", "2日€", &third, "4x€", "5€€", "6-€", "7ä€"]);
        cluster.same("enc_lack").await;
    });
}
