//! Programs that end by themselves: hooks, checks, scripts. Each has a deadline, and whatever it has
//! started dies with it then.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::tree::{self, COOKIE};

/// What is kept of a program's output, in bytes.
const MOST_OUTPUT: usize = 4096;
/// How long output may still come after the program has ended.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// The end of what it wrote, in one line.
    pub output: String,
}

impl Ended {
    /// Success, or what went wrong.
    ///
    /// # Errors
    /// If it did not end with 0.
    pub fn success(self) -> Result<String, String> {
        match self.code {
            Some(0) => Ok(self.output),
            Some(code) => Err(format!("it ended with {code}: {}", self.output)),
            None => Err(format!("a signal ended it: {}", self.output)),
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// If it cannot be started, or does not end in time.
pub async fn run(
    words: &[String],
    environment: &[(String, String)],
    timeout: Duration,
) -> Result<Ended, String> {
    let name = words.first().map_or("", String::as_str);
    let cookie = format!("program-{:032x}", rand::random::<u128>());
    let mut command = Command::new(name);
    command
        .args(words.iter().skip(1))
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .env(COOKIE, &cookie)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().map_err(|error| format!("{name} cannot be started: {error}"))?;
    // Whoever stops waiting for it ends it.
    let whole = Whole { roots: child.id().and_then(tree::Root::of).into_iter().collect(), cookie };
    let ended = tokio::time::timeout(timeout, wait(child)).await;
    match ended {
        Ok(Ok(ended)) => {
            whole.forget();
            Ok(ended)
        }
        Ok(Err(error)) => Err(format!("{name}: {error}")),
        Err(_) => Err(format!("{name} did not end within {timeout:?} and was killed")),
    }
}

/// Whether there is such a program, by its path or in the folders of `PATH`.
///
/// # Errors
/// If there is none, or it cannot be run.
pub fn find(name: &str) -> std::io::Result<()> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = match name.contains('/') {
        true => vec![name.into()],
        false => std::env::split_paths(&folders).map(|folder| folder.join(name)).collect(),
    };
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let place = places.iter().find(|place| place.is_file()).ok_or_else(missing)?;
    Ok(rustix::fs::access(place, rustix::fs::Access::EXEC_OK)?)
}

async fn wait(mut child: Child) -> std::io::Result<Ended> {
    let mut out = child.stdout.take();
    let mut err = child.stderr.take();
    let mut said = Vec::new();
    let mut complained = Vec::new();
    let status = {
        let reading = async {
            tokio::join!(read(out.as_mut(), &mut said), read(err.as_mut(), &mut complained));
        };
        tokio::pin!(reading);
        tokio::select! {
            status = child.wait() => {
                // A daemon that it left behind may keep its output open for ever.
                let _ = tokio::time::timeout(LAST_WORDS, reading).await;
                status?
            }
            () = &mut reading => child.wait().await?,
        }
    };
    said.extend(complained);
    Ok(Ended { code: status.code(), output: one_line(&said) })
}

async fn read(from: Option<&mut (impl AsyncReadExt + Unpin)>, to: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        to.extend_from_slice(&buffer[..count]);
        if to.len() > MOST_OUTPUT {
            to.drain(..to.len() - MOST_OUTPUT);
        }
    }
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" | ")
}

/// A program with all it started; ends it unless it is forgotten.
struct Whole {
    cookie: String,
    roots: Vec<tree::Root>,
}

impl Whole {
    /// It ended by itself: what it left running, it left on purpose.
    fn forget(mut self) {
        self.cookie.clear();
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.cookie.is_empty() {
            let left = tree::kill(&self.cookie, &self.roots, Duration::from_millis(500));
            if !left.is_empty() {
                tracing::warn!(?left, "processes of a program survive their end");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn what_it_says_and_how_it_ends() {
        let second = Duration::from_secs(5);
        let environment = [("LOCKSTEP_EVENT".to_owned(), "started".to_owned())];
        let words = shell("echo a $LOCKSTEP_EVENT; echo b >&2; exit 2");
        let ended = run(&words, &environment, second).await.expect("it runs");
        assert_eq!((ended.code, ended.output.as_str()), (Some(2), "a started | b"));
        let missing = run(&["/no/such".to_owned()], &[], second).await.expect_err("missing");
        assert!(missing.contains("cannot be started"), "{missing}");
        let daemon = run(&shell("sleep 60 & echo left"), &[], second).await.expect("ends");
        assert_eq!(daemon.success().expect("well"), "left");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let mark = folder.path().join("late");
        let script = format!("(setsid sh -c 'sleep 1; touch {}' &) ; sleep 60", mark.display());
        let late = run(&shell(&script), &[], Duration::from_millis(300)).await;
        assert!(late.expect_err("too late").contains("did not end within"));
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(!mark.exists(), "what it started goes on");
    }
}
