//! A change of the schema in one step that commits by itself, as MySQL's are: on the leader, then on
//! the followers, then in the journal.
//!
//! No transaction may see half of it: a write that the leader ran with the new tables would meet the
//! old ones on a follower. So it waits until nobody is on the leader, and everybody else waits for it.

use super::run::Step;
use super::{Session, Stop};
use crate::backend::Purpose;
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Protocol};
use crate::sql::Touched;
use crate::store::journal::{Effect, Entry};

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

    /// What failed on the leader may have left something behind there (half of its tables): the same
    /// is left behind everywhere. A follower where it succeeds differs, and leaves.
    async fn fail_alike(&self, sql: &str) {
        let failed = self.on_followers(sql).await;
        let view = self.shared.keeper.view();
        for &follower in view.followers() {
            if failed.iter().all(|(backend, _)| *backend != follower) {
                let cause = "took a change of the schema that the leader refused".to_owned();
                let generation = self.shared.backends[follower].generation();
                self.shared.keeper.lost(follower, generation, cause, true).await;
            }
        }
    }

    /// Records that a statement outside a transaction is done everywhere, for backends that are away.
    async fn record_outside(&mut self, sql: &str) -> Result<(), Stop> {
        let user = self.user.clone();
        let settings = self.settings.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let effects = vec![Effect::Outside { sql: sql.to_owned() }];
        let entry = Entry { user: user.clone(), settings, effects }.encode();
        let shared = self.shared.clone();
        let gate = shared.keeper.gate.read().await;
        shared.catalogs.outdate();
        let ticket = shared.ledger.begin(Touched::Unknown);
        let view = shared.keeper.view();
        let id = shared.new_record_id();
        for &backend in &view.order {
            let generation = shared.backends[backend].generation();
            let recorded = async {
                let pool = shared.backends[backend].pool(&user, Purpose::Write);
                let mut lease = pool.checkout().await.map_err(|e| e.to_string())?;
                lease.queue_record(ticket.seq, id, &user, &entry);
                lease.settle().await
            };
            if let Err(why) = recorded.await {
                let cause = format!("did not take a record: {why}");
                shared.keeper.lost(backend, generation, cause, true).await;
            }
        }
        ticket.acknowledged();
        drop(ticket);
        drop(gate);
        shared.reload_catalog().await;
        Ok(())
    }
}
