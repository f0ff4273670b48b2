//! LOAD DATA LOCAL: the client's file reaches every server.

use std::path::PathBuf;
use std::process::Command;

use crate::cluster::{Cluster, refused, run, value};
use crate::server::{DATABASE, PASSWORD, USER};

/// Files of the client's.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &[u8]) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        format!("load data local infile '{}'", path.display())
    }
}

/// What MariaDB's own client says to some statements; the error in the place of that, if there is one.
fn client(cluster: &Cluster, sql: &str, sends_files: bool) -> Result<String, String> {
    let ran = Command::new("mariadb")
        .args(["--no-defaults", "-h127.0.0.1", "-vvv", "-u", USER, DATABASE, "-e", sql])
        .arg(format!("--local-infile={}", u8::from(sends_files)))
        .arg(format!("-p{PASSWORD}"))
        .arg(format!("-P{}", cluster.port))
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ran.status.success() { Ok(said(&ran.stdout)) } else { Err(said(&ran.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_reach_every_server() {
    let cluster = Cluster::start(3).await;
    let files = Files::new();
    let mut conn = cluster.connect().await;
    let table = "create table t(id int auto_increment primary key, a varchar(40), n int unique, \
        r double, at timestamp(6) default now(6), bin varbinary(20))";
    run(&mut conn, table).await;
    let three = files.write("three", "eins\t1\nzw\\tei\t2\ndrei ä\t3\n".as_bytes());
    let said = client(&cluster, &format!("{three} into table t(a, n)"), true).unwrap();
    assert!(said.contains("3 rows affected"), "{said}");
    assert!(said.contains("Records: 3  Deleted: 0  Skipped: 0  Warnings: 0"), "{said}");
    // Columns through variables, dice in the order of the lines, and a format of its own.
    let odd = files.write("odd", b"header\n'x,y';10\n'z';\\N\n'a''b';12\n");
    let set = "fields terminated by ';' optionally enclosed by '''' ignore 1 lines (@a, @n) \
        set a = upper(@a), n = ifnull(@n, 50) + 0, r = rand(), bin = x'0027ff'";
    let said = client(&cluster, &format!("{odd} into table t {set}; select @a"), true).unwrap();
    assert!(said.contains("3 rows affected"), "{said}");
    assert!(said.contains("NULL"), "the variable is nobody's: {said}");
    // Numbers that are given, or not, line by line.
    let mixed = files.write("mixed", b"\\N\tm1\n100\tm2\n\\N\tm3\n");
    let said =
        client(&cluster, &format!("{mixed} into table t(id, a); select last_insert_id()"), true);
    assert!(said.is_ok(), "{said:?}");
    let clash = files.write("clash", "neu\t3\nzehn\t60\n".as_bytes());
    let error = client(&cluster, &format!("{clash} into table t(a, n)"), true).unwrap();
    // LOCAL means IGNORE: the server cannot stop a file that is on its way.
    assert!(error.contains("Records: 2  Deleted: 0  Skipped: 1  Warnings: 1"), "{error}");
    let said = client(&cluster, &format!("{clash} replace into table t(a, n)"), true).unwrap();
    assert!(said.contains("Records: 2  Deleted: 2"), "{said}");
    let more = format!(
        "begin; {three} into table t(a); insert into t(a) values('in between'); \
        {odd} into table t(a); commit; begin; {three} into table t(a); rollback"
    );
    client(&cluster, &more, true).unwrap();
    assert_eq!(value(&mut conn, "select count(*) from t").await, "18");
    cluster.assert_all_equal().await;
    assert!(!cluster.log().contains("inactive"), "{}", cluster.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_gets_the_files_from_the_journal() {
    let cluster = Cluster::start(3).await;
    let files = Files::new();
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int auto_increment primary key, a varchar(200), at datetime(6) default now(6))").await;
    let follower = (cluster.leader() + 1) % 3;
    cluster.servers[follower].kill();
    cluster.wait_active(2).await;
    let lines: String = (0..30_000).map(|n| format!("line {n} {}\n", "x".repeat(150))).collect();
    let large = files.write("large", lines.as_bytes());
    let said = client(&cluster, &format!("{large} into table t(a)"), true).unwrap();
    assert!(said.contains("30000 rows affected"), "{said}");
    cluster.servers[follower].start();
    cluster.wait_active(3).await;
    cluster.assert_all_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_is_refused_and_leaves_nothing() {
    let limits = "[limits]\nmax_transaction_effects_bytes = \"1MiB\"\n";
    let cluster = Cluster::start_with(2, limits).await;
    let files = Files::new();
    let mut conn = cluster.connect().await;
    run(&mut conn, "create table t(id int auto_increment primary key, a varchar(200))").await;
    let small = files.write("small", b"one\n");
    let large = files.write("large", "a line of it\n".repeat(100_000).as_bytes());
    let error = client(&cluster, &format!("{small} into table t(a)"), false).unwrap_err();
    assert!(error.contains("LOAD DATA LOCAL"), "{error}");
    for (sql, number) in [
        ("load data infile '/etc/passwd' into table t(a)", 1235),
        ("load xml local infile 'x' into table t", 1235),
        ("load data local infile 'x' into table t(a) set a = uuid()", 1235),
        ("load data local infile 'x' into table t(a) set a = load_file('/etc/passwd')", 1235),
        ("load data local infile 'x' into table nowhere", 1235),
    ] {
        assert_eq!(refused(&mut conn, sql).await, number, "{sql}");
    }
    // What is too large is taken back alone: the transaction and the connection go on.
    let script = format!(
        "begin;\ninsert into t(a) values('before');\n{large} into table t(a);\n\
         insert into t(a) values('after');\ncommit;\n{small} into table t(a);\n"
    );
    let script_file = files.0.path().join("script");
    std::fs::write(&script_file, script).unwrap();
    let ran = Command::new("mariadb")
        .args(["--no-defaults", "-h127.0.0.1", "--force", "--local-infile=1", "-u", USER, DATABASE])
        .args([format!("-p{PASSWORD}"), format!("-P{}", cluster.port)])
        .stdin(std::fs::File::open(script_file).unwrap())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(error.contains("max_transaction_effects_bytes"), "{error}");
    assert_eq!(value(&mut conn, "select group_concat(a) from t").await, "before,after,one");
    cluster.assert_all_equal().await;
}
