//! A server that breaks the protocol: the proxy neither falls over nor hangs, hands none of it to an
//! application, and loses that server.

use std::sync::Arc;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::liar::Lie;
use crate::rig::session::{Session, code_of, explain};
use crate::rig::{run_within, secs, within};

/// What an application may be told while a server lies: only what a server's death may bring.
const MAY: [&str; 1] = ["40001"];

/// Reads and writes of which every answer is known.
async fn work(app: &Session, n: i64) -> Result<(), tokio_postgres::Error> {
    let id = n % 7;
    for row in app.query("select id, v from lie_t where id = $1", &[&id]).await? {
        assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (id, &*format!("v{id}")));
    }
    let answer =
        app.simple_query(&format!("select v from lie_t where id = {id}; select 'x{n}'")).await?;
    let values: Vec<&str> = answer
        .iter()
        .filter_map(|m| match m {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(values, [format!("v{id}"), format!("x{n}")]);
    app.batch_execute("begin").await?;
    let changed = app.execute("update lie_n set n = n + 1 where id = 1", &[]).await?;
    let read = app.query("select 1 + $1::bigint, 'mine'", &[&n]).await?;
    assert_eq!((changed, read.len()), (1, 1));
    assert_eq!((read[0].get::<_, i64>(0), read[0].get::<_, &str>(1)), (n + 1, "mine"));
    app.batch_execute("commit").await?;
    let id = app.query_one("insert into lie_w(w) values ($1) returning w", &[&n]).await?;
    assert_eq!(id.get::<_, i64>(0), n);
    Ok(())
}

/// Works until the liar is gone and on for a little; how often it was tried.
async fn goes_on(
    cluster: &Arc<Cluster>,
    apps: &[Session],
    (liar, lie): (&str, Lie),
    from: i64,
) -> i64 {
    let mut n = from;
    let mut after = 0;
    let began = std::time::Instant::now();
    while after < 3 {
        assert!(began.elapsed() < secs(20), "the proxy keeps {liar}");
        for app in apps {
            n += 1;
            match within("an answer", secs(15), work(app, n)).await {
                Ok(()) => {}
                Err(e) if code_of(&e).is_some_and(|code| MAY.contains(&&*code)) => {
                    app.run("rollback").await;
                }
                Err(e) => panic!("{}", explain(&e)),
            }
        }
        // What a connection says while nobody uses it costs the server that connection only.
        let stays = cluster.active().await.iter().any(|name| name == liar);
        after += i32::from(!stays || lie == Lie::LateRows);
    }
    n
}

fn lies(lies: &'static [Lie]) {
    run_within(secs(100), async move {
        let cluster = Options::servers(3).liars().start().await;
        let app = cluster.connect().await;
        app.run(
            "create table lie_t(id bigint primary key, v text); \
             insert into lie_t select g, 'v' || g from generate_series(0, 7) g; \
             create table lie_n(id int primary key, n bigint); insert into lie_n values (1, 0); \
             create table lie_w(id bigserial primary key, w bigint)",
        )
        .await;
        let apps = [cluster.connect().await, cluster.connect().await];
        let mut n = 0;
        for (turn, lie) in lies.iter().enumerate() {
            let liar =
                if turn % 2 == 0 { cluster.follower().await } else { cluster.leader().await };
            cluster.liar(&liar).tell(*lie);
            if matches!(lie, Lie::StrangeLogin | Lie::RowsAtLogin | Lie::HalfLogin) {
                let end =
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'";
                cluster.server(&liar).admin().await.run(end).await;
            }
            let fresh = [cluster.connect().await, cluster.connect().await];
            n = goes_on(&cluster, &apps, (&liar, *lie), n).await;
            n = goes_on(&cluster, &fresh, (&liar, *lie), n).await;
            assert!(cluster.proxy_exited().is_none());
            cluster.liar(&liar).tell(Lie::None);
            cluster.wait_active(&liar).await;
        }
        cluster.assert_all_equal().await;
        let panics = std::fs::read_to_string(cluster.proxy_log()).unwrap();
        assert!(!panics.contains("panicked"), "{panics}");
    });
}

#[test]
fn messages_that_are_none() {
    lies(&[Lie::Garbage, Lie::TooShort, Lie::Half, Lie::Unknown]);
}

#[test]
fn lengths_that_never_come() {
    lies(&[Lie::Endless, Lie::TooLong]);
}

#[test]
fn messages_that_nobody_expects() {
    lies(&[Lie::LoginAgain, Lie::MoreRows, Lie::LateRows, Lie::MoreRows, Lie::LateRows]);
}

#[test]
fn a_login_that_goes_wrong() {
    lies(&[Lie::StrangeLogin, Lie::RowsAtLogin, Lie::HalfLogin]);
}
