//! Which backend reads.
//!
//! `load` is the power of two choices (Mitzenmacher 2001) over requests in flight and a decaying
//! latency, divided by the weight: two candidates are drawn, the less loaded one wins.

use crate::config::Balancer;

/// What is known about a backend that may be read.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its place in the configuration.
    pub backend: usize,
    /// Its weight; 0 means that it is read only when nobody else can be.
    pub weight: u32,
    /// Requests in flight.
    pub in_flight: u32,
}

impl Candidate {
    /// Load per weight. Requests in flight count most; latency tells equals apart.
    fn cost(&self, latency_us: u32) -> u64 {
        let latency = u64::from(latency_us.max(1));
        (u64::from(self.in_flight) + 1) * latency.max(100) * 1000 / u64::from(self.weight.max(1))
    }
}

/// A mean latency that nothing has been added to for so many seconds. It fades, half of it each second: who was
/// slow once, and is passed over for it, would else never be asked again.
pub fn faded(latency_us: u32, idle: u64) -> u32 {
    latency_us.checked_shr(u32::try_from(idle).unwrap_or(u32::MAX)).unwrap_or(0)
}

/// Chooses one of the candidates. `dice` is a random number, `turn` counts up with every choice; `latency_us` is the
/// decaying mean latency of a backend in microseconds, and is asked for only where it counts.
pub fn choose(
    balancer: Balancer,
    candidates: &[Candidate],
    dice: u64,
    turn: usize,
    mut latency_us: impl FnMut(usize) -> u32,
) -> Option<usize> {
    let weighted = candidates.iter().filter(|c| c.weight > 0).count();
    let usable: smallset::Small<'_> = smallset::Small::new(candidates, weighted > 0);
    let count = usable.len();
    if count == 0 {
        return None;
    }
    let pick = match balancer {
        Balancer::Simple => usable.get(0),
        Balancer::RoundRobin => usable.get(turn % count),
        Balancer::Random => usable.get(index(dice, count)),
        Balancer::Least => usable.iter().min_by_key(|c| (c.in_flight, c.backend))?,
        Balancer::Load => {
            let first = index(dice, count);
            let second = (first + 1 + index(dice >> 32, count.max(2) - 1)) % count;
            let (a, b) = (usable.get(first), usable.get(second));
            let mut cost = |c: &Candidate| c.cost(latency_us(c.backend));
            if cost(b) < cost(a) { b } else { a }
        }
    };
    Some(pick.backend)
}

fn index(dice: u64, count: usize) -> usize {
    usize::try_from((dice & 0xffff_ffff) % count as u64).unwrap_or(0)
}

mod smallset {
    //! The candidates with a weight, or all where none has one, without an allocation.
    use super::Candidate;

    pub(super) struct Small<'a> {
        all: &'a [Candidate],
        weighted_only: bool,
    }

    impl<'a> Small<'a> {
        pub(super) fn new(all: &'a [Candidate], weighted_only: bool) -> Self {
            Self { all, weighted_only }
        }

        pub(super) fn iter(&self) -> impl Iterator<Item = &'a Candidate> {
            let weighted_only = self.weighted_only;
            self.all.iter().filter(move |c| !weighted_only || c.weight > 0)
        }

        pub(super) fn len(&self) -> usize {
            self.iter().count()
        }

        pub(super) fn get(&self, n: usize) -> &'a Candidate {
            self.iter().nth(n).unwrap_or(&self.all[0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(backend: usize, weight: u32, in_flight: u32) -> Candidate {
        Candidate { backend, weight, in_flight }
    }

    fn chosen(balancer: Balancer, of: &[Candidate], dice: u64, turn: usize) -> Option<usize> {
        choose(balancer, of, dice, turn, |_| 500)
    }

    #[test]
    fn the_less_loaded_of_two_wins() {
        let both = [candidate(0, 1, 9), candidate(1, 1, 2)];
        for dice in [0, 1, 1 << 32, u64::MAX] {
            assert_eq!(chosen(Balancer::Load, &both, dice, 0), Some(1));
        }
    }

    #[test]
    fn who_was_slow_once_is_asked_again() {
        assert_eq!(faded(8000, 0), 8000);
        assert_eq!((faded(8000, 3), faded(8000, 40), faded(8000, 1 << 40)), (1000, 0, 0));
    }

    #[test]
    fn weight_zero_reads_only_when_alone() {
        let both = [candidate(0, 0, 0), candidate(1, 1, 50)];
        assert_eq!(chosen(Balancer::Least, &both, 0, 0), Some(1));
        assert_eq!(chosen(Balancer::Load, &both[..1], 7, 3), Some(0));
        assert_eq!(chosen(Balancer::Load, &[], 7, 3), None);
    }

    #[test]
    fn round_robin_takes_turns() {
        let three = [candidate(0, 1, 0), candidate(1, 1, 0), candidate(2, 1, 0)];
        let turns: Vec<_> = (0..4).map(|t| chosen(Balancer::RoundRobin, &three, 0, t)).collect();
        assert_eq!(turns, [Some(0), Some(1), Some(2), Some(0)]);
    }
}
