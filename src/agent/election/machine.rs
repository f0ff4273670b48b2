//! The machine of one node and one resource. Whoever drives it sends one request at a time, tells
//! it the answer or that none came, and does what it asks for.

use super::phase::{Held, Phase};
use super::roster::Standing;
use super::row::{Change, Lease, Moment, Pause, Policy};
use super::table::{self, Event, PhaseName};
use super::words::{Act, Answer, Poll, Request};

/// A write whose answer did not come.
#[derive(Debug, Clone)]
struct Unanswered {
    stamp: i64,
    sent: Moment,
}

/// How many of them are remembered; to forget one only loses an extension.
const MOST_UNANSWERED: usize = 16;

/// What was seen of the row, and when.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) row: Lease,
    pub(super) at: Moment,
}

/// The election of one resource, as one node plays it.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) policy: Policy,
    pub(super) me: String,
    incarnation: String,
    pub(super) phase: Phase,
    pub(super) seen: Option<Seen>,
    pub(super) standing: Standing,
    pub(super) outranks_since: Option<Moment>,
    /// When the resource went from one holder to another without being told to.
    pub(super) failovers: Vec<Moment>,
    /// When the present holder took it, as far as is known.
    pub(super) role_since: Option<Moment>,
    pub(super) barred_until: Option<Moment>,
    /// No row below this epoch is believed.
    pub(super) floor: i64,
    below_since: Option<Moment>,
    pending: Option<(Request, Moment)>,
    unanswered: Vec<Unanswered>,
    must_read: bool,
    read_at: Moment,
    renew_at: Moment,
    /// Not before is anything else asked for that has got no answer.
    pub(super) retry_at: Moment,
    stamps: i64,
    /// What ran under this incarnation before still runs, in maintenance: to be gone on with.
    pub(super) adopts: bool,
    acts: Vec<Act>,
}

impl Machine {
    /// A node that has just started. `floor` is the highest epoch that it ever saw; `seed` must
    /// differ between any two runs of any node.
    #[must_use]
    pub fn new(policy: Policy, me: &str, incarnation: &str, floor: i64, seed: u32) -> Self {
        Self {
            policy,
            me: me.into(),
            incarnation: incarnation.into(),
            phase: Phase::Unknown,
            seen: None,
            standing: Standing::default(),
            outranks_since: None,
            failovers: Vec::new(),
            role_since: None,
            barred_until: None,
            floor,
            below_since: None,
            pending: None,
            unanswered: Vec::new(),
            must_read: false,
            read_at: Moment::default(),
            renew_at: Moment::default(),
            retry_at: Moment::default(),
            stamps: i64::from(seed) << 31,
            adopts: false,
            acts: Vec::new(),
        }
    }

    /// Where the node stands.
    #[must_use]
    pub const fn phase(&self) -> PhaseName {
        self.phase.name()
    }

    /// The row as it was last known.
    #[must_use]
    pub fn row(&self) -> Option<&Lease> {
        self.held().map(|held| &held.row).or_else(|| self.seen.as_ref().map(|seen| &seen.row))
    }

    /// How this node stands among the others, as it was last told.
    #[must_use]
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// When the row was last seen to change.
    #[must_use]
    pub fn seen_at(&self) -> Option<Moment> {
        self.seen.as_ref().map(|seen| seen.at)
    }

    /// Since when the present holder has the resource, as far as is known.
    #[must_use]
    pub const fn role_since(&self) -> Option<Moment> {
        self.role_since
    }

    /// How long a row, or a node, must be silent before it counts as dead.
    #[must_use]
    pub fn wait(&self) -> std::time::Duration {
        self.policy.wait(self.policy.ttl)
    }

    /// The highest epoch that was seen, ever.
    #[must_use]
    pub const fn floor(&self) -> i64 {
        self.floor
    }

    /// Until when this node may act: `None` if it may not, or if nothing limits it (maintenance).
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let armed = |pause| match pause {
            Pause::No => true,
            Pause::Yes => false,
            Pause::Ending => self.policy.rules.armed_before_maintenance_ends,
        };
        self.held().filter(|held| armed(held.row.paused)).and_then(|held| held.deadline)
    }

    /// What is to be done, in order; each is given once.
    pub fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// What is known of the other nodes and of this one's health.
    pub fn set_standing(&mut self, now: Moment, standing: Standing) {
        self.outranks_since =
            if standing.outranks_holder { self.outranks_since.or(Some(now)) } else { None };
        self.standing = standing;
    }

    /// Enforces the deadline. To be called whenever [`Machine::alarm`] has come, also while an
    /// answer is awaited.
    pub fn tick(&mut self, now: Moment) {
        if matches!(self.phase, Phase::Starting(_) | Phase::Master(_))
            && self.deadline().is_some_and(|end| now >= end.before(self.policy.stop_budget))
        {
            self.stop(Event::TimeUp);
        }
    }

    /// When [`Machine::tick`] has something to do.
    #[must_use]
    pub fn alarm(&self) -> Option<Moment> {
        match self.phase {
            Phase::Starting(_) | Phase::Master(_) => {
                self.deadline().map(|end| end.before(self.policy.stop_budget))
            }
            _ => None,
        }
    }

    /// What to send now, or until when there is nothing to send.
    ///
    /// # Panics
    /// If an answer is still awaited.
    pub fn poll(&mut self, now: Moment) -> Poll {
        assert!(self.pending.is_none(), "one request at a time");
        self.tick(now);
        match self.choose(now) {
            Poll::Wait(until) => Poll::Wait(self.alarm().map_or(until, |alarm| until.min(alarm))),
            Poll::Send(request) => {
                match request {
                    Request::Read => self.read_at = now,
                    Request::Renew(_) => self.renew_at = now.after(self.policy.renew),
                    _ => {}
                }
                self.pending = Some((request.clone(), now));
                Poll::Send(request)
            }
        }
    }

    fn choose(&mut self, now: Moment) -> Poll {
        let next_read = self.read_at.after(self.policy.watch);
        if self.must_read {
            self.must_read = false;
            return Poll::Send(Request::Read);
        }
        match &self.phase {
            Phase::Standby => match self.wish(now, next_read) {
                Poll::Wait(_) if now >= next_read => Poll::Send(Request::Read),
                wish => wish,
            },
            Phase::Unknown | Phase::Regressed | Phase::Stopping(None, _) if now >= next_read => {
                Poll::Send(Request::Read)
            }
            Phase::Unknown | Phase::Regressed | Phase::Stopping(None, _) => Poll::Wait(next_read),
            Phase::Releasing(..) if now < self.retry_at => Poll::Wait(self.retry_at),
            Phase::Releasing(held, cause) => {
                let reason = if *cause == Event::Switchover { "switchover" } else { cause.word() };
                let expected = held.row.key();
                let mut row = held.row.freed(self.stamps + 1, reason);
                if *cause != Event::Switchover {
                    row.target = String::new();
                }
                self.stamps += 1;
                Poll::Send(Request::Release(Change { expected, row }))
            }
            Phase::Master(held) if self.must_hand_over(&held.row) => {
                self.stop(Event::Switchover);
                self.choose(now)
            }
            Phase::Claiming(held)
            | Phase::Starting(held)
            | Phase::Master(held)
            | Phase::Stopping(Some(held), _) => {
                if now < self.renew_at {
                    return Poll::Wait(self.renew_at);
                }
                let change = self.renewal(held);
                self.stamps += 1;
                Poll::Send(Request::Renew(change))
            }
        }
    }

    fn must_hand_over(&self, row: &Lease) -> bool {
        row.paused == Pause::No && self.standing.live_others.contains(&row.target)
    }

    /// The row, renewed. What others asked for is answered with it: the end of maintenance, and a
    /// target that is us or nobody alive.
    fn renewal(&self, held: &Held) -> Change {
        let mut row = held.row.next(self.stamps + 1);
        if row.paused == Pause::Ending && !self.is_adopting() {
            row.paused = Pause::No;
        }
        let answered = matches!(self.phase, Phase::Master(_))
            && row.paused == Pause::No
            && !self.standing.live_others.contains(&row.target);
        if answered {
            row.target = String::new();
        }
        Change { expected: held.row.key(), row }
    }

    /// The answer to the request that was sent.
    ///
    /// # Panics
    /// If none was sent, or if the answer is to another kind of request.
    pub fn on_answer(&mut self, now: Moment, answer: Answer) {
        let (request, sent) = self.pending.take().expect("an answer follows a request");
        match (request, answer) {
            (Request::Read, Answer::Row(Some(row))) => self.on_row(now, sent, row),
            (Request::Read, Answer::Row(None)) => self.on_no_row(now),
            (Request::Read, Answer::Lost) => self.again(now),
            (request, Answer::Matched(matched)) => {
                let extend = !self.policy.rules.zero_rows_extend_nothing
                    && matches!(request, Request::Renew(_));
                match request.change() {
                    Some(change) if matched || extend => {
                        let change = change.clone();
                        self.on_written(now, sent, &request, change.row);
                    }
                    _ => self.must_read = true,
                }
            }
            (request, Answer::Lost) => {
                if let Some(change) = request.change() {
                    let lost = Unanswered { stamp: change.row.stamp, sent };
                    self.unanswered.push(lost);
                    if self.unanswered.len() > MOST_UNANSWERED {
                        self.unanswered.remove(0);
                    }
                }
                self.again(now);
                self.must_read = !matches!(request, Request::Renew(_));
            }
            (request, answer) => panic!("{answer:?} does not answer {request:?}"),
        }
        self.tick(now);
    }

    /// A holder that got no answer does not wait for its usual turn.
    fn again(&mut self, now: Moment) {
        self.renew_at = now.after(self.policy.retry);
        self.retry_at = self.renew_at;
    }

    fn on_no_row(&mut self, now: Moment) {
        if self.floor == 0 {
            self.acts.push(Act::Create);
            self.must_read = true;
        } else {
            self.on_older(now);
        }
    }

    fn on_row(&mut self, now: Moment, sent: Moment, row: Lease) {
        if row.epoch < self.floor {
            return self.on_older(now);
        }
        self.below_since = None;
        self.note(now, sent, &row);
        if self.is_holding() {
            return self.on_row_while_holding(now, sent, row);
        }
        if matches!(self.phase, Phase::Unknown) {
            self.go(Event::Seen, Phase::Standby);
        }
        if matches!(self.phase, Phase::Standby) && row.incarnation == self.incarnation {
            self.renew_at = now;
            self.go(Event::Adopted, Phase::Claiming(Held { row, deadline: None }));
        }
    }

    /// Remembers what was seen, and since when it is so.
    fn note(&mut self, now: Moment, sent: Moment, row: &Lease) {
        let known = self.seen.as_ref();
        if known.is_some_and(|seen| row.key() <= seen.row.key()) {
            return;
        }
        if known.is_some_and(|seen| row.epoch > seen.row.epoch) {
            self.role_since = Some(now);
            if row.reason != "switchover" && row.reason != "failback" {
                self.failovers.push(now);
            }
        }
        let at = if self.policy.rules.seen_after_the_reply { now } else { sent };
        self.seen = Some(Seen { row: row.clone(), at });
        self.floor = self.floor.max(row.epoch);
    }

    fn on_row_while_holding(&mut self, now: Moment, read_sent: Moment, row: Lease) {
        let unanswered = self.unanswered.iter().find(|u| u.stamp == row.stamp).map(|u| u.sent);
        let (ttl, rules, mine) = (self.policy.ttl, self.policy.rules, self.incarnation.clone());
        let Some(held) = self.phase.held_mut() else { return };
        if row.key() <= held.row.key() {
            // What was read is no newer than what is known: an old copy, or nothing new.
            return;
        }
        if row.incarnation != mine {
            return self.superseded();
        }
        // Others may have written: then it is still ours, but nothing says since when.
        let sent = unanswered.or_else(|| (!rules.stamps).then_some(now));
        if let Some(sent) = sent {
            held.deadline = held.deadline.max(Some(sent.after(ttl)));
        }
        if row.paused == Pause::Ending {
            // Nobody takes it before we answer. But our answer may end maintenance without our
            // knowing, so there is a deadline again before it is sent.
            held.deadline = held.deadline.max(Some(read_sent.after(ttl)));
        }
        if row.paused == Pause::No && held.row.paused != Pause::No {
            // Maintenance was ended without us: what we have is as old as our last renewal.
            self.acts.push(Act::Notice("maintenance was ended over this node's head".into()));
        }
        let Some(held) = self.phase.held_mut() else { return };
        held.row = row;
        self.renew_at = now;
        self.tell_deadline();
    }

    fn on_written(&mut self, now: Moment, sent: Moment, request: &Request, row: Lease) {
        self.unanswered.retain(|u| u.sent > sent);
        self.note(now, sent, &row);
        let from = if self.policy.rules.from_before_the_send { sent } else { now };
        let deadline = Some(from.after(self.policy.ttl));
        match request {
            Request::Take(_) => {
                self.role_since = Some(now);
                let held = Held { row, deadline };
                self.renew_at = sent.after(self.policy.renew);
                if self.in_time(now, deadline) {
                    self.go(Event::Taken, Phase::Starting(held));
                    self.begin();
                } else {
                    self.renew_at = now;
                    self.go(Event::TakenLate, Phase::Claiming(held));
                }
            }
            Request::Renew(_) => {
                if let Some(held) = self.phase.held_mut() {
                    *held = Held { row, deadline: held.deadline.max(deadline) };
                }
                self.tell_deadline();
                if let Phase::Claiming(held) = &self.phase
                    && (held.row.paused == Pause::No || self.adopts)
                    && self.in_time(now, held.deadline)
                {
                    let held = held.clone();
                    self.adopts = false;
                    self.go(Event::Renewed, Phase::Starting(held));
                    self.begin();
                }
            }
            Request::Release(_) => self.go(Event::Released, Phase::Standby),
            Request::Read | Request::Switch(_) => {}
        }
    }

    /// Whether enough of the lease is left to begin something.
    fn in_time(&self, now: Moment, deadline: Option<Moment>) -> bool {
        deadline.is_some_and(|end| now.after(self.policy.margin) < end)
    }

    fn begin(&mut self) {
        self.tell_deadline();
        if let Some(row) = self.held().map(|held| &held.row) {
            let (epoch, grade) = (row.epoch, row.grade);
            self.acts.push(Act::Promote { epoch, grade });
        }
    }

    fn tell_deadline(&mut self) {
        let deadline = self.deadline();
        if self.held().is_some_and(|held| held.deadline.is_some()) {
            self.acts.push(Act::Deadline(deadline));
        }
    }

    fn superseded(&mut self) {
        match &self.phase {
            Phase::Claiming(_) | Phase::Releasing(..) => self.go(Event::Superseded, Phase::Standby),
            Phase::Starting(_) | Phase::Master(_) | Phase::Stopping(Some(_), _) => {
                self.stop(Event::Superseded);
            }
            _ => {}
        }
    }

    pub(super) fn stop(&mut self, cause: Event) {
        let held = match cause {
            Event::Superseded => None,
            _ => self.held().cloned(),
        };
        self.go(cause, Phase::Stopping(held, cause));
        self.acts.push(Act::Demote(cause));
    }

    /// A row that is older than what was seen is an old copy for as long as a lease; then it is
    /// taken for what it says.
    fn on_older(&mut self, now: Moment) {
        let since = *self.below_since.get_or_insert(now);
        let long = now.since(since) >= self.policy.wait(self.policy.ttl);
        let idle = matches!(self.phase, Phase::Unknown | Phase::Standby);
        if idle && (long || matches!(self.phase, Phase::Unknown)) {
            self.go(Event::Older, Phase::Regressed);
        }
    }

    pub(super) fn go(&mut self, event: Event, to: Phase) {
        let transition = table::find(self.phase(), event);
        self.phase = to;
        assert_eq!(self.phase(), transition.to, "the step is as the table says");
        let epoch = self.row().map_or(0, |row| row.epoch);
        self.acts.push(Act::Step { transition, epoch });
    }

    const fn is_holding(&self) -> bool {
        self.held().is_some()
    }

    pub(super) const fn held(&self) -> Option<&Held> {
        self.phase.held()
    }

    /// The next stamp, which no other write has.
    pub(super) const fn stamp(&mut self) -> i64 {
        self.stamps += 1;
        self.stamps
    }

    /// The run of the process that the row knows as its holder's.
    #[must_use]
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }
}
