//! From what a client has sent, up to the point where it waits, to its answer.

use std::sync::Arc;

use super::leader::ATTEMPTS;
use super::{Session, Stop};
use crate::catalog::Plan;
use crate::error::{Failure, Kind};
use crate::exchange::{Batch, Client, End, Gone, Item, Protocol, Sink, Work};
use crate::sql::{Class, Hold};

impl<P: Protocol> Session<P> {
    /// Runs a batch and answers it.
    pub(super) async fn batch(&mut self, batch: Batch<P::Work>) -> Result<(), Gone> {
        let mark = (self.client.buffer().len(), self.client.flushes());
        let plan = self.lone(&batch);
        let repeatable = plan.as_ref().is_some_and(|plan| self.may_repeat(&batch, plan));
        let (stopped, _seat) = match plan {
            // On the heap, since what it keeps while it waits would be part of every idle session.
            Some(plan) if self.may_join(&batch, &plan) => {
                Box::pin(self.in_company(&batch, plan)).await
            }
            plan => (self.planned_items(&batch, plan).await, None),
        };
        let mut stopped = self.end_unasked(&batch, stopped).await;
        for _ in 0..ATTEMPTS {
            if !repeatable || !is_undone(&stopped) || self.client.flushes() != mark.1 {
                break;
            }
            // It was a transaction by itself, nobody has it, and its client knows nothing of it yet.
            self.client.buffer().truncate(mark.0);
            let again = Box::pin(self.items(&batch)).await;
            stopped = self.end_unasked(&batch, again).await;
        }
        self.finish_batch(stopped, batch.end).await?;
        self.run_ahead().await;
        Ok(())
    }

    /// Ends the transaction that nobody has asked for, where the batch ends.
    async fn end_unasked(
        &mut self,
        batch: &Batch<P::Work>,
        stopped: Result<(), Stop>,
    ) -> Result<(), Stop> {
        if self.tx.as_ref().is_none_or(|tx| tx.explicit) {
            return stopped;
        }
        if stopped.is_err() {
            // In a pipeline that goes on, everything up to its end is passed over: nothing of it will be kept.
            self.undo().await;
            return stopped;
        }
        if batch.end == End::Flush {
            return stopped;
        }
        let committed = self.commit().await;
        let (length, flushes) = self.completion;
        if committed.is_err() && batch.items.len() == 1 && self.client.flushes() == flushes {
            // The client must not read of success before it reads of the failure.
            let kept = self.client.buffer().len().saturating_sub(length);
            self.client.buffer().truncate(kept);
        }
        committed
    }

    /// The plan of a batch that is one text by itself, outside a transaction.
    fn lone(&self, batch: &Batch<P::Work>) -> Option<Arc<Plan>> {
        let [Item { text: Some(text), .. }] = batch.items.as_slice() else {
            return None;
        };
        let lone = batch.end == End::Ready
            && batch.failure.is_none()
            && self.tx.is_none()
            && self.held.is_none()
            && !self.state_lost
            && self.shared.catalogs.is_loaded();
        lone.then(|| self.shared.catalogs.plan(text, &self.scope))
    }

    /// Whether such a batch is one write by itself: undone with its server, it may run again.
    fn may_repeat(&self, batch: &Batch<P::Work>, plan: &Plan) -> bool {
        let ([item], [statement]) = (batch.items.as_slice(), plan.script.statements.as_slice())
        else {
            return false;
        };
        let write = match &statement.class {
            Class::Keyed => true,
            Class::Captured { hold } => *hold != Hold::Session,
            _ => false,
        };
        write && self.autocommit && !self.stays.any() && !item.work.is_partial()
    }

    /// Tells the client how its batch has ended.
    pub(super) async fn finish_batch(
        &mut self,
        stopped: Result<(), Stop>,
        end: End,
    ) -> Result<(), Gone> {
        match stopped {
            Ok(()) => {}
            Err(Stop::Gone) => return Err(Gone),
            Err(Stop::Failure(failure)) => self.client.fail(&failure),
            Err(Stop::Server(error)) => self.client.relay_error(&error),
            Err(Stop::Elsewhere) => {
                let what = "the proxy that writes has to do this, and the answer has begun here";
                self.client.fail(&Failure::retry(what));
            }
        }
        if end == End::Ready {
            let state = self.state();
            self.client.ready(state);
        }
        self.client.flush().await
    }
}

/// Whether a transaction ended with its server, and nobody has anything of it.
fn is_undone(stopped: &Result<(), Stop>) -> bool {
    // What has a code of its own was judged by a server.
    matches!(stopped, Err(Stop::Failure(why)) if why.kind == Kind::Retry && why.code.is_none())
}
