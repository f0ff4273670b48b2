//! Whole process trees, and their end.
//!
//! A service may fork, detach itself, start sessions of its own. What belongs to it is found by
//! three marks: it descends from a process that the agent started, it is in that process's group, or
//! it has inherited a variable of the environment that names the tree (as Jenkins' process tree killer
//! does). A process would have to shed all three to be missed. Where the agent may make cgroups
//! (`cgroup.rs`) that does not help it either; else a unit of systemd, which has its own, is for programs
//! that do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::cgroup;

/// The variable that names the tree a process belongs to.
pub const COOKIE: &str = "LOCKSTEP_TREE";

/// A process that the agent started. The moment of its start tells it from another one that got
/// its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its number.
    pub pid: u32,
    /// When it began, in the kernel's ticks.
    pub began: u64,
}

impl Root {
    /// The process of that number, if it is there.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, began: stat.began })
    }

    /// Whether it still lives.
    #[must_use]
    pub fn lives(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.began == self.began && !stat.zombie)
    }
}

#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: u32,
    group: u32,
    began: u64,
    zombie: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything: what follows the last one is regular.
    let rest: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    Some(Stat {
        zombie: matches!(*rest.first()?, "Z" | "X"),
        parent: rest.get(1)?.parse().ok()?,
        group: rest.get(2)?.parse().ok()?,
        began: rest.get(19)?.parse().ok()?,
    })
}

fn has_cookie(pid: u32, wanted: &[u8]) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let below = |rest: &[u8]| rest.is_empty() || rest[0] == b'/';
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| variable.strip_prefix(wanted).is_some_and(below))
}

/// The living processes of a tree; `a` has the processes of `a/b` in it.
#[must_use]
pub fn members(cookie: &str, roots: &[Root]) -> Vec<u32> {
    let own = std::process::id();
    let wanted = format!("{COOKIE}={cookie}").into_bytes();
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, stat(pid)?))) {
            all.insert(pid, stat);
        }
    }
    let is_root = |pid: u32, stat: &Stat| {
        roots.iter().any(|root| root.pid == pid && root.began == stat.began)
    };
    let groups: BTreeSet<u32> =
        all.iter().filter(|(pid, stat)| is_root(**pid, stat)).map(|(pid, _)| *pid).collect();
    let mut found: BTreeSet<u32> = all
        .iter()
        .filter(|(pid, stat)| {
            groups.contains(pid) || groups.contains(&stat.group) || has_cookie(**pid, &wanted)
        })
        .map(|(pid, _)| *pid)
        .collect();
    // Also one that was born since.
    found.extend(cgroup::members(cookie));
    loop {
        let before = found.len();
        let below = all.iter().filter(|(_, stat)| found.contains(&stat.parent));
        let below: Vec<u32> = below.map(|(pid, _)| *pid).collect();
        found.extend(below);
        if found.len() == before {
            break;
        }
    }
    let lives = |pid: &u32| all.get(pid).is_none_or(|stat| !stat.zombie);
    found.into_iter().filter(|pid| *pid != own && lives(pid)).collect()
}

/// Asks the whole tree to end.
pub fn terminate(cookie: &str, roots: &[Root]) {
    signal(&members(cookie, roots), Signal::TERM);
}

/// Kills the whole tree, and what it forks meanwhile, until nothing of it is left. What is left at
/// the end of `patience` is returned: processes that the kernel does not let go.
#[must_use]
pub fn kill(cookie: &str, roots: &[Root], patience: Duration) -> Vec<u32> {
    #[expect(clippy::disallowed_methods, reason = "this waits for the kernel, also in a guard")]
    let end = Instant::now() + patience;
    loop {
        let left = members(cookie, roots);
        if left.is_empty() {
            cgroup::remove(cookie);
            return left;
        }
        cgroup::kill(cookie);
        signal(&left, Signal::KILL);
        #[expect(clippy::disallowed_methods, reason = "as above")]
        if Instant::now() >= end {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(pids: &[u32], signal: Signal) {
    for pid in pids {
        // One that is gone meanwhile is no mistake.
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Starts a shell with the cookie that starts others in the background.
    fn shell(cookie: &str, script: &str) -> std::process::Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env(COOKIE, cookie).stdout(Stdio::null());
        command.spawn().expect("a shell")
    }

    fn settle(cookie: &str, roots: &[Root], count: usize) {
        for _ in 0..200 {
            if members(cookie, roots).len() >= count {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?} instead of {count}", members(cookie, roots));
    }

    #[test]
    fn a_tree_that_hides_itself_is_found_and_ended() {
        let cookie = format!("test-{}", std::process::id());
        // One detached by a session of its own, one orphaned, one that shed its environment.
        let script = "setsid sleep 97 & (sleep 97 &) ; env -i sleep 97 & wait";
        let mut child = shell(&cookie, script);
        let roots = [Root::of(child.id()).expect("it lives")];
        settle(&cookie, &roots, 4);
        assert_eq!(kill(&cookie, &roots, Duration::from_secs(5)), Vec::<u32>::new());
        let _ = child.wait();
        assert_eq!(members(&cookie, &roots), Vec::<u32>::new());
    }

    #[test]
    fn another_process_with_the_number_of_one_that_is_gone_is_left_alone() {
        let mut other = shell("somebody-else", "exec sleep 97");
        let root = Root::of(other.id()).expect("it lives");
        let former = Root { began: root.began - 1, ..root };
        assert_eq!(members("nobody", &[former]), Vec::<u32>::new());
        assert_eq!(members("nobody", &[root]), [root.pid], "but not its group, the test's own");
        let _ = other.kill();
        let _ = other.wait();
    }
}
