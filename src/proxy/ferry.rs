//! Bytes to and fro between a client and the proxy that writes, until either side ends, or until that proxy has the
//! client taken back: then nothing is lost that either side has said.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio_util::sync::CancellationToken;

use crate::net::Stream;

/// How much room a read asks for.
const CHUNK: usize = 16 * 1024;
/// How long what was packed may take to come.
const PACKED: Duration = Duration::from_secs(5);
/// For how long a client may still be called back once another proxy is known to write: the call was sent before that.
const LATE: Duration = Duration::from_millis(500);
/// The most that comes with a session.
const MOST: usize = 256 << 20;

/// Finds in what goes to a client that it is called back.
pub(super) trait Watch: Send {
    /// Hands on what may be handed on. True when the client is called back: what is left then is not for it.
    fn pass(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> bool;
}

impl Watch for crate::client::pg::CallBack {
    fn pass(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> bool {
        Self::pass(self, from, to)
    }
}

impl Watch for crate::client::mysql::CallBack {
    fn pass(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> bool {
        Self::pass(self, from, to)
    }
}

/// A client and the way to the proxy that serves it.
pub(super) struct Ferry<W> {
    near: (ReadHalf<Stream>, WriteHalf<Stream>),
    far: (ReadHalf<Stream>, WriteHalf<Stream>),
    /// On its way to the proxy.
    up: BytesMut,
    /// Come from the proxy, and not looked at.
    down: BytesMut,
    /// On its way to the client.
    out: BytesMut,
    watch: W,
}

/// How a passage has ended.
enum Ended {
    CalledBack,
    Over,
}

impl<W: Watch> Ferry<W> {
    /// `up` is for the proxy, and `down` has come from it.
    pub(super) fn new(near: Stream, far: Stream, up: BytesMut, down: BytesMut, watch: W) -> Self {
        let (near, far) = (split(near), split(far));
        Self { near, far, up, down, out: BytesMut::new(), watch }
    }

    /// Hands bytes on to the end. Where the client is called back: its end, and what came for whoever goes on with it.
    pub(super) async fn run(mut self, ends: CancellationToken) -> Option<(Stream, BytesMut)> {
        let ended = tokio::select! {
            ended = self.pass() => ended,
            () = ends.cancelled() => {
                tracing::debug!("another proxy writes");
                self.is_called_late().await
            }
        };
        match ended {
            Ok(Ended::CalledBack) => {}
            Ok(Ended::Over) => return None,
            Err(error) => {
                tracing::debug!(%error, "a client that was connected through is gone");
                return None;
            }
        }
        match tokio::time::timeout(PACKED, self.take_back()).await {
            Ok(Ok(taken)) => Some(taken),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a session could not be taken back");
                None
            }
            Err(_) => {
                tracing::warn!("a session that was to be taken back did not come");
                None
            }
        }
    }

    async fn pass(&mut self) -> io::Result<Ended> {
        let Self { near, far, up, down, out, watch } = self;
        let ((near_in, near_out), (far_in, far_out)) = (near, far);
        // Each step can be given up without losing anything: what is under way is in the buffers.
        let upward = async {
            loop {
                while up.has_remaining() {
                    far_out.write_buf(up).await?;
                }
                far_out.flush().await?;
                up.reserve(CHUNK);
                if near_in.read_buf(up).await? == 0 {
                    return far_out.shutdown().await;
                }
            }
        };
        let downward = async {
            loop {
                let called = watch.pass(down, out);
                while out.has_remaining() {
                    near_out.write_buf(out).await?;
                }
                near_out.flush().await?;
                if called {
                    return Ok(Ended::CalledBack);
                }
                down.reserve(CHUNK);
                if far_in.read_buf(down).await? == 0 {
                    near_out.shutdown().await?;
                    return Ok(Ended::Over);
                }
            }
        };
        tokio::pin!(upward, downward);
        tokio::select! {
            biased;
            ended = &mut downward => match ended? {
                Ended::CalledBack => Ok(Ended::CalledBack),
                // What the client has not read yet would be lost with an end of ours before its own.
                Ended::Over => upward.await.map(|()| Ended::Over),
            },
            said = &mut upward => {
                said?;
                downward.await
            }
        }
    }

    /// Another proxy writes. If that was handed the role, the client has been called back before; nothing else that has
    /// come since goes to it.
    async fn is_called_late(&mut self) -> io::Result<Ended> {
        let Self { near: (_, near_out), far: (far_in, _), down, out, watch, .. } = self;
        let called = async {
            loop {
                if watch.pass(down, out) {
                    return Ok::<_, io::Error>(true);
                }
                down.reserve(CHUNK);
                if far_in.read_buf(down).await? == 0 {
                    return Ok(false);
                }
            }
        };
        if !matches!(tokio::time::timeout(LATE, called).await, Ok(Ok(true))) {
            return Ok(Ended::Over);
        }
        near_out.write_all_buf(out).await?;
        near_out.flush().await?;
        Ok(Ended::CalledBack)
    }

    /// Everything that the client has said so far goes up first; its end tells that nothing more comes.
    async fn take_back(self) -> io::Result<(Stream, BytesMut)> {
        let Self { near, far: (mut far_in, mut far_out), mut up, mut down, .. } = self;
        far_out.write_all_buf(&mut up).await?;
        far_out.shutdown().await?;
        while down.len() < MOST {
            down.reserve(CHUNK);
            if far_in.read_buf(&mut down).await? == 0 {
                return Ok((near.0.unsplit(near.1), down));
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "what comes with it has no end"))
    }
}
