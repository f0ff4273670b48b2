//! What the load was promised, held against what the servers have.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::cluster::Cluster;
use super::load::{BANK, Outcome};
use super::load_wild::HONEST;
use super::step;

impl Outcome {
    pub(crate) fn summary(&self) -> String {
        let sum =
            |count: fn(&super::load::Book) -> usize| self.books.iter().map(count).sum::<usize>();
        format!(
            "acknowledged {}, refused {}, unknown {}, connections lost {}, longest silence {:?}, errors {:?}",
            sum(|b| b.acknowledged.len()),
            sum(|b| b.refused.len()),
            sum(|b| b.unknown.len()),
            sum(|b| b.drops.len()),
            self.longest_silence(),
            self.codes()
        )
    }

    fn codes(&self) -> BTreeMap<String, usize> {
        let mut codes = BTreeMap::new();
        for failure in self.books.iter().flat_map(|b| &b.failures) {
            let sort = if failure.wild { "wild" } else { "strict" };
            *codes.entry(format!("{} {sort}", failure.code)).or_default() += 1;
        }
        codes
    }

    /// The longest time in which nobody was told that a commit went through.
    pub(crate) fn longest_silence(&self) -> Duration {
        let all = self.books.iter().flat_map(|b| &b.acknowledged);
        let mut times: Vec<_> = all.map(|(_, at)| *at).collect();
        times.sort_unstable();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
    }

    /// No client's connection ended: they die with the proxy only, never with a server behind it.
    pub(crate) fn nobody_was_disconnected(&self) {
        let drops: Vec<&String> = self.books.iter().flat_map(|b| &b.drops).collect();
        assert!(
            drops.is_empty(),
            "{} connections were lost, first: {:#?}",
            drops.len(),
            &drops[..drops.len().min(5)]
        );
    }

    /// No error but these and the ones that wild sessions make for themselves.
    pub(crate) fn failed_only_with(&self, allowed: &[&str]) {
        let all = self.books.iter().flat_map(|b| &b.failures);
        let strange = all.filter(|f| {
            let code = f.code.as_str();
            !(allowed.contains(&code) || f.wild && HONEST.contains(&code))
        });
        let strange: Vec<&str> = strange.map(|f| f.text.as_str()).collect();
        let first = &strange[..strange.len().min(6)];
        assert!(
            strange.is_empty(),
            "{} errors that no client should see ({:?}), first: {first:#?}",
            strange.len(),
            self.codes()
        );
    }

    /// Nothing went wrong that one server would not have done to its clients.
    pub(crate) fn nobody_noticed(&self) {
        self.nobody_was_disconnected();
        self.failed_only_with(&[]);
    }

    /// Enough was done for the test to mean something.
    pub(crate) fn did_at_least(&self, commits: usize) {
        let done: usize = self.books.iter().map(|b| b.acknowledged.len()).sum();
        assert!(
            done >= commits,
            "only {done} commits, at least {commits} were due: {}",
            self.summary()
        );
    }

    /// Every promise kept on every active server, and all of them equal.
    pub(crate) async fn judge(&self, cluster: &Cluster) {
        let names = cluster.active().await;
        self.judge_on(cluster, &names).await;
        cluster.assert_equal().await;
    }

    /// The same for the servers named, whatever the proxy believes.
    pub(crate) async fn judge_on(&self, cluster: &Cluster, names: &[String]) {
        step(format!("judge {}", names.join(", ")));
        let stale: Vec<&String> = self.books.iter().flat_map(|b| &b.stale).collect();
        assert!(stale.is_empty(), "own acknowledged writes were not to be seen: {stale:?}");
        let mut there = Vec::new();
        for name in names {
            let mut found: HashMap<String, u64> = HashMap::new();
            let admin = cluster.server(name).admin().await;
            for token in admin.column("select token from ledger").await {
                *found.entry(token).or_default() += 1;
            }
            there.push(found);
        }
        for (at, name) in names.iter().enumerate() {
            let admin = cluster.server(name).admin().await;
            self.judge_tokens(name, &there[at], &there);
            let bank = admin.one("select sum(balance) from account").await;
            assert_eq!(bank, BANK.to_string(), "money came or went on {name}");
            let wrong = admin
                .rows(
                    "select c.id, c.n, (select count(*) from ledger l where l.ctr = c.id) from counter c
                     where c.n <> (select count(*) from ledger l where l.ctr = c.id)",
                )
                .await;
            assert!(
                wrong.is_empty(),
                "on {name} counters disagree with the ledger (id, n, rows): {wrong:?}"
            );
        }
    }

    fn judge_tokens(
        &self,
        server: &str,
        found: &HashMap<String, u64>,
        there: &[HashMap<String, u64>],
    ) {
        let anywhere = |token: &str| {
            there.iter().map(|found| found.get(token).copied().unwrap_or(0)).collect::<Vec<_>>()
        };
        let times = |token: &str| found.get(token).copied().unwrap_or(0);
        let mut wrong = Vec::new();
        for book in &self.books {
            for (token, _) in &book.acknowledged {
                if times(token) != 1 {
                    wrong.push(format!("acknowledged {token} is there {} times", times(token)));
                }
            }
            for token in &book.refused {
                if times(token) != 0 {
                    let told = book.told.get(token).map_or("rolled back", String::as_str);
                    wrong.push(format!(
                        "rolled back or failed {token} is there {:?} times on each; its client was told: {told}",
                        anywhere(token)
                    ));
                }
            }
            for token in &book.unknown {
                if times(token) > 1 {
                    wrong.push(format!("unanswered {token} is there {} times", times(token)));
                }
            }
        }
        let count = wrong.len();
        wrong.truncate(10);
        assert!(wrong.is_empty(), "server {server} breaks {count} promises: {wrong:#?}");
    }
}

/// Several loads one after the other on the same tables, judged as one.
pub(crate) fn together(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    Outcome { books: outcomes.into_iter().flat_map(|o| o.books).collect() }
}
