//! Each protocol's own form of a statement on its way from a client to a backend.

pub mod pg;
