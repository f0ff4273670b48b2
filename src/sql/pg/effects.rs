//! What running an expression, a query or a view may do: a lattice that only ever grows worse.

use super::statement::{Class, Hold, Refusal, Sequences, Statement, Touched};

/// How much the value of an expression may differ from one backend to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Volatility {
    /// The same for the same arguments, always.
    #[default]
    Immutable,
    /// Depends on settings, tables or the clock, but holds still during a statement.
    Stable,
    /// Anything.
    Volatile,
}

impl Volatility {
    /// From `pg_proc.provolatile`; what is not understood is volatile.
    pub(super) fn from_letter(letter: &str) -> Self {
        match letter {
            "i" => Self::Immutable,
            "s" => Self::Stable,
            _ => Self::Volatile,
        }
    }
}

/// The effects found so far. Merging two is always the worse of both.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Effects {
    /// May change rows that others see, or may call something that does.
    pub captured: bool,
    /// Has a meaning on the leader only.
    pub leader: bool,
    /// How long the server session's state lives.
    pub hold: Hold,
    /// How equal its value is.
    pub volatility: Volatility,
    pub sequences: Sequences,
    pub reads: Touched,
    pub writes: Touched,
    pub clock: bool,
    pub locks_rows: bool,
    /// An expression asks a query of its own.
    pub subqueries: bool,
    pub uses_currval: bool,
    pub resets_sequences: bool,
    /// Touches a temporary relation.
    pub temp: bool,
    /// Looks up names at run time, so that a temporary relation may be what it finds.
    pub by_name: bool,
    /// Which rows it returns depends on their physical order (LIMIT, TABLESAMPLE).
    pub unordered: bool,
    /// A literal that a date/time type would read as a clock: the server folds it into a constant
    /// when it stores the expression, on each backend another one.
    pub folded: bool,
    /// Takes a parameter of the extended protocol.
    pub params: bool,
    pub refused: Option<Refusal>,
}

impl Default for Effects {
    fn default() -> Self {
        Self {
            captured: false,
            leader: false,
            hold: Hold::Statement,
            volatility: Volatility::Immutable,
            sequences: Sequences::None,
            reads: Touched::None,
            writes: Touched::None,
            clock: false,
            locks_rows: false,
            subqueries: false,
            uses_currval: false,
            resets_sequences: false,
            temp: false,
            by_name: false,
            unordered: false,
            folded: false,
            params: false,
            refused: None,
        }
    }
}

impl Effects {
    pub(super) fn merge(&mut self, other: &Self) {
        self.captured |= other.captured;
        self.leader |= other.leader;
        self.hold = self.hold.max(other.hold);
        self.volatility = self.volatility.max(other.volatility);
        self.sequences.merge(&other.sequences);
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.clock |= other.clock;
        self.locks_rows |= other.locks_rows;
        self.subqueries |= other.subqueries;
        self.uses_currval |= other.uses_currval;
        self.resets_sequences |= other.resets_sequences;
        self.temp |= other.temp;
        self.by_name |= other.by_name;
        self.unordered |= other.unordered;
        self.folded |= other.folded;
        self.params |= other.params;
        if self.refused.is_none() {
            self.refused.clone_from(&other.refused);
        }
    }

    /// Something that nobody can look into: it may do anything.
    pub(super) fn anything(&mut self) {
        self.captured = true;
        self.hold = Hold::Session;
        self.unknown_rows();
    }

    /// It may read and write any row and move any sequence.
    pub(super) fn unknown_rows(&mut self) {
        self.captured = true;
        self.volatility = Volatility::Volatile;
        self.sequences = Sequences::Any;
        self.reads = Touched::Unknown;
        self.writes = Touched::Unknown;
        self.clock = true;
    }

    pub(super) fn volatility(&mut self, volatility: Volatility) {
        self.volatility = self.volatility.max(volatility);
    }

    pub(super) fn on_leader(&mut self, hold: Hold) {
        self.leader = true;
        self.hold = self.hold.max(hold);
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.captured = true;
        if self.refused.is_none() {
            self.refused = Some(refusal);
        }
    }

    /// Whether evaluating it on each backend may give different rows.
    pub(super) fn differs(&self) -> bool {
        self.captured
            || self.leader
            || self.clock
            || self.unordered
            || self.volatility == Volatility::Volatile
    }

    /// The class that these effects call for, and the rest of the statement with it.
    pub(super) fn into_statement(self, tag: &'static str, returns_rows: bool) -> Statement {
        let class = match self.refused {
            Some(refusal) => Class::Refused(refusal),
            // State made by a locking read inside a captured statement is no shorter for that.
            None if self.captured => Class::Captured { hold: self.hold },
            None if self.leader => Class::LeaderRead { hold: self.hold },
            None => Class::Read,
        };
        Statement {
            reads: self.reads,
            writes: self.writes,
            sequences: self.sequences,
            locks_rows: self.locks_rows,
            clock: self.clock,
            uses_currval: self.uses_currval,
            resets_sequences: self.resets_sequences,
            returns_rows,
            ..Statement::new(tag, class)
        }
    }
}
