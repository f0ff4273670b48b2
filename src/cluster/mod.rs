//! Who is in, how well, and who reads. Pure: no clock, no sockets.

pub mod balance;
pub mod view;

pub use view::{Phase, State, View};
