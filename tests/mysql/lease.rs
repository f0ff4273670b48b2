//! Fence before grant: the agents' lease changes only after every session that may write by the old one has ended.

use std::collections::HashMap;
use std::time::Duration;

use lockstep::agent::election::{Change, Lease};
use lockstep::agent::lease::Lane;
use lockstep::config::agent::Store;
use lockstep::config::{BackendTls, Secret};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::time::Instant;

use crate::cluster::{Cluster, refused, run, value};
use crate::server::{DATABASE, PASSWORD, USER};

/// An agent's hand on the lease of `shop`.
async fn agent(cluster: &Cluster) -> (Lane, Lease) {
    let store = Store {
        dialect: lockstep_protocol::Dialect::MySql,
        host: "127.0.0.1".into(),
        port: cluster.port,
        database: DATABASE.into(),
        user: USER.into(),
        password: Secret::new(PASSWORD),
        tls: BackendTls::Disable,
    };
    let limit = Duration::from_secs(20);
    let mut lane = Lane::new(&[store], limit, limit);
    lane.create_tables().await.expect("tables");
    lane.create_row("shop").await.expect("a row");
    let row = lane.read("shop").await.expect("the row").expect("a row");
    (lane, row)
}

async fn take((lane, row): &mut (Lane, Lease), node: &str) {
    let mut next = row.next(row.stamp + 1);
    next.epoch += 1;
    next.holder = node.to_owned();
    next.incarnation = format!("run {}", next.epoch);
    let change = Change { expected: row.key(), row: next.clone() };
    assert_eq!(lane.change("shop", &change).await, Ok(true), "the lease is taken");
    *row = next;
}

async fn on(cluster: &Cluster, node: &str) -> Conn {
    let said = [("lockstep_resource", "shop"), ("lockstep_node", node)];
    let said = said.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(cluster.port)
        .user(Some(USER))
        .pass(Some(PASSWORD))
        .db_name(Some(DATABASE))
        .connect_attributes(HashMap::from(said))
        .prefer_socket(false);
    Conn::new(opts).await.unwrap_or_else(|error| panic!("{error}; the log:\n{}", cluster.log()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_former_masters_sessions_have_ended_when_the_new_one_is_told() {
    let cluster = Cluster::start_with(3, "[[resource]]\nname = \"shop\"\n").await;
    let mut agent = agent(&cluster).await;
    let mut app = cluster.connect().await;
    run(&mut app, "create table book(id int primary key, node varchar(9))").await;
    take(&mut agent, "n1").await;
    let mut open = on(&cluster, "n1").await;
    run(&mut open, "insert into book values (1, 'n1')").await;
    run(&mut open, "begin").await;
    run(&mut open, "insert into book values (2, 'n1')").await;
    let mut busy = on(&cluster, "n1").await;
    let busy = tokio::spawn(async move {
        run(&mut busy, "begin").await;
        run(&mut busy, "insert into book values (3, 'n1')").await;
        busy.query_drop("select sleep(60)").await
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    let began = Instant::now();
    take(&mut agent, "n2").await;
    assert!(began.elapsed() < Duration::from_secs(4), "a grant took {:?}", began.elapsed());
    // Row locks of what was open would stand in the way.
    let mut master = on(&cluster, "n2").await;
    run(&mut master, "insert into book values (2, 'n2'), (3, 'n2')").await;
    assert!(open.query_drop("commit").await.is_err(), "a commit of the former master");
    assert!(busy.await.unwrap().is_err());
    let mut again = on(&cluster, "n1").await;
    assert_eq!(value(&mut again, "select count(*) from book").await, "3");
    for write in [
        "insert into book values (4, 'n1')",
        "update book set node = 'n1'",
        "create table other(id int)",
        "truncate table book",
        "drop table book",
    ] {
        assert_eq!(refused(&mut again, write).await, 1290, "{write}");
    }
    let mut console = cluster.console().await;
    let lease: Option<(String, String, String)> =
        console.query_first("SHOW LEASE").await.unwrap().map(|row: mysql_async::Row| {
            let cell = |at: usize| row.get::<String, _>(at).unwrap();
            (cell(0), cell(1), cell(9))
        });
    assert_eq!(lease, Some(("shop".into(), "n2".into(), "1".into())));
    for empty in ["SHOW NODES", "SHOW EVENTS", "SHOW CHECKS", "SHOW DOWNTIME"] {
        let rows: Vec<mysql_async::Row> = console.query(empty).await.unwrap();
        assert!(rows.is_empty(), "{empty}: no agent has written anything");
    }
    // Nobody else is concerned.
    run(&mut app, "insert into book values (5, 'app')").await;
    cluster.assert_all_equal().await;
}
