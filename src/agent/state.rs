//! What outlives the process, in files: the highest epoch of each resource, and whether something of
//! it may run.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree::Root;

fn file(state_dir: &Path, resource: &str, what: &str) -> PathBuf {
    // A resource's name has no slash, but may have a colon.
    state_dir.join(format!("{}.{what}", resource.replace(':', "_")))
}

/// Writes a file so that it is there whole, or not at all.
fn replace(path: &Path, text: &str) -> Result<(), String> {
    let explain = |error: std::io::Error| format!("{}: {error}", path.display());
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new).map_err(explain)?;
    file.write_all(text.as_bytes()).map_err(explain)?;
    file.sync_all().map_err(explain)?;
    std::fs::rename(&new, path).map_err(explain)
}

/// The highest epoch that this node saw; 0 if it never saw one.
///
/// # Errors
/// If the file is there and cannot be read: then nothing may start.
pub fn read_epoch(state_dir: &Path, resource: &str) -> Result<i64, String> {
    let path = file(state_dir, resource, "epoch");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            format!(
                "{} holds no number: write the epoch of lockstep_lease into it, or remove it if \
                 this node never was in use",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Remembers the highest epoch.
///
/// # Errors
/// If it cannot be written.
pub fn write_epoch(state_dir: &Path, resource: &str, epoch: i64) -> Result<(), String> {
    replace(&file(state_dir, resource, "epoch"), &format!("{epoch}\n"))
}

/// Remembers that something may run, until [`unmark_running`].
///
/// # Errors
/// If it cannot be written.
pub fn mark_running(state_dir: &Path, resource: &str) -> Result<(), String> {
    replace(&file(state_dir, resource, "running"), "")
}

/// Nothing runs any more.
///
/// # Errors
/// If the mark cannot be removed.
pub fn unmark_running(state_dir: &Path, resource: &str) -> Result<(), String> {
    remove(&file(state_dir, resource, "running"))
}

fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether something may still run from before.
#[must_use]
pub fn may_be_running(state_dir: &Path, resource: &str) -> bool {
    file(state_dir, resource, "running").exists()
}

/// What an agent that ended in maintenance has left running, for the next one on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The run of the agent's process that holds the row, still.
    pub incarnation: String,
    /// The term.
    pub epoch: i64,
    /// The services, and the processes of those that are one.
    pub services: Vec<(String, Option<Root>)>,
    /// Since when the machine runs: nothing outlives it.
    boot: String,
}

impl Left {
    /// What is left by this run of the agent, on this run of the machine.
    #[must_use]
    pub fn new(incarnation: &str, epoch: i64, services: Vec<(String, Option<Root>)>) -> Self {
        Self { incarnation: incarnation.into(), epoch, services, boot: boot() }
    }
}

/// The name of this run of the machine.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

/// Remembers what is left running.
///
/// # Errors
/// If it cannot be written.
pub fn leave(state_dir: &Path, resource: &str, left: &Left) -> Result<(), String> {
    let text = serde_json::to_string(left).map_err(|error| error.to_string())?;
    replace(&file(state_dir, resource, "left"), &text)
}

/// What an earlier agent has left running; nothing where the machine was started since.
#[must_use]
pub fn left(state_dir: &Path, resource: &str) -> Option<Left> {
    let text = std::fs::read_to_string(file(state_dir, resource, "left")).ok()?;
    serde_json::from_str(&text).ok().filter(|left: &Left| left.boot == boot())
}

/// Nothing is left, or somebody looks after it again.
///
/// # Errors
/// If that cannot be remembered.
pub fn forget_left(state_dir: &Path, resource: &str) -> Result<(), String> {
    remove(&file(state_dir, resource, "left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_outlives_the_process_and_a_broken_file_is_no_epoch() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read_epoch(folder.path(), "a:b"), Ok(0));
        write_epoch(folder.path(), "a:b", 7).expect("written");
        assert_eq!(read_epoch(folder.path(), "a:b"), Ok(7));
        std::fs::write(folder.path().join("a_b.epoch"), "x").expect("written");
        assert!(read_epoch(folder.path(), "a:b").is_err());
        assert!(!may_be_running(folder.path(), "r"));
        mark_running(folder.path(), "r").expect("marked");
        assert!(may_be_running(folder.path(), "r"));
        unmark_running(folder.path(), "r").expect("unmarked");
        unmark_running(folder.path(), "r").expect("twice does no harm");
        let services = vec![("a".to_owned(), Root::of(std::process::id())), ("b".to_owned(), None)];
        let left = Left::new("run", 3, services);
        leave(folder.path(), "r", &left).expect("left");
        assert_eq!(super::left(folder.path(), "r"), Some(left.clone()));
        // Before the machine was started anew.
        leave(folder.path(), "r", &Left { boot: "before".into(), ..left }).expect("left");
        assert_eq!(super::left(folder.path(), "r"), None);
        forget_left(folder.path(), "r").expect("forgotten");
        assert!(!may_be_running(folder.path(), "r"));
    }
}
