//! What the machine asked for, done; and what people are told.

use std::sync::atomic::Ordering;

use super::super::alerts::Told;
use super::super::clock;
use super::super::election::{Act, Event, PhaseName, Transition};
use super::super::http::View;
use super::super::lease::EventRow;
use super::super::stage::Order;
use super::Director;

impl Director {
    /// Does what the machine asked for, in order.
    pub(super) async fn obey(&mut self) -> Result<(), String> {
        let floor = self.machine.floor();
        if floor != self.memory.kept_floor {
            let name = &self.resource.name;
            super::super::state::write_epoch(&self.state_dir, name, floor)?;
            self.memory.kept_floor = floor;
        }
        for act in self.machine.take_acts() {
            match act {
                // The row is made where it is read.
                Act::Create => {}
                Act::Promote { epoch, grade } => {
                    // Before anything is started: else nobody would know that something may run.
                    super::super::state::mark_running(&self.state_dir, &self.resource.name)?;
                    let left = self.memory.left.take();
                    super::super::state::forget_left(&self.state_dir, &self.resource.name)?;
                    self.memory.stage_busy = true;
                    self.metrics.takeovers.inc();
                    self.held_resources.fetch_add(1, Ordering::SeqCst);
                    self.stage.order(Order::Promote { epoch, grade, left }).await?;
                }
                // One stop is enough: a second one would be answered when something new runs.
                Act::Demote(_) if self.memory.demoting => {}
                Act::Demote(cause) => {
                    self.memory.demoting = true;
                    self.metrics.demoted(cause);
                    self.metrics.vip.set(0);
                    self.stage.order(Order::Demote(cause)).await?;
                }
                Act::Deadline(until) => {
                    let kill = until.map(|until| until.before(self.kill_budget() / 2));
                    self.guard.lock().await.until(&self.resource.name, kill).await?;
                    self.wires.deadline.send_replace(until);
                }
                Act::Step { transition, epoch } => self.on_step(transition, epoch),
                Act::Notice(what) => self.tell("notice", &what),
            }
        }
        Ok(())
    }

    /// Time before the deadline at which what still runs is killed.
    pub(super) fn kill_budget(&self) -> std::time::Duration {
        super::super::kill_budget(&self.settings)
    }

    fn on_step(&mut self, transition: &Transition, epoch: i64) {
        let Transition { from, event, to, sentence } = *transition;
        let cause = self.machine.row().map_or("", |row| row.reason.as_str()).to_owned();
        let lease_left = self.machine.deadline().map(|end| end.since(clock::now()));
        let resource = &self.resource.name;
        tracing::info!(resource, %from, event = event.word(), %to, epoch, cause, ?lease_left, "{sentence}");
        // It may learn only while it stops that the row is another's: it is still one stop.
        if from == PhaseName::Stopping && to != PhaseName::Stopping {
            self.held_resources.fetch_sub(1, Ordering::SeqCst);
        }
        if event == Event::Started {
            self.metrics.vip.set(i64::from(!self.resource.vips.is_empty()));
        }
        self.memory.message = match to {
            PhaseName::Standby => "Monitoring Master Server Status".into(),
            _ => sentence.into(),
        };
        self.metrics.set_role(to);
        self.wires.phase.send_replace(to);
        let lasted = match event {
            Event::Started => self.memory.silence_since.map(|since| clock::now().since(since)),
            _ => None,
        };
        self.record(event.word(), sentence, epoch, lasted, (from, to));
    }

    /// Something that people should know, and that changes no phase.
    pub(super) fn tell(&mut self, event: &str, what: &str) {
        let resource = &self.resource.name;
        tracing::warn!(resource, event, "{what}");
        let phase = self.machine.phase();
        let epoch = self.machine.row().map_or(0, |row| row.epoch);
        self.record(event, what, epoch, None, (phase, phase));
    }

    fn record(
        &self,
        event: &str,
        what: &str,
        epoch: i64,
        lasted: Option<std::time::Duration>,
        (from, to): (PhaseName, PhaseName),
    ) {
        let happened = clock::wall();
        let told = Told {
            event: event.into(),
            resource: self.resource.name.clone(),
            node: self.node.clone(),
            epoch,
            from: from.word().into(),
            to: to.word().into(),
            reason: what.into(),
            happened: happened.clone(),
        };
        self.herald.tell(&told);
        let lasted = lasted.map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let row = EventRow {
            node: self.node.clone(),
            n: 0,
            epoch,
            kind: event.into(),
            happened,
            lasted_ms: lasted,
            detail: what.into(),
        };
        if self.wires.events.try_send(row).is_err() {
            tracing::warn!(event, "too many events wait for the database: dropped");
        }
    }

    pub(super) fn forget_mark(&self) {
        if let Err(why) = super::super::state::unmark_running(&self.state_dir, &self.resource.name)
        {
            tracing::warn!(why, "the next start will stop everything once more");
        }
    }

    /// Shows how the resource stands.
    pub(super) fn show(&mut self) {
        let phase = self.machine.phase();
        let row = self.machine.row();
        let now = clock::now();
        let left = self.machine.deadline().map(|end| end.since(now));
        let seconds = left.map_or(0.0, |left| left.as_secs_f64());
        self.metrics.lease_left.set(seconds);
        self.metrics.epoch.set(row.map_or(0, |row| row.epoch));
        let standing = self.machine.standing();
        self.metrics.standbys.set(i64::try_from(standing.live_others.len()).unwrap_or(i64::MAX));
        let board = self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for (name, check) in &board {
            self.metrics.check(name, check.state != "fail");
        }
        let me = self.wires.me.borrow().clone();
        let view = View {
            resource: self.resource.name.clone(),
            node: self.node.clone(),
            role: phase.word(),
            message: self.memory.message.clone(),
            grade: row.map_or("", |row| row.grade.word()),
            holder: row.map_or(String::new(), |row| row.holder.clone()),
            epoch: row.map_or(0, |row| row.epoch),
            lease_left_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            paused: self.paused(),
            target: row.map_or(String::new(), |row| row.target.clone()),
            healthy: me.healthy,
            maintenance: me.maintenance,
            rank: standing.rank,
            standbys: standing.live_others.clone(),
            held: self.memory.held.clone(),
            database: self.memory.place.clone(),
            checks: board,
        };
        self.wires.view.send_if_modified(|old| {
            let changed = *old != view;
            *old = view;
            changed
        });
    }
}
