//! The HTTP page for machines: `/metrics`, `/healthz`, `/readyz` and `/status`.
//!
//! It only reads. Whoever reaches the address may read it, which is why it listens on loopback
//! unless told otherwise, and why nothing here shows a password, a statement or a row.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How long a reader that is slow to take its answer may hold up the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the page asks of the rest of the proxy.
pub struct StatusSource {
    /// Whether clients can be served; if not, why.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The state of the cluster for `/status`.
    pub snapshot: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
}

impl fmt::Debug for StatusSource {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("StatusSource").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Page {
    metrics: Arc<Metrics>,
    source: Arc<StatusSource>,
}

/// Answers until `shutdown` is cancelled.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    source: Arc<StatusSource>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health_page))
        .route("/readyz", get(ready_page))
        .route("/status", get(status_page))
        .with_state(Page { metrics, source });
    let stop = shutdown.clone();
    let server = axum::serve(listener, routes)
        .with_graceful_shutdown(async move { stop.cancelled_owned().await });
    tokio::select! {
        served = server.into_future() => served,
        () = async { shutdown.cancelled().await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
    }
}

async fn metrics_page(State(page): State<Page>) -> Response {
    let kind = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
    (kind, page.metrics.render()).into_response()
}

/// The process answers, so it lives. Anything more would make an orchestrator kill a proxy whose
/// databases are away, which helps nobody.
async fn health_page() -> Response {
    json(StatusCode::OK, &serde_json::json!({ "status": "alive" }))
}

async fn ready_page(State(page): State<Page>) -> Response {
    match (page.source.ready)() {
        Ok(()) => json(StatusCode::OK, &serde_json::json!({ "status": "ready" })),
        Err(reason) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            &serde_json::json!({ "status": "not ready", "reason": reason }),
        ),
    }
}

async fn status_page(State(page): State<Page>) -> Response {
    json(StatusCode::OK, &(page.source.snapshot)())
}

fn json(code: StatusCode, value: &serde_json::Value) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (code, kind, format!("{value}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answers");
        answer
    }

    #[tokio::test]
    async fn each_page_answers_what_it_is_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        let ready = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ready);
        let source = StatusSource {
            ready: Box::new(move || {
                let ready = seen.load(Ordering::SeqCst);
                if ready { Ok(()) } else { Err("no backend is active".into()) }
            }),
            snapshot: Box::new(|| serde_json::json!({ "view": 7 })),
        };
        let shutdown = CancellationToken::new();
        let metrics = Arc::new(Metrics::new());
        let page = serve(listener, metrics, Arc::new(source), shutdown.clone());
        let questions = async {
            assert!(fetch(address, "/metrics").await.contains("lockstep_commits_total 0"));
            assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
            let answer = fetch(address, "/readyz").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("no backend is active"), "{answer}");
            ready.store(true, Ordering::SeqCst);
            assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
            assert!(fetch(address, "/status").await.contains("{\"view\":7}"));
            assert!(fetch(address, "/elsewhere").await.starts_with("HTTP/1.1 404"));
            shutdown.cancel();
        };
        let (served, ()) = tokio::join!(page, questions);
        served.expect("ends in peace");
    }
}
