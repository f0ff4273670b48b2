//! Statements of several clients that travel together: everybody gets their own answer, and their
//! own error.

mod inserts;

use futures_util::future::join_all;

use crate::rig::cluster::Cluster;
use crate::rig::session::Session;

const CLIENTS: usize = 16;

async fn many(cluster: &Cluster) -> Vec<Session> {
    join_all((0..CLIENTS).map(|_| cluster.connect())).await
}

/// One of the proxy's counters.
async fn counter(cluster: &Cluster, name: &str) -> u64 {
    let (_, text) = cluster.http("/metrics").await.expect("the metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("lockstep_{name}_total ")));
    line.expect("the counter").trim().parse().expect("a number")
}
