//! A client connection of the tests: `tokio_postgres` with short words around it, and the messages
//! a server sends unasked kept for the test to look at.

use std::ops::Deref;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, SimpleQueryMessage};

use super::{runtime, secs, within};

pub(crate) struct Session {
    client: Client,
    unasked: UnboundedReceiver<AsyncMessage>,
}

/// A row in text form, NULL as `None`.
pub(crate) type Row = Vec<Option<String>>;

impl Session {
    pub(crate) async fn open(
        port: u16,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Self, Error> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).user(user).password(password).dbname(database);
        config.application_name("e2e").connect_timeout(secs(20));
        Self::open_with(&config).await
    }

    pub(crate) async fn open_with(config: &Config) -> Result<Self, Error> {
        let (client, mut connection) =
            within("a connection's login", secs(30), config.connect(NoTls)).await?;
        let (keep, unasked) = unbounded_channel();
        runtime().spawn(async move {
            let mut messages = stream::poll_fn(|cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                let _ = keep.send(message);
            }
        });
        Ok(Self { client, unasked })
    }

    /// Runs statements of the simple protocol that must succeed.
    pub(crate) async fn run(&self, sql: &str) {
        if let Err(e) = self.client.batch_execute(sql).await {
            panic!("{sql}\nfailed: {}", explain(&e));
        }
    }

    /// All rows of a simple query that must succeed, in text form.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Row> {
        match self.client.simple_query(sql).await {
            Ok(messages) => messages.iter().filter_map(text_row).collect(),
            Err(e) => panic!("{sql}\nfailed: {}", explain(&e)),
        }
    }

    /// The first value of the first row; NULL is the word `NULL`.
    pub(crate) async fn one(&self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        let row = rows.first().unwrap_or_else(|| panic!("{sql}\ngave no row"));
        row[0].clone().unwrap_or_else(|| "NULL".into())
    }

    /// The first column of all rows.
    pub(crate) async fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.rows(sql).await;
        rows.into_iter().map(|mut r| r.swap_remove(0).unwrap_or_else(|| "NULL".into())).collect()
    }

    /// Runs statements of the simple protocol that must fail with this SQLSTATE.
    pub(crate) async fn fails(&self, sql: &str, code: &str) -> DbError {
        match self.client.simple_query(sql).await {
            Ok(_) => panic!("{sql}\nwent through, but {code} was due"),
            Err(e) => expect_code(sql, &e, code),
        }
    }

    /// The rows a write reports in its command tag; it must succeed.
    pub(crate) async fn affected(&self, sql: &str) -> u64 {
        match self.client.simple_query(sql).await {
            Ok(messages) => messages
                .iter()
                .filter_map(|m| match m {
                    SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
                    _ => None,
                })
                .next_back()
                .unwrap_or(0),
            Err(e) => panic!("{sql}\nfailed: {}", explain(&e)),
        }
    }

    /// Notices (not notifications) that have come so far.
    pub(crate) fn notices(&mut self) -> Vec<DbError> {
        let mut found = Vec::new();
        while let Some(Some(message)) = self.unasked.recv().now_or_never() {
            if let AsyncMessage::Notice(notice) = message {
                found.push(notice);
            }
        }
        found
    }

    /// The next notification, as `channel:payload`.
    pub(crate) async fn notification(&mut self) -> String {
        let next = async {
            loop {
                match self.unasked.recv().await {
                    Some(AsyncMessage::Notification(n)) => {
                        return format!("{}:{}", n.channel(), n.payload());
                    }
                    Some(_) => {}
                    None => panic!("the connection closed while a notification was awaited"),
                }
            }
        };
        within("a notification", secs(10), next).await
    }

    /// Whether a notification comes within a moment.
    pub(crate) async fn stays_silent(&mut self) -> bool {
        let wait = async {
            while let Some(message) = self.unasked.recv().await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    return;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_millis(500), wait).await.is_err()
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

pub(crate) fn text_row(message: &SimpleQueryMessage) -> Option<Row> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
}

/// The error's SQLSTATE must be this one.
pub(crate) fn expect_code(what: &str, error: &Error, code: &str) -> DbError {
    let Some(db) = error.as_db_error() else {
        panic!("{what}\nshould fail with {code}, but: {error:?}")
    };
    assert_eq!(
        db.code().code(),
        code,
        "{what}\nfailed otherwise than it should: {}",
        explain(error)
    );
    db.clone()
}

/// The SQLSTATE of an error, if a server (or the proxy) said one.
pub(crate) fn code_of(error: &Error) -> Option<String> {
    error.code().map(SqlState::code).map(str::to_owned)
}

/// An error in one line, with what the server said.
pub(crate) fn explain(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let mut text = format!("{} {}", db.code().code(), db.message());
            for (word, part) in
                [("detail", db.detail()), ("hint", db.hint()), ("where", db.where_())]
            {
                if let Some(part) = part {
                    text.push_str(&format!("; {word}: {part}"));
                }
            }
            text
        }
        None => format!("{error:?}"),
    }
}
