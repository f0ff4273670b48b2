//! Bookkeeping on a MariaDB or MySQL backend: an administrator's connection, opened when it is needed
//! and again after it broke.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lockstep_protocol::Dialect;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts};
use tokio::sync::{Mutex, MutexGuard};

use crate::cluster::{Ballot, Refusal, Vote};
use crate::config::{Backend, BackendTls, Config, Live};
use crate::keeper::{Answer, Control, Examination};
use crate::sql::{Answers, Judge, informed, questions};
use crate::store::control::Sequence;
use crate::store::journal::Record;
use crate::store::mysql::control as rows;
use crate::store::mysql::{SESSION_SQL, compare, run_all, vote};
use crate::store::outside::{Fate, Kind, Remain, Task};
use crate::store::vote::Poll;

/// Records removed from the journal in one transaction.
const PRUNE_BATCH: u64 = 5000;

/// Where a control connection goes, and as whom.
#[derive(Clone, Debug)]
pub struct Address {
    opts: Opts,
}

impl Address {
    /// The administrator's way to a backend.
    pub fn of(config: &Config, backend: &Backend) -> Self {
        let admin = config.admin_of(backend);
        let opts = OptsBuilder::default()
            .ip_or_hostname(&backend.host)
            .tcp_port(backend.port)
            .user(Some(&admin.user))
            .pass(Some(admin.password.reveal()))
            .prefer_socket(false)
            .ssl_opts(tls(&backend.tls));
        Self { opts: opts.into() }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the backend cannot be reached within the limit, or refuses.
    pub async fn connect(&self, limit: Duration) -> Result<Conn, String> {
        let opened = async {
            let mut conn = Conn::new(self.opts.clone()).await?;
            run_all(&mut conn, &[SESSION_SQL]).await?;
            Ok::<_, mysql_async::Error>(conn)
        };
        let opened = tokio::time::timeout(limit, opened).await;
        opened.map_err(|_| format!("no connection within {limit:?}"))?.map_err(|e| e.to_string())
    }
}

/// How the way to the server is protected.
fn tls(mode: &BackendTls) -> Option<SslOpts> {
    let authority = |ca: &std::path::Path| {
        SslOpts::default()
            .with_root_certs(vec![ca.to_owned().into()])
            .with_disable_built_in_roots(true)
    };
    match mode {
        BackendTls::Disable => None,
        BackendTls::Require => Some(SslOpts::default().with_danger_accept_invalid_certs(true)),
        BackendTls::VerifyCa { ca } => Some(authority(ca).with_danger_skip_domain_validation(true)),
        BackendTls::VerifyFull { ca } => Some(authority(ca)),
    }
}

/// The bookkeeping of one backend.
pub struct MyControl {
    address: Address,
    live: Arc<Live>,
    conn: Mutex<Option<Conn>>,
    /// For what must not wait behind anything else: signs of life.
    pulse: Mutex<Option<Conn>>,
    /// When the server was started, as it was first computed.
    started: AtomicI64,
    /// Under which ballot the server obeys us, as far as it has said so.
    ballot: std::sync::Mutex<Ballot>,
}

impl MyControl {
    /// Bookkeeping that has no connection yet. No question takes longer than the limits in force say, except those
    /// that read or write much.
    pub fn new(address: Address, live: Arc<Live>) -> Self {
        let (conn, pulse) = (Mutex::new(None), Mutex::new(None));
        let (started, ballot) = (AtomicI64::new(0), std::sync::Mutex::default());
        Self { address, live, conn, pulse, started, ballot }
    }

    /// How long a question may take.
    fn limit(&self) -> Duration {
        self.live.bounds().probe
    }

    /// How long a sign of life may take.
    fn quick(&self) -> Duration {
        self.live.bounds().pulse
    }

    fn ballot(&self) -> Ballot {
        *self.ballot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Conn, String> {
        self.address.connect(self.limit().min(self.live.bounds().connect)).await
    }

    /// The connection, for one question. One that lay idle may have broken meanwhile: it is tried.
    async fn lend(&self) -> Result<Lent<'_>, String> {
        // The lock is held while a question is under way: a connection carries one at a time.
        let mut slot = self.conn.lock().await;
        if let Some(mut conn) = slot.take()
            && let Ok(Ok(())) = tokio::time::timeout(self.limit(), conn.ping()).await
        {
            return Ok(Lent { slot, conn });
        }
        let conn = self.connect().await?;
        Ok(Lent { slot, conn })
    }

    async fn within<T>(
        &self,
        asked: impl Future<Output = mysql_async::Result<T>>,
    ) -> Result<T, String> {
        answered(self.limit(), asked).await
    }

    async fn read_catalog(conn: &mut Conn) -> Result<Box<dyn Judge>, String> {
        // What the server shows is written with the quotes that an empty mode asks for.
        conn.query_drop("SET SESSION sql_mode = ''").await.map_err(|e| e.to_string())?;
        let mut answers = Answers::new();
        for (name, sql) in questions(Dialect::MySql) {
            answers.insert(name, text_rows(conn, sql).await.map_err(|e| e.to_string())?);
        }
        informed(Dialect::MySql, &answers)
    }
}

/// The answer to a question, within the limit.
async fn answered<T>(
    limit: Duration,
    asked: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

/// A connection under way. One whose question failed is dropped, and not used again.
struct Lent<'c> {
    slot: MutexGuard<'c, Option<Conn>>,
    conn: Conn,
}

impl Lent<'_> {
    fn keep(mut self) {
        *self.slot = Some(self.conn);
    }
}

async fn examine(conn: &mut Conn) -> mysql_async::Result<Examination> {
    let identity = rows::identity(conn).await?;
    let control = rows::read_control(conn).await?;
    let newest = match &control {
        Some(_) => {
            rows::check_layout(conn).await?;
            rows::journal_end(conn).await?
        }
        None => 0,
    };
    Ok(Examination {
        system: identity.system_identifier.unwrap_or_default(),
        started: identity.started.to_string(),
        control,
        newest,
        writable: !identity.read_only,
    })
}

/// Every column as text.
async fn text_rows(conn: &mut Conn, sql: &str) -> mysql_async::Result<Vec<Vec<Option<String>>>> {
    let rows: Vec<mysql_async::Row> = conn.query(sql).await?;
    let text = |value: mysql_async::Value| match value {
        mysql_async::Value::NULL => None,
        mysql_async::Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        // The text protocol gives nothing but bytes.
        other => Some(other.as_sql(true)),
    };
    Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
}

impl MyControl {
    async fn pulse(&self) -> Result<(MutexGuard<'_, Option<Conn>>, Conn), String> {
        let mut slot = self.pulse.lock().await;
        let conn = match slot.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        Ok((slot, conn))
    }

    async fn quickly<T>(
        &self,
        asked: impl Future<Output = mysql_async::Result<T>>,
    ) -> Result<T, String> {
        answered(self.quick(), asked).await
    }

    /// Two numbers of whole seconds are subtracted for when the server was started: one second more or less says
    /// nothing.
    fn steady(&self, seen: Examination) -> Examination {
        let mut answer = seen;
        let known = self.started.load(Ordering::Relaxed);
        let seen: i64 = answer.started.parse().unwrap_or_default();
        if known.abs_diff(seen) <= 1 {
            answer.started = known.to_string();
        } else {
            self.started.store(seen, Ordering::Relaxed);
        }
        answer
    }
}

/// What becomes of sequences where there are none.
fn no_sequences<'a>(none_meant: bool) -> Answer<'a, ()> {
    let done = if none_meant { Ok(()) } else { Err("there are no sequences here".into()) };
    Box::pin(std::future::ready(done))
}

impl Control for MyControl {
    fn glance(&self) -> Answer<'_, Examination> {
        Box::pin(async move {
            let (mut slot, mut conn) = self.pulse().await?;
            let answer = self.quickly(examine(&mut conn)).await?;
            *slot = Some(conn);
            Ok(self.steady(answer))
        })
    }

    fn examine(&self) -> Answer<'_, Examination> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(examine(&mut lent.conn)).await?;
            lent.keep();
            Ok(self.steady(answer))
        })
    }

    fn rows(&self, sql: String) -> Answer<'_, Vec<Vec<Option<String>>>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(text_rows(&mut lent.conn, &sql)).await?;
            lent.keep();
            Ok(answer)
        })
    }

    fn has_record(&self, seq: i64) -> Answer<'_, bool> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(rows::read_records(&mut lent.conn, &[seq])).await?;
            lent.keep();
            Ok(!answer.is_empty())
        })
    }

    fn poll(&self, poll: Poll) -> Answer<'_, Result<Vote, Refusal>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(vote::poll(&mut lent.conn, &poll)).await?;
            lent.keep();
            if answer.is_ok() {
                let mut obeyed = self.ballot.lock().unwrap_or_else(PoisonError::into_inner);
                *obeyed = poll.ask.ballot().max(*obeyed);
            }
            Ok(answer)
        })
    }

    fn beat(&self, ballot: Ballot, writer: String) -> Answer<'_, bool> {
        Box::pin(async move {
            let (mut slot, mut conn) = self.pulse().await?;
            let beaten = self.quickly(vote::beat(&mut conn, ballot, &writer)).await?;
            *slot = Some(conn);
            Ok(beaten)
        })
    }

    fn lay_down(&self, ballot: Ballot) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            self.within(vote::lay_down(&mut lent.conn, ballot)).await?;
            lent.keep();
            Ok(())
        })
    }

    fn probe_write(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            self.within(rows::probe_write(&mut lent.conn)).await?;
            lent.keep();
            Ok(())
        })
    }

    fn tail(&self, after: i64) -> Answer<'_, Vec<(i64, i64)>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(rows::journal_tail(&mut lent.conn, after)).await?;
            lent.keep();
            Ok(answer)
        })
    }

    fn records(&self, seqs: Vec<i64>) -> Answer<'_, Vec<Record>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(rows::read_records(&mut lent.conn, &seqs)).await?;
            lent.keep();
            Ok(answer)
        })
    }

    fn set_complete(&self, seq: i64, started: String) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            // One connection knows one server only: a restart in between would end it.
            let now = self.within(rows::identity(&mut lent.conn)).await?.started;
            if started.parse().map_or(true, |known: i64| known.abs_diff(now) > 1) {
                lent.keep();
                return Err("the server was restarted".into());
            }
            self.within(rows::set_complete(&mut lent.conn, seq, self.ballot())).await?;
            lent.keep();
            Ok(())
        })
    }

    fn prune(&self, seq: i64) -> Answer<'_, u64> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer =
                self.within(rows::prune(&mut lent.conn, seq, PRUNE_BATCH, self.ballot())).await?;
            lent.keep();
            Ok(answer)
        })
    }

    fn owner_of(&self, id: i64, after: i64, upto: i64) -> Answer<'_, Option<String>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(rows::owner_of(&mut lent.conn, id, after, upto)).await?;
            lent.keep();
            Ok(answer)
        })
    }

    fn weigh(&self, after: i64, upto: i64, bytes: u64) -> Answer<'_, Option<(i64, u64, u64)>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(rows::weigh(&mut lent.conn, after, upto, bytes)).await?;
            lent.keep();
            Ok(answer)
        })
    }

    fn first_younger(&self, age: Duration) -> Answer<'_, Option<i64>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer =
                self.within(rows::first_younger(&mut lent.conn, age.as_secs_f64())).await?;
            lent.keep();
            Ok(answer)
        })
    }

    fn outside(&self, after: i64) -> Answer<'_, Vec<Record>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            let answer = self.within(rows::outside_records(&mut lent.conn, after)).await?;
            lent.keep();
            Ok(answer)
        })
    }

    /// What the statement could change, in one word. Accounts are no part of it: each server may have its own.
    fn remains(&self, task: Task) -> Answer<'_, Vec<Remain>> {
        Box::pin(async move {
            if task.kind == Kind::Account {
                return Ok(Vec::new());
            }
            // A connection of its own: with many tables it takes longer than a question may.
            let mut conn = self.connect().await?;
            let former = task.before.first().map(String::as_str);
            let word = compare::schema_word(&mut conn, &task.sql, former);
            let read = tokio::time::timeout(self.limit() * 10, word).await;
            let word = read.map_err(|_| "the schema takes too long to read".to_owned())?;
            let name = word.map_err(|error| error.to_string())?;
            let whole = task.before.contains(&name);
            Ok(vec![Remain { name, whole }])
        })
    }

    /// What commits by itself cannot be taken back: an outcome is always ahead.
    fn clear(&self, _task: Task, _fate: Fate) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The numbers that rows are given follow the rows themselves: there is nothing to level.
    fn sequences(&self) -> Answer<'_, Vec<Sequence>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn set_sequences(&self, sequences: Vec<Sequence>) -> Answer<'_, ()> {
        no_sequences(sequences.is_empty())
    }

    fn advance_sequences(&self, values: Vec<(String, i64)>) -> Answer<'_, ()> {
        no_sequences(values.is_empty())
    }

    fn fence(&self, users: Vec<String>) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut conn = self.connect().await?;
            // As long for the sessions to end as for the server to answer.
            let limit = self.limit();
            match answered(limit * 2, rows::fence(&mut conn, &users, limit)).await? {
                0 => Ok(()),
                left => Err(format!(
                    "{left} sessions of the former writer are still there after the deadline"
                )),
            }
        })
    }

    fn catalog(&self) -> Answer<'_, Box<dyn Judge>> {
        Box::pin(async move {
            // A connection of its own: it reads in another mode than the rest.
            let mut conn = self.connect().await?;
            let read = tokio::time::timeout(self.limit() * 10, Self::read_catalog(&mut conn));
            read.await.map_err(|_| "the catalog takes too long to read".to_owned())?
        })
    }
}
