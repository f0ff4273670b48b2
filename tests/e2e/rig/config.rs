//! The proxy's configuration file, as the tests write it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::server::{ADMIN, ADMIN_PASSWORD, DATABASE};

/// A backend as the proxy shall see it: behind a relay its address is the relay's.
pub(crate) struct BackendEntry {
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// What differs from test to test.
pub(crate) struct Entries<'a> {
    pub(crate) port: u16,
    pub(crate) http_port: u16,
    pub(crate) state_dir: &'a Path,
    pub(crate) backends: &'a [BackendEntry],
    /// What this test wants otherwise, as `("table.key", "value as in the file")`.
    pub(crate) changes: &'a [(String, String)],
}

/// Short times throughout: a test waits for every one of them. `dead_after` is `faults::DEAD_AFTER`.
const TIMEOUTS: [(&str, &str); 8] = [
    ("connect", "2s"),
    ("login", "5s"),
    ("dead_after", "3s"),
    ("probe_interval", "300ms"),
    ("probe_timeout", "2s"),
    ("follower_lock", "2s"),
    ("shutdown_grace", "6s"),
    ("startup_wait", "20s"),
];

pub(crate) fn text(entries: &Entries<'_>) -> String {
    let mut tables: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    let mut put = |table, key, value: String| tables.entry(table).or_default().insert(key, value);
    put("cluster", "name", "\"e2e\"".into());
    put("cluster", "database", format!("{DATABASE:?}"));
    put("cluster", "postgres_listen", format!("\"127.0.0.1:{}\"", entries.port));
    put("cluster", "state_dir", format!("{:?}", entries.state_dir.display().to_string()));
    put("cluster", "console_users", "[\"app\"]".into());
    put("admin", "user", format!("{ADMIN:?}"));
    put("admin", "password", format!("{ADMIN_PASSWORD:?}"));
    put("http", "listen", format!("\"127.0.0.1:{}\"", entries.http_port));
    put("pool", "size", "30".into());
    // More than one: what only happens between threads should happen here.
    put("limits", "worker_threads", "2".into());
    for (key, value) in TIMEOUTS {
        put("timeouts", key, format!("{value:?}"));
    }
    for (path, value) in entries.changes {
        // Without a point it stands above all tables.
        let (table, key) = path.split_once('.').unwrap_or(("", path));
        put(table, key, value.clone());
    }
    let mut text = String::new();
    for (table, keys) in &tables {
        if !table.is_empty() {
            let _ = writeln!(text, "[{table}]");
        }
        for (key, value) in keys {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    for user in ["app", "app2"] {
        let _ = write!(text, "\n[[user]]\nname = \"{user}\"\npassword = \"{user}\"\n");
    }
    for BackendEntry { name, port } in entries.backends {
        let _ = write!(text, "\n[[backend]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n");
    }
    text
}
