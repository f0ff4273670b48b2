//! `lockstep witness`: a voter without data, in a process of its own.
//!
//! It keeps one small file. What it answers is on disk before the answer goes out; signs of life are not, since one that
//! is lost with the process is worth nothing.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::{Arbiter, Ask, Ballot, Refusal, Vote};
use crate::config::{ClientTls, Secret};
use crate::durable;
use crate::net::Stream;
use crate::tls::ServerTls;
use crate::wire::witness::{Answer, Conversation, Question, Side};

/// The version of the file. A file with another one is refused, not guessed at.
const VERSION: u32 = 1;
/// How long a proxy may take to say its first word.
const LOGIN: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// How a witness is run.
#[derive(Debug)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The folder of its file.
    pub state_dir: PathBuf,
    /// What the proxies know it by.
    pub secret: Secret,
    /// Its certificate; without one connections are not encrypted.
    pub tls: Option<ClientTls>,
}

/// What is in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// A word that no other witness has, so that one that lost its memory is another one.
    identity: String,
    /// The cluster that it votes in; the first that asks keeps it.
    cluster: String,
    vote: Vote,
}

/// Who writes, as far as it has been told.
#[derive(Debug, Default)]
struct Sign {
    writer: String,
    beat: i64,
}

impl Sign {
    /// After one more beat. One that was on its way when the role was laid down is no sign of life: from 0 it counts
    /// downwards.
    fn next(&self, writer: String) -> Self {
        match self.beat {
            beat @ 1.. => Self { writer, beat: beat + 1 },
            beat => Self { writer: String::new(), beat: beat - 1 },
        }
    }
}

struct Voter {
    file: PathBuf,
    _lock: std::fs::File,
    kept: Kept,
    sign: Sign,
}

impl Voter {
    fn open(folder: &Path) -> io::Result<Self> {
        let lock = durable::lock(folder, "witness")?;
        let file = folder.join("witness.json");
        let kept = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).ok().filter(|k: &Kept| k.version == VERSION),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = format!("{:032x}", rand::random::<u128>());
                let (cluster, vote) = (String::new(), Vote::default());
                Some(Kept { version: VERSION, identity, cluster, vote })
            }
            Err(error) => return Err(error),
        };
        let kept = kept.ok_or_else(|| {
            io::Error::other(format!(
                "{} cannot be used; move it away, and this becomes a new witness, which gets its vote with the \
                 next takeover that a majority of the databases agrees to",
                file.display()
            ))
        })?;
        // A writer whose sign of life was not kept is taken to live until it is silent for long.
        let sign =
            Sign { writer: String::new(), beat: i64::from(kept.vote.promised != Ballot::NONE) };
        let voter = Self { file, _lock: lock, kept, sign };
        voter.save(&voter.kept)?;
        Ok(voter)
    }

    fn save(&self, kept: &Kept) -> io::Result<()> {
        durable::replace(&self.file, serde_json::to_string_pretty(kept)?.as_bytes())
    }

    fn name(&self) -> String {
        Arbiter::Witness(self.kept.identity.clone()).to_string()
    }

    fn on(&mut self, question: Question) -> Answer {
        match question {
            Question::Look => Answer::Seen {
                voter: self.name(),
                vote: self.kept.vote.clone(),
                writer: self.sign.writer.clone(),
                beat: self.sign.beat,
            },
            Question::Poll { voter, cluster, ask } => match self.poll(&voter, cluster, &ask) {
                Ok(voted) => Answer::Voted(voted),
                Err(why) => Answer::Failed(why),
            },
            Question::Beat { ballot, writer } => {
                let obeys = ballot == self.kept.vote.promised;
                if obeys {
                    self.sign = self.sign.next(writer);
                }
                Answer::Obeys(obeys)
            }
            Question::LayDown { ballot } => {
                if ballot == self.kept.vote.promised {
                    self.sign = Sign::default();
                }
                Answer::Done
            }
        }
    }

    fn poll(
        &mut self,
        voter: &str,
        cluster: String,
        ask: &Ask,
    ) -> Result<Result<Vote, Refusal>, String> {
        if voter != self.name() {
            return Err(format!("this is {}, not {voter}", self.name()));
        }
        if !self.kept.cluster.is_empty() && self.kept.cluster != cluster {
            return Err(format!("this is the witness of cluster {}", self.kept.cluster));
        }
        let mut next = Kept { cluster, ..self.kept.clone() };
        if let Err(refusal) = next.vote.on(ask) {
            return Ok(Err(refusal));
        }
        self.save(&next).map_err(|error| format!("its disk refuses: {error}"))?;
        if next.vote.promised != self.kept.vote.promised {
            // Whoever is obeyed for the first time is not known to live yet.
            self.sign = Sign { writer: String::new(), beat: 1 };
        }
        self.kept = next;
        Ok(Ok(self.kept.vote.clone()))
    }
}

/// Votes until told to stop.
///
/// # Errors
/// When it cannot start: an address in use, a file that cannot be read or written.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), String> {
    let folder = options.state_dir.display();
    let voter =
        Voter::open(&options.state_dir).map_err(|e| format!("--state-dir {folder}: {e}"))?;
    let tls = options.tls.as_ref().map(ServerTls::load).transpose().map_err(|e| e.to_string())?;
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.map_err(|e| format!("--listen {}: {e}", options.listen))?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    tracing::info!(%address, identity = %voter.kept.identity, "a witness");
    let (voter, secret, tls) =
        (Arc::new(Mutex::new(voter)), Arc::new(options.secret), tls.map(Arc::new));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let served = serve(tcp, voter.clone(), secret.clone(), tls.clone());
                tasks.spawn(async move {
                    if let Err(error) = served.await {
                        tracing::debug!(%peer, %error, "a conversation ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    tcp: TcpStream,
    voter: Arc<Mutex<Voter>>,
    secret: Arc<Secret>,
    tls: Option<Arc<ServerTls>>,
) -> io::Result<()> {
    Stream::tune(&tcp, USER_TIMEOUT);
    let begun = async {
        let stream = match &tls {
            Some(tls) => Stream::Tls(Box::new(tls.acceptor().accept(tcp).await?.into())),
            None => Stream::Plain(tcp),
        };
        Conversation::begin(stream, Side::Witness, secret.reveal()).await
    };
    let mut conversation = tokio::time::timeout(LOGIN, begun).await.map_err(io::Error::other)??;
    loop {
        let question = conversation.hear().await?;
        let answer = voter.lock().unwrap_or_else(PoisonError::into_inner).on(question);
        conversation.say(&answer).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_promised_outlives_it_and_another_file_is_another_witness() {
        let folder = tempfile::tempdir().expect("folder");
        let mut voter = Voter::open(folder.path()).expect("opened");
        let (name, ballot) = (voter.name(), Ballot::above([], 7));
        let prepare = |voter: &str, cluster: &str, ballot| Question::Poll {
            voter: voter.into(),
            cluster: cluster.into(),
            ask: Ask::Prepare(ballot),
        };
        assert!(matches!(voter.on(prepare(&name, "c", ballot)), Answer::Voted(Ok(_))));
        assert!(
            matches!(voter.on(prepare(&name, "d", ballot)), Answer::Failed(_)),
            "another cluster"
        );
        assert!(matches!(voter.on(prepare("witness/x", "c", ballot)), Answer::Failed(_)));
        let alive = |ballot| Question::Beat { ballot, writer: "p1".into() };
        assert_eq!(voter.on(alive(ballot)), Answer::Obeys(true));
        assert_eq!(voter.on(alive(Ballot::NONE)), Answer::Obeys(false));
        assert_eq!(voter.sign.beat, 2);
        voter.on(Question::LayDown { ballot });
        assert_eq!(voter.on(alive(ballot)), Answer::Obeys(true));
        assert_eq!((voter.sign.beat, &*voter.sign.writer), (-1, ""), "too late");
        assert!(Voter::open(folder.path()).is_err(), "two with one file");
        drop(voter);
        let mut voter = Voter::open(folder.path()).expect("opened again");
        let refused = voter.on(prepare(&name, "c", Ballot::NONE));
        assert_eq!(refused, Answer::Voted(Err(Refusal::Promised(ballot))));
        drop(voter);
        std::fs::write(folder.path().join("witness.json"), "{").expect("write");
        assert!(Voter::open(folder.path()).is_err_and(|e| e.to_string().contains("move it away")));
        std::fs::remove_file(folder.path().join("witness.json")).expect("remove");
        assert_ne!(Voter::open(folder.path()).expect("anew").name(), name);
    }
}
