//! A third PostgreSQL database as a witness: it has a vote and no data.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::{Address, describe};
use crate::cluster::{Arbiter, Ask, Ballot, Refusal, Vote};
use crate::config::{self, Live};
use crate::keeper::{Answer, Sighting, Witness};
use crate::store::control::read_control;
use crate::store::vote::{self, Poll, engage_witness, found_witness};
use crate::tls::{BackendConnector, ControlTls};

/// A witness in a database.
pub struct PgWitness {
    address: Address,
    live: Arc<Live>,
    client: Mutex<Option<Client>>,
}

impl PgWitness {
    /// A witness that is not connected to yet. No question takes longer than a sign of life may.
    ///
    /// # Errors
    /// When the files for TLS cannot be used.
    pub fn new(
        witness: &config::Witness,
        database: &config::WitnessDatabase,
        live: Arc<Live>,
    ) -> Result<Self, String> {
        let connector =
            BackendConnector::new(&witness.tls, &witness.host).map_err(|e| e.to_string())?;
        let tls = ControlTls::new(connector);
        let mut config = tokio_postgres::Config::new();
        config
            .host(&witness.host)
            .port(witness.port)
            .user(&database.user)
            .password(witness.password.reveal())
            .dbname(&database.name)
            .application_name("lockstep witness")
            .ssl_mode(tls.mode());
        Ok(Self { address: Address { config, tls }, live, client: Mutex::new(None) })
    }

    /// Asks within the limit. A connection that failed is not used again.
    async fn ask<T, F>(&self, question: F) -> Result<T, String>
    where
        F: AsyncFnOnce(&Client) -> Result<T, String>,
    {
        let mut slot = self.client.lock().await;
        let limit = self.live.bounds().pulse;
        let asked = async {
            let client = match slot.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => {
                    let client = self.address.connect(limit).await?;
                    let identity = format!("{:032x}", rand::random::<u128>());
                    found_witness(&client, &identity).await.map_err(|e| describe(&e))?;
                    client
                }
            };
            let answer = question(&client).await?;
            Ok::<_, String>((client, answer))
        };
        let asked = tokio::time::timeout(limit, asked).await;
        let (client, answer) =
            asked.map_err(|_| format!("the witness gave no answer within {limit:?}"))??;
        *slot = Some(client);
        Ok(answer)
    }
}

impl Witness for PgWitness {
    fn look(&self) -> Answer<'_, Sighting> {
        Box::pin(self.ask(async |client: &Client| {
            let control = read_control(client).await.map_err(|e| describe(&e))?;
            let control = control.ok_or("the witness has lost its row")?;
            let voter = Arbiter::Witness(control.backend).to_string();
            Ok(Sighting { voter, vote: control.vote, writer: control.writer, beat: control.beat })
        }))
    }

    fn poll(&self, voter: String, cluster: String, ask: Ask) -> Answer<'_, Result<Vote, Refusal>> {
        Box::pin(self.ask(async move |client: &Client| {
            let Ok(Arbiter::Witness(identity)) = voter.parse() else {
                return Err(format!("{voter} is no witness of ours"));
            };
            engage_witness(client, &cluster).await.map_err(|e| describe(&e))?;
            vote::poll(client, &Poll { cluster, backend: identity, ask, secrets: None }).await
        }))
    }

    fn beat(&self, ballot: Ballot, writer: String) -> Answer<'_, bool> {
        Box::pin(self.ask(async move |client: &Client| {
            vote::beat(client, ballot, &writer).await.map_err(|e| describe(&e))
        }))
    }

    fn lay_down(&self, ballot: Ballot) -> Answer<'_, ()> {
        Box::pin(self.ask(async move |client: &Client| {
            vote::lay_down(client, ballot).await.map_err(|e| describe(&e))
        }))
    }
}
