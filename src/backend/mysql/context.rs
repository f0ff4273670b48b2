//! What a statement's meaning depends on besides its text: fixed before the leader runs it, and
//! reported, so that a follower can repeat it with the same bytes.
//!
//! The clock is the leader's own, held still for a statement that may read it. The next number of AUTO_INCREMENT
//! is known only afterwards, from the answer: a follower is given the one that the first row got.
//! A number that was given and not used would wait for the next statement, whoever's it is, so that
//! each context gives one or takes it back.

use super::link::{MyLink, Request};
use super::relay::Relay;
use crate::exchange::{Broken, Outcome, Settings, Sink};
use crate::sql::{Context, assignment_of};
use crate::store::journal::CONTEXT;

/// The setting that `LAST_INSERT_ID()` reads.
pub(super) const LAST_INSERT_ID: &str = "last_insert_id";

/// Asks for the fixed clock, and for what the last INSERT left; the values of user variables follow.
const FIXED: &str = "SELECT @@timestamp, @@last_insert_id";

/// What was fixed in front of a statement.
#[derive(Debug, Default)]
pub(super) struct Fixed {
    seeds: Option<(u32, u32)>,
    /// Where the clock stood, if it is a part of the context.
    timestamp: Option<String>,
    pub(super) last_insert_id: String,
    /// The assignments that give user variables the values that they have.
    pub(super) variables: Vec<String>,
}

/// Whether anything has to be fixed or asked in front of a statement. The numbers alone need nothing:
/// what the last INSERT left is the session's setting.
pub(super) fn is_asked(context: &Context) -> bool {
    context.clock || context.rand_seeds || context.hidden_id || !context.user_variables.is_empty()
}

impl MyLink {
    /// Runs a request with its context fixed, and hands its answer on.
    pub(super) async fn run_fixed<S: Sink>(
        &mut self,
        request: Request,
        relay: Relay,
        context: &Context,
        sink: &mut S,
    ) -> Result<Outcome, Broken> {
        let mut fixed = self.fix(context);
        self.push(request, "statement", None);
        self.release(context);
        self.send().await?;
        if is_asked(context) {
            self.settle(if context.hidden_id { 5 } else { 4 }).await?;
            self.check_setup()?;
            self.read_fixed(&mut fixed).await?;
            self.settle(3).await?;
            self.check_setup()?;
        } else {
            self.settle(2).await?;
            self.check_setup()?;
        }
        let (mut outcome, told) = self.relay(relay, sink).await?;
        self.read_left(context, &fixed, told.generated, &mut outcome).await?;
        // What was asked meanwhile reads no table, and leaves the server's messages as they are.
        self.remark(told.warns, sink).await?;
        Ok(outcome)
    }

    /// Queues what fixes the context. Where anything has to be asked, two answers come before the
    /// statement's.
    pub(super) fn fix(&mut self, context: &Context) -> Fixed {
        if !is_asked(context) {
            return Fixed { last_insert_id: self.last_insert_id(), ..Fixed::default() };
        }
        let seeds = context.rand_seeds.then(rand::random::<(u32, u32)>);
        // The generator has 30 bits of each.
        let seeds = seeds.map(|(a, b)| (a & 0x3fff_ffff, b & 0x3fff_ffff));
        let mut text = String::from("SET timestamp=@@timestamp, insert_id=0");
        if let Some((first, second)) = seeds {
            text.push_str(&format!(", rand_seed1={first}, rand_seed2={second}"));
        }
        self.push_text(&text, "context");
        let variables = context.user_variables.iter().map(|name| assignment_of(name));
        let asked: Vec<String> = std::iter::once(FIXED.to_owned()).chain(variables).collect();
        self.push_text(&asked.join(", "), "context");
        if context.hidden_id {
            // What it is afterwards is the number then, and no former one.
            self.push_text("SET last_insert_id=0", "context");
        }
        Fixed { seeds, ..Fixed::default() }
    }

    /// Reads what was fixed.
    pub(super) async fn read_fixed(&mut self, fixed: &mut Fixed) -> Result<(), Broken> {
        let rows = self.collect().await?.map_err(|error| Broken::Setup(error.into()))?;
        let mut values = rows.into_iter().next().into_iter().flatten().flatten();
        match (values.next(), values.next()) {
            (Some(timestamp), Some(last_insert_id)) => {
                fixed.timestamp = Some(timestamp);
                fixed.last_insert_id = last_insert_id;
                fixed.variables = values.collect();
                Ok(())
            }
            _ => Err(Broken::Lost("the context cannot be read".into())),
        }
    }

    /// Queues the question what the statement left, and what lets the clock go again, if it was held.
    pub(super) fn release(&mut self, context: &Context) {
        self.push_text("SELECT @@last_insert_id", "context");
        if is_asked(context) {
            self.push_text("SET timestamp=DEFAULT", "context");
        }
    }

    /// Reads what the statement left, and puts the context together.
    pub(super) async fn read_left(
        &mut self,
        context: &Context,
        fixed: &Fixed,
        generated: u64,
        outcome: &mut Outcome,
    ) -> Result<(), Broken> {
        let mut left = self.collect_one().await?;
        let mut number = if context.insert_id { generated } else { 0 };
        if context.hidden_id {
            number = left.parse().unwrap_or_default();
        }
        if context.hidden_id && number == 0 {
            left.clone_from(&fixed.last_insert_id);
            self.push_text(&format!("SET {LAST_INSERT_ID}={left}"), "context");
            self.send().await?;
        }
        self.settle(0).await?;
        if left != fixed.last_insert_id {
            self.leave_last_insert_id(&left, outcome);
        }
        let mut text = format!("{CONTEXT}{number}");
        if let Some(timestamp) = &fixed.timestamp {
            text.push_str(&format!(", timestamp={timestamp}"));
        }
        if context.last_insert_id {
            text.push_str(&format!(", {LAST_INSERT_ID}={}", fixed.last_insert_id));
        }
        if let Some((first, second)) = fixed.seeds {
            text.push_str(&format!(", rand_seed1={first}, rand_seed2={second}"));
        }
        for variable in &fixed.variables {
            text.push_str(&format!(", {variable}"));
        }
        outcome.found.context = Some(text);
        Ok(())
    }

    /// What `LAST_INSERT_ID()` gives in this session, as far as its settings say.
    pub(super) fn last_insert_id(&self) -> String {
        let known = self.settings.get(LAST_INSERT_ID).and_then(|text| text.split('=').nth(1));
        known.unwrap_or("0").to_owned()
    }

    /// Notes what `LAST_INSERT_ID()` gives from now on, wherever the session goes.
    pub(super) fn leave_last_insert_id(&mut self, left: &str, outcome: &mut Outcome) {
        let statement = format!("SET {LAST_INSERT_ID}={left}");
        let mut settings = (*self.settings).clone();
        settings.insert(LAST_INSERT_ID.to_owned(), statement.clone());
        self.settings = Settings::new(settings);
        outcome.found.left.push((LAST_INSERT_ID, statement));
    }

    /// Queues what makes the connection forget the context of its last effect.
    pub(super) fn unfix(&mut self) {
        if std::mem::take(&mut self.fixed) {
            self.push_text("SET timestamp=DEFAULT, insert_id=DEFAULT", "context");
        }
    }
}
