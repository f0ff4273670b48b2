//! Opening connections for application users.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::connect::{Login, Route};
use super::link::{MyLink, Shared};
use crate::backend::{ConnectError, Dial, Dialling, Purpose};
use crate::exchange::Link;
use crate::store::mysql::control::{STARTED_SQL, STARTED_SQL_8};
use crate::store::mysql::schema::obeys;
use crate::wire::mysql::identity;

/// How each user logs in, by name; replaced when the configuration is read again.
pub type Logins = arc_swap::ArcSwap<HashMap<String, Login>>;

/// The SQLSTATE of a server that does not know a setting.
const UNKNOWN_SETTING: &str = "HY000";

/// Opens connections to one MySQL or MariaDB backend.
#[derive(Debug)]
pub struct MyDial {
    /// The way there.
    pub route: Arc<Route>,
    /// What its connections have in common.
    pub shared: Arc<Shared>,
    /// How each application user logs in there.
    pub logins: Arc<Logins>,
    /// When the server was started, as far as its journal has been looked at since.
    pub started: Arc<Mutex<String>>,
}

impl MyDial {
    async fn open(
        &self,
        user: &str,
        purpose: Purpose,
        gone: CancellationToken,
    ) -> Result<MyLink, ConnectError> {
        let (user, found_rows) = identity::parts(user);
        let logins = self.logins.load();
        let Some(login) = logins.get(user) else {
            let message = format!("user '{user}' is not in the configuration");
            return Err(ConnectError::Refused { code: "28000".into(), message });
        };
        let login = Login { found_rows, ..login.clone() };
        let mut link = self.route.login(&login, self.shared.clone(), gone).await?;
        link.reader = purpose != Purpose::Write;
        if self.shared.guarded && purpose != Purpose::Near {
            link.queue(&obeys(&self.shared.token, link.canceller.number));
        }
        // Statements are repeatable and readers refuse writes, whatever the server's defaults are.
        link.queue("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ");
        if link.reader {
            link.queue("SET SESSION TRANSACTION READ ONLY");
        }
        match tokio::time::timeout(self.route.limit(), link.drain()).await {
            Ok(Ok(None)) if purpose == Purpose::Near => Ok(link),
            Ok(Ok(None)) => {
                self.check_start(&mut link).await?;
                if purpose == Purpose::Write {
                    link.hurried = self.hurries(&mut link).await?;
                }
                Ok(link)
            }
            Ok(Ok(Some(error))) => Err(ConnectError::answered(error.code, error.what)),
            Ok(Err(broken)) => Err(broken.into()),
            Err(_) => Err(ConnectError::Unreachable("no answer to the first statement".into())),
        }
    }
}

impl MyDial {
    /// Whether the server limits how long its statements may take. One that does not know this setting limits only reads.
    async fn hurries(&self, link: &mut MyLink) -> Result<bool, ConnectError> {
        let asked = link.ask("SELECT @@max_statement_time", &[]);
        match tokio::time::timeout(self.route.limit(), asked).await {
            Ok(Ok(Ok(rows))) => {
                let limit = rows.into_iter().flatten().flatten().next();
                Ok(limit.is_some_and(|limit| limit.parse() != Ok(0.0)))
            }
            Ok(Ok(Err(error))) if error.code == UNKNOWN_SETTING => Ok(false),
            Ok(Ok(Err(error))) => Err(ConnectError::answered(error.code, error.message)),
            Ok(Err(broken)) => Err(broken.into()),
            Err(_) => Err(ConnectError::Unreachable("no answer to the second question".into())),
        }
    }

    /// A server that was restarted unseen may have lost commits, or be an older copy of itself.
    async fn check_start(&self, link: &mut MyLink) -> Result<(), ConnectError> {
        let known = self.started.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Ok(known) = known.parse::<i64>() else {
            return Ok(());
        };
        let sql = if link.is_maria() { STARTED_SQL } else { STARTED_SQL_8 };
        let seen = match tokio::time::timeout(self.route.limit(), link.ask(sql, &[])).await {
            Ok(Ok(Ok(rows))) => rows.into_iter().flatten().flatten().next().unwrap_or_default(),
            _ => return Err(ConnectError::Unreachable("no answer to the first question".into())),
        };
        // Two numbers of whole seconds are subtracted: one second says nothing.
        if seen.parse::<i64>().is_ok_and(|seen| seen.abs_diff(known) <= 1) {
            Ok(())
        } else {
            Err(ConnectError::Unreachable("the server was restarted".into()))
        }
    }
}

impl MyLink {
    /// Whether the server is MariaDB, as the version says that it greets with.
    pub(super) fn is_maria(&self) -> bool {
        let version = self.shared.version.lock().unwrap_or_else(PoisonError::into_inner);
        version.contains("MariaDB")
    }
}

impl Dial<MyLink> for MyDial {
    fn dial<'a>(
        &'a self,
        user: &'a str,
        purpose: Purpose,
        gone: CancellationToken,
    ) -> Dialling<'a, MyLink> {
        Box::pin(self.open(user, purpose, gone))
    }
}
