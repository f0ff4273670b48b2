//! Rows: of every type, changed in every way.

use super::server::{Leader, Pair, connect};
use lockstep::store::journal::{Effect, Op};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A column type and values of it, each as an SQL expression.
const VALUES: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false"]),
    ("smallint", &["-32768", "0"]),
    ("bigint", &["9223372036854775807", "-9223372036854775808"]),
    (
        "numeric",
        &[
            "'NaN'",
            "1.50",
            "1.5",
            "'Infinity'",
            "-0.000001",
            "123456789012345678901234567890.0987654321",
        ],
    ),
    ("numeric(12,3)", &["1.5"]),
    ("real", &["0.1", "'NaN'", "'-Infinity'", "1e-40"]),
    (
        "double precision",
        &[
            "0.1",
            "'NaN'",
            "'Infinity'",
            "'-0'",
            "1.7976931348623157e308",
            "5e-324",
            "1/3.0::float8",
        ],
    ),
    ("money", &["12.34", "-1234567.89"]),
    (
        "text",
        &[
            "''",
            "'NULL'",
            "'null'",
            "E'a\\\\b\"c\\'d,e(f)\\n\\t'",
            "repeat('ä€𝄞', 4000)",
            "' '",
            "E'\\\\x41'",
        ],
    ),
    ("varchar(10)", &["'x'"]),
    ("character(5)", &["'x'"]),
    ("\"char\"", &["'x'", "''"]),
    ("name", &["'a\"b'"]),
    ("bytea", &["'\\x'", "'\\x00ff5c22'", "decode(repeat('00ff', 5000), 'hex')"]),
    ("date", &["'infinity'", "'0044-03-15 BC'", "'2024-02-29'"]),
    ("time", &["'24:00'", "'12:34:56.789012'"]),
    ("timetz", &["'12:34:56.789+05:30'"]),
    ("timestamp", &["'-infinity'", "'2024-01-02 03:04:05.678901'"]),
    ("timestamptz", &["'infinity'", "'2024-07-02 03:04:05.678901+02'", "'0001-01-01 00:00:00 BC'"]),
    ("interval", &["'1 year -2 mons 3 days -04:05:06.789'", "'-1 day'"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("json", &["'{\"b\": 1,  \"a\": [null, \"x\\\\n\"]}'"]),
    ("jsonb", &["'{\"b\": 1.50, \"a\": [null, \"\\\\u00e4\"]}'", "'null'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    ("xml", &["'<a b=\"1\">x&amp;y</a>'", "'just, content'"]),
    ("inet", &["'10.0.0.1/8'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("bit(3)", &["B'101'"]),
    ("bit varying", &["B''", "B'1'"]),
    ("point", &["'(0.1,-2)'"]),
    ("path", &["'[(0,0),(1,1)]'"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("circle", &["'<(1,2),0.5>'"]),
    ("tsvector", &["'a:1 ''b c'':2A'"]),
    ("tsquery", &["'a & !b'"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("int4range", &["'[1,5)'", "'empty'", "'(,)'"]),
    ("tstzrange", &["'[2024-01-01 00:00+02,infinity)'"]),
    ("int8multirange", &["'{[1,3),[7,9)}'"]),
    ("int[]", &["'{}'", "'{1,NULL,3}'", "'[0:1][2:2]={{1},{2}}'"]),
    ("text[]", &["ARRAY['', 'NULL', NULL, 'a\"b\\c,{d}', ' ']"]),
    ("regclass", &["'odd.\"Mixed \"\"Case\"'::regclass"]),
    ("odd.mood", &["'so,so'", "'it''s \"fine\"'"]),
    ("odd.positive", &["7"]),
    ("odd.pair", &["ROW(1, 'a,b)')", "ROW(NULL, '')", "ROW(NULL, NULL)"]),
    ("odd.pair[]", &["ARRAY[ROW(1, 'x\"y')::odd.pair, NULL]"]),
    ("odd.floats", &["'[0.1,0.25)'"]),
    ("odd.pairs", &["ARRAY[ROW(1, 'x')::odd.pair]"]),
];

const TYPES: &str = r#"
CREATE SCHEMA odd;
CREATE TABLE odd."Mixed ""Case" (id int PRIMARY KEY);
CREATE TYPE odd.mood AS ENUM ('so,so', 'it''s "fine"');
CREATE DOMAIN odd.positive AS int CHECK (VALUE > 0);
CREATE TYPE odd.pair AS (a int, b text);
CREATE DOMAIN odd.pairs AS odd.pair[];
CREATE TYPE odd.floats AS RANGE (subtype = float8);
"#;

#[tokio::test]
async fn rows_of_every_type_arrive_as_they_are() {
    let pair = Pair::new().await;
    pair.both(TYPES).await;
    let user = pair.user("types").await;
    let columns: Vec<String> =
        VALUES.iter().enumerate().map(|(i, (ty, _))| format!("c{i} {ty}")).collect();
    for (table, key) in [("keyed", "PRIMARY KEY"), ("keyless", "")] {
        let columns = columns.join(", ");
        pair.both(&format!(
            "CREATE TABLE {table} (id int {key}, {columns}); ALTER TABLE {table} OWNER TO {user}"
        ))
        .await;
    }
    pair.both(&format!(
        "GRANT USAGE ON SCHEMA odd TO {user}; GRANT SELECT ON ALL TABLES IN SCHEMA odd TO {user}"
    ))
    .await;
    let leader = Leader::new(&pair, &user).await;
    // What the application has set must not show in what is captured.
    let odd = "SET \"DateStyle\" = 'German'; SET \"IntervalStyle\" = 'iso_8601'; SET \"TimeZone\" = 'Asia/Kathmandu'; \
        SET bytea_output = 'escape'; SET extra_float_digits = -15; SET array_nulls = off; SET xmloption = 'document'; \
        SET search_path = odd, public";
    leader.client.batch_execute(odd).await.unwrap();
    let (follower, _) = connect(&pair.servers[1], &pair.database, &user).await;
    follower.batch_execute(odd).await.unwrap();
    leader
        .client
        .batch_execute("SET array_nulls = on; SET xmloption = content; SET \"DateStyle\" = 'ISO'")
        .await
        .unwrap();
    for table in ["public.keyed", "public.keyless"] {
        leader.replicate(&pair, &follower, &format!("INSERT INTO {table} (id) VALUES (0)")).await;
        for (i, (ty, values)) in VALUES.iter().enumerate() {
            for (k, value) in values.iter().enumerate() {
                let id = 100 + i * 20 + k;
                let insert =
                    format!("INSERT INTO {table} (id, c{i}) VALUES ({id}, ({value})::{ty})");
                leader.replicate(&pair, &follower, &insert).await;
                let update = format!("UPDATE {table} SET c{i} = ({value})::{ty} WHERE id = 0");
                leader.replicate(&pair, &follower, &update).await;
            }
        }
        leader.replicate(&pair, &follower, &format!("UPDATE {table} SET id = -id - 7")).await;
        leader.replicate(&pair, &follower, &format!("DELETE FROM {table} WHERE id % 3 = 0")).await;
    }
    pair.assert_equal().await;
}

const SHOP: &str = r#"
CREATE TABLE parent (id int PRIMARY KEY, up int REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE, v int);
CREATE TABLE child (a int, b text, n int UNIQUE, p int REFERENCES parent ON UPDATE CASCADE ON DELETE SET NULL,
  twice int GENERATED ALWAYS AS (a * 2) STORED, gone int, PRIMARY KEY (b, a));
ALTER TABLE child DROP COLUMN gone; ALTER TABLE child ADD COLUMN late text DEFAULT 'late';
CREATE TABLE loose (x int, y text);
CREATE TABLE ident (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int);
CREATE TABLE log (id serial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), what text);
CREATE TABLE part (id int, v int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (50);
CREATE TABLE part2 (v int, id int NOT NULL PRIMARY KEY);
ALTER TABLE part ATTACH PARTITION part2 FOR VALUES FROM (50) TO (200);
CREATE TABLE base (id int, v text); CREATE TABLE derived (w int) INHERITS (base);
CREATE UNLOGGED TABLE fast (id int PRIMARY KEY, v int);
CREATE TABLE slots (id int PRIMARY KEY, span int4range, EXCLUDE USING gist (span WITH &&));
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO log (what) VALUES (concat(TG_OP, ' ', TG_TABLE_NAME));
  IF TG_OP = 'UPDATE' THEN UPDATE parent SET v = coalesce(v, 0) + 1 WHERE id = NEW.id + 1 AND pg_trigger_depth() < 3; END IF;
  RETURN NULL; END $$;
CREATE TRIGGER noting AFTER INSERT OR UPDATE OR DELETE ON parent FOR EACH ROW EXECUTE FUNCTION note();
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  NEW.late := concat(NEW.late, '!'); INSERT INTO loose VALUES (NEW.a, 'stamped'); RETURN NEW; END $$;
CREATE TRIGGER stamping BEFORE INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE FUNCTION try(k int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO loose VALUES (k, 'tried');
  BEGIN INSERT INTO fast VALUES (k, 1), (k + 1, 1); UPDATE loose SET y = 'lost' WHERE x = k; RAISE EXCEPTION 'no';
  EXCEPTION WHEN raise_exception OR unique_violation THEN INSERT INTO loose VALUES (k, 'failed'); END;
  IF k % 2 = 0 THEN BEGIN DELETE FROM loose; RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN NULL; END; END IF;
END $$;
"#;

fn statement(dice: &mut StdRng) -> String {
    let (k, m) = (dice.random_range(0..40), dice.random_range(1..7));
    match dice.random_range(0..22) {
        0 => format!("INSERT INTO parent SELECT g, nullif(g - 1, -1), 0 FROM generate_series(0, {k}) g ON CONFLICT DO NOTHING"),
        1 => format!("UPDATE parent SET v = {k} WHERE id % {m} = 0"),
        2 => "UPDATE parent SET id = id + 1000; UPDATE parent SET id = id - 1000".into(),
        3 => format!("DELETE FROM parent WHERE id > {k}"),
        4 => format!("INSERT INTO child (a, b, n, p) SELECT g, 'b' || g % 3, g, (SELECT min(id) FROM parent) \
            FROM generate_series({k}, {k} + {m}) g ON CONFLICT (b, a) DO UPDATE SET late = excluded.b"),
        5 => "SET CONSTRAINTS ALL IMMEDIATE; UPDATE child SET n = -n".into(),
        6 => format!("UPDATE child c SET n = d.n FROM (SELECT a, b, (SELECT max(n) FROM child) + row_number() OVER () AS n \
            FROM child) d WHERE c.a = d.a AND c.b = d.b AND c.a % {m} = 0"),
        7 => format!("UPDATE child SET a = a + 100, b = b || 'x' WHERE a < {k}; DELETE FROM child WHERE a > 150"),
        8 => format!("INSERT INTO loose SELECT g % 3, CASE WHEN g % 2 = 0 THEN 'even' END FROM generate_series(1, {k}) g"),
        9 => format!("UPDATE loose SET y = 'u{m}' WHERE ctid IN (SELECT ctid FROM loose LIMIT {m})"),
        10 => format!("DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose ORDER BY ctid DESC LIMIT {k})"),
        11 => format!("INSERT INTO ident (v) SELECT generate_series(1, {m}); UPDATE ident SET v = v + 1 WHERE v % 2 = 0"),
        12 => format!("INSERT INTO part SELECT g, 0 FROM generate_series({k}, {k} + 30) g ON CONFLICT DO NOTHING"),
        13 => "UPDATE part SET id = 99 - id WHERE id < 99 AND NOT EXISTS (SELECT FROM part q WHERE q.id = 99 - part.id)".into(),
        14 => format!("UPDATE part SET v = v + 1 WHERE id % {m} = 0; DELETE FROM part WHERE id = {k}"),
        15 => format!("INSERT INTO base VALUES ({k}, 'b'); INSERT INTO derived VALUES ({k}, NULL, 1); UPDATE base SET v = 'n' WHERE id = {k}"),
        16 => format!("DELETE FROM base WHERE id < {m}"),
        17 => format!("INSERT INTO fast VALUES ({k}, {m}) ON CONFLICT (id) DO UPDATE SET v = fast.v + 1"),
        18 => format!("SELECT try({k})"),
        19 => format!("TRUNCATE {}", ["loose", "part", "parent, child", "part2", "fast"][k % 5]),
        20 => format!("DELETE FROM slots; INSERT INTO slots SELECT g, int4range(g * 10, g * 10 + 10) FROM generate_series(1, {m}) g"),
        _ => format!("WITH gone AS (DELETE FROM fast WHERE id % {m} = 0 RETURNING *) INSERT INTO loose SELECT id, 'moved' FROM gone"),
    }
}

#[tokio::test]
async fn random_changes_replayed_give_the_same_rows() {
    for seed in 0..3 {
        let pair = Pair::new().await;
        let user = pair.user("shop").await;
        pair.both(&format!("SET ROLE {user}; {SHOP}")).await;
        let leader = Leader::new(&pair, &user).await;
        let (follower, _) = connect(&pair.servers[1], &pair.database, &user).await;
        let mut dice = StdRng::seed_from_u64(seed);
        let mut went = 0;
        for step in 0..150 {
            let sql = statement(&mut dice);
            went += u32::from(leader.replicate_if_possible(&pair, &follower, &sql).await);
            if step % 50 == 49 {
                pair.assert_equal().await;
            }
        }
        assert!(went > 75, "the leader refused most of it: {went}");
    }
}

#[tokio::test]
async fn values_may_change_places_in_one_statement() {
    let pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, u int UNIQUE DEFERRABLE INITIALLY DEFERRED, k int UNIQUE); \
        CREATE TABLE s (id int PRIMARY KEY, span int4range, EXCLUDE USING gist (span WITH &&) DEFERRABLE)").await;
    let leader = Leader::new(&pair, "postgres").await;
    let (follower, _) = connect(&pair.servers[1], &pair.database, "postgres").await;
    leader
        .replicate(&pair, &follower, "INSERT INTO t SELECT g, g, g FROM generate_series(1, 2500) g")
        .await;
    leader.replicate(&pair, &follower, "UPDATE t SET u = 2501 - u").await;
    leader.replicate(&pair, &follower, "UPDATE t SET id = 2501 - id").await;
    leader.replicate(&pair, &follower, "DELETE FROM t WHERE id > 100").await;
    leader
        .replicate(
            &pair,
            &follower,
            "UPDATE t SET k = k + 1 FROM (SELECT FROM t) x WHERE false; \
        UPDATE t SET k = -k; UPDATE t SET k = 1 - k",
        )
        .await;
    leader.replicate(&pair, &follower, "INSERT INTO s VALUES (1, '[1,5)'), (2, '[5,9)')").await;
    leader
        .replicate(
            &pair,
            &follower,
            "UPDATE s SET span = CASE id WHEN 1 THEN '[5,9)'::int4range ELSE '[1,5)' END",
        )
        .await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn what_a_follower_has_not_is_refused() {
    let pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE loose (v int); INSERT INTO loose VALUES (1), (1)").await;
    let leader = Leader::new(&pair, "postgres").await;
    let (follower, _) = connect(&pair.servers[1], &pair.database, "postgres").await;
    let effect = |relation: &str, op, old: &[&str], new: &[&str]| Effect::Rows {
        relation: format!("\"public\".\"{relation}\""),
        op,
        old: old.iter().map(|row| (*row).to_owned()).collect(),
        new: new.iter().map(|row| (*row).to_owned()).collect(),
    };
    for wrong in [
        effect("t", Op::Delete, &["(1,1)"], &[]),
        effect("t", Op::Update, &["(1,1)"], &["(1,2)"]),
        effect("loose", Op::Delete, &["(1)", "(1)", "(1)"], &[]),
        effect("loose", Op::Update, &["(1)", "(2)"], &["(3)", "(3)"]),
        effect("t", Op::Insert, &[], &[]),
    ] {
        let expected = if matches!(&wrong, Effect::Rows { new, op: Op::Insert, .. } if new.is_empty())
        {
            None
        } else {
            Some("LS001")
        };
        let got = leader.apply(&follower, std::slice::from_ref(&wrong)).await.err();
        assert_eq!(got.as_ref().and_then(|e| e.code()).map(|c| c.code()), expected, "{wrong:?}");
    }
    leader.apply(&follower, &[effect("loose", Op::Update, &["(1)"], &["(2)"])]).await.unwrap();
    let left = follower
        .query_one("SELECT count(*) FILTER (WHERE v = 1) || '/' || count(*) FROM loose", &[])
        .await
        .unwrap();
    assert_eq!(left.get::<_, &str>(0), "1/2");
}

#[tokio::test]
async fn other_encodings_and_hostile_surroundings_change_nothing() {
    let pair = Pair::new().await;
    let user = pair.user("hostile").await;
    pair.both(&format!(
        r#"CREATE SCHEMA "Ünï" AUTHORIZATION {user}; SET ROLE {user}; CREATE TABLE "Ünï"."tä" (t text PRIMARY KEY, n int);
        CREATE FUNCTION public.wrong(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.wrong);
        CREATE FUNCTION public.concat(text, text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
        CREATE FUNCTION public.quote_ident(text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
        CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT NULL::text';"#
    ))
    .await;
    let leader = Leader::new(&pair, &user).await;
    let (follower, _) = connect(&pair.servers[1], &pair.database, &user).await;
    for session in [&leader.client, &follower] {
        session.batch_execute("SET search_path = public, pg_catalog; SET client_encoding = 'LATIN1'; \
            SET standard_conforming_strings = off; SET backslash_quote = on; SET client_min_messages = error").await.unwrap();
    }
    let table = r#"U&"\00dcn\00ef".U&"t\00e4""#;
    leader.client.batch_execute("SET standard_conforming_strings = on").await.unwrap();
    for sql in [
        format!(r"INSERT INTO {table} VALUES (U&'\20ac \4e2d \+01d11e', 1)"),
        format!("UPDATE {table} SET n = n + 1"),
    ] {
        let effects: Vec<Effect> = leader.capture(&sql).await.into_iter().map(armoured).collect();
        assert_eq!(effects.len(), 1);
        leader.apply(&follower, &effects).await.unwrap();
    }
    pair.assert_equal().await;
}

/// The form for sessions whose encoding is not UTF8.
fn armoured(effect: Effect) -> Effect {
    use lockstep::store::journal::armoured;
    match effect {
        Effect::Rows { relation, op, old, new } => Effect::Rows {
            relation: armoured(&relation),
            op,
            old: old.iter().map(|row| armoured(row)).collect(),
            new: new.iter().map(|row| armoured(row)).collect(),
        },
        other => other,
    }
}
