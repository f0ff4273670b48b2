//! Listening, letting clients in, and the signals of the process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Levers, Pg, Surroundings, build};
use crate::backend::pg::Logins;
use crate::backend::{CheckoutError, ConnectError, Purpose};
use crate::client::pg::{Door, Greeting, Knock};
use crate::config::Config;
use crate::console;
use crate::error::{Failure, Kind};
use crate::exchange::{Client, Link, Settings};
use crate::keeper::now_ms;
use crate::net::Stream;
use crate::session::{Login, Session, SessionInfo, Shared, startup_statement};

/// The database whose name opens the console.
const CONSOLE: &str = "lockstep";

/// Settings of a start-up message that change nothing about what a server reports of itself.
const PLAIN: [&str; 2] = ["application_name", "extra_float_digits"];

/// What every client's task needs.
pub(super) struct House {
    shared: Arc<Shared<Pg>>,
    door: arc_swap::ArcSwap<Door>,
    config: Arc<arc_swap::ArcSwap<Config>>,
    levers: Arc<Levers>,
    stop: CancellationToken,
    /// What the servers report to a client without settings of its own, by user.
    reported: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    around: Surroundings,
    logins: Vec<Arc<Logins>>,
}

impl House {
    pub(super) fn new(
        shared: Arc<Shared<Pg>>,
        door: Door,
        config: Config,
        around: Surroundings,
        logins: Vec<Arc<Logins>>,
    ) -> Arc<Self> {
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
            );
            Self {
                shared,
                door: arc_swap::ArcSwap::from_pointee(door),
                config,
                levers: Arc::new(levers),
                stop: around.stop.clone(),
                reported: Mutex::default(),
                around,
                logins,
            }
        })
    }

    /// Reads the configuration again and takes over what can change while running.
    fn reload(&self) -> Result<String, String> {
        let Some(file) = &self.around.file else {
            return Err("there is no configuration file to read again".into());
        };
        let new = Config::load(file).map_err(|e| e.to_string())?;
        let (next, changes) = self.config.load().reloaded(new);
        let statements = self.door.load().statements.clone();
        self.door.store(Arc::new(build::door(&next, statements)?));
        for (backend, settings) in self.shared.backends.iter().zip(&next.backends) {
            backend.set_weight(settings.weight);
        }
        for (logins, backend) in self.logins.iter().zip(&next.backends) {
            logins.store(Arc::new(build::logins_of(&next, backend)));
        }
        self.shared.current.store(Arc::new((&next).into()));
        if let Some(level) = &self.around.level {
            level.set(&next.log.level).map_err(|e| e.to_string())?;
        }
        self.config.store(Arc::new(next));
        Ok(changes.to_string())
    }
}

/// Opens the listening sockets.
pub(super) async fn bind(config: &Config) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for address in &config.cluster.postgres_listen {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|e| format!("[cluster] postgres_listen {address}: {e}"))?);
    }
    Ok(listeners)
}

/// Lets clients in until told to stop.
pub(super) async fn accept(
    house: Arc<House>,
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
                clients.spawn(visit(house.clone(), tcp, peer));
            }
            Err(error) => {
                // Out of descriptors, most likely: those inside may leave meanwhile.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn visit(house: Arc<House>, tcp: TcpStream, peer: SocketAddr) {
    let door = house.door.load_full();
    match door.open(tcp, peer).await {
        Knock::Nobody => house.shared.metrics.client_rejections.inc(),
        Knock::Cancel { number, secret } => {
            if let Some(canceller) = house.shared.registry.canceller(number, &secret) {
                crate::backend::pg::PgLink::cancel(&canceller).await;
            }
        }
        Knock::Client(greeting) => enter(&house, *greeting).await,
    }
}

async fn enter(house: &Arc<House>, mut greeting: Greeting) {
    if let Err(refusal) = admit(house, &greeting) {
        house.shared.metrics.client_rejections.inc();
        greeting.client.close(&refusal).await;
        return;
    }
    house.shared.metrics.client_connections.inc();
    let secret: [u8; 4] = rand::random();
    let setting = |key: &str| {
        let found = greeting.settings.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let info = SessionInfo {
        user: greeting.user.clone(),
        database: greeting.database.clone(),
        address: greeting.peer.to_string(),
        application: setting("application_name"),
        since_ms: now_ms(),
    };
    let (number, slot) = house.shared.registry.add(secret.to_vec(), info);
    let console = greeting.database == CONSOLE;
    let Greeting { mut client, user, settings, .. } = greeting;
    if console {
        let reported = [
            ("server_version", "15.0 (lockstep)"),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("DateStyle", "ISO, MDY"),
        ];
        if client.welcome(reported.into_iter(), number, &secret).await.is_ok() {
            console::serve(house.shared.clone(), house.levers.clone(), client, house.stop.clone())
                .await;
        }
    } else {
        let statements: BTreeMap<String, String> = settings
            .iter()
            .map(|(key, value)| (key.clone(), startup_statement(key, value)))
            .collect();
        let login = Login { user: user.clone(), settings: Settings::new(statements) };
        match reported(house, &user, &settings, &login.settings).await {
            Ok(reported) => {
                let pairs = reported.iter().map(|(k, v)| (k.as_str(), v.as_str()));
                if client.welcome(pairs, number, &secret).await.is_ok() {
                    let shared = house.shared.clone();
                    Session::new(shared, client, login, slot, house.stop.clone()).serve().await;
                }
            }
            Err(failure) => client.close(&failure).await,
        }
    }
    house.shared.registry.remove(number);
}

fn admit(house: &House, greeting: &Greeting) -> Result<(), Failure> {
    let config = house.config.load();
    let full = |what: String| Failure::new(Kind::TooManyConnections, what);
    if house.shared.registry.count(None) >= config.limits.max_clients {
        return Err(full("sorry, too many clients already".into()));
    }
    let user = config.users.iter().find(|u| u.name == greeting.user);
    if let Some(most) = user.and_then(|u| u.max_connections)
        && house.shared.registry.count(Some(&greeting.user)) >= most as usize
    {
        return Err(full(format!("too many connections for role \"{}\"", greeting.user)));
    }
    if greeting.database == CONSOLE {
        if !config.may_use_console(&greeting.user) {
            let what = format!("user \"{}\" may not use the console", greeting.user);
            return Err(Failure::new(Kind::Refused, what)
                .code("42501")
                .hint("add the user to `[cluster] console_users`"));
        }
        return Ok(());
    }
    if user.is_none() {
        let what = format!("user \"{}\" is not in the configuration", greeting.user);
        return Err(Failure::new(Kind::Refused, what)
            .code("28000")
            .hint(format!("the administrator may use the console only: database \"{CONSOLE}\"")));
    }
    if greeting.database != config.cluster.database {
        let what = format!("database \"{}\" does not exist", greeting.database);
        return Err(Failure::new(Kind::Refused, what).code("3D000").hint(format!(
            "this cluster serves \"{}\"; the console is \"{CONSOLE}\"",
            config.cluster.database
        )));
    }
    Ok(())
}

/// What a server reports to a client with these settings. Asked of a server only when it is not
/// known yet, or when the settings can change it.
async fn reported(
    house: &House,
    user: &str,
    chosen: &[(String, String)],
    settings: &Settings,
) -> Result<BTreeMap<String, String>, Failure> {
    if chosen.iter().all(is_plain) {
        let known =
            house.reported.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned();
        if let Some(mut known) = known {
            let name = chosen.iter().find(|(key, _)| key == "application_name");
            let name = name.map(|(_, value)| value.clone()).unwrap_or_default();
            known.insert("application_name".into(), name);
            return Ok(known);
        }
    }
    let hold = house.shared.settings().hold;
    let started = tokio::time::Instant::now();
    while started.elapsed() < hold {
        if !house.shared.keeper.wait_serving(hold).await {
            break;
        }
        let Some(leader) = house.shared.keeper.view().leader() else {
            continue;
        };
        let backend = &house.shared.backends[leader];
        let generation = backend.generation();
        let lease = backend.pool(user, Purpose::Write).checkout().await;
        let mut lease = match lease {
            Ok(lease) => lease,
            Err(error) => {
                let why = refused_login(error, &backend.name)?;
                house.shared.keeper.lost(leader, generation, why, false).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        lease.adopt(settings);
        match lease.drain().await {
            Ok(None) => {
                let parameters = lease.parameters().clone();
                lease.release();
                if chosen.iter().all(is_plain) {
                    let mut known = house.reported.lock().unwrap_or_else(PoisonError::into_inner);
                    known.insert(user.to_owned(), parameters.clone());
                }
                return Ok(parameters);
            }
            Ok(Some(error)) => {
                return Err(Failure::new(
                    Kind::Refused,
                    format!("a start-up setting was refused: {error}"),
                )
                .code("22023"));
            }
            Err(broken) => {
                house.shared.keeper.lost(leader, generation, broken.to_string(), false).await;
            }
        }
    }
    Err(Failure::new(Kind::Unavailable, "no database is active")
        .hint("the administrator sees the reasons with SHOW BACKENDS on the console"))
}

/// Whether a start-up setting changes nothing about what a server reports.
fn is_plain((key, value): &(String, String)) -> bool {
    const UTF8: [&str; 5] = ["UTF8", "utf8", "UTF-8", "utf-8", "'utf-8'"];
    PLAIN.contains(&key.as_str()) || (key == "client_encoding" && UTF8.contains(&value.as_str()))
}

/// Tells a backend that cannot be reached, whose cause is returned, from one that refuses.
fn refused_login(error: CheckoutError, backend: &str) -> Result<String, Failure> {
    match error {
        CheckoutError::Busy(limit) => Err(CheckoutError::no_room(limit)),
        CheckoutError::Connect(ConnectError::Refused { code, message }) => Err(Failure::new(
            Kind::Refused,
            message,
        )
        .detail(format!(
            "backend {backend} refuses the login ({code}); `lockstep check` names what is missing"
        ))),
        CheckoutError::Connect(error) => Ok(error.to_string()),
    }
}

/// SIGHUP reloads, SIGTERM and SIGINT stop.
pub(super) async fn signals(house: Arc<House>, end: CancellationToken) {
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
