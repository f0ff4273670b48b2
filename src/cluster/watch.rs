//! Whether the proxy that writes still lives, as seen by one that does not. Pure: the time is an argument.
//!
//! Only changes count, and only on the clock of whoever watches: no clock of two machines is ever compared. A writer
//! that seems dead and is not loses its role, and nothing else: it is outvoted at the databases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ballot::{Ballot, Roster};

/// The last sign of life at one voter.
#[derive(Clone, Copy, Debug)]
struct Sign {
    ballot: Ballot,
    beat: i64,
    since: Duration,
}

/// What has been seen at each voter.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    signs: BTreeMap<String, Sign>,
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// A writer lives.
    Lives,
    /// Nobody writes any more, and enough voters are there to say so.
    Silent,
    /// The same, but some voter has just promised another proxy to obey it: that one is on its way to the others.
    Asked,
    /// Too few voters are there to do anything; what is missing.
    Short(String),
}

impl Watch {
    /// Notes what a voter shows at this moment. A beat that is not above 0 is nobody's, and so is a ballot of one's own.
    pub fn see(&mut self, voter: &str, ballot: Ballot, beat: i64, now: Duration) {
        let sign = self.signs.get(voter);
        if sign.is_none_or(|sign| (sign.ballot, sign.beat) != (ballot, beat)) {
            self.signs.insert(voter.to_owned(), Sign { ballot, beat, since: now });
        }
    }

    /// Judges by the voters that are there. `own` is the ballot of whoever watches; a writer that has not shown itself
    /// for `after` at a quorum of the newest member list is taken for dead.
    #[must_use]
    pub fn judge(
        &self,
        newest: &Roster,
        present: &BTreeSet<String>,
        own: Ballot,
        after: Duration,
        now: Duration,
    ) -> Judgement {
        if !newest.is_quorum(present) {
            return Judgement::Short(newest.shortage(present));
        }
        let is_silent = |voter: &String| {
            self.signs.get(voter).is_none_or(|sign| {
                sign.beat <= 0 || sign.ballot == own || now.saturating_sub(sign.since) >= after
            })
        };
        let (silent, lively): (BTreeSet<String>, BTreeSet<String>) =
            present.iter().cloned().partition(is_silent);
        if !newest.is_quorum(&silent) {
            return Judgement::Lives;
        }
        // Whoever asked under a higher ballot now would take the role from one that has hardly got it.
        let newest_of = |voters: &BTreeSet<String>| {
            voters.iter().filter_map(|voter| self.signs.get(voter)).map(|sign| sign.ballot).max()
        };
        if newest_of(&lively) > newest_of(&silent) { Judgement::Asked } else { Judgement::Silent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Arbiter;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_writer_lives_as_long_as_its_sign_changes_at_enough_voters() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let newest = Roster { number: 1, members: names.to_vec(), arbiter: Arbiter::None };
        let present: BTreeSet<String> = names.iter().cloned().collect();
        let theirs = Ballot::above([], 1);
        let mut watch = Watch::default();
        let mut see = |who: &[&str], beat, now| {
            who.iter().for_each(|voter| watch.see(voter, theirs, beat, ms(now)));
            let judge = |own| watch.judge(&newest, &present, own, ms(2000), ms(now));
            (judge(Ballot::NONE), judge(theirs))
        };
        assert_eq!(see(&["a", "b", "c"], 7, 0).0, Judgement::Lives, "seen for the first time");
        assert_eq!(see(&["a", "b", "c"], 8, 1900).0, Judgement::Lives);
        assert_eq!(see(&["a"], 9, 3000).0, Judgement::Lives);
        // Only one of three still sees it.
        assert_eq!(see(&["a"], 10, 3950).0, Judgement::Silent);
        assert_eq!(see(&["b", "c"], 11, 3960).0, Judgement::Lives);
        // The own ballot needs no waiting, and a role that was laid down neither.
        assert_eq!(see(&[], 0, 3970).1, Judgement::Silent);
        assert_eq!(see(&["a", "b"], 0, 3980).0, Judgement::Silent);
        // Another one is on its way: c has promised already, and the others have not.
        let next = Ballot::above([theirs], 1);
        watch.see("c", next, 1, ms(3990));
        let judge = |now| watch.judge(&newest, &present, Ballot::NONE, ms(2000), ms(now));
        assert_eq!(judge(4000), Judgement::Asked);
        assert_eq!(judge(5990), Judgement::Silent, "it came to nothing");
        let few = BTreeSet::from(["c".to_owned()]);
        let short = watch.judge(&newest, &few, theirs, ms(2000), ms(9000));
        assert!(matches!(short, Judgement::Short(why) if why.contains("1 of the 3")));
    }
}
