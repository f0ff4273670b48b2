//! What a piece of SQL may do, gathered word by word.
//!
//! Nothing is parsed here, so nothing can be missed that the parser would not know: every word in
//! front of a parenthesis may call a function, and every name that is a table's may mean that table.
//! What is found is therefore never less than what the server will do.

use std::collections::BTreeSet;

use super::catalog::{Code, Table, TableKind};
use super::context::Context;
use super::functions::{Nature, bare, nature};
use super::lexer::{Kind, Token};
use super::names::{Names, Target, is_reserved, is_system};
use super::picks::Picks;
use super::statement::Touched;
use super::{body, order};

/// How deep views and routines may name one another.
const DEPTH: usize = 16;

/// What was found.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub reads: Touched,
    pub writes: Touched,
    pub context: Context,
    /// Why a write with this in it would not be the same everywhere: what, and what to do instead.
    pub differs: Option<(String, &'static str)>,
    /// What differs is more than which values and rows are chosen: the rows alone would not tell it all.
    pub beyond_rows: bool,
    /// Why it cannot be run at all.
    pub refused: Option<(String, &'static str)>,
    /// Reads of the session's temporary tables.
    pub temporary: bool,
    /// Leaves something in the server session: a lock, a user variable.
    pub leaves_state: bool,
    /// Asks about the statement before it, or about the session.
    pub about_session: bool,
    /// Chooses what `LAST_INSERT_ID()` gives from now on.
    pub sets_number: bool,
    /// Takes row locks.
    pub locks_rows: bool,
    /// Reads a table, of whatever kind.
    pub reads_rows: bool,
    /// A column of a type whose sums depend on the order of the rows is near.
    approximate: bool,
    sums: bool,
    /// Columns of the tables that are read whose values may be equal without being the same.
    folded: BTreeSet<String>,
    /// The other columns of those tables.
    exact: BTreeSet<String>,
    picks: Picks,
}

impl Facts {
    /// Nothing at all.
    pub(super) fn new() -> Self {
        Self {
            reads: Touched::None,
            writes: Touched::None,
            context: Context::default(),
            differs: None,
            beyond_rows: false,
            refused: None,
            temporary: false,
            leaves_state: false,
            about_session: false,
            sets_number: false,
            locks_rows: false,
            reads_rows: false,
            approximate: false,
            sums: false,
            folded: BTreeSet::new(),
            exact: BTreeSet::new(),
            picks: Picks::default(),
        }
    }

    /// Notes the first reason why it would differ.
    pub(super) fn differ(&mut self, why: impl Into<String>, instead: &'static str) {
        self.differs.get_or_insert((why.into(), instead));
    }

    /// The same where the rows that it changes would not tell it.
    pub(super) fn differ_beyond_rows(&mut self, why: impl Into<String>, instead: &'static str) {
        self.beyond_rows = true;
        self.differ(why, instead);
    }

    /// Whether one of several equal values is taken. A name that is no column of any table may be that
    /// of an expression, and counts when a column is mentioned of which it could be made.
    fn judge_picks(&mut self, tokens: &[Token]) {
        let Self { folded, exact, picks, .. } = &*self;
        let mentioned = tokens.iter().any(|t| folded.contains(&t.text.to_lowercase()));
        let picked = |name: &String| folded.contains(name) || mentioned && !exact.contains(name);
        if (picks.all && !folded.is_empty()) || picks.names.iter().any(picked) {
            self.differ(
                "of texts that count as equal, which one is taken depends on the order of the rows",
                "Compare byte by byte: COLLATE utf8mb4_nopad_bin behind the column.",
            );
        }
    }

    /// Notes the first reason why it cannot be run at all.
    pub(super) fn refuse(&mut self, why: impl Into<String>, instead: &'static str) {
        self.refused.get_or_insert((why.into(), instead));
    }
}

/// Gathers what tokens do.
#[derive(Debug)]
pub(super) struct Walk<'c> {
    pub names: Names<'c>,
    pub facts: Facts,
    depth: usize,
}

impl<'c> Walk<'c> {
    pub(super) fn new(names: Names<'c>) -> Self {
        Self { names, facts: Facts::new(), depth: 0 }
    }

    /// Whether this is the body of a routine or trigger.
    pub(super) fn is_inside(&self) -> bool {
        self.depth > 0
    }

    /// Looks at every word.
    pub(super) fn tokens(&mut self, tokens: &[Token]) {
        for at in 0..tokens.len() {
            match tokens[at].kind {
                Kind::Variable => self.variable(tokens, at),
                Kind::Setting => self.setting(&tokens[at].text),
                Kind::Word | Kind::Quoted => self.name(tokens, at),
                _ => {}
            }
        }
        let picks = Picks::of(tokens);
        self.facts.picks.all |= picks.all;
        self.facts.picks.names.extend(picks.names);
        self.facts.judge_picks(tokens);
        if self.facts.sums && self.facts.approximate {
            self.facts.differ(
                "a sum over FLOAT or DOUBLE depends on the order of the rows",
                "Use DECIMAL, or compute the value first and write it as a constant.",
            );
        }
    }

    fn variable(&mut self, tokens: &[Token], at: usize) {
        let assigned = tokens.get(at + 1).is_some_and(|t| t.symbol(":"))
            && tokens.get(at + 2).is_some_and(|t| t.symbol("="));
        if assigned || order::after_into(tokens, at) {
            self.facts.leaves_state = true;
            self.facts.differ_beyond_rows(
                "a user variable that is assigned row by row depends on the order of the rows",
                "Use SET @name = … as a statement of its own.",
            );
            return;
        }
        let name = &tokens[at].text;
        let known = &mut self.facts.context.user_variables;
        if !known.contains(name) {
            known.push(name.clone());
        }
        self.facts.about_session = true;
    }

    fn setting(&mut self, name: &str) {
        match name.trim_start_matches("session.").trim_start_matches("local.") {
            "last_insert_id" | "identity" => self.last_number(),
            "timestamp"
            | "sql_mode"
            | "time_zone"
            | "foreign_key_checks"
            | "unique_checks"
            | "character_set_client"
            | "character_set_connection"
            | "character_set_results"
            | "collation_connection"
            | "autocommit" => {}
            "warning_count" | "error_count" => self.previous(name),
            _ => self.facts.differ(
                format!("@@{name} may have another value on every server"),
                "Read it first, and write the value as a constant.",
            ),
        }
    }

    fn last_number(&mut self) {
        self.facts.context.last_insert_id = true;
        self.facts.about_session = true;
    }

    fn previous(&mut self, name: &str) {
        self.facts.about_session = true;
        self.facts.differ_beyond_rows(
            format!("{name} tells of the statement before it, which another server has not run"),
            "Read it first, and write the value as a constant.",
        );
    }

    fn name(&mut self, tokens: &[Token], at: usize) {
        let token = &tokens[at];
        let next = |symbol| tokens.get(at + 1).is_some_and(|t: &Token| t.symbol(symbol));
        let qualifier = order::qualifier(tokens, at);
        self.facts.context.clock |= names_time(&token.text);
        if qualifier.is_none() && token.kind == Kind::Word {
            self.keyword(tokens, at);
        }
        if next("(") {
            self.call(qualifier, token, order::closing(tokens, at + 1), tokens, at);
        }
        if next(".") && (is_system(&token.text) || is_reserved(&token.text)) && qualifier.is_none()
        {
            self.system(&token.text);
        }
        self.table(qualifier, &token.text);
    }

    fn keyword(&mut self, tokens: &[Token], at: usize) {
        let is = |ahead: usize, word: &str| tokens.get(at + ahead).is_some_and(|t| t.is(word));
        let word = tokens[at].text.as_str();
        if let Some(nature) = bare(word) {
            self.nature(nature, word, &[]);
        }
        match word {
            "into" if is(1, "outfile") || is(1, "dumpfile") => self.facts.refuse(
                "a file would be written on one server only",
                "Read the rows and write the file where the application runs.",
            ),
            "for" if is(1, "update") || is(1, "share") => self.facts.locks_rows = true,
            "lock" if is(1, "in") => self.facts.locks_rows = true,
            "skip" if is(1, "locked") => self.facts.differ(
                "SKIP LOCKED skips other rows on every server",
                "Lock and read the rows first, then write them by key.",
            ),
            "next" | "previous" if is(1, "value") && is(2, "for") => {
                self.nature(Nature::Sequence, "NEXT VALUE FOR", &[]);
            }
            "over" => self.nature(Nature::Ordered, "a window function", &[]),
            "match" if is(1, "(") || tokens.get(at + 1).is_some_and(|t| t.symbol("(")) => {
                self.facts.differ(
                    "a full-text search sees committed rows only, and those are others elsewhere",
                    "Find the rows first, then write them by key.",
                );
            }
            "sql_calc_found_rows" => self.facts.leaves_state = true,
            _ => {}
        }
    }

    /// A word in front of a parenthesis.
    fn call(
        &mut self,
        schema: Option<&str>,
        token: &Token,
        end: usize,
        tokens: &[Token],
        at: usize,
    ) {
        let arguments = tokens.get(at + 2..end).unwrap_or_default();
        let own = schema.or(self.names.database());
        let routines: Vec<_> = own
            .map(|schema| self.names.catalog.routines(schema, &token.text, true).collect())
            .unwrap_or_default();
        for routine in &routines {
            let what = format!("the function {}.{}", routine.schema, routine.name);
            self.code(&routine.schema, &what, &routine.body);
        }
        let name = token.text.to_lowercase();
        if self.names.catalog.udfs.contains(&name) {
            self.facts.refuse(
                format!("what the loaded function {name}() does is not known"),
                "Call it in the application.",
            );
        }
        // A name in quotes calls the server's own functions as well.
        if !routines.is_empty() || schema.is_some() {
            return;
        }
        if order::is_definition(tokens, at) {
            return;
        }
        if let Some(nature) = nature(&name) {
            self.nature(nature, &format!("{}()", name.to_uppercase()), arguments);
        }
    }

    fn nature(&mut self, nature: Nature, what: &str, arguments: &[Token]) {
        let constant = "Compute it first (SET @x = …, or in the application) and write the value.";
        match nature {
            Nature::Plain => {}
            Nature::Clock => self.facts.context.clock = true,
            // Given a seed, the dice are the same everywhere.
            Nature::Dice => self.facts.context.rand_seeds |= arguments.is_empty(),
            Nature::LastNumber => {
                // With an argument it is set: what it was left at has to be seen.
                self.last_number();
                self.facts.sets_number |= !arguments.is_empty();
            }
            Nature::Different => {
                // Locks are held on the leader.
                self.facts.about_session |= what == "IS_FREE_LOCK()" || what == "IS_USED_LOCK()";
                self.facts.differ(format!("{what} has another value on every server"), constant);
            }
            Nature::Previous => self.previous(what),
            Nature::Lock => {
                self.facts.leaves_state = true;
                self.facts.differ_beyond_rows(
                    format!("{what} takes or frees a lock of one server's session"),
                    "Call it in a SELECT of its own.",
                );
            }
            Nature::Sequence => self
                .facts
                .refuse("sequences are not replicated yet", "Use an AUTO_INCREMENT column."),
            Nature::Server if what == "LOAD_FILE()" => self.facts.refuse(
                "LOAD_FILE() reads a file of one server",
                "Read the file where the application runs.",
            ),
            Nature::Server => self
                .facts
                .differ(format!("{what} would hold up every server"), "Wait in the application."),
            Nature::Ordered if order::has_order(arguments) => {}
            Nature::Ordered => self.facts.differ(
                format!("what {what} gives depends on the order in which rows are read"),
                "Compute it first, and write the value.",
            ),
            Nature::Sum => self.facts.sums = true,
            Nature::Unknown => self
                .facts
                .differ_beyond_rows(format!("{what} is no function that lockstep knows"), constant),
        }
    }

    fn system(&mut self, schema: &str) {
        self.facts.reads_rows = true;
        self.facts.differ(
            format!("what {schema} holds is each server's own"),
            "Read it first, and write the values as constants.",
        );
    }

    fn table(&mut self, schema: Option<&str>, name: &str) {
        match self.names.resolve(schema, name) {
            Target::Known(tables) => tables.into_iter().for_each(|table| self.reads(table)),
            Target::Temporary => {
                self.facts.temporary = true;
                self.facts.reads_rows = true;
            }
            _ => {}
        }
    }

    fn reads(&mut self, table: &Table) {
        if self.facts.reads.overlaps(&Touched::Tables(vec![table.full.clone()])) {
            return;
        }
        self.facts.reads.add(&table.full);
        self.facts.reads_rows = true;
        self.facts.approximate |= table.columns.iter().any(|column| column.approximate);
        self.facts.context.clock |= table.columns.iter().any(|column| column.temporal);
        for column in &table.columns {
            let kind = if column.folded { &mut self.facts.folded } else { &mut self.facts.exact };
            kind.insert(column.name.clone());
        }
        match &table.kind {
            TableKind::View(query) => self.view(table, query),
            TableKind::Sequence => {}
            _ if !table.is_transactional() => self.facts.differ(
                format!(
                    "{} is kept by the engine {}, without transactions",
                    table.full, table.engine
                ),
                "ALTER TABLE … ENGINE=InnoDB.",
            ),
            _ => {}
        }
    }

    fn view(&mut self, view: &Table, query: &Code) {
        let too_deep = self.depth >= DEPTH;
        match &query.0 {
            Some(tokens) if !too_deep => {
                let names = self.names;
                if !order::groups_are_fixed(tokens) || !order::limits_are_fixed(names, tokens, None)
                {
                    let why = format!("the view {} may show other rows on every server", view.full);
                    self.facts.differ(why, "Name its tables, and order what is read by a key.");
                }
                self.depth += 1;
                self.tokens(tokens);
                self.depth -= 1;
            }
            _ => self.facts.refuse(
                format!("the view {} cannot be looked into", view.full),
                "Name its tables instead.",
            ),
        }
    }

    /// What a routine or trigger does, from a session in the routine's own database.
    pub(super) fn code(&mut self, schema: &str, what: &str, code: &Code) {
        let tokens = match &code.0 {
            Some(tokens) if self.depth < DEPTH && !tokens.is_empty() => tokens,
            _ => {
                self.facts.refuse(
                    format!("{what} cannot be looked into"),
                    "Give lockstep's admin the right to see it, or write its statements out.",
                );
                return;
            }
        };
        let mut scope = self.names.scope.clone();
        scope.search_path = Some(vec![schema.to_owned()]);
        let names = Names { catalog: self.names.catalog, scope: &scope };
        let mut inner = Walk { names, facts: Facts::new(), depth: self.depth + 1 };
        body::body(&mut inner, what, tokens);
        let facts = inner.facts;
        // A routine that writes does so out of the sight of whoever looks at the statement's own rows.
        self.facts.beyond_rows |= facts.writes != Touched::None;
        self.merge(facts);
    }

    /// Adds what another walk has found.
    pub(super) fn merge(&mut self, other: Facts) {
        let facts = &mut self.facts;
        facts.reads.merge(&other.reads);
        facts.writes.merge(&other.writes);
        if other.context.insert_id {
            facts.context.insert_id = true;
            facts.context.numbers = None;
        }
        facts.context.last_insert_id |= other.context.last_insert_id;
        facts.context.rand_seeds |= other.context.rand_seeds;
        for variable in other.context.user_variables {
            if !facts.context.user_variables.contains(&variable) {
                facts.context.user_variables.push(variable);
            }
        }
        facts.differs = facts.differs.take().or(other.differs);
        facts.beyond_rows |= other.beyond_rows;
        facts.refused = facts.refused.take().or(other.refused);
        facts.temporary |= other.temporary;
        facts.leaves_state |= other.leaves_state;
        facts.about_session |= other.about_session;
        facts.sets_number |= other.sets_number;
        facts.locks_rows |= other.locks_rows;
        facts.reads_rows |= other.reads_rows;
        facts.approximate |= other.approximate;
        facts.sums |= other.sums;
        facts.context.clock |= other.context.clock;
        facts.folded.extend(other.folded);
        facts.exact.extend(other.exact);
        facts.picks.all |= other.picks.all;
        facts.picks.names.extend(other.picks.names);
    }
}

/// Whether a word may be about dates or times: a time of day becomes a date with the help of the clock.
fn names_time(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    word != "update" && ["time", "date", "day", "year"].iter().any(|part| word.contains(part))
}
