//! How what a connection runs is cancelled.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lockstep_protocol::pg::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::Route;
use super::link::PgLink;
use super::own::{BEGIN, UNHURRIED, bind_rest};
use crate::exchange::{Aim, Broken};

/// What lifts the limit on how long a statement may take.
pub(super) const UNLIMITED: &str = "SET statement_timeout = 0";

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
        let attempt = async {
            let mut stream = self.route.open().await.ok()?;
            let mut request = BytesMut::new();
            startup::cancel_request(&mut request, self.pid, &self.secret);
            stream.write_all(&request).await.ok()?;
            stream.flush().await.ok()?;
            // The server closes only after it has sent the signal.
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.ok().map(|_| ())
        };
        self.aim.strike(self.route.limit(), attempt).await;
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

    /// Whether a statement may take only so long, by the session or by the server. A follower's part of a transaction has
    /// no such limit.
    fn is_hurried(&self) -> bool {
        match self.settings.get("statement_timeout") {
            Some(statement) => *statement != UNLIMITED,
            None => self.hurried,
        }
    }

    /// What is the application's to limit are its statements, not what the proxy does for them at the end of a
    /// transaction: a COMMIT that was struck would look as if the server was ill.
    pub(super) fn queue_unhurried(&mut self) {
        if self.is_hurried() {
            self.queue_own(&UNHURRIED, &bind_rest(&[]));
        }
    }

    /// Where a time limit of the session's could strike the BEGIN that is queued, nothing is sent behind it before it has
    /// been answered: a statement in a request of its own would run, and commit, by itself.
    pub(super) async fn open_first(&mut self) -> Result<(), Broken> {
        let begins = self.open.begins || self.expected.iter().any(|request| request.begins);
        if !begins || !self.is_hurried() {
            return Ok(());
        }
        self.send().await?;
        self.settle(0).await?;
        self.set_up()
    }

    /// Whether what came before a statement went well.
    pub(super) fn set_up(&mut self) -> Result<(), Broken> {
        self.take_error().map_or(Ok(()), |error| Err(Broken::Setup(error)))
    }

    /// The same where the statement was sent in a request of its own, and has run whatever came before.
    pub(super) fn check_setup(&mut self) -> Result<(), Broken> {
        let Some(error) = self.take_error() else { return Ok(()) };
        let begin = error.what.starts_with(BEGIN.name) || error.what.starts_with("BEGIN:");
        // What only reads does no harm by itself.
        if begin && !self.reader {
            let what = "a transaction was not opened, and what was to be in it has run by itself";
            return Err(Broken::Rules(format!("{what}: {error}")));
        }
        Err(Broken::Setup(error))
    }
}
