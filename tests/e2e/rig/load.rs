//! A mixed load of many sessions that keeps book of what it was promised.
//!
//! Two sorts of sessions run side by side. The *strict* ones do nothing that may fail on one server
//! (locks are taken in one order, keys never collide), so every error they see is the proxy's. The
//! *wild* ones do what applications do: predicates, upserts, cascades, volatile defaults, deadlocks
//! among themselves.
//!
//! Every transaction carries a token into the append-only table `ledger`; `judge` looks for the
//! tokens afterwards.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Error, Statement};

use super::cluster::Cluster;
use super::server::DATABASE;
use super::session::{Session, code_of, explain};
use super::{runtime, secs, step, unique};

/// The tables of the load. Account balances sum up to [`BANK`]; `counter.n` is the number of ledger
/// rows that name the counter.
const TABLES: &str = "
    create table ledger(id bigserial primary key, token text not null, ctr int, at timestamptz not null default clock_timestamp());
    create index on ledger(token);
    create table counter(id int primary key, n bigint not null default 0);
    insert into counter(id) select g from generate_series(1, 12) g;
    create table account(id int primary key, balance bigint not null, touched timestamptz default now());
    insert into account(id, balance) select g, 1000 from generate_series(1, 20) g;
    create table item(id bigserial primary key, grp int not null, x int not null, noise float default random(),
                      uid uuid default gen_random_uuid(), at timestamptz default clock_timestamp());
    create index on item(grp);
    create table parent(id int primary key, v int not null default 0);
    create table child(id bigserial primary key, pid int references parent(id) on delete cascade, x int, y int,
                       r float default random(), at timestamptz default clock_timestamp());
    create table uq(k int primary key, email text unique, n int);
    create table job(id serial primary key, state text default 'new', owner int);";

/// What all accounts hold together, whatever happens.
pub(crate) const BANK: i64 = 20_000;

/// How a transaction ended, as its session saw it.
pub(crate) enum End {
    Committed,
    /// The session itself took it back.
    RolledBack,
}

/// A failure that a session saw.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) wild: bool,
    /// The SQLSTATE; `-` when the connection ended without one.
    pub(crate) code: String,
    pub(crate) text: String,
}

/// One session's book.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) acknowledged: Vec<(String, Instant)>,
    /// Tokens that must be nowhere: rolled back, or failed with a clear answer.
    pub(crate) refused: Vec<String>,
    /// Tokens of commits that got no answer.
    pub(crate) unknown: Vec<String>,
    /// What was told of those that did not end well, by token.
    pub(crate) told: HashMap<String, String>,
    pub(crate) failures: Vec<Failure>,
    /// Connections that ended under the session's feet.
    pub(crate) drops: Vec<String>,
    /// Own writes that were not there when looked for.
    pub(crate) stale: Vec<String>,
}

/// One session of the load.
pub(crate) struct Worker {
    pub(crate) number: usize,
    wild: bool,
    cluster: Arc<Cluster>,
    pub(crate) dice: StdRng,
    open: Option<Arc<Open>>,
    book: Book,
    load: u32,
    transactions: u32,
    /// Whether what was sent last may have committed.
    committing: bool,
    shared: Arc<Shared>,
}

/// An open connection with the statements it keeps prepared.
pub(crate) struct Open {
    pub(crate) session: Session,
    pub(crate) add: Statement,
    pub(crate) count: Statement,
    pub(crate) look: Statement,
}

struct Shared {
    stop: AtomicBool,
    commits: AtomicU64,
    doing: Vec<Mutex<String>>,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Book>>,
}

/// All sessions' books after the load.
pub(crate) struct Outcome {
    pub(crate) books: Vec<Book>,
}

impl Load {
    /// Makes the tables and starts the sessions, half of them strict and half wild.
    pub(crate) async fn start(cluster: &Arc<Cluster>, sessions: usize) -> Self {
        cluster.connect().await.run(TABLES).await;
        Self::again(cluster, sessions)
    }

    /// Starts sessions on the tables of an earlier load.
    pub(crate) fn again(cluster: &Arc<Cluster>, sessions: usize) -> Self {
        let seed = std::env::var("LOCKSTEP_E2E_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
        step(format!("a load of {sessions} sessions, LOCKSTEP_E2E_SEED={seed}"));
        let doing = (0..sessions).map(|_| Mutex::default()).collect();
        let shared =
            Arc::new(Shared { stop: AtomicBool::new(false), commits: AtomicU64::new(0), doing });
        let load = unique();
        let workers = (0..sessions).map(|number| {
            let worker = Worker {
                number,
                wild: number % 2 == 1,
                cluster: Arc::clone(cluster),
                dice: StdRng::seed_from_u64(seed + number as u64 * 7919),
                open: None,
                book: Book::default(),
                load,
                transactions: 0,
                committing: false,
                shared: Arc::clone(&shared),
            };
            runtime().spawn(worker.work())
        });
        let workers = workers.collect();
        Self { shared, workers }
    }

    /// Transactions acknowledged so far.
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Waits until this many more transactions are acknowledged: proof that service goes on.
    pub(crate) async fn goes_on(&self, more: u64, limit: Duration) {
        let goal = self.commits() + more;
        super::eventually(&format!("{more} more commits"), limit, || async {
            let now = self.commits();
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal}\n{}", self.whereabouts()))
            }
        })
        .await;
    }

    fn whereabouts(&self) -> String {
        let doing = self.shared.doing.iter().enumerate();
        let lines = doing.map(|(i, d)| format!("  session {i}: {}", d.lock().unwrap()));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Lets every session finish its transaction; one that hangs fails the test.
    pub(crate) async fn stop(mut self) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut books = Vec::new();
        let end = tokio::time::Instant::now() + secs(30);
        for worker in &mut self.workers {
            if let Ok(book) = tokio::time::timeout_at(end, worker).await {
                books.push(book.expect("a session does not panic"));
            }
        }
        let all = books.len() == self.workers.len();
        assert!(all, "sessions hang:\n{}", self.whereabouts());
        let outcome = Outcome { books };
        step(outcome.summary());
        outcome
    }
}

impl Worker {
    async fn work(mut self) -> Book {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.open.is_none() && !self.reconnect().await {
                self.pause(60).await;
                continue;
            }
            self.transactions += 1;
            let token = format!("{}-{}-{}", self.load, self.number, self.transactions);
            self.committing = false;
            let end = if self.wild { self.wild(&token).await } else { self.strict(&token).await };
            self.enter(token, end).await;
            self.pause(12).await;
        }
        self.doing("finished");
        self.book
    }

    async fn reconnect(&mut self) -> bool {
        self.doing("connecting");
        let opened = self.cluster.try_connect("app", "app", DATABASE).await;
        let prepared = match opened {
            Ok(session) => Open::prepare(session).await,
            Err(e) => Err(e),
        };
        match prepared {
            Ok(open) => {
                self.open = Some(Arc::new(open));
                true
            }
            Err(e) => {
                self.fail(&e);
                false
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        let code = code_of(error).unwrap_or_else(|| "-".into());
        let doing = self.shared.doing[self.number].lock().unwrap().clone();
        let text = format!("session {} at [{doing}]: {}", self.number, explain(error));
        self.book.failures.push(Failure { wild: self.wild, code, text });
    }

    /// Enters the transaction into the book.
    async fn enter(&mut self, token: String, end: Result<End, Error>) {
        match end {
            Ok(End::Committed) => {
                self.book.acknowledged.push((token.clone(), Instant::now()));
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                if self.dice.random_bool(0.2) {
                    self.look_for(&token).await;
                }
            }
            Ok(End::RolledBack) => self.book.refused.push(token),
            Err(error) => {
                let code = code_of(&error).unwrap_or_default();
                // Without an answer, or with one that says that nothing is known, both ends are
                // possible.
                let doing = self.shared.doing[self.number].lock().unwrap().clone();
                self.book.told.insert(token.clone(), format!("at [{doing}]: {}", explain(&error)));
                let unclear = code.is_empty() || code.starts_with("08") || code.starts_with("57P");
                if self.committing && unclear {
                    self.book.unknown.push(token);
                } else {
                    self.book.refused.push(token);
                }
                self.fail(&error);
                self.recover(&error).await;
            }
        }
    }

    /// After an error: out of the transaction, or to a new connection when this one is gone.
    async fn recover(&mut self, error: &Error) {
        self.doing("rollback after an error");
        let alive = match self.open.as_deref() {
            Some(open) if !error.is_closed() && !open.session.is_closed() => {
                open.session.batch_execute("rollback").await.is_ok()
            }
            _ => false,
        };
        if !alive {
            self.book.drops.push(format!("session {}: {}", self.number, explain(error)));
            self.open = None;
        }
    }

    /// What this session was told is committed must be there for it at once, wherever the read
    /// goes.
    async fn look_for(&mut self, token: &str) {
        self.doing(format!("looking for {token}"));
        let Some(open) = self.open.clone() else {
            return;
        };
        match open.session.query_one(&open.look, &[&token]).await {
            Ok(row) => {
                let found: i64 = row.get(0);
                if found != 1 {
                    self.book.stale.push(format!("{token}: {found} times"));
                }
            }
            Err(error) => {
                self.fail(&error);
                self.recover(&error).await;
            }
        }
    }

    // Words for `strict` and `wild`.

    pub(crate) fn doing(&self, what: impl Into<String>) {
        *self.shared.doing[self.number].lock().unwrap() = what.into();
    }

    pub(crate) fn open(&self) -> Arc<Open> {
        Arc::clone(self.open.as_ref().expect("connected"))
    }

    /// One statement string in the simple protocol.
    pub(crate) async fn simple(&mut self, sql: impl AsRef<str>) -> Result<(), Error> {
        let sql = sql.as_ref();
        self.doing(sql);
        self.open().session.batch_execute(sql).await
    }

    /// One statement that commits by itself, or a COMMIT.
    pub(crate) async fn final_simple(&mut self, sql: impl AsRef<str>) -> Result<End, Error> {
        self.committing = true;
        self.simple(sql).await.map(|()| End::Committed)
    }

    /// From here on, what is sent may commit.
    pub(crate) fn commits_now(&mut self) {
        self.committing = true;
    }

    /// Up to so many milliseconds of nothing.
    pub(crate) async fn pause(&mut self, most: u64) {
        let time = self.dice.random_range(0..=most);
        tokio::time::sleep(Duration::from_millis(time)).await;
    }
}

impl Open {
    async fn prepare(session: Session) -> Result<Self, Error> {
        let add = session.prepare("insert into ledger(token, ctr) values ($1, $2)").await?;
        let count = session.prepare("update counter set n = n + 1 where id = $1").await?;
        let look = session.prepare("select count(*) from ledger where token = $1").await?;
        Ok(Self { session, add, count, look })
    }
}
