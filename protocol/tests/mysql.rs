//! What must hold for every byte string, found by throwing dice: no decoder panics, none reads past
//! what it was given, and what an encoder writes its decoder reads back.

use std::collections::BTreeMap;

use bytes::BytesMut;
use lockstep_protocol::mysql::answer::{Answer, Asked};
use lockstep_protocol::mysql::auth::{self, Client, Method, Next, Server, Verdict, Verifier};
use lockstep_protocol::mysql::handshake::{self, Greeting, Login, capability};
use lockstep_protocol::mysql::{command, packet, response, stmt};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Text as the wire can carry it.
fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,20}"
}

/// Bytes that look like a packet more often than fair dice would: small numbers, zeros, letters,
/// and the bytes that mean something in front of a packet or of a length.
fn lookalike() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => Just(0_u8),
        3 => 0..8_u8,
        3 => b'A'..b'z',
        2 => 0xfa..=0xff_u8,
        2 => any::<u8>(),
    ];
    vec(byte, 0..60)
}

fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut buf = BytesMut::new();
    write(&mut buf);
    buf
}

/// Gives some bytes to every decoder of a payload.
fn feed_all(payload: &[u8]) {
    let _ = Greeting::decode(payload);
    let _ = handshake::Answer::decode(payload);
    let _ = command::ChangeUser::decode(payload, u32::MAX);
    let _ = command::ChangeUser::decode(payload, 0);
    let _ = command::Fetch::decode(payload);
    let _ = command::LongData::decode(payload);
    let _ = command::text_of(payload, "text");
    let _ = command::number_of(payload, "number");
    let _ = command::option_of(payload);
    if let Ok(ok) = response::Ok::decode(payload) {
        let _ = ok.changes();
    }
    let _ = response::Err::decode(payload);
    let _ = response::Column::decode(payload);
    let _ = response::text_row(payload);
    let _ = response::status_at(payload);
    let _ = stmt::PrepareOk::decode(payload);
    if let Ok(execute) = stmt::Execute::decode(payload) {
        let long = BTreeMap::from([(0, BytesMut::new()), (9, BytesMut::new())]);
        for count in [0, 1, 2, 10, u16::MAX] {
            let _ = execute.complete(count, &[], &BTreeMap::new());
            let _ = execute.complete(count, &[[1, 0], [254, 0]], &long);
        }
    }
    let mut client = Client::new("pencil", false, "caching_sha2_password");
    let _ = client.on(payload);
    let mut server = Server::new(Verifier::new("pencil"), [7; 20], None);
    for plugin in [None, Some("mysql_native_password"), Some("caching_sha2_password")] {
        assert!(!matches!(server.first(plugin, payload), Verdict::Welcome { .. }));
    }
}

proptest! {
    #[test]
    fn no_payload_makes_a_decoder_panic(payload in lookalike()) {
        feed_all(&payload);
    }

    #[test]
    fn no_stream_makes_the_framing_panic(mut stream in lookalike(), max in 0..100_usize) {
        let mut buf = BytesMut::from(&stream[..]);
        while let Ok(Some(packet)) = packet::take(&mut buf, max) {
            prop_assert!(packet.payload.len() <= max);
        }
        let _ = packet::first_part(&stream);
        packet::renumber(&mut stream, 0);
    }

    #[test]
    fn no_answer_makes_the_machine_panic(packets in vec(lookalike(), 0..12)) {
        for asked in [Asked::Results, Asked::Prepare, Asked::Rows, Asked::Columns] {
            let mut answer = Answer::to(asked);
            for packet in &packets {
                if answer.on(packet).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn packets_come_back_in_order_with_their_numbers(
        payloads in vec(vec(any::<u8>(), 0..50), 0..8),
        first in any::<u8>(),
    ) {
        let mut buf = BytesMut::new();
        let mut next = 0;
        for payload in &payloads {
            next = packet::put(&mut buf, next, payload);
        }
        packet::renumber(&mut buf, first);
        for (n, payload) in payloads.iter().enumerate() {
            let packet = packet::take(&mut buf, 50).expect("right").expect("whole");
            prop_assert_eq!(&packet.payload[..], &payload[..]);
            prop_assert_eq!(packet.sequence, first.wrapping_add(u8::try_from(n).expect("few")));
        }
        prop_assert!(buf.is_empty());
    }

    #[test]
    fn a_login_comes_back(
        user in text(),
        proof in vec(any::<u8>(), 0..40),
        database in option::of("[^\0]{1,20}"),
        attributes in vec((text(), text()), 0..4),
        collation in any::<u8>(),
    ) {
        let login = Login {
            capabilities: capability::TRANSACTIONS,
            max_packet: 1 << 24,
            collation,
            user,
            proof,
            database,
            plugin: Some("mysql_native_password".into()),
            attributes,
        };
        let buf = written(|buf| login.encode(buf));
        let read = handshake::Answer::decode(&buf).expect("a login");
        let handshake::Answer::Login(mut read) = read else { panic!("a login") };
        read.capabilities = login.capabilities;
        prop_assert_eq!(read, login);
    }

    #[test]
    fn a_greeting_comes_back(server in text(), connection in any::<u32>(), challenge: [u8; 20]) {
        let greeting = Greeting {
            server,
            connection,
            challenge,
            capabilities: capability::PROTOCOL_41 | capability::SECURE_CONNECTION,
            collation: 45,
            status: 2,
            plugin: "caching_sha2_password".into(),
        };
        let buf = written(|buf| greeting.encode(buf));
        prop_assert_eq!(Greeting::decode(&buf).expect("a greeting"), greeting);
    }

    #[test]
    fn ok_and_err_come_back(
        affected: u64,
        insert_id: u64,
        status: u16,
        warnings: u16,
        info in vec(any::<u8>(), 1..40),
        changes in vec(any::<u8>(), 0..40),
        number: u16,
    ) {
        let changed = status & response::status::SESSION_CHANGED != 0;
        let changes: &[u8] = if changed { &changes } else { &[] };
        let ok = response::Ok { affected, insert_id, status, warnings, info: &info, changes };
        let buf = written(|buf| ok.encode(buf));
        prop_assert_eq!(response::Ok::decode(&buf).expect("an OK"), ok.clone());
        let at = response::status_at(&buf).expect("a status");
        prop_assert_eq!(u16::from_le_bytes([buf[at], buf[at + 1]]), status);
        let err = response::Err { number, state: b"42S02", message: &info };
        let buf = written(|buf| err.encode(buf));
        prop_assert_eq!(response::Err::decode(&buf).expect("an ERR"), err);
    }

    #[test]
    fn rows_of_text_come_back(row in vec(option::of(vec(any::<u8>(), 0..300)), 0..6)) {
        let values: Vec<Option<&[u8]>> = row.iter().map(Option::as_deref).collect();
        let buf = written(|buf| response::put_text_row(buf, &values));
        prop_assert_eq!(response::text_row(&buf).expect("a row"), values);
    }

    #[test]
    fn only_the_right_password_is_let_in(right in "\\PC{1,12}", wrong in "\\PC{0,12}", challenge: [u8; 20]) {
        for wanted in [Method::Native, Method::CachingSha2] {
            for password in [&right, &wrong] {
                let mut server = Server::new(Verifier::new(&right), challenge, Some(wanted));
                let mut client = Client::new(password, false, "mysql_native_password");
                let proof = client.first(&challenge);
                let mut verdict = server.first(Some(client.method().name()), &proof);
                if let Verdict::Switch(method) = verdict {
                    let asked = written(|buf| auth::switch(buf, method, &challenge));
                    let Ok(Next::Send(proof)) = client.on(&asked) else { panic!("a proof") };
                    verdict = server.second(&proof);
                }
                let let_in = matches!(verdict, Verdict::Welcome { .. });
                prop_assert_eq!(let_in, *password == right);
            }
        }
    }
}
