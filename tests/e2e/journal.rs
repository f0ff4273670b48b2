//! The journal keeps what a server that is away lacks, up to its limits and no further; who is left
//! behind is told so, and holds nobody up.

use std::sync::Arc;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::session::Session;
use crate::rig::{eventually, run_heavy, secs};

/// What the console says of the journal by lockstep's own count.
async fn journal(cluster: &Cluster, column: &str) -> i64 {
    let rows = cluster.console("SHOW JOURNAL").await;
    rows.iter().find(|r| r["where"] == "(lockstep)").expect("its own row")[column].parse().unwrap()
}

async fn metric(cluster: &Cluster, line: &str) -> Option<i64> {
    let (_, text) = cluster.http("/metrics").await.expect("metrics");
    let found = text.lines().find_map(|l| l.strip_prefix(line).map(str::trim))?;
    found.parse::<f64>().ok().map(|value| value as i64)
}

/// A cluster with a server that was away before the first of many records.
async fn with_one_away(options: Options) -> (Arc<Cluster>, Session, String) {
    let cluster = options.start().await;
    let app = cluster.connect().await;
    app.run("create table kept_t(id serial primary key, v text)").await;
    let lost = cluster.follower().await;
    // Noted as complete, so that what it has is known.
    tokio::time::sleep(secs(3)).await;
    cluster.server(&lost).stop_fast();
    app.run("insert into kept_t(v) values ('while away')").await;
    cluster.wait_inactive(&lost).await;
    (cluster, app, lost)
}

async fn write(app: &Session, records: usize) {
    for _ in 0..records {
        app.run("insert into kept_t(v) select string_agg(md5(random()::text), '') from generate_series(1, 512)").await;
    }
}

/// While it is still away, and again when it has come back.
async fn is_left_behind(cluster: &Cluster, lost: &str) {
    for back in [false, true] {
        if back {
            cluster.server(lost).start();
            tokio::time::sleep(secs(3)).await;
        }
        eventually("the reason to name the copy it needs", secs(20), || async {
            let backend = cluster.backends().await[lost].clone();
            assert_eq!(backend["state"], "inactive", "{backend:?}");
            let reason = &backend["reason"];
            let named = reason.contains("the journal begins after") && reason.contains("full copy");
            if named { Ok(()) } else { Err(reason.clone()) }
        })
        .await;
        let flag = format!("lockstep_backend_needs_copy{{backend=\"{lost}\"}}");
        assert_eq!(metric(cluster, &flag).await, Some(1));
        let rows = cluster.console("SHOW JOURNAL").await;
        let row = rows.iter().find(|r| r["where"] == lost).expect("its row");
        assert!(row["problem"].contains("full copy"), "{row:?}");
    }
}

#[test]
fn a_journal_within_its_limits_waits_for_the_one_that_is_away() {
    run_heavy(secs(90), async {
        let small = Options::servers(3).set("journal.keep_records", "5");
        let (cluster, app, lost) = with_one_away(small).await;
        write(&app, 60).await;
        // Several rounds of housekeeping, in which nothing that it lacks may go.
        tokio::time::sleep(secs(6)).await;
        assert!(journal(&cluster, "records").await >= 60);
        assert!(journal(&cluster, "bytes").await >= 60 * 4096);
        cluster.server(&lost).start();
        cluster.wait_active(&lost).await;
        eventually("the journal to be pruned", secs(15), || async {
            let (records, gauge) = (
                journal(&cluster, "records").await,
                metric(&cluster, "lockstep_journal_records ").await,
            );
            if records < 20 && gauge == Some(records) { Ok(()) } else { Err(records.to_string()) }
        })
        .await;
        cluster.assert_all_equal().await;
    });
}

#[test]
fn too_many_bytes_leave_the_absent_one_behind() {
    run_heavy(secs(90), async {
        let few = Options::servers(3).set("journal.keep_records", "5");
        let (cluster, app, lost) = with_one_away(few.set("journal.max_bytes", "\"1MiB\"")).await;
        write(&app, 20).await;
        tokio::time::sleep(secs(5)).await;
        assert!(journal(&cluster, "records").await > 20, "there was room for all of them");
        write(&app, 100).await;
        eventually("the journal to be light again", secs(15), || async {
            let bytes = journal(&cluster, "bytes").await;
            if bytes <= 1 << 20 { Ok(()) } else { Err(bytes.to_string()) }
        })
        .await;
        is_left_behind(&cluster, &lost).await;
        // It holds nothing back any more.
        write(&app, 10).await;
        eventually("the journal to keep only what is asked for", secs(15), || async {
            let records = journal(&cluster, "records").await;
            if records <= 5 { Ok(()) } else { Err(records.to_string()) }
        })
        .await;
        cluster.assert_equal().await;
    });
}

#[test]
fn too_long_an_absence_leaves_it_behind() {
    run_heavy(secs(90), async {
        let short = Options::servers(3).set("journal.keep_records", "5");
        let short = short.set("journal.keep_while_away", "\"12s\"");
        let (cluster, app, lost) = with_one_away(short).await;
        write(&app, 40).await;
        tokio::time::sleep(secs(4)).await;
        assert!(journal(&cluster, "records").await >= 40, "it has not been away for long");
        is_left_behind(&cluster, &lost).await;
        assert!(journal(&cluster, "records").await <= 6);
        cluster.assert_equal().await;
    });
}
