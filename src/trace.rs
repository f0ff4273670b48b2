//! Where log lines go: to stderr, as text or JSON, with a level that can change while running.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Changes the level of a running process.
#[derive(Debug, Clone)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

/// Why logging could not be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The level is no word or directive that makes sense.
    #[error(
        "`{0}` is no log level: write error, warn, info, debug, trace, or directives such as \"info,lockstep=debug\""
    )]
    Level(String),
    /// Someone set logging up before, or it is gone.
    #[error("logging is already set up differently: {0}")]
    Setup(String),
}

/// Sends the process's log lines to stderr. To be called once.
///
/// # Errors
/// If the level makes no sense, or if it was called before.
pub fn init(log: &Log) -> Result<Level, TraceError> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    let lines = match log.format {
        LogFormat::Text => fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed(),
        LogFormat::Json => {
            fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
        }
    };
    let subscriber = Registry::default().with(filter).with(lines);
    subscriber.try_init().map_err(|error| TraceError::Setup(error.to_string()))?;
    Ok(Level(handle))
}

impl Level {
    /// Takes a new level at once.
    ///
    /// # Errors
    /// If the level makes no sense; the old one then stays.
    pub fn set(&self, level: &str) -> Result<(), TraceError> {
        let filter = filter(level)?;
        self.0.reload(filter).map_err(|error| TraceError::Setup(error.to_string()))
    }
}

/// A bare word is taken as a level only if it is one: the filter itself would read "verbose" as
/// the name of a module and then show nothing at all.
fn filter(level: &str) -> Result<EnvFilter, TraceError> {
    const WORDS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let refused = || TraceError::Level(level.to_owned());
    let bare = |part: &str| !part.contains('=') && !WORDS.contains(&part.trim());
    if level.split(',').any(bare) {
        return Err(refused());
    }
    EnvFilter::try_new(level).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_directives() {
        for level in ["info", "off", "warn,lockstep::keeper=trace"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["verbose", "", "info,loud", "info,lockstep=loud"] {
            assert!(filter(level).is_err(), "{level}");
        }
    }
}
