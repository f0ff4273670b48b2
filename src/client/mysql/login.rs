//! Logging in: the greeting, TLS, who the client is, and the proof of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lockstep_protocol::mysql::auth::{self, Method, Verdict, Verifier};
use lockstep_protocol::mysql::handshake::{self, CHALLENGE, Login, capability as cap};
use lockstep_protocol::mysql::response::status;
use lockstep_protocol::mysql::{packet, response};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::charset::UTF8MB4;
use super::{Bounds, MyClient, text_of};
use crate::error::{Failure, Kind};
use crate::net::Stream;
use crate::tls::ServerTls;
use crate::wire::mysql::Statements;

/// What an application may agree on with us. Compression, and results of another shape, it may not.
const OFFERED: u32 = cap::LONG_PASSWORD
    | cap::FOUND_ROWS
    | cap::LONG_FLAG
    | cap::CONNECT_WITH_DB
    | cap::LOCAL_FILES
    | cap::PROTOCOL_41
    | cap::INTERACTIVE
    | cap::TRANSACTIONS
    | cap::SECURE_CONNECTION
    | cap::MULTI_STATEMENTS
    | cap::MULTI_RESULTS
    | cap::PS_MULTI_RESULTS
    | cap::PLUGIN_AUTH
    | cap::SESSION_TRACK
    | cap::CONNECT_ATTRS
    | cap::PLUGIN_AUTH_LENENC_DATA;

/// What we call ourselves while no server has been seen.
const VERSION: &str = "5.5.5-10.6.0-MariaDB-lockstep";

/// A user who may log in.
#[derive(Clone, Debug)]
pub struct Known {
    /// What a proof is checked against.
    pub verifier: Verifier,
    /// No proof is asked for.
    pub trusted: bool,
}

/// The front door: what it takes to let a client in.
#[derive(Debug)]
pub struct Door {
    /// TLS, where it is offered, and whether it is required.
    pub tls: Option<(Arc<ServerTls>, bool)>,
    /// The users.
    pub users: HashMap<String, Known>,
    /// The only method of proof, where there is one; else it is the client's own choice.
    pub method: Option<Method>,
    /// The version of the servers, as the newest connection to one has learnt it.
    pub version: Arc<Mutex<String>>,
    /// Makes answers to unknown users look like those to known ones.
    pub secret: [u8; 32],
    /// How long logging in may take.
    pub timeout: Duration,
    /// The largest packet of a login.
    pub max_login: usize,
    /// Bounds of a client.
    pub bounds: Bounds,
    /// The statements that sessions share.
    pub statements: Arc<Statements>,
}

/// Who a client has proved to be, and what its session is to begin with.
#[derive(Clone, Debug)]
pub struct Who {
    /// The user.
    pub user: String,
    /// The database it asked for, if any.
    pub database: Option<String>,
    /// The collation that its session begins with.
    pub collation: u8,
    /// The name of the program.
    pub application: String,
    /// What else it says of itself.
    pub attributes: Vec<(String, String)>,
}

/// A client that has proved who it is.
#[derive(Debug)]
pub struct Greeting {
    /// The conversation.
    pub client: MyClient,
    /// Who it is.
    pub who: Who,
    /// What it can do, as far as we can.
    pub capabilities: u32,
    /// Of an UPDATE it wants to know how many rows were found, not how many changed.
    pub found_rows: bool,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// What its proofs are about.
    pub challenge: [u8; CHALLENGE],
}

pub(super) struct Visitor {
    pub(super) stream: Stream,
    pub(super) incoming: BytesMut,
    pub(super) sequence: u8,
    pub(super) peer: SocketAddr,
    /// What its proofs are about.
    pub(super) challenge: [u8; CHALLENGE],
}

impl Door {
    /// Lets a client in as connection `number`, within the time limit. `None`: it left, broke the
    /// rules or was refused.
    pub async fn open(&self, tcp: TcpStream, peer: SocketAddr, number: u32) -> Option<Greeting> {
        let visit = self.visit(tcp, peer, number);
        match tokio::time::timeout(self.timeout, visit).await {
            Ok(Ok(greeting)) => greeting,
            Ok(Err(why)) => {
                tracing::debug!(%peer, why, "a client was not let in");
                None
            }
            Err(_) => None,
        }
    }

    async fn visit(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        number: u32,
    ) -> Result<Option<Greeting>, String> {
        let (stream, incoming) = (Stream::Plain(tcp), BytesMut::with_capacity(1024));
        let challenge = challenge();
        let mut visitor = Visitor { stream, incoming, sequence: 0, peer, challenge };
        self.greet(&mut visitor, challenge, number).await?;
        let mut answer = visitor.answer(self.max_login).await?;
        if let handshake::Answer::Tls { .. } = answer {
            visitor = self.secure(visitor).await?;
            answer = visitor.answer(self.max_login).await?;
        }
        let handshake::Answer::Login(login) = answer else {
            return Err("TLS inside TLS".into());
        };
        if matches!((&self.tls, &visitor.stream), (Some((_, true)), Stream::Plain(_))) {
            let what = "Connections using insecure transport are prohibited";
            let refusal = Failure::new(Kind::Refused, what)
                .number(3159)
                .code("HY000")
                .hint("connect with --ssl, or ssl-mode=REQUIRED");
            return visitor.refuse(&refusal).await;
        }
        if !self.prove(&mut visitor, &login, challenge).await? {
            let refusal = denied(&login.user, peer, !login.proof.is_empty());
            return visitor.refuse(&refusal).await;
        }
        Ok(Some(self.greeting(visitor, login)))
    }

    async fn greet(
        &self,
        visitor: &mut Visitor,
        challenge: [u8; CHALLENGE],
        number: u32,
    ) -> Result<(), String> {
        let tls = if self.tls.is_some() { cap::SSL } else { 0 };
        let seen = self.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let greeting = handshake::Greeting {
            server: if seen.is_empty() { VERSION.to_owned() } else { seen },
            connection: number,
            challenge,
            capabilities: OFFERED | tls,
            collation: UTF8MB4,
            status: status::AUTOCOMMIT,
            plugin: self.method.unwrap_or(Method::Native).name().to_owned(),
        };
        visitor.say(|buf| greeting.encode(buf)).await
    }

    async fn secure(&self, visitor: Visitor) -> Result<Visitor, String> {
        // What was sent ahead in plain text must not be taken for something said under TLS.
        if !visitor.incoming.is_empty() {
            return Err("bytes before the TLS handshake".into());
        }
        let (Some((tls, _)), Stream::Plain(tcp)) = (&self.tls, visitor.stream) else {
            return Err("TLS was not offered".into());
        };
        let secured = tls.acceptor().accept(tcp).await.map_err(|e| e.to_string())?;
        Ok(Visitor { stream: Stream::Tls(Box::new(secured.into())), ..visitor })
    }

    /// Has the client prove who it is. Unknown users are asked like known ones, and refused alike.
    async fn prove(
        &self,
        visitor: &mut Visitor,
        login: &Login,
        challenge: [u8; CHALLENGE],
    ) -> Result<bool, String> {
        if self.is_trusted(&login.user) {
            return Ok(true);
        }
        let mut server = self.judge(&login.user, challenge);
        let mut verdict = server.first(login.plugin.as_deref(), &login.proof);
        if let Verdict::Switch(method) = verdict {
            visitor.say(|buf| auth::switch(buf, method, &challenge)).await?;
            let proof = visitor.packet(self.max_login).await?;
            verdict = server.second(&proof);
        }
        self.welcome(visitor, &login.user, verdict).await
    }

    pub(super) fn is_trusted(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|known| known.trusted)
    }

    /// The judge of a user's proof.
    pub(super) fn judge(&self, user: &str, challenge: [u8; CHALLENGE]) -> auth::Server {
        let nobody = || Verifier::mock(&[&self.secret[..], user.as_bytes()].concat());
        let verifier = self.users.get(user).map_or_else(nobody, |known| known.verifier.clone());
        auth::Server::new(verifier, challenge, self.method)
    }

    /// Whether the verdict lets the user in; tells it where its method wants to hear that first.
    pub(super) async fn welcome(
        &self,
        visitor: &mut Visitor,
        user: &str,
        verdict: Verdict,
    ) -> Result<bool, String> {
        match verdict {
            Verdict::Welcome { told } => {
                if told {
                    visitor.say(auth::fast_success).await?;
                }
                Ok(self.users.contains_key(user))
            }
            Verdict::Switch(_) | Verdict::Deny => Ok(false),
        }
    }

    /// The conversation with somebody who has been let in.
    pub(super) fn client(&self, visitor: Visitor, capabilities: u32) -> MyClient {
        let Visitor { stream, incoming, sequence, challenge, .. } = visitor;
        let statements = self.statements.clone();
        let mut client =
            MyClient::new(stream, incoming, sequence, capabilities, statements, self.bounds);
        client.challenge = challenge;
        client
    }

    fn greeting(&self, visitor: Visitor, login: Login) -> Greeting {
        let (peer, challenge, capabilities) = (visitor.peer, visitor.challenge, login.capabilities);
        let client = self.client(visitor, capabilities);
        let found_rows = capabilities & cap::FOUND_ROWS != 0;
        let application = application(&login.attributes);
        let Login { user, database, collation, attributes, .. } = login;
        let who = Who { user, database, collation, application, attributes };
        let capabilities = capabilities & OFFERED;
        Greeting { client, who, capabilities, found_rows, peer, challenge }
    }
}

/// The name that a program gives itself.
pub(super) fn application(attributes: &[(String, String)]) -> String {
    let attribute = |name: &str| attributes.iter().find(|(key, _)| key == name);
    let application = attribute("program_name").or_else(|| attribute("_client_name"));
    application.map(|(_, value)| value.clone()).unwrap_or_default()
}

impl Visitor {
    pub(super) async fn say(&mut self, body: impl FnOnce(&mut BytesMut)) -> Result<(), String> {
        let mut out = BytesMut::new();
        self.sequence = packet::write(&mut out, self.sequence, body);
        self.stream.write_all(&out).await.map_err(|e| e.to_string())?;
        self.stream.flush().await.map_err(|e| e.to_string())
    }

    pub(super) async fn packet(&mut self, max: usize) -> Result<Bytes, String> {
        loop {
            if let Some(packet) =
                packet::take(&mut self.incoming, max).map_err(|e| e.to_string())?
            {
                self.sequence = packet.last.wrapping_add(1);
                return Ok(packet.payload);
            }
            match self.stream.read_more(&mut self.incoming).await {
                Ok(0) => return Err("it left".into()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    async fn answer(&mut self, max: usize) -> Result<handshake::Answer, String> {
        let payload = self.packet(max).await?;
        handshake::Answer::decode(&payload).map_err(|e| e.to_string())
    }

    async fn refuse(&mut self, failure: &Failure) -> Result<Option<Greeting>, String> {
        let (number, state) = failure.mysql();
        let message = text_of(failure);
        let error = response::Err { number, state: state.as_bytes(), message: message.as_bytes() };
        self.say(|buf| error.encode(buf)).await?;
        Ok(None)
    }
}

pub(super) fn denied(user: &str, peer: SocketAddr, password: bool) -> Failure {
    let word = if password { "YES" } else { "NO" };
    let what = format!("Access denied for user '{user}'@'{}' (using password: {word})", peer.ip());
    Failure::new(Kind::Refused, what).number(1045).code("28000")
}

/// Letters and digits only: some clients read a challenge as text.
fn challenge() -> [u8; CHALLENGE] {
    use rand::Rng;
    use rand::distr::Alphanumeric;
    let mut dice = rand::rng();
    std::array::from_fn(|_| dice.sample(Alphanumeric))
}
