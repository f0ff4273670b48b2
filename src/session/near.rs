//! Sessions at a proxy that stands by, as long as they only read what may be a little behind.
//!
//! Who writes, and in which order, is known to the proxy that writes alone: a read that must see every commit that
//! anybody may have seen is answered there. A session whose consistency is `eventual` does not ask for that. It stays
//! where it has come to until it sends something else; what it has sent is then taken back unread, and the whole
//! session goes on at the proxy that writes, as it would after a handover.
//!
//! The connections used here are the only ones that no server has asked for a ballot. They refuse writes, and are
//! opened to members of the newest view only, as long as this proxy sees that the one of that view writes.

use super::{Carried, Session, Stop};
use crate::backend::{Lease, Purpose};
use crate::cluster::Phase;
use crate::config::Consistency;
use crate::error::Kind;
use crate::exchange::{Batch, Client, End, Gone, Protocol, Sink, Work};
use crate::sql::{Class, Discard, Own, Question, SetOp, Statement};

impl<P: Protocol> Session<P> {
    /// While another proxy writes, the session reads here what may be a little behind.
    #[must_use]
    pub fn nearby_if(mut self, may: bool) -> Self {
        if may {
            self.client.keep_requests();
            self.near = true;
        }
        self
    }

    /// What goes along with a session that leaves with its last batch unread.
    pub(super) fn leaves(&mut self) -> Option<Carried> {
        self.client.take_back();
        self.luggage()
    }

    /// Answers a batch here. False when it is for the proxy that writes, and nothing of it was answered.
    pub(super) async fn nearby(&mut self, batch: Batch<P::Work>) -> Result<bool, Gone> {
        if !self.stays_here(&batch) {
            return Ok(false);
        }
        let (end, flushes) = (batch.end, self.client.flushes());
        let stopped = self.items(&batch).await;
        let elsewhere = match &stopped {
            Err(Stop::Elsewhere) => true,
            Err(Stop::Failure(failure)) => failure.kind == Kind::Unavailable,
            _ => false,
        };
        if elsewhere && self.client.flushes() == flushes {
            return Ok(false);
        }
        self.finish_batch(stopped, end).await.map(|()| true)
    }

    /// Whether everything in a batch can be answered here.
    fn stays_here(&self, batch: &Batch<P::Work>) -> bool {
        let stands_by = self.shared.keeper.view().phase == Phase::Standby;
        let lax = self.consistency == Consistency::Eventual && self.autocommit;
        if !stands_by
            || !lax
            || self.is_tied()
            || batch.end != End::Ready
            || !self.shared.catalogs.is_loaded()
        {
            return false;
        }
        let mut executed = batch.items.iter().filter(|item| item.text.is_some()).count();
        let mut others = 0;
        for item in &batch.items {
            let Some(text) = &item.text else { continue };
            let plan = self.shared.catalogs.plan(text, &self.scope);
            let statements = &plan.script.statements;
            executed += statements.len().saturating_sub(1);
            if item.work.is_partial() || !statements.iter().all(is_local) {
                return false;
            }
            others += statements.iter().filter(|s| !matches!(s.class, Class::Read)).count();
        }
        // Several that are not all reads are a transaction, or may change what the next one means.
        others == 0 || executed == 1
    }

    /// A connection for a read here.
    pub(super) async fn near_lease(&mut self) -> Result<Lease<P::Link>, Stop> {
        let mut members = self.shared.keeper.near().unwrap_or_default();
        while let Some(backend) = self.choose_of(members.iter().copied()) {
            let backend = &self.shared.backends[backend];
            match backend.pool(&self.user, Purpose::Near).checkout().await {
                Ok(lease) => return Ok(lease),
                Err(error) => {
                    tracing::debug!(backend = %backend.name, %error, "is not read by way of here");
                    members.retain(|member| *member != backend.index);
                }
            }
        }
        Err(Stop::Elsewhere)
    }
}

/// What needs nobody who writes, as far as its text tells.
pub(super) fn is_local(statement: &Statement) -> bool {
    let kind = match &statement.class {
        Class::Read | Class::Deallocate(_) | Class::DiscardAll => true,
        // What they come to is judged when it is known.
        Class::Recall(_) | Class::Kill { .. } => true,
        Class::Set(op) => !matches!(op, SetOp::Transaction(_) | SetOp::Constraints),
        Class::Discard(what) => *what != Discard::Temp,
        Class::Own(Own { question, .. }) => {
            matches!(question, Question::Consistency | Question::DeadAfter)
        }
        _ => false,
    };
    kind && !statement.uses_currval && !statement.commits && !statement.opens_for_writes()
}
