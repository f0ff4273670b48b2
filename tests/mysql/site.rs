//! How the faults that all dialects share are done here.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::faults::{Line, Needs, Seen, Site};
use crate::load::{Load, Outcome};
use crate::net::relay::Net;

/// Short times: a test waits for every one of them. `dead_after` is `faults::DEAD_AFTER`.
pub(crate) const SHORT: &str = "[timeouts]\ndead_after = \"3s\"\nprobe_interval = \"300ms\"\nprobe_timeout = \"2s\"\n\
    follower_lock = \"2s\"\nshutdown_grace = \"6s\"\nstartup_wait = \"20s\"\n[pool]\nsize = 30\n";

/// What the tests' servers leave out for speed.
const FLUSHES: &[&str] = &["--innodb-flush-log-at-trx-commit=1"];

/// To be tried again.
const AGAIN: [u16; 1] = [1213];
/// What a proxy says that goes, or whose servers were gone when it came.
const GONE: [u16; 3] = [1053, 1180, 1203];

impl Site for Arc<Cluster> {
    type Load = Load;
    type Books = Outcome;

    async fn set_up(needs: Needs) -> Self {
        Self::new(if needs.lines {
            Cluster::start_relayed(3, SHORT).await
        } else {
            Cluster::start_on(3, if needs.flushes { FLUSHES } else { &[] }, SHORT).await
        })
    }

    async fn leads(&self) -> usize {
        self.leader()
    }

    async fn follows(&self) -> usize {
        self.follower()
    }

    async fn takes_part(&self, server: usize) {
        self.wait_member(server).await;
    }

    async fn is_out(&self, server: usize) {
        self.wait_inactive(server).await;
    }

    async fn active(&self) -> usize {
        self.backends().iter().filter(|b| b["state"] == "active").count()
    }

    fn kill(&self, server: usize) {
        self.servers[server].kill();
    }

    fn stop(&self, server: usize) {
        self.servers[server].stop();
    }

    fn start(&self, server: usize) {
        self.servers[server].start();
    }

    fn freeze(&self, server: usize) {
        self.servers[server].signal("STOP");
    }

    fn thaw(&self, server: usize) {
        self.servers[server].signal("CONT");
    }

    fn crash(&self, server: usize) {
        self.servers[server].kill();
        self.servers[server].start();
    }

    fn line(&self, server: usize, line: Line) {
        self.relays[server].set(match line {
            Line::Works => Net::Works,
            Line::Silent => Net::Silent,
            Line::Mute => Net::Mute,
            Line::Cut => Net::Cut,
            Line::Slow => Net::Slow(Duration::from_millis(30)),
        });
    }

    fn kill_proxy(&self) {
        Cluster::kill_proxy(self);
    }

    fn stop_proxy(&self) {
        Cluster::stop_proxy(self);
    }

    async fn start_proxy(&self) {
        Cluster::start_proxy(self);
        self.wait_serving().await;
    }

    async fn load(&self, sessions: usize) -> Load {
        Load::start(self, sessions).await
    }

    async fn load_again(&self, sessions: usize) -> Load {
        Load::again(self, sessions)
    }

    async fn goes_on(load: &Load, more: u64, limit: Duration) {
        load.goes_on(more, limit).await;
    }

    async fn end(load: Load) -> Outcome {
        load.stop().await
    }

    fn together(books: Vec<Outcome>) -> Outcome {
        Outcome::together(books)
    }

    fn longest_silence(books: &Outcome) -> Duration {
        books.longest_silence()
    }

    fn check(books: &Outcome, seen: Seen) {
        if matches!(seen, Seen::Nothing | Seen::Retries) {
            books.nobody_was_disconnected();
        }
        match seen {
            Seen::Nothing => books.failed_only_with(&[]),
            Seen::Retries => books.failed_only_with(&AGAIN),
            Seen::Breaks => books.failed_only_with(&GONE),
            Seen::BreaksAndRetries => books.failed_only_with(&[&GONE[..], &AGAIN].concat()),
        }
    }

    async fn judge(&self, books: &Outcome) {
        books.judge(self).await;
        self.assert_active_equal().await;
    }

    async fn all_equal(&self) {
        self.wait_active(3).await;
        self.assert_all_equal().await;
    }

    async fn all_hold_the_same(&self) {
        self.assert_all_equal().await;
    }
}
