//! What a packet of an answer is, which depends on what was asked and on what came before.
//!
//! The machine looks at a packet's first bytes and counts columns; it reads no row. So a relay can
//! hand packets on in runs, and stops only where something has to be known or changed.

use super::fields::Reader;
use super::response::{self, status};
use crate::DecodeError;

/// What was asked, as far as the shape of the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A text, or a prepared statement: results.
    Results,
    /// To prepare a statement.
    Prepare,
    /// For more rows of a cursor.
    Rows,
    /// For the columns of a table.
    Columns,
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Something in the middle of an answer: hand it on.
    Middle,
    /// A row: hand it on.
    Row,
    /// A statement's result is complete, with an OK packet or with an EOF packet; `more` follow.
    Result {
        /// Another result of the same text follows.
        more: bool,
        /// The result is rows that a cursor keeps.
        cursor: bool,
    },
    /// The statement is prepared; what follows describes it, if anything does.
    Prepared {
        /// The answer ends here.
        last: bool,
    },
    /// An answer that is no result is complete.
    Done,
    /// An error, which ends the answer.
    Error,
    /// The server waits for a file of the application's.
    Infile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first packet of a result.
    Start,
    /// The first packet of the answer to a prepare.
    Prepare,
    /// So many column definitions, then EOF.
    Columns(u64),
    /// Rows up to EOF.
    Rows,
    /// So many parameter definitions with their EOF, then so many columns with theirs.
    Parameters(u64, u64),
    /// Column definitions up to EOF.
    List,
}

/// Follows one answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    state: State,
    /// Columns of the prepared statement are described, not those of a result.
    prepares: bool,
}

impl Answer {
    /// The answer to what was asked.
    pub fn to(asked: Asked) -> Self {
        let (state, prepares) = match asked {
            Asked::Results => (State::Start, false),
            Asked::Prepare => (State::Prepare, true),
            Asked::Rows => (State::Rows, false),
            Asked::Columns => (State::List, false),
        };
        Self { state, prepares }
    }

    /// Takes the next packet: its payload, or as much of it as its first part holds.
    ///
    /// # Errors
    /// When no packet of this kind can stand here.
    #[inline]
    pub fn on(&mut self, payload: &[u8]) -> Result<Event, DecodeError> {
        let first = *payload.first().ok_or(DecodeError::Truncated("packet type"))?;
        if first == response::ERR {
            return Ok(Event::Error);
        }
        match self.state {
            State::Rows if response::is_eof(payload) => self.end(payload),
            State::Rows => Ok(Event::Row),
            State::Start => self.start(first, payload),
            State::Columns(0) => self.after_columns(payload),
            State::Columns(n) => {
                self.state = State::Columns(n - 1);
                Ok(Event::Middle)
            }
            State::Prepare => self.prepared(payload),
            State::Parameters(0, columns) => {
                expect_eof(payload)?;
                if columns == 0 {
                    return Ok(Event::Done);
                }
                self.state = State::Columns(columns);
                Ok(Event::Middle)
            }
            State::Parameters(n, columns) => {
                self.state = State::Parameters(n - 1, columns);
                Ok(Event::Middle)
            }
            State::List if response::is_eof(payload) => Ok(Event::Done),
            State::List => Ok(Event::Middle),
        }
    }

    fn start(&mut self, first: u8, payload: &[u8]) -> Result<Event, DecodeError> {
        match first {
            response::OK => self.end(payload),
            response::INFILE => Ok(Event::Infile),
            _ => {
                let count = Reader::new(payload).lenenc("column count")?;
                self.state = State::Columns(count);
                Ok(Event::Middle)
            }
        }
    }

    fn after_columns(&mut self, payload: &[u8]) -> Result<Event, DecodeError> {
        expect_eof(payload)?;
        if self.prepares {
            return Ok(Event::Done);
        }
        if status_of(payload)? & status::CURSOR != 0 {
            return self.end(payload);
        }
        self.state = State::Rows;
        Ok(Event::Middle)
    }

    fn end(&mut self, payload: &[u8]) -> Result<Event, DecodeError> {
        let status = status_of(payload)?;
        self.state = State::Start;
        let more = status & status::MORE_RESULTS != 0;
        Ok(Event::Result { more, cursor: status & status::CURSOR != 0 })
    }

    fn prepared(&mut self, payload: &[u8]) -> Result<Event, DecodeError> {
        let ok = super::stmt::PrepareOk::decode(payload)?;
        let (parameters, columns) = (u64::from(ok.parameters), u64::from(ok.columns));
        self.state = match (parameters, columns) {
            (0, columns) => State::Columns(columns),
            (parameters, columns) => State::Parameters(parameters, columns),
        };
        Ok(Event::Prepared { last: parameters == 0 && columns == 0 })
    }
}

fn status_of(payload: &[u8]) -> Result<u16, DecodeError> {
    let at = response::status_at(payload).ok_or(DecodeError::Truncated("status"))?;
    Ok(u16::from_le_bytes([payload[at], payload[at + 1]]))
}

fn expect_eof(payload: &[u8]) -> Result<(), DecodeError> {
    if response::is_eof(payload) {
        Ok(())
    } else {
        Err(DecodeError::Invalid("columns do not end where they were said to"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use Event::{Done, Error, Infile, Middle, Prepared, Row};

    const LAST: Event = Event::Result { more: false, cursor: false };
    const MORE: Event = Event::Result { more: true, cursor: false };
    const COLUMN: &[u8] = b"\x03def\x00\x00\x00\x01a\x00\x0c?\x00\x01\x00\x00\x00\x03\x81\x00\x00";
    const EOF: &[u8] = b"\xfe\x00\x00\x02\x00";

    fn events(asked: Asked, packets: &[&[u8]]) -> Vec<Event> {
        let mut answer = Answer::to(asked);
        packets.iter().map(|packet| answer.on(packet).unwrap()).collect()
    }

    #[test]
    fn a_result_of_text_is_followed_to_its_end() {
        let packets = [&b"\x02"[..], COLUMN, COLUMN, EOF, b"\x011\xfb", b"\xfb\xfb", EOF];
        let wanted = [Middle, Middle, Middle, Middle, Row, Row, LAST];
        assert_eq!(events(Asked::Results, &packets), wanted);
    }

    #[test]
    fn recorded_results_of_two_statements_follow_each_other() {
        let more = b"\xfe\x00\x00\x09\x00";
        let (one, two) = (b"\x011", b"\x012");
        let packets = [&b"\x01"[..], COLUMN, more, one, more, b"\x01", COLUMN, EOF, two, EOF];
        let wanted = [Middle, Middle, Middle, Row, MORE, Middle, Middle, Middle, Row, LAST];
        assert_eq!(events(Asked::Results, &packets), wanted);
    }

    #[test]
    fn statements_without_rows_errors_and_files() {
        let ok = b"\x00\x00\x00\x02\x00\x00\x00";
        let more = b"\x00\x01\x00\x0a\x00\x00\x00";
        assert_eq!(events(Asked::Results, &[more, ok]), [MORE, LAST]);
        assert_eq!(events(Asked::Results, &[b"\xffz\x04#42S02no"]), [Error]);
        assert_eq!(events(Asked::Results, &[b"\x01", COLUMN, b"\xffz\x04#42S02no"])[2], Error);
        assert_eq!(events(Asked::Results, &[b"\xfb/etc/passwd", ok]), [Infile, LAST]);
    }

    #[test]
    fn a_recorded_prepare_is_followed_to_its_end() {
        let ok = b"\x00\x01\x00\x00\x00\x02\x00\x01\x00\x00\x00\x00";
        let packets = [&ok[..], COLUMN, EOF, COLUMN, COLUMN, EOF];
        let begun = Prepared { last: false };
        let wanted = [begun, Middle, Middle, Middle, Middle, Done];
        assert_eq!(events(Asked::Prepare, &packets), wanted);
        let columns_only = b"\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        assert_eq!(events(Asked::Prepare, &[columns_only, COLUMN, EOF]), [begun, Middle, Done]);
        let parameters_only = b"\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00";
        assert_eq!(events(Asked::Prepare, &[parameters_only, COLUMN, EOF]), [begun, Middle, Done]);
        let neither = b"\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(events(Asked::Prepare, &[neither]), [Prepared { last: true }]);
    }

    #[test]
    fn a_cursor_ends_behind_its_columns_and_goes_on_with_fetch() {
        let opened = b"\xfe\x00\x00\x42\x00";
        let cursor = Event::Result { more: false, cursor: true };
        assert_eq!(events(Asked::Results, &[b"\x01", COLUMN, opened]), [Middle, Middle, cursor]);
        assert_eq!(events(Asked::Rows, &[b"\x00\x00\x01", opened]), [Row, cursor]);
        assert_eq!(events(Asked::Columns, &[COLUMN, EOF]), [Middle, Done]);
    }

    #[test]
    fn what_cannot_stand_there_is_refused() {
        assert!(Answer::to(Asked::Results).on(b"").is_err());
        let mut answer = Answer::to(Asked::Results);
        answer.on(b"\x01").unwrap();
        answer.on(COLUMN).unwrap();
        assert!(answer.on(COLUMN).is_err());
    }
}
