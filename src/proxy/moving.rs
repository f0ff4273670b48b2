//! Sessions that go on at another proxy when the role of the writer is handed over.
//!
//! Who writes hands nothing but what a session is, between two transactions, to the proxy that holds the client's
//! connection: itself, or the one that has connected the client through. That one waits until it is known who writes
//! next, and goes on: here, if that is this proxy, or else at the other one. So a client is never more than one proxy away
//! from the one that writes. Until the other one has taken the session nothing of it has happened there, and it can be
//! brought to a third.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ferry::{Ferry, Watch};
use super::forward::Place;
use super::front::Front;
use super::house::{House, admit};
use super::seal::Key;
use crate::client::CHALLENGE;
use crate::cluster::Phase;
use crate::config::OnStandby;
use crate::error::{Failure, Kind};
use crate::exchange::{Client, Gone, Link};
use crate::keeper::now_ms;
use crate::net::Stream;
use crate::session::{CancelSlot, Carried, Login, Pass, Said, Session, SessionInfo};

/// Pause between two attempts to go on somewhere.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a session may take to leave, or its number to become free.
const LEAVING: Duration = Duration::from_secs(5);

/// Whose session it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Person {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) application: String,
    /// Where the client itself comes from.
    pub(super) origin: SocketAddr,
    /// By what it may ask to have its statements cancelled.
    pub(super) number: u32,
    pub(super) secret: Vec<u8>,
    /// What it has said about leases.
    pub(super) said: Said,
    /// What else it has said of itself.
    pub(super) attributes: Vec<(String, String)>,
    /// The collation that its session began with, by its number.
    pub(super) collation: u8,
}

impl Person {
    pub(super) fn info(&self) -> SessionInfo {
        SessionInfo {
            user: self.user.clone(),
            database: self.database.clone(),
            address: self.origin.to_string(),
            application: self.application.clone(),
            since_ms: now_ms(),
        }
    }
}

/// What goes from proxy to proxy.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Parcel<L> {
    pub(super) person: Person,
    pub(super) session: Carried,
    pub(super) luggage: L,
}

/// A session on its way.
pub(super) struct Traveller<P: Moves> {
    pub(super) stream: Stream,
    pub(super) parcel: Parcel<P::Luggage>,
    /// What the client has said and nobody has looked at.
    pub(super) unread: BytesMut,
}

/// Why a session could not be brought to the proxy that writes.
pub(super) struct NotTaken {
    /// A little later, or at another one, it may be.
    pub(super) later: bool,
    pub(super) why: String,
}

impl NotTaken {
    pub(super) fn later(why: String) -> Self {
        Self { later: true, why }
    }
}

/// Sessions of a dialect, as they move.
pub(super) trait Moves: Front {
    /// What the client's end knows of a session.
    type Luggage: Serialize + DeserializeOwned + Send + Sync;
    /// Finds in what goes to a client that it is called back.
    type Watch: Watch;

    /// Packs a client.
    fn pack(client: Self::Client) -> (Stream, Self::Luggage, BytesMut);

    /// A client goes on here with what was packed.
    fn unpack(door: &Self::Door, traveller: (Stream, Self::Luggage, BytesMut)) -> Self::Client;

    /// Has the proxy that a client came by take it back, and takes in what the client has said by then.
    fn call_back(
        client: &mut Self::Client,
        challenge: &[u8],
    ) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Looks out for that, with the challenge that was given.
    fn watch(challenge: &[u8; CHALLENGE]) -> Self::Watch;

    /// Brings a session to the proxy that writes, with a challenge for its way back, sealed with the proxies' key: the
    /// stream, and what has come on it.
    fn bring(
        house: &House<Self>,
        place: Place,
        parcel: &Parcel<Self::Luggage>,
        sealing: (&[u8; CHALLENGE], &Key),
    ) -> impl Future<Output = Result<(Stream, BytesMut), NotTaken>> + Send;

    /// Serves a session that goes on here, until it ends or leaves again.
    fn sit(
        house: &Arc<House<Self>>,
        traveller: Traveller<Self>,
        seat: Seat<Self>,
        takes_back: Option<Bytes>,
    ) -> impl Future<Output = Option<Traveller<Self>>> + Send;
}

/// The place of a session at this proxy.
pub(super) struct Seat<P: Front> {
    pub(super) slot: Arc<CancelSlot<<P::Link as Link>::Canceller>>,
    pub(super) pass: Option<Pass>,
}

/// What a session is told that cannot go along.
pub(super) fn farewell() -> Failure {
    Failure::new(Kind::Shutdown, "another proxy writes now")
        .hint("connect again, with all proxies in the connection string")
}

impl<P: Front> House<P> {
    pub(super) fn key(&self) -> Option<Key> {
        Key::of(&self.config.load())
    }

    /// The same, where nothing goes on without it.
    fn needed_key(&self) -> Result<Key, String> {
        self.key().ok_or_else(|| "the proxies have no secret in common".to_owned())
    }

    /// Whether a session may go on at another proxy, and until when: one that has come by way of another proxy goes back to that
    /// one, also when this one ends.
    pub(super) fn moves(
        &self,
        forwarded: bool,
        takes_back: Option<&Bytes>,
    ) -> Option<CancellationToken> {
        self.key()?;
        if forwarded {
            return takes_back.map(|_| CancellationToken::new());
        }
        let forwards = self.config.load().proxy.on_standby == OnStandby::Forward;
        forwards.then(|| self.stop.clone())
    }

    /// A session of this proxy, which may go on at another one if it can.
    pub(super) fn session(
        &self,
        client: P::Client,
        login: Login,
        seat: Seat<P>,
        moves: Option<CancellationToken>,
    ) -> Session<P> {
        let shared = self.shared.clone();
        let stop = shared.keeper.reign();
        let session = Session::new(shared, client, login, seat.slot, stop).under(seat.pass);
        match moves {
            Some(here) => session.moving(here),
            None => session,
        }
    }

    /// Waits until it is known who writes. Whether it is this proxy.
    pub(super) async fn writes(&self) -> bool {
        let keeper = &self.shared.keeper;
        loop {
            let changed = keeper.next_change();
            match keeper.view().phase {
                Phase::Serving if !keeper.is_retiring() && self.shared.catalogs.is_loaded() => {
                    return true;
                }
                Phase::Standby if !keeper.writer().is_empty() => return false,
                // That the catalog is there is told to nobody.
                Phase::Serving => {
                    let _ = tokio::time::timeout(PAUSE, changed).await;
                }
                _ => changed.await,
            }
        }
    }
}

/// A session leaves its place here: it goes back to the proxy by way of which it came, or on from here.
pub(super) async fn depart<P: Moves>(
    house: &House<P>,
    mut client: P::Client,
    (person, session): (Person, Carried),
    takes_back: Option<Bytes>,
) -> Option<Traveller<P>> {
    let number = person.number;
    let pack = |client: P::Client| {
        let (stream, luggage, unread) = P::pack(client);
        Traveller { stream, parcel: Parcel { person, session, luggage }, unread }
    };
    let Some(challenge) = takes_back else {
        house.shared.registry.remove(number);
        return Some(pack(client));
    };
    let key = house.key();
    let handed = async {
        P::call_back(&mut client, &challenge).await.ok()?;
        let Traveller { mut stream, parcel, unread } = pack(client);
        let sealed = key?.seal(&challenge, &parcel, &unread);
        stream.write_all(&sealed).await.ok()?;
        stream.shutdown().await.ok()
    };
    if !matches!(tokio::time::timeout(LEAVING, handed).await, Ok(Some(()))) {
        tracing::warn!(number, "a session could not be handed back");
    }
    // Not before: the role is laid down when nobody is left.
    house.shared.registry.remove(number);
    None
}

/// Connects a client through, to the end of it: here, where it is taken back.
pub(super) async fn connect_through<P: Moves>(
    house: &Arc<House<P>>,
    ferry: Ferry<P::Watch>,
    challenge: &[u8],
) -> Option<Traveller<P>> {
    let ends = house.shared.keeper.following();
    let gauge = &house.shared.metrics.proxy_forwarded_sessions;
    gauge.inc();
    let taken = tokio::select! {
        taken = ferry.run(ends) => taken,
        () = house.stop.cancelled() => None,
    };
    gauge.dec();
    let (stream, sealed) = taken?;
    match house.key()?.open(challenge, &sealed) {
        Ok((parcel, unread)) => Some(Traveller { stream, parcel, unread }),
        Err(why) => {
            tracing::warn!(%why, "what came back with a session cannot be used");
            None
        }
    }
}

/// Goes on with a session, wherever it is served, to its end.
pub(super) async fn go_on<P: Moves>(house: &Arc<House<P>>, traveller: Traveller<P>) {
    let mut next = Some(traveller);
    while let Some(traveller) = next.take() {
        next = match destination(house, &traveller.parcel).await {
            Destination::Here(found) => P::sit(house, traveller, found, None).await,
            Destination::There { far, early, challenge } => {
                let Traveller { stream, unread, .. } = traveller;
                let ferry = Ferry::new(stream, far, unread, early, P::watch(&challenge));
                connect_through(house, ferry, &challenge).await
            }
            Destination::Nowhere(why) => {
                let Traveller { stream, parcel, unread } = traveller;
                let door = house.door.load_full();
                let mut client = P::unpack(&door, (stream, parcel.luggage, unread));
                client.close(&why).await;
                None
            }
        };
    }
}

/// Where a session goes on.
enum Destination<P: Moves> {
    Here(Seat<P>),
    There {
        far: Stream,
        /// What has come from there already.
        early: BytesMut,
        challenge: [u8; CHALLENGE],
    },
    /// Nowhere: what the client is told.
    Nowhere(Failure),
}

/// Finds the proxy that writes, and has it take the session. As long as that does not work out, there may soon be
/// another one.
async fn destination<P: Moves>(house: &House<P>, parcel: &Parcel<P::Luggage>) -> Destination<P> {
    let deadline = Instant::now() + house.shared.settings().hold;
    loop {
        let changes = house.shared.keeper.following();
        let attempt = async {
            if house.writes().await {
                return seat(house, &parcel.person).await.map(Destination::Here);
            }
            let challenge: [u8; CHALLENGE] = rand::random();
            let place = Place::of(house).map_err(NotTaken::later)?;
            let key = house.needed_key().map_err(|why| NotTaken { later: false, why })?;
            let (far, early) = P::bring(house, place, parcel, (&challenge, &key)).await?;
            Ok(Destination::There { far, early, challenge })
        };
        let why = tokio::select! {
            biased;
            found = attempt => match found {
                Ok(found) => return found,
                Err(NotTaken { later: true, why }) => why,
                Err(refused) => return Destination::Nowhere(farewell().detail(refused.why)),
            },
            () = changes.cancelled() => continue,
            () = house.stop.cancelled() => return Destination::Nowhere(farewell()),
            () = tokio::time::sleep_until(deadline) => return Destination::Nowhere(farewell()),
        };
        tracing::debug!(%why, "a session cannot go on elsewhere yet");
        // Over at once where another one writes by now.
        let _ = tokio::time::timeout(PAUSE, changes.cancelled()).await;
    }
}

/// A session comes from another proxy: its place, as soon as it is known that this one writes.
pub(super) async fn receive<P: Moves>(
    house: &House<P>,
    challenge: &[u8],
    sealed: &[u8],
) -> Result<(Parcel<P::Luggage>, Seat<P>), Failure> {
    let opened = house.needed_key().and_then(|key| key.open(challenge, sealed));
    let (parcel, _): (Parcel<P::Luggage>, _) = opened.map_err(|why| {
        tracing::warn!(%why, "a session of another proxy is not taken over");
        let what = "this is no session of another proxy of the cluster";
        Failure::new(Kind::Refused, what).code("28000").number(1045)
    })?;
    let later = |why: &str| farewell().code("57P03").number(1040).detail(why.to_owned());
    // Who has taken it has to serve it: until then it could still go elsewhere.
    match tokio::time::timeout(house.shared.settings().hold, house.writes()).await {
        Ok(true) => {}
        _ => return Err(later("that proxy does not write")),
    }
    match seat(house, &parcel.person).await {
        Ok(found) => Ok((parcel, found)),
        Err(NotTaken { later: true, why }) => Err(later(&why)),
        Err(refused) => Err(farewell().detail(refused.why)),
    }
}

/// The place of a session that goes on here, if it may.
async fn seat<P: Front>(house: &House<P>, person: &Person) -> Result<Seat<P>, NotTaken> {
    let refused = |failure: Failure| {
        house.shared.metrics.client_rejections.inc();
        let later = matches!(failure.kind, Kind::Unavailable | Kind::TooManyConnections);
        NotTaken { later, why: failure.to_string() }
    };
    admit(house, &person.user, &person.database, false).map_err(refused)?;
    let deadline = Instant::now() + LEAVING;
    let slot = loop {
        let (number, secret) = (person.number, person.secret.clone());
        match house.shared.registry.claim(number, secret, person.info()) {
            Some(slot) => break slot,
            // An attempt before this one has not noticed yet that it has failed.
            None if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            None => {
                let why = "another session has its number there".to_owned();
                return Err(NotTaken { later: false, why });
            }
        }
    };
    if let Err(refusal) = house.is_still_served(&person.database, false) {
        house.shared.registry.remove(person.number);
        return Err(refused(refusal));
    }
    let claim = house.shared.leases.claim(&person.user, person.origin.ip(), &person.said);
    match house.pass(person.number, claim, false).await {
        Ok(pass) if pass.as_ref().is_none_or(Pass::writes) => Ok(Seat { slot, pass }),
        other => {
            house.shared.registry.remove(person.number);
            Err(refused(other.err().unwrap_or_else(farewell)))
        }
    }
}
