//! Who is in, how well, who reads, and which commits are under way. Pure: no clock, no sockets.

pub mod balance;
pub mod ledger;
pub mod view;

pub use ledger::Ledger;
pub use view::{Phase, State, View};
