//! Services, addresses, checks and alerts: each kind with the keys it needs.

use std::path::Path;
use std::time::Duration;

use super::super::raw::{RawAlert, RawCheck, RawService, RawVip, Time};
use super::super::{
    Action, Alert, AlertWay, Check, CheckKind, Program, Resource, Service, ServiceKind, Store, Vip,
    VipWay, When,
};
use super::{Result, no_choice, period, store, words};
use crate::config::{ConfigError, logins, validate};

const SECOND: Duration = Duration::from_secs(1);

fn time(given: Option<Time>, default: Duration) -> Duration {
    given.map_or(default, |time| time.0)
}

fn needed<T>(given: Option<T>, key: &str, name: &str) -> Result<T> {
    given.ok_or_else(|| {
        ConfigError::new(format!("`{name}` is missing"), format!("add `{name} = …`")).at(key)
    })
}

pub(super) fn service(raw: RawService, key: &str, of: &Resource) -> Result<Service> {
    let list = |given, name: &str| -> Result<Vec<String>> {
        words(needed(given, key, name)?, &format!("{key}.{name}"))
    };
    let guessed = if raw.unit.is_some() {
        "systemd"
    } else if raw.start.is_some() {
        "script"
    } else {
        "exec"
    };
    let kind = match raw.kind.as_deref().unwrap_or(guessed) {
        "exec" => ServiceKind::Exec {
            command: list(raw.command, "command")?,
            stop: raw.stop.map(|stop| words(stop, &format!("{key}.stop"))).transpose()?,
        },
        "systemd" => ServiceKind::Systemd { unit: needed(raw.unit, key, "unit")? },
        "script" => {
            ServiceKind::Script { start: list(raw.start, "start")?, stop: list(raw.stop, "stop")? }
        }
        other => {
            let known = "\"exec\", \"systemd\" or \"script\"";
            return Err(no_choice(other, known, &format!("{key}.kind")));
        }
    };
    let fallback = match &kind {
        ServiceKind::Systemd { unit } => unit.clone(),
        _ => format!("service-{}", of.services.len() + 1),
    };
    let name = validate::name(raw.name.unwrap_or(fallback), &format!("{key}.name"))?;
    if of.services.iter().any(|other| other.name == name) {
        let problem = format!("`{}` has two services called `{name}`", of.name);
        return Err(ConfigError::new(problem, "give each a name of its own").at(key));
    }
    Ok(Service {
        name,
        kind,
        start_timeout: time(raw.start_timeout, 30 * SECOND),
        stop_timeout: time(raw.stop_timeout, 10 * SECOND),
        ready: raw.ready,
        restart_limit: raw.restart_limit.unwrap_or(3),
        restart_window: time(raw.restart_window, 600 * SECOND),
    })
}

pub(super) fn vip(raw: RawVip, key: &str) -> Result<Vip> {
    let form = "write an address and its network's length, such as \"10.0.0.100/24\"";
    let wrong = || {
        ConfigError::new(format!("`{}` is no address", raw.address), form)
            .at(format!("{key}.address"))
    };
    let (address, prefix) = match raw.address.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (raw.address.as_str(), None),
    };
    let address: std::net::IpAddr = address.parse().map_err(|_| wrong())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => longest,
        Some(text) => text.parse().ok().filter(|p| (1..=longest).contains(p)).ok_or_else(wrong)?,
    };
    let way = match raw.exec {
        Some(exec) => VipWay::Program(Program {
            words: words(exec, &format!("{key}.exec"))?,
            timeout: time(raw.timeout, 10 * SECOND),
        }),
        None => VipWay::Interface {
            name: raw.interface,
            probe: time(raw.probe, SECOND / 5),
            announce: raw.announce.unwrap_or(5),
            refresh: time(raw.refresh, 30 * SECOND),
        },
    };
    Ok(Vip { address, prefix, way })
}

pub(super) fn check(
    raw: RawCheck,
    key: &str,
    of: &Resource,
    database: &Store,
    folder: &Path,
) -> Result<Check> {
    let word = needed(raw.kind.clone(), key, "kind")?;
    let kind = match word.as_str() {
        "vip" => CheckKind::Vip { vips: addresses_of(of, key)? },
        word => check_kind(word, &raw, key, database, folder)?,
    };
    // Who has the addresses is asked where they are.
    let usual = if matches!(kind, CheckKind::Vip { .. }) { When::Master } else { When::Always };
    let name = raw.name.unwrap_or_else(|| format!("{word}-{}", of.checks.len() + 1));
    let name = validate::name(name, &format!("{key}.name"))?;
    if of.checks.iter().any(|other| other.name == name) {
        let problem = format!("`{}` has two checks called `{name}`", of.name);
        return Err(ConfigError::new(problem, "give each a name of its own").at(key));
    }
    for (field, given, known) in [
        ("service", &raw.service, of.services.iter().map(|s| &s.name).collect::<Vec<_>>()),
        ("depends", &raw.depends, of.checks.iter().map(|c| &c.name).collect()),
    ] {
        if let Some(given) = given.as_ref().filter(|given| !known.contains(given)) {
            let problem = format!("`{given}` is no {field} that stands above this check");
            let remedy = format!("name one of {known:?}, or write it above");
            return Err(ConfigError::new(problem, remedy).at(format!("{key}.{field}")));
        }
    }
    let action = raw.action.unwrap_or(Action::Alert);
    if action == Action::Restart && of.services.is_empty() {
        let problem = format!("`{}` has no service to restart", of.name);
        return Err(ConfigError::new(problem, "write the `[[service]]` above the check")
            .at(format!("{key}.action")));
    }
    let fail_after = raw.fail_after.unwrap_or(2).max(1);
    Ok(Check {
        name,
        kind,
        when: raw.when.unwrap_or(usual),
        interval: time(raw.interval, 5 * SECOND).max(Duration::from_millis(10)),
        timeout: time(raw.timeout, 2 * SECOND).max(Duration::from_millis(10)),
        fail_after,
        pass_after: raw.pass_after.unwrap_or(1).max(1),
        alert_after: raw.alert_after.map_or(fail_after, |failures| failures.0).max(1),
        alert_window: raw.alert_after.and_then(|failures| failures.1),
        period: period(raw.period.as_ref(), &format!("{key}.period"))?,
        alert_every: raw.alert_every.map(|time| time.0),
        up_alert: raw.up_alert.unwrap_or(true),
        action,
        service: raw.service,
        weight: raw.weight,
        depends: raw.depends,
    })
}

fn addresses_of(of: &Resource, key: &str) -> Result<Vec<Vip>> {
    let own = |vip: &&Vip| matches!(vip.way, VipWay::Interface { .. });
    let vips: Vec<Vip> = of.vips.iter().filter(own).cloned().collect();
    if vips.is_empty() {
        let problem = format!("`{}` has no address on an interface", of.name);
        return Err(ConfigError::new(problem, "add a `[[vip]]`, or leave the check out").at(key));
    }
    Ok(vips)
}

fn check_kind(
    word: &str,
    raw: &RawCheck,
    key: &str,
    database: &Store,
    folder: &Path,
) -> Result<CheckKind> {
    let text = |given: &Option<String>, name| needed(given.clone(), key, name);
    Ok(match word {
        "tcp" => CheckKind::Tcp { address: text(&raw.address, "address")? },
        "http" => CheckKind::Http {
            url: text(&raw.url, "url")?,
            status: raw.expect_status.unwrap_or(200),
            body: raw.expect_body.clone(),
        },
        "sql" => {
            let place = match &raw.url {
                None => database.clone(),
                Some(url) => store(url, None, None, &format!("{key}.url"), folder)?,
            };
            let query = raw.query.clone().unwrap_or_else(|| "SELECT 1".into());
            CheckKind::Sql { store: Box::new(place), query, expect: raw.expect.clone() }
        }
        "exec" => {
            let command = needed(raw.command.clone(), key, "command")?;
            let command = words(command, &format!("{key}.command"))?;
            CheckKind::Exec { command }
        }
        "process" => {
            if raw.pidfile.is_none() && raw.process.is_none() {
                needed(None::<()>, key, "process")?;
            }
            let pidfile = raw.pidfile.as_ref().map(|file| folder.join(file));
            let at_least = raw.at_least.unwrap_or(1);
            CheckKind::Process { pidfile, name: raw.process.clone(), at_least }
        }
        "ping" => {
            let list = raw.targets.as_ref().map(|list| list.0.clone());
            let parse = |text: &String| {
                text.parse().map_err(|_| {
                    let problem = format!("`{text}` is no IP address");
                    ConfigError::new(problem, "write addresses, not names: names need a server")
                        .at(format!("{key}.targets"))
                })
            };
            let targets = needed(list, key, "targets")?.iter().map(parse).collect::<Result<_>>()?;
            CheckKind::Ping { targets }
        }
        "route" => CheckKind::Route { interface: raw.interface.clone() },
        "link" => CheckKind::Link { interface: text(&raw.interface, "interface")? },
        "disk" => CheckKind::Disk {
            path: folder.join(text(&raw.path, "path")?),
            free_percent: raw.free_percent.unwrap_or(5),
        },
        "load" => CheckKind::Load { most: needed(raw.most, key, "most")? },
        "file" => CheckKind::File {
            path: folder.join(text(&raw.path, "path")?),
            max_age: raw.max_age.map(|time| time.0),
        },
        other => {
            let known =
                "one of tcp, http, sql, exec, process, ping, route, link, disk, load, file, vip";
            return Err(no_choice(other, known, &format!("{key}.kind")));
        }
    })
}

pub(super) fn alert(raw: RawAlert, key: &str, folder: &Path) -> Result<Alert> {
    let kind = needed(raw.kind.clone(), key, "kind")?;
    let way = match kind.as_str() {
        "exec" => {
            let command = needed(raw.command, key, "command")?;
            AlertWay::Exec { command: words(command, &format!("{key}.command"))? }
        }
        "webhook" => AlertWay::Webhook {
            url: needed(raw.url, key, "url")?,
            secret: logins::secret(raw.secret, raw.secret_file, None, key, folder)?
                .unwrap_or_default(),
        },
        "smtp" => {
            let tls = raw.tls.unwrap_or_else(|| "starttls".into());
            if !["starttls", "tls", "none"].contains(&tls.as_str()) {
                let known = "\"starttls\", \"tls\" or \"none\"";
                return Err(no_choice(&tls, known, &format!("{key}.tls")));
            }
            AlertWay::Smtp {
                server: needed(raw.server, key, "server")?,
                tls,
                user: raw.user.unwrap_or_default(),
                password: logins::secret(
                    raw.password,
                    raw.password_file,
                    raw.password_env,
                    key,
                    folder,
                )?
                .unwrap_or_default(),
                from: needed(raw.from, key, "from")?,
                to: needed(raw.to, key, "to")?.0,
            }
        }
        other => {
            let known = "\"exec\", \"webhook\" or \"smtp\"";
            return Err(no_choice(other, known, &format!("{key}.kind")));
        }
    };
    Ok(Alert {
        name: raw.name.unwrap_or(kind),
        events: raw.events,
        timeout: time(raw.timeout, 10 * SECOND),
        attempts: raw.attempts.unwrap_or(3).max(1),
        way,
    })
}
