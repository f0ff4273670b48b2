//! How far sequences have moved on the leader, and up to where the followers keep clear of that.
//!
//! A sequence moves outside transactions, and on the leader alone. With a transaction that drew from
//! it the followers are moved on by a stride, so that most draws cost them nothing. What was drawn by
//! a transaction that is still open, or was rolled back, may lie beyond that. Somebody may use these
//! numbers all the same, so whoever leads next is moved past them before it hands out any.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::control::Sequence;

/// The followers are moved ahead by so many steps of a sequence.
pub const STRIDE: i64 = 64;

/// What is known of sequences since the last change of their definitions, by name.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<HashMap<String, Mark>>);

#[derive(Clone, Copy, Debug)]
struct Mark {
    increment: i64,
    /// The furthest number that somebody was told.
    drawn: i64,
    /// Up to where every follower keeps clear.
    bound: Option<i64>,
}

/// A stride further, as far as numbers go.
pub fn ahead(value: i64, increment: i64) -> i64 {
    value.saturating_add(increment.saturating_mul(STRIDE))
}

/// The same sequence where nobody who draws from it elsewhere gets to soon.
pub fn clear_of(sequence: Sequence) -> Sequence {
    let value = ahead(sequence.value, sequence.increment);
    Sequence { value, called: true, ..sequence }
}

/// Whether one number of a sequence lies beyond another.
pub fn is_beyond(value: i64, other: i64, increment: i64) -> bool {
    if increment < 0 { value < other } else { value > other }
}

impl Reservations {
    /// Notes a number that was drawn; whether it lies beyond what the followers keep clear of.
    pub fn draw(&self, sequence: &str, value: i64, increment: i64) -> bool {
        let mut marks = self.lock();
        let Some(mark) = marks.get_mut(sequence) else {
            marks.insert(sequence.to_owned(), Mark { increment, drawn: value, bound: None });
            return true;
        };
        if is_beyond(value, mark.drawn, increment) {
            mark.drawn = value;
        }
        mark.increment = increment;
        mark.bound.is_none_or(|bound| is_beyond(value, bound, increment))
    }

    /// Notes that a sequence was set, be it back.
    pub fn restart(&self, sequence: &str, value: i64, increment: i64) {
        self.lock().insert(sequence.to_owned(), Mark { increment, drawn: value, bound: None });
    }

    /// Notes up to where every follower keeps clear of a sequence from now on.
    pub fn reserve(&self, sequence: &str, bound: i64) {
        if let Some(mark) = self.lock().get_mut(sequence) {
            mark.bound = Some(bound);
        }
    }

    /// The followers have changed: what they keep clear of is not known.
    pub fn forget_bounds(&self) {
        self.lock().values_mut().for_each(|mark| mark.bound = None);
    }

    /// The sequences have changed: nothing is known of them.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// For each sequence the number that whoever leads next begins behind. It has a stride in
    /// reserve, since answers of the one before may still be on their way.
    pub fn past_everybody(&self) -> Vec<(String, i64)> {
        let marks = self.lock();
        marks.iter().map(|(name, m)| (name.clone(), ahead(m.drawn, m.increment))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_number_counts_in_the_direction_of_the_sequence() {
        let all = Reservations::default();
        for (name, step) in [("up", 2), ("down", -2)] {
            assert!(all.draw(name, 10 * step, step), "nothing is reserved yet");
            all.reserve(name, ahead(10 * step, step));
            assert!(!all.draw(name, 30 * step, step));
            assert!(!all.draw(name, 20 * step, step), "a late answer takes nothing back");
            assert!(all.draw(name, 75 * step, step));
            all.forget_bounds();
            assert!(all.draw(name, 20 * step, step));
        }
        let mut past = all.past_everybody();
        past.sort();
        assert_eq!(past, [("down".to_owned(), -278), ("up".to_owned(), 278)]);
        all.restart("up", 1, 2);
        assert!(all.past_everybody().contains(&("up".to_owned(), 129)));
        all.forget();
        all.reserve("up", 7);
        assert!(all.past_everybody().is_empty(), "what is not known stays so");
    }
}
