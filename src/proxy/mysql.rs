//! MySQL's side of the glue.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lockstep_protocol::Dialect;
use lockstep_protocol::mysql::auth::Verifier;
use lockstep_protocol::mysql::handshake::capability;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::forward::{self, Passed};
use super::front::Front;
use super::house::{CONSOLE, House, admit};
use super::moving::{self, Person, Seat, Traveller};
use super::moving_mysql;
use crate::backend::Dial;
use crate::backend::mysql::{
    Login as LinkLogin, Logins, MyDial, MyLink, Route, Shared as LinkShared,
};
use crate::catalog::Catalogs;
use crate::client::mysql::{Bounds, Door, Greeting, Known, MyClient, Who, charset_settings};
use crate::config::{self, AuthMethod, Config, Live};
use crate::console;
use crate::control::mysql::{Address, MyControl};
use crate::error::{Failure, Kind};
use crate::exchange::{Client, Manners, Protocol, Settings};
use crate::hex;
use crate::keeper::{Control, now_ms};
use crate::session::{Carried, Login, Pass, Said, SessionInfo, consistency_of};
use crate::sql::Isolation;
use crate::store::agents::AgentTables;
use crate::store::mysql::schema::RECORD_SQL;
use crate::tls::{BackendConnector, ServerTls};
use crate::wire::mysql::{MyWork, Statements, identity};

/// MySQL's protocol, on both sides.
pub struct MySql;

impl Protocol for MySql {
    type Work = MyWork;
    type Client = MyClient;
    type Link = MyLink;
    const MANNERS: Manners = Manners {
        error_fails_transaction: false,
        batch_is_transaction: false,
        settings_outlast: true,
        lone_savepoints: true,
        locks_tables: true,
        shares_in_parts: true,
        kept_by_reset: &["use"],
        isolation_keys: &["default_transaction_isolation"],
        isolation: Isolation::RepeatableRead,
    };
}

/// What door and connections have in common.
pub(super) struct Common {
    statements: Arc<Statements>,
    links: Arc<LinkShared>,
    /// How users log in on each backend.
    logins: Vec<Arc<Logins>>,
}

impl Front for MySql {
    const DIALECT: Dialect = Dialect::MySql;
    const NO_DATABASE: (u16, &'static str) = (1049, "42000");
    type Common = Common;
    type Door = Door;

    fn listen(config: &Config) -> (&'static str, &[SocketAddr]) {
        ("mysql_listen", &config.cluster.mysql_listen)
    }

    fn agent_tables(config: &Config) -> AgentTables {
        AgentTables::mysql(&config.cluster.database)
    }

    fn common(config: &Config, live: &Arc<Live>, catalogs: Arc<Catalogs>, token: &str) -> Common {
        let statements = Arc::new(Statements::new(live.clone(), catalogs));
        let links = Arc::new(LinkShared {
            statements: statements.clone(),
            record: statements.intern(RECORD_SQL),
            token: token.to_owned(),
            guarded: true,
            version: Arc::default(),
            live: live.clone(),
        });
        let logins = config.backends.iter().map(|backend| logins_of(config, backend));
        let logins = logins.map(|logins| Arc::new(Logins::from_pointee(logins))).collect();
        Common { statements, links, logins }
    }

    fn dial(
        config: &Config,
        index: usize,
        common: &Common,
        started: Arc<Mutex<String>>,
    ) -> Result<Box<dyn Dial<MyLink>>, String> {
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
        Ok(Box::new(MyDial { route, shared, logins, started }))
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
        Ok(Arc::new(MyControl::new(Address::of(config, backend), live.clone())))
    }

    fn door(config: &Config, common: &Common) -> Result<Door, String> {
        let tls = match &config.client_tls {
            Some(files) => {
                let tls = ServerTls::load(files).map_err(|e| e.to_string())?;
                Some((Arc::new(tls), files.required))
            }
            None => None,
        };
        let known = |auth: Option<AuthMethod>, password: &config::Secret| Known {
            verifier: Verifier::new(password.reveal()),
            trusted: auth.unwrap_or(config.cluster.auth) == AuthMethod::Trust,
        };
        let users = config.users.iter();
        let mut users: HashMap<String, Known> =
            users.map(|user| (user.name.clone(), known(user.auth, &user.password))).collect();
        // The administrator has a way in to the console, and only there.
        users
            .entry(config.admin.user.clone())
            .or_insert_with(|| known(None, &config.admin.password));
        Ok(Door {
            tls,
            users,
            method: None,
            version: common.links.version.clone(),
            secret: rand::random(),
            timeout: config.timeouts.login,
            max_login: config.limits.max_startup_bytes,
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
        // The number comes with the very first packet, before anybody knows who it is.
        let number = house.shared.registry.reserve();
        let door = house.door.load_full();
        match door.open(tcp, peer, number).await {
            Some(greeting) => {
                let number = renumbered(&house, &greeting, number);
                let left = enter(&house, greeting, number).await;
                house.shared.registry.remove(number);
                if let Some(traveller) = left {
                    moving::go_on(&house, traveller).await;
                }
            }
            None => {
                house.shared.metrics.client_rejections.inc();
                house.shared.registry.remove(number);
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
                found_rows: false,
            };
            logins.insert(user.name.clone(), login);
        }
    }
    logins
}

/// A client that comes by way of another proxy keeps the number that it was told there.
fn renumbered(house: &House<MySql>, greeting: &Greeting, number: u32) -> u32 {
    let said = |key: &str| greeting.who.attributes.iter().find(|(name, _)| name == key);
    let there = said(forward::FORWARDED).and_then(|_| said(forward::NUMBER)?.1.parse().ok());
    there.map_or(number, |there| house.shared.registry.renumber(number, there))
}

/// A client on one connection, whoever it becomes there.
pub(super) struct Guest {
    who: Who,
    number: u32,
    found_rows: bool,
    /// Where it comes from itself.
    origin: SocketAddr,
    /// It came by way of another proxy.
    forwarded: bool,
    /// Whoever it becomes on this connection, it may do no more than the proxy that it came to allows.
    reads: bool,
    /// The proxy that it came by takes it back, with a proof about this.
    takes_back: Option<Bytes>,
    /// It is served here as long as it only reads, although another proxy writes.
    near: bool,
}

impl Guest {
    fn of(greeting: &Greeting, number: u32) -> Self {
        let said = |key: &str| {
            let found = greeting.who.attributes.iter().find(|(name, _)| name == key);
            found.map(|(_, value)| value)
        };
        let forwarded = said(forward::FORWARDED);
        let origin = forwarded.and_then(|address| address.parse().ok());
        let takes_back = forwarded.and_then(|_| said(forward::TAKES_BACK));
        Self {
            who: greeting.who.clone(),
            number,
            found_rows: greeting.found_rows,
            origin: origin.unwrap_or(greeting.peer),
            forwarded: forwarded.is_some(),
            reads: said(forward::READS).is_some(),
            takes_back: takes_back
                .and_then(|digits| hex::decode(digits.as_bytes()))
                .map(Into::into),
            near: false,
        }
    }

    /// One whose session goes on here.
    pub(super) fn moved(person: Person, capabilities: u32, takes_back: Option<Bytes>) -> Self {
        let Person { user, database, application, origin, number, attributes, collation, .. } =
            person;
        let database = Some(database);
        Self {
            who: Who { user, database, collation, application, attributes },
            number,
            found_rows: capabilities & capability::FOUND_ROWS != 0,
            origin,
            forwarded: takes_back.is_some(),
            reads: false,
            takes_back,
            near: false,
        }
    }

    fn login(&self, settings: Settings) -> Login {
        let user = identity::of(&self.who.user, self.found_rows);
        let consistency = forward::consistency_said(&self.who).and_then(config::Consistency::of);
        Login { user, name: self.who.user.clone(), settings, consistency }
    }

    fn person(&self, house: &House<MySql>) -> Person {
        let Who { user, collation, application, attributes, .. } = self.who.clone();
        Person {
            user,
            database: database_of(house, &self.who),
            application,
            origin: self.origin,
            number: self.number,
            secret: Vec::new(),
            said: said(&attributes),
            attributes: attributes
                .into_iter()
                .filter(|(name, _)| !forward::is_ours(name))
                .collect(),
            collation,
        }
    }
}

/// Serves a client to the end, or until its session is to go on elsewhere.
async fn enter(
    house: &Arc<House<MySql>>,
    greeting: Greeting,
    number: u32,
) -> Option<Traveller<MySql>> {
    let (greeting, near) = match forward::pass_mysql(house, greeting, number).await {
        Passed::Not(greeting) => (*greeting, false),
        Passed::Near(greeting) => (*greeting, true),
        Passed::Through(back) => return back.map(|traveller| *traveller),
    };
    let guest = Guest { near, ..Guest::of(&greeting, number) };
    let mut client = greeting.client;
    let goes_on = greeting.who.attributes.iter().any(|(name, _)| name == forward::GOES_ON);
    let settings = match admitted(house, &guest.who, near) {
        Ok(settings) => settings,
        Err(refusal) => {
            house.shared.metrics.client_rejections.inc();
            client.close(&refusal).await;
            return None;
        }
    };
    if let Some(takes_back) = guest.takes_back.clone().filter(|_| goes_on) {
        moving_mysql::arrive(house, Greeting { client, ..greeting }, takes_back).await;
        return None;
    }
    house.shared.metrics.client_connections.inc();
    stay(house, client, guest, settings, None).await
}

/// Serves a client to the end, also where it goes on as somebody else in between, or until its session is to go on
/// elsewhere. What another proxy has served so far has its place already.
pub(super) async fn stay(
    house: &Arc<House<MySql>>,
    mut client: MyClient,
    mut guest: Guest,
    mut settings: Settings,
    mut moved: Option<(Seat<MySql>, Carried)>,
) -> Option<Traveller<MySql>> {
    let number = guest.number;
    let mut greeted = moved.is_some();
    loop {
        let database = database_of(house, &guest.who);
        let (seat, carried) = match moved.take() {
            Some((seat, carried)) => (seat, Some(carried)),
            None => match seated(house, &guest).await {
                Ok(seat) => (seat, None),
                Err(refusal) => {
                    house.shared.metrics.client_rejections.inc();
                    client.close(&refusal).await;
                    return None;
                }
            },
        };
        if !std::mem::replace(&mut greeted, true) {
            client.welcome(number, &database).await.ok()?;
        }
        let login = guest.login(settings);
        let ends = (seat.slot.ended().clone(), seat.slot.hangup().clone());
        let moves = house.moves(guest.forwarded, guest.takes_back.as_ref());
        let left;
        let begins = (login, moves, guest.near);
        (client, left) = serve(house, client, begins, (seat, carried), &database).await;
        if let Some(carried) = left {
            let person = guest.person(house);
            return moving::depart(house, client, (person, carried), guest.takes_back).await;
        }
        if ends.0.is_cancelled() || ends.1.is_cancelled() {
            return None;
        }
        let parting = client.parting()?;
        house.shared.registry.vacate(number);
        let door = house.door.load_full();
        let (next, wanted) = door.change(parting, guest.origin).await?;
        client = next;
        let wanted = wanted.and_then(|wanted| {
            let settings = admitted(house, &wanted, guest.near)?;
            Ok((wanted, settings))
        });
        // Whoever may not be whom it wants to be stays whom it was, in a session without a past.
        match wanted {
            Ok(other) => {
                (guest.who, settings) = other;
                greeted = false;
            }
            Err(refusal) => {
                house.shared.metrics.client_rejections.inc();
                let stays = admitted(house, &guest.who, guest.near);
                client.keep(number, &refusal).await.ok()?;
                settings = match stays {
                    Ok(settings) => settings,
                    Err(refusal) => {
                        client.close(&refusal).await;
                        return None;
                    }
                };
            }
        }
    }
}

/// The place of a session that begins.
async fn seated(house: &House<MySql>, guest: &Guest) -> Result<Seat<MySql>, Failure> {
    let Guest { who, number, origin, reads, .. } = guest;
    let slot = house.shared.registry.enter(*number, Vec::new(), info(house, who, *origin));
    house.is_still_served(&database_of(house, who), guest.near)?;
    // Whoever goes on elsewhere is asked there.
    let pass = match guest.near {
        true => None,
        false => pass_of(house, *number, who, *origin, *reads).await?,
    };
    Ok(Seat { slot, pass })
}

/// The settings that a client's session begins with.
///
/// # Errors
/// With what it is told, when it may not come in.
fn admitted(house: &House<MySql>, who: &Who, near: bool) -> Result<Settings, Failure> {
    let mut settings = charset_settings(who.collation).map_err(|what| {
        Failure::new(Kind::Refused, format!("{what} is not supported"))
            .number(1115)
            .hint("connect with the character set utf8mb4")
    })?;
    if let Some(word) = forward::consistency_said(who) {
        consistency_of(word)?;
    }
    let database = database_of(house, who);
    admit(house, &who.user, &database, near)?;
    settings.push(("use".to_owned(), format!("USE `{}`", database.replace('`', "``"))));
    let settings: BTreeMap<String, String> = settings.into_iter().collect();
    Ok(Settings::new(settings))
}

/// The database that a client begins in.
fn database_of(house: &House<MySql>, who: &Who) -> String {
    who.database.clone().unwrap_or_else(|| house.config.load().cluster.database.clone())
}

fn info(house: &House<MySql>, who: &Who, peer: SocketAddr) -> SessionInfo {
    SessionInfo {
        user: who.user.clone(),
        database: database_of(house, who),
        address: peer.to_string(),
        application: who.application.clone(),
        since_ms: now_ms(),
    }
}

async fn serve(
    house: &Arc<House<MySql>>,
    client: MyClient,
    (login, moves, near): (Login, Option<CancellationToken>, bool),
    (seat, carried): (Seat<MySql>, Option<Carried>),
    database: &str,
) -> (MyClient, Option<Carried>) {
    if database == CONSOLE {
        let (shared, levers) = (house.shared.clone(), house.levers.clone());
        return (console::serve(shared, levers, client, house.stop.clone()).await, None);
    }
    let session = house.session(client, login, seat, moves).nearby_if(near);
    match carried {
        Some(carried) => session.brought(carried).serve().await,
        None => session.serve().await,
    }
}

/// A client's right to be there, where that depends on a lease; nothing on the console.
async fn pass_of(
    house: &House<MySql>,
    number: u32,
    who: &Who,
    peer: SocketAddr,
    reads: bool,
) -> Result<Option<Pass>, Failure> {
    if database_of(house, who) == CONSOLE {
        return Ok(None);
    }
    let said = said(&who.attributes);
    let claim = house.shared.leases.claim(&who.user, peer.ip(), &said);
    house.pass(number, claim, reads).await
}

/// To which resource and node a client says that it belongs.
fn said(attributes: &[(String, String)]) -> Said {
    let said = |key: &str| {
        let found = attributes.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.clone())
    };
    Said {
        resource: said("lockstep_resource"),
        node: said("lockstep_node"),
        epoch: said("lockstep_epoch"),
    }
}
