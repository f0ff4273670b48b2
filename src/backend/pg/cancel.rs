//! How what a connection runs is cancelled.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lockstep_protocol::pg::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::Route;
use super::link::PgLink;
use super::own::BEGIN;
use crate::exchange::{Aim, Broken};

/// How to cancel what a connection runs.
#[derive(Clone, Debug)]
pub struct Canceller {
    pub(super) route: Arc<Route>,
    pub(super) pid: u32,
    pub(super) secret: Bytes,
    pub(super) aim: Arc<Aim>,
}

impl Canceller {
    /// Asks the server to cancel what a session runs, and waits until the server has done so.
    pub(super) async fn cancel(&self) {
        let mut asked = false;
        let attempt = async {
            self.aim.is_clear().await;
            let mut stream = self.route.open().await.ok()?;
            let mut request = BytesMut::new();
            startup::cancel_request(&mut request, self.pid, &self.secret);
            asked = true;
            stream.write_all(&request).await.ok()?;
            stream.flush().await.ok()?;
            // The server closes only after it has sent the signal.
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.ok()
        };
        // A cancel that does not get through is followed by the time limit of whoever waits.
        let done = tokio::time::timeout(self.route.timeout, attempt).await;
        if asked && !matches!(done, Ok(Some(_))) {
            self.aim.went_astray();
        }
    }
}

impl PgLink {
    /// What has been queued last is the BEGIN of what comes.
    pub(super) fn begins(&mut self) {
        if !self.open.parts.is_empty() {
            self.open.begins = true;
        } else if let Some(request) = self.expected.back_mut() {
            request.begins = true;
            self.canceller.aim.opens();
        }
    }

    /// Where a time limit of the session's could strike the BEGIN that is queued, nothing is sent behind it before it has
    /// been answered: a statement in a request of its own would run, and commit, by itself.
    pub(super) async fn open_first(&mut self) -> Result<(), Broken> {
        let begins = self.open.begins || self.expected.iter().any(|request| request.begins);
        if !begins || !(self.hurried || self.settings.contains_key("statement_timeout")) {
            return Ok(());
        }
        self.send().await?;
        self.settle(0).await?;
        self.take_error().map_or(Ok(()), |error| Err(Broken::Setup(error.to_string())))
    }

    /// Judges what came before a statement that was sent in a request of its own.
    pub(super) fn check_setup(&mut self) -> Result<(), Broken> {
        let Some(error) = self.take_error() else { return Ok(()) };
        if error.what.starts_with(BEGIN.name) || error.what.starts_with("BEGIN:") {
            let what = "a transaction was not opened, and what was to be in it has run by itself";
            return Err(Broken::Rules(format!("{what}: {error}")));
        }
        Err(Broken::Setup(error.to_string()))
    }
}
