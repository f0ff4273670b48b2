//! Whether servers hold the same: asked of each directly, judged by content, sequences and schema.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::Cluster;
use super::process::{As, command, must};
use super::server::{ADMIN, ADMIN_PASSWORD, DATABASE, Server, programs};
use super::session::Session;
use super::{secs, step, within};

/// Settings under which one value has one text.
const SETTINGS: &str = "
    set datestyle to 'ISO, YMD'; set intervalstyle to postgres; set timezone to 'UTC'; set extra_float_digits to 1;
    set bytea_output to hex; set search_path to pg_catalog; set row_security to off; set statement_timeout to '30s'";

/// Ordinary tables and materialised views of applications, as quoted names; `LIKE` on the bare
/// name.
const TABLES: &str = "
    select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm') and c.relpersistence <> 't' and c.relispopulated
      and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'lockstep') and c.relname like '$1'
    order by 1";

const SEQUENCES: &str = "
    select format('%I.%I', schemaname, sequencename), increment_by,
           coalesce(last_value, start_value - increment_by),
           (select format('select %s(%I) from %s', case when increment_by > 0 then 'max' else 'min' end,
                          a.attname, a.attrelid::regclass)
            from pg_depend d join pg_attribute a on (a.attrelid, a.attnum) = (d.refobjid, d.refobjsubid)
            where d.objid = format('%I.%I', schemaname, sequencename)::regclass and d.deptype in ('a', 'i')
              and d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass limit 1)
    from pg_sequences where schemaname <> 'lockstep' and sequencename like '$1' order by 1";

/// One server's content.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    tables: BTreeMap<String, String>,
    schema: String,
}

struct Sequence {
    increment: i64,
    last: i64,
    /// Where it belongs to a column: the furthest number there.
    stored: Option<i64>,
}

impl Cluster {
    /// Every active backend holds the same, and nothing of any client is left open. For a cluster
    /// that no other test uses at this moment.
    pub(crate) async fn assert_equal(&self) {
        let names = self.active().await;
        self.assert_equal_on(&names).await;
        self.assert_nothing_left_open(&names).await;
    }

    /// All configured backends are active and hold the same.
    pub(crate) async fn assert_all_equal(&self) {
        self.assert_all_active().await;
        self.assert_equal().await;
    }

    /// All backends are active, and the tables and sequences whose names match hold the same on
    /// all: for tests that share a cluster.
    pub(crate) async fn same(&self, like: &str) {
        self.assert_all_active().await;
        let servers: Vec<&Server> = self.servers.iter().collect();
        assert_same(&servers, like, Some(self.leader().await)).await;
    }

    async fn assert_all_active(&self) {
        let backends = self.backends().await;
        for (name, backend) in &backends {
            assert_eq!(backend["state"], "active", "backend {name} was given up: {backend:?}");
        }
        assert_eq!(backends.len(), self.servers.len(), "SHOW BACKENDS lists {backends:?}");
    }

    /// The same on these servers, whatever the proxy believes; needs no proxy.
    pub(crate) async fn assert_equal_on(&self, names: &[String]) {
        step(format!("compare {}", names.join(", ")));
        let servers: Vec<&Server> = names.iter().map(|name| self.server(name)).collect();
        let leads = if !self.proxy_runs() || self.bare { None } else { Some(self.leader().await) };
        assert_same(&servers, "%", leads).await;
    }

    /// No transaction of an application is open on a server when no client is there any more. What
    /// is being rolled back gets a moment.
    async fn assert_nothing_left_open(&self, names: &[String]) {
        for name in names {
            let admin = self.server(name).admin().await;
            super::eventually(&format!("open transactions on {name} to end"), secs(5), || async {
                let open = admin
                    .rows(
                        "select pid, usename, state, left(query, 200) from pg_stat_activity
                         where xact_start is not null and backend_type = 'client backend'
                           and pid <> pg_backend_pid() and usename in ('app', 'app2')",
                    )
                    .await;
                if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
            })
            .await;
            let prepared = admin.one("select count(*) from pg_prepared_xacts").await;
            assert_eq!(prepared, "0", "a prepared transaction is left on {name}");
        }
    }
}

/// Compares servers; a difference must still be there after a moment, for a transaction whose
/// client went away may be ending this instant.
pub(crate) async fn assert_same(servers: &[&Server], like: &str, leader: Option<String>) {
    let mut difference = find_difference(servers, like).await;
    for _ in 0..4 {
        if difference.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        difference = find_difference(servers, like).await;
    }
    if let Some(difference) = difference {
        panic!("the servers differ:\n{difference}");
    }
    if let Some(leader) = leader {
        assert_sequences_never_behind(servers, like, &leader).await;
    }
}

/// A follower that is promoted must not hand out a number again. What only statements that failed
/// have drawn was told to nobody: where it can be seen which numbers are in use, these count.
async fn assert_sequences_never_behind(servers: &[&Server], like: &str, leader: &str) {
    let ask = SEQUENCES.replace("$1", like);
    let mut all = Vec::new();
    // The leader first: what it hands out while we look at the others is not held against them.
    let leads = servers.iter().filter(|s| s.name == leader);
    for server in leads.chain(servers.iter().filter(|s| s.name != leader)) {
        let admin = server.admin().await;
        let mut found = BTreeMap::new();
        for row in admin.rows(&ask).await {
            let [Some(name), Some(increment), Some(last), column] = &row[..] else {
                panic!("{row:?}")
            };
            let (increment, last) = (increment.parse().unwrap(), last.parse().unwrap());
            let stored = match column {
                Some(ask) => admin.rows(ask).await[0][0].as_ref().map(|n| n.parse().unwrap()),
                None => Some(last),
            };
            found.insert(name.clone(), Sequence { increment, last, stored });
        }
        all.push((&server.name, found));
    }
    let Some(((leader, first), others)) = all.split_first() else {
        return;
    };
    for (follower, found) in others {
        assert!(first.keys().eq(found.keys()), "sequences of {leader} and {follower} differ");
        for (name, ahead) in found {
            let lead = &first[name];
            let Some(stored) = lead.stored else { continue };
            let used =
                if lead.increment > 0 { lead.last.min(stored) } else { lead.last.max(stored) };
            let behind = (ahead.last - used) * lead.increment.signum() < 0;
            assert!(
                !behind,
                "sequence {name} stands at {} on the leader {leader}, at {} on {follower}: it would hand out \
                 numbers twice",
                lead.last, ahead.last
            );
        }
    }
}

async fn find_difference(servers: &[&Server], like: &str) -> Option<String> {
    let mut all = Vec::new();
    for server in servers {
        all.push((server, content(server, like).await));
    }
    let ((first, expected), others) = all.split_first()?;
    for (server, found) in others {
        if found.schema != expected.schema {
            let text = first_difference(&expected.schema, &found.schema);
            return Some(format!("schema of {} and {}:\n{text}", first.name, server.name));
        }
        if found.tables.keys().ne(expected.tables.keys()) {
            let (a, b) = (expected.tables.keys(), found.tables.keys());
            return Some(format!("{} has {a:?}, {} has {b:?}", first.name, server.name));
        }
        for (table, digest) in &found.tables {
            if expected.tables[table] != *digest {
                return Some(explain_table(first, server, table).await);
            }
        }
    }
    None
}

async fn content(server: &Server, like: &str) -> Content {
    let admin = ready(server).await;
    let mut tables = BTreeMap::new();
    for table in admin.column(&TABLES.replace("$1", like)).await {
        let ask = format!(
            "select count(*) || ' rows, ' || coalesce(md5(string_agg(h, '' order by h)), '-')
             from (select md5(t::text) h from {table} t) d"
        );
        let digest = within(&format!("the digest of {table}"), secs(30), admin.one(&ask)).await;
        tables.insert(table, digest);
    }
    // Tests that share a cluster make and drop tables of their own all the time: the text of the
    // whole schema can only be compared where nobody else is.
    let schema = if like == "%" { schema(server) } else { String::new() };
    Content { tables, schema }
}

async fn ready(server: &Server) -> Session {
    let admin = server.admin().await;
    admin.run(SETTINGS).await;
    admin
}

/// The schema as pg_dump writes it, without the lines that are new in every run.
fn schema(server: &Server) -> String {
    let mut dump = command(As::Myself, programs().join("pg_dump"));
    dump.args([
        "--schema-only",
        "--exclude-schema=lockstep",
        "-h",
        "127.0.0.1",
        "-U",
        ADMIN,
        "-d",
        DATABASE,
    ]);
    dump.args(["-p", &server.port.to_string()]).env("PGPASSWORD", ADMIN_PASSWORD);
    let text = must("pg_dump --schema-only", dump);
    let stable = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    text.lines().filter(stable).collect::<Vec<_>>().join("\n")
}

fn first_difference(a: &str, b: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let part = |lines: &[&str]| {
        let from = same.saturating_sub(3).min(lines.len());
        lines[from..(same + 6).min(lines.len())].join("\n")
    };
    format!("first:\n{}\nsecond:\n{}", part(&a), part(&b))
}

/// Some of the rows that only one of two servers has.
async fn explain_table(first: &Server, second: &Server, table: &str) -> String {
    let mut only: BTreeMap<String, i64> = BTreeMap::new();
    for (server, sign) in [(first, 1), (second, -1)] {
        let ask = format!("select t::text from {table} t");
        for row in ready(server).await.column(&ask).await {
            *only.entry(row).or_default() += sign;
        }
    }
    let mut text = format!("table {table} ({} | {}):\n", first.name, second.name);
    for (row, count) in only.into_iter().filter(|(_, count)| *count != 0).take(16) {
        let name = if count > 0 { &first.name } else { &second.name };
        text.push_str(&format!("  only on {name}, {} times: {row}\n", count.abs()));
    }
    text
}
