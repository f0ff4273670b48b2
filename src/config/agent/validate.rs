//! From the agents' file as it is written to what it means.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::period;
use super::raw::{Raw, RawAgent, RawNode, RawResource, Time, Words};
use super::{AgentConfig, Mode, Node, Period, Program, Resource, Settings, Store, Watchdog};
use crate::config::raw::OneOrMany;
use crate::config::{ConfigError, Secret, address, dialect, logins, validate};

mod parts;

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

const DEFAULT_STATE_DIR: &str = "/var/lib/lockstep-agent";
const DEFAULT_HTTP: &str = "127.0.0.1:8008";
const DEFAULT_WATCHDOG: &str = "/dev/watchdog";
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn config(raw: Raw, folder: &Path) -> Result<AgentConfig> {
    let agent = settings(raw.agent, folder)?;
    let nodes = nodes(raw.node)?;
    let everywhere = everywhere(&raw.resource)?;
    let mut resources = resources(raw.resource, &nodes)?;
    for (index, service) in raw.service.into_iter().enumerate() {
        let key = format!("service.{index}");
        let resource = owner(&mut resources, service.resource.as_deref(), &key)?;
        let service = parts::service(service, &key, resource)?;
        resource.services.push(service);
    }
    for (index, vip) in raw.vip.into_iter().enumerate() {
        let key = format!("vip.{index}");
        let resource = owner(&mut resources, vip.resource.as_deref(), &key)?;
        resource.vips.push(parts::vip(vip, &key)?);
    }
    for (index, check) in raw.check.into_iter().enumerate() {
        let key = format!("check.{index}");
        let resource = owner(&mut resources, check.resource.as_deref(), &key)?;
        let check = parts::check(check, &key, resource, &agent.stores[0], folder)?;
        resource.checks.push(check);
    }
    let resources = spread(resources, &everywhere, &nodes)?;
    let alerts = raw.alert.into_iter().enumerate();
    let alerts = alerts.map(|(i, raw)| parts::alert(raw, &format!("alert.{i}"), folder));
    let alerts = alerts.collect::<Result<Vec<_>>>()?;
    Ok(AgentConfig { agent, nodes, resources, alerts, log: raw.log })
}

fn settings(raw: RawAgent, folder: &Path) -> Result<Settings> {
    let stores = stores(&raw, folder)?;
    let time = |given: Option<Time>, default: Duration| given.map_or(default, |time| time.0);
    let ttl = time(raw.ttl, 10 * SECOND);
    let http = match raw.http.as_deref().unwrap_or(DEFAULT_HTTP) {
        "off" => None,
        text => Some(validate::listen_address(text, "agent.http")?),
    };
    let device = folder.join(raw.watchdog_device.as_deref().unwrap_or(DEFAULT_WATCHDOG));
    let watchdog = match raw.watchdog.as_deref() {
        None | Some("auto") => Watchdog::Auto(device),
        Some("off") => Watchdog::Off,
        Some("required") => Watchdog::Required(device),
        Some(other) => {
            return Err(no_choice(other, "\"off\", \"auto\" or \"required\"", "agent.watchdog"));
        }
    };
    let stop_budget = time(raw.stop_budget, ttl.mul_f64(0.3));
    let settings = Settings {
        stores,
        state_dir: folder.join(raw.state_dir.as_deref().unwrap_or(DEFAULT_STATE_DIR)),
        http,
        ttl,
        renew: time(raw.renew, ttl / 5),
        watch: time(raw.watch, SECOND.min(ttl / 5)),
        stop_budget,
        margin: time(raw.margin, stop_budget + ttl / 10),
        statement_timeout: time(raw.statement_timeout, (SECOND * 3 / 2).min(ttl.mul_f64(0.15))),
        connect_timeout: time(raw.connect_timeout, SECOND.min(ttl.mul_f64(0.15))),
        max_parallel: raw.max_parallel.unwrap_or(20),
        history: raw.history.unwrap_or(1000),
        max_resources: raw.max_resources.unwrap_or(usize::MAX),
        watchdog,
    };
    bounds(&settings)?;
    Ok(settings)
}

fn bounds(s: &Settings) -> Result<()> {
    let rules = [
        (
            "ttl",
            !(2 * SECOND..=86_400 * SECOND).contains(&s.ttl),
            "write a duration from \"2s\" to \"24h\"",
        ),
        (
            "renew",
            s.renew.is_zero() || s.renew * 3 > s.ttl,
            "keep it at a third of ttl or less, so that a lost renewal is not a failover",
        ),
        ("watch", s.watch.is_zero() || s.watch > s.ttl / 2, "keep it at half of ttl or less"),
        (
            "stop_budget",
            s.stop_budget + s.renew + s.statement_timeout > s.ttl,
            "keep stop_budget + renew + statement_timeout below ttl, or every slow statement stops \
             the master",
        ),
        (
            "margin",
            s.margin < s.stop_budget || s.margin >= s.ttl,
            "keep it above stop_budget and below ttl",
        ),
        (
            "statement_timeout",
            s.statement_timeout.is_zero() || s.statement_timeout * 3 > s.ttl,
            "keep it at a third of ttl or less",
        ),
        (
            "connect_timeout",
            s.connect_timeout.is_zero() || s.connect_timeout * 3 > s.ttl,
            "keep it at a third of ttl or less",
        ),
        ("max_parallel", s.max_parallel == 0, "write a value greater than 0"),
        ("max_resources", s.max_resources == 0, "write a value greater than 0"),
        ("history", s.history == 0, "write a value greater than 0"),
    ];
    match rules.into_iter().find(|(_, wrong, _)| *wrong) {
        None => Ok(()),
        Some((key, _, remedy)) => {
            Err(ConfigError::new(format!("`{key}` is out of range"), remedy)
                .at(format!("agent.{key}")))
        }
    }
}

fn stores(raw: &RawAgent, folder: &Path) -> Result<Vec<Store>> {
    let urls = raw.database.as_ref().map(|list| list.0.as_slice()).unwrap_or_default();
    if urls.is_empty() {
        return Err(ConfigError::new(
            "no database is named, so there is nowhere to elect in",
            "add `database = \"postgresql://user@host:port/database\"` (or mysql://), or a list of \
             them, to [agent]",
        )
        .at("agent.database"));
    }
    let shared = logins::secret(
        raw.password.clone(),
        raw.password_file.clone(),
        raw.password_env.clone(),
        "agent",
        folder,
    )?;
    let mut stores: Vec<Store> = Vec::new();
    for url in urls {
        let store = store(url, raw.user.as_deref(), shared.clone(), "agent.database", folder)?;
        if stores.first().is_some_and(|first| first.dialect != store.dialect) {
            return Err(ConfigError::new(
                "the list of databases has more than one kind",
                "name only ways to one and the same database: they are tried in order",
            )
            .at("agent.database"));
        }
        stores.push(store);
    }
    Ok(stores)
}

/// A URL with everything that a connection needs.
pub(super) fn store(
    url: &str,
    user: Option<&str>,
    password: Option<Secret>,
    key: &str,
    folder: &Path,
) -> Result<Store> {
    let form =
        "write \"postgresql://user@host:5432/database\" or \"mysql://user@host:3306/database\"";
    let wrong = |problem: &str| ConfigError::new(problem, form).at(key);
    let place = address::parse(url).map_err(|problem| wrong(&problem))?;
    let dialect =
        place.dialect.ok_or_else(|| wrong("it is not said what kind of database it is"))?;
    let user = place.user.or_else(|| user.map(str::to_owned));
    Ok(Store {
        dialect,
        port: place.port.unwrap_or_else(|| dialect::port(dialect)),
        host: place.host,
        database: place.database.ok_or_else(|| wrong("the URL names no database"))?,
        user: user.ok_or_else(|| wrong("nobody is named to log in as"))?,
        password: place.password.map(Secret::new).or(password).unwrap_or_default(),
        tls: validate::tls(place.sslmode.as_deref(), place.sslrootcert.as_deref(), key, folder)?,
    })
}

fn nodes(raw: Vec<RawNode>) -> Result<Vec<Node>> {
    if raw.is_empty() {
        let remedy = "add a `[[node]]` with `name` for each machine, the same on all of them";
        return Err(ConfigError::new("no node is named", remedy));
    }
    let mut seen = BTreeSet::new();
    let mut nodes = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("node.{index}");
        let name = validate::name(raw.name, &format!("{key}.name"))?;
        if !seen.insert(name.clone()) {
            let problem = format!("two nodes are called `{name}`");
            return Err(ConfigError::new(problem, "give each a name of its own").at(key));
        }
        let (role_mode, role_priority) = match raw.role.as_deref() {
            None | Some("failover" | "standby") => (Mode::Normal, 50),
            Some("master" | "primary") => (Mode::Normal, 100),
            Some("observer") => (Mode::Observer, 0),
            Some(other) => {
                let known = "\"master\", \"failover\" or \"observer\"";
                return Err(no_choice(other, known, &format!("{key}.role")));
            }
        };
        let mode = match raw.mode.as_deref() {
            None => role_mode,
            Some("normal") => Mode::Normal,
            Some("read-only" | "readonly") => Mode::ReadOnly,
            Some("observer") => Mode::Observer,
            Some(other) => {
                let known = "\"normal\", \"read-only\" or \"observer\"";
                return Err(no_choice(other, known, &format!("{key}.mode")));
            }
        };
        let priority = raw.priority.unwrap_or(role_priority);
        nodes.push(Node { name, mode, priority, address: raw.address.unwrap_or_default() });
    }
    Ok(nodes)
}

fn resources(raw: Vec<RawResource>, nodes: &[Node]) -> Result<Vec<Resource>> {
    if raw.is_empty() {
        let remedy = "add a `[[resource]]` with `name`: what is to run on one node at a time";
        return Err(ConfigError::new("no resource is named", remedy));
    }
    let mut resources: Vec<Resource> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("resource.{index}");
        let resource = resource(raw, &key, nodes)?;
        if resources.iter().any(|other| other.name == resource.name) {
            let problem = format!("two resources are called `{}`", resource.name);
            return Err(ConfigError::new(problem, "give each a name of its own").at(key));
        }
        resources.push(resource);
    }
    Ok(resources)
}

/// The resources that run on all nodes at once.
fn everywhere(raw: &[RawResource]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (index, raw) in raw.iter().enumerate() {
        let key = format!("resource.{index}");
        match raw.placement.as_deref() {
            None | Some("one") => continue,
            Some("all") => {}
            Some(other) => {
                let known = "\"one\" (the default) or \"all\"";
                return Err(no_choice(other, known, &format!("{key}.placement")));
            }
        }
        for (field, given) in [("home", raw.home.is_some()), ("failback", raw.failback.is_some())] {
            if given {
                let problem = format!("what runs on all nodes has no {field}");
                return Err(ConfigError::new(problem, "remove it, or `placement`")
                    .at(format!("{key}.{field}")));
            }
        }
        names.insert(raw.name.clone());
    }
    Ok(names)
}

/// What runs on all nodes is as many resources, each of which has one node.
fn spread(
    resources: Vec<Resource>,
    everywhere: &BTreeSet<String>,
    nodes: &[Node],
) -> Result<Vec<Resource>> {
    let mut all = Vec::new();
    for resource in resources {
        if !everywhere.contains(&resource.name) {
            all.push(resource);
            continue;
        }
        if !resource.vips.is_empty() {
            let problem = format!("`{}` runs on all nodes: no address follows it", resource.name);
            let remedy = "give the `[[vip]]` to a resource of its own; one for each address";
            return Err(ConfigError::new(problem, remedy));
        }
        let candidates = nodes.iter().filter(|node| node.mode != Mode::Observer);
        all.extend(candidates.map(|node| Resource {
            name: format!("{}@{}", resource.name, node.name),
            only: Some(node.name.clone()),
            ..resource.clone()
        }));
    }
    Ok(all)
}

/// Times of the week.
pub(super) fn period(given: Option<&OneOrMany>, key: &str) -> Result<Option<Period>> {
    let parse = |list: &OneOrMany| Period::parse(&list.0);
    let wrong = |problem| ConfigError::new(problem, period::FORM).at(key);
    given.map(parse).transpose().map_err(wrong)
}

fn resource(raw: RawResource, key: &str, nodes: &[Node]) -> Result<Resource> {
    if let Some(home) = raw.home.as_ref().filter(|home| nodes.iter().all(|n| n.name != **home)) {
        let problem = format!("the home `{home}` is no node");
        return Err(ConfigError::new(problem, "name a `[[node]]`").at(format!("{key}.home")));
    }
    let failback = match raw.failback.as_deref() {
        None | Some("off") => None,
        Some("on") => Some(60 * SECOND),
        Some(text) => Some(crate::config::units::parse_duration(text).map_err(|problem| {
            ConfigError::new(problem, "write \"off\", \"on\" (after 60 s), or a duration")
                .at(format!("{key}.failback"))
        })?),
    };
    let time = |given: Option<Time>, default: Duration| given.map_or(default, |time| time.0);
    let hook_timeout = time(raw.hook_timeout, 10 * SECOND);
    let program = |given: Option<Words>, name: &str| {
        let words = given.map(|given| words(given, &format!("{key}.{name}"))).transpose()?;
        Ok(words.map(|words| Program { words, timeout: hook_timeout }))
    };
    Ok(Resource {
        name: validate::name(raw.name, &format!("{key}.name"))?,
        home: raw.home,
        failback,
        failback_window: period(raw.failback_window.as_ref(), &format!("{key}.failback_window"))?,
        only: None,
        auto_failover: raw.auto_failover.unwrap_or(true),
        adopt: raw.adopt.unwrap_or(false),
        min_role_time: time(raw.min_role_time, 30 * SECOND),
        flap_limit: raw.flap_limit.unwrap_or(3),
        flap_window: time(raw.flap_window, 600 * SECOND),
        start_retry: time(raw.start_retry, 30 * SECOND),
        fence: program(raw.fence, "fence")?,
        on_promote: program(raw.on_promote, "on_promote")?,
        on_demote: program(raw.on_demote, "on_demote")?,
        on_stuck: program(raw.on_stuck, "on_stuck")?,
        services: Vec::new(),
        vips: Vec::new(),
        checks: Vec::new(),
    })
}

/// The resource that a part belongs to; the only one where none is named.
fn owner<'r>(
    resources: &'r mut [Resource],
    name: Option<&str>,
    key: &str,
) -> Result<&'r mut Resource> {
    let known: Vec<String> = resources.iter().map(|r| r.name.clone()).collect();
    let wrong = |problem: String| {
        let remedy = format!("add `resource = …`: one of `{}`", known.join("`, `"));
        ConfigError::new(problem, remedy).at(format!("{key}.resource"))
    };
    match name {
        None if resources.len() == 1 => Ok(&mut resources[0]),
        None => Err(wrong("there are several resources, and none is named here".into())),
        Some(name) => resources
            .iter_mut()
            .find(|resource| resource.name == name)
            .ok_or_else(|| wrong(format!("`{name}` is no resource"))),
    }
}

/// A program and its arguments.
pub(super) fn words(given: Words, key: &str) -> Result<Vec<String>> {
    let Words(list) = given;
    if list.iter().all(|word| word.trim().is_empty()) || list.last().is_some_and(String::is_empty) {
        let remedy = "write a text for the shell, or a list: the program and its arguments";
        return Err(ConfigError::new("no program is named", remedy).at(key));
    }
    Ok(list)
}

pub(super) fn no_choice(word: &str, known: &str, key: &str) -> ConfigError {
    ConfigError::new(format!("`{word}` is not a choice here"), format!("write {known}")).at(key)
}
