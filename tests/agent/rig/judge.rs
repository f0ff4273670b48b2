//! The judge: looks at what the services did, and where the address was, all the time.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{VIP, VIP6};

pub(super) struct Judge {
    stop: Arc<AtomicBool>,
    watch: Option<JoinHandle<Vec<String>>>,
}

impl Judge {
    /// Begins to look for the address in all namespaces.
    pub(super) fn watch(spaces: Vec<String>, _folder: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watch = std::thread::spawn(move || {
            let mut wrong = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for vip in [VIP, VIP6] {
                    let holders = holders(&spaces, vip);
                    // The looks are one after the other: it may have moved in between, so a second
                    // look must see the same.
                    if holders.len() > 1 && self::holders(&spaces, vip) == holders {
                        wrong.push(format!("{vip} is in {holders:?}"));
                    }
                }
                std::thread::sleep(Duration::from_millis(150));
            }
            wrong
        });
        Self { stop, watch: Some(watch) }
    }

    /// Fails if anything was wrong.
    pub(super) fn verdict(&mut self, folder: &Path) {
        self.stop.store(true, Ordering::Relaxed);
        let wrong = self.watch.take().unwrap().join().unwrap();
        assert_eq!(wrong, Vec::<String>::new(), "the address was in two places");
        let terms = terms(folder);
        for pair in terms.windows(2) {
            let [(before, a), (after, b)] = pair else { continue };
            assert!(before < after, "{b} in {after} beside {a} in {before}: {terms:?}");
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

fn holders(spaces: &[String], vip: &str) -> Vec<String> {
    let has = |space: &&String| {
        let output = Command::new("ip").args(["-n", space, "-o", "addr"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains(&format!(" {vip}/"))
    };
    spaces.iter().filter(has).cloned().collect()
}

/// The beats of all services, in the order of the kernel's clock: when, term, node.
fn beats(folder: &Path) -> Vec<(f64, i64, String)> {
    let text = std::fs::read_to_string(folder.join("beats")).unwrap_or_default();
    let mut beats: Vec<(f64, i64, String)> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [at, node, epoch] = words[..] else { panic!("a strange beat: {line}") };
        beats.push((at.parse().unwrap(), epoch.parse().unwrap(), node.to_owned()));
    }
    // Stable: within one tick of the clock the order of writing counts.
    beats.sort_by(|a, b| a.0.total_cmp(&b.0));
    beats
}

/// Who served; a term that comes back after another one stands there twice.
pub(super) fn terms(folder: &Path) -> Vec<(i64, String)> {
    let mut terms: Vec<(i64, String)> = Vec::new();
    for (_, epoch, node) in beats(folder) {
        if terms.last() != Some(&(epoch, node.clone())) {
            terms.push((epoch, node));
        }
    }
    terms
}

/// For how long nobody served between two terms, in seconds.
pub(super) fn gaps(folder: &Path) -> Vec<f64> {
    let beats = beats(folder);
    let changes = beats.windows(2).filter(|pair| pair[0].1 != pair[1].1);
    changes.map(|pair| pair[1].0 - pair[0].0).collect()
}
