//! The view: which backends are active, in which order, and in what state the others are.
//!
//! The first of the order is the leader. Only the keeper makes a new view; everybody else reads
//! snapshots. A view never changes in place.

/// What a backend is to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes part in every write, and is read.
    Active,
    /// A member of the view whose connection broke; being looked at, and not read.
    Suspect,
    /// Being brought up to date.
    CatchingUp {
        /// Records that it still lacks, where known.
        remaining: u64,
    },
    /// Takes no part, and is never read.
    Inactive,
}

impl State {
    /// The word that operators see.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspect => "suspect",
            Self::CatchingUp { .. } => "catching up",
            Self::Inactive => "inactive",
        }
    }
}

/// One backend as the view has it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its state.
    pub state: State,
    /// Why it is in that state.
    pub reason: String,
    /// Since when, in milliseconds of the Unix epoch.
    pub since_ms: u64,
    /// Made inactive by an operator: comes back by an operator only.
    pub held: bool,
    /// Why the journal cannot bring it back any more, once it cannot.
    pub left_behind: Option<String>,
}

impl Member {
    /// Why it is in its state, for people.
    pub fn why(&self) -> String {
        match &self.left_behind {
            Some(obstacle) if self.reason.is_empty() || self.reason == *obstacle => {
                obstacle.clone()
            }
            Some(obstacle) => format!("{obstacle}; at last: {}", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// What operators are told of a backend that lacks what is no longer in the journal.
pub fn out_of_reach(has: i64, pruned: i64) -> String {
    if has < 0 {
        return "it was never filled: it needs a full copy (README, \"When a server comes back\")"
            .to_owned();
    }
    format!(
        "it has everything up to record {has}, but the journal begins after {pruned}: it needs a \
         full copy (README, \"When a server comes back\")"
    )
}

/// Whether the cluster serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The members are being found and compared; nobody is served yet.
    Settling,
    /// Another proxy writes.
    Standby,
    /// Normal work.
    Serving,
}

/// A snapshot of the cluster.
#[derive(Clone, Debug)]
pub struct View {
    /// Goes up by one with every change of the member list.
    pub number: i64,
    /// The number of the view since which its leader leads.
    pub era: i64,
    /// The number of the view with which this stretch of serving began: what was under way before it is lost.
    pub settled: i64,
    /// The members, by the backends' places in the configuration; the first is the leader.
    pub order: Vec<usize>,
    /// All backends.
    pub backends: Vec<Member>,
    /// Whether the cluster serves.
    pub phase: Phase,
}

impl View {
    /// A view in which nothing is known yet but the member list.
    pub fn settling(number: i64, order: Vec<usize>, backends: usize, now_ms: u64) -> Self {
        let member = |i: usize| Member {
            state: if order.contains(&i) { State::Suspect } else { State::Inactive },
            reason: "the proxy has just started".into(),
            since_ms: now_ms,
            held: false,
            left_behind: None,
        };
        Self {
            number,
            era: number,
            settled: number,
            backends: (0..backends).map(member).collect(),
            order,
            phase: Phase::Settling,
        }
    }

    /// The backend where writes run first.
    pub fn leader(&self) -> Option<usize> {
        self.order.first().copied()
    }

    /// The members behind the leader.
    pub fn followers(&self) -> &[usize] {
        self.order.get(1..).unwrap_or_default()
    }

    /// Whether a backend takes part in writes.
    pub fn is_member(&self, backend: usize) -> bool {
        self.order.contains(&backend)
    }

    /// Whether a backend may be read.
    pub fn is_readable(&self, backend: usize) -> bool {
        self.is_member(backend) && self.backends[backend].state == State::Active
    }

    /// The next view, with the member list that was decided. Who leaves it is inactive for `reason`.
    ///
    /// # Panics
    /// When it has no member: the last one is never given up.
    #[must_use]
    pub fn decided(&self, number: i64, order: Vec<usize>, reason: &str, now_ms: u64) -> Self {
        assert!(!order.is_empty(), "a view without members");
        let mut next = Self { number, order, ..self.clone() };
        if next.leader() != self.leader() {
            next.era = number;
        }
        for backend in 0..next.backends.len() {
            match (self.is_member(backend), next.is_member(backend)) {
                (true, false) => next.set(backend, State::Inactive, reason, now_ms),
                (false, true) => {
                    next.set(backend, State::Active, "", now_ms);
                    next.backends[backend].held = false;
                    next.backends[backend].left_behind = None;
                }
                _ => {}
            }
        }
        next
    }

    /// Notes that the journal no longer reaches back to a backend.
    pub fn leave_behind(&mut self, backend: usize, has: i64, pruned: i64) {
        self.backends[backend].left_behind = Some(out_of_reach(has, pruned));
    }

    /// Changes the state of one backend, keeping the time when it is the same state still.
    pub fn set(&mut self, backend: usize, state: State, reason: &str, now_ms: u64) {
        let member = &mut self.backends[backend];
        if member.state.word() != state.word() {
            member.since_ms = now_ms;
        }
        member.state = state;
        reason.clone_into(&mut member.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_leader_is_followed_by_the_next_member() {
        let view = View::settling(4, vec![2, 0, 1], 3, 10);
        let next = view.decided(6, vec![0, 1], "gone", 20);
        assert_eq!((next.number, next.leader(), next.era), (6, Some(0), 6));
        assert_eq!(next.backends[2].state, State::Inactive);
        assert_eq!(next.backends[2].since_ms, 20, "inactive since it was lost");
        let back = next.decided(7, vec![0, 1, 2], "", 30);
        assert_eq!((back.number, &back.order, back.era), (7, &vec![0, 1, 2], 6));
        assert_eq!(back.backends[2].state, State::Active);
    }

    #[test]
    #[should_panic(expected = "a view without members")]
    fn the_last_member_stays() {
        let _ = View::settling(1, vec![0], 2, 0).decided(2, Vec::new(), "gone", 1);
    }
}
