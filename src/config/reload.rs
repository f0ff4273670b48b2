//! What a changed file changes in a running proxy.
//!
//! Most settings are read where they are used and follow the file at once. Those that are part of
//! what has been built (sockets, the identity of the cluster, which servers belong to it) keep
//! their value until a restart, and the operator is told so.

use std::collections::BTreeSet;

use super::{Backend, Config};

/// The keys that differ, by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force from now on.
    pub live: Vec<String>,
    /// In force after a restart; until then the old value holds.
    pub restart: Vec<String>,
}

impl Changes {
    /// Whether the file says what it said before.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |keys: &[String]| {
            if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
        };
        write!(f, "taken over: {}; needs a restart: {}", list(&self.live), list(&self.restart))
    }
}

impl Config {
    /// The configuration in force after `new` has been read, and what that changes.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> (Self, Changes) {
        let mut changes = Changes::default();
        let mut merged = new;
        self.keep_what_is_built(&mut changes, &mut merged);
        self.keep_tuning(&mut changes, &mut merged);
        self.keep_users(&mut changes, &mut merged);
        self.keep_backends(&mut changes, &mut merged);
        self.note_the_rest(&mut changes, &merged);
        (merged, changes)
    }

    fn keep_what_is_built(&self, changes: &mut Changes, merged: &mut Self) {
        let (old, new) = (&self.cluster, &mut merged.cluster);
        keep(changes, "cluster.name", &old.name, &mut new.name);
        keep(changes, "cluster.database", &old.database, &mut new.database);
        let listen = (&old.postgres_listen, &mut new.postgres_listen);
        keep(changes, "cluster.postgres_listen", listen.0, listen.1);
        let listen = (&old.mysql_listen, &mut new.mysql_listen);
        keep(changes, "cluster.mysql_listen", listen.0, listen.1);
        keep(changes, "cluster.state_dir", &old.state_dir, &mut new.state_dir);
        keep(changes, "http.listen", &self.http, &mut merged.http);
        keep(changes, "log.format", &self.log.format, &mut merged.log.format);
    }

    fn keep_tuning(&self, changes: &mut Changes, merged: &mut Self) {
        keep(changes, "admin", &self.admin, &mut merged.admin);
        keep(changes, "proxy", &self.proxy, &mut merged.proxy);
        keep(changes, "witness", &self.witness, &mut merged.witness);
        keep(changes, "resource", &self.resources, &mut merged.resources);
        let (old, new) = (&self.limits.worker_threads, &mut merged.limits.worker_threads);
        keep(changes, "limits.worker_threads", old, new);
    }

    /// Who belongs to the cluster is part of what was built (the sessions of each are fenced); how
    /// they prove themselves is not.
    fn keep_users(&self, changes: &mut Changes, merged: &mut Self) {
        let names = |config: &Self| {
            config.users.iter().map(|user| user.name.clone()).collect::<BTreeSet<_>>()
        };
        if names(self) == names(merged) {
            note(changes, "user", &self.users, &merged.users);
        } else {
            keep(changes, "user (added or removed)", &self.users, &mut merged.users);
        }
    }

    fn note_the_rest(&self, changes: &mut Changes, merged: &Self) {
        let (old, new) = (&self.cluster, &merged.cluster);
        note(changes, "cluster.auth", &old.auth, &new.auth);
        note(changes, "cluster.console_users", &old.console_users, &new.console_users);
        note(changes, "cluster.reactivate", &old.reactivate, &new.reactivate);
        note(changes, "pool", &self.pool, &merged.pool);
        note(changes, "journal", &self.journal, &merged.journal);
        note(changes, "reads", &self.reads, &merged.reads);
        note(changes, "timeouts", &self.timeouts, &merged.timeouts);
        note(changes, "limits", &self.limits, &merged.limits);
        note(changes, "log.level", &self.log.level, &merged.log.level);
        note(changes, "client_tls", &self.client_tls, &merged.client_tls);
    }

    /// Which servers belong to the cluster, where they are and how they are reached stays; weight
    /// and the users' credentials follow the file.
    fn keep_backends(&self, changes: &mut Changes, merged: &mut Self) {
        let mut backends = self.backends.clone();
        for old in &mut backends {
            let Some(new) = merged.backends.iter().find(|new| new.name == old.name) else {
                changes.restart.push(format!("backend.{} (removed)", old.name));
                continue;
            };
            if place(old) != place(new) {
                changes.restart.push(format!("backend.{} (address, database or tls)", old.name));
            }
            note(changes, &format!("backend.{}.weight", old.name), &old.weight, &new.weight);
            if old.admin != new.admin {
                changes.restart.push(format!("backend.{}.admin", old.name));
            }
            note(changes, &format!("backend.{}.users", old.name), &old.users, &new.users);
            old.weight = new.weight;
            old.users.clone_from(&new.users);
        }
        for new in &merged.backends {
            if !backends.iter().any(|old| old.name == new.name) {
                changes.restart.push(format!("backend.{} (added)", new.name));
            }
        }
        merged.backends = backends;
    }
}

fn place(backend: &Backend) -> (&str, u16, Option<&str>, &super::BackendTls) {
    (&backend.host, backend.port, backend.database.as_deref(), &backend.tls)
}

fn keep<T: PartialEq + Clone>(changes: &mut Changes, key: &str, old: &T, new: &mut T) {
    if old != new {
        changes.restart.push(key.to_owned());
        new.clone_from(old);
    }
}

fn note<T: PartialEq>(changes: &mut Changes, key: &str, old: &T, new: &T) {
    if old != new {
        changes.live.push(key.to_owned());
    }
}
