//! This machine: the agent's folder and locks, what may be left of an earlier run, how everything is
//! ended from outside, the kernel's watchdog.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::guard::{self, Ending};
use super::{stage, state, vip};
use crate::config::agent::{AgentConfig, Resource, ServiceKind, Settings, VipWay, Watchdog};
use crate::hex;

/// How long a former agent's guard may take to end what it guarded.
const GUARD_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn prepare(state_dir: &Path) -> Result<PathBuf, String> {
    let explain = |error| format!("state_dir {}: {error}", state_dir.display());
    std::fs::create_dir_all(state_dir).map_err(explain)?;
    std::fs::canonicalize(state_dir).map_err(explain)
}

/// One agent for each folder: two would both think that nothing of an earlier run is left.
pub(super) fn only_one(state_dir: &Path) -> Result<File, String> {
    let path = state_dir.join("agent.lock");
    let explain = |error: std::io::Error| format!("{}: {error}", path.display());
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(explain)?;
    file.try_lock().map_err(|_| {
        format!("another agent runs with state_dir {}: stop that one first", state_dir.display())
    })?;
    Ok(file)
}

pub(super) async fn former_guard_has_ended(state_dir: &Path) -> Result<(), String> {
    let lock = guard::lock_file(state_dir)?;
    let waiting = tokio::task::spawn_blocking(move || lock.lock());
    match tokio::time::timeout(GUARD_PATIENCE, waiting).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(format!("the guard's lock: {error}")),
        Ok(Err(error)) => Err(format!("the guard's lock: {error}")),
        Err(_) => Err(format!(
            "an earlier agent's guard still tries to end what ran ({GUARD_PATIENCE:?}): look for \
             processes that survive SIGKILL"
        )),
    }
}

/// Names the processes of a resource of this agent.
pub(super) fn cookie(state_dir: &Path, resource: &str) -> String {
    format!("{}#{resource}", state_dir.display())
}

/// How a resource is ended from outside.
#[must_use]
pub fn ending(state_dir: &Path, resource: &Resource) -> Ending {
    let mut programs: Vec<Vec<String>> =
        resource.services.iter().rev().flat_map(stage::service::ending_words).collect();
    let mut places = Vec::new();
    for vip in &resource.vips {
        match &vip.way {
            VipWay::Interface { name, .. } => {
                match vip::place(vip.address, vip.prefix, name.as_deref()) {
                    Ok(place) => places.push(place),
                    // It may be there later; until then there is nothing to take away.
                    Err(why) => tracing::warn!(resource = resource.name, why, "no place yet"),
                }
            }
            VipWay::Program(program) => {
                let mut words = program.words.clone();
                words.extend(["del".into(), format!("{}/{}", vip.address, vip.prefix)]);
                programs.push(words);
            }
        }
    }
    let cookie = cookie(state_dir, &resource.name);
    Ending { resource: resource.name.clone(), cookie, programs, places }
}

/// Ends everything that this machine may run, now: for when the agent itself is gone.
///
/// # Errors
/// If something survives.
pub fn end_everything(config: &AgentConfig) -> Result<(), String> {
    let state_dir = prepare(&config.agent.state_dir)?;
    let mut outcome = Ok(());
    for resource in &config.resources {
        if !state::may_be_running(&state_dir, &resource.name) {
            continue;
        }
        // The service manager says how the agent ended.
        let in_order = std::env::var("SERVICE_RESULT").is_ok_and(|result| result == "success");
        if in_order && state::left(&state_dir, &resource.name).is_some() {
            continue;
        }
        if guard::put_down(&ending(&state_dir, resource), &[]) {
            state::unmark_running(&state_dir, &resource.name)?;
            state::forget_left(&state_dir, &resource.name)?;
        } else {
            outcome = Err(format!("{}: processes survive", resource.name));
        }
    }
    outcome
}

/// Units that the agent starts must not be started by the machine itself.
#[must_use]
pub fn warn_of_units(config: &AgentConfig) -> Vec<String> {
    let services = config.resources.iter().flat_map(|resource| &resource.services);
    let units = services.filter_map(|service| match &service.kind {
        ServiceKind::Systemd { unit } => Some(unit),
        _ => None,
    });
    let is_enabled = |unit: &&String| {
        let asked = std::process::Command::new("systemctl").args(["is-enabled", unit]).output();
        asked.is_ok_and(|output| output.stdout.starts_with(b"enabled"))
    };
    units
        .filter(is_enabled)
        .map(|unit| {
            format!(
                "warning  {unit} is enabled: it would start on every node at boot\n         \
                 remedy: systemctl disable {unit}"
            )
        })
        .collect()
}

pub(super) fn watchdog(settings: &Settings) -> Result<Option<PathBuf>, String> {
    let (path, required) = match &settings.watchdog {
        Watchdog::Off => return Ok(None),
        Watchdog::Auto(path) => (path, false),
        Watchdog::Required(path) => (path, true),
    };
    if !path.exists() {
        return if required {
            Err(format!(
                "{} is not there: load a driver (modprobe softdog), or write `watchdog = \"auto\"`",
                path.display()
            ))
        } else {
            Ok(None)
        };
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = if name == "watchdog" { "watchdog0" } else { name };
    let class = Path::new("/sys/class/watchdog").join(name);
    let most = (settings.ttl - settings.renew).as_secs();
    if let Err(why) = shorten(path, &class, "wdctl", most) {
        let what = format!(
            "the watchdog {} bites later than another node may take over: {why}: set at most {most} s \
             by the driver's parameter",
            path.display()
        );
        if required {
            return Err(what);
        }
        tracing::warn!("{what}");
    }
    Ok(Some(path.clone()))
}

/// Has the kernel's watchdog bite after at most so many seconds; `class` is where the kernel shows it, and
/// `wdctl` the program of util-linux that sets its timeout.
fn shorten(device: &Path, class: &Path, wdctl: &str, most: u64) -> Result<(), String> {
    let shown = |what: &str| {
        let text = std::fs::read_to_string(class.join(what)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let too_long = || shown("timeout").filter(|seconds| *seconds > most);
    let Some(before) = too_long() else { return Ok(()) };
    if shown("nowayout") == Some(1) {
        // Whoever opens it, and be it to ask for another timeout, has to feed it for ever.
        return Err(format!("after {before} s, and what has opened it cannot close it (nowayout)"));
    }
    let set = std::process::Command::new(wdctl)
        .args(["--settimeout", &most.to_string()])
        .arg(device)
        .stdin(std::process::Stdio::null())
        .output();
    let said = match &set {
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    match too_long() {
        None => {
            tracing::info!(device = %device.display(), before, now = most, "the watchdog's timeout");
            Ok(())
        }
        Some(seconds) => Err(format!("after {seconds} s ({wdctl} --settimeout: {said})")),
    }
}

/// The machine's own identity, and the folder: two agents on one machine are two machines.
pub(super) fn machine(state_dir: &Path) -> String {
    use sha2::{Digest, Sha256};
    let id = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(id.trim().as_bytes());
    hash.update(state_dir.as_os_str().as_encoded_bytes());
    hex::encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_watchdog_that_bites_too_late_is_told_to_bite_sooner() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("written");
        let read = |name: &str| std::fs::read_to_string(at(name)).unwrap_or_default();
        // A program that does to the folder what the real one does to the kernel.
        let program = "#!/bin/sh\necho \"$@\" >> \"${0%/*}/asked\"\n\
                       [ -e \"${0%/*}/deaf\" ] || echo $2 > \"${0%/*}/timeout\"\n";
        write("wdctl", program);
        std::fs::set_permissions(at("wdctl"), PermissionsExt::from_mode(0o755)).expect("a program");
        let set = || {
            let wdctl = at("wdctl").display().to_string();
            shorten(Path::new("/dev/dog"), folder.path(), &wdctl, 8)
        };
        write("timeout", "8\n");
        assert_eq!((set(), read("asked").as_str()), (Ok(()), ""), "short enough");
        write("timeout", "60\n");
        assert_eq!(set(), Ok(()));
        assert_eq!(
            (read("timeout").trim(), read("asked").trim()),
            ("8", "--settimeout 8 /dev/dog")
        );
        write("timeout", "60\n");
        write("deaf", "");
        assert!(set().is_err_and(|why| why.starts_with("after 60 s")));
        // One that cannot be closed is not even asked: it would bite a node that stands by.
        write("nowayout", "1\n");
        write("asked", "");
        assert!(set().is_err_and(|why| why.contains("nowayout")));
        assert_eq!(read("asked"), "");
    }
}
