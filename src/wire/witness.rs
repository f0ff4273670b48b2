//! How proxies speak with `lockstep witness`: a line for each question and each answer, signed with the secret that
//! both know.
//!
//! Each side begins with a random word. A line is signed together with both words, its direction and its number, so
//! that nothing can be said again later, in another place or on another connection. What is said is no secret; where it
//! shall be one, and where the witness's address is to be proved, there is TLS below.

use std::io;

use bytes::BytesMut;
use hmac::{Hmac, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::AsyncWriteExt;

use crate::cluster::{Ask, Ballot, Refusal, Vote};
use crate::hex;
use crate::net::Stream;

/// The longest line that is read.
const MOST_BYTES: usize = 64 * 1024;

/// What a proxy asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// What it keeps.
    Look,
    /// A step of a vote.
    Poll {
        /// Under which name the witness is a voter.
        voter: String,
        /// The cluster that it votes in.
        cluster: String,
        /// The question.
        ask: Ask,
    },
    /// The writer lives.
    Beat {
        /// Its ballot.
        ballot: Ballot,
        /// Its name and address.
        writer: String,
    },
    /// The role is laid down.
    LayDown {
        /// The ballot under which it was held.
        ballot: Ballot,
    },
}

/// What the witness answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What it keeps.
    Seen {
        /// Under which name it is a voter.
        voter: String,
        /// Its vote.
        vote: Vote,
        /// The proxy that writes.
        writer: String,
        /// Goes up as long as that one lives; not above 0: nobody writes.
        beat: i64,
    },
    /// What it keeps now, or why it does not do what it was asked.
    Voted(Result<Vote, Refusal>),
    /// Whether it still obeys.
    Obeys(bool),
    /// It is done.
    Done,
    /// It cannot.
    Failed(String),
}

/// Which side of a conversation one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A proxy.
    Proxy,
    /// The witness.
    Witness,
}

/// A conversation in which both sides have said their words.
#[derive(Debug)]
pub struct Conversation {
    stream: Stream,
    incoming: BytesMut,
    side: Side,
    key: Vec<u8>,
    said: u64,
    heard: u64,
}

impl Conversation {
    /// Begins one: both sides say a random word.
    ///
    /// # Errors
    /// When the other side goes away or says something else.
    pub async fn begin(stream: Stream, side: Side, secret: &str) -> io::Result<Self> {
        let mut conversation =
            Self { stream, incoming: BytesMut::new(), side, key: Vec::new(), said: 0, heard: 0 };
        let own = format!("lockstep-witness/1 {:032x}", rand::random::<u128>());
        conversation.write(&own).await?;
        let theirs = conversation.read().await?;
        if !theirs.starts_with("lockstep-witness/1 ") || theirs == own {
            return Err(io::Error::other("the other side speaks something else"));
        }
        let words = match side {
            Side::Witness => [own.as_str(), &theirs],
            Side::Proxy => [theirs.as_str(), &own],
        };
        conversation.key = sign(secret.as_bytes(), &words);
        Ok(conversation)
    }

    /// Says something.
    ///
    /// # Errors
    /// When the other side is gone.
    pub async fn say(&mut self, what: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(what)?;
        let signature = self.signature(self.side, self.said, &text);
        self.said += 1;
        self.write(&format!("{signature} {text}")).await
    }

    /// Hears something.
    ///
    /// # Errors
    /// When the other side is gone, or does not know the secret.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let line = self.read().await?;
        let (signature, text) = line.split_once(' ').unwrap_or_default();
        let other = if self.side == Side::Proxy { Side::Witness } else { Side::Proxy };
        let right = self.signature(other, self.heard, text);
        self.heard += 1;
        let same = lockstep_protocol::pg::auth::constant_time_eq;
        if !same(right.as_bytes(), signature.as_bytes()) {
            return Err(io::Error::other("the other side does not know the witness's secret"));
        }
        Ok(serde_json::from_str(text)?)
    }

    fn signature(&self, side: Side, number: u64, text: &str) -> String {
        let side = if side == Side::Proxy { "question" } else { "answer" };
        hex::encode(&sign(&self.key, &[side, &number.to_string(), text]))
    }

    async fn write(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(format!("{line}\n").as_bytes()).await?;
        self.stream.flush().await
    }

    async fn read(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') {
                let line = self.incoming.split_to(end + 1);
                let line = line[..end].to_vec();
                return String::from_utf8(line).map_err(io::Error::other);
            }
            if self.incoming.len() > MOST_BYTES {
                return Err(io::Error::other("a line that does not end"));
            }
            if self.stream.read_more(&mut self.incoming).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn sign(key: &[u8], parts: &[&str]) -> Vec<u8> {
    // The trait's error is for keys of a wrong length, and every length is right for HMAC.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return Vec::new();
    };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair(theirs: &str) -> (io::Result<Conversation>, io::Result<Conversation>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::join!(
            async {
                let (tcp, _) = listener.accept().await?;
                Conversation::begin(Stream::Plain(tcp), Side::Witness, "secret").await
            },
            async {
                let tcp = TcpStream::connect(address).await?;
                Conversation::begin(Stream::Plain(tcp), Side::Proxy, theirs).await
            }
        )
    }

    #[tokio::test]
    async fn only_who_knows_the_secret_is_heard_and_nothing_twice() {
        let (witness, proxy) = pair("secret").await;
        let (mut witness, mut proxy) = (witness.expect("witness"), proxy.expect("proxy"));
        for _ in 0..2 {
            proxy.say(&Question::Look).await.expect("said");
            assert_eq!(witness.hear::<Question>().await.expect("heard"), Question::Look);
            witness.say(&Answer::Done).await.expect("said");
            assert_eq!(proxy.hear::<Answer>().await.expect("heard"), Answer::Done);
        }
        // The same line once more is another line.
        proxy.say(&Question::Look).await.expect("said");
        witness.hear::<Question>().await.expect("heard");
        proxy.said -= 1;
        proxy.say(&Question::Look).await.expect("said");
        assert!(witness.hear::<Question>().await.is_err());

        let (witness, proxy) = pair("guess").await;
        let (mut witness, mut proxy) = (witness.expect("witness"), proxy.expect("proxy"));
        proxy.say(&Question::Look).await.expect("said");
        assert!(witness.hear::<Question>().await.is_err());
        witness.say(&Answer::Done).await.expect("said");
        assert!(proxy.hear::<Answer>().await.is_err());
    }
}
