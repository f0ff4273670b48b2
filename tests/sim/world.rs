//! One simulated world: servers, the proxy's parts in front of them, chance, trace and complaints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::faults::{Fault, Harm, Kind, Scenario, Theme, Who};
use crate::proxy::Running;
use crate::server::{Answer, Request, Server};
use crate::tables::{Disk, Place};

/// The name of the cluster, and of its state file.
pub(crate) const CLUSTER: &str = "sim";

/// The name of a server.
pub(crate) fn name(index: usize) -> String {
    format!("db{}", index + 1)
}

#[derive(Debug, Default)]
struct Trace {
    hash: DefaultHasher,
    text: Option<String>,
}

/// Points that have been passed, and faults that wait for theirs.
#[derive(Debug, Default)]
struct Points {
    passed: BTreeMap<(Option<Kind>, bool), usize>,
    faults: Vec<Fault>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) servers: Vec<Arc<Server>>,
    pub(crate) folder: tempfile::TempDir,
    /// The proxy's tasks while it runs.
    pub(crate) running: Mutex<Option<Running>>,
    /// The proxy has crashed, or runs again.
    pub(crate) proxy_changed: Notify,
    /// What was acknowledged, in order.
    pub(crate) known: Mutex<Vec<i64>>,
    dice: Mutex<StdRng>,
    pids: AtomicU64,
    start: Instant,
    trace: Mutex<Trace>,
    points: Mutex<Points>,
    complaints: Mutex<Vec<String>>,
    /// The figures of each proxy that ran.
    pub(crate) figures: Mutex<Vec<Arc<lockstep::metrics::Metrics>>>,
    falls: AtomicUsize,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(scenario: Scenario, keep_trace: bool) -> Arc<Self> {
        let members: Vec<String> = (0..scenario.backends).map(name).collect();
        // In memory where there is such a place: nothing here depends on a real disk's flushes.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let seed = scenario.seed;
        let trace = Trace { text: keep_trace.then(String::new), ..Trace::default() };
        let faults = scenario.faults.clone();
        Arc::new_cyclic(|world: &Weak<Self>| {
            let server = |index: usize| {
                let disk = Disk::initial(&members[index], &format!("system {index}"), &members);
                Arc::new(Server::new(world, index, disk, &scenario))
            };
            Self {
                servers: (0..scenario.backends).map(server).collect(),
                scenario,
                folder: folder.expect("a folder for the state file"),
                running: Mutex::default(),
                proxy_changed: Notify::new(),
                known: Mutex::default(),
                dice: Mutex::new(StdRng::seed_from_u64(seed.wrapping_mul(31))),
                pids: AtomicU64::new(1),
                start: Instant::now(),
                trace: Mutex::new(trace),
                points: Mutex::new(Points { faults, ..Points::default() }),
                complaints: Mutex::default(),
                figures: Mutex::default(),
                falls: AtomicUsize::new(0),
            }
        })
    }

    pub(crate) fn next_pid(&self) -> u64 {
        self.pids.fetch_add(1, Ordering::SeqCst)
    }

    /// Chance of its own for somebody.
    pub(crate) fn fork(&self) -> StdRng {
        StdRng::seed_from_u64(self.random())
    }

    pub(crate) fn random(&self) -> u64 {
        locked(&self.dice).random()
    }

    /// How long a message is under way.
    pub(crate) fn way(&self) -> Duration {
        Duration::from_millis(locked(&self.dice).random_range(1..=3))
    }

    pub(crate) fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether the proxy fell since somebody last looked: a connection that ends then is no surprise.
    pub(crate) fn proxy_fell(&self) -> bool {
        self.falls.load(Ordering::SeqCst) > 0
    }

    /// Adds a line to the trace.
    pub(crate) fn trace(&self, line: &str) {
        let line = format!("{:>7} {line}\n", self.elapsed_ms());
        let mut trace = locked(&self.trace);
        trace.hash.write(line.as_bytes());
        if let Some(text) = &mut trace.text {
            text.push_str(&line);
        }
    }

    /// The hash of everything that happened, and the lines where they were kept.
    pub(crate) fn traced(&self) -> (u64, Option<String>) {
        let mut trace = locked(&self.trace);
        (trace.hash.finish(), trace.text.take())
    }

    /// Something is not as it must be.
    pub(crate) fn complain(&self, what: String) {
        self.trace(&format!("!! {what}"));
        locked(&self.complaints).push(what);
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        locked(&self.complaints).clone()
    }

    /// Notes what a session did.
    pub(crate) fn note(&self, server: usize, pid: u64, request: &Request, answer: &Answer) {
        let mut line = format!("{} #{pid} ", name(server));
        let _ = match request {
            Request::Run { sql, capture, .. } => write!(line, "{sql} capture={capture}"),
            Request::Rows { relation, op, old, new, .. } => {
                write!(line, "apply {relation} {op:?} {old:?} {new:?}")
            }
            Request::Record { record, .. } => write!(line, "record {} {}", record.seq, record.id),
            Request::Advance { value, exactly, .. } => write!(line, "advance {value} {exactly}"),
            other => write!(line, "{other:?}"),
        };
        let _ = match &answer.error {
            Some(error) => write!(line, " -> {} {}", error.code, error.message),
            None => write!(line, " -> {} {:?} {:?}", answer.tag, answer.rows, answer.lines),
        };
        self.trace(&line);
    }

    /// A session has waited long for a lock. In calm weather no follower's part ever does: an effect
    /// waits only for transactions that are about to commit, or that are being dropped (I8, I9).
    pub(crate) fn waits_long(&self, server: &str, pid: u64, place: Place, follows: bool) {
        if follows && self.scenario.theme == Theme::Calm {
            self.complain(format!("a follower's part waits for {place:?} on {server} #{pid}"));
        }
    }

    /// A point at which something may befall somebody.
    pub(crate) fn point(self: &Arc<Self>, kind: Kind, done: bool, server: usize, pid: u64) {
        let due: Vec<Fault> = {
            let mut points = locked(&self.points);
            let Points { passed, faults } = &mut *points;
            for kind in [None, Some(kind)] {
                *passed.entry((kind, done)).or_default() += 1;
            }
            let here = |f: &Fault| f.kind.is_none() || f.kind == Some(kind);
            let reached = |f: &Fault| passed.get(&(f.kind, f.done)) >= Some(&f.count);
            let is_due = |f: &mut Fault| f.done == done && here(f) && reached(f);
            faults.extract_if(.., is_due).collect()
        };
        for fault in due {
            self.befall(&fault, server, pid);
        }
    }

    /// No more faults.
    pub(crate) fn calm_down(&self) {
        locked(&self.points).faults.clear();
    }

    fn befall(self: &Arc<Self>, fault: &Fault, server: usize, pid: u64) {
        self.trace(&format!("** {fault:?} at {} #{pid}", name(server)));
        match fault.harm {
            Harm::Proxy => {
                self.falls.fetch_add(1, Ordering::SeqCst);
                return self.crash_proxy(fault.lasts);
            }
            Harm::Kill => {
                self.servers[server].kill(pid);
                return;
            }
            _ => {}
        }
        for index in self.victims(fault.who, server) {
            let victim = self.servers[index].clone();
            match fault.harm {
                Harm::Crash(lose) => victim.crash(lose),
                Harm::Hang => victim.lock().hung = true,
                Harm::Refuse => victim.lock().refusing = true,
                Harm::Slow => {
                    let more = u64::try_from(fault.lasts.as_millis() % 160).unwrap_or(0);
                    victim.lock().slow = Duration::from_millis(40 + more);
                }
                Harm::Kill | Harm::Proxy => {}
            }
            let (world, lasts) = (self.clone(), fault.lasts);
            tokio::spawn(async move {
                tokio::time::sleep(lasts).await;
                world.trace(&format!("** {} is well again", victim.name));
                victim.heal();
            });
        }
    }

    fn victims(&self, who: Who, here: usize) -> Vec<usize> {
        let members = crate::judge::newest_view(self).1;
        let place = |name: &String| self.servers.iter().position(|s| s.name == *name);
        let order: Vec<usize> = members.iter().filter_map(place).collect();
        match who {
            Who::Here => vec![here],
            Who::All => (0..self.servers.len()).collect(),
            Who::Leader => order.first().copied().into_iter().collect(),
            Who::Follower => {
                order.get(1..).and_then(|rest| rest.last()).copied().into_iter().collect()
            }
        }
    }
}
