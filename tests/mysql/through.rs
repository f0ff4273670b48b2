//! Real clients through the front door and one connection to a server, with nothing in between.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lockstep::backend::mysql::MyLink;
use lockstep::backend::{Dial, Purpose};
use lockstep::client::mysql::{Bounds, Door, Known};
use lockstep::config::ClientTls;
use lockstep::exchange::{Client, Link, TxState, Watch};
use lockstep::tls::ServerTls;
use lockstep::wire::mysql::{Statements, identity};
use lockstep_protocol::mysql::auth::{Method, Verifier};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::link::{dial, statements};
use crate::server::{PASSWORD, Server, USER};

fn door(statements: &Arc<Statements>, method: Option<Method>, tls: Option<ServerTls>) -> Door {
    let known = Known { verifier: Verifier::new(PASSWORD), trusted: false };
    Door {
        tls: tls.map(|tls| (Arc::new(tls), true)),
        users: [(USER.to_owned(), known)].into(),
        method,
        version: Arc::default(),
        secret: [7; 32],
        timeout: Duration::from_secs(5),
        max_login: 1 << 16,
        bounds: Bounds { message: 1 << 26, prepared: 100, reply: 1 << 14 },
        statements: statements.clone(),
    }
}

/// Serves clients, each with a connection of its own; returns the port.
async fn serve(server: &Server, method: Option<Method>, tls: Option<ServerTls>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let statements = statements();
    let (dial, door) =
        (Arc::new(dial(server, &statements)), Arc::new(door(&statements, method, tls)));
    tokio::spawn(async move {
        while let Ok((tcp, peer)) = listener.accept().await {
            let (dial, door) = (dial.clone(), door.clone());
            tokio::spawn(async move {
                let Some(mut greeting) = door.open(tcp, peer, 7).await else { return };
                let user = identity::of(&greeting.who.user, greeting.found_rows);
                let link = dial.dial(&user, Purpose::Write, CancellationToken::new()).await;
                greeting.client.welcome(7, "app").await.ok();
                relay(greeting.client, link.expect("a connection")).await;
            });
        }
    });
    port
}

async fn relay<C: Client<Work = lockstep::wire::mysql::MyWork>>(mut client: C, mut link: MyLink) {
    while let Ok(batch) = client.next().await {
        for item in &batch.items {
            let ran = link.run(&item.work, Watch::default(), &mut client).await;
            if let Some(error) = ran.expect("the server lives").error {
                client.relay_error(&error);
            }
        }
        client.ready(if link.tx_state() == TxState::Idle { TxState::Idle } else { TxState::Open });
        if client.flush().await.is_err() {
            return;
        }
    }
}

fn cli(port: u16, more: &[&str], sql: &str) -> (String, String) {
    let mut client = Command::new("mariadb")
        .args([
            "--no-defaults",
            "-h127.0.0.1",
            "--skip-ssl",
            "-uapp",
            "-psecret",
            "-vvv",
            "--force",
        ])
        .arg(format!("-P{port}"))
        .args(more)
        .arg("app")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let ran = client.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| {
        // How long a statement took is another number each time.
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| line.split(" (0.").next().unwrap_or(line).to_owned() + "\n")
            .collect()
    };
    (text(ran.stdout), text(ran.stderr))
}

const TALK: &str = "
    create table t(id int auto_increment primary key, v varchar(100), b blob);
    insert into t(v) values('a'),('b');
    select * from t; select null, '', repeat('x', 70000) like 'x%';
    select * from nowhere;
    update t set v='c' where id=1; update t set v='c' where id=1;
    delimiter //
    create or replace procedure p() begin select 1; select 2, 3; end//
    delimiter ;
    call p();
    start transaction; delete from t; rollback; select count(*) from t;
    select 1/0; show warnings;
    insert into t(id, v) values(1, 'twice');
    select last_insert_id(), row_count();
    select repeat('y', 20000000) = '', length(repeat('y', 20000000));
    nonsense;
    prepare s from 'select ? + 1'; set @a = 41; execute s using @a;
    drop procedure p; drop table t;";

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_talk_is_the_servers_own() {
    let server = Server::launch();
    let port = serve(&server, None, None).await;
    let all = |port| tokio::task::spawn_blocking(move || cli(port, &["--skip-ssl"], TALK));
    let straight = all(server.port).await.unwrap();
    let through = all(port).await.unwrap();
    assert!(straight.0.contains("Records: 2") && straight.1.contains("1062"), "{straight:?}");
    assert_eq!(through.0, straight.0);
    assert_eq!(through.1, straight.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_without_the_password() {
    let server = Server::launch();
    let port = serve(&server, None, None).await;
    let (_, refused) =
        tokio::task::spawn_blocking(move || cli(port, &["--skip-ssl", "-pwrong"], "select 1"))
            .await
            .unwrap();
    assert!(refused.contains("1045 (28000)"), "{refused}");
    assert!(refused.contains("Access denied for user 'app'@'127.0.0.1' (using password: YES)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_methods_and_encryption() {
    let server = Server::launch();
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/testdata");
    let files =
        ClientTls { cert: keys.join("server.crt"), key: keys.join("server.key"), required: true };
    for method in [Method::Native, Method::CachingSha2] {
        let open = serve(&server, Some(method), None).await;
        let tls = Some(ServerTls::load(&files).unwrap());
        let hidden = serve(&server, Some(method), tls).await;
        let talk = move |port, ssl| {
            tokio::task::spawn_blocking(move || {
                cli(port, &[ssl], "select 41 + 1 as answer;\nstatus\n")
            })
        };
        let (plain, complaint) = talk(open, "--skip-ssl").await.unwrap();
        assert!(plain.contains("|     42 |"), "{plain}{complaint}");
        let (secret, complaint) = talk(hidden, "--ssl").await.unwrap();
        assert!(secret.contains("|     42 |"), "{secret}{complaint}");
        assert!(secret.contains("Cipher in use is TLS"), "{secret}");
        let (_, refused) = talk(hidden, "--skip-ssl").await.unwrap();
        assert!(refused.contains("3159"), "{refused}");
    }
}
