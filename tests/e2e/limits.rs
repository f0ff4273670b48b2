//! What is too much, or too long in coming: a clear answer, bounded memory, and everybody else is served.

use crate::rig::cluster::{Cluster, Options};
use crate::rig::session::{code_of, explain};
use crate::rig::wire::{Wire, any, bind, execute, lines, parse, sync};
use crate::rig::{eventually, run_within, secs};

/// Resident memory of the proxy, in kB.
fn memory(cluster: &Cluster) -> u64 {
    let pid = cluster.with_proxy(|p| p.pid());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_strangers_say_nothing() {
    run_within(secs(60), async {
        let cluster = Options::servers(2).set("timeouts.login", "\"4s\"").start().await;
        cluster.connect().await.run("select 1").await;
        let before = memory(&cluster);
        let mut strangers = Vec::new();
        for _ in 0..1000 {
            strangers.push(Wire::bare(cluster.port).await);
        }
        let began = std::time::Instant::now();
        let app = cluster.connect().await;
        app.run("create table few_t(id int); insert into few_t values (1)").await;
        assert!(began.elapsed() < secs(3), "clients waited {:?} for strangers", began.elapsed());
        let grown = memory(&cluster).saturating_sub(before);
        assert!(grown < 30_000, "{grown} kB for strangers who say nothing");
        for mut bare in strangers {
            assert!(
                bare.is_closed_within(secs(8)).await,
                "a stranger is kept after timeouts.login"
            );
        }
        app.run("insert into few_t values (2)").await;
    });
}

/// Parse, Bind of one value of so many bytes, Execute, Sync.
fn insert_of(bytes: usize) -> Vec<u8> {
    let value = "x".repeat(bytes);
    let statement = parse("", "insert into big_t(v) values ($1)");
    [statement, bind("", "", &[Some(&value)]), execute("", 0), sync()].concat()
}

#[test]
fn a_value_beyond_every_limit() {
    run_within(secs(90), async {
        let options = Options::servers(3).set("limits.max_message_bytes", "\"48MiB\"");
        let options = options.set("limits.max_transaction_effects_bytes", "\"8MiB\"");
        let cluster = options.start().await;
        let app = cluster.connect().await;
        app.run("create table big_t(id serial primary key, v text)").await;
        let before = memory(&cluster);
        // More than a transaction may change: this one is undone, and the session goes on.
        let mut wire = cluster.wire().await;
        let said = wire.talk(&insert_of(20 << 20), 1).await;
        assert!(said.iter().any(|l| l.contains("54000")), "{said:?}");
        let said = wire.talk(&insert_of(1 << 20), 1).await;
        assert!(said.iter().any(|l| l == "C INSERT 0 1"), "{said:?}");
        // More than a message may hold: nobody reads it to its end, let alone keeps it.
        for length in [200_u32 << 20, (1 << 30) - 1] {
            let mut wire = cluster.wire().await;
            wire.send(&parse("", "insert into big_t(v) values ($1)")).await;
            wire.send(&[&b"B"[..], &length.to_be_bytes()].concat()).await;
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..200 {
                if !wire.try_send(&piece).await {
                    break;
                }
            }
            if let Some(said) = wire.next().await {
                let said = lines(&[said]);
                assert!(said[0].contains("max_message_bytes"), "{said:?}");
            }
            assert!(wire.is_closed_within(secs(5)).await);
        }
        let grown = memory(&cluster).saturating_sub(before);
        assert!(grown < 160_000, "{grown} kB more");
        let mut wire = cluster.wire().await;
        wire.send(&any(b'B', &[0; 100])).await;
        app.run("insert into big_t(v) values ('small')").await;
        assert_eq!(app.one("select count(*) from big_t").await, "2");
        cluster.assert_all_equal().await;
    });
}

/// The disk of the leader alone is full: it goes, as one that is dead.
#[test]
fn the_leaders_disk_is_full() {
    run_within(secs(60), async {
        let cluster = Options::servers(3).set("cluster.reactivate", "\"manual\"").start().await;
        let app = cluster.connect().await;
        app.run("create table full_t(id int primary key, v float8 default random()); insert into full_t values (0)").await;
        let leader = cluster.leader().await;
        let admin = cluster.server(&leader).admin().await;
        admin.run("create function public.full() returns trigger language plpgsql as $$ begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$").await;
        for table in ["full_t", "lockstep.control", "lockstep.journal"] {
            admin.run(&format!("create trigger a_full before insert or update on {table} for each row execute function public.full(); alter table {table} enable always trigger a_full")).await;
        }
        let tries = std::cell::Cell::new(0);
        eventually("a write at another leader", secs(15), || async {
            tries.set(tries.get() + 1);
            let insert = format!("insert into full_t(id) values ({})", tries.get());
            match app.simple_query(&insert).await {
                Ok(_) => Ok(()),
                Err(e) if code_of(&e).as_deref() == Some("53100") => Err(explain(&e)),
                Err(e) => panic!("{}", explain(&e)),
            }
        })
        .await;
        cluster.wait_inactive(&leader).await;
        let reason = cluster.backends().await[&leader]["reason"].clone();
        assert!(reason.contains("53100") || reason.contains("No space left"), "{reason}");
        app.run("begin; update full_t set v = 1; insert into full_t(id) values (-1); commit").await;
        assert_eq!(cluster.active().await.len(), 2);
        cluster.assert_equal().await;
    });
}
