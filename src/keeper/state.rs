//! The state file: the proxy's own copy of the view, written before anybody is told; of an only proxy
//! also its vote.
//!
//! Written to a temporary file, synced, renamed, and the folder synced: after a crash it holds the
//! old view or the new one, never a part of one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cluster::{Arbiter, Roster, Vote};
use crate::durable;

/// The version of the format. A file with another one is refused, not guessed at.
const VERSION: u32 = 2;

/// What the proxy remembers over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    version: u32,
    /// The cluster this belongs to; empty while that is not known.
    pub cluster: String,
    /// Which file it is: another one has another vote.
    pub file: String,
    /// The number of the newest view that is known to be decided.
    pub view: i64,
    /// Its members by name, the leader first.
    pub members: Vec<String>,
    /// Who decided between halves of them.
    pub arbiter: Arbiter,
    /// Backends that an operator made inactive.
    pub held: Vec<String>,
    /// What it keeps as a voter.
    pub vote: Vote,
}

impl Remembered {
    /// A file that knows nothing yet. `file` is a word that no other file has.
    pub fn new(file: String) -> Self {
        Self {
            version: VERSION,
            cluster: String::new(),
            file,
            view: 0,
            members: Vec::new(),
            arbiter: Arbiter::None,
            held: Vec::new(),
            vote: Vote::default(),
        }
    }

    /// The newest member list that is known to be decided.
    pub fn roster(&self) -> Roster {
        Roster { number: self.view, members: self.members.clone(), arbiter: self.arbiter.clone() }
    }

    /// Notes a member list that is decided, unless a newer one is known.
    pub fn note(&mut self, roster: &Roster) {
        if self.view <= roster.number {
            self.view = roster.number;
            self.members.clone_from(&roster.members);
            self.arbiter = roster.arbiter.clone();
        }
    }
}

/// The state file of one cluster.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Held as long as we run, so that two proxies never share one state.
    _lock: File,
}

impl StateFile {
    /// Opens the folder, making it if need be, and locks it.
    ///
    /// # Errors
    /// When the folder cannot be made, or another proxy runs with it.
    pub fn open(folder: &Path, cluster: &str) -> io::Result<Self> {
        let lock = durable::lock(folder, cluster)?;
        Ok(Self { path: folder.join(format!("{cluster}.state.json")), _lock: lock })
    }

    /// Reads the state; `None` when there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or understood: nothing is guessed then.
    pub fn load(&self) -> io::Result<Option<Remembered>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let bad = |why: String| {
            io::Error::other(format!(
                "{} cannot be used: {why}; move it away, and the proxy will wait for all members of \
                 the newest view, since only all of them together can do without the file",
                self.path.display()
            ))
        };
        let state: Remembered = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if state.version != VERSION {
            return Err(bad(format!("its version is {}, not {VERSION}", state.version)));
        }
        Ok(Some(state))
    }

    /// Replaces the state and returns once it is on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, state: &Remembered) -> io::Result<()> {
        durable::replace(&self.path, serde_json::to_string_pretty(state)?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_restart_and_refuses_what_it_does_not_understand() {
        let folder = tempfile::tempdir().expect("folder");
        let file = StateFile::open(folder.path(), "c").expect("open");
        assert_eq!(file.load().expect("load"), None);
        let mut state = Remembered::new("word".into());
        state.note(&Roster { number: 7, members: vec!["b".into(), "a".into()], ..state.roster() });
        state.note(&Roster { number: 6, members: vec!["a".into()], ..state.roster() });
        assert_eq!((state.view, state.members.len()), (7, 2), "never back");
        file.save(&state).expect("save");
        assert!(StateFile::open(folder.path(), "c").is_err(), "a second proxy is refused");
        drop(file);
        let file = StateFile::open(folder.path(), "c").expect("open again");
        assert_eq!(file.load().expect("load"), Some(state));
        for bad in ["", "{", r#"{"version":1,"cluster":"","view":1,"members":[],"held":[]}"#] {
            fs::write(folder.path().join("c.state.json"), bad).expect("write");
            assert!(file.load().is_err(), "{bad:?}");
        }
    }
}
