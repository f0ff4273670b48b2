//! A client that speaks bytes: for pipelines, portals, protocol errors and everything a driver
//! hides.
//!
//! The login is borrowed from `tokio_postgres`: it does the handshake over a stream that is taken
//! back from it afterwards. All answers can be shown as short lines, so that two conversations can
//! be compared.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::{Config, NoTls};

pub(crate) use super::transcript::{fields, lines};
use super::transcript::{split, strings};
use super::{secs, within};

/// One message of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Wire {
    stream: TcpStream,
    /// What the server told about itself at login.
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) pid: u32,
    pub(crate) secret: Vec<u8>,
    port: u16,
}

impl Wire {
    pub(crate) async fn open(port: u16, user: &str, password: &str, database: &str) -> Self {
        Self::open_with(port, user, password, database, "").await
    }

    /// With start-up options.
    pub(crate) async fn open_with(
        port: u16,
        user: &str,
        password: &str,
        database: &str,
        options: &str,
    ) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        let lent = Lent::new(stream);
        let mut config = Config::new();
        config.user(user).password(password).dbname(database).application_name("wire");
        if !options.is_empty() {
            config.options(options);
        }
        let login = within("a raw login", secs(30), config.connect_raw(lent.clone(), NoTls)).await;
        let (client, connection) = login.unwrap_or_else(|e| panic!("login of {user}: {e:?}"));
        // Dropping both says nothing to the server: only a connection that is still driven says
        // goodbye.
        drop(connection);
        drop(client);
        let (stream, seen) = lent.take_back();
        let mut wire =
            Self { stream, parameters: BTreeMap::new(), pid: 0, secret: Vec::new(), port };
        for message in split(&seen) {
            match message.tag {
                b'S' => {
                    let mut parts = strings(&message.body).into_iter();
                    wire.parameters.insert(parts.next().unwrap(), parts.next().unwrap());
                }
                b'K' => {
                    wire.pid = u32::from_be_bytes(message.body[..4].try_into().unwrap());
                    wire.secret = message.body[4..].to_vec();
                }
                _ => {}
            }
        }
        wire
    }

    /// A connection before any login.
    pub(crate) async fn bare(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        Self { stream, parameters: BTreeMap::new(), pid: 0, secret: Vec::new(), port }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server takes our bytes");
    }

    /// Sends, though the other side may be closing already.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next message; `None` when the server has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        within("a message from the server", secs(20), async {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            assert!((4..1 << 28).contains(&length), "a message of length {length}");
            let mut body = vec![0; length - 4];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Message { tag: head[0], body })
        })
        .await
    }

    /// All messages up to the n-th ReadyForQuery, or to the end of the connection.
    pub(crate) async fn until_ready(&mut self, n: usize) -> Vec<Message> {
        let mut all = Vec::new();
        let mut left = n;
        while left > 0 {
            let Some(message) = self.next().await else {
                break;
            };
            left -= usize::from(message.tag == b'Z');
            all.push(message);
        }
        all
    }

    /// All messages up to and including the first with this tag.
    pub(crate) async fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            let found = message.tag == tag;
            all.push(message);
            if found {
                return all;
            }
        }
        panic!("the server closed before it sent {:?}; it said {:?}", tag as char, lines(&all));
    }

    /// Sends, and shows the answers up to the n-th ReadyForQuery.
    pub(crate) async fn talk(&mut self, bytes: &[u8], n: usize) -> Vec<String> {
        self.send(bytes).await;
        lines(&self.until_ready(n).await)
    }

    /// One simple query, shown.
    pub(crate) async fn query(&mut self, sql: &str) -> Vec<String> {
        self.talk(&query(sql), 1).await
    }

    /// Whether nothing arrives for this long.
    pub(crate) async fn is_silent_for(&mut self, time: Duration) -> bool {
        let mut byte = [0; 1];
        tokio::time::timeout(time, self.stream.peek(&mut byte)).await.is_err()
    }

    /// One byte, as after SSLRequest.
    pub(crate) async fn byte(&mut self) -> Option<u8> {
        within("one byte", secs(10), self.stream.read_u8()).await.ok()
    }

    /// Whether the server closes the connection within this time, whatever it says before.
    pub(crate) async fn is_closed_within(&mut self, time: Duration) -> bool {
        let end = async {
            let mut sink = [0; 4096];
            while matches!(self.stream.read(&mut sink).await, Ok(n) if n > 0) {}
        };
        tokio::time::timeout(time, end).await.is_ok()
    }

    /// A cancel request for this session, over a connection of its own, as clients send it.
    pub(crate) async fn cancel(&self) {
        cancel(self.port, self.pid, &self.secret).await;
    }
}

/// A cancel request with any key; returns when the server has closed that connection.
pub(crate) async fn cancel(port: u16, pid: u32, secret: &[u8]) {
    let mut other = Wire::bare(port).await;
    let mut bytes = Vec::new();
    bytes.extend((12 + secret.len() as u32).to_be_bytes());
    bytes.extend(80_877_102_u32.to_be_bytes());
    bytes.extend(pid.to_be_bytes());
    bytes.extend(secret);
    other.send(&bytes).await;
    assert!(other.is_closed_within(secs(10)).await, "a cancel connection stays open");
}

// What clients send.

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut all = vec![tag];
    all.extend((body.len() as u32 + 4).to_be_bytes());
    all.extend(body);
    all
}

fn text(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|p| p.bytes().chain([0])).collect()
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    framed(b'Q', &text(&[sql]))
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    parse_typed(name, sql, &[])
}

pub(crate) fn parse_typed(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = text(&[name, sql]);
    body.extend((types.len() as u16).to_be_bytes());
    types.iter().for_each(|t| body.extend(t.to_be_bytes()));
    framed(b'P', &body)
}

/// Parameters in text, results in text.
pub(crate) fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let values: Vec<Option<&[u8]>> = values.iter().map(|v| v.map(str::as_bytes)).collect();
    bind_formats(portal, statement, &[], &values, &[])
}

pub(crate) fn bind_formats(
    portal: &str,
    statement: &str,
    formats: &[u16],
    values: &[Option<&[u8]>],
    results: &[u16],
) -> Vec<u8> {
    let mut body = text(&[portal, statement]);
    body.extend((formats.len() as u16).to_be_bytes());
    formats.iter().for_each(|f| body.extend(f.to_be_bytes()));
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            Some(bytes) => {
                body.extend((bytes.len() as u32).to_be_bytes());
                body.extend(*bytes);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend((results.len() as u16).to_be_bytes());
    results.iter().for_each(|f| body.extend(f.to_be_bytes()));
    framed(b'B', &body)
}

pub(crate) fn describe(kind: u8, name: &str) -> Vec<u8> {
    framed(b'D', &[&[kind][..], &text(&[name])].concat())
}

pub(crate) fn close(kind: u8, name: &str) -> Vec<u8> {
    framed(b'C', &[&[kind][..], &text(&[name])].concat())
}

pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    framed(b'E', &[text(&[portal]), rows.to_be_bytes().to_vec()].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    framed(b'S', &[])
}

pub(crate) fn flush() -> Vec<u8> {
    framed(b'H', &[])
}

pub(crate) fn copy_data(bytes: &[u8]) -> Vec<u8> {
    framed(b'd', bytes)
}

pub(crate) fn copy_done() -> Vec<u8> {
    framed(b'c', &[])
}

pub(crate) fn copy_fail(why: &str) -> Vec<u8> {
    framed(b'f', &text(&[why]))
}

/// Any tag with any body.
pub(crate) fn any(tag: u8, body: &[u8]) -> Vec<u8> {
    framed(tag, body)
}

/// A start-up packet of protocol 3.0.
pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(text(&[name, value]));
    }
    body.push(0);
    let mut all = (body.len() as u32 + 4).to_be_bytes().to_vec();
    all.extend(body);
    all
}

/// Parse, Bind, Execute of the unnamed statement, without Sync.
pub(crate) fn unnamed(sql: &str, values: &[Option<&str>]) -> Vec<u8> {
    [parse("", sql), bind("", "", values), describe(b'P', ""), execute("", 0)].concat()
}

/// A stream that is lent out, and remembers what was read through it.
#[derive(Clone)]
struct Lent(Arc<Mutex<Loan>>);

struct Loan {
    stream: Option<TcpStream>,
    seen: Vec<u8>,
}

impl Lent {
    fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Loan { stream: Some(stream), seen: Vec::new() })))
    }

    fn take_back(self) -> (TcpStream, Vec<u8>) {
        let mut loan = self.0.lock().unwrap();
        (loan.stream.take().expect("taken back once"), std::mem::take(&mut loan.seen))
    }

    fn with<T>(
        &self,
        act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        match self.0.lock().unwrap().stream.as_mut() {
            Some(stream) => act(Pin::new(stream)),
            None => Poll::Ready(Err(std::io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let outcome = self.with(|stream| stream.poll_read(cx, buf));
        self.0.lock().unwrap().seen.extend(&buf.filled()[before..]);
        outcome
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}
