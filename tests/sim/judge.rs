//! The judge. It looks at the backends' disks and at what applications were told, and at nothing
//! that the proxy believes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::app::{Deed, Delta, Notes, Outcome};
use crate::faults::{Scenario, Theme};
use crate::tables::{ACCOUNTS, BALANCE, COUNTERS, Disk, SEQUENCE};
use crate::world::{CLUSTER, World, locked};

/// How long everybody may take to be active again once nothing befalls anybody any more.
const RECOVERY: Duration = Duration::from_secs(300);

/// The view with which serving begins, when nobody is missing.
const FIRST_VIEW: i64 = 2;

/// The newest view that is decided: on the proxy's disk, or, before there was one, in the databases.
pub(crate) fn newest_view(world: &World) -> (i64, Vec<String>) {
    let path = world.folder.path().join(format!("{CLUSTER}.state.json"));
    if let Ok(text) = std::fs::read_to_string(path) {
        let state: serde_json::Value = serde_json::from_str(&text).expect("a whole state file");
        // What it keeps as a voter is on disk before anything else is.
        let state = &state["vote"]["roster"];
        let members = state["members"].as_array().into_iter().flatten();
        let members = members.filter_map(|m| m.as_str().map(str::to_owned)).collect();
        return (state["number"].as_i64().unwrap_or(0), members);
    }
    let control = world.servers[0].lock().disk.control.clone();
    (control.vote.roster.number, control.vote.roster.members)
}

impl World {
    /// An application has just been told that a transaction is committed: every member of the
    /// newest view has it, or had it before a restart lost it unseen.
    pub(crate) fn acknowledged(&self, mark: i64) {
        let (number, members) = newest_view(self);
        for server in self.servers.iter().filter(|s| members.contains(&s.name)) {
            let state = server.lock();
            if !state.disk.marks().contains(&mark) && !state.lost.contains(&mark) {
                drop(state);
                let name = &server.name;
                self.complain(format!(
                    "{mark} was acknowledged, and {name}, a member of view {number}, lacks it"
                ));
            }
        }
        if self.servers.iter().any(|s| s.lock().disk.tables["note"].contains_key(&mark)) {
            locked(&self.known).push(mark);
        }
    }
}

impl Scenario {
    /// Whether an application may be told this.
    pub(crate) fn allows(&self, code: &str, why: &str) -> bool {
        match code {
            "40P01" | "23503" | "23505" => !why.contains("event"),
            // What comes after an error of its own.
            "25P02" => true,
            "40001" => !self.is_strict(),
            "08007" | "57P03" => !self.is_strict() && self.theme != Theme::Sessions,
            _ => false,
        }
    }
}

/// Waits until every backend is active again, and judges what they hold.
pub(crate) async fn judge(world: &Arc<World>, notes: &[Notes]) {
    world.calm_down();
    world.servers.iter().for_each(|server| server.heal());
    let (view, _) = newest_view(world);
    if world.scenario.theme == Theme::Calm && view > FIRST_VIEW {
        world.complain(format!("somebody left in calm weather: view {view}"));
    }
    let away = wait_for_all(world).await;
    world.stop_proxy().await;
    let mut disks: Vec<(String, Disk)> = Vec::new();
    for server in &world.servers {
        let disk = server.lock().disk.clone();
        if !away.contains(&server.name) {
            disks.push((server.name.clone(), disk));
        }
    }
    for name in &away {
        let server = world.servers.iter().find(|s| s.name == *name).expect("a server");
        let journal = server.lock().disk.journal.clone();
        let ahead = |(_, other): &(String, Disk)| {
            journal.iter().any(|(seq, r)| other.journal.get(seq).map(|o| o.id) != Some(r.id))
        };
        // Who has what nobody else has needs a full copy, and says so.
        if world.scenario.is_strict() || !disks.iter().all(ahead) {
            world.complain(format!("{name} did not become active again"));
        }
    }
    compare(world, &disks);
    if let Some((_, disk)) = disks.first() {
        check_deeds(world, disk, notes);
    }
}

/// Waits for all to be members; those that are not.
async fn wait_for_all(world: &World) -> Vec<String> {
    let started = tokio::time::Instant::now();
    loop {
        let (number, members) = newest_view(world);
        let knows =
            |s: &Arc<crate::server::Server>| s.lock().disk.control.vote.roster.number == number;
        let away: Vec<String> = world
            .servers
            .iter()
            .filter(|s| !members.contains(&s.name))
            .map(|s| s.name.clone())
            .collect();
        let settled = away.is_empty() && world.servers.iter().all(knows);
        if settled || started.elapsed() > RECOVERY {
            // Commits under way, and whoever is about to be found out.
            tokio::time::sleep(Duration::from_secs(5)).await;
            if newest_view(world).0 == number {
                return away;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn compare(world: &World, disks: &[(String, Disk)]) {
    let Some(((first, one), rest)) = disks.split_first() else {
        return world.complain("nobody is active".into());
    };
    for (name, other) in rest {
        for (table, rows) in &one.tables {
            let theirs = &other.tables[table];
            let differs = |id: &&i64| rows.get(id) != theirs.get(id);
            let ids: BTreeSet<&i64> = rows.keys().chain(theirs.keys()).filter(differs).collect();
            if let Some(id) = ids.first() {
                let (a, b) = (rows.get(id), theirs.get(id));
                world.complain(format!("{table} {id}: {first} has {a:?}, {name} has {b:?}"));
            }
        }
        let from = one.control.pruned_to.max(other.control.pruned_to) + 1;
        let tail = |disk: &Disk| disk.journal.range(from..).map(|(s, r)| (*s, r.id)).collect();
        let ours: BTreeMap<i64, i64> = tail(one);
        if ours != tail(other) {
            world.complain(format!("the journals of {first} and {name} differ"));
        }
    }
    for (name, disk) in disks {
        let last = disk.tables["event"].keys().next_back().copied().unwrap_or(0);
        if disk.sequences[SEQUENCE].0 < last {
            world.complain(format!("{name} would hand out {last} again"));
        }
        let balance: i64 = disk.tables["account"].values().map(|row| row[1]).sum();
        if balance != ACCOUNTS * BALANCE {
            world.complain(format!("{name} has {balance} in all accounts"));
        }
        let orphan = |row: &&Vec<i64>| !disk.tables["parent"].contains_key(&row[1]);
        if let Some(child) = disk.tables["child"].values().find(orphan) {
            world.complain(format!("{name} has a child without its parent: {child:?}"));
        }
    }
}

/// Every transaction that was acknowledged is there, once; none is that failed; and everything that
/// is there adds up.
fn check_deeds(world: &World, disk: &Disk, notes: &[Notes]) {
    let mut sums = Sums {
        accounts: (1..=ACCOUNTS).map(|id| (id, BALANCE)).collect(),
        counters: (1..=COUNTERS).map(|id| (id, 0)).collect(),
        ..Sums::default()
    };
    let marks = disk.marks();
    for deed in notes.iter().flat_map(|notes| &notes.deeds) {
        let there = marks.contains(&deed.mark);
        match deed.outcome {
            Outcome::Acknowledged if !there => {
                world.complain(format!("{} was acknowledged and is lost", deed.mark));
            }
            Outcome::Failed if there => {
                world.complain(format!("{} was said to have failed and is there", deed.mark));
            }
            _ => {}
        }
        if there {
            sums.add(deed);
        }
    }
    let column = |table: &str, at: usize| -> BTreeMap<i64, i64> {
        disk.tables[table].iter().map(|(id, row)| (*id, row[at])).collect()
    };
    let shared: BTreeMap<i64, i64> =
        column("counter", 1).into_iter().filter(|(id, _)| *id <= COUNTERS).collect();
    let open: BTreeSet<i64> = notes
        .iter()
        .flat_map(|n| &n.deeds)
        .filter(|d| d.deltas.is_empty())
        .map(|d| d.mark)
        .collect();
    // Who was not told which job it got may have any.
    let jobs: BTreeMap<i64, i64> =
        column("job", 1).into_iter().filter(|(_, by)| *by != 0 && !open.contains(by)).collect();
    let equal = [
        ("accounts", sums.accounts == column("account", 1)),
        ("counters", sums.counters == shared),
        ("jobs", sums.jobs == jobs),
        ("events", sums.events == column("event", 2).into_values().collect()),
        ("notes", sums.notes == disk.tables["note"].keys().copied().collect()),
    ];
    for (what, _) in equal.iter().filter(|(_, equal)| !equal) {
        world.complain(format!("the {what} do not add up from the transactions that are there"));
    }
    for (id, least, most) in notes.iter().map(|notes| notes.own) {
        let n = disk.tables["counter"][&id][1];
        if n < least || n > most {
            world.complain(format!("counter {id} is {n}, not from {least} to {most}"));
        }
    }
}

/// What the transactions that are there add up to.
#[derive(Debug, Default)]
struct Sums {
    accounts: BTreeMap<i64, i64>,
    counters: BTreeMap<i64, i64>,
    events: BTreeSet<i64>,
    notes: BTreeSet<i64>,
    jobs: BTreeMap<i64, i64>,
}

impl Sums {
    fn add(&mut self, deed: &Deed) {
        for delta in &deed.deltas {
            match delta {
                Delta::Account(id, amount) => *self.accounts.entry(*id).or_default() += amount,
                Delta::Counter(id, amount) => *self.counters.entry(*id).or_default() += amount,
                Delta::Event(number) => {
                    self.events.insert(*number);
                }
                Delta::Note => {
                    self.notes.insert(deed.mark);
                }
                Delta::Job(id) => {
                    self.jobs.insert(*id, deed.mark);
                }
            }
        }
    }
}
