//! What a session has drawn from sequences, for currval() and lastval().
//!
//! A server answers them from its own session, which serves others in between. So a value that the
//! answer to an INSERT has told is remembered here; what nobody told is found only on the connection
//! that drew it, as long as nobody else has used that one since.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backend::Identity;
use crate::sql::{DrawnFrom, Sequences};

/// What a session has drawn.
#[derive(Debug)]
pub(super) struct Draws {
    /// The connection that drew last, and how often it had been used then.
    on: Option<Identity>,
    /// What was drawn there since the session came to it.
    here: Sequences,
    /// Something was drawn on a connection that is another one's now.
    lost: bool,
    /// The newest value of each sequence, where it is known.
    values: BTreeMap<String, i64>,
    /// The sequence that was drawn from last, where that is known.
    last: Option<String>,
}

/// What is known of a session's draws without any connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Known {
    values: BTreeMap<String, i64>,
    last: Option<String>,
    lost: bool,
}

/// Who can tell what was drawn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// We can.
    Value(i64),
    /// The server's session.
    Server,
    /// Nobody.
    Nobody,
}

impl Default for Draws {
    fn default() -> Self {
        let (here, values) = (Sequences::None, BTreeMap::new());
        Self { on: None, here, lost: false, values, last: None }
    }
}

impl Draws {
    /// The connection to ask for again.
    pub(super) fn connection(&self) -> Option<Identity> {
        self.on
    }

    /// The session goes on with this connection.
    pub(super) fn taken(&mut self, connection: Identity) {
        match self.on.map(Identity::next) {
            Some(next) if next == connection => self.on = Some(next),
            Some(_) => self.leave(),
            None => {}
        }
    }

    fn leave(&mut self) {
        self.on = None;
        self.lost |= self.here != Sequences::None;
        self.here = Sequences::None;
    }

    /// What is known of it without any connection, for another proxy.
    pub(super) fn known(&self) -> Known {
        let lost = self.lost || self.here != Sequences::None;
        Known { values: self.values.clone(), last: self.last.clone(), lost }
    }

    /// What another proxy has known of it.
    pub(super) fn of(known: Known) -> Self {
        let Known { values, last, lost } = known;
        Self { lost, values, last, ..Self::default() }
    }

    /// Sequences were drawn from on this connection, and these values are known of it.
    pub(super) fn drew(&mut self, on: Identity, from: &Sequences, values: &[(String, i64, i64)]) {
        if self.on.is_some_and(|before| before != on) {
            self.leave();
        }
        self.on = Some(on);
        self.here.merge(from);
        match from {
            Sequences::Named(names) => names.iter().for_each(|name| {
                self.values.remove(name);
            }),
            Sequences::Any => self.values.clear(),
            Sequences::None => {}
        }
        self.know(values);
    }

    /// These values were drawn on a connection that others have used since.
    pub(super) fn drew_elsewhere(&mut self, values: &[(String, i64, i64)]) {
        if values.is_empty() {
            return;
        }
        self.leave();
        self.know(values);
    }

    fn know(&mut self, values: &[(String, i64, i64)]) {
        self.values.extend(values.iter().map(|(name, value, _)| (name.clone(), *value)));
        self.last = match values {
            [(name, ..)] => Some(name.clone()),
            _ => None,
        };
    }

    /// Who can tell what was drawn, for a session that goes on with the connection `there`. What is
    /// asked for is not known where the question is a part of something larger.
    pub(super) fn ask(&self, asked: Option<&DrawnFrom>, there: Option<Identity>) -> Answer {
        let is_here = self.on.is_some() && self.on == there;
        let server = |is: bool| if is_here && is { Answer::Server } else { Answer::Nobody };
        match asked {
            None => server(!self.lost && self.values.keys().all(|name| covers(&self.here, name))),
            Some(DrawnFrom::Last) => {
                let known = self.last.as_ref().and_then(|name| self.values.get(name));
                known.map_or_else(|| server(true), |value| Answer::Value(*value))
            }
            Some(DrawnFrom::OneOf(names)) => {
                let known = names.iter().find_map(|name| self.values.get(name));
                let drawn = names.iter().any(|name| covers(&self.here, name));
                known.map_or_else(|| server(drawn), |value| Answer::Value(*value))
            }
        }
    }
}

fn covers(sequences: &Sequences, name: &str) -> bool {
    match sequences {
        Sequences::None => false,
        Sequences::Named(names) => names.iter().any(|known| known == name),
        Sequences::Any => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Sequences {
        Sequences::Named(vec![name.to_owned()])
    }

    fn of(name: &str) -> DrawnFrom {
        DrawnFrom::OneOf(vec![name.to_owned()])
    }

    fn value(name: &str, value: i64) -> Vec<(String, i64, i64)> {
        vec![(name.to_owned(), value, 1)]
    }

    #[test]
    fn a_value_that_was_told_needs_no_connection() {
        let mut draws = Draws::default();
        draws.drew_elsewhere(&value("a", 7));
        assert_eq!(draws.ask(Some(&of("a")), None), Answer::Value(7));
        assert_eq!(draws.ask(Some(&DrawnFrom::Last), None), Answer::Value(7));
        assert_eq!(draws.ask(Some(&of("b")), None), Answer::Nobody);
        assert_eq!(draws.ask(None, None), Answer::Nobody);
    }

    #[test]
    fn what_nobody_told_is_where_it_was_drawn() {
        let mut draws = Draws::default();
        let x = Identity::of(1, 5);
        draws.drew(x, &named("a"), &[]);
        assert_eq!(draws.ask(Some(&of("a")), Some(x)), Answer::Server);
        draws.taken(x.next());
        assert_eq!(draws.ask(Some(&of("a")), Some(x.next())), Answer::Server);
        assert_eq!(draws.ask(Some(&of("b")), Some(x.next())), Answer::Nobody);
        draws.taken(Identity::of(1, 9));
        assert_eq!(draws.ask(Some(&of("a")), Some(Identity::of(1, 9))), Answer::Nobody);
    }

    #[test]
    fn what_was_drawn_before_is_not_asked_of_another_connection() {
        let mut draws = Draws::default();
        let (x, y) = (Identity::of(1, 5), Identity::of(2, 3));
        draws.drew(x, &named("a"), &[]);
        draws.taken(y);
        draws.drew(y, &named("b"), &[]);
        assert_eq!(draws.ask(Some(&of("b")), Some(y)), Answer::Server);
        assert_eq!(draws.ask(Some(&of("a")), Some(y)), Answer::Nobody, "it is another session's");
        assert_eq!(draws.ask(None, Some(y)), Answer::Nobody, "it may ask for either");
    }

    #[test]
    fn what_was_drawn_unseen_outdates_what_was_told() {
        let mut draws = Draws::default();
        let x = Identity::of(1, 5);
        draws.drew(x, &named("a"), &value("a", 7));
        assert_eq!(draws.ask(Some(&of("a")), None), Answer::Value(7));
        draws.drew(x, &Sequences::Any, &[]);
        assert_eq!(draws.ask(Some(&of("a")), None), Answer::Nobody);
        assert_eq!(draws.ask(Some(&of("a")), Some(x)), Answer::Server);
    }
}
