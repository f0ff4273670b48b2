//! What the two ends of a conversation share of a protocol.

pub mod mysql;
pub mod pg;
pub mod witness;
