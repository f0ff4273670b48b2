//! A client whose session goes on at another proxy: what this end of it knows, packed and unpacked, and how that is
//! brought there.
//!
//! When the client has come by way of a proxy that takes it back, that one is told so between two packets to the client;
//! it lets nothing more through, so that everything the client has said by then arrives here first, and goes along.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lockstep_protocol::mysql::handshake::CHALLENGE as GREETING;
use lockstep_protocol::mysql::stmt::Kind as ParameterKind;
use lockstep_protocol::mysql::{packet, response};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::past::Past;
use super::{Bounds, Door, MyClient, Own};
use crate::client::{CHALLENGE, take_in_the_rest};
use crate::exchange::{Gone, Sink, TextRows};
use crate::net::Stream;
use crate::wire::mysql::Statements;

/// What stands before the challenge in the packet by which a proxy says that the client is to be taken back.
const CALL_BACK: [u8; 3] = [0xff; 3];
/// The length of that packet's payload.
const CALL: usize = CALL_BACK.len() + CHALLENGE;

/// A prepared statement: number, text, how many parameters it takes, the types of its last EXECUTE.
type Statement = (u32, String, u16, Vec<ParameterKind>);

/// What this end of a conversation knows of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Luggage {
    /// What it has agreed on at its login.
    pub capabilities: u32,
    multi: bool,
    challenge: [u8; GREETING],
    denied: u8,
    number: u32,
    statements: Vec<Statement>,
    newest: u32,
    messages: TextRows,
    reading: Option<u16>,
    past: Past,
}

/// The last command, and pieces of long parameters that were sent ahead of a command to come.
#[derive(Debug, Default)]
pub(super) struct Kept {
    command: Option<Bytes>,
    ahead: Vec<(u32, Bytes)>,
    /// The statement whose pieces the last command has used.
    used: Option<u32>,
}

impl Kept {
    /// A command has come: the one before is answered.
    pub(super) fn begin(&mut self, payload: &Bytes) {
        if let Some(used) = self.used.take() {
            self.ahead.retain(|(statement, _)| *statement != used);
        }
        self.command = Some(payload.clone());
    }

    /// It is a piece of a long parameter, and was not refused.
    pub(super) fn is_ahead(&mut self, statement: u32) {
        self.ahead.extend(self.command.take().map(|piece| (statement, piece)));
    }

    /// It uses up what was sent ahead for a statement.
    pub(super) fn uses(&mut self, statement: u32) {
        self.used = Some(statement);
    }

    /// Nothing that was sent ahead means anything any more.
    pub(super) fn forget(&mut self) {
        self.ahead.clear();
    }
}

impl MyClient {
    /// Whether nothing is under way: no request has come in part, and none is unanswered.
    pub(super) fn is_at_rest(&self) -> bool {
        self.outgoing.is_empty()
            && self.settled
            && !self.sends_file
            && self.leaving.is_none()
            && self.preparing.is_none()
            && self.long == 0
    }

    /// Takes the last command back, of which nothing was answered, and what was sent ahead for this and others.
    pub(super) fn unread(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let mut unread = BytesMut::new();
        for payload in kept.ahead.iter().map(|(_, piece)| piece).chain(&kept.command) {
            packet::put(&mut unread, 0, payload);
        }
        unread.extend_from_slice(&self.incoming);
        self.incoming = unread;
        self.outgoing.clear();
        self.change = None;
        self.settled = true;
        if let Some(number) = self.preparing.take() {
            self.own.remove(&number);
        }
    }

    /// Has the proxy that the client came by take it back, and takes in what the client has said by then.
    ///
    /// # Errors
    /// When that proxy is gone, or goes on sending.
    pub async fn call_back(&mut self, challenge: &[u8]) -> Result<(), Gone> {
        let mut call = BytesMut::new();
        packet::write(&mut call, 0, |buf| {
            buf.extend_from_slice(&CALL_BACK);
            buf.extend_from_slice(challenge);
        });
        let Self { stream, incoming, .. } = self;
        stream.write_while_reading(&mut call, incoming).await.map_err(|_| Gone)?;
        take_in_the_rest(&mut self.stream, &mut self.incoming, self.bounds.message).await
    }

    /// The stream, what is known, and what has come in and was not looked at.
    pub fn pack(self) -> (Stream, Luggage, BytesMut) {
        let statement = |(number, own): (&u32, &Own)| {
            (*number, own.prepared.text.sql.clone(), own.parameters, own.kinds.clone())
        };
        let luggage = Luggage {
            capabilities: self.capabilities,
            multi: self.multi,
            challenge: self.challenge,
            denied: self.denied,
            number: self.number,
            statements: self.own.iter().map(statement).collect(),
            newest: self.newest,
            messages: self.messages,
            reading: self.reading,
            past: self.past,
        };
        (self.stream.into_stream(), luggage, self.incoming)
    }

    fn unpack(
        stream: Stream,
        unread: BytesMut,
        luggage: Luggage,
        (statements, bounds): (Arc<Statements>, Bounds),
    ) -> Self {
        // Whoever is told something before it is answered has asked for something.
        let mut client = Self::new(stream, unread, 1, luggage.capabilities, statements, bounds);
        for (number, text, parameters, kinds) in luggage.statements {
            let prepared = client.statements.intern(&text);
            client.own.insert(number, Own { prepared, parameters, kinds, long: BTreeMap::new() });
        }
        client.multi = luggage.multi;
        client.challenge = luggage.challenge;
        client.denied = luggage.denied;
        client.number = luggage.number;
        client.newest = luggage.newest;
        client.messages = luggage.messages;
        client.reading = luggage.reading;
        client.past = luggage.past;
        client
    }

    /// What a proxy sends with a session that it brings.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn brought(&mut self) -> Result<Bytes, Gone> {
        Ok(self.packet().await?.payload)
    }

    /// Tells it that the session goes on, and gives what is said on it from now on.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn accept(mut self) -> Result<(Stream, BytesMut), Gone> {
        self.ok();
        self.settled = true;
        self.flush().await?;
        Ok((self.stream.into_stream(), self.incoming))
    }
}

impl Door {
    /// A client goes on here with what was packed elsewhere.
    pub fn unpack(&self, stream: Stream, unread: BytesMut, luggage: Luggage) -> MyClient {
        MyClient::unpack(stream, unread, luggage, (self.statements.clone(), self.bounds))
    }
}

/// Brings what was sealed to a proxy that has let us in: the stream, and what has arrived on it; in their place why the
/// session does not go on there, and whether it may a little later or elsewhere.
///
/// # Errors
/// When that proxy is gone or speaks in another way.
pub async fn bring(
    mut far: Stream,
    mut incoming: BytesMut,
    sealed: &[u8],
) -> Result<Result<(Stream, BytesMut), (bool, String)>, String> {
    let mut out = BytesMut::with_capacity(sealed.len() + packet::HEADER);
    packet::put(&mut out, 0, sealed);
    far.write_all(&out).await.map_err(|e| e.to_string())?;
    far.flush().await.map_err(|e| e.to_string())?;
    let answer = loop {
        let taken = packet::take(&mut incoming, packet::MAX_PART).map_err(|e| e.to_string())?;
        if let Some(packet) = taken {
            break packet.payload;
        }
        match far.read_more(&mut incoming).await {
            Ok(0) => return Err("it left".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    };
    if answer.first() == Some(&response::OK) {
        return Ok(Ok((far, incoming)));
    }
    let error = response::Err::decode(&answer).map_err(|e| e.to_string())?;
    let later = matches!(error.number, 1040 | 1047 | 1053);
    Ok(Err((later, String::from_utf8_lossy(error.message).into_owned())))
}

/// Watches the packets that go to a client, for the one that calls it back.
#[derive(Debug)]
pub struct CallBack {
    /// Bytes that are left of the packet under way.
    left: usize,
    call: [u8; CALL],
}

impl CallBack {
    /// Looks for a call with this challenge.
    #[must_use]
    pub fn new(challenge: &[u8; CHALLENGE]) -> Self {
        let mut call = [0xff; CALL];
        call[CALL_BACK.len()..].copy_from_slice(challenge);
        Self { left: 0, call }
    }

    /// Hands on what may be handed on. True when the client is called back: what is left then is not for it.
    pub fn pass(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> bool {
        loop {
            let now = self.left.min(from.len());
            to.extend_from_slice(&from.split_to(now));
            self.left -= now;
            let Some(&[a, b, c, _]) = from.first_chunk::<4>() else {
                return false;
            };
            let whole = packet::HEADER + u32::from_le_bytes([a, b, c, 0]) as usize;
            if whole == packet::HEADER + CALL {
                let Some(payload) = from.get(packet::HEADER..whole) else {
                    return false;
                };
                if payload == self.call {
                    drop(from.split_to(whole));
                    return true;
                }
            }
            self.left = whole;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_found_between_two_packets_however_they_are_cut() {
        let mut said = BytesMut::new();
        packet::put(&mut said, 1, b"\x00\x00\x00\x02\x00\x00\x00");
        // As long as a call, and like one but for its challenge.
        packet::put(&mut said, 2, &[0xff; CALL]);
        let before = said.len();
        let call = CallBack::new(&[7; CHALLENGE]).call;
        packet::put(&mut said, 0, &call);
        let until = said.len();
        said.extend_from_slice(b"rest");
        for cut in 0..=said.len() {
            let (mut watch, mut to) = (CallBack::new(&[7; CHALLENGE]), BytesMut::new());
            let mut from = BytesMut::from(&said[..cut]);
            let called = watch.pass(&mut from, &mut to);
            assert_eq!(called, cut >= until, "cut at {cut}");
            from.extend_from_slice(&said[cut..]);
            assert!(called || watch.pass(&mut from, &mut to));
            assert_eq!(to, said[..before], "cut at {cut}");
            assert_eq!(from, "rest");
        }
    }
}
