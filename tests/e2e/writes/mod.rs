//! Every write of every class: the same rows on every server, or a clear refusal that leaves
//! nothing behind.

mod cancels;
mod concurrency;
mod ddl;
mod deep;
mod encodings;
mod meaning;
mod outside;
mod refused;
mod returned;
mod roles;
mod sequences;
mod storms;
mod structure;
mod triggers;
mod values;

use std::sync::Arc;

use crate::rig::cluster::Cluster;
use crate::rig::session::Session;

/// The shared cluster with a client on it, after these statements.
async fn ready(setup: &str) -> (Arc<Cluster>, Session) {
    let cluster = Cluster::shared().await;
    let app = cluster.connect().await;
    if !setup.is_empty() {
        app.run(setup).await;
    }
    (cluster, app)
}

/// The statements one by one, then the comparison of all tables whose names begin so.
async fn same_after(prefix: &str, setup: &str, statements: &[&str]) {
    let (cluster, app) = ready(setup).await;
    for sql in statements {
        app.run(sql).await;
    }
    cluster.same(&format!("{prefix}%")).await;
}
