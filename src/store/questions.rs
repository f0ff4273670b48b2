//! What `lockstep check` asks, as two lists: settings that must be equal everywhere, and queries whose rows are the
//! things found.

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Note,
    /// Works, but something is at risk.
    Warning,
    /// Backends will differ, or will not work at all.
    Error,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Settings that must be equal on all backends, how bad it is when they are not, and why.
pub(super) const SETTINGS: &[(&str, Severity, &str)] = &[
    (
        "server_encoding",
        Severity::Error,
        "text would not fit everywhere; create the database anew with one encoding",
    ),
    (
        "lc_collate",
        Severity::Error,
        "text would sort differently; create the database anew with one collation",
    ),
    (
        "lc_ctype",
        Severity::Error,
        "upper() and patterns would differ; create the database anew with one ctype",
    ),
    (
        "database collation",
        Severity::Error,
        "text would sort differently; use one operating system and version, and one provider",
    ),
    ("TimeZone", Severity::Error, "sessions would read times differently; set it alike"),
    ("DateStyle", Severity::Warning, "sessions would read dates differently; set it alike"),
    (
        "IntervalStyle",
        Severity::Warning,
        "sessions would print intervals differently; set it alike",
    ),
    (
        "standard_conforming_strings",
        Severity::Error,
        "string literals would mean different things; set it alike, best on",
    ),
    (
        "default_transaction_isolation",
        Severity::Warning,
        "transactions would behave differently; set it alike",
    ),
    ("default_transaction_read_only", Severity::Error, "writes would fail on some; set it alike"),
    ("lc_monetary", Severity::Warning, "money would be read differently; set it alike"),
    ("lc_numeric", Severity::Warning, "to_number() would differ; set it alike"),
    ("lc_time", Severity::Warning, "to_char() of dates would differ; set it alike"),
    ("bytea_output", Severity::Warning, "bytea would look different in answers; set it alike"),
    ("search_path", Severity::Warning, "names would mean different things; set it alike"),
    ("default_text_search_config", Severity::Warning, "to_tsvector() would differ; set it alike"),
    ("xmloption", Severity::Warning, "xml would be read differently; set it alike"),
    ("array_nulls", Severity::Warning, "NULL in arrays would be read differently; set it alike"),
    (
        "statement_timeout",
        Severity::Warning,
        "a statement could be stopped on some backends only; set it alike",
    ),
    (
        "lock_timeout",
        Severity::Warning,
        "a statement could be stopped on some backends only; set it alike",
    ),
    (
        "idle_in_transaction_session_timeout",
        Severity::Warning,
        "a transaction could end on some backends only; set it alike, best 0",
    ),
    (
        "session_preload_libraries",
        Severity::Warning,
        "sessions would run different code; set it alike",
    ),
    (
        "shared_preload_libraries",
        Severity::Warning,
        "servers would run different code; set it alike",
    ),
    (
        "password_encryption",
        Severity::Warning,
        "passwords would be stored differently; set it alike, best scram-sha-256",
    ),
    ("row_security", Severity::Error, "rows would be hidden on some; set it alike"),
    (
        "max_identifier_length",
        Severity::Error,
        "names would be cut differently; use the same build",
    ),
    ("block_size", Severity::Warning, "the limits of rows and indexes differ; use the same build"),
    (
        "extensions",
        Severity::Warning,
        "functions would differ; install the same extensions in the same versions",
    ),
    (
        "users",
        Severity::Error,
        "statements would be refused on some; create the same users with the same rights",
    ),
];

/// A query for one backend and what its rows mean: severity, query, what is said before them, remedy.
pub(super) type Question = (Severity, &'static str, &'static str, &'static str);

/// What each backend is asked.
pub(super) const QUESTIONS: &[Question] = &[
    (
        Severity::Warning,
        "SELECT name || ' is ' || setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', \
         'synchronous_commit') AND setting IN ('off')",
        "a crash of the server can lose or damage what was committed",
        "turn it on, unless the data may be lost",
    ),
    (
        Severity::Error,
        "SELECT getdatabaseencoding() WHERE getdatabaseencoding() = 'SQL_ASCII'",
        "the encoding of the database says nothing about its text, so captured rows may be unreadable",
        "create the database anew with encoding UTF8",
    ),
    (
        Severity::Warning,
        "SELECT name || ' is ' || setting FROM pg_settings WHERE (name = 'log_min_messages' AND \
         setting IN ('info', 'notice', 'debug', 'debug1', 'debug2', 'debug3', 'debug4', 'debug5')) \
         OR (name = 'log_statement' AND setting IN ('mod', 'all')) OR (name = 'log_min_duration_statement' AND setting <> '-1')",
        "rows and secrets of the cluster may be written to the server's log",
        "set log_min_messages to warning; with logged statements set log_parameter_max_length to 0",
    ),
    (
        Severity::Warning,
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
         AND n.nspname NOT IN ('information_schema', 'lockstep') AND NOT EXISTS (SELECT FROM pg_index i \
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
         AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey) \
         AND NOT a.attnotnull)) ORDER BY 1",
        "has no primary key and no NOT NULL unique key: changed rows are looked for one by one",
        "give it a primary key",
    ),
    (
        Severity::Warning,
        "SELECT t.tgrelid::regclass::text || '.' || t.tgname FROM pg_trigger t WHERE NOT t.tgisinternal \
         AND t.tgenabled IN ('A', 'R') AND t.tgname !~ '^00_lockstep_'",
        "this trigger fires for replicated rows too, so what it does happens twice",
        "ALTER TABLE … ENABLE TRIGGER (neither ALWAYS nor REPLICA)",
    ),
    (
        Severity::Warning,
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner \
         WHERE c.relkind = 'r' AND c.relrowsecurity AND c.relforcerowsecurity AND NOT r.rolsuper",
        "forces row security on its owner: rows cannot be replicated if the table also uses functions of users",
        "ALTER TABLE … NO FORCE ROW LEVEL SECURITY",
    ),
    (
        Severity::Warning,
        "SELECT count(*) || ' large objects' FROM pg_largeobject_metadata HAVING count(*) > 0",
        "large objects are not replicated",
        "store them as bytea",
    ),
    (
        Severity::Warning,
        "SELECT extname::text FROM pg_extension WHERE extname IN ('pg_cron', 'pg_timetable', 'timescaledb', \
         'pg_partman', 'dblink', 'postgres_fdw', 'pgagent', 'http', 'pg_net', 'pglogical', 'citus')",
        "this extension can change data past the proxy, or act outside on every backend",
        "run its jobs through the proxy, from one place",
    ),
    (
        Severity::Warning,
        "SELECT subname::text FROM pg_subscription WHERE subdbid = \
         (SELECT oid FROM pg_database WHERE datname = current_database()) AND subenabled",
        "this subscription changes rows past the proxy",
        "let the changes come through the proxy",
    ),
    (
        Severity::Warning,
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'f'",
        "is a foreign table: writes to it are not captured",
        "write to it past the proxy",
    ),
    (
        Severity::Error,
        "SELECT 'pg_is_in_recovery' WHERE pg_is_in_recovery()",
        "this server is a standby",
        "use the primary as backend",
    ),
];
