//! What is found out around a statement on the leader, for the followers.

use std::ops::{Deref, DerefMut};

use crate::store::capture::Captured;
use crate::store::journal::Effect;

/// What was found out around a statement.
#[derive(Debug, Default)]
pub struct Findings {
    /// Rows that the capture triggers reported, in order.
    pub captured: Vec<Captured>,
    /// What the followers are to repeat, made of the rows that came back ([`Watch::returned`](super::Watch::returned)).
    pub effects: Vec<Effect>,
    /// How many captured rows the server counted at the end.
    pub counted: Option<u64>,
    /// Where the watched sequences stand: name, value, increment.
    pub sequences: Vec<(String, i64, i64)>,
    /// The statement that fixes what this one's meaning depended on besides its text (the clock,
    /// the next generated number): a follower runs it right before the same text.
    pub context: Option<String>,
    /// What the statement left in the server's session, to follow the application's: the key of a
    /// setting and the statement that establishes it.
    pub left: Vec<(&'static str, String)>,
}

static NOTHING: Findings = Findings {
    captured: Vec::new(),
    effects: Vec::new(),
    counted: None,
    sequences: Vec::new(),
    context: None,
    left: Vec::new(),
};

/// Findings that take no room as long as there are none: most statements are reads.
#[derive(Debug, Default)]
pub struct Found(Option<Box<Findings>>);

impl Found {
    /// All of it, to keep.
    #[must_use]
    pub fn all(self) -> Findings {
        self.0.map(|findings| *findings).unwrap_or_default()
    }
}

impl From<Findings> for Found {
    fn from(findings: Findings) -> Self {
        Self(Some(Box::new(findings)))
    }
}

impl Deref for Found {
    type Target = Findings;

    fn deref(&self) -> &Findings {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Found {
    fn deref_mut(&mut self) -> &mut Findings {
        self.0.get_or_insert_default()
    }
}
