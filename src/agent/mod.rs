//! `lockstep agent`: elects the master application node through a table in the database.

pub mod checks;
pub mod clock;
pub mod election;
pub mod guard;
pub mod lease;
pub mod program;
pub mod stage;
pub mod tree;
pub mod vip;
