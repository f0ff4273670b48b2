//! A network that fails on command: a TCP relay between the proxy and one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{free_port, runtime, step};

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    Works,
    /// Nothing passes and nobody is told; what was under way arrives when the network is back, as
    /// TCP would send it again.
    Silent,
    /// Only what the server says is held back: it hears, and nobody hears it.
    Mute,
    /// Every connection is reset and none is taken.
    Cut,
    /// Each piece takes this much longer, each way.
    Slow(Duration),
}

pub(crate) struct Relay {
    name: String,
    pub(crate) port: u16,
    net: Arc<watch::Sender<Net>>,
    accepted: Arc<AtomicUsize>,
    listener: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// A relay to a local port; returns when it listens.
    pub(crate) fn to(name: &str, target: u16) -> Self {
        let port = free_port();
        let (net, _) = watch::channel(Net::Works);
        let net = Arc::new(net);
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the relay's port");
        listener.set_nonblocking(true).expect("a socket option");
        let accepted = Arc::new(AtomicUsize::new(0));
        let (told, counts) = (Arc::clone(&net), Arc::clone(&accepted));
        let listener = runtime().spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((near, _)) = listener.accept().await {
                if *told.borrow() == Net::Cut {
                    continue;
                }
                counts.fetch_add(1, Ordering::Relaxed);
                runtime().spawn(carry(near, target, told.subscribe()));
            }
        });
        Self { name: name.into(), port, net, accepted, listener }
    }

    /// How many connections have been made through it.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, net: Net) {
        step(format!("network to {}: {net:?}", self.name));
        self.net.send_replace(net);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listener.abort();
        self.net.send_replace(Net::Cut);
    }
}

async fn carry(near: TcpStream, target: u16, mut net: watch::Receiver<Net>) {
    // A dead network does not say that it cannot connect, either.
    if net.wait_for(|n| !matches!(n, Net::Silent)).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let there = pump(near_in, far_out, net.clone(), Direction::ToServer);
    let back = pump(far_in, near_out, net.clone(), Direction::ToProxy);
    let cut = async {
        let _ = net.wait_for(|n| *n == Net::Cut).await;
    };
    // Either side's end ends both, so that a server's goodbye is heard on the other side.
    tokio::select! {
        () = there => {}
        () = back => {}
        () = cut => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToProxy,
}

impl Direction {
    fn passes(self, net: Net) -> bool {
        match net {
            Net::Works | Net::Slow(_) | Net::Cut => true,
            Net::Silent => false,
            Net::Mute => self == Self::ToServer,
        }
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut net: watch::Receiver<Net>,
    direction: Direction,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // The end of one side is news too: a silent network does not deliver it.
        let n = from.read(&mut buffer).await.unwrap_or(0);
        if net.wait_for(|n| direction.passes(*n)).await.is_err() {
            return;
        }
        let now = *net.borrow();
        if let Net::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
