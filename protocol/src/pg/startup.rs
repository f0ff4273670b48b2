//! The first packet of a connection, and the `options` text inside it.
//!
//! It has no tag, and anybody may send it. PostgreSQL's own bound of ten thousand bytes therefore holds
//! here whatever the caller allows, and bounds the number of parameters with it.
//!
//! Danger that remains with the caller: bytes that follow a request for encryption in the same read
//! were sent in the clear and must never be treated as if they had come through the tunnel
//! (CVE-2021-23214). [`decode`] leaves them in the buffer, where a caller can see and refuse them.

use super::wire::{Reader, packet, put_cstr};
use crate::DecodeError;
use bytes::{BufMut, Bytes, BytesMut};

/// The longest packet accepted: ten thousand bytes, as in PostgreSQL, and the length word itself.
pub const MAX_STARTUP: usize = 10_004;

/// The longest secret of a cancel request: what protocol 3.2 allows.
pub const MAX_SECRET: usize = 256;

const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const PROTOCOL_3_0: u32 = 3 << 16;

/// What an application wants when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// To speak TLS; the answer is one byte, `S` or `N`.
    Tls,
    /// To speak GSSAPI encryption; the answer is one byte, `G` or `N`.
    GssEncryption,
    /// To cancel what another connection is doing.
    Cancel {
        /// The number that connection was given.
        pid: u32,
        /// The secret that it was given with it.
        secret: Bytes,
    },
    /// To log in.
    Start {
        /// Always 3: other majors are an error, because their packets are laid out otherwise.
        major: u16,
        /// 0, 2, or a number that asks for a NegotiateProtocolVersion answer.
        minor: u16,
        /// The parameters in the order sent, nothing removed: `user`, `database`, `options` as raw
        /// text, settings, and `_pq_.` extensions. Names may repeat, be empty of value, or be
        /// missing altogether, `user` included.
        params: Vec<(String, String)>,
    },
}

/// Cuts the first packet off `buf`, or says that more bytes are needed.
pub fn decode(buf: &mut BytesMut, max: usize) -> Result<Option<Startup>, DecodeError> {
    let Some(word) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    let announced = u32::from_be_bytes(*word);
    if announced < 8 {
        return Err(DecodeError::TooShort { announced, min: 8 });
    }
    let max = max.min(MAX_STARTUP);
    let total = match usize::try_from(announced) {
        Ok(total) if total <= max => total,
        _ => return Err(DecodeError::TooLong { announced, max }),
    };
    if buf.len() < total {
        return Ok(None);
    }
    let bytes = buf.split_to(total).freeze();
    let mut reader = Reader::new(&bytes[4..]);
    let code = reader.u32("protocol version")?;
    let startup = match code {
        TLS => Startup::Tls,
        GSS => Startup::GssEncryption,
        CANCEL => return cancel(reader).map(Some),
        _ => return start(code, reader).map(Some),
    };
    reader.finish()?;
    Ok(Some(startup))
}

fn cancel(mut reader: Reader<'_>) -> Result<Startup, DecodeError> {
    let pid = reader.u32("cancel request")?;
    let secret = reader.rest();
    if !(4..=MAX_SECRET).contains(&secret.len()) {
        return Err(DecodeError::Invalid("cancel request has a secret of the wrong length"));
    }
    Ok(Startup::Cancel { pid, secret: Bytes::copy_from_slice(secret) })
}

fn start(code: u32, mut reader: Reader<'_>) -> Result<Startup, DecodeError> {
    let [a, b, c, d] = code.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if major != 3 {
        return Err(DecodeError::UnsupportedProtocol { major, minor });
    }
    let mut params = Vec::new();
    loop {
        let name = reader.cstr("start-up parameter name")?;
        if name.is_empty() {
            break;
        }
        let value = reader.cstr("start-up parameter value")?;
        params.push((name.to_owned(), value.to_owned()));
    }
    reader.finish()?;
    Ok(Startup::Start { major, minor, params })
}

/// Asks a server for a log-in with protocol 3.0.
///
/// # Panics
/// When a name is empty or a text holds a zero byte: either would end or shift the list.
pub fn startup_message(buf: &mut BytesMut, params: &[(&str, &str)]) {
    packet(buf, |buf| {
        buf.put_u32(PROTOCOL_3_0);
        for (name, value) in params {
            assert!(!name.is_empty(), "a start-up parameter has a name");
            put_cstr(buf, name.as_bytes());
            put_cstr(buf, value.as_bytes());
        }
        buf.put_u8(0);
    });
}

/// Asks a server to cancel what the connection with this number and secret is doing.
pub fn cancel_request(buf: &mut BytesMut, pid: u32, secret: &[u8]) {
    packet(buf, |buf| {
        buf.put_u32(CANCEL);
        buf.put_u32(pid);
        buf.put_slice(secret);
    });
}

/// Asks a server for TLS.
pub fn tls_request(buf: &mut BytesMut) {
    packet(buf, |buf| buf.put_u32(TLS));
}

/// Splits the `options` start-up parameter into settings, as the server's command line does:
/// `-c name=value`, `-cname=value` and `--name=value`, where a backslash takes the next character as
/// it is and a `-` in a name stands for `_`.
///
/// The server's other switches change its debugging or its limits for one session. They are an error
/// here rather than ignored, since an application that asks for something should get it or be told.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, DecodeError> {
    let mut settings = Vec::new();
    let mut words = split_words(options).into_iter();
    while let Some(word) = words.next() {
        let setting = if let Some(long) = word.strip_prefix("--") {
            long.to_owned()
        } else if let Some(short) = word.strip_prefix("-c") {
            match short {
                "" => words.next().ok_or_else(|| {
                    DecodeError::Options("switch \"-c\" requires a setting".to_owned())
                })?,
                attached => attached.to_owned(),
            }
        } else {
            return Err(DecodeError::Options(format!("unknown switch \"{word}\"")));
        };
        let (name, value) = setting.split_once('=').ok_or_else(|| {
            DecodeError::Options(format!("setting \"{setting}\" requires a value"))
        })?;
        if name.is_empty() {
            return Err(DecodeError::Options(format!("\"{setting}\" names no setting")));
        }
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Splits at white space. A lone backslash at the very end is dropped, as the server drops it.
fn split_words(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            // The C library's idea of white space, vertical tab included.
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = b"\0\0\0\x28\0\x03\0\0user\0ann\0options\0-c=\0database\0\0\0";

    fn decoded(bytes: &[u8]) -> Result<Option<Startup>, DecodeError> {
        decode(&mut BytesMut::from(bytes), usize::MAX)
    }

    fn packet_of(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + body.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    #[test]
    fn the_golden_packet_is_written_and_read() {
        let params = [("user", "ann"), ("options", "-c="), ("database", "")];
        let mut buf = BytesMut::new();
        startup_message(&mut buf, &params);
        assert_eq!(&buf[..], GOLDEN);
        let params = params.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let start = Startup::Start { major: 3, minor: 0, params };
        assert_eq!(decode(&mut buf, MAX_STARTUP), Ok(Some(start)));
        assert!(buf.is_empty());
    }

    #[test]
    fn incomplete_input_asks_for_more_at_every_length() {
        for end in 0..GOLDEN.len() {
            let mut buf = BytesMut::from(&GOLDEN[..end]);
            assert_eq!(decode(&mut buf, MAX_STARTUP), Ok(None));
            assert_eq!(buf.len(), end);
        }
    }

    #[test]
    fn what_follows_a_request_for_tls_stays_in_sight() {
        let mut buf = BytesMut::new();
        tls_request(&mut buf);
        assert_eq!(&buf[..], b"\0\0\0\x08\x04\xd2\x16\x2f");
        buf.extend_from_slice(b"injected");
        assert_eq!(decode(&mut buf, MAX_STARTUP), Ok(Some(Startup::Tls)));
        assert_eq!(&buf[..], b"injected");
        assert_eq!(decoded(b"\0\0\0\x08\x04\xd2\x16\x30"), Ok(Some(Startup::GssEncryption)));
        assert_eq!(decoded(&packet_of(TLS, b"x")), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn a_cancel_request_has_a_secret_of_a_sensible_length() {
        let mut buf = BytesMut::new();
        cancel_request(&mut buf, 7, b"abcd");
        assert_eq!(&buf[..], b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07abcd");
        let cancel = Startup::Cancel { pid: 7, secret: Bytes::from_static(b"abcd") };
        assert_eq!(decoded(&buf), Ok(Some(cancel)));
        for secret in [0, 3, 257] {
            let body = [&[0, 0, 0, 7][..], &vec![b'x'; secret]].concat();
            assert!(decoded(&packet_of(CANCEL, &body)).is_err());
        }
        assert!(decoded(&packet_of(CANCEL, b"")).is_err());
    }

    #[test]
    fn impossible_lengths_are_refused_from_the_length_alone() {
        for announced in [0, 1, 3, 4, 7] {
            let error = DecodeError::TooShort { announced, min: 8 };
            assert_eq!(decoded(&announced.to_be_bytes()), Err(error));
        }
        for announced in [10_005, 1 << 30, 1 << 31, u32::MAX] {
            let error = DecodeError::TooLong { announced, max: MAX_STARTUP };
            assert_eq!(decoded(&announced.to_be_bytes()), Err(error));
        }
        assert_eq!(decoded(&10_004_u32.to_be_bytes()), Ok(None));
    }

    #[test]
    fn thousands_of_parameters_fit_and_no_more() {
        let body = [b"a\0\0".repeat(3331), b"\0\0\0".to_vec()].concat();
        let body = &body[..9994];
        let Ok(Some(Startup::Start { params, .. })) = decoded(&packet_of(PROTOCOL_3_0, body))
        else {
            panic!("the packet is a start-up packet");
        };
        assert_eq!(params.len(), 3331);
        let more = b"a\0\0".repeat(5000);
        assert!(decoded(&packet_of(PROTOCOL_3_0, &more)).is_err());
    }

    #[test]
    fn broken_lists_of_parameters_are_refused() {
        let broken = |body| decoded(&packet_of(PROTOCOL_3_0, body)).unwrap_err();
        assert_eq!(broken(b""), DecodeError::MissingNul("start-up parameter name"));
        assert_eq!(broken(b"user"), DecodeError::MissingNul("start-up parameter name"));
        assert_eq!(broken(b"user\0"), DecodeError::MissingNul("start-up parameter value"));
        assert_eq!(broken(b"user\0ann\0"), DecodeError::MissingNul("start-up parameter name"));
        assert_eq!(broken(b"user\0ann\0\0x"), DecodeError::Trailing(1));
        assert_eq!(broken(b"user\0\xff\0\0"), DecodeError::NotUtf8("start-up parameter value"));
    }

    #[test]
    fn newer_minors_are_read_and_other_majors_are_not() {
        let newer = decoded(&packet_of((3 << 16) | 9999, b"\0"));
        let start = Startup::Start { major: 3, minor: 9999, params: Vec::new() };
        assert_eq!(newer, Ok(Some(start)));
        for (major, minor) in [(2, 0), (4, 1), (1234, 1), (0, 0)] {
            let code = u32::from(major) << 16 | u32::from(minor);
            let error = DecodeError::UnsupportedProtocol { major, minor };
            assert_eq!(decoded(&packet_of(code, b"whatever")), Err(error));
        }
    }

    #[test]
    fn options_are_split_as_on_the_servers_command_line() {
        let parsed = parse_options(
            "-c search_path=a,b  -cgeqo=off\t--statement-timeout=5min -c application_name=a\\ b\\\\c -c x=a=b",
        );
        let expected = [
            ("search_path", "a,b"),
            ("geqo", "off"),
            ("statement_timeout", "5min"),
            ("application_name", "a b\\c"),
            ("x", "a=b"),
        ];
        assert_eq!(
            parsed.unwrap(),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        for nothing in ["", "  \t\n\x0b", "\\"] {
            // A lone backslash makes an empty word, which is no switch.
            assert_eq!(parse_options(nothing).is_ok(), nothing != "\\");
        }
        assert_eq!(parse_options("-c x=").unwrap(), [("x".to_owned(), String::new())]);
    }

    #[test]
    fn options_that_are_not_understood_are_refused() {
        for options in [
            "-c", "-c x", "-c=", "-c =", "--=x", "--", "--x", "-d 5", "x=1", "-", "-C x=1",
            "-c x=1 y",
        ] {
            assert!(matches!(parse_options(options), Err(DecodeError::Options(_))), "{options}");
        }
    }

    #[test]
    #[should_panic(expected = "zero byte")]
    fn a_zero_byte_in_a_parameter_is_our_own_mistake() {
        startup_message(&mut BytesMut::new(), &[("user", "ann\0database\0postgres")]);
    }
}
