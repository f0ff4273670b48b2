//! Questions that the proxy answers itself, most of all: what became of a transaction whose COMMIT
//! got no answer.

use super::identity::TransactionId;
use super::leader::{ATTEMPTS, unavailable};
use super::run::Step;
use super::transaction::Place;
use super::{Session, Stop};
use crate::catalog::Text;
use crate::config::Consistency;
use crate::error::{Failure, Kind};
use crate::exchange::{Client, Link, Protocol, Table, Work};
use crate::sql::{Argument, Class, Own, Question};
use std::sync::Arc;

/// Journal records looked through at once: each look stays far below the limit of one.
const SEARCH: i64 = 100_000;

impl<P: Protocol> Session<P> {
    /// Answers a question to the proxy.
    pub(super) async fn own(&mut self, step: &Step<'_, P::Work>, own: &Own) -> Result<(), Stop> {
        if step.work.texts().iter().any(|text| !Arc::ptr_eq(text, step.text)) {
            return Err(in_company().into());
        }
        let value = match &own.question {
            Question::Consistency => Some(self.consistency_word().to_owned()),
            Question::DeadAfter => {
                Some(format!("{}ms", self.shared.settings().dead_after.as_millis()))
            }
            Question::TransactionId => self.transaction_id().await?,
            Question::TransactionStatus(argument) => match argument_of(step.work, argument)? {
                Some(identity) => Some(self.transaction_status(&identity).await?.to_owned()),
                None => None,
            },
        };
        self.tell(step.work, own, &[vec![value]]);
        Ok(())
    }

    /// Answers messages that prepare or describe such a question without asking it. False when they
    /// are about something else.
    pub(super) fn described_own(&mut self, work: &P::Work) -> Result<bool, Stop> {
        let texts = work.texts();
        let questions: Vec<Option<Own>> = texts.iter().map(|text| self.question(text)).collect();
        let Some(own) = questions.iter().flatten().next() else {
            return Ok(false);
        };
        if questions.iter().any(|other| other.as_ref() != Some(own)) {
            return Err(in_company().into());
        }
        self.tell(work, own, &[]);
        Ok(true)
    }

    /// The question that a text asks, if it asks the proxy.
    fn question(&self, text: &Text) -> Option<Own> {
        let plan = self.shared.catalogs.plan(text, &self.scope);
        match plan.script.statements.as_slice() {
            [only] => match &only.class {
                Class::Own(own) => Some(own.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    fn tell(&mut self, work: &P::Work, own: &Own, rows: &[Vec<Option<String>>]) {
        let parameters = match &own.question {
            Question::TransactionStatus(Argument::Parameter(number)) => *number as usize,
            _ => 0,
        };
        self.client.rows(work, &Table { columns: &[&own.column], rows, tag: own.tag, parameters });
    }

    fn consistency_word(&self) -> &'static str {
        match self.consistency {
            Consistency::Strong => "strong",
            Consistency::Session => "session",
            Consistency::Eventual => "eventual",
        }
    }

    /// The identity of the transaction, which from now on leaves a record even if it changes nothing.
    /// `None` when it is read-only: it can leave none.
    async fn transaction_id(&mut self) -> Result<Option<String>, Stop> {
        if self.tx.is_none() {
            return Err(Failure::new(Kind::Protocol, "there is no transaction in progress")
                .code("25P01")
                .hint("BEGIN first, and ask inside of the transaction")
                .into());
        }
        if self.is_read_only().await? {
            return Ok(None);
        }
        let (cluster, after) = (self.shared.keeper.cluster(), self.shared.ledger.newest());
        let Some(tx) = &mut self.tx else {
            return Ok(None);
        };
        let identity = tx.identity.get_or_insert_with(|| {
            let drawn = TransactionId::new(&cluster, after, self.shared.new_record_id());
            self.shared.identities.note(drawn, &self.user)
        });
        Ok(Some(identity.identity.to_string()))
    }

    async fn is_read_only(&mut self) -> Result<bool, Stop> {
        for _ in 0..ATTEMPTS {
            self.ensure_leading().await?;
            let Some(Place::Leading { leader, .. }) = self.tx.as_mut().map(|tx| &mut tx.place)
            else {
                continue;
            };
            // Not a query, so that the transaction can still choose its isolation level.
            match leader.ask("SHOW transaction_read_only", &[]).await {
                Ok(Ok(rows)) => {
                    return Ok(rows.into_iter().flatten().flatten().any(|word| word == "on"));
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(broken) => self.leader_lost(&broken).await?,
            }
        }
        Err(unavailable().into())
    }

    /// What became of a transaction.
    async fn transaction_status(&self, text: &str) -> Result<&'static str, Stop> {
        let Ok(identity) = text.parse::<TransactionId>() else {
            return Err(Failure::new(Kind::Refused, "this is no identity of a transaction")
                .code("22023")
                .hint("give what SHOW lockstep.transaction_id said inside of the transaction")
                .into());
        };
        // Asked before the journal: whoever is not under way any more has its record there, or none.
        if let Some(user) = self.shared.identities.under_way(identity) {
            return Ok(if user == self.user { "in progress" } else { "unknown" });
        }
        for _ in 0..ATTEMPTS {
            self.wait_serving().await?;
            let Some(leader) = self.shared.keeper.view().leader() else {
                continue;
            };
            let generation = self.shared.backends[leader].generation();
            match self.search(leader, identity).await {
                Ok(status) => return Ok(status),
                Err(why) => {
                    self.shared.keeper.lost(leader, generation, why, false).await;
                }
            }
        }
        Err(unavailable().into())
    }

    /// Looks for a record in the journal of an active backend, which has all that were acknowledged.
    async fn search(
        &self,
        backend: usize,
        identity: TransactionId,
    ) -> Result<&'static str, String> {
        let newest = self.shared.ledger.newest();
        if !identity.is_of(&self.shared.keeper.cluster()) || identity.after > newest {
            return Ok("unknown");
        }
        let control = &self.shared.controls[backend];
        let (mut after, mut owner) = (identity.after, None);
        while owner.is_none() && after < newest {
            let upto = after.saturating_add(SEARCH).min(newest);
            owner = control.owner_of(identity.id, after, upto).await?;
            after = upto;
        }
        // Looked at last: what was pruned before now may have been pruned before we came there, and
        // a server that was restarted meanwhile may have lost what it had.
        let seen = control.examine().await?;
        self.shared.backends[backend].judge(&seen.started, seen.writable)?;
        let pruned = seen.control.map_or(i64::MAX, |control| control.pruned_to);
        Ok(match owner {
            Some(owner) if owner == self.user => "committed",
            None if pruned <= identity.after => "aborted",
            _ => "unknown",
        })
    }
}

/// The identity that is asked about; `None` for NULL.
fn argument_of<W: Work>(work: &W, argument: &Argument) -> Result<Option<String>, Stop> {
    match argument {
        Argument::Constant(text) => Ok(text.clone()),
        Argument::Parameter(number) => work.parameter(*number).ok_or_else(|| {
            Failure::new(Kind::Protocol, format!("there is no value for parameter ${number}"))
                .code("08P01")
                .hint("bind it in the request that executes the statement")
                .into()
        }),
    }
}

/// The messages would have to be divided between a server and us.
fn in_company() -> Failure {
    Failure::new(Kind::Refused, "a question to the proxy shares a request with another statement")
        .hint("send a Sync before and after it")
}
