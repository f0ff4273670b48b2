//! Which of an application's nodes may write, by the lease that its agents hold.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Who has a resource: what the agents' row says, as far as it decides about writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Rises with each holder.
    pub epoch: i64,
    /// The node; empty while nobody has it.
    pub holder: String,
    /// The holder may only read: no normal node was there to take it.
    pub read_only: bool,
}

/// The terms of all resources that have one.
pub type Terms = BTreeMap<String, Term>;

/// What makes a node come before others for a resource: that it may do everything, then its priority. The least
/// comes first.
pub type Weight = (Reverse<bool>, Reverse<i64>);

/// The weight of a node, by the words of its row.
pub fn weight(mode: &str, priority: i64) -> Weight {
    (Reverse(mode == "normal"), Reverse(priority))
}

/// Whose turn it is first: by weight, then by name.
pub fn turn<'n>(mode: &str, priority: i64, node: &'n str) -> (Weight, &'n str) {
    (weight(mode, priority), node)
}

/// What a session says it is: a part of the application on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The resource that the application is.
    pub resource: String,
    /// The node that it runs on.
    pub node: String,
    /// The term in which its node was told to start it, where it says so.
    pub epoch: Option<i64>,
}

/// What a session may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its node has the resource.
    Writes,
    /// It may not write, and why.
    Reads(String),
}

impl Claim {
    /// What the session may do in a term; without one nobody has ever had the resource.
    pub fn standing(&self, term: Option<&Term>) -> Standing {
        let Self { resource, node, epoch } = self;
        let Some(term) = term.filter(|term| !term.holder.is_empty()) else {
            return Standing::Reads(format!("nobody has the resource {resource} at the moment"));
        };
        if term.holder != *node {
            let holder = &term.holder;
            return Standing::Reads(format!("{holder} has the resource {resource}, not {node}"));
        }
        if let Some(epoch) = epoch.filter(|epoch| *epoch != term.epoch) {
            return Standing::Reads(format!(
                "the session is of epoch {epoch} of the resource {resource}; it is epoch {} now",
                term.epoch
            ));
        }
        if term.read_only {
            return Standing::Reads(format!("{node} has the resource {resource} for reads only"));
        }
        Standing::Writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_writes_and_only_in_its_own_epoch() {
        let claim = |node: &str, epoch| Claim { resource: "shop".into(), node: node.into(), epoch };
        let term =
            |epoch, holder: &str, read_only| Term { epoch, holder: holder.into(), read_only };
        let writes =
            |claim: Claim, term: Option<Term>| claim.standing(term.as_ref()) == Standing::Writes;
        assert!(writes(claim("n1", None), Some(term(3, "n1", false))));
        assert!(writes(claim("n1", Some(3)), Some(term(3, "n1", false))));
        assert!(!writes(claim("n1", Some(2)), Some(term(3, "n1", false))), "an older start");
        assert!(!writes(claim("n1", Some(4)), Some(term(3, "n1", false))), "an epoch of no one");
        assert!(!writes(claim("n2", None), Some(term(3, "n1", false))));
        assert!(!writes(claim("n1", None), Some(term(3, "n1", true))), "grade ro");
        assert!(!writes(claim("n1", None), Some(term(3, "", false))), "released");
        assert!(!writes(claim("", None), Some(term(3, "", false))), "nobody is not a node");
        assert!(!writes(claim("n1", None), None));
    }
}
