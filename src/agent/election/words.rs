//! What the machine and whoever drives it say to each other.

use super::row::{Change, Grade, Lease, Moment};
use super::table::{Event, Transition};

/// What is to be asked of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read the row.
    Read,
    /// Take it.
    Take(Change),
    /// Keep it.
    Renew(Change),
    /// Give it back.
    Release(Change),
    /// Name who is to have it next.
    Switch(Change),
}

impl Request {
    /// The change that is asked for, if it is one.
    #[must_use]
    pub const fn change(&self) -> Option<&Change> {
        match self {
            Self::Read => None,
            Self::Take(change)
            | Self::Renew(change)
            | Self::Release(change)
            | Self::Switch(change) => Some(change),
        }
    }
}

/// What the database said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The row; none where there is none.
    Row(Option<Lease>),
    /// Whether the change matched.
    Matched(bool),
    /// Nothing, or an error: a change may have reached the row, or still reach it.
    Lost,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// Send this, and tell the answer.
    Send(Request),
    /// Ask again at that moment, or earlier.
    Wait(Moment),
}

/// What became of a start or a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The services are up.
    Started,
    /// They are not.
    StartFailed,
    /// Everything is confirmed stopped.
    Stopped,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The row does not exist: create it.
    Create,
    /// Start the services.
    Promote {
        /// Which term begins.
        epoch: i64,
        /// What it may do.
        grade: Grade,
    },
    /// Stop them, and have that done by the deadline.
    Demote(Event),
    /// Everything must be stopped by then; none: no such moment (maintenance).
    Deadline(Option<Moment>),
    /// A step of the table, to be logged.
    Step {
        /// The step.
        transition: &'static Transition,
        /// The epoch of the row at that time.
        epoch: i64,
    },
    /// Something that people should know.
    Notice(String),
}
