//! What the demo says once it is ready.

use serde::Serialize;

use super::server::{Server, Site};
use crate::config::Config;

/// Where everything is. Scripts read it as one line of JSON.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub url: String,
    pub console: String,
    pub http: String,
    pub config: String,
    pub backends: Vec<BackendReport>,
}

/// One server.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BackendReport {
    pub name: String,
    pub url: String,
    pub data_dir: String,
    pub pid: u32,
    pub restart: String,
}

impl Report {
    pub(super) fn new(site: &Site, servers: &[Server], config: &Config) -> Self {
        let admin = format!("postgres:{}", site.admin_password);
        let proxy = config.cluster.postgres_listen.first().map(ToString::to_string);
        let proxy = proxy.unwrap_or_default();
        let backends = servers.iter().map(|server| BackendReport {
            name: server.name.to_owned(),
            url: format!("postgresql://{admin}@127.0.0.1:{}/app", server.port),
            data_dir: server.data_dir.display().to_string(),
            pid: server.pid,
            restart: server.restart.clone(),
        });
        Self {
            url: format!("postgresql://app:app@{proxy}/app"),
            console: format!("postgresql://{admin}@{proxy}/lockstep"),
            http: config.http.map(|http| format!("http://{http}")).unwrap_or_default(),
            config: site.dir.join("lockstep.toml").display().to_string(),
            backends: backends.collect(),
        }
    }

    /// One line of JSON, or a text for people, on stdout.
    pub(super) fn print(&self, json: bool) {
        if json {
            println!("{}", self.line());
        } else {
            println!("{}", self.text());
        }
    }

    pub(super) fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    fn text(&self) -> String {
        let Self { url, console, http, config, backends } = self;
        let count = backends.len();
        let mut text = format!("\nlockstep is ready, in front of {count} PostgreSQL servers.\n");
        let mut say = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        for backend in backends {
            let BackendReport { name, url, pid, .. } = backend;
            say(&format!("  {name:<6} pid {pid:<8} {url}"));
        }
        say("\nConnect, as to one server:");
        say(&format!("  psql \"{url}\""));
        say("\nWrite something; time, number and token are chosen once and the same on all:");
        say(&format!("  psql \"{url}\" -c \"insert into visits (who) values ('me') returning *\""));
        say(&format!("  for u in {}; do", urls(backends)));
        say("    psql \"$u\" -c 'table visits'; done");
        if let Some(first) = backends.first() {
            say("\nKill a server, go on writing, and see what became of it:");
            say(&format!("  kill -9 {}", first.pid));
            say(&format!("  psql \"{console}\" -c 'SHOW BACKENDS'"));
            say("\nStart it again; it catches up by itself:");
            say(&format!("  {}", first.restart));
        }
        say(&format!("\nMetrics:        curl {http}/metrics"));
        say(&format!("Configuration:  {config}"));
        say("Ctrl-C stops everything.");
        text
    }
}

fn urls(backends: &[BackendReport]) -> String {
    let urls: Vec<_> = backends.iter().map(|backend| format!("\"{}\"", backend.url)).collect();
    urls.join(" \\\n           ")
}
