//! Looks for what would keep servers from being one database, before it does.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Result};

use crate::store::check::{CheckOptions, Finding, Severity};

use Severity::{Error, Note, Warning};

/// Settings that must be equal everywhere, how bad it is when they are not, and why. One that a server
/// does not have is passed over.
const ALIKE: &[(&str, Severity, &str)] = &[
    ("version", Error, "statements could do other things; use one version everywhere"),
    ("sql_mode", Error, "statements would be read and values checked differently; set it alike"),
    ("character_set_server", Error, "new databases would differ; set it alike"),
    ("collation_server", Error, "text would compare and sort differently; set it alike"),
    ("lower_case_table_names", Error, "names would mean different tables; set it alike"),
    ("time_zone", Error, "times would be read differently; set it alike, best to '+00:00'"),
    ("system_time_zone", Warning, "times would be read differently where time_zone is SYSTEM"),
    ("auto_increment_increment", Error, "rows would be numbered differently; set it to 1"),
    ("auto_increment_offset", Error, "rows would be numbered differently; set it to 1"),
    ("transaction_isolation", Warning, "transactions would behave differently; set it alike"),
    ("tx_isolation", Warning, "transactions would behave differently; set it alike"),
    ("default_storage_engine", Error, "new tables would differ; set it to InnoDB"),
    ("explicit_defaults_for_timestamp", Error, "new columns would differ; set it alike"),
    ("innodb_strict_mode", Warning, "what one server takes another would refuse; set it alike"),
    ("innodb_page_size", Warning, "what one server takes another would refuse; set it alike"),
    ("innodb_default_row_format", Warning, "new tables would differ; set it alike"),
    ("max_allowed_packet", Warning, "what one server takes another would refuse; set it alike"),
    ("group_concat_max_len", Error, "values would be cut differently; set it alike"),
    ("div_precision_increment", Error, "divisions would differ; set it alike"),
    ("default_week_format", Error, "WEEK() would differ; set it alike"),
    ("lc_time_names", Error, "names of days and months would differ; set it alike"),
    ("block_encryption_mode", Error, "AES_ENCRYPT() would differ; set it alike"),
    ("sysdate_is_now", Warning, "SYSDATE() would differ; set it alike"),
    ("old_mode", Error, "statements could do other things; set it alike"),
    ("foreign_key_checks", Error, "what one server takes another would refuse; set it alike"),
];

/// Settings that must have one of some values, how bad it is when not, and what to do.
const VALUES: &[(&str, &[&str], Severity, &str)] = &[
    (
        "innodb_autoinc_lock_mode",
        &["0", "1"],
        Warning,
        "INSERT … SELECT into numbered tables is refused; start the server with innodb_autoinc_lock_mode=1",
    ),
    (
        "innodb_flush_log_at_trx_commit",
        &["1"],
        Error,
        "acknowledged commits can be lost in a crash; set it to 1",
    ),
    (
        "event_scheduler",
        &["OFF", "DISABLED", "0"],
        Error,
        "events would run on every server by themselves; set event_scheduler=OFF",
    ),
    (
        "innodb_rollback_on_timeout",
        &["OFF", "0"],
        Error,
        "a statement that waits too long would undo its whole transaction on one server; start it with innodb_rollback_on_timeout=OFF",
    ),
    ("read_only", &["OFF", "0"], Error, "a backend must take writes; set it to OFF"),
    (
        "default_storage_engine",
        &["InnoDB"],
        Error,
        "new tables would have no transactions; set it to InnoDB",
    ),
];

/// Queries that give the names of what is wrong in a database, how bad that is, and what to do.
const OBJECTS: &[(&str, Severity, &str, &str)] = &[
    (
        "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, ' (', ENGINE, ')') FROM information_schema.TABLES \
         WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE <> 'InnoDB' AND TABLE_SCHEMA NOT IN \
         ('mysql', 'information_schema', 'performance_schema', 'sys', 'lockstep') ORDER BY 1",
        Error,
        "tables without transactions cannot be written",
        "ALTER TABLE … ENGINE=InnoDB",
    ),
    (
        "SELECT CONCAT(t.TABLE_SCHEMA, '.', t.TABLE_NAME) FROM information_schema.TABLES t \
         WHERE t.TABLE_TYPE = 'BASE TABLE' AND t.TABLE_SCHEMA NOT IN \
         ('mysql', 'information_schema', 'performance_schema', 'sys', 'lockstep') AND NOT EXISTS \
         (SELECT 1 FROM information_schema.STATISTICS s WHERE s.TABLE_SCHEMA = t.TABLE_SCHEMA \
         AND s.TABLE_NAME = t.TABLE_NAME AND s.NON_UNIQUE = 0) ORDER BY 1",
        Note,
        "tables without a key: LIMIT in their UPDATE and DELETE is refused",
        "give them a primary key",
    ),
    (
        "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES \
         WHERE TABLE_TYPE IN ('SEQUENCE', 'SYSTEM VERSIONED') AND TABLE_SCHEMA <> 'lockstep' ORDER BY 1",
        Warning,
        "sequences and system-versioned tables cannot be written",
        "use AUTO_INCREMENT, and triggers for history",
    ),
    (
        "SELECT name FROM mysql.func ORDER BY 1",
        Warning,
        "what loaded functions do is not known: statements that call them are refused",
        "write stored functions instead",
    ),
];

/// Looks at all servers.
///
/// # Errors
/// The server that did not answer, and what it said.
pub async fn check(
    backends: &mut [(String, Conn)],
    options: &CheckOptions,
) -> std::result::Result<Vec<Finding>, (String, mysql_async::Error)> {
    let mut findings = Vec::new();
    let mut all: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for (name, conn) in backends {
        let settings = one(name, conn, options, &mut findings).await;
        all.push((name.clone(), settings.map_err(|error| (name.clone(), error))?));
    }
    if let Some(((first, wanted), others)) = all.split_first() {
        for (name, settings) in others {
            for (setting, severity, why) in ALIKE {
                let (a, b) = (wanted.get(*setting), settings.get(*setting));
                if a != b {
                    let shown =
                        |value: Option<&String>| value.map_or("not there", |v| v).to_owned();
                    let what = format!("{setting} is {}, on {first} it is {}", shown(b), shown(a));
                    findings.push(finding(name, *severity, what, why));
                }
            }
        }
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.backend.cmp(&b.backend)));
    Ok(findings)
}

fn finding(backend: &str, severity: Severity, what: String, remedy: &str) -> Finding {
    Finding { severity, backend: backend.to_owned(), what, remedy: remedy.to_owned() }
}

/// Looks at one server, and gives its settings.
async fn one(
    name: &str,
    conn: &mut Conn,
    options: &CheckOptions,
    findings: &mut Vec<Finding>,
) -> Result<BTreeMap<String, String>> {
    let rows: Vec<(String, String)> = conn.query("SHOW GLOBAL VARIABLES").await?;
    let settings: BTreeMap<String, String> = rows.into_iter().collect();
    for (setting, wanted, severity, why) in VALUES {
        if let Some(value) = settings.get(*setting)
            && !wanted.iter().any(|w| value.eq_ignore_ascii_case(w))
        {
            findings.push(finding(name, *severity, format!("{setting} is {value}"), why));
        }
    }
    for (query, severity, what, why) in OBJECTS {
        let found: Vec<String> = conn.query(*query).await?;
        if !found.is_empty() {
            findings.push(finding(name, *severity, format!("{what}: {}", found.join(", ")), why));
        }
    }
    rights(name, conn, options, findings).await?;
    let room = settings.get("max_connections").and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    // A few for control connections and for people.
    if room < options.connections + 10 {
        let what =
            format!("max_connections is {room}, the proxy may need {}", options.connections + 10);
        findings.push(finding(name, Warning, what, "raise max_connections, or lower pool.size"));
    }
    Ok(settings)
}

/// The administrator's rights, the users, and who else may write.
async fn rights(
    name: &str,
    conn: &mut Conn,
    options: &CheckOptions,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let grants: Vec<String> = conn.query("SHOW GRANTS").await?;
    let all = grants.iter().any(|grant| grant.starts_with("GRANT ALL PRIVILEGES ON *.*"));
    let each = ["SUPER", "PROCESS"].iter().all(|right| grants.iter().any(|g| g.contains(right)));
    if !all && !each {
        let what = "the administrator may not do everything".to_owned();
        findings.push(finding(name, Error, what, "GRANT ALL ON *.* TO it WITH GRANT OPTION"));
    }
    for user in &options.users {
        let known: Option<u64> =
            conn.exec_first("SELECT COUNT(*) FROM mysql.user WHERE User = ?", (user,)).await?;
        if known.unwrap_or_default() == 0 {
            let what = format!("user {user} does not exist");
            findings.push(finding(
                name,
                Error,
                what,
                "CREATE USER, with the same rights everywhere",
            ));
        }
    }
    let follows: Vec<mysql_async::Row> = match conn.query("SHOW SLAVE STATUS").await {
        // The newest servers have other words for it.
        Err(mysql_async::Error::Server(_)) => conn.query("SHOW REPLICA STATUS").await?,
        other => other?,
    };
    if !follows.is_empty() {
        let what = "it replicates from another server".to_owned();
        findings.push(finding(name, Error, what, "STOP REPLICA and RESET REPLICA ALL"));
    }
    Ok(())
}
