//! Real servers for the tests: two of them, shared by the tests that run at the same time and stopped with the last.

use lockstep::store::capture::{Captured, CapturedRow, captured};
use lockstep::store::changes::Changes;
use lockstep::store::journal::{self, Effect, Entry};
use lockstep::store::{compare, control};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tempfile::TempDir;
use tokio_postgres::error::DbError;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

pub(crate) const TOKEN: &str = "the proxy's secret";
pub(crate) const CAPTURE_TOKEN: &str = "the capture's secret";
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// One PostgreSQL server, reached through a socket in its own folder.
pub(crate) struct Server {
    folder: TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("ls").tempdir_in("/tmp").unwrap();
        run(Command::new("chown").arg("postgres").arg(folder.path()));
        let data = folder.path().join("data");
        run(as_postgres("initdb")
            .args(["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N", "-D"])
            .arg(&data));
        let settings = format!(
            "listen_addresses=''\nunix_socket_directories='{}'\nfsync=off\nshared_buffers=32MB\nmax_connections=60\n",
            folder.path().display()
        );
        std::fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        let log = folder.path().join("log");
        run(as_postgres("pg_ctl").args(["-w", "start", "-D"]).arg(&data).arg("-l").arg(log));
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("host={} user=postgres dbname={database}", self.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.folder.path().join("data");
        let _ = as_postgres("pg_ctl").args(["-m", "immediate", "stop", "-D"]).arg(data).status();
    }
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(format!("{BIN}/{program}"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/tmp");
    command
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Two servers, and in each a database of the test's own.
pub(crate) struct Pair {
    pub(crate) servers: Arc<[Server; 2]>,
    pub(crate) database: String,
}

impl Pair {
    /// Empty databases.
    pub(crate) async fn bare() -> Self {
        static SERVERS: Mutex<Weak<[Server; 2]>> = Mutex::new(Weak::new());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let servers = tokio::task::spawn_blocking(|| {
            let mut kept = SERVERS.lock().unwrap();
            kept.upgrade().unwrap_or_else(|| {
                let fresh = Arc::new([Server::start(), Server::start()]);
                *kept = Arc::downgrade(&fresh);
                fresh
            })
        });
        let pair = Self {
            servers: servers.await.unwrap(),
            database: format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed)),
        };
        for server in pair.servers.iter() {
            let (admin, _) = connect(server, "postgres", "postgres").await;
            admin.batch_execute(&format!("CREATE DATABASE {}", pair.database)).await.unwrap();
        }
        pair
    }

    /// Databases with lockstep in them.
    pub(crate) async fn new() -> Self {
        let pair = Self::bare().await;
        for place in 0..2 {
            let admin = pair.admin(place).await;
            control::install(&admin).await.unwrap();
            control::install_tokens(&admin, TOKEN, CAPTURE_TOKEN).await.unwrap();
        }
        pair
    }

    pub(crate) async fn admin(&self, place: usize) -> Client {
        connect(&self.servers[place], &self.database, "postgres").await.0
    }

    /// Runs the same on both, as DDL does.
    pub(crate) async fn both(&self, sql: &str) {
        for place in 0..2 {
            self.admin(place).await.batch_execute(sql).await.unwrap();
        }
    }

    /// A role that no other test has.
    pub(crate) async fn user(&self, name: &str) -> String {
        let user = format!("{name}_{}", self.database);
        self.both(&format!("CREATE ROLE {user} LOGIN; GRANT CREATE ON SCHEMA public TO {user}"))
            .await;
        user
    }

    pub(crate) async fn assert_equal(&self) {
        let a = compare::content(&self.admin(0).await).await.unwrap();
        let b = compare::content(&self.admin(1).await).await.unwrap();
        assert_eq!(compare::diff(&a, &b), Vec::<String>::new());
    }
}

type Notices = Arc<Mutex<Vec<DbError>>>;

pub(crate) async fn connect(server: &Server, database: &str, user: &str) -> (Client, Notices) {
    let mut config = Config::new();
    config
        .host_path(server.path())
        .user(user)
        .dbname(database)
        .connect_timeout(Duration::from_secs(10));
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let notices = Notices::default();
    let kept = notices.clone();
    tokio::spawn(async move {
        let mut messages =
            futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
            if let AsyncMessage::Notice(notice) = message {
                kept.lock().unwrap().push(notice);
            }
        }
    });
    (client, notices)
}

/// A session of the leader with the capture, the way the proxy has it.
pub(crate) struct Leader {
    pub(crate) client: Client,
    pub(crate) notices: Notices,
    pub(crate) mark: String,
    token: String,
}

impl Leader {
    pub(crate) async fn new(pair: &Pair, user: &str) -> Self {
        let (client, notices) = connect(&pair.servers[0], &pair.database, user).await;
        let row = client.query_one(journal::MARK_SQL, &[&TOKEN, &"a word"]).await.unwrap();
        Self { client, notices, mark: row.get(0), token: TOKEN.into() }
    }

    /// Runs statements in one transaction and gives what the followers are to be sent.
    pub(crate) async fn capture(&self, sql: &str) -> Vec<Effect> {
        match self.try_capture(sql).await {
            Ok(effects) => effects,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    /// The same, for statements that the leader itself may refuse.
    pub(crate) async fn try_capture(
        &self,
        sql: &str,
    ) -> Result<Vec<Effect>, tokio_postgres::Error> {
        self.notices.lock().unwrap().clear();
        self.client.batch_execute(&format!("BEGIN; {}", journal::CAPTURE_ON_SQL)).await.unwrap();
        if let Err(error) = self.client.batch_execute(sql).await {
            self.client.batch_execute("ROLLBACK").await.unwrap();
            return Err(error);
        }
        let counted: String =
            self.client.query_one(journal::CAPTURED_SQL, &[]).await.unwrap().get(0);
        self.client.batch_execute("COMMIT").await.unwrap();
        let mut changes = Changes::new(0);
        self.rows().into_iter().for_each(|row| changes.push(row));
        let mut entry = Entry::default();
        entry.push_changes(changes.settle(counted.parse().unwrap()).unwrap());
        Ok(Entry::decode(&entry.encode()).unwrap().effects)
    }

    pub(crate) fn rows(&self) -> Vec<CapturedRow> {
        let row = |captured| match captured {
            Captured::Row(row) => Some(row),
            Captured::Ddl { .. } | Captured::Filled(_) => None,
            Captured::Unreadable => panic!("unreadable"),
        };
        self.captured().into_iter().filter_map(row).collect()
    }

    pub(crate) fn ddl(&self) -> Vec<(String, bool)> {
        let ddl = |captured| match captured {
            Captured::Ddl { tag, temporary } => Some((tag, temporary)),
            _ => None,
        };
        self.captured().into_iter().filter_map(ddl).collect()
    }

    fn captured(&self) -> Vec<Captured> {
        let notices = self.notices.lock().unwrap();
        notices.iter().filter_map(|notice| read(notice, &self.mark)).collect()
    }

    /// Sends effects to a follower.
    pub(crate) async fn apply(
        &self,
        follower: &Client,
        effects: &[Effect],
    ) -> Result<(), tokio_postgres::Error> {
        let types = [Type::TEXT, Type::TEXT, Type::TEXT, Type::TEXT_ARRAY, Type::TEXT_ARRAY];
        let apply = follower.prepare_typed(journal::APPLY_SQL, &types).await?;
        for effect in effects {
            let Effect::Rows { relation, op, old, new } = effect else { panic!("{effect:?}") };
            follower.execute(&apply, &[&self.token, relation, &op.letter(), old, new]).await?;
        }
        Ok(())
    }

    /// The way of a captured statement from end to end, unless the leader refuses it; says whether it went.
    pub(crate) async fn replicate_if_possible(
        &self,
        pair: &Pair,
        follower: &Client,
        sql: &str,
    ) -> bool {
        let Ok(effects) = self.try_capture(sql).await else {
            return false;
        };
        if let Err(error) = self.apply(follower, &effects).await {
            let mut sent = format!("{effects:?}");
            sent.truncate(2000);
            panic!("{sql}: {error:?} in {}: {sent}", pair.database);
        }
        true
    }

    /// The same for what the leader must not refuse.
    pub(crate) async fn replicate(&self, pair: &Pair, follower: &Client, sql: &str) {
        if !self.replicate_if_possible(pair, follower, sql).await {
            self.capture(sql).await;
        }
    }
}

fn read(notice: &DbError, mark: &str) -> Option<Captured> {
    let field = |text: Option<&str>| text.unwrap_or_default().as_bytes().to_vec();
    let fields = [
        (b'C', field(Some(notice.code().code()))),
        (b'M', field(Some(notice.message()))),
        (b'D', field(notice.detail())),
        (b'H', field(notice.hint())),
        (b's', field(notice.schema())),
        (b't', field(notice.table())),
        (b'c', field(notice.column())),
    ];
    let fields: Vec<(u8, &[u8])> =
        fields.iter().map(|(letter, text)| (*letter, &text[..])).collect();
    captured(&fields, mark)
}
