//! Logging in: TLS, who the client is, and the proof of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lockstep_protocol::pg::auth::{self, ScramServer, ScramVerifier};
use lockstep_protocol::pg::{client, frame, server, startup};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::arrival::{Arrival, prove, refusal};
use super::wanted::{Escort, Wanted};
use super::{Bounds, Luggage, PgClient};
use crate::client::CHALLENGE;
use crate::config::AuthMethod;
use crate::error::{Failure, Kind};
use crate::net::Stream;
use crate::tls::ServerTls;
use crate::wire::pg::Statements;

/// Rounds of PBKDF2, as the server's own default.
const ITERATIONS: u32 = 4096;
/// Length of a SCRAM salt.
const SALT: usize = 16;

/// A user who may log in.
#[derive(Clone, Debug)]
pub struct Known {
    /// How the user proves who it is.
    pub method: AuthMethod,
    /// The password, for md5.
    pub password: crate::config::Secret,
    /// What SCRAM compares with.
    pub verifier: ScramVerifier,
}

/// The front door: what it takes to let a client in.
#[derive(Debug)]
pub struct Door {
    /// TLS, where it is offered, and whether it is required.
    pub tls: Option<(Arc<ServerTls>, bool)>,
    /// The users.
    pub users: std::collections::HashMap<String, Known>,
    /// How users who do not exist are asked for their password.
    pub method: AuthMethod,
    /// Makes answers to unknown users look like those to known ones.
    pub secret: [u8; 32],
    /// How long logging in may take.
    pub timeout: Duration,
    /// The largest start-up message.
    pub max_startup: usize,
    /// Bounds of a client.
    pub bounds: Bounds,
    /// The statements that sessions share.
    pub statements: Arc<Statements>,
}

/// What came through the door.
pub enum Knock {
    /// A client that has proved who it is.
    Client(Box<Greeting>),
    /// A request to cancel what another client runs.
    Cancel {
        /// The number of that client.
        number: u32,
        /// Its secret.
        secret: Bytes,
    },
    /// A client of the proxy that writes, which is another one.
    Forward(Box<Passage>),
    /// A session that goes on here.
    Arrival(Box<Arrival>),
    /// Nobody: it left, broke the rules or was refused.
    Nobody,
}

/// Where a client is served.
pub enum Whither {
    /// At this proxy.
    Here {
        /// Another one writes: this one has it as long as it only reads.
        near: bool,
    },
    /// At the proxy at the other end.
    There {
        /// The way to it, on which everything was said that the client has said.
        far: Stream,
        /// What has come on it already.
        early: BytesMut,
    },
    /// Nowhere at the moment.
    Nowhere(Failure),
}

/// Says where the clients of a database are served. A client that comes by way of another proxy is not sent on.
pub trait Signpost: Sync {
    /// Looks where it is, by the database and the start-up settings that it has chosen; may wait for that to be known.
    /// `said` is what is said there, for one that may only read or not.
    fn look(
        &self,
        chosen: (&str, &[(String, String)]),
        forwarded: bool,
        said: impl Fn(bool) -> BytesMut + Send + Sync,
    ) -> impl Future<Output = Whither> + Send;
}

/// What a client of another proxy has said so far, as it is to be handed on.
#[derive(Debug)]
pub struct Passage {
    /// The client's end.
    pub stream: Stream,
    /// The way to the proxy that writes.
    pub far: Stream,
    /// What it has sent behind its start-up message, which has been handed on.
    pub said: BytesMut,
    /// What that proxy has said already.
    pub early: BytesMut,
    /// What a proof has to be about by which the session is handed back.
    pub challenge: [u8; CHALLENGE],
}

/// Refuses a client because another proxy writes: with the SQLSTATE that makes drivers try the next address.
pub fn not_here(writer: &str) -> Failure {
    let what = if writer.is_empty() { "another proxy" } else { writer };
    Failure::new(Kind::Unavailable, format!("this proxy stands by; {what} writes"))
        .code("57P03")
        .number(1040)
        .hint("name all proxies in the connection string")
}

/// A client that has proved who it is.
#[derive(Debug)]
pub struct Greeting {
    /// The conversation.
    pub client: PgClient,
    /// The user.
    pub user: String,
    /// The database it asked for.
    pub database: String,
    /// Settings of the start-up message, those in `options` included.
    pub settings: Vec<(String, String)>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Where it came from to the proxy that connected it through.
    pub origin: Option<SocketAddr>,
    /// That proxy lets it read only.
    pub reads: bool,
    /// That proxy takes it back, with a proof about this.
    pub takes_back: Option<Bytes>,
    /// It is served here for as long as it reads only, although another proxy writes.
    pub near: bool,
}

impl Greeting {
    /// Takes a setting out of those that the servers are to have.
    pub fn take_setting(&mut self, key: &str) -> Option<String> {
        let at = self.settings.iter().rposition(|(name, _)| name == key)?;
        let (_, value) = self.settings.remove(at);
        self.settings.retain(|(name, _)| name != key);
        Some(value)
    }
}

pub(super) struct Visitor {
    pub(super) stream: Stream,
    pub(super) incoming: BytesMut,
}

impl Door {
    /// What SCRAM compares a password with, under a salt of its own.
    pub fn verifier(password: &str) -> ScramVerifier {
        ScramVerifier::from_password(password, &rand::random::<[u8; SALT]>(), ITERATIONS)
    }

    /// Lets a client in, within the time limit, where the signpost says that it is served here.
    pub async fn open(&self, tcp: TcpStream, peer: SocketAddr, signpost: &impl Signpost) -> Knock {
        let visit = self.visit(tcp, peer, signpost);
        match tokio::time::timeout(self.timeout, visit).await {
            Ok(Ok(knock)) => knock,
            Ok(Err(why)) => {
                tracing::debug!(%peer, why, "a client was not let in");
                Knock::Nobody
            }
            Err(_) => Knock::Nobody,
        }
    }

    async fn visit(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        signpost: &impl Signpost,
    ) -> Result<Knock, String> {
        let mut visitor =
            Visitor { stream: Stream::Plain(tcp), incoming: BytesMut::with_capacity(1024) };
        loop {
            match visitor.startup(self.max_startup).await? {
                startup::Startup::Tls => visitor = self.secure(visitor).await?,
                startup::Startup::GssEncryption => visitor.say(b"N").await?,
                startup::Startup::Cancel { pid, secret } => {
                    return Ok(Knock::Cancel { number: pid, secret });
                }
                startup::Startup::Start { minor, params, .. } => {
                    return self.start(visitor, peer, minor, params, signpost).await;
                }
            }
        }
    }

    async fn secure(&self, mut visitor: Visitor) -> Result<Visitor, String> {
        // What was sent ahead in plain text must not be taken for something said under TLS.
        if !visitor.incoming.is_empty() {
            return Err("bytes before the TLS handshake".into());
        }
        let Some((tls, _)) = &self.tls else {
            visitor.say(b"N").await?;
            return Ok(visitor);
        };
        visitor.say(b"S").await?;
        let Stream::Plain(tcp) = visitor.stream else {
            return Err("TLS inside TLS".into());
        };
        let secured = tls.acceptor().accept(tcp).await.map_err(|e| e.to_string())?;
        Ok(Visitor { stream: Stream::Tls(Box::new(secured.into())), ..visitor })
    }

    async fn start(
        &self,
        mut visitor: Visitor,
        peer: SocketAddr,
        minor: u16,
        params: Vec<(String, String)>,
        signpost: &impl Signpost,
    ) -> Result<Knock, String> {
        if matches!((&self.tls, &visitor.stream), (Some((_, true)), Stream::Plain(_))) {
            let refusal = Failure::new(Kind::Refused, "this server requires TLS")
                .code("28000")
                .hint("connect with sslmode=require or stricter");
            return visitor.refuse(&refusal).await;
        }
        let said = params.clone();
        let wanted = match Wanted::read(params) {
            Ok(wanted) => wanted,
            Err(refusal) => return visitor.refuse(&refusal).await,
        };
        if let Some((number, secret)) = wanted.cancel {
            return Ok(Knock::Cancel { number, secret });
        }
        let challenge: [u8; CHALLENGE] = rand::random();
        let hand_on = |reads: bool| {
            // Who may only read here comes to be told that, and connects again.
            let takes_back = (!reads).then_some(&challenge[..]);
            let escort = Escort { origin: peer, reads, takes_back, goes_on: false };
            let pairs: Vec<(&str, &str)> =
                said.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            escort.message(&pairs)
        };
        let chosen = (&*wanted.database, &*wanted.settings);
        let near = match signpost.look(chosen, wanted.forwarded.is_some(), hand_on).await {
            Whither::Here { near } => near,
            Whither::There { far, early } => {
                let Visitor { stream, incoming: said } = visitor;
                let passage = Passage { stream, far, said, early, challenge };
                return Ok(Knock::Forward(Box::new(passage)));
            }
            Whither::Nowhere(refusal) => return visitor.refuse(&refusal).await,
        };
        if wanted.goes_on {
            return self.arrival(visitor, wanted.takes_back).await;
        }
        if minor > 0 || !wanted.unknown.is_empty() {
            let mut out = BytesMut::new();
            let unknown: Vec<&str> = wanted.unknown.iter().map(String::as_str).collect();
            server::negotiate_protocol_version(&mut out, 0, &unknown);
            visitor.say(&out).await?;
        }
        if let Err(refusal) = self.prove(&mut visitor, &wanted.user).await? {
            return visitor.refuse(&refusal).await;
        }
        let Visitor { stream, incoming } = visitor;
        let client = PgClient::new(stream, incoming, self.statements.clone(), self.bounds);
        let Wanted { user, database, settings, forwarded, reads, takes_back, .. } = wanted;
        let origin = forwarded.and_then(|origin| origin.parse().ok());
        let greeting =
            Greeting { client, user, database, settings, peer, origin, reads, takes_back, near };
        Ok(Knock::Client(Box::new(greeting)))
    }

    /// Takes in a session that goes on here. Whoever brings it proves that it is a proxy by the seal.
    async fn arrival(&self, mut visitor: Visitor, back: Option<Bytes>) -> Result<Knock, String> {
        let challenge: [u8; CHALLENGE] = rand::random();
        visitor.say(&prove(&challenge)).await?;
        let sealed = visitor.password(self.bounds.message).await?;
        let Visitor { stream, incoming } = visitor;
        let takes_back = back;
        let arrival = Arrival { stream, incoming, sealed, challenge, takes_back };
        Ok(Knock::Arrival(Box::new(arrival)))
    }

    /// A client goes on here with what was packed elsewhere.
    pub fn unpack(&self, stream: Stream, unread: BytesMut, luggage: Luggage) -> PgClient {
        PgClient::unpack(stream, unread, luggage, (self.statements.clone(), self.bounds))
    }

    /// Has the client prove who it is. Unknown users are asked like known ones, and refused alike.
    async fn prove(
        &self,
        visitor: &mut Visitor,
        user: &str,
    ) -> Result<Result<(), Failure>, String> {
        let known = self.users.get(user);
        let method = known.map_or(self.method, |k| k.method);
        let right = match method {
            AuthMethod::Trust => known.is_some(),
            AuthMethod::Md5 => {
                let salt: [u8; 4] = rand::random();
                let mut out = BytesMut::new();
                server::auth_md5(&mut out, salt);
                visitor.say(&out).await?;
                let given = visitor.password(self.max_startup).await?;
                let password = known.map_or("", |k| k.password.reveal());
                let wanted = auth::md5_password(user, password, salt);
                let given = given.strip_suffix(&[0]).unwrap_or(&given);
                auth::constant_time_eq(given, wanted.as_bytes()) && known.is_some()
            }
            AuthMethod::ScramSha256 => self.scram(visitor, user).await? && known.is_some(),
        };
        Ok(if right {
            Ok(())
        } else {
            let what = format!("password authentication failed for user \"{user}\"");
            Err(Failure::new(Kind::Refused, what).code("28P01"))
        })
    }

    async fn scram(&self, visitor: &mut Visitor, user: &str) -> Result<bool, String> {
        let verifier = self.users.get(user).map_or_else(
            || ScramVerifier::mock(user, &self.secret, SALT, ITERATIONS),
            |known| known.verifier.clone(),
        );
        let mut out = BytesMut::new();
        server::auth_sasl(&mut out, &[auth::SCRAM_SHA_256]);
        visitor.say(&out).await?;
        let first = visitor.password(self.max_startup).await?;
        let first = client::SaslInitial::decode(&first).map_err(|e| e.to_string())?;
        if first.mechanism != auth::SCRAM_SHA_256 {
            return Err("a SASL mechanism that was not offered".into());
        }
        let mut machine = ScramServer::new(verifier, nonce());
        let challenge =
            machine.challenge(first.data.unwrap_or_default()).map_err(|e| e.to_string())?;
        out.clear();
        server::auth_sasl_continue(&mut out, challenge);
        visitor.say(&out).await?;
        let proof = visitor.password(self.max_startup).await?;
        match machine.verify(&proof) {
            Ok(last) => {
                out.clear();
                server::auth_sasl_final(&mut out, last);
                visitor.say(&out).await?;
                Ok(true)
            }
            Err(auth::AuthError::WrongPassword) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Visitor {
    pub(super) async fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|e| e.to_string())?;
        self.stream.flush().await.map_err(|e| e.to_string())
    }

    pub(super) async fn more(&mut self) -> Result<(), String> {
        match self.stream.read_more(&mut self.incoming).await {
            Ok(0) => Err("it left".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn startup(&mut self, max: usize) -> Result<startup::Startup, String> {
        loop {
            match startup::decode(&mut self.incoming, max) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => self.more().await?,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    pub(super) async fn frame(&mut self, max: usize) -> Result<frame::Frame, String> {
        loop {
            match frame::take(&mut self.incoming, max).map_err(|e| e.to_string())? {
                Some(frame) => return Ok(frame),
                None => self.more().await?,
            }
        }
    }

    /// The body of the next password message; nothing else is allowed here.
    async fn password(&mut self, max: usize) -> Result<Bytes, String> {
        let frame = self.frame(max).await?;
        if frame.tag != client::PASSWORD {
            return Err(format!("message type {} during login", frame.tag));
        }
        Ok(frame.bytes.slice(frame::HEADER..))
    }

    async fn refuse(&mut self, failure: &Failure) -> Result<Knock, String> {
        self.say(&refusal(failure)).await?;
        Ok(Knock::Nobody)
    }
}

fn nonce() -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), 24)
}
