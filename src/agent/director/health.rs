//! Whether this node is fit to be the master, and what becomes of it when it is not.

use std::sync::atomic::Ordering;

use super::super::checks::{self, Change};
use super::super::clock;
use super::super::election::{Event, Moment, NodeRow, PhaseName};
use super::super::news::News;
use super::super::stage::Order;
use super::Director;
use crate::config::agent::{Action, Mode, Node, When};

impl Director {
    /// Looks at everything that is known, before the machine is asked what to do.
    pub(super) fn consider(&mut self, now: Moment) {
        let me = self.describe();
        self.wires.me.send_if_modified(|old| {
            let changed = *old != me;
            old.clone_from(&me);
            changed
        });
        let wait = self.machine.wait();
        let mut standing = self.memory.roster.standing(now, &me, self.machine.row(), wait);
        let full = self.held_resources.load(Ordering::SeqCst) >= self.settings.max_resources;
        standing.candidate &= self.memory.settled.is_some()
            && !self.memory.ending
            && !self.memory.stage_busy
            && self.memory.left.is_none()
            && !full
            && self.refusal().is_none();
        if now.since(self.began) < wait {
            standing.rank += self.unheard_before(now, &me);
        }
        if self.resource.failback_window.as_ref().is_some_and(|w| !w.contains(clock::seconds())) {
            standing.outranks_holder = false;
        }
        standing.predecessor_is_gone = self.memory.settled == Some(true);
        self.machine.set_standing(now, standing);
        self.watch_over_standbys(now);
        self.leave_if_unfit(now, &me);
    }

    /// How many nodes of the file come before this one and have not been heard of yet. Where all
    /// start at once, they are given their turn; those that live have it by their rank.
    fn unheard_before(&self, now: Moment, me: &NodeRow) -> u32 {
        let wait = self.machine.wait();
        let before = |node: &&Node| {
            let priority = self.at_home(&node.name, node.priority);
            let sooner =
                node.mode == Mode::Normal && (priority > me.priority || me.mode != "normal");
            node.name != me.node && sooner && !self.memory.roster.lives(now, &node.name, wait)
        };
        u32::try_from(self.nodes.iter().filter(before).count()).unwrap_or(u32::MAX)
    }

    /// Why this node does not become the master, although it is healthy.
    fn refusal(&self) -> Option<String> {
        let guards = self.resource.checks.iter().filter(|check| check.when == When::PrePromote);
        let failing =
            guards.map(|check| &check.name).find(|n| self.memory.failing.contains_key(*n));
        failing.map(|name| format!("{name} fails")).or_else(|| self.memory.out.clone())
    }

    fn describe(&self) -> NodeRow {
        let mut me = self.wires.me.borrow().clone();
        me.role = self.machine.phase().word().into();
        me.seen_epoch = self.machine.floor();
        let weight: i32 = self
            .resource
            .checks
            .iter()
            .filter(|check| self.memory.failing.contains_key(&check.name))
            .filter_map(|check| check.weight)
            .sum();
        me.priority = self.at_home(&self.node, self.priority).saturating_sub(weight);
        let unfit = self.unfit();
        me.healthy = unfit.is_none() && self.memory.out.is_none();
        me.message = match unfit.or_else(|| self.refusal()) {
            Some(why) => why,
            None => self.memory.message.clone(),
        };
        me
    }

    /// A home comes before every other node.
    fn at_home(&self, node: &str, priority: i32) -> i32 {
        const HOME: i32 = 100_000;
        let home = self.resource.home.as_deref() == Some(node);
        priority.saturating_add(if home { HOME } else { 0 })
    }

    /// Why this node should not be the master; `None` where it may.
    fn unfit(&self) -> Option<String> {
        let serious = self.resource.checks.iter().filter(|check| {
            check.weight.is_none() && matches!(check.action, Action::Failover | Action::Standby)
        });
        let failing = serious.filter_map(|check| {
            let said = self.memory.failing.get(&check.name)?;
            Some(format!("check {} fails: {said}", check.name))
        });
        let broken = || self.memory.broken.as_ref().map(|broken| broken.why.clone());
        failing.into_iter().next().or_else(broken)
    }

    fn leave_if_unfit(&mut self, now: Moment, me: &NodeRow) {
        self.memory.held.clear();
        if self.machine.phase() != PhaseName::Master || self.paused() {
            return;
        }
        // What runs on all nodes goes nowhere: it stops here, as long as that lasts.
        let alone = self.resource.only.is_some();
        let others = alone || !self.machine.standing().live_others.is_empty();
        if me.maintenance && others {
            return self.machine.give_up(now, Event::Maintenance);
        }
        let reason = self.unfit().or_else(|| self.memory.out.clone());
        let Some(reason) = reason else { return };
        match self.machine.may_fail_over(now) {
            _ if alone => self.machine.give_up(now, Event::CheckFailed),
            Ok(()) => self.machine.give_up(now, Event::CheckFailed),
            Err(why) => {
                self.memory.held = format!("{reason}, but {why}");
                self.try_once_more(now);
            }
        }
    }

    /// A service that was restarted too often, and has nowhere to go, is not left lying.
    fn try_once_more(&mut self, now: Moment) {
        let retry = self.resource.start_retry;
        let due = self.memory.broken.as_mut().filter(|broken| now >= broken.again);
        if let Some(broken) = due {
            broken.again = now.after(retry);
            let service = Some(broken.service.clone());
            self.restart(Order::Restart { service, forced: true });
        }
    }

    /// A master without anybody to take over is one loss away from an outage.
    fn watch_over_standbys(&mut self, now: Moment) {
        if self.machine.phase() != PhaseName::Master || self.resource.only.is_some() {
            self.memory.had_standbys = None;
            return;
        }
        let some = !self.machine.standing().live_others.is_empty();
        // Just after the start nobody has been seen to live yet.
        let young = self.machine.role_since().is_none_or(|at| now.since(at) < self.machine.wait());
        if some || (self.memory.had_standbys.is_none() && young) {
            if some && self.memory.had_standbys == Some(false) {
                self.tell("standby_back", "another node is ready to take over again");
            }
            if some {
                self.memory.had_standbys = Some(true);
            }
        } else if self.memory.had_standbys != Some(false) {
            self.memory.had_standbys = Some(false);
            self.tell("no_standby", "no other node is ready to take over");
        }
    }

    pub(super) fn on_news(&mut self, news: News) -> Result<(), String> {
        match news {
            News::Settled { same_machine } => self.memory.settled = Some(same_machine),
            News::Impostor(machine) => {
                return Err(format!(
                    "another machine ({machine}) uses the name {}: give each node a name of its \
                     own, with --node",
                    self.node
                ));
            }
            News::Nodes { at, rows, orders } => {
                let own = rows.iter().find(|row| row.node == self.node);
                let maintenance = own.is_some_and(|row| row.maintenance);
                self.wires.me.send_modify(|me| me.maintenance = maintenance);
                self.memory.roster.observe(at, rows);
                let before = self.memory.orders.replace(orders).unwrap_or(orders);
                if orders.cleared != before.cleared {
                    self.tell("cleared", "an operator ended what was held back");
                    self.machine.clear();
                    self.memory.out = None;
                    self.memory.broken = None;
                }
                if orders.accepted != before.accepted {
                    self.machine.accept_restore();
                }
            }
        }
        Ok(())
    }

    pub(super) fn on_check(&mut self, news: checks::News) {
        let check = self.resource.checks[news.check].clone();
        let said = &news.said;
        let resource = &self.resource.name;
        match news.change {
            Change::Failed => {
                tracing::warn!(resource, check = check.name, said, "check fails");
                self.memory.failing.insert(check.name.clone(), said.clone());
                let master = self.machine.phase() == PhaseName::Master && !self.paused();
                match check.action {
                    Action::Restart if master => {
                        let service = check.service.clone();
                        self.restart(Order::Restart { service, forced: false });
                    }
                    Action::Standby => {
                        let why = format!(
                            "check {} failed: {said}; `lockstep agent clear` lets it back",
                            check.name
                        );
                        self.memory.out = Some(why);
                    }
                    _ => {}
                }
            }
            Change::Passed => {
                tracing::info!(resource, check = check.name, said, "check passes");
                self.memory.failing.remove(&check.name);
            }
            Change::AlertDown if check.action != Action::Log => {
                self.tell("check_failed", &format!("{}: {said}", check.name));
            }
            Change::AlertUp if check.action != Action::Log => {
                self.tell("check_passed", &format!("{}: {said}", check.name));
            }
            Change::AlertDown | Change::AlertUp => {}
        }
        self.machine.tick(clock::now());
    }

    fn restart(&self, order: Order) {
        if !self.stage.try_order(order) {
            tracing::warn!(resource = self.resource.name, "the stage is busy: no restart");
        }
    }
}
