//! A client whose session goes on at another proxy: what this end of it knows, packed and unpacked.
//!
//! When the client has come by way of a proxy that takes it back, that one is told so between two messages to the client;
//! it lets nothing more through, so that everything the client has said by then arrives here first, and goes along.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use lockstep_protocol::pg::frame;

use super::names::Listed;
use super::{Bounds, PgClient};
use crate::client::take_in_the_rest;
use crate::exchange::{Gone, Sink};
use crate::net::Stream;
use crate::wire::pg::Statements;

/// The message by which a proxy says that the client is to be taken back. No server sends one of this type.
const CALL_BACK: &[u8] = b"!\0\0\0\x04";

/// What this end of a conversation knows of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Luggage {
    /// What the client was told of its server's session.
    told: BTreeMap<String, String>,
    /// Prepared statements.
    statements: Vec<Listed>,
}

impl PgClient {
    /// Whether nothing is under way: no request has come in part, and none is unanswered.
    pub(super) fn is_at_rest(&self) -> bool {
        self.steps.is_empty()
            && self.items.is_empty()
            && self.outgoing.is_empty()
            && self.pushed_back.is_none()
            && !self.skipping
            && !self.sync_owed
    }

    /// Keeps a message, where its batch may have to be taken back.
    pub(super) fn keep(&mut self, frame: &frame::Frame) {
        let Some((messages, whole)) = &mut self.kept else { return };
        if std::mem::take(whole) {
            messages.clear();
        }
        messages.push(frame.bytes.clone());
    }

    /// Takes the last batch back, of which nothing was answered.
    pub(super) fn unread_batch(&mut self) {
        let Some((messages, _)) = self.kept.take() else { return };
        let mut unread = BytesMut::new();
        messages.iter().for_each(|message| unread.extend_from_slice(message));
        unread.extend_from_slice(&self.incoming);
        self.incoming = unread;
        self.outgoing.clear();
        self.reports.clear();
        self.pushed_back = None;
        self.skipping = false;
        self.names.take_back();
    }

    /// Has the proxy that the client came by take it back, and takes in what the client has said by then.
    ///
    /// # Errors
    /// When that proxy is gone, or goes on sending.
    pub async fn call_back(&mut self) -> Result<(), Gone> {
        self.outgoing.put_slice(CALL_BACK);
        self.flush().await?;
        take_in_the_rest(&mut self.stream, &mut self.incoming, self.bounds.message).await
    }

    /// The stream, what is known, and what has come in and was not looked at.
    pub fn pack(self) -> (Stream, Luggage, BytesMut) {
        let statements = self.names.list();
        let luggage = Luggage { told: self.told.into_iter().collect(), statements };
        (self.stream.into_stream(), luggage, self.incoming)
    }

    /// The client goes on with what was packed.
    pub(super) fn unpack(
        stream: Stream,
        incoming: BytesMut,
        luggage: Luggage,
        (statements, bounds): (Arc<Statements>, Bounds),
    ) -> Self {
        let mut client = Self::new(stream, incoming, statements, bounds);
        client.told = luggage.told.into_iter().collect();
        client.note_encoding();
        let encoding = client.encoding;
        for (name, text, types) in luggage.statements {
            let prepared = client.statements.intern(&text, &types, encoding);
            client.names.bring(name, prepared);
        }
        client
    }
}

/// Watches the messages that go to a client, for the one that calls it back.
#[derive(Debug, Default)]
pub struct CallBack {
    /// Bytes that are left of the message under way.
    left: usize,
}

impl CallBack {
    /// Hands on what may be handed on. True when the client is called back: what is left then is not for it.
    pub fn pass(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> bool {
        loop {
            let now = self.left.min(from.len());
            to.extend_from_slice(&from.split_to(now));
            self.left -= now;
            let Some(&[tag, a, b, c, d]) = from.first_chunk::<5>() else {
                return false;
            };
            if tag == CALL_BACK[0] {
                return from.split_to(CALL_BACK.len()) == CALL_BACK;
            }
            // What breaks the protocol is for the client to find.
            let length = u32::from_be_bytes([a, b, c, d]).max(4);
            self.left = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_found_between_two_messages_however_they_are_cut() {
        let said = b"Z\0\0\0\x05ID\0\0\0\x0c!\0\0\0\x04xyz!\0\0\0\x04rest";
        for cut in 0..=said.len() {
            let (mut watch, mut to) = (CallBack::default(), BytesMut::new());
            let mut from = BytesMut::from(&said[..cut]);
            let called = watch.pass(&mut from, &mut to);
            assert_eq!(called, cut >= 24, "cut at {cut}");
            from.extend_from_slice(&said[cut..]);
            assert!(called || watch.pass(&mut from, &mut to));
            assert_eq!(to, &said[..19], "cut at {cut}");
            assert_eq!(from, "rest");
        }
    }
}
