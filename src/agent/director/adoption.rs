//! An agent that ends in maintenance leaves what runs, and the next one on the machine goes on with it.
//!
//! That is safe because nobody takes a row in maintenance, and nothing limits its holder: neither a lease
//! nor a guard is missing meanwhile. The row stays as it is; the next agent finds by a file under which
//! incarnation it is held, and is the holder under that. Maintenance ends only after its guard knows what
//! runs. If the row has become another's, or maintenance was ended because somebody said that nothing runs
//! here, what was left is ended before anything else is done.

use super::super::election::{Event, Pause, PhaseName};
use super::super::guard::{self, Ending};
use super::super::state::{self, Left};
use super::super::tree::Root;
use super::super::{clock, here};
use super::Director;

impl Director {
    /// Whether what runs may go on without an agent.
    pub(super) fn may_leave(&self) -> bool {
        let still = self.machine.row().is_some_and(|row| row.paused == Pause::Yes);
        self.resource.adopt && still && self.machine.phase() == PhaseName::Master
    }

    /// The stage has said what runs: it is left, if the next agent can be told.
    pub(super) async fn leave(
        &mut self,
        services: Vec<(String, Option<Root>)>,
    ) -> Result<(), String> {
        let name = self.resource.name.clone();
        let epoch = self.machine.row().map_or(0, |row| row.epoch);
        let left = Left::new(self.machine.incarnation(), epoch, services);
        let kept = match self.may_leave() {
            true => state::leave(&self.state_dir, &name, &left),
            false => Err("maintenance has just ended".into()),
        };
        if let Err(why) = kept {
            tracing::warn!(resource = name, why, "what runs cannot be left, and is stopped");
            self.machine.give_up(clock::now(), Event::Shutdown);
            return Ok(());
        }
        // Nobody is to end it when this agent is gone.
        self.guard.lock().await.stopped(&name).await?;
        tracing::warn!(resource = name, "maintenance: what runs is left to the next agent here");
        self.memory.leaves = true;
        Ok(())
    }

    /// What was left under a row that is another's by now is ended.
    pub(super) async fn end_what_is_not_ours(&mut self) -> Result<(), String> {
        if self.memory.left.is_none() {
            return Ok(());
        }
        let other = matches!(self.machine.phase(), PhaseName::Standby | PhaseName::Regressed);
        if !other && self.machine.row().is_none_or(|row| row.paused != Pause::No) {
            return Ok(());
        }
        let name = self.resource.name.clone();
        tracing::warn!(
            resource = name,
            "stopping what an earlier agent left: the row is not its any more"
        );
        let ending: Ending = here::ending(&self.state_dir, &self.resource);
        let roots: Vec<Root> = self
            .memory
            .left
            .iter()
            .flat_map(|left| &left.services)
            .filter_map(|(_, root)| *root)
            .collect();
        let ended = tokio::task::spawn_blocking(move || guard::put_down(&ending, &roots)).await;
        if !ended.unwrap_or(false) {
            return Err("what an earlier agent left survives its end".into());
        }
        self.memory.left = None;
        state::unmark_running(&self.state_dir, &name)?;
        state::forget_left(&self.state_dir, &name)
    }
}
