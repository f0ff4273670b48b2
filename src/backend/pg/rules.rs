//! What a server may say after the login, judged by the header of each message, long before its body
//! has arrived. A server that breaks the protocol is lost: nothing it says after that means anything,
//! and none of it may reach an application.

use bytes::Buf;
use lockstep_protocol::pg::frame;

use super::link::PgLink;
use super::row::read_error;
use crate::exchange::{Broken, Sink};

/// The longest message, in bytes, of a kind that never carries an application's data. The list of
/// 65535 parameter types is the longest of them.
const MOST_WITHOUT_DATA: usize = 300_000;

/// Says that the server broke the protocol.
pub(super) fn broken(why: impl std::fmt::Display) -> Broken {
    Broken::Rules(why.to_string())
}

/// Whether a message may come, as far as its header tells.
pub(super) fn may_come(header: frame::Header) -> Result<(), Broken> {
    let length = header.total - frame::HEADER;
    let fits = match header.tag {
        // Rows, copied data, errors, notices and notifications may be as long as any message.
        b'D' | b'T' | b'd' | b'E' | b'N' | b'A' => true,
        b'1' | b'2' | b'3' | b'c' | b'I' | b'n' | b's' => length == 0,
        b'Z' => length == 1,
        b'C' | b'S' | b't' | b'G' | b'H' | b'W' => length <= MOST_WITHOUT_DATA,
        tag => return Err(broken(format!("message {:?} has no place here", char::from(tag)))),
    };
    if fits {
        return Ok(());
    }
    let tag = char::from(header.tag);
    Err(broken(format!("message {tag:?} is not {length} bytes long")))
}

/// Whether a server may say this by itself, when nobody has asked for anything.
fn by_itself(tag: u8) -> bool {
    matches!(tag, b'A' | b'E' | b'N' | b'S')
}

impl PgLink {
    /// Looks whether something has come that nobody asked for: it would be taken for the answer to
    /// whatever comes next.
    pub(super) fn expect_nothing(&mut self) -> Result<(), Broken> {
        let arrived = self.stream.take_arrived(&mut self.incoming);
        match self.peek()? {
            Some(header) if !by_itself(header.tag) => Err(broken("an answer to nothing")),
            // What the server said before it closed the connection is the better reason.
            Some(header) if header.tag == b'E' => {
                Err(Broken::Lost(read_error(&self.incoming[..header.total]).to_string()))
            }
            _ => arrived.map_err(|e| Broken::Lost(e.to_string())),
        }
    }

    /// Whether the connection is as an unused one should be. What a server may say by itself is taken
    /// in.
    pub(super) fn is_quiet(&mut self) -> bool {
        while self.expect_nothing().is_ok() {
            match self.peek() {
                Ok(Some(header)) => {
                    if header.tag == b'S' {
                        self.note_parameter(header.total);
                    }
                    self.incoming.advance(header.total);
                }
                Ok(None) => return self.incoming.is_empty(),
                Err(_) => return false,
            }
        }
        false
    }

    /// Hands on what the server says by itself, once something has arrived.
    pub(super) async fn unasked<S: Sink>(&mut self, sink: &mut S) -> Result<(), Broken> {
        self.receive().await?;
        while let Some(header) = self.peek()? {
            let message = &self.incoming[..header.total];
            match header.tag {
                b'E' => return Err(Broken::Lost(read_error(message).to_string())),
                b'A' | b'N' => sink.buffer().extend_from_slice(message),
                b'S' => self.hand_on_parameter(header.total, sink),
                _ => return Err(broken("an answer to nothing")),
            }
            self.incoming.advance(header.total);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_lengths_are_judged_by_the_header() {
        let may = |tag, total| may_come(frame::Header { tag, total }).is_ok();
        assert!(may(b'Z', 6) && !may(b'Z', 5) && !may(b'Z', 7));
        assert!(may(b'1', 5) && !may(b'1', 6));
        assert!(may(b'D', 1 << 30) && may(b'E', 1 << 20));
        assert!(may(b't', 262_151) && !may(b'C', 1 << 20));
        for tag in [b'R', b'K', b'v', b'?', 0, 255] {
            assert!(!may(tag, 5), "{tag}");
        }
    }
}
