//! Making a cluster out of databases, and looking at what is wrong with them.

use super::server::{Pair, connect};
use lockstep::store::check::{CheckOptions, Severity, check};
use lockstep::store::compare::{content, diff, sequences_differ};
use lockstep::store::control::{journal_end, read_control, read_tokens};
use lockstep::store::init::{InitError, InitOptions, InitReport, Target, init};

async fn targets(pair: &Pair) -> Vec<Target> {
    let mut targets = Vec::new();
    for (place, name) in ["east", "west"].into_iter().enumerate() {
        let url_for_tools = pair.servers[place].url(&pair.database);
        targets.push(Target { name: name.into(), client: pair.admin(place).await, url_for_tools });
    }
    targets
}

fn options(source: Option<&str>, discard: bool) -> InitOptions {
    InitOptions {
        source: source.map(Into::into),
        discard,
        cluster_id: "c1".into(),
        token: "t".into(),
        capture_token: "k".into(),
        ..InitOptions::default()
    }
}

async fn run(pair: &Pair, source: Option<&str>, discard: bool) -> Result<InitReport, InitError> {
    init(targets(pair).await, options(source, discard)).await
}

#[tokio::test]
async fn empty_databases_become_a_cluster_once() {
    let pair = Pair::bare().await;
    let report = run(&pair, None, false).await.unwrap();
    assert_eq!(report.joined, ["east", "west"]);
    let again = init(
        targets(&pair).await,
        InitOptions {
            cluster_id: "c2".into(),
            token: "t2".into(),
            users: vec!["nobody".into()],
            ..options(None, false)
        },
    );
    let again = again.await.unwrap();
    assert_eq!((again.cluster_id.as_str(), again.joined.len()), ("c1", 0));
    assert_eq!(again.notes.len(), 2);
    for place in 0..2 {
        let admin = pair.admin(place).await;
        let control = read_control(&admin).await.unwrap().unwrap();
        let roster = control.vote.roster;
        assert_eq!((roster.number, roster.members), (1, vec!["east".to_owned(), "west".into()]));
        assert_eq!(read_tokens(&admin).await.unwrap().unwrap().0, "t");
    }
    let mut swapped = targets(&pair).await;
    swapped[0].name = "south".into();
    let error = init(swapped, options(None, false)).await.unwrap_err();
    assert!(matches!(error, InitError::Foreign { .. }), "{error}");
}

#[tokio::test]
async fn one_server_is_not_two_backends() {
    let pair = Pair::bare().await;
    let mut twice = targets(&pair).await;
    twice[1].client = pair.admin(0).await;
    let error = init(twice, options(None, false)).await.unwrap_err();
    assert!(matches!(error, InitError::SameServer(..)), "{error}");
}

const DATA: &str = "CREATE TABLE parent (id serial PRIMARY KEY, v text); INSERT INTO parent (v) SELECT g::text FROM generate_series(1, 500) g; \
    CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent, w varchar(9) CHECK (w IN ('a', 'b'))); INSERT INTO child VALUES (1, 1, 'a'); \
    CREATE VIEW v AS SELECT count(*) FROM child; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'";

#[tokio::test]
async fn data_that_differ_are_refused_until_one_is_said_to_be_right() {
    let pair = Pair::bare().await;
    let (east, west) = (pair.admin(0).await, pair.admin(1).await);
    east.batch_execute(DATA).await.unwrap();
    let error = run(&pair, None, false).await.unwrap_err();
    assert!(matches!(error, InitError::Differ { .. }), "{error}");
    assert!(matches!(
        run(&pair, Some("north"), false).await.unwrap_err(),
        InitError::UnknownSource(_)
    ));
    west.batch_execute("CREATE TABLE other (id int)").await.unwrap();
    assert!(matches!(run(&pair, Some("east"), false).await.unwrap_err(), InitError::NotEmpty(_)));
    let report = run(&pair, Some("east"), true).await.unwrap();
    assert_eq!((report.filled.as_slice(), report.joined.len()), (&["west".to_owned()][..], 2));
    let (a, b) = (content(&east).await.unwrap(), content(&west).await.unwrap());
    assert_eq!(
        diff(&a, &b).into_iter().filter(|text| !text.contains("defined differently")).count(),
        0
    );
    assert!(sequences_differ(&a, &b).is_empty());
    west.batch_execute("UPDATE parent SET v = 'x' WHERE id = 7; DELETE FROM child; SELECT nextval('parent_id_seq')").await.unwrap();
    let b = content(&west).await.unwrap();
    let differences = diff(&a, &b);
    assert!(
        differences.contains(
            &"\"public\".\"child\" has 1 rows on the first and 0 on the second".to_owned()
        )
    );
    assert!(differences.contains(
        &"\"public\".\"parent\" has 500 rows on both, but their content differs".to_owned()
    ));
    assert_eq!(sequences_differ(&a, &b).len(), 1);
}

#[tokio::test]
async fn a_member_that_lost_everything_is_filled_again_from_one_with_triggers() {
    let pair = Pair::bare().await;
    pair.both(DATA).await;
    let user = pair.user("owner").await;
    pair.both(&format!("ALTER TABLE parent OWNER TO {user}")).await;
    run(&pair, None, false).await.unwrap();
    pair.admin(1)
        .await
        .batch_execute(
            "DROP SCHEMA lockstep CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public",
        )
        .await
        .unwrap();
    let report = run(&pair, Some("east"), true).await.unwrap();
    assert_eq!(
        (report.joined.as_slice(), report.filled.as_slice()),
        (&["west".to_owned()][..], &["west".to_owned()][..])
    );
    let west = pair.admin(1).await;
    assert_eq!(journal_end(&west).await.unwrap(), 0);
    assert_eq!(west.query("SELECT lockstep.unguarded()", &[]).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_role_that_is_missing_is_named_before_anything_is_touched() {
    let pair = Pair::bare().await;
    let east = pair.admin(0).await;
    let role = format!("only_east_{}", pair.database);
    east.batch_execute(&format!(
        "CREATE ROLE {role}; CREATE TABLE t (id int); GRANT SELECT ON t TO {role}"
    ))
    .await
    .unwrap();
    let error = run(&pair, Some("east"), false).await.unwrap_err();
    assert!(matches!(&error, InitError::MissingRoles { roles, .. } if *roles == [role]), "{error}");
}

#[tokio::test]
async fn a_check_names_what_is_wrong() {
    let pair = Pair::bare().await;
    let user = pair.user("app").await;
    pair.both("CREATE TABLE loose (v int)").await;
    run(&pair, None, false).await.unwrap();
    let west = pair.admin(1).await;
    west.batch_execute(&format!(
        "ALTER DATABASE {} SET \"TimeZone\" = 'Asia/Tokyo'; CREATE EXTENSION pgcrypto; DROP EVENT TRIGGER lockstep_ddl_end; \
         CREATE TABLE unseen (id int PRIMARY KEY); SELECT lo_create(0)",
        pair.database
    ))
    .await
    .unwrap();
    let mut backends = Vec::new();
    for (place, name) in ["east", "west"].into_iter().enumerate() {
        backends.push((
            name.to_owned(),
            connect(&pair.servers[place], &pair.database, "postgres").await.0,
        ));
    }
    let options =
        CheckOptions { users: vec![user, "nobody".into(), "postgres".into()], connections: 100 };
    let findings = check(&backends, &options).await.unwrap();
    let found = |severity, backend: &str, part: &str| {
        assert!(
            findings
                .iter()
                .any(|f| f.severity == severity && f.backend == backend && f.what.contains(part)),
            "{part}: {findings:#?}"
        );
    };
    found(Severity::Error, "west", "DDL is not watched");
    found(Severity::Error, "west", "unseen lacks the triggers");
    found(Severity::Error, "east", "user nobody does not exist");
    found(Severity::Warning, "east", "user postgres is a superuser");
    found(Severity::Warning, "east", "loose: has no primary key");
    found(Severity::Warning, "east", "fsync is off");
    found(Severity::Error, "west", "TimeZone is Asia/Tokyo here");
    found(Severity::Warning, "west", "extensions is pgcrypto");
    found(Severity::Warning, "west", "1 large objects");
    found(Severity::Warning, "east", "the server allows 57 connections");
    assert!(!findings.iter().any(|f| f.what.contains("encoding")), "{findings:#?}");
}
