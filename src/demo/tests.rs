use std::sync::{Arc, Mutex};

use super::*;
use crate::metrics::Metrics;
use crate::status::{self, StatusSource};

/// The demo around a proxy that only says it is ready: real servers, real clean-up.
#[tokio::test]
async fn servers_are_made_and_leave_nothing_behind() {
    for make in [Make::Postgres, Make::MariaDb] {
        made_and_gone(make).await;
    }
}

async fn made_and_gone(make: Make) {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("permissions");
    let options = Options {
        make,
        backends: 2,
        port: None,
        dir: Some(folder.path().join("demo")),
        bin: None,
        json: true,
    };
    let stop = CancellationToken::new();
    let seen = Arc::new(Mutex::new(None));
    let (shown, ready) = (Arc::clone(&seen), stop.clone());
    let show = move |report: &Report| {
        *shown.lock().expect("lock") = Some(report.clone());
        ready.cancel();
    };
    let prepare = |config: Config| async move {
        assert_eq!(config.backends.len(), 2);
        Ok::<_, String>(())
    };
    let ended = run_until(options, prepare, only_ready, show, stop).await;
    ended.expect("ends in peace");
    let report = seen.lock().expect("lock").take().expect("it was ready");
    let line: serde_json::Value = serde_json::from_str(&report.line()).expect("JSON");
    assert_eq!(line["backends"][1]["name"], "two");
    assert!(line["console"].as_str().expect("text").ends_with("/lockstep"));
    for backend in &report.backends {
        let running = std::path::Path::new(&format!("/proc/{}", backend.pid)).exists();
        assert!(!running, "server {} still runs", backend.name);
        assert!(std::path::Path::new(&backend.data_dir).exists(), "a named folder is kept");
    }
}

async fn only_ready(config: Config, end: CancellationToken) -> std::result::Result<(), String> {
    let http = config.http.expect("the demo has a status page");
    let listener = tokio::net::TcpListener::bind(http).await.map_err(|error| error.to_string())?;
    let source =
        StatusSource { ready: Box::new(|| Ok(())), snapshot: Box::new(|| serde_json::Value::Null) };
    status::serve(listener, Arc::new(Metrics::new()), Arc::new(source), end)
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_folder_in_use_is_not_touched() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("precious"), "x").expect("file");
    let error = Site::open(Make::Postgres, Some(folder.path()), None).await.expect_err("not empty");
    assert!(error.to_string().contains("is not empty"), "{error}");
}
