//! The demo's folder, the programs it uses, and whose processes they are.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rand::distr::{Alphanumeric, SampleString};
use tokio::process::Command;

use super::make::Make;
use super::server::Server;
use super::{DemoError, Result};

/// A socket's path must fit into 107 bytes, the name of the socket included.
pub(super) const LONGEST_SOCKET_FOLDER: usize = 85;

/// The demo's folder and the programs it uses.
#[derive(Debug)]
pub(super) struct Site {
    pub dir: PathBuf,
    pub admin_password: String,
    pub make: Make,
    programs: BTreeMap<&'static str, PathBuf>,
    owner: Owner,
    /// A folder that the user named is left for them to look at.
    keep: bool,
}

/// Servers refuse to run as root; then they run as the user their package made.
#[derive(Debug)]
enum Owner {
    Ourselves,
    Package { name: &'static str, uid: u32, gid: u32 },
}

impl Site {
    pub(super) async fn open(make: Make, dir: Option<&Path>, bin: Option<&Path>) -> Result<Self> {
        let programs = make.find_programs(bin).await?;
        let owner = Owner::find(make.user()).await?;
        let temporary =
            || std::env::temp_dir().join(format!("lockstep-demo-{}", std::process::id()));
        let wanted = dir.map_or_else(temporary, Path::to_owned);
        let cannot = |error: io::Error| {
            DemoError::new(format!("the folder {} cannot be used: {error}", wanted.display()))
        };
        fs::create_dir_all(&wanted).map_err(cannot)?;
        let dir = wanted.canonicalize().map_err(cannot)?;
        if fs::read_dir(&dir).map_err(cannot)?.next().is_some() {
            let dir = dir.display();
            return Err(DemoError::new(format!("{dir} is not empty: name another --dir")));
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).map_err(cannot)?;
        fs::create_dir(dir.join("state")).map_err(cannot)?;
        let admin_password = Alphanumeric.sample_string(&mut rand::rng(), 24);
        Ok(Self {
            dir,
            admin_password,
            make,
            programs,
            owner,
            keep: wanted_by_user(&wanted, &temporary()),
        })
    }

    /// Stops what still runs in the folder, also a server that the user started again by hand:
    /// its data are about to go. A stopped process must be woken to hear that it shall end.
    pub(super) async fn close(self, servers: Vec<Server>) {
        let stops = servers.into_iter().map(|mut server| {
            let site = &self;
            async move {
                site.make.stop(&server.data_dir).await;
                server.kill().await;
            }
        });
        futures_util::future::join_all(stops).await;
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            eprintln!("{} is left behind: {error}", self.dir.display());
        }
    }

    /// Writes a file that only its owner may read.
    pub(super) fn write_private(&self, path: &Path, text: &str) -> Result<()> {
        let write = || {
            fs::write(path, "")?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            fs::write(path, text)
        };
        write().map_err(|error| DemoError::new(format!("{}: {error}", path.display())))
    }

    /// One of the servers' programs, as the user that may run it. It ends with the demo even if the
    /// demo is killed outright, where the system can do that.
    pub(super) fn program(&self, name: &str) -> Command {
        let path = self.path(name);
        let mut command = match (&self.owner, in_path("setpriv")) {
            (Owner::Ourselves, None) => return Command::new(path),
            (Owner::Package { name, .. }, None) => {
                let mut command = Command::new("runuser");
                command.args(["-u", name, "--"]);
                command
            }
            (owner, Some(setpriv)) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", self.make.end_signal()]);
                if let Owner::Package { name, .. } = owner {
                    command.args(["--reuid", name, "--regid", name, "--init-groups"]);
                }
                command.arg("--");
                command
            }
        };
        command.arg(path);
        command
    }

    /// Where a program is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.programs.get(name).map_or_else(|| name.into(), Clone::clone)
    }

    /// What stands in front of a command that a user is to run by hand.
    pub(super) fn by_hand(&self) -> String {
        match self.owner {
            Owner::Ourselves => String::new(),
            Owner::Package { name, .. } => format!("runuser -u {name} -- "),
        }
    }

    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Owner::Ourselves => Ok(()),
            Owner::Package { uid, gid, .. } => chown(path, Some(uid), Some(gid)),
        }
    }
}

impl Owner {
    async fn find(name: &'static str) -> Result<Self> {
        if id(&["-u"]).await != Some(0) {
            return Ok(Self::Ourselves);
        }
        match (id(&["-u", name]).await, id(&["-g", name]).await) {
            (Some(uid), Some(gid)) => Ok(Self::Package { name, uid, gid }),
            _ => Err(DemoError::new(format!(
                "the servers do not run as root, and there is no user `{name}` to run them as: \
                 start the demo as another user"
            ))),
        }
    }
}

async fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().await.ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

pub(super) async fn run_quietly(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command.status().await.is_ok_and(|status| status.success())
}

fn wanted_by_user(wanted: &Path, temporary: &Path) -> bool {
    wanted != temporary
}
