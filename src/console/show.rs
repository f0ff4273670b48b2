//! The tables that SHOW prints.

use std::time::Duration;

use futures_util::future::join_all;

use super::commands::COMMANDS;
use super::parse::Show;
use super::time::rfc3339;
use super::{Levers, Reply, agents};
use crate::backend::Purpose;
use crate::cluster::{Phase, State, View};
use crate::error::Failure;
use crate::exchange::Protocol;
use crate::keeper::Control;
use crate::session::Shared;

/// How long a backend may take to tell about its journal before the rest is shown without it.
const LOOK: Duration = Duration::from_secs(2);

type Row = Vec<Option<String>>;

/// The columns of a table.
pub(super) fn columns(show: Show) -> &'static [&'static str] {
    match show {
        Show::Backends => &[
            "name",
            "address",
            "state",
            "role",
            "weight",
            "in_flight",
            "latency_us",
            "lag_records",
            "reason",
            "since",
            "held",
        ],
        Show::View => &[
            "number",
            "phase",
            "leader",
            "members",
            "commits",
            "writer",
            "ballot",
            "arbiter",
            "waits_for",
        ],
        Show::Clients => {
            &["number", "user", "database", "address", "application", "running", "since"]
        }
        Show::Pools => &["backend", "user", "purpose", "used", "idle", "waiting"],
        Show::Journal => &[
            "where",
            "newest",
            "complete_to",
            "pruned_to",
            "last_acknowledged",
            "records",
            "bytes",
            "problem",
        ],
        Show::Stats => &["name", "labels", "value"],
        Show::Agents(what) => agents::columns(what),
        Show::Config => &["key", "value"],
        Show::Version => &["version"],
        Show::Help => &["command", "does", "also"],
    }
}

/// A table.
///
/// # Errors
/// When those that stand in the databases cannot be read.
pub(super) async fn show<P: Protocol>(
    shared: &Shared<P>,
    levers: &Levers,
    what: Show,
) -> Result<Reply, Failure> {
    let rows = match what {
        Show::Backends => backends(shared),
        Show::View => vec![view(shared, levers.is_paused())],
        Show::Clients => clients(shared),
        Show::Pools => pools(shared),
        Show::Journal => journal(shared).await,
        Show::Stats => stats(&shared.metrics.render()),
        Show::Agents(what) => agents::rows(shared, what).await?,
        Show::Config => {
            let settings = (levers.settings)();
            settings.into_iter().map(|(key, value)| vec![Some(key), Some(value)]).collect()
        }
        Show::Version => vec![vec![text(concat!("lockstep ", env!("CARGO_PKG_VERSION")))]],
        Show::Help => help(),
    };
    Ok(Reply::rows(columns(what), rows, "SHOW"))
}

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

fn yes(value: bool) -> Option<String> {
    text(if value { "yes" } else { "no" })
}

fn backends<P: Protocol>(shared: &Shared<P>) -> Vec<Row> {
    let view = shared.keeper.view();
    let row = |index: usize| {
        let (backend, member) = (&shared.backends[index], &view.backends[index]);
        vec![
            text(&backend.name),
            text(&backend.address),
            text(member.state.word()),
            text(role(&view, index)),
            text(backend.weight()),
            text(backend.in_flight()),
            text(backend.latency_us(tokio::time::Instant::now())),
            lag(&view, index),
            text(member.why()),
            text(rfc3339(member.since_ms)),
            yes(member.held),
        ]
    };
    (0..view.backends.len()).map(row).collect()
}

/// While members are being looked for nobody leads yet.
fn role(view: &View, index: usize) -> &'static str {
    if view.phase != Phase::Serving || !view.is_member(index) {
        "-"
    } else if view.leader() == Some(index) {
        "leader"
    } else {
        "follower"
    }
}

/// Journal records that a backend lacks, where that is known. A member lacks none: no commit ends
/// before all of them have it.
fn lag(view: &View, index: usize) -> Option<String> {
    match view.backends[index].state {
        State::CatchingUp { remaining } => text(remaining),
        State::Active => text(0),
        State::Suspect | State::Inactive => None,
    }
}

fn view<P: Protocol>(shared: &Shared<P>, paused: bool) -> Row {
    let view = shared.keeper.view();
    let name = |index: usize| shared.backends[index].name.as_str();
    let members: Vec<&str> = view.order.iter().map(|index| name(*index)).collect();
    let serving = view.phase == Phase::Serving;
    let keeper = &shared.keeper;
    let phase = match view.phase {
        Phase::Serving => "serving",
        Phase::Settling => "settling",
        Phase::Standby => "standby",
    };
    vec![
        text(view.number),
        text(phase),
        view.leader().filter(|_| serving).map(|leader| name(leader).to_owned()),
        text(members.join(", ")),
        text(if paused { "paused" } else { "running" }),
        if serving { text("this proxy") } else { text(keeper.writer()) },
        text(keeper.asked()),
        text(&keeper.roster().arbiter),
        text(keeper.obstacle()),
    ]
}

fn clients<P: Protocol>(shared: &Shared<P>) -> Vec<Row> {
    let clients = shared.registry.list().into_iter();
    let row = |(number, info, running): (u32, crate::session::SessionInfo, bool)| {
        vec![
            text(number),
            Some(info.user),
            Some(info.database),
            Some(info.address),
            Some(info.application),
            yes(running),
            text(rfc3339(info.since_ms)),
        ]
    };
    clients.map(row).collect()
}

fn pools<P: Protocol>(shared: &Shared<P>) -> Vec<Row> {
    let mut rows = Vec::new();
    for backend in &shared.backends {
        let mut pools = backend.pools();
        let word = |purpose: Purpose| match purpose {
            Purpose::Write => "write",
            Purpose::Read => "read",
            Purpose::Near => "near",
        };
        pools.sort_by(|a, b| (&a.user, word(a.purpose)).cmp(&(&b.user, word(b.purpose))));
        for pool in pools {
            let (used, idle, waiting) = pool.counts();
            rows.push(vec![
                text(&backend.name),
                text(&pool.user),
                text(word(pool.purpose)),
                text(used),
                text(idle),
                text(waiting),
            ]);
        }
    }
    rows
}

/// The proxy's own count first, then what each backend says, all asked at once.
async fn journal<P: Protocol>(shared: &Shared<P>) -> Vec<Row> {
    let ledger = &shared.ledger;
    let own = vec![
        text("(lockstep)"),
        text(ledger.newest()),
        text(ledger.complete_to()),
        text(shared.metrics.journal_pruned.get()),
        text(ledger.last_acknowledged()),
        text(shared.metrics.journal_records.get()),
        text(shared.metrics.journal_bytes.get()),
        None,
    ];
    let view = shared.keeper.view();
    let looks = shared.backends.iter().zip(&shared.controls).zip(&view.backends);
    let looks = looks.map(|((backend, control), member)| {
        journal_of(&backend.name, &**control, member.left_behind.clone())
    });
    let mut rows = vec![own];
    rows.extend(join_all(looks).await);
    rows
}

async fn journal_of(name: &str, control: &dyn Control, left_behind: Option<String>) -> Row {
    let late = || Err(format!("no answer within {LOOK:?}"));
    let seen = tokio::time::timeout(LOOK, control.examine()).await.unwrap_or_else(|_| late());
    match seen {
        Ok(seen) => {
            let control = seen.control.as_ref();
            let missing = control.is_none().then(|| "it is not initialised".to_owned());
            vec![
                text(name),
                control.and(text(seen.newest)),
                control.and_then(|row| text(row.complete_to)),
                control.and_then(|row| text(row.pruned_to)),
                None,
                None,
                None,
                missing.or(left_behind),
            ]
        }
        Err(why) => {
            let problem = left_behind.map_or(why.clone(), |obstacle| format!("{obstacle}; {why}"));
            vec![text(name), None, None, None, None, None, None, Some(problem)]
        }
    }
}

/// The rows of Prometheus' text: what is counted is described in one place only.
fn stats(rendered: &str) -> Vec<Row> {
    let figures = rendered.lines().filter(|line| !line.starts_with('#'));
    figures.filter_map(figure).collect()
}

fn figure(line: &str) -> Option<Row> {
    let (metric, value) = line.rsplit_once(' ')?;
    let (name, labels) = match metric.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or(labels)),
        None => (metric, ""),
    };
    if name.ends_with("_bucket") {
        return None;
    }
    Some(vec![text(name.strip_prefix("lockstep_").unwrap_or(name)), text(labels), text(value)])
}

fn help() -> Vec<Row> {
    let row = |entry: &super::commands::Entry| {
        vec![text(entry.syntax()), text(entry.help), text(entry.also.join(", "))]
    };
    COMMANDS.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_lag_follow_the_view() {
        let mut view = View::settling(3, vec![1, 0], 3, 0);
        assert_eq!(role(&view, 1), "-");
        assert_eq!(lag(&view, 1), None);
        view.phase = Phase::Serving;
        view.set(0, State::Active, "", 1);
        view.set(1, State::Active, "", 1);
        view.set(2, State::CatchingUp { remaining: 7 }, "", 1);
        assert_eq!([0, 1, 2].map(|b| role(&view, b)), ["follower", "leader", "-"]);
        let lags = [0, 1, 2].map(|b| lag(&view, b));
        assert_eq!(lags, [Some("0".into()), Some("0".into()), Some("7".into())]);
    }

    #[test]
    fn counters_are_shown_and_buckets_are_not() {
        let rows = stats(
            "# HELP x\nlockstep_commits_total 3\nlockstep_x_bucket{le=\"1\"} 2\n\
             lockstep_evictions_total{backend=\"a\",cause=\"no {answer} \"} 1\n",
        );
        let row = |a: &str, b: &str, c: &str| vec![text(a), text(b), text(c)];
        let cause = "backend=\"a\",cause=\"no {answer} \"";
        assert_eq!(rows, [row("commits_total", "", "3"), row("evictions_total", cause, "1")]);
    }

    #[test]
    fn help_has_every_command() {
        assert_eq!(help().len(), COMMANDS.len());
        assert!(help().iter().all(|row| row.len() == columns(Show::Help).len()));
    }
}
