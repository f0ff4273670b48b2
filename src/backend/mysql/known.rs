//! What a server has prepared on a connection.

use bytes::BufMut;
use lockstep_protocol::mysql::answer::Asked;
use lockstep_protocol::mysql::{command, packet};

use super::link::MyLink;
use crate::wire::mysql::Prepared;

impl MyLink {
    pub(super) fn is_prepared(&self, prepared: &Prepared) -> bool {
        self.known.contains_key(&prepared.id)
    }

    /// Forgets what the server has prepared, when it is too much.
    pub(super) fn trim_prepared(&mut self) {
        if self.known.len() <= self.shared.live.prepared_statements()
            || self.outstanding_requests() > 0
        {
            return;
        }
        for (_, number) in self.known.drain() {
            packet::write(&mut self.outgoing, 0, |buf| {
                buf.put_u8(command::STMT_CLOSE);
                buf.put_u32_le(number);
            });
        }
    }

    pub(super) fn prepare(&mut self, prepared: &Prepared, what: &'static str) {
        packet::write(&mut self.outgoing, 0, |buf| {
            buf.put_u8(command::STMT_PREPARE);
            buf.put_slice(prepared.text.sql.as_bytes());
        });
        self.expect(what, None, Asked::Prepare, Some(prepared.id));
    }
}
