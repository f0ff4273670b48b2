//! Whose sessions may write: those of the node that has the resource by the agents' lease.
//!
//! A session that belongs to a resource has a *pass*, given under the term that holds when it comes in. A change of
//! the lease becomes true only after every pass that it takes away has been given back (`grant.rs`), and nobody comes
//! in meanwhile. So what a former master sends late finds its session ended, and its new one may not write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::cluster::{Claim, Standing, Term, Terms};
use crate::config::{Resource, StandbySessions};
use crate::error::{Failure, Kind};
use crate::store::agents::AgentTables;

/// What a client says of itself when it logs in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Said {
    /// The resource.
    pub resource: Option<String>,
    /// The node.
    pub node: Option<String>,
    /// The term that it was started in.
    pub epoch: Option<String>,
}

/// Who has which resource, and the sessions that depend on it.
#[derive(Debug, Default)]
pub struct Leases {
    rules: Vec<Resource>,
    tables: AgentTables,
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    terms: Terms,
    /// Resources whose term is not known: at the start, and after a change whose outcome nobody knows.
    unknown: BTreeSet<String>,
    /// Changes under way, and what comes after them.
    changing: BTreeMap<String, Option<Term>>,
    passes: BTreeMap<u32, Known>,
    /// Counts changes: what was read before one says nothing after it.
    version: u64,
}

#[derive(Debug)]
struct Known {
    claim: Claim,
    /// The epoch in which it came in, if it may write.
    writes_in: Option<i64>,
    revoked: Arc<AtomicBool>,
}

impl Known {
    /// Whether what the session was told when it came in is still so.
    fn fits(&self, term: Option<&Term>) -> bool {
        let writes = self.claim.standing(term) == Standing::Writes;
        self.writes_in == term.filter(|_| writes).map(|term| term.epoch)
    }
}

/// A session's right to be there; given back when it has ended.
#[derive(Debug)]
pub struct Pass {
    leases: Arc<Leases>,
    number: u32,
    resource: String,
    standing: Standing,
    revoked: Arc<AtomicBool>,
}

impl Pass {
    /// The pass of a session that may only read, whoever has which resource.
    pub fn reader(leases: &Arc<Leases>, number: u32, why: &str) -> Self {
        Self {
            leases: leases.clone(),
            number,
            resource: String::new(),
            standing: Standing::Reads(why.to_owned()),
            revoked: Arc::default(),
        }
    }

    /// Whether the session may write at all.
    pub fn writes(&self) -> bool {
        self.standing == Standing::Writes
    }

    /// The resource that it depends on.
    pub(super) fn resource(&self) -> &str {
        &self.resource
    }

    /// Refuses a write that the session has no right to.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match &self.standing {
            Standing::Writes if self.revoked.load(Ordering::Acquire) => {
                Err(farewell(&self.resource))
            }
            Standing::Writes => Ok(()),
            Standing::Reads(why) => Err(Failure::new(
                Kind::Refused,
                "cannot write in a read-only session",
            )
            .code("25006")
            .number(1290)
            .detail(why.clone())
            .hint("The node that has the resource writes; connect again once this one has it.")),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.leases.lock().passes.remove(&self.number);
        self.leases.moved.notify_waiters();
    }
}

/// What a session is told whose resource has moved.
pub(super) fn farewell(resource: &str) -> Failure {
    Failure::new(Kind::Shutdown, format!("the lease of the resource {resource} has moved"))
        .detail("sessions of its former holder end before the new one is told")
        .hint("connect again")
}

/// A change of leases under way. What is not brought to an end leaves the terms unknown.
#[derive(Debug)]
pub(super) struct Grant {
    leases: Arc<Leases>,
    next: BTreeMap<String, Option<Term>>,
}

/// What a look at the leases inside of a transaction means.
#[derive(Debug)]
pub(super) enum Looked {
    /// Nothing that counts has changed.
    Same,
    /// Another transaction changes the same at this moment: look again after it.
    Busy,
    /// They change with this transaction.
    Change(Grant),
}

impl Leases {
    /// Leases of these resources, none of which is known yet.
    pub fn new(rules: Vec<Resource>, tables: AgentTables) -> Arc<Self> {
        let unknown = rules.iter().map(|rule| rule.name.clone()).collect();
        let state = Mutex::new(State { unknown, ..State::default() });
        Arc::new(Self { rules, tables, state, moved: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any session depends on a lease.
    pub fn is_used(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Where the agents' tables are.
    pub fn tables(&self) -> &AgentTables {
        &self.tables
    }

    /// How many sessions may write by the lease of a resource; nothing where it is not one of ours.
    pub fn writers(&self, resource: &str) -> Option<usize> {
        self.rules.iter().find(|rule| rule.name == resource)?;
        let state = self.lock();
        let ours = state.passes.values().filter(|pass| pass.claim.resource == resource);
        Some(ours.filter(|pass| pass.writes_in.is_some()).count())
    }

    /// Ends with the next change of terms or passes. Taken before a look, it misses none.
    pub(super) fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// To which resource and node a session belongs, if to any.
    ///
    /// # Errors
    /// When what it says of itself contradicts the configuration, or is not enough.
    pub fn claim(&self, user: &str, from: IpAddr, said: &Said) -> Result<Option<Claim>, Failure> {
        let own = |user: &str, node: &crate::config::Node| node.users.iter().any(|u| u == user);
        let by_user = self.rules.iter().find(|rule| {
            rule.users.iter().any(|u| u == user) || rule.nodes.iter().any(|node| own(user, node))
        });
        let named = said.resource.as_deref();
        let rule = match (named, by_user) {
            (None, None) if said.node.is_none() && said.epoch.is_none() => return Ok(None),
            (None, None) => return Err(unclear("the session names a node, but no resource")),
            (Some(named), Some(rule)) if rule.name != named => {
                let what = format!("user \"{user}\" is of the resource {}, not {named}", rule.name);
                return Err(unclear(&what));
            }
            (_, Some(rule)) => rule,
            (Some(named), None) => {
                let rule = self.rules.iter().find(|rule| rule.name == named);
                rule.ok_or_else(|| unclear(&format!("there is no [[resource]] called {named}")))?
            }
        };
        let from = from.to_canonical();
        let mut nodes = rule.nodes.iter().filter(|n| own(user, n) || n.hosts.contains(&from));
        let known = nodes.next().map(|node| node.name.clone());
        let contradicts = nodes.next().is_some()
            || matches!((&known, &said.node), (Some(known), Some(said)) if known != said);
        if contradicts {
            return Err(unclear("user, address and what the session says are of different nodes"));
        }
        let Some(node) = said.node.clone().or(known) else {
            return Err(unclear("the session does not say on which node it is"));
        };
        let epoch = said.epoch.as_ref().map(|epoch| {
            epoch.parse::<i64>().map_err(|_| unclear(&format!("`{epoch}` is no epoch")))
        });
        Ok(Some(Claim { resource: rule.name.clone(), node, epoch: epoch.transpose()? }))
    }

    /// Lets a session in as far as its node's standing allows; waits while that changes.
    ///
    /// # Errors
    /// When it may not come in, or what it may do is not known within the limit.
    pub async fn admit(
        self: &Arc<Self>,
        number: u32,
        claim: &Claim,
        limit: Duration,
    ) -> Result<Pass, Failure> {
        let rule = self.rules.iter().find(|rule| rule.name == claim.resource);
        let policy = rule.map_or(StandbySessions::Refuse, |rule| rule.standby_sessions);
        let deadline = Instant::now() + limit;
        loop {
            let moved = self.moved();
            let why = match self.pass(number, claim, policy) {
                Ok(pass) => return Ok(pass),
                Err(why) => why,
            };
            let known = !self.is_moving(&claim.resource);
            let late = tokio::time::timeout_at(deadline, moved);
            if (known && policy == StandbySessions::Refuse) || late.await.is_err() {
                return Err(Failure::new(Kind::Unavailable, "this node is not served now")
                    .detail(why)
                    .hint("connect again once the node has the resource"));
            }
        }
    }

    fn is_moving(&self, resource: &str) -> bool {
        let state = self.lock();
        state.unknown.contains(resource) || state.changing.contains_key(resource)
    }

    /// A pass, at this moment; or why there is none.
    fn pass(
        self: &Arc<Self>,
        number: u32,
        claim: &Claim,
        policy: StandbySessions,
    ) -> Result<Pass, String> {
        let mut state = self.lock();
        let resource = claim.resource.clone();
        if state.unknown.contains(&resource) || state.changing.contains_key(&resource) {
            return Err(format!("who has the resource {resource} is being decided"));
        }
        let term = state.terms.get(&resource);
        let standing = claim.standing(term);
        let writes_in = match &standing {
            Standing::Writes => term.map(|term| term.epoch),
            Standing::Reads(why) if policy != StandbySessions::ReadOnly => return Err(why.clone()),
            Standing::Reads(_) => None,
        };
        let revoked = Arc::new(AtomicBool::new(false));
        let known = Known { claim: claim.clone(), writes_in, revoked: revoked.clone() };
        state.passes.insert(number, known);
        Ok(Pass { leases: self.clone(), number, resource, standing, revoked })
    }

    /// By what a look at the database is recognised as older than a change.
    pub(super) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Takes over what the database says, if nothing has changed since that version: which sessions have to end.
    /// `None` when it has to be read again.
    pub(super) fn load(&self, version: u64, terms: Terms) -> Option<Vec<(u32, String)>> {
        let mut state = self.lock();
        if state.version != version {
            return None;
        }
        let State { terms: known, unknown, changing, passes, .. } = &mut *state;
        for rule in self.rules.iter().filter(|rule| !changing.contains_key(&rule.name)) {
            unknown.remove(&rule.name);
            match terms.get(&rule.name) {
                Some(term) => known.insert(rule.name.clone(), term.clone()),
                None => known.remove(&rule.name),
            };
        }
        let moved = passes.iter().filter(|(_, pass)| !pass.fits(known.get(&pass.claim.resource)));
        let moved = moved.filter(|(_, pass)| !changing.contains_key(&pass.claim.resource));
        let ended = moved.map(|(number, pass)| {
            pass.revoked.store(true, Ordering::Release);
            (*number, pass.claim.resource.clone())
        });
        let ended = ended.collect();
        drop(state);
        self.moved.notify_waiters();
        Some(ended)
    }

    /// Resources of which a transaction sees another term than the one in force.
    pub(super) fn differing(&self, seen: &Terms) -> Vec<String> {
        let state = self.lock();
        let names = self.rules.iter().map(|rule| &rule.name);
        let differs = names.filter(|name| {
            let seen = seen.get(*name);
            let next = state.changing.get(*name);
            seen != state.terms.get(*name) && next.is_none_or(|next| seen != next.as_ref())
        });
        differs.cloned().collect()
    }

    /// Begins to change the terms of these resources to what the transaction sees, which has their rows locked.
    pub(super) fn begin(self: &Arc<Self>, names: &[String], seen: &Terms) -> Looked {
        let mut state = self.lock();
        let differs = |name: &&String| {
            seen.get(*name) != state.terms.get(*name) || state.unknown.contains(*name)
        };
        let names: Vec<&String> = names.iter().filter(differs).collect();
        if names.is_empty() {
            return Looked::Same;
        }
        if names.iter().any(|name| state.changing.contains_key(*name)) {
            return Looked::Busy;
        }
        let next: BTreeMap<String, Option<Term>> =
            names.into_iter().map(|name| (name.clone(), seen.get(name).cloned())).collect();
        state.version += 1;
        state.changing.extend(next.clone());
        let State { passes, .. } = &mut *state;
        for pass in passes.values() {
            if next.get(&pass.claim.resource).is_some_and(|term| !pass.fits(term.as_ref())) {
                pass.revoked.store(true, Ordering::Release);
            }
        }
        Looked::Change(Grant { leases: self.clone(), next })
    }
}

impl Grant {
    /// The resources, and to whom each goes.
    pub(super) fn next(&self) -> &BTreeMap<String, Option<Term>> {
        &self.next
    }

    /// Sessions that may write and will not be allowed to, with their resources.
    pub(super) fn former(&self) -> Vec<(u32, String)> {
        self.misfits(|pass| pass.writes_in.is_some())
    }

    fn misfits(&self, which: impl Fn(&Known) -> bool) -> Vec<(u32, String)> {
        let state = self.leases.lock();
        let misfit = |(number, pass): (&u32, &Known)| {
            let term = self.next.get(&pass.claim.resource)?;
            let misfit = which(pass) && !pass.fits(term.as_ref());
            misfit.then(|| (*number, pass.claim.resource.clone()))
        };
        state.passes.iter().filter_map(misfit).collect()
    }

    /// Nothing has changed.
    pub(super) fn withdraw(mut self) {
        let mut state = self.leases.lock();
        for resource in std::mem::take(&mut self.next).into_keys() {
            state.changing.remove(&resource);
            let term = state.terms.get(&resource);
            let stay = |pass: &&Known| pass.claim.resource == resource && pass.fits(term);
            // Whoever has been told to end does so all the same.
            for pass in state.passes.values().filter(stay) {
                pass.revoked.store(false, Ordering::Release);
            }
        }
        drop(state);
        self.leases.moved.notify_waiters();
    }

    /// The change is committed. Sessions that may now do more end, too: they come again.
    pub(super) fn takes_effect(mut self) -> Vec<(u32, String)> {
        let rise = self.misfits(|pass| pass.writes_in.is_none());
        let mut state = self.leases.lock();
        state.version += 1;
        for (resource, term) in std::mem::take(&mut self.next) {
            state.changing.remove(&resource);
            state.unknown.remove(&resource);
            match term {
                Some(term) => state.terms.insert(resource, term),
                None => state.terms.remove(&resource),
            };
        }
        drop(state);
        self.leases.moved.notify_waiters();
        rise
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.next.is_empty() {
            return;
        }
        let mut state = self.leases.lock();
        state.version += 1;
        for resource in std::mem::take(&mut self.next).into_keys() {
            state.changing.remove(&resource);
            state.unknown.insert(resource);
        }
    }
}

fn unclear(what: &str) -> Failure {
    Failure::new(Kind::Refused, what).code("28000").number(1045).hint(
        "name resource and node by the start-up options lockstep.resource and lockstep.node (or connection \
         attributes with _ for the point), or the node's users or hosts in [[resource.node]]",
    )
}
