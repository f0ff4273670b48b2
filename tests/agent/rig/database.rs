//! One real database server inside of the hub.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::{net, postgres_programs, run, unique, wait_until};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
}

pub(crate) struct Database {
    kind: Kind,
    space: String,
    address: &'static str,
    folder: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Database {
    pub(super) fn start(kind: Kind, net: &net::Net, world: &Path) -> Self {
        Self::in_folder(kind, net, "10.77.0.1", &world.join(format!("db{}", unique())))
    }

    /// Another server, under the hub's second address.
    pub(super) fn second(net: &net::Net, world: &Path) -> Self {
        let folder = world.join(format!("db{}", unique()));
        Self::in_folder(Kind::Postgres, net, "10.77.0.2", &folder)
    }

    fn in_folder(kind: Kind, net: &net::Net, address: &'static str, folder: &Path) -> Self {
        std::fs::create_dir(folder).unwrap();
        let server = Self {
            kind,
            space: net.space("hub"),
            address,
            folder: folder.to_owned(),
            child: Mutex::new(None),
        };
        match kind {
            Kind::Postgres => {
                run(Command::new("chown").arg("postgres").arg(folder));
                let mut init = Command::new("setpriv");
                init.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
                init.arg(postgres_programs().join("initdb")).current_dir("/tmp");
                init.args(["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N", "-D"]);
                run(init.arg(folder.join("data")));
                let hba = "local all all trust\nhost all all 10.77.0.0/24 trust\n";
                std::fs::write(folder.join("data/pg_hba.conf"), hba).unwrap();
            }
            Kind::MariaDb => {
                let mut install = Command::new("mariadb-install-db");
                install.args(["--no-defaults", "--user=root", "--skip-test-db"]);
                install.args(["--auth-root-authentication-method=normal", "--skip-name-resolve"]);
                install.arg("--innodb-log-file-size=8M");
                run(install.arg(format!("--datadir={}", folder.join("data").display())));
            }
        }
        server.up();
        server.prepare();
        server
    }

    fn prepare(&self) {
        match self.kind {
            Kind::Postgres => {
                self.ask("create table writes(id bigserial primary key, epoch bigint, node text)");
                self.ask("create role app login");
                self.ask("grant all on schema public to app");
                self.ask("grant all on writes, writes_id_seq to app");
            }
            Kind::MariaDb => {
                self.ask("create database postgres");
                self.ask("create user postgres@'%'; grant all on *.* to postgres@'%'");
                self.ask(
                    "create table postgres.writes(id bigint auto_increment primary key, \
                     epoch bigint, node text)",
                );
            }
        }
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn up(&self) {
        let data = self.folder.join("data");
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]);
        match self.kind {
            Kind::Postgres => {
                command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]);
                command.arg(postgres_programs().join("postgres")).arg("-D").arg(&data);
                for setting in [
                    &format!("listen_addresses={}", self.address),
                    &format!("unix_socket_directories={}", self.folder.display()),
                    "fsync=off",
                    "shared_buffers=16MB",
                ] {
                    command.args(["-c", setting]);
                }
            }
            Kind::MariaDb => {
                let program = Path::new("/usr/sbin/mariadbd");
                command.arg(if program.exists() { program } else { Path::new("mariadbd") });
                command.args(["--no-defaults", "--user=root", "--bind-address=10.77.0.1"]);
                command.args(["--skip-log-bin", "--innodb-buffer-pool-size=16M"]);
                command.args(["--innodb-log-file-size=8M", "--skip-name-resolve"]);
                command.arg(format!("--datadir={}", data.display()));
                command.arg(format!("--socket={}", self.folder.join("socket").display()));
                command.arg("--port=5432");
            }
        }
        let child = command.current_dir("/tmp").stdout(Stdio::null()).stderr(log).spawn().unwrap();
        *self.child.lock().unwrap() = Some(child);
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        wait_until(30, log, || self.try_ask("select 1").is_some());
    }

    /// Kills the server.
    pub(crate) fn down(&self) {
        let child = self.child.lock().unwrap().take();
        if let Some(mut child) = child {
            match self.kind {
                Kind::Postgres => {
                    let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
                }
                Kind::MariaDb => {
                    let _ = child.kill();
                }
            }
            let _ = child.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::Postgres => "postgresql://postgres@10.77.0.1:5432/postgres".into(),
            Kind::MariaDb => "mariadb://postgres@10.77.0.1:5432/postgres".into(),
        }
    }

    /// A client as the service uses it, from a node.
    pub(super) fn client_command(&self) -> String {
        match self.kind {
            Kind::Postgres => {
                "psql -q -h 10.77.0.1 -U postgres -d postgres -v ON_ERROR_STOP=0".into()
            }
            Kind::MariaDb => {
                "mariadb --no-defaults -u postgres -h 10.77.0.1 -P 5432 postgres".into()
            }
        }
    }

    /// Runs a statement as the administrator; what it answers.
    pub(crate) fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap_or_else(|| panic!("{sql}"))
    }

    fn try_ask(&self, sql: &str) -> Option<String> {
        let mut client;
        match self.kind {
            Kind::Postgres => {
                client = Command::new("psql");
                client.arg("-h").arg(&self.folder).args(["-U", "postgres", "-tAqc", sql]);
            }
            Kind::MariaDb => {
                client = Command::new("mariadb");
                client.args(["--no-defaults", "-u", "root", "-N", "--batch", "-e", sql]);
                client.arg(format!("--socket={}", self.folder.join("socket").display()));
            }
        }
        let output = client.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.down();
    }
}
