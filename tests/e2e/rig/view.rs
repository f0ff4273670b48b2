//! What the console says, and waiting until it says so.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::Cluster;
use super::session::{Session, explain};
use super::{eventually, secs, step};

impl Cluster {
    /// Rows of a console command, by column name.
    pub(crate) async fn console(&self, text: &str) -> Vec<BTreeMap<String, String>> {
        match self.try_console(text).await {
            Ok(rows) => rows,
            Err(e) => panic!("console: {text}\nfailed: {e}"),
        }
    }

    pub(crate) async fn try_console(
        &self,
        text: &str,
    ) -> Result<Vec<BTreeMap<String, String>>, String> {
        let open = self.try_connect("app", "app", "lockstep").await;
        let console = open.map_err(|e| explain(&e))?;
        let answer = console.simple_query(text).await;
        let messages = answer.map_err(|e| explain(&e))?;
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let named = |row: &tokio_postgres::SimpleQueryRow| {
            let names = row.columns().iter().enumerate();
            names.map(|(i, c)| (c.name().to_owned(), row.get(i).unwrap_or("").to_owned())).collect()
        };
        Ok(rows.map(named).collect())
    }

    /// The backends as the console shows them, by name.
    pub(crate) async fn backends(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        if self.bare {
            let row = [("name", "a"), ("state", "active"), ("role", "leader"), ("reason", "")];
            let row = row.map(|(k, v)| (k.to_owned(), v.to_owned()));
            return [("a".to_owned(), row.into())].into();
        }
        let rows = self.console("SHOW BACKENDS").await;
        rows.into_iter().map(|row| (row["name"].clone(), row)).collect()
    }

    /// The names of the active backends.
    pub(crate) async fn active(&self) -> Vec<String> {
        let backends = self.backends().await;
        backends.into_iter().filter(|(_, b)| b["state"] == "active").map(|(name, _)| name).collect()
    }

    /// Whether the proxy runs and all backends are active.
    pub(crate) async fn is_whole(&self) -> bool {
        self.bare || {
            let running = self.proxy_exited().is_none();
            running
                && matches!(self.try_console("SHOW BACKENDS").await,
                Ok(rows) if rows.iter().all(|b| b.get("state").is_some_and(|s| s == "active")))
        }
    }

    pub(crate) async fn leader(&self) -> String {
        let backends = self.backends().await;
        let mut leaders = backends.into_iter().filter(|(_, b)| b["role"] == "leader");
        leaders.next().expect("SHOW BACKENDS names a leader").0
    }

    /// Some active backend that does not lead.
    pub(crate) async fn follower(&self) -> String {
        let backends = self.backends().await;
        let mut found = backends.into_iter().filter(|(_, b)| b["role"] == "follower");
        found.next().expect("SHOW BACKENDS names a follower").0
    }

    /// Until a backend is in this state, as the console says.
    pub(crate) async fn wait_state(&self, name: &str, state: &str, limit: Duration) {
        step(format!("wait until {name} is {state}"));
        eventually(&format!("backend {name} to be {state}"), limit, || async {
            let rows = self.try_console("SHOW BACKENDS").await?;
            let row = rows.into_iter().find(|r| r.get("name").is_some_and(|n| n == name));
            match row {
                Some(row) if row["state"] == state => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub(crate) async fn wait_active(&self, name: &str) {
        self.wait_state(name, "active", secs(40)).await;
    }

    pub(crate) async fn wait_inactive(&self, name: &str) {
        self.wait_state(name, "inactive", secs(20)).await;
    }

    /// The same at the proxy on a port.
    pub(crate) async fn wait_active_at(&self, port: u16, name: &str) {
        let what = format!("{name} to be active at port {port}");
        eventually(&what, secs(40), || async {
            let open = Session::open(port, "app", "app", "lockstep").await;
            let console = open.map_err(|e| explain(&e))?;
            let rows = console.rows("SHOW BACKENDS").await;
            let row = rows.into_iter().find(|row| row[0].as_deref() == Some(name));
            match row {
                Some(row) if row[2].as_deref() == Some("active") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}
