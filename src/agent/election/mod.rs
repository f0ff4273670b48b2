//! Who is the master of a resource: an *observed lease*, as a machine without clock or database.
//!
//! One row says who holds the resource. Every write of it is a compare-and-set on (epoch, seq) and
//! raises one of them, so each content of the row has one name. Nobody compares clocks: the holder
//! counts its time from *before* it sent the renewal, the others count theirs from *after* they saw
//! it, and wait longer by what two clocks can run apart. So when another may take the row, the
//! holder has stopped, whatever the network did with the messages, and a message that arrives late
//! finds another (epoch, seq) and does nothing.
//!
//! Invariants:
//! - a holder acts only before `deadline`, which is the moment before a send that is known to have
//!   reached the row, and the lease's length;
//! - a row held by another is taken no earlier than [`Policy::wait`] after it was seen last moving;
//! - an answer that did not come is asked for again: whether a write arrived is said by its `stamp`.
//!
//! What it rests on: the database is one copy (a compare-and-set that matched once never matches
//! again), and the *rates* of two clocks differ by no more than [`Policy::drift`]. After C. Gray and
//! D. Cheriton, "Leases" (SOSP 1989), with the waiting side's clock in place of a common one.

mod machine;
mod orders;
mod phase;
mod roster;
mod row;
mod table;
mod taking;
mod words;

pub use machine::Machine;
pub use roster::{NodeRow, Roster, Standing};
pub use row::{Change, Grade, Lease, Moment, Pause, Policy, Rules};
pub use table::{Event, PhaseName, TRANSITIONS, Transition};
pub use words::{Act, Answer, Done, Poll, Request};

#[cfg(test)]
mod tests;
