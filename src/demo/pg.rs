//! What is special about a PostgreSQL server in the demo.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::server::Server;
use super::site::{LONGEST_SOCKET_FOLDER, Site, in_path};
use super::{DemoError, Result};

/// The programs it takes.
pub(super) const PROGRAMS: &[&str] = &["initdb", "postgres", "pg_ctl"];

/// Every value is written out: what a server would choose by itself (a time, a number of a
/// sequence) need not be the same on the next one.
const TABLES: &str = "
    create table accounts (id int primary key, owner text not null, balance int not null);
    insert into accounts values (1, 'Ada', 100), (2, 'Grace', 100), (3, 'Edsger', 100);
    create table visits (
        id bigint generated always as identity primary key,
        who text not null,
        at timestamptz not null default now(),
        token uuid not null default gen_random_uuid());
    ";

/// Flushes are left out here only: there is nothing in the folder yet that could be lost.
pub(super) async fn initialise(site: &Site, name: &str, data_dir: &Path) -> Result<()> {
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
pub(super) fn configure(data_dir: &Path, port: u16) -> io::Result<()> {
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

/// How to connect as the superuser.
fn admin(site: &Site, server: &Server, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(server.port).dbname(database);
    config.user("postgres").password(&site.admin_password);
    config
}

/// Whether the server takes connections.
pub(super) async fn answers(site: &Site, server: &Server) -> bool {
    admin(site, server, "postgres").connect(tokio_postgres::NoTls).await.is_ok()
}

/// Creates the database `app`, its user `app`, and two tables.
pub(super) async fn fill(site: &Site, server: &Server) -> Result<()> {
    let mut owner = admin(site, server, "app");
    owner.user("app").password("app");
    run(
        &admin(site, server, "postgres"),
        &["create role app login password 'app'", "create database app owner app"],
    )
    .await
    .map_err(|error| wrong(server, &error))?;
    run(&owner, &[TABLES]).await.map_err(|error| wrong(server, &error))
}

async fn run(
    config: &tokio_postgres::Config,
    statements: &[&str],
) -> std::result::Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let work = async {
        for statement in statements {
            client.batch_execute(statement).await?;
        }
        Ok(())
    };
    tokio::select! {
        done = work => done,
        ended = connection => ended,
    }
}

fn wrong(server: &Server, error: &tokio_postgres::Error) -> DemoError {
    let detail = error.as_db_error().map(ToString::to_string);
    let detail = detail.unwrap_or_else(|| error.to_string());
    DemoError::new(format!("server {} could not be filled: {detail}", server.name))
}

/// Where the programs may be: as `pg_config` says, or where packages put them, the newest version first.
pub(super) async fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(in_path("initdb").and_then(|path| path.parent().map(Path::to_owned)));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output().await {
        places.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    places.extend(packaged());
    places
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
