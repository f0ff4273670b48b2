//! A session that goes on at another proxy: how it is brought there, and taken in.
//!
//! Whoever brings it proves that it is a proxy by a seal over what was packed, and over a challenge of the one that takes
//! it in. No password is asked for: the client has given its proof where it came in.

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_protocol::pg::{client, frame, server};
use tokio::io::AsyncWriteExt;

use super::fields;
use super::login::Visitor;
use super::wanted::Escort;
use crate::client::CHALLENGE;
use crate::encoding::Encoding;
use crate::error::Failure;
use crate::net::Stream;

/// Asks for a proxy's proof, where a client would be asked for its password: no server asks for one of this number.
const PROVE: u32 = 0x6c73_7470;
/// The longest message of a proxy that takes a session over.
const MOST_ASKED: usize = 30_000;

/// A session that another proxy has served so far, and that comes by way of one.
#[derive(Debug)]
pub struct Arrival {
    pub(super) stream: Stream,
    pub(super) incoming: BytesMut,
    /// What was packed there, sealed.
    pub sealed: Bytes,
    /// What the seal has to be about.
    pub challenge: [u8; CHALLENGE],
    /// What a seal of ours has to be about when it is handed back.
    pub takes_back: Option<Bytes>,
}

impl Arrival {
    /// Tells the proxy that brings the session that it goes on, and gives what is said on it from now on.
    ///
    /// # Errors
    /// When that proxy is gone.
    pub async fn accept(self) -> std::io::Result<(Stream, BytesMut)> {
        let mut out = BytesMut::new();
        server::ready_for_query(&mut out, server::IDLE);
        let Self { mut stream, incoming, .. } = self;
        stream.write_all(&out).await?;
        stream.flush().await?;
        Ok((stream, incoming))
    }

    /// Tells it that the session does not go on.
    pub async fn refuse(mut self, failure: &Failure) {
        // A proxy that is gone misses nothing.
        let _ = self.stream.write_all(&refusal(failure)).await;
        let _ = self.stream.flush().await;
    }
}

/// Brings a session to the proxy at the other end; `seal` seals it about what that one asks for. The stream, and what has
/// arrived on it; in their place why the session does not go on there, and whether it may a little later or elsewhere.
///
/// # Errors
/// When that proxy is gone or speaks in another way.
pub async fn bring(
    far: Stream,
    (user, database): (&str, &str),
    escort: Escort<'_>,
    seal: impl FnOnce(&[u8]) -> Vec<u8> + Send,
) -> Result<Result<(Stream, BytesMut), (bool, String)>, String> {
    let mut visitor = Visitor { stream: far, incoming: BytesMut::new() };
    visitor.say(&escort.message(&[("user", user), ("database", database)])).await?;
    let asked = visitor.frame(MOST_ASKED).await?;
    let challenge = match asked.tag {
        b'E' => return Ok(Err(refused(&asked))),
        b'R' => asked.body().strip_prefix(&PROVE.to_be_bytes()).map(<[u8]>::to_vec),
        _ => None,
    };
    let challenge = challenge.ok_or("it does not take sessions over")?;
    let sealed = seal(&challenge);
    let mut out = BytesMut::with_capacity(sealed.len() + frame::HEADER);
    out.put_u8(client::PASSWORD);
    out.put_u32(u32::try_from(sealed.len() + 4).map_err(|e| e.to_string())?);
    out.put_slice(&sealed);
    visitor.say(&out).await?;
    let answer = visitor.frame(MOST_ASKED).await?;
    match answer.tag {
        b'E' => Ok(Err(refused(&answer))),
        b'Z' => Ok(Ok((visitor.stream, visitor.incoming))),
        tag => Err(format!("message {:?} where a session is taken over", char::from(tag))),
    }
}

/// Has the proxy at the other end take in a client, which has said this: the stream, and what has arrived on it.
///
/// # Errors
/// When that proxy is gone, or says that another one may serve the client by now.
pub async fn knock(far: Stream, said: &[u8]) -> Result<(Stream, BytesMut), String> {
    let mut visitor = Visitor { stream: far, incoming: BytesMut::new() };
    visitor.say(said).await?;
    while visitor.incoming.len() < frame::HEADER {
        visitor.more().await?;
    }
    if visitor.incoming[0] != server::ERROR_RESPONSE {
        return Ok((visitor.stream, visitor.incoming));
    }
    let error = visitor.frame(MOST_ASKED).await?;
    match refused(&error) {
        (true, why) => Err(why),
        // What else is wrong the client hears.
        (false, _) => Ok((visitor.stream, BytesMut::from(&error.bytes[..]))),
    }
}

/// Whether an error says that the session may be served a little later, or elsewhere; and the error.
fn refused(error: &frame::Frame) -> (bool, String) {
    match server::ErrorFields::parse(error.body()) {
        Ok(fields) => {
            let later = matches!(fields.code(), "57P01" | "57P03");
            (later, fields.message().into_owned())
        }
        Err(error) => (true, error.to_string()),
    }
}

/// Asks for a proxy's proof.
pub(super) fn prove(challenge: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(b'R');
    out.put_u32(u32::try_from(8 + challenge.len()).unwrap_or(u32::MAX));
    out.put_u32(PROVE);
    out.put_slice(challenge);
    out
}

/// A refusal as a client reads it that has not logged in.
pub(super) fn refusal(failure: &Failure) -> BytesMut {
    let mut out = BytesMut::new();
    fields(failure, "FATAL", Encoding::Utf8).encode(server::ERROR_RESPONSE, &mut out);
    out
}
