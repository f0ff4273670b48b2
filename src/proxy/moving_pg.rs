//! Sessions of PostgreSQL's clients, as they move from proxy to proxy.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::forward::{Place, open_postgres};
use super::house::House;
use super::moving::{Moves, NotTaken, Parcel, Seat, Traveller, depart, receive};
use super::pg::Pg;
use super::seal::Key;
use crate::client::CHALLENGE;
use crate::client::pg::{Arrival, CallBack, Door, Escort, Luggage, PgClient, bring};
use crate::exchange::Gone;
use crate::net::Stream;
use crate::session::Login;

impl Moves for Pg {
    type Luggage = Luggage;
    type Watch = CallBack;

    fn pack(client: PgClient) -> (Stream, Luggage, BytesMut) {
        client.pack()
    }

    fn unpack(door: &Door, (stream, luggage, unread): (Stream, Luggage, BytesMut)) -> PgClient {
        door.unpack(stream, unread, luggage)
    }

    async fn call_back(client: &mut PgClient, _: &[u8]) -> Result<(), Gone> {
        client.call_back().await
    }

    fn watch(_: &[u8; CHALLENGE]) -> CallBack {
        CallBack::default()
    }

    async fn bring(
        _: &House<Self>,
        place: Place,
        parcel: &Parcel<Luggage>,
        (challenge, key): (&[u8; CHALLENGE], &Key),
    ) -> Result<(Stream, BytesMut), NotTaken> {
        let far = open_postgres(place).await.map_err(NotTaken::later)?;
        let person = &parcel.person;
        let takes_back = Some(&challenge[..]);
        let escort = Escort { origin: person.origin, reads: false, takes_back, goes_on: true };
        // What the client has said stays here until it is known that it is wanted there.
        let seal = |asked: &[u8]| key.seal(asked, parcel, &[]);
        let brought = bring(far, (&person.user, &person.database), escort, seal).await;
        brought.map_err(NotTaken::later)?.map_err(|(later, why)| NotTaken { later, why })
    }

    async fn sit(
        house: &Arc<House<Self>>,
        traveller: Traveller<Self>,
        seat: Seat<Self>,
        takes_back: Option<Bytes>,
    ) -> Option<Traveller<Self>> {
        let Traveller { stream, parcel, unread } = traveller;
        let Parcel { person, session: carried, luggage } = parcel;
        house.shared.metrics.proxy_moved_sessions.inc();
        let client = house.door.load().unpack(stream, unread, luggage);
        let user = person.user.clone();
        let login =
            Login { name: user.clone(), user, settings: carried.initial(), consistency: None };
        let moves = house.moves(takes_back.is_some(), takes_back.as_ref());
        let session = house.session(client, login, seat, moves).brought(carried);
        match session.serve().await {
            (client, Some(carried)) => depart(house, client, (person, carried), takes_back).await,
            (_, None) => {
                house.shared.registry.remove(person.number);
                None
            }
        }
    }
}

/// A session comes from another proxy.
pub(super) async fn arrive(house: &Arc<House<Pg>>, arrival: Arrival) {
    let received = receive::<Pg>(house, &arrival.challenge, &arrival.sealed).await;
    let (parcel, seat) = match received {
        Ok(received) => received,
        Err(refused) => return arrival.refuse(&refused).await,
    };
    let (takes_back, number) = (arrival.takes_back.clone(), parcel.person.number);
    match arrival.accept().await {
        // It came by way of another proxy, and goes back there.
        Ok((stream, unread)) => {
            Pg::sit(house, Traveller { stream, parcel, unread }, seat, takes_back).await;
        }
        Err(error) => {
            tracing::debug!(%error, "the proxy that brought a session is gone");
            house.shared.registry.remove(number);
        }
    }
}
