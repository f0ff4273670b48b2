//! The bookkeeping of a fake server: what `PgControl` does with SQL, with the same time limits.

use std::sync::Arc;
use std::time::Duration;

use lockstep::cluster::{Ballot, Refusal, Vote};
use lockstep::keeper::{Answer, Control, Examination};
use lockstep::sql::Judge;
use lockstep::store::control::Sequence;
use lockstep::store::journal::Record;
use lockstep::store::outside::{Fate, Remain, Task};
use lockstep::store::vote::Poll;

use crate::faults::Kind;
use crate::server::{Server, State};

/// How long a question may take.
pub(crate) const PROBE: Duration = Duration::from_secs(3);

pub(crate) struct SimControl(pub(crate) Arc<Server>);

impl SimControl {
    /// Asks within the limit.
    fn ask<'a, T: Send + 'a>(
        &'a self,
        question: impl FnOnce(&Server, &mut State) -> Result<T, String> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let asked = tokio::time::timeout(PROBE, self.ask_patiently(question)).await;
            asked.unwrap_or_else(|_| Err(format!("no answer within {PROBE:?}")))
        })
    }

    async fn ask_patiently<T>(
        &self,
        question: impl FnOnce(&Server, &mut State) -> Result<T, String> + Send,
    ) -> Result<T, String> {
        let server = &self.0;
        let world = server.world();
        let (slow, boot) = {
            let state = server.lock();
            (state.slow, state.boot)
        };
        let way = world.way();
        tokio::time::sleep(way + slow / 4).await;
        server.awake().await;
        world.point(Kind::Control, false, server.index, 0);
        server.awake().await;
        let answer = {
            let mut state = server.lock();
            if !state.up || state.boot != boot {
                return Err("connection refused".into());
            }
            question(server, &mut state)
        };
        world.point(Kind::Control, true, server.index, 0);
        server.awake().await;
        let state = server.lock();
        if state.up && state.boot == boot { answer } else { Err("connection lost".into()) }
    }
}

impl Control for SimControl {
    fn examine(&self) -> Answer<'_, Examination> {
        self.ask(|server, state| {
            Ok(Examination {
                system: format!("system {}", server.index),
                started: state.boot.to_string(),
                control: Some(state.disk.control.clone()),
                newest: state.disk.newest(),
                writable: true,
            })
        })
    }

    fn rows(&self, _sql: String) -> Answer<'_, Vec<Vec<Option<String>>>> {
        self.ask(|_, _| Ok(Vec::new()))
    }

    fn has_record(&self, seq: i64) -> Answer<'_, bool> {
        self.ask(move |_, state| Ok(state.disk.journal.contains_key(&seq)))
    }

    fn glance(&self) -> Answer<'_, Examination> {
        self.examine()
    }

    fn poll(&self, poll: Poll) -> Answer<'_, Result<Vote, Refusal>> {
        let lasts = self.0.world().scenario.vote;
        let asked = self.ask(move |server, state| {
            let mut vote = state.disk.control.vote.clone();
            if let Err(refusal) = vote.on(&poll.ask) {
                return Ok(Err(refusal));
            }
            server.before_change(state);
            state.disk.control.vote = vote.clone();
            if let Some(secrets) = poll.secrets {
                state.disk.token = secrets.token;
            }
            Ok(Ok(vote))
        });
        Box::pin(async move {
            if !lasts.is_zero() {
                tokio::time::sleep(lasts).await;
            }
            asked.await
        })
    }

    fn beat(&self, ballot: Ballot, _writer: String) -> Answer<'_, bool> {
        self.ask(move |_, state| Ok(state.disk.control.vote.promised == ballot))
    }

    fn lay_down(&self, _ballot: Ballot) -> Answer<'_, ()> {
        self.ask(|_, _| Ok(()))
    }

    fn probe_write(&self) -> Answer<'_, ()> {
        self.ask(|_, _| Ok(()))
    }

    fn tail(&self, after: i64) -> Answer<'_, Vec<(i64, i64)>> {
        self.ask(move |_, state| {
            Ok(state.disk.journal.range(after + 1..).map(|(seq, r)| (*seq, r.id)).collect())
        })
    }

    fn records(&self, seqs: Vec<i64>) -> Answer<'_, Vec<Record>> {
        self.ask(move |_, state| {
            Ok(seqs.iter().filter_map(|seq| state.disk.journal.get(seq)).cloned().collect())
        })
    }

    fn owner_of(&self, id: i64, after: i64, upto: i64) -> Answer<'_, Option<String>> {
        self.ask(move |_, state| {
            let mut among =
                state.disk.journal.range(after + 1..).take_while(|(seq, _)| **seq <= upto);
            Ok(among.find(|(_, record)| record.id == id).map(|(_, record)| record.user.clone()))
        })
    }

    fn weigh(&self, after: i64, upto: i64, bytes: u64) -> Answer<'_, Option<(i64, u64, u64)>> {
        self.ask(move |_, state| {
            let mut found = None;
            let (mut count, mut weight) = (0, 0);
            for (seq, record) in
                state.disk.journal.range(after + 1..).take_while(|(seq, _)| **seq <= upto)
            {
                weight += record.entry.len() as u64;
                count += 1;
                if weight > bytes && count > 1 {
                    break;
                }
                found = Some((*seq, count, weight));
            }
            Ok(found)
        })
    }

    fn first_younger(&self, _age: Duration) -> Answer<'_, Option<i64>> {
        // Nothing here grows old enough to be pruned for its age.
        self.ask(|_, state| Ok(state.disk.journal.keys().next().copied()))
    }

    fn set_complete(&self, seq: i64, started: String) -> Answer<'_, ()> {
        self.ask(move |server, state| {
            if state.boot.to_string() != started {
                return Err("the server was restarted".into());
            }
            if state.disk.control.complete_to < seq {
                server.before_change(state);
                state.disk.control.complete_to = seq;
            }
            Ok(())
        })
    }

    fn prune(&self, seq: i64) -> Answer<'_, u64> {
        self.ask(move |server, state| {
            let old: Vec<i64> = state.disk.journal.range(..=seq).map(|(seq, _)| *seq).collect();
            if let Some(last) = old.last() {
                server.before_change(state);
                let control = &mut state.disk.control;
                control.pruned_to = control.pruned_to.max(*last);
                state.disk.journal.retain(|seq, _| !old.contains(seq));
            }
            Ok(old.len() as u64)
        })
    }

    fn sequences(&self) -> Answer<'_, Vec<Sequence>> {
        self.ask(|_, state| {
            let all = state.disk.sequences.iter();
            let standing = |(name, (value, called)): (&String, &(i64, bool))| Sequence {
                name: name.clone(),
                value: *value,
                called: *called,
                increment: 1,
            };
            Ok(all.map(standing).collect())
        })
    }

    fn set_sequences(&self, sequences: Vec<Sequence>) -> Answer<'_, ()> {
        self.ask(move |_, state| {
            for Sequence { name, value, called, .. } in sequences {
                state.disk.sequences.insert(name, (value, called));
            }
            Ok(())
        })
    }

    fn advance_sequences(&self, values: Vec<(String, i64)>) -> Answer<'_, ()> {
        self.ask(move |_, state| {
            for (name, value) in values {
                if let Some(known) = state.disk.sequences.get_mut(&name)
                    && value > known.0
                {
                    *known = (value, true);
                }
            }
            Ok(())
        })
    }

    fn fence(&self, users: Vec<String>) -> Answer<'_, ()> {
        Box::pin(async move {
            let ended = self.ask_patiently(move |_, state| {
                let theirs = state.seats.iter().filter(|(_, seat)| users.contains(&seat.user));
                Ok(theirs.map(|(pid, _)| *pid).collect::<Vec<u64>>())
            });
            let ended = ended.await?;
            ended.iter().for_each(|pid| {
                self.0.kill(*pid);
            });
            let gone = async {
                loop {
                    let changed = self.0.wake.notified();
                    if ended.iter().all(|pid| !self.0.lock().seats.contains_key(pid)) {
                        return;
                    }
                    changed.await;
                }
            };
            let waited = tokio::time::timeout(PROBE, gone).await;
            waited.map_err(|_| "sessions are still there after the deadline".to_owned())
        })
    }

    fn remains(&self, _task: Task) -> Answer<'_, Vec<Remain>> {
        self.ask(|_, _| Ok(Vec::new()))
    }

    fn clear(&self, _task: Task, _fate: Fate) -> Answer<'_, ()> {
        self.ask(|_, _| Ok(()))
    }

    fn outside(&self, _after: i64) -> Answer<'_, Vec<Record>> {
        // Nothing here changes the schema, inside of a transaction or outside.
        self.ask(|_, _| Ok(Vec::new()))
    }

    fn catalog(&self) -> Answer<'_, Box<dyn Judge>> {
        Box::pin(async move {
            self.ask_patiently(|_, _| Ok(())).await?;
            Ok(Box::new(crate::catalog::catalog()) as Box<dyn Judge>)
        })
    }
}
