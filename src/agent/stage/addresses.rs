//! The addresses of a resource while this node is the master: taken, announced, renewed, watched,
//! and given back.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::clock;
use crate::agent::election::Moment;
use crate::agent::program;
use crate::agent::vip::{self, Addresses, Place};
use crate::config::agent::{Program, Vip, VipWay};

/// Between two announcements just after it moved.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(200);
/// How soon the first round of announcements is repeated.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody took the address away.
const LOOK: Duration = Duration::from_secs(1);

/// An address that may be taken.
#[derive(Debug, Clone)]
pub(super) enum Claim {
    Interface { place: Place, announce: u32, refresh: Duration },
    Program { vip: Vip, program: Program },
}

/// Finds out where each address belongs, and that nobody has it.
pub(super) async fn claim(vips: &[Vip]) -> Result<Vec<Claim>, String> {
    let mut claims = Vec::new();
    for vip in vips {
        match &vip.way {
            VipWay::Program(program) => {
                claims.push(Claim::Program { vip: vip.clone(), program: program.clone() });
            }
            VipWay::Interface { name, probe, announce, refresh } => {
                let place = vip::place(vip.address, vip.prefix, name.as_deref())?;
                if !probe.is_zero() {
                    let (asked, probe) = (place.clone(), *probe);
                    let answer = tokio::task::spawn_blocking(move || vip::in_use_by(&asked, probe));
                    let answer = answer.await.map_err(|error| error.to_string())??;
                    if let Some(owner) = answer {
                        let address = vip.address;
                        return Err(format!(
                            "{address} is in use by {owner}: it must go there first"
                        ));
                    }
                }
                let (announce, refresh) = (*announce, *refresh);
                claims.push(Claim::Interface { place, announce, refresh });
            }
        }
    }
    Ok(claims)
}

/// An address that this node has, or may have.
#[derive(Debug)]
pub(super) struct Held {
    claim: Claim,
    deadline: watch::Receiver<Option<Moment>>,
    environment: Vec<(String, String)>,
    stop: CancellationToken,
    keeper: Option<tokio::task::JoinHandle<()>>,
}

impl Held {
    pub(super) fn begin(
        claim: Claim,
        deadline: watch::Receiver<Option<Moment>>,
        environment: Vec<(String, String)>,
    ) -> Self {
        Self { claim, deadline, environment, stop: CancellationToken::new(), keeper: None }
    }

    /// Takes the address, and keeps it from then on.
    pub(super) async fn up(&mut self) -> Result<(), String> {
        match self.claim.clone() {
            Claim::Program { vip, program } => self.run("add", &vip, &program).await,
            Claim::Interface { place, announce, refresh } => {
                let addresses = Addresses::open()?;
                addresses.set(&place, lifetime(&self.deadline)).await?;
                tracing::info!(address = %place.address, interface = place.interface, "address taken");
                let keeper = Keeper { place, announce, refresh, addresses };
                let (deadline, stop) = (self.deadline.clone(), self.stop.clone());
                self.keeper = Some(tokio::spawn(keeper.keep(deadline, stop)));
                Ok(())
            }
        }
    }

    /// Gives the address back.
    pub(super) async fn down(&mut self) -> Result<(), String> {
        self.stop.cancel();
        if let Some(keeper) = self.keeper.take() {
            keeper.await.map_err(|error| format!("the address's keeper: {error}"))?;
        }
        match self.claim.clone() {
            Claim::Program { vip, program } => self.run("del", &vip, &program).await,
            Claim::Interface { place, .. } => {
                Addresses::open()?.remove(&place).await?;
                tracing::info!(address = %place.address, "address given back");
                Ok(())
            }
        }
    }

    async fn run(&self, what: &str, vip: &Vip, program: &Program) -> Result<(), String> {
        let mut words = program.words.clone();
        words.extend([what.to_owned(), format!("{}/{}", vip.address, vip.prefix)]);
        let ended = program::run(&words, &self.environment, program.timeout).await;
        ended.and_then(program::Ended::success).map(drop)
    }
}

fn lifetime(deadline: &watch::Receiver<Option<Moment>>) -> Option<Duration> {
    deadline.borrow().map(|deadline| deadline.since(clock::now()))
}

struct Keeper {
    place: Place,
    announce: u32,
    refresh: Duration,
    addresses: Addresses,
}

impl Keeper {
    async fn keep(self, mut deadline: watch::Receiver<Option<Moment>>, stop: CancellationToken) {
        let mut announced = 0;
        loop {
            let pause = match announced {
                n if n < self.announce => ANNOUNCE_EVERY,
                n if n == self.announce => ANNOUNCE_AGAIN,
                _ => self.refresh,
            };
            if announced <= self.announce || !self.refresh.is_zero() {
                self.announce().await;
                announced += 1;
            }
            let next = clock::now().after(pause.max(ANNOUNCE_EVERY));
            while clock::now() < next {
                let until = next.min(clock::now().after(LOOK));
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = deadline.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        self.renew(&deadline).await;
                    }
                    () = clock::sleep_until(until) => {
                        if !self.is_there().await {
                            tracing::warn!(address = %self.place.address, "somebody took the address away");
                            self.renew(&deadline).await;
                            announced = 0;
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn is_there(&self) -> bool {
        match self.addresses.has(&self.place).await {
            Ok(there) => there,
            Err(why) => {
                tracing::warn!(why, "the kernel cannot be asked for addresses");
                true
            }
        }
    }

    async fn renew(&self, deadline: &watch::Receiver<Option<Moment>>) {
        if let Err(why) = self.addresses.set(&self.place, lifetime(deadline)).await {
            tracing::warn!(address = %self.place.address, why, "the address cannot be renewed");
        }
    }

    async fn announce(&self) {
        let place = self.place.clone();
        let told = tokio::task::spawn_blocking(move || vip::announce(&place)).await;
        if let Ok(Err(why)) = told {
            tracing::warn!(address = %self.place.address, why, "the address cannot be announced");
        }
    }
}
