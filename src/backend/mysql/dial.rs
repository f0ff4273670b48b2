//! Opening connections for application users.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::connect::{Login, Route};
use super::link::{MyLink, Shared};
use crate::backend::{ConnectError, Dial, Dialling, Purpose};
use crate::exchange::Link;
use crate::wire::mysql::identity;

/// Opens connections to one MySQL or MariaDB backend.
#[derive(Debug)]
pub struct MyDial {
    /// The way there.
    pub route: Arc<Route>,
    /// What its connections have in common.
    pub shared: Arc<Shared>,
    /// How each application user logs in there.
    pub logins: HashMap<String, Login>,
}

impl MyDial {
    async fn open(
        &self,
        user: &str,
        purpose: Purpose,
        gone: CancellationToken,
    ) -> Result<MyLink, ConnectError> {
        let (user, found_rows) = identity::parts(user);
        let Some(login) = self.logins.get(user) else {
            let message = format!("user '{user}' is not in the configuration");
            return Err(ConnectError::Refused { code: "28000".into(), message });
        };
        let login = Login { found_rows, ..login.clone() };
        let mut link = self.route.login(&login, self.shared.clone(), gone).await?;
        link.reader = purpose == Purpose::Read;
        // Statements are repeatable and readers refuse writes, whatever the server's defaults are.
        link.queue("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ");
        if link.reader {
            link.queue("SET SESSION TRANSACTION READ ONLY");
        }
        match tokio::time::timeout(self.route.timeout, link.drain()).await {
            Ok(Ok(None)) => Ok(link),
            Ok(Ok(Some(error))) => {
                Err(ConnectError::Refused { code: error.code, message: error.what })
            }
            Ok(Err(broken)) => Err(ConnectError::Unreachable(broken.to_string())),
            Err(_) => Err(ConnectError::Unreachable("no answer to the first statement".into())),
        }
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
