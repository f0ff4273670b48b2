//! One server in the demo's folder.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Child;

use super::site::Site;
use super::{DemoError, Result};

/// What the servers are called, in the order of their start.
pub(super) const NAMES: [&str; 9] =
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// One running server.
#[derive(Debug)]
pub(super) struct Server {
    pub name: &'static str,
    pub port: u16,
    pub data_dir: PathBuf,
    pub pid: u32,
    /// The command that starts it again after it was killed.
    pub restart: String,
    child: Child,
}

impl Server {
    /// Makes an empty server and starts it.
    pub(super) async fn start(site: &Site, name: &'static str, port: u16) -> Result<Self> {
        let data_dir = site.dir.join(name);
        let log = site.dir.join(format!("{name}.log"));
        let files = || {
            fs::create_dir(&data_dir)?;
            fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o700))?;
            site.give(&data_dir)?;
            let opened = fs::OpenOptions::new().create(true).append(true).open(&log)?;
            site.give(&log)?;
            Ok(opened)
        };
        let cannot = |error: io::Error| DemoError::new(format!("server {name}: {error}"));
        let output = files().map_err(cannot)?;
        site.make.initialise(site, name, &data_dir).await?;
        site.make.configure(site, &data_dir, port).map_err(cannot)?;
        let mut command = site.make.server(site, &data_dir);
        command.stdin(Stdio::null()).kill_on_drop(true);
        // Ctrl-C in a terminal goes to the whole group; the servers must outlive the proxy.
        command.process_group(0).current_dir("/");
        command.stdout(output.try_clone().map_err(cannot)?).stderr(output);
        let child = command.spawn().map_err(cannot)?;
        let pid = child.id().unwrap_or_default();
        let restart = site.make.restart(site, &data_dir, &log);
        let mut server = Self { name, port, data_dir, pid, restart, child };
        server.wait_until_it_answers(site, &log).await?;
        Ok(server)
    }

    /// Kills it, if it still runs.
    pub(super) async fn kill(&mut self) {
        // One that has ended already needs no killing, and nothing else can go wrong.
        let _ = self.child.kill().await;
    }

    /// Waits for its end, and says how to start it again.
    pub(super) async fn ended(&mut self) -> String {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        format!(
            "server {} (pid {}) ended: {how}. To start it again:\n  {}",
            self.name, self.pid, self.restart
        )
    }

    async fn wait_until_it_answers(&mut self, site: &Site, log: &Path) -> Result<()> {
        let deadline = tokio::time::Instant::now() + STARTS_WITHIN;
        loop {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || tokio::time::Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                let name = self.name;
                return Err(DemoError::new(format!("server {name} did not start:\n{said}")));
            }
            if site.make.answers(site, self).await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
