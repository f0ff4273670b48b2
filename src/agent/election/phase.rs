//! Where a node stands, with what belongs to it.

use super::row::{Lease, Moment};
use super::table::{Event, PhaseName};

/// The row, while it is ours.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) row: Lease,
    /// Until when to act; `None` before the first renewal that was known to be in time.
    pub(super) deadline: Option<Moment>,
}

#[derive(Debug, Clone)]
pub(super) enum Phase {
    Unknown,
    Standby,
    Claiming(Held),
    Starting(Held),
    Master(Held),
    /// With `None` the row is another's.
    Stopping(Option<Held>, Event),
    Releasing(Held, Event),
    Regressed,
}

impl Phase {
    pub(super) const fn name(&self) -> PhaseName {
        match self {
            Self::Unknown => PhaseName::Unknown,
            Self::Standby => PhaseName::Standby,
            Self::Claiming(_) => PhaseName::Claiming,
            Self::Starting(_) => PhaseName::Starting,
            Self::Master(_) => PhaseName::Master,
            Self::Stopping(..) => PhaseName::Stopping,
            Self::Releasing(..) => PhaseName::Releasing,
            Self::Regressed => PhaseName::Regressed,
        }
    }

    pub(super) const fn held(&self) -> Option<&Held> {
        match self {
            Self::Claiming(held)
            | Self::Starting(held)
            | Self::Master(held)
            | Self::Stopping(Some(held), _)
            | Self::Releasing(held, _) => Some(held),
            _ => None,
        }
    }

    pub(super) const fn held_mut(&mut self) -> Option<&mut Held> {
        match self {
            Self::Claiming(held)
            | Self::Starting(held)
            | Self::Master(held)
            | Self::Stopping(Some(held), _)
            | Self::Releasing(held, _) => Some(held),
            _ => None,
        }
    }
}
