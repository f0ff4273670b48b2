//! Towards the applications: logging in, and their side of the conversation.

pub mod mysql;
pub mod pg;
