//! The agents' file as it is written.

use std::fmt;
use std::time::Duration;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Action, When};
use crate::config::raw::OneOrMany;
use crate::config::{Log, units};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub agent: RawAgent,
    #[serde(alias = "nodes")]
    pub node: Vec<RawNode>,
    #[serde(alias = "resources")]
    pub resource: Vec<RawResource>,
    #[serde(alias = "services")]
    pub service: Vec<RawService>,
    #[serde(alias = "vips")]
    pub vip: Vec<RawVip>,
    #[serde(alias = "checks")]
    pub check: Vec<RawCheck>,
    #[serde(alias = "alerts")]
    pub alert: Vec<RawAlert>,
    pub log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAgent {
    #[serde(alias = "url", alias = "urls")]
    pub database: Option<OneOrMany>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub password_file: Option<String>,
    pub password_env: Option<String>,
    pub state_dir: Option<String>,
    pub http: Option<String>,
    #[serde(alias = "failure_detection_time")]
    pub ttl: Option<Time>,
    pub renew: Option<Time>,
    pub watch: Option<Time>,
    pub stop_budget: Option<Time>,
    pub margin: Option<Time>,
    pub statement_timeout: Option<Time>,
    pub connect_timeout: Option<Time>,
    #[serde(alias = "maxprocs")]
    pub max_parallel: Option<usize>,
    #[serde(alias = "histlength")]
    pub history: Option<u32>,
    pub max_resources: Option<usize>,
    pub watchdog: Option<String>,
    pub watchdog_device: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub name: String,
    pub role: Option<String>,
    pub mode: Option<String>,
    pub priority: Option<i32>,
    pub address: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawResource {
    pub name: String,
    pub home: Option<String>,
    pub placement: Option<String>,
    #[serde(alias = "auto_failback")]
    pub failback: Option<String>,
    pub failback_window: Option<OneOrMany>,
    pub auto_failover: Option<bool>,
    pub adopt: Option<bool>,
    pub min_role_time: Option<Time>,
    pub flap_limit: Option<usize>,
    pub flap_window: Option<Time>,
    pub start_retry: Option<Time>,
    pub fence: Option<Words>,
    pub on_promote: Option<Words>,
    pub on_demote: Option<Words>,
    pub on_stuck: Option<Words>,
    pub hook_timeout: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawService {
    pub resource: Option<String>,
    pub name: Option<String>,
    pub kind: Option<String>,
    pub command: Option<Words>,
    pub start: Option<Words>,
    pub stop: Option<Words>,
    pub unit: Option<String>,
    pub start_timeout: Option<Time>,
    pub stop_timeout: Option<Time>,
    pub ready: Option<String>,
    pub restart_limit: Option<usize>,
    pub restart_window: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVip {
    pub resource: Option<String>,
    pub address: String,
    #[serde(alias = "dev")]
    pub interface: Option<String>,
    pub probe: Option<Time>,
    pub announce: Option<u32>,
    pub refresh: Option<Time>,
    pub exec: Option<Words>,
    pub timeout: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCheck {
    pub resource: Option<String>,
    pub name: Option<String>,
    pub kind: Option<String>,
    pub address: Option<String>,
    pub url: Option<String>,
    pub expect_status: Option<u16>,
    pub expect_body: Option<String>,
    pub query: Option<String>,
    pub expect: Option<String>,
    pub command: Option<Words>,
    pub pidfile: Option<String>,
    pub process: Option<String>,
    pub at_least: Option<usize>,
    pub targets: Option<OneOrMany>,
    pub interface: Option<String>,
    pub path: Option<String>,
    pub free_percent: Option<u8>,
    pub most: Option<f64>,
    pub max_age: Option<Time>,
    pub when: Option<When>,
    pub interval: Option<Time>,
    pub timeout: Option<Time>,
    pub fail_after: Option<u32>,
    pub pass_after: Option<u32>,
    #[serde(alias = "alertafter")]
    pub alert_after: Option<Failures>,
    pub period: Option<OneOrMany>,
    #[serde(alias = "alertevery")]
    pub alert_every: Option<Time>,
    pub up_alert: Option<bool>,
    pub action: Option<Action>,
    pub service: Option<String>,
    pub weight: Option<i32>,
    pub depends: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAlert {
    pub name: Option<String>,
    pub kind: Option<String>,
    pub events: Vec<String>,
    pub timeout: Option<Time>,
    pub attempts: Option<u32>,
    pub command: Option<Words>,
    pub url: Option<String>,
    pub secret: Option<String>,
    pub secret_file: Option<String>,
    pub server: Option<String>,
    pub tls: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub password_file: Option<String>,
    pub password_env: Option<String>,
    pub from: Option<String>,
    pub to: Option<OneOrMany>,
}

/// A program and its arguments: a list as it stands, a text by the shell.
#[derive(Debug, Clone)]
pub(super) struct Words(pub Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Program;
        impl<'de> Visitor<'de> for Program {
            type Value = Words;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a text for the shell, or a list: the program and its arguments")
            }
            fn visit_str<E>(self, text: &str) -> Result<Words, E> {
                Ok(Words(["/bin/sh", "-c", text].map(str::to_owned).to_vec()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Words, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Words(list))
            }
        }
        from.deserialize_any(Program)
    }
}

/// A number of failures, and the time within which they are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failures(pub u32, pub Option<Duration>);

impl<'de> Deserialize<'de> for Failures {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Count;
        impl Visitor<'_> for Count {
            type Value = Failures;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a number of failures, or such as \"3 30min\": within that time")
            }
            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Failures, E> {
                u32::try_from(count).map(|n| Failures(n, None)).map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Failures, E> {
                let (count, window) = match text.trim().split_once(' ') {
                    Some((count, window)) => (count, Some(window.trim())),
                    None => (text.trim(), None),
                };
                let window = window.map(units::parse_duration).transpose().map_err(E::custom)?;
                count.parse().map(|n| Failures(n, window)).map_err(E::custom)
            }
        }
        from.deserialize_any(Count)
    }
}

/// A duration with its unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        units::duration::deserialize(from).map(Self)
    }
}
