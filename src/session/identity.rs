//! Identities of transactions: what an application asks about when its COMMIT got no answer.
//!
//! An identity says from where on in the journal its record would stand. So it can be told whether
//! a record that is not found was never written, or may have been pruned: the one is an answer, the
//! other is not.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Under what the record of a transaction is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TransactionId {
    /// Which cluster's journal is meant: after `lockstep init` the numbers begin anew.
    cluster: u32,
    /// The record's number is greater than this.
    pub after: i64,
    /// What the record carries; nobody can guess it.
    pub id: i64,
}

impl TransactionId {
    /// The identity of a transaction of this cluster whose record comes after the given one.
    pub(super) fn new(cluster: &str, after: i64, id: i64) -> Self {
        Self { cluster: digest(cluster), after, id }
    }

    /// Whether it was given out by this cluster.
    pub(super) fn is_of(&self, cluster: &str) -> bool {
        self.cluster == digest(cluster)
    }
}

/// FNV-1a: the same in every version of this program, which is all that is asked of it.
fn digest(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}-{:016x}", self.cluster, self.after, self.id)
    }
}

impl FromStr for TransactionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.trim().split('-');
        let (Some(cluster), Some(after), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        let cluster = u32::from_str_radix(cluster, 16).map_err(|_| ())?;
        let id = u64::from_str_radix(id, 16).map_err(|_| ())?.cast_signed();
        let after = after.parse().map_err(|_| ())?;
        Ok(Self { cluster, after, id })
    }
}

/// The transactions under way that were given an identity: id and user.
#[derive(Debug, Default)]
pub struct Identities(Mutex<HashMap<i64, String>>);

impl Identities {
    fn lock(&self) -> MutexGuard<'_, HashMap<i64, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a transaction for as long as the value lives.
    pub(super) fn note(self: &Arc<Self>, identity: TransactionId, user: &str) -> Identity {
        self.lock().insert(identity.id, user.to_owned());
        Identity { identity, among: self.clone() }
    }

    /// Whose transaction is under way under this identity.
    pub(super) fn under_way(&self, identity: TransactionId) -> Option<String> {
        self.lock().get(&identity.id).cloned()
    }
}

/// The identity of a transaction under way; the end of it is the end of this value.
#[derive(Debug)]
pub(super) struct Identity {
    /// The identity itself.
    pub identity: TransactionId,
    among: Arc<Identities>,
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.among.lock().remove(&self.identity.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        for id in [0, -1, i64::MIN, i64::MAX, 77] {
            let identity = TransactionId::new("c-1", 4711, id);
            assert_eq!(identity.to_string().parse(), Ok(identity));
            assert!(identity.is_of("c-1") && !identity.is_of("c-2"));
        }
        for bad in ["", "x", "1-2", "1-2-3-4", "1-x-3", "-1-2", "g-1-1", "1-1-12345678901234567"] {
            assert_eq!(bad.parse::<TransactionId>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_transaction_is_under_way_until_its_end() {
        let identities = Arc::new(Identities::default());
        let identity = TransactionId::new("c", 1, 2);
        let noted = identities.note(identity, "app");
        assert_eq!(identities.under_way(identity).as_deref(), Some("app"));
        drop(noted);
        assert_eq!(identities.under_way(identity), None);
    }
}
