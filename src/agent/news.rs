//! The other lane: heartbeats, the rows of the other nodes, operators' orders, events. It has a
//! connection of its own, so that nothing here delays a renewal of the lease.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::clock;
use super::election::{Moment, NodeRow};
use super::lease::{EventRow, Lane, Orders};

/// Events that wait for the database; the oldest is dropped, with a line in the log.
const MOST_EVENTS: usize = 256;

/// What came from the database.
#[derive(Debug, Clone)]
pub enum News {
    /// The nodes as they were read at that moment.
    Nodes {
        /// After the answer.
        at: Moment,
        /// All nodes of the resource.
        rows: Vec<NodeRow>,
        /// What operators ordered this one.
        orders: Orders,
    },
    /// This node's name is its own: nobody else uses it.
    Settled {
        /// Whether the last one to use it was this machine.
        same_machine: bool,
    },
    /// Another machine uses this node's name.
    Impostor(String),
}

/// One resource's lane.
#[derive(Debug)]
pub struct NewsLane {
    /// The resource.
    pub resource: String,
    /// The way to the tables.
    pub lane: Lane,
    /// What this node says of itself.
    pub me: watch::Receiver<NodeRow>,
    /// Events to be kept.
    pub events: mpsc::Receiver<EventRow>,
    /// Where the news go.
    pub to: mpsc::Sender<News>,
    /// How often.
    pub every: Duration,
    /// How long another machine of the same name is watched for.
    pub wait: Duration,
    /// How many events are kept.
    pub history: u32,
    /// Ends it, after what is queued.
    pub stop: CancellationToken,
}

impl NewsLane {
    /// Runs until it is stopped.
    pub async fn run(mut self) {
        let mut queue: VecDeque<EventRow> = VecDeque::new();
        let mut number = None;
        let mut seq = 0;
        let mut claim = Claim::Unknown;
        let mut next = clock::now();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                event = self.events.recv() => match event {
                    Some(event) => {
                        if queue.len() >= MOST_EVENTS {
                            queue.pop_front();
                            tracing::warn!(resource = self.resource, "too many events wait: dropped");
                        }
                        queue.push_back(event);
                    }
                    None => break,
                },
                () = clock::sleep_until(next) => {
                    next = clock::now().after(self.every);
                    if let Err(why) = self.beat(&mut claim, &mut seq).await {
                        next = clock::now().after(self.every / 4);
                        if matches!(claim, Claim::Unknown)
                            && let Err(why) = self.lane.create_tables().await
                        {
                            tracing::debug!(resource = self.resource, why, "no tables");
                        }
                        tracing::debug!(resource = self.resource, why, "no heartbeat");
                    }
                }
            }
            self.record(&mut queue, &mut number).await;
        }
        while let Ok(event) = self.events.try_recv() {
            queue.push_back(event);
        }
        self.record(&mut queue, &mut number).await;
    }

    async fn beat(&mut self, claim: &mut Claim, seq: &mut i64) -> Result<(), String> {
        let found = self.lane.nodes(&self.resource).await?;
        let me = self.me.borrow().clone();
        let at = clock::now();
        let own = found.iter().find(|(row, _)| row.node == me.node);
        let news = claim.observe(at, self.wait, own.map(|(row, _)| row), &me);
        if let Some(news) = news {
            let impostor = matches!(news, News::Impostor(_));
            self.tell(news).await;
            if impostor {
                return Ok(());
            }
        }
        let orders = own.map(|(_, orders)| *orders).unwrap_or_default();
        *seq = (*seq).max(own.map_or(0, |(row, _)| row.seq)) + 1;
        let rows = found.into_iter().map(|(row, _)| row).collect();
        self.tell(News::Nodes { at, rows, orders }).await;
        if matches!(claim, Claim::Ours) {
            self.lane.beat(&self.resource, &NodeRow { seq: *seq, ..me }).await?;
        }
        Ok(())
    }

    async fn tell(&self, news: News) {
        // A director that is gone has ended.
        let _ = self.to.send(news).await;
    }

    async fn record(&mut self, queue: &mut VecDeque<EventRow>, number: &mut Option<i64>) {
        while let Some(event) = queue.front() {
            let outcome = async {
                let n = match *number {
                    Some(n) => n + 1,
                    None => self.lane.newest_event(&self.resource, &event.node).await? + 1,
                };
                let event = EventRow { n, ..event.clone() };
                self.lane.record(&self.resource, &event, self.history).await?;
                Ok::<_, String>(n)
            };
            match outcome.await {
                Ok(n) => {
                    *number = Some(n);
                    queue.pop_front();
                }
                Err(why) => {
                    // It may have been kept after all; then its number is taken.
                    *number = None;
                    tracing::debug!(resource = self.resource, why, "an event waits");
                    return;
                }
            }
        }
    }
}

/// Whose this node's name is.
#[derive(Debug)]
enum Claim {
    Unknown,
    /// Another run's row: whether it moves is watched.
    Watching {
        incarnation: String,
        machine: String,
        seq: i64,
        since: Moment,
    },
    Ours,
}

impl Claim {
    /// What the row of our name says; `None`: nothing new.
    fn observe(
        &mut self,
        now: Moment,
        wait: Duration,
        own: Option<&NodeRow>,
        me: &NodeRow,
    ) -> Option<News> {
        let foreign = own.filter(|row| row.incarnation != me.incarnation);
        match (&mut *self, foreign) {
            (Self::Unknown, Some(row)) if row.machine != me.machine => {
                *self = Self::Watching {
                    incarnation: row.incarnation.clone(),
                    machine: row.machine.clone(),
                    seq: row.seq,
                    since: now,
                };
                None
            }
            (Self::Unknown, other) => {
                let same_machine = other.is_some();
                *self = Self::Ours;
                Some(News::Settled { same_machine })
            }
            (Self::Watching { incarnation, machine, seq, since }, Some(row)) => {
                if row.seq != *seq || row.incarnation != *incarnation {
                    return Some(News::Impostor(machine.clone()));
                }
                if now.since(*since) < wait {
                    return None;
                }
                *self = Self::Ours;
                Some(News::Settled { same_machine: false })
            }
            (Self::Watching { .. }, None) => {
                *self = Self::Ours;
                Some(News::Settled { same_machine: false })
            }
            (Self::Ours, Some(row)) if row.machine != me.machine => {
                Some(News::Impostor(row.machine.clone()))
            }
            (Self::Ours, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(machine: &str, incarnation: &str, seq: i64) -> NodeRow {
        let (machine, incarnation) = (machine.into(), incarnation.into());
        NodeRow { machine, incarnation, seq, ..NodeRow::standing_by() }
    }

    const WAIT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_name_is_taken_over_from_a_machine_that_is_silent_and_not_from_one_that_speaks() {
        let me = row("m1", "new", 0);
        let mut claim = Claim::Unknown;
        let former = row("m1", "old", 5);
        assert!(matches!(
            claim.observe(at(1), WAIT, Some(&former), &me),
            Some(News::Settled { same_machine: true })
        ));
        let mut claim = Claim::Unknown;
        let silent = row("m2", "old", 5);
        assert!(claim.observe(at(1), WAIT, Some(&silent), &me).is_none());
        assert!(claim.observe(at(5), WAIT, Some(&silent), &me).is_none());
        assert!(matches!(
            claim.observe(at(11), WAIT, Some(&silent), &me),
            Some(News::Settled { same_machine: false })
        ));
        let mut claim = Claim::Unknown;
        assert!(claim.observe(at(1), WAIT, Some(&silent), &me).is_none());
        let speaks = row("m2", "old", 6);
        assert!(matches!(
            claim.observe(at(2), WAIT, Some(&speaks), &me),
            Some(News::Impostor(machine)) if machine == "m2"
        ));
    }

    #[test]
    fn two_that_begin_at_once_are_noticed_later() {
        let me = row("m1", "new", 0);
        let mut claim = Claim::Unknown;
        assert!(matches!(
            claim.observe(at(1), WAIT, None, &me),
            Some(News::Settled { same_machine: false })
        ));
        assert!(claim.observe(at(2), WAIT, Some(&row("m1", "new", 1)), &me).is_none());
        let other = row("m2", "theirs", 2);
        assert!(matches!(claim.observe(at(3), WAIT, Some(&other), &me), Some(News::Impostor(_))));
    }
}
