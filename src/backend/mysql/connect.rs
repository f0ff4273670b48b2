//! Opening a connection to a MySQL or MariaDB server: TLS and login.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lockstep_protocol::mysql::auth::{Client, Next};
use lockstep_protocol::mysql::handshake::{self, Greeting, capability as cap};
use lockstep_protocol::mysql::{command, packet, response};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::cancel::Canceller;
use super::link::{MyLink, Shared};
use crate::backend::ConnectError;
use crate::config::{Live, Secret};
use crate::net::Stream;
use crate::tls::BackendConnector;

/// What we ask of a server. Several statements in one text are never sent: the session cuts them.
const WANTED: u32 = cap::LONG_PASSWORD
    | cap::LONG_FLAG
    | cap::TRANSACTIONS
    | cap::LOCAL_FILES
    | cap::SESSION_TRACK
    | cap::MULTI_RESULTS
    | cap::PS_MULTI_RESULTS;

/// The collation that connections begin with: utf8mb4_general_ci, which all servers know.
const COLLATION: u8 = 45;

/// The longest packet that we say we take.
const MAX_PACKET: u32 = 1 << 30;

/// The way to one server.
#[derive(Debug)]
pub struct Route {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether and how the connection is encrypted.
    pub tls: Option<BackendConnector>,
    /// The limits in force.
    pub live: Arc<Live>,
}

/// Who logs in, and to which database.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// The database; empty: none.
    pub database: String,
    /// Of an UPDATE the rows found are counted, not those changed.
    pub found_rows: bool,
}

/// How a connection is to be, besides whose it is.
#[derive(Clone, Debug)]
pub struct Manner {
    /// What is asked of the server, as far as it can do it.
    pub capabilities: u32,
    /// The collation that the session begins with.
    pub collation: u8,
    /// What is said about whoever connects.
    pub attributes: Vec<(String, String)>,
}

impl Manner {
    /// Our own connections.
    fn own(login: &Login) -> Self {
        let found = if login.found_rows { cap::FOUND_ROWS } else { 0 };
        Self { capabilities: WANTED | found, collation: COLLATION, attributes: Vec::new() }
    }
}

impl Route {
    /// How long opening a connection may take, or any other step before its first use.
    pub(super) fn limit(&self) -> Duration {
        self.live.bounds().connect
    }

    /// Logs in for somebody else, who speaks to the server from then on: the greeting, the stream, and what has
    /// arrived behind it.
    ///
    /// # Errors
    /// When the server cannot be reached in time, or refuses.
    pub async fn through(
        &self,
        login: &Login,
        manner: &Manner,
    ) -> Result<(Greeting, Stream, BytesMut), ConnectError> {
        let attempt = async {
            let (greeting, conversation) = self.enter(self.open().await?, login, manner).await?;
            let Conversation { stream, incoming, .. } = conversation;
            Ok((greeting, stream, incoming))
        };
        let limit = self.limit();
        tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
            Err(ConnectError::Unreachable(format!("no answer within {limit:?}")))
        })
    }

    async fn open(&self) -> Result<Conversation, ConnectError> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(lost)?;
        Stream::tune(&tcp, self.live.bounds().dead_after);
        let incoming = BytesMut::with_capacity(4096);
        Ok(Conversation { stream: Stream::Plain(tcp), incoming, sequence: 0 })
    }

    /// Logs in.
    ///
    /// # Errors
    /// When the server cannot be reached in time, or refuses.
    pub async fn login(
        self: &Arc<Self>,
        login: &Login,
        shared: Arc<Shared>,
        gone: CancellationToken,
    ) -> Result<MyLink, ConnectError> {
        let attempt = async {
            let (greeting, conversation) =
                self.enter(self.open().await?, login, &Manner::own(login)).await?;
            shared.note_version(&greeting.server);
            let number = greeting.connection;
            let canceller = Canceller {
                route: self.clone(),
                login: login.clone(),
                number,
                aim: Arc::default(),
            };
            let Conversation { stream, incoming, .. } = conversation;
            Ok(MyLink::new(stream, incoming, shared, canceller, gone.clone()))
        };
        let limit = self.limit();
        tokio::select! {
            done = tokio::time::timeout(limit, attempt) => done.unwrap_or_else(|_| {
                Err(ConnectError::Unreachable(format!("no answer within {limit:?}")))
            }),
            () = gone.cancelled() => {
                Err(ConnectError::Unreachable("the backend was made inactive".into()))
            }
        }
    }

    /// Asks the server to end what a session runs (`QUERY`) or the session itself (`CONNECTION`), and
    /// waits until the server has heard it. Nothing where it has not.
    pub(super) async fn kill(&self, login: &Login, what: &str, number: u32) -> Option<()> {
        let opened = self.open().await.ok()?;
        let manner = Manner::own(login);
        let (_, mut conversation) = self.enter(opened, login, &manner).await.ok()?;
        conversation.sequence = 0;
        let text = format!("KILL {what} {number}");
        let kill = |buf: &mut BytesMut| {
            buf.extend_from_slice(&[command::QUERY]);
            buf.extend_from_slice(text.as_bytes());
        };
        conversation.say(kill).await.ok()?;
        conversation.packet().await.ok().map(|_| ())
    }

    /// Takes the greeting, encrypts where that is wanted, and proves who we are.
    async fn enter(
        &self,
        mut conversation: Conversation,
        login: &Login,
        manner: &Manner,
    ) -> Result<(Greeting, Conversation), ConnectError> {
        let payload = conversation.packet().await?;
        if payload.first() == Some(&response::ERR) {
            return Err(refusal(&payload));
        }
        let greeting = Greeting::decode(&payload).map_err(broken)?;
        let Manner { capabilities, collation, attributes } = manner.clone();
        let wanted = capabilities & greeting.capabilities;
        if let Some(connector) = &self.tls {
            if greeting.capabilities & cap::SSL == 0 {
                return Err(ConnectError::Unreachable("the server does not offer TLS".into()));
            }
            let tls = wanted | cap::SECURE_CONNECTION | cap::PLUGIN_AUTH;
            conversation.say(|buf| handshake::tls_request(buf, tls, MAX_PACKET, collation)).await?;
            conversation = conversation.secure(connector).await?;
        }
        let encrypted = self.tls.is_some();
        let mut client = Client::new(login.password.reveal(), encrypted, &greeting.plugin);
        let answer = handshake::Login {
            capabilities: if encrypted { wanted | cap::SSL } else { wanted },
            max_packet: MAX_PACKET,
            collation,
            user: login.user.clone(),
            proof: client.first(&greeting.challenge),
            database: (!login.database.is_empty()).then(|| login.database.clone()),
            plugin: Some(client.method().name().to_owned()),
            attributes,
        };
        conversation.say(|buf| answer.encode(buf)).await?;
        conversation.prove(&mut client).await?;
        Ok((greeting, conversation))
    }
}

struct Conversation {
    stream: Stream,
    incoming: BytesMut,
    sequence: u8,
}

impl Conversation {
    async fn say(&mut self, body: impl FnOnce(&mut BytesMut)) -> Result<(), ConnectError> {
        let mut out = BytesMut::new();
        self.sequence = packet::write(&mut out, self.sequence, body);
        self.stream.write_all(&out).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)
    }

    async fn packet(&mut self) -> Result<Bytes, ConnectError> {
        loop {
            if let Some(packet) =
                packet::take(&mut self.incoming, packet::MAX_PART).map_err(broken)?
            {
                self.sequence = packet.last.wrapping_add(1);
                return Ok(packet.payload);
            }
            if self.stream.read_more(&mut self.incoming).await.map_err(lost)? == 0 {
                return Err(ConnectError::Unreachable("the server closed the connection".into()));
            }
        }
    }

    async fn secure(self, connector: &BackendConnector) -> Result<Self, ConnectError> {
        // Nothing may be taken for encrypted that was sent ahead in plain text.
        if !self.incoming.is_empty() {
            return Err(broken("bytes before the TLS handshake"));
        }
        let Stream::Plain(tcp) = self.stream else {
            return Err(broken("TLS inside TLS"));
        };
        let tls = connector.connect(tcp).await.map_err(lost)?;
        Ok(Self { stream: Stream::Tls(Box::new(tls.into())), ..self })
    }

    async fn prove(&mut self, client: &mut Client<'_>) -> Result<(), ConnectError> {
        loop {
            let payload = self.packet().await?;
            match payload.first() {
                Some(&response::OK) => return Ok(()),
                Some(&response::ERR) => return Err(refusal(&payload)),
                _ => {}
            }
            let refused = |message: String| ConnectError::Refused { code: "28000".into(), message };
            match client.on(&payload).map_err(broken)? {
                Next::Send(proof) => {
                    self.say(|buf| buf.extend_from_slice(&proof)).await?;
                }
                Next::Wait => {}
                Next::Encrypt { key, secret } => {
                    let sealed = sealed(&key, &secret).map_err(broken)?;
                    self.say(|buf| buf.extend_from_slice(&sealed)).await?;
                }
                Next::Unknown(method) => {
                    return Err(refused(format!(
                        "authentication method {method} is not supported"
                    )));
                }
            }
        }
    }
}

/// A secret for whoever has the key to this one, which comes from outside: whatever is wrong with it is
/// an error.
fn sealed(key: &[u8], secret: &[u8]) -> Result<Vec<u8>, String> {
    use rsa::pkcs8::DecodePublicKey;
    let pem = std::str::from_utf8(key).map_err(|_| "the server's RSA key is no text")?;
    let key = rsa::RsaPublicKey::from_public_key_pem(pem)
        .map_err(|error| format!("the server's RSA key cannot be read: {error}"))?;
    key.encrypt(&mut rsa::rand_core::OsRng, rsa::Oaep::new::<sha1::Sha1>(), secret)
        .map_err(|error| format!("the password does not fit the server's RSA key: {error}"))
}

fn lost(error: std::io::Error) -> ConnectError {
    ConnectError::Unreachable(error.to_string())
}

fn broken(why: impl std::fmt::Display) -> ConnectError {
    ConnectError::Unreachable(format!("protocol broken: {why}"))
}

fn refusal(payload: &[u8]) -> ConnectError {
    let Ok(error) = response::Err::decode(payload) else {
        return broken("an unreadable error");
    };
    let message = String::from_utf8_lossy(error.message).into_owned();
    match error.number {
        // No room, blocked, starting up, shutting down: nobody is let in, whoever asks.
        1040 | 1053 | 1129 | 1130 => ConnectError::Unreachable(message),
        _ => {
            let code = String::from_utf8_lossy(error.state).into_owned();
            ConnectError::Refused { code, message }
        }
    }
}
