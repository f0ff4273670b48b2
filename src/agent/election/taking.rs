//! What a node that stands by wants: to take the resource, or to ask for it.

use super::machine::{Machine, Seen};
use super::row::{Change, Grade, Lease, Moment, Pause};
use super::words::{Poll, Request};

impl Machine {
    /// What to send while standing by, or until when to wait; no later than `next_read`.
    pub(super) fn wish(&mut self, now: Moment, next_read: Moment) -> Poll {
        let Some(seen) = self.seen.clone() else { return Poll::Wait(next_read) };
        if now < self.retry_at {
            return Poll::Wait(self.retry_at.min(next_read));
        }
        if seen.row.paused != Pause::No || !self.may_take(now) {
            return Poll::Wait(next_read);
        }
        if let Some(reason) = self.wants_to_ask(now, &seen.row) {
            let mut row = seen.row.next(self.stamp());
            row.target.clone_from(&self.me);
            row.reason = reason.into();
            return Poll::Send(Request::Switch(Change { expected: seen.row.key(), row }));
        }
        let Some(when) = self.when_to_take(&seen) else { return Poll::Wait(next_read) };
        if now < when {
            return Poll::Wait(when.min(next_read));
        }
        let row = Lease {
            epoch: seen.row.epoch + 1,
            seq: seen.row.seq + 1,
            holder: self.me.clone(),
            incarnation: self.incarnation().to_owned(),
            grade: self.standing.grade,
            ttl: self.policy.ttl,
            paused: Pause::No,
            target: String::new(),
            reason: self.reason_to_take(&seen.row).into(),
            stamp: self.stamp(),
        };
        Poll::Send(Request::Take(Change { expected: seen.row.key(), row }))
    }

    fn may_take(&self, now: Moment) -> bool {
        let barred = self.barred_until.is_some_and(|until| now < until);
        let outranked = self.standing.grade == Grade::ReadOnly && self.standing.normal_alive;
        self.standing.candidate && !barred && !outranked
    }

    /// When the row as it was seen may be taken; `None`: not at all.
    fn when_to_take(&self, seen: &Seen) -> Option<Moment> {
        let row = &seen.row;
        let named = row.target == self.me;
        if !self.policy.auto_failover && !named {
            return None;
        }
        let turn = self.policy.rank_step * self.standing.rank;
        if !row.is_free() {
            if row.holder == self.me && self.standing.predecessor_is_gone {
                return Some(seen.at);
            }
            return Some(seen.at.after(self.policy.wait(row.ttl.max(self.policy.ttl)) + turn));
        }
        Some(match row.target.as_str() {
            "" => seen.at.after(turn),
            _ if named => seen.at,
            _ => seen.at.after(self.policy.handover + turn),
        })
    }

    fn reason_to_take(&self, row: &Lease) -> &'static str {
        match (row.is_free(), row.target == self.me) {
            (true, true) => "switchover",
            (true, false) if row.epoch == 0 => "first start",
            (true, false) => "free",
            (false, _) if row.holder == self.me => "restart",
            (false, _) => "expired",
        }
    }

    /// Why this node, which is well, asks the holder for the resource; `None`: it does not.
    fn wants_to_ask(&self, now: Moment, row: &Lease) -> Option<&'static str> {
        if row.is_free() || row.holder == self.me || !row.target.is_empty() {
            return None;
        }
        if !self.policy.auto_failover {
            return None;
        }
        if row.grade == Grade::ReadOnly && self.standing.grade == Grade::Normal {
            return Some("failback");
        }
        let delay = self.policy.failback?;
        let long = |since: Option<Moment>, time| since.is_some_and(|at| now.since(at) >= time);
        let settled = self.role_since.is_none() || long(self.role_since, self.policy.min_role_time);
        let due = long(self.outranks_since, delay) && settled && !self.is_flapping(now);
        due.then_some("failback")
    }

    /// Whether the resource moved so often of late that what is not necessary is held back.
    #[must_use]
    pub fn is_flapping(&self, now: Moment) -> bool {
        let recent = |at: &&Moment| now.since(**at) < self.policy.flap_window;
        self.failovers.iter().filter(recent).count() >= self.policy.flap_limit
    }

    /// Whether a failed check may move the resource; else why not.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn may_fail_over(&self, now: Moment) -> Result<(), &'static str> {
        if self.standing.live_others.is_empty() {
            return Err("no other node is ready to take over");
        }
        if self.is_flapping(now) {
            return Err("it moved too often of late; `lockstep agent clear` lets it move again");
        }
        if self.role_since.is_some_and(|at| now.since(at) < self.policy.min_role_time) {
            return Err("this node has been the master for too short a time");
        }
        if !self.policy.auto_failover {
            return Err("auto_failover is off");
        }
        Ok(())
    }
}
