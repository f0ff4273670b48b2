//! One application's conversation.
//!
//! A session takes a batch, finds the class of each statement, and runs it: reads in `read.rs`,
//! writes in `write.rs`, everything about a transaction's end in `commit.rs`. It knows no wire
//! protocol: what it hands on is opaque to it.
//!
//! Rules that hold throughout: a step that was started is never given up half-way (only the wait
//! for the next batch can be interrupted), and a client is told of success only after the commit.

mod attempt;
mod batch;
mod block;
mod bulk;
mod carry;
mod commit;
mod complete;
mod crossing;
mod ddl;
pub(crate) mod deep;
mod draws;
mod fence;
mod grant;
mod group;
mod identity;
mod joint;
mod kill;
mod leader;
mod near;
pub(crate) mod outside;
mod own;
mod prepared;
mod presence;
mod promote;
mod read;
mod registry;
mod run;
mod settings;
mod shared;
mod shares;
mod tables;
mod transaction;
mod unconfirmed;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use carry::Carried;
pub use crossing::Crossings;
pub use fence::{Leases, Pass, Said};
pub use group::Groups;
pub use identity::Identities;
pub use presence::Present;
pub use registry::{CancelSlot, Registry, SessionInfo};
pub use settings::{CONSISTENCY, consistency_of, startup_statement};
pub use shared::{Dice, Shared, SharedSettings, Wanted};
pub use tables::Tables;

use crate::backend::{Lease, Pool};
use crate::config::Consistency;
use crate::ending::Ending;
use crate::error::{Failure, Kind};
use crate::exchange::{Batch, Client, Gone, Link, Protocol, ServerError, Settings, TxState};
use crate::metrics::StatementMetrics;
use crate::sql::{Isolation, Scope};
use transaction::Transaction;

/// Why a batch goes no further.
#[derive(Clone, Debug)]
pub enum Stop {
    /// We refuse, or cannot.
    Failure(Failure),
    /// The database answered an error.
    Server(Box<ServerError>),
    /// The application is gone.
    Gone,
    /// It is the proxy that writes who has to do this.
    Elsewhere,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<ServerError> for Stop {
    fn from(error: ServerError) -> Self {
        Self::Server(Box::new(error))
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// State in a server's session that ties the application's session to one connection.
#[derive(Clone, Debug, Default)]
struct Stays {
    /// Channels it listens on: can be listened on again elsewhere.
    listens: BTreeSet<String>,
    /// Temporary tables, advisory locks, cursors that outlive their transaction and the like.
    other: bool,
}

impl Stays {
    fn any(&self) -> bool {
        self.other || !self.listens.is_empty()
    }

    /// Whether the death of the server's session loses something that cannot be made again.
    fn lost_with_server(&self) -> bool {
        self.other
    }
}

/// One application's session.
pub struct Session<P: Protocol> {
    shared: Arc<Shared<P>>,
    client: P::Client,
    /// Under which its connections to the servers are kept.
    user: String,
    /// The user as people know it.
    name: String,
    /// The settings of the start-up message: what RESET goes back to.
    initial: Settings,
    /// The settings that the application has chosen.
    settings: Settings,
    /// What of the session the meaning of a text depends on.
    scope: Arc<Scope>,
    consistency: Consistency,
    tx: Option<Transaction<P::Link>>,
    /// The leader's connection that this session stays on.
    held: Option<Lease<P::Link>>,
    /// The connection of the statement that has just run outside a transaction.
    last: Option<Lease<P::Link>>,
    stays: Stays,
    /// Tables that it has locked.
    locked: Option<tables::Locked>,
    /// Whether each statement is a transaction unless one was opened.
    autocommit: bool,
    /// State of a server's session was lost while nobody looked: the next statement is told.
    state_lost: bool,
    /// What it has drawn from sequences.
    draws: draws::Draws,
    /// Connections for reads, by backend.
    read_pools: std::collections::BTreeMap<usize, Arc<Pool<P::Link>>>,
    /// Counters by kind of statement, looked up once.
    figures: foldhash::HashMap<&'static str, StatementMetrics>,
    /// The length of the message that said the last statement was complete, and how often the client had been sent
    /// something before.
    completion: (usize, u64),
    /// SQL-level prepared statements, by name.
    prepared: std::collections::HashMap<String, prepared::Prepared>,
    cancel: Arc<CancelSlot<<P::Link as Link>::Canceller>>,
    /// It has to end, and the proxy stops.
    ended: Ending,
    stop: Ending,
    /// Its right to write, where that depends on a lease.
    pass: Option<Pass>,
    /// It may go on at another proxy when the role is handed over, until this is cancelled.
    moves: Option<CancellationToken>,
    /// What may be a little behind is read here while another proxy writes. It does nothing else here: whatever the
    /// role of this proxy becomes, the session gets its place, and its right to write, anew.
    near: bool,
    /// Sessions with the same user and settings.
    company: Option<Arc<group::Company<P::Work>>>,
}

/// What a client brings along from its login.
#[derive(Clone, Debug)]
pub struct Login {
    /// Under which the user's connections to the servers are kept.
    pub user: String,
    /// The user as people know it.
    pub name: String,
    /// Settings chosen in the start-up message.
    pub settings: Settings,
    /// What its reads are sure to see, where it has chosen.
    pub consistency: Option<Consistency>,
}

impl<P: Protocol> Session<P> {
    /// A session for a client that has logged in.
    pub fn new(
        shared: Arc<Shared<P>>,
        client: P::Client,
        login: Login,
        cancel: Arc<CancelSlot<<P::Link as Link>::Canceller>>,
        stop: CancellationToken,
    ) -> Self {
        let consistency = login.consistency.unwrap_or(shared.settings().consistency);
        let mut session = Self {
            shared,
            client,
            user: login.user,
            name: login.name,
            initial: login.settings.clone(),
            settings: login.settings,
            scope: Arc::default(),
            consistency,
            tx: None,
            held: None,
            last: None,
            stays: Stays::default(),
            locked: None,
            autocommit: true,
            state_lost: false,
            draws: draws::Draws::default(),
            read_pools: std::collections::BTreeMap::new(),
            figures: foldhash::HashMap::default(),
            completion: (0, 0),
            prepared: std::collections::HashMap::new(),
            ended: Ending::of(cancel.ended().clone()),
            cancel,
            stop: Ending::of(stop),
            pass: None,
            moves: None,
            near: false,
            company: None,
        };
        session.scope = session.initial_scope();
        // A connection that served somebody with the same settings is known at a glance.
        session.company();
        session
    }

    /// The session ends when its pass is taken away.
    #[must_use]
    pub fn under(mut self, pass: Option<Pass>) -> Self {
        if pass.is_some() {
            self.client.hang_up_on(self.cancel.hangup().clone());
        }
        self.pass = pass;
        self
    }

    /// Serves the client until it leaves, or until the proxy stops and it has no transaction open.
    /// Gives the client back: it may have left to begin another session; and what goes along, where the session is to go
    /// on at another proxy.
    pub async fn serve(mut self) -> (P::Client, Option<Carried>) {
        // Whoever comes while the role is handed over goes on elsewhere before anything runs here.
        if let Some(carried) = self.carried() {
            return (self.client, Some(carried));
        }
        loop {
            let batch = match self.next_batch().await {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    if let Some(carried) = self.carried() {
                        return (self.client, Some(carried));
                    }
                    let farewell = if self.cancel.ended().is_cancelled() {
                        self.cancel.farewell().unwrap_or_else(kill::killed)
                    } else {
                        Failure::new(Kind::Shutdown, "the proxy is shutting down")
                            .hint("connect again")
                    };
                    self.client.close(&farewell).await;
                    break;
                }
                Err(Gone) => break,
            };
            let answered = if self.near {
                match self.nearby(batch).await {
                    Ok(true) => Ok(()),
                    Ok(false) => {
                        let carried = self.leaves();
                        return (self.client, carried);
                    }
                    Err(gone) => Err(gone),
                }
            } else {
                self.batch(batch).await
            };
            if answered.is_err() {
                break;
            }
        }
        self.undo().await;
        (self.client, None)
    }

    /// Waits for the client; meanwhile hands on what its connection to the leader says unasked.
    async fn next_batch(&mut self) -> Result<Option<Batch<P::Work>>, Gone> {
        loop {
            let Self { shared, client, held, stop, tx, ended, .. } = &mut *self;
            let Some(lease) = held.as_mut().filter(|_| tx.is_none()) else {
                let idle = tx.is_none();
                let patience = if idle { None } else { shared.current.load().idle_in_transaction };
                let falls = shared.falls(tx.as_ref());
                let silence = async {
                    match patience {
                        Some(limit) => tokio::time::sleep(limit).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = ended.comes() => return Ok(None),
                    batch = client.next() => return batch.map(Some),
                    () = stop.comes(), if idle => {
                        if self.may_move() && !self.is_tied() && !self.client.is_at_rest() {
                            return self.rest_of_request().await;
                        }
                        return Ok(None);
                    }
                    () = falls => {
                        self.come_over().await;
                        continue;
                    }
                    () = silence => {}
                }
                client.close(&fell_silent()).await;
                return Err(Gone);
            };
            let mut said = Unasked::default();
            tokio::select! {
                biased;
                () = ended.comes() => return Ok(None),
                batch = client.next() => return batch.map(Some),
                () = stop.comes() => return Ok(None),
                heard = lease.idle(&mut said) => {
                    if let Err(broken) = heard {
                        self.held_lost(&broken.to_string()).await;
                    } else {
                        use crate::exchange::Sink;
                        self.client.buffer().extend_from_slice(&said.messages);
                        for (name, value) in &said.reports {
                            self.client.report(name, value);
                        }
                        self.client.flush().await?;
                    }
                }
            }
        }
    }

    /// The connection this session stays on broke while nobody used it.
    async fn held_lost(&mut self, why: &str) {
        let Some(lease) = self.held.take() else {
            return;
        };
        let (backend, generation) = (lease.backend().index, lease.generation());
        drop(lease);
        self.shared.keeper.lost(backend, generation, why.to_owned(), false).await;
        if std::mem::take(&mut self.stays.other) {
            self.forget_server_state();
            self.state_lost = true;
        }
        if self.stays.listens.is_empty() {
            return;
        }
        // Listening begins again at once: the client may never send anything.
        if let Ok(mut lease) = self.leader_lease().await
            && let Ok(None) = lease.drain().await
        {
            self.held = Some(lease);
        }
    }

    /// What lived in a server's session is gone: temporary tables do not hide others any more.
    fn forget_server_state(&mut self) {
        let mut scope = (*self.scope).clone();
        scope.temp_tables.clear();
        self.scope = Arc::new(scope);
    }

    /// The company of sessions with the same user and settings; its settings become this one's, so
    /// that equal ones are one.
    fn company(&mut self) -> Arc<group::Company<P::Work>> {
        if let Some(company) = &self.company
            && Arc::ptr_eq(&company.settings, &self.settings)
        {
            return company.clone();
        }
        let company = self.shared.groups.company(&self.user, &self.settings);
        self.settings = company.settings.clone();
        self.company = Some(company.clone());
        company
    }

    /// The counters of a kind of statement.
    fn figures(&mut self, tag: &'static str) -> &StatementMetrics {
        let metrics = &self.shared.metrics;
        self.figures.entry(tag).or_insert_with(|| metrics.statements(tag))
    }

    /// The state of the transaction, as the client is told about it.
    fn state(&self) -> TxState {
        match &self.tx {
            None => TxState::Idle,
            Some(tx) if tx.failed => TxState::Failed,
            Some(_) => TxState::Open,
        }
    }

    /// The isolation level of transactions that do not choose one.
    fn default_isolation(&self) -> Isolation {
        settings::default_isolation(&self.settings, &P::MANNERS)
    }

    /// Waits while no backend is active, up to the limit.
    async fn wait_serving(&self) -> Result<(), Stop> {
        use crate::cluster::Phase;
        if self.shared.keeper.glance().phase == Phase::Serving {
            return Ok(());
        }
        if self.shared.keeper.wait_serving(self.shared.settings().hold).await {
            Ok(())
        } else {
            Err(leader::unavailable().into())
        }
    }
}

/// As PostgreSQL's own limit of that name ends a session: drivers know it.
fn fell_silent() -> Failure {
    let what = "terminating connection due to idle-in-transaction timeout";
    Failure::new(Kind::Shutdown, what)
        .code("25P03")
        .hint("raise `[timeouts] idle_in_transaction`, or end transactions sooner")
}

/// Holds what a server said unasked until it can be handed on.
#[derive(Debug, Default)]
struct Unasked {
    messages: bytes::BytesMut,
    reports: Vec<(String, String)>,
}

impl crate::exchange::Sink for Unasked {
    fn buffer(&mut self) -> &mut bytes::BytesMut {
        &mut self.messages
    }

    fn report(&mut self, name: &str, value: &str) {
        self.reports.push((name.to_owned(), value.to_owned()));
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    fn limit(&self) -> usize {
        usize::MAX
    }

    fn flushes(&self) -> u64 {
        0
    }
}
