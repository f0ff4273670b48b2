//! Servers that speak TLS only, and prove who they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rig::cluster::{Cluster, Options, spoken};
use crate::rig::process::{As, command, hand_to_database_user, must};
use crate::rig::server::{ADMIN_PASSWORD, Server};
use crate::rig::{folder, run_within, secs, step, unique};

/// An authority, and the certificates it signs.
pub(crate) struct Authority {
    folder: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = folder().join(format!("authority-{}", unique()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let authority = Self { folder };
        authority.openssl(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.crt \
             -subj /CN=authority -addext basicConstraints=critical,CA:TRUE",
        );
        authority
    }

    fn openssl(&self, words: &str) {
        let mut openssl = command(As::Myself, "openssl");
        openssl.args(words.split_whitespace()).current_dir(&self.folder);
        must("openssl", openssl);
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A certificate for this name, and its key.
    pub(crate) fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server \
             -addext subjectAltName={name}"
        ));
        self.openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
             -copy_extensions copy -out server.crt",
        );
        (self.folder.join("server.crt"), self.folder.join("server.key"))
    }

    /// Gives a server, which must be down, a certificate for this name, and has it take nothing but
    /// TLS from then on.
    pub(crate) fn secure(&self, server: &Server, name: &str) {
        self.sign(name);
        for file in ["server.crt", "server.key"] {
            let there = server.data.join(file);
            std::fs::copy(self.folder.join(file), &there).expect("the certificate");
            hand_to_database_user(&there);
            must("chmod", {
                let mut chmod = command(As::Myself, "chmod");
                chmod.arg("600").arg(&there);
                chmod
            });
        }
        server.configure("ssl = on");
        rules(server, "hostssl all all 127.0.0.1/32 scram-sha-256");
    }
}

fn rules(server: &Server, text: &str) {
    std::fs::write(server.data.join("pg_hba.conf"), format!("{text}\n")).expect("pg_hba.conf");
}

/// A configuration that verifies its servers, and has the administrator's password in a file.
fn configure(cluster: &Cluster, mode: &str, ca: &Path) {
    let secret = cluster.folder.join("admin.password");
    std::fs::write(&secret, format!("{ADMIN_PASSWORD}\n")).expect("the password's file");
    let text = std::fs::read_to_string(&cluster.config).expect("the configuration");
    let plain = format!("password = {ADMIN_PASSWORD:?}");
    let text = text.replace(&plain, &format!("password_file = {:?}", secret.display()));
    let tls = format!("tls = \"{mode}\"\ntls_ca = {:?}\naddress = ", ca.display());
    std::fs::write(&cluster.config, text.replace("address = ", &tls)).expect("the configuration");
}

/// Where a password was seen while something ran.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, Vec<String>)>,
}

impl Watcher {
    /// Looks at what works with this cluster: other tests run the same tools in their own way.
    fn start(cluster: &Cluster) -> Self {
        let mut ours: Vec<String> = cluster.servers.iter().map(|s| s.port.to_string()).collect();
        ours.push(cluster.folder.display().to_string());
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut tools, mut seen) = (0, Vec::new());
            while !told.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
                    let read = |file| std::fs::read(entry.path().join(file)).unwrap_or_default();
                    let (line, environment) = (read("cmdline"), read("environ"));
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if !ours.iter().any(|word| line.contains(word)) {
                        continue;
                    }
                    tools += usize::from(line.contains("pg_dump") || line.contains("psql"));
                    if line.contains(ADMIN_PASSWORD)
                        || String::from_utf8_lossy(&environment).contains(ADMIN_PASSWORD)
                    {
                        seen.push(line);
                    }
                }
            }
            (tools, seen)
        });
        Self { stop, thread }
    }

    /// How often one of PostgreSQL's tools was seen, and who had the password in the open.
    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watcher")
    }
}

async fn servers_with_data() -> Arc<Cluster> {
    let cluster = Options::servers(3).prepare();
    let admin = cluster.server("a").admin().await;
    admin.run("create table tls_t as select g as id, md5(g::text) as v from generate_series(1, 50000) g; alter table tls_t owner to app, add primary key (id)").await;
    for server in &cluster.servers {
        server.stop_fast();
    }
    cluster
}

#[test]
fn servers_are_filled_and_served_over_verified_tls() {
    run_within(secs(90), async {
        let cluster = servers_with_data().await;
        let authority = Authority::new();
        for server in &cluster.servers {
            authority.secure(server, "IP:127.0.0.1");
            server.start();
        }
        configure(&cluster, "verify-full", &authority.ca());
        let watcher = Watcher::start(&cluster);
        let output = cluster.lockstep(&["init", "--source", "a"]);
        let (tools, seen) = watcher.end();
        assert!(output.status.success(), "{}", spoken(&output));
        assert!(tools > 0, "nobody has seen pg_dump: the test looks at nothing");
        assert!(seen.is_empty(), "the password stands in the open: {seen:?}");
        let check = cluster.lockstep(&["check"]);
        assert!(check.status.success(), "{}", spoken(&check));
        cluster.proxy_start().await;
        let app = cluster.connect().await;
        app.run("insert into tls_t values (0, 'over TLS')").await;
        assert_eq!(app.one("select count(*) from tls_t").await, "50001");
        assert_eq!(cluster.active().await.len(), 3);
        let log = std::fs::read_to_string(cluster.proxy_log()).unwrap();
        for said in [&log, &spoken(&output), &spoken(&check)] {
            assert!(!said.contains(ADMIN_PASSWORD), "the password is in what was said:\n{said}");
        }
        cluster.proxy_stop();
        for server in &cluster.servers {
            rules(server, "host all all 127.0.0.1/32 scram-sha-256");
            server.restart();
        }
        let names: Vec<String> = cluster.servers.iter().map(|s| s.name.clone()).collect();
        cluster.assert_equal_on(&names).await;
    });
}

#[test]
fn a_server_that_cannot_prove_who_it_is_is_refused_with_the_remedy() {
    run_within(secs(90), async {
        let cluster = servers_with_data().await;
        let (authority, other) = (Authority::new(), Authority::new());
        for server in &cluster.servers {
            let name = if server.name == "c" { "DNS:elsewhere.example" } else { "IP:127.0.0.1" };
            authority.secure(server, name);
            server.start();
        }
        let original = std::fs::read_to_string(&cluster.config).unwrap();
        for (mode, ca, well) in [
            ("verify-full", authority.ca(), false),
            ("verify-ca", authority.ca(), true),
            ("verify-ca", other.ca(), false),
        ] {
            std::fs::write(&cluster.config, &original).unwrap();
            configure(&cluster, mode, &ca);
            for words in [&["check"][..], &["init", "--source", "a"]] {
                let output = cluster.lockstep(words);
                let said = spoken(&output);
                step(format!("{mode}: {words:?}: {said}"));
                if words == ["check"] && well {
                    // The databases differ still, but everybody could be asked.
                    assert!(!said.contains("cannot be reached"), "{said}");
                    continue;
                }
                assert_eq!(output.status.success(), well, "{mode}: {said}");
                let certificate = said.contains("certificate");
                assert!(well || (certificate && said.contains("remedy")), "{mode}: {said}");
            }
        }
    });
}
