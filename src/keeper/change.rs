//! Changes of the member list and of the role, as the keeper carries them out.

use futures_util::future::join_all;

use super::{Keeper, Verdict, now_ms};
use crate::cluster::{Failure, Phase, Roster, State, View};
use crate::exchange::Link;

impl<L: Link> Keeper<L> {
    /// Makes a view without the lost backends, and without anybody else who does not answer.
    pub(super) async fn evict(&mut self, lost: Vec<usize>, cause: &str) -> Verdict {
        let mut lost = lost;
        let view = self.handle.view();
        let others: Vec<usize> = view.order.iter().copied().filter(|b| !lost.contains(b)).collect();
        let answers = join_all(others.iter().map(|b| self.look_closely(*b))).await;
        for (backend, answer) in others.iter().zip(answers) {
            if let Err(why) = answer {
                tracing::warn!(backend = %self.backends[*backend].name, %why, "is lost too");
                lost.push(*backend);
            }
        }
        if lost.len() == view.order.len() {
            self.settle_again(cause);
            return Verdict::Settling;
        }
        let rest: Vec<usize> = others.into_iter().filter(|b| !lost.contains(b)).collect();
        match self.change(self.names(&rest)).await {
            Ok(roster) => {
                let next = view.decided(roster.number, self.places(&roster), cause, now_ms());
                self.install_smaller(&view, next, cause).await;
                Verdict::Evicted
            }
            Err(failure) => {
                self.lose_role(&failure, cause);
                Verdict::Settling
            }
        }
    }

    pub(super) fn names(&self, order: &[usize]) -> Vec<String> {
        order.iter().map(|b| self.backends[*b].name.clone()).collect()
    }

    /// The places of a member list's backends in the configuration.
    pub(super) fn places(&self, roster: &Roster) -> Vec<usize> {
        let place = |name: &String| self.backends.iter().position(|b| b.name == *name);
        roster.members.iter().filter_map(place).collect()
    }

    /// A change did not come about.
    pub(super) fn lose_role(&mut self, failure: &Failure, cause: &str) {
        self.roster = None;
        tracing::warn!(%failure, cause, "the member list could not be changed");
        match failure {
            Failure::Outvoted(_) => self.stand_by(&failure.to_string()),
            _ => self.settle_again(&failure.to_string()),
        }
    }

    /// Another proxy writes, or shall: nobody is served here any more.
    pub(super) fn stand_by(&mut self, cause: &str) {
        self.roster = None;
        let mut view = (*self.handle.view()).clone();
        if view.phase == Phase::Standby {
            return;
        }
        let from = if view.phase == Phase::Serving { "writer" } else { "settling" };
        tracing::warn!(from, to = "standby", cause, ballot = %self.ballot, "role");
        view.phase = Phase::Standby;
        let members = view.order.clone();
        self.publish(view);
        self.handle.end_reign();
        for backend in members {
            self.backends[backend].give_up();
        }
    }

    pub(super) async fn install_smaller(&self, old: &View, next: View, cause: &str) {
        for backend in old.order.iter().filter(|b| !next.is_member(**b)) {
            let name = &self.backends[*backend].name;
            let from = old.backends[*backend].state.word();
            tracing::warn!(backend = %name, from, to = "inactive", cause, view = next.number, "state");
            self.backends[*backend].metrics.evicted(cause);
        }
        if old.leader() != next.leader() {
            self.metrics.failovers.inc();
            let leader = next.leader().map(|b| self.backends[b].name.clone());
            tracing::warn!(leader, view = next.number, "a new leader");
            if let Some(leader) = next.leader() {
                self.move_sequences(leader).await;
            }
        }
        self.ledger.reservations.forget_bounds();
        let lost: Vec<usize> = old.order.iter().copied().filter(|b| !next.is_member(*b)).collect();
        self.publish(next);
        for backend in lost {
            self.backends[backend].give_up();
        }
    }

    /// Before it hands out a number, the next leader is moved past those that clients were told already:
    /// whoever has one may store it yet, or use it outside the database.
    async fn move_sequences(&self, leader: usize) {
        let told = self.ledger.reservations.past_everybody();
        if told.is_empty() {
            return;
        }
        let sequences = told.len();
        if let Err(why) = self.controls[leader].advance_sequences(told).await {
            let leader = &self.backends[leader].name;
            tracing::warn!(%leader, sequences, %why, "numbers of sequences that nothing was stored with may come again");
        }
    }

    /// No member answers: nobody is made inactive, everybody waits.
    pub(super) fn settle_again(&mut self, cause: &str) {
        self.roster = None;
        tracing::error!(cause, "no active backend answers; clients wait");
        let mut view = (*self.handle.view()).clone();
        view.phase = Phase::Settling;
        for backend in view.order.clone() {
            view.set(backend, State::Suspect, cause, now_ms());
        }
        let members = view.order.clone();
        self.publish(view);
        for backend in members {
            self.backends[backend].give_up();
        }
    }

    /// The members are the same: this proxy serves.
    pub(super) async fn on_settled(&mut self, order: Vec<usize>) {
        let Some(mut roster) = self.roster.clone() else {
            tracing::warn!("the role was lost while the members were settled");
            return;
        };
        if self.places(&roster) != order {
            // One whose journal contradicts the others' stays out.
            match self.change(self.names(&order)).await {
                Ok(decided) => roster = decided,
                Err(failure) => return self.lose_role(&failure, "members were left out"),
            }
        }
        let order = self.places(&roster);
        let mut view = (*self.handle.view()).clone();
        (view.number, view.order) = (roster.number, order.clone());
        (view.era, view.settled) = (roster.number, roster.number);
        view.phase = Phase::Serving;
        for backend in 0..self.backends.len() {
            if order.contains(&backend) {
                view.set(backend, State::Active, "", now_ms());
            } else if matches!(view.backends[backend].state, State::Suspect | State::Active) {
                view.set(backend, State::Inactive, "was not there when the others were", now_ms());
            }
        }
        for &backend in &order {
            // What was lost on a connection of before concerns nobody who begins now: the members are the same.
            self.backends[backend].refresh();
        }
        let members: Vec<String> = self.names(&view.order);
        tracing::info!(view = view.number, ?members, ballot = %self.ballot, "serving");
        self.ledger.reservations.forget_bounds();
        self.handle.begin_reign(self.ballot);
        self.handle.note_obstacle("");
        self.publish(view);
    }

    pub(super) async fn on_join(&mut self, backend: usize) -> Result<(), String> {
        let view = self.handle.view();
        if view.phase != Phase::Serving {
            return Err("the cluster is settling".into());
        }
        let mut members = self.names(&view.order);
        members.push(self.backends[backend].name.clone());
        self.backends[backend].refresh();
        match self.change(members).await {
            Ok(roster) => {
                let order = self.places(&roster);
                let joined = order.contains(&backend);
                let why = "did not take the view with another one";
                let next = view.decided(roster.number, order, why, now_ms());
                let name = &self.backends[backend].name;
                if joined {
                    tracing::info!(backend = %name, from = "catching up", to = "active", view = next.number, "state");
                }
                self.install_smaller(&view, next, why).await;
                if joined { Ok(()) } else { Err("it did not take the view".into()) }
            }
            Err(failure) => {
                self.lose_role(&failure, "a backend was to join");
                Err(failure.to_string())
            }
        }
    }

    pub(super) async fn on_deactivate(&mut self, backend: usize) -> Result<(), String> {
        let mut view = (*self.handle.view()).clone();
        if view.phase != Phase::Serving {
            return Err("the cluster is settling; try again".into());
        }
        if !view.is_member(backend) {
            view.set(backend, State::Inactive, "made inactive by an operator", now_ms());
            view.backends[backend].held = true;
            self.remember_held(&view).await;
            self.publish(view);
            return Ok(());
        }
        if view.order.len() == 1 {
            return Err("it is the last active backend; activate another one first".into());
        }
        view.backends[backend].held = true;
        self.remember_held(&view).await;
        self.handle.publish(view);
        match self.evict(vec![backend], "made inactive by an operator").await {
            Verdict::Evicted => Ok(()),
            _ => Err("no other backend answers".into()),
        }
    }

    pub(super) async fn on_release(&mut self, backend: usize) {
        let mut view = (*self.handle.view()).clone();
        view.backends[backend].held = false;
        self.remember_held(&view).await;
        self.publish(view);
    }

    /// Notes what operators have taken out.
    pub(super) async fn remember_held(&mut self, view: &View) {
        let held = view.backends.iter().enumerate().filter(|(_, m)| m.held);
        self.state.held = held.map(|(b, _)| self.backends[b].name.clone()).collect();
        self.save().await;
    }
}
