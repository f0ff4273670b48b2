//! Servers of which make: what differs between them in the demo, side by side.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::server::Server;
use super::site::{Site, in_path, run_quietly};
use super::{DemoError, Result, maria, pg};

/// How long a server may take to end.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// The make of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    MariaDb,
}

impl Make {
    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::MariaDb => "MariaDB",
        }
    }

    /// How URLs of such servers begin.
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::MariaDb => "mysql",
        }
    }

    /// The administrator.
    pub(super) fn admin(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "root",
        }
    }

    /// The user that the package has made for the servers.
    pub(super) fn user(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mysql",
        }
    }

    /// The port that people know from the documentation.
    pub(super) fn proxy_port(self) -> u16 {
        match self {
            Self::Postgres => 6432,
            Self::MariaDb => 6433,
        }
    }

    /// What asks the server to end soon.
    pub(super) fn end_signal(self) -> &'static str {
        match self {
            Self::Postgres => "INT",
            Self::MariaDb => "TERM",
        }
    }

    fn pid_file(self) -> &'static str {
        match self {
            Self::Postgres => "postmaster.pid",
            Self::MariaDb => "pid",
        }
    }

    /// The programs that are needed, wherever they are.
    pub(super) async fn find_programs(
        self,
        told: Option<&Path>,
    ) -> Result<BTreeMap<&'static str, PathBuf>> {
        let (programs, places) = match self {
            Self::Postgres => (pg::PROGRAMS, pg::places().await),
            Self::MariaDb => (maria::PROGRAMS, Vec::new()),
        };
        let places = told.map_or(places, |told| vec![told.to_owned()]);
        // All of a version's programs are in one folder, or on PATH and where the system's are.
        let complete =
            |place: &&PathBuf| programs.iter().all(|program| place.join(program).is_file());
        let folder = places.iter().find(complete);
        let path = |program: &'static str| match folder {
            Some(folder) => Some((program, folder.join(program))),
            None if told.is_some() => None,
            None => {
                let system = || Path::new("/usr/sbin").join(program);
                let found = in_path(program).or_else(|| Some(system()).filter(|p| p.is_file()));
                found.map(|found| (program, found))
            }
        };
        let found: Option<BTreeMap<_, _>> = programs.iter().map(|program| path(program)).collect();
        found.ok_or_else(|| {
            DemoError::new(format!(
                "{}'s programs ({}) are not found: `make setup` installs them on Debian and Ubuntu; \
                 or name their folder with --bin",
                self.name(),
                programs.join(", ")
            ))
        })
    }

    /// Makes an empty server.
    pub(super) async fn initialise(self, site: &Site, name: &str, data_dir: &Path) -> Result<()> {
        match self {
            Self::Postgres => pg::initialise(site, name, data_dir).await,
            Self::MariaDb => maria::initialise(site, name, data_dir).await,
        }
    }

    /// Writes its settings.
    pub(super) fn configure(self, site: &Site, data_dir: &Path, port: u16) -> io::Result<()> {
        match self {
            Self::Postgres => pg::configure(data_dir, port),
            Self::MariaDb => maria::configure(site, data_dir, port),
        }
    }

    /// What starts it.
    pub(super) fn server(self, site: &Site, data_dir: &Path) -> Command {
        match self {
            Self::Postgres => {
                let mut command = site.program("postgres");
                command.arg("-D").arg(data_dir);
                command
            }
            Self::MariaDb => {
                let mut command = site.program("mariadbd");
                command.args(maria::arguments(data_dir));
                command
            }
        }
    }

    /// The command with which a user starts it again.
    pub(super) fn restart(self, site: &Site, data_dir: &Path, log: &Path) -> String {
        let (by_hand, data, log) = (site.by_hand(), data_dir.display(), log.display());
        match self {
            Self::Postgres => {
                let pg_ctl = site.path("pg_ctl");
                format!("{by_hand}{} -D {data} -l {log} -w start", pg_ctl.display())
            }
            Self::MariaDb => {
                let server = site.path("mariadbd");
                let arguments = maria::arguments(data_dir).join(" ");
                format!("setsid {by_hand}{} {arguments} >>{log} 2>&1 &", server.display())
            }
        }
    }

    /// Whether the server takes connections.
    pub(super) async fn answers(self, site: &Site, server: &Server) -> bool {
        match self {
            Self::Postgres => pg::answers(site, server).await,
            Self::MariaDb => maria::connect(site, server).await.is_ok(),
        }
    }

    /// Gives it something to show.
    pub(super) async fn fill(self, site: &Site, server: &Server) -> Result<()> {
        match self {
            Self::Postgres => pg::fill(site, server).await,
            Self::MariaDb => maria::fill(site, server).await,
        }
    }

    /// Ends what still runs in the data folder, also a server that the user started again by hand. A
    /// stopped process must be woken to hear that it shall end.
    pub(super) async fn stop(self, data_dir: &Path) {
        let Some(pid) = self.running_pid(data_dir) else { return };
        let signal = async |name: &str| {
            run_quietly(Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}"))).await
        };
        signal("CONT").await;
        signal(self.end_signal()).await;
        let gone = async {
            while Path::new("/proc").join(pid.to_string()).exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(STOPS_WITHIN, gone).await.is_err() {
            signal("KILL").await;
        }
    }

    /// Whoever runs in the data folder now, which after a restart by hand is not our child.
    fn running_pid(self, data_dir: &Path) -> Option<u32> {
        let text = fs::read_to_string(data_dir.join(self.pid_file())).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// How a user runs a statement, or connects.
    pub(super) fn client(self, to: &Place<'_>, statement: Option<&str>) -> String {
        let Place { user, password, port, database } = to;
        match self {
            Self::Postgres => {
                let url = to.url(self);
                let run = statement.map(|sql| format!(" -c \"{sql}\"")).unwrap_or_default();
                format!("psql \"{url}\"{run}")
            }
            Self::MariaDb => {
                let run = statement.map(|sql| format!(" -e \"{sql}\"")).unwrap_or_default();
                format!("mariadb -h127.0.0.1 -P{port} -u{user} -p{password} {database}{run}")
            }
        }
    }
}

/// Where a client goes, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    pub user: &'a str,
    pub password: &'a str,
    pub port: u16,
    pub database: &'a str,
}

impl Place<'_> {
    /// The same as a URL.
    pub(super) fn url(&self, make: Make) -> String {
        let Self { user, password, port, database } = self;
        format!("{}://{user}:{password}@127.0.0.1:{port}/{database}", make.scheme())
    }
}
