//! One service: how each kind is started, watched, stopped and killed.

use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::Death;
use crate::agent::tree::{self, COOKIE, Root};
use crate::agent::{cgroup, program};
use crate::config::agent::{Service, ServiceKind};

/// Between two looks at whether something is up, or gone.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Running {
    pub(super) index: usize,
    pub(super) service: Service,
    cookie: String,
    roots: Vec<Root>,
    /// What went wrong with its last stop by a program.
    stop_failed: Option<String>,
}

impl Running {
    pub(super) fn new(index: usize, service: Service, cookie: String) -> Self {
        Self {
            index,
            service,
            cookie,
            roots: Vec::new(),
            stop_failed: Some("not asked yet".into()),
        }
    }

    /// Whether it is the process of that number.
    pub(super) fn is(&self, pid: u32) -> bool {
        self.roots.iter().any(|root| root.pid == pid)
    }

    /// What is left of it when the agent ends without stopping it.
    pub(super) fn left(&self) -> (String, Option<Root>) {
        (self.service.name.clone(), self.roots.last().copied())
    }

    /// Goes on with what an agent before this one has started; whether it is there to be gone on with.
    pub(super) fn adopt(&mut self, root: Option<Root>, deaths: &mpsc::Sender<Death>) -> bool {
        if !matches!(self.service.kind, ServiceKind::Exec { .. }) {
            return true;
        }
        let Some(root) = root.filter(Root::lives) else { return false };
        self.roots.push(root);
        let (deaths, service) = (deaths.clone(), self.index);
        // Its parent has gone, and only a parent is told. Ends with the process.
        tokio::spawn(async move {
            while root.lives() {
                tokio::time::sleep(LOOK).await;
            }
            let how = "ended by itself".to_owned();
            let _ = deaths.send(Death { service, pid: root.pid, how }).await;
        });
        true
    }

    /// Starts the process of a service that is one.
    pub(super) fn spawn(
        &mut self,
        environment: &[(String, String)],
        deaths: &mpsc::Sender<Death>,
    ) -> Result<Option<Root>, String> {
        let ServiceKind::Exec { command, .. } = &self.service.kind else { return Ok(None) };
        let unusable = |error: std::io::Error| format!("{} cannot be started: {error}", command[0]);
        let words = match cgroup::make(&self.cookie) {
            Some(group) => {
                // Who enters the group first cannot say so any more.
                program::find(&command[0]).map_err(unusable)?;
                cgroup::words_in(&group, command)
            }
            None => command.clone(),
        };
        let mut process = Command::new(&words[0]);
        process
            .args(&words[1..])
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .env(COOKIE, &self.cookie)
            .process_group(0)
            .stdin(Stdio::null());
        let mut child = process.spawn().map_err(unusable)?;
        let pid = child.id().unwrap_or_default();
        let root = Root::of(pid);
        self.roots.extend(root);
        let (deaths, service) = (deaths.clone(), self.index);
        // Ends with the process.
        tokio::spawn(async move {
            let how = match child.wait().await {
                Ok(status) => format!("ended by itself: {status}"),
                Err(error) => format!("cannot be waited for: {error}"),
            };
            let _ = deaths.send(Death { service, pid, how }).await;
        });
        Ok(root)
    }

    /// Starts what is not a process of ours, and waits until the service is up.
    pub(super) async fn wait_until_up(
        &mut self,
        environment: &[(String, String)],
        adopted: bool,
    ) -> Result<(), String> {
        let timeout = self.service.start_timeout;
        match &self.service.kind {
            ServiceKind::Exec { .. } => {}
            // A script's work is not done twice; a unit knows by itself whether it runs.
            ServiceKind::Script { .. } if adopted => {}
            ServiceKind::Systemd { unit } => {
                let words = systemctl("start", unit);
                program::run(&words, &[], timeout).await?.success()?;
            }
            ServiceKind::Script { start, .. } => {
                program::run(start, environment, timeout).await?.success()?;
            }
        }
        let Some(address) = self.service.ready.clone() else { return Ok(()) };
        let answers = async {
            while TcpStream::connect(&address).await.is_err() {
                if self.roots.iter().any(|root| Root::of(root.pid) != Some(*root)) {
                    return Err("its process ended".to_owned());
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        tokio::time::timeout(timeout, answers)
            .await
            .map_err(|_| format!("{address} takes no connection after {timeout:?}"))?
    }

    /// Asks it to stop, and waits until it has.
    pub(super) async fn stop(&mut self, environment: &[(String, String)]) {
        let timeout = self.service.stop_timeout;
        let asked = match &self.service.kind {
            ServiceKind::Exec { stop: None, .. } => {
                tree::terminate(&self.cookie, &self.roots);
                Ok(String::new())
            }
            ServiceKind::Exec { stop: Some(words), .. }
            | ServiceKind::Script { stop: words, .. } => {
                let ended = program::run(words, environment, timeout).await;
                ended.and_then(program::Ended::success)
            }
            ServiceKind::Systemd { unit } => {
                let ended = program::run(&systemctl("stop", unit), &[], timeout).await;
                ended.and_then(program::Ended::success)
            }
        };
        if let Err(why) = &asked {
            tracing::warn!(service = self.service.name, why, "its stop went wrong");
        }
        self.stop_failed = asked.err();
        if matches!(self.service.kind, ServiceKind::Exec { .. }) {
            while !tree::members(&self.cookie, &self.roots).is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Kills it, and what belongs to it; what is left, in words. What cannot be killed, such as a mount,
    /// is asked again: nobody else may have it while it is here.
    pub(super) async fn kill(
        &mut self,
        environment: &[(String, String)],
        patience: Duration,
    ) -> Option<String> {
        match &self.service.kind {
            ServiceKind::Systemd { unit } => kill_unit(unit, patience).await,
            ServiceKind::Script { .. } => {
                if self.stop_failed.is_some() {
                    self.stop(environment).await;
                }
                let why = self.stop_failed.as_ref()?;
                tokio::time::sleep(patience / 2).await;
                Some(format!("its stop fails: {why}"))
            }
            ServiceKind::Exec { .. } => {
                let (cookie, roots) = (self.cookie.clone(), self.roots.clone());
                let killing = move || tree::kill(&cookie, &roots, patience);
                let left = tokio::task::spawn_blocking(killing).await.unwrap_or_default();
                (!left.is_empty()).then(|| format!("processes survive SIGKILL: {left:?}"))
            }
        }
    }
}

/// Ends a unit by its cgroup, if it is not at its end.
async fn kill_unit(unit: &str, patience: Duration) -> Option<String> {
    let words = |list: &[&str]| {
        std::iter::once("systemctl")
            .chain(list.iter().copied())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let ask = words(&["show", "--property=ActiveState", "--value", unit]);
    let state = || async {
        match program::run(&ask, &[], patience).await {
            Ok(ended) => ended.output,
            // Without systemd there are no units.
            Err(why) if why.contains("cannot be started") => "inactive".into(),
            Err(why) => why,
        }
    };
    let gone = |state: &str| ["inactive", "failed"].contains(&state);
    if gone(&state().await) {
        return None;
    }
    for order in [words(&["kill", "--signal=SIGKILL", unit]), systemctl("stop", unit)] {
        if let Err(why) = program::run(&order, &[], patience).await {
            tracing::warn!(unit, why, "cannot be killed");
        }
    }
    let state = state().await;
    (!gone(&state)).then(|| format!("unit {unit} is {state}"))
}

/// The words that end a service from outside, when there is no time to ask.
pub(in crate::agent) fn ending_words(service: &Service) -> Vec<Vec<String>> {
    match &service.kind {
        ServiceKind::Exec { .. } => Vec::new(),
        ServiceKind::Script { stop, .. } => vec![stop.clone()],
        ServiceKind::Systemd { unit } => {
            let mut kill = systemctl("kill", unit);
            kill.insert(2, "--signal=SIGKILL".into());
            vec![kill, systemctl("stop", unit)]
        }
    }
}

fn systemctl(what: &str, unit: &str) -> Vec<String> {
    ["systemctl", what, unit].map(str::to_owned).to_vec()
}
