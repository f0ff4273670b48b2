//! Logins that are refused, and bytes that no client should send.

use std::time::Duration;

use crate::rig::cluster::{Cluster, Options};
use crate::rig::server::DATABASE;
use crate::rig::session::{expect_code, explain};
use crate::rig::wire::{Wire, any, fields, query, startup};
use crate::rig::{run, secs};

/// What a refused login says: SQLSTATE and text.
async fn refusal(port: u16, user: &str, password: &str, database: &str) -> (String, String) {
    match crate::rig::session::Session::open(port, user, password, database).await {
        Ok(_) => panic!("{user} with password {password} may log in to {database}"),
        Err(e) => {
            let db = e
                .as_db_error()
                .unwrap_or_else(|| panic!("no answer from a server: {}", explain(&e)));
            (db.code().code().to_owned(), db.message().to_owned())
        }
    }
}

#[test]
fn refused_logins_say_what_a_server_says() {
    run(async {
        let cluster = Cluster::shared().await;
        let real = Cluster::reference().await.port;
        for (user, password, database) in [
            ("app", "wrong", DATABASE),
            ("app", "app ", DATABASE),
            ("nobody", "app", DATABASE),
            ("App", "app", DATABASE),
            ("app", "app", "missing"),
        ] {
            let expected = refusal(real, user, password, database).await;
            let found = refusal(cluster.port, user, password, database).await;
            assert_eq!(found, expected, "login of {user} to {database}");
        }
        if crate::rig::cluster::direct() {
            return;
        }
        // A role of the servers that the configuration does not name is nobody here.
        assert_eq!(refusal(cluster.port, "stranger", "stranger", DATABASE).await.0, "28P01");
        // The database is refused only after the password: else strangers could list databases.
        assert_eq!(refusal(cluster.port, "app", "wrong", "missing").await.0, "28P01");
        cluster.connect().await.run("select 1").await;
    });
}

#[test]
fn too_many_clients_are_told_so() {
    run(async {
        let cluster = Options::servers(2).set("limits.max_clients", "4").start().await;
        let mut held = Vec::new();
        let refused = loop {
            match cluster.try_connect("app", "app", DATABASE).await {
                Ok(session) => held.push(session),
                Err(e) => break e,
            }
            assert!(held.len() < 120, "the limit does not hold");
        };
        expect_code("one client too many", &refused, "53300");
        held.truncate(2);
        crate::rig::eventually("a place to be free again", secs(10), || async {
            cluster.try_connect("app", "app", DATABASE).await.map_err(|e| explain(&e))
        })
        .await
        .run("select 1")
        .await;
    });
}

#[test]
fn garbage_ends_one_connection_and_no_more() {
    run(async {
        let cluster = Cluster::shared().await;
        let first_bytes: [&[u8]; 9] = [
            b"GET / HTTP/1.1\r\n\r\n",
            &[0, 0, 0, 0],
            &[0, 0, 0, 3, 0, 3, 0, 0],
            &[0, 0, 0, 7, 0, 3, 0],
            &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
            &[0xff, 0xff, 0xff, 0xff],
            // Protocol 1.0, which nobody speaks any more.
            &[0, 0, 0, 8, 0, 1, 0, 0],
            // Start-up without the last zero, and with an option without a name.
            &[0, 0, 0, 12, 0, 3, 0, 0, b'u', b's', b'e', b'r'],
            b"\0\0\0\x1f\0\x03\0\0user\0app\0options\0-c =\0\0\0",
        ];
        for bytes in first_bytes {
            let mut bare = Wire::bare(cluster.port).await;
            bare.try_send(bytes).await;
            let closed = bare.is_closed_within(secs(8)).await;
            // A server would keep asking for a password where the packet was in order.
            assert!(
                closed || bytes.len() > 20,
                "{} leaves the connection open",
                bytes.escape_ascii()
            );
        }
        assert_eq!(cluster.connect().await.one("select 1").await, "1");
    });
}

#[test]
fn messages_out_of_turn_are_refused() {
    run(async {
        let cluster = Cluster::shared().await;
        // A query where a password is due.
        let mut bare = Wire::bare(cluster.port).await;
        bare.send(&startup(&[("user", "app"), ("database", DATABASE)])).await;
        assert_eq!(bare.next().await.expect("a request for a password").tag, b'R');
        bare.send(&query("select 1")).await;
        let answer = bare.until_ready(1).await;
        assert!(
            answer.iter().all(|m| !matches!(m.tag, b'T' | b'D' | b'Z')),
            "a query before the login is answered"
        );
        // A second start-up in the middle of the first one's proof.
        let mut bare = Wire::bare(cluster.port).await;
        bare.send(&startup(&[("user", "app"), ("database", DATABASE)])).await;
        bare.next().await;
        bare.try_send(&startup(&[("user", "postgres"), ("database", DATABASE)])).await;
        assert!(bare.is_closed_within(secs(8)).await);
        // Unknown and broken messages after the login end that session with 08P01.
        for bytes in
            [any(b'z', b"?"), any(b'B', b"no end"), any(b'Q', b"no zero"), any(b'p', b"late\0")]
        {
            let mut raw = cluster.wire().await;
            raw.send(&bytes).await;
            let error = raw.until(b'E').await.pop().expect("the error");
            assert_eq!(fields(&error.body)[&'C'], "08P01", "for {}", bytes.escape_ascii());
        }
        // A length that cannot be: there is no way to go on reading.
        let mut raw = cluster.wire().await;
        raw.send(&[b'Q', 0, 0, 0, 3]).await;
        assert!(raw.is_closed_within(secs(8)).await);
        assert_eq!(cluster.connect().await.one("select 1").await, "1");
    });
}

#[test]
fn a_silent_login_is_ended() {
    run(async {
        if crate::rig::cluster::direct() {
            return;
        }
        let cluster = Cluster::shared().await;
        // The configuration of the rig says: five seconds to log in.
        let mut silent = Wire::bare(cluster.port).await;
        let mut slow = Wire::bare(cluster.port).await;
        slow.send(&startup(&[("user", "app"), ("database", DATABASE)])[..6]).await;
        assert!(
            silent.is_closed_within(secs(12)).await,
            "a client that says nothing holds a connection"
        );
        assert!(slow.is_closed_within(secs(3)).await, "half a start-up holds a connection");
    });
}

#[test]
fn encryption_is_offered_or_declined_in_one_byte() {
    run(async {
        let cluster = Cluster::shared().await;
        // TLS and, where there is a proxy, Kerberos: servers differ in whether they were built with
        // that.
        let codes = [80_877_103_u32, 80_877_104];
        for code in &codes[..if crate::rig::cluster::direct() { 1 } else { 2 }] {
            let mut bare = Wire::bare(cluster.port).await;
            let mut request = 8_u32.to_be_bytes().to_vec();
            request.extend(code.to_be_bytes());
            bare.send(&request).await;
            assert_eq!(bare.byte().await, Some(b'N'), "no certificate is configured");
            // And the login goes on in clear.
            bare.send(&startup(&[("user", "app"), ("database", DATABASE)])).await;
            assert_eq!(bare.next().await.expect("an answer").tag, b'R');
        }
        assert!(cluster.wire().await.is_silent_for(Duration::from_millis(200)).await);
    });
}
