//! A simulated application: transactions of all kinds, and exact notes of what it was told.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::client::Said;
use crate::proxy::Line;
use crate::tables::OWN;
use crate::world::{World, locked};

/// No answer takes longer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(200);

/// What an application knows of a transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    Failed,
    InDoubt,
}

/// What a transaction changed, if it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delta {
    Account(i64, i64),
    Counter(i64, i64),
    Event(i64),
    Job(i64),
    /// Its own row in `note`.
    Note,
}

/// One transaction.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    /// By which it is known whether it is there.
    pub(crate) mark: i64,
    pub(crate) deltas: Vec<Delta>,
    pub(crate) outcome: Outcome,
}

/// Why a statement brought nothing.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The connection is gone.
    Lost,
    /// SQLSTATE.
    Error(String),
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) rows: Vec<Vec<i64>>,
    pub(crate) tag: String,
}

/// What is left of an application when it has ended.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) deeds: Vec<Deed>,
    /// The counter that only this one moves: by how much at the least, and at the most.
    pub(crate) own: (i64, i64, i64),
}

pub(crate) struct App {
    pub(crate) world: Arc<World>,
    pub(crate) number: i64,
    pub(crate) dice: StdRng,
    line: Option<Line>,
    notes: Notes,
    count: i64,
}

impl App {
    pub(crate) fn new(world: Arc<World>, number: i64) -> Self {
        let dice = world.fork();
        let notes = Notes { own: (OWN + number, 0, 0), ..Notes::default() };
        Self { world, number, dice, line: None, notes, count: 0 }
    }

    pub(crate) fn chance(&mut self, one_in: u32) -> bool {
        self.dice.random_ratio(1, one_in)
    }

    /// Does its deeds, one after the other.
    pub(crate) async fn work(mut self) -> Notes {
        for _ in 0..self.world.scenario.deeds {
            let pause = self.dice.random_range(0..self.world.scenario.pause_ms);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.count += 1;
            let mark = self.number * 10_000 + self.count;
            match self.dice.random_range(0..10) {
                // What is there to wait for others with is sent at the same time as they do.
                _ if self.world.scenario.inserts => self.insert(mark).await,
                0 => self.alone(mark).await,
                1 => self.several(mark).await,
                2 => self.own().await,
                3 => self.look().await,
                _ => {
                    let mut deed = Deed { mark, deltas: Vec::new(), outcome: Outcome::Failed };
                    deed.outcome = self.explicit(&mut deed).await;
                    self.note(deed);
                }
            }
        }
        self.notes
    }

    /// One row, now and then one that cannot be: that is nobody else's error.
    async fn insert(&mut self, mark: i64) {
        let app = self.number;
        let text = |mark: i64| format!("INSERT INTO note (id, client) VALUES ({mark}, {app})");
        let known = self.notes.deeds.iter().rev().find(|d| d.outcome == Outcome::Acknowledged);
        if let Some(known) = known.map(|deed| deed.mark)
            && self.chance(6)
        {
            if let Ok(reply) = self.ask(&text(known), None).await {
                self.world.complain(format!("{known} is there twice: {reply:?}"));
            }
            return;
        }
        let done = self.ask(&text(mark), Some(mark)).await;
        if let Err(Trouble::Error(code)) = &done
            && matches!(&**code, "23505" | "57014")
        {
            self.world.complain(format!("app {app} was told another one's error: {code}"));
        }
        self.note(Deed { mark, deltas: vec![Delta::Note], outcome: Self::outcome(&done) });
    }

    fn note(&mut self, deed: Deed) {
        self.world.trace(&format!("== app {} {deed:?}", self.number));
        self.notes.deeds.push(deed);
    }

    /// Sends a text and waits for the whole answer.
    pub(crate) async fn ask(&mut self, sql: &str, commits: Option<i64>) -> Result<Reply, Trouble> {
        if self.line.is_none() {
            self.line = Some(self.world.connect().await);
        }
        self.world.trace(&format!("-> app {} {sql}", self.number));
        let heard = self.hear(sql, commits).await;
        match heard {
            Ok(text) => {
                self.world.trace(&format!("<- app {} {text:?}", self.number));
                self.read(&text)
            }
            Err(trouble) => {
                self.line = None;
                // A client is disconnected only together with the proxy.
                if locked(&self.world.running).is_some() && !self.world.proxy_fell() {
                    self.world.complain(format!("app {} lost its connection", self.number));
                }
                Err(trouble)
            }
        }
    }

    async fn hear(&mut self, sql: &str, commits: Option<i64>) -> Result<String, Trouble> {
        let line = self.line.as_mut().ok_or(Trouble::Lost)?;
        let said = Said { sql: sql.to_owned(), commits };
        line.say.send(said).await.map_err(|_| Trouble::Lost)?;
        let mut text = String::new();
        while !text.lines().last().is_some_and(|line| line.starts_with("Z ")) {
            match tokio::time::timeout(PATIENCE, line.hear.recv()).await {
                Ok(Some(more)) => text.push_str(&more),
                Ok(None) => return Err(Trouble::Lost),
                Err(_) => {
                    let what = format!("app {} got no answer to {sql}", self.number);
                    self.world.complain(what);
                    return Err(Trouble::Lost);
                }
            }
        }
        Ok(text)
    }

    fn read(&mut self, text: &str) -> Result<Reply, Trouble> {
        let mut reply = Reply::default();
        for line in text.lines() {
            match line.split_at(2) {
                ("D ", row) => {
                    let numbers = row.split('|').map(|n| n.parse().expect("a number"));
                    reply.rows.push(numbers.collect());
                }
                ("C ", tag) => tag.clone_into(&mut reply.tag),
                ("E ", error) => {
                    let (code, why) = error.split_once(' ').unwrap_or((error, ""));
                    if !self.world.scenario.allows(code, why) {
                        let (app, theme) = (self.number, self.world.scenario.theme);
                        self.world.complain(format!("app {app} was told {code} {why} ({theme:?})"));
                    }
                    return Err(Trouble::Error(code.to_owned()));
                }
                _ => {}
            }
        }
        Ok(reply)
    }

    /// The application goes away without a word.
    pub(crate) fn vanish(&mut self) {
        self.line = None;
    }

    /// Sends what commits and does not wait to hear of it.
    pub(crate) async fn commit_and_vanish(&mut self) {
        if let Some(line) = self.line.take() {
            // Nobody is there to be told whether it got through.
            let _ = line.say.send(Said { sql: "COMMIT".into(), commits: None }).await;
        }
    }

    /// What the end of a transaction means to whoever waited for it.
    pub(crate) fn outcome(done: &Result<Reply, Trouble>) -> Outcome {
        match done {
            Ok(_) => Outcome::Acknowledged,
            Err(Trouble::Lost) => Outcome::InDoubt,
            Err(Trouble::Error(code)) if code == "08007" => Outcome::InDoubt,
            Err(Trouble::Error(_)) => Outcome::Failed,
        }
    }

    /// One statement that is a transaction.
    async fn alone(&mut self, mark: i64) {
        let app = self.number;
        let (sql, delta, commits) = match self.dice.random_range(0..3) {
            0 => (
                format!("INSERT INTO note (id, client) VALUES ({mark}, {app})"),
                Some(Delta::Note),
                true,
            ),
            1 => {
                let sql =
                    format!("INSERT INTO event (client, n) VALUES ({app}, {mark}) RETURNING id");
                (sql, Some(Delta::Event(mark)), true)
            }
            _ => (pop(mark), None, false),
        };
        let done = self.ask(&sql, commits.then_some(mark)).await;
        let popped = done.as_ref().ok().filter(|_| !commits);
        let mut deltas: Vec<Delta> = delta.into_iter().collect();
        if let Some(reply) = popped {
            if reply.rows.is_empty() {
                return;
            }
            deltas.extend(reply.rows.iter().map(|row| Delta::Job(row[0])));
        }
        self.note(Deed { mark, deltas, outcome: Self::outcome(&done) });
    }

    /// Several statements in one text: one transaction.
    async fn several(&mut self, mark: i64) {
        let (from, to, amount) = self.transfer();
        let sql = format!(
            "INSERT INTO note (id, client) VALUES ({mark}, {}); \
             UPDATE account SET balance = balance - {amount} WHERE id = {from}; \
             UPDATE account SET balance = balance + {amount} WHERE id = {to}",
            self.number
        );
        let deltas = vec![Delta::Note, Delta::Account(from, -amount), Delta::Account(to, amount)];
        let done = self.ask(&sql, Some(mark)).await;
        self.note(Deed { mark, deltas, outcome: Self::outcome(&done) });
    }

    /// A blind increment, of which only the count tells how often it happened.
    async fn own(&mut self) {
        let id = self.notes.own.0;
        let done = self.ask(&format!("UPDATE counter SET n = n + 1 WHERE id = {id}"), None).await;
        match Self::outcome(&done) {
            Outcome::Acknowledged => {
                self.notes.own.1 += 1;
                self.notes.own.2 += 1;
            }
            Outcome::InDoubt => self.notes.own.2 += 1,
            Outcome::Failed => {}
        }
    }

    /// Whatever any client was told is seen by every later read.
    async fn look(&mut self) {
        let known = locked(&self.world.known).clone();
        if known.is_empty() {
            return;
        }
        let mark = known[self.dice.random_range(0..known.len())];
        let reply = self.ask(&format!("SELECT client FROM note WHERE id = {mark}"), None).await;
        if let Ok(reply) = reply
            && reply.rows.len() != 1
        {
            self.world.complain(format!("a read does not see {mark}, which was acknowledged"));
        }
    }

    pub(crate) fn transfer(&mut self) -> (i64, i64, i64) {
        let from = self.dice.random_range(1..=crate::tables::ACCOUNTS);
        let to = from % crate::tables::ACCOUNTS + 1;
        (from, to, self.dice.random_range(1..20))
    }
}

/// Takes the first job that nobody has.
pub(crate) fn pop(mark: i64) -> String {
    format!(
        "UPDATE job SET owner = {mark} WHERE id = (SELECT id FROM job WHERE owner = 0 \
         ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"
    )
}
