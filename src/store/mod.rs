//! What lockstep keeps inside the databases, and what it reads out of them.
//!
//! Every backend carries the schema `lockstep`: a control row, the secrets, the journal, and the functions through which
//! the proxy records and applies. This module installs it, checks it, compares backends with it, and gives the rest of
//! the program the forms in which changes travel. It opens no connection itself.

pub mod mysql;

pub mod agents;

pub mod init;

pub mod fill;

pub mod check;

mod questions;

pub mod compare;

pub mod control;

pub mod vote;

pub mod journal;

pub mod changes;

pub mod capture;

pub mod outside;

pub mod witness;
