//! What of a session goes along when another proxy serves it from now on.
//!
//! Only a session that nothing ties to a server's connection is carried over, between two transactions: what it is then
//! is its settings, which follow it from one connection to the next in any case, and what the proxy alone knows of it.
//! Every other session ends, as its client is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::draws::{Draws, Known};
use super::prepared::{Prepared, prepared_key};
use super::{Pass, Session};
use crate::catalog::Text;
use crate::config::Consistency;
use crate::exchange::{AUTOCOMMIT, Batch, Client, Gone, Protocol, Settings, Sink};
use crate::sql::{Class, Scope, Statement};

/// What of a session goes along to another proxy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Carried {
    initial: BTreeMap<String, String>,
    settings: BTreeMap<String, String>,
    scope: Scope,
    consistency: Consistency,
    autocommit: bool,
    draws: Known,
    /// Statements of SQL's own PREPARE that are among the settings.
    prepared: Vec<String>,
    /// Those whose text stays with the session, with what their meaning depends on.
    texts: Vec<(String, String, Scope)>,
}

impl Carried {
    /// The settings that the session began with.
    pub fn initial(&self) -> Settings {
        Settings::new(self.initial.clone())
    }
}

impl<P: Protocol> Session<P> {
    /// When this proxy hands its role over, the session may go on at another one, unless `here` is cancelled by then.
    #[must_use]
    pub fn moving(mut self, here: CancellationToken) -> Self {
        self.moves = Some(here);
        self
    }

    /// A session that goes on here with what was carried along.
    #[must_use]
    pub fn brought(mut self, carried: Carried) -> Self {
        self.settings = Settings::new(carried.settings);
        self.scope = Arc::new(carried.scope);
        self.consistency = carried.consistency;
        self.draws = Draws::of(carried.draws);
        self.autocommit = carried.autocommit;
        if !self.autocommit {
            self.client.report(AUTOCOMMIT, "off");
        }
        for (name, text, scope) in carried.texts {
            self.prepared.insert(name, Prepared::Text(text, Arc::new(scope)));
        }
        for name in carried.prepared {
            if let Some(body) = self.judged_again(&name) {
                self.prepared.insert(name, Prepared::Statement(Box::new(body)));
            }
        }
        self.company();
        self
    }

    /// What goes along, where the session may leave for another proxy at this moment.
    pub(super) fn carried(&self) -> Option<Carried> {
        let may = self.may_move() && self.client.is_at_rest() && !self.is_tied();
        may.then(|| self.luggage()).flatten()
    }

    /// Whether the role is being handed over, and the session goes along as soon as it can.
    pub(super) fn may_move(&self) -> bool {
        let wants = self.moves.as_ref().is_some_and(|here| !here.is_cancelled());
        // Who has lost the role has nothing to hand over.
        wants && self.shared.keeper.is_retiring() && !self.cancel.ended().is_cancelled()
    }

    /// Whether anything ties the session to where it is.
    pub(super) fn is_tied(&self) -> bool {
        self.tx.is_some()
            || self.held.is_some()
            || self.stays.any()
            || self.locked.is_some()
            || self.state_lost
            || !self.scope.temp_tables.is_empty()
            || !self.pass.as_ref().is_none_or(Pass::writes)
    }

    pub(super) fn luggage(&self) -> Option<Carried> {
        let (mut prepared, mut texts) = (Vec::new(), Vec::new());
        for (name, kept) in &self.prepared {
            match kept {
                Prepared::Text(text, scope) => {
                    texts.push((name.clone(), text.clone(), (**scope).clone()));
                }
                // It has to mean there what it means here.
                Prepared::Statement(body) => match self.judged_again(name) {
                    Some(again) if again == **body => prepared.push(name.clone()),
                    _ => return None,
                },
            }
        }
        Some(Carried {
            initial: (*self.initial).clone(),
            settings: (*self.settings).clone(),
            scope: (*self.scope).clone(),
            consistency: self.consistency,
            autocommit: self.autocommit,
            draws: self.draws.known(),
            prepared,
            texts,
        })
    }

    /// What EXECUTE will run, by the text of the PREPARE that follows the session.
    fn judged_again(&self, name: &str) -> Option<Statement> {
        let text = Text::new(self.settings.get(&prepared_key(name))?.clone());
        let plan = self.shared.catalogs.plan(&text, &self.scope);
        match plan.script.statements.as_slice() {
            [Statement { class: Class::PrepareSql { body, .. }, .. }] => Some((**body).clone()),
            _ => None,
        }
    }

    /// Takes in the rest of a request that has come in part, so that it can be answered here.
    pub(super) async fn rest_of_request(&mut self) -> Result<Option<Batch<P::Work>>, Gone> {
        let Self { ended, client, .. } = self;
        tokio::select! {
            biased;
            () = ended.comes() => Ok(None),
            batch = client.next() => batch.map(Some),
        }
    }
}
