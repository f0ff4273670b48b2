//! The demo's folder, and one PostgreSQL server in it.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString};
use tokio::process::{Child, Command};

use super::{DemoError, Result};

/// What the servers are called, in the order of their start.
pub(super) const NAMES: [&str; 9] =
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// A socket's path must fit into 107 bytes, the name of the socket included.
const LONGEST_SOCKET_FOLDER: usize = 85;
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const STOPS_WITHIN: &str = "10";

/// The demo's folder and the programs it uses.
#[derive(Debug)]
pub(super) struct Site {
    pub dir: PathBuf,
    pub admin_password: String,
    bin: PathBuf,
    owner: Owner,
    /// A folder that the user named is left for them to look at.
    keep: bool,
}

/// PostgreSQL refuses to run as root; then its servers run as the user its package made.
#[derive(Debug)]
enum Owner {
    Ourselves,
    Postgres { uid: u32, gid: u32 },
}

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

impl Site {
    pub(super) async fn open(dir: Option<&Path>, pg_bin: Option<&Path>) -> Result<Self> {
        let bin = find_binaries(pg_bin).await?;
        let owner = Owner::find().await?;
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
        Ok(Self { dir, admin_password, bin, owner, keep: wanted_by_user(&wanted, &temporary()) })
    }

    /// Stops what still runs in the folder, also a server that the user started again by hand:
    /// its data are about to go. A stopped process must be woken to hear that it shall end.
    pub(super) async fn close(self, servers: Vec<Server>) {
        let stops = servers.into_iter().map(|mut server| {
            let site = &self;
            async move {
                if let Some(pid) = running_pid(&server.data_dir) {
                    run_quietly(Command::new("sh").arg("-c").arg(format!("kill -CONT {pid}")))
                        .await;
                    for mode in ["fast", "immediate"] {
                        let mut stop = site.program("pg_ctl");
                        stop.args(["stop", "-w", "-t", STOPS_WITHIN, "-m", mode, "-D"]);
                        if run_quietly(stop.arg(&server.data_dir)).await {
                            break;
                        }
                    }
                }
                let _ = server.child.kill().await;
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

    /// One of PostgreSQL's programs, as the user that may run it. It ends with the demo even if
    /// the demo is killed outright, where the system can do that.
    fn program(&self, name: &str) -> Command {
        let path = self.bin.join(name);
        let mut command = match (&self.owner, in_path("setpriv")) {
            (Owner::Ourselves, None) => return Command::new(path),
            (Owner::Postgres { .. }, None) => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--"]);
                command
            }
            (owner, Some(setpriv)) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "INT"]);
                if let Owner::Postgres { .. } = owner {
                    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
                }
                command.arg("--");
                command
            }
        };
        command.arg(path);
        command
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Owner::Ourselves => Ok(()),
            Owner::Postgres { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }
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
        initialise(site, name, &data_dir).await?;
        configure(&data_dir, port).map_err(cannot)?;
        let mut command = site.program("postgres");
        command.arg("-D").arg(&data_dir).stdin(Stdio::null()).kill_on_drop(true);
        // Ctrl-C in a terminal goes to the whole group; the servers must outlive the proxy.
        command.process_group(0).current_dir("/");
        command.stdout(output.try_clone().map_err(cannot)?).stderr(output);
        let child = command.spawn().map_err(cannot)?;
        let pid = child.id().unwrap_or_default();
        let restart = restart_command(site, &data_dir, &log);
        let mut server = Self { name, port, data_dir, pid, restart, child };
        server.wait_until_it_answers(site, &log).await?;
        Ok(server)
    }

    /// How to connect as the superuser.
    pub(super) fn admin(&self, site: &Site, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).dbname(database);
        config.user("postgres").password(&site.admin_password);
        config
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
        let config = self.admin(site, "postgres");
        loop {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || tokio::time::Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                let name = self.name;
                return Err(DemoError::new(format!("server {name} did not start:\n{said}")));
            }
            if let Ok((_client, _connection)) = config.connect(tokio_postgres::NoTls).await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Owner {
    async fn find() -> Result<Self> {
        if id(&["-u"]).await != Some(0) {
            return Ok(Self::Ourselves);
        }
        match (id(&["-u", "postgres"]).await, id(&["-g", "postgres"]).await) {
            (Some(uid), Some(gid)) => Ok(Self::Postgres { uid, gid }),
            _ => Err(DemoError::new(
                "PostgreSQL does not run as root, and there is no user `postgres` to run it as: \
                 start the demo as another user",
            )),
        }
    }
}

async fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().await.ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Flushes are left out here only: there is nothing in the folder yet that could be lost.
async fn initialise(site: &Site, name: &str, data_dir: &Path) -> Result<()> {
    let password = site.dir.join(format!("{name}.password"));
    site.write_private(&password, &site.admin_password)?;
    site.give(&password).map_err(|error| DemoError::new(format!("server {name}: {error}")))?;
    let mut command = site.program("initdb");
    command.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8"]);
    command.args(["--locale=C", "--no-sync", "--no-instructions"]);
    command.arg("--pwfile").arg(&password).arg("-D").arg(data_dir);
    command.stdin(Stdio::null()).current_dir("/").kill_on_drop(true);
    let output = command.output().await;
    let _ = fs::remove_file(&password);
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(DemoError::new(format!("initdb failed for server {name}:\n{said}")))
        }
        Err(error) => Err(DemoError::new(format!("initdb cannot be run: {error}"))),
    }
}

/// In the server's own file, so that `pg_ctl start` by hand finds the same settings.
fn configure(data_dir: &Path, port: u16) -> io::Result<()> {
    use std::io::Write as _;
    let folder = data_dir.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
    let fits = folder.len() <= LONGEST_SOCKET_FOLDER && !folder.contains(['\'', ',']);
    // The server must be able to write where its socket goes: its own data folder.
    let sockets = if fits { data_dir.display().to_string() } else { String::new() };
    let settings = format!(
        "\n# lockstep demo\nlisten_addresses = '127.0.0.1'\nport = {port}\n\
         unix_socket_directories = '{sockets}'\nmax_connections = 200\n\
         shared_buffers = 32MB\nfsync = on\nsynchronous_commit = on\n"
    );
    let path = data_dir.join("postgresql.conf");
    fs::OpenOptions::new().append(true).open(path)?.write_all(settings.as_bytes())
}

fn restart_command(site: &Site, data_dir: &Path, log: &Path) -> String {
    let user = match site.owner {
        Owner::Ourselves => "",
        Owner::Postgres { .. } => "runuser -u postgres -- ",
    };
    let pg_ctl = site.bin.join("pg_ctl");
    format!("{user}{} -D {} -l {} -w start", pg_ctl.display(), data_dir.display(), log.display())
}

/// The first folder that has the programs: as told, on PATH, as `pg_config` says, or where
/// packages put them, the newest version first.
async fn find_binaries(told: Option<&Path>) -> Result<PathBuf> {
    let mut places: Vec<PathBuf> = told.map(Path::to_owned).into_iter().collect();
    if told.is_none() {
        places.extend(in_path("initdb").and_then(|path| path.parent().map(Path::to_owned)));
        if let Ok(output) = Command::new("pg_config").arg("--bindir").output().await {
            places.push(String::from_utf8_lossy(&output.stdout).trim().into());
        }
        places.extend(packaged());
    }
    let complete = |place: &PathBuf| {
        ["initdb", "postgres", "pg_ctl"].iter().all(|program| place.join(program).is_file())
    };
    places.into_iter().find(complete).ok_or_else(|| {
        DemoError::new(
            "PostgreSQL's programs (initdb, postgres, pg_ctl) are not found: `make setup` installs \
             them on Debian and Ubuntu; or name their folder with --pg-bin",
        )
    })
}

fn packaged() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (root, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(Ok(version)) = name.strip_prefix(prefix).map(str::parse) {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Whoever runs in the data folder now, which after a restart by hand is not our child.
fn running_pid(data_dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

async fn run_quietly(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command.status().await.is_ok_and(|status| status.success())
}

fn wanted_by_user(wanted: &Path, temporary: &Path) -> bool {
    wanted != temporary
}
