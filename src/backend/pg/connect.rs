//! Opening a connection to a PostgreSQL server: TLS, login, and the server's parameters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lockstep_protocol::pg::{auth, client, frame, server, startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::super::ConnectError;
use super::cancel::Canceller;
use super::link::{PgLink, Shared};
use super::row::read_error;
use crate::config::{Live, Secret};
use crate::net::Stream;
use crate::tls::BackendConnector;

/// The longest message, in bytes, of a server to which nobody has been let in yet: libpq's own limit.
const MOST_AT_LOGIN: usize = 30_000;

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
    /// Role name.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Database name.
    pub database: String,
    /// Further start-up parameters.
    pub parameters: Vec<(String, String)>,
}

impl Route {
    /// How long opening a connection may take, or any other step before its first use.
    pub(super) fn limit(&self) -> Duration {
        self.live.bounds().connect
    }

    /// Opens the byte stream, for whoever logs in on it.
    ///
    /// # Errors
    /// When the server cannot be reached, or its certificate is not the right one. There is no time limit here.
    pub async fn open(&self) -> Result<Stream, ConnectError> {
        let lost = |e: std::io::Error| ConnectError::Unreachable(e.to_string());
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(lost)?;
        Stream::tune(&tcp, self.live.bounds().dead_after);
        let Some(connector) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let mut tcp = tcp;
        let mut request = BytesMut::new();
        startup::tls_request(&mut request);
        tcp.write_all(&request).await.map_err(lost)?;
        // Exactly one byte is read, so that nothing sent ahead in plain text is taken for encrypted.
        match tcp.read_u8().await.map_err(lost)? {
            b'S' => {
                let tls = connector.connect(tcp).await.map_err(lost)?;
                Ok(Stream::Tls(Box::new(tls.into())))
            }
            _ => Err(ConnectError::Unreachable("the server does not offer TLS".into())),
        }
    }

    /// Logs in.
    pub async fn login(
        self: &Arc<Self>,
        login: &Login,
        shared: Arc<Shared>,
        gone: CancellationToken,
    ) -> Result<PgLink, ConnectError> {
        let attempt = async {
            let mut conversation = Conversation {
                stream: self.open().await?,
                incoming: BytesMut::with_capacity(4096),
                max: MOST_AT_LOGIN,
            };
            conversation.start(login).await?;
            let (parameters, pid, secret) = conversation.finish().await?;
            let canceller = Canceller { route: self.clone(), pid, secret, aim: Arc::default() };
            let Conversation { stream, incoming, .. } = conversation;
            Ok(PgLink::new(stream, incoming, shared, canceller, parameters, gone.clone()))
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
}

struct Conversation {
    stream: Stream,
    incoming: BytesMut,
    max: usize,
}

impl Conversation {
    async fn send(&mut self, message: &BytesMut) -> Result<(), ConnectError> {
        let lost = |e: std::io::Error| ConnectError::Unreachable(e.to_string());
        self.stream.write_all(message).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)
    }

    async fn next(&mut self) -> Result<frame::Frame, ConnectError> {
        let lost = |e: std::io::Error| ConnectError::Unreachable(e.to_string());
        loop {
            match frame::take(&mut self.incoming, self.max) {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(e) => {
                    return Err(broken(e));
                }
            }
            if self.stream.read_more(&mut self.incoming).await.map_err(lost)? == 0 {
                return Err(ConnectError::Unreachable("the server closed the connection".into()));
            }
        }
    }

    /// Sends the start-up message and proves who we are.
    async fn start(&mut self, login: &Login) -> Result<(), ConnectError> {
        let mut message = BytesMut::new();
        let mut parameters =
            vec![("user", login.user.as_str()), ("database", login.database.as_str())];
        parameters.extend(login.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        startup::startup_message(&mut message, &parameters);
        self.send(&message).await?;
        let mut scram: Option<auth::ScramClient> = None;
        let mut proved = false;
        loop {
            let frame = self.next().await?;
            match frame.tag {
                b'R' => {
                    let request = server::Auth::decode(frame.body()).map_err(broken)?;
                    if matches!(request, server::Auth::Ok) {
                        // A server that skips its own proof is not the one that knows the password.
                        return if scram.is_some() && !proved {
                            Err(broken("the server did not prove that it knows the password"))
                        } else {
                            Ok(())
                        };
                    }
                    proved = matches!(request, server::Auth::SaslFinal(_));
                    self.prove(login, request, &mut scram).await?;
                }
                b'E' => return Err(refusal(&frame)),
                b'N' | b'v' => {}
                tag => {
                    return Err(broken(format!("message {:?} during login", char::from(tag))));
                }
            }
        }
    }

    async fn prove(
        &mut self,
        login: &Login,
        request: server::Auth,
        scram: &mut Option<auth::ScramClient>,
    ) -> Result<(), ConnectError> {
        let mut answer = BytesMut::new();
        let password = login.password.reveal();
        match request {
            server::Auth::Cleartext => client::password(&mut answer, password),
            server::Auth::Md5(salt) => {
                let hashed = auth::md5_password(&login.user, password, salt);
                client::password(&mut answer, &hashed);
            }
            server::Auth::Sasl(mechanisms) => {
                if !mechanisms.iter().any(|m| m == "SCRAM-SHA-256") {
                    return Err(unsupported(format!("no known mechanism among {mechanisms:?}")));
                }
                let mut machine = auth::ScramClient::new(password, nonce());
                let first = machine.first().map_err(broken)?;
                client::sasl_initial(&mut answer, "SCRAM-SHA-256", first.as_bytes());
                *scram = Some(machine);
            }
            server::Auth::SaslContinue(challenge) => {
                let machine = scram.as_mut().ok_or_else(|| broken("SCRAM out of order"))?;
                let proof = machine.respond(&challenge).map_err(broken)?;
                client::sasl_response(&mut answer, proof.as_bytes());
            }
            server::Auth::SaslFinal(last) => {
                let machine = scram.as_mut().ok_or_else(|| broken("SCRAM out of order"))?;
                machine.finish(&last).map_err(broken)?;
                return Ok(());
            }
            // Kerberos, SCM, GSSAPI and SSPI: there is no other that a server may ask for.
            server::Auth::Other(kind @ (2 | 6 | 7 | 9)) => {
                let why = format!("authentication method {kind} is not supported");
                return Err(unsupported(why));
            }
            server::Auth::Other(kind) => {
                return Err(broken(format!("authentication method {kind} does not exist")));
            }
            server::Auth::Ok => return Ok(()),
        }
        self.send(&answer).await
    }

    /// Reads the server's parameters and the key for cancel requests.
    async fn finish(&mut self) -> Result<(BTreeMap<String, String>, u32, Bytes), ConnectError> {
        let mut parameters = BTreeMap::new();
        let mut key = None;
        loop {
            let frame = self.next().await?;
            match frame.tag {
                b'S' => {
                    let (name, value) =
                        server::parameter_status_of(frame.body()).map_err(broken)?;
                    parameters.insert(name.to_owned(), value.to_owned());
                }
                b'K' => key = Some(server::backend_key_of(frame.body()).map_err(broken)?),
                b'Z' => {
                    let (pid, secret) = key.ok_or_else(|| broken("no cancel key"))?;
                    return Ok((parameters, pid, secret));
                }
                b'E' => return Err(refusal(&frame)),
                b'N' => {}
                tag => return Err(broken(format!("message {:?} after login", char::from(tag)))),
            }
        }
    }
}

fn broken(why: impl std::fmt::Display) -> ConnectError {
    ConnectError::Rules(why.to_string())
}

/// The server wants a proof that nobody here can give: that is for an operator to mend.
fn unsupported(why: String) -> ConnectError {
    ConnectError::Refused { code: "28000".into(), message: why }
}

fn refusal(frame: &frame::Frame) -> ConnectError {
    let error = read_error(&frame.bytes);
    match error.code.as_str() {
        // Starting up, shutting down: nobody is let in, whoever asks.
        "57P01" | "57P02" | "57P03" => ConnectError::Unreachable(error.to_string()),
        _ => ConnectError::Refused { code: error.code, message: error.message },
    }
}

fn nonce() -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), 24)
}
