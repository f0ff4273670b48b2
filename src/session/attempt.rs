//! One attempt at a statement: run, and when its backend dies, find out what that means.

use super::leader::not_set_up;
use super::{Session, Stop};
use crate::backend::{Lease, Purpose};
use crate::error::Failure;
use crate::exchange::{Broken, Link, Outcome, Protocol, Sink, Watch};

impl<P: Protocol> Session<P> {
    /// Runs a statement on a connection; its answer goes to the client's buffer.
    ///
    /// `None` when its backend died before anything of the answer was sent: that has been reported,
    /// and nothing of the answer is left, so the statement may run again elsewhere.
    pub(super) async fn attempt(
        &mut self,
        mut lease: Lease<P::Link>,
        work: &P::Work,
        watch: Watch<'_>,
    ) -> Result<Option<(Lease<P::Link>, Outcome)>, Stop> {
        let mark = (self.client.buffer().len(), self.client.flushes());
        let target = self.cancel.running();
        target.set(lease.canceller());
        let ran = lease.run(work, watch, &mut self.client).await;
        target.clear(ran.is_ok()).await;
        let broken = match ran {
            Ok(outcome) => return Ok(Some((lease, outcome))),
            Err(Broken::Client(_)) => return Err(Stop::Gone),
            Err(Broken::Setup(why)) => return Err(not_set_up(why).into()),
            Err(broken) => broken,
        };
        let (backend, generation) = (lease.backend().index, lease.generation());
        let purpose = lease.purpose();
        if purpose != Purpose::Write {
            self.shared.metrics.reads_retried.inc();
        }
        drop(lease);
        if purpose == Purpose::Near {
            // What that means is decided elsewhere; whoever comes next finds out anew.
            self.shared.backends[backend].refresh();
        } else {
            let force = broken.is_damning();
            self.shared.keeper.lost(backend, generation, broken.to_string(), force).await;
        }
        if self.client.flushes() != mark.1 {
            return Err(Failure::retry("its backend died in the middle of an answer").into());
        }
        self.client.buffer().truncate(mark.0);
        Ok(None)
    }
}
