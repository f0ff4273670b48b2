//! Bookkeeping on a PostgreSQL backend: an administrator's connection, opened when it is needed and
//! again after it broke. Nothing here is on the path of an application's statement.

pub mod daemon;
pub mod mysql;
pub mod witness;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lockstep_protocol::Dialect;
use tokio::sync::Mutex;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::cluster::{Ballot, Refusal, Vote};
use crate::config::{Backend, Config, Live};
use crate::keeper::{Answer, Control, Examination};
use crate::sql::{Answers, Judge, informed, questions};
use crate::store::control::{self as rows, Sequence};
use crate::store::journal::Record;
use crate::store::outside::{self, Fate, Remain, Task};
use crate::store::vote::{self, Poll};
use crate::tls::{BackendConnector, ControlTls};

/// Records removed from the journal in one transaction.
const PRUNE_BATCH: i64 = 5000;
/// Reading the catalog may take so many times as long as another question.
const CATALOG_PATIENCE: u32 = 10;

/// Where a control connection goes, and as whom.
#[derive(Clone)]
pub struct Address {
    config: tokio_postgres::Config,
    tls: ControlTls,
}

impl Address {
    /// The administrator's way to a backend.
    ///
    /// # Errors
    /// When the files for TLS cannot be used.
    pub fn of(config: &Config, backend: &Backend) -> Result<Self, String> {
        let connector =
            BackendConnector::new(&backend.tls, &backend.host).map_err(|e| e.to_string())?;
        let tls = ControlTls::new(connector);
        let admin = config.admin_of(backend);
        let mut address = tokio_postgres::Config::new();
        address
            .host(&backend.host)
            .port(backend.port)
            .user(&admin.user)
            .password(admin.password.reveal())
            .dbname(config.database_of(backend))
            .application_name("lockstep control")
            .ssl_mode(tls.mode())
            .options("-c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0");
        Ok(Self { config: address, tls })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the backend cannot be reached within the limit, or refuses.
    pub async fn connect(&self, limit: Duration) -> Result<Client, String> {
        let connected = tokio::time::timeout(limit, self.config.connect(self.tls.clone())).await;
        let connected = connected.map_err(|_| format!("no connection within {limit:?}"))?;
        let (client, connection) = connected.map_err(|e| describe(&e))?;
        // Ends with the client, which is why nothing has to wait for it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a control connection ended");
            }
        });
        Ok(client)
    }
}

/// An error with its cause: the library's own text leaves the server's message out.
pub fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// The bookkeeping of one backend.
pub struct PgControl {
    address: Address,
    live: Arc<Live>,
    client: Mutex<Option<Arc<Client>>>,
    /// For what must not wait behind anything else: signs of life.
    pulse: Mutex<Option<Arc<Client>>>,
    /// Under which ballot the backend obeys us, as far as it has said so.
    ballot: std::sync::Mutex<Ballot>,
}

impl PgControl {
    /// Bookkeeping that has no connection yet. No question takes longer than the limits in force say; what reads or
    /// waits for much takes longer as long as the server answers others.
    pub fn new(address: Address, live: Arc<Live>) -> Self {
        let (client, pulse) = (Mutex::new(None), Mutex::new(None));
        Self { address, live, client, pulse, ballot: std::sync::Mutex::default() }
    }

    /// How long a question may take.
    fn limit(&self) -> Duration {
        self.live.bounds().probe
    }

    /// How long a sign of life may take.
    fn quick(&self) -> Duration {
        self.live.bounds().pulse
    }

    fn ballot(&self) -> Ballot {
        *self.ballot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of its own.
    async fn connect(&self, limit: Duration) -> Result<Client, String> {
        self.address.connect(limit.min(self.live.bounds().connect)).await
    }

    async fn client(&self, slot: &Mutex<Option<Arc<Client>>>) -> Result<Arc<Client>, String> {
        let limit = if std::ptr::eq(slot, &self.pulse) { self.quick() } else { self.limit() };
        let mut slot = slot.lock().await;
        if let Some(client) = slot.as_ref().filter(|c| !c.is_closed()) {
            return Ok(client.clone());
        }
        let client = Arc::new(self.connect(limit).await?);
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Waits for what may take longer than a question, as long as the server answers one.
    async fn while_it_answers<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let silence = async {
            loop {
                tokio::time::sleep(self.limit()).await;
                let alive = self.ask(|client| async move { client.batch_execute("").await });
                if let Err(why) = alive.await {
                    return why;
                }
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            why = silence => Err(why),
        }
    }

    /// Asks within the limit. A connection that gave no answer is not used again.
    async fn ask<T, F>(&self, question: impl FnOnce(Arc<Client>) -> F) -> Result<T, String>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let client = self.client(&self.client).await?;
        let answer = async { question(client).await.map_err(|e| describe(&e)) };
        self.within(&self.client, self.limit(), answer).await
    }

    /// No connection that owes an answer is used again.
    async fn within<T>(
        &self,
        slot: &Mutex<Option<Arc<Client>>>,
        limit: Duration,
        answer: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                *slot.lock().await = None;
                Err(format!("no answer within {limit:?}"))
            }
        }
    }

    async fn read_catalog(client: &Client) -> Result<Box<dyn Judge>, String> {
        client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
            .map_err(|e| describe(&e))?;
        let read = Self::catalog_rows(client).await;
        client.batch_execute("COMMIT").await.map_err(|e| describe(&e))?;
        read
    }

    async fn catalog_rows(client: &Client) -> Result<Box<dyn Judge>, String> {
        let mut answers = Answers::new();
        for (name, sql) in questions(Dialect::Postgres) {
            answers.insert(name, text_rows(client, sql).await?);
        }
        informed(Dialect::Postgres, &answers)
    }
}

async fn text_rows(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let messages = client.simple_query(sql).await.map_err(|e| describe(&e))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

async fn examine(client: Arc<Client>) -> Result<Examination, tokio_postgres::Error> {
    let identity = rows::identity(&client).await?;
    let control = rows::read_control(&client).await?;
    let newest = match &control {
        Some(_) => rows::journal_end(&client).await?,
        None => 0,
    };
    Ok(Examination {
        system: identity.system_identifier,
        started: identity.started.to_string(),
        control,
        newest,
        writable: !identity.in_recovery,
    })
}

impl Control for PgControl {
    fn examine(&self) -> Answer<'_, Examination> {
        Box::pin(self.ask(examine))
    }

    fn glance(&self) -> Answer<'_, Examination> {
        Box::pin(async move {
            let client = self.client(&self.pulse).await?;
            let seen = async { examine(client).await.map_err(|e| describe(&e)) };
            self.within(&self.pulse, self.quick(), seen).await
        })
    }

    fn has_record(&self, seq: i64) -> Answer<'_, bool> {
        Box::pin(self.ask(move |client| async move {
            Ok(!rows::read_records_by_seq(&client, &[seq]).await?.is_empty())
        }))
    }

    fn poll(&self, poll: Poll) -> Answer<'_, Result<Vote, Refusal>> {
        Box::pin(async move {
            let client = self.client(&self.client).await?;
            let asked = vote::poll(&client, &poll);
            let answer = self.within(&self.client, self.limit(), asked).await?;
            if answer.is_ok() {
                let mut obeyed = self.ballot.lock().unwrap_or_else(PoisonError::into_inner);
                *obeyed = poll.ask.ballot().max(*obeyed);
            }
            Ok(answer)
        })
    }

    fn beat(&self, ballot: Ballot, writer: String) -> Answer<'_, bool> {
        Box::pin(async move {
            let client = self.client(&self.pulse).await?;
            let beat =
                async { vote::beat(&client, ballot, &writer).await.map_err(|e| describe(&e)) };
            self.within(&self.pulse, self.quick(), beat).await
        })
    }

    fn lay_down(&self, ballot: Ballot) -> Answer<'_, ()> {
        Box::pin(self.ask(move |client| async move { vote::lay_down(&client, ballot).await }))
    }

    fn tail(&self, after: i64) -> Answer<'_, Vec<(i64, i64)>> {
        Box::pin(self.ask(move |client| async move { rows::journal_tail(&client, after).await }))
    }

    fn owner_of(&self, id: i64, after: i64, upto: i64) -> Answer<'_, Option<String>> {
        Box::pin(
            self.ask(move |client| async move { rows::owner_of(&client, id, after, upto).await }),
        )
    }

    fn records(&self, seqs: Vec<i64>) -> Answer<'_, Vec<Record>> {
        Box::pin(
            self.ask(move |client| async move { rows::read_records_by_seq(&client, &seqs).await }),
        )
    }

    fn set_complete(&self, seq: i64, started: String) -> Answer<'_, ()> {
        let ballot = self.ballot();
        Box::pin(async move {
            let noted = self.ask(move |client| async move {
                // One connection knows one server only: a restart in between would end it.
                if rows::identity(&client).await?.started.to_string() != started {
                    return Ok(false);
                }
                rows::set_complete(&client, seq, ballot).await.map(|()| true)
            });
            if noted.await? { Ok(()) } else { Err("the server was restarted".into()) }
        })
    }

    fn weigh(&self, after: i64, upto: i64, bytes: u64) -> Answer<'_, Option<(i64, u64, u64)>> {
        Box::pin(self.ask(move |client| async move {
            rows::weigh(&client, after, upto, i64::try_from(bytes).unwrap_or(i64::MAX)).await
        }))
    }

    fn first_younger(&self, age: Duration) -> Answer<'_, Option<i64>> {
        Box::pin(self.ask(move |client| async move {
            rows::first_younger(&client, age.as_secs_f64()).await
        }))
    }

    fn prune(&self, seq: i64) -> Answer<'_, u64> {
        let ballot = self.ballot();
        Box::pin(
            self.ask(
                move |client| async move { rows::prune(&client, seq, PRUNE_BATCH, ballot).await },
            ),
        )
    }

    fn sequences(&self) -> Answer<'_, Vec<Sequence>> {
        Box::pin(self.ask(|client| async move { rows::all_sequences(&client).await }))
    }

    fn set_sequences(&self, sequences: Vec<Sequence>) -> Answer<'_, ()> {
        let ballot = self.ballot();
        Box::pin(self.ask(move |client| async move {
            rows::set_sequences(&client, &sequences, ballot).await
        }))
    }

    fn advance_sequences(&self, values: Vec<(String, i64)>) -> Answer<'_, ()> {
        Box::pin(
            self.ask(move |client| async move { rows::advance_sequences(&client, &values).await }),
        )
    }

    fn fence(&self, users: Vec<String>) -> Answer<'_, ()> {
        Box::pin(async move {
            let client = self.client(&self.client).await?;
            let fenced = self.while_it_answers(async {
                let fenced = rows::fence(&client, &users, self.limit()).await;
                fenced.map(|_| ()).map_err(|e| e.to_string())
            });
            fenced.await
        })
    }

    fn remains(&self, task: Task) -> Answer<'_, Vec<Remain>> {
        Box::pin(self.ask(move |client| async move { outside::remains(&client, &task).await }))
    }

    fn clear(&self, task: Task, fate: Fate) -> Answer<'_, ()> {
        Box::pin(async move {
            // It may wait for transactions, however long they take.
            let client = self.connect(self.limit()).await?;
            let ballot = self.ballot();
            let cleared = self.while_it_answers(async {
                let cleared = outside::clear(&client, &task, &fate, ballot).await;
                cleared.map_err(|e| describe(&e))
            });
            if cleared.await? { Ok(()) } else { Err("it obeys another proxy".into()) }
        })
    }

    fn outside(&self, after: i64) -> Answer<'_, Vec<Record>> {
        Box::pin(self.ask(move |client| async move { rows::outside_records(&client, after).await }))
    }

    fn rows(&self, sql: String) -> Answer<'_, Vec<Vec<Option<String>>>> {
        Box::pin(async move {
            let client = self.client(&self.client).await?;
            self.within(&self.client, self.limit(), text_rows(&client, &sql)).await
        })
    }

    fn catalog(&self) -> Answer<'_, Box<dyn Judge>> {
        Box::pin(async move {
            // A connection of its own: the transaction must not meet other questions.
            let client = self.connect(self.limit()).await?;
            let limit = self.limit() * CATALOG_PATIENCE;
            let read = self.while_it_answers(Self::read_catalog(&client));
            let read = tokio::time::timeout(limit, read).await;
            read.map_err(|_| format!("the catalog could not be read within {limit:?}"))?
        })
    }

    fn probe_write(&self) -> Answer<'_, ()> {
        Box::pin(self.ask(|client| async move {
            // A commit that reaches the disk: a full or read-only disk shows here first.
            client.batch_execute("UPDATE lockstep.control SET complete_to = complete_to").await
        }))
    }
}
