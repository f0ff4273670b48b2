//! What must hold for every byte string, found by throwing dice: no decoder panics, none reads past
//! what it was given, and what an encoder writes its decoder reads back.

use bytes::{Bytes, BytesMut};
use lockstep_protocol::pg::auth::{self, ScramClient, ScramServer, ScramVerifier};
use lockstep_protocol::pg::server::ErrorFields;
use lockstep_protocol::pg::{client, frame, server, startup};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Text as the wire can carry it.
fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,20}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..100)
}

/// Bytes that look like a message more often than fair dice would: small numbers, zeros, letters.
fn lookalike() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![4 => Just(0_u8), 3 => 0..8_u8, 3 => b'A'..b'z', 1 => Just(0xff), 2 => any::<u8>()],
        0..60,
    )
}

/// Text that looks like SCRAM.
fn scram() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("n,,".to_owned()),
        Just("c=biws".to_owned()),
        Just("r=client".to_owned()),
        Just("r=clientserver".to_owned()),
        Just("s=c2FsdA==".to_owned()),
        "i=[0-9]{0,12}",
        "p=[A-Za-z0-9+/]{0,44}=?",
        "[a-z]=.{0,5}",
        ",{0,3}",
    ];
    vec(part, 0..6).prop_map(|parts| parts.join(",").into_bytes())
}

/// The one message in `buf`, whose header must be right to the byte.
fn one(mut buf: BytesMut) -> frame::Frame {
    let header = frame::peek(&buf, usize::MAX).expect("the header is right").expect("it is there");
    assert_eq!(header.total, buf.len());
    let frame = frame::take(&mut buf, usize::MAX).expect("right").expect("whole");
    assert!(buf.is_empty());
    frame
}

fn written(write: impl FnOnce(&mut BytesMut)) -> frame::Frame {
    let mut buf = BytesMut::new();
    write(&mut buf);
    one(buf)
}

/// Gives some bytes to every decoder of a body.
fn feed_all(body: &[u8]) {
    let _ = client::Query::decode(body);
    let _ = client::Query::text_bytes(body);
    let _ = client::Parse::decode(body);
    let _ = client::Parse::raw(body);
    if let Ok(bind) = client::Bind::decode(body)
        && let Ok(params) = bind.params()
    {
        let _ = params.format(0);
    }
    let _ = client::Describe::decode(body);
    let _ = client::Close::decode(body);
    let _ = client::Execute::decode(body);
    let _ = client::Password::decode(body);
    let _ = client::SaslInitial::decode(body);
    let _ = client::expect_empty(body);
    if let Ok(error) = ErrorFields::parse(body) {
        let _ = (error.code(), error.severity(), error.message(), error.position());
        assert_eq!(written(|buf| error.encode(b'E', buf)).body(), body);
    }
    let _ = server::field_of(body, b'C');
    let _ = server::completed_rows(body);
    let _ = server::parameter_status_of(body);
    let _ = server::backend_key_of(body);
    let _ = server::ready_status(body);
    let _ = server::data_row_of(body);
    let _ = server::copy_in_format(body);
    let _ = server::notification_of(body);
    let _ = server::Auth::decode(body);
}

/// Gives some bytes to every step of both SCRAM machines.
fn feed_scram(message: &[u8]) {
    let verifier = || ScramVerifier::mock("ann", b"secret", 16, 1);
    let mut fresh = ScramServer::new(verifier(), "server");
    let _ = fresh.challenge(message);
    let mut challenged = ScramServer::new(verifier(), "server");
    challenged.challenge(b"n,,n=,r=client").expect("a good first message");
    assert!(challenged.verify(message).is_err(), "nobody guesses a proof");

    let mut greeted = ScramClient::new("pencil", "client");
    greeted.first().expect("it has said nothing yet");
    // A million rounds are allowed, and too slow to be thrown by dice.
    let slow = String::from_utf8_lossy(message).contains("i=");
    if !slow {
        let _ = greeted.respond(message);
    }
    let mut proved = ScramClient::new("pencil", "client");
    proved.first().expect("it has said nothing yet");
    proved.respond(b"r=clientserver,s=c2FsdA==,i=1").expect("a good challenge");
    assert!(proved.finish(message).is_err(), "nobody guesses a signature");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_decoder_panic(body in prop_oneof![bytes(), lookalike()]) {
        feed_all(&body);
        feed_scram(&body);
        let _ = auth::saslprep(&body);
        let _ = String::from_utf8_lossy(&body).parse::<ScramVerifier>();
        let _ = startup::parse_options(&String::from_utf8_lossy(&body));
    }

    #[test]
    fn no_text_that_looks_like_scram_makes_a_machine_panic(message in scram()) {
        feed_scram(&message);
    }

    #[test]
    fn no_text_makes_a_password_or_options_panic(text in ".{0,40}", words in "[-c= \\\\a]{0,20}") {
        let _ = auth::saslprep(text.as_bytes());
        let _ = startup::parse_options(&text);
        let _ = startup::parse_options(&words);
        let _ = server::completed_rows(text.as_bytes());
        let _ = auth::md5_password(&text, &text, [0; 4]);
    }

    #[test]
    fn frames_never_reach_past_their_buffer(stream in bytes(), max in 0..200_usize) {
        let mut buf = BytesMut::from(&stream[..]);
        let mut whole = Vec::new();
        while let Ok(Some(frame)) = frame::take(&mut buf, max) {
            prop_assert!(frame.bytes.len() >= frame::HEADER && frame.bytes.len() <= max + 1);
            feed_all(frame.body());
            whole.extend_from_slice(&frame.bytes);
        }
        whole.extend_from_slice(&buf);
        prop_assert_eq!(whole, stream, "what was not taken is still there");
    }

    #[test]
    fn startup_takes_its_packet_or_nothing(
        body in lookalike(),
        code in prop_oneof![Just(0x0003_0000_u32), 80_877_102..80_877_105_u32, any::<u32>()],
        wrong in -2..3_i64,
    ) {
        let length = u32::try_from(8 + i64::try_from(body.len()).unwrap_or(0) + wrong).unwrap_or(0);
        let packet = [&length.to_be_bytes()[..], &code.to_be_bytes(), &body].concat();
        let mut buf = BytesMut::from(&packet[..]);
        match startup::decode(&mut buf, startup::MAX_STARTUP) {
            Ok(Some(_)) => prop_assert_eq!(buf.len() as i64, -wrong),
            Ok(None) => prop_assert_eq!(buf.len(), packet.len()),
            Err(_) => {}
        }
    }

    #[test]
    fn startup_reads_what_it_wrote(
        params in vec(("[^\0]{1,10}", text()), 0..10),
        pid in any::<u32>(),
        secret in vec(any::<u8>(), 4..=256),
    ) {
        let mut buf = BytesMut::new();
        let borrowed: Vec<_> = params.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        startup::startup_message(&mut buf, &borrowed);
        startup::cancel_request(&mut buf, pid, &secret);
        startup::tls_request(&mut buf);
        let mut next = || startup::decode(&mut buf, usize::MAX);
        let start = startup::Startup::Start { major: 3, minor: 0, params };
        prop_assert_eq!(next(), Ok(Some(start)));
        let cancel = startup::Startup::Cancel { pid, secret: Bytes::from(secret) };
        prop_assert_eq!(next(), Ok(Some(cancel)));
        prop_assert_eq!(next(), Ok(Some(startup::Startup::Tls)));
        prop_assert_eq!(next(), Ok(None));
    }

    #[test]
    fn options_read_back_what_was_escaped(settings in vec(("[a-z_.]{1,8}", ".{0,12}"), 0..5)) {
        let escaped = |value: &str| -> String { value.chars().flat_map(|c| ['\\', c]).collect() };
        let words = settings.iter().map(|(name, value)| format!("-c {name}={}", escaped(value)));
        let options = words.collect::<Vec<_>>().join(" ");
        prop_assert_eq!(startup::parse_options(&options), Ok(settings));
    }

    #[test]
    fn client_messages_read_what_they_wrote(
        (name, portal, statement) in (text(), text(), text()),
        types in vec(any::<u32>(), 0..10),
        values in vec(option::of(bytes()), 0..10),
        rows in any::<u32>(),
        data in bytes(),
    ) {
        let frame = written(|buf| client::query(buf, &statement));
        prop_assert_eq!(client::Query::decode(frame.body()).map(|q| q.text), Ok(&*statement));
        let frame = written(|buf| client::parse(buf, &name, &statement, &types));
        let parse = client::Parse { name: &name, text: &statement, types };
        prop_assert_eq!(client::Parse::decode(frame.body()), Ok(parse));
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        let frame = written(|buf| client::bind_text(buf, &portal, &name, &values));
        let bind = client::Bind::decode(frame.body()).expect("a bind");
        prop_assert_eq!((bind.portal, bind.statement), (&*portal, &*name));
        prop_assert_eq!(bind.params().map(|params| params.values), Ok(values));
        let renamed = written(|buf| client::bind(buf, &portal, "other", bind.rest));
        let renamed = client::Bind::decode(renamed.body()).map(|bind| bind.rest.to_vec());
        prop_assert_eq!(renamed, Ok(bind.rest.to_vec()));
        for kind in [client::STATEMENT, client::PORTAL] {
            let frame = written(|buf| client::describe(buf, kind, &name));
            let describe = client::Describe { kind, name: &name };
            prop_assert_eq!(client::Describe::decode(frame.body()), Ok(describe));
            let frame = written(|buf| client::close(buf, kind, &name));
            let close = client::Close { kind, name: &name };
            prop_assert_eq!(client::Close::decode(frame.body()), Ok(close));
        }
        let frame = written(|buf| client::execute(buf, &portal, rows));
        let execute = client::Execute { portal: &portal, max_rows: rows };
        prop_assert_eq!(client::Execute::decode(frame.body()), Ok(execute));
        let frame = written(|buf| client::password(buf, &statement));
        let password = client::Password(statement.as_bytes());
        prop_assert_eq!(client::Password::decode(frame.body()), Ok(password));
        let frame = written(|buf| client::sasl_initial(buf, &name, &data));
        let initial = client::SaslInitial { mechanism: &name, data: Some(&data) };
        prop_assert_eq!(client::SaslInitial::decode(frame.body()), Ok(initial));
        let frame = written(|buf| client::sasl_response(buf, &data));
        prop_assert_eq!(frame.body(), &data[..]);
        let frame = written(|buf| client::copy_data(buf, &data));
        prop_assert_eq!(frame.body(), &data[..]);
    }

    #[test]
    fn server_messages_read_what_they_wrote(
        (name, value) in (text(), text()),
        values in vec(option::of(text()), 0..10),
        fields in vec((1..=u8::MAX, vec(1..=u8::MAX, 0..20)), 0..10),
        (pid, secret) in (any::<u32>(), vec(any::<u8>(), 4..=256)),
        columns in 0..50_u16,
        data in bytes(),
    ) {
        let frame = written(|buf| server::command_complete(buf, &format!("UPDATE {pid}")));
        prop_assert_eq!(server::completed_rows(frame.body()), Some(u64::from(pid)));
        let frame = written(|buf| server::parameter_status(buf, &name, &value));
        prop_assert_eq!(server::parameter_status_of(frame.body()), Ok((&*name, &*value)));
        let frame = written(|buf| server::notification_response(buf, pid, &name, &value));
        let notification = server::Notification { pid, channel: &name, payload: &value };
        prop_assert_eq!(server::notification_of(frame.body()), Ok(notification));
        let frame = written(|buf| server::backend_key_data(buf, pid, &secret));
        let key = (pid, Bytes::from(secret));
        prop_assert_eq!(server::backend_key_of(frame.body()), Ok(key));
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        let frame = written(|buf| server::data_row(buf, &values));
        let row = values.iter().map(|value| value.map(str::as_bytes)).collect();
        prop_assert_eq!(server::data_row_of(frame.body()), Ok(row));
        let frame = written(|buf| server::copy_in_response(buf, true, columns));
        let columns = vec![1; usize::from(columns)];
        let format = server::CopyFormat { binary: true, columns };
        prop_assert_eq!(server::copy_in_format(frame.body()), Ok(format));
        let frame = written(|buf| server::auth_sasl_continue(buf, &data));
        let auth = server::Auth::SaslContinue(Bytes::from(data));
        prop_assert_eq!(server::Auth::decode(frame.body()), Ok(auth));

        let error = fields.iter().fold(ErrorFields::default(), |error, (code, value)| {
            error.with(*code, value)
        });
        let frame = written(|buf| error.encode(server::ERROR_RESPONSE, buf));
        prop_assert_eq!(ErrorFields::parse(frame.body()), Ok(error));
    }

    #[test]
    fn verifiers_read_what_they_wrote(salt in vec(any::<u8>(), 1..40), password in ".{0,20}") {
        let verifier = ScramVerifier::from_password(&password, &salt, 1);
        prop_assert_eq!(verifier.to_string().parse(), Ok(verifier.clone()));
        prop_assert!(verifier.matches(&password));
    }

    #[test]
    fn the_right_password_always_gets_in(password in text(), wrong in text()) {
        let same = auth::saslprep(password.as_bytes()) == auth::saslprep(wrong.as_bytes());
        for (tried, expected) in [(&password, true), (&wrong, same)] {
            let verifier = ScramVerifier::from_password(&password, b"salt", 1);
            let mut server = ScramServer::new(verifier, "server");
            let mut client = ScramClient::new(tried.as_str(), "client");
            let first = client.first().expect("it has said nothing yet");
            let challenge = server.challenge(first.as_bytes()).expect("a good first message");
            let proof = client.respond(challenge.as_bytes()).expect("a good challenge");
            let verdict = server.verify(proof.as_bytes());
            prop_assert_eq!(verdict.is_ok(), expected);
            if let Ok(signature) = verdict {
                prop_assert_eq!(client.finish(signature.as_bytes()), Ok(()));
            }
        }
    }
}
