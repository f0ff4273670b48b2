//! The last moment before packets leave: numbers, the state of the transaction, and what has changed in
//! the session, for clients that asked to be told.

use bytes::BytesMut;
use lockstep_protocol::mysql::handshake::capability as cap;
use lockstep_protocol::mysql::packet::{self, HEADER, MAX_PART};
use lockstep_protocol::mysql::response::{self, status};

use super::MyClient;
use crate::exchange::TxState;
use crate::wire::mysql::Mark;

/// What only the application's side can say: the server's transaction is not the application's.
const OURS: u16 = status::IN_TRANSACTION
    | status::IN_READ_ONLY
    | status::AUTOCOMMIT
    | status::MORE_RESULTS
    | status::CURSOR
    | status::LAST_ROW;

/// How the session's texts are read: whoever writes quotes has to know it from each answer, also from
/// those of our own.
const READING: u16 = status::NO_BACKSLASH_ESCAPES | status::ANSI_QUOTES;

impl MyClient {
    /// Numbers the packets and tells the state of the transaction; returns how many bytes may go.
    ///
    /// A packet that ends a result and has nothing behind it stays until the answer is settled:
    /// another result may follow, or an error in its place.
    pub(super) fn dress(&mut self) -> usize {
        let mut at = 0;
        while let Some(&[a, b, c, mark]) = self.outgoing.get(at..).and_then(<[u8]>::first_chunk) {
            let length = u32::from_le_bytes([a, b, c, 0]) as usize;
            let mut end = at + HEADER + length;
            let payload = self.outgoing.get(at + HEADER..end).unwrap_or_default();
            if Mark::of(mark) == Mark::Result {
                let last = end >= self.outgoing.len();
                if last && !self.settled {
                    return at;
                }
                self.past.ends(payload);
                end = self.keep_to_itself(at, end);
                self.tell_state(at + HEADER, end, !last);
            } else if length < MAX_PART {
                self.past.passes(payload);
            }
            self.outgoing[at + 3] = self.sequence;
            self.sequence = self.sequence.wrapping_add(1);
            at = end;
        }
        self.outgoing.len()
    }

    /// Takes what has changed in the session out of an OK, unless the client wants to know; returns where
    /// the packet ends then.
    fn keep_to_itself(&mut self, at: usize, end: usize) -> usize {
        if self.capabilities & cap::SESSION_TRACK != 0 {
            return end;
        }
        let payload = &self.outgoing[at + HEADER..end];
        let Ok(ok) = response::Ok::decode(payload) else { return end };
        if response::is_eof(payload) || ok.status & status::SESSION_CHANGED == 0 {
            return end;
        }
        let plain =
            response::Ok { status: ok.status & !status::SESSION_CHANGED, changes: &[], ..ok };
        let mut short = BytesMut::new();
        packet::write(&mut short, 0, |buf| plain.encode(buf));
        let tail = self.outgoing.split_off(end);
        self.outgoing.truncate(at);
        self.outgoing.extend_from_slice(&short);
        let end = self.outgoing.len();
        self.outgoing.extend_from_slice(&tail);
        end
    }

    fn tell_state(&mut self, start: usize, end: usize, more: bool) {
        let mut ours = 0;
        if self.state != TxState::Idle {
            ours |= status::IN_TRANSACTION;
        }
        if self.autocommit {
            ours |= status::AUTOCOMMIT;
        }
        if more {
            ours |= status::MORE_RESULTS;
        }
        let Some(payload) = self.outgoing.get_mut(start..end) else { return };
        if let Some(at) = response::status_at(payload) {
            let theirs = u16::from_le_bytes([payload[at], payload[at + 1]]);
            // The end of rows has no room to say what has changed.
            let silent = if response::is_eof(payload) { status::SESSION_CHANGED } else { 0 };
            // A server's session never has autocommit off; an answer of our own says nothing of it.
            if theirs & status::AUTOCOMMIT != 0 {
                self.reading = Some(theirs & READING);
            }
            let told = (theirs & !(OURS | silent)) | ours | self.reading.unwrap_or_default();
            payload[at..at + 2].copy_from_slice(&told.to_le_bytes());
        }
    }
}
