//! `lockstep check` and `lockstep init` in front of real MariaDB servers.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod maria;

use std::process::{Command, Output};

use maria::Server;

/// What a server needs before it can belong to a cluster.
const ACCOUNTS: &str = "CREATE DATABASE app; CREATE USER app@'%' IDENTIFIED BY 'x'; \
    GRANT ALL ON app.* TO app@'%'; CREATE USER adm@'%' IDENTIFIED BY 'ge\"heim\\\\'; \
    GRANT ALL ON *.* TO adm@'%' WITH GRANT OPTION; SET GLOBAL innodb_flush_log_at_trx_commit = 1";

const DATA: &str = "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, b BLOB, x TEXT); \
    INSERT INTO app.t (b, x) VALUES (x'00ff27', 'ä''\\n'), (NULL, ''); \
    CREATE TABLE app.u (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES app.t (id)); \
    INSERT INTO app.u VALUES (1); CREATE VIEW app.v AS SELECT id FROM app.t; \
    CREATE TRIGGER app.r BEFORE INSERT ON app.t FOR EACH ROW SET NEW.x = UPPER(NEW.x); \
    CREATE PROCEDURE app.p(a INT) DELETE FROM app.u WHERE id = a; \
    CREATE DATABASE second; CREATE TABLE second.t (id INT PRIMARY KEY)";

fn servers(count: usize) -> Option<Vec<Server>> {
    if !Server::is_there() {
        return None;
    }
    let servers: Vec<Server> = (0..count).map(|_| Server::start(&[])).collect();
    servers.iter().for_each(|server| {
        server.ask("", ACCOUNTS);
    });
    Some(servers)
}

/// Runs a subcommand with a configuration for servers at these ports, named `db1`, `db2`, ….
fn lockstep(words: &[&str], hosts: &[(&str, u16)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut config = "database = \"app\"\nadmin = { user = \"adm\", password = 'ge\"heim\\' }\n\
        http = \"off\"\nuser = [{ name = \"app\", password = \"x\" }]\n\
        [cluster]\nstate_dir = \"state\"\n"
        .to_owned();
    for (place, (host, port)) in hosts.iter().enumerate() {
        let name = place + 1;
        config.push_str(&format!(
            "[[backend]]\nname = \"db{name}\"\nurl = \"mariadb://{host}:{port}\"\n"
        ));
    }
    let file = folder.path().join("lockstep.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.args(words).arg("--config").arg(file).output().unwrap()
}

fn ports(servers: &[Server]) -> Vec<(&str, u16)> {
    servers.iter().map(|server| ("127.0.0.1", server.port)).collect()
}

/// All that was said, and whether it went well.
fn said(output: &Output) -> (bool, String) {
    let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    (output.status.success(), texts.concat())
}

fn assert_says(output: &Output, well: bool, text: &str) {
    let (success, said) = said(output);
    assert!(success == well && said.contains(text), "expected {text:?}, found:\n{said}");
}

#[test]
fn equal_servers_become_a_cluster_and_stay_one() {
    let Some(servers) = servers(2) else { return };
    let at = ports(&servers);
    servers.iter().for_each(|server| drop(server.ask("", DATA)));
    // Numbers that were given and taken back are no difference.
    servers[1].ask("app", "BEGIN; INSERT INTO t (x) VALUES ('gone'); ROLLBACK");
    assert_says(&lockstep(&["init"], &at), true, "2 backends belong to it");
    assert_says(&lockstep(&["init"], &at), true, "0 backends belong to it");
    assert_says(&lockstep(&["check"], &at), true, "2 backends fit together");
    let control = "SELECT backend, view, REPLACE(members, '\\n', ',') FROM lockstep.control";
    assert_eq!(servers[1].ask("", control), "db2\t1\tdb1,db2\n");
    let grants = servers[0].ask("", "SHOW GRANTS FOR app");
    for right in ["INSERT ON `lockstep`.`records`", "PROCEDURE `lockstep`.`obeys`"] {
        assert!(grants.contains(right), "{grants}");
    }
    let exchanged = [at[1], at[0]];
    assert_says(&lockstep(&["init"], &exchanged), false, "already belongs to cluster");
}

#[test]
fn servers_that_differ_are_filled_from_the_one_that_is_right() {
    let Some(servers) = servers(2) else { return };
    let at = ports(&servers);
    servers[0].ask("", DATA);
    assert_says(&lockstep(&["init"], &at), false, "say which is right with --source");
    assert_says(&lockstep(&["init", "--source", "db9"], &at), false, "there is no backend db9");
    servers[1].ask("", "CREATE TABLE app.junk (id INT)");
    assert_says(&lockstep(&["init", "--source", "db1"], &at), false, "db2 is not empty");
    let filled = lockstep(&["init", "--source", "db1", "--discard"], &at);
    assert_says(&filled, true, "db2: filled from the source");
    for sql in [
        "SELECT id, HEX(b), x FROM app.t ORDER BY id",
        "SELECT * FROM app.v ORDER BY id",
        "SHOW CREATE TRIGGER app.r",
        "SELECT ROUTINE_DEFINITION FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'app'",
        "SHOW TABLES FROM second",
    ] {
        let without_time = |text: String| text.split('\t').take(6).collect::<String>();
        let [a, b] = [0, 1].map(|at: usize| without_time(servers[at].ask("", sql)));
        assert_eq!(a, b, "{sql}");
    }
    assert!(!servers[1].try_ask("", "SELECT * FROM app.junk").status.success());
}

#[test]
fn one_server_is_not_two() {
    let Some(servers) = servers(1) else { return };
    let port = servers[0].port;
    let twice = [("127.0.0.1", port), ("localhost", port)];
    assert_says(&lockstep(&["init"], &twice), false, "are the same server");
}

#[test]
fn what_would_go_wrong_is_said_before() {
    let Some(mut servers) = servers(2) else { return };
    servers[1].restart(&["--innodb-rollback-on-timeout"]);
    let at = ports(&servers);
    servers[0].ask("", "CREATE TABLE app.old (id INT) ENGINE=MyISAM");
    servers[1].ask(
        "",
        "DROP USER app@'%'; SET GLOBAL sql_mode = 'ANSI_QUOTES'; SET GLOBAL event_scheduler = ON; \
         SET GLOBAL time_zone = '+05:00'; SET GLOBAL innodb_flush_log_at_trx_commit = 2",
    );
    let output = lockstep(&["check"], &at);
    for text in [
        "app.old (MyISAM)",
        "user app does not exist",
        "sql_mode is ANSI_QUOTES, on db1 it is",
        "event_scheduler is ON",
        "time_zone is +05:00",
        "innodb_flush_log_at_trx_commit is 2",
        "innodb_rollback_on_timeout is ON",
        "problems have to be mended first",
    ] {
        assert_says(&output, false, text);
    }
    let unreachable = [at[0], ("127.0.0.1", 1)];
    assert_says(&lockstep(&["check"], &unreachable), false, "db2: cannot be reached");
}
