//! How what a connection runs is cancelled, and how its session is ended.

use std::sync::Arc;

use super::connect::{Login, Route};
use super::link::MyLink;
use crate::exchange::{Aim, Broken};

/// The setting that limits how long a statement may take.
pub(super) const TIME_LIMIT: &str = "max_statement_time";
/// What lifts it.
pub(super) const UNLIMITED: &str = "SET SESSION max_statement_time=0";

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
        let kill = self.route.kill(&self.login, "QUERY", self.number);
        self.aim.strike(self.route.limit(), kill).await;
    }

    /// The same for the session itself.
    pub(super) async fn end(&self) {
        let kill = self.route.kill(&self.login, "CONNECTION", self.number);
        let _ = tokio::time::timeout(self.route.limit(), kill).await;
    }
}

impl MyLink {
    /// Whether a statement may take only so long, by the session or by the server.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried || self.settings.contains_key(TIME_LIMIT)
    }

    /// What is the application's to limit are its statements, not what the proxy does for them at the end of a
    /// transaction: a COMMIT that was struck would look as if the server was ill. The limit is back when the connection
    /// is lent the next time.
    pub(super) fn queue_unhurried(&mut self) {
        if self.is_hurried() && !std::mem::replace(&mut self.unhurried, true) {
            self.push_text(UNLIMITED, "settings");
        }
    }

    /// Has the limit hold again, if it was lifted.
    pub(super) fn hurry_again(&mut self) {
        if std::mem::take(&mut self.unhurried) {
            let own = self.settings.get(TIME_LIMIT).cloned();
            let limit = own.unwrap_or_else(|| self.reset_statement(TIME_LIMIT));
            self.push_text(&limit, "settings");
        }
    }

    /// Where a time limit of the session's could strike what opens the transaction, nothing is sent behind it before it
    /// has been answered: a statement behind it would run, and commit, by itself.
    pub(super) async fn open_first(&mut self) -> Result<(), Broken> {
        if !self.begins() || !self.is_hurried() {
            return Ok(());
        }
        self.send().await?;
        self.settle(0).await?;
        self.take_error().map_or(Ok(()), |error| Err(Broken::Setup(error)))
    }

    /// Judges what came before a statement.
    pub(super) fn check_setup(&mut self) -> Result<(), Broken> {
        let Some(error) = self.take_error() else { return Ok(()) };
        // What only reads does no harm by itself, and what waits for a COMMIT has not been done.
        if error.what.starts_with(BEGIN) && !self.reader && !self.holds_back {
            let what = "a transaction was not opened, and what was to be in it has run by itself";
            return Err(Broken::Rules(format!("{what}: {error}")));
        }
        Err(Broken::Setup(error))
    }
}
