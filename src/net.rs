//! A byte stream, plain or under TLS, towards an application or a database.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SetStruct;
use nix::{libc, setsockopt_impl, sockopt_impl};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::ending::Ending;

/// How much room a read asks for.
const READ_CHUNK: usize = 16 * 1024;

/// With how many bytes a reader is woken that waits for nothing in particular: less than a socket has room for.
const UNATTENDED: i32 = 16 * 1024;

sockopt_impl!(
    /// How many bytes there have to be before the reader is woken.
    LowWater, SetOnly, libc::SOL_SOCKET, libc::SO_RCVLOWAT, i32, SetStruct<i32>
);

/// A byte stream, plain or under TLS.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Stream {
    /// Sets what every connection of ours has: no delay, keepalive, and a bound on unacknowledged data.
    pub fn tune(stream: &TcpStream, user_timeout: Duration) {
        let socket = socket2::SockRef::from(stream);
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10));
        // A socket that refuses an option still works; it only notices a dead peer later.
        let _ = stream.set_nodelay(true);
        let _ = socket.set_tcp_keepalive(&keepalive);
        let _ = socket.set_tcp_user_timeout(Some(user_timeout));
    }

    /// Whether every byte that arrives is waited for. Otherwise nobody is woken before there are many, or the peer has
    /// closed: what has arrived until then is there all the same.
    pub fn attend(&self, every_byte: bool) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        // A socket that refuses this wakes its reader more often.
        let _ = setsockopt(stream, LowWater, if every_byte { &1 } else { &UNATTENDED });
    }

    /// Reads more bytes; 0 means that the peer has closed.
    pub async fn read_more(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        // Where nobody holds on to what was read before, its memory is used again while it is still in the
        // processor's cache.
        let at_front = buf.is_empty() && buf.try_reclaim(READ_CHUNK);
        if !at_front && buf.capacity() - buf.len() < READ_CHUNK / 4 {
            buf.reserve(READ_CHUNK);
        }
        self.read_buf(buf).await
    }

    /// Writes all of `out`. Meanwhile whatever arrives is put into `incoming`, so that two peers
    /// that both write can never block each other for good.
    pub async fn write_while_reading(
        &mut self,
        out: &mut BytesMut,
        incoming: &mut BytesMut,
    ) -> io::Result<()> {
        while out.has_remaining() {
            std::future::poll_fn(|cx| {
                match Pin::new(&mut *self).poll_write(cx, out.chunk()) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    Poll::Ready(Ok(n)) => {
                        out.advance(n);
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                    Poll::Pending => {}
                }
                self.poll_incoming(cx, incoming)
            })
            .await?;
        }
        if let Self::Tls(_) = self {
            self.flush().await?;
        }
        Ok(())
    }

    /// Takes what has arrived already, and waits for nothing. As long as the runtime has not heard of
    /// anything new, this asks the system for nothing.
    ///
    /// # Errors
    /// When the peer has closed, or sends without end.
    pub fn take_arrived(&mut self, incoming: &mut BytesMut) -> io::Result<()> {
        while incoming.len() < READ_CHUNK {
            match self.read_arrived(incoming) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the peer says too much unasked"))
    }

    fn read_arrived(&mut self, incoming: &mut BytesMut) -> io::Result<usize> {
        let stream = match self {
            Self::Plain(stream) => return stream.try_read_buf(incoming),
            Self::Tls(stream) => Pin::new(stream),
        };
        let mut chunk = [0; 512];
        let mut read = ReadBuf::new(&mut chunk);
        match stream.poll_read(&mut Context::from_waker(Waker::noop()), &mut read) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) => {
                incoming.extend_from_slice(read.filled());
                Ok(read.filled().len())
            }
        }
    }

    /// Reads what is there into `incoming`; pending when there is nothing.
    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        incoming.reserve(READ_CHUNK);
        let future = self.read_buf(incoming);
        tokio::pin!(future);
        match std::future::Future::poll(future, cx) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The byte stream of an application, which can be cut from elsewhere while it is waited for.
#[derive(Debug)]
pub struct Line {
    stream: Stream,
    /// Whoever may be cut off is few: the others wait for nothing but their bytes.
    hangup: Option<Ending>,
}

impl Line {
    /// A line that nobody cuts yet.
    pub fn new(stream: Stream) -> Self {
        Self { stream, hangup: None }
    }

    /// From when on nothing passes any more.
    pub fn hang_up_on(&mut self, hangup: CancellationToken) {
        self.hangup = Some(Ending::of(hangup));
    }

    /// What it goes over, for whoever begins another conversation there.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// As [`Stream::read_more`].
    pub async fn read_more(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        let Self { stream, hangup } = self;
        unless_cut(hangup, stream.read_more(buf)).await
    }

    /// As [`Stream::write_while_reading`].
    pub async fn write_while_reading(
        &mut self,
        out: &mut BytesMut,
        incoming: &mut BytesMut,
    ) -> io::Result<()> {
        let Self { stream, hangup } = self;
        unless_cut(hangup, stream.write_while_reading(out, incoming)).await
    }
}

/// Waits for bytes to pass, as long as they may.
async fn unless_cut<T>(
    hangup: &mut Option<Ending>,
    passing: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let Some(hangup) = hangup else {
        return passing.await;
    };
    tokio::select! {
        biased;
        () = hangup.comes() => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut off")),
        passed = passing => passed,
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
