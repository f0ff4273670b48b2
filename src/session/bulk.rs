//! Bulk loads that the application sends: COPY FROM STDIN, LOAD DATA LOCAL.
//!
//! Where the stream makes the same rows everywhere, it goes on to all, behind a lock on the leader's
//! table if the rows would not lock themselves. Else the leader fills in what is left out, and the rows
//! are captured.

use super::leader::internal;
use super::run::Step;
use super::transaction::Place;
use super::{Session, Stop, shares};
use crate::error::Failure;
use crate::exchange::{
    Broken, BulkPiece, Client, Gone, Link, Outcome, Protocol, Sink, TxMode, Watch,
};
use crate::sql::CopyIn;
use crate::store::journal::Effect;

impl<P: Protocol> Session<P> {
    /// Runs a bulk load.
    pub(super) async fn bulk(
        &mut self,
        step: &Step<'_, P::Work>,
        copy: &CopyIn,
    ) -> Result<(), Stop> {
        self.may_write()?;
        if let Some(failure) = self.client.refuses_bulk() {
            return Err(failure.into());
        }
        if self.tx.is_none() {
            self.open_block(false, TxMode::default());
        }
        self.pass_locks(&step.statement.writes).await?;
        self.ensure_leading().await?;
        // Inside a transaction that changed the catalog the class may be wrong: rows are captured.
        let streamed = copy.bulk.is_some() && !self.tx.as_ref().is_some_and(|tx| tx.ddl);
        if streamed && let Some(lock) = copy.bulk.as_ref().and_then(|bulk| bulk.lock.as_ref()) {
            self.lock_for_bulk(lock).await?;
        }
        let capture = !streamed && !copy.writes_temp;
        let watch = Watch {
            rows: capture,
            sequences: capture.then_some(&step.statement.sequences),
            bulk: true,
            context: Some(&step.statement.context).filter(|_| streamed),
            ..Watch::default()
        };
        let outcome = self.on_leader(step.work, watch).await?;
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        if !outcome.bulk {
            return Err(internal("the server did not ask for the bulk load").into());
        }
        self.client.flush().await?;
        let (data, outcome) = self.pump(streamed, watch).await?;
        if let Some(error) = outcome.error {
            return Err(Stop::Server(error));
        }
        let from = self.tx.as_ref().map_or(0, |tx| tx.effects.len());
        self.note_left(&outcome);
        let added = if streamed {
            self.add_streamed(step, outcome, data)
        } else if capture {
            self.add_captured(step.statement.writes.clone(), outcome, false)
        } else {
            Ok(())
        };
        match added {
            Ok(()) => self.stream(from).await,
            Err(stop) => self.only_here(stop).await,
        }
    }

    fn add_streamed(
        &mut self,
        step: &Step<'_, P::Work>,
        outcome: Outcome,
        data: Vec<u8>,
    ) -> Result<(), Stop> {
        if let Some(tx) = &mut self.tx {
            tx.touch(&step.statement.writes);
            if let Some(sql) = outcome.found.all().context {
                tx.add(Effect::Text { sql, rows: None }, false);
            }
            let sql = step.sql.to_owned();
            tx.add(Effect::Bulk { sql, data, rows: outcome.rows }, true);
        }
        self.check_size()
    }

    async fn lock_for_bulk(&mut self, lock: &str) -> Result<(), Stop> {
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        let Place::Leading { leader, .. } = &mut tx.place else {
            return Ok(());
        };
        match leader.ask(lock, &[]).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(broken) => {
                self.leader_lost(&broken).await?;
                self.ensure_leading().await?;
                Err(Failure::retry("its backend died while a table was locked").into())
            }
        }
    }

    /// Hands the stream on to the leader. What is to be repeated is kept.
    async fn pump(&mut self, keep: bool, watch: Watch<'_>) -> Result<(Vec<u8>, Outcome), Stop> {
        let mut kept = Vec::new();
        let limit = self.shared.settings().max_effects;
        let ended = loop {
            let piece = match self.next_piece().await {
                Some(Ok(piece)) => piece,
                None => break Err(Broken::Lost(super::promote::LED_NO_MORE.to_owned())),
                Some(Err(gone)) => {
                    // The server's transaction ends with its connection.
                    self.abandon_leader().await;
                    return Err(gone.into());
                }
            };
            let last = !matches!(piece, BulkPiece::Data(_));
            if keep && let BulkPiece::Data(data) = &piece {
                kept.extend_from_slice(data);
            }
            let too_much = kept.len() > limit;
            let piece = if too_much {
                BulkPiece::Fail(
                    "the bulk load exceeds `[limits] max_transaction_effects_bytes`".into(),
                )
            } else {
                piece
            };
            let Self { tx: Some(tx), .. } = self else {
                return Err(internal("no transaction").into());
            };
            let Place::Leading { leader, .. } = &mut tx.place else {
                return Err(internal("no leader").into());
            };
            if let Err(broken) = leader.send_bulk(&piece).await {
                break Err(broken);
            }
            if last {
                break leader.finish_bulk(watch, &mut self.client).await;
            }
            if too_much {
                kept.clear();
                let outcome = leader.finish_bulk(watch, &mut self.client).await;
                self.client.skip_bulk().await?;
                break outcome;
            }
        };
        match ended {
            Ok(outcome) => {
                self.completion = (outcome.completion, self.client.flushes());
                Ok((kept, outcome))
            }
            Err(Broken::Client(gone)) => Err(gone.into()),
            Err(broken) => {
                let carried = self.leader_lost(&broken).await;
                if self.client.owes_bulk() {
                    self.client.skip_bulk().await?;
                }
                carried?;
                Err(Failure::retry("its backend died in the middle of a bulk load").into())
            }
        }
    }

    /// The next piece of the stream. `None` when another backend leads: others wait there for this transaction, which
    /// must not wait for its client.
    async fn next_piece(&mut self) -> Option<Result<BulkPiece, Gone>> {
        let falls = self.shared.falls(self.tx.as_ref());
        tokio::select! {
            biased;
            piece = self.client.next_bulk() => Some(piece),
            () = falls => None,
        }
    }

    /// Closes the leader's connection in the middle of a bulk load.
    async fn abandon_leader(&mut self) {
        let Some(tx) = &mut self.tx else { return };
        let place = std::mem::replace(&mut tx.place, Place::Nowhere);
        if let Place::Leading { leader, shares, .. } = place {
            drop(leader);
            shares::abandon(&self.shared, shares).await;
        }
    }
}
