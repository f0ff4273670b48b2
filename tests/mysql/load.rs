//! A mixed load of many clients that keeps book of what it was promised, as `tests/e2e/rig/load.rs`
//! does for PostgreSQL.
//!
//! *Strict* clients do nothing that may fail on one server, at READ COMMITTED, so that every error they
//! see is the proxy's. *Wild* ones do what applications do. Every transaction carries a token into the
//! table `ledger`; `judge` looks for the tokens afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Cluster, run, value};

const TABLES: &[&str] = &[
    "create table ledger(id bigint auto_increment primary key, token varchar(40) not null,
     ctr int, at timestamp(6) default now(6), key (token))",
    "create table counter(id int primary key, n bigint not null default 0)",
    "insert into counter(id) values (1),(2),(3),(4),(5),(6),(7),(8)",
    "create table account(id int primary key, balance bigint not null, touched timestamp(6))",
    "insert into account(id, balance) values (1,1000),(2,1000),(3,1000),(4,1000),(5,1000)",
    "create table item(id bigint auto_increment primary key, grp int not null, x int not null,
     noise double, at timestamp(6) default now(6) on update now(6), key (grp))",
    "create table parent(id int primary key, v int not null default 0)",
    "create table child(id bigint auto_increment primary key, pid int, x int,
     foreign key (pid) references parent(id) on delete cascade)",
    "create table uq(k int primary key, email varchar(20) unique, n int not null default 0)",
];

/// What all accounts hold together, whatever happens.
const BANK: &str = "5000";

/// One client's book.
#[derive(Default)]
struct Book {
    acknowledged: Vec<(String, Instant)>,
    /// Tokens that must be nowhere, and why.
    refused: Vec<(String, String)>,
    /// Tokens of commits that got no answer.
    unknown: Vec<String>,
    /// Errors that a strict client saw, and others that none should.
    failures: Vec<(u16, String)>,
    drops: usize,
}

struct Client {
    number: usize,
    /// Which of several loads on the same tables it belongs to.
    load: u32,
    cluster: Arc<Cluster>,
    dice: StdRng,
    conn: Option<Conn>,
    committing: bool,
    book: Book,
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Book>>,
    cluster: Arc<Cluster>,
}

/// What became of a load.
pub(crate) struct Outcome {
    books: Vec<Book>,
}

impl Load {
    /// Makes the tables and starts the clients; the even ones are strict.
    pub(crate) async fn start(cluster: &Arc<Cluster>, clients: usize) -> Self {
        let mut conn = cluster.connect().await;
        for table in TABLES {
            run(&mut conn, table).await;
        }
        Self::again(cluster, clients)
    }

    /// Starts clients on the tables of an earlier load.
    pub(crate) fn again(cluster: &Arc<Cluster>, clients: usize) -> Self {
        static LOADS: AtomicU32 = AtomicU32::new(0);
        let load = LOADS.fetch_add(1, Ordering::Relaxed);
        let seed = std::env::var("LOCKSTEP_E2E_SEED").ok().and_then(|s| s.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
        println!("a load of {clients} clients, LOCKSTEP_E2E_SEED={seed}");
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..clients).map(|number| {
            let client = Client {
                number,
                load,
                cluster: cluster.clone(),
                dice: StdRng::seed_from_u64(seed + number as u64 * 7919),
                conn: None,
                committing: false,
                book: Book::default(),
            };
            tokio::spawn(client.work(stop.clone(), commits.clone()))
        });
        let clients = clients.collect();
        Self { stop, commits, clients, cluster: cluster.clone() }
    }

    /// Waits until this many more transactions are acknowledged: proof that service goes on.
    pub(crate) async fn goes_on(&self, more: u64, limit: Duration) {
        let goal = self.commits.load(Ordering::Relaxed) + more;
        let end = Instant::now() + limit;
        while self.commits.load(Ordering::Relaxed) < goal {
            let now = self.commits.load(Ordering::Relaxed);
            assert!(Instant::now() < end, "{now} of {goal} commits within {limit:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets every client finish its transaction.
    pub(crate) async fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut books = Vec::new();
        for (number, client) in self.clients.into_iter().enumerate() {
            match tokio::time::timeout(Duration::from_secs(40), client).await {
                Ok(book) => books.push(book.unwrap()),
                Err(_) => panic!("client {number} hangs; {}", self.cluster.who_waits()),
            }
        }
        Outcome { books }
    }
}

impl Client {
    async fn work(mut self, stop: Arc<AtomicBool>, commits: Arc<AtomicU64>) -> Book {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            if self.conn.is_none() && !self.reconnect().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            count += 1;
            let token = format!("{}-{}-{count}", self.load, self.number);
            self.committing = false;
            let done =
                if self.strict() { self.ledger(&token).await } else { self.wild(&token).await };
            match done {
                Ok(()) => {
                    self.book.acknowledged.push((token, Instant::now()));
                    commits.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.failed(token, error).await,
            }
            let pause = self.dice.random_range(0..10);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.book
    }

    fn strict(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    async fn reconnect(&mut self) -> bool {
        let Ok(mut conn) = self.cluster.try_connect().await else { return false };
        // InnoDB does not see every deadlock about the next number of AUTO_INCREMENT: a wait has to end by itself.
        let setting = match self.strict() {
            true => "set session transaction isolation level read committed",
            false => "set session innodb_lock_wait_timeout = 10",
        };
        if conn.query_drop(setting).await.is_err() {
            return false;
        }
        self.conn = Some(conn);
        true
    }

    async fn failed(&mut self, token: String, error: Error) {
        let number = match &error {
            Error::Server(error) => Some(error.code),
            _ => None,
        };
        match number {
            None if self.committing => self.book.unknown.push(token),
            // A COMMIT whose outcome nobody knows says so.
            Some(1053 | 1180 | 2013) if self.committing => self.book.unknown.push(token),
            _ => self.book.refused.push((token, format!("client {}: {error}", self.number))),
        }
        match number {
            None => {
                self.book.drops += 1;
                self.conn = None;
                return;
            }
            // To be run again: what applications know of one server. A deadlock about the next number
            // of AUTO_INCREMENT is called 1467. REPLACE in a table with two unique keys gives 1062 now and
            // then where several do it at once: it writes over the row that it met by the second key, and
            // somebody has brought the first one meanwhile. One server alone does so as well.
            Some(1213 | 1205 | 1467 | 1062) if !self.strict() => {}
            Some(number) => {
                self.book.failures.push((number, format!("client {}: {error}", self.number)));
            }
        }
        // What comes next must not find itself in a transaction that this one has left open: it would
        // be taken for committed, and go with whatever fails after it.
        let left = self.simple("rollback").await.is_err();
        if left || self.simple("set autocommit = 1").await.is_err() {
            self.conn = None;
        }
    }

    fn conn(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("connected")
    }

    async fn simple(&mut self, sql: impl AsRef<str>) -> Result<(), Error> {
        self.conn().query_drop(sql.as_ref()).await
    }

    async fn commit(&mut self) -> Result<(), Error> {
        self.committing = true;
        self.simple("commit").await
    }

    /// A counter, and a row that names it.
    async fn ledger(&mut self, token: &str) -> Result<(), Error> {
        let counter = self.dice.random_range(1..=8);
        self.simple("start transaction").await?;
        let insert = "insert into ledger(token, ctr) values(?, ?)";
        self.conn().exec_drop(insert, (token, counter)).await?;
        self.conn().exec_drop("update counter set n = n + 1 where id = ?", (counter,)).await?;
        self.commit().await
    }

    async fn wild(&mut self, token: &str) -> Result<(), Error> {
        if self.dice.random_bool(0.2) {
            self.committing = true;
            let insert = format!("insert into ledger(token) values('{token}')");
            return self.simple(insert).await;
        }
        let unasked = self.dice.random_bool(0.3);
        let begin = if unasked { "set autocommit = 0" } else { "start transaction" };
        self.simple(begin).await?;
        self.simple(format!("insert into ledger(token) values('{token}')")).await?;
        for _ in 0..self.dice.random_range(1..=3) {
            self.action().await?;
        }
        self.commit().await?;
        // It has happened, whatever becomes of this: a server that dies between the two takes the session's
        // user variables along, and the next statement is told so.
        if self.simple("set autocommit = 1").await.is_err() {
            self.conn = None;
        }
        Ok(())
    }

    async fn action(&mut self) -> Result<(), Error> {
        let a = self.dice.random_range(1..=5);
        let b = self.dice.random_range(1..=5);
        match self.dice.random_range(0..9) {
            0 => {
                let take =
                    "update account set balance = balance - ?, touched = now(6) where id = ?";
                self.conn().exec_drop(take, (b, a)).await?;
                self.simple(format!("update account set balance = balance + {b} where id = {b}"))
                    .await
            }
            1 => {
                let rows = "insert into item(grp, x, noise) values(?, ?, rand()), (?, ?, rand())";
                self.conn().exec_drop(rows, (a, b, b, a)).await
            }
            2 => self.simple(format!("update item set x = x + 1 where grp = {a} and x < 40")).await,
            3 => self.simple(format!("delete from item where grp = {a} and x > {}", b * 7)).await,
            4 => {
                let upsert =
                    "insert into uq(k, email) values(?, ?) on duplicate key update n = n + 1";
                self.conn().exec_drop(upsert, (a, format!("e{b}"))).await
            }
            5 => self.simple(format!("replace into uq(k, email, n) values({b}, 'e{a}', 0)")).await,
            6 => {
                self.simple(format!("insert ignore into parent(id, v) values({a}, {b})")).await?;
                self.simple(format!("insert into child(pid, x) values({a}, last_insert_id())"))
                    .await?;
                self.simple(format!("delete from parent where id = {b} and v <> {a}")).await
            }
            7 => {
                self.simple("savepoint s").await?;
                self.simple(format!("delete from uq where k <= {a}")).await?;
                self.simple("rollback to savepoint s").await
            }
            _ => {
                self.simple(format!("select max(x) into @m from item where grp = {a}")).await?;
                let rows = "insert into item(grp, x) select grp, coalesce(@m, 0) from item
                            where grp = 3 order by id limit 2";
                self.simple(rows).await
            }
        }
    }
}

impl Outcome {
    pub(crate) fn acknowledged(&self) -> usize {
        self.books.iter().map(|book| book.acknowledged.len()).sum()
    }

    /// Several loads one after the other on the same tables, judged as one.
    pub(crate) fn together(outcomes: Vec<Self>) -> Self {
        Self { books: outcomes.into_iter().flat_map(|outcome| outcome.books).collect() }
    }

    /// The longest time in which nobody was told that a commit went through.
    pub(crate) fn longest_silence(&self) -> Duration {
        let all = self.books.iter().flat_map(|book| &book.acknowledged);
        let mut times: Vec<Instant> = all.map(|(_, at)| *at).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// No error but these and what is a client's own affair.
    pub(crate) fn failed_only_with(&self, allowed: &[u16]) {
        let failures = self.books.iter().flat_map(|book| &book.failures);
        let strange: Vec<&String> = failures
            .filter(|(number, _)| !allowed.contains(number))
            .map(|(_, text)| text)
            .collect();
        assert!(strange.is_empty(), "{strange:#?}");
    }

    pub(crate) fn nobody_was_disconnected(&self) {
        assert_eq!(self.books.iter().map(|book| book.drops).sum::<usize>(), 0, "connections lost");
    }

    /// What is there is what was promised: every acknowledged transaction, none that was refused.
    pub(crate) async fn judge(&self, cluster: &Cluster) {
        let mut conn = cluster.connect().await;
        let tokens: Vec<String> = conn.query("select token from ledger order by id").await.unwrap();
        let there: BTreeSet<&String> = tokens.iter().collect();
        assert_eq!(there.len(), tokens.len(), "a transaction happened twice");
        for book in &self.books {
            for (token, _) in &book.acknowledged {
                if !there.contains(token) {
                    panic!("{token} was acknowledged and is missing; {}", who_has(cluster, token));
                }
            }
            for (token, why) in &book.refused {
                if there.contains(token) {
                    panic!("{token} failed ({why}) and is there; {}", who_has(cluster, token));
                }
            }
        }
        assert_eq!(value(&mut conn, "select sum(balance) from account").await, BANK);
        let counters = "select count(*) from counter c
                        where n <> (select count(*) from ledger l where l.ctr = c.id)";
        assert_eq!(value(&mut conn, counters).await, "0");
        let unknown: usize = self.books.iter().map(|book| book.unknown.len()).sum();
        println!("{} acknowledged, {unknown} in doubt", self.acknowledged());
    }
}

/// What each server knows of a token, and how far its journal is: to find out who lost it.
fn who_has(cluster: &Cluster, token: &str) -> String {
    let ask = format!(
        "select (select count(*) from app.ledger where token = '{token}'), \
         (select group_concat(seq) from lockstep.journal where entry like '%{token}%'), \
         (select max(seq) from lockstep.journal), (select complete_to from lockstep.control)"
    );
    let each = cluster.servers.iter().map(|server| server.try_root(&ask));
    format!("by server, rows, records, newest, complete: {:?}", each.collect::<Vec<_>>())
}
