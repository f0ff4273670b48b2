//! What is wrong with a file: where, what, and what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: Option<PathBuf>,
    line: Option<usize>,
    /// The dotted key, such as `backend.1.url`, by which the line is found.
    key: String,
    problem: String,
    remedy: String,
}

impl ConfigError {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            file: None,
            line: None,
            key: String::new(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn at(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    pub(super) fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// Names another sample than the proxy's, where one is named.
    pub(super) fn with_sample(mut self, sample: &str) -> Self {
        self.remedy = self.remedy.replace("config/lockstep.toml", sample);
        self
    }

    /// The line it stands on, counted from 1; none for what is missing altogether.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// What to write instead.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// Finds the line of the key in the text. Where the key itself is absent, the table that
    /// should have held it is shown.
    pub(super) fn locate(mut self, text: &str) -> Self {
        let Ok(document) = DeTable::parse(text) else {
            return self;
        };
        let mut offset = None;
        let mut here = &DeValue::Table(document.into_inner());
        for part in self.key.split('.').filter(|part| !part.is_empty()) {
            let found = match here {
                DeValue::Table(table) => {
                    let named = |key: &str| names(part).contains(&key);
                    let entry = table.iter().find(|(key, _)| named(key.get_ref()));
                    entry.map(|(key, value)| (key.span(), value))
                }
                DeValue::Array(items) => part
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get(index))
                    .map(|item| (item.span(), item)),
                _ => None,
            };
            // A key of [cluster] may stand at the top instead.
            let Some((span, value)) = found else { continue };
            offset = Some(span.start);
            here = value.get_ref();
        }
        self.line = offset.map(|offset| line_of(text, offset));
        self
    }

    /// Adds a remedy to what the TOML reader and serde say.
    pub(super) fn from_toml(error: &toml::de::Error, text: &str) -> Self {
        let said = error.message().replace('\n', ", ");
        let words = quoted(&said);
        let (problem, remedy) = match words.split_first() {
            Some((key, known)) if said.starts_with("unknown field") => {
                (format!("unknown key `{key}`"), suggestion(key, known))
            }
            Some((word, known)) if said.starts_with("unknown variant") => {
                let list = known.join("`, `");
                (format!("`{word}` is not a choice here"), format!("write one of `{list}`"))
            }
            Some((key, _)) if said.starts_with("missing field") => {
                (format!("`{key}` is missing"), format!("add `{key} = …` to this table"))
            }
            _ if said.contains(": write ") => match said.split_once(": write ") {
                Some((problem, remedy)) => (problem.into(), format!("write {remedy}")),
                None => (said.clone(), SYNTAX.into()),
            },
            _ => (said.clone(), SYNTAX.into()),
        };
        let line = error.span().map(|span| line_of(text, span.start));
        Self { line, ..Self::new(problem, remedy) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(to, "{}", file.display())?,
            None => write!(to, "configuration")?,
        }
        if let Some(line) = self.line {
            write!(to, ":{line}")?;
        }
        write!(to, ": {}\n  remedy: {}", self.problem, self.remedy)
    }
}

impl std::error::Error for ConfigError {}

const SYNTAX: &str = "see config/lockstep.toml, which shows every key in its place";

/// Keys of comparable programs, and what they are called here.
const FOREIGN: [(&str, &str); 20] = [
    ("backend_hostname0", "address = \"host:port\" in a [[backend]]"),
    ("balance", "balancer in [reads]"),
    ("load_balance_mode", "balancer in [reads]"),
    ("client_idle_limit", "idle_in_transaction in [timeouts]"),
    ("databases", "database in [cluster]"),
    ("dbname", "database"),
    ("failure_detection_time", "dead_after in [timeouts]"),
    ("clusterFailureDetectionTime", "dead_after in [timeouts]"),
    ("host", "address = \"host:port\""),
    ("hostname", "address = \"host:port\""),
    ("listen_addr", "listen = \"address:port\""),
    ("listen_port", "listen = \"address:port\""),
    ("num_init_children", "max_clients in [limits]"),
    ("pool_size", "size in [pool]"),
    ("max_pool", "size in [pool]"),
    ("max_clients", "max_clients in [limits]"),
    ("max_client_conn", "max_clients in [limits]"),
    ("port", "address = \"host:port\" for a backend, listen = \"address:port\" for the proxy"),
    ("server", "[[backend]]"),
    ("servers", "[[backend]]"),
];

fn suggestion(key: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (distance(key, name), name)).min();
    if let Some((distance, name)) = near
        && distance <= 1 + name.len() / 4
    {
        return format!("did you mean `{name}`?");
    }
    if let Some((_, ours)) = FOREIGN.iter().find(|(foreign, _)| *foreign == key) {
        return format!("lockstep calls it {ours}");
    }
    format!("known here: `{}`", known.join("`, `"))
}

/// The names under which a key may stand in the file.
fn names(part: &str) -> Vec<&str> {
    match part {
        "backend" => vec!["backend", "backends"],
        "user" => vec!["user", "users", "name"],
        "name" => vec!["name", "user", "id"],
        "url" => vec!["url", "location"],
        "tls" => vec!["tls", "sslmode"],
        "tls_ca" => vec!["tls_ca", "sslrootcert"],
        "postgres_listen" => vec!["postgres_listen", "listen", "listen_addresses"],
        other => vec![other],
    }
}

fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

/// How many letters must change to make one word of the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let change = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
