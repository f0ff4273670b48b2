//! What is special about a MariaDB server in the demo.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};

use super::server::Server;
use super::site::{LONGEST_SOCKET_FOLDER, Site};
use super::{DemoError, Result};

/// The programs it takes.
pub(super) const PROGRAMS: &[&str] = &["mariadb-install-db", "mariadbd"];

/// The file with its settings, in its data folder.
const SETTINGS: &str = "demo.cnf";

/// Every value is written out: what a server would choose by itself (a time, a number) need not be the
/// same on the next one.
const TABLES: &[&str] = &[
    "CREATE DATABASE app CHARACTER SET utf8mb4",
    "CREATE USER app@'%' IDENTIFIED BY 'app'",
    "GRANT ALL ON app.* TO app@'%'",
    "CREATE TABLE app.accounts (id INT PRIMARY KEY, owner VARCHAR(40) NOT NULL, \
     balance INT NOT NULL)",
    "INSERT INTO app.accounts VALUES (1, 'Ada', 100), (2, 'Grace', 100), (3, 'Edsger', 100)",
    "CREATE TABLE app.visits (id BIGINT AUTO_INCREMENT PRIMARY KEY, who VARCHAR(40) NOT NULL, \
     at TIMESTAMP(6) NOT NULL DEFAULT NOW(6), dice DOUBLE NOT NULL DEFAULT RAND())",
];

/// Makes an empty server with an administrator who has a password and may come by the network.
pub(super) async fn initialise(site: &Site, name: &str, data_dir: &Path) -> Result<()> {
    let mut install = site.program("mariadb-install-db");
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    install.arg("--skip-name-resolve").arg(format!("--datadir={}", data_dir.display()));
    // Two that are made at the same time would meet in the common folder.
    let told = |error: io::Error| DemoError::new(format!("mariadb-install-db: {error}"));
    let scratch = site.dir.join(format!("{name}.tmp"));
    fs::create_dir(&scratch).and_then(|()| site.give(&scratch)).map_err(told)?;
    install.arg(format!("--tmpdir={}", scratch.display()));
    install.stdin(Stdio::null()).current_dir("/").kill_on_drop(true);
    let output = install.output().await.map_err(told)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(DemoError::new(format!(
            "mariadb-install-db failed for server {name}:\n{said}"
        )));
    }
    fs::remove_dir_all(&scratch).map_err(told)
}

/// In a file of the server's own, so that a start by hand finds the same settings. The first start
/// gives the administrator the password, before anybody can connect.
pub(super) fn configure(site: &Site, data_dir: &Path, port: u16) -> io::Result<()> {
    let dir = data_dir.display();
    let fits = data_dir.as_os_str().len() <= LONGEST_SOCKET_FOLDER;
    // Relative to the data folder, where the server goes.
    let socket = if fits { format!("{dir}/socket") } else { "socket".to_owned() };
    let first = data_dir.join("first.sql");
    let accounts: Vec<String> = ["127.0.0.1", "localhost"]
        .map(|host| {
            let password = &site.admin_password;
            format!(
                "CREATE USER IF NOT EXISTS root@'{host}';\n\
                 ALTER USER root@'{host}' IDENTIFIED BY '{password}';\n\
                 GRANT ALL ON *.* TO root@'{host}' WITH GRANT OPTION;\n"
            )
        })
        .into();
    site.write_private(&first, &accounts.concat())
        .map_err(|error| io::Error::other(error.to_string()))?;
    site.give(&first)?;
    // Not the common folder: a server that starts removes what it takes for its own leftovers there.
    let scratch = data_dir.with_extension("tmp");
    fs::create_dir_all(&scratch)?;
    site.give(&scratch)?;
    let settings = format!(
        "# lockstep demo\n[mariadbd]\ndatadir={dir}\ntmpdir={}\nport={port}\nsocket={socket}\n\
         pid-file={dir}/pid\nbind-address=127.0.0.1\nskip-name-resolve\nskip-log-bin\n\
         character-set-server=utf8mb4\nmax-connections=200\n\
         innodb-buffer-pool-size=32M\ninnodb-flush-log-at-trx-commit=1\ninit-file={}\n",
        scratch.display(),
        first.display()
    );
    let path = data_dir.join(SETTINGS);
    fs::write(&path, settings)?;
    site.give(&path)
}

/// How the server is started, by us or by hand.
pub(super) fn arguments(data_dir: &Path) -> Vec<String> {
    vec![format!("--defaults-file={}", data_dir.join(SETTINGS).display())]
}

/// Connects as the administrator.
pub(super) async fn connect(site: &Site, server: &Server) -> mysql_async::Result<Conn> {
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(server.port)
        .user(Some("root"))
        .pass(Some(&site.admin_password))
        .prefer_socket(false);
    Conn::new(Opts::from(opts)).await
}

/// Creates the database `app`, its user `app`, and two tables.
pub(super) async fn fill(site: &Site, server: &Server) -> Result<()> {
    let wrong = |error: mysql_async::Error| {
        DemoError::new(format!("server {} could not be filled: {error}", server.name))
    };
    let mut conn = connect(site, server).await.map_err(wrong)?;
    for statement in TABLES {
        conn.query_drop(*statement).await.map_err(wrong)?;
    }
    conn.disconnect().await.map_err(wrong)
}
