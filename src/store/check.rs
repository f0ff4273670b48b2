//! Looks for what would keep backends from being one database, before it does.
//!
//! What is asked stands in `questions`; here it is asked, and what depends on the configuration is added.

use super::control::SCHEMA_VERSION;
use super::questions::{QUESTIONS, SETTINGS};
use std::collections::BTreeMap;
use tokio_postgres::{Client, Error};

pub use super::questions::Severity;

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub backend: String,
    /// What.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// What the configuration says, for the checks that need to know.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Users of the cluster.
    pub users: Vec<String>,
    /// Connections that the proxy may open to each backend.
    pub connections: u32,
}

/// Looks at all backends.
pub async fn check(
    backends: &[(String, Client)],
    options: &CheckOptions,
) -> Result<Vec<Finding>, (String, Error)> {
    let mut findings = Vec::new();
    let mut settings: Vec<(&str, BTreeMap<String, String>)> = Vec::new();
    for (name, client) in backends {
        let here = Backend { name, client, options };
        let found = here.all(&mut findings).await.map_err(|error| (name.clone(), error))?;
        settings.push((name, found));
    }
    if let Some((first, others)) = settings.split_first() {
        others.iter().for_each(|other| compare(first, other, &mut findings));
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.backend.cmp(&b.backend)));
    Ok(findings)
}

type Settings<'a> = (&'a str, BTreeMap<String, String>);

fn compare(
    (first, wanted): &Settings<'_>,
    (name, found): &Settings<'_>,
    findings: &mut Vec<Finding>,
) {
    for (setting, severity, remedy) in SETTINGS {
        let (a, b) = (wanted.get(*setting), found.get(*setting));
        if a == b {
            continue;
        }
        let text = |value: Option<&String>| value.map_or("not there", String::as_str).to_owned();
        findings.push(Finding {
            severity: *severity,
            backend: (*name).to_owned(),
            what: format!("{setting} is {} here and {} on {first}", text(b), text(a)),
            remedy: (*remedy).to_owned(),
        });
    }
    let major =
        |settings: &BTreeMap<String, String>| settings.get("major").cloned().unwrap_or_default();
    if major(wanted) != major(found) {
        findings.push(Finding {
            severity: Severity::Warning,
            backend: (*name).to_owned(),
            what: format!("PostgreSQL {} here and {} on {first}", major(found), major(wanted)),
            remedy: "fine during an upgrade; do not use what only the newer one knows".into(),
        });
    }
}

/// One backend under examination.
struct Backend<'a> {
    name: &'a str,
    client: &'a Client,
    options: &'a CheckOptions,
}

impl Backend<'_> {
    /// Everything, in a transaction that can change nothing and resolves names in nobody's schema.
    async fn all(&self, findings: &mut Vec<Finding>) -> Result<BTreeMap<String, String>, Error> {
        self.client
            .batch_execute("BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp")
            .await?;
        let looked = self.look(findings).await;
        let settings = match looked {
            Ok(()) => self.settings().await,
            Err(error) => Err(error),
        };
        // The error of the question matters more than that of the end.
        let ended = self.client.batch_execute("ROLLBACK").await;
        let settings = settings?;
        ended.map(|()| settings)
    }

    async fn look(&self, findings: &mut Vec<Finding>) -> Result<(), Error> {
        self.server(findings).await?;
        for (severity, query, what, remedy) in QUESTIONS {
            for row in self.client.query(&format!("{query} LIMIT 20"), &[]).await? {
                findings.push(self.finding(
                    *severity,
                    format!("{}: {what}", row.get::<_, &str>(0)),
                    remedy,
                ));
            }
        }
        self.users(findings).await?;
        self.schema(findings).await
    }

    async fn server(&self, findings: &mut Vec<Finding>) -> Result<(), Error> {
        let row = self
            .client
            .query_one(
                "SELECT current_setting('server_version_num')::int, current_setting('max_connections')::int \
                 - current_setting('superuser_reserved_connections')::int",
                &[],
            )
            .await?;
        let (version, free): (i32, i32) = (row.get(0), row.get(1));
        if version < 130_000 {
            let what = format!("PostgreSQL {} is too old", version / 10_000);
            findings.push(self.finding(Severity::Error, what, "use 13 or newer"));
        }
        if i64::from(free) < i64::from(self.options.connections) {
            let what = format!(
                "the server allows {free} connections, the proxy may want {}",
                self.options.connections
            );
            findings.push(self.finding(
                Severity::Warning,
                what,
                "raise max_connections or lower the pool's size",
            ));
        }
        Ok(())
    }

    async fn users(&self, findings: &mut Vec<Finding>) -> Result<(), Error> {
        let rows = self
            .client
            .query(
                "SELECT u, r.rolsuper, r.rolcanlogin, has_database_privilege(r.oid, current_database(), 'CONNECT'), \
                 EXISTS (SELECT FROM pg_roles g WHERE g.rolname IN ('pg_read_all_data', 'pg_write_all_data', \
                 'pg_read_server_files', 'pg_execute_server_program') AND pg_has_role(r.oid, g.oid, 'USAGE')) \
                 FROM unnest($1::text[]) AS u LEFT JOIN pg_roles r ON r.rolname = u",
                &[&self.options.users],
            )
            .await?;
        for row in rows {
            let user: &str = row.get(0);
            let Some(superuser) = row.get::<_, Option<bool>>(1) else {
                let what = format!("user {user} does not exist");
                findings.push(self.finding(
                    Severity::Error,
                    what,
                    "CREATE ROLE … LOGIN, with the same rights everywhere",
                ));
                continue;
            };
            if superuser {
                let what =
                    format!("user {user} is a superuser and can change the cluster's own tables");
                findings.push(self.finding(
                    Severity::Warning,
                    what,
                    "let applications use an ordinary user",
                ));
            } else if row.get(4) {
                let what = format!(
                    "user {user} may read or write all tables, the cluster's own among them"
                );
                findings.push(self.finding(
                    Severity::Warning,
                    what,
                    "grant rights on the application's tables only",
                ));
            }
            if !row.get::<_, bool>(2) || !row.get::<_, bool>(3) {
                let what = format!("user {user} may not log in to this database");
                findings.push(self.finding(
                    Severity::Error,
                    what,
                    "ALTER ROLE … LOGIN; GRANT CONNECT ON DATABASE",
                ));
            }
        }
        Ok(())
    }

    async fn schema(&self, findings: &mut Vec<Finding>) -> Result<(), Error> {
        const REMEDY: &str = "run lockstep init";
        let row = self
            .client
            .query_one(
                "SELECT obj_description(to_regnamespace('lockstep'), 'pg_namespace'), \
                 (SELECT count(*) FROM pg_event_trigger WHERE evtname IN ('lockstep_ddl_end', 'lockstep_ddl_drop', \
                 'lockstep_ddl_rewrite') AND evtenabled = 'A'), to_regprocedure('lockstep.unguarded(oid[])') IS NOT NULL",
                &[],
            )
            .await?;
        match row.get::<_, Option<&str>>(0) {
            None => {
                findings.push(self.finding(Severity::Note, "is not initialised".into(), REMEDY));
                return Ok(());
            }
            Some(version) if version != SCHEMA_VERSION => {
                let what = format!("its own tables are of another version: {version}");
                findings.push(self.finding(Severity::Error, what, REMEDY));
            }
            Some(_) => {}
        }
        if row.get::<_, i64>(1) != 3 {
            let what = "DDL is not watched, so new tables will not be captured".into();
            findings.push(self.finding(Severity::Error, what, REMEDY));
        }
        if row.get(2) {
            let tables =
                self.client.query("SELECT u::text FROM lockstep.unguarded() AS u", &[]).await?;
            for table in tables {
                let what =
                    format!("{} lacks the triggers that capture its rows", table.get::<_, &str>(0));
                findings.push(self.finding(Severity::Error, what, REMEDY));
            }
        }
        Ok(())
    }

    /// What is compared with the other backends. Settings are asked for as any session of this database would get
    /// them, not as this connection has them: a driver sets some of its own.
    async fn settings(&self) -> Result<BTreeMap<String, String>, Error> {
        let names: Vec<&str> = SETTINGS.iter().map(|(name, ..)| *name).collect();
        let mut found = BTreeMap::new();
        let rows = self
            .client
            .query("SELECT name, reset_val FROM pg_settings WHERE name = ANY ($1)", &[&names])
            .await?;
        found.extend(
            rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<String>>(1)?))),
        );
        // Which columns of pg_database there are depends on the version, hence the detour over JSON.
        let row = self
            .client
            .query_one(
                "SELECT (current_setting('server_version_num')::int / 10000)::text, \
                 coalesce((SELECT string_agg(extname || ' ' || extversion, ', ' ORDER BY extname) FROM pg_extension), ''), \
                 (SELECT concat_ws(' ', j->>'datlocprovider', j->>'datcollate', j->>'datctype', \
                 coalesce(j->>'daticulocale', j->>'datlocale'), j->>'datcollversion') \
                 FROM pg_database d CROSS JOIN to_jsonb(d) AS j WHERE datname = current_database()), \
                 coalesce((SELECT string_agg(concat_ws(' ', rolname, CASE WHEN rolsuper THEN 'superuser' END, \
                 CASE WHEN rolcreatedb THEN 'createdb' END, CASE WHEN rolcreaterole THEN 'createrole' END, \
                 CASE WHEN rolbypassrls THEN 'bypassrls' END, rolconnlimit, rolconfig::text), ', ' ORDER BY rolname) \
                 FROM pg_roles WHERE rolname = ANY ($1)), ''), \
                 (SELECT datcollate FROM pg_database WHERE datname = current_database()), \
                 (SELECT datctype FROM pg_database WHERE datname = current_database())",
                &[&self.options.users],
            )
            .await?;
        for (place, name) in
            ["major", "extensions", "database collation", "users", "lc_collate", "lc_ctype"]
                .iter()
                .enumerate()
        {
            found.insert((*name).to_owned(), row.get(place));
        }
        Ok(found)
    }

    fn finding(&self, severity: Severity, what: String, remedy: &str) -> Finding {
        Finding { severity, backend: self.name.to_owned(), what, remedy: remedy.to_owned() }
    }
}
