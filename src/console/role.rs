//! Which proxy writes: handing the role over, and forcing a view.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::act::refused;
use super::{Levers, Reply};
use crate::cluster::Phase;
use crate::error::Failure;
use crate::exchange::Protocol;
use crate::session::Shared;

/// Pause between two looks at what has become of a handover.
const PAUSE: Duration = Duration::from_millis(20);

/// What a handover depends on.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// There is no other proxy.
    pub lone: bool,
    /// How long the others may take to notice.
    pub takeover_after: Duration,
    /// The database that is no application's.
    pub console: &'static str,
}

/// Lets transactions finish, lays down the role, and waits until another proxy has taken it.
pub(super) async fn switchover<P: Protocol>(
    shared: &Shared<P>,
    levers: &Levers,
) -> Result<Reply, Failure> {
    let Handover { lone, takeover_after, console } = levers.handover;
    let grace = shared.settings().shutdown_grace;
    let keeper = &shared.keeper;
    if lone {
        return Err(refused("this is the only proxy")
            .hint("Proxies have a name each, in `[proxy] name`, to take over from each other."));
    }
    if keeper.view().phase != Phase::Serving {
        let writer = keeper.writer();
        let who = if writer.is_empty() { "another one" } else { &writer };
        return Err(refused(format!("this proxy does not write; {who} does"))
            .hint("Give the command on the console of the proxy that writes."));
    }
    tracing::warn!(from = "writer", to = "leaving", cause = "console", "role");
    keeper.retire();
    let began = Instant::now();
    while shared.registry.count_outside(console) > 0 && began.elapsed() < grace {
        sleep(PAUSE).await;
    }
    let cut_off = shared.registry.count_outside(console);
    let rest = takeover_after * 3;
    keeper.lay_down(rest).await;
    let laid_down = Instant::now();
    while laid_down.elapsed() < rest {
        // Noted once the other shows that it lives; it serves by then, or is about to.
        if keeper.view().phase == Phase::Standby && !keeper.writer().is_empty() {
            // Somebody has the role: it may come back at any time.
            keeper.rest_no_longer();
            let done = Reply::done("SWITCHOVER");
            return Ok(match cut_off {
                0 => done,
                n => {
                    done.warn(format!("{n} clients were in a transaction after {grace:?}: cut off"))
                }
            });
        }
        sleep(PAUSE).await;
    }
    keeper.rest_no_longer();
    Err(refused(format!("no other proxy took over within {rest:?}")).hint(
        "This one takes the role again. Is another proxy running, and does it reach the databases?",
    ))
}

/// Makes one backend the only member, whatever the others hold.
pub(super) async fn force<P: Protocol>(
    shared: &Shared<P>,
    backend: usize,
) -> Result<Reply, Failure> {
    let roster = shared.keeper.force(backend).await.map_err(refused)?;
    let name = &shared.backends[backend].name;
    let what = format!("view {}: {name} alone; the others catch up, or need a copy", roster.number);
    Ok(Reply::done("FORCE VIEW").warn(what))
}
