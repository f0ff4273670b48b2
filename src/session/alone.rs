//! A change of the schema in one step that commits by itself, as MySQL's are: on the leader, then on
//! the followers, then in the journal.
//!
//! No transaction may see half of it: a write that the leader ran with the new tables would meet the
//! old ones on a follower. So it waits until nobody is on the leader, and everybody else waits for it.

use super::run::Step;
use super::{Session, Stop};
use crate::error::{Failure, Kind};
use crate::exchange::Protocol;

/// How long it waits for the transactions that are open, while others wait for it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

impl<P: Protocol> Session<P> {
    /// Runs the statement everywhere.
    pub(super) async fn everywhere_alone(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        let all = self.shared.admission.clone().write_owned();
        let alone = tokio::time::timeout(PATIENCE, all).await.map_err(|_| {
            Failure::new(Kind::Refused, "transactions are open that the change might cut in two")
                .code("HY000")
                .number(1205)
                .hint("run it again when they have ended")
        })?;
        let done = self.on_all(step).await;
        drop(alone);
        done
    }

    async fn on_all(&mut self, step: &Step<'_, P::Work>) -> Result<(), Stop> {
        let outcome = self.leader_alone(step.work).await?;
        self.settle_last();
        if let Some(error) = outcome.error {
            self.fail_alike(step.sql).await;
            return Err(Stop::Server(error));
        }
        for (backend, why) in self.on_followers(step.sql).await {
            let cause = format!("did not take a change of the schema: {why}");
            let generation = self.shared.backends[backend].generation();
            self.shared.keeper.lost(backend, generation, cause, true).await;
        }
        self.record_outside(step.sql).await
    }
}
