//! Errors as servers send them, and what some of them mean for the connection.

use bytes::Bytes;
use lockstep_protocol::mysql::response;

use crate::exchange::ServerError;

/// Errors with which a server says goodbye: shutdown, and the end of this session.
const FATAL: [u16; 3] = [1053, 1927, 4031];

/// The error with which a server ends a session that has sent more than its `max_allowed_packet`.
pub(super) const TOO_LONG: u16 = 1153;

/// The number of an error; 0 where it cannot be read.
pub(super) fn number_of(payload: &[u8]) -> u16 {
    response::Err::decode(payload).map_or(0, |error| error.number)
}

/// Reads an error as far as it can be read: a server that breaks the rules gets no panic for it.
pub(super) fn read_error(payload: &[u8]) -> ServerError {
    let wire = Bytes::copy_from_slice(payload);
    match response::Err::decode(payload) {
        Ok(error) => ServerError {
            code: String::from_utf8_lossy(error.state).into_owned(),
            message: format!("{} [{}]", String::from_utf8_lossy(error.message), error.number),
            fatal: FATAL.contains(&error.number),
            wire,
        },
        Err(_) => ServerError {
            code: "HY000".into(),
            message: "unreadable error".into(),
            fatal: false,
            wire,
        },
    }
}

/// Whether an error says that the server's disk has no room: `ER_DISK_FULL`, `ER_ERROR_ON_WRITE`,
/// `ER_RECORD_FILE_FULL` (a table of InnoDB is full when its file cannot grow), and what an engine says
/// that hands the system's own number on.
pub(super) fn tells_of_a_full_disk(payload: &[u8]) -> bool {
    const NUMBERS: [u16; 3] = [1021, 1026, 1114];
    const FROM_AN_ENGINE: u16 = 1030;
    response::Err::decode(payload).is_ok_and(|error| {
        let no_space = String::from_utf8_lossy(error.message).contains("No space left on device");
        NUMBERS.contains(&error.number) || (error.number == FROM_AN_ENGINE && no_space)
    })
}
