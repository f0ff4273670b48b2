//! PostgreSQL's side of the glue.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_protocol::Dialect;
use tokio::net::TcpStream;

use super::forward;
use super::front::Front;
use super::house::{CONSOLE, House, admit};
use super::moving::{self, Person, Seat, Traveller};
use super::moving_pg;
use crate::backend::pg::{Login as LinkLogin, Logins, PgDial, PgLink, Route, Shared as LinkShared};
use crate::backend::{CheckoutError, ConnectError, Dial};
use crate::catalog::Catalogs;
use crate::client::pg::{Bounds, Door, Greeting, Knock, Known, PgClient};
use crate::config::{self, Config, Live};
use crate::console;
use crate::control::{Address, PgControl};
use crate::error::{Failure, Kind};
use crate::exchange::{Client, Link, Manners, Protocol, Settings};
use crate::keeper::Control;
use crate::session::{CONSISTENCY, Carried, Login, Said, consistency_of, startup_statement};
use crate::sql::Isolation;
use crate::store::agents::AgentTables;
use crate::tls::{BackendConnector, ServerTls};
use crate::wire::pg::{PgWork, Statements};

/// Settings of a start-up message that change nothing about what a server reports of itself.
const PLAIN: [&str; 2] = ["application_name", "extra_float_digits"];

/// PostgreSQL, on both sides.
pub struct Pg;

impl Protocol for Pg {
    type Work = PgWork;
    type Client = PgClient;
    type Link = PgLink;
    const MANNERS: Manners = Manners {
        error_fails_transaction: true,
        batch_is_transaction: true,
        settings_outlast: false,
        lone_savepoints: false,
        locks_tables: false,
        shares_in_parts: false,
        kept_by_reset: &[],
        isolation_keys: &["default_transaction_isolation"],
        isolation: Isolation::ReadCommitted,
    };
}

/// What door and connections have in common.
pub(super) struct Common {
    statements: Arc<Statements>,
    links: Arc<LinkShared>,
    /// How users log in on each backend.
    logins: Vec<Arc<Logins>>,
    /// What the servers report to a client without settings of its own, by user.
    reported: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
}

impl Front for Pg {
    const DIALECT: Dialect = Dialect::Postgres;
    const NO_DATABASE: (u16, &'static str) = (1049, "3D000");
    type Common = Common;
    type Door = Door;

    fn listen(config: &Config) -> (&'static str, &[SocketAddr]) {
        ("postgres_listen", &config.cluster.postgres_listen)
    }

    fn agent_tables(_: &Config) -> AgentTables {
        AgentTables::postgres()
    }

    fn common(config: &Config, live: &Arc<Live>, catalogs: Arc<Catalogs>, token: &str) -> Common {
        let statements = Arc::new(Statements::new(live.clone(), catalogs));
        let links = Arc::new(LinkShared {
            statements: statements.clone(),
            token: token.to_owned(),
            live: live.clone(),
        });
        let logins = config.backends.iter().map(|backend| logins_of(config, backend));
        let logins = logins.map(|logins| Arc::new(Logins::from_pointee(logins))).collect();
        Common { statements, links, logins, reported: Mutex::default() }
    }

    fn dial(
        config: &Config,
        index: usize,
        common: &Common,
        started: Arc<Mutex<String>>,
    ) -> Result<Box<dyn Dial<PgLink>>, String> {
        let backend = &config.backends[index];
        let tls = BackendConnector::new(&backend.tls, &backend.host)
            .map_err(|e| format!("backend {}: {e}", backend.name))?;
        let route = Arc::new(Route {
            host: backend.host.clone(),
            port: backend.port,
            tls,
            live: common.links.live.clone(),
        });
        let (shared, logins) = (common.links.clone(), common.logins[index].clone());
        Ok(Box::new(PgDial { route, shared, logins, started }))
    }

    fn renew(config: &Config, common: &Common) {
        common.links.live.renew(config.into());
        for (logins, backend) in common.logins.iter().zip(&config.backends) {
            logins.store(Arc::new(logins_of(config, backend)));
        }
    }

    fn control(
        config: &Config,
        backend: &config::Backend,
        live: &Arc<Live>,
    ) -> Result<Arc<dyn Control>, String> {
        Ok(Arc::new(PgControl::new(Address::of(config, backend)?, live.clone())))
    }

    fn door(config: &Config, common: &Common) -> Result<Door, String> {
        let tls = match &config.client_tls {
            Some(files) => {
                let tls = ServerTls::load(files).map_err(|e| e.to_string())?;
                Some((Arc::new(tls), files.required))
            }
            None => None,
        };
        let known = |user: &config::User| Known {
            method: user.auth.unwrap_or(config.cluster.auth),
            password: user.password.clone(),
            verifier: Door::verifier(user.password.reveal()),
        };
        let mut users: HashMap<String, Known> =
            config.users.iter().map(|user| (user.name.clone(), known(user))).collect();
        // The administrator has a way in to the console, and only there.
        let admin = config::User {
            name: config.admin.user.clone(),
            password: config.admin.password.clone(),
            max_connections: None,
            auth: None,
        };
        users.entry(admin.name.clone()).or_insert_with(|| known(&admin));
        Ok(Door {
            tls,
            users,
            method: config.cluster.auth,
            secret: rand::random(),
            timeout: config.timeouts.login,
            max_startup: config.limits.max_startup_bytes,
            bounds: Bounds {
                message: config.limits.max_message_bytes,
                prepared: config.limits.max_prepared_per_client,
                reply: config.limits.reply_buffer_bytes,
            },
            statements: common.statements.clone(),
        })
    }

    async fn visit(house: Arc<House<Self>>, tcp: TcpStream, peer: SocketAddr) {
        house.wait_while_unknown().await;
        let door = house.door.load_full();
        match door.open(tcp, peer, &*house).await {
            Knock::Nobody => house.shared.metrics.client_rejections.inc(),
            Knock::Forward(passage) => forward::pass(&house, *passage).await,
            Knock::Arrival(arrival) => moving_pg::arrive(&house, *arrival).await,
            Knock::Cancel { number, secret } => {
                if let Some(canceller) = house.shared.registry.canceller(number, &secret) {
                    PgLink::cancel(&canceller).await;
                } else {
                    forward::cancel(&house, number, &secret).await;
                }
            }
            Knock::Client(greeting) => {
                if let Some(traveller) = enter(&house, *greeting).await {
                    moving::go_on(&house, traveller).await;
                }
            }
        }
    }
}

/// How each user logs in on a backend.
fn logins_of(config: &Config, backend: &config::Backend) -> HashMap<String, LinkLogin> {
    let mut logins = HashMap::new();
    for user in &config.users {
        if let Some(credentials) = config.credentials_of(backend, &user.name) {
            let login = LinkLogin {
                user: credentials.user,
                password: credentials.password,
                database: config.database_of(backend).to_owned(),
                parameters: Vec::new(),
            };
            logins.insert(user.name.clone(), login);
        }
    }
    logins
}

/// Serves a client until it leaves, or until its session is to go on elsewhere.
async fn enter(house: &Arc<House<Pg>>, mut greeting: Greeting) -> Option<Traveller<Pg>> {
    if let Err(refusal) = admit(house, &greeting.user, &greeting.database, greeting.near) {
        house.shared.metrics.client_rejections.inc();
        greeting.client.close(&refusal).await;
        return None;
    }
    house.shared.metrics.client_connections.inc();
    let secret: [u8; 4] = rand::random();
    let mut person = person(&mut greeting, &secret);
    let (number, slot) = house.shared.registry.add(secret.to_vec(), person.info());
    person.number = number;
    if let Err(refusal) = house.is_still_served(&greeting.database, greeting.near) {
        house.shared.registry.remove(number);
        greeting.client.close(&refusal).await;
        return None;
    }
    let pass = match greeting.database.as_str() {
        CONSOLE => Ok(None),
        // Whoever goes on elsewhere is asked there.
        _ if greeting.near => Ok(None),
        _ => {
            let claim = house.shared.leases.claim(&person.user, person.origin.ip(), &person.said);
            house.pass(number, claim, greeting.reads).await
        }
    };
    match pass {
        Ok(_) if greeting.database == CONSOLE => {
            open_console(house, greeting.client, number, secret).await;
        }
        Ok(pass) => {
            let takes_back = greeting.takes_back.clone();
            if let Some(left) = serve(house, greeting, &person, Seat { slot, pass }).await {
                // Its number may come back at any moment: only who has it gives it up.
                return moving::depart(house, left.0, (person, left.1), takes_back).await;
            }
        }
        Err(refusal) => {
            house.shared.metrics.client_rejections.inc();
            greeting.client.close(&refusal).await;
        }
    }
    house.shared.registry.remove(number);
    None
}

/// Whose session it will be, without its number.
fn person(greeting: &mut Greeting, secret: &[u8]) -> Person {
    let mut said = |key: &str| greeting.take_setting(key);
    let said = Said {
        resource: said("lockstep.resource"),
        node: said("lockstep.node"),
        epoch: said("lockstep.epoch"),
    };
    let application = greeting.settings.iter().find(|(name, _)| name == "application_name");
    Person {
        user: greeting.user.clone(),
        database: greeting.database.clone(),
        application: application.map(|(_, value)| value.clone()).unwrap_or_default(),
        origin: greeting.origin.unwrap_or(greeting.peer),
        number: 0,
        secret: secret.to_vec(),
        said,
        attributes: Vec::new(),
        collation: 0,
    }
}

async fn open_console(house: &Arc<House<Pg>>, mut client: PgClient, number: u32, secret: [u8; 4]) {
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
}

/// Serves a client; gives it back with what goes along, where its session is to go on elsewhere.
async fn serve(
    house: &Arc<House<Pg>>,
    mut greeting: Greeting,
    person: &Person,
    seat: Seat<Pg>,
) -> Option<(PgClient, Carried)> {
    let consistency = greeting.take_setting(CONSISTENCY);
    let Greeting { mut client, user, mut settings, reads, origin, takes_back, near, .. } = greeting;
    let consistency = match consistency.as_deref().map(consistency_of).transpose() {
        Ok(consistency) => consistency,
        Err(failure) => {
            client.close(&failure).await;
            return None;
        }
    };
    if seat.pass.as_ref().is_some_and(|pass| !pass.writes()) {
        // Drivers that look for somewhere to write go on from here.
        settings.push(("default_transaction_read_only".to_owned(), "on".to_owned()));
    }
    let statement = |(key, value): &(String, String)| (key.clone(), startup_statement(key, value));
    let statements: BTreeMap<String, String> = settings.iter().map(statement).collect();
    let login = Login {
        user: user.clone(),
        name: user.clone(),
        settings: Settings::new(statements),
        consistency,
    };
    let mut reported = match reported(house, &user, &settings, &login.settings, near).await {
        Ok(reported) => reported,
        Err(failure) => {
            client.close(&failure).await;
            return None;
        }
    };
    if reads {
        reported.insert("in_hot_standby".to_owned(), "on".to_owned());
    }
    let pairs = reported.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    client.welcome(pairs, person.number, &person.secret).await.ok()?;
    let moves = house.moves(origin.is_some(), takes_back.as_ref());
    let session = house.session(client, login, seat, moves).nearby_if(near);
    let (client, carried) = session.serve().await;
    Some((client, carried?))
}

/// What a server reports to a client with these settings. Asked of a server only when it is not
/// known yet, or when the settings can change it.
async fn reported(
    house: &House<Pg>,
    user: &str,
    chosen: &[(String, String)],
    settings: &Settings,
    near: bool,
) -> Result<BTreeMap<String, String>, Failure> {
    if chosen.iter().all(is_plain) {
        let known =
            house.common.reported.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned();
        if let Some(mut known) = known {
            let name = chosen.iter().find(|(key, _)| key == "application_name");
            let name = name.map(|(_, value)| value.clone()).unwrap_or_default();
            known.insert("application_name".into(), name);
            return Ok(known);
        }
    }
    let hold = house.shared.settings().hold;
    let started = tokio::time::Instant::now();
    for turn in 0.. {
        let asked = if near { house.near_place(turn) } else { house.leading_place(hold).await };
        let Some((backend, purpose)) = asked.filter(|_| started.elapsed() < hold) else {
            break;
        };
        let (backend, place) = (&house.shared.backends[backend], backend);
        let generation = backend.generation();
        let lease = backend.pool(user, purpose).checkout().await;
        let mut lease = match lease {
            Ok(lease) => lease,
            Err(error) => {
                let why = refused_login(error, &backend.name)?;
                house.shared.keeper.lost(place, generation, why, false).await;
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
                    let mut known =
                        house.common.reported.lock().unwrap_or_else(PoisonError::into_inner);
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
                house.shared.keeper.lost(place, generation, broken.to_string(), false).await;
            }
        }
    }
    // The role may have gone to another proxy meanwhile.
    house.is_still_served("", near)?;
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
