//! Opening connections for application users.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::connect::{Login, Route};
use super::link::{PgLink, Shared};
use crate::backend::{ConnectError, Dial, Dialling, Purpose};
use crate::exchange::Link;
use crate::store::journal::MARK_SQL;

/// When the server was started, in the words that a look at the backend has for it.
const STARTED: &str = "SELECT ((extract(epoch FROM pg_catalog.pg_postmaster_start_time()) \
                       OPERATOR(pg_catalog.*) 1000000)::bigint)::text";

/// How each application user logs in on one backend; replaced when the configuration is read again.
pub type Logins = arc_swap::ArcSwap<HashMap<String, Login>>;

/// Opens connections to one PostgreSQL backend.
#[derive(Debug)]
pub struct PgDial {
    /// The way there.
    pub route: Arc<Route>,
    /// What its connections have in common.
    pub shared: Arc<Shared>,
    /// How each application user logs in there.
    pub logins: Arc<Logins>,
    /// When the server was started, as far as its journal has been looked at since.
    pub started: Arc<Mutex<String>>,
}

impl PgDial {
    async fn open(
        &self,
        user: &str,
        purpose: Purpose,
        gone: CancellationToken,
    ) -> Result<PgLink, ConnectError> {
        let known = self.logins.load().get(user).cloned();
        let Some(mut login) = known else {
            let message = format!("user \"{user}\" is not in the configuration");
            return Err(ConnectError::Refused { code: "28000".into(), message });
        };
        if purpose != Purpose::Write {
            let read_only = ("default_transaction_read_only".to_owned(), "on".to_owned());
            login.parameters.push(read_only);
        }
        let mut link = self.route.login(&login, self.shared.clone(), gone).await?;
        link.reader = purpose != Purpose::Write;
        if link.reader {
            link.parameters.insert("default_transaction_read_only".into(), "off".into());
        }
        if purpose == Purpose::Near {
            return Ok(link);
        }
        self.check_start(&mut link).await?;
        // Whom the backend obeys no more is let in for nothing, not even for a read. Whoever was let in a moment before
        // that is ended by whoever is obeyed now.
        let mark = self.mark(&mut link);
        let limit = self.route.limit();
        let mark = tokio::time::timeout(limit, mark)
            .await
            .map_err(|_| ConnectError::Unreachable(format!("no answer within {limit:?}")))??;
        if purpose == Purpose::Write {
            (link.mark, link.hurried) = mark;
        }
        Ok(link)
    }

    /// A server that was restarted unseen may have lost commits, or be an older copy of itself.
    async fn check_start(&self, link: &mut PgLink) -> Result<(), ConnectError> {
        let known = self.started.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_empty() {
            return Ok(());
        }
        let asked = tokio::time::timeout(self.route.limit(), link.ask(STARTED, &[])).await;
        let seen = match asked {
            Ok(Ok(Ok(rows))) => rows.into_iter().flatten().flatten().next().unwrap_or_default(),
            Ok(Err(broken)) => return Err(broken.into()),
            _ => return Err(ConnectError::Unreachable("no answer to the first question".into())),
        };
        if seen == known {
            Ok(())
        } else {
            Err(ConnectError::Unreachable("the server was restarted".into()))
        }
    }

    /// What the capture triggers sign their reports on this connection with, and whether the server limits how long
    /// its statements may take.
    async fn mark(&self, link: &mut PgLink) -> Result<(String, bool), ConnectError> {
        let word = format!("{:032x}", rand::random::<u128>());
        let params = [Some(self.shared.token.as_str()), Some(word.as_str())];
        let sql = format!("{MARK_SQL}, pg_catalog.current_setting('statement_timeout')");
        let rows = match link.ask(&sql, &params).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return Err(ConnectError::answered(error.code, error.message)),
            Err(broken) => return Err(broken.into()),
        };
        let mut words = rows.into_iter().flatten().flatten();
        let mark = words.next();
        let mark = mark
            .ok_or_else(|| ConnectError::Unreachable("the backend gave no capture mark".into()))?;
        Ok((mark, words.next().is_none_or(|limit| limit != "0")))
    }
}

impl Dial<PgLink> for PgDial {
    fn dial<'a>(
        &'a self,
        user: &'a str,
        purpose: Purpose,
        gone: CancellationToken,
    ) -> Dialling<'a, PgLink> {
        Box::pin(self.open(user, purpose, gone))
    }
}
