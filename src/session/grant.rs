//! Fence before grant: a transaction that changes an agents' lease commits only after every session that may write by
//! the old one has ended.
//!
//! What the transaction has made of the lease is not guessed from its text: its own rows are read. The former
//! holder's sessions are ended as by an operator, statements under way are cancelled, and a client that takes nothing
//! any more (its process may be frozen) is cut off. If one of them does not end in time, the change is refused.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::fence::{Grant, Looked, farewell};
use super::transaction::{Place, Transaction};
use super::{Session, Shared, Stop};
use crate::cluster::{Phase, Terms};
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Protocol, TextRows};
use crate::sql::Touched;
use crate::store::agents;
use crate::store::journal::Effect;

/// Pause between two looks at sessions that are to end.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a client may take to read its last words.
const POLITE: Duration = Duration::from_millis(500);
/// Pause between two attempts to read the leases.
const RETRY: Duration = Duration::from_millis(100);

impl<P: Protocol> Session<P> {
    /// Refuses a write where the session has no right to.
    pub(super) fn may_write(&self) -> Result<(), Stop> {
        self.pass.as_ref().map_or(Ok(()), |pass| pass.check().map_err(Stop::from))
    }

    /// Whether the session belongs to a resource and may not write now.
    pub(super) fn only_reads(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.check().is_err())
    }

    /// Right before a commit: whether the session may write, and what is to become of the leases. Where they change,
    /// the former holders' sessions are gone afterwards.
    pub(super) async fn before_commit(&mut self) -> Result<Option<Grant>, Stop> {
        if !self.tx.as_ref().is_some_and(Transaction::is_recorded) {
            return Ok(None);
        }
        self.may_write()?;
        if !self.shared.leases.is_used() {
            return Ok(None);
        }
        let Some(grant) = self.change_of_leases().await? else {
            return Ok(None);
        };
        let own = self.pass.as_ref().filter(|pass| grant.next().contains_key(pass.resource()));
        if own.is_some() {
            grant.withdraw();
            let what = "a session of the resource cannot change the resource's lease";
            return Err(Failure::new(Kind::Refused, what)
                .code("42501")
                .hint("give the agents a user of their own")
                .into());
        }
        match end_former(&self.shared, &grant).await {
            Ok(()) => Ok(Some(grant)),
            Err(failure) => {
                grant.withdraw();
                Err(failure.into())
            }
        }
    }

    /// What the transaction makes of the leases, read in the transaction itself.
    async fn change_of_leases(&mut self) -> Result<Option<Grant>, Stop> {
        let leases = self.shared.leases.clone();
        let tables = leases.tables().clone();
        let sure = match self.tx.as_ref().map(|tx| touches(tx, &tables)) {
            Some(Touches::Surely) => true,
            // Where an error fails the transaction, rows tell what is written.
            Some(Touches::Perhaps) if !P::MANNERS.error_fails_transaction => false,
            _ => return Ok(None),
        };
        loop {
            let moved = leases.moved();
            let seen = match self.read_in_transaction(&tables.terms()).await {
                Ok(rows) => read(rows)?,
                Err(stop) if sure => return Err(stop),
                // Who cannot read the table does not change it.
                Err(_) => return Ok(None),
            };
            let differing = leases.differing(&seen);
            if differing.is_empty() {
                return Ok(None);
            }
            // A snapshot may be old; what this transaction has changed it has locked.
            let mut locked = Terms::new();
            for resource in &differing {
                let rows = self.read_in_transaction(&tables.locked(resource)).await?;
                locked.extend(read(rows)?);
            }
            match leases.begin(&differing, &locked) {
                Looked::Same => return Ok(None),
                Looked::Change(grant) => return Ok(Some(grant)),
                Looked::Busy => moved.await,
            }
        }
    }

    async fn read_in_transaction(&mut self, sql: &str) -> Result<TextRows, Stop> {
        let Some(Place::Leading { leader, .. }) = self.tx.as_mut().map(|tx| &mut tx.place) else {
            return Err(super::leader::internal("the lease is not written on the leader").into());
        };
        match leader.ask(sql, &[]).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(error.into()),
            Err(broken) => {
                // What it means for the backend is found out; the agents ask again.
                self.leader_lost(&broken).await?;
                Err(Failure::retry("its backend died when it changed a lease").into())
            }
        }
    }

    /// After the commit: the leases are what the transaction has made of them, or have to be read again.
    pub(super) async fn after_commit(&self, grant: Option<Grant>, committed: bool) {
        let Some(grant) = grant else { return };
        if committed {
            for (resource, term) in grant.next() {
                let (holder, epoch) =
                    term.as_ref().map_or(("", 0), |term| (term.holder.as_str(), term.epoch));
                tracing::info!(%resource, to = holder, epoch, "the lease");
            }
            for (number, resource) in grant.takes_effect() {
                self.shared.registry.end(number, &farewell(&resource));
            }
        } else {
            drop(grant);
            self.shared.learn_leases_again().await;
        }
    }
}

/// Whether a transaction may have changed the lease.
enum Touches {
    Surely,
    Perhaps,
    No,
}

fn touches<L: Link>(tx: &Transaction<L>, tables: &agents::AgentTables) -> Touches {
    let (lease, captured) = (tables.lease(), tables.captured());
    let row = |effect: &Effect| match effect {
        Effect::Rows { relation, old, .. } => *relation == captured || old.contains(&captured),
        _ => false,
    };
    match &tx.writes {
        Touched::Tables(written) if written.contains(&lease) => Touches::Surely,
        _ if tx.effects.iter().any(row) => Touches::Surely,
        Touched::Unknown => Touches::Perhaps,
        Touched::None | Touched::Tables(_) => Touches::No,
    }
}

fn read(rows: TextRows) -> Result<Terms, Stop> {
    agents::terms(rows).map_err(|why| {
        Failure::new(Kind::Refused, why).hint("lockstep_lease is the agents' table").into()
    })
}

/// Ends the sessions that may write by the former leases, and waits until they are gone.
async fn end_former<P: Protocol>(shared: &Shared<P>, grant: &Grant) -> Result<(), Failure> {
    let limit = shared.settings().fence;
    let began = Instant::now();
    let ended = grant.former().len();
    loop {
        let moved = shared.leases.moved();
        let rest = grant.former();
        if rest.is_empty() {
            break;
        }
        if began.elapsed() >= limit {
            let what = format!("{} sessions of the former holder have not ended", rest.len());
            tracing::error!(%what, ?limit, "a lease is not granted");
            return Err(Failure::new(Kind::Unavailable, "the lease cannot change now")
                .code("55006")
                .detail(what)
                .hint("try again; SHOW CLIENTS on the console lists them"));
        }
        let mut cancels = Vec::new();
        for (number, resource) in &rest {
            shared.registry.end(*number, &farewell(resource));
            if began.elapsed() >= POLITE {
                shared.registry.cut(*number);
            }
            cancels.extend(shared.registry.running(*number).flatten());
        }
        let cancels = join_all(cancels.iter().map(|shot| P::Link::cancel(shot)));
        // A server that takes no such request is noticed elsewhere.
        let _ = tokio::time::timeout(POLITE, cancels).await;
        let _ = tokio::time::timeout(PAUSE, moved).await;
    }
    if ended > 0 {
        shared.metrics.fenced_sessions.inc_by(ended as u64);
        let took = began.elapsed();
        tracing::warn!(sessions = ended, ?took, "sessions of a lease's former holder have ended");
    }
    Ok(())
}

impl<P: Protocol> Shared<P> {
    /// Reads the leases from a backend, and ends the sessions that they do not allow any more.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn learn_leases(&self, backend: usize) -> Result<(), String> {
        if !self.leases.is_used() {
            return Ok(());
        }
        loop {
            let version = self.leases.version();
            let control = &self.controls[backend];
            let there = control.rows(self.leases.tables().there()).await?;
            let lease = |row: &Vec<Option<String>>| {
                row.first().is_some_and(|name| name.as_deref() == Some("lockstep_lease"))
            };
            let terms = match there.iter().any(lease) {
                true => agents::terms(control.rows(self.leases.tables().terms()).await?)?,
                false => Terms::new(),
            };
            if let Some(ended) = self.leases.load(version, terms) {
                for (number, resource) in ended {
                    self.registry.end(number, &farewell(&resource));
                }
                return Ok(());
            }
        }
    }

    /// The same from the leader, as often as it takes while this proxy serves: whoever serves next reads them anyway.
    pub(super) async fn learn_leases_again(&self) {
        while let Phase::Serving = self.keeper.view().phase {
            let leader = self.keeper.view().leader();
            match leader {
                Some(leader) => match self.learn_leases(leader).await {
                    Ok(()) => return,
                    Err(why) => tracing::warn!(%why, "the leases cannot be read; trying again"),
                },
                None => tracing::debug!("nobody leads"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
