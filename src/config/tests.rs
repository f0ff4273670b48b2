use std::time::Duration;

use super::*;

const FIVE_LINES: &str = r#"
database = "app"
admin    = { user = "postgres", password = "top" }
backend  = ["postgresql://db1:5432", "db2:5432", "db3"]
user     = [{ name = "app", password = "secret" }]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/lockstep"))
}

fn refused(text: &str) -> ConfigError {
    parse(text).expect_err(text)
}

#[test]
fn five_lines_are_a_whole_cluster() {
    let config = parse(FIVE_LINES).expect("five lines");
    assert_eq!(config.cluster.database, "app");
    assert_eq!(config.cluster.postgres_listen, ["127.0.0.1:6432".parse().expect("address")]);
    let places: Vec<_> = config.backends.iter().map(|b| (b.host.as_str(), b.port)).collect();
    assert_eq!(places, [("db1", 5432), ("db2", 5432), ("db3", 5432)]);
    assert_eq!(config.backends[2].name, "db3:5432");
    let app = config.credentials_of(&config.backends[0], "app").expect("app is a user");
    assert_eq!(app.password.reveal(), "secret");
    assert!(config.may_use_console("postgres") && !config.may_use_console("app"));
}

#[test]
fn sections_say_the_same() {
    let long = r#"
        [cluster]
        database = "app"
        [admin]
        user = "postgres"
        password = "top"
        [[backend]]
        url = "postgresql://db1:5432"
        [[backend]]
        address = "db2:5432"
        [[backend]]
        address = "db3"
        [[user]]
        name = "app"
        password = "secret"
    "#;
    assert_eq!(parse(long), parse(FIVE_LINES));
}

#[test]
fn the_sample_shows_every_key_with_its_default() {
    let text = include_str!("../../config/lockstep.toml");
    let sample = Config::parse(text, Path::new("/")).expect("the sample is valid");
    let small = parse(FIVE_LINES).expect("five lines");
    assert_eq!(sample.pool, small.pool);
    assert_eq!(sample.reads, small.reads);
    assert_eq!(sample.timeouts, small.timeouts);
    assert_eq!(sample.limits, small.limits);
    assert_eq!(sample.log, small.log);
    assert_eq!(sample.journal, small.journal);
    assert_eq!(sample.http, small.http);
    assert_eq!(sample.proxy, small.proxy);
    let cluster = Cluster { database: sample.cluster.database.clone(), ..small.cluster };
    assert_eq!(sample.cluster, cluster);
    assert_eq!(sample.backends[0].weight, small.backends[0].weight);
    for (section, known) in known_keys() {
        let body = section_of(text, section);
        for key in known {
            let found = body.iter().any(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.split('=').next().is_some_and(|word| word.trim() == key)
            });
            assert!(found, "config/lockstep.toml does not show `{key}` under [{section}]");
        }
    }
}

/// What serde itself would accept in each section, learnt by asking for a key that cannot exist.
fn known_keys() -> Vec<(&'static str, Vec<String>)> {
    const ALIASES: [&str; 22] = [
        "id",
        "location",
        "sslmode",
        "sslrootcert",
        "default_pool_size",
        "server_idle_timeout",
        "server_lifetime",
        "connect_timeout",
        "client_login_timeout",
        "health_check_period",
        "health_check_timeout",
        "idle_transaction_timeout",
        "max_client_conn",
        "auth_type",
        "admin_users",
        "listen_addresses",
        "users",
        "name or user",
        "user or name",
        "backends",
        "round_robin",
        "scram",
    ];
    let sections = [
        "cluster",
        "[backend]",
        "admin",
        "[user]",
        "pool",
        "reads",
        "timeouts",
        "limits",
        "http",
        "log",
        "client_tls",
        "journal",
        "proxy",
        "witness",
    ];
    let probe = |section: &'static str| {
        let probe = if section == "admin" || section == "[user]" { "\n" } else { "" };
        let error = toml::from_str::<raw::Raw>(&format!("[{section}]{probe}\nno_such_key = 1"))
            .expect_err("no such key");
        let known = error.message().split('`').skip(3).step_by(2).map(str::to_owned);
        let alias = |key: &String| ALIASES.contains(&key.as_str()) || twin(section, key);
        (section, known.filter(|key| !alias(key)).collect())
    };
    sections.into_iter().map(probe).collect()
}

/// Words that are the key of one section and an alias in another.
fn twin(section: &str, key: &str) -> bool {
    matches!((section, key), ("cluster", "listen") | ("admin", "name") | ("[user]", "user"))
}

fn section_of<'a>(text: &'a str, section: &str) -> Vec<&'a str> {
    let is_head = |line: &str, head: &str| line.trim_start_matches(['#', ' ']).starts_with(head);
    let head = format!("[{section}]");
    let body = text.lines().skip_while(|line| !is_head(line, &head)).skip(1);
    let body: Vec<_> = body.take_while(|line| !is_head(line, "[")).collect();
    assert!(!body.is_empty(), "config/lockstep.toml has no section {head}");
    body
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_right_word() {
    let error = refused(&format!("{FIVE_LINES}\n[timeouts]\ndead_afer = \"5s\"\n"));
    assert_eq!(error.line(), Some(8));
    assert_eq!(error.problem(), "unknown key `dead_afer`");
    assert_eq!(error.remedy(), "did you mean `dead_after`?");
    let error = refused(&format!("{FIVE_LINES}\n[pool]\npool_size = 3\n"));
    assert_eq!(error.remedy(), "lockstep calls it size in [pool]");
    let error = refused("database = \"app\"\n[[backend]]\nurll = \"x\"\n");
    assert_eq!((error.line(), error.remedy()), (Some(3), "did you mean `url`?"));
}

#[test]
fn a_value_that_cannot_be_is_named_with_its_line() {
    for (line, text) in [
        (7, "[timeouts]\nconnect = 5\n"),
        (7, "[timeouts]\nconnect = \"soon\"\n"),
        (7, "[timeouts]\nprobe_timeout = \"1h\"\n"),
        (7, "[pool]\nsize = 0\n"),
        (7, "[reads]\nbalancer = \"best\"\n"),
        (7, "[limits]\nmax_message_bytes = \"8GiB\"\n"),
        (7, "[cluster]\nlisten = \"everywhere\"\n"),
        (7, "[cluster]\nconsole_users = [\"nobody\"]\n"),
        (6, "[http]\n"),
    ] {
        let error = refused(&format!("{FIVE_LINES}{text}"));
        assert_eq!(error.line(), Some(line), "{error}");
        assert!(!error.remedy().is_empty());
    }
}

#[test]
fn impossible_backends_are_refused() {
    let with = |backend: &str| {
        let rest = "admin = { user = \"a\" }\nuser = [{ name = \"app\", password = \"x\" }]";
        refused(&format!("database = \"app\"\n{rest}\n{backend}"))
    };
    for (problem, text) in [
        ("no address", "[[backend]]\nname = \"one\""),
        ("both `url`", "[[backend]]\nurl = \"a\"\naddress = \"b\""),
        ("the same server", "backend = [\"db1\", \"db1:5432/\"]"),
        ("the same server", "[[backend]]\nname = \"x\"\nurl = \"db1\"\n[[backend]]\nurl = \"db1\""),
        (
            "backend 1 is mysql and backend 2 is postgresql",
            "backend = [\"mysql://a\", \"postgres://b\"]",
        ),
        (
            "which is not spoken there",
            "[cluster]\npostgres_listen = \"127.0.0.1:1\"\n[[backend]]\nurl = \"mariadb://db1\"",
        ),
        ("cannot be a name", "[[backend]]\nname = \"a b\"\nurl = \"db1\""),
        (
            "both as a key and in its url",
            "[[backend]]\nurl = \"postgres://db1/x\"\ndatabase = \"y\"",
        ),
        ("verified, but by what", "[[backend]]\nurl = \"db1\"\ntls = \"verify-full\""),
        ("nothing would be verified", "[[backend]]\nurl = \"db1\"\ntls_ca = \"ca.pem\""),
        ("switch off", "[[backend]]\nurl = \"db1\"\ntls = \"prefer\""),
        ("who is no user", "[[backend]]\nurl = \"db1\"\nusers.eve = { user = \"x\" }"),
        ("no backend is named", ""),
    ] {
        let error = with(text);
        let port = error.problem().contains("the port must be");
        assert!(error.problem().contains(problem) || port, "{text}: {error}");
    }
}

#[test]
fn a_cluster_of_mysql_has_its_own_port_and_way_in() {
    let text = "database = \"app\"\nlisten = \"*:4406\"\nadmin = { user = \"root\" }\n\
                backend = [\"mariadb://db1\", \"db2\"]\nuser = [{ name = \"app\", password = \"x\" }]";
    let config = Config::parse(text, Path::new("/")).expect("it is right");
    assert_eq!(config.cluster.dialect, lockstep_protocol::Dialect::MySql);
    assert_eq!(config.backends.iter().map(|b| b.port).collect::<Vec<_>>(), [3306, 3306]);
    assert_eq!(config.cluster.mysql_listen, ["0.0.0.0:4406".parse().expect("address")]);
    assert!(config.cluster.postgres_listen.is_empty());
    assert!(config.settings().contains(&("cluster.dialect".into(), "mysql".into())));
}

#[test]
fn what_is_missing_is_asked_for() {
    let error = refused("");
    assert!(error.problem().contains("no database"), "{error}");
    let error = refused("database = \"lockstep\"");
    assert_eq!((error.line(), error.problem().contains("console")), (Some(1), true), "{error}");
    let error = refused("database = \"app\"\nbackend = [\"db1\"]");
    assert!(error.problem().contains("no admin"), "{error}");
    let error = refused("database = \"app\"\nbackend = [\"postgres://a:b@db1\"]");
    assert!(error.problem().contains("nobody could log in"), "{error}");
    let no_password = "backend = [\"postgres://a:b@db1\"]\nuser = [{ name = \"app\" }]";
    let error = refused(&format!("database = \"app\"\n{no_password}"));
    assert_eq!((error.line(), error.problem()), (Some(3), "the user `app` has no password"));
    assert!(parse(&format!("database = \"app\"\ncluster.auth = \"trust\"\n{no_password}")).is_ok());
}

#[test]
fn secrets_come_from_files_and_never_show() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("app.password"), "s3cret\n").expect("file");
    let text = FIVE_LINES.replace("password = \"secret\"", "password_file = \"app.password\"");
    let config = Config::parse(&text, folder.path()).expect("valid");
    assert_eq!(config.users[0].password.reveal(), "s3cret");
    let shown = format!("{config:?} {:?}", config.settings());
    assert!(!shown.contains("s3cret") && !shown.contains("top"), "{shown}");
    let error = refused(&text);
    assert!(error.to_string().contains("/etc/lockstep/app.password cannot be read"), "{error}");
    let error =
        refused(&FIVE_LINES.replace("password = \"secret\"", "password_env = \"NO_SUCH_X\""));
    assert!(error.problem().contains("NO_SUCH_X"), "{error}");
}

#[test]
fn every_setting_can_be_shown() {
    let rows = parse(FIVE_LINES).expect("valid").settings();
    let value = |key: &str| rows.iter().find(|row| row.0 == key).map(|row| row.1.as_str());
    assert_eq!(value("timeouts.dead_after"), Some("10s"));
    assert_eq!(value("timeouts.idle_in_transaction"), Some("off"));
    assert_eq!(value("limits.reply_buffer_bytes"), Some("64KiB"));
    assert_eq!(value("backends.db2:5432.host"), Some("db2"));
    assert_eq!(value("admin.password"), Some("********"));
}

#[test]
fn a_reload_keeps_what_is_built_and_takes_the_rest() {
    let old = parse(FIVE_LINES).expect("valid");
    let text = FIVE_LINES.replace("\"db3\"", "\"db4\"").replace("\"secret\"", "\"changed\"");
    let text = format!(
        "{text}\n[cluster]\nname = \"other\"\n[timeouts]\nhold = \"1s\"\nconnect = \"1s\"\n[pool]\nsize = 3\n[limits]\nworker_threads = 7\n"
    );
    let (merged, changes) = old.reloaded(parse(&text).expect("valid"));
    assert_eq!(changes.live, ["user", "pool", "timeouts"]);
    let restart = [
        "cluster.name",
        "limits.worker_threads",
        "backend.db3:5432 (removed)",
        "backend.db4:5432 (added)",
    ];
    assert_eq!(changes.restart, restart);
    assert_eq!(merged.backends, old.backends);
    assert_eq!(merged.users[0].password.reveal(), "changed");
    assert_eq!(merged.timeouts.hold, Duration::from_secs(1));
    assert_eq!(merged.timeouts.connect, Duration::from_secs(1));
    assert_eq!(merged.limits.worker_threads, old.limits.worker_threads);
    assert_eq!(merged.pool.size, 3);
    assert!(old.reloaded(old.clone()).1.is_empty());
    let two = "password = \"secret\" }, { name = \"more\", password = \"x\" }]";
    let more = parse(&FIVE_LINES.replace("password = \"secret\" }]", two)).expect("valid");
    assert_eq!(old.reloaded(more).1.restart, ["user (added or removed)"]);
}

#[test]
fn the_files_for_the_containers_and_the_demo_are_valid() {
    let text =
        include_str!("../../config/docker/lockstep.toml").replace("password_env", "password");
    let config = parse(&text).expect("the containers' configuration");
    assert_eq!(config.backends.len(), 3);
    let settings = include_str!("../../config/demo.toml");
    let rest = "[admin]\nuser = \"a\"\n[[user]]\nname = \"app\"\npassword = \"x\"\n[[backend]]\nurl = \"db1\"";
    let config = parse(&format!("{settings}\n{rest}")).expect("the demo's configuration");
    assert_eq!(config.cluster.state_dir, Path::new("/etc/lockstep/state"));
}

#[test]
fn several_proxies_have_names_and_know_each_other() {
    let with = |section: &str| format!("{FIVE_LINES}\n{section}");
    let lone = parse(FIVE_LINES).expect("five lines").proxy;
    assert!(lone.is_lone() && lone.on_standby == OnStandby::Refuse);
    let named =
        parse(&with("[proxy]\nname = \"p1\"\nadvertise = \"h1:6432\"")).expect("named").proxy;
    assert_eq!(named.advertise, Some(("h1".to_owned(), 6432)));
    assert_eq!(named.on_standby, OnStandby::Forward, "where that is possible");
    let seen = parse(&with("[proxy]\nname = \"p1\"\n[witness]\nurl = \"postgresql://w:s@h/d\""));
    let witness = seen.expect("a witness").witness.expect("there");
    assert_eq!((witness.port, witness.password.reveal()), (5432, "s"));
    let daemon = "[proxy]\nname = \"p1\"\n[witness]\nurl = \"lockstep://h\"\npassword = \"s\"";
    let daemon = parse(&with(daemon)).expect("a daemon").witness.expect("there");
    assert_eq!((daemon.port, daemon.database), (6440, None));
    for (wrong, remedy) in [
        ("[proxy]\nadvertise = \"h1:6432\"", "name"),
        ("[proxy]\nname = \"p1\"\non_standby = \"forward\"", "advertise"),
        ("[proxy]\nname = \"p1\"\non_standby = \"read-only\"", "advertise"),
        ("[proxy]\nname = \"p1\"\nadvertise = \"h1\"", "host:port"),
        ("[proxy]\nname = \"p1\"\ntakeover_after = \"1s\"", "three times"),
        ("[witness]\nurl = \"postgresql://w:s@h/d\"", "name"),
        ("[proxy]\nname = \"p1\"\n[witness]\nurl = \"lockstep://h\"", "password_file"),
        ("[proxy]\nname = \"p1\"\n[witness]\nurl = \"lockstep://u@h\"", "lockstep://host:port"),
        ("[proxy]\nname = \"p1\"\n[witness]\nurl = \"mysql://w:s@h/d\"", "postgresql://"),
    ] {
        let error = refused(&with(wrong)).to_string();
        assert!(error.contains(remedy), "{wrong}: {error}");
    }
}
