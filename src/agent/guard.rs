//! The guard: a process of its own that enforces the deadline when the agent cannot, because it is
//! frozen, dead, or stuck. It does little, keeps its memory in RAM, and waits for nobody.
//!
//! It is told over a pipe what runs and until when. At the deadline it kills, and says so. When the
//! pipe ends, the agent is dead: it kills at once. It holds a lock for as long as anything may still
//! run; an agent that starts waits for that lock, and so knows that nothing of its former life is
//! left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::clock;
use super::election::Moment;
use super::tree::{self, Root};
use super::vip::{self, Place};

/// How long processes are given to vanish after they were killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the guard looks at the clock, which its own sleep does not follow while the machine
/// sleeps.
const LOOK: Duration = Duration::from_millis(200);
/// Lines under way between the reader and the judge.
const LINES: usize = 64;

/// How a resource is ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Its name.
    pub resource: String,
    /// Names its processes.
    pub cookie: String,
    /// Programs that end the rest: units, scripts.
    pub programs: Vec<Vec<String>>,
    /// Addresses to take away.
    pub places: Vec<Place>,
}

/// What the guard is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Word {
    /// From now on this is how to end a resource.
    Know(Ending),
    /// Everything must be ended by then, in nanoseconds of the clock; none: no such moment.
    Until(String, Option<u64>),
    /// A process that belongs to it.
    Root(String, u32, u64),
    /// Nothing of it runs any more.
    Stopped(String),
}

#[derive(Debug, Default)]
struct Ward {
    ending: Ending,
    running: bool,
    until: Option<Moment>,
    roots: Vec<Root>,
    /// The deadline has passed: whatever comes up again, from an agent that woke up in the middle of
    /// a start, is killed as well.
    over: bool,
    /// Something survives its end.
    stuck: bool,
}

/// The guard's whole life. `state_dir` holds its lock; `watchdog` is the kernel's device.
///
/// # Errors
/// If its lock cannot be had.
pub fn live(state_dir: &Path, watchdog: Option<&Path>) -> Result<(), String> {
    let lock = lock_file(state_dir)?;
    lock.lock().map_err(|error| format!("the guard's lock: {error}"))?;
    // Without the right to it the guard works as well, unless memory is short.
    let _ = rustix::mm::mlockall(
        rustix::mm::MlockAllFlags::CURRENT | rustix::mm::MlockAllFlags::FUTURE,
    );
    say("ready");
    let (to, from) = sync_channel(LINES);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    let mut wards: BTreeMap<String, Ward> = BTreeMap::new();
    let mut watchdog = Dog::new(watchdog);
    loop {
        let next = wards.values().filter_map(|ward| ward.until).min();
        let patience = next.map_or(LOOK, |next| next.since(clock::now()).min(LOOK));
        match from.recv_timeout(patience) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(word) => hear(&mut wards, word),
                Err(error) => eprintln!("lockstep guard: {line}: {error}"),
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                wards.values_mut().for_each(end);
                watchdog.look(&wards);
                return Ok(());
            }
        }
        let now = clock::now();
        for ward in wards.values_mut() {
            if ward.until.is_some_and(|until| now >= until) {
                end(ward);
            } else if ward.over {
                let left = tree::kill(&ward.ending.cookie, &ward.roots, LOOK);
                ward.stuck = !left.is_empty();
            }
        }
        watchdog.look(&wards);
    }
}

/// The kernel's watchdog, while something runs: fed as long as whatever must be ended can be ended.
struct Dog<'p> {
    path: Option<&'p Path>,
    open: Option<File>,
}

impl<'p> Dog<'p> {
    fn new(path: Option<&'p Path>) -> Self {
        Self { path, open: None }
    }

    fn look(&mut self, wards: &BTreeMap<String, Ward>) {
        let Some(path) = self.path else { return };
        let (running, stuck) =
            (wards.values().any(|ward| ward.running), wards.values().any(|ward| ward.stuck));
        if running && self.open.is_none() {
            match File::options().write(true).open(path) {
                Ok(file) => self.open = Some(file),
                Err(error) => eprintln!("lockstep guard: {}: {error}", path.display()),
            }
        }
        let Some(file) = self.open.as_mut() else { return };
        // Without food it bites: the machine restarts, and what survived SIGKILL with it.
        if stuck {
            return;
        }
        // The letter that makes it sleep when it is closed.
        let food: &[u8] = if running { b"." } else { b"V" };
        if let Err(error) = file.write_all(food) {
            eprintln!("lockstep guard: {}: {error}", path.display());
        }
        if !running {
            self.open = None;
        }
    }
}

fn hear(wards: &mut BTreeMap<String, Ward>, word: Word) {
    match word {
        Word::Know(ending) => {
            let ward = wards.entry(ending.resource.clone()).or_default();
            ward.ending = ending;
        }
        Word::Until(resource, until) => {
            let ward = wards.entry(resource).or_default();
            ward.running = true;
            ward.over = false;
            ward.until = until.map(Moment::from_nanos);
        }
        Word::Root(resource, pid, began) => {
            let ward = wards.entry(resource).or_default();
            ward.running = true;
            ward.roots.push(Root { pid, began });
        }
        Word::Stopped(resource) => {
            let ward = wards.entry(resource).or_default();
            ward.running = false;
            ward.over = false;
            ward.stuck = false;
            ward.until = None;
            ward.roots.clear();
        }
    }
}

/// Ends whatever runs.
fn end(ward: &mut Ward) {
    ward.until = None;
    if !ward.running {
        return;
    }
    ward.over = true;
    ward.stuck = !put_down(&ward.ending, &ward.roots);
    ward.running = ward.stuck;
    say(&format!("killed {}", ward.ending.resource));
}

/// Kills processes, takes addresses away, runs the programs that end the rest. Nothing is asked
/// nicely: the time for that is over. Whether nothing is left.
pub fn put_down(ending: &Ending, roots: &[Root]) -> bool {
    let left = tree::kill(&ending.cookie, roots, PATIENCE);
    if !left.is_empty() {
        eprintln!("lockstep guard: {} survive: {left:?}", ending.resource);
    }
    if !ending.places.is_empty()
        && let Err(why) = vip::remove_now(&ending.places)
    {
        eprintln!("lockstep guard: addresses of {}: {why}", ending.resource);
    }
    for words in &ending.programs {
        if let Err(why) = run(words) {
            eprintln!("lockstep guard: {}: {why}", words[0]);
        }
    }
    left.is_empty()
}

/// Runs a program, and waits for it no longer than [`PATIENCE`]: other resources want to be guarded.
fn run(words: &[String]) -> std::io::Result<()> {
    let mut command = std::process::Command::new(&words[0]);
    let mut child = command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let end = clock::now().after(PATIENCE);
    while clock::now() < end {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait().map(drop)
}

/// A reader that is gone is no reason to stop guarding.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The guard's lock: held for as long as something may run.
///
/// # Errors
/// If the file cannot be made.
pub fn lock_file(state_dir: &Path) -> Result<File, String> {
    let path = state_dir.join("guard.lock");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    open.map_err(|error| format!("{}: {error}", path.display()))
}

/// The agent's end of the pipe.
#[derive(Debug)]
pub struct Guard {
    to: ChildStdin,
    // Held, so that it is known to have ended when this is dropped.
    _child: Child,
}

/// The other end: what the guard says. When it ends, nobody guards.
#[derive(Debug)]
pub struct Reports(tokio::io::Lines<BufReader<ChildStdout>>);

impl Reports {
    /// The resource that the guard has ended; `None` when the guard itself is gone.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let line = self.0.next_line().await.ok().flatten()?;
            if let Some(resource) = line.strip_prefix("killed ") {
                return Some(resource.to_owned());
            }
        }
    }
}

impl Guard {
    /// Starts the guard and waits until it holds its lock.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start(
        state_dir: &Path,
        watchdog: Option<&Path>,
    ) -> Result<(Self, Reports), String> {
        let own = std::env::current_exe().map_err(|error| format!("own program: {error}"))?;
        let mut command = Command::new(own);
        command
            .args(["agent", "guard", "--state-dir"])
            .arg(state_dir)
            .args(watchdog.iter().flat_map(|path| [Path::new("--watchdog"), path]))
            // Ctrl-C at a terminal is the agent's to answer.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("the guard: {error}"))?;
        let (Some(to), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the guard has no pipes".into());
        };
        let mut lines = BufReader::new(out).lines();
        let ready = tokio::time::timeout(PATIENCE * 2, lines.next_line()).await;
        match ready {
            Ok(Ok(Some(line))) if line == "ready" => {}
            other => return Err(format!("the guard does not begin: {other:?}")),
        }
        Ok((Self { to, _child: child }, Reports(lines)))
    }

    /// How a resource is ended.
    ///
    /// # Errors
    /// If the guard is gone.
    pub async fn know(&mut self, ending: Ending) -> Result<(), String> {
        self.tell(&Word::Know(ending)).await
    }

    /// Until when it may run.
    ///
    /// # Errors
    /// If the guard is gone.
    pub async fn until(&mut self, resource: &str, until: Option<Moment>) -> Result<(), String> {
        self.tell(&Word::Until(resource.into(), until.map(Moment::nanos))).await
    }

    /// A process that belongs to it.
    ///
    /// # Errors
    /// If the guard is gone.
    pub async fn root(&mut self, resource: &str, root: Root) -> Result<(), String> {
        self.tell(&Word::Root(resource.into(), root.pid, root.began)).await
    }

    /// Nothing of it runs.
    ///
    /// # Errors
    /// If the guard is gone.
    pub async fn stopped(&mut self, resource: &str) -> Result<(), String> {
        self.tell(&Word::Stopped(resource.into())).await
    }

    async fn tell(&mut self, word: &Word) -> Result<(), String> {
        let line = serde_json::to_string(word).map_err(|error| error.to_string())?;
        let written = self.to.write_all(format!("{line}\n").as_bytes()).await;
        written.map_err(|error| format!("the guard is gone: {error}"))
    }
}
