//! What a backend lacks, from two journals. Pure.

use std::collections::BTreeMap;

/// Number and identity of records, in order.
pub(super) type Tail = Vec<(i64, i64)>;

/// Why a journal cannot be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It has a record that the cluster does not have, or another one under the same number.
    Ahead(i64),
    /// The cluster's journal begins after what it lacks.
    Pruned {
        /// What it has completely.
        complete: i64,
        /// Where the cluster's journal begins.
        pruned: i64,
    },
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ahead(seq) => write!(
                f,
                "it has record {seq} of the journal, which the cluster does not have: it needs a full \
                 copy (README, \"When a server comes back\")"
            ),
            Self::Pruned { complete, pruned } => {
                f.write_str(&crate::cluster::view::out_of_reach(*complete, *pruned))
            }
        }
    }
}

/// The records that one backend lacks of another's journal.
///
/// # Errors
/// When the backend cannot be brought up to date by replay.
pub(super) fn lacking(
    mine: &Tail,
    complete: i64,
    theirs: &Tail,
    pruned: i64,
) -> Result<Vec<i64>, Obstacle> {
    if pruned > complete {
        return Err(Obstacle::Pruned { complete, pruned });
    }
    let cluster: BTreeMap<i64, i64> = theirs.iter().copied().collect();
    if let Some((seq, _)) =
        mine.iter().find(|(seq, id)| *seq > pruned && cluster.get(seq) != Some(id))
    {
        return Err(Obstacle::Ahead(*seq));
    }
    let have: BTreeMap<i64, i64> = mine.iter().copied().collect();
    Ok(theirs
        .iter()
        .map(|(seq, _)| *seq)
        .filter(|s| *s > complete && !have.contains_key(s))
        .collect())
}

/// All records that any of the members has, and the members that contradict the first one's.
pub(super) fn union(tails: &[Tail]) -> (BTreeMap<i64, (i64, usize)>, Vec<usize>) {
    let mut all: BTreeMap<i64, (i64, usize)> = BTreeMap::new();
    let mut odd = Vec::new();
    for (member, tail) in tails.iter().enumerate() {
        if tail.iter().any(|(seq, id)| all.get(seq).is_some_and(|(known, _)| known != id)) {
            odd.push(member);
            continue;
        }
        for (seq, id) in tail {
            all.entry(*seq).or_insert((*id, member));
        }
    }
    (all, odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_middle_is_filled() {
        let theirs = vec![(4, 40), (5, 50), (6, 60)];
        assert_eq!(lacking(&vec![(4, 40), (6, 60)], 3, &theirs, 3), Ok(vec![5]));
        assert_eq!(lacking(&theirs, 3, &theirs, 0), Ok(vec![]));
    }

    #[test]
    fn who_is_ahead_or_too_far_behind_is_told_so() {
        let theirs = vec![(4, 40)];
        assert_eq!(lacking(&vec![(4, 41)], 3, &theirs, 3), Err(Obstacle::Ahead(4)));
        assert_eq!(lacking(&vec![(5, 50)], 3, &theirs, 3), Err(Obstacle::Ahead(5)));
        let pruned = Obstacle::Pruned { complete: 2, pruned: 3 };
        assert_eq!(lacking(&vec![], 2, &theirs, 3), Err(pruned));
    }

    #[test]
    fn what_any_member_has_all_must_have() {
        let (all, odd) = union(&[vec![(1, 10)], vec![(1, 10), (2, 20)], vec![(2, 21)]]);
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(odd, [2]);
    }
}
