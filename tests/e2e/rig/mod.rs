//! The rig: real servers, a real proxy, real networks that fail on command.

pub(crate) mod cluster;
pub(crate) mod compare;
pub(crate) mod config;
pub(crate) mod judge;
pub(crate) mod liar;
pub(crate) mod load;
mod load_strict;
mod load_wild;
pub(crate) mod process;
pub(crate) mod relay;
mod selftest;
pub(crate) mod server;
pub(crate) mod session;
mod site;
mod transcript;
mod view;
pub(crate) mod wire;

use std::fmt::Display;
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

/// One runtime for the whole test process: relays and loads must outlive the test that first needed
/// them, because clusters are shared between tests.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a tokio runtime")
    })
}

/// Runs one test: with a deadline on the whole, and with the logs of the clusters it used when it
/// fails.
pub(crate) fn run(test: impl Future<Output = ()>) {
    run_within(Duration::from_secs(90), test);
}

/// As [`run`], for a test that is known to take longer.
pub(crate) fn run_within(limit: Duration, test: impl Future<Output = ()>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime().block_on(within("the whole test", limit, test));
    }));
    if let Err(panic) = outcome {
        cluster::show_logs_of_this_test();
        resume_unwind(panic);
    }
}

/// As [`run_within`], for a test that loads the machine and counts seconds: such tests run one at a
/// time, beside the light ones, and waiting for the turn does not count. Without this, a server
/// would be taken for dead because two loads share two processors.
pub(crate) fn run_heavy(limit: Duration, test: impl Future<Output = ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    run_within(limit, test);
    drop(turn);
}

/// Says where a test is, with the seconds since the process began, so that a hang can be located.
pub(crate) fn step(what: impl Display) {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let since = BEGAN.get_or_init(Instant::now).elapsed();
    let thread = std::thread::current();
    eprintln!("[{:8.3}] {}: {what}", since.as_secs_f64(), thread.name().unwrap_or("rig"));
}

/// Waits for one thing, no longer than told.
pub(crate) async fn within<T>(what: &str, limit: Duration, thing: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, thing).await {
        Ok(value) => value,
        Err(_) => panic!("waited {limit:?} for {what}, in vain"),
    }
}

/// Asks again and again until the answer is `Ok`; the last refusal is in the message.
pub(crate) async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + limit;
    loop {
        let refusal = match tokio::time::timeout_at(end.into(), ask()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(refusal)) => refusal,
            Err(_) => "no answer to the last question".to_owned(),
        };
        assert!(Instant::now() < end, "waited {limit:?} for {what}, in vain; last: {refusal}");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

/// Seconds, for short lines.
pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The folder of this test process. It goes away with the process, however that ends.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("lockstep-e2e-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test run");
        process::hand_to_database_user(&path);
        if std::env::var_os("LOCKSTEP_E2E_KEEP").is_none() {
            sweep_at_exit(&path);
        }
        path
    })
}

/// A shell that waits for the end of its input, which comes when this process is gone, even by kill
/// -9, and then clears the folder. Statics are never dropped in Rust, so no destructor could do it.
fn sweep_at_exit(path: &Path) {
    let mut sweeper = Command::new("sh");
    // The servers die at the same moment; the second pass takes what they wrote while they died.
    sweeper
        .args(["-c", "cat >/dev/null; sleep 1; rm -rf \"$0\"; sleep 2; rm -rf \"$0\""])
        .arg(path);
    sweeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: whoever kills the tests by their group must not take the sweeper along.
    sweeper.process_group(0);
    let child = sweeper.spawn().expect("sh is there");
    std::mem::forget(child);
}

/// A port nobody listens on. Taken from below the range of outgoing connections: a server that is
/// down for a while must find its port free again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(61) % 20_000;
    for _ in 0..20_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 11_000 + u16::try_from((first + step) % 20_000).expect("a small number");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 11000 and 31000");
}

/// A number that no other caller in this process gets.
pub(crate) fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
