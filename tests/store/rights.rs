//! Ordinary users: they can neither write as the proxy does nor make it, or the databases, do it for them.

use super::server::{CAPTURE_TOKEN, Leader, Pair, TOKEN, connect};
use tokio_postgres::Client;

async fn code(client: &Client, sql: &str) -> Option<String> {
    client.batch_execute(sql).await.err().map(|error| error.code().unwrap().code().to_owned())
}

#[tokio::test]
async fn an_ordinary_user_can_neither_read_nor_write_what_is_lockstep_s() {
    let pair = Pair::new().await;
    pair.both("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC; CREATE TABLE t (id int PRIMARY KEY)").await;
    // An upgrade under such default privileges must not open anything either.
    for place in 0..2 {
        let admin = pair.admin(place).await;
        admin.batch_execute("DROP TABLE lockstep.journal").await.unwrap();
        lockstep::store::control::install(&admin).await.unwrap();
    }
    let user = pair.user("mallory").await;
    let (mallory, _) = connect(&pair.servers[0], &pair.database, &user).await;
    for sql in [
        "SELECT * FROM lockstep.secret",
        "SELECT * FROM lockstep.journal",
        "SELECT * FROM lockstep.control",
        "UPDATE lockstep.control SET view = 9",
        "INSERT INTO lockstep.journal VALUES (1, 1, now(), 'x', '')",
        "SELECT lockstep.record('guess', 1, 1, 'x', '')",
        "SELECT lockstep.record(NULL, 1, 1, 'x', '')",
        "SELECT lockstep.apply('guess', 't', 'I', '{}', '{(1)}')",
        "SELECT lockstep.advance('', 't', 1)",
        "SELECT lockstep.reset_sequence('', 't', 1, true)",
        "SELECT lockstep.sequences('', NULL)",
        "SELECT lockstep.mark('', 'x')",
        "SELECT lockstep.follow('', true)",
        "SELECT lockstep.own_mark()",
        "SELECT lockstep.run_as_owner(0, 'DROP TABLE t', '{}', '{}')",
        "SELECT lockstep.make_helper(10)",
        "SELECT lockstep.guard('t')",
        "CREATE FUNCTION lockstep.evil() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE lockstep.evil ()",
        "DROP EVENT TRIGGER lockstep_ddl_end",
        "SET session_replication_role = replica",
    ] {
        assert_eq!(code(&mallory, sql).await.as_deref(), Some("42501"), "{sql}");
    }
    let source = mallory
        .query_one("SELECT string_agg(prosrc, '') FROM pg_proc WHERE pronamespace = 'lockstep'::regnamespace", &[])
        .await
        .unwrap();
    let source: &str = source.get(0);
    assert!(!source.contains(TOKEN) && !source.contains(CAPTURE_TOKEN));
}

#[tokio::test]
async fn without_secrets_nobody_is_the_proxy() {
    let pair = Pair::new().await;
    let admin = pair.admin(0).await;
    admin.batch_execute("DELETE FROM lockstep.secret").await.unwrap();
    for token in ["NULL", "''"] {
        let sql = format!("SELECT lockstep.record({token}, 1, 1, 'x', '')");
        assert_eq!(code(&admin, &sql).await.as_deref(), Some("42501"));
    }
}

#[tokio::test]
async fn a_forged_notice_is_not_taken_for_a_row() {
    let pair = Pair::new().await;
    let user = pair.user("forger").await;
    pair.both(&format!("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO {user}")).await;
    // Past the proxy the mark of that session can be seen: with the same word even.
    let (direct, notices) = connect(&pair.servers[0], &pair.database, &user).await;
    direct
        .batch_execute(
            "SET lockstep.session = 'a word'; SET lockstep.capture = on; INSERT INTO t VALUES (1)",
        )
        .await
        .unwrap();
    let seen = notices.lock().unwrap()[0].message().to_owned();
    let leader = Leader::new(&pair, &user).await;
    assert_ne!(seen, leader.mark);
    let forge = format!(
        "DO $$ BEGIN RAISE INFO USING ERRCODE = 'LS002', MESSAGE = '{seen}', SCHEMA = 'public', TABLE = 't', \
         COLUMN = 'I2', DETAIL = '', HINT = '(7)'; END $$; INSERT INTO t VALUES (2)"
    );
    let effects = leader.capture(&forge).await;
    assert_eq!(leader.notices.lock().unwrap().len(), 2);
    assert_eq!(effects.len(), 1);
    assert!(format!("{effects:?}").contains("(2)"));
}

/// Everything through which a table makes its owner's code run when a row is written.
const TRAPS: &str = r#"
CREATE FUNCTION who(anyelement) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
  IF current_user NOT LIKE 'owner%' THEN RAISE EXCEPTION 'code of a user ran as %', current_user; END IF;
  RETURN true; END $$;
CREATE DOMAIN careful AS int CHECK (public.who(VALUE));
CREATE TABLE trap (id careful PRIMARY KEY, v int CHECK (public.who(v)), g boolean GENERATED ALWAYS AS (public.who(v)) STORED);
CREATE INDEX ON trap (public.who(id));
CREATE FUNCTION totext(trap) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.who(1); RETURN 'nonsense'; END $$;
CREATE CAST (trap AS text) WITH FUNCTION totext(trap) AS IMPLICIT;
"#;

#[tokio::test]
async fn code_of_users_never_runs_as_the_administrator() {
    let pair = Pair::new().await;
    let owner = pair.user("owner").await;
    let user = pair.user("writer").await;
    pair.both(&format!("SET ROLE {owner}; {TRAPS} GRANT INSERT, SELECT ON trap TO {user}")).await;
    let leader = Leader::new(&pair, &owner).await;
    // The follower's session belongs to somebody who may not even write there.
    let (follower, _) = connect(&pair.servers[1], &pair.database, &user).await;
    for sql in [
        "INSERT INTO trap VALUES (1, 1), (2, 2)",
        "UPDATE trap SET v = v + 1",
        "DELETE FROM trap WHERE id = 1",
    ] {
        leader.replicate(&pair, &follower, sql).await;
    }
    let count = pair.admin(1).await.query_one("SELECT sum(v) FROM trap", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 3);
    // The owner of the helper may alter it, and gains nothing.
    let (evil, _) = connect(&pair.servers[1], &pair.database, &owner).await;
    let name = evil
        .query_one("SELECT concat('as_', oid) FROM pg_roles WHERE rolname = current_user", &[])
        .await
        .unwrap();
    let name: &str = name.get(0);
    evil.batch_execute(&format!(
        "ALTER FUNCTION lockstep.{name} SECURITY INVOKER SET search_path = public"
    ))
    .await
    .unwrap();
    let effects = leader.capture("INSERT INTO trap VALUES (5, 5)").await;
    let refused = leader.apply(&follower, &effects).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");
    evil.batch_execute(&format!("DROP FUNCTION lockstep.{name}")).await.unwrap();
    leader.apply(&follower, &effects).await.unwrap();
}

#[tokio::test]
async fn row_security_hides_nothing_from_replication() {
    let pair = Pair::new().await;
    let owner = pair.user("owner").await;
    for (table, force) in
        [("secured", ""), ("forced", "ALTER TABLE forced FORCE ROW LEVEL SECURITY;")]
    {
        pair.both(&format!(
            "SET ROLE {owner}; CREATE TABLE {table} (id int PRIMARY KEY, v int); \
             ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; {force} CREATE POLICY p ON {table} USING (v < 0)"
        ))
        .await;
    }
    let leader = Leader::new(&pair, "postgres").await;
    let (follower, _) = connect(&pair.servers[1], &pair.database, &owner).await;
    for table in ["secured", "forced"] {
        leader
            .replicate(
                &pair,
                &follower,
                &format!("INSERT INTO {table} VALUES (1, 1), (2, 2), (3, 3)"),
            )
            .await;
        leader.replicate(&pair, &follower, &format!("UPDATE {table} SET v = 9 WHERE id = 1")).await;
        leader.replicate(&pair, &follower, &format!("DELETE FROM {table} WHERE id = 2")).await;
    }
    pair.assert_equal().await;
}

#[tokio::test]
async fn a_schema_made_by_somebody_else_is_refused() {
    let pair = Pair::bare().await;
    let user = pair.user("squatter").await;
    pair.both(&format!("CREATE SCHEMA lockstep AUTHORIZATION {user}")).await;
    let error = lockstep::store::control::install(&pair.admin(0).await).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501");
}
