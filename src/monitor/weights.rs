//! How much the journal weighs, and from where on it weighs little enough. Pure.

use std::collections::VecDeque;

/// Records that follow each other, weighed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heap {
    /// The number of the record before the first of them.
    pub after: i64,
    /// The number of the last of them.
    pub last: i64,
    /// How many they are.
    pub records: u64,
    /// Their bytes on disk.
    pub bytes: u64,
}

/// The journal's records by weight, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Weights {
    heaps: VecDeque<Heap>,
    /// Up to where the journal has been weighed.
    pub upto: i64,
}

impl Weights {
    /// Adds the records that follow.
    pub(super) fn add(&mut self, heap: Heap) {
        self.upto = heap.last;
        self.heaps.push_back(heap);
    }

    /// Forgets what has been pruned. Of a heap that is cut the rest is taken to weigh its share.
    pub(super) fn forget(&mut self, pruned: i64) {
        self.heaps.retain(|heap| heap.last > pruned);
        let cut = self.heaps.front_mut().filter(|heap| heap.after < pruned);
        if let Some(heap) = cut {
            let share = |n: u64| {
                let (left, all) = (heap.last - pruned, heap.last - heap.after);
                let part = u128::from(n) * u128::from(left.unsigned_abs());
                u64::try_from(part.div_ceil(u128::from(all.unsigned_abs()))).unwrap_or(n)
            };
            (heap.records, heap.bytes) = (share(heap.records), share(heap.bytes));
            heap.after = pruned;
        }
    }

    /// Records and bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.heaps.iter().fold((0, 0), |(n, bytes), h| (n + h.records, bytes + h.bytes))
    }

    /// Up to where the oldest records have to go so that the rest weighs at most so many bytes; 0
    /// when it does already.
    pub(super) fn beyond(&self, most: u64) -> i64 {
        let mut left = self.totals().1;
        let mut upto = 0;
        for heap in &self.heaps {
            if left <= most {
                break;
            }
            left -= heap.bytes;
            upto = heap.last;
        }
        upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_until_the_rest_is_light_enough() {
        let mut weights = Weights::default();
        for (after, last, bytes) in [(0, 10, 400), (10, 25, 100), (25, 26, 900)] {
            weights.add(Heap { after, last, records: 1, bytes });
        }
        assert_eq!((weights.upto, weights.totals()), (26, (3, 1400)));
        assert_eq!(
            [1400, 1399, 1000, 999, 0].map(|most| weights.beyond(most)),
            [0, 10, 10, 25, 26]
        );
        weights.forget(15);
        assert_eq!(weights.totals(), (2, 967), "two thirds of the second are left");
        weights.forget(25);
        assert_eq!((weights.totals(), weights.beyond(900)), ((1, 900), 0));
    }
}
