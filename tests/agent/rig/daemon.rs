//! A process that runs on in a namespace: a proxy, a witness.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;

use super::Environment;

/// A program of ours, started as often as is wanted.
pub(super) struct Daemon {
    space: String,
    words: Vec<String>,
    log: PathBuf,
    environment: Environment,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    /// `lockstep` with these words, in that namespace; nothing runs yet.
    pub(super) fn new(space: String, words: &[&str], log: PathBuf) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { space, words, log, environment: Environment::new(), child: Mutex::new(None) }
    }

    /// With these variables.
    pub(super) fn with(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Starts it, if it does not run.
    pub(super) fn start(&self) {
        let mut child = self.child.lock().unwrap();
        if child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none()) {
            return;
        }
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space, "env"]).args(&self.environment);
        command.arg(super::lockstep());
        *child = Some(command.args(&self.words).stderr(log).spawn().unwrap());
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it runs").id()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
