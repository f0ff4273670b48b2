//! A cgroup for each service, where the machine lets the agent make one: what is born in it stays in it,
//! whatever it sheds.
//!
//! For that the agent must be allowed to write to its part of the tree (root, or a delegated part), and
//! the kernel must be able to kill a whole group at once (cgroup v2, Linux 5.14). Elsewhere the marks of
//! `tree` alone have to do, which are looked for in any case.
//!
//! Where the groups are is kept in a file in the agent's folder, so that guard, tools and the next agent
//! find what this one has started.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::hex;

/// The file that says where the groups are.
const FILE: &str = "cgroup";

/// Finds out whether this agent can make groups, and remembers where. To be called when nothing of an
/// earlier run is left.
pub fn prepare(state_dir: &Path) {
    let file = state_dir.join(FILE);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(base) = base(&mounts, &own, state_dir).filter(|base| can_be_used(base)) else {
        tracing::info!(
            "no cgroup for each service: processes are told by descent, group and environment"
        );
        // A former place is no place of this agent's.
        let _ = std::fs::remove_file(file);
        return;
    };
    match std::fs::write(&file, base.display().to_string()) {
        Ok(()) => tracing::info!(base = %base.display(), "each service has a cgroup"),
        Err(error) => tracing::warn!(%error, file = %file.display(), "no cgroup for each service"),
    }
}

/// The place of an agent's groups: below its own group.
fn base(mounts: &str, own: &str, state_dir: &Path) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split(' ').skip(3);
        let whole = after.starts_with("cgroup2 ") && words.next() == Some("/");
        whole.then(|| words.next()).flatten()
    })?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    if own.split('/').any(|part| part == "..") {
        return None;
    }
    let hash = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    Some(Path::new(mount).join(own).join(format!("lockstep-{}", hex::encode(&hash[..4]))))
}

fn can_be_used(base: &Path) -> bool {
    let made = std::fs::create_dir_all(base).is_ok();
    made && std::fs::File::options().write(true).open(base.join("cgroup.kill")).is_ok()
}

/// The group of the processes that a cookie names: those of `a/b` are below those of `a`.
fn of(cookie: &str) -> Option<PathBuf> {
    let (state_dir, names) = cookie.rsplit_once('#')?;
    let base = std::fs::read_to_string(Path::new(state_dir).join(FILE)).ok()?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let part = |name: &str| -> String {
        let letter = |letter: char| match plain(letter) {
            true => letter.to_string(),
            false => format!("_{:x}_", u32::from(letter)),
        };
        name.chars().map(letter).collect()
    };
    // What begins so is no file of the kernel's.
    Some(
        names
            .split('/')
            .fold(base.into(), |at: PathBuf, name| at.join(format!("of-{}", part(name)))),
    )
}

/// Makes the group of a service; where it is, if there can be one.
#[must_use]
pub fn make(cookie: &str) -> Option<PathBuf> {
    let group = of(cookie)?;
    match std::fs::create_dir_all(&group) {
        Ok(()) => Some(group),
        Err(error) => {
            tracing::warn!(%error, group = %group.display(), "no cgroup");
            None
        }
    }
}

/// The processes in a group and below.
#[must_use]
pub fn members(cookie: &str) -> Vec<u32> {
    let mut found = Vec::new();
    let mut groups: Vec<PathBuf> = of(cookie).into_iter().collect();
    while let Some(group) = groups.pop() {
        let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let below = std::fs::read_dir(&group).into_iter().flatten().flatten();
        groups.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    found
}

/// Kills all of a group and below, also what is being born.
pub fn kill(cookie: &str) {
    if let Some(group) = of(cookie) {
        // Where it is not there, nothing is in it.
        let _ = std::fs::write(group.join("cgroup.kill"), "1");
    }
}

/// Removes the group of a service that has ended.
pub fn remove(cookie: &str) {
    if let Some(group) = of(cookie) {
        // It may never have been there.
        let _ = std::fs::remove_dir(group);
    }
}

/// Enters a group, and becomes another program: what a service's process does first.
///
/// # Errors
/// If the program cannot be run; else this does not return.
pub fn enter(group: &Path, words: &[String]) -> Result<(), String> {
    if let Err(error) = std::fs::write(group.join("cgroup.procs"), "0") {
        // It can still be told by its other marks.
        eprintln!("lockstep: {}: {error}", group.display());
    }
    let (program, rest) = words.split_first().ok_or("a program is missing")?;
    Err(format!("{program} cannot be started: {}", Command::new(program).args(rest).exec()))
}

/// The words that run a program in a group. The agent's own program enters it, as nobody else can put a
/// process there before it has children.
#[must_use]
pub fn words_in(group: &Path, words: &[String]) -> Vec<String> {
    // This program, also when its file has been replaced by a newer one.
    let enter = ["/proc/self/exe", "agent", "enter", "--cgroup"].map(str::to_owned);
    let group = [group.display().to_string(), "--".into()];
    enter.into_iter().chain(group).chain(words.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_below_the_agents_own_group() {
        let mounts = "25 20 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let here = |own| base(mounts, own, Path::new("/var/lib/lockstep-agent"));
        let place =
            here("4:memory:/x\n0::/system.slice/lockstep-agent.service\n").expect("a place");
        let place = place.display().to_string();
        let begin = "/sys/fs/cgroup/system.slice/lockstep-agent.service/lockstep-";
        assert!(place.starts_with(begin) && place.len() == begin.len() + 8, "{place}");
        assert_eq!(here("4:memory:/x\n"), None, "no cgroup v2");
        assert_eq!(here("0::/../other\n"), None, "outside of what is seen here");
        assert_eq!(base("", "0::/\n", Path::new("/")), None);
    }

    #[test]
    fn names_become_names_of_folders() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(FILE), "/base").expect("written");
        let at = |names: &str| of(&format!("{}#{names}", folder.path().display()));
        assert_eq!(at("app@n1/my shop"), Some("/base/of-app_40_n1/of-my_20_shop".into()));
        assert_eq!(at(".."), Some("/base/of-_2e__2e_".into()));
        assert_eq!(of("program-1"), None);
        assert_eq!(of("/no/such/folder#app"), None);
    }
}
