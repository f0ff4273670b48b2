//! How the faults that all dialects share are done here.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, Options};
use super::judge::together;
use super::load::{Load, Outcome};
use super::relay::Net;
use super::server::Server;
use crate::faults::{Line, Needs, Seen, Site};

/// What a client may see when the proxy itself goes: a broken connection, or the server's words for
/// that.
const GONE: [&str; 7] = ["-", "57P01", "57P02", "57P03", "08006", "08003", "08001"];
/// To be tried again.
const AGAIN: &str = "40001";

impl Cluster {
    fn place(&self, name: &str) -> usize {
        self.servers.iter().position(|server| server.name == name).expect("a server of that name")
    }

    fn name(&self, place: usize) -> &str {
        &self.servers[place].name
    }
}

impl Site for Arc<Cluster> {
    type Load = Load;
    type Books = Outcome;

    async fn set_up(needs: Needs) -> Self {
        let options = Options::servers(3);
        let options = if needs.lines { options.relays() } else { options };
        let options = if needs.flushes { options.fsync() } else { options };
        options.start().await
    }

    async fn leads(&self) -> usize {
        self.place(&self.leader().await)
    }

    async fn follows(&self) -> usize {
        self.place(&self.follower().await)
    }

    async fn takes_part(&self, server: usize) {
        self.wait_active(self.name(server)).await;
    }

    async fn is_out(&self, server: usize) {
        self.wait_inactive(self.name(server)).await;
    }

    async fn active(&self) -> usize {
        Cluster::active(self).await.len()
    }

    fn kill(&self, server: usize) {
        self.servers[server].kill9();
    }

    fn stop(&self, server: usize) {
        self.servers[server].stop_fast();
    }

    fn start(&self, server: usize) {
        self.servers[server].start();
    }

    fn freeze(&self, server: usize) {
        self.servers[server].freeze();
    }

    fn thaw(&self, server: usize) {
        self.servers[server].thaw();
    }

    fn crash(&self, server: usize) {
        Server::crash_and_recover(&self.servers[server]);
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
        self.proxy_kill9();
    }

    fn stop_proxy(&self) {
        self.proxy_stop();
    }

    async fn start_proxy(&self) {
        self.proxy_start().await;
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
        together(books)
    }

    fn longest_silence(books: &Outcome) -> Duration {
        books.longest_silence()
    }

    fn check(books: &Outcome, seen: Seen) {
        match seen {
            Seen::Nothing => books.nobody_noticed(),
            Seen::Retries => {
                books.nobody_was_disconnected();
                books.failed_only_with(&[AGAIN]);
            }
            Seen::Breaks => books.failed_only_with(&GONE),
            Seen::BreaksAndRetries => books.failed_only_with(&[&GONE[..], &[AGAIN]].concat()),
        }
    }

    async fn judge(&self, books: &Outcome) {
        books.judge(self).await;
    }

    async fn all_equal(&self) {
        self.assert_all_equal().await;
    }

    async fn all_hold_the_same(&self) {
        let names: Vec<String> = self.servers.iter().map(|s| s.name.clone()).collect();
        self.assert_equal_on(&names).await;
    }
}
