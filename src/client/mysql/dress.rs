//! The last moment before packets leave: numbers, and the state of the transaction.

use lockstep_protocol::mysql::packet::HEADER;
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
    | status::LAST_ROW
    | status::SESSION_CHANGED;

impl MyClient {
    /// Numbers the packets and tells the state of the transaction; returns how many bytes may go.
    ///
    /// A packet that ends a result and has nothing behind it stays until the answer is settled:
    /// another result may follow, or an error in its place.
    pub(super) fn dress(&mut self) -> usize {
        let mut at = 0;
        while let Some(&[a, b, c, mark]) = self.outgoing.get(at..).and_then(<[u8]>::first_chunk) {
            let end = at + HEADER + u32::from_le_bytes([a, b, c, 0]) as usize;
            if Mark::of(mark) == Mark::Result {
                let last = end >= self.outgoing.len();
                if last && !self.settled {
                    return at;
                }
                self.tell_state(at + HEADER, end, !last);
            }
            self.outgoing[at + 3] = self.sequence;
            self.sequence = self.sequence.wrapping_add(1);
            at = end;
        }
        self.outgoing.len()
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
            let told = (theirs & !OURS) | ours;
            payload[at..at + 2].copy_from_slice(&told.to_le_bytes());
        }
    }
}
