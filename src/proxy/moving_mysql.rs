//! Sessions of MariaDB's and MySQL's clients, as they move from proxy to proxy.
//!
//! Whoever brings one logs in as its user, as for every client that is connected through; then comes what was packed, sealed
//! about the challenge of the greeting.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::forward::{FORWARDED, GOES_ON, Place, TAKES_BACK, login_of};
use super::house::House;
use super::moving::{Moves, NotTaken, Parcel, Seat, Traveller, receive};
use super::mysql::{Guest, MySql, stay};
use super::seal::Key;
use crate::backend::ConnectError;
use crate::backend::mysql as my;
use crate::client::CHALLENGE;
use crate::client::mysql::{CallBack, Door, Greeting, Luggage, MyClient, bring};
use crate::exchange::{Client, Gone};
use crate::hex;
use crate::net::Stream;

impl Moves for MySql {
    type Luggage = Luggage;
    type Watch = CallBack;

    fn pack(client: MyClient) -> (Stream, Luggage, BytesMut) {
        client.pack()
    }

    fn unpack(door: &Door, (stream, luggage, unread): (Stream, Luggage, BytesMut)) -> MyClient {
        door.unpack(stream, unread, luggage)
    }

    async fn call_back(client: &mut MyClient, challenge: &[u8]) -> Result<(), Gone> {
        client.call_back(challenge).await
    }

    fn watch(challenge: &[u8; CHALLENGE]) -> CallBack {
        CallBack::new(challenge)
    }

    async fn bring(
        house: &House<Self>,
        place: Place,
        parcel: &Parcel<Luggage>,
        (challenge, key): (&[u8; CHALLENGE], &Key),
    ) -> Result<(Stream, BytesMut), NotTaken> {
        let Parcel { person, luggage, .. } = parcel;
        let config = house.config.load_full();
        let login = login_of(&config, &person.user, Some(&person.database), false);
        let ours = [
            (FORWARDED, person.origin.to_string()),
            (GOES_ON, "yes".to_owned()),
            (TAKES_BACK, hex::encode(challenge)),
        ];
        let ours = ours.into_iter().map(|(name, value)| (name.to_owned(), value));
        let manner = my::Manner {
            capabilities: luggage.capabilities,
            collation: person.collation,
            attributes: person.attributes.iter().cloned().chain(ours).collect(),
        };
        let entered = place.mysql().through(&login, &manner).await.map_err(|error| NotTaken {
            later: matches!(error, ConnectError::Unreachable(_)),
            why: error.to_string(),
        });
        let (greeting, far, incoming) = entered?;
        // What the client has said stays here until it is known that it is wanted there.
        let sealed = key.seal(&greeting.challenge, parcel, &[]);
        let brought = bring(far, incoming, &sealed).await;
        brought.map_err(NotTaken::later)?.map_err(|(later, why)| NotTaken { later, why })
    }

    async fn sit(
        house: &Arc<House<Self>>,
        traveller: Traveller<Self>,
        seat: Seat<Self>,
        takes_back: Option<Bytes>,
    ) -> Option<Traveller<Self>> {
        let Traveller { stream, parcel, unread } = traveller;
        let Parcel { person, session, luggage } = parcel;
        house.shared.metrics.proxy_moved_sessions.inc();
        let number = person.number;
        let guest = Guest::moved(person, luggage.capabilities, takes_back);
        let client = house.door.load().unpack(stream, unread, luggage);
        let left = stay(house, client, guest, session.initial(), Some((seat, session))).await;
        if left.is_none() {
            house.shared.registry.remove(number);
        }
        left
    }
}

/// A session comes from another proxy.
pub(super) async fn arrive(house: &Arc<House<MySql>>, greeting: Greeting, takes_back: Bytes) {
    let (mut client, challenge) = (greeting.client, greeting.challenge);
    let database = greeting.who.database.unwrap_or_default();
    // Its own number comes with it.
    if client.welcome(0, &database).await.is_err() {
        return;
    }
    let Ok(sealed) = client.brought().await else { return };
    let (parcel, seat) = match receive::<MySql>(house, &challenge, &sealed).await {
        Ok((parcel, seat)) if parcel.person.user == greeting.who.user => (parcel, seat),
        Ok((parcel, _)) => return house.shared.registry.remove(parcel.person.number),
        Err(refused) => return client.close(&refused).await,
    };
    let number = parcel.person.number;
    match client.accept().await {
        Ok((stream, unread)) => {
            let traveller = Traveller { stream, parcel, unread };
            MySql::sit(house, traveller, seat, Some(takes_back)).await;
        }
        Err(Gone) => house.shared.registry.remove(number),
    }
}
