//! The transitions: from, event, to, and the sentence that people read. The machine takes no step
//! that does not stand here.

use std::fmt;

/// Where a node stands with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseName {
    /// Nothing has been read since the start.
    Unknown,
    /// Another has it, or nobody.
    Standby,
    /// The row is ours, but not yet time to act.
    Claiming,
    /// The services are being started.
    Starting,
    /// The services run.
    Master,
    /// The services are being stopped.
    Stopping,
    /// They are stopped, and the row is being given back.
    Releasing,
    /// The row is older than what this node has seen before.
    Regressed,
}

impl PhaseName {
    /// The word for it in logs, metrics and tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Standby => "standby",
            Self::Claiming => "claiming",
            Self::Starting => "starting",
            Self::Master => "master",
            Self::Stopping => "stopping",
            Self::Releasing => "releasing",
            Self::Regressed => "regressed",
        }
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.word())
    }
}

/// What moves a node from one phase to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The row was read for the first time.
    Seen,
    /// Our take matched, in time.
    Taken,
    /// Our take matched, too late to act on it.
    TakenLate,
    /// A read shows that a take whose answer was lost had matched.
    Adopted,
    /// The row, already ours, was renewed.
    Renewed,
    /// The row is another's.
    Superseded,
    /// The services are up.
    Started,
    /// They did not come up.
    StartFailed,
    /// The lease could not be renewed.
    TimeUp,
    /// Somebody else was named for the resource.
    Switchover,
    /// A check failed for good.
    CheckFailed,
    /// The node goes into maintenance.
    Maintenance,
    /// The agent was told to end.
    Shutdown,
    /// The services are confirmed stopped, and the row is ours.
    Stopped,
    /// The services are confirmed stopped, and the row is not ours.
    StoppedLost,
    /// The row was given back.
    Released,
    /// The row is older than one that was seen before.
    Older,
    /// An operator accepts the older row.
    Accepted,
}

impl Event {
    /// The word for it in logs, metrics and tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Taken => "taken",
            Self::TakenLate => "taken_late",
            Self::Adopted => "adopted",
            Self::Renewed => "renewed",
            Self::Superseded => "superseded",
            Self::Started => "started",
            Self::StartFailed => "start_failed",
            Self::TimeUp => "time_up",
            Self::Switchover => "switchover",
            Self::CheckFailed => "check_failed",
            Self::Maintenance => "maintenance",
            Self::Shutdown => "shutdown",
            Self::Stopped => "stopped",
            Self::StoppedLost => "stopped_lost",
            Self::Released => "released",
            Self::Older => "older",
            Self::Accepted => "accepted",
        }
    }
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Where the node stood.
    pub from: PhaseName,
    /// What happened.
    pub event: Event,
    /// Where it stands now.
    pub to: PhaseName,
    /// What is logged.
    pub sentence: &'static str,
}

const fn step(from: PhaseName, event: Event, to: PhaseName, sentence: &'static str) -> Transition {
    Transition { from, event, to, sentence }
}

use Event as E;
use PhaseName as P;

/// Every step there is.
#[rustfmt::skip]
pub const TRANSITIONS: &[Transition] = &[
    step(P::Unknown, E::Seen, P::Standby, "Monitoring Master Server Status"),
    step(P::Unknown, E::Older, P::Regressed, "the lease is older than one this node has seen: a backup was restored, or this is another database; nothing starts before `lockstep agent accept-restore`"),
    step(P::Standby, E::Older, P::Regressed, "the lease went back: a backup was restored, or this is another database; nothing starts before `lockstep agent accept-restore`"),
    step(P::Regressed, E::Accepted, P::Standby, "an operator accepted the older lease; Monitoring Master Server Status"),
    step(P::Standby, E::Taken, P::Starting, "this node is the master now and starts its services"),
    step(P::Standby, E::TakenLate, P::Claiming, "the take was answered too late to act on it; renewing first"),
    step(P::Standby, E::Adopted, P::Claiming, "a take whose answer was lost had reached the database; renewing first"),
    step(P::Claiming, E::Renewed, P::Starting, "this node is the master now and starts its services"),
    step(P::Claiming, E::Superseded, P::Standby, "another node took the lease before this one acted; Monitoring Master Server Status"),
    step(P::Claiming, E::Shutdown, P::Releasing, "the agent ends; giving the lease back"),
    step(P::Claiming, E::Maintenance, P::Releasing, "this node is in maintenance; giving the lease back"),
    step(P::Starting, E::Started, P::Master, "the services are up"),
    step(P::Starting, E::StartFailed, P::Stopping, "the services did not come up; stopping what did"),
    step(P::Starting, E::TimeUp, P::Stopping, "the lease could not be renewed in time; stopping"),
    step(P::Starting, E::Superseded, P::Stopping, "another node has the lease; stopping at once"),
    step(P::Starting, E::Shutdown, P::Stopping, "the agent ends; stopping"),
    step(P::Master, E::TimeUp, P::Stopping, "the lease could not be renewed in time; stopping"),
    step(P::Master, E::Superseded, P::Stopping, "another node has the lease; stopping at once"),
    step(P::Master, E::Switchover, P::Stopping, "another node is to take over; stopping"),
    step(P::Master, E::CheckFailed, P::Stopping, "a check failed and another node is ready; stopping"),
    step(P::Master, E::Maintenance, P::Stopping, "this node goes into maintenance and another is ready; stopping"),
    step(P::Master, E::Shutdown, P::Stopping, "the agent ends; stopping"),
    step(P::Stopping, E::Superseded, P::Stopping, "another node has the lease; what still runs is killed"),
    step(P::Stopping, E::Stopped, P::Releasing, "everything is stopped; giving the lease back"),
    step(P::Stopping, E::StoppedLost, P::Standby, "everything is stopped; Monitoring Master Server Status"),
    step(P::Releasing, E::Released, P::Standby, "the lease is free; Monitoring Master Server Status"),
    step(P::Releasing, E::Superseded, P::Standby, "another node has the lease; Monitoring Master Server Status"),
];

/// The step for an event; a program that asks for one that is not there is wrong.
pub(super) fn find(from: PhaseName, event: Event) -> &'static Transition {
    let found = TRANSITIONS.iter().find(|t| t.from == from && t.event == event);
    found.unwrap_or_else(|| panic!("no transition from {from} by {}", event.word()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_and_an_event_lead_to_one_place() {
        for (i, one) in TRANSITIONS.iter().enumerate() {
            let twin = |other: &&Transition| (other.from, other.event) == (one.from, one.event);
            assert_eq!(TRANSITIONS[i + 1..].iter().find(twin), None, "{one:?}");
            assert!(!one.sentence.is_empty());
        }
    }
}
