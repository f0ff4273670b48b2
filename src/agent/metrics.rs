//! What an agent counts, in a registry of its own.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::election::{Event, PhaseName};

/// All metrics of one agent.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    role: IntGaugeVec,
    epoch: IntGaugeVec,
    lease_left: GaugeVec,
    renew: HistogramVec,
    late: IntCounterVec,
    takeovers: IntCounterVec,
    demotions: IntCounterVec,
    standbys: IntGaugeVec,
    checks: IntGaugeVec,
    vip: IntGaugeVec,
}

/// The handles of one resource.
#[derive(Debug, Clone)]
pub struct ResourceMetrics {
    resource: String,
    all: Metrics,
    /// The epoch of the row.
    pub epoch: IntGauge,
    /// How long this node may still act.
    pub lease_left: Gauge,
    /// From sending a renewal to its answer.
    pub renew: Histogram,
    /// Renewals that got no answer.
    pub late: IntCounter,
    /// How often this node became the master.
    pub takeovers: IntCounter,
    /// How many other nodes could take over now.
    pub standbys: IntGauge,
    /// Whether this node has the addresses.
    pub vip: IntGauge,
}

const PHASES: [PhaseName; 8] = [
    PhaseName::Unknown,
    PhaseName::Standby,
    PhaseName::Claiming,
    PhaseName::Starting,
    PhaseName::Master,
    PhaseName::Stopping,
    PhaseName::Releasing,
    PhaseName::Regressed,
];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at nothing.
    ///
    /// # Panics
    /// If two metrics have one name, which a test would show.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let made = IntGaugeVec::new(Opts::new(name, help), labels).expect("a name");
            registry.register(Box::new(made.clone())).expect("a new name");
            made
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels).expect("a name");
            registry.register(Box::new(made.clone())).expect("a new name");
            made
        };
        let lease_left = GaugeVec::new(
            Opts::new("lockstep_agent_lease_left_seconds", "How long this node may still act."),
            &["resource"],
        )
        .expect("a name");
        registry.register(Box::new(lease_left.clone())).expect("a new name");
        let renew = HistogramVec::new(
            HistogramOpts::new("lockstep_agent_renew_seconds", "From a renewal to its answer."),
            &["resource"],
        )
        .expect("a name");
        registry.register(Box::new(renew.clone())).expect("a new name");
        let of = ["resource"];
        Self {
            role: gauge(
                "lockstep_agent_role",
                "1 for where this node stands.",
                &["resource", "role"],
            ),
            epoch: gauge("lockstep_agent_epoch", "The epoch of the lease.", &of),
            lease_left,
            renew,
            late: counter("lockstep_agent_renew_late_total", "Renewals without an answer.", &of),
            takeovers: counter(
                "lockstep_agent_takeovers_total",
                "How often this node became the master.",
                &of,
            ),
            demotions: counter(
                "lockstep_agent_demotions_total",
                "How often this node began to stop, and why.",
                &["resource", "cause"],
            ),
            standbys: gauge(
                "lockstep_agent_standbys",
                "Other nodes that could take over now.",
                &of,
            ),
            checks: gauge(
                "lockstep_agent_check_up",
                "1 while a check passes.",
                &["resource", "check"],
            ),
            vip: gauge("lockstep_agent_vip_held", "1 while this node has the addresses.", &of),
            registry,
        }
    }

    /// The handles of one resource, resolved once.
    #[must_use]
    pub fn of(&self, resource: &str) -> ResourceMetrics {
        let of = &[resource];
        ResourceMetrics {
            resource: resource.into(),
            epoch: self.epoch.with_label_values(of),
            lease_left: self.lease_left.with_label_values(of),
            renew: self.renew.with_label_values(of),
            late: self.late.with_label_values(of),
            takeovers: self.takeovers.with_label_values(of),
            standbys: self.standbys.with_label_values(of),
            vip: self.vip.with_label_values(of),
            all: self.clone(),
        }
    }

    /// In Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

impl ResourceMetrics {
    /// Where this node stands.
    pub fn set_role(&self, phase: PhaseName) {
        for each in PHASES {
            let gauge = self.all.role.with_label_values(&[&self.resource, each.word()]);
            gauge.set(i64::from(each == phase));
        }
    }

    /// This node begins to stop.
    pub fn demoted(&self, cause: Event) {
        self.all.demotions.with_label_values(&[self.resource.as_str(), cause.word()]).inc();
    }

    /// How a check stands.
    pub fn check(&self, name: &str, up: bool) {
        self.all.checks.with_label_values(&[self.resource.as_str(), name]).set(i64::from(up));
    }
}
