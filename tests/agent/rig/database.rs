//! One real database server inside of a namespace.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::{Environment, net, postgres_programs, run, unique, wait_until};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Postgres,
    MariaDb,
}

pub(crate) struct Database {
    space: String,
    address: String,
    port: u16,
    clerk: Clerk,
    environment: Environment,
    child: Mutex<Option<Child>>,
}

/// Asks a server as its administrator, by its socket, which no cut cable concerns.
#[derive(Clone)]
pub(crate) struct Clerk {
    kind: Kind,
    folder: PathBuf,
    database: &'static str,
}

impl Database {
    /// A server in the hub, with a table for everybody.
    pub(super) fn start(kind: Kind, net: &net::Net, world: &Path) -> Self {
        let folder = world.join(format!("db{}", unique()));
        let mut server = Self::create(kind, net.space("hub"), "10.77.0.1", &folder, "trust");
        server.up();
        server.prepare();
        server
    }

    /// Another server, under the hub's second address.
    pub(super) fn second(net: &net::Net, world: &Path) -> Self {
        let folder = world.join(format!("db{}", unique()));
        let mut server =
            Self::create(Kind::Postgres, net.space("hub"), "10.77.0.2", &folder, "trust");
        server.up();
        server.prepare();
        server
    }

    /// The server of a machine, under its usual port, which asks for passwords; `small` is the size of
    /// its filesystem, where that is one of its own.
    pub(super) fn of_machine(
        kind: Kind,
        space: String,
        address: &str,
        folder: &Path,
        small: Option<&str>,
        environment: Environment,
    ) -> Self {
        if let Some(size) = small {
            std::fs::create_dir(folder).unwrap();
            let size = format!("size={size},mode=0755");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder));
        }
        let mut server = Self::create(kind, space, address, folder, "scram-sha-256");
        server.environment = environment;
        if kind == Kind::MariaDb {
            server.port = 3306;
        }
        server.up();
        server
    }

    fn create(kind: Kind, space: String, address: &str, folder: &Path, auth: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        match kind {
            Kind::Postgres => {
                run(Command::new("chown").arg("postgres").arg(folder));
                let mut init = Command::new("setpriv");
                init.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
                init.arg(postgres_programs().join("initdb")).current_dir("/tmp");
                init.args(["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]);
                init.arg("--wal-segsize=1");
                run(init.arg("-D").arg(folder.join("data")));
                let hba = format!("local all all trust\nhost all all 10.77.0.0/24 {auth}\n");
                std::fs::write(folder.join("data/pg_hba.conf"), hba).unwrap();
            }
            Kind::MariaDb => {
                let mut install = Command::new("mariadb-install-db");
                install.args(["--no-defaults", "--user=root", "--skip-test-db"]);
                install.args(["--auth-root-authentication-method=normal", "--skip-name-resolve"]);
                install.arg("--innodb-log-file-size=8M");
                // Servers that start remove what they take for their own leftovers there.
                install.arg(format!("--tmpdir={}", folder.display()));
                run(install.arg(format!("--datadir={}", folder.join("data").display())));
            }
        }
        let database = if kind == Kind::Postgres { "postgres" } else { "mysql" };
        let clerk = Clerk { kind, folder: folder.to_owned(), database };
        let (address, environment) = (address.to_owned(), Environment::new());
        Self { space, address, port: 5432, clerk, environment, child: Mutex::new(None) }
    }

    fn prepare(&mut self) {
        match self.clerk.kind {
            Kind::Postgres => {
                self.ask(WRITES_TABLE);
                self.ask("create role app login");
                self.ask("grant all on schema public to app");
                self.ask("grant all on writes, writes_id_seq to app");
            }
            Kind::MariaDb => {
                self.ask("create database postgres");
                self.ask("create user postgres@'%'; grant all on *.* to postgres@'%'");
                self.clerk.database = "postgres";
                self.ask(WRITES_TABLE_OF_MARIADB);
            }
        }
    }

    /// What the page on high availability has an administrator do on each server, and the
    /// application's table.
    pub(super) fn prepare_as_documented(&mut self, sql: &str) {
        for statement in sql.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            // What follows on the page goes into the new database.
            match statement.strip_prefix("\\c ") {
                Some(_) => self.clerk.database = "app",
                None => drop(self.ask(statement)),
            }
        }
        self.clerk.database = "app";
        match self.clerk.kind {
            Kind::Postgres => {
                self.ask("alter role postgres password 'admin'");
                self.ask(WRITES_TABLE);
                self.ask("alter table writes owner to app");
            }
            Kind::MariaDb => drop(self.ask(WRITES_TABLE_OF_MARIADB)),
        }
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn up(&self) {
        self.spawn();
        let log =
            || std::fs::read_to_string(self.clerk.folder.with_extension("log")).unwrap_or_default();
        wait_until(30, log, || self.clerk.try_ask("select 1").is_some());
    }

    /// Starts the server.
    pub(crate) fn spawn(&self) {
        let folder = &self.clerk.folder;
        let data = folder.join("data");
        // Beside its own filesystem, which may be full.
        let log =
            std::fs::File::options().create(true).append(true).open(folder.with_extension("log"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]);
        match self.clerk.kind {
            Kind::Postgres => {
                command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]);
                // For the server alone: what it leaves in memory is to be its own user's.
                command.arg("env").args(&self.environment);
                command.arg(postgres_programs().join("postgres")).arg("-D").arg(&data);
                for setting in [
                    &format!("listen_addresses={}", self.address),
                    &format!("unix_socket_directories={}", folder.display()),
                    "fsync=off",
                    "shared_buffers=16MB",
                    "max_wal_size=8MB",
                    "min_wal_size=2MB",
                ] {
                    command.args(["-c", setting]);
                }
            }
            Kind::MariaDb => {
                let program = Path::new("/usr/sbin/mariadbd");
                command.arg("env").args(&self.environment);
                command.arg(if program.exists() { program } else { Path::new("mariadbd") });
                command.arg("--no-defaults").arg("--user=root");
                command.arg(format!("--tmpdir={}", folder.display()));
                // What is committed outlives the process, if not the machine.
                command.arg("--innodb-flush-log-at-trx-commit=2");
                command.arg(format!("--bind-address={}", self.address));
                command.args(["--skip-log-bin", "--innodb-buffer-pool-size=16M"]);
                command.args(["--innodb-log-file-size=8M", "--skip-name-resolve"]);
                command.arg(format!("--datadir={}", data.display()));
                command.arg(format!("--socket={}", folder.join("socket").display()));
                command.arg(format!("--port={}", self.port));
            }
        }
        command.current_dir("/tmp").stdout(Stdio::null()).stderr(log.unwrap());
        let former = self.child.lock().unwrap().replace(command.spawn().unwrap());
        if let Some(mut former) = former {
            // It was killed from outside.
            let _ = former.wait();
        }
    }

    /// Whether its main process runs.
    pub(crate) fn is_up(&self) -> bool {
        let mut child = self.child.lock().unwrap();
        child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Kills the server.
    pub(crate) fn down(&self) {
        let child = self.child.lock().unwrap().take();
        if let Some(mut child) = child {
            match self.clerk.kind {
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

    /// The main process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it runs").id()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.clerk.folder
    }

    pub(crate) fn url(&self) -> String {
        let scheme = match self.clerk.kind {
            Kind::Postgres => "postgresql",
            Kind::MariaDb => "mariadb",
        };
        format!("{scheme}://postgres@{}:5432/postgres", self.address)
    }

    /// A client as the service uses it, from a node.
    pub(super) fn client_command(&self) -> String {
        match self.clerk.kind {
            Kind::Postgres => {
                format!("psql -qtA -h {} -U postgres -d postgres", self.address)
            }
            Kind::MariaDb => format!(
                "mariadb --no-defaults -N --batch --unbuffered -u postgres -h {} -P 5432 postgres",
                self.address
            ),
        }
    }

    pub(super) const fn clerk(&self) -> &Clerk {
        &self.clerk
    }

    /// The application's transactions that have been open for more than a second, by names that no others
    /// get.
    pub(crate) fn open_transactions(&self) -> Vec<String> {
        let sql = match self.clerk.kind {
            Kind::Postgres => {
                "select pid || ' ' || xact_start from pg_stat_activity where usename = 'app' and \
                 backend_type = 'client backend' and xact_start < now() - interval '1 second'"
            }
            Kind::MariaDb => {
                "select trx_id from information_schema.innodb_trx where trx_rows_modified > 0 and \
                 trx_started < now() - interval 1 second"
            }
        };
        self.ask(sql).lines().map(str::to_owned).collect()
    }

    /// Runs a statement as the administrator; what it answers.
    pub(crate) fn ask(&self, sql: &str) -> String {
        self.clerk.ask(sql)
    }
}

const WRITES_TABLE: &str =
    "create table writes(id bigserial primary key, epoch bigint, node text, n bigint)";
const WRITES_TABLE_OF_MARIADB: &str =
    "create table writes(id bigint auto_increment primary key, epoch bigint, node text, n bigint)";

impl Clerk {
    pub(super) fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap_or_else(|| panic!("{sql}"))
    }

    pub(super) fn try_ask(&self, sql: &str) -> Option<String> {
        // One that is frozen answers nobody.
        let mut client = Command::new("timeout");
        client.arg("10");
        match self.kind {
            Kind::Postgres => {
                client.arg("psql").arg("-h").arg(&self.folder).args([
                    "-U",
                    "postgres",
                    "-d",
                    self.database,
                ]);
                client.args(["-tAqc", sql]);
            }
            Kind::MariaDb => {
                client.args(["mariadb", "--no-defaults", "-u", "root", "-N", "--batch", "-e", sql]);
                client.arg(format!("--socket={}", self.folder.join("socket").display()));
                client.args(["-D", self.database]);
            }
        }
        let output = client.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }

    /// Everything in the tables that applications and agents write.
    pub(super) fn contents(&self) -> String {
        let tables = ["writes", "lockstep_lease", "lockstep_node", "lockstep_event"];
        let rows = |table| match self.kind {
            Kind::Postgres => self.ask(&format!("select t from {table} t order by t::text")),
            // The longest of their keys.
            Kind::MariaDb => self.ask(&format!("select * from {table} order by 1, 2, 3")),
        };
        tables.iter().map(|table| format!("{table}\n{}\n", rows(table))).collect()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.down();
        // Only one with a filesystem of its own has something there; the others say so.
        let _ = Command::new("umount").arg("-q").arg(self.folder()).stderr(Stdio::null()).status();
    }
}
