//! `lockstep agent`: elects the master application node through a table in the database.

pub mod election;
