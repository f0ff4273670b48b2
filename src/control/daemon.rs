//! `lockstep witness` as a proxy sees it.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::cluster::{Ask, Ballot, Refusal, Vote};
use crate::config::{self, Live};
use crate::keeper::{Answer, Sighting, Witness};
use crate::net::Stream;
use crate::tls::BackendConnector;
use crate::wire::witness::{self, Conversation, Question, Side};

/// A witness in a process of its own.
pub struct DaemonWitness {
    witness: config::Witness,
    tls: Option<BackendConnector>,
    live: Arc<Live>,
    line: Mutex<Option<Conversation>>,
}

impl DaemonWitness {
    /// A witness that is not connected to yet. No question takes longer than a sign of life may.
    ///
    /// # Errors
    /// When the files for TLS cannot be used.
    pub fn new(witness: &config::Witness, live: Arc<Live>) -> Result<Self, String> {
        let tls = BackendConnector::new(&witness.tls, &witness.host).map_err(|e| e.to_string())?;
        Ok(Self { witness: witness.clone(), tls, live, line: Mutex::new(None) })
    }

    async fn connect(&self) -> std::io::Result<Conversation> {
        let tcp = TcpStream::connect((self.witness.host.as_str(), self.witness.port)).await?;
        Stream::tune(&tcp, self.live.bounds().pulse);
        let stream = match &self.tls {
            Some(tls) => Stream::Tls(Box::new(tls.connect(tcp).await?.into())),
            None => Stream::Plain(tcp),
        };
        Conversation::begin(stream, Side::Proxy, self.witness.password.reveal()).await
    }

    /// Asks within the limit. A connection that failed is not used again; one that lay idle may have broken.
    async fn ask(&self, question: Question) -> Result<witness::Answer, String> {
        let mut slot = self.line.lock().await;
        let asked = async {
            let mut line = match slot.take() {
                Some(line) => line,
                None => self.connect().await?,
            };
            line.say(&question).await?;
            let answer = line.hear().await?;
            Ok::<_, std::io::Error>((line, answer))
        };
        let limit = self.live.bounds().pulse;
        let asked = tokio::time::timeout(limit, asked).await;
        let asked = asked.map_err(|_| format!("the witness gave no answer within {limit:?}"))?;
        let (line, answer) = asked.map_err(|error| format!("the witness: {error}"))?;
        *slot = Some(line);
        match answer {
            witness::Answer::Failed(why) => Err(format!("the witness: {why}")),
            answer => Ok(answer),
        }
    }
}

/// What is said of an answer to another question.
fn odd<T>() -> Result<T, String> {
    Err("the witness answered another question".into())
}

impl Witness for DaemonWitness {
    fn look(&self) -> Answer<'_, Sighting> {
        Box::pin(async move {
            match self.ask(Question::Look).await? {
                witness::Answer::Seen { voter, vote, writer, beat } => {
                    Ok(Sighting { voter, vote, writer, beat })
                }
                _ => odd(),
            }
        })
    }

    fn poll(&self, voter: String, cluster: String, ask: Ask) -> Answer<'_, Result<Vote, Refusal>> {
        Box::pin(async move {
            match self.ask(Question::Poll { voter, cluster, ask }).await? {
                witness::Answer::Voted(voted) => Ok(voted),
                _ => odd(),
            }
        })
    }

    fn beat(&self, ballot: Ballot, writer: String) -> Answer<'_, bool> {
        Box::pin(async move {
            match self.ask(Question::Beat { ballot, writer }).await? {
                witness::Answer::Obeys(obeys) => Ok(obeys),
                _ => odd(),
            }
        })
    }

    fn lay_down(&self, ballot: Ballot) -> Answer<'_, ()> {
        Box::pin(async move {
            match self.ask(Question::LayDown { ballot }).await? {
                witness::Answer::Done => Ok(()),
                _ => odd(),
            }
        })
    }
}
