//! What an application calls its statements and portals: these names go no further than here.

use std::sync::Arc;

use foldhash::HashMap;

use crate::error::{Failure, Kind};
use crate::wire::pg::{Prepared, Reference};

/// The statements and portals of one application, by their names. Those without a name stand apart,
/// since they are made anew for each query.
#[derive(Debug, Default)]
pub(super) struct Names {
    statements: HashMap<String, Arc<Prepared>>,
    unnamed: Option<Arc<Prepared>>,
    portals: HashMap<String, Reference>,
    unnamed_portal: Option<Reference>,
    /// Names given in the batch under way: an error takes them back.
    fresh: Vec<String>,
    /// Names given up in it.
    closed: Vec<(String, Arc<Prepared>)>,
}

/// A statement as it goes to another proxy: its name, where it has one, its text, and the types of its parameters.
pub(super) type Listed = (String, String, Vec<u32>);

impl Names {
    /// Keeps a statement under a name that none has.
    pub(super) fn keep(
        &mut self,
        name: &str,
        prepared: Arc<Prepared>,
        most: usize,
    ) -> Result<Reference, Failure> {
        let named = !name.is_empty();
        if !named {
            self.unnamed = Some(prepared.clone());
            return Ok(Reference { prepared, named });
        }
        if self.statements.contains_key(name) {
            let what = format!("prepared statement \"{name}\" already exists");
            return Err(Failure::new(Kind::Protocol, what).code("42P05"));
        }
        if self.statements.len() >= most {
            return Err(Failure::new(Kind::TooManyConnections, "too many prepared statements")
                .code("53400")
                .hint("close some, or raise `[limits] max_prepared_per_client`"));
        }
        self.statements.insert(name.to_owned(), prepared.clone());
        self.fresh.push(name.to_owned());
        Ok(Reference { prepared, named })
    }

    /// All statements.
    pub(super) fn list(&self) -> Vec<Listed> {
        let named = self.statements.iter().map(|(name, prepared)| (name.clone(), prepared));
        let unnamed = self.unnamed.iter().map(|prepared| (String::new(), prepared));
        let listed = |(name, prepared): (String, &Arc<Prepared>)| {
            (name, prepared.text.sql.clone(), prepared.types.clone())
        };
        named.chain(unnamed).map(listed).collect()
    }

    /// A statement that another proxy has kept so far.
    pub(super) fn bring(&mut self, name: String, prepared: Arc<Prepared>) {
        if name.is_empty() {
            self.unnamed = Some(prepared);
        } else {
            self.statements.insert(name, prepared);
        }
    }

    /// The statement of a name.
    pub(super) fn reference(&self, name: &str) -> Result<Reference, Failure> {
        let named = !name.is_empty();
        let found = if named { self.statements.get(name) } else { self.unnamed.as_ref() };
        let prepared = found.cloned().ok_or_else(|| {
            let what = if named {
                format!("prepared statement \"{name}\" does not exist")
            } else {
                "unnamed prepared statement does not exist".to_owned()
            };
            Failure::new(Kind::Protocol, what).code("26000")
        })?;
        Ok(Reference { prepared, named })
    }

    /// Forgets statements: all, or one by name. False when there is none of that name.
    pub(super) fn forget(&mut self, name: Option<&str>) -> bool {
        match name {
            Some("") => return self.unnamed.take().is_some(),
            Some(name) => {
                let closed = self.statements.remove(name);
                let known = closed.is_some();
                // Who was there before the batch comes back with it.
                let closed = closed.filter(|_| !self.fresh.iter().any(|fresh| fresh == name));
                self.closed.extend(closed.map(|prepared| (name.to_owned(), prepared)));
                return known;
            }
            None => self.statements.clear(),
        }
        self.unnamed = None;
        true
    }

    /// Statements that were given a name since the last batch keep it, or lose it.
    pub(super) fn settle(&mut self, keep: bool) {
        self.closed.clear();
        for name in self.fresh.drain(..).filter(|_| !keep) {
            self.statements.remove(&name);
        }
    }

    /// The batch under way was not meant for us: all names are what they were before it.
    pub(super) fn take_back(&mut self) {
        let closed = std::mem::take(&mut self.closed);
        self.settle(false);
        self.statements.extend(closed);
    }

    /// Notes what a portal was made of.
    pub(super) fn bind(&mut self, portal: &str, statement: &Reference) {
        if portal.is_empty() {
            self.unnamed_portal = Some(statement.clone());
        } else {
            self.portals.insert(portal.to_owned(), statement.clone());
        }
    }

    /// What a portal was made of.
    pub(super) fn bound(&self, portal: &str) -> Option<&Reference> {
        if portal.is_empty() { self.unnamed_portal.as_ref() } else { self.portals.get(portal) }
    }

    /// A portal is closed.
    pub(super) fn close(&mut self, portal: &str) {
        if portal.is_empty() {
            self.unnamed_portal = None;
        } else {
            self.portals.remove(portal);
        }
    }

    /// Portals end with their transaction.
    pub(super) fn end_portals(&mut self) {
        self.portals.clear();
        self.unnamed_portal = None;
    }
}
