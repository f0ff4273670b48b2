//! How what a connection runs is cancelled, and how its session is ended.

use std::sync::Arc;

use super::connect::{Login, Route};
use super::link::MyLink;
use crate::exchange::{Aim, Broken};

/// What opens a transaction, for error messages.
pub(super) const BEGIN: &str = "BEGIN";

/// How to cancel what a connection runs.
#[derive(Clone, Debug)]
pub struct Canceller {
    pub(super) route: Arc<Route>,
    pub(super) login: Login,
    pub(super) number: u32,
    pub(super) aim: Arc<Aim>,
}

impl Canceller {
    /// Asks the server to end what the session runs, and waits until the server has heard it.
    pub(super) async fn cancel(&self) {
        let mut asked = false;
        let attempt = async {
            self.aim.is_clear().await;
            asked = true;
            self.route.kill(&self.login, "QUERY", self.number).await
        };
        // A cancel that does not get through is followed by the time limit of whoever waits.
        let done = tokio::time::timeout(self.route.timeout, attempt).await;
        if asked && !matches!(done, Ok(Some(()))) {
            self.aim.went_astray();
        }
    }

    /// The same for the session itself.
    pub(super) async fn end(&self) {
        let kill = self.route.kill(&self.login, "CONNECTION", self.number);
        let _ = tokio::time::timeout(self.route.timeout, kill).await;
    }
}

impl MyLink {
    /// Where a time limit of the session's could strike what opens the transaction, nothing is sent behind it before it
    /// has been answered: a statement behind it would run, and commit, by itself.
    pub(super) async fn open_first(&mut self) -> Result<(), Broken> {
        if !self.begins() || !(self.hurried || self.settings.contains_key("max_statement_time")) {
            return Ok(());
        }
        self.send().await?;
        self.settle(0).await?;
        self.take_error().map_or(Ok(()), |error| Err(Broken::Setup(error.to_string())))
    }

    /// Judges what came before a statement.
    pub(super) fn check_setup(&mut self) -> Result<(), Broken> {
        let Some(error) = self.take_error() else { return Ok(()) };
        if error.what.starts_with(BEGIN) && !self.holds_back {
            let what = "a transaction was not opened, and what was to be in it has run by itself";
            return Err(Broken::Rules(format!("{what}: {error}")));
        }
        Err(Broken::Setup(error.to_string()))
    }
}
