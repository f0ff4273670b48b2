//! Listening, letting clients in, and the signals of the process.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::front::Front;
use super::{Levers, Surroundings, build};
use crate::client::pg::not_here;
use crate::cluster::{Claim, Phase};
use crate::config::{AuthMethod, Config, User};
use crate::console;
use crate::error::{Failure, Kind};
use crate::keeper::now_ms;
use crate::net::Stream;
use crate::session::{Pass, Shared};
use crate::sql::Entry;

/// The database whose name opens the console.
pub(super) const CONSOLE: &str = "lockstep";

/// What every client's task needs.
pub(super) struct House<P: Front> {
    pub(super) shared: Arc<Shared<P>>,
    pub(super) door: arc_swap::ArcSwap<P::Door>,
    pub(super) common: P::Common,
    pub(super) config: Arc<arc_swap::ArcSwap<Config>>,
    pub(super) levers: Arc<Levers>,
    pub(super) stop: CancellationToken,
    /// Somebody has come who could be served here while another proxy writes.
    pub(super) near_wanted: AtomicBool,
    around: Surroundings,
}

impl<P: Front> House<P> {
    pub(super) fn new(
        shared: Arc<Shared<P>>,
        door: P::Door,
        common: P::Common,
        config: Config,
        around: Surroundings,
    ) -> Arc<Self> {
        let handover = console::Handover {
            lone: config.proxy.is_lone(),
            takeover_after: config.proxy.takeover_after,
            console: CONSOLE,
        };
        let config = Arc::new(arc_swap::ArcSwap::from_pointee(config));
        Arc::new_cyclic(|house: &Weak<Self>| {
            let reloading = house.clone();
            let reload = move || {
                let house = reloading.upgrade();
                let gone = || Err("the proxy is stopping".to_owned());
                let reloaded = house.map_or_else(gone, |house| house.reload());
                Box::pin(async { reloaded }) as console::Reloading
            };
            let listed = config.clone();
            let levers = console::Levers::new(
                Box::new(reload),
                around.stop.clone(),
                around.level.clone(),
                Box::new(move || listed.load().settings()),
                handover,
            );
            Self {
                shared,
                door: arc_swap::ArcSwap::from_pointee(door),
                common,
                config,
                levers: Arc::new(levers),
                stop: around.stop.clone(),
                near_wanted: AtomicBool::new(false),
                around,
            }
        })
    }

    /// Which proxy writes, where it is another one that serves a database. The console is everybody's own.
    pub(super) fn stands_by(&self, database: &str) -> Option<String> {
        let keeper = &self.shared.keeper;
        let away = keeper.view().phase == Phase::Standby && database != CONSOLE;
        away.then(|| (*keeper.writer()).clone())
    }

    /// Whoever is in the list of clients by now ends with the role, or moves with it; who has come too late for that would be
    /// left behind.
    pub(super) fn is_still_served(&self, database: &str, near: bool) -> Result<(), Failure> {
        match self.stands_by(database) {
            Some(writer) if !near => Err(not_here(&writer)),
            _ => Ok(()),
        }
    }

    /// A session's right to be there, where that depends on a lease, or on the proxy that it has come to.
    pub(super) async fn pass(
        &self,
        number: u32,
        claim: Result<Option<Claim>, Failure>,
        reads: bool,
    ) -> Result<Option<Pass>, Failure> {
        if reads {
            let why = "the proxy that the session came to stands by, and lets it read only";
            return Ok(Some(Pass::reader(&self.shared.leases, number, why)));
        }
        let Some(claim) = claim? else { return Ok(None) };
        let hold = self.shared.settings().hold;
        self.shared.leases.admit(number, &claim, hold).await.map(Some)
    }

    /// While the role is handed over, whoever comes waits until it is known who serves: for a moment only, and learns
    /// at the login what is the matter then.
    pub(super) async fn wait_while_unknown(&self) {
        let keeper = &self.shared.keeper;
        let limit = self.config.load().proxy.takeover_after;
        let known = async {
            loop {
                let changed = keeper.next_change();
                let standby = keeper.view().phase == Phase::Standby;
                let nobody = standby && keeper.writer().is_empty() && keeper.obstacle().is_empty();
                if !nobody && !keeper.is_retiring() {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(limit, known).await.is_err() {
            tracing::debug!("a client waited in vain for a proxy that writes");
        }
    }

    /// Reads the configuration again and takes over what can change while running.
    fn reload(&self) -> Result<String, String> {
        let Some(file) = &self.around.file else {
            return Err("there is no configuration file to read again".into());
        };
        let new = Config::load(file).map_err(|e| e.to_string())?;
        let (next, changes) = self.config.load().reloaded(new);
        self.door.store(Arc::new(P::door(&next, &self.common)?));
        P::renew(&next, &self.common);
        self.shared.current.store(Arc::new((&next).into()));
        for (backend, settings) in self.shared.backends.iter().zip(&next.backends) {
            backend.set_weight(settings.weight);
            backend.set_limits(build::pool_limits(&next));
        }
        if let Some(level) = &self.around.level {
            level.set(&next.log.level).map_err(|e| e.to_string())?;
        }
        self.config.store(Arc::new(next));
        // A new user's role may have been made on the servers themselves.
        self.shared.catalogs.outdate();
        let shared = self.shared.clone();
        tokio::spawn(async move { shared.reload_catalog().await });
        Ok(changes.to_string())
    }
}

/// Opens the listening sockets.
pub(super) async fn bind<P: Front>(config: &Config) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    let (key, addresses) = P::listen(config);
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|e| format!("[cluster] {key} {address}: {e}"))?);
    }
    Ok(listeners)
}

/// Lets clients in until told to stop.
pub(super) async fn accept<P: Front>(
    house: Arc<House<P>>,
    listener: TcpListener,
    clients: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                Stream::tune(&tcp, house.config.load().timeouts.dead_after);
                clients.spawn(P::visit(house.clone(), tcp, peer));
            }
            Err(error) => {
                // Out of descriptors, most likely: those inside may leave meanwhile.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whether a client that has proved who it is may come in.
///
/// # Errors
/// With what it is told, when it may not.
pub(super) fn admit<P: Front>(
    house: &House<P>,
    user: &str,
    database: &str,
    near: bool,
) -> Result<(), Failure> {
    let config = house.config.load();
    let full = |what: String| Failure::new(Kind::TooManyConnections, what);
    if house.shared.registry.count(None) >= config.limits.max_clients {
        return Err(full("sorry, too many clients already".into()));
    }
    let known = config.users.iter().find(|u| u.name == user);
    if let Some(most) = known.and_then(|u| u.max_connections)
        && house.shared.registry.count(Some(user)) >= most as usize
    {
        return Err(full(format!("too many connections for role \"{user}\"")));
    }
    house.is_still_served(database, near)?;
    if database == CONSOLE {
        if !config.may_use_console(user) {
            let what = format!("user \"{user}\" may not use the console");
            return Err(Failure::new(Kind::Refused, what)
                .code("42501")
                .number(1044)
                .hint("add the user to `[cluster] console_users`"));
        }
        return Ok(());
    }
    let Some(known) = known else {
        let what = format!("user \"{user}\" is not in the configuration");
        return Err(Failure::new(Kind::Refused, what)
            .code("28000")
            .number(1045)
            .hint(format!("the administrator may use the console only: database \"{CONSOLE}\"")));
    };
    if database != config.cluster.database {
        let what = format!("database \"{database}\" does not exist");
        return Err(Failure::new(Kind::Refused, what)
            .code(P::NO_DATABASE.1)
            .number(P::NO_DATABASE.0)
            .hint(format!(
                "this cluster serves \"{}\"; the console is \"{CONSOLE}\"",
                config.cluster.database
            )));
    }
    enter_as(house, &config, known)
}

/// Whether the servers themselves would let this user in: a connection that is open already would
/// serve a role that has been closed, has expired or is gone.
fn enter_as<P: Front>(house: &House<P>, config: &Config, user: &User) -> Result<(), Failure> {
    let leader = house.shared.keeper.view().leader();
    let credentials =
        leader.and_then(|leader| config.credentials_of(&config.backends[leader], &user.name));
    let Some(role) = credentials.map(|credentials| credentials.user) else {
        return Ok(());
    };
    let refused = |code, what| Err(Failure::new(Kind::Refused, what).code(code).number(1045));
    match house.shared.catalogs.entry(&role) {
        Entry::Open => Ok(()),
        Entry::Closed => refused("28000", format!("role \"{role}\" is not permitted to log in")),
        Entry::Unknown => refused("28000", format!("role \"{role}\" does not exist")),
        Entry::Until(end) => {
            let now = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
            // As on the servers: only who proves himself by a password is asked for a good one.
            let trusted = user.auth.unwrap_or(config.cluster.auth) == AuthMethod::Trust;
            if trusted || now < end {
                return Ok(());
            }
            refused("28P01", format!("password authentication failed for user \"{}\"", user.name))
        }
    }
}

/// SIGHUP reloads, SIGTERM and SIGINT stop.
pub(super) async fn signals<P: Front>(house: Arc<House<P>>, end: CancellationToken) {
    let streams = (
        signal(SignalKind::hangup()),
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt)) = streams else {
        tracing::warn!("signals cannot be received; use the console to stop or reload");
        return;
    };
    loop {
        let reload = tokio::select! {
            biased;
            () = end.cancelled() => return,
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            _ = hangup.recv() => true,
        };
        if !reload {
            house.stop.cancel();
            // Nobody may be kept waiting by a pause while the proxy drains.
            house.levers.resume().await;
            continue;
        }
        match house.reload() {
            Ok(what) => tracing::info!(%what, "configuration read again"),
            Err(why) => tracing::error!(%why, "the configuration was not taken over"),
        }
    }
}
