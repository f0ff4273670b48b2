//! What nobody may do, from outside and from inside.

use crate::rig::cluster::{Cluster, Options, direct};
use crate::rig::process::{As, command, output};
use crate::rig::server::programs;
use crate::rig::session::code_of;
use crate::rig::wire::{Wire, any, cancel, lines, parse, query, startup, sync};
use crate::rig::{folder, run, run_within, secs};

#[test]
fn the_bookkeeping_is_out_of_reach() {
    run(async {
        if direct() {
            return;
        }
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("create table reach_t(id int primary key)").await;
        for table in ["control", "secret", "journal"] {
            app.fails(&format!("select * from lockstep.{table}"), "42501").await;
            app.fails(&format!("delete from lockstep.{table}"), "42501").await;
            app.fails(&format!("truncate lockstep.{table}"), "42501").await;
        }
        app.fails("select lockstep.record('guess', 1, 1, 'app', '\\x')", "42501").await;
        app.fails(
            "select lockstep.apply('guess', 'public.reach_t', 'I', null, array['(1)'])",
            "42501",
        )
        .await;
        app.fails("select lockstep.advance('guess', 'public.x', 5)", "42501").await;
        app.fails("select lockstep.sequences('guess', null)", "42501").await;
        app.fails("create table lockstep.mine(id int)", "42501").await;
        app.fails("drop schema lockstep cascade", "42501").await;
        let _ = app.simple_query("drop trigger \"00_lockstep_capture\" on reach_t").await;
        let _ = app.simple_query("alter table reach_t disable trigger all").await;
        let _ = app.simple_query("set lockstep.capture to 'off'").await;
        app.run("insert into reach_t select (random() * 1000000)::int from generate_series(1, 3)")
            .await;
        cluster.same("reach_%").await;
    });
}

#[test]
fn capture_cannot_be_switched_off_from_within() {
    run(async {
        let cluster = Cluster::shared().await;
        let app = cluster.connect().await;
        app.run("create table sneak_t(id serial primary key, r float8 default random())").await;
        // The text of the function gives it away: it is refused.
        app.fails(
            "create function sneak_f() returns int language plpgsql as $$ begin
               perform set_config('lockstep.capture', 'off', true); insert into sneak_t default values; return 1; end $$",
            "42501",
        )
        .await;
        // A server that does not know the setting yet does not let everybody make this one.
        let _ = app
            .simple_query("create function sneak_set() returns int language plpgsql set lockstep.capture = 'off' as $$
                           begin insert into sneak_t default values; return 1; end $$")
            .await;
        // Either it is captured all the same, or refused; never on one server only.
        for sql in [
            "select sneak_f()",
            "select sneak_set()",
            "set lockstep.capture to off; insert into sneak_t default values",
            "begin; set local lockstep.capture to off; insert into sneak_t default values; commit",
            "set session_replication_role to replica",
        ] {
            let _ = app.simple_query(sql).await;
            let _ = app.simple_query("rollback; reset all").await;
        }
        app.run("insert into sneak_t default values").await;
        cluster.same("sneak_%").await;
    });
}

#[test]
fn a_forged_notice_is_only_a_notice() {
    run(async {
        let cluster = Cluster::shared().await;
        let mut app = cluster.connect().await;
        app.run("create table forge_t(id int primary key, v text)").await;
        app.run("do $$ begin raise info using errcode = 'LS002', message = 'guess', schema = 'public', table = 'forge_t', column = 'I', hint = '(1,forged)';
                 insert into forge_t values (2, 'real'); end $$").await;
        assert!(!app.notices().is_empty(), "the client's own notice was swallowed");
        assert_eq!(app.column("select id from forge_t").await, ["2"]);
        cluster.same("forge_%").await;
    });
}

#[test]
fn captured_rows_are_not_shown_to_the_client() {
    run(async {
        let cluster = Cluster::shared().await;
        let mut app = cluster.connect().await;
        app.run("set client_min_messages to debug1; create table quiet_t(id serial primary key, r float8 default random())").await;
        app.notices();
        app.run("insert into quiet_t(r) select random() from generate_series(1, 5); update quiet_t set r = random(); delete from quiet_t where id = 1").await;
        app.run("do $$ begin update quiet_t set r = 0; raise notice 'own'; end $$").await;
        let seen = app.notices();
        let strange: Vec<_> = seen.iter().filter(|n| n.code().code().starts_with("LS")).collect();
        assert!(strange.is_empty(), "{strange:?}");
        assert!(seen.iter().any(|n| n.message() == "own"));
    });
}

#[test]
fn silent_and_slow_strangers_keep_nobody_out() {
    run_within(secs(60), async {
        if direct() {
            return;
        }
        let cluster = Options::servers(2).start().await;
        let mut strangers = Vec::new();
        for i in 0..300 {
            let mut bare = Wire::bare(cluster.port).await;
            if i % 3 == 0 {
                bare.try_send(&startup(&[("user", "app"), ("database", "app")])[..10]).await;
            }
            if i % 3 == 1 {
                bare.try_send(&startup(&[("user", "app"), ("database", "app")])).await;
            }
            strangers.push(bare);
        }
        let began = std::time::Instant::now();
        cluster.connect().await.run("select 1").await;
        assert!(began.elapsed() < secs(5));
    });
}

/// Whatever is said before the login: the stranger is turned away, the proxy reserves nothing for
/// what was only announced, and everybody else is served.
#[test]
fn lengths_before_the_login_are_only_numbers() {
    run_within(secs(90), async {
        if direct() {
            return;
        }
        let cluster = Options::servers(2).start().await;
        cluster.connect().await.run("select 1").await;
        let before = memory(&cluster);
        let version = 196_608_u32.to_be_bytes();
        let announced = [0, 1, 3, 4, 7, 8, 10_001, 1 << 30, (1 << 31) - 1, 1 << 31, u32::MAX];
        let mut held = Vec::new();
        for length in announced {
            for rest in [&version[..], b"", b"\xff\xff\xff\xff", b"\x04\xd2\x16\x2f"] {
                let mut bare = Wire::bare(cluster.port).await;
                bare.try_send(&[&length.to_be_bytes()[..], rest].concat()).await;
                held.push(bare);
            }
            // The same in the middle of the login, where a password is waited for.
            let mut bare = Wire::bare(cluster.port).await;
            bare.send(&startup(&[("user", "app"), ("database", "app")])).await;
            bare.until(b'R').await;
            bare.try_send(&[b"p", &length.to_be_bytes()[..]].concat()).await;
            held.push(bare);
        }
        for text in ["n,,n=,r=", "p=tls,,n=,r=x", "n,,n=,r=\u{1f600}", ""] {
            let mut bare = Wire::bare(cluster.port).await;
            bare.send(&startup(&[("user", "app"), ("database", "app")])).await;
            bare.until(b'R').await;
            for size in [text.len() as u32, u32::MAX, 1 << 31, 1 << 30] {
                let body = [b"SCRAM-SHA-256\0", &size.to_be_bytes()[..], text.as_bytes()].concat();
                bare.try_send(&any(b'p', &body)).await;
            }
            held.push(bare);
        }
        tokio::time::sleep(secs(1)).await;
        let grown = memory(&cluster).saturating_sub(before);
        assert!(grown < 20_000, "{grown} KiB for strangers who have only announced something");
        cluster.connect().await.run("select 1").await;
        for mut bare in held {
            assert!(bare.is_closed_within(secs(8)).await, "a stranger is kept after the time-out");
        }
        assert!(cluster.proxy_exited().is_none());
    });
}

#[test]
fn nobody_gets_in_by_saying_the_wrong_thing() {
    run_within(secs(60), async {
        let cluster = Cluster::shared().await;
        let login = startup(&[("user", "app"), ("database", "app")]);
        let other = startup(&[("user", "postgres"), ("database", "app")]);
        let request_tls = [8_u32.to_be_bytes(), 80_877_103_u32.to_be_bytes()].concat();
        for wrong in [
            query("select 1"),
            parse("", "select 1"),
            sync(),
            // A second start, as somebody else, while the first one is being proved.
            other.clone(),
            request_tls.clone(),
            any(b'p', b""),
            any(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
            any(b'p', b"SCRAM-SHA-256-PLUS\0\0\0\0\0"),
            any(b'p', b"wrong\0"),
            any(b'd', b"x"),
        ] {
            let mut bare = Wire::bare(cluster.port).await;
            bare.send(&login).await;
            bare.until(b'R').await;
            bare.try_send(&[wrong.clone(), query("select 'in'")].concat()).await;
            let mut said = Vec::new();
            while let Some(message) = bare.next().await {
                said.push(message.tag);
            }
            let shown = wrong.escape_ascii();
            assert!(!said.contains(&b'Z') && !said.contains(&b'D'), "{shown}: {said:?}");
        }
        // Names that are nothing, options without a name, and an end that does not come.
        for options in ["-c =", "-c", "-c=", "--=x", "-c a", "\\", "-c x=\\", "-", "--"] {
            let mut bare = Wire::bare(cluster.port).await;
            let asks = [("user", "app"), ("database", "app"), ("options", options)];
            bare.send(&startup(&asks)).await;
            let first = bare.next().await;
            let tag = first.as_ref().map(|message| message.tag);
            assert!(matches!(tag, Some(b'E' | b'R')), "{options}: {first:?}");
        }
        cluster.connect().await.run("select 1").await;
    });
}

#[test]
fn a_guessed_cancel_key_cancels_nothing() {
    run_within(secs(60), async {
        let cluster = Cluster::shared().await;
        let mut wire = cluster.wire().await;
        wire.send(&query("select pg_sleep(3)")).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let key: [u8; 4] = wire.secret[..4].try_into().expect("a key of four bytes");
        let near = [0, 1, u32::MAX].map(|n| u32::from_be_bytes(key).wrapping_add(n).to_be_bytes());
        for secret in
            [&near[1][..], &near[2], b"\0\0\0\0", b"", &key[..3], &[&key[..], b"x"].concat()]
        {
            cancel(cluster.port, wire.pid, secret).await;
        }
        cancel(cluster.port, wire.pid.wrapping_add(1), &key).await;
        let answer = lines(&wire.until_ready(1).await);
        assert!(answer.iter().any(|line| line == "C SELECT 1"), "{answer:?}");
        wire.send(&query("select pg_sleep(20)")).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        cancel(cluster.port, wire.pid, &near[0]).await;
        let answer = lines(&wire.until_ready(1).await);
        let cancelled = answer.iter().any(|line| line.contains("57014"));
        assert!(cancelled, "the right key cancels: {answer:?}");
    });
}

/// A connection that is open already, and would serve anybody whom the proxy lets in, lets nobody in
/// whom the servers would turn away.
#[test]
fn a_closed_role_gets_in_by_no_open_connection() {
    run(async {
        if direct() {
            return;
        }
        let cluster = Cluster::start(2).await;
        for admin in cluster.admins().await {
            admin.run("alter role app createrole").await;
        }
        let app = cluster.connect().await;
        let other = cluster.connect_as("app2").await;
        other.run("select 1").await;
        let refused = async |code: &str| {
            let refused = cluster.try_connect("app2", "app2", "app").await.err().expect("refused");
            assert_eq!(code_of(&refused).as_deref(), Some(code), "{refused}");
        };
        app.run("alter role app2 nologin").await;
        refused("28000").await;
        app.run("alter role app2 login valid until '2001-01-01'").await;
        refused("28P01").await;
        app.run("alter role app2 valid until 'infinity'").await;
        cluster.connect_as("app2").await.run("select 1").await;
        app.run("alter role app2 rename to another").await;
        refused("28000").await;
        cluster.connect().await.run("select 1").await;
    });
}

#[test]
fn a_stalled_reader_does_not_fill_the_memory() {
    run_within(secs(60), async {
        if direct() {
            return;
        }
        let cluster = Options::servers(2).start().await;
        let before = memory(&cluster);
        let mut stalled = cluster.wire().await;
        stalled.send(&query("select repeat('x', 1000000) from generate_series(1, 400)")).await;
        tokio::time::sleep(secs(4)).await;
        let grown = memory(&cluster).saturating_sub(before);
        assert!(grown < 100_000, "400 MB for a client that does not read: {grown} kB more");
        cluster.connect().await.run("select 1").await;
    });
}

/// Resident memory of the proxy, in kB.
fn memory(cluster: &Cluster) -> u64 {
    let pid = cluster.with_proxy(|p| p.pid());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn passwords_are_in_no_process_list_or_environment() {
    run(async {
        if direct() {
            return;
        }
        let cluster = Cluster::shared().await;
        let pid = cluster.with_proxy(|p| p.pid());
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(
                !String::from_utf8_lossy(&text).contains("admin secret"),
                "the password is in {file}"
            );
        }
        let state = cluster.folder.join("state");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&state).unwrap().permissions(),
        );
        assert_eq!(mode & 0o007, 0, "everybody may look into the state folder");
    });
}

#[test]
fn encrypted_clients_are_served_and_plain_ones_turned_away_when_told() {
    run_within(secs(60), async {
        if direct() {
            return;
        }
        let (cert, key) = certificate();
        let quoted = |path: &std::path::Path| format!("{:?}", path.display().to_string());
        let options = Options::servers(2)
            .set("client_tls.cert", &quoted(&cert))
            .set("client_tls.key", &quoted(&key));
        let cluster = options.set("client_tls.required", "true").start().await;
        let psql = |mode: &str| {
            let mut psql = command(As::Myself, programs().join("psql"));
            psql.args(["-X", "-At", "-d"]);
            psql.arg(format!(
                "host=127.0.0.1 port={} user=app dbname=app sslmode={mode} sslrootcert={}",
                cluster.port,
                cert.display()
            ));
            psql.args(["-c", "select 41 + 1", "-c", "\\conninfo"]).env("PGPASSWORD", "app");
            output("psql", psql, secs(20))
        };
        let said = psql("verify-ca");
        let text = crate::rig::cluster::spoken(&said);
        assert!(
            said.status.success() && text.contains("42") && text.contains("SSL connection"),
            "{text}"
        );
        let plain = psql("disable");
        assert!(!plain.status.success(), "a plain client is let in");
        // Bytes sent in clear after the request for TLS, before the handshake, must not be taken
        // for the client's.
        let mut bare = Wire::bare(cluster.port).await;
        let mut bytes = 8_u32.to_be_bytes().to_vec();
        bytes.extend(80_877_103_u32.to_be_bytes());
        bytes.extend(startup(&[("user", "app"), ("database", "app")]));
        bare.try_send(&bytes).await;
        assert!(
            bare.is_closed_within(secs(8)).await,
            "bytes before the handshake were not refused"
        );
        let psql = psql("require");
        assert!(psql.status.success());
    });
}

/// A certificate of its own authority for 127.0.0.1.
fn certificate() -> (std::path::PathBuf, std::path::PathBuf) {
    let (cert, key) = (folder().join("server.crt"), folder().join("server.key"));
    let mut openssl = command(As::Myself, "openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]);
    openssl
        .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert);
    crate::rig::process::must("openssl req", openssl);
    (cert, key)
}
