//! What the rows of the nodes say: who lives, who comes next. A node lives while its row moves, by
//! our own clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::row::{Grade, Lease, Moment};
use crate::cluster::{Weight, turn, weight};

/// What a node writes about itself, and reads about the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// The run of its agent.
    pub incarnation: String,
    /// Its machine's own identity, by which two nodes of one name are noticed.
    pub machine: String,
    /// Rises with each heartbeat.
    pub seq: i64,
    /// Where it stands: a word of [`super::PhaseName`], or `observer`.
    pub role: String,
    /// What it may do: `normal`, `read-only` or `observer`.
    pub mode: String,
    /// The higher, the sooner it is the master.
    pub priority: i32,
    /// Whether its checks pass.
    pub healthy: bool,
    /// Whether an operator has taken it out.
    pub maintenance: bool,
    /// The highest epoch that it saw.
    pub seen_epoch: i64,
    /// Where it is, for people.
    pub addr: String,
    /// The version of its agent.
    pub version: String,
    /// What it has to say.
    pub message: String,
}

impl NodeRow {
    fn grade(&self) -> Option<Grade> {
        match self.mode.as_str() {
            "normal" => Some(Grade::Normal),
            "read-only" => Some(Grade::ReadOnly),
            _ => None,
        }
    }

    fn is_candidate(&self) -> bool {
        self.healthy && !self.maintenance && self.grade().is_some()
    }
}

/// How this node stands among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Standing {
    /// How many live candidates come before this node.
    pub rank: u32,
    /// Whether it may take the resource at all.
    pub candidate: bool,
    /// As what.
    pub grade: Grade,
    /// Whether a node lives that may do everything.
    pub normal_alive: bool,
    /// The other nodes that could take over now, the next one first.
    pub live_others: Vec<String>,
    /// Whether this node comes before the present holder.
    pub outranks_holder: bool,
    /// Whether it is certain that nothing of an earlier run on this machine is left.
    pub predecessor_is_gone: bool,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            rank: 0,
            candidate: false,
            grade: Grade::Normal,
            normal_alive: false,
            live_others: Vec::new(),
            outranks_holder: false,
            predecessor_is_gone: false,
        }
    }
}

#[derive(Debug, Clone)]
struct Pulse {
    row: NodeRow,
    moved: Moment,
    /// Whether its row has been seen to move, or only to be there.
    beats: bool,
}

/// The nodes of one resource, as they were seen.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    nodes: BTreeMap<String, Pulse>,
}

impl Roster {
    /// Takes in what was read at `now`.
    pub fn observe(&mut self, now: Moment, rows: Vec<NodeRow>) {
        self.nodes.retain(|name, _| rows.iter().any(|row| row.node == *name));
        for row in rows {
            let known = self.nodes.get_mut(&row.node);
            match known {
                Some(pulse) => {
                    if (&pulse.row.incarnation, pulse.row.seq) != (&row.incarnation, row.seq) {
                        pulse.moved = now;
                        pulse.beats = true;
                    }
                    pulse.row = row;
                }
                None => {
                    let name = row.node.clone();
                    self.nodes.insert(name, Pulse { row, moved: now, beats: false });
                }
            }
        }
    }

    /// Whether a node's row moved within `wait`; one that was only seen lying there does not live.
    #[must_use]
    pub fn lives(&self, now: Moment, node: &str, wait: Duration) -> bool {
        self.nodes.get(node).is_some_and(|pulse| pulse.beats && now.since(pulse.moved) < wait)
    }

    /// How `me` stands. Nodes whose row does not move are not waited for.
    #[must_use]
    pub fn standing(
        &self,
        now: Moment,
        me: &NodeRow,
        lease: Option<&Lease>,
        wait: Duration,
    ) -> Standing {
        let lives = |row: &&NodeRow| row.node != me.node && self.lives(now, &row.node, wait);
        let mut others: Vec<&NodeRow> = self.nodes.values().map(|p| &p.row).filter(lives).collect();
        others.retain(|row| row.is_candidate());
        others.sort_by(|one, other| one.turn().cmp(&other.turn()));
        let holder = lease.filter(|lease| !lease.is_free()).and_then(|l| self.nodes.get(&l.holder));
        let rank = others.iter().filter(|row| row.turn() < me.turn()).count();
        Standing {
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            candidate: me.is_candidate(),
            grade: me.grade().unwrap_or(Grade::ReadOnly),
            normal_alive: others.iter().any(|row| row.grade() == Some(Grade::Normal)),
            live_others: others.iter().map(|row| row.node.clone()).collect(),
            outranks_holder: me.is_candidate()
                && holder.is_some_and(|h| h.row.node != me.node && me.weight() < h.row.weight()),
            predecessor_is_gone: false,
        }
    }
}

impl NodeRow {
    /// Whose turn it is first, among those who could take over.
    pub(crate) fn turn(&self) -> (Weight, &str) {
        turn(&self.mode, self.priority.into(), &self.node)
    }

    /// The same without the name: nobody takes the resource from another for its name.
    fn weight(&self) -> Weight {
        weight(&self.mode, self.priority.into())
    }
}

#[cfg(test)]
impl NodeRow {
    /// A healthy node of the tests that stands by.
    pub(crate) fn standing_by() -> Self {
        Self {
            node: "n1".into(),
            incarnation: "i".into(),
            machine: "m".into(),
            seq: 0,
            role: "standby".into(),
            mode: "normal".into(),
            priority: 1,
            healthy: true,
            maintenance: false,
            seen_epoch: 0,
            addr: String::new(),
            version: String::new(),
            message: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, mode: &str, priority: i32, seq: i64) -> NodeRow {
        NodeRow { node: name.into(), mode: mode.into(), priority, seq, ..NodeRow::standing_by() }
    }

    const WAIT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn ranks_go_by_mode_priority_and_name_among_those_whose_row_moves() {
        let mut roster = Roster::default();
        let rows = |seq| {
            vec![
                node("a", "read-only", 200, seq),
                node("b", "normal", 50, seq),
                node("c", "normal", 100, seq),
                node("d", "observer", 300, seq),
                node("e", "normal", 100, 1),
            ]
        };
        roster.observe(at(1), rows(1));
        let standing = |roster: &Roster, me: &str, now| {
            let all = rows(9);
            let me = all.iter().find(|row| row.node == me).expect("known");
            roster.standing(at(now), me, None, WAIT)
        };
        assert_eq!(standing(&roster, "a", 1).live_others, Vec::<String>::new());
        roster.observe(at(2), rows(2));
        let a = standing(&roster, "a", 2);
        assert_eq!(
            (a.rank, a.live_others.as_slice()),
            (2, ["c".to_owned(), "b".to_owned()].as_slice())
        );
        assert!(a.normal_alive && a.candidate && a.grade == Grade::ReadOnly);
        assert_eq!(standing(&roster, "c", 2).rank, 0, "e does not move");
        assert!(!standing(&roster, "d", 2).candidate, "an observer never takes");
        assert_eq!(standing(&roster, "a", 12).live_others, Vec::<String>::new(), "all fell silent");
    }

    #[test]
    fn priority_outranks_a_holder_and_a_name_does_not() {
        let mut roster = Roster::default();
        roster.observe(at(1), vec![node("b", "normal", 50, 1), node("c", "normal", 50, 1)]);
        let lease = Lease { holder: "c".into(), incarnation: "i".into(), ..Lease::unborn() };
        let outranks =
            |me: &NodeRow| roster.standing(at(1), me, Some(&lease), WAIT).outranks_holder;
        assert!(!outranks(&node("b", "normal", 50, 1)));
        assert!(outranks(&node("b", "normal", 60, 1)));
        assert!(!outranks(&NodeRow { healthy: false, ..node("b", "normal", 60, 1) }));
    }
}
