//! The judge: looks at what the services did, what the databases have, and where the address was.
//!
//! Four things hold in every test, whatever was cut, killed or frozen:
//! - the services of two terms never run, and the writes of two terms are never accepted, at the
//!   same time;
//! - epochs never go back: not in what the services do, not in the order of the rows, and not in any
//!   database from one look to the next;
//! - the address is in one place at most;
//! - no acknowledged row is missing in a database that takes part, and all of those agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::database::Clerk;
use super::{VIP, VIP6};

/// Between two looks at addresses; epochs are asked for at every fourth.
const LOOK: Duration = Duration::from_millis(150);

/// What is watched all the time.
pub(super) struct Judge {
    stop: Arc<AtomicBool>,
    watch: Option<JoinHandle<Vec<String>>>,
}

impl Judge {
    /// Begins to look for the address in all namespaces, and for epochs in all databases.
    pub(super) fn watch(spaces: Vec<String>, clerks: Vec<Clerk>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watch = std::thread::spawn(move || {
            let mut wrong = Vec::new();
            let mut newest = BTreeMap::new();
            for round in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                for vip in [VIP, VIP6] {
                    let holders = holders(&spaces, vip);
                    // The looks are one after the other: it may have moved in between, so a second
                    // look must see the same.
                    if holders.len() > 1 && self::holders(&spaces, vip) == holders {
                        wrong.push(format!("{vip} is in {holders:?}"));
                    }
                }
                if round % 4 == 0 {
                    for (place, clerk) in clerks.iter().enumerate() {
                        let Some(rows) = clerk.try_ask(EPOCHS) else { continue };
                        wrong.extend(went_back(&mut newest, place, &rows));
                    }
                }
                std::thread::sleep(LOOK);
            }
            wrong
        });
        Self { stop, watch: Some(watch) }
    }

    /// Ends the watch: what was wrong.
    pub(super) fn end(&mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.watch.take().map(|watch| watch.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.end();
    }
}

const EPOCHS: &str = "select resource, epoch from lockstep_lease";
const WRITES: &str = "select epoch, node, n from writes order by id";

fn holders(spaces: &[String], vip: &str) -> Vec<String> {
    let has = |space: &&String| {
        let output = Command::new("ip").args(["-n", space, "-o", "addr"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains(&format!(" {vip}/"))
    };
    spaces.iter().filter(has).cloned().collect()
}

/// What is older in a database than it was at the look before.
fn went_back(
    newest: &mut BTreeMap<(usize, String), i64>,
    place: usize,
    rows: &str,
) -> Option<String> {
    for line in rows.lines() {
        let (resource, epoch) = line.split_once(['|', '\t'])?;
        let epoch: i64 = epoch.parse().ok()?;
        let known = newest.entry((place, resource.to_owned())).or_insert(epoch);
        if epoch < *known {
            let was = *known;
            return Some(format!("database {place}: {resource} went from epoch {was} to {epoch}"));
        }
        *known = epoch;
    }
    None
}

/// A write that the database has confirmed: when it was sent, when it was confirmed.
#[derive(Debug, Clone, PartialEq)]
struct Ack {
    begun: f64,
    ended: f64,
    write: Write,
}

/// Term, node, number.
type Write = (i64, String, i64);

/// What is known at the end.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The signs of life of all services: when, term, node.
    beats: Vec<(f64, i64, String)>,
    acks: Vec<Ack>,
    /// What each database that takes part has, in order.
    rows: Vec<(String, Vec<Write>)>,
    /// The contents of each, as text.
    contents: Vec<(String, String)>,
}

impl Evidence {
    /// Reads what the services have written down. `clocks`: by how much the clock of a node is ahead.
    pub(super) fn gather(folder: &Path, clocks: &BTreeMap<String, f64>) -> Self {
        let ahead = |node: &str| clocks.get(node).copied().unwrap_or_default();
        let mut beats = Vec::new();
        for words in lines(&folder.join("beats"), 3) {
            let node = words[1].clone();
            let at: f64 = words[0].parse().unwrap();
            beats.push((at - ahead(&node), words[2].parse().unwrap(), node));
        }
        // Stable: within one tick of the clock the order of writing counts.
        beats.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut acks = Vec::new();
        for words in lines(&folder.join("acks"), 5) {
            let node = words[2].clone();
            let at = |word: &String| word.parse::<f64>().unwrap() - ahead(&node);
            let (begun, ended) = (at(&words[0]), at(&words[1]));
            let write = (words[3].parse().unwrap(), node, words[4].parse().unwrap());
            acks.push(Ack { begun, ended, write });
        }
        Self { beats, acks, ..Self::default() }
    }

    /// Adds what a database has.
    pub(super) fn ask(&mut self, name: &str, clerk: &Clerk) {
        let text = clerk.ask(WRITES);
        let rows = text.lines().map(|line| {
            let words: Vec<&str> = line.split(['|', '\t']).collect();
            (words[0].parse().unwrap(), words[1].to_owned(), words[2].parse().unwrap())
        });
        self.rows.push((name.to_owned(), rows.collect()));
    }

    /// Adds a database's whole contents, which are to be as the others'.
    pub(super) fn compare(&mut self, name: &str, contents: String) {
        self.contents.push((name.to_owned(), contents));
    }

    /// Who served; a term that comes back after another one stands there twice.
    pub(super) fn terms(&self) -> Vec<(i64, String)> {
        let mut terms: Vec<(i64, String)> = Vec::new();
        for (_, epoch, node) in &self.beats {
            if terms.last() != Some(&(*epoch, node.clone())) {
                terms.push((*epoch, node.clone()));
            }
        }
        terms
    }

    /// For how long nobody served between two terms, in seconds.
    pub(super) fn gaps(&self) -> Vec<f64> {
        let changes = self.beats.windows(2).filter(|pair| pair[0].1 != pair[1].1);
        changes.map(|pair| pair[1].0 - pair[0].0).collect()
    }

    /// What is wrong about the services themselves. A machine that was frozen as a whole may run its
    /// service for a moment when it wakes: this is not asked there.
    pub(super) fn wrong_services(&self) -> Vec<String> {
        let terms = self.terms();
        let back = terms.windows(2).filter(|pair| pair[0] >= pair[1]);
        back.map(|pair| format!("{:?} after {:?}: {terms:?}", pair[1], pair[0])).collect()
    }

    /// What is wrong about the writes: whatever ran, these hold.
    pub(super) fn wrong_writes(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        // A write was accepted some time between its two moments. One that began after a later term's
        // first was confirmed was certainly accepted after it.
        let mut first: BTreeMap<i64, &Ack> = BTreeMap::new();
        for ack in &self.acks {
            let known = first.entry(ack.write.0).or_insert(ack);
            if ack.ended < known.ended {
                *known = ack;
            }
        }
        for ack in &self.acks {
            let later = first.range(ack.write.0 + 1..).find(|(_, later)| later.ended < ack.begun);
            if let Some((_, later)) = later {
                wrong.push(format!("{ack:?} was accepted after {later:?}"));
            }
        }
        for (name, rows) in &self.rows {
            let there: BTreeSet<&Write> = rows.iter().collect();
            let missing = self.acks.iter().find(|ack| !there.contains(&ack.write));
            wrong.extend(missing.map(|ack| format!("{name} lacks {ack:?}")));
            let back = rows.windows(2).find(|pair| pair[0].0 > pair[1].0);
            wrong.extend(back.map(|pair| format!("{name}: {:?} behind {:?}", pair[1], pair[0])));
            if there.len() != rows.len() {
                wrong.push(format!("{name}: a write is there twice"));
            }
        }
        for pair in self.contents.windows(2) {
            let [(one, a), (other, b)] = pair else { continue };
            let differs = a.lines().zip(b.lines()).find(|(a, b)| a != b);
            if a != b {
                wrong.push(format!("{one} and {other} differ: {differs:?}"));
            }
        }
        wrong
    }

    /// How many writes were confirmed.
    pub(super) fn confirmed(&self) -> usize {
        self.acks.len()
    }
}

/// The whole lines of a file that have so many words; the last may be under way.
fn lines(path: &Path, words: usize) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let split = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let lines: Vec<Vec<String>> = whole.lines().map(split).collect();
    let strange = lines.iter().find(|line| line.len() != words);
    assert_eq!(strange, None, "a strange line in {}", path.display());
    lines
}

/// The judge himself: each rule, broken once, is noticed.
mod tests {
    use super::*;

    fn ack(begun: f64, ended: f64, epoch: i64, node: &str, n: i64) -> Ack {
        Ack { begun, ended, write: (epoch, node.into(), n) }
    }

    /// Two terms in good order, on two databases.
    fn good() -> Evidence {
        let acks = vec![
            ack(1.0, 1.1, 1, "a", 1),
            ack(2.0, 2.1, 1, "a", 2),
            ack(5.0, 5.1, 2, "b", 3),
            ack(6.0, 6.1, 2, "b", 4),
        ];
        let mut rows: Vec<Write> = acks.iter().map(|ack| ack.write.clone()).collect();
        // What was not confirmed may be there.
        rows.insert(2, (1, "a".into(), 9));
        let beats = [(1.0, 1, "a"), (2.5, 1, "a"), (4.5, 2, "b"), (7.0, 2, "b")];
        let beats = beats.map(|(at, epoch, node)| (at, epoch, node.to_owned())).to_vec();
        let rows = ["a", "b"].map(|name| (name.to_owned(), rows.clone())).to_vec();
        let contents = ["a", "b"].map(|name| (name.to_owned(), "x\ny".to_owned())).to_vec();
        Evidence { beats, acks, rows, contents }
    }

    #[test]
    fn the_judge_notices_each_broken_promise() {
        let none = Vec::<String>::new();
        assert_eq!((good().wrong_services(), good().wrong_writes()), (none.clone(), none));
        type Break = (&'static str, fn(&mut Evidence));
        let breaks: [Break; 8] = [
            ("services", |e| e.beats.swap(1, 2)),
            ("services", |e| e.beats[3].1 = 1),
            // Confirmed by the database after a later term had begun to write.
            ("accepted after", |e| (e.acks[1].begun, e.acks[1].ended) = (5.5, 5.6)),
            ("lacks", |e| drop(e.rows[1].1.remove(4))),
            ("behind", |e| e.rows[0].1.swap(2, 3)),
            ("twice", |e| e.rows[0].1.push((2, "b".into(), 4))),
            ("differ", |e| e.contents[1].1 = "x\nz".into()),
            ("differ", |e| e.contents[0].1 = "x".into()),
        ];
        for (what, break_it) in breaks {
            let mut evidence = good();
            break_it(&mut evidence);
            let (services, writes) = (evidence.wrong_services(), evidence.wrong_writes());
            if what == "services" {
                assert!(!services.is_empty(), "{evidence:?}");
            } else {
                assert!(writes.iter().any(|w| w.contains(what)), "{what}: {writes:?}");
            }
        }
        let mut newest = BTreeMap::new();
        let looks = ["app|3", "app|3", "app|4", "app|3"];
        let back = looks.map(|look| went_back(&mut newest, 0, look).is_some());
        assert_eq!(back, [false, false, false, true]);
    }
}
