//! One session cancels what another one runs, or ends it.

use super::run::Step;
use super::{Session, Stop};
use crate::error::{Failure, Kind};
use crate::exchange::{Link, Protocol};

impl<P: Protocol> Session<P> {
    /// Cancels what a session of the same user runs; where `whole` is set, the session ends with it.
    pub(super) async fn kill(
        &mut self,
        step: &Step<'_, P::Work>,
        number: u32,
        whole: bool,
    ) -> Result<(), Stop> {
        let Some(slot) = self.shared.registry.slot(number, &self.name) else {
            if self.near {
                return Err(Stop::Elsewhere);
            }
            // Whether somebody else has the number is nobody's affair.
            let what = format!("Unknown thread id: {number}");
            return Err(Failure::new(Kind::Refused, what).number(1094).code("HY000").into());
        };
        if whole {
            slot.end();
        }
        if let Some(canceller) = slot.running().take_aim() {
            P::Link::cancel(&canceller).await;
        }
        self.answered(step, "KILL")
    }
}

/// What a session is told that was ended by another one.
pub(super) fn killed() -> Failure {
    Failure::new(Kind::Shutdown, "Connection was killed").number(1927).code("70100")
}
