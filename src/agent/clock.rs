//! The one clock that deadlines are counted by, and the wall clock for people.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::election::Moment;

/// `CLOCK_BOOTTIME`: it goes on while the machine sleeps, as the other nodes' clocks do. The
/// runtime's own clock stands still then.
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    Moment::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

/// Sleeps until a moment, looking again now and then: the runtime's timer does not count the time
/// that the machine slept.
pub async fn sleep_until(moment: Moment) {
    const LOOK_AGAIN: Duration = Duration::from_millis(500);
    loop {
        let left = moment.since(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}

/// The wall clock as RFC 3339 has it; nothing is decided by it.
#[must_use]
pub fn wall() -> String {
    let time = clock_gettime(ClockId::Realtime);
    let millis = i128::from(time.tv_sec) * 1000 + i128::from(time.tv_nsec) / 1_000_000;
    crate::console::time::rfc3339(u64::try_from(millis).unwrap_or_default())
}

/// What the clock on the wall shows, in seconds since 1970: for times of the week, never for order.
#[must_use]
pub fn seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or_default()
}
