//! What the proxy counts, in a registry of its own.
//!
//! Every handle is resolved once and then only incremented: on the path of a statement there is no
//! lookup by label. Names and labels are part of what operators build on; they change only with a
//! line in the changelog.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The states that `lockstep_backend_state` knows; exactly one of them is 1 for each backend.
pub const BACKEND_STATES: [&str; 4] = ["active", "catching_up", "suspect", "inactive"];

/// All metrics of one proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Client connections open.
    pub clients_connected: IntGauge,
    /// Clients waiting for a server connection.
    pub clients_waiting: IntGauge,
    /// Client connections accepted since the start.
    pub client_connections: IntCounter,
    /// Client connections turned away: too many, wrong password, unknown database.
    pub client_rejections: IntCounter,
    /// Write transactions committed on every active backend.
    pub commits: IntCounter,
    /// Transactions rolled back.
    pub rollbacks: IntCounter,
    /// From a client's COMMIT to its answer.
    pub commit_seconds: Histogram,
    /// Single INSERTs that shared a transaction with others.
    pub grouped: IntCounter,
    /// Reads run again on another backend because the first one failed.
    pub reads_retried: IntCounter,
    /// Changes of the leader.
    pub failovers: IntCounter,
    /// How long commits were held while a backend rejoined.
    pub gate_seconds: Histogram,
    /// The number of the view in force.
    pub view_number: IntGauge,
    /// 1 while this proxy is the one that writes.
    pub proxy_writer: IntGauge,
    /// Clients that are connected through to the proxy that writes.
    pub proxy_forwarded_sessions: IntGauge,
    /// Sessions that have gone on here after another proxy, or this one, had handed the role over.
    pub proxy_moved_sessions: IntCounter,
    /// Sessions that were ended for a lease's sake.
    pub fenced_sessions: IntCounter,
    /// Backends that take part in every write.
    pub backends_active: IntGauge,
    /// The newest journal record.
    pub journal_seq: IntGauge,
    /// Records in the journal.
    pub journal_records: IntGauge,
    /// Their bytes on each active backend's disk.
    pub journal_bytes: IntGauge,
    /// The newest record that is no longer in the journal.
    pub journal_pruned: IntGauge,
    statements: IntCounterVec,
    backends: BackendFamilies,
    known: Mutex<BTreeMap<String, Arc<BackendMetrics>>>,
}

/// Statements of one class, by what became of them.
#[derive(Debug, Clone)]
pub struct StatementMetrics {
    /// Answered.
    pub ok: IntCounter,
    /// Answered with an error of the database.
    pub failed: IntCounter,
    /// Refused by lockstep because it could not be made the same everywhere.
    pub refused: IntCounter,
}

/// The metrics of one backend.
#[derive(Debug)]
pub struct BackendMetrics {
    name: String,
    /// Reads sent here.
    pub reads: IntCounter,
    /// Shares applied a second time because the first answer differed or took too long.
    pub follower_retries: IntCounter,
    /// Statements under way.
    pub in_flight: IntGauge,
    /// How long it takes to answer.
    pub latency_seconds: Histogram,
    /// Server connections lent out.
    pub pool_used: IntGauge,
    /// Server connections waiting to be lent.
    pub pool_idle: IntGauge,
    /// Clients waiting for one.
    pub pool_waiting: IntGauge,
    /// Journal records it still lacks.
    pub catching_up_records: IntGauge,
    /// 1 when the journal no longer reaches back to it.
    pub needs_copy: IntGauge,
    states: [IntGauge; BACKEND_STATES.len()],
    evictions: IntCounterVec,
}

#[derive(Debug)]
struct BackendFamilies {
    reads: IntCounterVec,
    follower_retries: IntCounterVec,
    evictions: IntCounterVec,
    state: IntGaugeVec,
    in_flight: IntGaugeVec,
    latency: HistogramVec,
    pool_used: IntGaugeVec,
    pool_idle: IntGaugeVec,
    pool_waiting: IntGaugeVec,
    catching_up: IntGaugeVec,
    needs_copy: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Describes every metric in a registry of its own, so that two proxies in one process (the
    /// tests) do not count for each other.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            clients_connected: gauge(r, "clients_connected", "Client connections open."),
            clients_waiting: gauge(
                r,
                "clients_waiting",
                "Clients waiting for a server connection.",
            ),
            client_connections: counter(r, "client_connections", "Client connections accepted."),
            client_rejections: counter(r, "client_rejections", "Client connections turned away."),
            commits: counter(r, "commits", "Write transactions committed on all active backends."),
            rollbacks: counter(r, "rollbacks", "Transactions rolled back."),
            commit_seconds: histogram(r, "commit_seconds", "From a COMMIT to its answer."),
            grouped: counter(r, "grouped", "Single INSERTs that shared a transaction with others."),
            reads_retried: counter(r, "reads_retried", "Reads run again on another backend."),
            failovers: counter(r, "failovers", "Changes of the leader."),
            gate_seconds: histogram(r, "gate_seconds", "Commits held while a backend rejoined."),
            view_number: gauge(r, "view_number", "The number of the view in force."),
            proxy_writer: gauge(r, "proxy_writer", "1 while this proxy is the one that writes."),
            proxy_forwarded_sessions: gauge(
                r,
                "proxy_forwarded_sessions",
                "Clients that are connected through to the proxy that writes.",
            ),
            proxy_moved_sessions: counter(
                r,
                "proxy_moved_sessions",
                "Sessions that went on here after the role of the writer had been handed over.",
            ),
            fenced_sessions: counter(
                r,
                "lease_fenced_sessions",
                "Sessions of a lease's former holder that were ended before the new one was told.",
            ),
            backends_active: gauge(r, "backends_active", "Backends that take part in every write."),
            journal_seq: gauge(r, "journal_seq", "The newest journal record."),
            journal_records: gauge(r, "journal_records", "Records in the journal."),
            journal_bytes: gauge(r, "journal_bytes", "Bytes of the journal's records."),
            journal_pruned: gauge(r, "journal_pruned_seq", "The newest record that was pruned."),
            statements: register(
                r,
                IntCounterVec::new(
                    options("statements_total", "Statements, by class and by what became of them."),
                    &["class", "result"],
                ),
            ),
            backends: BackendFamilies::new(r),
            known: Mutex::default(),
            registry,
        }
    }

    /// The counters of one class of statements. Keep the result: this looks labels up.
    #[must_use]
    pub fn statements(&self, class: &str) -> StatementMetrics {
        let counter = |result| self.statements.with_label_values(&[class, result]);
        StatementMetrics {
            ok: counter("ok"),
            failed: counter("failed"),
            refused: counter("refused"),
        }
    }

    /// The metrics of one backend, the same for the same name. Keep the result: this takes a lock.
    #[must_use]
    pub fn backend(&self, name: &str) -> Arc<BackendMetrics> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found =
            known.entry(name.to_owned()).or_insert_with(|| Arc::new(self.backends.of(name)));
        Arc::clone(found)
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# not all metrics could be written: {error}\n"),
        }
    }
}

impl BackendMetrics {
    /// The backend's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shows the backend in one of [`BACKEND_STATES`] and in no other.
    /// Words that people see with a blank ("catching up") are taken too.
    pub fn set_state(&self, state: &str) {
        let state = state.replace(' ', "_");
        debug_assert!(BACKEND_STATES.contains(&state.as_str()), "{state} is not in BACKEND_STATES");
        for (name, gauge) in BACKEND_STATES.iter().zip(&self.states) {
            gauge.set(i64::from(*name == state));
        }
    }

    /// Counts that the backend left the active ones. Of the sentence for people only its kind is
    /// kept: each new value is a new time series.
    pub fn evicted(&self, cause: &str) {
        self.evictions.with_label_values(&[self.name.as_str(), kind_of(cause)]).inc();
    }
}

/// What the sentences about lost backends begin with, and the word for each kind.
const CAUSES: [(&str, &str); 9] = [
    ("no answer", "no_answer"),
    ("connection lost", "connection_lost"),
    ("the server broke the protocol", "protocol"),
    ("it cannot be connected to", "unreachable"),
    ("it refuses the login", "login_refused"),
    ("differs from the leader", "differs"),
    ("did not confirm a commit", "unconfirmed"),
    ("made inactive by an operator", "operator"),
    ("the view could not be written", "view_not_written"),
];

/// The kind of a cause.
fn kind_of(cause: &str) -> &'static str {
    CAUSES.iter().find(|(start, _)| cause.starts_with(start)).map_or("other", |(_, kind)| kind)
}

impl BackendFamilies {
    fn new(r: &Registry) -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(r, IntCounterVec::new(options(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(r, IntGaugeVec::new(options(name, help), labels))
        };
        let one = &["backend"];
        let latency = HistogramOpts::from(options(
            "backend_latency_seconds",
            "How long the backend takes to answer a statement.",
        ));
        Self {
            reads: counters("reads_total", "Reads sent to the backend.", one),
            follower_retries: counters(
                "follower_retries_total",
                "Shares applied a second time, alone, at the commit.",
                one,
            ),
            evictions: counters(
                "evictions_total",
                "Times the backend left the active ones, by cause.",
                &["backend", "cause"],
            ),
            state: gauges(
                "backend_state",
                "1 for the state the backend is in.",
                &["backend", "state"],
            ),
            in_flight: gauges("backend_in_flight", "Statements under way on the backend.", one),
            latency: register(r, HistogramVec::new(latency.buckets(seconds()), one)),
            pool_used: gauges("pool_used", "Server connections lent out.", one),
            pool_idle: gauges("pool_idle", "Server connections waiting to be lent.", one),
            pool_waiting: gauges("pool_waiting", "Clients waiting for a connection.", one),
            catching_up: gauges("catching_up_records", "Journal records the backend lacks.", one),
            needs_copy: gauges(
                "backend_needs_copy",
                "1 when the journal no longer reaches back to the backend.",
                one,
            ),
        }
    }

    fn of(&self, name: &str) -> BackendMetrics {
        let one = &[name];
        BackendMetrics {
            name: name.to_owned(),
            reads: self.reads.with_label_values(one),
            follower_retries: self.follower_retries.with_label_values(one),
            in_flight: self.in_flight.with_label_values(one),
            latency_seconds: self.latency.with_label_values(one),
            pool_used: self.pool_used.with_label_values(one),
            pool_idle: self.pool_idle.with_label_values(one),
            pool_waiting: self.pool_waiting.with_label_values(one),
            catching_up_records: self.catching_up.with_label_values(one),
            needs_copy: self.needs_copy.with_label_values(one),
            states: BACKEND_STATES.map(|state| self.state.with_label_values(&[name, state])),
            evictions: self.evictions.clone(),
        }
    }
}

/// From a tenth of a millisecond, a local read, to ten seconds, when a backend is taken for dead.
fn seconds() -> Vec<f64> {
    vec![
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        10.0,
    ]
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("lockstep")
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::with_opts(options(&format!("{name}_total"), help)))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::with_opts(options(name, help)))
}

fn histogram(registry: &Registry, name: &str, help: &str) -> Histogram {
    let options = HistogramOpts::from(options(name, help)).buckets(seconds());
    register(registry, Histogram::with_opts(options))
}

/// Every name and label is a constant of this file, so that a failure here is a mistake in it and
/// shows in the first test that makes a registry.
fn register<T: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<T>) -> T {
    let metric = made.expect("a metric of this file is described as Prometheus wants it");
    let added = registry.register(Box::new(metric.clone()));
    added.expect("each metric of this file has a name of its own");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.commits.inc();
        metrics.statements("captured_write").refused.inc();
        let one = metrics.backend("one");
        one.set_state("active");
        one.set_state("catching up");
        one.set_state("inactive");
        one.evicted("no answer: within 2s");
        one.evicted("row 4711 of somebody's table");
        metrics.backend("one").reads.inc_by(2);
        let text = metrics.render();
        for line in [
            "lockstep_commits_total 1",
            "lockstep_statements_total{class=\"captured_write\",result=\"refused\"} 1",
            "lockstep_backend_state{backend=\"one\",state=\"active\"} 0",
            "lockstep_backend_state{backend=\"one\",state=\"catching_up\"} 0",
            "lockstep_backend_state{backend=\"one\",state=\"inactive\"} 1",
            "lockstep_evictions_total{backend=\"one\",cause=\"no_answer\"} 1",
            "lockstep_evictions_total{backend=\"one\",cause=\"other\"} 1",
            "lockstep_reads_total{backend=\"one\"} 2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn two_proxies_in_one_process_count_for_themselves() {
        let (left, right) = (Metrics::new(), Metrics::new());
        left.commits.inc();
        assert_eq!((left.commits.get(), right.commits.get()), (1, 0));
    }
}
