//! What the glue asks of a dialect: its door, its connections, its bookkeeping.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lockstep_protocol::Dialect;
use tokio::net::TcpStream;

use super::house::House;
use crate::backend::Dial;
use crate::catalog::Catalogs;
use crate::config::{Backend, Config, Live};
use crate::exchange::Protocol;
use crate::keeper::Control;
use crate::store::agents::AgentTables;

/// A dialect as the glue sees it.
pub(super) trait Front: Protocol {
    /// Which one it is.
    const DIALECT: Dialect;
    /// MySQL's number and the SQLSTATE for a database that is not there.
    const NO_DATABASE: (u16, &'static str);
    /// What its door and its connections have in common.
    type Common: Send + Sync + 'static;
    /// What it takes to let a client in.
    type Door: Send + Sync + 'static;

    /// The key of the addresses to listen on, and the addresses.
    fn listen(config: &Config) -> (&'static str, &[SocketAddr]);

    /// Where the agents' tables are.
    fn agent_tables(config: &Config) -> AgentTables;

    /// Builds what is common; `token` is what the backends know the proxy by.
    fn common(
        config: &Config,
        live: &Arc<Live>,
        catalogs: Arc<Catalogs>,
        token: &str,
    ) -> Self::Common;

    /// How connections to the backend at a place of the configuration are opened. `started` is when its server was started, as far as
    /// its journal has been looked at since.
    ///
    /// # Errors
    /// When the files for TLS cannot be used.
    fn dial(
        config: &Config,
        index: usize,
        common: &Self::Common,
        started: Arc<Mutex<String>>,
    ) -> Result<Box<dyn Dial<Self::Link>>, String>;

    /// Takes over what follows the file: how users log in on the backends, and all limits.
    fn renew(config: &Config, common: &Self::Common);

    /// The bookkeeping on a backend.
    ///
    /// # Errors
    /// When the files for TLS cannot be used.
    fn control(
        config: &Config,
        backend: &Backend,
        live: &Arc<Live>,
    ) -> Result<Arc<dyn Control>, String>;

    /// The front door.
    ///
    /// # Errors
    /// When certificate or key cannot be used.
    fn door(config: &Config, common: &Self::Common) -> Result<Self::Door, String>;

    /// Lets a client in, if it may, and serves it to the end.
    fn visit(
        house: Arc<House<Self>>,
        tcp: TcpStream,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> + Send;
}
