//! Fills an empty server from another with the servers' own tools.
//!
//! The dump knows every kind of object and every version's peculiarities. It flows straight into the
//! client; a fill that fails half-way leaves a server without a control row, and is done again.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Result};
use tokio::process::Command;

use super::quoted;

/// How the tools get to a server.
#[derive(Clone, Debug)]
pub struct Login {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The administrator.
    pub user: String,
    /// … and the password, which travels in a file that nobody else can read.
    pub password: crate::config::Secret,
    /// Options for TLS, as the tools call them.
    pub tls: Vec<String>,
}

/// Removes every database of users. There is no way back.
pub async fn wipe(conn: &mut Conn, databases: &[String]) -> Result<()> {
    conn.query_drop("SET SESSION foreign_key_checks = 0").await?;
    for database in databases {
        conn.query_drop(format!("DROP DATABASE {}", quoted(database))).await?;
    }
    conn.query_drop("SET SESSION foreign_key_checks = 1").await
}

/// Copies databases from one server to another.
///
/// # Errors
/// What the tool that failed has said.
pub async fn fill(
    from: &Login,
    to: &Login,
    databases: &[String],
) -> std::result::Result<(), String> {
    if databases.is_empty() {
        return Ok(());
    }
    let folder =
        std::env::temp_dir().join(format!("lockstep-fill-{:032x}", rand::random::<u128>()));
    std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let done = copy(from, to, databases, &folder).await;
    // The files hold passwords: that they are gone matters as much as the copy.
    std::fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    done
}

async fn copy(
    from: &Login,
    to: &Login,
    databases: &[String],
    folder: &std::path::Path,
) -> std::result::Result<(), String> {
    let source = options_file(from, &folder.join("from.cnf")).map_err(|e| e.to_string())?;
    let target = options_file(to, &folder.join("to.cnf")).map_err(|e| e.to_string())?;
    let mut dump = tool(&["mariadb-dump", "mysqldump"], &source)
        .args(["--single-transaction", "--routines", "--triggers", "--events", "--hex-blob"])
        .args(["--default-character-set=utf8mb4", "--databases", "--"])
        .args(databases)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("mariadb-dump: {e}"))?;
    let stdout = dump.stdout.take().ok_or("mariadb-dump has no output")?;
    let stdout: Stdio = stdout.try_into().map_err(|e| format!("mariadb-dump: {e}"))?;
    let restore = tool(&["mariadb", "mysql"], &target)
        .args(["--binary-mode", "--default-character-set=utf8mb4"])
        .stdin(stdout)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("mariadb: {e}"))?;
    let (dumped, restored) = tokio::join!(dump.wait_with_output(), restore.wait_with_output());
    // A restore that stops reading breaks the dump too, so it is looked at first.
    ended("mariadb", restored)?;
    ended("mariadb-dump", dumped)
}

fn ended(tool: &str, output: std::io::Result<Output>) -> std::result::Result<(), String> {
    let output = output.map_err(|e| format!("{tool}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{tool} failed: {}", said.trim()))
}

/// The first of the names that is found where programs are.
fn tool(names: &[&str], options: &std::path::Path) -> Command {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut places = names.iter().flat_map(|name| {
        std::env::split_paths(&folders).map(|folder| folder.join(name)).collect::<Vec<PathBuf>>()
    });
    let found = places.find(|place| place.exists()).unwrap_or_else(|| PathBuf::from(names[0]));
    let mut command = Command::new(found);
    command.arg(format!("--defaults-file={}", options.display()));
    command
}

/// Passwords do not stand on a command line, where everybody sees them.
fn options_file(login: &Login, path: &std::path::Path) -> std::io::Result<PathBuf> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    writeln!(file, "[client]")?;
    writeln!(file, "host=\"{}\"\nport={}\nprotocol=tcp", escaped(&login.host), login.port)?;
    writeln!(file, "user=\"{}\"", escaped(&login.user))?;
    writeln!(file, "password=\"{}\"", escaped(login.password.reveal()))?;
    for option in &login.tls {
        writeln!(file, "{option}")?;
    }
    Ok(path.to_owned())
}
