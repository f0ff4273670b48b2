//! `caching_sha2_password` of a server that asks for the password itself over a line in clear. MariaDB has
//! no such method: the server here is made of the protocol's own other side, and of OpenSSL for its key.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::BytesMut;
use lockstep::backend::ConnectError;
use lockstep::backend::mysql::{Login, Route};
use lockstep::config::Secret;
use lockstep_protocol::mysql::auth::{MORE, Method, Verifier};
use lockstep_protocol::mysql::handshake::{self, CHALLENGE, Greeting, capability as cap};
use lockstep_protocol::mysql::{packet, response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::link::{live, shared, statements};

const PASSWORD_OF_A_USER: &str = "a pass phrase that is longer than the challenge, with ünïcode";
const CHALLENGED: &[u8; CHALLENGE] = b"y8KO*#q2D>H3bwN`vQsm";

struct Line {
    tcp: TcpStream,
    incoming: BytesMut,
    sequence: u8,
}

impl Line {
    async fn say(&mut self, payload: &[u8]) {
        let mut out = BytesMut::new();
        self.sequence = packet::put(&mut out, self.sequence, payload);
        self.tcp.write_all(&out).await.unwrap();
    }

    async fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(packet) = packet::take(&mut self.incoming, 1 << 16).unwrap() {
                self.sequence = packet.last.wrapping_add(1);
                return Some(packet.payload.to_vec());
            }
            if self.tcp.read_buf(&mut self.incoming).await.ok()? == 0 {
                return None;
            }
        }
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert!(ran.status.success(), "openssl {arguments:?}");
    ran.stdout
}

/// A server that knows no hash of the user; what it heard as the password, if it got so far.
async fn serve(listener: TcpListener, key: Vec<u8>, private: Option<String>) -> Option<String> {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut line = Line { tcp, incoming: BytesMut::new(), sequence: 0 };
    let greeting = Greeting {
        server: "8.0.36".into(),
        connection: 7,
        challenge: *CHALLENGED,
        capabilities: cap::PROTOCOL_41 | cap::SECURE_CONNECTION | cap::PLUGIN_AUTH,
        collation: 45,
        status: 2,
        plugin: Method::CachingSha2.name().into(),
    };
    let mut payload = BytesMut::new();
    greeting.encode(&mut payload);
    line.say(&payload).await;
    let login = match handshake::Answer::decode(&line.hear().await?) {
        Ok(handshake::Answer::Login(login)) => login,
        other => panic!("{other:?}"),
    };
    let verifier = Verifier::new(PASSWORD_OF_A_USER);
    assert!(verifier.accepts(Method::CachingSha2, CHALLENGED, &login.proof));
    line.say(&[MORE, 4]).await;
    assert_eq!(line.hear().await?, [2], "the key is asked for");
    line.say(&[&[MORE][..], &key].concat()).await;
    let sealed = line.hear().await?;
    assert!(!sealed.windows(6).any(|w| PASSWORD_OF_A_USER.as_bytes().starts_with(w)));
    let oaep = ["pkeyutl", "-decrypt", "-pkeyopt", "rsa_padding_mode:oaep", "-inkey"];
    let opened = openssl(&[&oaep[..], &[private?.as_str()]].concat(), &sealed);
    let plain: Vec<u8> = opened.iter().zip(CHALLENGED.iter().cycle()).map(|(a, b)| a ^ b).collect();
    let mut ok = BytesMut::new();
    response::Ok { status: 2, ..response::Ok::default() }.encode(&mut ok);
    line.say(&ok).await;
    Some(String::from_utf8(plain).unwrap())
}

async fn log_in(port: u16) -> Result<(), ConnectError> {
    let route = Arc::new(Route { host: "127.0.0.1".into(), port, tls: None, live: live() });
    let login = Login {
        user: "app".into(),
        password: Secret::new(PASSWORD_OF_A_USER),
        database: String::new(),
        found_rows: false,
    };
    route.login(&login, shared(&statements()), CancellationToken::new()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_sealed_with_the_servers_key() {
    let folder = tempfile::tempdir().unwrap();
    let private = folder.path().join("key.pem").display().to_string();
    openssl(
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &private],
        b"",
    );
    let key = openssl(&["pkey", "-in", &private, "-pubout"], b"");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(serve(listener, key, Some(private)));
    log_in(port).await.unwrap();
    let heard = server.await.unwrap().unwrap();
    assert_eq!(heard.strip_suffix('\0'), Some(PASSWORD_OF_A_USER));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_an_error_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let private = folder.path().join("key.pem").display().to_string();
    openssl(
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:512", "-out", &private],
        b"",
    );
    let small = openssl(&["pkey", "-in", &private, "-pubout"], b"");
    let nonsense = [
        &b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"[..],
        b"",
        b"\xff\xfe",
        &small,
    ];
    for key in nonsense {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(serve(listener, key.to_vec(), None));
        assert!(log_in(port).await.is_err(), "{key:?}");
        assert_eq!(server.await.unwrap(), None);
    }
}
