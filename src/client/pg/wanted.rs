//! What a start-up message asks for, and what proxies say to each other in one.

use bytes::{Bytes, BytesMut};
use lockstep_protocol::DecodeError;
use lockstep_protocol::pg::startup;

use crate::error::{Failure, Kind};
use crate::hex;

/// In a start-up message: the client comes by way of another proxy, from this address, and is not sent on again. Two proxies that take
/// each other for the writer would else send it to and fro.
const FORWARDED: &str = "lockstep_forwarded";
/// Beside it: at the proxy that it has come to it may only read.
const READS: &str = "lockstep_reads";
/// Beside it: that proxy takes the session back when another one is to write. Who hands it back proves that he is a proxy
/// by what stands here.
const TAKES_BACK: &str = "lockstep_takes_back";
/// Beside it: the session goes on that another proxy has served so far.
const GOES_ON: &str = "lockstep_goes_on";
/// The same for a request to cancel: number and secret in hexadecimal digits.
const FORWARDED_CANCEL: &str = "lockstep_cancel";

/// What the start-up message asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) settings: Vec<(String, String)>,
    pub(super) unknown: Vec<String>,
    /// It comes by way of another proxy; where from.
    pub(super) forwarded: Option<String>,
    /// It may only read.
    pub(super) reads: bool,
    /// What a proof has to be about that the session is handed back with.
    pub(super) takes_back: Option<Bytes>,
    /// It is a session that goes on here.
    pub(super) goes_on: bool,
    /// It is a request to cancel that comes by way of another proxy.
    pub(super) cancel: Option<(u32, Bytes)>,
}

impl Wanted {
    pub(super) fn read(params: Vec<(String, String)>) -> Result<Self, Failure> {
        let mut wanted = Self::default();
        for (name, value) in params {
            match name.as_str() {
                "user" => wanted.user = value,
                "database" => wanted.database = value,
                FORWARDED => wanted.forwarded = Some(value),
                READS => wanted.reads = true,
                TAKES_BACK => wanted.takes_back = hex::decode(value.as_bytes()).map(Into::into),
                GOES_ON => wanted.goes_on = true,
                FORWARDED_CANCEL => wanted.cancel = read_cancel(&value),
                "options" => wanted.settings.extend(startup::parse_options(&value).map_err(bad)?),
                "replication" => {
                    if !matches!(value.as_str(), "false" | "off" | "no" | "0") {
                        let what = "replication connections are not supported";
                        return Err(Failure::new(Kind::Refused, what)
                            .hint("connect to a backend directly, for backups only"));
                    }
                }
                _ if name.starts_with("_pq_.") => wanted.unknown.push(name),
                _ => wanted.settings.push((name, value)),
            }
        }
        if wanted.user.is_empty() {
            let what = "no PostgreSQL user name specified in startup packet";
            return Err(Failure::new(Kind::Protocol, what).code("28000"));
        }
        if wanted.database.is_empty() {
            wanted.database.clone_from(&wanted.user);
        }
        // Only between proxies do these mean anything.
        wanted.takes_back = wanted.takes_back.filter(|_| wanted.forwarded.is_some());
        wanted.goes_on &= wanted.forwarded.is_some();
        Ok(wanted)
    }
}

/// How a proxy hands a client on to another one.
#[derive(Clone, Copy, Debug)]
pub struct Escort<'a> {
    /// Where the client comes from.
    pub origin: std::net::SocketAddr,
    /// It may only read.
    pub reads: bool,
    /// The session is taken back when another proxy is to write, with a proof about this.
    pub takes_back: Option<&'a [u8]>,
    /// It is a session that goes on.
    pub goes_on: bool,
}

impl Escort<'_> {
    /// The start-up message with these parameters.
    pub(super) fn message(&self, params: &[(&str, &str)]) -> BytesMut {
        let origin = self.origin.to_string();
        let takes_back = self.takes_back.map(hex::encode);
        let ours = |name: &str| [FORWARDED, READS, TAKES_BACK, GOES_ON].contains(&name);
        let mut pairs: Vec<(&str, &str)> =
            params.iter().filter(|(name, _)| !ours(name)).copied().collect();
        pairs.push((FORWARDED, &origin));
        if self.reads {
            pairs.push((READS, "yes"));
        }
        if self.goes_on {
            pairs.push((GOES_ON, "yes"));
        }
        if let Some(takes_back) = &takes_back {
            pairs.push((TAKES_BACK, takes_back));
        }
        let mut message = BytesMut::new();
        startup::startup_message(&mut message, &pairs);
        message
    }
}

/// Number and secret of a request to cancel, as another proxy hands it on.
fn read_cancel(value: &str) -> Option<(u32, Bytes)> {
    let (number, secret) = value.split_once(':')?;
    Some((number.parse().ok()?, hex::decode(secret.as_bytes())?.into()))
}

/// A request to cancel, as it is handed on to another proxy.
pub fn forwarded_cancel(number: u32, secret: &[u8]) -> BytesMut {
    let value = format!("{number}:{}", hex::encode(secret));
    let mut message = BytesMut::new();
    startup::startup_message(&mut message, &[("user", "-"), (FORWARDED_CANCEL, &value)]);
    message
}

fn bad(error: DecodeError) -> Failure {
    Failure::new(Kind::Protocol, format!("invalid start-up options: {error}")).code("22023")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut message: BytesMut) -> Wanted {
        let Ok(Some(startup::Startup::Start { params, .. })) = startup::decode(&mut message, 1000)
        else {
            panic!("a start-up message");
        };
        Wanted::read(params).expect("what it asks for")
    }

    #[test]
    fn a_request_to_cancel_is_handed_on_whole() {
        let wanted = read(forwarded_cancel(77, &[0, 171, 255]));
        assert_eq!(wanted.cancel, Some((77, Bytes::from_static(&[0, 171, 255]))));
        assert_eq!(read_cancel("1:0"), None);
        assert_eq!(read_cancel("x:00"), None);
    }

    #[test]
    fn what_proxies_say_to_each_other_means_nothing_from_a_client() {
        let said = [("user", "a"), (GOES_ON, "yes"), (TAKES_BACK, "00ff")];
        let mut alone = BytesMut::new();
        startup::startup_message(&mut alone, &said);
        let alone = read(alone);
        assert!(!alone.goes_on && alone.takes_back.is_none());
        let origin = "10.0.0.1:5".parse().expect("an address");
        let escort = Escort { origin, reads: false, takes_back: Some(&[1, 2]), goes_on: false };
        let handed_on = read(escort.message(&said));
        assert!(!handed_on.goes_on, "the client's own word is left out");
        assert_eq!(handed_on.takes_back.as_deref(), Some(&[1, 2][..]));
        assert_eq!(handed_on.forwarded.as_deref(), Some("10.0.0.1:5"));
    }
}
