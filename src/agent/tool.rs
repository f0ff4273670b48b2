//! What operators ask for, from any machine that reaches the database: tables to read, and the few
//! writes that the agents follow. No agent needs to be reached.

use std::collections::BTreeMap;
use std::time::Duration;

use super::clock;
use super::election::{Change, Lease, NodeRow, Pause, PhaseName};
use super::lease::{EventRow, Lane, Mark, Orders};
use crate::config::agent::{AgentConfig, Resource};

mod table;

/// Between two looks while something is waited for.
const LOOK: Duration = Duration::from_millis(200);
/// How often a write is tried again that the agents' own writes came before.
const ATTEMPTS: u32 = 50;

/// How the checks of this machine stand, by the page of the agent that runs here.
///
/// # Errors
/// If no agent answers.
pub fn checks(config: &AgentConfig) -> Result<String, String> {
    let body = page(config, "/status", Duration::from_secs(5))?;
    let views = serde_json::from_str(&body).map_err(|error| format!("/status: {error}"))?;
    Ok(table::checks(&views))
}

/// What a page of the agent on this machine says.
///
/// # Errors
/// If no agent answers.
pub fn page(config: &AgentConfig, path: &str, patience: Duration) -> Result<String, String> {
    let address =
        config.agent.http.ok_or("`http` is off: the agent of this machine shows nothing")?;
    let url = format!("http://{address}{path}");
    let agent = ureq::Agent::config_builder().timeout_global(Some(patience)).build().new_agent();
    let body = agent.get(&url).call().and_then(|mut answer| answer.body_mut().read_to_string());
    body.map_err(|error| format!("{url}: {error}: does the agent run here?"))
}

/// What is wrong where the election is held behind lockstep: a proxy that notices a dead server too late for the lease.
/// Databases that are no proxies, or of another dialect, do not say.
pub async fn warn_of_proxies(config: &AgentConfig) -> Vec<String> {
    let limit = Duration::from_secs(5);
    let mut warnings = Vec::new();
    for store in &config.agent.stores {
        let mut lane = Lane::new(std::slice::from_ref(store), limit, limit);
        let said = lane.ask("SHOW lockstep.dead_after").await.ok().flatten();
        let milliseconds = said.and_then(|text| text.strip_suffix("ms")?.parse().ok());
        let Some(dead_after) = milliseconds.map(Duration::from_millis) else {
            continue;
        };
        let ttl = config.agent.ttl;
        if dead_after > ttl / 3 {
            warnings.push(format!(
                "warning: the proxy {store} notices a dead server after {dead_after:?}, more than a third of ttl ({ttl:?}): \
                 that may cost the master its lease; lower timeouts.dead_after there, or raise ttl"
            ));
        }
    }
    warnings
}

/// One resource, seen from outside.
pub struct Tool {
    resource: Resource,
    lane: Lane,
    renew: Duration,
}

impl Tool {
    /// A way to a resource; the only one where none is named.
    ///
    /// # Errors
    /// If there are several, or none of that name.
    pub fn new(config: &AgentConfig, resource: Option<&str>) -> Result<Self, String> {
        let known: Vec<&str> = config.resources.iter().map(|r| r.name.as_str()).collect();
        let found = match resource {
            Some(name) => config.resources.iter().find(|r| r.name == name),
            None if known.len() == 1 => config.resources.first(),
            None => None,
        };
        let resource = found.cloned().ok_or_else(|| {
            format!("say with --resource which of `{}` is meant", known.join("`, `"))
        })?;
        let settings = &config.agent;
        // An operator waits longer than an election may.
        let timeout = Duration::from_secs(10);
        Ok(Self {
            resource,
            lane: Lane::new(&settings.stores, timeout, timeout),
            renew: settings.renew,
        })
    }

    fn name(&self) -> String {
        self.resource.name.clone()
    }

    async fn row(&mut self) -> Result<Lease, String> {
        let name = self.name();
        let row = self.lane.read(&name).await?;
        row.ok_or_else(|| format!("`{name}` has no row yet: start an agent, or run `init`"))
    }

    /// All nodes, and whether each lives: whether its row moves while we look.
    async fn nodes(&mut self) -> Result<Vec<(NodeRow, Orders, bool)>, String> {
        let name = self.name();
        let first: BTreeMap<String, i64> =
            self.lane.nodes(&name).await?.into_iter().map(|(row, _)| (row.node, row.seq)).collect();
        let end = clock::now().after(self.renew.mul_f64(1.5) + LOOK);
        loop {
            tokio::time::sleep(LOOK).await;
            let rows = self.lane.nodes(&name).await?;
            let moved = |row: &NodeRow| first.get(&row.node) != Some(&row.seq);
            if rows.iter().all(|(row, _)| moved(row)) || clock::now() >= end {
                let judged = rows.into_iter().map(|(row, orders)| {
                    let lives = moved(&row);
                    (row, orders, lives)
                });
                return Ok(judged.collect());
            }
        }
    }

    /// Makes the tables and the row.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn init(&mut self) -> Result<String, String> {
        let name = self.name();
        self.lane.create_tables().await?;
        if self.lane.read(&name).await?.is_none() {
            self.lane.create_row(&name).await?;
        }
        Ok(format!("{name}: ready in {}\n", self.lane.place()))
    }

    /// The lease and the nodes.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn status(&mut self, json: bool) -> Result<String, String> {
        let row = self.row().await?;
        let nodes = self.nodes().await?;
        Ok(if json {
            table::status_json(&self.name(), &row, &nodes)
        } else {
            format!("{}\n{}", table::lease(&self.name(), &row), table::nodes(&row, &nodes))
        })
    }

    /// What happened, the newest last.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn events(&mut self, most: u32) -> Result<String, String> {
        let name = self.name();
        Ok(table::events(&self.lane.events(&name, most).await?))
    }

    /// How long nobody served, for each time that a node became the master.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses.
    pub async fn downtime(&mut self, most: u32) -> Result<String, String> {
        let name = self.name();
        let events = self.lane.events(&name, most).await?;
        let outages: Vec<EventRow> =
            events.into_iter().filter(|event| event.kind == "started").collect();
        Ok(table::downtime(&outages))
    }

    /// Has another node take over: the one named, or the next.
    ///
    /// # Errors
    /// If it is not ready to, or did not do so in time.
    pub async fn switchover(
        &mut self,
        to: Option<&str>,
        from: Option<&str>,
    ) -> Result<String, String> {
        let row = self.row().await?;
        if row.is_free() {
            return Err("nobody has the resource now: there is nothing to hand over".into());
        }
        if let Some(from) = from.filter(|from| *from != row.holder) {
            return Ok(format!("{from} does not have the resource; {} does\n", row.holder));
        }
        if row.paused != Pause::No {
            return Err("the resource is in maintenance: `maintenance off` first".into());
        }
        let nodes = self.nodes().await?;
        let ready = |row: &NodeRow| row.healthy && !row.maintenance && row.mode != "observer";
        let mut others: Vec<&NodeRow> = nodes
            .iter()
            .filter(|(node, _, lives)| *lives && ready(node) && node.node != row.holder)
            .map(|(node, ..)| node)
            .collect();
        others.sort_by_key(|node| (node.mode != "normal", -node.priority, node.node.clone()));
        let target = match to {
            None => others.first().map(|node| node.node.clone()),
            Some(to) => others.iter().find(|node| node.node == to).map(|node| node.node.clone()),
        };
        let target = target.ok_or_else(|| match to {
            Some(to) if to == row.holder => format!("{to} has the resource already"),
            Some(to) => format!("{to} is not ready to take over: see `status`"),
            None => "no other node is ready to take over: see `status`".to_owned(),
        })?;
        self.change(|row, stamp| Ok(row.targeted(stamp, &target))).await?;
        self.arrived(&row, &target).await
    }

    /// Waits until `target` serves.
    async fn arrived(&mut self, before: &Lease, target: &str) -> Result<String, String> {
        let services = &self.resource.services;
        let long: Duration = services.iter().map(|s| s.start_timeout + s.stop_timeout).sum();
        let end = clock::now().after(long + Duration::from_secs(30));
        let name = self.name();
        loop {
            tokio::time::sleep(LOOK).await;
            let row = self.row().await?;
            let nodes = self.lane.nodes(&name).await?;
            let role =
                |node: &str| nodes.iter().find(|(n, _)| n.node == node).map(|(n, _)| &n.role);
            let master = PhaseName::Master.word();
            if row.holder == target && role(target).is_some_and(|role| role == master) {
                return Ok(format!("{target} is the master, in epoch {}\n", row.epoch));
            }
            if row.holder == before.holder && row.epoch > before.epoch {
                return Err(format!("{target} could not start, and {} has it back", row.holder));
            }
            if row.holder == before.holder && row.target.is_empty() {
                return Err(format!("{} kept the resource: {target} is not ready", row.holder));
            }
            if clock::now() >= end {
                return Err(format!("{target} is not the master yet: see `status` and `events`"));
            }
        }
    }

    /// Takes one node out, or lets it back.
    ///
    /// # Errors
    /// When the database cannot be reached, or knows no such node.
    pub async fn maintain_node(&mut self, node: &str, on: bool) -> Result<String, String> {
        let name = self.name();
        if !self.lane.maintain(&name, node, on).await? {
            return Err(unknown(node));
        }
        let what = if on { "out, and hands over what it has" } else { "back" };
        Ok(format!("{node} is {what}\n"))
    }

    /// Holds the whole resource still, or lets it go on.
    ///
    /// # Errors
    /// If its holder cannot be asked, and is not said to be stopped.
    pub async fn maintain(&mut self, on: bool, stopped: Option<&str>) -> Result<String, String> {
        let row = self.row().await?;
        if on {
            self.change(|row, stamp| Ok(row.paused(stamp))).await?;
            return Ok("maintenance: nothing is started, stopped or moved\n".into());
        }
        if row.paused == Pause::No {
            return Ok("there is no maintenance\n".into());
        }
        if let Some(stopped) = stopped.filter(|stopped| *stopped != row.holder) {
            return Err(format!("{stopped} does not have the resource; `{}` does", row.holder));
        }
        self.change(|row, stamp| Ok(row.resumed(stamp, stopped.is_some()))).await?;
        let end = clock::now().after(self.renew * 3 + Duration::from_secs(2));
        while clock::now() < end {
            if self.row().await?.paused == Pause::No {
                return Ok("maintenance has ended\n".into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(format!(
            "{holder} does not answer. It may still run, without a limit, and know nothing of this: \
             look there. When it is certainly stopped: `maintenance off --confirm-stopped {holder}`",
            holder = row.holder
        ))
    }

    /// Gives the resource to `node` although its holder has not given it back.
    ///
    /// # Errors
    /// If the holder is not said to be stopped.
    pub async fn force(&mut self, node: &str, stopped: Option<&str>) -> Result<String, String> {
        let row = self.row().await?;
        if !row.is_free() && stopped != Some(row.holder.as_str()) {
            return Err(format!(
                "{holder} has the resource and may still run. Try `switchover` first. When it is \
                 certainly stopped: `force-master {node} --confirm-stopped {holder}`",
                holder = row.holder
            ));
        }
        let holder = row.holder.clone();
        self.change(|row, stamp| {
            if row.holder != holder {
                return Err(format!("{} has the resource now", row.holder));
            }
            Ok(Lease { target: node.into(), paused: Pause::No, ..row.freed(stamp, "forced") })
        })
        .await?;
        self.arrived(&Lease { holder: String::new(), ..row }, node).await
    }

    /// Ends what damping or a check of action `standby` holds back, on one node or on all.
    ///
    /// # Errors
    /// When the database cannot be reached, or knows no such node.
    pub async fn clear(&mut self, node: Option<&str>) -> Result<String, String> {
        self.raise(node, Mark::Cleared).await
    }

    /// Has a node go on from a row that is older than what it has seen.
    ///
    /// # Errors
    /// When the database cannot be reached, or knows no such node.
    pub async fn accept_restore(&mut self, node: Option<&str>) -> Result<String, String> {
        self.raise(node, Mark::Accepted).await
    }

    async fn raise(&mut self, node: Option<&str>, mark: Mark) -> Result<String, String> {
        let name = self.name();
        let all = match node {
            Some(node) => vec![node.to_owned()],
            None => self.lane.nodes(&name).await?.into_iter().map(|(row, _)| row.node).collect(),
        };
        let mut told = Vec::new();
        for node in all {
            if self.lane.raise(&name, &node, mark).await? {
                told.push(node);
            }
        }
        match (told.is_empty(), node) {
            (false, _) => Ok(format!("told {}\n", told.join(", "))),
            (true, Some(node)) => Err(unknown(node)),
            (true, None) => Err("the database knows no node".into()),
        }
    }

    /// Changes the row; the agents' own writes may come before, so it is tried again.
    async fn change(
        &mut self,
        to: impl Fn(&Lease, i64) -> Result<Lease, String>,
    ) -> Result<(), String> {
        let name = self.name();
        for _ in 0..ATTEMPTS {
            let row = self.row().await?;
            // Nobody else's: agents count theirs upwards from nothing.
            let stamp = -i64::from(rand::random::<u32>()) - 1;
            let change = Change { expected: row.key(), row: to(&row, stamp)? };
            if self.lane.change(&name, &change).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("the row changes faster than this write: try again".into())
    }
}

fn unknown(node: &str) -> String {
    format!("the database knows no node `{node}`")
}
