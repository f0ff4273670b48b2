//! What a row of failures means. Pure: time comes in.

use std::collections::VecDeque;
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
    alert_window: Option<Duration>,
    /// The last failures, no more than are told of, where they are counted within a window.
    recent: VecDeque<Moment>,
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
            alert_window: check.alert_window,
            recent: VecDeque::new(),
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

    /// A look succeeded, or did not; `told`: people want to be told now.
    pub fn on_result(&mut self, now: Moment, passed: bool, told: bool) -> Vec<Change> {
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
            if self.alerted.take().is_some() && self.up_alert && told {
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
        let enough = self.is_enough(now);
        let again = |at: Moment| self.alert_every.is_some_and(|every| now.since(at) >= every);
        if told && enough && self.alerted.is_none_or(again) {
            self.alerted = Some(now);
            changes.push(Change::AlertDown);
        }
        changes
    }

    /// Whether it failed often enough for people to be told.
    fn is_enough(&mut self, now: Moment) -> bool {
        let Some(window) = self.alert_window else { return self.failures >= self.alert_after };
        self.recent.push_back(now);
        let most = usize::try_from(self.alert_after).unwrap_or(usize::MAX);
        while self.recent.len() > most {
            self.recent.pop_front();
        }
        self.recent.len() == most && self.recent.front().is_some_and(|at| now.since(*at) <= window)
    }

    /// It is not looked at: what it said before no longer holds.
    pub fn rest(&mut self) -> Vec<Change> {
        self.failures = 0;
        self.passes = 0;
        self.recent.clear();
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
            alert_window: None,
            recent: VecDeque::new(),
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
            let changes = tally.on_result(at(second), look == 'p', true);
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
            tally.on_result(at(second), false, true).contains(&Change::AlertDown)
        };
        assert!(told(&mut tally, 1));
        assert!(!told(&mut tally, 10));
        assert!(told(&mut tally, 11));
        assert_eq!(tally.rest(), [Change::Passed]);
        assert!(told(&mut tally, 12), "after a rest it is news again");
    }

    #[test]
    fn failures_are_counted_within_a_window_and_told_in_their_period() {
        let mut tally = Tally { alert_window: Some(Duration::from_secs(30)), ..tally(9, 1, 3) };
        let mut look = |second, passed, told| {
            let changes = tally.on_result(at(second), passed, told);
            changes.contains(&Change::AlertDown)
        };
        // The first is forgotten by the time of the third.
        assert!(!look(1, false, true) && !look(20, false, true) && !look(32, false, true));
        assert!(!look(40, true, true));
        assert!(look(45, false, true), "what passes in between does not matter");
    }

    #[test]
    fn at_night_nobody_is_told_and_in_the_morning_they_are() {
        let mut tally = tally(1, 1, 1);
        assert_eq!(tally.on_result(at(1), false, false), [Change::Failed]);
        assert_eq!(tally.on_result(at(2), false, true), [Change::AlertDown]);
        assert_eq!(tally.on_result(at(3), true, false), [Change::Passed]);
    }
}
