//! What the machine is told from this node's side: services came up or went down, somebody wants it
//! to stop.

use super::machine::Machine;
use super::phase::Phase;
use super::row::Moment;
use super::table::Event;
use super::words::Done;

impl Machine {
    /// The same, of an agent that goes on with what an earlier one of the same incarnation left running in
    /// maintenance: that it may start in maintenance.
    #[must_use]
    pub const fn adopting(mut self) -> Self {
        self.adopts = true;
        self
    }

    /// Whether something runs that no guard knows of yet. Until one does, maintenance must not end.
    pub(super) const fn is_adopting(&self) -> bool {
        self.adopts && matches!(self.phase, Phase::Claiming(_))
    }

    /// What became of the start or the stop that was asked for.
    pub fn on_done(&mut self, now: Moment, done: Done) {
        match (done, self.phase.clone()) {
            (Done::Started, Phase::Starting(held)) => self.go(Event::Started, Phase::Master(held)),
            (Done::StartFailed, Phase::Starting(_)) => {
                self.barred_until = Some(now.after(self.policy.start_retry));
                self.stop(Event::StartFailed);
            }
            (Done::Stopped, Phase::Stopping(Some(held), cause)) => {
                self.go(Event::Stopped, Phase::Releasing(held, cause));
            }
            (Done::Stopped, Phase::Stopping(None, _)) => {
                self.go(Event::StoppedLost, Phase::Standby);
            }
            // A start that ended after its stop was asked for says nothing any more.
            (Done::Started | Done::StartFailed, _) => {}
            (Done::Stopped, phase) => panic!("stopped, in {phase:?}"),
        }
    }

    /// Gives the resource up, if this node has it: the agent ends, a check failed, maintenance, or
    /// the guard found the deadline passed before this machine did.
    pub fn give_up(&mut self, now: Moment, cause: Event) {
        if cause == Event::CheckFailed {
            // Else it would take it again as soon as nobody looks any more.
            self.barred_until = Some(now.after(self.policy.start_retry));
        }
        match &self.phase {
            Phase::Starting(_) if matches!(cause, Event::Shutdown | Event::TimeUp) => {
                self.stop(cause);
            }
            Phase::Master(_) => self.stop(cause),
            Phase::Claiming(held) if matches!(cause, Event::Shutdown | Event::Maintenance) => {
                let held = held.clone();
                self.go(cause, Phase::Releasing(held, cause));
            }
            _ => {}
        }
    }

    /// An operator knows that the row is older, and wants to go on from it.
    pub fn accept_restore(&mut self) {
        if matches!(self.phase, Phase::Regressed) {
            self.floor = 0;
            self.seen = None;
            self.go(Event::Accepted, Phase::Standby);
        }
    }

    /// An operator ends what damping holds back.
    pub fn clear(&mut self) {
        self.failovers.clear();
        self.barred_until = None;
    }
}
