//! A client that has come to a proxy that stands by is connected through to the one that writes.
//!
//! Bytes go to and fro as they are. Where the client speaks first (PostgreSQL), that begins with the start-up message, and
//! it proves who it is to the proxy that serves it. Where the server does (MariaDB, MySQL), it has proved that here
//! before anybody knows what it wants, and this proxy logs in at the other one as the same user. The way
//! ends when another proxy writes than at its beginning.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::ferry::Ferry;
use super::front::Front;
use super::house::House;
use super::moving::{self, Moves, Traveller};
use super::mysql::MySql;
use super::pg::Pg;
use crate::backend::ConnectError;
use crate::backend::mysql as my;
use crate::backend::pg::Route;
use crate::client::CHALLENGE;
use crate::client::mysql::{Greeting, MyClient, Who};
use crate::client::pg::{Passage, Signpost, Whither, forwarded_cancel, knock, not_here};
use crate::config::{Config, Live, OnStandby};
use crate::error::{Failure, Kind};
use crate::hex;
use crate::net::Stream;
use crate::session::CONSISTENCY;
use crate::tls::BackendConnector;

/// Among a client's attributes: it comes by way of another proxy, from this address, and is not sent on again.
pub(super) const FORWARDED: &str = "lockstep_forwarded";
/// At that proxy it may only read.
pub(super) const READS: &str = "lockstep_reads";
/// And this is the number that it was greeted with there, by which it may ask to have its statements cancelled.
pub(super) const NUMBER: &str = "lockstep_number";
/// That proxy takes the session back when another one is to write. Who hands it back proves that he is a proxy by what
/// stands here, in hexadecimal digits.
pub(super) const TAKES_BACK: &str = "lockstep_takes_back";
/// It is a session that another proxy has served so far.
pub(super) const GOES_ON: &str = "lockstep_goes_on";

/// What its reads are sure to see.
const CONSISTENCY_SAID: &str = "lockstep_consistency";

/// The way to the proxy that writes.
pub(super) struct Place {
    host: String,
    port: u16,
    tls: Option<BackendConnector>,
    live: Arc<Live>,
}

impl Place {
    /// Where that proxy is, as it has told itself.
    pub(super) fn of<P: Front>(house: &House<P>) -> Result<Self, String> {
        let writer = house.shared.keeper.writer();
        let address = writer.rsplit_once(' ').and_then(|(_, address)| address.rsplit_once(':'));
        let address = address.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = address.ok_or("its address is not known")?;
        let config = house.config.load();
        let tls = BackendConnector::new(&config.proxy.peer_tls, host).map_err(|e| e.to_string())?;
        Ok(Self { host: host.to_owned(), port, tls, live: Live::new((&**config).into()) })
    }
}

impl Place {
    /// The same for clients of MariaDB and MySQL.
    pub(super) fn mysql(self) -> my::Route {
        let Self { host, port, tls, live } = self;
        my::Route { host, port, tls, live }
    }
}

/// Opens a way to the proxy that writes. While it cannot be reached, whoever comes waits for as long as it takes until it
/// is taken for dead and another one writes. Nothing when this one serves the database meanwhile.
async fn reach<P: Front, T, F>(
    house: &House<P>,
    database: &str,
    open: impl Fn(Place) -> F + Send + Sync,
) -> Result<Option<T>, Failure>
where
    F: Future<Output = Result<T, String>> + Send,
    T: Send,
{
    let patience = Instant::now() + house.config.load().proxy.takeover_after * 2;
    loop {
        let changes = house.shared.keeper.following();
        let Some(writer) = house.stands_by(database) else {
            return Ok(None);
        };
        let opened = match Place::of(house) {
            // Where another one writes by now, nobody waits for the former one to say so.
            Ok(place) => tokio::select! {
                biased;
                opened = open(place) => opened,
                () = changes.cancelled() => continue,
            },
            Err(why) => Err(why),
        };
        let why = match opened {
            Ok(far) => return Ok(Some(far)),
            Err(why) => why,
        };
        if tokio::time::timeout_at(patience, changes.cancelled()).await.is_err() {
            tracing::warn!(%writer, %why, "a client could not be connected through");
            return Err(not_here(&writer).detail(format!("It cannot be reached: {why}")));
        }
    }
}

pub(super) async fn open_postgres(place: Place) -> Result<Stream, String> {
    let Place { host, port, tls, live } = place;
    let (limit, route) = (live.bounds().connect, Route { host, port, tls, live });
    let opened = tokio::time::timeout(limit, route.open()).await;
    opened.map_err(|_| format!("no answer within {limit:?}"))?.map_err(|e| e.to_string())
}

/// Where clients are served at this moment.
impl Signpost for House<Pg> {
    async fn look(
        &self,
        (database, settings): (&str, &[(String, String)]),
        forwarded: bool,
        said: impl Fn(bool) -> BytesMut + Send + Sync,
    ) -> Whither {
        let Some(writer) = self.stands_by(database) else {
            return Whither::Here { near: false };
        };
        let consistency = settings.iter().rfind(|(name, _)| name == CONSISTENCY);
        if !forwarded && self.reads_near(database, consistency.map(|(_, word)| &**word)) {
            return Whither::Here { near: true };
        }
        let policy = self.config.load().proxy.on_standby;
        if forwarded || !policy.connects() {
            return Whither::Nowhere(not_here(&writer));
        }
        let said = said(policy == OnStandby::ReadOnly);
        // One that is refused there since the role has just been handed over is not refused here.
        let open = |place: Place| {
            let said = &said;
            async move { knock(open_postgres(place).await?, said).await }
        };
        match reach(self, database, open).await {
            Ok(Some((far, early))) => Whither::There { far, early },
            Ok(None) => Whither::Here { near: false },
            Err(refusal) => Whither::Nowhere(refusal),
        }
    }
}

/// Connects a client of PostgreSQL through, and goes on with it where it is taken back.
pub(super) async fn pass(house: &Arc<House<Pg>>, passage: Passage) {
    let Passage { stream, far, said, early, challenge } = passage;
    let ferry = Ferry::new(stream, far, said, early, Pg::watch(&challenge));
    if let Some(traveller) = moving::connect_through(house, ferry, &challenge).await {
        moving::go_on(house, traveller).await;
    }
}

/// Hands a request to cancel on.
pub(super) async fn cancel(house: &Arc<House<Pg>>, number: u32, secret: &[u8]) {
    if house.stands_by("").is_none() {
        return;
    }
    let sent = async {
        let mut far = open_postgres(Place::of(house)?).await?;
        far.write_all(&forwarded_cancel(number, secret)).await.map_err(|e| e.to_string())?;
        far.shutdown().await.map_err(|e| e.to_string())
    };
    if let Err(why) = sent.await {
        tracing::debug!(%why, "a request to cancel could not be handed on");
    }
}

/// What has become of a client of MariaDB or MySQL.
pub(super) enum Passed {
    /// It is served here.
    Not(Box<Greeting>),
    /// It is served here as long as it only reads.
    Near(Box<Greeting>),
    /// It was connected through, and has left, or goes on as it was taken back.
    Through(Option<Box<Traveller<MySql>>>),
}

/// Connects a client of MariaDB or MySQL through, if this proxy stands by and does so.
pub(super) async fn pass_mysql(
    house: &Arc<House<MySql>>,
    greeting: Greeting,
    number: u32,
) -> Passed {
    let config = house.config.load_full();
    let database = greeting.who.database.as_ref().unwrap_or(&config.cluster.database).clone();
    let forwarded = greeting.who.attributes.iter().any(|(name, _)| name == FORWARDED);
    let near = !forwarded && house.reads_near(&database, consistency_said(&greeting.who));
    if near {
        return Passed::Near(Box::new(greeting));
    }
    if forwarded || !config.proxy.on_standby.connects() || house.stands_by(&database).is_none() {
        return Passed::Not(Box::new(greeting));
    }
    let challenge: [u8; CHALLENGE] = rand::random();
    let reads = config.proxy.on_standby == OnStandby::ReadOnly;
    let Greeting { who, found_rows, .. } = &greeting;
    let login = login_of(&config, &who.user, who.database.as_deref(), *found_rows);
    let manner = manner_of(&greeting, number, reads, &challenge);
    let open = |place: Place| {
        let (login, manner) = (login.clone(), manner.clone());
        async move {
            match place.mysql().through(&login, &manner).await {
                Ok(far) => Ok(Ok(far)),
                Err(ConnectError::Unreachable(why)) => Err(why),
                Err(refused) => Ok(Err(refused)),
            }
        }
    };
    let refuse = async |mut client: MyClient, refusal: Failure| {
        use crate::exchange::Client;
        house.shared.metrics.client_rejections.inc();
        client.close(&refusal).await;
    };
    match reach(house, &database, open).await {
        Ok(None) => return Passed::Not(Box::new(greeting)),
        Ok(Some(Ok((_, far, said)))) => {
            let mut client = greeting.client;
            if client.welcome(number, &database).await.is_ok() {
                let (mut near, mut arrived) = client.into_stream();
                // Nothing comes behind a login but what the client asks for.
                let early = near.write_all(&said).await;
                if early.is_ok() {
                    let up = arrived.split();
                    let watch = MySql::watch(&challenge);
                    let ferry = Ferry::new(near, far, up, BytesMut::new(), watch);
                    let back = moving::connect_through(house, ferry, &challenge).await;
                    return Passed::Through(back.map(Box::new));
                }
            }
        }
        Ok(Some(Err(refused))) => {
            let what = format!("the proxy that writes does not let \"{}\" in", login.user);
            let refusal = Failure::new(Kind::Refused, what)
                .code("28000")
                .number(1045)
                .detail(refused.to_string())
                .hint("the proxies' files have to have the same users and passwords");
            refuse(greeting.client, refusal).await;
        }
        Err(refusal) => refuse(greeting.client, refusal).await,
    }
    Passed::Through(None)
}

/// What a client wants its reads to be sure to see.
pub(super) fn consistency_said(who: &Who) -> Option<&str> {
    let said = who.attributes.iter().rfind(|(name, _)| name == CONSISTENCY_SAID);
    said.map(|(_, word)| &**word)
}

/// As whom a client is logged in at the other proxy, which has the same users.
pub(super) fn login_of(
    config: &Config,
    user: &str,
    database: Option<&str>,
    found_rows: bool,
) -> my::Login {
    let known = config.users.iter().find(|known| known.name == user);
    my::Login {
        user: user.to_owned(),
        password: known.map(|user| user.password.clone()).unwrap_or_default(),
        database: database.unwrap_or_default().to_owned(),
        found_rows,
    }
}

/// Attributes that proxies say to each other.
pub(super) fn is_ours(name: &str) -> bool {
    [FORWARDED, NUMBER, READS, TAKES_BACK, GOES_ON].contains(&name)
}

/// What it can do, and what is said about it there.
fn manner_of(greeting: &Greeting, number: u32, reads: bool, challenge: &[u8]) -> my::Manner {
    let said = greeting.who.attributes.iter().filter(|(name, _)| !is_ours(name)).cloned();
    let more = [(FORWARDED, greeting.peer.to_string()), (NUMBER, number.to_string())];
    let reader = reads.then(|| (READS, "yes".to_owned()));
    // Who may only read here comes to be told that, and connects again.
    let back = (!reads).then(|| (TAKES_BACK, hex::encode(challenge)));
    let more = more.into_iter().chain(reader).chain(back);
    let more = more.map(|(name, value)| (name.to_owned(), value));
    my::Manner {
        capabilities: greeting.capabilities,
        collation: greeting.who.collation,
        attributes: said.chain(more).collect(),
    }
}
