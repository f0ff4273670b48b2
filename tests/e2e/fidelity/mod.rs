//! A client cannot tell the proxy from one server.
//!
//! Most of these tests hold two conversations, byte for byte the same: one with a bare PostgreSQL
//! server, one with the proxy, and compare every message that comes back.

mod copy;
mod errors;
mod extended;
mod portals;
mod returned;
mod sessions;
mod settings;
mod simple;
mod tools;
mod transactions;

use std::sync::Arc;

use crate::rig::cluster::Cluster;
use crate::rig::server::DATABASE;
use crate::rig::wire::{Wire, lines, query};

/// The same client twice: before a bare server and before the proxy.
pub(crate) struct Pair {
    pub(crate) cluster: Arc<Cluster>,
    real: Wire,
    through: Wire,
}

impl Pair {
    pub(crate) async fn open() -> Self {
        let cluster = Cluster::shared().await;
        let real = Wire::open(Cluster::reference().await.port, "app", "app", DATABASE).await;
        let through = cluster.wire().await;
        Self { cluster, real, through }
    }

    /// Open, after these statements have succeeded on both.
    pub(crate) async fn with(setup: &str) -> Self {
        let mut pair = Self::open().await;
        let answer = pair.query(setup).await;
        let failed = answer.iter().find(|line| line.starts_with('E'));
        assert!(failed.is_none(), "the setup fails: {failed:?}");
        pair
    }

    /// Sends the bytes on both sides and compares the answers up to the n-th ReadyForQuery.
    pub(crate) async fn talk(&mut self, bytes: &[u8], n: usize) -> Vec<String> {
        let real = self.real.talk(bytes, n).await;
        let through = self.through.talk(bytes, n).await;
        compare(&format!("sent: {}", bytes.escape_ascii()), &real, &through);
        through
    }

    /// As `talk`, up to the first message with this tag, for conversations in which no Sync was
    /// sent yet.
    pub(crate) async fn talk_until(&mut self, bytes: &[u8], tag: u8) -> Vec<String> {
        self.real.send(bytes).await;
        self.through.send(bytes).await;
        let real = lines(&self.real.until(tag).await);
        let through = lines(&self.through.until(tag).await);
        compare(&format!("sent: {}", bytes.escape_ascii()), &real, &through);
        through
    }

    pub(crate) async fn query(&mut self, sql: &str) -> Vec<String> {
        self.talk(&query(sql), 1).await
    }

    /// Many simple queries, each compared.
    pub(crate) async fn queries(&mut self, all: &[&str]) {
        for sql in all {
            self.query(sql).await;
        }
    }
}

fn compare(what: &str, real: &[String], through: &[String]) {
    if real != through {
        let show = |all: &[String]| all.join("\n    ");
        panic!(
            "{what}\n  PostgreSQL says:\n    {}\n  the proxy says:\n    {}",
            show(real),
            show(through)
        );
    }
}
