//! What is outstanding on a connection, and what the answers have to be.

use std::collections::VecDeque;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// What becomes of the answer to a Parse.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParseFate {
    /// The application asked for it.
    HandOn,
    /// We added it.
    Swallow,
    /// The application asked for it, but the server knows the statement already. In its place
    /// travels a Close of nothing, whose answer comes where the answer to the Parse belongs.
    Invent,
    /// The application closed something.
    Close,
}

/// One statement of a request.
#[derive(Debug)]
pub(super) struct Part {
    /// Rows that the leader had, for an effect.
    pub(super) rows: Option<u64>,
    /// The hash of the rows that the leader gave back.
    pub(super) digest: Option<u64>,
    /// For error messages.
    pub(super) what: &'static str,
}

impl Part {
    /// In what a follower's answer differs from the leader's.
    pub(super) fn difference(&self, rows: Option<u64>, hash: &mut SipHasher13) -> Option<String> {
        let hash = std::mem::replace(hash, SipHasher13::new()).finish();
        match self.rows {
            Some(wanted) if rows != Some(wanted) => {
                let got = rows.map_or("none".to_owned(), |r| r.to_string());
                Some(format!("{wanted} rows on the leader, {got} on the follower"))
            }
            _ if self.digest.is_some_and(|wanted| wanted != hash) => {
                Some("the rows it returned are others than on the leader".to_owned())
            }
            _ => None,
        }
    }
}

/// One request: what is answered with one ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// Its statements, in order. Those that are answered are taken off.
    pub(super) parts: VecDeque<Part>,
    /// It has the BEGIN of what comes in requests behind it.
    pub(super) begins: bool,
    /// It is a whole share, with its BEGIN: what strikes that strikes all of it.
    pub(super) whole: bool,
    /// What becomes of its answers to Parse and Close, in order, with the statement they make known.
    pub(super) fates: VecDeque<(ParseFate, u64)>,
}
