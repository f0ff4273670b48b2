//! Fills an empty database from another with PostgreSQL's own tools.
//!
//! `pg_dump` knows every kind of object and every version's peculiarities, which nothing written here ever would. Its
//! output goes into one transaction of `psql`, which is committed only when the dump has ended well.

use super::control::SCHEMA_SQL;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, Error};

/// Why a database could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// A program did not start or its pipe broke.
    #[error("{tool}: {source}")]
    Start {
        /// Which program.
        tool: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program ended with an error; the database is as it was.
    #[error("{tool} failed: {said}")]
    Failed {
        /// Which program.
        tool: &'static str,
        /// The end of what it said.
        said: String,
    },
    /// The database to be filled could not be prepared.
    #[error(transparent)]
    Database(#[from] Error),
}

/// Removes everything that users made from a database. There is no way back.
pub async fn wipe(client: &Client) -> Result<(), Error> {
    client.batch_execute(include_str!("wipe.sql")).await
}

/// Copies the database behind one URL into the empty one behind another. `client` is connected to the latter.
pub async fn fill(
    from: &str,
    to: &str,
    client: &Client,
    tools: Option<&Path>,
) -> Result<(), FillError> {
    // The dump brings our triggers along when the source has them; they need the functions, and must not meet event
    // triggers that put them there a moment earlier.
    client.batch_execute(SCHEMA_SQL).await?;
    client
        .batch_execute(
            "DROP EVENT TRIGGER IF EXISTS lockstep_ddl_end; DROP EVENT TRIGGER IF EXISTS lockstep_ddl_drop",
        )
        .await?;
    let source = Login::new(from).map_err(|source| start("pg_dump", source))?;
    let target = Login::new(to).map_err(|source| start("psql", source))?;
    let mut dump = source.command(
        &tool(tools, "pg_dump"),
        &["--exclude-schema=lockstep", "--no-publications", "--no-subscriptions"],
    );
    let mut restore = target.command(&tool(tools, "psql"), &["-X", "-q", "-v", "ON_ERROR_STOP=1"]);
    let mut dump = dump
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| start("pg_dump", source))?;
    let mut restore = restore
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|source| start("psql", source))?;
    pump(&mut dump, &mut restore).await?;
    client.batch_execute("ANALYZE").await?;
    Ok(())
}

/// Lets the dump flow into the restore and commits it when both are well.
async fn pump(dump: &mut Child, restore: &mut Child) -> Result<(), FillError> {
    let (Some(mut output), Some(mut input)) = (dump.stdout.take(), restore.stdin.take()) else {
        return Err(start("psql", std::io::ErrorKind::BrokenPipe.into()));
    };
    let (mut dump_said, mut restore_said) = (dump.stderr.take(), restore.stderr.take());
    let watch_dump = last_words(&mut dump_said);
    let watch_restore = last_words(&mut restore_said);
    let flowed = async {
        let flowed = match input.write_all(b"BEGIN;\n").await {
            Ok(()) => tokio::io::copy(&mut output, &mut input).await,
            Err(error) => Err(error),
        };
        // Closing our end lets a dump that nobody reads any more come to its end.
        drop(output);
        let ended = dump.wait().await.map_err(|source| start("pg_dump", source))?;
        let well = flowed.is_ok() && ended.success();
        let last: &[u8] = if well { b"\nCOMMIT;\n" } else { b"\nROLLBACK;\n" };
        // A restore that has failed no longer reads, and says so itself.
        let _ = input.write_all(last).await;
        drop(input);
        let restored = restore.wait().await.map_err(|source| start("psql", source))?;
        Ok::<_, FillError>((flowed.is_ok(), ended.success(), restored.success()))
    };
    let (result, dump_said, restore_said) = tokio::join!(flowed, watch_dump, watch_restore);
    match result? {
        // A restore that stops reading breaks the dump too, so it is looked at first.
        (_, _, false) => Err(FillError::Failed { tool: "psql", said: restore_said }),
        (_, false, _) => Err(FillError::Failed { tool: "pg_dump", said: dump_said }),
        (false, _, _) => Err(FillError::Failed { tool: "psql", said: restore_said }),
        (true, true, true) => Ok(()),
    }
}

/// Reads a program's complaints and keeps the end of them.
async fn last_words(pipe: &mut Option<tokio::process::ChildStderr>) -> String {
    const KEPT: usize = 2000;
    let Some(pipe) = pipe else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..read]);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

fn start(tool: &str, source: std::io::Error) -> FillError {
    FillError::Start { tool: tool.to_owned(), source }
}

/// A tool in the folder given, else the newest that the packages of Debian and others installed, else from PATH.
fn tool(folder: Option<&Path>, name: &str) -> PathBuf {
    if let Some(folder) = folder {
        return folder.join(name);
    }
    let version = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok())
    };
    std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin").join(name).exists())
        .max_by_key(version)
        .map_or_else(|| name.into(), |path| path.join("bin").join(name))
}

/// A connection string without its password, and a file that only we can read with it: command lines and
/// environments are visible to others.
struct Login {
    url: String,
    file: Option<PathBuf>,
}

impl Login {
    fn new(url: &str) -> std::io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (url, password) = without_password(url);
        let Some(password) = password else {
            return Ok(Self { url, file: None });
        };
        let name = format!(
            "lockstep-{}-{}.pass",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let login = Self { url, file: Some(path) };
        let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
        writeln!(file, "*:*:*:*:{escaped}")?;
        Ok(login)
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).arg("--no-password").arg("--dbname").arg(&self.url);
        command
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .env_remove("PGPASSWORD")
            .env_remove("PGOPTIONS");
        if let Some(file) = &self.file {
            command.env("PGPASSFILE", file);
        }
        command
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Nothing can be done about a file that does not go away; it is readable to us alone.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Takes the password out of a connection string, of either form that libpq knows.
fn without_password(url: &str) -> (String, Option<String>) {
    if let Some((scheme, rest)) = url.split_once("://") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if let Some((user, host)) = authority.rsplit_once('@')
            && let Some((user, password)) = user.split_once(':')
        {
            return (format!("{scheme}://{user}@{host}{path}"), Some(percent_decoded(password)));
        }
        return (url.to_owned(), None);
    }
    let (passwords, others): (Vec<&str>, Vec<&str>) =
        url.split_whitespace().partition(|word| word.starts_with("password="));
    let password =
        passwords.first().map(|word| word["password=".len()..].trim_matches('\'').to_owned());
    (others.join(" "), password)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%' && after.len() >= 2)
            .then(|| std::str::from_utf8(&after[..2]).ok())
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        (rest, _) = match hex {
            Some(byte) => (&after[2..], bytes.push(byte)),
            None => (after, bytes.push(*first)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_leaves_the_connection_string() {
        let got = without_password("postgresql://me:p%40ss:w@host:5432/db?sslmode=require");
        assert_eq!(
            got,
            ("postgresql://me@host:5432/db?sslmode=require".into(), Some("p@ss:w".into()))
        );
        assert_eq!(without_password("postgresql:///db"), ("postgresql:///db".into(), None));
        let got = without_password("host=/tmp password='x' user=me");
        assert_eq!(got, ("host=/tmp user=me".into(), Some("x".into())));
    }
}
