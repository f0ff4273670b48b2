//! Who is in, how well, who decides about it, and who reads. Pure: no clock, no sockets.

pub mod balance;
pub mod ballot;
pub mod lease;
pub mod proposer;
pub mod view;
pub mod watch;

pub use ballot::{Arbiter, Ask, Ballot, Refusal, Roster, Vote};
pub use lease::{Claim, Standing, Term, Terms, Weight, turn, weight};
pub use proposer::{Failure, Proposer, Reply, Rules, Step, Wish};
pub use view::{Phase, State, View};
pub use watch::{Judgement, Watch};
