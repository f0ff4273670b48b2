//! COM_CHANGE_USER: a client leaves its session and begins another one on the same connection, as
//! somebody else or as itself.
//!
//! The session it leaves is undone as if the client had gone; what comes is a login like any other,
//! only without a greeting. Whoever cannot prove to be whom it wants to be goes on as whom it was, in a
//! session that has forgotten everything, as with one server.

use std::net::SocketAddr;

use bytes::Bytes;
use lockstep_protocol::mysql::auth;
use lockstep_protocol::mysql::command::ChangeUser;

use super::MyClient;
use super::charset::UTF8MB4;
use super::login::{Door, Visitor, Who, application, denied};
use crate::error::Failure;
use crate::exchange::{Client, Gone, Sink};

/// After so many failures on one connection nobody else can be tried there.
const MOST_DENIED: u8 = 3;

/// A client that has left its session.
#[derive(Debug)]
pub struct Parting {
    client: MyClient,
    command: Bytes,
}

impl MyClient {
    /// Whether it may try to be somebody else.
    pub(super) fn may_leave(&self) -> bool {
        self.denied < MOST_DENIED
    }

    /// The client, where it has left its session to begin another one.
    pub fn parting(mut self) -> Option<Parting> {
        self.leaving.take().map(|command| Parting { client: self, command })
    }

    /// Tells the client, under its number of before, that it stays whom it was.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn keep(&mut self, number: u32, failure: &Failure) -> Result<(), Gone> {
        self.number = number;
        self.denied += 1;
        self.fail(failure);
        self.settled = true;
        self.flush().await
    }
}

impl Door {
    /// Has a client prove that it is somebody else, within the time limit of a login. Beside the client
    /// is whom it has proved to be, or what it is to be told. `None`: it left, or broke the rules.
    pub async fn change(
        &self,
        parting: Parting,
        peer: SocketAddr,
    ) -> Option<(MyClient, Result<Who, Failure>)> {
        match tokio::time::timeout(self.timeout, self.again(parting, peer)).await {
            Ok(Ok(known)) => Some(known),
            Ok(Err(why)) => {
                tracing::debug!(%peer, why, "a client did not become another one");
                None
            }
            Err(_) => None,
        }
    }

    async fn again(
        &self,
        parting: Parting,
        peer: SocketAddr,
    ) -> Result<(MyClient, Result<Who, Failure>), String> {
        let Parting { client, command } = parting;
        let MyClient {
            stream, incoming, sequence, capabilities, challenge, denied: failures, ..
        } = client;
        let mut visitor =
            Visitor { stream: stream.into_stream(), incoming, sequence, peer, challenge };
        let wanted = ChangeUser::decode(&command, capabilities).map_err(|e| e.to_string())?;
        let proved = self.prove_again(&mut visitor, &wanted).await?;
        let mut client = self.client(visitor, capabilities);
        client.denied = failures;
        let ChangeUser { user, database, collation, attributes, .. } = wanted;
        if !proved {
            return Ok((client, Err(denied(&user, peer, true))));
        }
        // What does not fit into a login's byte is a number that only newer servers know.
        let collation = collation.map_or(UTF8MB4, |c| u8::try_from(c).unwrap_or(u8::MAX));
        let application = application(&attributes);
        Ok((client, Ok(Who { user, database, collation, application, attributes })))
    }

    async fn prove_again(
        &self,
        visitor: &mut Visitor,
        wanted: &ChangeUser,
    ) -> Result<bool, String> {
        if self.is_trusted(&wanted.user) {
            return Ok(true);
        }
        // Some drivers prove it about the greeting's challenge whatever they are asked, as servers have it.
        let challenge = visitor.challenge;
        let mut server = self.judge(&wanted.user, challenge);
        let method = server.ask(wanted.plugin.as_deref());
        visitor.say(|buf| auth::switch(buf, method, &challenge)).await?;
        let proof = visitor.packet(self.max_login).await?;
        self.welcome(visitor, &wanted.user, server.second(&proof)).await
    }
}
