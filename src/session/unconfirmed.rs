//! Commits that were not confirmed: who leaves for it, and what the outcome is.

use super::identity::TransactionId;
use super::transaction::Transaction;
use super::{Session, Stop};
use crate::backend::Lease;
use crate::error::{Failure, Kind};
use crate::exchange::Protocol;
use crate::keeper::Verdict;
use crate::ledger::Ticket;

impl<P: Protocol> Session<P> {
    /// A backend that did not confirm a COMMIT that others did may lack it: it leaves. False when
    /// that could not be decided.
    pub(super) async fn put_out(&self, lease: &Lease<P::Link>, why: &str) -> bool {
        let (backend, generation) = (lease.backend().index, lease.generation());
        let cause = format!("did not confirm a commit: {why}");
        self.shared.keeper.lost(backend, generation, cause, true).await == Verdict::Evicted
    }

    /// Puts out a leader that did not confirm a COMMIT. When it is well otherwise, others may have got
    /// past the locks of what it lost: they must be known before anybody goes on elsewhere.
    pub(super) async fn put_out_leader(
        &self,
        tx: &Transaction<P::Link>,
        lease: &Lease<P::Link>,
        why: &str,
    ) -> bool {
        let (backend, generation) = (lease.backend(), lease.generation());
        let lost = self.shared.keeper.lost(backend.index, generation, why.to_owned(), false).await;
        if lost == Verdict::Alive {
            self.shared.ledger.note_lost(backend.index, backend.generation(), &tx.writes);
        }
        self.put_out(lease, why).await
    }

    /// Nobody confirmed: what the journals say when the backends are back is the outcome.
    pub(super) async fn resolve(&self, ticket: &Ticket, id: i64) -> Result<(), Stop> {
        let identity = TransactionId::new(&self.shared.keeper.cluster(), ticket.seq - 1, id);
        let in_doubt = || {
            Failure::new(Kind::InDoubt, "the outcome of the COMMIT is not known")
                .detail(format!("no backend confirmed record {} of the journal", ticket.seq))
                .hint(format!(
                    "ask SELECT lockstep.transaction_status('{identity}') once a database is active \
                     again"
                ))
        };
        if !self.shared.keeper.wait_serving(self.shared.settings().hold).await {
            return Err(in_doubt().into());
        }
        let Some(leader) = self.shared.keeper.view().leader() else {
            return Err(in_doubt().into());
        };
        // Asked for by its identity: another proxy may have given the number to another transaction meanwhile.
        let control = &self.shared.controls[leader];
        match control.owner_of(id, ticket.seq - 1, ticket.seq).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let seen = control.examine().await;
                let pruned =
                    seen.ok().and_then(|seen| seen.control).map(|control| control.pruned_to);
                if pruned.is_none_or(|pruned| pruned >= ticket.seq) {
                    return Err(in_doubt().into());
                }
                Err(Failure::retry("no backend had it when all of them stopped").into())
            }
            Err(_) => Err(in_doubt().into()),
        }
    }
}
