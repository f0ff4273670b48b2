//! What a row of failures means. Pure: time comes in.

use std::time::Duration;

use crate::agent::election::Moment;
use crate::config::agent::Check;

/// What changed by a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It failed often enough: something is to be done.
    Failed,
    /// It passed often enough.
    Passed,
    /// People are to be told that it fails.
    AlertDown,
    /// People are to be told that it is over.
    AlertUp,
}

/// Failures and successes in a row.
#[derive(Debug, Clone)]
pub struct Tally {
    fail_after: u32,
    pass_after: u32,
    alert_after: u32,
    alert_every: Option<Duration>,
    up_alert: bool,
    failures: u32,
    passes: u32,
    failing: bool,
    alerted: Option<Moment>,
}

impl Tally {
    /// Nothing has been looked at.
    #[must_use]
    pub fn new(check: &Check) -> Self {
        Self {
            fail_after: check.fail_after,
            pass_after: check.pass_after,
            alert_after: check.alert_after,
            alert_every: check.alert_every,
            up_alert: check.up_alert,
            failures: 0,
            passes: 0,
            failing: false,
            alerted: None,
        }
    }

    /// Whether it counts as failing.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.failing
    }

    /// Failures in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// A look succeeded, or did not.
    pub fn on_result(&mut self, now: Moment, passed: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        if passed {
            self.failures = 0;
            self.passes += 1;
            if self.passes < self.pass_after {
                return changes;
            }
            if std::mem::take(&mut self.failing) {
                changes.push(Change::Passed);
            }
            if self.alerted.take().is_some() && self.up_alert {
                changes.push(Change::AlertUp);
            }
            return changes;
        }
        self.passes = 0;
        self.failures = self.failures.saturating_add(1);
        if !self.failing && self.failures >= self.fail_after {
            self.failing = true;
            changes.push(Change::Failed);
        }
        let again = |at: Moment| self.alert_every.is_some_and(|every| now.since(at) >= every);
        if self.failures >= self.alert_after && self.alerted.is_none_or(again) {
            self.alerted = Some(now);
            changes.push(Change::AlertDown);
        }
        changes
    }

    /// It is not looked at: what it said before no longer holds.
    pub fn rest(&mut self) -> Vec<Change> {
        self.failures = 0;
        self.passes = 0;
        self.alerted = None;
        if std::mem::take(&mut self.failing) { vec![Change::Passed] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(fail_after: u32, pass_after: u32, alert_after: u32) -> Tally {
        Tally {
            fail_after,
            pass_after,
            alert_after,
            alert_every: Some(Duration::from_secs(10)),
            up_alert: true,
            failures: 0,
            passes: 0,
            failing: false,
            alerted: None,
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn thresholds_count_in_a_row() {
        let mut tally = tally(2, 2, 3);
        let story = "fpffffpfpp".chars().zip(1..).map(|(look, second)| {
            let changes = tally.on_result(at(second), look == 'p');
            changes.iter().map(|change| format!("{change:?}")).collect::<Vec<_>>().join("+")
        });
        let story: Vec<String> = story.collect();
        let expected =
            ["", "", "", "Failed", "AlertDown", "", "", "", "", "Passed+AlertUp"].map(String::from);
        assert_eq!(story, expected);
    }

    #[test]
    fn an_alert_is_repeated_while_it_lasts() {
        let mut tally = tally(1, 1, 1);
        let told = |tally: &mut Tally, second| {
            tally.on_result(at(second), false).contains(&Change::AlertDown)
        };
        assert!(told(&mut tally, 1));
        assert!(!told(&mut tally, 10));
        assert!(told(&mut tally, 11));
        assert_eq!(tally.rest(), [Change::Passed]);
        assert!(told(&mut tally, 12), "after a rest it is news again");
    }
}
