//! The page for load balancers and machines. Whoever reaches it may read it; nothing can be changed.
//!
//! The paths and their meaning are Patroni's, which load balancers are already configured for:
//! `/primary` answers 200 on the master only, `/replica` on a node that stands by, and 503 elsewhere.
//! With several resources the name of one follows: `/primary/shop`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::checks;
use super::metrics::Metrics;

/// How long a reader that is slow to take its answer may hold up the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a resource stands on this node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// The resource.
    pub resource: String,
    /// This node.
    pub node: String,
    /// Where it stands.
    pub role: &'static str,
    /// In one sentence.
    pub message: String,
    /// What the master may do.
    pub grade: &'static str,
    /// Who has the lease; empty where nobody has.
    pub holder: String,
    /// The term.
    pub epoch: i64,
    /// How long this node may still act, in milliseconds; none where it may not, or without limit.
    pub lease_left_ms: Option<u64>,
    /// Whether the resource is in maintenance.
    pub paused: bool,
    /// Who is to have it next; empty where nobody was named.
    pub target: String,
    /// Whether this node's checks pass.
    pub healthy: bool,
    /// Whether an operator has taken this node out.
    pub maintenance: bool,
    /// How many live candidates come before this node.
    pub rank: u32,
    /// The other nodes that could take over now.
    pub standbys: Vec<String>,
    /// What keeps the resource from moving; empty where nothing does.
    pub held: String,
    /// The database in which the election is held.
    pub database: String,
    /// The checks.
    pub checks: BTreeMap<String, checks::Standing>,
}

/// What the page shows.
#[derive(Debug, Clone)]
pub struct Source {
    /// Each resource, in the order of the file.
    pub views: Vec<watch::Receiver<View>>,
    /// What is counted.
    pub metrics: Metrics,
}

/// Answers until `stop` is cancelled.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    source: Source,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/liveness", get(alive))
        .route("/healthz", get(alive))
        .route("/agent-check", get(agent_check))
        .route("/agent-check/{resource}", get(agent_check));
    for (path, question) in QUESTIONS {
        let ask = move |state: State<Arc<Source>>, name: Option<Path<String>>| async move {
            answer(&state, name.as_deref(), question)
        };
        routes = routes.route(path, get(ask)).route(&format!("{path}/{{resource}}"), get(ask));
    }
    let routes = routes.with_state(Arc::new(source));
    let stopped = stop.clone();
    let server = axum::serve(listener, routes)
        .with_graceful_shutdown(async move { stopped.cancelled_owned().await });
    tokio::select! {
        served = server.into_future() => served,
        () = async { stop.cancelled().await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
    }
}

type Question = fn(&View) -> bool;

const QUESTIONS: [(&str, Question); 9] = [
    ("/primary", is_primary),
    ("/master", is_primary),
    ("/leader", |view| view.role == "master"),
    ("/read-write", is_primary),
    ("/replica", is_replica),
    ("/standby", is_replica),
    ("/read-only", |view| view.role == "master" || is_replica(view)),
    ("/health", |view| view.healthy),
    ("/readiness", |view| view.role == "master" || is_replica(view)),
];

fn is_primary(view: &View) -> bool {
    view.role == "master" && view.grade == "normal"
}

fn is_replica(view: &View) -> bool {
    view.role == "standby" && view.healthy && !view.maintenance
}

fn find(source: &Source, name: Option<&String>) -> Result<View, String> {
    let mut views = source.views.iter().map(|view| view.borrow().clone());
    let found = match name {
        // What runs on all nodes has the node's name behind its own.
        Some(name) => views.find(|view| {
            let base = view.resource.strip_suffix(&view.node).and_then(|r| r.strip_suffix('@'));
            view.resource == *name || base == Some(name)
        }),
        None => views.next(),
    };
    found.ok_or_else(|| "there is no such resource".to_owned())
}

fn answer(source: &Source, name: Option<&String>, question: Question) -> Response {
    match find(source, name) {
        Ok(view) => {
            let ok = question(&view);
            json(if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &view)
        }
        Err(why) => json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": why })),
    }
}

async fn metrics(State(source): State<Arc<Source>>) -> Response {
    let kind = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
    (kind, source.metrics.render()).into_response()
}

async fn status(State(source): State<Arc<Source>>) -> Response {
    let views: Vec<View> = source.views.iter().map(|view| view.borrow().clone()).collect();
    json(StatusCode::OK, &views)
}

async fn alive() -> Response {
    json(StatusCode::OK, &serde_json::json!({ "status": "alive" }))
}

/// What HAProxy's `agent-check` reads.
async fn agent_check(State(source): State<Arc<Source>>, name: Option<Path<String>>) -> Response {
    match find(&source, name.as_deref()) {
        Ok(view) if is_primary(&view) => "up ready\n".into_response(),
        Ok(view) if view.maintenance || view.paused => "maint\n".into_response(),
        Ok(view) => format!("down #{}\n", view.role).into_response(),
        Err(why) => (StatusCode::NOT_FOUND, why).into_response(),
    }
}

fn json(code: StatusCode, value: &impl Serialize) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    match serde_json::to_string(value) {
        Ok(text) => (code, kind, format!("{text}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
