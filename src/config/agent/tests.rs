use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

const SMALL: &str = r#"
[agent]
database = "postgresql://lockstep:secret@db1/app"
[[node]]
name = "app1"
role = "master"
[[node]]
name = "app2"
[[resource]]
name = "app"
"#;

fn parse(text: &str) -> Result<AgentConfig, ConfigError> {
    AgentConfig::parse(text, Path::new("/etc/lockstep"))
}

fn refused(text: &str) -> ConfigError {
    parse(text).expect_err(text)
}

#[test]
fn a_few_lines_are_a_whole_cluster() {
    let config = parse(SMALL).expect("small");
    assert_eq!(config.agent.ttl, Duration::from_secs(10));
    let store = &config.agent.stores[0];
    assert_eq!((store.host.as_str(), store.port, store.database.as_str()), ("db1", 5432, "app"));
    assert_eq!(store.password.reveal(), "secret");
    assert_eq!((config.nodes[0].priority, config.nodes[1].priority), (100, 50));
    assert!(config.node("app2").is_ok());
    let stranger = config.node("app3").expect_err("a stranger");
    assert!(stranger.remedy().contains("`app1`, `app2`"), "{stranger}");
    assert!(!format!("{config:?}").contains("secret"), "a password is printed");
}

#[test]
fn the_sample_shows_every_key_with_its_default() {
    let text = include_str!("../../../config/agent.toml");
    let sample = parse(text).expect("the sample is valid");
    let small = parse(SMALL).expect("small");
    let settings = |config: &AgentConfig| Settings { stores: Vec::new(), ..config.agent.clone() };
    assert_eq!(settings(&sample), settings(&small));
    let plain = |config: &AgentConfig| Resource {
        services: Vec::new(),
        vips: Vec::new(),
        checks: Vec::new(),
        ..config.resources[0].clone()
    };
    assert_eq!(plain(&sample), plain(&small));
    assert_eq!(sample.nodes.iter().map(|n| n.priority).collect::<Vec<_>>(), [100, 50]);
    let minimal = format!(
        "{SMALL}[[service]]\nname = \"shop\"\ncommand = \"x\"\n[[vip]]\naddress = \"10.0.0.100/24\"\n\
         [[check]]\nkind = \"tcp\"\naddress = \"a:1\"\n[[alert]]\nkind = \"exec\"\ncommand = \"x\"\n"
    );
    let minimal = parse(&minimal).expect("one of each");
    let service = |config: &AgentConfig| {
        let s = config.resources[0].services[0].clone();
        (s.start_timeout, s.stop_timeout, s.restart_limit, s.restart_window)
    };
    assert_eq!(service(&sample), service(&minimal));
    let vip = |config: &AgentConfig| match config.resources[0].vips[0].way.clone() {
        VipWay::Interface { probe, announce, refresh, .. } => (probe, announce, refresh),
        VipWay::Program(program) => panic!("{program:?}"),
    };
    assert_eq!(vip(&sample), vip(&minimal));
    let check = |config: &AgentConfig| {
        let c = config.resources[0].checks[0].clone();
        (c.interval, c.timeout, c.fail_after, c.pass_after, c.alert_after, c.up_alert)
    };
    assert_eq!(check(&sample), check(&minimal));
    let alert = |config: &AgentConfig| (config.alerts[0].timeout, config.alerts[0].attempts);
    assert_eq!(alert(&sample), alert(&minimal));
    for (section, keys) in known_keys() {
        for key in keys {
            let word = |line: &str| {
                let line = line.trim_start_matches(['#', ' ']);
                line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == key)
            };
            assert!(text.lines().any(word), "config/agent.toml does not show `{key}` of {section}");
        }
    }
}

/// What serde itself would accept in each section, learnt by asking for a key that cannot exist.
fn known_keys() -> Vec<(&'static str, BTreeSet<String>)> {
    let sections = ["agent", "[node]", "[resource]", "[service]", "[vip]", "[check]", "[alert]"];
    let aliases = ["url", "urls", "dev", "auto_failback", "alertevery", "secret"];
    let probe = |section: &'static str| {
        let error = toml::from_str::<raw::Raw>(&format!("[{section}]\nno_such_key = 1"))
            .expect_err("no such key");
        let known = error.message().split('`').skip(3).step_by(2).map(str::to_owned);
        (section, known.filter(|key| !aliases.contains(&key.as_str())).collect())
    };
    sections.into_iter().map(probe).collect()
}

#[test]
fn mistakes_are_named_with_their_line_and_what_to_write() {
    let with = |more: &str| refused(&format!("{SMALL}{more}"));
    let agent =
        |line: &str| {
            refused(&SMALL.replace(
                "[[node]]\nname = \"app1\"",
                &format!("{line}\n[[node]]\nname = \"app1\""),
            ))
        };
    for (error, line, problem, remedy) in [
        (agent("ttl = \"1s\""), Some(4), "`ttl` is out of range", "from \"2s\""),
        (agent("ttl = 10"), Some(4), "no duration", "a number and a unit"),
        (agent("renew = \"9s\""), Some(4), "`renew` is out of range", "a third of ttl"),
        (agent("stop_budget = \"9s\""), Some(4), "`stop_budget`", "below ttl"),
        (agent("watchdog = \"maybe\""), Some(4), "`maybe` is not a choice", "\"required\""),
        (agent("http = \"here\""), Some(4), "no address to listen on", "an IP address"),
        (agent("tll = \"3s\""), Some(4), "unknown key `tll`", "did you mean `ttl`"),
        (with("home = \"app9\""), Some(11), "`app9` is no node", "name a `[[node]]`"),
        (with("failback = \"soon\""), Some(11), "`soon` is no duration", "\"off\""),
        (with("[[service]]\nkind = \"exec\""), Some(11), "`command` is missing", "add `command"),
        (with("[[service]]\nkind = \"daemon\""), Some(12), "`daemon` is not", "\"systemd\""),
        (with("[[service]]\nresource = \"x\"\nunit = \"u\""), Some(12), "`x` is no", "`app`"),
        (with("[[vip]]\naddress = \"10.0.0.300/24\""), Some(12), "is no address", "10.0.0.100/24"),
        (with("[[vip]]\naddress = \"10.0.0.1/64\""), Some(12), "is no address", "/24"),
        (with("[[check]]\nkind = \"smell\""), Some(12), "`smell` is not", "tcp, http"),
        (with("[[check]]\nkind = \"ping\"\ntargets = \"gw\""), Some(13), "no IP address", "names"),
        (
            with("[[check]]\nkind = \"route\"\naction = \"restart\""),
            Some(13),
            "no service",
            "above",
        ),
        (with("[[check]]\nkind = \"route\"\ndepends = \"x\""), Some(13), "`x` is no", "name one"),
        (with("[[alert]]\nkind = \"pigeon\""), Some(12), "`pigeon` is not", "\"smtp\""),
        (with("[[alert]]\nkind = \"smtp\"\nserver = \"m\""), Some(11), "`from` is missing", "add"),
        (with("[[node]]\nname = \"app1\""), Some(11), "two nodes", "of its own"),
        (
            refused(&SMALL.replace("postgresql://lockstep:secret@db1/app", "db1")),
            Some(3),
            "what kind",
            "postgresql://",
        ),
        (refused(&SMALL.replace("lockstep:secret@", "")), Some(3), "nobody is named", "user@"),
        (refused("[agent]\nuser = \"x\""), Some(1), "no database", "add `database"),
    ] {
        assert!(error.problem().contains(problem), "{error} does not say {problem}");
        assert!(error.remedy().contains(remedy), "{error} does not say {remedy}");
        assert_eq!(error.line(), line, "{error}");
    }
}

#[test]
fn parts_find_their_resource_and_programs_their_shell() {
    let text = format!(
        "{SMALL}[[resource]]\nname = \"other\"\n[[service]]\nresource = \"other\"\n\
         command = \"run this | and that\"\n[[service]]\nresource = \"app\"\ncommand = [\"/bin/x y\"]\n"
    );
    // Of two resources one must be named.
    let config = parse(&text).expect("two resources");
    let command = |r: usize| match &config.resources[r].services[0].kind {
        ServiceKind::Exec { command, .. } => command.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(command(1), ["/bin/sh", "-c", "run this | and that"]);
    assert_eq!(command(0), ["/bin/x y"], "a list is taken as it stands");
    let unnamed = text.replace("resource = \"other\"\ncommand", "command");
    assert!(refused(&unnamed).problem().contains("several resources"));
}

#[test]
fn a_list_of_databases_is_of_one_kind() {
    let text = SMALL.replace(
        "\"postgresql://lockstep:secret@db1/app\"",
        "[\"mysql://u@a/app\", \"postgresql://u@b/app\"]",
    );
    assert!(refused(&text).problem().contains("more than one kind"));
}
