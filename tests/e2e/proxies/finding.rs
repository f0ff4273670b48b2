//! Each driver's own way to find the proxy that writes, and the ways between proxies under TLS.

use std::sync::OnceLock;
use std::time::Duration;

use super::rig::{Peer, Proxies};
use crate::rig::cluster::spoken;
use crate::rig::process::{As, command, output};
use crate::rig::server::{DATABASE, programs};
use crate::rig::{folder, run_heavy, secs};
use crate::tls::Authority;

/// What `psql` says to a connection string and a statement; an error is one.
fn psql(dsn: &str, sql: &str) -> Result<String, String> {
    let mut psql = command(As::Myself, programs().join("psql"));
    psql.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, dsn]);
    let said = output("psql", psql, secs(30));
    let text = spoken(&said).trim().to_owned();
    if said.status.success() { Ok(text) } else { Err(text) }
}

/// Where pgjdbc and the compiled program are. Compiled once: that takes longer than all it does.
fn classes() -> &'static str {
    const DRIVER: &str = "/usr/share/java/postgresql.jar";
    static CLASSES: OnceLock<String> = OnceLock::new();
    CLASSES.get_or_init(|| {
        assert!(std::path::Path::new(DRIVER).exists(), "{DRIVER}: run .ci/setup");
        let there = folder().join("classes");
        let mut javac = command(As::Myself, "javac");
        javac.arg("-d").arg(&there).arg("tests/drivers/PgjdbcClient.java");
        javac.current_dir(env!("CARGO_MANIFEST_DIR"));
        let said = output("javac", javac, secs(120));
        assert!(said.status.success(), "{}", spoken(&said));
        format!("{DRIVER}:{}", there.display())
    })
}

/// The same for pgjdbc.
fn jdbc(hosts: &str, properties: &str, user: &str, sql: &[&str]) -> Result<String, String> {
    let mut java = command(As::Myself, "java");
    let url = format!(
        "jdbc:postgresql://{hosts}/{DATABASE}?user={user}&password={user}&connectTimeout=20&{properties}"
    );
    java.args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", classes()]);
    java.args(["PgjdbcClient", &url]).args(sql);
    let said = output("java", java, secs(90));
    let text = spoken(&said).trim().to_owned();
    if said.status.success() { Ok(text) } else { Err(text) }
}

fn both(all: &Proxies, between: &str) -> (String, String) {
    let ports = [all.peer("p2").port, all.peer("p1").port];
    let hosts = ports.map(|port| format!("127.0.0.1{between}{port}")).join(",");
    (hosts, ports.map(|port| port.to_string()).join(","))
}

#[test]
fn libpq_and_pgjdbc_find_the_writer_whether_standbys_forward_or_refuse() {
    run_heavy(secs(240), async {
        for changes in [&[][..], &[("proxy.on_standby", "\"refuse\""), ("proxy.advertise", "")]] {
            let all = Proxies::start(2, 2, changes).await;
            all.peer("p1").connect().await.run("create table found(by text)").await;
            let (hosts, ports) = both(&all, ":");
            for words in ["any", "read-write", "primary", "prefer-standby"] {
                let dsn = format!(
                    "host=127.0.0.1,127.0.0.1 port={ports} user=app password=app dbname={DATABASE} \
                     target_session_attrs={words}"
                );
                psql(&dsn, "insert into found values ('psql')").expect(words);
            }
            for kind in ["primary", "preferSecondary"] {
                let properties = format!("targetServerType={kind}&loadBalanceHosts=true");
                let said = jdbc(&hosts, &properties, "app", &["insert into found values ('jdbc')"]);
                assert!(said.expect(kind).contains("updated 1"), "{kind}");
            }
            // The role moves: the same words find the other one.
            all.peer("p1").console("SWITCHOVER PROXY").await.expect("a handover");
            all.peer("p2").wait_writing(secs(10)).await;
            let said =
                jdbc(&hosts, "targetServerType=primary", "app", &["select count(*) from found"]);
            assert!(said.expect("after a handover").contains("row 6"));
            // Nobody is taken for a standby that only reads.
            let none = jdbc(&hosts, "targetServerType=secondary", "app", &["select 1"]);
            let none = none.expect_err("no proxy only reads");
            assert!(none.contains("error "), "{none}");
        }
    });
}

#[test]
fn a_standby_for_reads_is_one_to_every_driver_and_sees_what_was_written() {
    run_heavy(secs(240), async {
        let all = Proxies::start(2, 2, &[("proxy.on_standby", "\"read-only\"")]).await;
        let (p1, p2) = (all.peer("p1"), all.peer("p2"));
        let writer = p1.connect().await;
        writer.run("create table found(id int primary key)").await;
        let reader = p2.connect().await;
        for id in 1..=50 {
            writer.run(&format!("insert into found values ({id})")).await;
            assert_eq!(
                reader.one("select count(*) from found").await,
                id.to_string(),
                "an old read"
            );
        }
        reader.fails("insert into found values (0)", "25006").await;
        reader.run("set default_transaction_read_only = off").await;
        reader.fails("insert into found values (0)", "25006").await;
        let (hosts, ports) = both(&all, ":");
        let libpq = |words: &str, sql: &str| {
            let dsn = format!(
                "host=127.0.0.1,127.0.0.1 port={ports} user=app password=app dbname={DATABASE} \
                 target_session_attrs={words}"
            );
            psql(&dsn, sql)
        };
        let reads = "show transaction_read_only";
        for (words, read_only) in [
            ("read-write", "off"),
            ("primary", "off"),
            ("read-only", "on"),
            ("standby", "on"),
            ("prefer-standby", "on"),
        ] {
            assert_eq!(libpq(words, reads).as_deref(), Ok(read_only), "{words}");
        }
        for (kind, row) in [("primary", "row off"), ("preferSecondary", "row on")] {
            let said = jdbc(&hosts, &format!("targetServerType={kind}"), "app", &[reads]);
            assert!(said.expect(kind).contains(row), "{kind}");
        }
        // The role moves: whoever reads at the one that writes now could write, and comes again.
        p1.console("SWITCHOVER PROXY").await.expect("a handover");
        p2.wait_writing(secs(10)).await;
        assert!(reader.batch_execute("select 1").await.is_err(), "a session of the former roles");
        libpq("read-write", "insert into found values (51)").expect("the one that writes now");
        assert_eq!(libpq("standby", "select count(*) from found").as_deref(), Ok("51"));
    });
}

#[test]
fn a_session_that_only_reads_is_none_to_write_with_for_any_driver() {
    run_heavy(secs(240), async {
        let resource = "[{ name = \"shop\", users = [\"app2\"] }]";
        let all = Proxies::start(2, 1, &[("resource", resource)]).await;
        let p1: &Peer = all.peer("p1");
        p1.connect().await.run("create table t(id int); grant all on t to app2").await;
        let dsn = |words: &str| {
            format!(
                "host=127.0.0.1 port={} user=app2 password=app2 dbname={DATABASE} \
                 options='-c lockstep.node=n2' target_session_attrs={words}",
                p1.port
            )
        };
        assert!(psql(&dsn("read-write"), "select 1").is_err_and(|why| why.contains("read-only")));
        assert_eq!(psql(&dsn("read-only"), "select 1").as_deref(), Ok("1"));
        let refused = psql(&dsn("any"), "insert into t values (1)").expect_err("it only reads");
        assert!(refused.contains("cannot write in a read-only session"), "{refused}");
        let hosts = format!("127.0.0.1:{}", p1.port);
        let options = "options=-c%20lockstep.node=n2";
        let primary = format!("targetServerType=primary&{options}");
        assert!(jdbc(&hosts, &primary, "app2", &["select 1"]).is_err(), "no primary for its node");
        let secondary = format!("targetServerType=secondary&{options}");
        let read = jdbc(&hosts, &secondary, "app2", &["select count(*) from t"]);
        assert!(read.expect("a secondary").contains("row 0"));
    });
}

#[test]
fn clients_are_connected_through_under_tls_that_is_verified() {
    run_heavy(secs(240), async {
        let (authority, other) = (Authority::new(), Authority::new());
        let (cert, key) = authority.sign("IP:127.0.0.1");
        let quoted = |path: &std::path::Path| format!("{:?}", path.display().to_string());
        let (cert, key) = (quoted(&cert), quoted(&key));
        for (ca, well) in [(authority.ca(), true), (other.ca(), false)] {
            let ca_file = quoted(&ca);
            let changes = [
                ("client_tls.cert", cert.as_str()),
                ("client_tls.key", &key),
                ("client_tls.required", "true"),
                ("proxy.peer_tls", "\"verify-full\""),
                ("proxy.peer_tls_ca", &ca_file),
            ];
            let all = Proxies::start(2, 2, &changes).await;
            let dsn = |peer: &str| {
                format!(
                    "host=127.0.0.1 port={} user=app password=app dbname={DATABASE} \
                     sslmode=verify-full sslrootcert={}",
                    all.peer(peer).port,
                    authority.ca().display()
                )
            };
            psql(&dsn("p1"), "create table t(id int)").expect("at the writer");
            let through = psql(&dsn("p2"), "insert into t values (1) returning id");
            if well {
                assert!(through.expect("through the standby").starts_with('1'));
                // In plain text nobody is let in, at neither end.
                let plain = dsn("p2").replace("verify-full", "disable");
                assert!(psql(&plain, "select 1").is_err_and(|why| why.contains("requires TLS")));
            } else {
                let why = through.expect_err("nobody can say who the other proxy is");
                assert!(why.contains("cannot be reached") && why.contains("certificate"), "{why}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
