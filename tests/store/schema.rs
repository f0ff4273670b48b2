//! DDL: tables get their triggers whatever way they come, nothing ordinary is stood in the way of, and the proxy hears.

use super::server::{Leader, Pair, connect};

async fn unguarded(pair: &Pair) -> Vec<String> {
    let rows = pair
        .admin(0)
        .await
        .query("SELECT u::text FROM lockstep.unguarded() AS u", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn every_table_has_its_triggers_however_it_came() {
    let pair = Pair::new().await;
    let user = pair.user("maker").await;
    let admin = pair.admin(0).await;
    admin
        .batch_execute(&format!("GRANT CREATE ON DATABASE {} TO {user}", pair.database))
        .await
        .unwrap();
    admin
        .batch_execute(
            "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw",
        )
        .await
        .unwrap();
    let (maker, _) = connect(&pair.servers[0], &pair.database, &user).await;
    for sql in [
        "CREATE TABLE \"O'dd \"\"Name\" (id int)",
        "CREATE TABLE copy AS SELECT 1 AS a",
        "SELECT 1 AS a INTO chosen",
        "CREATE SCHEMA s CREATE TABLE inner_one (id int) CREATE VIEW v AS SELECT * FROM inner_one",
        "CREATE TABLE part (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF part FOR VALUES IN (1); \
         CREATE TABLE p2 (id int); ALTER TABLE part ATTACH PARTITION p2 FOR VALUES IN (2); ALTER TABLE part DETACH PARTITION p1",
        "CREATE TABLE heir (v int) INHERITS (copy)",
        "CREATE TYPE ty AS (a int); CREATE TABLE typed OF ty",
        "CREATE UNLOGGED TABLE fast (id int); ALTER TABLE fast SET LOGGED",
        "ALTER TABLE copy SET SCHEMA s; ALTER TABLE chosen RENAME TO renamed; ALTER TABLE renamed ADD COLUMN z int DEFAULT 1",
        "CREATE TEMP TABLE t (id int); INSERT INTO t VALUES (1); ALTER TABLE t ADD COLUMN b int; DROP TABLE t",
        "CREATE TEMP TABLE t2 ON COMMIT DROP AS SELECT 1",
        "CREATE MATERIALIZED VIEW m AS SELECT 1; REFRESH MATERIALIZED VIEW m; DROP MATERIALIZED VIEW m",
        "ALTER TABLE renamed DISABLE TRIGGER ALL; ALTER TABLE renamed ENABLE TRIGGER ALL",
        "ALTER TABLE renamed DISABLE TRIGGER \"00_lockstep_capture\"",
        "DROP TRIGGER \"00_lockstep_capture\" ON renamed",
        "COMMENT ON TABLE renamed IS 'x'; CREATE INDEX ON renamed (z); REINDEX TABLE renamed",
        "DROP TABLE IF EXISTS none; DROP TABLE p1",
        "DO $$ BEGIN CREATE TABLE inside (id int); INSERT INTO inside VALUES (1); ALTER TABLE inside ADD COLUMN b int; END $$",
    ] {
        if let Err(error) = maker.batch_execute(sql).await {
            panic!("{sql}: {error:?}");
        }
        assert_eq!(unguarded(&pair).await, Vec::<String>::new(), "{sql}");
    }
    admin.batch_execute("CREATE FOREIGN TABLE ft (a int) SERVER far; DROP FOREIGN TABLE ft; CREATE EXTENSION pg_stat_statements").await.unwrap();
    let guarded = admin
        .query_one(
            "SELECT count(DISTINCT tgrelid) FROM pg_trigger WHERE tgname = '00_lockstep_capture'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(guarded.get::<_, i64>(0), 9);
    maker.batch_execute("CREATE TEMP TABLE t3 (id int)").await.unwrap();
    admin.batch_execute(&format!("DROP OWNED BY {user} CASCADE")).await.unwrap();
}

#[tokio::test]
async fn a_role_without_tables_can_be_dropped() {
    let pair = Pair::new().await;
    let user = pair.user("brief").await;
    let (session, _) = connect(&pair.servers[0], &pair.database, &user).await;
    session.batch_execute("CREATE TABLE t (id int); DROP TABLE t").await.unwrap();
    let admin = pair.admin(0).await;
    admin
        .batch_execute(&format!("REVOKE ALL ON SCHEMA public FROM {user}; DROP ROLE {user}"))
        .await
        .unwrap();
}

#[tokio::test]
async fn ddl_out_of_sight_is_reported() {
    let pair = Pair::new().await;
    let user = pair.user("ddl").await;
    let leader = Leader::new(&pair, &user).await;
    let report = |tag: &str, temporary| (tag.to_owned(), temporary);
    leader
        .capture(
            "DO $$ BEGIN CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); END $$",
        )
        .await;
    assert_eq!(leader.ddl(), [report("CREATE TABLE", false)]);
    assert_eq!(leader.rows().len(), 1);
    leader.capture("DO $$ BEGIN DROP TABLE IF EXISTS scratch; CREATE TEMP TABLE scratch AS SELECT 1 AS a; \
        ALTER TABLE scratch ADD COLUMN b int; CREATE INDEX ON scratch (a); DROP TABLE scratch; END $$").await;
    assert!(
        !leader.ddl().is_empty() && leader.ddl().iter().all(|(_, temporary)| *temporary),
        "{:?}",
        leader.ddl()
    );
    leader.capture("DO $$ BEGIN ALTER TABLE t ADD COLUMN v int; END $$").await;
    assert_eq!(leader.ddl(), [report("ALTER TABLE", false)]);
    leader.capture("DO $$ BEGIN DROP TABLE t; END $$").await;
    assert_eq!(leader.ddl(), [report("DROP TABLE", false)]);
    leader
        .client
        .batch_execute("SET lockstep.capture = off; CREATE TABLE t (id int)")
        .await
        .unwrap();
    leader.notices.lock().unwrap().clear();
    leader.client.batch_execute("DROP TABLE t").await.unwrap();
    assert!(leader.ddl().is_empty());
}

#[tokio::test]
async fn installing_again_keeps_everything() {
    let pair = Pair::new().await;
    let admin = pair.admin(0).await;
    admin.batch_execute("CREATE TABLE t (id int); SELECT lockstep.record('the proxy''s secret', 1, 2, NULL, 'x')").await.unwrap();
    lockstep::store::control::install(&admin).await.unwrap();
    let tail = lockstep::store::control::journal_tail(&admin, 0).await.unwrap();
    assert_eq!(tail, [(1, 2)]);
    assert!(unguarded(&pair).await.is_empty());
}

#[tokio::test]
async fn a_new_owner_has_his_helper_before_rows_come() {
    let pair = Pair::new().await;
    let (old, new) = (pair.user("old").await, pair.user("new").await);
    let admin = pair.admin(0).await;
    let helpers = async || {
        let query = "SELECT count(*) FROM pg_proc WHERE proname ~ '^as_' AND pronamespace = 'lockstep'::regnamespace";
        admin.query_one(query, &[]).await.unwrap().get::<_, i64>(0)
    };
    admin
        .batch_execute(&format!("CREATE TABLE t (id int); ALTER TABLE t OWNER TO {old}"))
        .await
        .unwrap();
    assert_eq!(helpers().await, 1);
    admin.batch_execute(&format!("REASSIGN OWNED BY {old} TO {new}")).await.unwrap();
    assert!(helpers().await >= 1);
    admin.batch_execute("CREATE TABLE IF NOT EXISTS t (id int); DROP TABLE t").await.unwrap();
    assert_eq!(helpers().await, 0);
}
