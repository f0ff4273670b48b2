//! A server that breaks the rules on command: what it says to the proxy's application connections is
//! cut, spoilt or made longer on its way. Its other connections, by which the proxy looks after it, are
//! well: only what the applications' connections show can give it away.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{free_port, runtime, step};

/// How it breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Not at all.
    None,
    /// Bytes without any sense, in the place of an answer.
    Garbage,
    /// A message that is longer than any may be.
    Endless,
    /// A message that is longer than its kind ever is, and does not come.
    TooLong,
    /// A length that does not even cover itself.
    TooShort,
    /// The connection ends in the middle of a message.
    Half,
    /// A message that has its place at the login only.
    LoginAgain,
    /// A message of a kind that does not exist.
    Unknown,
    /// Right behind the last answer, rows that nobody has asked for.
    MoreRows,
    /// The same a moment later.
    LateRows,
    /// The login asks for something that nobody can give.
    StrangeLogin,
    /// The login is interrupted by rows.
    RowsAtLogin,
    /// The login ends in the middle of a message.
    HalfLogin,
}

/// A whole answer to nothing: one row with `stolen` in it.
const ROWS: &[u8] = b"T\0\0\0\x1a\0\x01v\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0\
                      D\0\0\0\x10\0\x01\0\0\0\x06stolenC\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

pub(crate) struct Liar {
    name: String,
    pub(crate) port: u16,
    lie: Arc<watch::Sender<Lie>>,
    listener: tokio::task::JoinHandle<()>,
}

impl Liar {
    /// Stands before a local port; returns when it listens.
    pub(crate) fn before(name: &str, target: u16) -> Self {
        let port = free_port();
        let lie = Arc::new(watch::channel(Lie::None).0);
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the liar's port");
        listener.set_nonblocking(true).expect("a socket option");
        let told = Arc::clone(&lie);
        let listener = runtime().spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((near, _)) = listener.accept().await {
                runtime().spawn(carry(near, target, told.subscribe()));
            }
        });
        Self { name: name.into(), port, lie, listener }
    }

    pub(crate) fn tell(&self, lie: Lie) {
        step(format!("server {} lies: {lie:?}", self.name));
        self.lie.send_replace(lie);
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn carry(near: TcpStream, target: u16, lie: watch::Receiver<Lie>) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let mut first = vec![0; 4096];
    let n = near_in.read(&mut first).await.unwrap_or(0);
    // The proxy's own connections say who they are.
    let own = first[..n].windows(8).any(|w| w == b"lockstep");
    if far_out.write_all(&first[..n]).await.is_err() {
        return;
    }
    // Requests that the server has not answered yet: what came in front of their answers would be
    // taken for them, and nobody could know better.
    let owed = AtomicI64::new(0);
    let there = async {
        let (mut buffer, mut counter) = (vec![0; 64 * 1024], Counter::default());
        loop {
            let n = near_in.read(&mut buffer).await.unwrap_or(0);
            owed.fetch_add(counter.count(&buffer[..n], b"QS"), Ordering::SeqCst);
            if n == 0 || far_out.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        if own {
            let _ = tokio::io::copy(&mut far_in, &mut near_out).await;
        } else {
            spoil(&mut far_in, &mut near_out, &lie, &owed).await;
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

/// Counts the messages of some kinds in a stream that comes in pieces.
#[derive(Default)]
struct Counter {
    head: Vec<u8>,
    rest: usize,
}

impl Counter {
    fn count(&mut self, mut piece: &[u8], kinds: &[u8]) -> i64 {
        let mut found = 0;
        while !piece.is_empty() {
            if self.rest > 0 {
                let passed = self.rest.min(piece.len());
                self.rest -= passed;
                piece = &piece[passed..];
                continue;
            }
            let wanted = (5 - self.head.len()).min(piece.len());
            self.head.extend(&piece[..wanted]);
            piece = &piece[wanted..];
            if let [kind, length @ ..] = &self.head[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                found += i64::from(kinds.contains(kind));
                self.rest = u32::from_be_bytes(length) as usize - 4;
                self.head.clear();
            }
        }
        found
    }
}

/// Hands on what the server says, as the lie of the moment has it.
async fn spoil(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    lie: &watch::Receiver<Lie>,
    owed: &AtomicI64,
) {
    let (mut buffer, mut counter) = (vec![0; 64 * 1024], Counter::default());
    let mut login = true;
    loop {
        let n = from.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return;
        }
        let said = &buffer[..n];
        let now = *lie.borrow();
        let answered = counter.count(said, b"Z");
        // The first ReadyForQuery ends the login.
        let answered = answered - i64::from(login && answered > 0);
        let idle = owed.fetch_sub(answered, Ordering::SeqCst) == answered && said.ends_with(b"I");
        let (before, instead, after, ends): (&[u8], &[u8], &[u8], bool) = match (now, login) {
            (Lie::StrangeLogin, true) => (b"", b"R\0\0\0\x08\0\0\0\x63", b"", false),
            (Lie::RowsAtLogin, true) => (ROWS, said, b"", false),
            (Lie::HalfLogin, true) => (b"", &said[..n / 2], b"", true),
            (_, true) => (b"", said, b"", false),
            (Lie::Garbage, _) => {
                (b"", b"\xde\xad\xbe\xef\0\x01\x02\x03garbage\xff\xff\xff", b"", false)
            }
            (Lie::Endless, _) => (b"D\x7f\xff\xff\xff\0\x01", b"", b"", false),
            (Lie::TooLong, _) => (b"Z\0\x0f\xff\xffI", b"", b"", false),
            (Lie::TooShort, _) => (b"D\0\0\0\x02", said, b"", false),
            (Lie::Half, _) => (b"", &said[..n / 2], b"", true),
            (Lie::LoginAgain, _) => (b"R\0\0\0\x08\0\0\0\0", said, b"", false),
            (Lie::Unknown, _) => (b"?\0\0\0\x09hello", said, b"", false),
            (Lie::MoreRows, _) if idle => (b"", said, ROWS, false),
            _ => (b"", said, b"", false),
        };
        // In one piece: what comes apart may cross with the proxy's next request.
        if to.write_all(&[before, instead, after].concat()).await.is_err() {
            return;
        }
        if ends {
            return;
        }
        if now == Lie::LateRows && idle && !login {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let still = owed.load(Ordering::SeqCst) == 0;
            if still && to.write_all(ROWS).await.is_err() {
                return;
            }
        }
        login &= !said.ends_with(b"Z\0\0\0\x05I");
    }
}
