//! Child processes that die with the test process, and signals to whole process trees.
//!
//! `setpriv --pdeathsig KILL` ties a child to the *thread* that forked it, and test threads end
//! early; so one thread that never ends does all the forking.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

type Order = (Command, Sender<std::io::Result<Child>>);

fn spawn(command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        let work = move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("spawner".into()).spawn(work).expect("a thread");
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    spawner.lock().unwrap().send((command, answer)).expect("the spawner lives");
    child.recv().expect("the spawner answers")
}

/// Who runs a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// Whoever runs the tests.
    Myself,
    /// The user `postgres` when the tests run as root, for the server refuses to run as root.
    DatabaseUser,
}

fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
    })
}

/// A command of the other user, where one is needed, as that program itself and not below a shell:
/// signals and the process id must be the program's own.
pub(crate) fn command(who: As, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if who == As::DatabaseUser && is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program.as_ref()).stdin(Stdio::null());
    // A folder the other user may be in.
    command.current_dir("/");
    command
}

/// Makes a folder the database user's own.
pub(crate) fn hand_to_database_user(path: &Path) {
    if is_root() {
        let done = Command::new("chown").arg("postgres:postgres").arg(path).status();
        assert!(done.is_ok_and(|s| s.success()), "chown {} to postgres failed", path.display());
    }
}

/// Runs a short program to its end and gives what it printed; a failure stops the test with that.
pub(crate) fn must(what: &str, command: Command) -> String {
    let output = output(what, command, Duration::from_secs(120));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{what} failed ({}):\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs a program to its end, with a deadline, whatever it answers.
pub(crate) fn output(what: &str, mut command: Command, limit: Duration) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn(command).unwrap_or_else(|e| panic!("{what} cannot be started: {e}"));
    let pid = child.id();
    let (done, end) = channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match end.recv_timeout(limit) {
        Ok(output) => output.unwrap_or_else(|e| panic!("{what}: {e}")),
        Err(_) => {
            kill_tree(pid);
            let rest = end.recv_timeout(Duration::from_secs(5)).ok().and_then(Result::ok);
            let text = rest.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
            panic!("{what} did not end within {limit:?}:\n{}", String::from_utf8_lossy(&text))
        }
    }
}

/// A long-lived child with its log in a file.
pub(crate) struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        command.stdout(file.try_clone().expect("a handle")).stderr(file);
        let child = spawn(command).unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
        Self { name: name.into(), pid: child.id(), child: Mutex::new(child), log: log.into() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().expect("the child is ours")
    }

    /// The end of the process, within a time.
    pub(crate) fn wait(&self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} did not end within {limit:?}; its log ends with:\n{}",
                self.name,
                tail(&self.log, 30)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, &[self.pid]);
    }

    /// kill -9 of it and of everything below it, as when the machine loses power.
    pub(crate) fn kill9(&self) {
        if self.exited().is_none() {
            kill_tree(self.pid);
            self.wait(Duration::from_secs(10));
        }
    }

    /// Stops it and all its children in place: no answer, connections open.
    pub(crate) fn freeze(&self) {
        // The parent first: it can start no child while we look for them.
        signal("STOP", &[self.pid]);
        signal("STOP", &descendants(self.pid));
    }

    pub(crate) fn thaw(&self) {
        signal("CONT", &descendants(self.pid));
        signal("CONT", &[self.pid]);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            kill_tree(self.pid);
            let _ = self.child.lock().unwrap().wait();
        }
    }
}

/// Sends a signal by name; a process that is gone already is no mistake.
pub(crate) fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let text = format!("kill -{name} {} 2>/dev/null; true", pids.join(" "));
    Command::new("sh").args(["-c", &text]).status().expect("sh is there");
}

fn kill_tree(pid: u32) {
    signal("STOP", &[pid]);
    let mut all = descendants(pid);
    all.push(pid);
    signal("KILL", &all);
    all.pop();
    let end = Instant::now() + Duration::from_secs(10);
    while all.iter().any(|&pid| parent_and_state(pid).is_some_and(|(_, state)| state != 'Z')) {
        assert!(Instant::now() < end, "children of {pid} survive kill -9");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn parent_and_state(pid: u32) -> Option<(u32, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything: what follows the last one is regular.
    let mut rest = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = rest.next()?.chars().next()?;
    Some((rest.next()?.parse().ok()?, state))
}

/// All processes below one.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        if let Some((parent, _)) = parent_and_state(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            found.push(child);
            next.push(child);
        }
    }
    found
}

/// The last lines of a file, for a message.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
