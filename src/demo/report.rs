//! What the demo says once it is ready.

use std::net::SocketAddr;

use serde::Serialize;

use super::make::{Make, Place};
use super::server::Server;
use super::site::Site;
use crate::config::Config;

/// Where everything is. Scripts read it as one line of JSON.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub url: String,
    pub console: String,
    pub http: String,
    pub config: String,
    pub backends: Vec<BackendReport>,
    #[serde(skip)]
    make: Make,
    /// Commands to try.
    #[serde(skip)]
    connect: String,
    #[serde(skip)]
    write: String,
    #[serde(skip)]
    ask: String,
}

/// One server.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BackendReport {
    pub name: String,
    pub url: String,
    pub data_dir: String,
    pub pid: u32,
    pub restart: String,
    /// The command that shows what it has.
    #[serde(skip)]
    look: String,
}

impl Report {
    pub(super) fn new(site: &Site, servers: &[Server], config: &Config) -> Self {
        let (make, password) = (site.make, site.admin_password.as_str());
        let listen = match make {
            Make::Postgres => &config.cluster.postgres_listen,
            Make::MariaDb => &config.cluster.mysql_listen,
        };
        let port = listen.first().map_or(0, SocketAddr::port);
        let admin = |port, database| Place { user: make.admin(), password, port, database };
        let backends = servers.iter().map(|server| BackendReport {
            name: server.name.to_owned(),
            url: admin(server.port, "app").url(make),
            data_dir: server.data_dir.display().to_string(),
            pid: server.pid,
            restart: server.restart.clone(),
            look: make.client(&admin(server.port, "app"), Some("SELECT * FROM visits")),
        });
        let app = Place { user: "app", password: "app", port, database: "app" };
        let insert = match make {
            Make::Postgres => "insert into visits (who) values ('me') returning *",
            Make::MariaDb => "INSERT INTO visits (who) VALUES ('me'); SELECT * FROM visits",
        };
        Self {
            make,
            url: app.url(make),
            console: admin(port, "lockstep").url(make),
            http: config.http.map(|http| format!("http://{http}")).unwrap_or_default(),
            config: site.dir.join("lockstep.toml").display().to_string(),
            backends: backends.collect(),
            connect: make.client(&app, None),
            write: make.client(&app, Some(insert)),
            ask: make.client(&admin(port, "lockstep"), Some("SHOW BACKENDS")),
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
        let Self { http, config, backends, connect, write, ask, .. } = self;
        let (count, make) = (backends.len(), self.make.name());
        let mut text = format!("\nlockstep is ready, in front of {count} {make} servers.\n");
        let mut say = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        for backend in backends {
            let BackendReport { name, url, pid, .. } = backend;
            say(&format!("  {name:<6} pid {pid:<8} {url}"));
        }
        say(&format!("\nConnect, as to one server:\n  {connect}"));
        say(
            "\nWrite something; what a server chooses by itself is chosen once and the same on all:",
        );
        say(&format!("  {write}"));
        for backend in backends {
            say(&format!("  {}", backend.look));
        }
        if let Some(first) = backends.first() {
            say("\nKill a server, go on writing, and see what became of it:");
            say(&format!("  kill -9 {}", first.pid));
            say(&format!("  {ask}"));
            say("\nStart it again; it catches up by itself:");
            say(&format!("  {}", first.restart));
        }
        say(&format!("\nMetrics:        curl {http}/metrics"));
        say(&format!("Configuration:  {config}"));
        say("Ctrl-C stops everything.");
        text
    }
}
