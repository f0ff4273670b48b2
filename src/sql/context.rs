//! What a statement depends on besides its text, its parameters and the settings of its session.

/// What of a server session the effect of a keyed statement depends on, besides its settings. The
/// leader's values go to the followers in front of the statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// It may read the clock, by a function, a default, or the way a value becomes a date.
    pub clock: bool,
    /// It may number new rows (`AUTO_INCREMENT`): the number that the first of them got.
    pub insert_id: bool,
    /// Where the rows may bring their numbers themselves.
    pub numbers: Option<Numbers>,
    /// Its answer need not tell that number: it is rows (`RETURNING`), or may be about rows that were
    /// there already.
    pub hidden_id: bool,
    /// It reads `LAST_INSERT_ID()`.
    pub last_insert_id: bool,
    /// It calls `RAND()`: the seeds, chosen before the leader runs it.
    pub rand_seeds: bool,
    /// User variables that it reads, in lower case and without the `@`.
    pub user_variables: Vec<String>,
}

/// The parameters that stand in the place of new rows' numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Which ones, counted from 0, in their order.
    pub places: Vec<usize>,
    /// How many parameters the statement has.
    pub of: usize,
}

impl Context {
    /// Whether the statement depends on anything, where `brings` says whether these parameters are numbers.
    pub fn is_needed(&self, brings: impl FnOnce(&Numbers) -> bool) -> bool {
        let numbered = self.insert_id && !self.numbers.as_ref().is_some_and(brings);
        let read = self.clock || self.last_insert_id || self.rand_seeds;
        numbered || read || !self.user_variables.is_empty()
    }
}
