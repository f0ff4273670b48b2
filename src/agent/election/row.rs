//! The row, moments, and the numbers of the game.

use std::time::Duration;

/// A moment on one machine's own clock, in nanoseconds: `CLOCK_BOOTTIME`, which goes on while the
/// machine sleeps. Moments of two machines have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// From what the clock says.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// What the clock said.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// That much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// That much earlier; not before the clock's beginning.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long it is since `earlier`; nothing where that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What the holder may do with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Only read: there was nobody else.
    ReadOnly,
    /// Everything.
    Normal,
}

impl Grade {
    /// As it stands in the row.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::Normal => "normal",
        }
    }

    /// From the row; whatever is not known may do nothing but read.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        if word == "normal" { Self::Normal } else { Self::ReadOnly }
    }
}

/// Maintenance of a whole resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The election runs.
    No,
    /// Nobody takes the row, and its holder goes on without a deadline.
    Yes,
    /// To end as soon as the holder, which may be cut off and know nothing of it, has said so.
    Ending,
}

impl Pause {
    /// As it stands in the row.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Self::No => 0,
            Self::Yes => 1,
            Self::Ending => 2,
        }
    }

    /// From the row; what is not known holds everything still.
    #[must_use]
    pub const fn from_number(number: i64) -> Self {
        match number {
            0 => Self::No,
            2 => Self::Ending,
            _ => Self::Yes,
        }
    }
}

/// The row of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Rises with each new holder, and never falls.
    pub epoch: i64,
    /// Rises with each write, and never falls.
    pub seq: i64,
    /// The holder's name; empty where the resource is free.
    pub holder: String,
    /// The run of the holder's process; two runs of one node are two holders.
    pub incarnation: String,
    /// What the holder may do.
    pub grade: Grade,
    /// How long the holder acts after it began to renew.
    pub ttl: Duration,
    /// Whether the resource is in maintenance.
    pub paused: Pause,
    /// Who is to have it next; empty where nobody was named.
    pub target: String,
    /// Why it is as it is, for people.
    pub reason: String,
    /// Chosen by whoever wrote the row, never twice: by it a writer whose answer was lost knows its
    /// own write.
    pub stamp: i64,
}

impl Lease {
    /// The row of a resource that nobody has held yet.
    #[must_use]
    pub fn unborn() -> Self {
        Self {
            epoch: 0,
            seq: 0,
            holder: String::new(),
            incarnation: String::new(),
            grade: Grade::Normal,
            ttl: Duration::ZERO,
            paused: Pause::No,
            target: String::new(),
            reason: "created".into(),
            stamp: 0,
        }
    }

    /// The name of this content.
    #[must_use]
    pub const fn key(&self) -> (i64, i64) {
        (self.epoch, self.seq)
    }

    /// Whether nobody holds it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.incarnation.is_empty()
    }

    /// The next content with another stamp, all else being the same.
    #[must_use]
    pub fn next(&self, stamp: i64) -> Self {
        Self { seq: self.seq + 1, stamp, ..self.clone() }
    }

    /// The next content, in maintenance: an operator's write, as the next two.
    #[must_use]
    pub fn paused(&self, stamp: i64) -> Self {
        Self { paused: Pause::Yes, ..self.next(stamp) }
    }

    /// The next content, with maintenance at its end. A holder goes on without a deadline in
    /// maintenance, also where it is cut off: so it must say itself that it counts again, unless
    /// it is known to be stopped.
    #[must_use]
    pub fn resumed(&self, stamp: i64, holder_is_stopped: bool) -> Self {
        let paused = if self.is_free() || holder_is_stopped { Pause::No } else { Pause::Ending };
        Self { paused, ..self.next(stamp) }
    }

    /// The next content, in which `node` is to have it next.
    #[must_use]
    pub fn targeted(&self, stamp: i64, node: &str) -> Self {
        Self { target: node.into(), reason: "switchover".into(), ..self.next(stamp) }
    }

    /// The next content, in which nobody holds it.
    #[must_use]
    pub fn freed(&self, stamp: i64, reason: &str) -> Self {
        Self {
            holder: String::new(),
            incarnation: String::new(),
            reason: reason.into(),
            ..self.next(stamp)
        }
    }
}

/// A compare-and-set of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The epoch and seq that the row must have.
    pub expected: (i64, i64),
    /// What it then becomes.
    pub row: Lease,
}

/// The numbers of the election.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long a holder acts after it began to renew.
    pub ttl: Duration,
    /// By which part the rates of two clocks may differ from true time.
    pub drift: f64,
    /// How often the holder renews.
    pub renew: Duration,
    /// How often the others look.
    pub watch: Duration,
    /// How soon a holder tries again after a renewal got no answer.
    pub retry: Duration,
    /// Time before the deadline at which a holder that could not renew begins to stop.
    pub stop_budget: Duration,
    /// What must be left of the lease for a start to begin.
    pub margin: Duration,
    /// By how much each rank waits longer than the one before it.
    pub rank_step: Duration,
    /// How long the others leave a freed row to the node that was named for it.
    pub handover: Duration,
    /// How long a node of higher priority must be well before it asks to have the resource back;
    /// none: it does not.
    pub failback: Option<Duration>,
    /// A holder keeps its role at least so long, unless it fails.
    pub min_role_time: Duration,
    /// So many failovers within `flap_window` hold back what is not necessary.
    pub flap_limit: usize,
    /// See `flap_limit`.
    pub flap_window: Duration,
    /// How long a node that could not start leaves the resource to others.
    pub start_retry: Duration,
    /// Whether the resource moves without being told.
    pub auto_failover: bool,
    /// What safety rests on; all of it, except in tests.
    pub rules: Rules,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(10),
            drift: 0.02,
            renew: Duration::from_secs(2),
            watch: Duration::from_secs(1),
            retry: Duration::from_millis(250),
            stop_budget: Duration::from_secs(3),
            margin: Duration::from_secs(4),
            rank_step: Duration::from_millis(500),
            handover: Duration::from_secs(12),
            failback: None,
            min_role_time: Duration::from_secs(30),
            flap_limit: 3,
            flap_window: Duration::from_secs(600),
            start_retry: Duration::from_secs(30),
            auto_failover: true,
            rules: Rules::ALL,
        }
    }
}

impl Policy {
    /// How long a row must be seen at rest before it may be taken from its holder: the lease, and
    /// what the holder's clock may be slower and ours faster than true time.
    #[must_use]
    pub fn wait(&self, ttl: Duration) -> Duration {
        let drift = if self.rules.drift { self.drift } else { 0.0 };
        let share = if self.rules.full_wait { 1.0 } else { 0.8 };
        ttl.mul_f64(share * (1.0 + drift) / (1.0 - drift))
    }
}

/// The rules that the proof needs. Tests take one away and must see two masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each rule is there, or taken away by a test")]
pub struct Rules {
    /// A deadline counts from before the send.
    pub from_before_the_send: bool,
    /// A row counts as seen from after the reply.
    pub seen_after_the_reply: bool,
    /// The wait allows for clocks that run apart.
    pub drift: bool,
    /// The wait is no shorter than the lease.
    pub full_wait: bool,
    /// A renewal that matched nothing extends nothing.
    pub zero_rows_extend_nothing: bool,
    /// Only a write that is known by its stamp extends the deadline later.
    pub stamps: bool,
    /// The guard has a deadline again before the write that ends maintenance is sent.
    pub armed_before_maintenance_ends: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Self = Self {
        from_before_the_send: true,
        seen_after_the_reply: true,
        drift: true,
        full_wait: true,
        zero_rows_extend_nothing: true,
        stamps: true,
        armed_before_maintenance_ends: true,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_covers_two_clocks_that_run_apart() {
        let wait = Policy::default().wait(Duration::from_secs(10));
        assert!((wait.as_secs_f64() - 10.408).abs() < 0.001, "{wait:?}");
    }

    #[test]
    fn what_the_row_says_is_read_back() {
        for pause in [Pause::No, Pause::Yes, Pause::Ending] {
            assert_eq!(Pause::from_number(pause.number().into()), pause);
        }
        assert_eq!(Pause::from_number(9), Pause::Yes, "what is not known holds still");
        assert_eq!(Grade::from_word("whatever"), Grade::ReadOnly);
        assert_eq!(Grade::from_word(Grade::Normal.word()), Grade::Normal);
    }
}
